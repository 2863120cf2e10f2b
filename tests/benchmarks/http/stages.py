"""Where the time of a request goes: CPU microseconds, each stage above the one below it.

Over loopback, by six workers: a socket, httpcore on it, httpx on that, the safe
connect, and the whole client. The other layers are single figures of some
microseconds, which would drown there: they are put one by one on a pool that
answers from memory. So the sum of the layers and what the whole client costs
more are two measurements, and differ a little.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any, Final

import trio

from trio_rt.http import (
    BackendName,
    BodyLimit,
    Cache,
    Gate,
    Intercept,
    Layer,
    Next,
    Redirects,
    Retry,
    open_client,
    transport,
)
from trio_rt.http._backend import backend

from ..clients import Run
from .bare import bare_client, getter
from .blocks import WORKERS, Call, clock_us, cost_us, in_turn
from .ceiling import REQUEST
from .origin import Origin
from .server import NO_STORE, answer, padded

CALLS: Final = 60
TURNS: Final = 16

MEMORY: Final = "from here in memory: httpx alone"

#: From the innermost, as `open_client()` has them.
LAYERS: Final[tuple[type[Layer], ...]] = (BodyLimit, Gate, Retry, Cache, Redirects)


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """The whole client's CPU microseconds for a request."""
    return trio.run(_run, origin, name)


async def _run(origin: Origin, name: BackendName) -> Run:
    below, total = await _on_loopback(origin, name)
    layers = await _in_memory(origin, name)
    wait_us = await _server_wait(origin, name)
    return Run(total, notes={"wait for the server, one at a time": wait_us, **below, **layers})


async def _on_loopback(origin: Origin, name: BackendName) -> tuple[dict[str, float], float]:
    core = importlib.import_module(name.replace("httpx", "httpcore"))
    async with AsyncExitStack() as stack:
        sockets = await stack.enter_async_context(_sockets(origin))
        pool = await stack.enter_async_context(core.AsyncConnectionPool(max_connections=None))
        bare = await stack.enter_async_context(bare_client(name, origin))
        pooled = await stack.enter_async_context(
            bare_client(name, origin, transport=transport(backend=name))
        )
        client = await stack.enter_async_context(open_client(origin.url, backend=name))
        ways = {
            "socket and trio": sockets,
            "httpcore and h11": _core_call(core, pool, origin),
            "httpx": getter(bare, "/no-store"),
            "our pool in the place of httpx's": getter(pooled, "/no-store"),
            "Client and the other layers": getter(client, "/no-store", "miss"),
        }
        found = await in_turn(list(ways.values()), calls=CALLS, turns=TURNS)
    costs = [cost_us(blocks) for blocks in found]
    above = [costs[0], *(upper - lower for lower, upper in pairwise(costs))]
    return dict(zip(ways, above, strict=True)), costs[-1]


@asynccontextmanager
async def _sockets(origin: Origin) -> AsyncIterator[Call]:
    """A call over one of as many connections as there are workers."""
    async with AsyncExitStack() as stack:
        idle = [
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", origin.port))
            for _ in range(WORKERS)
        ]

        async def call() -> None:
            stream = idle.pop()
            await stream.send_all(REQUEST)
            assert (await stream.receive_some()).endswith(b"}")
            idle.append(stream)

        yield call


def _core_call(core: Any, pool: Any, origin: Origin) -> Call:
    url = core.URL(scheme="http", host="127.0.0.1", port=origin.port, target="/no-store")
    lines = REQUEST.rstrip().split(b"\r\n")[1:]
    headers = [tuple(line.split(b": ")) for line in lines]

    async def call() -> None:
        response = await pool.handle_async_request(core.Request("GET", url, headers=headers))
        await response.aread()
        await response.aclose()

    return call


async def _server_wait(origin: Origin, name: BackendName) -> float:
    """What a request of a single caller takes beyond its CPU time."""
    async with bare_client(name, origin) as bare:
        (blocks,) = await in_turn([getter(bare, "/no-store")], calls=CALLS, turns=6, workers=1)
    return clock_us(blocks) - cost_us(blocks)


async def _in_memory(origin: Origin, name: BackendName) -> dict[str, float]:
    """Each layer on those below it, and `Client` on the outermost."""
    instant = _instant(name)

    async def at_once(request: Any, call_next: Next) -> Any:
        return await instant.handle_async_request(request)

    async with AsyncExitStack() as stack:

        async def plain(*layers: Layer | Intercept) -> Any:
            onion = transport(*layers, pool=instant, backend=name)
            return await stack.enter_async_context(bare_client(name, origin, transport=onion))

        ways = []
        for count in range(len(LAYERS) + 1):
            http = await plain(*(kind() for kind in reversed(LAYERS[:count])))
            ways.append(getter(http, "/", "miss" if Cache in LAYERS[:count] else None))
        ways.append(getter(await plain(Redirects(), at_once), "/"))
        opened = open_client(origin.url, backend=name, interceptors=[at_once])
        ways.append(getter(await stack.enter_async_context(opened), "/"))
        found = await in_turn(ways, calls=CALLS * 2, turns=TURNS)
    *costs, without, client = [cost_us(blocks) for blocks in found]
    above = (upper - lower for lower, upper in pairwise(costs))
    layers = dict(zip((kind.__name__ for kind in LAYERS), above, strict=True))
    return {MEMORY: costs[0], **layers, "Client and its time limit": client - without}


class _Once:
    """A body of one part."""

    def __init__(self, body: bytes) -> None:
        self.parts = iter([body])

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        for part in self.parts:
            return part
        raise StopAsyncIteration


def _instant(name: BackendName) -> Any:
    """A pool that answers at once what the server would."""
    module: Any = backend(name)
    body = padded({})
    lines = answer(body, NO_STORE).split(b"\r\n")[1:-2]
    headers = [tuple(line.split(b": ", 1)) for line in lines]

    class Body(module.AsyncByteStream):  # type: ignore[misc]
        def __aiter__(self) -> _Once:
            return _Once(body)

        async def aclose(self) -> None:
            pass

    class Pool(module.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return module.Response(200, headers=headers, stream=Body())

    return Pool()

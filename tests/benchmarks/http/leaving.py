"""How soon a cancelled call is back, at each stage, while the loop does nothing else.

A storm cannot tell: there a cancel waits for what the others do. Here one call
stands still at a known place, and is cancelled.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

from trio_rt.http import BackendName, open_client

from ..clients import Run
from .origin import Origin, unique

CANCELS: Final = 20
#: Until the call stands where it is to be cancelled.
SETTLE_S: Final = 0.01


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """The longest of all, in milliseconds."""
    return trio.run(_run, origin, name)


async def _run(origin: Origin, name: BackendName) -> Run:
    worst_ms: dict[str, float] = {}
    with _silent() as silent, _full() as full:
        urls = {
            "connect": f"http://127.0.0.1:{full}/",
            "handshake": f"https://127.0.0.1:{silent}/",
            "answer": f"http://127.0.0.1:{silent}/",
            "body": origin.url + unique("/stall"),
        }
        tls = ssl.create_default_context()
        async with open_client(backend=name, ssl_context=tls) as client:
            for stage, url in urls.items():
                worst_ms[stage] = await _worst_ms(client, url, unique)
        async with open_client(backend=name, max_concurrent=1) as client:
            worst_ms["queue"] = await _behind(client, urls["answer"])
    return Run(max(worst_ms.values()), notes={f"{at} ms": ms for at, ms in worst_ms.items()})


async def _behind(client: Any, url: str) -> float:
    """The same while another call has the only slot."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.get, url)
        await trio.sleep(SETTLE_S)
        found = await _worst_ms(client, url, unique)
        nursery.cancel_scope.cancel()
    return found


async def _worst_ms(client: Any, url: str, path: Any) -> float:
    late_s = 0.0
    for _ in range(CANCELS):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, path(url))
                await trio.sleep(SETTLE_S)
                at = trio.current_time()
                scope.cancel()
        late_s = max(late_s, trio.current_time() - at)
        if client.statistics().gate.running > 1:
            raise AssertionError(f"a slot is left over: {client.statistics()}")
    return late_s * 1e3


@contextmanager
def _silent() -> Iterator[int]:
    """A port whose connections the kernel makes and nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener.getsockname()[1]


@contextmanager
def _full() -> Iterator[int]:
    """A port whose queue is full: connecting takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        try:
            yield port
        finally:
            for sock in waiting:
                sock.close()

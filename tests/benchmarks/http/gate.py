"""What the gate costs: microseconds of a call above those of the same call without it.

Over an inner layer that does nothing; best of `ROUNDS`, each beside one without.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Final

import httpx
import trio

from trio_rt.http import BackendName, Call, Gate, Intercept, Next, when_closed
from trio_rt.http._backend import backend
from trio_rt.http._layer import Crew
from trio_rt.message import Priority

from ..clients import Run
from .origin import Origin

ROUNDS: Final = 5
CALLS: Final = 2000


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """The gate of six slots, idle."""
    return trio.run(_run, backend(name))


async def _run(module: Any) -> Run:
    maker = _Maker(module)
    idle, crowd = maker.one_by_one, maker.crowd
    async with _opened() as gates:
        found = {"watched body us": await _above_bare(idle, _watched)}
        for name, gate in gates.items():
            found[f"{name} us"] = await _above_bare(idle, gate.intercept)
        for name, gate in gates.items():
            found[f"{name}, {CALLS} waiting us"] = await _above_bare(crowd, gate.intercept)
    return Run(found.pop("six slots us"), notes=found)


@asynccontextmanager
async def _opened() -> AsyncIterator[dict[str, Gate]]:
    gates = {
        "six slots": Gate(max_waiting=math.inf),
        "and per host": Gate(per_host=6, max_waiting=math.inf),
        "adaptive": Gate(adaptive=True, max_waiting=math.inf),
    }
    crew = Crew()
    await crew.open()
    for gate in gates.values():
        gate.opened(crew)
    yield gates
    await crew.aclose()


async def _above_bare(
    measure: Callable[[Intercept], Awaitable[float]], intercept: Intercept
) -> float:
    bare, found = math.inf, math.inf
    for _ in range(ROUNDS):
        bare = min(bare, await measure(_bare))
        found = min(found, await measure(intercept))
    return (found - bare) * 1e6


async def _bare(request: httpx.Request, call_next: Next) -> httpx.Response:
    return await call_next(request)


async def _watched(request: httpx.Request, call_next: Next) -> httpx.Response:
    """What any layer costs that is told of the end of a body; in the gate's cost, too."""
    response = await call_next(request)
    when_closed(request, response, _ignore)
    return response


def _ignore() -> None:
    pass


class _Maker:
    """Calls of one backend; a measurement is the seconds of one."""

    def __init__(self, module: Any) -> None:
        class Empty(module.AsyncByteStream):  # type: ignore[misc]
            async def aclose(self) -> None:
                pass

        self.module = module
        self.empty = Empty

    async def answer(self, request: httpx.Request) -> httpx.Response:
        return self.module.Response(200, stream=self.empty())  # type: ignore[no-any-return]

    async def answer_later(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        return await self.answer(request)

    async def one_by_one(self, intercept: Intercept) -> float:
        """With nobody else there."""
        request = self.module.Request("GET", "https://example.org:8443/a")
        start = perf_counter()
        for _ in range(CALLS):
            await _ask(intercept, request, self.answer)
        return (perf_counter() - start) / CALLS

    async def crowd(self, intercept: Intercept) -> float:
        """All made at once, of mixed priorities."""
        options = [Call(priority=priority) for priority in Priority]
        requests = [
            self.module.Request(
                "GET", f"http://host{n % 50}/", extensions={"trio_rt": options[n % len(options)]}
            )
            for n in range(CALLS)
        ]
        start = perf_counter()
        async with trio.open_nursery() as nursery:
            for request in requests:
                nursery.start_soon(_ask, intercept, request, self.answer_later)
        return (perf_counter() - start) / CALLS


async def _ask(intercept: Intercept, request: httpx.Request, call_next: Next) -> None:
    response = await intercept(request, call_next)
    await response.stream.aclose()  # type: ignore[union-attr]

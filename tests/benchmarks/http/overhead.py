"""All default layers against the bare backend, where the cache helps nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio

from trio_rt.http import BackendName, open_client

from ..clients import Run
from .bare import bare_client, getter
from .blocks import Call, cost_us, in_turn, rate, speed
from .origin import Origin, unique

CALLS: Final = 60
TURNS: Final = 24


def _no_store(client: Any, way: str | None) -> Call:
    return getter(client, "/no-store", way)


def _stored(client: Any, way: str | None) -> Call:
    """A URL that is new each time: looked up, fetched, stored."""

    async def call() -> None:
        await getter(client, unique("/fresh"), way)()

    return call


CASES: Final[dict[str, Callable[[Any, str | None], Call]]] = {
    "no-store": _no_store,
    "stored": _stored,
}


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """Requests a second of ours, as a part of the bare backend's."""
    return trio.run(_run, origin, name, CASES[case])


async def _run(origin: Origin, name: BackendName, made: Callable[[Any, str | None], Call]) -> Run:
    async with (
        bare_client(name, origin) as bare,
        open_client(origin.url, backend=name) as client,
    ):
        ways = [made(client, "miss"), made(bare, None)]
        ours, theirs = await in_turn(ways, calls=CALLS, turns=TURNS)
    return Run(
        speed(ours, theirs),
        speed(ours, theirs, cpu=True),
        notes={
            "requests/s": rate(ours),
            "bare requests/s": rate(theirs),
            "CPU us more": cost_us(ours) - cost_us(theirs),
            "by CPU x": speed(ours, theirs, cpu=True),
        },
    )

"""A fresh answer from memory against a request over loopback by the bare backend."""

from __future__ import annotations

from typing import Final

import trio

from trio_rt.http import BackendName, open_client

from ..clients import Run
from .bare import bare_client, getter
from .blocks import WORKERS, clock_us, in_turn, speed
from .origin import Origin, unique

CALLS: Final = 60
TURNS: Final = 12


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """How many hits there are in the time of a request; `case` is how many callers."""
    return trio.run(_run, origin, name, {"one": 1, "six": WORKERS}[case])


async def _run(origin: Origin, name: BackendName, workers: int) -> Run:
    path = unique("/fresh")
    async with (
        bare_client(name, origin) as bare,
        open_client(origin.url, backend=name) as client,
    ):
        await client.get(path)
        ways = [getter(client, path, "hit"), getter(bare, path)]
        ours, theirs = await in_turn(ways, calls=CALLS, turns=TURNS, workers=workers)
    return Run(
        speed(ours, theirs),
        speed(ours, theirs, cpu=True),
        notes={"a hit us": clock_us(ours), "a request us": clock_us(theirs)},
    )

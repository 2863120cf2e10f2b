"""A critical call behind 500 low ones that wait: when does the server see it?"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any, Final

import trio

from trio_rt import Priority
from trio_rt.http import BackendName, open_client

from ..clients import Run
from .origin import Origin, unique

WAITING: Final = 500
CALLS: Final = 9
#: How long a slot is taken.
SLOT_MS: Final = 100
SLOTS: Final = 6


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """The longest of `CALLS` at random moments, in milliseconds until the server has it."""
    return trio.run(_run, origin, name)


async def _run(origin: Origin, name: BackendName) -> Run:
    path = unique(f"/wait/{SLOT_MS}")
    late_ms: list[float] = []
    async with (
        open_client(
            origin.url, backend=name, cache=False, max_concurrent=SLOTS, timeout_s=60
        ) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(WAITING + SLOTS * (2 * CALLS + 3)):
            nursery.start_soon(_low, client, path)
        await trio.sleep(SLOT_MS * 2 / 1000)
        for _ in range(CALLS):
            await trio.sleep(random.uniform(0, SLOT_MS / 1000))
            assert client.statistics().gate.waiting >= WAITING
            start = time.perf_counter()
            response = await client.get(path, priority=Priority.CRITICAL)
            late_ms.append((response.json()["at"] - start) * 1e3)
        nursery.cancel_scope.cancel()
    return Run(max(late_ms), notes={"median ms": statistics.median(late_ms)})


async def _low(client: Any, path: str) -> None:
    await client.get(path, priority=Priority.LOW)

"""The storm of cancels of `tests.http.storm`, on the whole client: what it leaves."""

from __future__ import annotations

import ssl
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import trio

from tests.http.storm import Damage, full_client, storm
from trio_rt.http import BackendName

from ..clients import Run
from ..percentiles import percentile
from .origin import Origin

CANCELS: Final = 2000
#: How often the loop itself is asked how late it is.
TICK_S: Final = 0.001


class _Watched:
    """`full_client`, which is asked at its end what it still has; and how late its loop was."""

    def __init__(self) -> None:
        self.busy = 0
        self.loop_late_s: list[float] = []

    def opens(self, name: BackendName, tls: ssl.SSLContext) -> AbstractAsyncContextManager[Any]:
        return self._open(name, tls)

    @asynccontextmanager
    async def _open(self, name: BackendName, tls: ssl.SSLContext) -> AsyncIterator[Any]:
        async with full_client(name, tls) as client, trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            yield client
            nursery.cancel_scope.cancel()
            gate = client.statistics().gate
            self.busy = gate.running + gate.waiting

    async def _tick(self) -> None:
        while True:
            due = trio.current_time() + TICK_S
            await trio.sleep_until(due)
            self.loop_late_s.append(trio.current_time() - due)


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """All that was left over: sockets, tasks, slots, a pool that answers no more."""
    return trio.run(_run, name, case == "https")


async def _run(name: BackendName, tls: bool) -> Run:
    watched = _Watched()
    damage = await storm(name, tls=tls, cancels=CANCELS, opens=watched.opens)
    left = _left(damage) | {"busy slots": float(watched.busy)}
    told = {"cancelled": float(damage.cancelled), "finished": float(damage.finished)}
    late = _late("left after", damage.late_s) | _late("loop late by", watched.loop_late_s)
    return Run(sum(left.values()), notes=told | left | late)


def _left(damage: Damage) -> dict[str, float]:
    return {
        "failed": damage.failed,
        "unanswered after it": damage.unanswered,
        "orphans": damage.orphans,
        "open connections": damage.live,
        "descriptors": max(0, damage.descriptors),
        "ResourceWarnings": len(damage.warned),
    }


def _late(label: str, found_s: Sequence[float]) -> dict[str, float]:
    found_ms = [1e3 * late for late in found_s]
    return {
        f"{label} p50 ms": statistics.median(found_ms),
        f"{label} p99 ms": percentile(found_ms, 0.99),
        f"{label} max ms": max(found_ms),
    }

"""One heartbeat task for many links: a heap of when each has to be looked at.

A link that hears something does not touch the heap; it is asked when its old
turn comes, and then gets a new one. A link that has ended is forgotten at its
turn, so the heap holds each link once, and an ended one for at most an interval.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from typing import Final

import trio

from ._pace import Pace
from ._tasks import Link
from ._waker import Waker
from .errors import LinkClosed

__all__ = ["Beats"]

logger: Final = logging.getLogger("trio_rt.server")


class Beats:
    def __init__(self) -> None:
        self._turns: list[tuple[float, int, Link]] = []
        self._ids = itertools.count()
        self._earlier = Waker()
        self._pace = Pace()

    def add(self, link: Link) -> None:
        """Look after `link`, which has a pulse, until it is over."""
        assert link.pulse is not None
        first = self._turns[0][0] if self._turns else math.inf
        heapq.heappush(self._turns, (link.pulse.due, next(self._ids), link))
        if link.pulse.due < first:
            self._earlier.wake()

    async def run(self) -> None:
        """The task."""
        while True:
            await self._earlier.wait(self._turns[0][0] if self._turns else math.inf)
            while self._turns and self._turns[0][0] <= trio.current_time():
                if self._pace.is_due():
                    await self._pace.turn()
                await self._look()

    async def _look(self) -> None:
        """Give the first in the heap its turn, and hold nothing of it afterwards."""
        _, number, link = heapq.heappop(self._turns)
        if not link.over:
            assert link.pulse is not None
            await self._tick(link)
            heapq.heappush(self._turns, (link.pulse.due, number, link))

    async def _tick(self, link: Link) -> None:
        try:
            await link.tick()
        except Exception:
            # A foreign codec's own bug, in the heartbeat message.
            logger.exception("the heartbeat failed; that link ends")
            link.fail(LinkClosed(1011, "the heartbeat failed", by_peer=False))

"""How many tries beyond the first all calls together may make.

Retries help where few calls fail. Where all do, they multiply the load of a server
that is down already. So they are paid for by the calls: of the last `window_s`, at
most a share of the calls may have been tried again. The floor is for a client of
few calls; it is the other bound, not one on top, so that 1,000 calls to a dead
server stay 1,200 tries.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from ..options import check_number

__all__ = ["Budget", "Window"]

#: The window moves in steps of a tenth: what is counted is 0.9 to 1 window old.
SLICES: Final = 10


class Window:
    """How many events the last `window_s` had, and how many of them, or beside them, were marked."""

    __slots__ = ("_ends_at", "_last", "_slice_s", "_slices", "marked", "total")

    def __init__(self, window_s: float) -> None:
        self.total = 0
        self.marked = 0
        self._slice_s = window_s / SLICES
        self._ends_at = -math.inf
        self._last = [0, 0]
        self._slices = deque([self._last], maxlen=SLICES)

    def count(self, now: float) -> None:
        if now >= self._ends_at:
            self._roll(now)
        self.total += 1
        self._last[0] += 1

    def mark(self, now: float) -> None:
        if now >= self._ends_at:
            self._roll(now)
        self.marked += 1
        self._last[1] += 1

    def roll(self, now: float) -> None:
        """Forget what is older than the window: `total` and `marked` are right then."""
        if now >= self._ends_at:
            self._roll(now)

    def _roll(self, now: float) -> None:
        steps = (now - self._ends_at) // self._slice_s + 1
        if not steps <= SLICES:
            self._slices.clear()
            self.total = self.marked = 0
            self._ends_at = now
            steps = 1
        for _ in range(int(steps)):
            self._step()

    def _step(self) -> None:
        if len(self._slices) == SLICES:
            total, marked = self._slices[0]
            self.total -= total
            self.marked -= marked
        self._last = [0, 0]
        self._slices.append(self._last)
        self._ends_at += self._slice_s


class Budget:
    """Retries and hedges are at most `share` of the calls of the last `window_s` seconds, or `floor`.

    Whichever is more. One budget may be given to a `Retry` and to the `Hedge` inside
    of it; then all their copies are bounded together.
    """

    def __init__(self, *, share: float = 0.2, floor: float = 10, window_s: float = 60.0) -> None:
        check_number("Budget.share", share, finite=True)
        check_number("Budget.floor", floor, whole=True)
        check_number("Budget.window_s", window_s, above=True, finite=True)
        self._share = share
        self._floor = floor
        self._window = Window(window_s)
        #: A call was made, at this time.
        self.deposit = self._window.count

    def spend(self, now: float) -> bool:
        """Whether one more try may be made now; it is paid then."""
        if self.left(now) < 1:
            return False
        self._window.mark(now)
        return True

    def left(self, now: float) -> float:
        """How many tries could be paid now; `math.inf` with no limit."""
        window = self._window
        window.roll(now)
        granted = max(self._floor, math.floor(self._share * window.total))
        return max(0, granted - window.marked)

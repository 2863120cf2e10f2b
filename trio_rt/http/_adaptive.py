"""How many calls a server can take at once, found out by trying.

AIMD, as TCP does it: what the server could not take cuts the limit by 30 %, and
each `limit` answers add 1, up to where it began.

One overload is heard of many times: six calls at once may get six 503. Cutting
for each would fall from 6 to 1 by one hiccup, so a call counts only if it was
started after the last cut, which is what its *epoch* tells.
"""

from __future__ import annotations

from typing import Final

__all__ = ["AdaptiveLimit"]

CUT: Final = 0.7


class AdaptiveLimit:
    """A whole number from 1 to `most`, where it starts."""

    __slots__ = ("_exact", "_most", "epoch", "limit")

    def __init__(self, most: int) -> None:
        self._most = most
        self._exact = float(most)
        self.limit = most
        #: Counts the cuts. A call remembers the one in which it was started.
        self.epoch = 0

    @property
    def most(self) -> int:
        return self._most

    @most.setter
    def most(self, most: int) -> None:
        """A limit that was never cut, or is back at the top, goes along with it."""
        at_top = self._exact >= self._most
        self._most = most
        self._set(most if at_top else self._exact)

    def succeeded(self) -> None:
        """A call was answered."""
        if self._exact < self._most:
            self._set(self._exact + 1 / self.limit)

    def overloaded(self, epoch: int) -> None:
        """A call of that epoch was turned away for overload, or not answered in time."""
        if epoch == self.epoch:
            self.epoch += 1
            self._set(self._exact * CUT)

    def _set(self, exact: float) -> None:
        self._exact = max(1.0, min(exact, self._most))
        self.limit = int(self._exact)

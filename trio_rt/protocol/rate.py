"""How many messages may leave in a second."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Rate"]

#: How much of a second's worth may leave at once.
BURST_S: Final = 0.1


class Rate:
    """A token bucket: `rate_per_s`, and the worth of `burst_s` (at least one) at once."""

    __slots__ = ("_burst_s", "_step_s", "is_free", "ready_at")

    def __init__(self, rate_per_s: float, burst_s: float = BURST_S) -> None:
        self.is_free: Final = math.isinf(rate_per_s)
        self._step_s = 0.0 if self.is_free else 1.0 / rate_per_s
        self._burst_s = max(0.0, burst_s - self._step_s)
        #: When one more may leave.
        self.ready_at = -math.inf

    def left(self, now: float) -> float:
        """How many may leave now."""
        if not self._step_s:
            return math.inf
        if self.ready_at > now:
            return 0
        return 1 + (now - max(self.ready_at, now - self._burst_s)) // self._step_s

    def spend(self, now: float, count: int) -> None:
        if self._step_s:
            self.ready_at = max(self.ready_at, now - self._burst_s) + count * self._step_s

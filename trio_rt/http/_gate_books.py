"""What a gate counts of its calls."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Final

import attrs

from ..message import Priority

__all__ = ["Book", "GateStatistics", "PriorityStatistics"]

#: Waits are counted in buckets, so many for each doubling: 9 % apart.
PER_DOUBLING: Final = 8
#: A wait shorter than this is none; one longer than 2**27 of it, 3.7 h, is that.
LEAST_WAIT_S: Final = 1e-4
BUCKETS: Final = 27 * PER_DOUBLING


@attrs.frozen
class PriorityStatistics:
    """Of one priority. Percentiles are of all that started, those at once included."""

    waiting: int
    running: int
    started: int
    #: `QueueFull` was raised, at once or while waiting.
    refused: int
    #: Seconds in the queue, to 10 %; 0 below 0.1 ms.
    waited_p50_s: float
    waited_p99_s: float


@attrs.frozen
class GateStatistics:
    """A snapshot; counts are since the gate was made. `limit`: how many may run now."""

    limit: float
    waiting: int
    running: int
    priorities: Mapping[Priority, PriorityStatistics]


class Book:
    """What happened to the calls of one priority."""

    __slots__ = ("refused", "started", "waits")

    def __init__(self) -> None:
        self.started = self.refused = 0
        self.waits = [0] * (BUCKETS + 1)

    def add_wait(self, waited_s: float) -> None:
        if waited_s >= LEAST_WAIT_S:
            bucket = int(log2(waited_s / LEAST_WAIT_S) * PER_DOUBLING)
            self.waits[min(bucket, BUCKETS)] += 1

    def quantile(self, part: float) -> float:
        """The middle of the bucket that the quantile is in."""
        beyond = self.started * (1 - part)
        for bucket in reversed(range(len(self.waits))):
            beyond -= self.waits[bucket]
            if beyond < 0:
                return float(LEAST_WAIT_S * 2 ** ((bucket + 0.5) / PER_DOUBLING))
        return 0.0

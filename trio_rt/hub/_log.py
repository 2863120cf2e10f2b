"""The log of one room: bounded, with the keys of what it has seen lately.

Everything is a constant number of steps for each message: offsets have no holes, so that
items lie in a table under their offset, and what is next to an offset is found without
a walk. Times are seconds of any clock that does not go back; `now` is passed in.

Keys outlive their messages, or the other way round: both have limits of their own. More
than `MOST_KEYS` keys are not known, so that a flood is not remembered for `repeat_s`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from typing import Final

from ._broker import Draft, Head, Item, LogLimits, Way

__all__ = ["MOST_KEYS", "MOST_MARKS", "Log", "farthest"]

#: Of one room: at 300 messages a second as many as in the default `repeat_s`.
MOST_KEYS: Final = 100_000

#: Of one room: those who have read farthest. Each who joins is sent all of them.
MOST_MARKS: Final = 10_000


class Log:
    """Messages `first` to `last`; offsets go on where older messages are gone."""

    __slots__ = (
        "_items",
        "_keys",
        "_limits",
        "_seen",
        "_times",
        "epoch",
        "first",
        "last",
        "room",
        "total_bytes",
    )

    def __init__(self, room: str, epoch: str, limits: LogLimits) -> None:
        self.room: Final = room
        self.epoch: Final = epoch
        self.first = 1
        self.last = 0
        #: Of the bodies of all that is stored.
        self.total_bytes = 0
        self._limits: Final = limits
        self._items: dict[int, Item] = {}
        #: When each of them came.
        self._times: deque[float] = deque()
        self._keys: dict[str, int] = {}
        #: When each key came, and which.
        self._seen: deque[tuple[float, str]] = deque()

    @property
    def head(self) -> Head:
        return Head(self.epoch, self.first, self.last)

    @property
    def key_count(self) -> int:
        return len(self._keys)

    def known(self, key: str, now: float) -> int:
        """The offset of the message that came with `key`, or 0."""
        seen = self._seen
        old = now - self._limits.repeat_s
        while seen and seen[0][0] <= old:
            del self._keys[seen.popleft()[1]]
        return self._keys.get(key, 0)

    def append(self, draft: Draft, now: float) -> Item:
        """Store a message whose key is not `known`. The item is not stored if it is too large."""
        self.last = offset = self.last + 1
        body, key = draft.body, draft.key
        item = Item(self.room, self.epoch, offset, body, draft.only, draft.but)
        self._items[offset] = item
        self._times.append(now)
        self._keys[key] = offset
        self._seen.append((now, key))
        self.total_bytes += len(body)
        if len(self._seen) > MOST_KEYS:
            del self._keys[self._seen.popleft()[1]]
        self.prune(now)
        return item

    def prune(self, now: float) -> None:
        """Let go of what is beyond the limits."""
        limits, times = self._limits, self._times
        old = now - limits.keep_s
        while times and (
            len(times) > limits.messages or self.total_bytes > limits.total_bytes or times[0] <= old
        ):
            times.popleft()
            self.total_bytes -= len(self._items.pop(self.first).body)
            self.first += 1

    def page(self, way: Way, offset: int, limit: int, max_bytes: int) -> list[Item]:
        """As `Broker.page`."""
        step = 1 if way == "after" else -1
        place = max(offset + 1, self.first) if way == "after" else min(offset - 1, self.last)
        taken: list[Item] = []
        while len(taken) < limit and (item := self._items.get(place)) is not None:
            max_bytes -= len(item.body)
            if taken and max_bytes < 0:
                break
            taken.append(item)
            place += step
        if way == "before":
            taken.reverse()
        return taken


def farthest(marks: Mapping[str, int]) -> dict[str, int]:
    """The `MOST_MARKS` of them that are farthest."""
    if len(marks) <= MOST_MARKS:
        return dict(marks)
    return dict(heapq.nlargest(MOST_MARKS, marks.items(), key=lambda mark: mark[1]))

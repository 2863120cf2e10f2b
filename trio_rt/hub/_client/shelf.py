"""What a member of a room has not taken yet. Full, it loses the oldest, and says so.

A message of the log that is lost counts in a `Gap` in its place. A `Reset` that is lost is
still told, and swallows the count before it. What else is lost has no place in the log:
passing messages, and who came and went, of which `members` has the sum.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from ...message import Gap, Reset
from .items import RoomItem, RoomMessage

__all__ = ["Shelf"]


class Shelf:
    """Of up to `capacity` items."""

    def __init__(self, capacity: int) -> None:
        self.capacity: Final = capacity
        self._items: deque[RoomItem[Any]] = deque()
        # Of the items, those that stand for a place in the log.
        self._places = 0
        # What stood before the first item, and is lost.
        self._reset: Reset | None = None
        self._lost = 0

    def __len__(self) -> int:
        return len(self._items) + (self._reset is not None) + (self._lost > 0)

    @property
    def has_places(self) -> bool:
        """Whether anything of the log is still to be taken."""
        return self._places > 0 or self._reset is not None or self._lost > 0

    def put(self, item: RoomItem[Any]) -> None:
        items = self._items
        if isinstance(item, Gap) and items and isinstance(last := items[-1], Gap):
            item = Gap(last.count + item.count)
            items[-1] = item
            return
        items.append(item)
        self._places += _is_place(item)
        if len(items) > self.capacity:
            self._lose(self._pop())

    def take(self) -> RoomItem[Any] | None:
        """The next item, None if there is none."""
        reset, self._reset = self._reset, None
        if reset is not None:
            return reset
        items = self._items
        if self._lost:
            lost, self._lost = self._lost, 0
            if items and isinstance(first := items[0], Gap):
                lost += first.count
                self._pop()
            return Gap(lost)
        return self._pop() if items else None

    def clear(self) -> None:
        self._items.clear()
        self._places = 0
        self._reset, self._lost = None, 0

    def _pop(self) -> RoomItem[Any]:
        item = self._items.popleft()
        self._places -= _is_place(item)
        return item

    def _lose(self, item: RoomItem[Any]) -> None:
        if isinstance(item, Reset):
            self._reset, self._lost = item, 0
        elif isinstance(item, Gap):
            self._lost += item.count
        elif _is_place(item):
            self._lost += 1


def _is_place(item: RoomItem[Any]) -> bool:
    if isinstance(item, RoomMessage):
        return item.position is not None
    return isinstance(item, (Gap, Reset))

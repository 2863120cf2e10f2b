"""The consumer's end of a room: a shelf, and who waits for something to lie there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import trio

from ...errors import Refused
from .items import RoomItem
from .shelf import Shelf

__all__ = ["Channel"]


class Channel:
    """One receiver at a time; who puts something in never waits."""

    def __init__(self, capacity: int) -> None:
        self._shelf: Final = Shelf(capacity)
        self._receiving = False
        self._closed = False
        self._end: Exception | None = None
        # There while somebody waits.
        self._changed: trio.Event | None = None

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def free(self) -> int:
        """How many more items there is room for."""
        return self._shelf.capacity - len(self._shelf)

    @property
    def has_drained(self) -> bool:
        """Whether it is half empty."""
        return 2 * len(self._shelf) <= self._shelf.capacity

    @property
    def has_places(self) -> bool:
        """Whether anything of the log is still to be received."""
        return self._shelf.has_places

    # Of the room

    def put(self, items: Iterable[RoomItem[Any]]) -> None:
        """Wakes the receiver. What comes after the end or `close()` is nobody's."""
        for item in items:
            if not self._closed and self._end is None:
                self._shelf.put(item)
        self.notify()

    def end(self, reason: Exception) -> None:
        """There will be no more; the first reason counts."""
        if self._end is None:
            self._end = reason
            self.notify()

    def check(self) -> None:
        """Raise why there will be no more: of a connection that has ended `ClosedResourceError`."""
        if isinstance(self._end, trio.EndOfChannel):
            raise trio.ClosedResourceError
        if self._end is not None:
            raise _anew(self._end)

    def notify(self) -> None:
        """Something has changed that somebody may wait for."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def wait_change(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    # Of the consumer

    async def receive(self) -> RoomItem[Any]:
        """As `Membership.receive`."""
        self._begin()
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while (item := self._take()) is None:
                await self.wait_change()
            return item
        finally:
            self._receiving = False

    def receive_nowait(self) -> RoomItem[Any]:
        """As `Membership.receive_nowait`."""
        self._begin()
        item = self._take()
        if item is None:
            raise trio.WouldBlock
        return item

    def close(self) -> None:
        """Idempotent. A receiver that waits gets `ClosedResourceError`."""
        self._closed = True
        self._shelf.clear()
        self.notify()

    def _begin(self) -> None:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this room")
        if self._closed:
            raise trio.ClosedResourceError

    def _take(self) -> RoomItem[Any] | None:
        if self._closed:
            raise trio.ClosedResourceError
        item = self._shelf.take()
        if item is None and self._end is not None:
            raise _anew(self._end)
        return item


def _anew(error: Exception) -> Exception:
    """One that can be raised more than once: each has a traceback of its own."""
    if isinstance(error, (Refused, trio.EndOfChannel, trio.ClosedResourceError)):
        return type(error)(*error.args)
    return error

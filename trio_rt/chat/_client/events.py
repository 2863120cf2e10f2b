"""Streams of what happens in a room. Whoever puts something in never waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

import trio

from ..._waker import Waker
from ...errors import Refused
from ...message import Gap, Reset
from ...options import check_number
from ..models import RoomEvent

__all__ = ["EventStream", "Events"]


class EventStream(trio.abc.ReceiveChannel[RoomEvent]):
    """What happens from when it was opened on: made by `ChatRoom.events()` alone.

    Full, it loses the oldest: a `Gap` with their number is in their place, and a `Reset`
    among them is told nevertheless. What a `Gap` hides, `ChatRoom.messages` shows.

    When the room is left, what lies here can be received, and then `trio.EndOfChannel` is
    raised; `trio_rt.Refused` if the service removed this user from the room. Closed by its
    holder it raises `trio.ClosedResourceError`.
    """

    def __init__(self, capacity: int, forget: Callable[[EventStream], None]) -> None:
        self._capacity: Final = capacity
        self._forget: Final = forget
        self._items: deque[RoomEvent] = deque()
        self._waker: Final = Waker()
        self._receiving = False
        self._closed = False
        self._end: Exception | None = None
        # What stood before the first item, and is lost.
        self._reset: Reset | None = None
        self._lost = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def receive(self) -> RoomEvent:
        """The next event; waits for it. A checkpoint; cancelling loses nothing.

        Raises `trio.BusyResourceError` for a second receiver, and what the class says.
        """
        self._check()
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while (event := self._take()) is None:
                await self._waker.wait()
            return event
        finally:
            self._receiving = False

    def receive_nowait(self) -> RoomEvent:
        """The next event, or `trio.WouldBlock`."""
        self._check()
        event = self._take()
        if event is None:
            raise trio.WouldBlock
        return event

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        self._items.clear()
        self._reset, self._lost = None, 0
        self._forget(self)
        self._waker.wake()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    # Of the room

    def put(self, event: RoomEvent) -> None:
        self._items.append(event)
        if len(self._items) > self._capacity:
            self._lose(self._items.popleft())
        self._waker.wake()

    def end(self, reason: Exception) -> None:
        self._end = reason
        self._waker.wake()

    # Within

    def _check(self) -> None:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")

    def _take(self) -> RoomEvent | None:
        if self._closed:
            raise trio.ClosedResourceError
        reset, self._reset = self._reset, None
        if reset is not None:
            return reset
        lost, self._lost = self._lost, 0
        if lost:
            return Gap(lost)
        if not self._items and self._end is not None:
            raise type(self._end)(*self._end.args)  # each with a traceback of its own
        return self._items.popleft() if self._items else None

    def _lose(self, event: RoomEvent) -> None:
        if isinstance(event, Reset):
            self._reset, self._lost = event, 0
        else:
            self._lost += event.count if isinstance(event, Gap) else 1


class Events:
    """The streams that are open of one room."""

    def __init__(self) -> None:
        self._streams: Final[set[EventStream]] = set()
        self._end: Refused | trio.EndOfChannel | None = None

    def open(self, capacity: int) -> EventStream:
        """Raises `OptionError`."""
        check_number("capacity", capacity, least=1, whole=True, finite=True)
        stream = EventStream(capacity, self._streams.discard)
        if self._end is not None:
            stream.end(self._end)
        else:
            self._streams.add(stream)
        return stream

    def put(self, events: Iterable[RoomEvent]) -> None:
        for event in events:
            for stream in self._streams:
                stream.put(event)

    def end(self, reason: Refused | trio.EndOfChannel) -> None:
        """There will be no more; the first reason counts."""
        if self._end is None:
            self._end = reason
            for stream in self._streams:
                stream.end(reason)
            self._streams.clear()

"""`Stream`: the receiving end of a subscription, a `trio.abc.ReceiveChannel`.

The queue behind it, and what happens when it is full, is `protocol.inbox`;
here is only the waiting.
"""

from __future__ import annotations

from types import TracebackType
from typing import Generic, Self, TypeVar, cast

import trio

from ._pace import Pace
from .errors import OptionError
from .protocol.inbox import Inbox, Queue

__all__ = ["Stream"]

ItemT = TypeVar("ItemT")


class Stream(trio.abc.ReceiveChannel[ItemT], Generic[ItemT]):
    """What arrives, in order. Iterate over it; leave its `with` block to close it.

    After the connection has ended, the items that are left can be read, then
    `trio.EndOfChannel` is raised. A stream closed by its holder raises
    `trio.ClosedResourceError`; a second task that receives at the same time
    gets `trio.BusyResourceError`. A stream opened with `on_full="fail"` raises
    `StreamOverflow` once it has overflowed and what it held is read.
    """

    __slots__ = ("_inbox", "_pace", "_queue", "_receiving", "_task")

    def __init__(self, queue: Queue, inbox: Inbox) -> None:
        self._queue = queue
        self._inbox = inbox
        self._pace = Pace()
        self._receiving = False
        self._task: trio.lowlevel.Task

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def receive(self) -> ItemT:
        """The next item; waits for it.

        Cancelling loses nothing. While items are ready this is a full
        checkpoint only every 64th call or every millisecond.
        """
        if self._receiving or self._queue.closed:
            self._begin()
        if not self._pace.is_due():
            await trio.lowlevel.checkpoint_if_cancelled()
        elif len(self._queue):
            await self._pace.turn()
        else:  # it has to wait, which is a turn; but what was held for the first stream is here
            self._pace.restart()
        item = self._queue.take()
        if item is not None:
            return cast(ItemT, item)
        self._begin()
        try:
            while (item := self._queue.take()) is None:
                self._prepare_to_wait()
                await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
            return cast(ItemT, item)
        finally:
            self._receiving = False

    def receive_nowait(self) -> ItemT:
        """The next item, or `trio.WouldBlock`."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        item = self._queue.take()
        if item is None:
            self._check_open()
            raise trio.WouldBlock
        return cast(ItemT, item)

    async def receive_many(self, limit: int = 65_536) -> list[ItemT]:
        """All items that are ready, at least one and at most `limit`; waits for the first.

        Cancelling loses nothing. A full checkpoint at each call.
        """
        if limit < 1:
            raise OptionError("limit", "must be a number from 1", limit)
        self._begin()
        try:
            await trio.lowlevel.checkpoint()
            while not (items := self._queue.take_many(limit)):
                self._prepare_to_wait()
                await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
            return cast(list[ItemT], items)
        finally:
            self._receiving = False

    def close(self) -> None:
        """Stop receiving; what the stream held is discarded. Idempotent."""
        if not self._queue.closed:
            self._inbox.close(self._queue)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def _begin(self) -> None:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        if self._queue.closed:
            raise trio.ClosedResourceError
        self._receiving = True

    def _check_open(self) -> None:
        queue = self._queue
        if queue.closed:
            raise trio.ClosedResourceError
        if queue.failure is not None:
            raise queue.failure
        if queue.ended:
            raise trio.EndOfChannel

    def _prepare_to_wait(self) -> None:
        self._check_open()
        self._task = trio.lowlevel.current_task()
        self._queue.wake = self._resume

    def _resume(self) -> None:
        trio.lowlevel.reschedule(self._task)

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._queue.wake = None
        return trio.lowlevel.Abort.SUCCEEDED

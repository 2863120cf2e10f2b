"""`Said`: one message of one's own, and what has become of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol

import trio

from ...errors import Refused
from ..models import ChatMessage, MessageState

__all__ = ["Said", "Source"]

_ENDS: Final[frozenset[MessageState]] = frozenset({"echoed", "failed"})


class Source(Protocol):
    """Who says it."""

    def withdraw(self, said: Said) -> bool: ...
    def retry(self, said: Said) -> bool: ...


class _Course:
    """From "queued" to an end."""

    __slots__ = ("changed", "is_over", "states")

    def __init__(self, first: MessageState) -> None:
        self.states: list[MessageState] = [first]
        self.is_over = False
        self.changed = trio.Event()

    def notify(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()


class _States(AsyncIterator[MessageState]):
    def __init__(self, course: _Course) -> None:
        self._course: Final = course
        self._at = 0

    async def __anext__(self) -> MessageState:
        course = self._course
        await trio.lowlevel.checkpoint()
        while self._at == len(course.states):
            if course.is_over:
                raise StopAsyncIteration
            await course.changed.wait()
        self._at += 1
        return course.states[self._at - 1]


class Said:
    """The handle of one message: made by `ChatRoom.say()` alone.

    A program may keep it or let it go: the message is said in either case.
    """

    def __init__(self, message: ChatMessage, source: Source) -> None:
        self._message = message
        self._source: Final = source
        self._course = _Course(message.state)
        self._refusal: Refused | None = None

    def __repr__(self) -> str:
        return f"<Said {self.id!r}: {self.state}>"

    @property
    def id(self) -> str:
        """The same at every client, and at every try."""
        return self._message.id

    @property
    def message(self) -> ChatMessage:
        """As it was when its state changed last: later edits are in `ChatRoom.messages`."""
        return self._message

    @property
    def state(self) -> MessageState:
        """ "failed" also for one that was withdrawn."""
        return self._message.state

    @property
    def offset(self) -> int:
        """Its place in the room's log; 0 until it is acked."""
        return self._message.offset

    @property
    def failure(self) -> str:
        """Why it failed, for people; "" if it did not."""
        return self._message.failure

    def states(self) -> AsyncIterator[MessageState]:
        """`async for state in said.states()`: each state once, those till now included.

        They only go forward; one may be passed over. It ends behind "echoed" and "failed",
        and when the room is left. Any number of tasks may have one each. After `retry()` a
        new one has what comes then.
        """
        return _States(self._course)

    async def wait_acked(self) -> int:
        """Wait until the service has stored it: its offset. Cancelling only stops the wait.

        Raises `Refused` if it failed (code "withdrawn": it was taken back), and
        `trio.ClosedResourceError` if the room was left before that was known.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self.state in ("acked", "echoed"):
                return self.offset
            if self._refusal is not None:
                raise Refused(self._refusal.code, self._refusal.text)
            if self._course.is_over:
                raise trio.ClosedResourceError
            await self._course.changed.wait()

    def withdraw(self) -> bool:
        """Take it back while it is queued: it is never said, and shown no more.

        False: it is too late.
        """
        return self._source.withdraw(self)

    def retry(self) -> bool:
        """Say one that failed once more, behind what is queued.

        False: it has not failed, was withdrawn or dismissed, or the room is left.
        """
        return self._source.retry(self)

    # Of who says it

    def moved(self, message: ChatMessage, refusal: Refused | None = None) -> None:
        """It is in another state."""
        self._message = message
        self._refusal = refusal
        if self._course.is_over:
            self._course = _Course(message.state)
            return
        self._course.states.append(message.state)
        if message.state in _ENDS:
            self._course.is_over = True
        self._course.notify()

    def end(self) -> None:
        """Nothing more will be known of it. Idempotent."""
        self._course.is_over = True
        self._course.notify()

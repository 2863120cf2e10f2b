"""A request of the other side, from its arrival to its answer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from ..message import Message
from .calls import has_room
from .frames import Control, End, Fail, More, Part, Req, breach
from .incoming import Slot
from .ledger import Bounds

__all__ = ["PARTS", "Inquiry", "RequestQueue"]

#: Parts of one exchange that may have arrived and not been taken.
PARTS: Final = Bounds(256, 256 << 10)

_NO_PARTS: Final = Bounds(0, 0)


class Owner(Protocol):
    """What an inquiry needs of `Requests`."""

    def answer(self, inquiry: Inquiry, frame: Control) -> None: ...

    def answered(self, inquiry: Inquiry) -> None: ...

    def refusal(self, id: int, code: str, text: str) -> Fail: ...


class Inquiry:
    """One request of the other side. Its `message` has the time at which it came."""

    __slots__ = (
        "_limits",
        "_requests",
        "_sent",
        "_sent_bytes",
        "_slot",
        "_taken",
        "_taken_bytes",
        "cancelled",
        "deadline",
        "finished",
        "id",
        "message",
        "on_cancel",
        "takes_parts",
        "trace",
        "wake",
    )

    def __init__(self, requests: Owner, frame: Req, message: Message[Any], slot: Slot) -> None:
        self.id = frame.id
        self.message = message
        #: When nobody wants the answer any more.
        self.deadline = (
            math.inf
            if frame.deadline_ms is None
            else message.received_at + frame.deadline_ms / 1000
        )
        self.trace = frame.trace
        #: Whether the other side takes parts.
        self.takes_parts = frame.parts[0] > 0
        self.finished = False
        self.cancelled = False
        #: Called when it is cancelled while a handler runs.
        self.on_cancel: Callable[[], None] = _nothing
        #: Called once when there is credit for a part.
        self.wake: Callable[[], None] | None = None
        self._requests = requests
        self._slot: Slot | None = slot
        # Never more than is kept here: who asks for more may be who takes nothing.
        parts, size = frame.parts
        self._limits = (
            Bounds(min(parts, PARTS.messages), min(size, PARTS.bytes)) if parts else _NO_PARTS
        )
        self._sent = self._sent_bytes = 0
        self._taken = self._taken_bytes = 0

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self.cancelled = True
        self.on_cancel()

    def begin(self) -> None:
        """A handler begins: the request has left the window."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release(taken=True)

    def has_credit(self, size: int) -> bool:
        """Whether a part of `size` bytes may go."""
        waiting = self._sent - self._taken
        return has_room(self._limits, waiting, self._sent_bytes - self._taken_bytes, size)

    def send_part(self, envelope: bytes) -> None:
        """Send a part, for which there is credit."""
        self._sent += 1
        self._sent_bytes += len(envelope)
        self._requests.answer(self, Part(self.id, msgspec.Raw(envelope)))

    def end(self, envelope: bytes) -> None:
        """Send the reply."""
        self._finish(End(self.id, msgspec.Raw(envelope)))

    def fail(self, code: str, text: str) -> None:
        """Say that there will be none."""
        self._finish(self._requests.refusal(self.id, code, text))

    def _finish(self, frame: End | Fail) -> None:
        if not self.finished:
            self.begin()
            self.finished = True
            self._requests.answer(self, frame)
            self._requests.answered(self)

    def more(self, frame: More) -> None:
        """Parts were taken. Raises the breach that it is if there were not so many."""
        taken, size = frame.parts
        if not self._taken <= taken <= self._sent or size > self._sent_bytes:
            raise breach("more parts taken than were sent")
        self._taken, self._taken_bytes = taken, max(size, self._taken_bytes)
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def lose(self) -> None:
        """The session is lost: nobody waits for the answer."""
        self.begin()
        self.finished = True
        self.cancel()


class RequestQueue:
    """What one `serve_requests` has to do. `types` None: every type that no other has."""

    def __init__(self, types: frozenset[str] | None) -> None:
        self.types = types
        self.inquiries: deque[Inquiry] = deque()
        self.ended = False
        #: Called once when something lands or nothing more will.
        self.wake: Callable[[], None] | None = None

    def notify(self) -> None:
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()


def _nothing() -> None:
    """Nobody is concerned."""

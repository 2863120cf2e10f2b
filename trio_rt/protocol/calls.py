"""A request of this side, from its send to its last part."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from ..errors import NoSession, Undelivered
from ..message import WITHDRAWN, Message, Outcome
from .frames import Control, More, breach
from .lanes import Entry
from .ledger import ACK_SHARE, Bounds

__all__ = ["Ask", "Call", "ForeignAsk", "has_room"]


class Owner(Protocol):
    """What a call needs of `Requests`."""

    def note(self, frame: Control) -> None: ...

    def settled(self, call: Call) -> None: ...


class Ask(Entry, eq=False, gc=False):
    """A request on its way: an entry in the outbox, and then in the books."""

    needs_session: ClassVar[bool] = True

    call: Any = None
    #: Where it is asked.
    session: Any = None

    def disown(self) -> None:
        # The collector does not look into this object, and `call` has it.
        self.call = self.session = None

    def settle(self, outcome: Outcome) -> None:
        call, session = self.call, self.session
        self.disown()
        if self.outcome is None:
            self.outcome = outcome
            if call is None or outcome.kind in ("acked", "written"):
                return
            if outcome is WITHDRAWN and self.needs_session and session.is_plain:
                call.fail(NoSession("the link that came has no session"))
            else:
                call.undelivered(outcome)


class ForeignAsk(Ask, eq=False, gc=False):
    """One to a server whose codec tells which message is the answer."""

    needs_session: ClassVar[bool] = False


class Call:
    """One request of ours. `wake` is called once when something has changed for who waits."""

    def __init__(self, requests: Owner, id: int, parts: Bounds) -> None:
        self.id = id
        #: Its entry; set before that is sent.
        self.ask: Ask
        #: The reply, and what came instead of it.
        self.reply: Message[Any] | None = None
        self.failure: Exception | None = None
        self.wake: Callable[[], None] | None = None
        self._requests = requests
        self._limits = parts
        self._parts: deque[tuple[Message[Any], int]] = deque()
        self._waiting_bytes = 0
        self._taken = self._taken_bytes = 0
        self._told = self._told_bytes = 0
        self._abandoned = False

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self.reply is not None or self.failure is not None

    def take_part(self) -> Message[Any] | None:
        """The next part, or None if there is none now."""
        if not self._parts:
            return None
        part, size = self._parts.popleft()
        self._waiting_bytes -= size
        self._taken += 1
        self._taken_bytes += size
        if not self.over and (
            self._taken - self._told >= self._limits.messages // ACK_SHARE
            or self._taken_bytes - self._told_bytes >= self._limits.bytes // ACK_SHARE
        ):
            self._told, self._told_bytes = self._taken, self._taken_bytes
            self._requests.note(More(self.id, (self._told, self._told_bytes)))
        return part

    # By `Requests`

    def arrive(self, message: Message[Any], size: int) -> None:
        """A part. Raises the breach that it is if there was no credit for it."""
        waiting = len(self._parts) + self._taken - self._told
        waiting_bytes = self._waiting_bytes + self._taken_bytes - self._told_bytes
        if not has_room(self._limits, waiting, waiting_bytes, size):
            raise breach("more parts than were asked for")
        if self._abandoned:
            return
        self._parts.append((message, size))
        self._waiting_bytes += size
        self.notify()

    def finish(self, reply: Message[Any] | None, failure: Exception | None) -> None:
        """The final frame, or what stands for it."""
        self.reply, self.failure = reply, failure
        self._requests.settled(self)
        self.notify()

    def undelivered(self, outcome: Outcome) -> None:
        """The request came to nothing, or nobody knows."""
        self.fail(Undelivered(outcome))

    def fail(self, failure: Exception) -> None:
        """Nothing will come any more, and why."""
        if not self.over:
            self.finish(None, failure)

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._abandoned = True
        self._parts.clear()
        self.wake = None

    def notify(self) -> None:
        """Let who waits look again."""
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()


def has_room(limits: Bounds, waiting: int, waiting_bytes: int, size: int) -> bool:
    """Whether one more part may go while so much is not known to be taken."""
    return waiting < limits.messages and (
        waiting_bytes < max(1, limits.bytes // ACK_SHARE) or waiting_bytes + size <= limits.bytes
    )

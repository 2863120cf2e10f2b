"""Requests: what is asked and not yet answered, at both ends of a session.

A *call* is a request of ours, an *inquiry* one of the other side's. In a session
both survive any number of links. A request is a message like others: numbered,
once, and within the window until a handler has begun. What belongs to it then
(parts, reply, cancel, credit) are notes: outside the window, or two sides that wait
for each other's replies with full windows would wait for ever. Their bounds:

- the requester has at most `CALLS` requests without a final frame;
- each inquiry is answered by exactly one final frame, `end` or `fail`, even if it
  was cancelled. So what has arrived for a call is bounded by what it asked for;
- parts have a credit for each call, as messages and bytes not taken yet. What is
  taken is told by the quarter, so behind less than a quarter of the bytes one part
  may always go, however large.

A resent request is not run twice, because it has the same number; its reply is
kept with the notes until it has been received.

On a plain link there are calls only, and the codec tells which message answers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

import msgspec

from ..errors import DecodeError, NoSession, OptionError, Refused, Undelivered
from ..message import INDETERMINATE, WITHDRAWN, Malformed, Message, Outcome
from .frames import Cancel, Control, End, Fail, More, Part, Req, breach
from .lanes import Entry
from .ledger import ACK_SHARE, Bounds, Slot
from .numbered import Numbered

__all__ = [
    "AROUND_BYTES",
    "CALLS",
    "PARTS",
    "Ask",
    "Call",
    "ForeignAsk",
    "Inquiry",
    "RequestQueue",
    "Requests",
]

#: Requests of one side without a final frame.
CALLS: Final = 1024

#: Parts of one exchange that may have arrived and not been taken.
PARTS: Final = Bounds(256, 256 << 10)

_NO_PARTS: Final = Bounds(0, 0)

#: What an answer has around its envelope or words: its kind and its number.
AROUND_BYTES: Final = 64

#: What a refusal may have of code and text, as characters, and how many bytes one
#: of them takes in JSON at most.
WORDS: Final = 1000
_BYTES_OF_CHARACTER: Final = 6

Decode = Callable[[str | bytes], Iterable[Message[Any]]]


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

    def __init__(self, requests: Requests, id: int, parts: Bounds) -> None:
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
        if not _has_room(self._limits, waiting, waiting_bytes, size):
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

    def __init__(self, requests: Requests, frame: Req, message: Message[Any], slot: Slot) -> None:
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
        return _has_room(self._limits, waiting, self._sent_bytes - self._taken_bytes, size)

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


class Requests:
    """All of one side. `malformed` is told of requests that cannot be read."""

    def __init__(self, decode: Decode, malformed: Callable[[Malformed], None]) -> None:
        self._decode = decode
        self._malformed = malformed
        self._numbered: Numbered | None = None
        self._calls: dict[int, Call] = {}
        self._ids = 0
        #: Calls on a plain link, by the id that the codec finds in a reply.
        self.foreign: dict[str, Call] = {}
        self._inquiries: dict[int, Inquiry] = {}
        # For each final frame that the other side may not have: how many were
        # numbered before it.
        self._finals: deque[int] = deque()
        self._queues: list[RequestQueue] = []
        #: Inquiries that came before anybody served; None from then on.
        self._held: list[Inquiry] | None = []
        self._ended = False
        #: Called when a call has ended.
        self.freed: Callable[[], None] = _nothing

    # Our own

    @property
    def is_full(self) -> bool:
        """Whether a call has to wait until another has ended."""
        return len(self._calls) >= CALLS

    def call(self, parts: Bounds) -> Call:
        """A new call; `parts` is what may come of them at first."""
        self._ids += 1
        call = Call(self, self._ids, parts)
        self._calls[call.id] = call
        return call

    def expect(self, id: str, call: Call) -> None:
        """The message that the codec correlates with `id` is the reply."""
        self.foreign[id] = call

    def correlated(self, message: Message[Any], id: str | None, now: float) -> bool:
        """Whether `message` is the reply to a call of ours."""
        call = None if id is None else self.foreign.get(id)
        if call is None:
            return False
        call.finish(_received(message, now), None)
        return True

    def drop(self, call: Call) -> None:
        """Its request was not accepted."""
        call.abandon()
        self.settled(call)

    def cancel(self, call: Call) -> None:
        """Nobody waits for `call` any more; its request is committed."""
        call.abandon()
        if call.ask.needs_session:
            self.note(Cancel(call.id))
        else:
            self.settled(call)

    def settled(self, call: Call) -> None:
        """`call` has ended."""
        if self._calls.pop(call.id, None) is not None:
            if self.foreign:
                for id in [id for id, other in self.foreign.items() if other is call]:
                    del self.foreign[id]
            self.freed()

    def note(self, frame: Control) -> None:
        if self._numbered is not None:
            self._numbered.note(frame)

    # The other side's

    def serve(self, types: frozenset[str] | None, *, hold: bool = False) -> RequestQueue:
        """A queue for inquiries of these types. Raises `OptionError` where one has them.

        `hold`: those that were held wait on, until `hand_out`.
        """
        for other in self._queues:
            if other.types == types or (types or set()) & (other.types or set()):
                raise OptionError("types", "must not be served already", types)
        queue = RequestQueue(types)
        queue.ended = self._ended
        self._queues.append(queue)
        if not hold:
            self.hand_out()
        return queue

    def hand_out(self) -> None:
        """From now on, who is served by nobody is refused."""
        held, self._held = self._held or (), None
        for inquiry in held:
            self._hand_out(inquiry)

    def stop_serving(self, queue: RequestQueue) -> None:
        """Take `queue` away; what it has is refused."""
        self._queues.remove(queue)
        for inquiry in list(queue.inquiries):
            inquiry.fail("stopped", "nobody serves this type any more")
        queue.inquiries.clear()

    def answer(self, inquiry: Inquiry, frame: Control) -> None:
        """Send what belongs to `inquiry`, unless its session is lost."""
        if self._inquiries.get(inquiry.id) is inquiry:
            self.note(frame)

    def answered(self, inquiry: Inquiry) -> None:
        if self._inquiries.get(inquiry.id) is inquiry:
            del self._inquiries[inquiry.id]
            self._note_final()

    def refusal(self, id: int, code: str, text: str) -> Fail:
        """What says that there will be no reply, in words that the other side takes."""
        most = WORDS
        if self._numbered is not None:
            room = self._numbered.peer_message_bytes - AROUND_BYTES
            most = min(most, room // _BYTES_OF_CHARACTER)
        code = _words(code, most)
        return Fail(id, code, _words(text, most - len(code)))

    def _note_final(self) -> None:
        if self._numbered is not None:
            self._finals.append(self._numbered.out.sent)

    @property
    def _unanswered(self) -> int:
        """The other side's requests whose final frame it surely does not have."""
        assert self._numbered is not None
        finals, received = self._finals, self._numbered.out.received
        while finals and finals[0] < received:
            finals.popleft()
        return len(self._inquiries) + len(finals)

    # From the network

    def begin(self, numbered: Numbered) -> None:
        """A new session."""
        self._numbered = numbered
        numbered.on_control = self.handle

    def handle(self, frame: Control, slot: Slot | None, now: float) -> None:
        """Take in a frame that is a request, or belongs to one. Raises a breach."""
        match frame:
            case End(id=id, envelope=envelope):
                call = self._called(id)
                call.finish(self._read(bytes(envelope), now), None)
            case Part(id=id, envelope=envelope):
                data = bytes(envelope)
                self._called(id).arrive(self._read(data, now), len(data))
            case Req():
                assert slot is not None
                self._inquire(frame, slot, now)
            case Fail(id=id, code=code, text=text):
                self._called(id).finish(None, Refused(code, text))
            case Cancel(id=id):
                # It may have been answered, or its request withdrawn, meanwhile.
                if id in self._inquiries:
                    self._cancel(self._inquiries[id])
            case More(id=id):
                if id in self._inquiries:
                    self._inquiries[id].more(frame)

    def link_down(self) -> None:
        """The link is gone, and with a plain one the replies that were on their way."""
        for call in list(self.foreign.values()):
            if call.ask.outcome is not None:
                call.undelivered(INDETERMINATE)

    def lose(self) -> None:
        """The session is lost. Calls that are only queued stay."""
        self._numbered = None
        for call in [call for call in self._calls.values() if call.ask.number]:
            call.undelivered(INDETERMINATE)
        self._finals.clear()
        inquiries, self._inquiries = self._inquiries, {}
        for inquiry in inquiries.values():
            inquiry.lose()
        for queue in self._queues:
            queue.inquiries.clear()
        if self._held:
            self._held.clear()

    def end(self) -> None:
        """The connection is over."""
        self._ended = True
        for queue in self._queues:
            queue.ended = True
            queue.notify()

    def _called(self, id: int) -> Call:
        call = self._calls.get(id)
        if call is None or not call.ask.number:
            raise breach(f"an answer to the request {id}, which there is not")
        return call

    def _read(self, data: bytes, now: float) -> Message[Any]:
        try:
            (message,) = self._decode(data)
        except DecodeError as error:
            raise breach(f"an answer that cannot be read: {error.rule}") from error
        return _received(message, now)

    def _inquire(self, frame: Req, slot: Slot, now: float) -> None:
        if frame.id in self._inquiries:
            raise breach(f"the request {frame.id} twice")
        if self._unanswered >= CALLS:
            raise breach(f"more than {CALLS} requests")
        data = bytes(frame.envelope)
        try:
            (message,) = self._decode(data)
        except DecodeError as error:
            slot.release(taken=True)
            self._malformed(Malformed(data, error, now))
            self.note(self.refusal(frame.id, "malformed", error.rule))
            self._note_final()
            return
        message = _received(message, now)
        inquiry = Inquiry(self, frame, message, slot)
        self._inquiries[frame.id] = inquiry
        if self._held is not None:
            self._held.append(inquiry)
        else:
            self._hand_out(inquiry)

    def _hand_out(self, inquiry: Inquiry) -> None:
        named = wild = None
        for queue in self._queues:
            if queue.types is None:
                wild = queue
            elif inquiry.message.type in queue.types:
                named = queue
        queue_for_it = named or wild
        if queue_for_it is None:
            inquiry.fail("unserved", "nobody serves this type")
            return
        queue_for_it.inquiries.append(inquiry)
        queue_for_it.notify()

    def _cancel(self, inquiry: Inquiry) -> None:
        if inquiry.cancelled:
            return
        inquiry.cancel()
        for waiting in (self._held, *(queue.inquiries for queue in self._queues)):
            if waiting and inquiry in waiting:
                waiting.remove(inquiry)
                inquiry.fail("cancelled", "")
                return


def _has_room(limits: Bounds, waiting: int, waiting_bytes: int, size: int) -> bool:
    """Whether one more part may go while so much is not known to be taken."""
    return waiting < limits.messages and (
        waiting_bytes < max(1, limits.bytes // ACK_SHARE) or waiting_bytes + size <= limits.bytes
    )


def _words(text: str, most: int) -> str:
    """The beginning of `text`, as it can be encoded."""
    return text[: max(0, most)].encode(errors="replace").decode()


def _received(message: Message[Any], now: float) -> Message[Any]:
    # `msgspec.structs.replace` takes four times as long.
    return Message(
        message.type,
        message.payload,
        message.id,
        message.timestamp,
        message.priority,
        message.key,
        now,
    )


def _nothing() -> None:
    """Nobody is concerned."""

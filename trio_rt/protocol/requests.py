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

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..errors import DecodeError, OptionError, Refused
from ..message import INDETERMINATE, Malformed, Message
from .calls import Call
from .frames import Cancel, Control, End, Fail, More, Part, Req, breach
from .incoming import Slot
from .inquiries import Inquiry, RequestQueue
from .ledger import Bounds
from .numbered import Numbered

__all__ = ["AROUND_BYTES", "CALLS", "Requests"]

#: Requests of one side without a final frame.
CALLS: Final = 1024

#: What an answer has around its envelope or words: its kind and its number.
AROUND_BYTES: Final = 64

#: What a refusal may have of code and text, as characters, and how many bytes one
#: of them takes in JSON at most.
WORDS: Final = 1000
_BYTES_OF_CHARACTER: Final = 6

Decode = Callable[[str | bytes], Iterable[Message[Any]]]


class Requests:
    """All of one side. `malformed` is told of requests that cannot be read."""

    __slots__ = (
        "_calls",
        "_decode",
        "_ended",
        "_finals",
        "_held",
        "_ids",
        "_inquiries",
        "_malformed",
        "_numbered",
        "_queues",
        "foreign",
        "freed",
    )

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

    def correlated(
        self,
        message: Message[Any],
        correlate: Callable[[Message[Any]], str | None],
        now: float,
    ) -> bool:
        """Whether `message` is the reply to a call of ours. `correlate` is asked if there are any."""
        if not self.foreign:
            return False
        id = correlate(message)
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

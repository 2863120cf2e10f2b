"""Requests at both ends of a session: calls, inquiries, parts, and what no peer may do."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rt.errors import LinkClosed, NoSession, OptionError, Refused, Undelivered
from trio_rt.message import ACKED, INDETERMINATE, WITHDRAWN, Malformed, Message, Priority, dropped
from trio_rt.options import InboxLimits, OutboxLimits
from trio_rt.protocol.calls import Ask, Call, ForeignAsk
from trio_rt.protocol.codec import JsonCodec, Meta, MsgpackCodec
from trio_rt.protocol.frames import (
    JSON_SYNTAX,
    MSGPACK_SYNTAX,
    Cancel,
    Control,
    End,
    Fail,
    Header,
    More,
    Part,
    Req,
    Syntax,
)
from trio_rt.protocol.inquiries import PARTS, Inquiry, RequestQueue
from trio_rt.protocol.lanes import Entry
from trio_rt.protocol.ledger import Bounds
from trio_rt.protocol.numbered import Batch
from trio_rt.protocol.requests import AROUND_BYTES, CALLS, WORDS, Requests
from trio_rt.protocol.session import Session

CODECS: dict[Syntax, Any] = {JSON_SYNTAX: JsonCodec(), MSGPACK_SYNTAX: MsgpackCodec()}
NO_PARTS = Bounds(0, 0)


class Pair:
    """A client and a server with a link between them, and `now`."""

    def __init__(
        self,
        syntax: Syntax = JSON_SYNTAX,
        inbox: InboxLimits | None = None,
        outbox: OutboxLimits | None = None,
    ) -> None:
        self.syntax = syntax
        self.codec = CODECS[syntax]
        self.now = 0.0
        self._options = (outbox or OutboxLimits(), inbox or InboxLimits(), syntax)
        self.client = self._new_session()
        self.server = self._new_session()
        self._sessions = 1
        self.link()

    def _new_session(self) -> Session:
        return Session(self.codec.decode, *self._options)

    def link(self, *, anew: bool = False) -> None:
        """A link begins; `anew`: to a server that knows nothing."""
        if anew:
            self.server = self._new_session()
            self._sessions += 1
        hello = self.syntax.hello(as_read(self.client.hello()))
        self.welcome = self.server.welcome(hello, f"s{self._sessions}", "token")
        self.client.welcomed(as_read(self.welcome), None)
        self.client.link_up(self.now, 0)
        self.server.link_up(self.now, 0)

    def cut(self) -> None:
        """The link is gone, with all that is in flight."""
        self.client.link_down(self.now)
        self.server.link_down(self.now)

    def carry(self, sender: Session, *, lost: bool = False) -> bool:
        """What `sender` has to say now reaches the other side."""
        batches = [as_read(batch) for batch in sender.take(self.now) if isinstance(batch, Batch)]
        if batches and not lost:
            receiver = self.server if sender is self.client else self.client
            receiver.receive(batches, self.now)
            receiver.route()
        return bool(batches)

    def talk(self) -> None:
        """Carry until both are silent, acks that wait included."""
        for _ in range(3):
            while self.carry(self.client) | self.carry(self.server):
                pass
            for session in (self.client, self.server):
                session.ready_at(self.now)  # it sets the timer of an ack
            self.now += 1.0

    # What a program does

    def ask(
        self,
        type: str = "t",
        payload: Any = None,
        *,
        by: Session | None = None,
        parts: Bounds = NO_PARTS,
        deadline_ms: int | None = None,
    ) -> Call:
        asker = by or self.client
        call = asker.requests.call(parts)
        envelope = msgspec.Raw(self.envelope(type, payload))
        frame = Req(call.id, deadline_ms, (parts.messages, parts.bytes), None, envelope)
        data = self.syntax.encode(frame)
        call.ask = Ask(data, self.syntax.binary, call=call, session=asker)
        assert asker.offer(call.ask, self.now)
        return call

    def envelope(self, type: str = "t", payload: Any = None) -> bytes:
        data: bytes = self.codec.encode(type, payload, Meta("", None, Priority.NORMAL, None))
        return data

    def serve(self, *types: str, by: Session | None = None) -> RequestQueue:
        return (by or self.server).requests.serve(frozenset(types) or None)

    def read(self, message: Message[Any] | None) -> Any:
        assert message is not None
        return (msgspec.msgpack if self.syntax.binary else msgspec.json).decode(message.payload)

    def force(self, to: Session, *frames: Control | bytes) -> None:
        """Let `to` receive frames of a peer that does what it likes."""
        assert to.numbered is not None
        into, out = to.numbered.into, to.numbered.out
        # What it has said so far stays as it is.
        header = Header(
            into.received + 1,
            into._settled,
            out.received,
            out.settled,
            out._credit_messages,
            out._credit_bytes,
            [],
        )
        encoded = [each if isinstance(each, bytes) else self.syntax.encode(each) for each in frames]
        data = self.syntax.join(header, encoded)
        to.receive([data if self.syntax.binary else data.decode()], self.now)
        to.route()


def as_read(batch: Batch) -> str | bytes:
    return batch.data if batch.binary else batch.data.decode()


def next_of(queue: RequestQueue) -> Inquiry:
    """The next request, as a handler begins with it."""
    inquiry = queue.inquiries.popleft()
    inquiry.begin()
    return inquiry


def outcome_of(call: Call) -> Any:
    assert isinstance(call.failure, Undelivered)
    return call.failure.outcome


def books(*sessions: Session) -> list[bool]:
    """Whether nothing is left of any request, and every send is accounted for."""
    return [
        not session.requests._calls
        and not session.requests.foreign
        and not session.requests._inquiries
        and session.accepted == sum(session.outcomes.values()) + session.unsettled
        for session in sessions
    ]


@pytest.fixture(params=CODECS, ids=["json", "msgpack"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def unread(malformed: Malformed) -> None:
    raise AssertionError(malformed)


# A request and its reply


def test_reply(pair: Pair) -> None:
    """The reply reaches the call, once; nothing stays in the books of either side."""
    queue = pair.serve()
    call = pair.ask("add", [1, 2])
    woken: list[bool] = []
    call.wake = lambda: woken.append(call.over)
    pair.now = 7.0
    pair.talk()
    inquiry = next_of(queue)
    assert (inquiry.message.type, pair.read(inquiry.message)) == ("add", [1, 2])
    assert inquiry.message.received_at == 7.0
    assert (inquiry.deadline, inquiry.takes_parts) == (math.inf, False)
    inquiry.end(pair.envelope("add", 3))
    assert not call.over
    arrives_at = pair.now
    pair.talk()
    assert pair.read(call.reply) == 3
    assert call.reply is not None
    assert call.reply.received_at == arrives_at
    assert woken == [True]
    assert call.ask.outcome is ACKED
    assert books(pair.client, pair.server) == [True, True]


def test_only_one_answer_counts(pair: Pair) -> None:
    """What a handler's task says after the reply is not sent."""
    queue = pair.serve()
    call = pair.ask()
    pair.talk()
    inquiry = next_of(queue)
    inquiry.end(pair.envelope(payload=1))
    inquiry.end(pair.envelope(payload=2))
    inquiry.fail("stopped", "")
    inquiry.send_part(pair.envelope())
    pair.talk()
    assert pair.read(call.reply) == 1


def test_refusal(pair: Pair) -> None:
    """Code and text of a refusal reach the call."""
    queue = pair.serve()
    call = pair.ask()
    pair.talk()
    next_of(queue).fail("no", "not today")
    pair.talk()
    assert isinstance(call.failure, Refused)
    assert (call.failure.code, call.failure.text) == ("no", "not today")
    assert books(pair.client, pair.server) == [True, True]


@pytest.mark.parametrize("text", ["x" * 100_000, "\x00" * 5000, "\U0001f600" * 5000])
@pytest.mark.parametrize("message_bytes", [500, 1 << 20])
def test_a_refusal_is_never_too_large(text: str, message_bytes: int) -> None:
    """Of a long text so much arrives as the other side takes; the link stays."""
    pair = Pair(inbox=InboxLimits(message_bytes=message_bytes))
    queue = pair.serve()
    call = pair.ask()
    pair.talk()
    next_of(queue).fail("no", text)
    pair.talk()
    assert isinstance(call.failure, Refused)
    assert call.failure.code == "no"
    assert call.failure.text == text[: min(WORDS, (message_bytes - AROUND_BYTES) // 6) - 2]


def test_a_refusal_that_cannot_be_encoded(pair: Pair) -> None:
    """Half a surrogate pair becomes a question mark."""
    queue = pair.serve()
    call = pair.ask()
    pair.talk()
    next_of(queue).fail("\ud800", "a\udfff")
    pair.talk()
    assert isinstance(call.failure, Refused)
    assert (call.failure.code, call.failure.text) == ("?", "a?")


def test_a_request_that_cannot_be_read(pair: Pair) -> None:
    """It is refused as malformed, shown to who looks at such, and counts as consumed."""
    stream = pair.server.inbox.open_malformed()
    frame = Req(1, None, (0, 0), None, msgspec.Raw(pair.syntax._encode(5)))
    pair.force(pair.server, frame)
    assert isinstance(stream.take_many(9)[0], Malformed)
    assert pair.server.numbered is not None
    assert pair.server.numbered.into.consumed == 1
    batch = pair.server.take(pair.now)[0]
    assert isinstance(batch, Batch)
    (answer,) = pair.syntax.split(as_read(batch))[1]
    found = pair.syntax.control(answer)
    assert isinstance(found, Fail)
    assert (found.id, found.code) == (1, "malformed")


def test_both_directions_at_once(pair: Pair) -> None:
    """The ids of both sides are apart."""
    at_server, at_client = pair.serve(), pair.serve(by=pair.client)
    up = [pair.ask(payload=number) for number in range(5)]
    down = [pair.ask(payload=-number, by=pair.server) for number in range(5)]
    pair.talk()
    for queue in (at_client, at_server):
        while queue.inquiries:
            inquiry = next_of(queue)
            inquiry.end(pair.envelope(payload=pair.read(inquiry.message) * 10))
    pair.talk()
    assert [pair.read(call.reply) for call in up] == [0, 10, 20, 30, 40]
    assert [pair.read(call.reply) for call in down] == [0, -10, -20, -30, -40]


# Who serves


def test_types(pair: Pair) -> None:
    """A request goes to who has its type, else to who has all others, else it is refused."""
    named = pair.serve("a", "b")
    calls = [pair.ask(type) for type in "abc"]
    pair.talk()
    assert [inquiry.message.type for inquiry in named.inquiries] == ["a", "b"]
    assert isinstance(calls[2].failure, Refused)
    assert calls[2].failure.code == "unserved"
    wild = pair.serve()
    for type in "ac":
        pair.ask(type)
    pair.talk()
    assert [inquiry.message.type for inquiry in wild.inquiries] == ["c"]


@pytest.mark.parametrize(
    ("first", "second"), [(("a", "b"), ("b", "c")), ((), ()), (("a",), ("a",))]
)
def test_types_are_served_once(pair: Pair, first: tuple[str], second: tuple[str]) -> None:
    """Types that are served cannot be served again until that has stopped."""
    queue = pair.serve(*first)
    with pytest.raises(OptionError):
        pair.serve(*second)
    pair.server.requests.stop_serving(queue)
    pair.serve(*second)


def test_requests_wait_for_the_first_to_serve(pair: Pair) -> None:
    """They are held in the window; when handed out, the unserved ones are refused."""
    good, bad = pair.ask("good"), pair.ask("bad")
    pair.talk()
    assert not bad.over
    assert good.ask.outcome is None
    requests = pair.server.requests
    first = requests.serve(frozenset(["other"]), hold=True)
    second = requests.serve(frozenset(["good"]), hold=True)
    assert not first.inquiries
    requests.hand_out()
    assert len(second.inquiries) == 1
    pair.talk()
    assert isinstance(bad.failure, Refused)
    assert good.ask.outcome is None
    second.inquiries.popleft().begin()
    pair.talk()
    assert good.ask.outcome is ACKED


def test_stop_serving(pair: Pair) -> None:
    """What waits is refused as `stopped`."""
    queue = pair.serve()
    call = pair.ask()
    pair.talk()
    pair.server.requests.stop_serving(queue)
    pair.talk()
    assert isinstance(call.failure, Refused)
    assert call.failure.code == "stopped"
    assert books(pair.client, pair.server) == [True, True]


def test_deadline_counts_from_the_arrival(pair: Pair) -> None:
    """However long the request waits to be handled."""
    pair.now = 100.0
    pair.ask(deadline_ms=1500)
    pair.talk()
    pair.now = 200.0
    (inquiry,) = pair.serve().inquiries
    assert inquiry.deadline == 101.5


# Cancelling


def test_cancelled_while_queued(pair: Pair) -> None:
    """It is withdrawn, and nothing is sent."""
    call = pair.ask()
    assert pair.client.withdraw(call.ask)
    assert call.ask.outcome is WITHDRAWN
    assert not pair.carry(pair.client)
    assert books(pair.client) == [True]


def test_cancelled_while_held_or_waiting(pair: Pair) -> None:
    """It is refused at once, and no handler sees it."""
    held, waiting = pair.ask("a"), pair.ask("a")
    pair.talk()
    pair.client.requests.cancel(held)
    pair.talk()
    assert isinstance(held.failure, Refused)
    assert held.failure.code == "cancelled"
    queue = pair.serve()
    assert len(queue.inquiries) == 1
    pair.client.requests.cancel(waiting)
    pair.talk()
    assert not queue.inquiries
    assert books(pair.client, pair.server) == [True, True]


def test_cancelled_while_handled(pair: Pair) -> None:
    """The handler is told; its answer still ends the request, and nobody is woken by it."""
    queue = pair.serve()
    call = pair.ask(parts=PARTS)
    call.wake = pytest.fail
    pair.talk()
    inquiry = next_of(queue)
    told: list[bool] = []
    inquiry.on_cancel = lambda: told.append(True)
    pair.client.requests.cancel(call)
    inquiry.send_part(pair.envelope())
    pair.talk()
    assert told == [True]
    assert inquiry.cancelled
    assert pair.client.requests._calls
    inquiry.fail("cancelled", "")
    pair.talk()
    assert call.take_part() is None
    assert books(pair.client, pair.server) == [True, True]


def test_cancelled_between_queue_and_handler(pair: Pair) -> None:
    """Who begins with it can see that nobody wants it."""
    queue = pair.serve()
    call = pair.ask()
    pair.talk()
    inquiry = next_of(queue)
    pair.client.requests.cancel(call)
    pair.talk()
    assert inquiry.cancelled
    assert not inquiry.finished


def test_cancelled_and_lost(pair: Pair) -> None:
    """A request that did not arrive and is not wanted any more goes as a void."""
    queue = pair.serve()
    call = pair.ask()
    assert pair.carry(pair.client, lost=True)
    assert not pair.client.withdraw(call.ask)
    pair.client.requests.cancel(call)
    pair.cut()
    pair.link()
    pair.talk()
    assert not queue.inquiries
    assert call.ask.outcome is WITHDRAWN
    assert books(pair.client, pair.server) == [True, True]


# Cut links


def test_a_resent_request_is_not_run_twice(pair: Pair) -> None:
    """It has arrived, and its ack not: the server knows its number."""
    queue = pair.serve()
    call = pair.ask()
    pair.carry(pair.client)
    pair.cut()
    pair.link()
    pair.talk()
    assert len(queue.inquiries) == 1
    next_of(queue).end(pair.envelope(payload="x"))
    assert pair.carry(pair.server, lost=True)
    pair.cut()
    pair.link()
    pair.talk()
    assert pair.read(call.reply) == "x"
    assert books(pair.client, pair.server) == [True, True]


def test_the_reply_is_kept_while_there_is_no_link(pair: Pair) -> None:
    queue = pair.serve()
    call = pair.ask(parts=PARTS)
    pair.talk()
    pair.cut()
    inquiry = next_of(queue)
    inquiry.send_part(pair.envelope(payload=1))
    inquiry.end(pair.envelope(payload=2))
    pair.link()
    pair.talk()
    assert pair.read(call.take_part()) == 1
    assert pair.read(call.reply) == 2


def test_session_lost(pair: Pair) -> None:
    """What was committed is indeterminate, answered or not; what was queued goes on."""
    queue = pair.serve()
    handled, arrived, lost = pair.ask(), pair.ask(), pair.ask()
    pair.talk()
    inquiry = next_of(queue)
    told: list[bool] = []
    inquiry.on_cancel = lambda: told.append(True)
    pair.talk()
    assert handled.ask.outcome is ACKED
    assert pair.carry(pair.client, lost=True) is False
    in_flight = pair.ask()
    assert pair.carry(pair.client, lost=True)
    old = pair.server
    pair.cut()
    queued = pair.ask()
    pair.link(anew=True)
    old.end()
    assert [outcome_of(call) for call in (handled, arrived, lost, in_flight)] == [INDETERMINATE] * 4
    assert told == [True]
    assert inquiry.finished
    assert not queue.inquiries
    assert queue.ended
    inquiry.end(pair.envelope())  # said into the void
    inquiry.send_part(pair.envelope())
    assert books(old) == [True]
    queue = pair.serve()
    pair.talk()
    next_of(queue).end(pair.envelope(payload="on"))
    pair.talk()
    assert pair.read(queued.reply) == "on"
    assert books(pair.client, pair.server) == [True, True]


def test_session_lost_while_held(pair: Pair) -> None:
    """Requests that nobody served yet are gone with their session."""
    pair.ask()
    pair.talk()
    pair.server.end()
    assert not pair.serve().inquiries


def test_the_end(pair: Pair) -> None:
    """What is queued comes to nothing, what is committed is indeterminate."""
    committed = pair.ask()
    pair.talk()
    queued = pair.ask()
    pair.client.end()
    assert outcome_of(committed) is INDETERMINATE
    assert outcome_of(queued) is dropped("closed")
    assert books(pair.client) == [True]
    assert pair.client.requests.serve(None).ended


def test_the_end_wakes_who_serves(pair: Pair) -> None:
    woken: list[bool] = []
    queue = pair.serve()
    queue.wake = lambda: woken.append(queue.ended)
    pair.server.end()
    assert woken == [True]


def test_no_session_on_the_link_that_comes() -> None:
    """What waits for a session is not sent on a plain link; who waits learns why."""
    pair = Pair()
    client = Session(JsonCodec().decode, OutboxLimits(), InboxLimits(), JSON_SYNTAX)
    early = pair.ask(by=client)
    assert not early.over
    client.begin_plain(None)
    client.link_up(0.0, 0)
    late = pair.ask(by=client)
    for call in (early, late):
        assert isinstance(call.failure, NoSession)
        assert call.ask.outcome is WITHDRAWN
    assert books(client) == [True]


def test_withdrawn_by_the_end_is_no_lack_of_a_session() -> None:
    """Where a connection is cancelled before it had a link."""
    pair = Pair()
    client = Session(JsonCodec().decode, OutboxLimits(), InboxLimits(), JSON_SYNTAX)
    call = pair.ask(by=client)
    client.lanes.clear(WITHDRAWN)
    assert outcome_of(call) is WITHDRAWN


# How many


def test_calls_are_counted_until_they_end(pair: Pair) -> None:
    """`freed` is called when one has ended, however."""
    pair = Pair(pair.syntax, outbox=OutboxLimits(messages=2 * CALLS))
    queue = pair.serve()
    requests = pair.client.requests
    freed: list[int] = []
    calls = [pair.ask() for _ in range(CALLS - 1)]
    assert not requests.is_full
    calls.append(pair.ask())
    assert requests.is_full
    requests.freed = lambda: freed.append(len(requests._calls))
    pair.client.withdraw(calls.pop().ask)
    assert freed == [CALLS - 1]
    assert not requests.is_full
    answered = 0
    while answered < CALLS - 1:
        pair.talk()
        while queue.inquiries:
            next_of(queue).end(pair.envelope())
            answered += 1
    pair.talk()
    assert freed == list(range(CALLS - 1, -1, -1))
    assert books(pair.client, pair.server) == [True, True]


def test_the_limit_holds_for_as_many_as_there_may_be(pair: Pair) -> None:
    """All 1,024 asked again and again, over links that die: no honest side is a breach."""
    queue = pair.serve()
    calls = []
    for turn in range(4 * CALLS):
        while not pair.client.requests.is_full and pair.client.lanes.total_bytes < 60_000:
            calls.append(pair.ask())
        pair.carry(pair.client, lost=turn % 50 == 49)
        for _ in range(min(turn % 7, len(queue.inquiries))):
            next_of(queue).end(pair.envelope())
        pair.carry(pair.server, lost=turn % 70 == 69)
        if turn % 50 == 49 or turn % 70 == 69:
            pair.cut()
            pair.link()
    assert sum(call.reply is not None for call in calls) > CALLS
    while any(not call.over for call in calls):
        pair.talk()
        while queue.inquiries:
            next_of(queue).end(pair.envelope())
    assert all(call.reply is not None for call in calls)


def fill_up(pair: Pair, count: int) -> None:
    """A peer that asks and never acks; each of its requests is taken at once."""
    queue = pair.serve()
    for id in range(1, count + 1):
        pair.force(pair.server, Req(id, None, (0, 0), None, msgspec.Raw(pair.envelope())))
        while queue.inquiries:
            next_of(queue).end(pair.envelope())
        pair.server.take(pair.now)


def test_replies_that_nobody_takes_are_bounded(pair: Pair) -> None:
    """Who asks on and on, and never says that a reply has arrived, breaks the protocol."""
    fill_up(pair, CALLS)
    with pytest.raises(LinkClosed, match="more than 1024 requests"):
        pair.force(pair.server, Req(9999, None, (0, 0), None, msgspec.Raw(pair.envelope())))


def test_refusals_that_nobody_takes_are_bounded(pair: Pair) -> None:
    """The same for requests that cannot be read, and for those that nobody serves."""
    pair.serve("other")
    bad = msgspec.Raw(pair.syntax._encode(5))
    for id in range(1, CALLS + 1):
        envelope = bad if id % 2 else msgspec.Raw(pair.envelope())
        pair.force(pair.server, Req(id, None, (0, 0), None, envelope))
    with pytest.raises(LinkClosed, match="more than 1024 requests"):
        pair.force(pair.server, Req(9999, None, (0, 0), None, bad))


def test_answers_of_a_lost_session_count_no_more(pair: Pair) -> None:
    """What was said in it, and never heard, is no debt in the next one."""
    queue = pair.serve(by=pair.client)
    for _ in range(200):
        pair.ask(by=pair.server)
    pair.carry(pair.server)
    while queue.inquiries:
        next_of(queue).end(pair.envelope())
    assert pair.carry(pair.client, lost=True)
    pair.cut()
    pair.link(anew=True)
    assert pair.client.requests._unanswered == 0
    call = pair.ask(by=pair.server)
    pair.carry(pair.server)
    assert pair.client.requests._unanswered == 1
    next_of(queue).end(pair.envelope(payload=1))
    pair.talk()
    assert pair.read(call.reply) == 1


# Parts


def test_parts_and_last_part(pair: Pair) -> None:
    queue = pair.serve()
    call = pair.ask(parts=PARTS)
    pair.talk()
    inquiry = next_of(queue)
    assert inquiry.takes_parts
    for number in range(3):
        inquiry.send_part(pair.envelope(payload=number))
    pair.talk()
    assert [pair.read(call.take_part()) for _ in range(3)] == [0, 1, 2]
    assert call.take_part() is None
    inquiry.send_part(pair.envelope(payload=3))
    inquiry.end(pair.envelope(payload=4))
    pair.talk()
    assert pair.read(call.take_part()) == 3
    assert pair.read(call.reply) == 4


def test_no_credit_is_given_behind_the_end(pair: Pair) -> None:
    """Nobody sends parts any more."""
    queue = pair.serve()
    call = pair.ask(parts=PARTS)
    pair.talk()
    inquiry = next_of(queue)
    for _ in range(PARTS.messages):
        inquiry.send_part(pair.envelope())
    inquiry.end(pair.envelope())
    pair.talk()
    while call.take_part() is not None:
        pass
    assert not pair.carry(pair.client)


def waiting_of(call: Call) -> tuple[int, int]:
    return len(call._parts), call._waiting_bytes


def test_parts_that_nobody_takes_hold_the_handler_back(pair: Pair) -> None:
    """By number, and by bytes; as soon as a quarter is taken there is credit for it."""
    queue = pair.serve()
    for size, most in ((1, PARTS.messages), (20_000, PARTS.bytes // 20_000)):
        call = pair.ask(parts=PARTS)
        pair.talk()
        inquiry = next_of(queue)
        envelope = pair.envelope(payload="x" * size)
        sent = 0

        def send(inquiry: Inquiry = inquiry, envelope: bytes = envelope) -> int:
            count = 0
            while inquiry.has_credit(len(envelope)):
                inquiry.send_part(envelope)
                count += 1
            pair.talk()
            return count

        sent = send()
        assert most - 1 <= sent <= most
        assert waiting_of(call) == (sent, sent * len(envelope))
        woken: list[bool] = []
        inquiry.wake = lambda woken=woken: woken.append(True)
        quarter = math.ceil(min(PARTS.messages / 4, PARTS.bytes / 4 / len(envelope)))
        for _ in range(quarter - 1):
            call.take_part()
        pair.talk()
        assert (woken, send()) == ([], 0)
        call.take_part()
        pair.talk()
        assert woken == [True]
        assert send() == quarter
        assert waiting_of(call)[0] <= PARTS.messages
        assert waiting_of(call)[1] <= PARTS.bytes
        inquiry.end(envelope)


@pytest.mark.parametrize("before", [0, 1, 63])
def test_a_large_part_goes_when_nothing_waits(pair: Pair, before: int) -> None:
    """Also behind small ones that were taken and not told, or it would wait for ever."""
    queue = pair.serve()
    call = pair.ask(parts=PARTS)
    pair.talk()
    inquiry = next_of(queue)
    for _ in range(before):
        inquiry.send_part(pair.envelope(payload="x" * 900))
    pair.talk()
    for _ in range(before):
        assert call.take_part() is not None
    pair.talk()
    large = pair.envelope(payload="x" * 400_000)
    assert inquiry.has_credit(len(large))
    inquiry.send_part(large)
    assert not inquiry.has_credit(1)
    pair.talk()
    assert call.take_part() is not None
    pair.talk()
    assert inquiry.has_credit(len(large))


def test_a_large_part_waits_for_those_before_it(pair: Pair) -> None:
    queue = pair.serve()
    pair.ask(parts=PARTS)
    pair.talk()
    inquiry = next_of(queue)
    for _ in range(3):
        inquiry.send_part(pair.envelope(payload="x" * 30_000))
    assert not inquiry.has_credit(400_000)
    assert inquiry.has_credit(100_000)


@pytest.mark.parametrize("parts", [(10**15, 10**15), (10**15, 1), (1, 10**15), (1, 1), (2, 0)])
def test_credit_beyond_measure_is_cut(pair: Pair, parts: tuple[int, int]) -> None:
    """Who asks for any number of parts gets no more kept for it than others."""
    queue = pair.serve()
    pair.force(pair.server, Req(1, None, parts, None, msgspec.Raw(pair.envelope())))
    inquiry = next_of(queue)
    envelope = pair.envelope(payload="x" * 50)
    sent = 0
    while inquiry.has_credit(len(envelope)):
        inquiry.send_part(envelope)
        sent += 1
    assert sent == min(PARTS.messages, parts[0], max(1, parts[1] // len(envelope)))


def test_parts_for_who_left_cost_nothing(pair: Pair) -> None:
    """What arrives for a cancelled exchange is dropped, and is no breach."""
    queue = pair.serve()
    call = pair.ask(parts=PARTS)
    pair.talk()
    inquiry = next_of(queue)
    large = pair.envelope(payload="x" * 50_000)
    for _ in range(4):
        inquiry.send_part(large)
    pair.talk()
    call.take_part()
    pair.client.requests.cancel(call)
    inquiry.send_part(large)
    while inquiry.has_credit(1000):
        inquiry.send_part(pair.envelope())
    inquiry.end(pair.envelope())
    pair.talk()
    assert call.take_part() is None
    assert books(pair.client, pair.server) == [True, True]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_parts_over_any_links(data: st.DataObject) -> None:
    """Parts of any size, taken at any time, over links that die anywhere: each once, in
    order; never more waits than the credit says; and nobody waits for ever."""
    pair = Pair(data.draw(st.sampled_from(list(CODECS))))
    queue = pair.serve()
    call = pair.ask(parts=PARTS)
    pair.talk()
    inquiry = next_of(queue)
    sizes = iter(data.draw(st.lists(st.sampled_from([1, 300, 70_000, 190_000, 500_000]))))
    size = next(sizes, None)
    sent: list[int] = []
    got: list[int] = []
    steps = ["send", "take", "up", "down", "lose up", "lose down", "cut"]
    rest = iter(data.draw(st.lists(st.sampled_from(steps), max_size=200)))

    def send() -> None:
        nonlocal size
        if size is not None:
            envelope = pair.envelope(payload=[len(sent), "x" * size])
            if inquiry.has_credit(len(envelope)):
                inquiry.send_part(envelope)
                sent.append(len(sent))
                size = next(sizes, None)

    def take() -> None:
        count, waiting = waiting_of(call)
        assert count <= PARTS.messages
        assert waiting <= PARTS.bytes or waiting <= PARTS.bytes // 4 + 500_100
        part = call.take_part()
        if part is not None:
            got.append(pair.read(part)[0])

    for step in rest:
        match step:
            case "send":
                send()
            case "take":
                take()
            case "cut":
                pair.cut()
                pair.link()
            case _:
                sender = pair.client if step.endswith("up") else pair.server
                if pair.carry(sender, lost=step.startswith("lose")) and step.startswith("lose"):
                    pair.cut()
                    pair.link()
    for _ in range(1000):
        if size is None and got == sent:
            break
        send()
        pair.talk()
        take()
    assert size is None
    assert got == sent == list(range(len(sent)))


# Full windows


def fill(pair: Pair, sender: Session) -> None:
    """Messages that nobody takes, until no more fit into the window."""
    while sender.offer(Entry(pair.envelope("event"), pair.syntax.binary), pair.now):
        pass
    pair.talk()
    assert sender.numbered is not None
    assert sender.numbered.room()[0] == 0


def test_answers_flow_past_full_windows(pair: Pair) -> None:
    """Replies, parts, credit and cancels need no room in a window that nobody empties."""
    at_server, at_client = pair.serve(), pair.serve(by=pair.client)
    sides = [(pair.client, at_server), (pair.server, at_client)]
    kinds = [(asker, queue, pair.ask(by=asker, parts=PARTS)) for asker, queue in sides * 2]
    pair.talk()
    inquiries = [next_of(queue) for _, queue, _ in kinds]
    pair.talk()
    fill(pair, pair.client)
    fill(pair, pair.server)
    for (asker, _, call), inquiry in list(zip(kinds, inquiries, strict=True))[:2]:
        total = 0
        for _ in range(20):
            while inquiry.has_credit(100):
                inquiry.send_part(pair.envelope(payload=total))
                total += 1
            pair.talk()
            while call.take_part() is not None:
                pass
            pair.talk()
        assert total > 4 * PARTS.messages
        inquiry.end(pair.envelope(payload="done"))
        pair.talk()
        assert pair.read(call.reply) == "done"
        assert asker.numbered is not None
    for (asker, _, call), inquiry in list(zip(kinds, inquiries, strict=True))[2:]:
        asker.requests.cancel(call)
        pair.talk()
        assert inquiry.cancelled
        inquiry.fail("cancelled", "")
        pair.talk()
        assert isinstance(call.failure, Refused)
    assert books(pair.client, pair.server) == [True, True]


def test_a_request_takes_room_until_a_handler_begins(pair: Pair) -> None:
    """Requests that nobody handles are bounded by the window, as messages are."""
    pair = Pair(pair.syntax, inbox=InboxLimits(messages=4))
    queue = pair.serve()
    for _ in range(10):
        pair.ask()
    pair.talk()
    assert len(queue.inquiries) == 4
    next_of(queue)
    pair.talk()
    assert len(queue.inquiries) == 4


# What no peer may do

RAW = b'{"type":"t"}'
BAD = msgspec.Raw(b"5")


def requested(pair: Pair, parts: Bounds = NO_PARTS) -> Call:
    """A call whose request the other side has, and which it has not answered."""
    call = pair.ask(parts=parts)
    pair.talk()
    return call


@pytest.mark.parametrize(
    "frame",
    [
        Part(2, msgspec.Raw(RAW)),
        End(2, msgspec.Raw(RAW)),
        Fail(2, "no", ""),
        Part(1, msgspec.Raw(RAW)),  # asked for no parts
        End(1, BAD),
        End(0, msgspec.Raw(RAW)),
    ],
    ids=lambda frame: f"{type(frame).__name__}-{frame.id}",
)
def test_answers_that_cannot_be(frame: Control) -> None:
    """To a request that there is not, that takes no parts, or that cannot be read."""
    pair = Pair()
    call = requested(pair)
    with pytest.raises(LinkClosed) as caught:
        pair.force(pair.client, frame)
    assert (caught.value.code, caught.value.by_peer) == (1002, False)
    pair.cut()
    assert outcome_of(call) is INDETERMINATE
    assert pair.client.numbered is None


def test_a_second_answer(pair: Pair) -> None:
    """A request has one."""
    requested(pair)
    pair.force(pair.client, Fail(1, "no", ""))
    with pytest.raises(LinkClosed):
        pair.force(pair.client, Fail(1, "no", ""))


def test_an_answer_before_the_request_is_sent() -> None:
    """One that waits in the outbox cannot be answered."""
    pair = Pair()
    pair.ask()
    with pytest.raises(LinkClosed):
        pair.force(pair.client, Fail(1, "no", ""))


def test_a_part_that_cannot_be_read() -> None:
    pair = Pair()
    requested(pair, PARTS)
    with pytest.raises(LinkClosed, match="cannot be read"):
        pair.force(pair.client, Part(1, BAD))


@pytest.mark.parametrize("size", [10, 50_000])
def test_more_parts_than_credit(pair: Pair, size: int) -> None:
    """One part beyond the credit is one too many, also with some taken and not told."""
    call = requested(pair, PARTS)
    envelope = pair.envelope(payload="x" * size)
    part = Part(1, msgspec.Raw(envelope))
    fitting = min(PARTS.messages, PARTS.bytes // len(envelope))
    for _ in range(fitting):
        pair.force(pair.client, part)
    call.take_part()
    with pytest.raises(LinkClosed, match="more parts"):
        pair.force(pair.client, part)


def test_parts_without_credit_after_leaving(pair: Pair) -> None:
    """The credit of who left is not renewed, and what comes is not kept."""
    call = requested(pair, PARTS)
    pair.client.requests.cancel(call)
    for _ in range(10):
        pair.force(pair.client, Part(1, msgspec.Raw(pair.envelope())))
    assert waiting_of(call) == (0, 0)


def request_frame(pair: Pair, id: int) -> Req:
    return Req(id, None, (5, 5000), None, msgspec.Raw(pair.envelope()))


def test_a_request_twice(pair: Pair) -> None:
    pair.serve()
    pair.force(pair.server, request_frame(pair, 7))
    with pytest.raises(LinkClosed, match="7 twice"):
        pair.force(pair.server, request_frame(pair, 7))


def test_too_many_requests() -> None:
    """1,024 may be open, whoever handles them; the next one is a breach."""
    pair = Pair(inbox=InboxLimits(messages=5000), outbox=OutboxLimits(messages=5000))
    queue = pair.serve()
    for id in range(CALLS):
        pair.force(pair.server, request_frame(pair, id))
        next_of(queue)
    with pytest.raises(LinkClosed, match="more than 1024 requests"):
        pair.force(pair.server, request_frame(pair, CALLS))


@pytest.mark.parametrize("parts", [(3, 0), (2, 10**6), (0, 0)], ids=repr)
def test_more_than_was_sent(pair: Pair, parts: tuple[int, int]) -> None:
    """Credit for what was not sent, or less than before."""
    queue = pair.serve()
    pair.force(pair.server, request_frame(pair, 1))
    inquiry = next_of(queue)
    for _ in range(2):
        inquiry.send_part(pair.envelope())
    pair.force(pair.server, More(1, (1, 10)))
    with pytest.raises(LinkClosed, match="more parts taken"):
        pair.force(pair.server, More(1, parts))


def test_what_may_come_too_late(pair: Pair) -> None:
    """Cancels and credit for a request that has been answered, or never came."""
    queue = pair.serve()
    call = requested(pair)
    next_of(queue).end(pair.envelope(payload=1))
    pair.talk()
    assert pair.read(call.reply) == 1
    for id in (1, 5):
        pair.force(pair.server, Cancel(id), More(id, (10**9, 10**9)))
    assert books(pair.server) == [True]


def test_a_breach_ends_the_session(pair: Pair) -> None:
    """At the server too; its handlers are told that nobody waits."""
    queue = pair.serve()
    pair.force(pair.server, request_frame(pair, 1))
    inquiry = next_of(queue)
    with pytest.raises(LinkClosed):
        pair.force(pair.server, Fail(1, "no", ""))
    pair.cut()
    assert inquiry.cancelled
    assert pair.server.numbered is None
    assert books(pair.server) == [True]


# A codec that correlates


def foreign_session() -> Session:
    def correlate(message: Message[Any]) -> str | None:
        return message.id or None

    return Session(JsonCodec().decode, OutboxLimits(), InboxLimits(), correlate=correlate)


def ask_foreign(session: Session, id: str) -> Call:
    call = session.requests.call(NO_PARTS)
    session.expect(id, call)
    call.ask = ForeignAsk(b"{}", call=call, session=session)
    assert session.offer(call.ask, 0.0)
    return call


def answer_foreign(session: Session, **fields: Any) -> None:
    session.receive([json.dumps({"type": "t", **fields})], 5.0)
    session.route()


def test_foreign_reply() -> None:
    """The message with its id is the reply; others go to the streams."""
    session = foreign_session()
    session.link_up(0.0, 0)
    stream = session.inbox.open(None, reader=bytes, capacity=9, on_full="pause")
    first, second = ask_foreign(session, "1"), ask_foreign(session, "2")
    session.take(0.0)
    session.written(2)
    assert not first.over
    answer_foreign(session, id="2", payload=22)
    answer_foreign(session, id="3", payload=33)
    answer_foreign(session, payload=44)
    assert second.reply is not None
    assert bytes(second.reply.payload) == b"22"
    assert second.reply.received_at == 5.0
    assert not first.over
    answer_foreign(session, id="2", payload=55)  # again: it answers nothing any more
    items = [item.payload for item in stream.take_many(9) if isinstance(item, Message)]
    assert items == [b"33", b"44", b"55"]
    session.requests.cancel(first)
    assert books(session) == [True]


def test_foreign_link_lost() -> None:
    """Written or in flight: indeterminate; queued ones go out on the next link."""
    session = foreign_session()
    session.link_up(0.0, 0)
    written = ask_foreign(session, "1")
    session.take(0.0)
    session.written(1)
    flying = ask_foreign(session, "2")
    session.take(0.0)
    queued = ask_foreign(session, "3")
    session.link_down(1.0)
    assert outcome_of(written) is outcome_of(flying) is INDETERMINATE
    assert not queued.over
    session.begin_plain(None)
    session.link_up(2.0, 0)
    session.take(2.0)
    answer_foreign(session, id="3")
    assert queued.reply is not None
    assert books(session) == [True]


def test_foreign_withdrawn_is_no_lack_of_a_session() -> None:
    session = foreign_session()
    call = ask_foreign(session, "1")
    session.lanes.clear(WITHDRAWN)
    assert outcome_of(call) is WITHDRAWN


# The rest


def test_an_ask_that_was_not_accepted_is_let_go() -> None:
    """The collector does not look into entries: nothing may be held by one."""
    pair = Pair()
    call = pair.client.requests.call(NO_PARTS)
    call.ask = Ask(b"", call=call, session=pair.client)
    call.ask.disown()
    pair.client.requests.drop(call)
    gone = weakref.ref(call)
    del call
    gc.collect()
    assert gone() is None
    assert books(pair.client) == [True]


def test_an_ask_is_settled_once() -> None:
    """The first outcome stays, and only a bad one ends the call."""
    pair = Pair()
    call = requested(pair)
    call.ask.settle(ACKED)
    call.ask.settle(INDETERMINATE)
    assert call.ask.outcome is ACKED
    assert not call.over


def test_drop() -> None:
    """A call whose request was not accepted frees its place."""
    requests = Requests(JsonCodec().decode, unread)
    call = requests.call(NO_PARTS)
    counts: Counter[str] = Counter()
    requests.freed = lambda: counts.update(["freed"])
    requests.drop(call)
    requests.drop(call)
    assert counts == {"freed": 1}


def test_ids_are_unique(pair: Pair) -> None:
    """Also over a session that is lost."""
    queue = pair.serve()
    ids = [requested(pair).id for _ in range(3)]
    queue.inquiries.clear()
    pair.cut()
    pair.link(anew=True)
    ids += [requested(pair).id for _ in range(3)]
    assert len(set(ids)) == 6


def test_notes_without_a_session_go_nowhere() -> None:
    """Cancelling what was never in a session."""
    requests = Requests(JsonCodec().decode, unread)
    requests.note(Cancel(1))
    assert requests.refusal(1, "no", "x" * 5000).text == "x" * (WORDS - 2)

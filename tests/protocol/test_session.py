"""The session over plain links: what is committed, what became of it, and what arrives."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rt.errors import DecodeError
from trio_rt.message import (
    INDETERMINATE,
    WITHDRAWN,
    WRITTEN,
    Gap,
    Malformed,
    Message,
    Outcome,
    Priority,
    Reset,
    dropped,
)
from trio_rt.options import InboxLimits, OutboxLimits
from trio_rt.protocol.arrivals import Decode
from trio_rt.protocol.codec import decode_raw
from trio_rt.protocol.lanes import BATCH_BYTES, Entry
from trio_rt.protocol.plain import Heartbeat, size_bytes
from trio_rt.protocol.queues import Queue
from trio_rt.protocol.session import Session

LOW, NORMAL, HIGH, CRITICAL = Priority


class Send(Entry):
    """An entry that cannot be settled twice."""

    def settle(self, outcome: Outcome) -> None:
        assert self.outcome is None, "settled twice"
        super().settle(outcome)


def new_session(
    *,
    decode: Decode = decode_raw,
    messages: float = 1000,
    total_bytes: float = math.inf,
    rate_per_s: float = math.inf,
    inbox: InboxLimits | None = None,
) -> Session:
    outbox = OutboxLimits(messages=messages, total_bytes=total_bytes, rate_per_s=rate_per_s)
    return Session(decode, outbox, inbox or InboxLimits())


def linked_session(**options: Any) -> Session:
    session = new_session(**options)
    session.link_up(0.0, 0)
    return session


def offered(session: Session, *entries: Send) -> tuple[Send, ...]:
    for entry in entries:
        assert session.offer(entry, 0.0)
    return entries


def batch_of(session: Session, now: float) -> list[Entry]:
    """What is to be sent next on a plain link: the messages as they are."""
    batch = session.take(now)
    entries = [each for each in batch if isinstance(each, Entry)]
    assert len(entries) == len(batch)
    return entries


def send_directly(session: Session, entry: Send, written: int, now: float) -> None:
    assert session.try_commit(entry) is entry
    session.confirm(entry, written, now)


def text(entries: Iterable[Entry]) -> str:
    return " ".join(entry.data.decode() for entry in entries)


def open_queue(session: Session, capacity: float | None = None) -> Queue:
    return session.inbox.open(
        None, reader=lambda payload: payload, capacity=capacity, on_full="pause"
    )


def drained(queue: Queue) -> list[object]:
    items = queue.take_many(1000)
    return [item.payload if isinstance(item, Message) else item for item in items]


# The books


def test_offer_without_room() -> None:
    """What finds no room is not accepted, and nothing has changed."""
    session = new_session(messages=1)
    offered(session, Send(b"a"))
    assert not session.offer(Send(b"b"), 0.0)
    assert session.accepted == 1
    assert session.unsettled == 1
    assert not session.outcomes


def test_reject() -> None:
    """A rejected send is accepted and settled in one step."""
    session = new_session()
    entry = Send(b"a")
    session.reject(entry, dropped("expired"))
    assert entry.outcome is dropped("expired")
    assert session.accepted == 1
    assert session.unsettled == 0
    assert session.outcomes == {dropped("expired"): 1}


def test_withdraw() -> None:
    """Before it is committed a message can be taken back, and only once."""
    session = linked_session()
    first, second = offered(session, Send(b"first"), Send(b"second"))
    assert session.withdraw(first)
    assert first.outcome is WITHDRAWN
    assert not session.withdraw(first)
    assert text(batch_of(session, 0.0)) == "second"
    assert not session.withdraw(second)
    assert second.outcome is None
    session.written(1)
    assert not session.withdraw(second)
    assert session.outcomes == {WITHDRAWN: 1, WRITTEN: 1}


def test_drop_ephemeral() -> None:
    """Ephemeral messages that wait are dropped as `offline`; the others stay."""
    session = new_session()
    typing, kept = offered(session, Send(b"typing", ephemeral=True), Send(b"kept"))
    session.drop_ephemeral()
    assert typing.outcome is dropped("offline")
    assert kept.outcome is None
    assert text(batch_of(session, 0.0)) == "kept"


def test_expired_message_is_never_taken() -> None:
    """The time to live is looked at when a message is committed."""
    session = linked_session()
    late, good = offered(session, Send(b"late", expires_at=5.0), Send(b"good", expires_at=5.1))
    assert text(batch_of(session, 5.0)) == "good"
    assert late.outcome is dropped("expired")
    assert good.outcome is None
    assert session.outcomes == {dropped("expired"): 1}


def test_end() -> None:
    """At the end what is queued is dropped as `closed`, and the streams end after their items."""
    session = linked_session()
    queue = open_queue(session)
    (entry,) = offered(session, Send(b"a"))
    session.receive(["last"], 0.0)
    session.link_down(1.0)
    session.end()
    assert entry.outcome is dropped("closed")
    assert session.unsettled == 0
    assert drained(queue) == ["last"]
    assert queue.ended


def test_heartbeat_is_not_in_the_books() -> None:
    """A heartbeat is neither accepted nor unsettled nor among the outcomes."""
    session = linked_session()
    session.beat(Heartbeat(b"beat"))
    assert text(batch_of(session, 0.0)) == "beat"
    assert session.accepted == session.unsettled == 0
    session.written(1)
    session.beat(Heartbeat(b"beat"))
    session.take(0.0)
    session.link_down(1.0)
    assert session.accepted == session.unsettled == 0
    assert not session.outcomes


# What is committed


def test_commit_order() -> None:
    """The most urgent leave first, and in order within a priority."""
    session = linked_session()
    names = ["low", "n1", "high", "n2", "now"]
    priorities = [LOW, NORMAL, HIGH, NORMAL, CRITICAL]
    offered(
        session,
        *(Send(name.encode(), priority=each) for name, each in zip(names, priorities, strict=True)),
    )
    assert text(batch_of(session, 0.0)) == "now high n1 n2 low"


def test_heartbeat_goes_first() -> None:
    """A heartbeat goes before everything, and at most one waits."""
    session = linked_session()
    offered(session, Send(b"now", priority=CRITICAL))
    session.beat(Heartbeat(b"beat"))
    session.beat(Heartbeat(b"second"))
    assert text(batch_of(session, 0.0)) == "beat now"
    session.beat(Heartbeat(b"third"))
    assert text(batch_of(session, 0.0)) == "third"


def test_batch_bound() -> None:
    """A batch is filled to its bound in bytes, and not over it."""
    session = linked_session()
    half = bytes(BATCH_BYTES // 2)
    offered(session, Send(half), Send(half), Send(b"x"))
    assert [len(entry.data) for entry in batch_of(session, 0.0)] == [BATCH_BYTES // 2] * 2
    assert text(batch_of(session, 0.0)) == "x"
    assert batch_of(session, 0.0) == []


def test_large_message_goes_alone() -> None:
    """A message over the bound is a batch of its own, and no smaller one passes it."""
    session = linked_session()
    large = bytes(BATCH_BYTES + 1)
    offered(session, Send(b"a"), Send(large), Send(b"b"))
    assert [len(entry.data) for entry in batch_of(session, 0.0)] == [1]
    assert [len(entry.data) for entry in batch_of(session, 0.0)] == [BATCH_BYTES + 1]
    assert text(batch_of(session, 0.0)) == "b"


@given(st.lists(st.integers(0, BATCH_BYTES * 2), max_size=20))
def test_any_batch_is_bounded(sizes: list[int]) -> None:
    """Whatever is queued, every batch is within the bound or one message, and none is lost."""
    session = linked_session()
    offered(session, *(Send(bytes(size)) for size in sizes))
    taken: list[int] = []
    while batch := batch_of(session, 0.0):
        lengths = [len(entry.data) for entry in batch]
        assert sum(lengths) <= BATCH_BYTES or len(lengths) == 1
        taken += lengths
    assert taken == sizes


def test_ready_at() -> None:
    """There is something to take as soon as something is queued, and else never."""
    session = linked_session()
    assert session.ready_at(0.0) == math.inf
    session.beat(Heartbeat(b"beat"))
    assert session.ready_at(0.0) == -math.inf
    session.take(0.0)
    assert session.ready_at(0.0) == math.inf
    offered(session, Send(b"a"))
    assert session.ready_at(0.0) == -math.inf


def test_may_send_directly() -> None:
    """A send may go past the lanes only if nothing is queued or in flight."""
    session = linked_session()
    assert session.may_send_directly(Send(b"x"), 0.0)
    offered(session, Send(b"a"))
    assert not session.may_send_directly(Send(b"x"), 0.0)
    session.take(0.0)
    assert not session.may_send_directly(Send(b"x"), 0.0)
    session.written(1)
    assert session.may_send_directly(Send(b"x"), 0.0)


def test_heartbeat_in_flight_holds_direct_sends() -> None:
    """While a heartbeat is being written nothing may be written past it."""
    session = linked_session()
    session.beat(Heartbeat(b"beat"))
    session.take(0.0)
    assert not session.may_send_directly(Send(b"x"), 0.0)
    session.written(1)
    assert session.may_send_directly(Send(b"x"), 0.0)


# What became of it


def test_written_counts_exactly() -> None:
    """`written` settles in order, as many as the wire has gained since the link came up."""
    session = new_session()
    session.link_up(0.0, 3)  # the greeting's
    entries = offered(session, *(Send(b"x") for _ in range(4)))
    session.take(0.0)
    session.written(3)
    assert not session.outcomes
    session.written(5)
    assert [entry.outcome for entry in entries] == [WRITTEN, WRITTEN, None, None]
    session.written(5)
    assert session.outcomes == {WRITTEN: 2}
    session.written(7)
    assert session.outcomes == {WRITTEN: 4}
    assert session.unsettled == 0


def test_direct_send() -> None:
    """A direct send is accepted, and settled as far as the kernel has taken it."""
    session = linked_session()
    first, second = Send(b"first"), Send(b"second")
    send_directly(session, first, 1, 0.0)
    assert first.outcome is WRITTEN
    send_directly(session, second, 1, 0.0)
    assert second.outcome is None
    assert session.unsettled == 1
    session.written(2)
    assert second.outcome is WRITTEN
    assert session.accepted == 2
    assert session.outcomes == {WRITTEN: 2}


def test_link_dies_inside_a_batch() -> None:
    """What was in flight is `indeterminate` and is not sent again; what was queued is."""
    session = linked_session()
    sent, cut = offered(session, Send(b"sent"), Send(b"cut"))
    session.take(0.0)
    (queued,) = offered(session, Send(b"queued"))
    session.written(1)
    session.link_down(1.0)
    assert (sent.outcome, cut.outcome, queued.outcome) == (WRITTEN, INDETERMINATE, None)
    session.link_up(2.0, 0)
    assert text(batch_of(session, 2.0)) == "queued"
    session.written(1)
    assert queued.outcome is WRITTEN


def test_linked() -> None:
    """`linked` tells whether a link is up."""
    session = new_session()
    assert not session.linked
    session.link_up(0.0, 0)
    assert session.linked
    session.link_down(1.0)
    assert not session.linked


def test_heartbeat_does_not_outlive_its_link() -> None:
    """A heartbeat that waits when the link dies is forgotten."""
    session = linked_session()
    session.beat(Heartbeat(b"beat"))
    session.link_down(1.0)
    session.link_up(2.0, 0)
    assert batch_of(session, 2.0) == []
    assert session.ready_at(2.0) == math.inf


def test_time_offline_is_no_waiting() -> None:
    """After an outage of an hour an old LOW still does not pass a new HIGH."""
    session = linked_session()
    assert session.offer(Send(b"low", priority=LOW), 0.0)
    session.link_down(1.0)
    session.link_up(3601.0, 0)
    assert session.offer(Send(b"high", priority=HIGH), 3602.0)
    assert text(batch_of(session, 3602.0)) == "high low"


# The rate


def burst(rate_per_s: float) -> float:
    return max(1.0, rate_per_s / 10)


@given(
    rate_per_s=st.floats(0.1, 500),
    steps=st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=40),
)
def test_rate_in_any_window(rate_per_s: float, steps: list[tuple[float, bool]]) -> None:
    """In no window do more than rate x time + burst leave, by whichever way."""
    session = linked_session(rate_per_s=rate_per_s, messages=math.inf)
    now, left, written = 0.0, list[tuple[float, int]](), 0
    for pause_s, direct in steps:
        now += pause_s
        count = 0
        while direct and session.may_send_directly(Send(b"x"), now) and count <= rate_per_s + 2:
            written += 1
            count += 1
            send_directly(session, Send(b"x"), written, now)
        if not direct:
            for _ in range(int(burst(rate_per_s)) + 3):
                session.offer(Send(b"x"), now)
            count = len(batch_of(session, now))
            written += count
            session.written(written)
            session.lanes.clear(WITHDRAWN)
        left.append((now, count))
    for first, last in itertools.combinations_with_replacement(range(len(left)), 2):
        span_s = left[last][0] - left[first][0]
        sent = sum(count for _, count in left[first : last + 1])
        assert sent <= rate_per_s * span_s + burst(rate_per_s) + 1e-6


@pytest.mark.parametrize("rate_per_s", [0.5, 3.0, 10.0, 1000.0])
def test_rate_is_reached(rate_per_s: float) -> None:
    """Taken whenever it is ready, a full outbox leaves at the rate asked for."""
    session = linked_session(rate_per_s=rate_per_s, messages=math.inf)
    offered(session, *(Send(b"x") for _ in range(int(rate_per_s * 40))))
    now, left = 0.0, 0
    while now <= 20.0:
        batch = batch_of(session, now)
        assert batch, "ready, and yet nothing to take"
        left += len(batch)
        assert session.ready_at(now) > now
        now = session.ready_at(now)
    assert rate_per_s * 20.0 - 1 <= left <= rate_per_s * 20.0 + burst(rate_per_s) + 1


def test_burst() -> None:
    """After a pause a tenth of a second's worth may leave at once, but at least one."""
    fast = linked_session(rate_per_s=100)
    offered(fast, *(Send(b"x") for _ in range(50)))
    assert len(batch_of(fast, 100.0)) in (9, 10)  # a rounding error may cost one
    assert batch_of(fast, 100.0) == []
    assert 100.0 < fast.ready_at(100.0) < 100.0101
    slow = linked_session(rate_per_s=2)
    offered(slow, *(Send(b"x") for _ in range(50)))
    assert len(batch_of(slow, 100.0)) == 1
    assert slow.ready_at(100.0) == pytest.approx(100.5)


def test_heartbeat_costs_no_rate() -> None:
    """A heartbeat in a batch takes no message's turn."""
    session = linked_session(rate_per_s=2)
    offered(session, Send(b"a"), Send(b"b"))
    session.beat(Heartbeat(b"beat"))
    assert text(batch_of(session, 100.0)) == "beat a"
    assert session.ready_at(100.0) == pytest.approx(100.5)


def test_heartbeat_has_no_rate() -> None:
    """A heartbeat is sent even when the rate is used up."""
    session = linked_session(rate_per_s=1)
    offered(session, Send(b"a"), Send(b"b"))
    assert text(batch_of(session, 0.0)) == "a"
    session.beat(Heartbeat(b"beat"))
    assert session.ready_at(0.0) == -math.inf
    assert text(batch_of(session, 0.0)) == "beat"


def test_rate_holds_direct_sends() -> None:
    """A direct send is refused until the rate allows it."""
    session = linked_session(rate_per_s=2)
    send_directly(session, Send(b"a"), 1, 0.0)
    assert not session.may_send_directly(Send(b"x"), 0.49)
    assert session.may_send_directly(Send(b"x"), 0.5)


# What arrives


def test_size_is_bytes() -> None:
    """A size is what the text takes as UTF-8."""
    assert size_bytes("abc") == 3
    assert size_bytes("é") == 2
    assert size_bytes("\N{GRINNING FACE}") == 4
    assert size_bytes("é".encode()) == 2


def test_requests_that_are_first_asked_for_at_the_end() -> None:
    """Who begins to serve requests of a session that is over is told so."""
    session = new_session()
    session.end()
    assert session.requests.serve(None).ended


def test_what_one_text_brings_is_refused_in_its_midst() -> None:
    """A codec may find many messages in one text; those behind a refused one come after it."""

    def decode(data: str | bytes) -> list[Message[Any]]:
        return [Message("", each) for each in data]

    session = Session(decode, OutboxLimits(), InboxLimits())
    session.link_up(0.0, 0)
    queue = open_queue(session, capacity=2)
    session.receive(["abcd"], 0.0)
    session.receive(["e"], 0.0)
    assert not session.route()
    assert drained(queue) == ["a", "b"]
    assert not session.route()
    assert drained(queue) == ["c", "d"]
    assert session.route()
    assert drained(queue) == ["e"]


def test_inbox_is_bounded_in_bytes() -> None:
    """The bound of a stream counts bytes, not characters."""
    session = new_session(inbox=InboxLimits(total_bytes=10))
    queue = open_queue(session)
    session.receive(["éé", "éé", "é", "x"], 0.0)
    assert not session.route()
    assert drained(queue) == ["éé", "éé", "é"]
    assert session.route()
    assert drained(queue) == ["x"]


def test_received_counts_frames() -> None:
    """`received` counts WebSocket messages, also those that are no message."""
    session = new_session(decode=picky)
    session.receive(["a", "bad", "two"], 0.0)
    session.receive(["a"], 0.0)
    assert session.received == 4


def picky(data: str | bytes) -> Iterator[Message[Any]]:
    """A codec of somebody else's: lazy, several messages a frame, and not without bugs."""
    yield Message("t", data)
    if data == "two":
        yield Message("t", data)
    if data == "bad":
        raise DecodeError("payload", "is bad", data)
    if data == "bug":
        raise ZeroDivisionError("a bug")
    if data == "stop":
        raise KeyboardInterrupt


@pytest.mark.parametrize("frame", ["bad", "bug"])
def test_codec_raises(frame: str) -> None:
    """Any exception of a codec costs that frame alone, and is told to who listens."""
    session = new_session(decode=picky)
    queue, complaints = open_queue(session), session.inbox.open_malformed()
    session.receive(["a", frame, "b"], 7.0)
    assert session.route()
    assert [payload for payload in drained(queue) if payload != frame] == ["a", "b"]
    assert session.inbox.malformed_count == 1
    item = complaints.take()
    assert isinstance(item, Malformed)
    assert item.data == frame
    assert item.received_at == 7.0
    if frame == "bug":
        assert isinstance(item.error.__cause__, ZeroDivisionError)
        assert "ZeroDivisionError" in str(item.error)
    else:
        assert str(item.error) == "payload is bad: 'bad'"


def test_codec_is_interrupted() -> None:
    """What is no `Exception` is not swallowed."""
    session = new_session(decode=picky)
    session.receive(["stop"], 0.0)
    with pytest.raises(KeyboardInterrupt):
        session.route()


def test_received_at() -> None:
    """Messages are stamped with the time of the read that brought them."""
    session = new_session()
    queue = open_queue(session)
    session.receive(["a"], 42.0)
    session.route()
    item = queue.take()
    assert isinstance(item, Message)
    assert item.received_at == 42.0


def test_route_gives_a_turn() -> None:
    """`route` stops before it makes a stream lose something, once."""
    session = new_session()
    queue = open_queue(session, capacity=2)
    session.receive(["1", "2", "3", "4", "5"], 0.0)
    assert not session.route()
    assert drained(queue) == ["1", "2"]
    assert not session.route()
    assert session.route()
    assert drained(queue) == ["3", "4", Gap(1)]
    assert session.inbox.lost == 1


def test_refused_twice() -> None:
    """A message still too large after the turn is tried again, not lost in silence."""
    session = new_session(inbox=InboxLimits(total_bytes=10))
    queue = open_queue(session)
    session.receive(["aaaa", "bbbb", "ccccccccc"], 0.0)
    assert not session.route()
    assert [queue.take() is not None, len(queue)] == [True, 1]
    assert not session.route()
    assert drained(queue) == ["bbbb"]
    assert session.route()
    assert drained(queue) == ["ccccccccc"]
    assert session.inbox.lost == 0


def test_refused_and_final() -> None:
    """Where there is no more time it is lost, and said to be."""
    session = new_session(inbox=InboxLimits(total_bytes=10))
    queue = open_queue(session)
    session.receive(["aaaa", "bbbb", "ccccccccc"], 0.0)
    assert not session.route()
    queue.take()
    assert session.route(final=True)
    assert drained(queue) == ["bbbb", Gap(1)]
    assert session.inbox.lost == 1


@given(
    frames=st.lists(st.integers(1, 12), max_size=30),
    reads=st.integers(1, 10),
    takes=st.lists(st.integers(0, 3), max_size=60),
    final=st.booleans(),
)
def test_nothing_is_lost_in_silence(
    frames: list[int], reads: int, takes: list[int], final: bool
) -> None:
    """However reads and a slow consumer mix: items and gaps together are all that came."""
    session = linked_session(inbox=InboxLimits(total_bytes=20))
    queue = open_queue(session, capacity=4)
    found: list[object] = []
    turns = iter(takes)
    for start in range(0, len(frames), reads):
        names = [str(start + i).rjust(3) for i in range(len(frames[start : start + reads]))]
        batch = [name.ljust(3 + size) for name, size in zip(names, frames[start:], strict=False)]
        session.receive(batch, 0.0)
        while not session.route():
            found += queue.take_many(next(turns, 1))
        found += queue.take_many(next(turns, 0))
    session.route(final=final)
    session.begin_plain(None)
    session.link_up(0.0, 0)
    found += queue.take_many(1000)
    assert isinstance(found.pop(), Reset)
    at = 0
    for item in found:
        if isinstance(item, Message):
            assert int(item.payload) == at
            at += 1
        else:
            assert isinstance(item, Gap)
            at += item.count
    # What was lost right before a `Reset` is part of what nobody knows.
    assert at <= len(frames)
    assert session.inbox.lost + session.inbox.delivered == len(frames)


def test_route_final() -> None:
    """The final `route` hands everything out at once, at the cost of what has no room."""
    session = new_session()
    queue = open_queue(session, capacity=2)
    session.receive(["1", "2", "3", "4"], 0.0)
    assert session.route(final=True)
    assert drained(queue) == ["1", "2", Gap(2)]
    assert session.route()


def test_reset_between_links() -> None:
    """The `Reset` comes after all of the old link's messages, before the new one's."""
    session = linked_session()
    queue = open_queue(session, capacity=1)
    session.receive(["old", "unrouted"], 0.0)
    assert not session.route()
    session.link_down(1.0)
    assert drained(queue) == ["old"]
    session.begin_plain(None)
    session.link_up(0.0, 0)
    session.link_up(2.0, 0)
    assert drained(queue) == ["unrouted", Reset()]
    session.receive(["new"], 2.0)
    session.route()
    assert drained(queue) == ["new"]


def test_no_reset_before_the_first_link() -> None:
    """Where there was no link yet, nothing can have been missed."""
    session = new_session()
    queue = open_queue(session)
    session.begin_plain(ConnectionError())
    assert drained(queue) == []


def test_reset_has_the_cause() -> None:
    """The `Reset` tells what ended the link before."""
    session = linked_session()
    queue = open_queue(session)
    cause = ConnectionError()
    session.begin_plain(cause)
    session.link_up(0.0, 0)
    item = queue.take()
    assert isinstance(item, Reset)
    assert item.cause is cause


# Everything at once

OFFER, REJECT, WITHDRAW, TAKE, WRITE, DIRECT, BEAT, UP, DOWN, EXPIRE, END = range(11)

operations = st.lists(
    st.tuples(
        st.sampled_from([OFFER] * 5 + [TAKE, WRITE, DIRECT, UP, BEAT] * 2 + list(range(11))),
        st.integers(0, 9),
        st.sampled_from(Priority),
        st.fixed_dictionaries(
            {
                "key": st.sampled_from([None, None, "a", "b"]),
                "order": st.sampled_from([None, None, "x", "y"]),
                "durable": st.booleans(),
                "ephemeral": st.booleans(),
            }
        ),
        st.sampled_from([math.inf, math.inf, 0, 1, 3]),
    ),
    min_size=5,
    max_size=60,
)


class Story:
    """A session, a wire that counts, and all that was ever given to them."""

    def __init__(self, rate_per_s: float) -> None:
        self.session = new_session(messages=6, total_bytes=40, rate_per_s=rate_per_s)
        self.now = 0.0
        self.accepted: list[Send] = []
        self.committed: list[Entry] = []
        self.given = self.taken = 0

    def step(self, op: int, number: int, priority: Priority, more: Any, ttl_s: float) -> None:
        session = self.session
        entry = Send(bytes(number), priority=priority, expires_at=self.now + ttl_s, **more)
        match op:
            case _ if op == OFFER and session.offer(entry, self.now):
                self.accepted.append(entry)
            case _ if op == REJECT:
                session.reject(entry, dropped("offline"))
                self.accepted.append(entry)
            case _ if op == WITHDRAW and self.accepted:
                session.withdraw(self.accepted[number % len(self.accepted)])
            case _ if op == TAKE and session.linked:
                batch = batch_of(session, self.now)
                self.committed += batch
                self.given += len(batch)
            case _ if op == WRITE and session.linked:
                self.taken += min(number, self.given - self.taken)
                session.written(self.taken)
            case _ if (
                op == DIRECT and session.linked and session.may_send_directly(entry, self.now)
            ):
                self.given += 1
                self.taken += number % 2
                send_directly(session, entry, self.taken, self.now)
                self.accepted.append(entry)
                self.committed.append(entry)
            case _ if op == BEAT and session.linked:
                session.beat(Heartbeat(b"beat"))
            case _ if op == UP and not session.linked:
                self.given = self.taken = number
                session.link_up(self.now, number)
            case _ if op == DOWN and session.linked:
                self.down()
            case _ if op == EXPIRE:
                self.now += number
                session.lanes.expire(self.now)
            case _ if op == END:
                self.down()
                session.end()
                assert session.unsettled == 0
                assert all(entry.outcome for entry in self.accepted)
        self.check()

    def down(self) -> None:
        flight = [entry for entry in self.committed if entry.outcome is None]
        self.session.link_down(self.now)
        self.session.drop_ephemeral()
        assert all(entry.outcome is INDETERMINATE for entry in flight)

    def check(self) -> None:
        session = self.session
        outcomes = Counter(entry.outcome for entry in self.accepted)
        assert outcomes.pop(None, 0) == session.unsettled
        assert outcomes == session.outcomes
        assert session.accepted == len(self.accepted)
        assert session.accepted == session.outcomes.total() + session.unsettled
        assert len(set(map(id, self.committed))) == len(self.committed)
        sent = [each for each in self.committed if not isinstance(each, Heartbeat)]
        assert {each.outcome for each in sent} <= {None, WRITTEN, INDETERMINATE}
        assert session.outcomes[WRITTEN] + session.outcomes[INDETERMINATE] == sum(
            each.outcome is not None for each in sent
        )


@settings(max_examples=300, deadline=None)
@given(operations, st.sampled_from([math.inf, 1.0, 40.0]))
def test_one_outcome(ops: list[tuple[int, int, Priority, Any, float]], rate_per_s: float) -> None:
    """After any story the sum of outcomes and of what is pending is the sum of accepted sends."""
    story = Story(rate_per_s)
    for op in ops:
        story.step(*op)
    story.step(END, 0, NORMAL, {}, 0.0)
    assert story.session.outcomes.total() == story.session.accepted == len(story.accepted)

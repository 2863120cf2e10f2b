"""Which stream takes a message, and when a full one may lose something."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import DecodeError, OptionError
from trio_rt.message import Gap, Malformed, Message, Priority, Reset
from trio_rt.options import Conflate, InboxLimits, OnFull
from trio_rt.protocol.inbox import CAPACITY, HEARTBEAT, MALFORMED_CAPACITY, Inbox, Queue


def as_it_is(payload: Any) -> Any:
    return payload


def integer(payload: Any) -> int:
    if not isinstance(payload, int):
        raise DecodeError("payload", "expected `int`", payload)
    return payload


def subscribe(
    inbox: Inbox,
    *types: str,
    capacity: float | None = None,
    on_full: OnFull = "pause",
    reader: Any = as_it_is,
) -> Queue:
    return inbox.open(frozenset(types), reader=reader, capacity=capacity, on_full=on_full)


def started(**limits: int) -> Inbox:
    """An inbox that holds nothing any more."""
    inbox = Inbox(InboxLimits(**limits))
    queue = subscribe(inbox)
    queue.take()
    inbox.close(queue)
    return inbox


def receive(inbox: Inbox, type: str, *payloads: Any, size: int = 1) -> list[bool]:
    """Receive messages as the session does; False for each turn it had to wait."""
    answers: list[bool] = []
    for payload in payloads:
        while not (answer := inbox.receive(Message(type, payload), size, 0.0)):
            answers.append(answer)
        answers.append(answer)
    return answers


def content(queue: Queue) -> list[Any]:
    """The payloads of messages, the counts of gaps in lists, "R" for a reset."""
    shown: list[Any] = []
    for item in queue.take_many(100_000):
        if isinstance(item, Gap):
            shown.append([item.count])
        else:
            shown.append("R" if isinstance(item, Reset) else item.payload)  # type: ignore[union-attr]
    return shown


# Routing


def test_a_message_goes_to_every_stream_that_names_its_type() -> None:
    """And to those that name none; in order."""
    inbox = started()
    both, first, every = subscribe(inbox, "x", "y"), subscribe(inbox, "x"), subscribe(inbox)
    receive(inbox, "x", 1)
    receive(inbox, "y", 2)
    receive(inbox, "z", 3)
    receive(inbox, "x", 4)
    assert content(both) == [1, 2, 4]
    assert content(first) == [1, 4]
    assert content(every) == [1, 2, 3, 4]
    assert (inbox.discarded, inbox.delivered) == (0, 9)


def test_no_types_is_all_types() -> None:
    """An empty set says the same as None."""
    inbox = started()
    queue = inbox.open(None, reader=as_it_is, capacity=None, on_full="pause")
    receive(inbox, "x", 1)
    assert content(queue) == [1]


def test_what_no_stream_wants_is_counted() -> None:
    """And forgotten."""
    inbox = started()
    queue = subscribe(inbox, "x")
    receive(inbox, "y", 1, 2)
    assert (inbox.discarded, len(queue)) == (2, 0)


def test_heartbeats_go_only_where_they_are_named() -> None:
    """They are never discarded: nobody was meant to read them."""
    inbox = started()
    every = subscribe(inbox)
    receive(inbox, HEARTBEAT, 1)
    beats = subscribe(inbox, HEARTBEAT, "x")
    later = subscribe(inbox)
    receive(inbox, HEARTBEAT, 2)
    inbox.close(beats)
    receive(inbox, HEARTBEAT, 3)
    assert content(every) == content(later) == []
    assert inbox.discarded == 0
    assert inbox.delivered == 1


@given(
    st.lists(
        st.tuples(st.just("open"), st.frozensets(st.sampled_from(["x", "y", HEARTBEAT])))
        | st.tuples(st.just("close"), st.integers(0, 5))
        | st.tuples(st.just("receive"), st.sampled_from(["x", "y", "z", HEARTBEAT])),
        max_size=40,
    )
)
def test_streams_come_and_go(operations: list[tuple[str, Any]]) -> None:
    """At any moment exactly those that are open and want it get a message, in order."""
    inbox = started()
    streams: list[tuple[frozenset[str], Queue, list[int]]] = []
    closed: list[Queue] = []
    discarded = 0
    for number, (operation, argument) in enumerate(operations):
        if operation == "open":
            streams.append((argument, subscribe(inbox, *argument), []))
        elif operation == "close" and argument < len(streams):
            closed.append(streams.pop(argument)[1])
            inbox.close(closed[-1])
            inbox.close(closed[-1])
        elif operation == "receive":
            wanted = [
                got
                for types, _, got in streams
                if argument in types or (not types and argument != HEARTBEAT)
            ]
            for got in wanted:
                got.append(number)
            discarded += not wanted and argument != HEARTBEAT
            receive(inbox, argument, number)
    for _, queue, got in streams:
        assert content(queue) == got
    assert all(queue.closed and not len(queue) for queue in closed)
    assert inbox.discarded == discarded


def test_finding_the_streams_does_not_depend_on_their_number() -> None:
    """A thousand streams of other types are not even looked at."""
    inbox = started()
    queues = [subscribe(inbox, f"t{number}") for number in range(1000)]
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    message = Message("t500", 1)
    sys.setprofile(count)
    try:
        inbox.receive(message, 1, 0.0)
    finally:
        sys.setprofile(None)
    assert calls < 20
    assert content(queues[500]) == [1]


def test_a_type_that_no_stream_names_any_more_is_forgotten() -> None:
    """A program may open streams of ever new types; other streams change nothing in that."""
    inbox = started()
    early = subscribe(inbox)
    type = "".join(["request", "-1"])
    before = sys.getrefcount(type)
    queue = subscribe(inbox, type)
    subscribe(inbox)
    late = subscribe(inbox)
    assert sys.getrefcount(type) > before
    inbox.close(late)
    inbox.close(queue)
    del queue
    assert sys.getrefcount(type) == before
    receive(inbox, type, 1)
    assert content(early) == [1]


# What a stream gets


def test_a_delivered_message_is_stamped_and_read() -> None:
    """`received_at` is now, the payload what the stream's reader made of it."""
    inbox = started()
    queue = subscribe(inbox, "x", reader=lambda payload: payload * 2)
    message = Message("x", 21, "i", 5, Priority.HIGH, "k")
    inbox.receive(message, 9, 12.5)
    assert queue.total_bytes == 9
    assert queue.take() == Message("x", 42, "i", 5, Priority.HIGH, "k", 12.5)
    assert message.payload == 21


def test_a_payload_that_one_stream_cannot_read_is_malformed_for_it_alone() -> None:
    """The others get the message; nobody gets a gap."""
    inbox = started()
    bad = inbox.open_malformed()
    strict, loose = subscribe(inbox, "x", reader=integer), subscribe(inbox, "x")
    inbox.receive(Message("x", msgspec.Raw(b'"no"')), 1, 3.0)
    receive(inbox, "x", 7)
    assert content(strict) == [7]
    assert len(content(loose)) == 2
    (item,) = bad.take_many(10)
    assert isinstance(item, Malformed)
    assert (item.data, item.received_at, item.error.field) == (b'"no"', 3.0, "payload")
    assert (inbox.malformed_count, inbox.lost, inbox.delivered) == (1, 0, 3)


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        ("text", "text"),
        (b"\xff", b"\xff"),
        ([1, "a"], b'[1,"a"]'),
        (object(), b""),
    ],
)
def test_malformed_shows_what_came_as_well_as_it_can(payload: Any, data: Any) -> None:
    """A codec of one's own may give anything as payload."""
    inbox = started()
    bad = inbox.open_malformed()
    subscribe(inbox, reader=integer)
    receive(inbox, "x", payload)
    item = bad.take()
    assert isinstance(item, Malformed)
    assert item.data == data


def broken_key(message: Message[Any]) -> Any:
    return message.payload[0]


@pytest.mark.parametrize("payload", [5, [[]]])
def test_a_conflation_key_that_fails_is_malformed_for_that_stream(payload: Any) -> None:
    """The program's own bug costs that stream that message, and nothing else."""
    inbox = started()
    bad = inbox.open_malformed()
    queue = subscribe(inbox, "x", on_full=Conflate(broken_key))
    other = subscribe(inbox, "x")
    receive(inbox, "x", payload, ["a"])
    assert content(queue) == [["a"]]
    assert content(other) == [payload, ["a"]]
    item = bad.take()
    assert isinstance(item, Malformed)
    assert isinstance(item.error.__cause__, TypeError)


def test_the_default_capacity() -> None:
    """16,384 messages, and no more bytes than the limits say."""
    inbox = started(total_bytes=100)
    by_count, by_bytes = subscribe(inbox, "x"), subscribe(inbox, "y")
    for _ in range(CAPACITY):
        inbox.receive(Message("x", 1), 0, 0.0)
    assert not inbox.receive(Message("x", 1), 0, 0.0)
    assert len(by_count) == CAPACITY == 16_384
    receive(inbox, "y", 1, 2, 3, size=40)
    assert content(by_bytes) == [1, 2, [1]]


def test_an_unknown_policy_is_an_option_error() -> None:
    """And opens nothing."""
    inbox = started()
    with pytest.raises(OptionError):
        subscribe(inbox, "x", on_full="never")  # type: ignore[arg-type]
    receive(inbox, "x", 1)
    assert inbox.discarded == 1


# A turn first


@pytest.mark.parametrize(
    ("on_full", "left"),
    [
        ("pause", [1, 2, [2]]),
        ("drop_newest", [1, 2, [2]]),
        ("drop_oldest", [[2], 3, 4]),
        ("fail", [1, 2]),
        (Conflate(lambda message: message.payload), [[2], 3, 4]),
    ],
)
def test_a_stuck_consumer_costs_one_turn(on_full: OnFull, left: list[Any]) -> None:
    """Not one for each message."""
    inbox = started()
    queue = subscribe(inbox, "x", capacity=2, on_full=on_full)
    assert receive(inbox, "x", 1, 2) == [True, True]
    assert receive(inbox, "x", 3, 4) == [False, True, True]
    assert content(queue) == left


def test_a_refused_message_has_done_nothing() -> None:
    """No stream got it, nothing is counted."""
    inbox = started()
    full, free = subscribe(inbox, "x", capacity=1), subscribe(inbox, "x")
    receive(inbox, "x", 1)
    assert not inbox.receive(Message("x", 2), 1, 0.0)
    assert (len(full), len(free)) == (1, 1)
    assert (inbox.lost, inbox.delivered, inbox.discarded) == (0, 2, 0)
    assert inbox.receive(Message("x", 2), 1, 0.0)
    assert content(full) == [1, [1]]
    assert content(free) == [1, 2]


def test_a_consumer_that_used_its_turn_loses_nothing() -> None:
    """It takes, the message is offered again, and fits."""
    inbox = started()
    queue = subscribe(inbox, "x", capacity=2)
    receive(inbox, "x", 1, 2)
    for number in (3, 4, 5):
        assert not inbox.receive(Message("x", number), 1, 0.0)
        queue.take()
        assert inbox.receive(Message("x", number), 1, 0.0)
    assert inbox.lost == 0
    assert content(queue) == [4, 5]


@pytest.mark.parametrize("take", [lambda queue: queue.take(), lambda queue: queue.take_many(1)])
def test_a_consumer_that_takes_gets_its_next_turn(take: Any) -> None:
    """The memory of the refusal ends with the first item taken."""
    inbox = started()
    queue = subscribe(inbox, "x", capacity=2)
    assert receive(inbox, "x", 1, 2, 3) == [True, True, False, True]
    take(queue)
    assert receive(inbox, "x", 4, 5) == [True, False, True]


def test_streams_that_are_full_get_their_turn_together() -> None:
    """Two stuck consumers cost one turn."""
    inbox = started()
    for _ in range(2):
        subscribe(inbox, "x", capacity=1)
    assert receive(inbox, "x", 1, 2, 3) == [True, False, True, True]


def test_a_full_stream_of_another_type_is_no_reason_to_wait() -> None:
    """Only the streams that the message goes to are asked."""
    inbox = started()
    subscribe(inbox, "x", capacity=1)
    subscribe(inbox, "y", capacity=1)
    receive(inbox, "x", 1)
    assert receive(inbox, "y", 1) == [True]


def test_a_stream_that_failed_gets_nothing_more() -> None:
    """Its messages go on to the others, or are discarded."""
    inbox = started()
    failing, other = subscribe(inbox, "x", capacity=1, on_full="fail"), subscribe(inbox, "x", "y")
    assert receive(inbox, "x", 1, 2, 3) == [True, False, True, True]
    inbox.reset(Reset())
    assert failing.failure is not None
    assert content(failing) == [1]
    assert content(other) == [1, 2, 3, "R"]
    inbox.close(other)
    receive(inbox, "x", 4)
    assert inbox.discarded == 1
    assert inbox.lost == 1
    every = subscribe(inbox)
    inbox.close(failing)
    receive(inbox, "x", 5)
    assert content(every) == [5]
    assert inbox.lost == 1


# Before the program listens


def test_messages_are_held_until_there_is_a_stream() -> None:
    """With the time they came; what the stream does not want is discarded then."""
    inbox = Inbox(InboxLimits())
    inbox.receive(Message("x", 1), 1, 2.5)
    receive(inbox, "y", 2)
    queue = subscribe(inbox, "x")
    assert inbox.discarded == 0
    assert queue.take() == Message("x", 1, received_at=2.5)
    assert inbox.discarded == 1
    assert inbox.delivered == 1


def test_streams_opened_one_after_another_all_get_theirs() -> None:
    """Up to the first item taken."""
    inbox = Inbox(InboxLimits())
    receive(inbox, "x", 1)
    receive(inbox, "y", 2)
    first, second = subscribe(inbox, "x"), subscribe(inbox, "y")
    assert content(first) == [1]
    late = subscribe(inbox)
    assert content(second) == [2]
    assert content(late) == []


def test_the_next_message_hands_out_what_was_held() -> None:
    """Before itself."""
    inbox = Inbox(InboxLimits())
    receive(inbox, "x", 1)
    queue = subscribe(inbox, "x")
    receive(inbox, "x", 2)
    assert len(queue) == 2
    assert content(queue) == [1, 2]


def test_a_stream_that_is_closed_unread_ends_nothing() -> None:
    """The next one gets what is held."""
    inbox = Inbox(InboxLimits())
    receive(inbox, "x", 1)
    inbox.close(subscribe(inbox, "x"))
    receive(inbox, "x", 2)
    assert content(subscribe(inbox, "x")) == [1, 2]


def test_nothing_is_held_later() -> None:
    """Once the program has listened, it is meant not to listen now."""
    inbox = Inbox(InboxLimits())
    queue = subscribe(inbox, "x")
    queue.take()
    inbox.close(queue)
    receive(inbox, "x", 1)
    assert inbox.discarded == 1
    assert content(subscribe(inbox, "x")) == []


@pytest.mark.parametrize(
    ("limits", "size"), [({"messages": 2}, 1), ({"total_bytes": 20}, 10)], ids=["messages", "bytes"]
)
def test_the_hold_is_bounded(limits: dict[str, int], size: int) -> None:
    """What is too much is the newest, after one turn, and marked in its place."""
    inbox = Inbox(InboxLimits(**limits))
    answers = receive(inbox, "x", 1, 2, 3, 4, size=size)
    assert answers == [True, True, False, True, True]
    assert inbox.lost == 2
    queue, other = subscribe(inbox, "x"), subscribe(inbox, "y")
    assert content(queue) == [1, 2, [2]]
    assert content(other) == [[2]]
    assert inbox.lost == 2


def test_heartbeats_are_not_held() -> None:
    """A program that only sends would fill the hold with them."""
    inbox = Inbox(InboxLimits(messages=1))
    assert receive(inbox, HEARTBEAT, 1, 2, 3) == [True] * 3
    receive(inbox, "x", 4)
    assert content(subscribe(inbox)) == [4]
    assert (inbox.lost, inbox.discarded) == (0, 0)


def test_a_reset_is_held_in_its_place() -> None:
    """Between the messages of the two links, and after what was opened since."""
    inbox = Inbox(InboxLimits())
    receive(inbox, "x", 1)
    inbox.reset(Reset())
    receive(inbox, "x", 2)
    queue = subscribe(inbox, "x")
    inbox.reset(Reset())
    assert content(queue) == [1, "R", 2, "R"]


@pytest.mark.parametrize(
    ("on_full", "left"),
    [
        ("pause", [1, 2, 3, 4]),
        ("fail", [1, 2, 3, 4]),
        ("drop_oldest", [[2], 3, 4]),
        ("drop_newest", [1, 2, 3, 4]),
        (Conflate(lambda message: message.payload % 2), [3, 4]),
    ],
)
def test_a_small_stream_takes_all_that_was_held_unless_it_chose_to_lose(
    on_full: OnFull, left: list[Any]
) -> None:
    """The hold has its own bound; then the stream's applies."""
    inbox = Inbox(InboxLimits())
    receive(inbox, "x", 1, 2, 3, 4)
    queue = subscribe(inbox, "x", capacity=2, on_full=on_full)
    first = queue.take()
    assert queue.failure is None
    assert isinstance(first, (Message, Gap))
    shown = [[first.count] if isinstance(first, Gap) else first.payload]
    assert shown + content(queue) == left


def test_a_payload_is_read_for_its_stream_when_it_is_handed_out() -> None:
    """Until then nobody knows of what type it should be."""
    inbox = Inbox(InboxLimits())
    receive(inbox, "x", "no", 5)
    assert inbox.malformed_count == 0
    assert content(subscribe(inbox, "x", reader=integer)) == [5]
    assert inbox.malformed_count == 1


# Resets and the end


def test_a_reset_goes_into_every_stream_in_order() -> None:
    """Of every type, with its cause."""
    inbox = started()
    first, second = subscribe(inbox, "x"), subscribe(inbox)
    receive(inbox, "x", 1)
    cause = Exception("cut")
    inbox.reset(Reset(cause))
    receive(inbox, "x", 2)
    assert content(first) == [1, "R", 2]
    second.take()
    mark = second.take()
    assert isinstance(mark, Reset)
    assert mark.cause is cause


def test_the_end_comes_after_the_items() -> None:
    """They can still be taken."""
    inbox = started()
    queue, bad = subscribe(inbox, "x"), inbox.open_malformed()
    receive(inbox, "x", 1)
    woken: list[int] = []
    bad.wake = lambda: woken.append(1)
    inbox.end()
    assert queue.ended
    assert bad.ended
    assert woken == [1]
    assert queue.failure is None
    assert content(queue) == [1]


def test_the_end_leaves_a_failure_as_it_is() -> None:
    """The stream's consumer still learns why."""
    inbox = started()
    queue = subscribe(inbox, "x", capacity=1, on_full="fail")
    receive(inbox, "x", 1, 2)
    failure = queue.failure
    inbox.end()
    assert failure is not None
    assert queue.failure is failure


def test_what_is_held_outlives_the_end() -> None:
    """For a stream that is open, and for one that comes too late."""
    inbox = Inbox(InboxLimits())
    receive(inbox, "x", 1)
    queue = subscribe(inbox, "x")
    inbox.end()
    assert content(queue) == [1]
    inbox = Inbox(InboxLimits())
    receive(inbox, "x", 1)
    inbox.end()
    late, bad = subscribe(inbox, "x"), inbox.open_malformed()
    assert late.ended
    assert bad.ended
    assert content(late) == [1]


# Malformed


def malformed(data: str | bytes) -> Malformed:
    return Malformed(data, DecodeError("message", "is bad", data), 1.0)


def test_malformed_items_are_counted_and_shown_to_all_who_listen() -> None:
    """From the moment they do."""
    inbox = started()
    inbox.malformed(malformed("early"))
    first, second = inbox.open_malformed(), inbox.open_malformed()
    inbox.malformed(item := malformed(b"x"))
    inbox.close(second)
    inbox.malformed(malformed(b"y"))
    assert inbox.malformed_count == 3
    assert first.take() is item
    assert len(first) == 1
    assert second.closed
    assert inbox.lost == 0


def test_a_malformed_stream_keeps_the_latest() -> None:
    """256 of them, with a gap for those before."""
    inbox = started()
    queue = inbox.open_malformed()
    for number in range(MALFORMED_CAPACITY + 5):
        inbox.malformed(malformed(str(number)))
    items = queue.take_many(1000)
    assert items[0] == Gap(5)
    assert len(items) == MALFORMED_CAPACITY + 1 == 257
    assert isinstance(items[-1], Malformed)
    assert items[-1].data == "260"


@pytest.mark.parametrize("data", ["äöü", "äöü".encode(), "\ud800" * 6])
def test_a_malformed_stream_is_bounded_in_bytes(data: str | bytes) -> None:
    """Of what came, not characters."""
    inbox = started(total_bytes=15)
    queue = inbox.open_malformed()
    for _ in range(3):
        inbox.malformed(malformed(data))
    assert queue.total_bytes == 12
    assert queue.messages == 2


# All together


@given(
    operations=st.lists(
        st.tuples(st.just("receive"), st.sampled_from("xyz"), st.integers(0, 5))
        | st.tuples(st.just("take"), st.integers(0, 3), st.integers(1, 5)),
        max_size=80,
    ),
    streams=st.lists(
        st.tuples(
            st.frozensets(st.sampled_from("xy")),
            st.sampled_from(["pause", "drop_newest", "drop_oldest"]),
            st.integers(1, 4),
        ),
        min_size=1,
        max_size=4,
    ),
    opened=st.integers(0, 20),
)
def test_every_stream_can_account_for_every_message(
    operations: list[Any], streams: list[Any], opened: int
) -> None:
    """Messages and gaps in order: what is taken, plus what gaps count, is what came."""
    inbox = Inbox(InboxLimits(messages=5, total_bytes=12))
    queues: list[Queue] = []
    taken: list[list[Any]] = [[] for _ in streams]
    came: list[list[int]] = [[] for _ in streams]
    refusals = 0

    def open_all() -> None:
        for types, on_full, capacity in streams:
            queues.append(subscribe(inbox, *types, capacity=capacity, on_full=on_full))

    for number, (operation, *arguments) in enumerate(operations):
        if number == opened:
            open_all()
        if operation == "receive":
            type, size = arguments
            for (types, *_), got in zip(streams, came, strict=True):
                if not types or type in types:
                    got.append(number)
            refusals += receive(inbox, type, number, size=size).count(False)
        elif arguments[0] < len(queues):
            taken[arguments[0]] += queues[arguments[0]].take_many(arguments[1])
    if not queues:
        open_all()
    takes = sum(operation == "take" for operation, *_ in operations)
    assert refusals <= 1 + len(streams) * (1 + takes)
    for queue, items, expected in zip(queues, taken, came, strict=True):
        items += queue.take_many(1000)
        numbers = [item.payload for item in items if isinstance(item, Message)]
        assert numbers == sorted(set(numbers) & set(expected))
        if not queue.types:
            # A gap in the hold counts messages of any type.
            assert located(items) == [(number, expected.index(number)) for number in numbers]
            assert sum(lengths(items)) == len(expected)


def lengths(items: list[Any]) -> list[int]:
    return [item.count if isinstance(item, Gap) else 1 for item in items]


def located(items: list[Any]) -> list[tuple[int, int]]:
    """Each message with the number of messages before it, lost ones too."""
    before = itertools.accumulate(lengths(items), initial=0)
    return [
        (item.payload, count)
        for item, count in zip(items, before, strict=False)
        if isinstance(item, Message)
    ]

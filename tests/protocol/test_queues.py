"""What a full stream loses, and where that is marked."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import DecodeError, OptionError, StreamOverflow
from trio_rt.message import Gap, Message, Reset
from trio_rt.options import Conflate, OnFull
from trio_rt.protocol.queues import Queue, make_queue


def make(on_full: OnFull = "pause", capacity: float = 3, room_bytes: float = math.inf) -> Queue:
    return make_queue(None, lambda payload: payload, capacity, room_bytes, on_full)


def offer(queue: Queue, name: str, key: str | None = None, size: int = 1) -> None:
    """Put a message the way the inbox does."""
    if not queue.is_full(size, None) or queue.make_room(size):
        queue.put(Message("t", name, key=key), size, None)


def shown(items: list[Any]) -> str:
    """The payloads of messages, the counts of gaps in brackets, "R" for a reset."""
    return " ".join(
        f"[{item.count}]" if type(item) is Gap else "R" if type(item) is Reset else item.payload
        for item in items
    )


def content(queue: Queue) -> str:
    return shown(queue.take_many(1000))


def filled(
    names: str, on_full: OnFull = "pause", capacity: float = 3, room_bytes: float = math.inf
) -> Queue:
    """A queue given these messages one after another; "R" is a reset.

    A name like "a1" has the key "a".
    """
    queue = make(on_full, capacity, room_bytes)
    for name in names.split():
        if name == "R":
            queue.put_reset(Reset())
        else:
            offer(queue, name, key=name[0])
    return queue


# What goes, and where the mark lies


@pytest.mark.parametrize(
    ("on_full", "names", "left"),
    [
        ("pause", "a b c", "a b c"),
        ("pause", "a b c d e", "a b c [2]"),
        ("drop_newest", "a b c d e", "a b c [2]"),
        ("drop_oldest", "a b c", "a b c"),
        ("drop_oldest", "a b c d e", "[2] c d e"),
        ("fail", "a b c", "a b c"),
        ("fail", "a b c d e", "a b c"),
        (Conflate(), "a1 b1 a2 c1 b2", "a2 b2 c1"),
        (Conflate(), "a1 b1 c1 d1 e1", "[2] c1 d1 e1"),
        (Conflate(), "a1 b1 c1 d1 a2", "[2] c1 d1 a2"),
        # Resets keep their place, and swallow what was lost right before.
        ("pause", "a R b", "a R b"),
        ("pause", "a R R", "a R"),
        ("pause", "a b c d R", "a b c R"),
        ("pause", "a b c R d e", "a b c R [2]"),
        ("pause", "a b c d R e R", "a b c R"),
        ("drop_oldest", "R a b c d", "R [1] b c d"),
        ("drop_oldest", "a R b c d", "R b c d"),
        ("drop_oldest", "a R b c d e", "R [1] c d e"),
        ("drop_oldest", "a b R c d", "[1] b R c d"),
        ("drop_oldest", "a b R c d e", "R c d e"),
        ("drop_oldest", "R a R b c d", "R b c d"),
        ("fail", "a R b c d", "a R b c"),
        (Conflate(), "a1 R b1", "a1 R b1"),
        (Conflate(), "a1 R a2 a3", "a1 R a3"),
        (Conflate(), "a1 b1 R a2 b2", "[1] b1 R a2 b2"),
    ],
)
def test_loss_is_marked_in_its_place(on_full: OnFull, names: str, left: str) -> None:
    """Three messages have room."""
    assert content(filled(names, on_full)) == left


def test_a_gap_at_the_tail_grows_after_a_take() -> None:
    """What is lost later lies later; a gap that was taken is over."""
    queue = filled("a b c d")
    assert shown([queue.take()]) == "a"
    offer(queue, "e")
    offer(queue, "f")
    assert content(queue) == "b c [1] e [1]"
    offer(queue, "g")
    assert content(queue) == "g"


def test_marks_take_no_room() -> None:
    """A queue of nothing but marks takes as many messages as an empty one."""
    queue = filled("R a b c d R")
    assert (queue.messages, len(queue)) == (3, 5)
    queue.take()
    assert queue.is_full(1, None)
    queue.take()
    assert not queue.is_full(1, None)


def test_many_losses_are_few_marks() -> None:
    """However long a consumer is stuck, what it costs stays the same."""
    for on_full in ("pause", "drop_oldest"):
        queue = make(on_full)
        for number in range(10_000):
            offer(queue, str(number))
            if number % 100 == 0:
                queue.put_reset(Reset())
        assert len(queue) <= 3 + 2 * 4
        assert queue.lost == 10_000 - 3


def test_a_reset_has_its_cause() -> None:
    """The latest of those that merged."""
    first, second = Exception("first"), Exception("second")
    queue = make()
    queue.put_reset(Reset(first))
    queue.put_reset(Reset(second))
    (mark,) = queue.take_many(10)
    assert isinstance(mark, Reset)
    assert mark.cause is second


# Bytes


def test_the_bound_in_bytes_is_the_given_sizes() -> None:
    """Not characters, and not messages."""
    queue = make("pause", 100, 10)
    offer(queue, "ä" * 20, size=6)
    offer(queue, "b", size=4)
    offer(queue, "c", size=1)
    assert (queue.messages, queue.total_bytes, queue.lost) == (2, 10, 1)
    queue.take()
    assert queue.total_bytes == 4
    offer(queue, "d", size=6)
    assert (queue.messages, queue.total_bytes, queue.lost) == (2, 10, 1)


def test_one_message_always_goes_into_an_empty_queue() -> None:
    """However large; marks do not count."""
    for on_full in ("pause", "drop_oldest", "drop_newest", "fail", Conflate()):
        queue = make(on_full, 3, 10)
        queue.put_reset(Reset())
        offer(queue, "large", size=1000)
        assert content(queue) == "R large"
        assert queue.total_bytes == 0


def test_as_many_old_ones_go_as_the_newcomer_needs() -> None:
    """And no more."""
    queue = make("drop_oldest", 100, 10)
    for name in "abcde":
        offer(queue, name, size=2)
    offer(queue, "f", size=3)
    assert content(queue) == "[2] c d e f"
    offer(queue, "g", size=2)
    offer(queue, "h", size=100)
    assert content(queue) == "[1] h"


def test_replacing_adjusts_the_bytes() -> None:
    """The old size goes, the new one comes; nothing is lost."""
    queue = make(Conflate(), 3, 10)
    offer(queue, "a1", "a", size=2)
    offer(queue, "b1", "b", size=3)
    offer(queue, "a2", "a", size=7)
    assert (queue.total_bytes, queue.lost) == (10, 0)
    offer(queue, "a3", "a", size=1)
    assert (queue.total_bytes, queue.messages) == (4, 2)
    assert content(queue) == "a3 b1"
    assert queue.total_bytes == 0


def test_a_newcomer_that_grew_costs_others_their_place() -> None:
    """It is the newest there is: what goes is the oldest of the others."""
    queue = make(Conflate(), 5, 10)
    for name in ("a1", "b1", "c1", "d1"):
        offer(queue, name, name[0], size=2)
    offer(queue, "a2", "a", size=5)
    assert (queue.total_bytes, queue.lost) == (9, 1)
    offer(queue, "c2", "c", size=4)
    assert content(queue) == "[2] c2 d1"
    offer(queue, "a1", "a", size=2)
    offer(queue, "b1", "b", size=2)
    offer(queue, "a2", "a", size=50)
    assert content(queue) == "a2 [1]"


def test_a_newcomer_that_grew_leaves_the_marks_before_it() -> None:
    """What was lost before it, and what is lost behind it, are two gaps."""
    queue = make(Conflate(), 5, 10)
    queue.put_reset(Reset())
    for name in ("a1", "b1", "c1", "d1", "e1", "f1"):
        offer(queue, name, name[0], size=2)
    offer(queue, "c2", "c", size=5)
    assert content(queue) == "R [2] c2 [1] e1 f1"


# Conflating


def test_the_default_key_is_type_and_key() -> None:
    """The same key of another type is another message."""
    queue = make(Conflate(), 10)
    for type, key, name in (("x", "k", "1"), ("y", "k", "2"), ("x", None, "3"), ("x", "k", "4")):
        queue.put(Message(type, name, key=key), 1, None)
    assert content(queue) == "4 2 3"


def test_the_key_may_be_a_function_of_the_message() -> None:
    """It sees what the consumer would get."""
    queue = make(Conflate(lambda message: message.payload[0]))
    for name in ("a1", "b1", "a2"):
        offer(queue, name)
    assert content(queue) == "a2 b1"


def test_a_taken_message_is_not_replaced() -> None:
    """The next one of its key lies at the end."""
    queue = filled("a1 b1", Conflate())
    queue.take()
    offer(queue, "a2", "a")
    assert content(queue) == "b1 a2"
    offer(queue, "a3", "a")
    assert content(queue) == "a3"


@pytest.mark.parametrize(
    "key", [lambda message: 1 / 0, lambda message: [message], lambda message: message.payload.nope]
)
def test_a_key_that_cannot_be_found_is_a_decode_error(key: Callable[[Any], Any]) -> None:
    """It raises or gives what cannot be a key: the queue is as it was."""
    queue = make(Conflate(key))
    with pytest.raises(DecodeError) as caught:
        offer(queue, "a")
    assert caught.value.__cause__ is not None
    assert (len(queue), queue.messages, queue.total_bytes, queue.lost) == (0, 0, 0, 0)


# Ends


def test_an_overflow_fails_the_stream_after_its_items() -> None:
    """The items stay; then there is the failure, and nothing more."""
    queue = filled("a b c", "fail")
    assert queue.failure is None
    offer(queue, "d")
    assert isinstance(queue.failure, StreamOverflow)
    assert queue.ended
    assert queue.lost == 1
    assert content(queue) == "a b c"


def test_a_closed_queue_is_empty() -> None:
    """What it held is gone, and so is its room."""
    for on_full in ("pause", "drop_oldest", "fail", Conflate()):
        queue = filled("a b c R d", on_full)
        queue.close()
        assert queue.closed
        assert (len(queue), queue.messages, queue.total_bytes) == (0, 0, 0)
        assert queue.take() is None
        assert queue.take_many(5) == []


def test_a_closed_queue_keeps_nothing_alive() -> None:
    """Its holder may keep it for long."""
    for on_full in ("pause", Conflate()):
        queue = make(on_full)
        message = Message("t", object())
        before = sys.getrefcount(message)
        queue.put(message, 1, None)
        assert sys.getrefcount(message) > before
        queue.close()
        assert sys.getrefcount(message) == before


def test_an_empty_queue_gives_nothing() -> None:
    """None, and an empty list."""
    queue = make()
    assert queue.take() is None
    assert queue.take_many(5) == []


def test_at_most_as_many_as_asked_for() -> None:
    """The rest stays."""
    queue = filled("a R b c")
    assert shown(queue.take_many(3)) == "a R b"
    assert queue.take_many(0) == []
    assert shown(queue.take_many(3)) == "c"


# Waking


@pytest.mark.parametrize(
    "event",
    [
        lambda queue: offer(queue, "a"),
        lambda queue: queue.put_reset(Reset()),
        lambda queue: queue.put_gap(2),
        lambda queue: queue.end(),
        lambda queue: queue.close(),
    ],
    ids=["message", "reset", "gap", "end", "close"],
)
@pytest.mark.parametrize("on_full", ["pause", Conflate()])
def test_a_waiting_consumer_is_woken_once(on_full: OnFull, event: Callable[[Queue], None]) -> None:
    """When something lands, or nothing more will."""
    queue = make(on_full)
    calls: list[int] = []
    queue.wake = lambda: calls.append(len(queue))
    event(queue)
    assert len(calls) == 1
    assert queue.wake is None
    event(queue)
    assert len(calls) == 1


@pytest.mark.parametrize("on_full", ["pause", "drop_oldest", "fail", Conflate()])
def test_the_item_is_there_when_its_consumer_is_woken(on_full: OnFull) -> None:
    """Even one that takes it within the call."""
    queue = make(on_full)
    taken: list[Any] = []
    queue.wake = lambda: taken.append(queue.take())
    offer(queue, "a", "a")
    assert shown(taken) == "a"
    assert (len(queue), queue.total_bytes) == (0, 0)
    offer(queue, "b", "a")
    assert content(queue) == "b"


@pytest.mark.parametrize("on_full", ["never", None, 5, Conflate, ["pause"]])
def test_an_unknown_policy_is_an_option_error(on_full: Any) -> None:
    """Not a stream that behaves like another."""
    with pytest.raises(OptionError) as caught:
        make(on_full)
    assert caught.value.field == "on_full"


# Against a model


@attrs.define
class Slot:
    """One message that came, or a reset; `name` None: the message was lost."""

    name: str | None
    key: str = ""
    size: int = 0
    reset: bool = False


@attrs.define
class Model:
    """All that ever came and was not taken, lost ones too; slow and plain."""

    on_full: str
    capacity: int
    room_bytes: int
    slots: list[Slot] = attrs.field(factory=list)
    ended: bool = False

    @property
    def waiting(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.name is not None]

    @property
    def total_bytes(self) -> int:
        return sum(slot.size for slot in self.waiting)

    def full(self, size: int) -> bool:
        waiting = self.waiting
        return len(waiting) >= self.capacity or (
            bool(waiting) and self.total_bytes + size > self.room_bytes
        )

    def reset(self) -> None:
        self.slots.append(Slot(None, reset=True))

    def offer(self, name: str, key: str, size: int) -> None:
        new = Slot(name, key, size)
        if self.on_full == "conflate" and (old := self.waiting_for(key)) is not None:
            old.name, old.size = name, size
            while self.total_bytes > self.room_bytes and len(self.waiting) > 1:
                self.lose(next(slot for slot in self.waiting if slot is not old))
            return
        while self.full(size):
            if self.on_full == "fail":
                self.ended = True
                return
            if self.on_full in ("pause", "drop_newest"):
                self.slots.append(Slot(None))
                return
            self.lose(self.waiting[0])
        self.slots.append(new)

    def waiting_for(self, key: str) -> Slot | None:
        for slot in reversed(self.slots):
            if slot.reset:
                return None
            if slot.name is not None and slot.key == key:
                return slot
        return None

    def lose(self, slot: Slot) -> None:
        slot.name = None

    def take(self) -> str | None:
        """Take the first item: a message, or what the marks before it amount to."""
        run = 0
        while run < len(self.slots) and self.slots[run].name is None:
            run += 1
        marks = self.slots[:run]
        resets = [index for index, slot in enumerate(marks) if slot.reset]
        if resets:
            del self.slots[: resets[-1] + 1]
            return "R"
        if marks:
            del self.slots[:run]
            return f"[{run}]"
        return self.slots.pop(0).name if self.slots else None


_operations = st.lists(
    st.tuples(st.just("offer"), st.sampled_from("abcd"), st.integers(0, 6))
    | st.tuples(st.just("take"), st.integers(1, 4))
    | st.just(("reset",)),
    max_size=60,
)


@pytest.mark.parametrize("on_full", ["pause", "drop_newest", "drop_oldest", "fail", "conflate"])
@given(operations=_operations, capacity=st.integers(1, 5), room_bytes=st.integers(1, 20))
def test_a_queue_does_what_the_model_does(
    on_full: Any, operations: list[Any], capacity: int, room_bytes: int
) -> None:
    """The same items in the same order, whatever happens; the bounds hold at every step."""
    policy = Conflate() if on_full == "conflate" else on_full
    queue = make(policy, capacity, room_bytes)
    model = Model(on_full, capacity, room_bytes)

    def take() -> bool:
        expected = model.take()
        item = queue.take()
        assert (None if item is None else shown([item])) == expected
        return item is not None

    for number, (operation, *arguments) in enumerate(operations):
        if operation == "reset":
            model.reset()
            queue.put_reset(Reset())
        elif operation == "take":
            for _ in range(arguments[0]):
                take()
        elif not model.ended:
            key, size = arguments
            model.offer(str(number), key, size)
            offer(queue, str(number), key, size)
        assert queue.ended is model.ended
        assert (queue.messages, queue.total_bytes) == (len(model.waiting), model.total_bytes)
        assert queue.messages <= capacity
        assert queue.messages <= 1 or queue.total_bytes <= room_bytes
        assert len(queue) <= 3 * queue.messages + 2
    while take():
        assert queue.total_bytes == model.total_bytes


@pytest.mark.parametrize("on_full", ["pause", "drop_newest", "drop_oldest", "conflate"])
@given(operations=_operations, capacity=st.integers(1, 5), room_bytes=st.integers(1, 20))
def test_every_message_is_taken_or_counted(
    on_full: Any, operations: list[Any], capacity: int, room_bytes: int
) -> None:
    """Without resets: taken, replaced and in gaps make up all that came."""
    policy = Conflate() if on_full == "conflate" else on_full
    queue = make(policy, capacity, room_bytes)
    came = 0
    items: list[Any] = []
    for operation, *arguments in operations:
        if operation == "offer":
            came += 1
            offer(queue, "x", arguments[0], arguments[1])
        elif operation == "take":
            items += queue.take_many(arguments[0])
    items += queue.take_many(1000)
    gaps = sum(item.count for item in items if isinstance(item, Gap))
    taken = sum(isinstance(item, Message) for item in items)
    assert gaps == queue.lost
    if on_full == "conflate":
        assert taken + gaps <= came
    else:
        assert taken + gaps == came

"""The outbox: order, bounds and who is told what."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rt.message import WITHDRAWN, Outcome, Priority, dropped
from trio_rt.options import OutboxLimits
from trio_rt.protocol.lanes import PATIENCE_S, Entry, Lanes

LOW, NORMAL, HIGH, CRITICAL = Priority


def entry(
    data: str = "",
    priority: Priority = NORMAL,
    *,
    key: str | None = None,
    order: str | None = None,
    expires_at: float = math.inf,
    durable: bool = False,
) -> Entry:
    return Entry(
        data.encode(),
        priority=priority,
        key=key,
        order=order,
        expires_at=expires_at,
        durable=durable,
    )


class Queue(Lanes):
    """Lanes that keep a log of who left and how."""

    def __init__(self, messages: float = math.inf, total_bytes: float = math.inf) -> None:
        self.left: list[tuple[str, str]] = []
        super().__init__(
            OutboxLimits(messages=messages, total_bytes=total_bytes),
            lambda entry, outcome: self.left.append((entry.data.decode(), str(outcome))),
        )

    def add(self, *entries: Entry, now: float = 0.0) -> list[bool]:
        return [self.offer(each, now) for each in entries]

    def popped(self, now: float = 0.0) -> str:
        found = []
        while (each := self.pop(now)) is not None:
            found.append(each.data.decode())
        return " ".join(found)


# Order


def test_fifo_within_a_lane() -> None:
    """Messages of one priority leave as they came."""
    queue = Queue()
    queue.add(entry("a"), entry("b"), entry("c"))
    assert queue.popped() == "a b c"


def test_more_urgent_first() -> None:
    """What came at the same time leaves by priority."""
    queue = Queue()
    queue.add(*(entry(priority.name, priority) for priority in Priority))
    assert queue.popped() == "CRITICAL HIGH NORMAL LOW"


def test_critical_is_strictly_first() -> None:
    """No age lets a message go before a critical one."""
    queue = Queue()
    queue.go_online(0.0)
    queue.add(entry("old", LOW))
    queue.add(entry("now", CRITICAL), now=1e6)
    assert queue.popped(1e6) == "now old"


def test_critical_does_not_age() -> None:
    """Critical messages are first in, first out, also when a high one is older."""
    queue = Queue()
    queue.go_online(0.0)
    queue.add(entry("high", HIGH), now=0.0)
    queue.add(entry("c1", CRITICAL), now=100.0)
    queue.add(entry("c2", CRITICAL), now=200.0)
    assert queue.popped(200.0) == "c1 c2 high"


@pytest.mark.parametrize(("slow", "fast"), [(LOW, NORMAL), (LOW, HIGH), (NORMAL, HIGH)])
@pytest.mark.parametrize(("sooner_s", "expected"), [(0.01, "fast slow"), (-0.01, "slow fast")])
def test_patience(slow: Priority, fast: Priority, sooner_s: float, expected: str) -> None:
    """One is overtaken by what came less than the difference of patience later, by no other."""
    later_s = PATIENCE_S[slow] - PATIENCE_S[fast] - sooner_s
    queue = Queue()
    queue.go_online(0.0)
    queue.add(entry("slow", slow), now=0.0)
    queue.add(entry("fast", fast), now=later_s)
    assert queue.popped(later_s) == expected


def test_patience_is_that_of_the_http_gate() -> None:
    """2, 10 and 30 seconds."""
    assert (PATIENCE_S[HIGH], PATIENCE_S[NORMAL], PATIENCE_S[LOW]) == (2.0, 10.0, 30.0)


def test_equals_go_by_priority() -> None:
    """Of two that are due at the same time the more urgent leaves first."""
    queue = Queue()
    queue.go_online(0.0)
    queue.add(entry("slow", LOW), now=0.0)
    queue.add(entry("fast", HIGH), now=28.0)
    assert queue.popped(28.0) == "fast slow"


def test_starts_offline() -> None:
    """Before the first link nothing ages."""
    queue = Queue()
    queue.add(entry("low", LOW), now=0.0)
    queue.add(entry("high", HIGH), now=1000.0)
    assert queue.popped(1000.0) == "high low"


def test_time_offline_does_not_count() -> None:
    """An outage of an hour does not make a low message overtake a new high one."""
    queue = Queue()
    queue.go_online(10.0)
    queue.add(entry("low", LOW), now=12.0)
    queue.go_offline(15.0)
    queue.go_online(3615.0)
    queue.add(entry("high", HIGH), now=3616.0)
    assert queue.popped(3616.0) == "high low"


def test_time_online_adds_up_over_links() -> None:
    """29 seconds of waiting over two links count as 29."""
    queue = Queue()
    queue.go_online(0.0)
    queue.add(entry("low", LOW), now=0.0)
    queue.go_offline(20.0)
    queue.go_online(120.0)
    queue.add(entry("high", HIGH), now=129.0)
    assert queue.popped(129.0) == "low high"


def test_going_online_twice_is_going_online_once() -> None:
    """The first time counts: the waiting does not start anew."""
    queue = Queue()
    queue.go_online(10.0)
    queue.add(entry("low", LOW), now=10.0)
    queue.go_online(35.0)
    queue.add(entry("high", HIGH), now=39.0)
    assert queue.popped(39.0) == "low high"


def test_going_offline_twice_is_going_offline_once() -> None:
    """The clock of waiting stands still, it does not jump."""
    queue = Queue()
    queue.go_online(0.0)
    queue.add(entry("normal"), now=30.0)
    queue.go_offline(50.0)
    queue.go_offline(80.0)
    queue.add(entry("high", HIGH), now=90.0)
    assert queue.popped(90.0) == "normal high"


def test_pop_leaves_what_has_no_room() -> None:
    """If the most urgent is too large, it waits, and nobody smaller goes before it."""
    queue = Queue()
    queue.add(entry("large", HIGH), entry("s", LOW))
    assert queue.pop(0.0, 4) is None
    assert len(queue) == 2
    first = queue.pop(0.0, 5)
    assert first is not None
    assert first.data == b"large"


def test_pop_of_nothing() -> None:
    """An empty queue gives None."""
    assert Queue().pop(0.0) is None


def test_popped_is_not_settled() -> None:
    """Who pops an entry settles it; the queue tells nobody."""
    queue = Queue()
    one = entry("a")
    queue.add(one)
    assert queue.pop(0.0) is one
    assert one.outcome is None
    assert queue.left == []


# Order keys


def test_order_sticks_to_its_lane() -> None:
    """A more urgent newcomer of an order does not overtake its own."""
    queue = Queue()
    queue.add(entry("a", LOW, order="o"), entry("n"), entry("b", CRITICAL, order="o"))
    assert queue.depth() == {LOW: 2, NORMAL: 1, HIGH: 0, CRITICAL: 0}
    assert queue.popped() == "n a b"


def test_a_less_urgent_newcomer_joins_its_order_too() -> None:
    """The lane is that of the oldest, also where it is the more urgent one."""
    queue = Queue()
    queue.add(entry("a", HIGH, order="o"), entry("b", LOW, order="o"), entry("n"))
    assert queue.popped() == "a b n"


def test_order_forgets_its_lane_when_none_is_queued() -> None:
    """After the last one has left, a newcomer takes the lane of its priority."""
    queue = Queue()
    queue.add(entry("a", LOW, order="o"), entry("b", LOW, order="o"))
    queue.pop(0.0)
    queue.add(entry("c", HIGH, order="o"))
    assert queue.depth()[LOW] == 2
    assert queue.popped() == "b c"
    queue.add(entry("d", HIGH, order="o"))
    assert queue.depth()[HIGH] == 1


def test_withdrawn_ones_do_not_hold_an_order() -> None:
    """An order whose only message was withdrawn has no lane."""
    queue = Queue()
    one = entry("a", LOW, order="o")
    queue.add(one)
    queue.withdraw(one)
    queue.add(entry("b", HIGH, order="o"))
    assert queue.depth()[HIGH] == 1


# Keys


def test_key_takes_the_place() -> None:
    """The newcomer leaves where the old one would have, and the old one is told."""
    queue = Queue()
    queue.add(entry("a", key="k"), entry("b"), entry("c", key="k"))
    assert queue.left == [("a", "dropped (replaced)")]
    assert queue.popped() == "c b"


def test_key_keeps_the_age() -> None:
    """A message that is replaced all the time does not starve."""
    queue = Queue()
    queue.go_online(0.0)
    queue.add(entry("a", LOW, key="k"), now=0.0)
    queue.add(entry("b", LOW, key="k"), now=29.0)
    queue.add(entry("c", HIGH), now=29.5)
    assert queue.popped(29.5) == "b c"


def test_more_urgent_one_of_a_key_moves() -> None:
    """It goes to the tail of its own lane, with its own age."""
    queue = Queue()
    queue.add(entry("a", LOW, key="k"), entry("b", HIGH), entry("c", HIGH, key="k"))
    assert queue.left == [("a", "dropped (replaced)")]
    assert queue.depth()[LOW] == 0
    assert queue.popped() == "b c"


def test_less_urgent_one_of_a_key_stays() -> None:
    """Taking a more urgent one's place is no step down."""
    queue = Queue()
    queue.add(entry("a", HIGH, key="k"), entry("b", HIGH), entry("c", LOW, key="k"))
    assert queue.popped() == "c b"


def test_a_key_compares_with_the_lane_not_the_priority() -> None:
    """Whether a newcomer is more urgent is asked of the lane that the old one was in."""
    queue = Queue()
    queue.add(entry("a", HIGH, order="o"), entry("b", LOW, key="k", order="o"))
    queue.add(entry("c", HIGH), entry("d", NORMAL, key="k"))
    assert queue.popped() == "a d c"
    queue.add(entry("e", LOW, order="o"), entry("f", HIGH, key="k", order="o"))
    queue.add(entry("g", HIGH, key="k"))
    assert queue.popped() == "g e"


def test_key_with_order_stays() -> None:
    """A more urgent newcomer that has an order takes lane and place of the old one."""
    queue = Queue()
    queue.add(
        entry("a", LOW, key="k", order="o"),
        entry("b", LOW, order="o"),
        entry("c", HIGH, key="k", order="o"),
    )
    assert queue.depth()[LOW] == 2
    assert queue.popped() == "c b"


def test_key_with_a_new_order_stays_and_brings_the_order_along() -> None:
    """An order that starts in a taken place sticks to that lane."""
    queue = Queue()
    queue.add(entry("a", LOW, key="k"), entry("b", HIGH, key="k", order="o"))
    queue.add(entry("c", HIGH, order="o"))
    assert queue.depth() == {LOW: 2, NORMAL: 0, HIGH: 0, CRITICAL: 0}
    assert queue.popped() == "b c"


def test_key_of_a_stranger_does_not_break_an_order() -> None:
    """Where the place would put a newcomer before its own order, it goes behind them."""
    queue = Queue()
    queue.add(entry("a", HIGH, key="k"), entry("b", HIGH, order="o"))
    queue.add(entry("c", LOW, key="k", order="o"))
    assert queue.left == [("a", "dropped (replaced)")]
    assert queue.popped() == "b c"


def test_key_is_free_after_leaving() -> None:
    """A popped message is replaced by nobody."""
    queue = Queue()
    queue.add(entry("a", key="k"))
    queue.pop(0.0)
    queue.add(entry("b", key="k"))
    assert queue.left == []
    assert queue.popped() == "b"


def test_key_replaces_what_is_durable() -> None:
    """Durable is a shield from eviction, not from a newer one of the same key."""
    queue = Queue()
    queue.add(entry("a", key="k", durable=True), entry("b", key="k", durable=True))
    assert queue.left == [("a", "dropped (replaced)")]


def test_key_needs_no_second_room() -> None:
    """A full queue takes a newcomer that replaces."""
    queue = Queue(messages=1, total_bytes=1)
    assert queue.add(entry("a", key="k"), entry("b", key="k")) == [True, True]
    assert queue.total_bytes == 1


def test_larger_one_of_a_key_is_refused() -> None:
    """Replacing respects the bytes, and a refusal changes nothing."""
    queue = Queue(total_bytes=4)
    old = entry("aa", key="k")
    assert queue.add(old, entry("bb"), entry("ccc", key="k")) == [True, True, False]
    assert queue.left == []
    assert old.outcome is None
    assert queue.popped() == "aa bb"


def test_larger_one_of_a_key_evicts() -> None:
    """Bytes that replacing lacks come from lower lanes."""
    queue = Queue(total_bytes=4)
    assert all(queue.add(entry("aa", HIGH, key="k"), entry("bb", LOW), entry("ccc", key="k")))
    assert queue.left == [("bb", "dropped (evicted)"), ("aa", "dropped (replaced)")]


def test_the_replaced_is_not_evicted() -> None:
    """It has gone already; the next one makes room."""
    queue = Queue(total_bytes=6)
    queue.add(entry("aa", LOW, key="k"), entry("bb", LOW), entry("cc", HIGH))
    assert queue.add(entry("dddd", HIGH, key="k")) == [True]
    assert queue.left == [("bb", "dropped (evicted)"), ("aa", "dropped (replaced)")]
    assert queue.popped() == "cc dddd"


def test_what_a_key_frees_is_not_counted_twice() -> None:
    """The replaced one's bytes make room once, not as a replaced and as an evicted one."""
    queue = Queue(total_bytes=4)
    queue.add(entry("aa", LOW, key="k"), entry("bb", HIGH))
    assert queue.add(entry("ccc", HIGH, key="k")) == [False]
    assert queue.popped() == "bb aa"


# Bounds


def test_full_of_messages() -> None:
    """Beyond the bound an equal is refused."""
    queue = Queue(messages=2)
    assert queue.add(entry("a"), entry("b"), entry("c")) == [True, True, False]
    assert (len(queue), queue.total_bytes) == (2, 2)


def test_full_of_bytes() -> None:
    """The bound is in bytes of data as well, and it is reached exactly."""
    queue = Queue(total_bytes=4)
    assert queue.add(entry("aa"), entry("bb"), entry("c")) == [True, True, False]
    assert queue.total_bytes == 4


def test_one_larger_than_all() -> None:
    """What can never fit is refused, and evicts nobody."""
    queue = Queue(total_bytes=4)
    assert queue.add(entry("a", LOW), entry("large", CRITICAL)) == [True, False]
    assert queue.left == []


def leave(queue: Queue, one: Entry, way: str) -> None:
    match way:
        case "pop":
            assert queue.pop(0.0) is one
        case "withdraw":
            assert queue.withdraw(one)
        case "expire":
            queue.expire(5.0)
        case "clear":
            queue.clear(WITHDRAWN)
        case "replace":
            queue.add(entry("", LOW, key="k"))
            queue.pop(0.0)
    assert (len(queue), queue.total_bytes) == (0, 0)


WAYS = pytest.mark.parametrize("way", ["pop", "withdraw", "expire", "clear", "replace"])


@WAYS
@pytest.mark.parametrize("durable", [True, False])
def test_room_comes_back(way: str, durable: bool) -> None:
    """Every way out gives back messages and bytes, and forgets key, order and time."""
    queue = Queue(messages=2, total_bytes=3)
    one = entry("abc", LOW, order="o", key="k", expires_at=5.0, durable=durable)
    queue.add(one)
    leave(queue, one, way)
    assert (queue._keys, queue._orders, queue.next_expiry) == ({}, {}, math.inf)
    assert queue.add(entry("l", LOW), entry("ab")) == [True, True]


@WAYS
@pytest.mark.parametrize("durable", [True, False])
def test_who_left_is_not_taken_for_evictable(way: str, durable: bool) -> None:
    """What may be evicted is counted right after every way out, in messages and bytes."""
    queue = Queue(messages=3, total_bytes=6)
    one = entry("abc", LOW, key="k", expires_at=5.0, durable=durable)
    queue.add(one)
    leave(queue, one, way)
    left = list(queue.left)
    queue.add(entry("l", LOW), entry("hhh", HIGH))
    assert queue.add(entry("hhhh", HIGH)) == [False]
    assert queue.left == left
    assert queue.add(entry("h", HIGH), entry("h", HIGH)) == [True, True]
    assert queue.left == [*left, ("l", "dropped (evicted)")]
    assert queue.add(entry("h", HIGH)) == [False]


def test_evicts_the_oldest_of_the_lowest() -> None:
    """LOW goes before NORMAL, the oldest first."""
    queue = Queue(messages=3)
    queue.add(entry("n"), entry("l1", LOW), entry("l2", LOW))
    queue.add(entry("h1", HIGH), entry("h2", HIGH), entry("h3", HIGH))
    assert queue.left == [(each, "dropped (evicted)") for each in ("l1", "l2", "n")]
    assert queue.popped() == "h1 h2 h3"


def test_evicts_nobody_in_its_own_lane() -> None:
    """Among equals the newcomer waits."""
    queue = Queue(messages=1)
    assert queue.add(entry("a", HIGH), entry("b", HIGH)) == [True, False]
    assert queue.popped() == "a"


def test_evicts_as_many_as_it_takes() -> None:
    """A large one takes the room of several, over lanes."""
    queue = Queue(total_bytes=6)
    queue.add(entry("aa", LOW), entry("bb"), entry("cc"))
    assert queue.add(entry("dddd", HIGH)) == [True]
    assert queue.left == [("aa", "dropped (evicted)"), ("bb", "dropped (evicted)")]
    assert queue.popped() == "dddd cc"


def test_evicts_only_if_that_makes_room() -> None:
    """Nobody goes for a newcomer that is refused all the same."""
    queue = Queue(total_bytes=6)
    queue.add(entry("aa", LOW), entry("bbbb", HIGH))
    assert queue.add(entry("ccc", HIGH)) == [False]
    assert queue.left == []
    assert queue.popped() == "bbbb aa"


def test_evicts_nothing_durable() -> None:
    """Durable messages are passed over."""
    queue = Queue(messages=2)
    queue.add(entry("d", LOW, durable=True), entry("l", LOW))
    assert queue.add(entry("h1", HIGH), entry("h2", HIGH)) == [True, False]
    assert queue.left == [("l", "dropped (evicted)")]
    assert queue.popped() == "h1 d"


def test_bytes_of_durable_ones_make_no_room() -> None:
    """The bytes of what cannot be evicted do not count as room."""
    queue = Queue(total_bytes=4)
    queue.add(entry("ddd", LOW, durable=True), entry("l", LOW))
    assert queue.add(entry("hh", HIGH)) == [False]
    assert queue.left == []


def test_order_decides_who_may_be_evicted() -> None:
    """A critical newcomer that its order holds in LOW evicts nobody."""
    queue = Queue(messages=2)
    queue.add(entry("a", LOW, order="o"), entry("n"))
    assert queue.add(entry("b", CRITICAL, order="o")) == [False]


def test_expired_ones_make_room() -> None:
    """A newcomer does not wait, or evict, for what is dead already."""
    queue = Queue(messages=2)
    queue.add(entry("l", LOW), entry("x", HIGH, expires_at=1.0))
    assert queue.add(entry("h", HIGH), now=1.0) == [True]
    assert queue.left == [("x", "dropped (expired)")]


# Leaving early


def test_withdraw() -> None:
    """It is gone and settled, once."""
    queue = Queue()
    one, two = entry("a"), entry("b")
    queue.add(one, two)
    assert queue.withdraw(one)
    assert not queue.withdraw(one)
    assert one.outcome == WITHDRAWN
    assert queue.left == [("a", "withdrawn")]
    assert queue.popped() == "b"


def test_withdraw_after_pop() -> None:
    """What has left cannot be taken back."""
    queue = Queue()
    one = entry("a")
    queue.add(one)
    queue.pop(0.0)
    assert not queue.withdraw(one)
    assert one.outcome is None


def test_expires_on_time() -> None:
    """A message is dropped at its time and not before."""
    queue = Queue()
    queue.add(entry("a", expires_at=5.0), entry("b", expires_at=7.0), entry("c"))
    queue.expire(4.999)
    assert queue.left == []
    assert queue.next_expiry == 5.0
    queue.expire(5.0)
    assert queue.left == [("a", "dropped (expired)")]
    assert queue.next_expiry == 7.0
    queue.expire(100.0)
    assert queue.next_expiry == math.inf
    assert queue.popped(100.0) == "c"


def test_pop_never_gives_what_has_expired() -> None:
    """Expiry is checked at the moment of leaving."""
    queue = Queue()
    queue.add(entry("a", HIGH, expires_at=5.0), entry("b"))
    assert queue.popped(5.0) == "b"
    assert queue.left == [("a", "dropped (expired)")]


def test_offered_too_late() -> None:
    """What is expired when it comes is accepted, told so, and disturbs nobody."""
    queue = Queue(messages=1)
    queue.add(entry("a", LOW, key="k"))
    assert queue.add(entry("b", HIGH, key="k", expires_at=3.0), now=3.0) == [True]
    assert queue.left == [("b", "dropped (expired)")]
    assert queue.popped() == "a"


def test_next_expiry_forgets_those_who_left() -> None:
    """No alarm for what was popped, withdrawn or replaced."""
    queue = Queue()
    one = entry("a", expires_at=1.0)
    queue.add(one, entry("b", key="k", expires_at=2.0), entry("c", expires_at=3.0))
    queue.withdraw(one)
    queue.add(entry("d", key="k", expires_at=9.0))
    assert queue.next_expiry == 3.0
    queue.popped()
    assert queue.next_expiry == math.inf


def test_a_place_taken_over_has_the_newcomers_expiry() -> None:
    """The old one's time is nothing to the new one."""
    queue = Queue()
    queue.add(entry("a", key="k", expires_at=1.0), entry("b", key="k"))
    queue.expire(1.0)
    assert queue.popped(1.0) == "b"


def test_clear_settles_everything() -> None:
    """All that is queued gets the outcome, the most urgent first."""
    queue = Queue()
    queue.add(entry("a", LOW), entry("b", CRITICAL, key="k"), entry("c", order="o"))
    queue.clear(dropped("closed"))
    assert queue.left == [(each, "dropped (closed)") for each in ("b", "c", "a")]
    assert (len(queue), queue.total_bytes, queue.pop(0.0)) == (0, 0, None)


def test_clear_some() -> None:
    """A predicate says who goes; the others stay in their order."""
    queue = Queue()
    queue.add(*(entry(each) for each in "abcd"))
    queue.clear(dropped("offline"), lambda each: each.data in b"bc")
    assert queue.left == [("b", "dropped (offline)"), ("c", "dropped (offline)")]
    assert queue.popped() == "a d"


def test_the_callback_may_use_the_queue() -> None:
    """When somebody is told, the queue is consistent, the newcomer is in it."""
    seen: list[tuple[int, int, Outcome | None]] = []

    def settled(entry: Entry, outcome: Outcome) -> None:
        seen.append((len(lanes), lanes.total_bytes, entry.outcome))
        if outcome == dropped("evicted"):
            assert not lanes.offer(Entry(b"again", priority=LOW), 0.0)

    lanes = Lanes(OutboxLimits(messages=1), settled)
    lanes.offer(Entry(b"a", priority=LOW), 0.0)
    lanes.offer(Entry(b"bb", key="k"), 0.0)
    lanes.offer(Entry(b"ccc", key="k"), 0.0)
    assert seen == [(1, 2, dropped("evicted")), (1, 3, dropped("replaced"))]


def test_the_first_outcome_stays() -> None:
    """An entry is settled once."""
    one = entry("a")
    one.settle(WITHDRAWN)
    one.settle(dropped("closed"))
    assert one.outcome == WITHDRAWN


# Cost


def test_memory_of_the_dead_is_given_back() -> None:
    """Entries that left from the middle are not kept alive, and leave few empty places."""
    queue = Queue()
    head = entry("head")
    queue.add(head)
    gone = [entry("x" * 1000, expires_at=9.0) for _ in range(10_000)]
    queue.add(*gone)
    queued = sys.getrefcount(gone[5000])
    for each in gone:
        queue.withdraw(each)
    # Outside the assertion, which holds references of its own.
    left = sys.getrefcount(gone[5000])
    assert left == queued - 1
    assert sum(len(lane.places) for lane in queue._lanes) < 50
    assert len(queue._timers) < 50


@pytest.mark.parametrize("different", [1, 2])
def test_replacing_for_ever_takes_no_memory(different: int) -> None:
    """Timers of a key that is renewed all the time do not pile up, equal ones neither."""
    queue = Queue()
    for number in range(10_000):
        queue.add(entry("x", key="k", expires_at=10.0 + number % different))
    assert len(queue._timers) < 50
    assert queue.next_expiry == 9.0 + different
    assert sum(len(lane.places) for lane in queue._lanes) == 1


def test_times_stay_in_order_when_most_have_left() -> None:
    """The earliest of those that are left is the next to expire, down to the last."""
    queue = Queue()
    entries = [entry("x", expires_at=float(1 + number * 37 % 1000)) for number in range(1000)]
    queue.add(*entries)
    for each in entries:
        if each.expires_at % 10:
            queue.withdraw(each)
    for end in range(10, 1001, 10):
        assert queue.next_expiry == end
        queue.expire(float(end))
    assert len(queue) == 0


class CountingDeque(deque[object]):
    """A deque that counts the walks over it."""

    walks = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        type(self).walks += 1
        return super().__iter__()


def test_a_refusal_walks_over_nothing() -> None:
    """Whether eviction could make room is known without looking at the messages."""
    queue = Queue(messages=1000)
    queue.add(*(entry("d", LOW, durable=True) for _ in range(500)))
    queue.add(*(entry("h", HIGH) for _ in range(500)))
    for lane in queue._lanes:
        lane.places = CountingDeque(lane.places)  # type: ignore[assignment]
    CountingDeque.walks = 0
    assert queue.add(*(entry("h", HIGH) for _ in range(100))) == [False] * 100
    assert CountingDeque.walks == 0


def calls_of(work: Callable[[], object]) -> int:
    """How many functions `work` calls: a cost that no busy machine can falsify."""
    calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_50_000_messages() -> None:
    """An insert costs the same with 50,000 messages queued, and so does leaving."""
    queue = Queue()
    entries = [Entry(b"x", priority=Priority(number % 4)) for number in range(50_000)]
    assert calls_of(lambda: queue.add(*entries)) < 10 * len(entries)
    assert len(queue) == 50_000
    assert calls_of(queue.popped) < 20 * len(entries)
    assert len(queue) == 0


def test_renewing_many_keys_stays_cheap() -> None:
    """The work does not grow with the number of keys that are renewed with the same expiry."""
    queue = Queue()
    renewed = [entry("x", key=str(number % 500), expires_at=9.0) for number in range(10_000)]
    assert calls_of(lambda: queue.add(*renewed)) < 60 * len(renewed)


# The whole, against a model that is too simple to be wrong


@attrs.define(eq=False)
class Item:
    entry: Entry
    due: float


class Model:
    """The same rules over plain lists, each by a walk over everything."""

    def __init__(self, messages: float, total_bytes: float) -> None:
        self.messages, self.total_bytes = messages, total_bytes
        self.lanes: dict[Priority, list[Item]] = {priority: [] for priority in Priority}
        self.left: list[tuple[str, str]] = []
        self.online_s = 0.0

    def items(self) -> list[Item]:
        return [item for priority in reversed(Priority) for item in self.lanes[priority]]

    def lane_of(self, item: Item) -> Priority:
        return next(priority for priority in Priority if item in self.lanes[priority])

    def leave(self, item: Item, how: str) -> None:
        self.lanes[self.lane_of(item)].remove(item)
        self.left.append((item.entry.data.decode(), how))

    def expire(self, now: float) -> None:
        for item in self.items():
            if item.entry.expires_at <= now:
                self.leave(item, "dropped (expired)")

    def offer(self, new: Entry, now: float) -> bool:
        self.expire(now)
        if new.expires_at <= now:
            self.left.append((new.data.decode(), "dropped (expired)"))
            return True
        before = {priority: list(lane) for priority, lane in self.lanes.items()}
        left = list(self.left)
        kin = [i for i in self.items() if new.order is not None and i.entry.order == new.order]
        old = next(
            (i for i in self.items() if new.key is not None and i.entry.key == new.key), None
        )
        lane = self.lane_of(kin[0]) if kin else new.priority
        item = Item(new, 0.0)
        in_place = old is not None and (
            new.priority <= self.lane_of(old)
            if new.order is None
            else not kin or old.entry.order == new.order
        )
        if old is not None and in_place:
            lane = self.lane_of(old)
            item.due = old.due
            self.lanes[lane][self.lanes[lane].index(old)] = item
            self.left.append((old.entry.data.decode(), "dropped (replaced)"))
        else:
            if old is not None:
                self.leave(old, "dropped (replaced)")
            item.due = self.online_s + PATIENCE_S[lane]
            self.lanes[lane].append(item)
        while not self.fits():
            for priority in Priority:
                victims = [i for i in self.lanes[priority] if not i.entry.durable]
                if priority < lane and victims:
                    self.leave(victims[0], "dropped (evicted)")
                    break
            else:
                self.lanes, self.left = before, left
                return False
        return True

    def fits(self) -> bool:
        return len(self.items()) <= self.messages and self.bytes() <= self.total_bytes

    def bytes(self) -> int:
        return sum(len(item.entry.data) for item in self.items())

    def pop(self, now: float, room: float) -> Entry | None:
        self.expire(now)
        if not self.items():
            return None
        critical = self.lanes[CRITICAL]
        heads = [self.lanes[p][0] for p in (HIGH, NORMAL, LOW) if self.lanes[p]]
        item = critical[0] if critical else min(heads, key=lambda head: head.due)
        if len(item.entry.data) > room:
            return None
        self.lanes[self.lane_of(item)].remove(item)
        return item.entry


OFFERS = st.tuples(
    st.just("offer"),
    st.sampled_from(Priority),
    st.sampled_from([None, None, "k", "l"]),
    st.sampled_from([None, None, "o", "p"]),
    st.sampled_from([math.inf, math.inf, 0.0, 3.0, 12.0]),
    st.booleans(),
    st.integers(0, 5),
)
OTHERS = st.one_of(
    st.tuples(st.just("pop"), st.sampled_from([math.inf, 3.0])),
    st.tuples(st.just("withdraw"), st.integers(0, 7)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0, 9.0, 31.0])),
    st.tuples(st.sampled_from(["online", "offline", "expire", "clear"])),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.one_of(OFFERS, OFFERS, OTHERS), max_size=40),
    st.integers(1, 8),
    st.integers(1, 30),
)
def test_like_the_model(
    operations: list[tuple[object, ...]], messages: int, total_bytes: int
) -> None:
    """Any history gives the same answers, outcomes, counts and order as the model."""
    queue, model = Queue(messages, total_bytes), Model(messages, total_bytes)
    now, online, names = 0.0, False, iter(range(1000))
    for operation in operations:
        match operation:
            case ("offer", Priority() as priority, key, order, float(ttl), durable, int(size)):
                data = f"{next(names)}".ljust(size, ".")
                new = Entry(
                    data.encode(),
                    priority=priority,
                    key=key,  # type: ignore[arg-type]
                    order=order,  # type: ignore[arg-type]
                    expires_at=now + ttl,
                    durable=bool(durable),
                )
                assert queue.offer(new, now) == model.offer(new, now)
            case ("pop", float(room)):
                assert queue.pop(now, room) is model.pop(now, room)
            case ("withdraw", int(index)) if index < len(model.items()):
                item = model.items()[index]
                model.leave(item, "withdrawn")
                assert queue.withdraw(item.entry)
            case ("wait", float(seconds)):
                now += seconds
                model.online_s += seconds * online
            case ("online",):
                online = True
                queue.go_online(now)
            case ("offline",):
                online = False
                queue.go_offline(now)
            case ("expire",):
                queue.expire(now)
                model.expire(now)
            case ("clear",):
                queue.clear(dropped("closed"))
                for item in model.items():
                    model.leave(item, "dropped (closed)")
        assert sorted(queue.left) == sorted(model.left)
        assert len(queue) == len(model.items())
        assert queue.total_bytes == model.bytes()
        assert queue.depth() == {p: len(lane) for p, lane in model.lanes.items()}
        ends = [item.entry.expires_at for item in model.items()]
        assert queue.next_expiry == min(ends, default=math.inf)
    model.expire(now)
    expected = []
    while (each := model.pop(now, math.inf)) is not None:
        expected.append(each.data.decode())
    assert queue.popped(now) == " ".join(expected)

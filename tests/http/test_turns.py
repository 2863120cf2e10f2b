"""Whose turn it is."""

from __future__ import annotations

import math
import random
from itertools import product
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rt.http._turns import FEW, Turn, Turns
from trio_rt.message import Priority

LOW, NORMAL, HIGH, CRITICAL = Priority

PATIENCE_S = {HIGH: 2.0, NORMAL: 10.0, LOW: 30.0}


def make(limit: float = 1, **options: Any) -> Turns:
    return Turns(limit, **({"patience_s": PATIENCE_S} | options))


@attrs.define(eq=False)
class Queue:
    """Turns by name, at a time that only moves when told."""

    turns: Turns
    now: float = 0.0
    names: dict[Turn, str] = attrs.Factory(dict)

    def enter(self, name: str, priority: Priority = NORMAL, host: str = "a") -> Turn:
        turn = Turn(priority)
        self.names[turn] = name
        self.turns.enter(turn, host, self.now)
        return turn

    def start(self) -> str:
        """All that start now, in their order."""
        started = []
        while (turn := self.turns.next(self.now)) is not None:
            started.append(self.names[turn])
        return " ".join(started)

    def order(self) -> str:
        """All that wait, in the order in which they start if each ends at once."""
        order: list[str] = []
        while True:
            for turn in self.names:
                if turn.running:
                    self.turns.leave(turn)
            turn_or_none = self.turns.next(self.now)
            if turn_or_none is None:
                return " ".join(order)
            order.append(self.names[turn_or_none])


def full(limit: float = 1, **options: Any) -> Queue:
    """With every slot taken, each by a host of its own."""
    queue = Queue(make(limit, **options))
    for number in range(int(limit)):
        assert queue.turns.enter(Turn(CRITICAL), f"full {number}", 0.0)
    return queue


def free(queue: Queue, count: int = 1) -> None:
    queue.turns.limit += count


# The order


def test_a_free_slot_is_given_at_once() -> None:
    """While there is room and nobody waits, whoever comes has a slot."""
    turns = make(2)
    first, second, third = Turn(LOW), Turn(LOW), Turn(CRITICAL)
    assert [turns.enter(turn, "a", 0.0) for turn in (first, second, third)] == [True, True, False]
    assert (turns.running, turns.waiting) == (2, 1)
    assert (first.running, third.running) == (True, False)


def test_critical_is_first() -> None:
    """CRITICAL goes before those that are overdue for ever so long."""
    queue = full()
    queue.enter("old")
    queue.now = 1e6
    queue.enter("new", CRITICAL)
    free(queue)
    assert queue.order() == "new old"


@pytest.mark.parametrize(
    ("early", "late", "patience_s"), [(LOW, NORMAL, 20.0), (LOW, HIGH, 28.0), (NORMAL, HIGH, 8.0)]
)
def test_patience(early: Priority, late: Priority, patience_s: float) -> None:
    """A more urgent one overtakes until it comes later than the difference of patience."""
    for later_s, order in ((patience_s, "late early"), (patience_s + 0.1, "early late")):
        queue = full()
        queue.enter("early", early)
        queue.now = later_s
        queue.enter("late", late)
        free(queue)
        assert queue.order() == order


@pytest.mark.parametrize("priority", Priority)
def test_first_come_first_served(priority: Priority) -> None:
    """Within a priority the order is that of arrival, at the same instant too."""
    queue = full()
    names = [f"{number:02}" for number in range(30)]
    for name in names:
        queue.enter(name, priority, host=name[-1])
        queue.now += int(name) % 2
    free(queue)
    assert queue.order() == " ".join(names)


def test_endless_patience_is_strict_priority() -> None:
    """With no ageing the lower ones wait until there is none above."""
    queue = full(patience_s=dict.fromkeys(PATIENCE_S, math.inf))
    for name, priority in zip("lnhc", Priority, strict=True):
        queue.enter(name, priority)
        queue.now += 1e6
    queue.enter("L", LOW)
    free(queue)
    assert queue.order() == "c h n l L"


def test_no_barging() -> None:
    """A newcomer does not take a slot that became free for one that waits."""
    queue = full()
    queue.enter("first")
    free(queue)
    queue.enter("second")
    assert queue.start() == "first"


# Hosts


def test_a_full_host_holds_up_no_other() -> None:
    """Behind any number of calls for a full host, one for another starts at once."""
    queue = Queue(make(10, per_host=2))
    for number in range(100):
        queue.enter(str(number), CRITICAL)
    queue.enter("other", LOW, host="b")
    assert queue.start() == "other"


def test_a_host_goes_on_when_it_has_a_slot() -> None:
    """The slot that a host gave back is for those that wait for that host."""
    queue = Queue(make(10, per_host=1))
    first = queue.enter("a1", host="a")
    queue.enter("a2", host="a")
    queue.enter("a3", host="a")
    queue.enter("b1", host="b")
    assert queue.start() == "b1"
    queue.turns.leave(first)
    assert queue.start() == "a2"


def test_a_newcomer_at_the_top_of_a_full_host() -> None:
    """The most urgent for a host is first when it has a slot, whoever came before."""
    queue = Queue(make(10, per_host=1))
    first = queue.enter("a1")
    queue.enter("a2", LOW)
    queue.enter("a3", HIGH)
    queue.turns.leave(first)
    assert queue.start() == "a3"


def test_idle_hosts_are_forgotten() -> None:
    """A walk over many hosts leaves a few in memory, and those that are busy."""
    turns = make(10, per_host=1)
    busy = Turn(LOW)
    turns.enter(busy, "busy", 0.0)
    for number in range(1000):
        turn = Turn(LOW)
        turns.enter(turn, number, 0.0)
        turns.leave(turn)
    assert len(turns._hosts) <= 2 * FEW + 4
    assert not turns.enter(Turn(LOW), "busy", 0.0)


def test_hosts_that_are_waited_for_are_not_forgotten() -> None:
    """A host of which none runs keeps its queue, however many others come and go."""
    queue = full(1, per_host=1)
    first = queue.enter("1", CRITICAL, host="a")
    queue.enter("2", CRITICAL, host="a")
    for number in range(100):
        queue.turns.leave(queue.enter(f"other {number}", host=str(number)))
    queue.enter("3", CRITICAL, host="a")
    free(queue, 10)
    assert queue.start() == "1"
    queue.turns.leave(first)
    assert queue.start() == "2"


# The reserve


def test_the_reserve_is_for_critical() -> None:
    """The last slots are for CRITICAL, which may have the others too."""
    queue = Queue(make(4, reserve=1))
    for number in range(5):
        queue.enter(str(number), HIGH)
    assert queue.turns.running == 3
    assert queue.enter("c", CRITICAL)
    assert queue.start() == "c"
    queue.enter("d", CRITICAL)
    assert queue.start() == ""


def test_a_critical_call_uses_the_reserve_first() -> None:
    """It takes nothing from what is left to the others."""
    queue = Queue(make(4, reserve=1))
    queue.enter("c", CRITICAL)
    for number in range(5):
        queue.enter(str(number))
    assert queue.turns.running == 4


def test_the_reserve_of_a_host() -> None:
    """A host that others have filled still has a slot for CRITICAL."""
    queue = Queue(make(10, per_host=3, reserve=1))
    for number in range(3):
        queue.enter(str(number))
    assert queue.turns.running_of[NORMAL] == 2
    queue.enter("c", CRITICAL)
    assert queue.start() == "c"


def test_one_slot_is_left_to_the_others() -> None:
    """A limit as low as the reserve does not shut them out."""
    queue = Queue(make(1, reserve=2))
    queue.enter("a")
    assert queue.turns.running == 1


# The limit and the rate


def test_a_lower_limit() -> None:
    """Lowered, nobody starts until less than that run; raised, they start."""
    turns = make(3)
    running = [Turn(NORMAL) for _ in range(3)]
    for turn in running:
        turns.enter(turn, "a", 0.0)
    turns.limit = 1
    queue = Queue(turns)
    queue.enter("next")
    for turn in running:
        assert queue.start() == ""
        turns.leave(turn)
    assert queue.start() == "next"
    queue.enter("last")
    turns.limit = 2
    assert queue.start() == "last"


@pytest.mark.parametrize(("rate_per_s", "burst", "window_s"), [(3.0, 3, 1.0), (0.5, 1, 2.0)])
def test_rate(rate_per_s: float, burst: int, window_s: float) -> None:
    """No more than the rate start in its window; the next when the first is that long ago."""
    queue = Queue(make(100, rate_per_s=rate_per_s), now=5.0)
    names = ["a", "b", "c", "d", "e", "f", "g", "h"]
    for name in names:
        queue.enter(name)
    assert queue.start().split() == names[:burst]
    assert queue.turns.wake_at(queue.now) == 5.0 + window_s
    queue.now += window_s - 0.01
    assert queue.start() == ""
    queue.now = 5.0 + window_s
    assert queue.start().split() == names[burst : 2 * burst]


def test_the_rate_is_for_critical_too() -> None:
    """It is first, but no sooner than the rate allows."""
    queue = Queue(make(100, rate_per_s=1.0))
    queue.enter("a")
    assert queue.start() == "a"
    queue.enter("b", HIGH)
    queue.enter("c", CRITICAL)
    assert queue.start() == ""
    queue.now = 1.0
    assert queue.start() == "c"


def test_no_alarm_without_need() -> None:
    """Time alone changes nothing where nobody waits, or only for a slot."""
    queue = full()
    queue.enter("a")
    assert queue.turns.wake_at(0.0) == math.inf
    paced = Queue(make(1, rate_per_s=1.0))
    paced.enter("a")
    paced.start()
    assert paced.turns.wake_at(0.5) == math.inf
    paced.enter("b")
    assert paced.turns.wake_at(0.5) == 1.0
    assert paced.turns.wake_at(1.0) == math.inf


# Leaving


def test_leaving_twice() -> None:
    """A slot is given back once."""
    turns = make(2)
    first, second = Turn(NORMAL), Turn(NORMAL)
    for turn in (first, second):
        turns.enter(turn, "a", 0.0)
    turns.leave(first)
    turns.leave(first)
    assert turns.running == 1


@pytest.mark.parametrize("which", [0, 1, 2])
def test_leaving_the_queue(which: int) -> None:
    """Whoever leaves it, the others keep their order."""
    queue = full()
    waiting = [queue.enter(name) for name in "abc"]
    queue.turns.leave(waiting[which])
    free(queue)
    assert queue.order() == " ".join("abc".replace("abc"[which], ""))


def test_clear() -> None:
    """All who wait leave at once, and the slots are those of who runs."""
    queue = full(2)
    waiting = {queue.enter(f"{p} {n}", p, host=str(n)) for p, n in product(Priority, range(3))}
    assert set(queue.turns.clear()) == waiting
    assert (queue.turns.waiting, queue.turns.running) == (0, 2)
    free(queue, 100)
    assert queue.start() == ""


def test_clear_of_raised() -> None:
    """One that was raised leaves once."""
    queue = full()
    raised = queue.enter("raised", LOW)
    queue.enter("other", LOW)
    queue.turns.raise_to(raised, HIGH)
    assert [queue.names[turn] for turn in queue.turns.clear()] == ["other", "raised"]


@pytest.mark.parametrize(("hosts", "per_host"), [(1, 1), (1, math.inf), (150, 1), (150, math.inf)])
@pytest.mark.parametrize("seed", range(3))
def test_the_order_after_many_left(hosts: int, per_host: float, seed: int) -> None:
    """Those who stay start in the same order, whatever was swept out between them."""
    dice = random.Random(seed)
    queue = full(1, per_host=per_host)
    turns = []
    for number in range(600):
        queue.now += dice.random()
        turn = queue.enter(str(number), dice.choice(list(Priority)), host=str(number % hosts))
        turns.append((queue.now, turn))
    dice.shuffle(turns)
    for place, (_, turn) in enumerate(turns):
        if place < 400:
            queue.turns.leave(turn)
        elif place < 450:
            queue.turns.raise_to(turn, HIGH)

    def due(item: tuple[float, Turn]) -> float:
        arrived, turn = item
        return PATIENCE_S.get(turn.priority, -1e9) + arrived

    expected = [queue.names[turn] for _, turn in sorted(turns[400:], key=due)]
    free(queue)
    assert queue.order().split() == expected


def kept(turns: Turns) -> int:
    """How many entries there are, the dead included, in the largest of its parts."""
    heaps = [len(host.heap) for host in turns._hosts.values()]
    return max(sum(heaps), len(turns._heads), sum(map(len, turns._levels)))


@pytest.mark.parametrize("hosts", [1, 7])
def test_cancelled_ones_are_not_kept(hosts: int) -> None:
    """Of 20,000 that leave nothing stays, in whatever order they go, nor meanwhile too much."""
    queue = full(1, per_host=50)
    waiting = [
        queue.enter(str(number), Priority(number % 4), host=str(number % hosts))
        for number in range(20_000)
    ]
    for place, turn in enumerate(waiting[1::2] + waiting[::2], start=1):
        queue.turns.leave(turn)
        if place % 100 == 0:
            assert kept(queue.turns) <= 2 * queue.turns.waiting + FEW * (hosts + 4)
    assert kept(queue.turns) == 0


def test_stale_heads_are_not_kept() -> None:
    """Newcomers that are each more urgent than the last leave no trail of heads."""
    queue = full(1, patience_s=PATIENCE_S | {LOW: 1e6, NORMAL: 1e6})
    for number in range(1000):
        queue.turns.leave(queue.enter(str(number), LOW if number % 2 else NORMAL))
        queue.enter("stays", LOW)
        queue.turns.leave(queue.enter("top", CRITICAL))
    assert len(queue.turns._heads) <= 2 * len(queue.turns._hosts) + FEW


# Raising


def test_raised_to_critical() -> None:
    """It overtakes all that are not, and no CRITICAL one that came before it."""
    queue = full()
    queue.enter("c", CRITICAL)
    queue.enter("n", NORMAL)
    low = queue.enter("l", LOW)
    queue.enter("h", HIGH)
    assert queue.turns.raise_to(low, HIGH)
    assert queue.turns.raise_to(low, CRITICAL)
    free(queue)
    assert queue.order() == "c l h n"


def test_raised_it_keeps_its_arrival() -> None:
    """It waits as if it had come with the new priority."""
    queue = full()
    low = queue.enter("raised", LOW)
    queue.now = 1.0
    queue.enter("high", HIGH)
    queue.turns.raise_to(low, HIGH)
    free(queue)
    assert queue.order() == "raised high"


def test_not_raised() -> None:
    """Nothing is lowered, and what runs or is over stays as it is."""
    queue = full()
    high = queue.enter("h", HIGH)
    assert not queue.turns.raise_to(high, LOW)
    assert not queue.turns.raise_to(high, HIGH)
    free(queue)
    queue.start()
    assert not queue.turns.raise_to(high, CRITICAL)
    queue.turns.leave(high)
    assert not queue.turns.raise_to(high, CRITICAL)
    assert queue.turns.running_of == [0, 0, 0, 1]


def test_raised_into_the_reserve() -> None:
    """One that waits for want of a common slot may start in a reserved one."""
    queue = Queue(make(3, reserve=1, per_host=3))
    for name in "abc":
        last = queue.enter(name)
    assert queue.start() == ""
    queue.turns.raise_to(last, CRITICAL)
    assert queue.start() == "c"


# Too many


def test_a_newcomer_is_refused() -> None:
    """Where none of a lower priority waits, the newcomer goes."""
    queue = full(max_waiting=2)
    for name in "ab":
        assert queue.turns.excess(queue.enter(name)) is None
    newcomer = queue.enter("c")
    assert queue.turns.excess(newcomer) is newcomer
    assert newcomer.place is None
    free(queue)
    assert queue.order() == "a b"


def test_the_least_urgent_gives_way() -> None:
    """For a more urgent newcomer the last to come of the lowest priority goes."""
    queue = full(max_waiting=4)
    for name, priority in (("n", NORMAL), ("l1", LOW), ("l2", LOW), ("n2", NORMAL)):
        queue.enter(name, priority)
    gone = [queue.turns.excess(queue.enter(name, HIGH)) for name in ("h1", "h2", "h3", "h4", "h5")]
    assert [turn and queue.names[turn] for turn in gone] == ["l2", "l1", "n2", "n", "h5"]
    free(queue)
    assert queue.order() == "h1 h2 h3 h4"


def test_the_raised_and_the_gone_do_not_give_way() -> None:
    """Who goes is chosen by the priority of now, among those who are still there."""
    queue = full(max_waiting=3)
    stays = queue.enter("stays", LOW)
    raised = queue.enter("raised", LOW)
    queue.turns.leave(queue.enter("gone", LOW))
    queue.turns.raise_to(raised, HIGH)
    queue.enter("h", HIGH)
    victim = queue.turns.excess(queue.enter("h2", HIGH))
    assert victim is stays


def test_who_starts_is_none_too_many() -> None:
    """A newcomer that has its slot makes nobody go."""
    queue = Queue(make(2, per_host=1, max_waiting=1))
    queue.enter("a1")
    queue.enter("a2")
    other = queue.enter("b", host="b")
    queue.start()
    assert queue.turns.excess(other) is None
    assert (queue.turns.waiting, queue.turns.running) == (1, 2)


# Everything at once

ENTER, END, CANCEL, RAISE, LIMIT, PASS = range(6)

operations = st.lists(
    st.tuples(
        st.sampled_from([ENTER] * 6 + [END] * 3 + [CANCEL] * 2 + [RAISE] * 2 + [LIMIT, PASS]),
        st.integers(0, 20),
        st.sampled_from(Priority),
        st.sampled_from("abc"),
    ),
    max_size=80,
)

shapes = st.fixed_dictionaries(
    {
        "per_host": st.sampled_from([1, 2, 3, math.inf]),
        "reserve": st.integers(0, 2),
        "rate_per_s": st.sampled_from([math.inf, math.inf, 1.0, 3.0]),
        "max_waiting": st.sampled_from([math.inf, 4]),
    }
)


@attrs.define(eq=False)
class One:
    """What is known of a turn from outside."""

    turn: Turn
    host: str
    arrived: float
    number: int
    was: Priority


class Story:
    """Random events, and after each of them the promises."""

    def __init__(self, limit: int, shape: dict[str, Any]) -> None:
        self.shape = shape
        self.turns = make(limit, **shape)
        self.now = 0.0
        self.number = 0
        self.waiting: list[One] = []
        self.running: list[One] = []
        self.starts: list[float] = []

    def step(self, op: int, number: int, priority: Priority, host: str) -> None:
        waiting, running = self.waiting, self.running
        match op:
            case _ if op == ENTER:
                self.enter(priority, host)
                return
            case _ if op == END and running:
                self.turns.leave(running.pop(number % len(running)).turn)
            case _ if op == CANCEL and waiting:
                self.turns.leave(waiting.pop(number % len(waiting)).turn)
            case _ if op == RAISE and waiting:
                self.turns.raise_to(waiting[number % len(waiting)].turn, priority)
            case _ if op == LIMIT:
                self.turns.limit = 1 + number % 6
            case _ if op == PASS:
                self.now += number / 2
        self.drain()

    def enter(self, priority: Priority, host: str) -> None:
        self.number += 1
        one = One(Turn(priority), host, self.now, self.number, priority)
        if self.turns.enter(one.turn, host, self.now):
            self.started(one)
        else:
            self.waiting.append(one)
        self.drain()
        victim = self.turns.excess(one.turn)
        if victim is not None:
            assert victim is one.turn or victim.priority < priority
            self.waiting = [each for each in self.waiting if each.turn is not victim]
            self.drain()
        assert self.turns.waiting <= self.shape["max_waiting"]

    def drain(self) -> None:
        while (turn := self.turns.next(self.now)) is not None:
            (one,) = (each for each in self.waiting if each.turn is turn)
            self.waiting.remove(one)
            self.started(one)
        assert not any(map(self.may_start, self.waiting))
        self.check_books()

    def may_start(self, one: One) -> bool:
        """Whether it could, by the limits; said again in the words of the options."""
        reserve, priority = self.shape["reserve"], one.turn.priority
        same = [each for each in self.running if each.host == one.host]
        for limit, busy in (
            (self.turns.limit, self.running),
            (self.shape["per_host"], same),
        ):
            others = [each for each in busy if each.turn.priority is not CRITICAL]
            if len(busy) >= limit:
                return False
            if priority is not CRITICAL and len(others) >= max(1, limit - reserve):
                return False
        rate = self.shape["rate_per_s"]
        return bool(rate == math.inf) or sum(at > self.now - 1.0 for at in self.starts) < rate

    def started(self, one: One) -> None:
        assert self.may_start(one)
        for other in self.waiting:
            if self.may_start(other):
                self.check_overtaking(one, other)
        self.running.append(one)
        self.starts.append(self.now)

    def check_overtaking(self, one: One, other: One) -> None:
        priority = one.turn.priority
        if other.turn.priority is CRITICAL:
            assert priority is CRITICAL
        elif priority is not CRITICAL:
            assert one.arrived <= other.arrived + PATIENCE_S[other.turn.priority]
        if priority is other.turn.priority:
            assert one.number < other.number

    def check_books(self) -> None:
        turns = self.turns
        assert (turns.waiting, turns.running) == (len(self.waiting), len(self.running))
        for priority in Priority:
            for book, ones in (
                (turns.waiting_of, self.waiting),
                (turns.running_of, self.running),
            ):
                assert book[priority] == sum(one.turn.priority is priority for one in ones)
        assert kept(turns) <= 2 * turns.waiting + 4 * FEW
        for host in turns._hosts.values():
            assert len(host.heap) <= 2 * host.waiting + FEW


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 6), shapes, operations)
def test_promises(limit: int, shape: dict[str, Any], ops: list[Any]) -> None:
    """Whatever happens: limits hold, order holds, and nobody waits who could start."""
    story = Story(limit, shape)
    for op in ops:
        story.step(*op)

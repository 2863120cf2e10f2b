"""The gate: slots given and taken back, in virtual time, and over real sockets."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.clocked import Steps, clocked
from trio_rt.errors import OptionError, QueueFull
from trio_rt.http._backend import BackendName, backend
from trio_rt.http._call import Call
from trio_rt.http._gate import Gate, Patience
from trio_rt.http._gate_books import Book, GateStatistics
from trio_rt.http._layer import Crew, transport
from trio_rt.http._stage import KEY as PROGRESS
from trio_rt.http._stage import Progress
from trio_rt.http._urgency import raise_priority, urgency_of
from trio_rt.message import Priority

from .peers import answer, both, open_peer, raw, redirect

LOW, NORMAL, HIGH, CRITICAL = Priority


class Empty(httpx.AsyncByteStream):
    """A body without bytes that must be closed."""


def make_request(priority: Priority | None = None, url: str = "http://a/") -> httpx.Request:
    extensions = {} if priority is None else {"trio_rt": Call(priority=priority)}
    return httpx.Request("GET", url, extensions=extensions)


async def close(response: httpx.Response) -> None:
    await response.stream.aclose()  # type: ignore[union-attr]


class House:
    """A gate, and calls through it that do as they are told."""

    def __init__(self, gate: Gate, nursery: trio.Nursery) -> None:
        self.gate = gate
        self.nursery = nursery
        #: What began and ended, with the time.
        self.started: dict[str, float] = {}
        self.ends: dict[str, object] = {}

    async def hold(
        self,
        name: str,
        priority: Priority | None = None,
        takes_s: float = math.inf,
        *,
        url: str = "http://a/",
        request: httpx.Request | None = None,
    ) -> None:
        """Ask, be answered at once, and close the body after `takes_s`."""
        made = make_request(priority, url) if request is None else request

        async def call_next(request: httpx.Request) -> httpx.Response:
            self.started[name] = trio.current_time()
            await trio.lowlevel.checkpoint()
            return httpx.Response(200, stream=Empty())

        try:
            response = await self.gate.intercept(made, call_next)
            try:
                await trio.sleep(takes_s)
            finally:
                await close(response)  # noqa: ASYNC102 (what is closed in it is shielded)
            self.ends[name] = "closed"
        except (trio.ClosedResourceError, QueueFull) as error:
            self.ends[name] = type(error)

    def start(self, name: str, *args: Any, **more: Any) -> trio.CancelScope:
        """The same in a task of its own, to be cancelled by what is returned."""
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await self.hold(name, *args, **more)
            if scope.cancelled_caught:
                self.ends[name] = "cancelled"

        self.nursery.start_soon(run)
        return scope

    async def begin(self, name: str, *args: Any, **more: Any) -> trio.CancelScope:
        """And return when it waits, or has its response."""
        scope = self.start(name, *args, **more)
        await wait_all_tasks_blocked()
        return scope

    def counts(self) -> tuple[int, int]:
        found = self.gate.statistics()
        return found.running, found.waiting

    @property
    def order(self) -> str:
        return " ".join(self.started)


@asynccontextmanager
async def open_gate(*args: Any, **options: Any) -> AsyncIterator[House]:
    """An open gate; at the end all calls are cancelled, and must have left nothing."""
    gate, crew = Gate(*args, **options), Crew()
    await crew.open()
    gate.opened(crew)
    try:
        async with trio.open_nursery() as nursery:
            house = House(gate, nursery)
            yield house
            nursery.cancel_scope.cancel()
        assert house.counts() == (0, 0)
    finally:
        await crew.aclose()


# The idle gate


@clocked
async def test_an_idle_gate_suspends_nobody() -> None:
    """With a free slot a call goes straight through, in the same step of its task."""
    async with open_gate() as house:

        async def call_next(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Empty())

        with Steps() as steps:
            response = await house.gate.intercept(make_request(), call_next)
            assert steps.count == 0
        assert house.counts() == (1, 0)
        await close(response)
        assert house.counts() == (0, 0)


@clocked
async def test_slots_are_held_until_the_body_is_closed() -> None:
    """Six at a time, and the seventh when the first is closed, not when it is answered."""
    async with open_gate() as house:
        for number in range(6):
            await house.begin(str(number), takes_s=10.0 + number)
        await house.begin("next", takes_s=1)
        assert house.counts() == (6, 1)
        await trio.sleep(9.9)
        assert "next" not in house.started
        await trio.sleep(0.2)
        assert house.started["next"] == 10.0
        assert house.counts() == (6, 0)


# Order


@clocked
async def test_critical_behind_500() -> None:
    """Behind 500 LOW ones it starts within the time of one slot."""
    async with open_gate() as house:
        for number in range(506):
            house.start(str(number), LOW, 0.1)
        await wait_all_tasks_blocked()
        assert house.counts() == (6, 500)
        await trio.sleep(0.05)
        asked_at = trio.current_time()
        house.start("critical", CRITICAL, 0.1)
        await trio.sleep(0.2)
        assert house.started["critical"] - asked_at <= 0.1


@clocked
async def test_patience_counts_from_arrival() -> None:
    """`Patience` has a part for each priority, and the gate goes by trio's clock."""
    async with open_gate(1, patience=Patience(high_s=1.0, normal_s=4.0, low_s=9.0)) as house:
        await house.begin("holds", takes_s=20.0)
        await house.begin("low", LOW, 1.0)
        await trio.sleep(4.9)
        await house.begin("normal", NORMAL, 1.0)
        await trio.sleep(3.05)
        await house.begin("high", HIGH, 1.0)
        await trio.sleep(0.2)
        await house.begin("high 2", HIGH, 1.0)
        await house.begin("critical", CRITICAL, 1.0)
        await trio.sleep(20.0)
        assert house.order == "holds critical normal high low high 2"


@clocked
async def test_a_reserve_for_critical() -> None:
    """Slow calls cannot take the reserved slot."""
    async with open_gate(3, reserve=1) as house:
        for number in range(3):
            await house.begin(str(number), HIGH)
        await house.begin("critical", CRITICAL)
        assert house.order == "0 1 critical"


@clocked
async def test_a_full_host_holds_up_no_other() -> None:
    """Each host and port has its own bound, whatever the path and the scheme."""
    async with open_gate(10, per_host=2) as house:
        for number in range(20):
            await house.begin(str(number), url=f"http://a/{number}")
        await house.begin("port", LOW, url="http://a:81/")
        await house.begin("host", LOW, url="https://b/")
        assert house.order == "0 1 port host"


@clocked
async def test_hosts_are_not_bound_by_default() -> None:
    """More slots are more slots for one host too."""
    async with open_gate(20) as house:
        for number in range(20):
            await house.begin(str(number))
        assert house.counts() == (20, 0)


# What frees a slot


@pytest.mark.parametrize("error", [httpx.ConnectError("no"), KeyError("bug")])
@clocked
async def test_an_error_frees_the_slot(error: Exception) -> None:
    """What the inner layers raise passes, and leaves no slot behind."""
    async with open_gate(1) as house:

        async def call_next(request: httpx.Request) -> httpx.Response:
            raise error

        for _ in range(3):
            with pytest.raises(type(error)):
                await house.gate.intercept(make_request(), call_next)
        assert house.counts() == (0, 0)


@clocked
async def test_an_answer_that_is_none_frees_the_slot() -> None:
    """A bug of an inner layer that returns no response costs no slot."""
    async with open_gate(1) as house:

        async def call_next(request: httpx.Request) -> Any:
            return None

        with pytest.raises(AttributeError):
            await house.gate.intercept(make_request(), call_next)
        assert house.counts() == (0, 0)


@clocked
async def test_a_body_in_memory_holds_nothing() -> None:
    """A response that was closed before it came here frees its slot at once."""
    async with open_gate(1) as house:

        async def call_next(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=b"made here")

        for _ in range(3):
            response = await house.gate.intercept(make_request(), call_next)
            assert response.content == b"made here"
            assert house.counts() == (0, 0)


@clocked
async def test_cancelled_in_the_inner_layer() -> None:
    """A call that is cancelled while it runs frees its slot for the next."""
    async with open_gate(1) as house:
        first = await house.begin("first")
        await house.begin("second")
        first.cancel()
        await wait_all_tasks_blocked()
        assert house.order == "first second"
        assert house.counts() == (1, 0)


@clocked
async def test_a_body_closed_twice() -> None:
    """The slot is given back once."""
    async with open_gate(2) as house:

        async def call_next(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Empty())

        response = await house.gate.intercept(make_request(), call_next)
        await house.begin("other")
        await close(response)
        await close(response)
        assert house.counts() == (1, 0)


# Cancelling while waiting


@clocked
async def test_cancelled_in_the_queue() -> None:
    """It leaves at once, never starts, and the others go on."""
    async with open_gate(1) as house:
        await house.begin("first", takes_s=1)
        second = await house.begin("second")
        await house.begin("third")
        second.cancel()
        await wait_all_tasks_blocked()
        assert house.counts() == (1, 1)
        await trio.sleep(2)
        assert house.order == "first third"


@pytest.mark.parametrize("cancelled_first", [False, True])
@clocked
async def test_cancelled_as_the_slot_is_given(cancelled_first: bool) -> None:
    """Cancelled in the step in which its turn came, the slot goes on to the next."""
    async with open_gate(1) as house:

        async def call_next(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Empty())

        response = await house.gate.intercept(make_request(), call_next)
        second = await house.begin("second")
        await house.begin("third")
        if cancelled_first:
            second.cancel()
        await close(response)
        second.cancel()
        await wait_all_tasks_blocked()
        assert house.ends == {"second": "cancelled"}
        assert "third" in house.started
        assert house.counts() == (1, 0)


@clocked
async def test_cancelled_before_it_waits() -> None:
    """A cancelled task that asks a full gate leaves no trace in it."""
    async with open_gate(1) as house:
        await house.begin("first")
        with trio.CancelScope() as scope:
            scope.cancel()
            await house.hold("second")
        assert scope.cancelled_caught
        assert house.counts() == (1, 0)


@clocked
async def test_20000_cancelled() -> None:
    """Of 20,000 that are cancelled while they wait the gate keeps nothing."""
    async with open_gate(1, max_waiting=math.inf, per_host=1) as house:
        await house.begin("holds")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for number in range(20_000):
                    nursery.start_soon(house.hold, str(number), Priority(number % 4))
                await wait_all_tasks_blocked()
                assert house.counts() == (1, 20_000)
                scope.cancel()
        assert house.counts() == (1, 0)
        turns = house.gate._turns
        assert [len(host.heap) for host in turns._hosts.values()] == [0]
        assert (turns._heads, turns._levels) == ([], [[], [], [], []])


# Too many


@clocked
async def test_queue_full() -> None:
    """One more than may wait is refused at once."""
    async with open_gate(1, max_waiting=2) as house:
        for name in "abcd":
            await house.begin(name)
        assert house.ends == {"d": QueueFull}
        assert house.counts() == (1, 2)
        with pytest.raises(QueueFull) as caught:
            await house.gate.intercept(make_request(), close)  # type: ignore[arg-type]
        assert caught.value.limit == 2
        assert house.gate.statistics().priorities[NORMAL].refused == 2


@clocked
async def test_no_queue() -> None:
    """With `max_waiting=0` a full gate refuses."""
    async with open_gate(1, max_waiting=0) as house:
        await house.begin("a")
        await house.begin("b", CRITICAL)
        assert house.ends == {"b": QueueFull}


@clocked
async def test_the_least_urgent_gives_way() -> None:
    """A more urgent newcomer takes the place of the last of the lowest priority."""
    async with open_gate(1, max_waiting=2) as house:
        for name, priority in (("a", LOW), ("b", LOW), ("c", LOW), ("d", HIGH)):
            await house.begin(name, priority)
        assert house.ends == {"c": QueueFull}
        found = house.gate.statistics().priorities
        assert (found[LOW].refused, found[HIGH].refused) == (1, 0)
        assert (found[LOW].waiting, found[HIGH].waiting) == (1, 1)


# The rate


@clocked
async def test_rate() -> None:
    """Starts are as many a second as allowed, with slots free and nothing else going on."""
    async with open_gate(100, rate_per_s=2) as house:
        await trio.sleep(5)
        for number in range(6):
            house.start(str(number), takes_s=0.1)
        await trio.sleep(10)
        assert list(house.started.values()) == [5, 5, 6, 6, 7, 7]
        await house.begin("later", takes_s=0.1)
        assert house.started["later"] == 15


@clocked
async def test_the_pacer_sleeps() -> None:
    """Where the rate holds up nobody, no task of the gate runs."""
    async with open_gate(1, rate_per_s=2) as house:
        await house.begin("a")
        await house.begin("b")
        before = trio.current_time()
        with trio.move_on_after(100) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == before + 100
        assert house.gate._pacer_wakes_at == math.inf


# The limit


@clocked
async def test_the_limit_changes_live() -> None:
    """Raised, those that wait start at once; lowered, the next waits for enough to end."""
    async with open_gate(1) as house:
        scopes = [await house.begin(str(number)) for number in range(5)]
        house.gate.max_concurrent = 3
        assert house.gate.max_concurrent == 3
        await wait_all_tasks_blocked()
        assert house.counts() == (3, 2)
        house.gate.max_concurrent = 2
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        assert house.counts() == (2, 2)
        scopes[1].cancel()
        await wait_all_tasks_blocked()
        assert set(house.started) == set("0123")


class Server:
    """An inner layer that answers with what is set."""

    def __init__(self, module: Any, outcome: Any = 200) -> None:
        self.module = module
        self.outcome = outcome

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.module.Response(self.outcome)  # type: ignore[no-any-return]

    async def limits(self, gate: Gate, outcome: Any, count: int = 1) -> list[float]:
        """The limit after each of so many calls."""
        self.outcome, found = outcome, []
        for _ in range(count):
            try:
                response = await gate.intercept(self.module.Request("GET", "http://a/"), self)
                await close(response)
            except self.module.TransportError:
                pass
            found.append(gate.statistics().limit)
        return found


@both
@clocked
async def test_adaptive(backend: BackendName) -> None:
    """429, 503 and timeouts cut the limit; answers raise it; other failures are neither."""
    module: Any = __import__(backend)
    async with open_gate(10, adaptive=True) as house:
        server, gate = Server(module), house.gate
        assert await server.limits(gate, 429) == [7]
        assert await server.limits(gate, 503) == [4]
        assert await server.limits(gate, module.ReadTimeout("late")) == [3]
        assert await server.limits(gate, module.ConnectTimeout("late")) == [2]
        for outcome in (500, 502, 599, module.ConnectError("no")):
            assert await server.limits(gate, outcome, 5) == [2] * 5
        assert max(await server.limits(gate, 404, 3)) == 3
        assert (await server.limits(gate, 200, 100))[-1] == 10


@clocked
async def test_one_overload_cuts_once() -> None:
    """Six 503 to six calls that were under way together are one."""
    async with open_gate(6, adaptive=True) as house:
        server = Server(httpx, 503)
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(house.gate.intercept, make_request(), server)
        assert house.gate.statistics().limit == 4


@clocked
async def test_a_limit_that_grows_lets_in() -> None:
    """The answer that raises the limit starts who waits for it."""
    async with open_gate(2, adaptive=True) as house:
        server = Server(httpx)
        assert await server.limits(house.gate, 503) == [1]
        release = trio.Event()

        async def call_next(request: httpx.Request) -> httpx.Response:
            await release.wait()
            return httpx.Response(200, stream=Empty())

        async def ask() -> None:
            response = await house.gate.intercept(make_request(), call_next)
            await trio.sleep(1)
            await close(response)

        house.nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await house.begin("waits")
        assert house.counts() == (1, 1)
        release.set()
        await wait_all_tasks_blocked()
        assert house.counts() == (2, 0)
        await trio.sleep(2)


@clocked
async def test_the_top_of_an_adaptive_limit() -> None:
    """Setting `max_concurrent` moves the top, and not a limit that was cut."""
    async with open_gate(10, adaptive=True) as house:
        house.gate.max_concurrent = 20
        assert house.gate.statistics().limit == 20
        assert await Server(httpx).limits(house.gate, 503) == [14]
        house.gate.max_concurrent = 30
        assert house.gate.statistics().limit == 14
        house.gate.max_concurrent = 8
        assert house.gate.statistics().limit == 8


@clocked
async def test_not_adaptive() -> None:
    """Without the option no answer changes the limit."""
    async with open_gate(10) as house:
        assert await Server(httpx).limits(house.gate, 503, 3) == [10] * 3


# The header


@pytest.mark.parametrize(
    ("priority", "value"), [(CRITICAL, "u=0"), (HIGH, "u=2"), (NORMAL, None), (LOW, "u=5")]
)
@clocked
async def test_priority_header(priority: Priority, value: str | None) -> None:
    """It tells the server, but for what the server assumes anyway."""
    async with open_gate(priority_header=True) as house:
        request = make_request(priority)
        await close(await house.gate.intercept(request, Server(httpx)))
        assert request.headers.get("priority") == value


@clocked
async def test_a_priority_header_of_the_callers() -> None:
    """The caller's own stays; and without the option there is none."""
    async with open_gate(priority_header=True) as house:
        request = make_request(HIGH)
        request.headers["Priority"] = "u=1, i"
        await close(await house.gate.intercept(request, Server(httpx)))
        assert request.headers.get_list("priority") == ["u=1, i"]
    async with open_gate() as house:
        request = make_request(HIGH)
        await close(await house.gate.intercept(request, Server(httpx)))
        assert "priority" not in request.headers


# Raising


@clocked
async def test_raised_while_it_waits() -> None:
    """A waiting call overtakes once another needs it more."""
    async with open_gate(1) as house:
        holds = await house.begin("holds")
        request = make_request(LOW)
        await house.begin("normal")
        await house.begin("raised", request=request)
        raise_priority(request, CRITICAL)
        holds.cancel()
        await wait_all_tasks_blocked()
        assert house.order == "holds raised"
        assert house.gate.statistics().priorities[CRITICAL].running == 1


@clocked
async def test_raised_before_it_waits() -> None:
    """What was raised comes with that priority, and is not lowered."""
    async with open_gate(1) as house:
        holds = await house.begin("holds")
        await house.begin("normal")
        request = make_request(LOW)
        raise_priority(request, HIGH)
        raise_priority(request, NORMAL)
        await house.begin("raised", request=request)
        assert house.gate.statistics().priorities[HIGH].waiting == 1
        holds.cancel()
        await wait_all_tasks_blocked()
        assert house.order == "holds raised"


@clocked
async def test_a_handle_alone_lowers_nothing() -> None:
    """A call whose handle was made, and not raised, has its own priority."""
    async with open_gate(1) as house:
        await house.begin("holds")
        request = make_request(HIGH)
        urgency_of(request)
        await house.begin("high", request=request)
        assert house.gate.statistics().priorities[HIGH].waiting == 1


@clocked
async def test_a_raise_reaches_copies() -> None:
    """Copies made below share the handle that was made above, and each is raised."""
    async with open_gate(1) as house:
        await house.begin("holds")
        original = make_request(LOW)
        urgency_of(original)
        for name in ("one", "two"):
            copy = httpx.Request("GET", "http://a/", extensions=original.extensions)
            await house.begin(name, request=copy)
        raise_priority(original, CRITICAL)
        found = house.gate.statistics().priorities
        assert (found[LOW].waiting, found[CRITICAL].waiting) == (0, 2)


@clocked
async def test_raised_into_the_reserve() -> None:
    """A call that waits for want of a common slot starts at once in a reserved one."""
    async with open_gate(2, reserve=1) as house:
        await house.begin("holds")
        request = make_request(LOW)
        await house.begin("raised", request=request)
        assert house.counts() == (1, 1)
        raise_priority(request, CRITICAL)
        await wait_all_tasks_blocked()
        assert house.order == "holds raised"


@clocked
async def test_raising_what_runs_or_is_over() -> None:
    """It has no effect, and nothing is kept for it."""
    async with open_gate(1) as house:
        holds = await house.begin("holds")
        request = make_request(LOW)
        await house.begin("raised", request=request, takes_s=1)
        holds.cancel()
        await wait_all_tasks_blocked()
        assert urgency_of(request).waiting == []
        raise_priority(request, CRITICAL)
        assert house.gate.statistics().priorities[LOW].running == 1
        await trio.sleep(2)
        raise_priority(request, CRITICAL)
        assert house.counts() == (0, 0)


# The stage


@clocked
async def test_the_stage_is_queue_while_it_waits() -> None:
    """The total timeout learns that a call waited for its turn, and when it no longer does."""
    async with open_gate(1) as house:
        await house.begin("holds", takes_s=1)
        progress = [Progress(), Progress()]
        requests = [httpx.Request("GET", "http://a/", extensions={PROGRESS: p}) for p in progress]
        await house.begin("next", request=requests[0])
        cancelled = await house.begin("cancelled", request=requests[1])
        assert [each.stage for each in progress] == ["queue", "queue"]
        cancelled.cancel()
        await trio.sleep(2)
        assert [each.stage for each in progress] == ["answer", "queue"]


# Closing


@clocked
async def test_a_gate_that_is_not_open() -> None:
    """Calls are refused before it is open, and after it was closed; it can be opened again."""
    gate, crew = Gate(), Crew()
    await crew.open()
    with pytest.raises(trio.ClosedResourceError):
        await gate.intercept(make_request(), Server(httpx))
    for _ in range(2):
        gate.opened(crew)
        await close(await gate.intercept(make_request(), Server(httpx)))
        with assert_checkpoints():
            await gate.closing()
        with pytest.raises(trio.ClosedResourceError):
            await gate.intercept(make_request(), Server(httpx))
    await crew.aclose()


@clocked
async def test_closing_waits_for_bodies() -> None:
    """It ends with the last body; who waits for a slot learns it at once."""
    async with open_gate(2) as house:
        await house.begin("a", takes_s=1)
        await house.begin("b", takes_s=3)
        await house.begin("c")
        house.nursery.start_soon(house.gate.closing)
        await wait_all_tasks_blocked()
        assert house.ends == {"c": trio.ClosedResourceError}
        await house.begin("d")
        assert house.ends["d"] is trio.ClosedResourceError
        await house.gate.closing()
        assert trio.current_time() == 3
        assert house.order == "a b"


@pytest.mark.parametrize("grace_s", [5.0, 0.5, 0.0])
@clocked
async def test_the_grace(grace_s: float) -> None:
    """It waits no longer than that; a body closed later does no harm."""
    async with open_gate(1, close_grace_s=grace_s) as house:
        await house.begin("a", takes_s=20)
        await house.gate.closing()
        assert trio.current_time() == grace_s
        assert house.counts() == (1, 0)
        await trio.sleep(30)
        assert house.counts() == (0, 0)


@clocked
async def test_closing_cancelled() -> None:
    """Cancelled, it leaves at once, and the gate is closed."""
    async with open_gate(1) as house:
        await house.begin("a")
        with trio.move_on_after(1) as scope:
            await house.gate.closing()
        assert scope.cancelled_caught
        await house.begin("b")
        assert house.ends["b"] is trio.ClosedResourceError


# Statistics


@clocked
async def test_statistics() -> None:
    """Each priority has its own, and a gate that did nothing has zeros."""
    async with open_gate(2) as house:
        empty = house.gate.statistics()
        assert isinstance(empty, GateStatistics)
        assert (empty.limit, empty.running, empty.waiting) == (2, 0, 0)
        assert empty.priorities[LOW].waited_p99_s == 0
        for name, priority in (("a", LOW), ("b", HIGH), ("c", HIGH), ("d", CRITICAL)):
            await house.begin(name, priority, 1.0)
        found = house.gate.statistics()
        assert [found.priorities[p].running for p in Priority] == [1, 0, 1, 0]
        assert [found.priorities[p].waiting for p in Priority] == [0, 0, 1, 1]
        assert [found.priorities[p].started for p in Priority] == [1, 0, 1, 0]
        await trio.sleep(5)
        assert [house.gate.statistics().priorities[p].started for p in Priority] == [1, 0, 2, 1]


@pytest.mark.parametrize("takes_s", [0.001, 0.1, 1.0])
@clocked
async def test_percentiles(takes_s: float) -> None:
    """They are right to a tenth, and count those that did not wait."""
    async with open_gate(1) as house:
        for number in range(101):
            await house.begin(str(number), takes_s=takes_s)
        with trio.fail_after(200 * takes_s):
            while house.counts() != (0, 0):
                await trio.sleep(takes_s)
        found = house.gate.statistics().priorities[NORMAL]
        assert found.waited_p50_s == pytest.approx(50 * takes_s, rel=0.1)
        assert found.waited_p99_s == pytest.approx(99 * takes_s, rel=0.1)
        for number in range(102):
            await house.begin(f"idle {number}", takes_s=takes_s)
            await trio.sleep(2 * takes_s)
        assert house.gate.statistics().priorities[NORMAL].waited_p50_s == 0


def test_a_wait_beyond_all_buckets() -> None:
    """It is counted in the last of them, and one below the first not at all."""
    book = Book()
    book.started = 2
    book.add_wait(0.99e-4)
    assert book.quantile(0.99) == 0
    book.add_wait(1e9)
    assert book.quantile(0.99) == pytest.approx(13_400, rel=0.1)


# Options


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("max_concurrent", lambda: Gate(0)),
        ("max_concurrent", lambda: Gate(1.5)),
        ("max_concurrent", lambda: Gate(math.inf, adaptive=True)),
        ("max_concurrent", lambda: setattr(Gate(), "max_concurrent", 0)),
        ("per_host", lambda: Gate(per_host=0)),
        ("reserve", lambda: Gate(reserve=-1)),
        ("reserve", lambda: Gate(6, reserve=6)),
        ("reserve", lambda: Gate(6, per_host=2, reserve=2)),
        ("max_waiting", lambda: Gate(max_waiting=-1)),
        ("rate_per_s", lambda: Gate(rate_per_s=0)),
        ("close_grace_s", lambda: Gate(close_grace_s=-1)),
        ("Patience.high_s", lambda: Patience(high_s=-1)),
        ("Patience.normal_s", lambda: Patience(normal_s=1)),
        ("Patience.low_s", lambda: Patience(low_s=9)),
        ("Patience.low_s", lambda: Patience(normal_s=math.inf)),
    ],
)
def test_options_that_cannot_be(field: str, make: Callable[[], object]) -> None:
    """Each is refused by its name."""
    with pytest.raises(OptionError) as caught:
        make()
    assert caught.value.args[0].startswith(field) or field in str(caught.value)


@clocked
async def test_no_limit() -> None:
    """`math.inf` slots are no gate at all."""
    async with open_gate(math.inf, max_waiting=0) as house:
        for number in range(100):
            await house.begin(str(number))
        assert house.counts() == (100, 0)


# Everything at once


@pytest.mark.parametrize("seed", range(5))
@clocked
async def test_a_storm(seed: int) -> None:
    """Random calls, hosts, priorities, cancels, raises and limits: no slot is lost or doubled."""
    dice = random.Random(seed)
    most = 0
    async with open_gate(4, per_host=3, reserve=1, max_waiting=30, rate_per_s=50) as house:
        scopes: list[trio.CancelScope] = []
        requests: list[httpx.Request] = []
        for number in range(600):
            request = make_request(dice.choice(list(Priority)), f"http://{dice.choice('abc')}/")
            requests.append(request)
            scopes.append(house.start(str(number), takes_s=dice.random() / 5, request=request))
            if dice.random() < 0.5:
                dice.choice(scopes[-40:]).cancel()
            if dice.random() < 0.3:
                raise_priority(dice.choice(requests[-40:]), dice.choice(list(Priority)))
            if dice.random() < 0.05:
                house.gate.max_concurrent = dice.randint(1, 5)
            if dice.random() < 0.7:
                await trio.sleep(dice.random() / 20)
            most = max(most, house.counts()[0])
        await trio.sleep(60)
        assert house.counts() == (0, 0)
        assert len(house.ends) == 600
        assert 3 <= most <= 5
        for name in "abcd":
            await house.begin(name, CRITICAL, url=f"http://{name}/")
        await trio.sleep(1)
        assert house.counts()[0] == min(4, house.gate.max_concurrent)


# Over real sockets


@asynccontextmanager
async def open_client(
    name: BackendName, gate: Gate, *, follow_redirects: bool = False
) -> AsyncIterator[Any]:
    async with backend(name).AsyncClient(
        transport=transport(gate, backend=name), timeout=5, follow_redirects=follow_redirects
    ) as client:
        yield client


def running(gate: Gate) -> int:
    return gate.statistics().running


@both
async def test_a_stream_holds_its_slot(backend: BackendName) -> None:
    """From `stream()` to its end, left early or not; then the next goes."""
    gate = Gate(1)
    with trio.fail_after(10):
        async with (
            open_peer({"/": answer(bytes(300_000))}) as peer,
            open_client(backend, gate) as client,
        ):
            order: list[str] = []

            async def get() -> None:
                order.append(f"second {(await client.get(peer.url)).status_code}")

            async with trio.open_nursery() as nursery, client.stream("GET", peer.url):
                nursery.start_soon(get)
                while not gate.statistics().waiting:
                    await trio.sleep(0.001)
                assert running(gate) == 1
                order.append("left")
            assert order == ["left", "second 200"]
            assert running(gate) == 0


@both
async def test_plain_calls_leave_no_slot(backend: BackendName) -> None:
    """Bodies, no bodies, HEAD, 204, errors and redirects: each slot comes back."""
    gate = Gate(1)
    paths = {
        "/204": answer(b"", status=204),
        "/503": answer(status=503),
        "/dead": raw(b""),
        "/cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        "/moved": redirect("/there"),
    }
    with trio.fail_after(10):
        async with (
            open_peer(paths) as peer,
            open_client(backend, gate, follow_redirects=True) as client,
        ):
            for method, path in (
                ("GET", "/"),
                ("HEAD", "/"),
                ("GET", "/204"),
                ("POST", "/503"),
                ("GET", "/moved"),
                ("GET", "/dead"),
                ("GET", "/cut"),
            ):
                try:
                    await client.request(method, peer.url + path)
                except client_errors(backend):
                    assert path in ("/dead", "/cut")
                assert running(gate) == 0
            assert gate.statistics().priorities[NORMAL].started == 8


def client_errors(name: BackendName) -> Any:
    return backend(name).RemoteProtocolError


@both
async def test_no_more_connections_than_slots(backend: BackendName) -> None:
    """Forty calls at once through three slots are three connections; cancels leave no slot."""
    gate = Gate(3)
    with trio.fail_after(10):
        async with open_peer() as peer, open_client(backend, gate) as client:
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    extensions = {"trio_rt": Call(priority=Priority(number % 4))}
                    nursery.start_soon(partial(client.get, peer.url, extensions=extensions))
            assert peer.accepted == 3
            assert running(gate) == 0
            with trio.move_on_after(0):
                await client.get(peer.url)
            assert running(gate) == 0


@both
async def test_the_client_closes(backend: BackendName) -> None:
    """Leaving the client ends the calls that wait, and waits for the body that is open."""
    gate = Gate(1)
    ended: list[str] = []
    with trio.fail_after(10):
        async with open_peer({"/": answer(bytes(300_000))}) as peer, trio.open_nursery() as nursery:
            async with open_client(backend, gate) as client:

                async def read(task_status: trio.TaskStatus[None]) -> None:
                    async with client.stream("GET", peer.url) as response:
                        task_status.started()
                        while not gate.statistics().priorities[NORMAL].refused and not ended:
                            await trio.sleep(0.001)
                        ended.append(f"{len(await response.aread())} bytes")

                async def wait() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await client.get(peer.url)
                    ended.append("refused")

                await nursery.start(read)
                nursery.start_soon(wait)
                while not gate.statistics().waiting:
                    await trio.sleep(0.001)
            assert ended == ["refused", "300000 bytes"]
    assert running(gate) == 0

"""Not asking a server that fails."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rt.errors import CircuitOpen, OptionError, QueueFull
from trio_rt.http._breaker import Breaker
from trio_rt.http._circuit import TABLE, Circuit, Rules, State, Trigger
from trio_rt.http._origins import origin_of, shown_origin
from trio_rt.http._retry import Retry

from .scripted import BACKENDS, Answer, Script, request_of

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def circuit(**options: Any) -> Circuit:
    known: dict[str, Any] = {
        "failures": 3,
        "share": 0.5,
        "window_s": 10.0,
        "open_s": 5.0,
        "half_open": 1,
    }
    return Circuit(Rules(**known | options))


def call(one: Circuit, now: float, *, good: bool) -> bool:
    """Whether it was let through."""
    ticket = one.admit(now)
    if ticket is None:
        return False
    if good:
        one.succeeded(ticket, now)
    else:
        one.failed(ticket, now)
    return True


def state(one: Circuit) -> State:
    return one.state


def opened(**options: Any) -> Circuit:
    one = circuit(**options)
    for _ in range(3):
        assert call(one, 0.0, good=False)
    assert state(one) is State.OPEN
    return one


def test_the_table() -> None:
    """Every state can be left, and every trigger has one place."""
    assert all(TABLE[state] for state in State)
    triggers = [trigger for row in TABLE.values() for trigger in row]
    assert sorted(each.name for each in triggers) == sorted(each.name for each in Trigger)


def test_it_opens_at_the_failures() -> None:
    """At `failures` of them, not one before."""
    one = circuit()
    assert call(one, 0.0, good=False)
    assert call(one, 0.0, good=False)
    assert state(one) is State.CLOSED
    assert call(one, 0.0, good=False)
    assert state(one) is State.OPEN


def test_the_share() -> None:
    """A few failures among many calls do not open it; half of them do."""
    one = circuit()
    for _ in range(4):
        call(one, 0.0, good=True)
    for _ in range(3):
        call(one, 0.0, good=False)
    assert state(one) is State.CLOSED
    call(one, 0.0, good=False)
    assert state(one) is State.OPEN


def test_old_failures_do_not_count() -> None:
    """Those of more than `window_s` ago."""
    one = circuit()
    call(one, 0.0, good=False)
    call(one, 0.0, good=False)
    call(one, 11.0, good=False)
    assert state(one) is State.CLOSED


def test_open() -> None:
    """Nothing passes before `open_s` is over, and it tells how long that is."""
    one = opened()
    assert one.admit(4.9) is None
    assert one.wait_s(4.0) == 1.0
    assert one.admit(5.0) is not None
    assert state(one) is State.HALF_OPEN


@pytest.mark.parametrize("half_open", [1, 2])
def test_half_open(half_open: int) -> None:
    """So many probes at a time; the first that succeeds closes it."""
    one = opened(half_open=half_open)
    tickets = [one.admit(5.0) for _ in range(half_open)]
    assert None not in tickets
    assert one.admit(5.0) is None
    assert one.wait_s(5.0) == 5.0
    assert tickets[0] is not None
    one.succeeded(tickets[0], 6.0)
    assert state(one) is State.CLOSED
    # It starts anew: the failures before are forgotten.
    call(one, 6.0, good=False)
    assert state(one) is State.CLOSED


def test_a_failed_probe() -> None:
    """It opens again, for `open_s` from then."""
    one = opened()
    assert call(one, 6.0, good=False)
    assert state(one) is State.OPEN
    assert one.admit(10.9) is None
    assert one.admit(11.0) is not None


def test_a_probe_that_says_nothing() -> None:
    """Its place is free again."""
    one = opened()
    ticket = one.admit(5.0)
    assert ticket is not None
    assert one.admit(5.0) is None
    one.left(ticket)
    assert one.admit(5.0) is not None


def test_late_reports() -> None:
    """Of calls from before it opened: they change nothing."""
    one = circuit()
    late = [one.admit(0.0) for _ in range(3)]
    for _ in range(3):
        call(one, 0.0, good=False)
    probe = one.admit(5.0)
    assert probe is not None
    assert late[0] is not None
    one.succeeded(late[0], 5.0)
    one.failed(late[0], 5.0)
    one.left(late[0])
    assert state(one) is State.HALF_OPEN
    assert one.admit(5.0) is None


def report(one: Circuit, what: str, ticket: int, now: float) -> None:
    if what == "s":
        one.succeeded(ticket, now)
    elif what == "f":
        one.failed(ticket, now)
    else:
        one.left(ticket)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from("asfl"), st.integers(0, 3)), max_size=100),
    st.integers(1, 3),
)
def test_any_story(events: list[tuple[float, str, int]], half_open: int) -> None:
    """Half open it never has more probes than allowed, and it is never stuck."""
    one = circuit(half_open=half_open)
    now = 0.0
    tickets: list[tuple[int, State]] = []
    probes: set[int] = set()
    for step, what, which in events:
        now += step
        if what == "a":
            ticket = one.admit(now)
            if ticket is not None:
                tickets.append((ticket, one.state))
        elif tickets:
            report(one, what, tickets.pop(which % len(tickets))[0], now)
        if one.state is State.HALF_OPEN:
            turn = max(ticket for ticket, _ in tickets) if tickets else -1
            probes = {n for n, (t, s) in enumerate(tickets) if t == turn and s is one.state}
            assert len(probes) <= half_open
    for ticket, _ in tickets:
        one.left(ticket)
    assert one.admit(now + 5.0) is not None


def outcomes_layer(**options: Any) -> Breaker:
    return Breaker(**{"failures": 2, "open_s": 5.0, **options})


@each_backend
@pytest.mark.parametrize(
    "answer",
    [Answer(500), Answer(503), Answer(599)]
    + [Answer(error=each) for each in ("ConnectError", "ReadTimeout", "RemoteProtocolError")],
)
async def test_failures(backend: str, answer: Answer, autojump_clock: MockClock) -> None:
    """Errors, timeouts of the request's own, and 5xx. Then the network is not asked."""
    script = Script(backend, answer)
    layer = outcomes_layer()
    for _ in range(2):
        try:
            await layer.intercept(request_of(backend), script)
        except script.module.TransportError:
            pass
    request = request_of(backend, url="http://user:pw@server.example:81/x?y")
    await layer.intercept(
        request_of(backend, url="http://other.example/"), Script(backend, Answer())
    )
    with pytest.raises(CircuitOpen) as raised:
        await layer.intercept(request_of(backend), script)
    assert raised.value.origin == "http://server.example"
    assert raised.value.retry_after_s == pytest.approx(5.0)
    assert len(script.requests) == 2
    # Another port is another origin.
    await layer.intercept(request, Script(backend, Answer()))
    found = layer.statistics()
    assert (found.calls, found.refused, found.opened) == (5, 1, 1)
    assert (found.open, found.origins) == (("http://server.example",), 3)


@each_backend
@pytest.mark.parametrize("answer", [Answer(200), Answer(404), Answer(429), Answer(499)])
async def test_no_failures(backend: str, answer: Answer) -> None:
    """A server that answers below 500 works."""
    script = Script(backend, answer)
    layer = outcomes_layer()
    for _ in range(5):
        await layer.intercept(request_of(backend), script)
    assert len(script.requests) == 5


@each_backend
async def test_what_says_nothing_of_the_server(backend: str) -> None:
    """Errors of our own layers, and requests that cannot be sent, are no failures."""
    layer = outcomes_layer(failures=1)

    async def full(request: httpx.Request) -> httpx.Response:
        raise QueueFull(3)

    with pytest.raises(QueueFull):
        await layer.intercept(request_of(backend), full)
    script = Script(backend, Answer(error="UnsupportedProtocol"), Answer(200))
    with pytest.raises(script.module.UnsupportedProtocol):
        await layer.intercept(request_of(backend), script)
    await layer.intercept(request_of(backend), script)
    assert layer.statistics().opened == 0


@each_backend
async def test_a_probe(backend: str, autojump_clock: MockClock) -> None:
    """One goes out at a time, and its success lets all through."""
    script = Script(backend, Answer(503), Answer(503), Answer(200, after_s=1.0))
    layer = outcomes_layer()
    for _ in range(2):
        await layer.intercept(request_of(backend), script)
    await trio.sleep(5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(layer.intercept, request_of(backend), script)
        await wait_all_tasks_blocked()
        with pytest.raises(CircuitOpen) as raised:
            await layer.intercept(request_of(backend), script)
        assert raised.value.retry_after_s == 5.0
    await layer.intercept(request_of(backend), script)
    assert len(script.requests) == 4
    assert layer.statistics().open == ()


@each_backend
@pytest.mark.parametrize("leave", ["cancel", "queue full"])
async def test_a_probe_that_leaves(backend: str, leave: str, autojump_clock: MockClock) -> None:
    """Cancelled, or turned away below: the next call is the probe."""
    script = Script(backend, Answer(503), Answer(503), Answer(200, after_s=1.0))
    layer = outcomes_layer()
    for _ in range(2):
        await layer.intercept(request_of(backend), script)
    await trio.sleep(5.0)
    if leave == "cancel":
        with trio.move_on_after(0.5) as scope:
            await layer.intercept(request_of(backend), script)
        assert scope.cancelled_caught
    else:

        async def full(request: httpx.Request) -> httpx.Response:
            raise QueueFull(3)

        with pytest.raises(QueueFull):
            await layer.intercept(request_of(backend), full)
    response = await layer.intercept(request_of(backend), script)
    assert response.status_code == 200
    assert layer.statistics().open == ()


@each_backend
async def test_a_cancelled_call_is_no_failure(backend: str, autojump_clock: MockClock) -> None:
    """The caller's impatience says nothing of the server."""
    script = Script(backend, Answer(200, after_s=10.0))
    layer = outcomes_layer()
    for _ in range(5):
        with trio.move_on_after(1.0):
            await layer.intercept(request_of(backend), script)
    assert layer.statistics().opened == 0
    assert len(script.requests) == 5


@each_backend
async def test_the_origins_used_last(backend: str) -> None:
    """Beyond `origins` the one that was used longest ago is forgotten."""
    layer = outcomes_layer(origins=2, failures=1)
    bad, good = Script(backend, Answer(503)), Script(backend, Answer(200))
    await layer.intercept(request_of(backend, url="http://a.example/"), bad)
    await layer.intercept(request_of(backend, url="http://b.example/"), good)
    with pytest.raises(CircuitOpen):
        await layer.intercept(request_of(backend, url="http://a.example/"), good)
    await layer.intercept(request_of(backend, url="http://c.example/"), good)
    assert layer.statistics().origins == 2
    assert layer.statistics().open == ("http://a.example",)


@each_backend
async def test_inside_a_retry(backend: str, autojump_clock: MockClock) -> None:
    """An open breaker is not worth a wait: it ends the call."""
    script = Script(backend, Answer(503))
    breaker = outcomes_layer()

    async def call_next(request: httpx.Request) -> httpx.Response:
        return await breaker.intercept(request, script)

    with pytest.raises(CircuitOpen) as raised:
        await Retry(5).intercept(request_of(backend), call_next)
    assert raised.value.__notes__ == ["tried 3 times"]
    assert len(script.requests) == 2
    assert script.slots == 0


@each_backend
def test_shown(backend: str) -> None:
    """An origin is shown without what is secret, and with brackets where they belong."""
    url = request_of(backend, url="https://u:p@[::1]:8443/x?q").url
    assert shown_origin(origin_of(url)) == "https://[::1]:8443"


@pytest.mark.parametrize(
    "options",
    [
        {"failures": 0},
        {"share": -1},
        {"window_s": 0},
        {"open_s": 0},
        {"half_open": 0},
        {"origins": 0},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    """They are refused by name."""
    with pytest.raises(OptionError, match=f"Breaker.{next(iter(options))}"):
        Breaker(**options)

"""A second copy of a call that takes unusually long."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_rt.errors import OptionError
from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._budget import Budget
from trio_rt.http._call import Call
from trio_rt.http._hedge import LEAST_SAMPLES, SAMPLES, Hedge, Latencies
from trio_rt.http._layer import transport

from .peers import Exchange, answer, open_peer, stall
from .scripted import BACKENDS, Answer, Script, Streamed, request_of

each_backend = pytest.mark.parametrize("backend", BACKENDS)


async def went(layer: Hedge, script: Script, request: httpx.Request) -> tuple[int, float]:
    start = trio.current_time()
    response = await layer.intercept(request, script)
    return response.status_code, round(trio.current_time() - start, 6)


@each_backend
async def test_a_quick_answer(backend: str, autojump_clock: MockClock) -> None:
    """Nothing is sent twice."""
    script = Script(backend, Answer(200, after_s=0.9))
    layer = Hedge(1.0)
    assert await went(layer, script, request_of(backend)) == (200, 0.9)
    assert len(script.requests) == 1
    assert layer.statistics().copies == 0


@each_backend
async def test_the_copy_wins(backend: str, autojump_clock: MockClock) -> None:
    """It starts after `after_s`; the first is cancelled, and has left its slot."""
    script = Script(backend, Answer(200, after_s=30.0), Answer(201, after_s=0.5))
    layer = Hedge(1.0)
    assert await went(layer, script, request_of(backend)) == (201, 1.5)
    assert script.slots == 1
    found = layer.statistics()
    assert (found.calls, found.copies, found.won, found.unaffordable) == (1, 1, 1, 0)


@each_backend
async def test_the_first_wins(backend: str, autojump_clock: MockClock) -> None:
    """The copy is cancelled then."""
    script = Script(backend, Answer(200, after_s=1.2), Answer(201, after_s=0.5))
    layer = Hedge(1.0)
    assert await went(layer, script, request_of(backend)) == (200, 1.2)
    assert script.slots == 1
    assert (layer.statistics().copies, layer.statistics().won) == (1, 0)


@each_backend
async def test_each_takes_its_own_slot(backend: str, autojump_clock: MockClock) -> None:
    """Up to `max_copies` more, one after each `after_s`."""
    script = Script(backend, Answer(200, after_s=30.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Hedge(1.0, max_copies=3).intercept, request_of(backend), script)
        await trio.sleep(2.5)
        assert script.slots == 3
        await trio.sleep(10.0)
        assert script.slots == 4
        nursery.cancel_scope.cancel()
    assert script.slots == 0


@each_backend
async def test_the_winner_can_be_read(backend: str, autojump_clock: MockClock) -> None:
    """Its body is not bound to the race."""
    script = Script(backend, Answer(200, after_s=30.0), Answer(200, chunks=(b"a", b"b")))
    response = await Hedge(1.0).intercept(request_of(backend), script)
    assert b"".join([each async for each in response.aiter_raw()]) == b"ab"
    await response.aclose()
    assert script.slots == 0


@each_backend
async def test_a_5xx_waits_for_the_copy(backend: str, autojump_clock: MockClock) -> None:
    """It does not win over a copy that may do better, and is closed if that does."""
    script = Script(backend, Answer(503, after_s=1.1), Answer(200, after_s=5.0))
    assert await went(Hedge(1.0), script, request_of(backend)) == (200, 6.0)
    assert script.slots == 1


@each_backend
async def test_a_5xx_alone(backend: str, autojump_clock: MockClock) -> None:
    """With no copy out it is the answer: trying again is for `Retry`."""
    script = Script(backend, Answer(503, after_s=0.5))
    assert await went(Hedge(1.0), script, request_of(backend)) == (503, 0.5)
    assert len(script.requests) == 1


@each_backend
async def test_two_5xx(backend: str, autojump_clock: MockClock) -> None:
    """The first is the answer, the other is closed."""
    script = Script(backend, Answer(503, after_s=3.0), Answer(502, after_s=0.5))
    assert await went(Hedge(1.0), script, request_of(backend)) == (502, 3.0)
    assert script.slots == 1


@each_backend
async def test_an_error_waits_for_the_copy(backend: str, autojump_clock: MockClock) -> None:
    """As a 5xx does."""
    script = Script(backend, Answer(error="ReadError", after_s=1.1), Answer(200, after_s=5.0))
    assert await went(Hedge(1.0), script, request_of(backend)) == (200, 6.0)


@each_backend
async def test_a_5xx_is_better_than_an_error(backend: str, autojump_clock: MockClock) -> None:
    """An answer is an answer."""
    script = Script(backend, Answer(503, after_s=1.1), Answer(error="ReadError", after_s=5.0))
    assert (await went(Hedge(1.0), script, request_of(backend)))[0] == 503
    assert script.slots == 1


@each_backend
async def test_all_fail(backend: str, autojump_clock: MockClock) -> None:
    """The first error is raised, alone, when no copy is left."""
    script = Script(
        backend, Answer(error="ReadError", after_s=1.1), Answer(error="ConnectError", after_s=5.0)
    )
    with pytest.raises(script.module.ReadError) as raised:
        await Hedge(1.0).intercept(request_of(backend), script)
    assert raised.value.__context__ is None
    assert trio.current_time() == pytest.approx(6.0)


@each_backend
async def test_an_error_alone(backend: str, autojump_clock: MockClock) -> None:
    """It is raised at once."""
    script = Script(backend, Answer(error="ReadError"))
    with pytest.raises(script.module.ReadError):
        await Hedge(1.0).intercept(request_of(backend), script)
    assert trio.current_time() == 0.0
    assert len(script.requests) == 1


@each_backend
@pytest.mark.parametrize("when_s", [0.5, 1.5, 3.0])
async def test_cancelled(backend: str, when_s: float, autojump_clock: MockClock) -> None:
    """Before the copy, with it, or with a 5xx in hand: all end, by one `Cancelled`."""
    script = Script(backend, Answer(503, after_s=2.0), Answer(200, after_s=30.0))
    caught: list[BaseException] = []
    with trio.move_on_after(when_s) as scope:
        try:
            await Hedge(1.0).intercept(request_of(backend), script)
        except BaseException as error:
            caught.append(error)
            raise
    assert scope.cancelled_caught
    assert [type(each) for each in caught] == [trio.Cancelled]
    assert script.slots == 0


@each_backend
async def test_ctrl_c(backend: str, autojump_clock: MockClock) -> None:
    """What is no `Exception` ends the call, and comes out as itself."""
    script = Script(backend, Answer(200, after_s=30.0))

    async def call_next(request: httpx.Request) -> httpx.Response:
        if script.requests:
            raise KeyboardInterrupt
        return await script(request)

    ended: BaseException | None = None
    try:
        await Hedge(1.0).intercept(request_of(backend), call_next)
    except KeyboardInterrupt as error:
        ended = error
    assert ended is not None
    assert script.slots == 0


@each_backend
async def test_ctrl_c_among_cancellations(backend: str, autojump_clock: MockClock) -> None:
    """It comes out, and not the cancellation that was there before it."""
    script = Script(backend, Answer(200, after_s=30.0))

    async def call_next(request: httpx.Request) -> httpx.Response:
        if not script.requests:
            return await script(request)
        try:
            return await script(request)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.sleep(0.5)
            raise KeyboardInterrupt

    ended: BaseException | None = None
    try:
        with trio.move_on_after(2.0):
            await Hedge(1.0).intercept(request_of(backend), call_next)
    except KeyboardInterrupt as error:
        ended = error
    assert ended is not None


@each_backend
async def test_a_loser_that_cannot_be_stopped(backend: str, autojump_clock: MockClock) -> None:
    """Its answer is closed too, a good one as well as a bad one."""
    script = Script(backend, Answer(200, after_s=2.0), Answer(200, after_s=0.5))

    async def stubborn(request: httpx.Request) -> httpx.Response:
        with trio.CancelScope(shield=True):
            response = await script(request)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return response

    response = await Hedge(1.0).intercept(request_of(backend), stubborn)
    assert script.slots == 1
    await response.aclose()
    assert script.slots == 0


@each_backend
async def test_both_at_once_and_cancelled(backend: str, autojump_clock: MockClock) -> None:
    """A winner whose caller is cancelled in the same moment is closed."""
    script = Script(backend, Answer(200, after_s=30.0), Answer(200))
    scope = trio.CancelScope()

    async def call_next(request: httpx.Request) -> httpx.Response:
        response = await script(request)
        scope.cancel()
        return response

    with scope:
        await Hedge(1.0).intercept(request_of(backend), call_next)
    assert scope.cancelled_caught
    assert script.slots == 0


@each_backend
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_may_not_happen_twice(
    backend: str, method: str, autojump_clock: MockClock
) -> None:
    """It is sent once, unless it has an idempotency key."""
    script = Script(backend, Answer(200, after_s=30.0))
    await Hedge(1.0).intercept(request_of(backend, method), script)
    assert len(script.requests) == 1
    request = request_of(backend, method, extensions={"trio_rt": Call(idempotency_key="7")})
    await Hedge(1.0).intercept(request, script)
    assert len(script.requests) == 3


@each_backend
async def test_no_copies(backend: str, autojump_clock: MockClock) -> None:
    """None of a streamed body, and none where the call forbids retries."""

    script = Script(backend, Answer(200, after_s=30.0))
    await Hedge(1.0).intercept(request_of(backend, "PUT", content=Streamed()), script)
    request = request_of(backend, extensions={"trio_rt": Call(retries=0)})
    await Hedge(1.0).intercept(request, script)
    assert len(script.requests) == 2


@each_backend
async def test_the_copy_is_a_request_of_its_own(backend: str, autojump_clock: MockClock) -> None:
    """Same method, URL, headers and body; what layers write into it stays apart."""
    script = Script(backend, Answer(200, after_s=30.0), Answer(200))
    request = request_of(backend, "PUT", content=b"x", headers={"a": "b"}, extensions={"k": 1})
    await Hedge(1.0).intercept(request, script)
    first, copy = script.requests
    assert first is request
    assert copy is not first
    assert (copy.method, copy.url, copy.headers) == (first.method, first.url, first.headers)
    assert b"".join([each async for each in copy.stream]) == b"x"  # type: ignore[union-attr]
    assert copy.extensions == first.extensions
    assert copy.extensions is not first.extensions
    assert copy.headers is not first.headers


@each_backend
async def test_the_copy_has_what_was_given(backend: str, autojump_clock: MockClock) -> None:
    """What a layer below put in for the first try alone is not for the copy."""
    script = Script(backend, Answer(200, after_s=30.0), Answer(200))
    seen: list[object] = []

    async def call_next(request: httpx.Request) -> httpx.Response:
        seen.append(dict(request.extensions))
        request.extensions = {**request.extensions, "trace": len(seen)}
        return await script(request)

    await Hedge(1.0).intercept(request_of(backend, extensions={"k": 1}), call_next)
    assert seen == [{"k": 1}] * 2


@each_backend
async def test_the_budget(backend: str, autojump_clock: MockClock) -> None:
    """A copy that it does not pay is not sent; its own counts the calls, a given one does not."""
    script = Script(backend, Answer(200, after_s=3.0))
    budget = Budget(floor=1)
    layer = Hedge(1.0, budget=budget)
    for _ in range(10):
        await layer.intercept(request_of(backend), script)
    found = layer.statistics()
    assert (found.calls, found.copies, found.unaffordable) == (10, 1, 9)
    layer = Hedge(1.0)
    for _ in range(100):
        await layer.intercept(request_of(backend), Script(backend, Answer()))
    assert layer.budget.left(trio.current_time()) == 20


@each_backend
async def test_the_quantile(backend: str, autojump_clock: MockClock) -> None:
    """By default: a copy goes out when a call takes longer than 95 % of the last ones did."""
    layer = Hedge()
    for n in range(LEAST_SAMPLES):
        script = Script(backend, Answer(200, after_s=0.1 * (1 + n)))
        await layer.intercept(request_of(backend), script)
        assert len(script.requests) == 1
    # Failing is fast, and no sample.
    for _ in range(SAMPLES):
        await layer.intercept(request_of(backend), Script(backend, Answer(503)))
    script = Script(backend, Answer(200, after_s=30.0), Answer(201))
    assert await went(layer, script, request_of(backend)) == (201, 1.9)
    # Another origin has other times.
    script = Script(backend, Answer(200, after_s=30.0))
    await layer.intercept(request_of(backend, url="http://other.example/"), script)
    assert len(script.requests) == 1


@each_backend
async def test_over_sockets(backend: BackendName) -> None:
    """A server that hangs on the first request answers the copy; the first has hung up then."""
    visits = 0

    async def behave(exchange: Exchange) -> bool:
        nonlocal visits
        visits += 1
        return await (stall() if visits == 1 else answer(b"copy"))(exchange)

    module = module_of(backend)
    with trio.fail_after(20):
        async with open_peer({"/": behave}) as peer:
            stack = transport(Hedge(0.02), backend=backend)
            async with module.AsyncClient(transport=stack, trust_env=False) as client:
                response = await client.get(peer.url)
                assert response.content == b"copy"
                await peer.wait_live(1)


@given(st.lists(st.floats(0, 10), max_size=3 * SAMPLES), st.floats(0.01, 0.99))
def test_latencies(times: list[float], part: float) -> None:
    """The quantile is that of the last `SAMPLES`; None of fewer than `LEAST_SAMPLES`."""
    latencies = Latencies()
    for each in times:
        latencies.add(each)
    last = sorted(times[-SAMPLES:])
    found = latencies.quantile(part)
    if len(last) < LEAST_SAMPLES:
        assert found is None
    else:
        assert found == last[int(part * (len(last) - 1))]


@pytest.mark.parametrize(
    "options",
    [
        {"after_s": -1},
        {"after_s": math.inf},
        {"max_copies": 0},
        {"quantile": 0},
        {"quantile": 1},
        {"quantile": 0.9, "after_s": 1.0},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    """They are refused by name."""
    with pytest.raises(OptionError, match=f"Hedge.{next(iter(options))}"):
        Hedge(**options)

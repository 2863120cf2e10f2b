"""Trying again."""

from __future__ import annotations

import email.utils
import math
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rt._ambient import Ambient, replace_ambient
from trio_rt.errors import BodyTooLarge, CircuitOpen, QueueFull
from trio_rt.http import _attempt
from trio_rt.http._backend import BackendName, backend
from trio_rt.http._budget import Budget
from trio_rt.http._call import Call
from trio_rt.http._client import Client
from trio_rt.http._layer import Crew, transport
from trio_rt.http._open import open_client
from trio_rt.http._retry import Retry
from trio_rt.http._stage import KEY, Progress, stage_of

from .peers import Behaviour, Exchange, Peer, answer, head_of, open_peer, raw, stall
from .scripted import BACKENDS, Answer, Script, Streamed, request_of

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

WALL_S = 1_700_000_000.0


class Fixed(Ambient):
    """Draws the upper end of each range, and knows the time."""

    class Most(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    def __init__(self) -> None:
        self.random = self.Most()

    def wall_s(self) -> float:
        return WALL_S + trio.current_time()


@pytest.fixture(autouse=True)
def _fixed() -> Iterator[None]:
    old = replace_ambient(Fixed())
    yield
    replace_ambient(old)


def keyed(key: str | None = None, retries: int | None = None) -> dict[str, Any]:
    return {"extensions": {"trio_rt": Call(idempotency_key=key, retries=retries)}}


async def test_a_good_answer_is_the_answer(backend: str) -> None:
    """It is handed on as it is, unread, after one try."""
    script = Script(backend, Answer(204))
    layer = Retry()
    response = await layer.intercept(request_of(backend), script)
    assert response.status_code == 204
    assert script.slots == 1
    found = layer.statistics()
    assert (found.calls, found.tries, found.retried, found.given_up) == (1, 1, 0, 0)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_passing_failure(backend: str, status: int, autojump_clock: MockClock) -> None:
    """Its response is closed, and after the delay the call is tried again."""
    script = Script(backend, Answer(status), Answer(status), Answer(200))
    layer = Retry(first_s=1.0)
    start = trio.current_time()
    response = await layer.intercept(request_of(backend), script)
    assert response.status_code == 200
    assert [time - start for time in script.times] == pytest.approx([0.0, 1.0, 3.0])
    assert script.slots == 1
    found = layer.statistics()
    assert (found.calls, found.tries, found.retried, found.given_up) == (1, 3, 1, 0)


@pytest.mark.parametrize("status", [200, 304, 400, 401, 404, 501, 505])
async def test_other_statuses(backend: str, status: int) -> None:
    """They are not tried again."""
    script = Script(backend, Answer(status))
    response = await Retry().intercept(request_of(backend), script)
    assert response.status_code == status
    assert len(script.requests) == 1


async def test_the_last_response_is_returned(backend: str, autojump_clock: MockClock) -> None:
    """After `retries` more tries; it is open, and no other is."""
    script = Script(backend, Answer(502), Answer(502), Answer(502), Answer(503))
    layer = Retry(3)
    response = await layer.intercept(request_of(backend), script)
    assert response.status_code == 503
    assert len(script.requests) == 4
    assert script.slots == 1
    assert layer.statistics().given_up == 1
    assert b"".join([each async for each in response.aiter_raw()]) == b"body"


async def test_the_last_error_is_raised(backend: str, autojump_clock: MockClock) -> None:
    """With a note of the number of tries, and no other error as its context."""
    script = Script(backend, Answer(error="ReadError"))
    with pytest.raises(script.module.ReadError) as raised:
        await Retry(2).intercept(request_of(backend), script)
    assert raised.value.__notes__ == ["tried 3 times"]
    assert raised.value.__context__ is None
    assert len(script.requests) == 3


async def test_one_try_has_no_note(backend: str) -> None:
    """Where nothing was repeated there is nothing to say."""
    script = Script(backend, Answer(error="ReadError"))
    with pytest.raises(script.module.ReadError) as raised:
        await Retry(0).intercept(request_of(backend), script)
    assert not hasattr(raised.value, "__notes__")


@pytest.mark.parametrize("error", ["ConnectError", "ConnectTimeout", "PoolTimeout"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unsent(backend: str, method: str, error: str, autojump_clock: MockClock) -> None:
    """With no connection nothing was sent: any method is tried again."""
    script = Script(backend, Answer(error=error), Answer(200))
    response = await Retry().intercept(request_of(backend, method), script)
    assert response.status_code == 200


BROKEN = ["ReadError", "WriteError", "ReadTimeout", "WriteTimeout", "RemoteProtocolError"]


@pytest.mark.parametrize("error", BROKEN)
async def test_broken(backend: str, error: str, autojump_clock: MockClock) -> None:
    """What may have reached the server is tried again if it is idempotent, and only then."""
    script = Script(backend, Answer(error=error), Answer(200))
    response = await Retry().intercept(request_of(backend, "PUT", content=b"x"), script)
    assert response.status_code == 200
    script = Script(backend, Answer(error=error), Answer(200))
    with pytest.raises(getattr(script.module, error)):
        await Retry().intercept(request_of(backend, "POST", content=b"x"), script)
    assert len(script.requests) == 1


async def test_a_status_to_a_post(backend: str) -> None:
    """It is not tried again, and does not count as given up."""
    script = Script(backend, Answer(503))
    layer = Retry()
    response = await layer.intercept(request_of(backend, "POST", content=b"x"), script)
    assert response.status_code == 503
    assert len(script.requests) == 1
    assert layer.statistics().given_up == 0


async def test_an_idempotency_key(backend: str, autojump_clock: MockClock) -> None:
    """Any method is tried again, with the same `Idempotency-Key` each time."""
    script = Script(backend, Answer(503), Answer(error="ReadError"), Answer(201))
    request = request_of(backend, "POST", content=b"x", **keyed("order-7"))
    response = await Retry().intercept(request, script)
    assert response.status_code == 201
    assert [each.headers["Idempotency-Key"] for each in script.requests] == ["order-7"] * 3


async def test_the_calls_own_retries(backend: str, autojump_clock: MockClock) -> None:
    """`Call.retries` overrides those of the layer, both ways."""
    for retries in (0, 3):
        script = Script(backend, Answer(503))
        await Retry(1).intercept(request_of(backend, **keyed(retries=retries)), script)
        assert len(script.requests) == 1 + retries


@pytest.mark.parametrize("error", ["UnsupportedProtocol", "LocalProtocolError", "ProxyError"])
async def test_errors_that_would_be_the_same_again(backend: str, error: str) -> None:
    """They are raised at once."""
    script = Script(backend, Answer(error=error))
    with pytest.raises(getattr(script.module, error)):
        await Retry().intercept(request_of(backend), script)
    assert len(script.requests) == 1


@pytest.mark.parametrize("error", [CircuitOpen("http://a", 0.1), QueueFull(3), OSError()])
async def test_errors_of_others(backend: str, error: Exception) -> None:
    """Those of our own layers, and unknown ones, pass."""
    calls = 0

    async def call_next(request: Any) -> Any:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        await Retry().intercept(request_of(backend), call_next)
    assert calls == 1


async def test_a_streamed_body_is_not_replayed(backend: str, autojump_clock: MockClock) -> None:
    """After an answer it is gone; where no connection was made it is still there."""

    script = Script(backend, Answer(503), Answer(200))
    response = await Retry().intercept(request_of(backend, "PUT", content=Streamed()), script)
    assert response.status_code == 503
    script = Script(backend, Answer(error="ConnectError"), Answer(503), Answer(200))
    response = await Retry().intercept(request_of(backend, "PUT", content=Streamed()), script)
    assert response.status_code == 503
    assert len(script.requests) == 2


async def test_files_are_not_replayed(backend: str) -> None:
    """A multipart body is a stream."""
    script = Script(backend, Answer(503))
    request = request_of(backend, "PUT", files={"file": b"x"})
    await Retry().intercept(request, script)
    assert len(script.requests) == 1


async def test_advice_in_seconds(backend: str, autojump_clock: MockClock) -> None:
    """The next try is not before it, and spread by the delay."""
    script = Script(backend, Answer(503, headers={"Retry-After": "20"}), Answer(200))
    await Retry(first_s=1.0).intercept(request_of(backend), script)
    assert script.times[1] - script.times[0] == pytest.approx(21.0)


async def test_advice_as_a_date(backend: str, autojump_clock: MockClock) -> None:
    """By the wall clock of `ambient()`."""
    date = email.utils.formatdate(WALL_S + 30, usegmt=True)
    script = Script(backend, Answer(429, headers={"Retry-After": date}), Answer(200))
    await Retry(first_s=0.0).intercept(request_of(backend), script)
    assert script.times[1] == pytest.approx(30.0)


@pytest.mark.parametrize("value", ["soon", "-1", "", "5, 10", "1e3"])
async def test_advice_that_is_none(backend: str, value: str, autojump_clock: MockClock) -> None:
    """It is ignored."""
    script = Script(backend, Answer(503, headers={"Retry-After": value}), Answer(200))
    await Retry(first_s=1.0).intercept(request_of(backend), script)
    assert script.times[1] - script.times[0] == pytest.approx(1.0)


async def test_advice_past_the_cap(backend: str, autojump_clock: MockClock) -> None:
    """The response is returned at once."""
    script = Script(backend, Answer(503, headers={"Retry-After": "61"}))
    layer = Retry()
    start = trio.current_time()
    response = await layer.intercept(request_of(backend), script)
    assert (response.status_code, trio.current_time()) == (503, start)
    assert layer.statistics().given_up == 1
    assert layer.statistics().unaffordable == 0


async def test_advice_past_the_deadline(backend: str, autojump_clock: MockClock) -> None:
    """The caller gets the response, not a timeout, and nothing is paid."""
    script = Script(backend, Answer(503, headers={"Retry-After": "20"}))
    layer = Retry(budget=Budget(floor=7))
    start = trio.current_time()
    with trio.fail_after(20):
        response = await layer.intercept(request_of(backend), script)
    assert (response.status_code, trio.current_time()) == (503, start)
    assert layer.statistics().budget_left == 7


async def test_a_delay_past_the_deadline(backend: str, autojump_clock: MockClock) -> None:
    """The error is raised at once."""
    script = Script(backend, Answer(error="ConnectError"))
    start = trio.current_time()
    with trio.fail_after(1.0), pytest.raises(script.module.ConnectError):
        await Retry(first_s=1.0).intercept(request_of(backend), script)
    assert trio.current_time() == start


async def test_no_slot_is_held_in_the_backoff(backend: str, autojump_clock: MockClock) -> None:
    """The response is closed before the wait begins."""
    script = Script(backend, Answer(503), Answer(200))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Retry(first_s=5.0).intercept, request_of(backend), script)
        await trio.sleep(2.5)
        assert script.slots == 0
        assert len(script.requests) == 1


async def test_the_stage(backend: str, autojump_clock: MockClock) -> None:
    """Whoever measures the call learns that it waits, and that it no longer does."""
    script = Script(backend, Answer(503), Answer(200, after_s=5.0))
    request = request_of(backend, extensions={KEY: Progress()})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Retry(first_s=5.0).intercept, request, script)
        await trio.sleep(2.5)
        assert stage_of(request) == "backoff"
        await trio.sleep(5)
        assert stage_of(request) == "answer"


async def test_a_short_body_is_read(backend: str, autojump_clock: MockClock) -> None:
    """Up to 64 KiB: its connection stays usable."""
    chunks = (bytes(_attempt.DRAIN_BYTES // 2),) * 2
    script = Script(backend, Answer(503, chunks=chunks), Answer(200))
    await Retry().intercept(request_of(backend), script)
    assert script.read_to_end == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, chunks=(bytes(_attempt.DRAIN_BYTES // 2),) * 4),
        Answer(503, chunks=(b"x",) * 2, pause_s=1e3),
    ],
)
async def test_a_long_body_is_not_read(
    backend: str, answer: Answer, autojump_clock: MockClock
) -> None:
    """One that is large, or slow, is closed in the midst."""
    script = Script(backend, answer, Answer(200))
    response = await Retry(first_s=0.0).intercept(request_of(backend), script)
    assert response.status_code == 200
    assert script.read_to_end == 0
    assert script.slots == 1
    assert trio.current_time() < 1.0


@pytest.mark.parametrize("after_s", [0.05, 5.0])
async def test_cancelled(backend: str, after_s: float, autojump_clock: MockClock) -> None:
    """While the response is read to be thrown away, or in the wait: nothing is left open."""
    script = Script(backend, Answer(503, pause_s=0.06))
    layer = Retry(first_s=10.0)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(layer.intercept, request_of(backend), script)
            await trio.sleep(after_s)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert script.slots == 0
    assert len(script.requests) == 1


async def test_closing_is_shielded(backend: str, autojump_clock: MockClock) -> None:
    """A cancelled caller waits for the connection to be closed."""
    script = Script(backend, Answer(503, pause_s=0.06), holds=False)
    with trio.move_on_after(0.03):
        await Retry(first_s=0.0).intercept(request_of(backend), script)
    assert script.closed == 1


async def test_the_budget(backend: str, autojump_clock: MockClock) -> None:
    """An empty one ends calls at their first failure."""
    script = Script(backend, Answer(503))
    layer = Retry(2, budget=Budget(floor=3, share=0.0))
    for _ in range(3):
        await layer.intercept(request_of(backend), script)
    found = layer.statistics()
    assert (found.calls, found.tries, found.retried, found.given_up) == (3, 6, 2, 3)
    assert (found.unaffordable, found.budget_left) == (2, 0)


async def test_a_dead_server_in_memory(backend: str, autojump_clock: MockClock) -> None:
    """1,000 calls, one after the other: at most 1.2 tries each."""
    script = Script(backend, Answer(503))
    layer = Retry(first_s=0.01)
    for _ in range(1000):
        await layer.intercept(request_of(backend), script)
    assert 1100 < len(script.requests) <= 1200


async def test_a_dead_server(backend: BackendName) -> None:
    """1,000 calls to a port where nobody listens: at most 1,200 dials."""
    dials = 0

    async def counted(request: Any, call_next: Any) -> Any:
        nonlocal dials
        dials += 1
        return await call_next(request)

    module = backend_module(backend)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        layer = Retry(first_s=0.001, cap_s=0.001)
        failed = 0
        with trio.fail_after(60):
            async with module.AsyncClient(
                transport=transport(layer, counted, backend=backend), trust_env=False
            ) as client:

                async def work() -> None:
                    nonlocal failed
                    for _ in range(100):
                        try:
                            await client.get(url)
                        except module.ConnectError:
                            failed += 1

                async with trio.open_nursery() as nursery:
                    for _ in range(10):
                        nursery.start_soon(work)
    assert failed == 1000
    assert 1100 < dials <= 1200
    assert layer.statistics().tries == dials


async def test_a_shared_budget(backend: str, autojump_clock: MockClock) -> None:
    """Two layers can spend from one."""
    budget = Budget(floor=1)
    script = Script(backend, Answer(503))
    for layer in (Retry(budget=budget), Retry(budget=budget)):
        await layer.intercept(request_of(backend), script)
    assert len(script.requests) == 3
    assert budget.left(trio.current_time()) < math.inf


def first_503(rest: Behaviour) -> Behaviour:
    """`rest` once, and then a whole 200."""
    visits = 0

    async def behave(exchange: Exchange) -> bool:
        nonlocal visits
        visits += 1
        return await (rest if visits == 1 else answer())(exchange)

    return behave


async def endless(exchange: Exchange) -> bool:
    await exchange.stream.send_all(head_of(503, {"Transfer-Encoding": "chunked"}))
    while True:
        await exchange.stream.send_all(b"1000\r\n" + bytes(0x1000) + b"\r\n")


@pytest.mark.parametrize(("rest", "connections"), [(answer(b"sorry", 503), 1), (endless, 2)])
async def test_the_connection(backend: BackendName, rest: Behaviour, connections: int) -> None:
    """After a short body it is used again, after an endless one it is closed and another made."""
    module = backend_module(backend)
    with trio.fail_after(20):
        async with open_peer({"/": first_503(rest)}) as peer:
            stack = transport(Retry(first_s=0.001), backend=backend)
            async with module.AsyncClient(transport=stack, trust_env=False) as client:
                assert (await client.get(peer.url)).status_code == 200
                assert len(peer.visits) == 2
                assert peer.accepted == connections
                await peer.wait_live(1)


def backend_module(name: BackendName) -> Any:
    return backend(name)


# Bodies that break off

CUT = head_of(200, {"Content-Length": "10"}) + b"part"
CUT_CHUNKS = head_of(200, {"Transfer-Encoding": "chunked"}) + b"4\r\npart\r\n"


def cut_first(count: int, data: bytes) -> Behaviour:
    """`count` times `data` and the end, then a whole answer."""
    left = iter(range(count))

    async def behave(exchange: Exchange) -> bool:
        behaviour = raw(data) if next(left, None) is not None else answer(b"whole")
        return await behaviour(exchange)

    return behave


@asynccontextmanager
async def open_cut(
    backend: BackendName, count: int, data: bytes = CUT, **options: Any
) -> AsyncIterator[tuple[Client, Peer]]:
    options = {"retry": Retry(first_s=0), **options}
    with trio.fail_after(10):
        async with (
            open_peer({"*": cut_first(count, data)}) as peer,
            open_client(peer.url, backend=backend, **options) as client,
        ):
            yield client, peer
            assert client.statistics().gate.running == 0


@pytest.mark.parametrize("data", [CUT, CUT_CHUNKS])
@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("cache", [False, True])
async def test_a_cut_body(backend: BackendName, data: bytes, follow: bool, cache: bool) -> None:
    """A body that breaks off in a whole read is a try that failed."""
    async with open_cut(backend, 2, data, cache=cache) as (client, peer):
        response = await client.get("/", follow_redirects=follow)
        assert (response.content, response.num_bytes_downloaded) == (b"whole", 5)
        assert response.request.url.path == "/"
        assert len(peer.visits) == 3
        found = client.statistics().retry
        assert found is not None
        assert (found.tries, found.retried, found.given_up) == (3, 1, 0)
        await client.post("/", content=b"x", idempotency_key="k")
        assert len(peer.visits) == 4


async def test_a_body_that_is_always_cut(backend: BackendName) -> None:
    """The tries are as many as of other failures; the last error tells of the request."""
    async with open_cut(backend, 99) as (client, peer):
        with pytest.raises(backend_module(backend).RemoteProtocolError) as caught:
            await client.get("/")
        assert caught.value.request.url.path == "/"
        assert caught.value.__notes__ == ["tried 3 times"]
        assert len(peer.visits) == 3
        with pytest.raises(backend_module(backend).RemoteProtocolError):
            await client.get("/", retries=0)
        assert len(peer.visits) == 4


async def test_a_cut_body_is_paid_for(backend: BackendName) -> None:
    """With nothing in the budget it is not asked for again."""
    retry = Retry(first_s=0, budget=Budget(share=0, floor=1))
    async with open_cut(backend, 99, retry=retry) as (client, peer):
        for _ in range(3):
            with pytest.raises(backend_module(backend).RemoteProtocolError):
                await client.get("/")
        assert len(peer.visits) == 4


async def test_a_cut_body_that_may_not_be_asked_for_again(backend: BackendName) -> None:
    """A POST is not repeated, nor what is read by a `stream()`, or had another error."""
    error = backend_module(backend).RemoteProtocolError
    async with open_cut(backend, 99, max_body_bytes=20) as (client, peer):
        with pytest.raises(error):
            await client.post("/", content=b"x")
        with pytest.raises(error):
            async with client.stream("GET", "/") as response:
                await response.aread()
        assert len(peer.visits) == 2
        peer.paths["/large"] = answer(b"x" * 21)
        peer.paths["/packed"] = answer(b"no gzip", Content_Encoding="gzip")
        with pytest.raises(BodyTooLarge):
            await client.get("/large")
        with pytest.raises(backend_module(backend).DecodingError):
            await client.get("/packed")
        assert len(peer.visits) == 4


async def test_cancelled_in_a_body(backend: BackendName) -> None:
    """Cancelled while it reads: the connection is closed, and the slot free."""
    paths = {"/": stall(CUT)}
    with trio.fail_after(10):
        async with open_peer(paths) as peer, open_client(peer.url, backend=backend) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, "/")
                while not peer.visits:
                    await trio.sleep(0.001)
                await wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
            assert client.statistics().gate.running == 0
            await peer.wait_live(0)


async def test_closed_in_the_backoff(backend: str, autojump_clock: MockClock) -> None:
    """A transport that closes wakes what waits to try again: it raises ClosedResourceError."""
    script = Script(backend, Answer(503))
    retry = Retry(first_s=1000, cap_s=1000)
    ended: list[float] = []

    async def call() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await retry.intercept(request_of(backend), script)
        ended.append(trio.current_time())

    for _ in range(2):  # the layer opens again with another client
        began = trio.current_time()
        retry.opened(Crew())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(5)
            await retry.closing()
        assert ended.pop() == began + 5
    assert len(script.requests) == 2

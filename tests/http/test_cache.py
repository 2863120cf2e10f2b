"""The cache as a layer: in virtual time over an origin in memory, and over real sockets."""

from __future__ import annotations

import gzip
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rt._ambient import Ambient, replace_ambient
from trio_rt.errors import CircuitOpen, NotCached, OptionError
from trio_rt.http import _backend
from trio_rt.http._backend import BackendName
from trio_rt.http._cache import Cache
from trio_rt.http._call import CacheMode, Call, call_of
from trio_rt.http._connect import SafeConnect
from trio_rt.http._gate import Gate
from trio_rt.http._layer import Crew, transport
from trio_rt.http._stage import Progress
from trio_rt.http._store import MemoryStore
from trio_rt.http._urgency import urgency_of
from trio_rt.message import Priority

from .cache_table import NOW
from .peers import Exchange, answer, both, head_of, open_peer, raw
from .test_store import entry_of

URL = "http://origin.test/a"
FRESH = {"Cache-Control": "max-age=60", "ETag": '"1"'}


class Virtual(Ambient):
    def wall_s(self) -> float:
        return NOW + trio.current_time()


@pytest.fixture(autouse=True)
def _virtual() -> Iterator[None]:
    old = replace_ambient(Virtual())
    yield
    replace_ambient(old)


@attrs.define
class Plan:
    """How the origin answers."""

    headers: dict[str, str] = attrs.field(factory=lambda: dict(FRESH))
    status: int = 200
    body: bytes | None = None
    error: Any = None
    #: Until the headers, and before each of the two parts of the body.
    after_s: float = 0.0
    pause_s: float = 0.0
    #: The body breaks after its first part.
    breaks: bool = False
    in_memory: bool = False


class Origin:
    """The `call_next` below the cache. `open` counts the responses that are not closed."""

    def __init__(self, backend: str = "httpx", **plan: Any) -> None:
        self.module: Any = _backend.backend(backend)
        self.plan: Plan | Callable[[Any], Plan] = Plan(**plan)
        self.requests: list[httpx.Request] = []
        self.open = 0

    def set(self, **plan: Any) -> None:
        self.plan = Plan(**plan)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        count = len(self.requests)
        plan = self.plan if isinstance(self.plan, Plan) else self.plan(request)
        await trio.sleep(plan.after_s)
        if plan.error is not None:
            raise plan.error
        body = b"body %d" % count if plan.body is None else plan.body
        if plan.in_memory:
            return self.module.Response(plan.status, headers=plan.headers, content=body)  # type: ignore[no-any-return]
        self.open += 1
        stream = self._stream(plan, b"" if plan.status == 304 else body)
        response: httpx.Response = self.module.Response(
            plan.status, headers=plan.headers, stream=stream
        )
        return response

    def _stream(self, plan: Plan, body: bytes) -> Any:
        origin = self

        class Body(self.module.AsyncByteStream):  # type: ignore[misc,name-defined]
            is_open = True
            parts = iter([body[:3], None if plan.breaks else body[3:]])

            def __aiter__(self) -> Any:
                return self

            async def __anext__(self) -> bytes:
                await trio.sleep(plan.pause_s)
                for part in self.parts:
                    if part is None:
                        raise origin.module.ReadError("broken")
                    return part
                raise StopAsyncIteration

            async def aclose(self) -> None:
                if self.is_open:
                    self.is_open = False
                    origin.open -= 1
                await trio.lowlevel.checkpoint()

        return Body()


class Caller:
    """Calls through a cache, each read to its end."""

    def __init__(self, cache: Cache, origin: Origin) -> None:
        self.cache = cache
        self.origin = origin

    def request(
        self,
        method: str = "GET",
        url: str = URL,
        *,
        mode: CacheMode = "default",
        priority: Priority = Priority.NORMAL,
        **headers: str,
    ) -> httpx.Request:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        extensions = {"trio_rt": Call(cache=mode, priority=priority)}
        request: httpx.Request = self.origin.module.Request(
            method, url, headers=named, extensions=extensions
        )
        return request

    async def send(self, request: httpx.Request) -> httpx.Response:
        return await self.cache.intercept(request, self.origin)

    async def __call__(self, *args: Any, **options: Any) -> tuple[str, bytes]:
        response = await self.send(self.request(*args, **options))
        try:
            body = await response.aread()
        finally:
            with trio.CancelScope(shield=True):
                await response.aclose()
        return response.extensions.get("trio_rt.cache", "-"), body

    def check_nothing_left(self) -> None:
        assert len(self.cache.flights) == 0
        assert self.origin.open == 0
        assert not self.cache._refreshing


@asynccontextmanager
async def opened(origin: Origin, **options: Any) -> AsyncIterator[Caller]:
    cache = Cache(**options)
    crew = Crew()
    await crew.open()
    cache.opened(crew)
    caller = Caller(cache, origin)
    try:
        yield caller
    finally:
        with trio.move_on_after(5, shield=True):
            await cache.closing()
        await crew.aclose()  # noqa: ASYNC102  # it shields itself
        caller.check_nothing_left()


# One after another


@both
async def test_a_hit(backend: str, autojump_clock: MockClock) -> None:
    """A fresh response is answered with its age, status, reason and headers; then it is stale."""
    async with opened(Origin(backend)) as call:
        assert await call() == ("miss", b"body 1")
        await trio.sleep(59.5)
        response = await call.send(call.request())
        assert response.extensions["trio_rt.cache"] == "hit"
        assert response.headers["age"] == "59"
        assert await response.aread() == b"body 1"
        assert response.headers["etag"] == '"1"'
        await trio.sleep(1)
        assert await call() == ("miss", b"body 2")
        assert len(call.origin.requests) == 2


@both
async def test_a_hit_can_be_streamed(backend: str, autojump_clock: MockClock) -> None:
    """The raw bytes are those that were received, still encoded, and the text is decoded."""
    packed = gzip.compress(b"text")
    headers = FRESH | {"Content-Encoding": "gzip", "Content-Length": str(len(packed))}
    async with opened(Origin(backend, headers=headers, body=packed)) as call:
        await call()
        response = await call.send(call.request())
        assert b"".join([part async for part in response.aiter_raw()]) == packed
        assert await call() == ("hit", b"text")


@both
async def test_revalidation(backend: str, autojump_clock: MockClock) -> None:
    """A 304 freshens the stored headers; the body is the stored one; the request is the caller's."""
    async with opened(Origin(backend)) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(status=304, headers=FRESH | {"X-New": "1"})
        request = call.request()
        response = await call.send(request)
        assert response.extensions["trio_rt.cache"] == "revalidated"
        assert (response.status_code, await response.aread()) == (200, b"body 1")
        assert (response.headers["x-new"], response.headers["age"]) == ("1", "0")
        assert call.origin.requests[1].headers["if-none-match"] == '"1"'
        assert "if-none-match" not in request.headers
        await trio.sleep(59)
        assert await call() == ("hit", b"body 1")


async def test_a_changed_response_replaces(autojump_clock: MockClock) -> None:
    """A 200 to a conditional request is the new response."""
    async with opened(Origin()) as call:
        await call()
        await trio.sleep(61)
        assert await call() == ("miss", b"body 2")
        assert await call() == ("hit", b"body 2")


async def test_what_may_not_be_stored_now_is_gone(autojump_clock: MockClock) -> None:
    """An answer that may not be stored drops the older one; an error does not."""
    async with opened(Origin()) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(status=500, headers={})
        await call()
        assert call.cache.statistics().entries == 1
        call.origin.set(headers={"Cache-Control": "no-store"})
        await call()
        assert call.cache.statistics().entries == 0


async def test_a_304_about_another(autojump_clock: MockClock) -> None:
    """It is asked again without conditions."""
    origin = Origin()
    async with opened(origin) as call:
        await call()
        await trio.sleep(61)

        def plan(request: Any) -> Plan:
            if "if-none-match" in request.headers:
                return Plan(status=304, headers={"ETag": '"2"'})
            return Plan(headers=FRESH | {"ETag": '"2"'})

        origin.plan = plan
        assert await call() == ("miss", b"body 3")
        assert await call() == ("hit", b"body 3")


async def test_a_304_that_forbids_storing(autojump_clock: MockClock) -> None:
    """The stored response answers once more, and is gone."""
    async with opened(Origin()) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(status=304, headers={"Cache-Control": "no-store"})
        assert await call() == ("revalidated", b"body 1")
        assert call.cache.statistics().entries == 0


async def test_head_from_a_stored_get(autojump_clock: MockClock) -> None:
    """HEAD is answered by headers alone; its own answer is never stored."""
    async with opened(Origin()) as call:
        assert (await call("HEAD"))[0] == "miss"
        assert (await call())[0] == "miss"
        assert await call("HEAD") == ("hit", b"")


@pytest.mark.parametrize("name", ["Range", "If-None-Match", "If-Modified-Since", "If-Range"])
async def test_conditional_requests_pass_through(name: str, autojump_clock: MockClock) -> None:
    """The caller's own conditions are neither answered nor changed, and nothing is stored."""
    async with opened(Origin()) as call:
        await call()
        request = call.request()
        request.headers[name] = "x"
        await (await call.send(request)).aclose()
        assert call.origin.requests[1] is request
        assert call.cache.statistics().stored == 1


async def test_a_get_with_a_body_passes_through(autojump_clock: MockClock) -> None:
    """Its body is no part of the key, so it is neither stored nor shared."""
    async with opened(Origin()) as call:
        request = call.origin.module.Request("GET", URL, content=b"query")
        await (await call.send(request)).aread()
        assert call.cache.statistics().stored == 0


async def test_unsafe_methods_invalidate(autojump_clock: MockClock) -> None:
    """The URL, and `Location` and `Content-Location` of the same origin, if it succeeded."""
    async with opened(Origin()) as call:
        for url in (URL, URL + "b", URL + "c", "http://other.test/a"):
            await call("GET", url)
        call.origin.set(status=409)
        await call("POST")
        assert (await call())[0] == "hit"
        call.origin.set(headers={"Location": "/ab", "Content-Location": "http://other.test/a"})
        assert await call("POST") == ("-", b"body 6")
        call.origin.set()
        assert (await call("GET", URL))[0] == "miss"
        assert (await call("GET", URL + "b"))[0] == "miss"
        assert (await call("GET", URL + "c"))[0] == "hit"
        assert (await call("GET", "http://other.test/a"))[0] == "hit"


async def test_a_bad_location_is_none(autojump_clock: MockClock) -> None:
    """It invalidates nothing, and raises nothing."""
    async with opened(Origin(headers={"Location": "http://[x"})) as call:
        assert (await call("PUT"))[0] == "-"


async def test_safe_methods_do_not(autojump_clock: MockClock) -> None:
    """OPTIONS changes nothing."""
    async with opened(Origin()) as call:
        await call()
        await call("OPTIONS")
        assert (await call())[0] == "hit"


async def test_a_failed_change_may_have_changed(autojump_clock: MockClock) -> None:
    """A POST without an answer invalidates, too."""
    async with opened(Origin()) as call:
        await call()
        call.origin.set(error=httpx.ReadTimeout("late"))
        with pytest.raises(httpx.ReadTimeout):
            await call("POST")
        call.origin.set()
        assert (await call())[0] == "miss"


async def test_what_was_asked_before_a_change_is_old(autojump_clock: MockClock) -> None:
    """A GET under way while its URL is changed is not stored, and none of its followers gets it."""
    async with opened(Origin(after_s=5.0)) as call, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.sleep(1)
        call.origin.set()
        await call("POST")
        follower = await call()
        assert follower == ("miss", b"body 3")
        assert await call() == ("hit", b"body 3")


async def test_vary(autojump_clock: MockClock) -> None:
    """Each variant is stored by itself."""
    async with opened(Origin(headers=FRESH | {"Vary": "Accept"})) as call:
        assert await call(Accept="a") == ("miss", b"body 1")
        assert await call(Accept="b") == ("miss", b"body 2")
        assert await call(Accept="a") == ("hit", b"body 1")
        assert await call(Accept="b") == ("hit", b"body 2")


async def test_authorization_is_a_variant(autojump_clock: MockClock) -> None:
    """Nobody gets what was made for somebody else."""
    async with opened(Origin()) as call:
        assert (await call(Authorization="ann"))[0] == "miss"
        assert (await call(Authorization="bob"))[0] == "miss"
        assert (await call())[0] == "miss"
        assert await call(Authorization="ann") == ("hit", b"body 1")


async def test_keys(autojump_clock: MockClock) -> None:
    """A fragment or a password makes no other URL; a query does."""
    async with opened(Origin()) as call:
        await call()
        assert (await call("GET", URL + "#part"))[0] == "hit"
        assert (await call("GET", "http://u:p@origin.test/a"))[0] == "hit"
        assert (await call("GET", URL + "?a=1"))[0] == "miss"


# Modes and wishes


async def test_no_store_mode(autojump_clock: MockClock) -> None:
    """Neither answered from the store nor stored."""
    async with opened(Origin()) as call:
        assert (await call(mode="no-store"))[0] == "miss"
        assert (await call())[0] == "miss"
        assert (await call(mode="no-store"))[0] == "miss"
        assert call.origin.requests[2].headers["cache-control"] == "no-cache"


async def test_reload_mode(autojump_clock: MockClock) -> None:
    """Not answered from the store, without conditions, but stored."""
    async with opened(Origin()) as call:
        await call()
        assert await call(mode="reload") == ("miss", b"body 2")
        assert "if-none-match" not in call.origin.requests[1].headers
        assert call.origin.requests[1].headers["pragma"] == "no-cache"
        assert await call() == ("hit", b"body 2")


async def test_no_cache_mode(autojump_clock: MockClock) -> None:
    """Validated even if it is fresh; a `Cache-Control` of the caller's own is left alone."""
    async with opened(Origin()) as call:
        await call()
        call.origin.set(status=304)
        assert await call(mode="no-cache") == ("revalidated", b"body 1")
        assert call.origin.requests[1].headers["cache-control"] == "max-age=0"
        await call(mode="no-cache", Cache_Control="max-age=5")
        assert call.origin.requests[2].headers["cache-control"] == "max-age=5"


async def test_only_if_cached_mode(autojump_clock: MockClock) -> None:
    """Answered from the store, stale or not, or not at all."""
    async with opened(Origin()) as call:
        with pytest.raises(NotCached):
            await call(mode="only-if-cached")
        await call()
        assert (await call(mode="only-if-cached"))[0] == "hit"
        await trio.sleep(1000)
        assert (await call(mode="only-if-cached"))[0] == "stale"
        with pytest.raises(NotCached):
            await call(Cache_Control="only-if-cached")
        assert len(call.origin.requests) == 1


async def test_max_stale(autojump_clock: MockClock) -> None:
    """The request's leave to be stale is taken."""
    async with opened(Origin()) as call:
        await call()
        await trio.sleep(65)
        assert await call(Cache_Control="max-stale=10") == ("stale", b"body 1")


# Bodies


async def test_a_body_above_the_limit_passes(autojump_clock: MockClock) -> None:
    """It reaches its reader whole and is not stored, whether its length is told or not."""
    store = MemoryStore(max_body_bytes=10)
    async with opened(Origin(body=b"x" * 10), store=store) as call:
        assert await call() == ("miss", b"x" * 10)
        assert (await call())[0] == "hit"
        call.origin.set(body=b"x" * 11)
        assert await call("GET", URL + "b") == ("miss", b"x" * 11)
        call.origin.set(body=b"x" * 11, headers=FRESH | {"Content-Length": "11"})
        assert await call("GET", URL + "c") == ("miss", b"x" * 11)
        call.origin.set(body=b"x" * 11, in_memory=True)
        assert await call("GET", URL + "d") == ("miss", b"x" * 11)
        assert call.cache.statistics().entries == 1


async def test_a_broken_body_is_not_stored(autojump_clock: MockClock) -> None:
    """Its error reaches the reader."""
    async with opened(Origin(breaks=True)) as call:
        with pytest.raises(httpx.ReadError):
            await call()
        assert call.cache.statistics().stored == 0


async def test_a_short_body_is_not_stored(autojump_clock: MockClock) -> None:
    """Neither is one that ends before its `Content-Length`."""
    async with opened(Origin(headers=FRESH | {"Content-Length": "100"})) as call:
        await call()
        assert call.cache.statistics().stored == 0


async def test_a_body_left_unread_is_not_stored(autojump_clock: MockClock) -> None:
    """Closed before its end: nothing is stored and nothing is left."""
    async with opened(Origin()) as call:
        response = await call.send(call.request())
        assert len(call.cache.flights) == 1
        await response.aclose()
        call.check_nothing_left()
        assert call.cache.statistics().stored == 0


async def test_a_response_in_memory_is_stored(autojump_clock: MockClock) -> None:
    """One that an inner layer made of a body in memory, too."""
    async with opened(Origin(in_memory=True)) as call:
        assert await call() == ("miss", b"body 1")
        assert await call() == ("hit", b"body 1")


async def test_a_response_read_below_is_not_stored(autojump_clock: MockClock) -> None:
    """Its raw bytes are gone, and nobody waits for them."""
    origin = Origin()

    async def reads(request: httpx.Request) -> httpx.Response:
        response = await origin(request)
        await response.aread()
        await response.aclose()
        return response

    async with opened(origin) as call:
        assert (await call.cache.intercept(call.request(), reads)).text == "body 1"
        call.check_nothing_left()


async def test_set_cookie_is_not_repeated(autojump_clock: MockClock) -> None:
    """The one who fetched gets it; a hit has none."""
    async with opened(Origin(headers=FRESH | {"Set-Cookie": "a=b"})) as call:
        first = await call.send(call.request())
        await first.aread()
        assert first.headers["set-cookie"] == "a=b"
        assert "set-cookie" not in (await call.send(call.request())).headers


# Many at once


@pytest.mark.parametrize("count", [20, 200])
@both
async def test_one_flight(backend: str, count: int, autojump_clock: MockClock) -> None:
    """Equal misses at once are one request to the origin; all get the same body."""
    async with opened(Origin(backend, after_s=1.0, pause_s=1.0)) as call:
        got: list[tuple[str, bytes]] = []

        async def one() -> None:
            got.append(await call())

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        assert len(call.origin.requests) == 1
        assert sorted(got) == [("coalesced", b"body 1")] * (count - 1) + [("miss", b"body 1")]
        assert call.cache.statistics().coalesced == count - 1


async def test_one_flight_for_a_revalidation(autojump_clock: MockClock) -> None:
    """Equal validations at once are one, too."""
    async with opened(Origin()) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(status=304, after_s=1.0)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(call)
        assert len(call.origin.requests) == 2
        assert call.cache.statistics().coalesced == 19


async def test_one_flight_for_each_variant(autojump_clock: MockClock) -> None:
    """What varies is one request for each variant, though nobody could know it before."""
    origin = Origin(after_s=1.0, headers=FRESH | {"Vary": "Accept"})
    async with opened(origin) as call, trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(partial(call, Accept=str(number % 3)))
    assert sorted(request.headers["accept"] for request in origin.requests) == ["0", "1", "2"]


async def test_no_convoy(autojump_clock: MockClock) -> None:
    """What may not be stored is fetched by all at once when that is known, and later at once."""
    async with opened(Origin(after_s=1.0, headers={"Cache-Control": "no-store"})) as call:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(call)
        assert trio.current_time() - start == pytest.approx(2.0)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(call)
        assert trio.current_time() - start == pytest.approx(3.0)
        assert len(call.origin.requests) == 40


async def test_no_wait_for_what_must_be_validated(autojump_clock: MockClock) -> None:
    """`no-cache` is known with the headers: nobody waits for the body of it."""
    headers = FRESH | {"Cache-Control": "no-cache"}
    async with opened(Origin(after_s=1.0, pause_s=10.0, headers=headers)) as call:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(call)
        assert trio.current_time() - start == pytest.approx(32.0)
        assert len(call.origin.requests) == 5


async def test_no_wait_for_a_large_body(autojump_clock: MockClock) -> None:
    """A body that becomes too large lets its followers go."""
    store = MemoryStore(max_body_bytes=2)
    async with opened(Origin(pause_s=5.0, body=b"large"), store=store) as call:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            await call()
        assert trio.current_time() - start == pytest.approx(20.0)


async def test_an_error_lets_all_go(autojump_clock: MockClock) -> None:
    """The leader's error is its own; each follower tries for itself, all at once."""
    async with opened(Origin(after_s=1.0, error=httpx.ConnectError("down"))) as call:
        start = trio.current_time()
        errors: list[Exception] = []

        async def one() -> None:
            try:
                await call()
            except httpx.ConnectError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert len(errors) == len(call.origin.requests) == 10
        assert trio.current_time() - start == pytest.approx(2.0)


@pytest.mark.parametrize("at_s", [0.5, 1.5, 2.5])
@both
async def test_a_cancelled_leader_hands_over(
    backend: str, at_s: float, autojump_clock: MockClock
) -> None:
    """In the answer or in the body: one follower fetches anew, the rest get that."""
    async with opened(Origin(backend, after_s=1.0, pause_s=1.0), follow_s=10.0) as call:
        got: list[str] = []

        async def one() -> None:
            got.append((await call())[0])

        async with trio.open_nursery() as nursery:
            leader = trio.CancelScope()

            async def lead() -> None:
                with leader:
                    await call()

            nursery.start_soon(lead)
            await wait_all_tasks_blocked()
            for _ in range(5):
                nursery.start_soon(one)
            await trio.sleep(at_s)
            leader.cancel()
        assert len(call.origin.requests) == 2
        assert sorted(got) == ["coalesced"] * 4 + ["miss"]


async def test_a_leader_that_reads_no_further_hands_over(autojump_clock: MockClock) -> None:
    """A response closed early does the same."""
    async with opened(Origin()) as call, trio.open_nursery() as nursery:
        response = await call.send(call.request())
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        assert len(call.origin.requests) == 1
        await response.aclose()
        await wait_all_tasks_blocked()
        assert len(call.origin.requests) == 2


async def test_all_callers_gone(autojump_clock: MockClock) -> None:
    """With its last caller the fetch is cancelled, and nothing is left."""
    async with opened(Origin(after_s=10.0)) as call:
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(call)
        call.check_nothing_left()
        assert len(call.origin.requests) == 1


async def test_impatience(autojump_clock: MockClock) -> None:
    """A leader that dawdles over its body holds nobody longer than `follow_s`."""
    async with opened(Origin(), follow_s=5.0) as call:
        response = await call.send(call.request())
        start = trio.current_time()
        assert await call() == ("miss", b"body 2")
        assert trio.current_time() - start == pytest.approx(5.0)
        await response.aclose()


async def test_stale_when_it_lands(autojump_clock: MockClock) -> None:
    """A body so slow that it is stale at its end answers its leader alone."""
    headers = FRESH | {"Cache-Control": "max-age=3"}
    async with opened(Origin(pause_s=2.0, headers=headers)) as call:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(call)
        assert len(call.origin.requests) == call.cache.statistics().misses == 2


async def test_wishes_do_not_wait(autojump_clock: MockClock) -> None:
    """A call with a Cache-Control of its own asks the origin itself."""
    async with opened(Origin(after_s=1.0)) as call:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            nursery.start_soon(partial(call, Cache_Control="max-age=5"))
            nursery.start_soon(partial(call, mode="reload"))
        assert len(call.origin.requests) == 3
        assert trio.current_time() - start == pytest.approx(1.0)


async def test_the_stage_of_a_follower(autojump_clock: MockClock) -> None:
    """While it waits for another's answer it is in a queue; then it is not."""
    async with opened(Origin(after_s=1.0)) as call, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        request = call.request()
        progress = request.extensions["trio_rt.progress"] = Progress()
        nursery.start_soon(call.send, request)
        await wait_all_tasks_blocked()
        stages = [progress.stage]
        await trio.sleep(2)
        assert [*stages, progress.stage] == ["queue", "answer"]


async def test_inherited_priority(autojump_clock: MockClock) -> None:
    """A fetch in the gate's queue becomes as urgent as who waits for it."""
    async with opened(Origin(after_s=1.0)) as call, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        nursery.start_soon(partial(call, priority=Priority.CRITICAL))
        await wait_all_tasks_blocked()
        assert urgency_of(call.origin.requests[0]).priority is Priority.CRITICAL


async def test_hits_let_others_run(autojump_clock: MockClock) -> None:
    """A loop over hits is neither deaf to its cancellation nor alone in the world."""
    async with opened(Origin()) as call:
        await call()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(160):
                await call.send(call.request())
            nursery.cancel_scope.cancel()
        assert turns >= 5
        with trio.CancelScope() as scope:
            scope.cancel()
            await call.send(call.request())
        assert scope.cancelled_caught


# Staleness


SWR = {"Cache-Control": "max-age=60, stale-while-revalidate=30", "ETag": '"1"'}
SIE = {"Cache-Control": "max-age=60, stale-if-error=30", "ETag": '"1"'}


@both
async def test_stale_while_revalidate(backend: str, autojump_clock: MockClock) -> None:
    """The stale one answers at once; one refresh of low priority runs behind it."""
    async with opened(Origin(backend, headers=SWR)) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(headers=SWR, after_s=1.0, pause_s=1.0)
        start = trio.current_time()
        request = call.request(priority=Priority.HIGH)
        request.extensions["trio_rt.progress"] = object()
        request.extensions["other"] = 1
        response = await call.send(request)
        assert response.extensions["trio_rt.cache"] == "stale"
        assert (await call(), await call()) == (("stale", b"body 1"),) * 2
        assert trio.current_time() == start
        await trio.sleep(5)
        assert await call() == ("hit", b"body 2")
        assert len(call.origin.requests) == 2
        background = call.origin.requests[1]
        assert call_of(background).priority is Priority.LOW
        assert background.extensions["other"] == 1
        assert "trio_rt.progress" not in background.extensions
        assert background.headers["if-none-match"] == '"1"'
        assert call.cache.statistics().refreshes == 1


async def test_a_refresh_by_304(autojump_clock: MockClock) -> None:
    """It may end with a confirmation."""
    async with opened(Origin(headers=SWR)) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(status=304, headers=SWR)
        await call()
        await wait_all_tasks_blocked()
        assert await call() == ("hit", b"body 1")


async def test_refreshes_are_bounded(autojump_clock: MockClock) -> None:
    """At most `max_refreshes` run; the rest are served stale without one."""
    async with opened(Origin(headers=SWR), max_refreshes=2) as call:
        for number in range(4):
            await call("GET", f"{URL}{number}")
        await trio.sleep(61)
        call.origin.set(after_s=5.0)
        for number in range(4):
            assert (await call("GET", f"{URL}{number}"))[0] == "stale"
        await wait_all_tasks_blocked()
        assert len(call.origin.requests) == 6


async def test_a_refresh_that_fails_or_hangs(autojump_clock: MockClock) -> None:
    """It harms nobody, is over after `refresh_s`, and a later hit tries again."""
    async with opened(Origin(headers=SWR), refresh_s=3.0) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(error=httpx.ConnectError("down"))
        assert (await call())[0] == "stale"
        await wait_all_tasks_blocked()
        call.check_nothing_left()
        call.origin.set(headers=SWR, pause_s=1000.0)
        assert (await call())[0] == "stale"
        await trio.sleep(2.9)
        assert len(call.cache.flights) == 1
        await trio.sleep(0.2)
        call.check_nothing_left()


async def test_closing_cancels_refreshes(autojump_clock: MockClock) -> None:
    """They end when the client begins to close, before the layers below wait for bodies."""
    async with opened(Origin(headers=SWR)) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(after_s=1000.0)
        await call()
        await wait_all_tasks_blocked()
        assert len(call.cache.flights) == 1
        await call.cache.closing()
        await wait_all_tasks_blocked()
        call.check_nothing_left()
        assert (await call())[0] == "stale"
        assert call.cache.statistics().refreshes == 1


@pytest.mark.parametrize("length", [{}, {"Content-Length": "6"}])
async def test_a_large_refresh_is_left(length: dict[str, str], autojump_clock: MockClock) -> None:
    """A refresh stops reading a body that it will not store."""
    store = MemoryStore(max_body_bytes=2)
    async with opened(Origin(headers=SWR, body=b"ab"), store=store) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(headers=SWR | length, pause_s=20.0, body=b"abcdef")
        await call()
        await trio.sleep(20.1)
        call.check_nothing_left()


@pytest.mark.parametrize("how", ["status", "connect", "layer"])
async def test_stale_if_error(how: str, autojump_clock: MockClock) -> None:
    """An origin that fails is stood in for, within the grace, and not after it."""
    async with opened(Origin(headers=SIE)) as call:
        await call()
        await trio.sleep(61)
        errors = {"connect": httpx.ConnectTimeout("down"), "layer": CircuitOpen("origin", 1.0)}
        call.origin.set(status=503, error=errors.get(how), headers={})
        assert await call() == ("stale", b"body 1")
        await trio.sleep(30)
        if how == "status":
            assert await call() == ("miss", b"body 3")
        else:
            with pytest.raises((httpx.ConnectTimeout, CircuitOpen)):
                await call()


@pytest.mark.parametrize("status", [404, 501])
async def test_an_answer_is_no_error(status: int, autojump_clock: MockClock) -> None:
    """Only 500, 502, 503 and 504 are stood in for."""
    async with opened(Origin(headers=SIE)) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(status=status, headers={})
        assert (await call())[0] == "miss"


async def test_followers_of_a_stand_in(autojump_clock: MockClock) -> None:
    """They are answered by it as well: a dead origin is asked once."""
    async with opened(Origin(headers=SIE)) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(after_s=1.0, error=httpx.ConnectError("down"))
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(call)
        assert len(call.origin.requests) == 2
        assert call.cache.statistics().stale == 10


async def test_other_errors_pass(autojump_clock: MockClock) -> None:
    """A mistake of the program is not hidden by a stale answer."""
    async with opened(Origin(headers=SIE)) as call:
        await call()
        await trio.sleep(61)
        call.origin.set(error=ValueError("mine"))
        with pytest.raises(ValueError, match="mine"):
            await call()


# Stores that fail, and options


class Broken(MemoryStore):
    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once

    def peek(self, key: str) -> Any:
        if self.at_once:
            raise OSError("no disk")

    async def get(self, key: str) -> Any:
        raise OSError("no disk")

    def put(self, key: str, entry: Any) -> None:
        raise OSError("no disk")

    def delete(self, key: str) -> None:
        raise OSError("no disk")


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_broken_store_is_an_empty_one(autojump_clock: MockClock, at_once: bool) -> None:
    """It is counted, and no call fails."""
    async with opened(Origin(), store=Broken(at_once=at_once)) as call:
        assert (await call())[0] == (await call())[0] == "miss"
        await call("POST")
        assert call.cache.statistics().store_errors == 5


class Slow(MemoryStore):
    def peek(self, key: str) -> Any:
        return None

    async def get(self, key: str) -> Any:
        entries = super().peek(key)
        await trio.sleep(1)
        return entries


async def test_a_slow_store(autojump_clock: MockClock) -> None:
    """What was stored while it looked is found by a second look."""
    async with opened(Origin(), store=Slow()) as call, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.sleep(0.5)
        assert await call() == ("hit", b"body 1")
    assert len(call.origin.requests) == 1


@pytest.mark.parametrize(
    "field",
    ["heuristic_s", "stale_while_revalidate_s", "stale_if_error_s", "follow_s", "max_refreshes", "refresh_s"],
)  # fmt: skip
@pytest.mark.parametrize("value", [-1, "1", float("nan")])
def test_bad_options(field: str, value: Any) -> None:
    """Every number is from 0."""
    with pytest.raises(OptionError, match=field):
        Cache(**{field: value})


async def test_options_reach_the_rules(autojump_clock: MockClock) -> None:
    """`shared`, `heuristic_s` and the two graces change what is decided."""
    private = {"Cache-Control": "private, max-age=60"}
    async with opened(Origin(headers=private), shared=True) as call:
        await call()
        assert (await call())[0] == "miss"
    modified = {"Last-Modified": "Mon, 24 Nov 2025 00:00:00 GMT"}
    async with opened(Origin(headers=modified), heuristic_s=9.0) as call:
        await call()
        assert (await call())[0] == "hit"
    async with opened(Origin(), stale_while_revalidate_s=5.0, stale_if_error_s=90.0) as call:
        await call()
        await trio.sleep(61)
        assert (await call())[0] == "stale"
        await wait_all_tasks_blocked()
        await trio.sleep(70)
        call.origin.set(status=500)
        assert (await call())[0] == "stale"


async def test_statistics(autojump_clock: MockClock) -> None:
    """Each answer is counted once."""
    async with opened(Origin()) as call:
        await call()
        await call()
        await trio.sleep(61)
        call.origin.set(status=304)
        await call()
        told = call.cache.statistics()
        assert (told.misses, told.hits, told.revalidated, told.stale) == (1, 1, 1, 0)
        assert (told.stored, told.entries, told.refreshes, told.store_errors) == (2, 1, 0, 0)
        assert told.bytes > 0


# Cancellation


@pytest.mark.parametrize("seed", range(12))
def test_a_storm_of_cancels(seed: int) -> None:
    """Whenever callers are cancelled, no flight, no open response and no refresh is left."""
    draw = random.Random(seed)
    headers = [FRESH, SWR, SIE, {"Cache-Control": "no-store"}, FRESH | {"Vary": "Accept"},
               FRESH | {"Cache-Control": "max-age=0, no-cache"}]  # fmt: skip
    origin = Origin()

    def plan(request: Any) -> Plan:
        return Plan(
            headers=draw.choice(headers),
            status=304 if "if-none-match" in request.headers else draw.choice([200, 200, 503]),
            error=httpx.ReadError("x") if draw.random() < 0.1 else None,
            after_s=draw.random(),
            pause_s=draw.random(),
            breaks=draw.random() < 0.1,
        )

    origin.plan = plan

    async def one(call: Caller) -> None:
        await trio.sleep(draw.random() * 200)
        with trio.move_on_after(draw.random() * 3):
            try:
                await call(
                    draw.choice(["GET", "GET", "GET", "GET", "HEAD", "POST"]),
                    URL + draw.choice("ab"),
                    mode=draw.choice(["default"] * 6 + ["reload", "no-cache"]),
                    Accept=draw.choice("xy"),
                )
            except httpx.ReadError:
                pass

    async def main() -> None:
        async with opened(origin, follow_s=1.5) as call:
            async with trio.open_nursery() as nursery:
                for _ in range(300):
                    nursery.start_soon(one, call)
            await trio.sleep(100)
            call.check_nothing_left()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert origin.open == 0


# Over real sockets


def client_of(backend: BackendName, *layers: Any) -> Any:
    module = _backend.backend(backend)
    return module.AsyncClient(transport=transport(*layers, backend=backend), trust_env=False)


@both
async def test_a_real_server(backend: BackendName) -> None:
    """Hit, revalidation by 304 on the same connection, and twenty at once, through a client."""

    async def validating(exchange: Exchange) -> bool:
        if "if-none-match" in exchange.visit.headers:
            return await answer(b"", 304, ETag='"1"', Cache_Control="max-age=0")(exchange)
        return await answer(b"text", ETag='"1"', Cache_Control="max-age=0")(exchange)

    async def slow(exchange: Exchange) -> bool:
        await trio.sleep(0.05)
        return await answer(b"slow", Cache_Control="max-age=60")(exchange)

    paths = {
        "/fresh": answer(b"text", Cache_Control="max-age=60"),
        "/validated": validating,
        "/slow": slow,
    }
    with trio.fail_after(10):
        async with open_peer(paths) as peer, client_of(backend, Cache(), Gate()) as client:
            how = []
            for path in ("/fresh", "/fresh", "/validated", "/validated"):
                response = await client.get(peer.url + path)
                assert (response.status_code, response.text) == (200, "text")
                how.append(response.extensions["trio_rt.cache"])
            assert how == ["miss", "hit", "miss", "revalidated"]
            assert peer.accepted == 1
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(client.get, peer.url + "/slow")
            assert sum(visit.path == "/slow" for visit in peer.visits) == 1


@both
async def test_a_truncated_body(backend: BackendName) -> None:
    """A server that hangs up within the body leaves nothing stored."""
    head = head_of(200, FRESH | {"Content-Length": "10"})
    cache = Cache()
    with trio.fail_after(10):
        async with (
            open_peer({"*": raw(head + b"12345")}) as peer,
            client_of(backend, cache) as client,
        ):
            with pytest.raises(_backend.backend(backend).RemoteProtocolError):
                await client.get(peer.url)
    assert cache.statistics().entries == 0
    assert len(cache.flights) == 0


@both
async def test_streams_and_cookies(backend: BackendName) -> None:
    """A streamed response is stored when it was read; a hit sets no cookie again."""
    paths = {"*": answer(b"text", Cache_Control="max-age=60", Set_Cookie="a=1")}
    with trio.fail_after(10):
        async with open_peer(paths) as peer, client_of(backend, Cache()) as client:
            async with client.stream("GET", peer.url) as response:
                assert [part async for part in response.aiter_bytes()] == [b"text"]
            client.cookies.clear()
            async with client.stream("GET", peer.url) as response:
                assert response.extensions["trio_rt.cache"] == "hit"
                assert await response.aread() == b"text"
            assert not client.cookies


@both
async def test_a_storm_over_sockets(backend: BackendName) -> None:
    """Cancelled in the connect, the answer or the body, on both backends: all is free afterwards."""
    draw = random.Random(7)

    async def slow(exchange: Exchange) -> bool:
        head = head_of(200, {"Content-Length": "6", "Cache-Control": "max-age=0", "ETag": '"1"'})
        for part in (head, b"abc", b"def"):
            await trio.sleep(draw.random() * 0.01)
            await exchange.stream.send_all(part)
        return True

    cache, gate = Cache(), Gate(max_concurrent=4)

    async def one(client: Any, url: str) -> None:
        await trio.sleep(draw.random() * 0.3)
        with trio.move_on_after(draw.random() * 0.03):
            await client.get(url)

    with trio.fail_after(20):
        async with (
            open_peer({"*": slow}) as peer,
            client_of(backend, cache, gate, SafeConnect()) as client,
        ):
            async with trio.open_nursery() as nursery:
                for number in range(150):
                    nursery.start_soon(one, client, f"{peer.url}/{number % 3}")
            assert len(cache.flights) == 0
            while gate.statistics().running:  # connects that ended without their caller
                await trio.sleep(0.001)
            assert (await client.get(peer.url + "/1")).text == "abcdef"


def test_entries_outlive_a_client() -> None:
    """A store given to the next cache has what the last one stored."""
    store = MemoryStore()
    store.put("http://a/", entry_of())
    assert Cache(store).statistics().entries == 1

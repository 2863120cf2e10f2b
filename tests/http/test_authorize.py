"""A bearer token on each call, fetched once for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rt.errors import OptionError
from trio_rt.http._authorize import Authorize
from trio_rt.http._backend import BackendName
from trio_rt.http._layer import transport

from .scripted import BACKENDS, Answer, Script, Streamed, request_of

each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Realm:
    """A server that knows one valid token, and where tokens come from."""

    def __init__(self, backend: str) -> None:
        self.valid = 1
        self.fetches = 0
        self.sent: list[tuple[str, str | None]] = []
        self.bad = Script(backend, Answer(401, after_s=0.1))
        self.good = Script(backend, Answer(200, after_s=0.1))
        self.fetch_s = 1.0
        self.error: Exception | None = None

    async def fetch(self) -> str:
        self.fetches += 1
        await trio.sleep(self.fetch_s)
        if self.error is not None:
            raise self.error
        return f"t{self.valid}"

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        token = request.headers.get("Authorization")
        self.sent.append((request.url.host, token))
        return await (self.good if token == f"Bearer t{self.valid}" else self.bad)(request)

    @property
    def slots(self) -> int:
        return self.bad.slots + self.good.slots


async def status(layer: Authorize, realm: Realm, request: httpx.Request) -> int:
    response = await layer.intercept(request, realm)
    await response.aclose()
    return response.status_code


@each_backend
async def test_the_token_is_sent(backend: str, autojump_clock: MockClock) -> None:
    """It is fetched by the first call, and kept; the request is as it was afterwards."""
    realm = Realm(backend)
    layer = Authorize(realm.fetch)
    for _ in range(3):
        request = request_of(backend)
        assert await status(layer, realm, request) == 200
        assert "Authorization" not in request.headers
    assert realm.sent == [("server.example", "Bearer t1")] * 3
    assert realm.fetches == 1


@each_backend
async def test_many_401_at_once(backend: str, autojump_clock: MockClock) -> None:
    """They are one fetch, and all calls succeed; nothing is held while it lasts."""
    realm = Realm(backend)
    layer = Authorize(realm.fetch)
    await status(layer, realm, request_of(backend))
    realm.valid = 2
    found: list[int] = []

    async def call(late_s: float) -> None:
        await trio.sleep(late_s)
        found.append(await status(layer, realm, request_of(backend)))

    async with trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(call, n * 0.001)
        await trio.sleep(0.5)
        assert realm.slots == 0
        assert realm.fetches == 2
    assert found == [200] * 50
    assert realm.fetches == 2
    assert len(realm.bad.requests) == 50


@each_backend
async def test_a_late_401(backend: str, autojump_clock: MockClock) -> None:
    """One that was sent with the old token, and answered after the fetch, needs no other."""
    realm = Realm(backend)
    layer = Authorize(realm.fetch)
    await status(layer, realm, request_of(backend))
    realm.valid = 2
    slow = Script(backend, Answer(401, after_s=20.0), Answer(200))
    found: list[int] = []

    async def late() -> None:
        response = await layer.intercept(request_of(backend), slow)
        found.append(response.status_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late)
        await wait_all_tasks_blocked()
        found.append(await status(layer, realm, request_of(backend)))
    assert found == [200, 200]
    assert realm.fetches == 2
    assert slow.slots == 1


@each_backend
async def test_a_second_401_is_the_answer(backend: str, autojump_clock: MockClock) -> None:
    """A call is repeated once; the next call fetches again."""
    realm = Realm(backend)
    layer = Authorize(realm.fetch)
    never = Script(backend, Answer(401))
    response = await layer.intercept(request_of(backend), never)
    assert response.status_code == 401
    assert (len(never.requests), realm.fetches, never.slots) == (2, 2, 1)
    assert await status(layer, realm, request_of(backend)) == 200
    assert realm.fetches == 3


@each_backend
async def test_other_statuses(backend: str, autojump_clock: MockClock) -> None:
    """403 is an answer."""
    realm = Realm(backend)
    script = Script(backend, Answer(403))
    await Authorize(realm.fetch).intercept(request_of(backend), script)
    assert (len(script.requests), realm.fetches) == (1, 1)


@each_backend
async def test_a_cancelled_fetch_is_handed_over(backend: str, autojump_clock: MockClock) -> None:
    """The next that waits begins again."""
    realm = Realm(backend)
    layer = Authorize(realm.fetch)
    found: list[int] = []

    async def call(scope: trio.CancelScope) -> None:
        with scope:
            found.append(await status(layer, realm, request_of(backend)))

    scopes = [trio.CancelScope() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(call, scope)
            await wait_all_tasks_blocked()
        scopes[0].cancel()
        await trio.sleep(0.5)
        assert realm.fetches == 2
    assert found == [200, 200]
    assert realm.fetches == 2


@each_backend
async def test_a_failed_fetch(backend: str, autojump_clock: MockClock) -> None:
    """All that waited for it fail with it, and the next call fetches again."""
    realm = Realm(backend)
    realm.error = ValueError("no such user")
    layer = Authorize(realm.fetch)
    errors: list[Exception] = []

    async def call() -> None:
        try:
            await status(layer, realm, request_of(backend))
        except ValueError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call)
    assert [repr(error) for error in errors] == [repr(realm.error)] * 5
    assert len({id(error) for error in errors}) == 5
    assert sum(error.__cause__ is realm.error for error in errors) == 4
    assert realm.fetches == 1
    realm.error = None
    assert await status(layer, realm, request_of(backend)) == 200


@each_backend
async def test_a_fetch_through_the_same_client(backend: str, autojump_clock: MockClock) -> None:
    """Its own calls are sent without a token, and do not wait for themselves."""
    script = Script(backend, Answer(200))

    async def fetch() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(layer.intercept, request_of(backend, "POST"), script)
        return "t"

    layer = Authorize(fetch)
    with trio.fail_after(5):
        await layer.intercept(request_of(backend), script)
        await layer.intercept(request_of(backend), script)
    assert [each.method for each in script.requests] == ["POST", "GET", "GET"]


@each_backend
async def test_other_origins(backend: str, autojump_clock: MockClock) -> None:
    """Without `origins` the token is for the origin of the first call alone."""
    realm = Realm(backend)
    layer = Authorize(realm.fetch)
    urls = ["http://a.example/", "https://a.example/", "http://a.example:81/", "http://b.example/"]
    for url in urls:
        await status(layer, realm, request_of(backend, url=url))
    assert [token for _, token in realm.sent] == ["Bearer t1", None, None, None]
    assert realm.fetches == 1


@each_backend
async def test_given_origins(backend: str, autojump_clock: MockClock) -> None:
    """The token is for them, and for no other, the first included."""
    realm = Realm(backend)
    layer = Authorize(realm.fetch, origins=["http://a.example", "http://b.example:80/"])
    for host in "cab":
        await status(layer, realm, request_of(backend, url=f"http://{host}.example/"))
    assert [token for _, token in realm.sent] == [None, "Bearer t1", "Bearer t1"]


@each_backend
@pytest.mark.parametrize("to", ["http://b.example/", "https://a.example/", "http://a.example/2"])
async def test_redirects(backend: BackendName, to: str, autojump_clock: MockClock) -> None:
    """Only the same origin sees the token after one; https on the same host is another."""
    seen: list[tuple[str, str | None]] = []
    script = Script(backend, Answer(302, headers={"Location": to}), Answer(200))

    async def network(request: httpx.Request, _: Callable[..., Any]) -> httpx.Response:
        seen.append((str(request.url), request.headers.get("Authorization")))
        return await script(request)

    async def fetch() -> str:
        return "t"

    stack = transport(Authorize(fetch), network, backend=backend)
    async with script.module.AsyncClient(transport=stack, follow_redirects=True) as client:
        await client.get("http://a.example/")
    after = "Bearer t" if to == "http://a.example/2" else None
    assert seen == [("http://a.example/", "Bearer t"), (to, after)]


@each_backend
async def test_an_authorization_of_its_own(backend: str) -> None:
    """Such a call passes unchanged, and its 401 is its own."""
    realm = Realm(backend)
    request = request_of(backend, headers={"Authorization": "Basic x"})
    assert await status(Authorize(realm.fetch), realm, request) == 401
    assert realm.sent == [("server.example", "Basic x")]
    assert realm.fetches == 0
    assert request.headers["Authorization"] == "Basic x"


@each_backend
async def test_a_streamed_body(backend: str, autojump_clock: MockClock) -> None:
    """It is not repeated, but the next call fetches."""

    realm = Realm(backend)
    layer = Authorize(realm.fetch)
    await status(layer, realm, request_of(backend))
    realm.valid = 2
    assert await status(layer, realm, request_of(backend, "POST", content=Streamed())) == 401
    assert realm.fetches == 1
    assert await status(layer, realm, request_of(backend)) == 200
    assert len(realm.bad.requests) == 1


@each_backend
async def test_the_header_goes_with_an_error_too(backend: str, autojump_clock: MockClock) -> None:
    """A failed call leaves no token in the request."""
    realm = Realm(backend)
    script = Script(backend, Answer(error="ReadError"))
    request = request_of(backend)
    with pytest.raises(script.module.ReadError):
        await Authorize(realm.fetch).intercept(request, script)
    assert "Authorization" not in request.headers


@each_backend
@pytest.mark.parametrize("token", ["", "a\nb", "ä", b"bytes", None])
async def test_a_bad_token(backend: str, token: Any) -> None:
    """It is refused, and not shown."""

    async def fetch() -> str:
        return token  # type: ignore[no-any-return]

    with pytest.raises(OptionError, match="fetch_token") as raised:
        await Authorize(fetch).intercept(request_of(backend), Script(backend, Answer()))
    assert "bytes'" not in str(raised.value).replace("<class 'bytes'>", "")
    assert "ä" not in str(raised.value)


@pytest.mark.parametrize(
    "origin", ["a.example", "http://a.example/path", "http://a.example?q", "http://u:p@a.example"]
)
def test_bad_origins(origin: str) -> None:
    """An origin has a scheme and a host, and nothing behind."""

    async def fetch() -> str:
        return "t"

    with pytest.raises(OptionError, match="origins"):
        Authorize(fetch, origins=[origin])

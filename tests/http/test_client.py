"""`open_client()`: its verbs, its checks, its end."""

from __future__ import annotations

import math
from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_rt import http
from trio_rt.errors import BodyInvalid, BodyTooLarge, CallTimeout, OptionError, PayloadError
from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._breaker import Breaker
from trio_rt.http._cache import Cache
from trio_rt.http._call import call_of
from trio_rt.http._gate import Gate
from trio_rt.http._hedge import Hedge
from trio_rt.http._layer import Next
from trio_rt.http._open import open_client
from trio_rt.http._retry import Retry
from trio_rt.message import Priority

from .peers import (
    Behaviour,
    Exchange,
    answer,
    both,
    certified,
    drip,
    head_of,
    open_peer,
    raw,
    redirect,
    stall,
    trusting,
)

pytestmark = pytest.mark.usefixtures("limit")


@pytest.fixture
async def limit() -> Any:
    """No test takes longer."""
    with trio.fail_after(20):
        yield


class User(msgspec.Struct):
    name: str
    age: int = 0


@attrs.define
class Point:
    x: int


# Verbs


@both
@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete", "head", "options"])
async def test_verbs(backend: BackendName, verb: str) -> None:
    """Each verb sends its method, with httpx's keywords, and returns the backend's response."""
    async with open_peer() as peer, open_client(peer.url, backend=backend) as client:
        response = await getattr(client, verb)("/x", params={"a": "b c"}, headers={"X-Mine": "ü"})
        assert isinstance(response, module_of(backend).Response)
        assert response.text == ("" if verb == "head" else "ok")
        (visit,) = peer.visits
        assert (visit.method, visit.target) == (
            verb.upper(),
            "/x?a=b+c".replace("+", visit.target[6:-1]),
        )
        assert visit.headers["x-mine"] == "ü"


@both
async def test_bodies(backend: BackendName) -> None:
    """json, data, files, content in bytes and in parts are sent as httpx sends them."""

    async def parts() -> Any:  # noqa: ASYNC900, ASYNC911
        yield b"one "  # noqa: ASYNC911
        yield b"two"  # noqa: ASYNC911

    async with open_peer() as peer, open_client(peer.url, backend=backend) as client:
        await client.post("/", json={"a": [1, None], "p": Point(1)})
        await client.post("/", json=[1], headers={"content-type": "application/x+json"})
        await client.post("/", data={"a": "b"})
        await client.post("/", content=b"raw")
        await client.post("/", content=parts())
        await client.put("/", files={"f": ("name", b"file")})
    bodies = [(v.headers.get("content-type", ""), v.body) for v in peer.visits]
    assert bodies[:4] == [
        ("application/json", b'{"a":[1,null],"p":{"x":1}}'),
        ("application/x+json", b"[1]"),
        ("application/x-www-form-urlencoded", b"a=b"),
        ("", b"raw"),
    ]
    assert bodies[4][1] == b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"
    assert bodies[5][0].startswith("multipart/form-data")


@both
async def test_defaults(backend: BackendName) -> None:
    """The client's headers, params, cookies and auth go with each call; a call's override."""
    async with (
        open_peer() as peer,
        open_client(
            peer.url + "/base",
            backend=backend,
            headers={"X-Mine": "1", "accept": "text/plain"},
            params={"p": "1"},
            cookies={"c": "1"},
            auth=("user", "word"),
        ) as client,
    ):
        await client.get("/x")
        await client.get("/x", headers={"x-mine": "2"}, cookies={"d": "2"}, auth=("a", "b"))
        await client.get("/x", auth=None)
    first, second, third = peer.visits
    assert first.target == "/base/x?p=1"
    seen = ("x-mine", "accept", "cookie", "authorization", "accept-encoding")
    assert [first.headers[name] for name in seen] == [
        *["1", "text/plain", "c=1", "Basic dXNlcjp3b3Jk", "gzip, deflate"]
    ]
    assert second.headers["x-mine"] == "2"
    assert "d=2" in second.headers["cookie"]
    assert second.headers["authorization"] == "Basic YTpi"
    assert "authorization" not in third.headers


@both
async def test_json_is_asked_for(backend: BackendName) -> None:
    """JSON is preferred unless the caller says otherwise."""
    async with open_peer() as peer, open_client(peer.url, backend=backend) as client:
        await client.get("/")
    assert peer.visits[0].headers["accept"] == "application/json, */*;q=0.8"


@both
async def test_deadline_header(backend: BackendName) -> None:
    """The time that is left is told where that is asked for."""
    async with (
        open_peer() as peer,
        open_client(peer.url, backend=backend, timeout_s=7, deadline_header="X-Left") as client,
    ):
        await client.get("/")
        async with client.stream("GET", "/", timeout_s=math.inf) as response:
            assert await response.aread() == b"ok"
    assert 0 < int(peer.visits[0].headers["x-left"]) <= 7000
    assert "x-left" not in peer.visits[1].headers


@both
async def test_call_options(backend: BackendName) -> None:
    """The options of a call reach the layers, over a redirect too."""
    seen = []

    async def look(request: Any, call_next: Next) -> Any:
        seen.append(call_of(request))
        return await call_next(request)

    async with (
        open_peer({"/": redirect("/x")}) as peer,
        open_client(
            peer.url, backend=backend, interceptors=[look], follow_redirects=True
        ) as client,
    ):
        await client.get(
            "/",
            priority=Priority.HIGH,
            cache="no-store",
            retries=2,
            timeout_s=3.0,
            idempotency_key="k",
        )
    assert seen[0] is seen[1]
    assert attrs.astuple(seen[0]) == (Priority.HIGH, "no-store", 2, 3.0, "k")


@both
async def test_redirects(backend: BackendName) -> None:
    """Followed only when asked to, by the client or the call; a secret stays at home."""
    async with open_peer() as other, open_peer({"/": redirect(other.url)}) as peer:
        async with open_client(peer.url, backend=backend) as client:
            assert (await client.get("/")).status_code == 302
            response = await client.get("/", follow_redirects=True, headers={"X-Api-Key": "k"})
            assert response.status_code == 200
            assert "x-api-key" not in other.visits[0].headers
        async with open_client(
            peer.url, backend=backend, follow_redirects=True, max_redirects=0
        ) as client:
            assert (await client.get("/", follow_redirects=False)).status_code == 302
            with pytest.raises(module_of(backend).TooManyRedirects):
                await client.get("/")


@both
@pytest.mark.parametrize("url", ["http://xn--a/", "http://xn--/", "http://[/", "http://a:b/"])
async def test_redirect_to_no_url(backend: BackendName, url: str) -> None:
    """A redirect to what cannot be a URL is an error of the transport; the client goes on."""
    async with (
        open_peer({"/": redirect(url)}) as peer,
        open_client(peer.url, backend=backend, retry=False) as client,
    ):
        with pytest.raises(module_of(backend).TransportError):
            await client.get("/", follow_redirects=True)
        assert (await client.get("/here")).status_code == 200


@both
async def test_insecure_redirects(backend: BackendName) -> None:
    """From https to http only when that was allowed."""
    async with (
        open_peer() as peer,
        open_peer({"/": redirect(peer.url)}, tls=certified("127.0.0.1")) as secure,
    ):
        for allowed in (False, True):
            async with open_client(
                backend=backend,
                ssl_context=trusting(),
                follow_redirects=True,
                insecure_redirects=allowed,
            ) as client:
                if allowed:
                    assert (await client.get(secure.url)).text == "ok"
                else:
                    with pytest.raises(module_of(backend).RemoteProtocolError):
                        await client.get(secure.url)


@both
async def test_streaming(backend: BackendName) -> None:
    """A streamed body is read as it comes; leaving gives the turn and the connection back."""
    paths = {"/drip": drip(b"part", 3, 0.001), "/stall": stall(b"HTTP/1.1 200 OK\r\n\r\nx")}
    async with open_peer(paths) as peer, open_client(peer.url, backend=backend) as client:
        async with client.stream("GET", "/drip", cache="no-store") as response:
            assert client.statistics().gate.running == 1
            assert b"".join([part async for part in response.aiter_bytes()]) == b"part" * 3
        assert client.statistics().gate.running == 0
        async with client.stream("POST", "/stall", json=1) as response:
            assert response.status_code == 200
        assert client.statistics().gate.running == 0
        await peer.wait_live(1)


@both
async def test_stream_left_by_an_error(backend: BackendName) -> None:
    """The block's own error leaves it as it is, with everything given back."""
    async with (
        open_peer({"*": stall(b"HTTP/1.1 200 OK\r\n\r\nx")}) as peer,
        open_client(peer.url, backend=backend) as client,
    ):
        with pytest.raises(KeyError, match="mine"):
            async with client.stream("GET", "/"):
                raise KeyError("mine")
        assert client.statistics().gate.running == 0
        await peer.wait_live(0)


# as_


@both
async def test_typed(backend: BackendName) -> None:
    """`as_` gives the JSON as that type."""
    paths = {
        "/user": answer(b'{"name":"ann","age":3}'),
        "/list": answer(b"[1,2]"),
        "/null": answer(b"null"),
    }
    async with open_peer(paths) as peer, open_client(peer.url, backend=backend) as client:
        user = await client.get("/user", as_=User)
        assert user == User("ann", 3)
        assert await client.request("GET", "/list", as_=list[int]) == [1, 2]
        assert await client.post("/list", as_=tuple[int, ...]) == (1, 2)
        assert await client.get("/null", as_=User | None) is None


@both
@pytest.mark.parametrize(
    ("body", "status"),
    [
        *[(body, 200) for body in (b"", b"no json", b'{"name":1}', b"[", b"\xff", b"[" * 100_000)],
        *[(b'{"name":"ann"}', status) for status in (302, 404, 500)],
    ],
)
async def test_not_of_the_type(backend: BackendName, body: bytes, status: int) -> None:
    """Anything else is BodyInvalid, which shows the status and how the body begins."""
    async with (
        open_peer({"*": answer(body, status)}) as peer,
        open_client(peer.url, backend=backend, retry=False) as client,
    ):
        with pytest.raises(BodyInvalid) as caught:
            await client.get("/", as_=User)
    assert caught.value.status == status
    assert caught.value.beginning == body[:200]
    assert len(str(caught.value)) < 1000


@both
async def test_wrong_types(backend: BackendName) -> None:
    """A type that cannot be decoded to is found before anything is sent."""
    async with open_peer() as peer, open_client(peer.url, backend=backend) as client:
        with pytest.raises(OptionError, match="as_"):
            await client.get("/", as_=dict[list[int], object()])  # type: ignore[misc]
        assert not peer.visits


# Checks


@both
@pytest.mark.parametrize(
    ("field", "changed"),
    [
        *[("url", {"url": u}) for u in ("ftp://h/", "http://", "http:///x", "x://", 5, None, b"/")],
        *[
            ("url", {"url": u})
            for u in ("//h/x", "mailto:x", "http://h:65536/", "http://[::1", "/\n", "http://h\0/")
        ],
        *[("method", {"method": m}) for m in ("", "G T", "GET\r\n", "é", 5, None, "A:B")],
        *[
            ("headers", {"headers": h})
            for h in ("a", 5, {"a b": "c"}, {"": "c"}, [("a",)], {1: "x"})
        ],
        *[("headers", {"headers": {"a\r\nb": "c"}}), ("headers", {"headers": {"é": "c"}})],
        *[
            ("headers['X']", {"headers": {"X": v}})
            for v in ("a\r\nb: c", "a\n", "\0", "€", 5, None)
        ],
        *[("headers[b'X']", {"headers": [(b"X", b"a\nb")]})],
        *[("json", {"json": v}) for v in (object(), {"a": math.nan}, [math.inf], {(1, 2): 3}, 1j)],
        ("json", {"json": 1, "content": b"x"}),
        *[("timeout_s", {"timeout_s": v}) for v in (0, -1, math.nan, True, "1")],
        *[("priority", {"priority": v}) for v in ("high", 2, 7)],
        *[("retries", {"retries": v}) for v in (-1, 1.5, True)],
        ("cache", {"cache": "never"}),
        ("idempotency_key", {"idempotency_key": "a\nb"}),
    ],
)
async def test_wrong_calls(backend: BackendName, field: str, changed: dict[str, Any]) -> None:
    """What is wrong with a call is said before anything is sent, by the name of the argument."""
    async with open_peer() as peer, open_client(peer.url, backend=backend) as client:
        call = {"method": "GET", "url": "/", **changed}
        with pytest.raises((OptionError, PayloadError)) as caught:
            await client.request(**call)
        assert caught.value.field == field
        assert isinstance(caught.value, PayloadError) == (field == "json" and "content" not in call)
        assert peer.accepted == 0


@both
async def test_relative_without_a_base(backend: BackendName) -> None:
    """Without a base URL a URL is whole."""
    async with open_client(backend=backend) as client:
        with pytest.raises(OptionError, match="url"):
            await client.get("/x")


@both
async def test_secrets_in_urls(backend: BackendName) -> None:
    """A URL in an error has no user, no password, no query."""
    async with open_client(backend=backend) as client:
        for url in ("ftp://me:secret@host/x?key=secret", "http://me:secret@host:99999/?k=secret"):
            with pytest.raises(OptionError) as caught:
                await client.get(url)
            assert "secret" not in str(caught.value)
            assert "host" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *[("base_url", each) for each in ("ftp://h", "/x", "http://", "http://h:66666", 5)],
        *[("backend", each) for each in ("requests", 5)],
        *[("headers['X']", {"X": "a\nb"})],
        *[("headers", 5)],
        *[("timeout_s", each) for each in (0, math.nan, True, "5")],
        *[("connect_timeout_s", each) for each in (0, math.nan, True)],
        *[("max_body_bytes", each) for each in (-1, True)],
        *[("max_redirects", each) for each in (-1, 1.5, math.inf)],
        *[("keep_alive_s", each) for each in (-1, math.nan)],
        *[("deadline_header", "a b")],
        *[("max_concurrent", each) for each in (0, True)],
        *[(name, 5) for name in ("cache", "retry", "breaker", "hedge", "gate")],
        ("retry", None),
        *[("ssl_context", each) for each in (True, False, "x")],
        *[("proxy", each) for each in ("ftp://host", "http://[::1")],
        *[("interceptors", each) for each in ([5], [None])],
    ],
)
async def test_wrong_options(field: str, wrong: Any) -> None:
    """Each option of the client is checked, and named."""
    name = field.partition("[")[0]
    with pytest.raises(OptionError) as caught:
        async with open_client(**{name: wrong}):
            pass
    assert caught.value.field.endswith(field)


# Layers


@both
async def test_which_layers(backend: BackendName) -> None:
    """Cache and retry are there by default, breaker and hedge are not; each as one asks."""
    async with open_client(backend=backend) as client:
        found = client.statistics()
        assert [found.cache is None, found.retry is None] == [False, False]
        assert [found.breaker, found.hedge] == [None, None]
        assert found.gate.limit == 6
    async with open_client(
        backend=backend, cache=False, retry=False, breaker=True, hedge=True, max_concurrent=3
    ) as client:
        found = client.statistics()
        assert [found.cache, found.retry] == [None, None]
        assert [found.breaker is None, found.hedge is None] == [False, False]
        assert found.gate.limit == 3


@both
@pytest.mark.parametrize("name", ["max_concurrent", "per_host"])
async def test_gate_and_its_options(backend: BackendName, name: str) -> None:
    """A gate has its own limits: others beside it would do nothing, and are refused."""
    with pytest.raises(OptionError, match=f"{name}"):
        async with open_client(backend=backend, gate=Gate(), **{name: 20}):  # type: ignore[arg-type]
            pytest.fail("opened")


@both
async def test_per_host(backend: BackendName) -> None:
    """By default six calls run at once, and six to one host however many may run."""
    async with open_peer({"*": stall()}) as one, open_peer({"*": stall()}) as two:
        for options, expected in (
            ({}, [6, 0]),
            ({"max_concurrent": 20}, [6, 4]),
            ({"max_concurrent": 20, "per_host": 3}, [3, 3]),
            ({"gate": Gate(20)}, [10, 4]),
        ):
            before = [len(one.visits), len(two.visits)]
            async with (
                open_client(backend=backend, **options) as client,
                trio.open_nursery() as nursery,
            ):
                for number in range(10):
                    nursery.start_soon(client.get, f"{one.url}/{number}")
                await wait_all_tasks_blocked()
                for number in range(4):
                    nursery.start_soon(client.get, f"{two.url}/{number}")
                while client.statistics().gate.running < sum(expected):
                    await trio.sleep(0.001)
                await wait_all_tasks_blocked(0.02)
                after = [len(one.visits), len(two.visits)]
                assert [b - a for a, b in zip(before, after, strict=True)] == expected
                nursery.cancel_scope.cancel()


@both
async def test_layers_of_ones_own(backend: BackendName) -> None:
    """A layer that is given is the one that is used; hedging spends the retries' budget."""
    layers: Any = {
        "cache": Cache(),
        "retry": Retry(),
        "breaker": Breaker(),
        "hedge": Hedge(),
        "gate": Gate(2),
    }
    async with open_client(backend=backend, **layers) as client:
        assert client._layers == layers
        assert list(client._layers) == ["cache", "retry", "breaker", "hedge", "gate"]
    async with open_client(backend=backend, hedge=True) as client:
        made: Any = client._layers
        assert made["hedge"].budget is made["retry"].budget


@both
async def test_it_all_together(backend: BackendName) -> None:
    """A retry, a cached answer, and the books of the layers."""
    tried = 0

    async def flaky(exchange: Any) -> bool:
        nonlocal tried
        tried += 1
        if tried == 1:
            return await answer(b"", 503)(exchange)
        return await answer(b"7", Cache_Control="max-age=60")(exchange)

    async with (
        open_peer({"/": flaky}) as peer,
        open_client(peer.url, backend=backend, retry=Retry(first_s=0.001)) as client,
    ):
        assert await client.get("/", as_=int) == 7
        assert await client.get("/", as_=int) == 7
        found = client.statistics()
    assert tried == 2
    assert found.retry is not None
    assert found.cache is not None
    assert (found.retry.tries, found.cache.hits, found.gate.running) == (2, 1, 0)


def slowly(behaviour: Behaviour) -> Behaviour:
    async def behave(exchange: Exchange) -> bool:
        await trio.sleep(0.03)
        return await behaviour(exchange)

    return behave


@both
async def test_limits(backend: BackendName) -> None:
    """timeout_s and max_body_bytes bound each call, over its redirects."""
    paths = {
        "/stall": stall(),
        "/big": answer(b"x" * 101),
        "/": slowly(redirect("/wait")),
        "/wait": slowly(answer()),
    }
    async with (
        open_peer(paths) as peer,
        open_client(
            peer.url, backend=backend, timeout_s=0.05, max_body_bytes=100, follow_redirects=True
        ) as client,
    ):
        for path in ("/stall", "/"):
            with pytest.raises(CallTimeout):
                await client.get(path)
        with pytest.raises(BodyTooLarge):
            await client.get("/big", timeout_s=5)
        assert client.statistics().gate.running == 0


@both
async def test_connect_timeout(backend: BackendName) -> None:
    """A connect, handshake included, has a limit of its own."""
    with trio.socket.socket() as deaf:
        await deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        async with open_client(
            f"https://127.0.0.1:{deaf.getsockname()[1]}",
            backend=backend,
            connect_timeout_s=0.05,
            timeout_s=math.inf,
            retry=False,
        ) as client:
            with pytest.raises(module_of(backend).ConnectTimeout):
                await client.get("/")


# The end


@both
async def test_closed(backend: BackendName) -> None:
    """A client that is closed raises ClosedResourceError, and keeps its books."""
    async with open_peer() as peer:
        async with open_client(peer.url, backend=backend) as client:
            await client.get("/")
        with pytest.raises(trio.ClosedResourceError):
            await client.get("/")
        with pytest.raises(trio.ClosedResourceError):
            async with client.stream("GET", "/"):
                pass
        assert client.statistics().gate.running == 0
        await peer.wait_live(0)


@both
async def test_closing_waits(backend: BackendName) -> None:
    """A call that runs when the block ends has its grace; then it is cut off."""
    ends: list[object] = []

    async def call(client: Any, path: str) -> None:
        try:
            ends.append((await client.get(path)).status_code)
        except Exception as error:
            ends.append(type(error).__name__)

    paths = {"/slow": drip(b"x", 3, 0.01), "/stall": stall(b"HTTP/1.1 200 OK\r\n\r\nx")}
    async with open_peer(paths) as peer, trio.open_nursery() as nursery:
        async with open_client(peer.url, backend=backend, gate=Gate(close_grace_s=0.2)) as client:
            nursery.start_soon(call, client, "/slow")
            nursery.start_soon(call, client, "/stall")
            while len(peer.visits) < 2:
                await trio.sleep(0.001)
        await peer.wait_live(0)
    assert ends[0] == 200
    assert ends[1] != 200


@both
async def test_errors_of_the_block(backend: BackendName) -> None:
    """They leave it as they are, in no group."""
    async with open_peer() as peer:
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012
            async with open_client(peer.url, backend=backend) as client:
                await client.get("/")
                raise KeyError("mine")
        with trio.move_on_after(0.05) as scope:
            async with open_client(peer.url, backend=backend) as client:
                await trio.sleep_forever()
        assert scope.cancelled_caught


@both
async def test_cancelled_calls(backend: BackendName) -> None:
    """Cancelled calls, running and waiting, leave turns and connections free."""
    async with (
        open_peer({"*": stall()}) as peer,
        open_client(peer.url, backend=backend, max_concurrent=2) as client,
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(client.get, f"/{_}")
            while len(peer.visits) < 2:
                await trio.sleep(0.001)
            await wait_all_tasks_blocked()
            assert (client.statistics().gate.running, client.statistics().gate.waiting) == (2, 3)
            nursery.cancel_scope.cancel()
        assert (client.statistics().gate.running, client.statistics().gate.waiting) == (0, 0)
        await peer.wait_live(0)


@both
async def test_tls(backend: BackendName) -> None:
    """https with a trust of one's own; without it the certificate is refused."""
    async with open_peer(tls=certified("127.0.0.1")) as peer:
        async with open_client(peer.url, backend=backend, ssl_context=trusting()) as client:
            assert (await client.get("/")).text == "ok"
        async with open_client(peer.url, backend=backend, retry=False) as client:
            with pytest.raises(module_of(backend).ConnectError):
                await client.get("/")


@both
async def test_proxy(backend: BackendName) -> None:
    """With a proxy the request goes there, whole URL and all."""
    async with open_peer() as peer, open_client(backend=backend, proxy=peer.url) as client:
        assert (await client.get("http://elsewhere.example/x")).text == "ok"
    assert peer.visits[0].target == "http://elsewhere.example/x"


@both
async def test_cookie_jar(backend: BackendName) -> None:
    """What a server sets comes back to it, and can be seen."""
    async with (
        open_peer({"/set": answer(Set_Cookie="a=b; Path=/")}) as peer,
        open_client(peer.url, backend=backend) as client,
    ):
        await client.get("/set")
        await client.get("/")
        assert client.cookies.get("a") == "b"
    assert peer.visits[1].headers["cookie"] == "a=b"


@both
async def test_a_body_too_large_for_the_store(backend: BackendName) -> None:
    """It is its caller's, whole, and is not kept: read as it comes, or before it is given."""
    chunks = head_of(200, {"Transfer-Encoding": "chunked", "Cache-Control": "max-age=9"})
    chunks += b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"
    store = http.MemoryStore(max_body_bytes=10)
    async with (
        open_peer({"*": raw(chunks, stays=True)}) as peer,
        open_client(peer.url, backend=backend, cache=Cache(store)) as client,
    ):
        for number in range(2):
            assert (await client.get("/")).content == b"x" * 11
            async with client.stream("GET", "/streamed") as response:
                assert await response.aread() == b"x" * 11
            assert len(peer.visits) == 2 * (number + 1)
        assert store.statistics().entries == 0


@both
@pytest.mark.parametrize("field", ["cache", "gate"])
async def test_a_layer_of_another_client(backend: BackendName, field: str) -> None:
    """Queue and cache belong to one client at a time."""
    layers: dict[str, Any] = {"cache": Cache(), "gate": Gate()}
    layer = {field: layers[field]}
    async with open_client(backend=backend, **layer):
        with pytest.raises(OptionError, match=field):
            async with open_client(backend=backend, **layer):
                pytest.fail("opened")
    async with open_client(backend=backend, **layer) as client:
        assert client.statistics().gate.running == 0


@both
@pytest.mark.parametrize("cookie", [b"a=\xc3\xa9", b"a=\xe9", b"\xe9=a"])
async def test_a_cookie_that_cannot_be_sent(backend: BackendName, cookie: bytes) -> None:
    """A server that sets one gets it back never, and all other calls as before."""
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: good[0]=1\r\nSet-Cookie: " + cookie
    paths = {"/set": raw(head + b"\r\nContent-Length: 0\r\n\r\n", stays=True)}
    async with open_peer(paths) as peer, open_client(peer.url, backend=backend) as client:
        await client.get("/set")
        await client.get("/")
        assert peer.visits[1].headers["cookie"] == "good[0]=1"
        client.cookies.set("mine", "é")
        with pytest.raises(OptionError, match="cookies"):
            await client.get("/")


async def test_public() -> None:
    """Every public name is there, and is documented."""
    for name in http.__all__:
        assert getattr(http, name) is not None
    assert sorted(http.__all__) == http.__all__
    assert all(getattr(http, n).__doc__ for n in http.__all__ if isinstance(getattr(http, n), type))


@both
@pytest.mark.parametrize("base", ["", "/", "/api", "/api/v1/", "/a%20b/", "/ü/"])
@pytest.mark.parametrize(
    "path",
    ["/a", "/", "/a/../b", "/a//b", "/?x=1&y", "/a?x=%2F#f", "/%2Fa", "/ü b", "/a:b@c", "a", "?x", ""],
)  # fmt: skip
async def test_paths_follow_the_base_as_in_httpx(
    backend: BackendName, base: str, path: str
) -> None:
    """The URL that is asked for is the one that httpx's own client would ask for."""
    module, seen = module_of(backend), []

    async def answer(request: Any, call_next: Any) -> Any:
        seen.append(request.url)
        return module.Response(200)

    url = f"http://host:81{base}"
    async with open_client(url, backend=backend, interceptors=[answer]) as client:
        await client.get(path)
    async with module.AsyncClient(base_url=url) as bare:
        assert str(seen[0]) == str(bare.build_request("GET", path).url)


@both
async def test_a_silent_server_fails_a_try(backend: BackendName) -> None:
    """`read_timeout_s` ends a try, which is then tried again; the call has more time."""
    module = module_of(backend)
    behaviours = iter([stall(), answer(b"ok"), stall()])

    async def behave(exchange: Any) -> bool:
        return await next(behaviours)(exchange)

    with trio.fail_after(10):
        async with (
            open_peer({"/": behave}) as peer,
            open_client(peer.url, backend=backend, read_timeout_s=0.1) as client,
        ):
            assert (await client.get("/")).text == "ok"
            with pytest.raises(module.ReadTimeout):
                await client.post("/", content=b"x")


@both
async def test_a_pool_of_ones_own(backend: BackendName) -> None:
    """A transport of the backend takes the place of the connections, below all layers."""
    module, seen = module_of(backend), []

    def handle(request: Any) -> Any:
        seen.append(request.url.path)
        return module.Response(200, json=len(seen), headers={"Cache-Control": "max-age=9"})

    mock = module.MockTransport(handle)
    async with open_client("http://host", backend=backend, pool=mock) as client:
        assert await client.get("/a", as_=int) == 1
        assert await client.get("/a", as_=int) == 1
    assert seen == ["/a"]
    for wrong in ({"pool": mock, "proxy": "http://h"}, {"pool": 1}):
        with pytest.raises(OptionError, match="pool"):
            async with open_client(backend=backend, **wrong):
                pytest.fail("opened")


@both
@pytest.mark.parametrize("ends", ["raises", "is cancelled", "returns nothing"])
async def test_an_interceptor_that_loses_a_response(backend: BackendName, ends: str) -> None:
    """The slot and the connection of the response that it got are free again."""

    async def lose(request: Any, call_next: Any) -> Any:
        await call_next(request)
        if ends == "raises":
            raise KeyError("mine")
        if ends == "is cancelled":
            await trio.sleep_forever()

    with trio.fail_after(10):
        async with (
            open_peer({"/": answer(b"x", Cache_Control="max-age=9")}) as peer,
            open_client(peer.url, backend=backend, interceptors=[lose], max_concurrent=1) as client,
        ):
            for _ in range(3):
                with trio.move_on_after(0.05 if ends == "is cancelled" else 5) as scope:
                    with pytest.raises((KeyError, TypeError)):
                        await client.post("/")  # its body is not read before
                assert scope.cancelled_caught == (ends == "is cancelled")
            assert client.statistics().gate.running == 0


@both
async def test_raise_for_status_in_an_interceptor(backend: BackendName) -> None:
    """A response knows its request there, whether it is from the network or the cache."""
    module = module_of(backend)

    async def strict(request: Any, call_next: Next) -> Any:
        response = await call_next(request)
        assert response.request is request
        return response.raise_for_status()

    paths = {"/": answer(b"x", 404, Cache_Control="max-age=9")}
    async with (
        open_peer(paths) as peer,
        open_client(peer.url, backend=backend, interceptors=[strict]) as client,
    ):
        for _ in range(2):
            with pytest.raises(module.HTTPStatusError, match="404"):
                await client.get("/")
        assert len(peer.visits) == 1
        assert client.statistics().gate.running == 0


@both
async def test_garbage_that_the_cache_reads(backend: BackendName) -> None:
    """A date that cannot be and a row of quotes are no reason to fail, or to be slow."""
    headers: dict[str, Any] = {
        "Cache_Control": "a" * 20_000 + '"',
        "Expires": "Thu, 01 Jan 0000 00:00:00 GMT",
    }
    with trio.fail_after(10):
        async with (
            open_peer({"/": answer(b"x", **headers)}) as peer,
            open_client(peer.url, backend=backend, max_concurrent=1) as client,
        ):
            for _ in range(3):
                assert (await client.get("/")).extensions["trio_rt.cache"] == "miss"
            assert client.statistics().gate.running == 0


@both
async def test_a_length_that_chunks_overrule(backend: BackendName) -> None:
    """`max_body_bytes` holds where a short `Content-Length` stands beside chunks."""
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (200_000, b"x" * 200_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with trio.fail_after(10):
        async with (
            open_peer({"/": raw(head + chunks)}) as peer,
            open_client(peer.url, backend=backend, max_body_bytes=100_000) as client,
        ):
            with pytest.raises(BodyTooLarge):
                await client.get("/")


SECRET = "tok-3Zp9"


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": f"Bearer {SECRET}\n"}},
        {"headers": {"Authorization": f" {SECRET} "}},
        {"headers": {"Authorization": f"{SECRET}€"}},
        {"headers": {f"Authorization: {SECRET}": ""}},
        {"headers": f"Authorization: {SECRET}"},
        {"headers": [("Authorization", SECRET, 1)]},
        {"idempotency_key": f"{SECRET}\n"},
        {"url": f"http:u:{SECRET}@h"},
        {"url": f"ftp://u:{SECRET}@h/x"},
        {"url": f"ftp://h/x#{SECRET}"},
    ],
)
async def test_no_secret_is_told(options: dict[str, Any]) -> None:
    """What is refused may be a token, so its text is not in the error."""
    async with open_client("http://h") as client:
        with pytest.raises(OptionError) as caught:
            await client.get(**{"url": "/", **options})
    assert SECRET not in str(caught.value)

"""Our own pool: what it gives, what it raises, its proxies; side by side with the backends' own."""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import httpx
import httpx2
import pytest
import trio
import trio.testing

from trio_rt.errors import OptionError
from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._network import attempt
from trio_rt.http._pool import open_pool

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
    serve,
    stall,
    trusting,
)


@asynccontextmanager
async def open_ours(name: BackendName, **options: Any) -> AsyncIterator[Any]:
    """A client on our pool, and nothing between."""
    module = module_of(name)
    pool = open_pool(module, **{"ssl_context": trusting(), **options})
    with trio.fail_after(10):
        async with module.AsyncClient(transport=pool, timeout=None, trust_env=False) as client:
            yield client


def theirs(module: Any) -> Any:
    return module.AsyncHTTPTransport(verify=trusting(), trust_env=False)


def ours(module: Any) -> Any:
    return open_pool(module, ssl_context=trusting())


def connections(client: Any) -> list[Any]:
    """What the pool of `client` has."""
    found: list[Any] = client._transport._connections.connections
    return found


class Parts:
    """A body of so many parts, each unlike the others: no generator, so it can be left."""

    def __init__(self, count: int) -> None:
        self.given = 0
        self.count = count

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> bytes:
        if self.given == self.count:
            raise StopAsyncIteration
        self.given += 1
        return self.given.to_bytes(4, "big") * 16384


def upload(module: Any, url: str, parts: Parts, length: int | None = None) -> Any:
    class Stream(module.AsyncByteStream):  # type: ignore[misc]
        def __aiter__(self) -> Parts:
            return parts

    framing = (
        {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    )
    headers = {"Host": "127.0.0.1", **framing}
    return module.Request("POST", url, headers=headers, stream=Stream())


# The same errors


def resetting(data: bytes = b"") -> Behaviour:
    """Send `data`, and break the connection when the client has had it."""

    async def behave(exchange: Exchange) -> bool:
        stream: Any = exchange.stream
        if data:
            await stream.send_all(data)
            await trio.testing.wait_all_tasks_blocked(0.005)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
        return False

    return behave


HALF = head_of(200, {"Content-Length": "100"}) + b"half of it"
CHUNKED = head_of(200, {"Transfer-Encoding": "chunked"})


@asynccontextmanager
async def served(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    async with open_peer({"*": behaviour}, tls=tls) as peer:
        yield peer.url


@asynccontextmanager
async def handled(data: bytes, *, stays: bool = False) -> AsyncIterator[str]:
    """A server that sends `data` to whatever comes, and the end."""

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if data:
                await stream.send_all(data)
            while stays and await stream.receive_some():
                pass

    async with trio.open_nursery() as nursery:
        yield f"https://127.0.0.1:{await serve(nursery, handler)}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def deaf() -> AsyncIterator[str]:
    """A server that reads nothing."""

    async def handler(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        yield f"http://127.0.0.1:{await serve(nursery, handler)}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def fixed(url: str) -> AsyncIterator[str]:
    yield url


@attrs.frozen
class Situation:
    """One way to fail: its server, its error's class, and what ours has in its text."""

    server: Callable[[], AbstractAsyncContextManager[str]]
    kind: str
    says: str
    timeout: dict[str, float] = attrs.Factory(dict)
    parts: int = 0
    headers: dict[str, str] = attrs.Factory(dict)


SITUATIONS = {
    "refused": Situation(lambda: fixed("http://127.0.0.1:1"), "ConnectError", "refused"),
    "protocol": Situation(lambda: fixed("ftp://127.0.0.1"), "UnsupportedProtocol", "ftp"),
    "name": Situation(
        lambda: served(answer(), certified("elsewhere.example")), "ConnectError", "not valid for"
    ),
    "no tls": Situation(lambda: handled(b"HTTP/1.1 400 Bad\r\n\r\n"), "ConnectError", "SSL"),
    "tls hangs up": Situation(lambda: handled(b""), "ConnectError", "SSL"),
    "tls is silent": Situation(
        lambda: handled(b"", stays=True), "ConnectTimeout", "", {"connect": 0.05}
    ),
    "tls to plain": Situation(
        lambda: served(stall(b"\x15\x03\x01\x00\x02\x02\x46")), "RemoteProtocolError", "illegal"
    ),
    "reset": Situation(lambda: served(resetting()), "ReadError", "reset by peer"),
    "reset in body": Situation(lambda: served(resetting(HALF)), "ReadError", "reset by peer"),
    "no answer": Situation(lambda: served(raw(b"")), "RemoteProtocolError", "without sending"),
    "short": Situation(lambda: served(raw(HALF)), "RemoteProtocolError", "complete message"),
    "short head": Situation(
        lambda: served(raw(b"HTTP/1.1 200 OK\r\nA: b")), "RemoteProtocolError", "without"
    ),
    "garbage": Situation(lambda: served(raw(b"\0\1\2\r\n\r\n")), "RemoteProtocolError", "illegal"),
    "bad chunk": Situation(
        lambda: served(raw(CHUNKED + b"zz\r\n")), "RemoteProtocolError", "illegal chunk"
    ),
    "cut chunks": Situation(
        lambda: served(raw(CHUNKED + b"5\r\nabc")), "RemoteProtocolError", "incomplete chunked"
    ),
    "large head": Situation(
        lambda: served(raw(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000)), "RemoteProtocolError", ""
    ),
    "slow": Situation(lambda: served(stall()), "ReadTimeout", "", {"read": 0.05}),
    "slow body": Situation(lambda: served(stall(HALF)), "ReadTimeout", "", {"read": 0.05}),
    "reads nothing": Situation(deaf, "WriteTimeout", "", {"write": 0.05}, parts=320),
    "bad request": Situation(
        lambda: served(answer()), "LocalProtocolError", "Illegal header", headers={"A": "b\r\nc"}
    ),
}


async def outcome(module: Any, pool: Any, url: str, situation: Situation) -> Any:
    timeout = module.Timeout(None, **situation.timeout)
    request = upload(module, url, Parts(situation.parts))
    request.headers.update(situation.headers)
    request.extensions = {"timeout": timeout.as_dict()}
    async with module.AsyncClient(transport=pool, timeout=timeout, trust_env=False) as client:
        with pytest.raises(module.RequestError) as caught:
            await client.send(request)
    return caught.value


@both
@pytest.mark.parametrize("name", SITUATIONS)
async def test_same_errors(backend: BackendName, name: str) -> None:
    """Of whatever goes wrong ours has the class and the request of the backend's own, and a text."""
    module, situation = module_of(backend), SITUATIONS[name]
    with trio.fail_after(10):
        async with situation.server() as url:
            own = await outcome(module, theirs(module), url, situation)
            error = await outcome(module, ours(module), url, situation)
    assert type(error) is type(own)
    assert type(error) is getattr(module, situation.kind)
    assert situation.says in str(error)
    assert error.request.url == url
    # The core's own error is the cause, once.
    assert type(error.__cause__).__module__.startswith("httpcore")


@both
async def test_foreign_errors(backend: BackendName) -> None:
    """What the body of a request, or a trace, raises comes as it is, caused by nothing."""
    mine = RuntimeError("mine")

    class Failing(Parts):
        async def __anext__(self) -> bytes:
            if self.given == 1:
                raise mine
            return await super().__anext__()

    async def trace(name: str, info: Any) -> None:
        if name == "http11.receive_response_body.started":
            raise mine

    async with open_peer() as peer, open_ours(backend) as client:
        traced = client.build_request("GET", peer.url, extensions={"trace": trace})
        for request in (upload(module_of(backend), peer.url, Failing(2)), traced):
            with pytest.raises(RuntimeError, match="mine") as caught:
                await client.send(request)
            assert caught.value is mine
            assert mine.__cause__ is None
            await peer.wait_live(0)


@both
async def test_no_name(backend: BackendName) -> None:
    """A name that cannot be one is an error of the connection."""
    async with open_ours(backend) as client:
        with pytest.raises(module_of(backend).ConnectError):
            await client.get(f"http://{'x' * 64}.invalid/")


# Kept connections


@both
async def test_kept(backend: BackendName) -> None:
    """A connection is used again, by one call at a time; leaving closes all."""
    gates = [trio.Event(), trio.Event()]

    async def together(exchange: Exchange) -> bool:
        gates[0 if not gates[0].is_set() else 1].set()
        await gates[1].wait()
        return await answer()(exchange)

    async with open_peer({"/two": together}) as peer:
        async with open_ours(backend) as client:
            for _ in range(3):
                assert (await client.get(peer.url)).text == "ok"
            assert peer.accepted == 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, peer.url + "/two")
                nursery.start_soon(client.get, peer.url + "/two")
            assert peer.accepted == 2
            assert peer.live == 2
        await peer.wait_live(0)


@both
@pytest.mark.parametrize("tls", [False, True])
async def test_closed_by_the_server(backend: BackendName, tls: bool) -> None:
    """A kept connection that the server has closed meanwhile is not used: a new one is made."""

    read = trio.Event()

    async def last(exchange: Exchange) -> bool:
        await answer()(exchange)
        await read.wait()
        return False

    context = certified("127.0.0.1") if tls else None
    async with open_peer({"/": last}, tls=context) as peer, open_ours(backend) as client:
        for count in range(1, 4):
            read = trio.Event()
            assert (await client.get(peer.url)).text == "ok"
            read.set()
            await peer.wait_live(0)
            assert peer.accepted == count
            assert len(connections(client)) == 1


@both
async def test_keep_alive(backend: BackendName) -> None:
    """An idle connection older than `keep_alive_s` is closed at the next call."""
    async with open_peer() as peer:
        async with open_ours(backend, keep_alive_s=60.0) as client:
            await client.get(peer.url)
            await trio.sleep(0.01)
            await client.get(peer.url)
            assert peer.accepted == 1
        async with open_ours(backend, keep_alive_s=0.001) as client:
            await client.get(peer.url)
            await trio.sleep(0.01)
            await client.get(peer.url)
            assert peer.accepted == 3
            await peer.wait_live(1)


@both
async def test_left_body(backend: BackendName) -> None:
    """A body that is left unread closes its connection; one read to its end keeps it."""
    async with (
        open_peer({"/long": drip(b"x" * 1000, 1000, 0.01)}) as peer,
        open_ours(backend) as client,
    ):
        async with client.stream("GET", peer.url + "/long"):
            pass
        await peer.wait_live(0)
        async with client.stream("GET", peer.url) as response:
            assert await response.aread() == b"ok"
        assert peer.live == 1
        assert [each.is_idle() for each in connections(client)] == [True]


# The marks of a call


@both
async def test_marks_end(backend: BackendName) -> None:
    """After a call, done, failed or cancelled, the task is in none, and can be cancelled."""
    async with open_peer({"/stall": stall()}) as peer, open_ours(backend) as client:
        await client.get(peer.url)
        assert attempt.get() is None
        with pytest.raises(module_of(backend).ConnectError):
            await client.get("http://127.0.0.1:1")
        assert attempt.get() is None
        with trio.move_on_after(0.01):
            await client.get(peer.url + "/stall")
        assert attempt.get() is None
        with trio.move_on_after(0) as scope:
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught


@both
async def test_cancelled_before(backend: BackendName) -> None:
    """A call that is cancelled before it begins reaches neither the pool nor the server."""
    proxies = [None, "http://127.0.0.1:1"]
    for proxy in proxies:
        async with open_peer() as peer, open_ours(backend, proxy=proxy) as client:
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.get("https://127.0.0.1:1")
            assert scope.cancelled_caught
            assert connections(client) == []
            assert peer.accepted == 0


@both
async def test_call_in_a_call(backend: BackendName) -> None:
    """The body of a request may come from another call of the same client."""
    async with open_peer() as peer, open_ours(backend) as client:

        class Fetched(Parts):
            async def __anext__(self) -> bytes:
                await client.get(peer.url + "/from")
                return await super().__anext__()

        request = upload(module_of(backend), peer.url + "/to", Fetched(2))
        assert (await client.send(request)).text == "ok"
        assert [visit.path for visit in peer.visits] == ["/from"] * 3 + ["/to"]
        assert peer.accepted == 2
        await client.get(peer.url)
        assert peer.accepted == 2


# Bodies


@both
@pytest.mark.parametrize("tls", [False, True])
async def test_large_both_ways(backend: BackendName, tls: bool) -> None:
    """A large body up, as parts, and the same down."""
    whole = b"".join([i.to_bytes(4, "big") * 16384 for i in range(1, 49)])

    async def echo(exchange: Exchange) -> bool:
        return await answer(exchange.visit.body)(exchange)

    context = certified("127.0.0.1") if tls else None
    async with open_peer({"*": echo}, tls=context) as peer, open_ours(backend) as client:
        request = upload(module_of(backend), peer.url, Parts(48), len(whole))
        assert (await client.send(request)).content == whole
        assert (await client.post(peer.url, content=whole)).content == whole
        assert peer.accepted == 1


@attrs.define
class Early:
    """Answers 413 to the head; then hangs up, or reads on to the end."""

    closes: bool
    seen: int = 0
    done: trio.Event = attrs.Factory(trio.Event)

    async def __call__(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            much = head_of(413, {"Content-Length": "4", "Connection": "close"}) + b"much"
            await stream.send_all(much)
            while not self.closes and (data := await stream.receive_some()):
                self.seen += len(data)
        self.done.set()


@both
@pytest.mark.parametrize("kind", ["bytes", "generator", "files"])
@pytest.mark.parametrize("ends", ["cancelled", "reset"])
async def test_upload_that_ends(backend: BackendName, kind: str, ends: str) -> None:
    """What makes the parts of a body is closed with the call, the caller's generator too."""
    closed = []

    async def made() -> AsyncIterator[bytes]:  # noqa: ASYNC900
        try:
            while True:
                await trio.lowlevel.checkpoint()
                yield bytes(2**20)
        finally:
            closed.append(1)

    body: dict[str, dict[str, Any]] = {
        "bytes": {"content": bytes(32 * 2**20)},
        "generator": {"content": made()},
        "files": {"files": {"f": io.BytesIO(bytes(32 * 2**20))}},
    }

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if ends == "cancelled":
                client_scope.cancel()
                await trio.sleep_forever()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        async with trio.open_nursery() as nursery, open_ours(backend) as client:
            url = f"http://127.0.0.1:{await serve(nursery, handler)}"
            broken = contextlib.suppress(module_of(backend).TransportError)
            with trio.CancelScope() as client_scope, broken:
                await client.post(url, **body[kind])
            assert client_scope.cancelled_caught == (ends == "cancelled")
            assert len(closed) == (kind == "generator")
            nursery.cancel_scope.cancel()
        gc.collect()
    assert not caught


@both
async def test_upload_that_fails_in_closing(
    backend: BackendName, caplog: pytest.LogCaptureFixture
) -> None:
    """What the caller's generator raises when it is closed is not lost: raised, or logged."""

    async def made() -> AsyncIterator[bytes]:  # noqa: ASYNC900
        try:
            while True:
                await trio.lowlevel.checkpoint()
                yield bytes(2**20)
        finally:
            raise ValueError("no temporary file")

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()

    async with trio.open_nursery() as nursery, open_ours(backend) as client:
        url = f"http://127.0.0.1:{await serve(nursery, handler)}"
        with pytest.raises((module_of(backend).TransportError, ValueError)) as caught:
            await client.post(url, content=made())
        nursery.cancel_scope.cancel()
    told = [str(caught.value), *(str(each.exc_info) for each in caplog.records)]
    assert sum("no temporary file" in each for each in told) == 1


@both
async def test_answered_early(backend: BackendName) -> None:
    """A server that answers before 20 MB are up, and reads them, is heard; nothing is left."""
    module, server = module_of(backend), Early(closes=False)
    async with open_ours(backend) as client, trio.open_nursery() as nursery:
        url = f"http://127.0.0.1:{await serve(nursery, server)}"
        response = await client.send(upload(module, url, Parts(320)))
        assert response.status_code == 413
        assert response.text == "much"
        await server.done.wait()
        assert server.seen > 319 * 65536
        assert connections(client) == []
        nursery.cancel_scope.cancel()


@both
async def test_hung_up_early(backend: BackendName) -> None:
    """One that answers and hangs up is heard, or is a ReadError; at once, and nothing is left."""
    module, parts = module_of(backend), Parts(320)
    async with open_ours(backend) as client, trio.open_nursery() as nursery:
        url = f"http://127.0.0.1:{await serve(nursery, Early(closes=True))}"
        heard = None
        with contextlib.suppress(module.ReadError):
            heard = (await client.send(upload(module, url, parts))).status_code
        assert heard in (None, 413)
        assert parts.given < 320
        assert (await client.get(url)).status_code == 413
        assert connections(client) == []
        nursery.cancel_scope.cancel()


@both
async def test_half_closed(backend: BackendName) -> None:
    """A body without a length ends with the server's sending side; the connection with it."""

    async def half(exchange: Exchange) -> bool:
        stream: Any = exchange.stream
        await stream.send_all(head_of(200, {}) + b"x" * 300_000)
        await stream.send_eof()
        return await stall()(exchange)

    async with open_peer({"*": half}) as peer, open_ours(backend) as client:
        assert len((await client.get(peer.url)).content) == 300_000
        await peer.wait_live(0)
        assert connections(client) == []


@both
async def test_upgrade(backend: BackendName) -> None:
    """After a 101 the stream is the caller's: it writes, reads and closes."""

    async def shout(exchange: Exchange) -> bool:
        stream = exchange.stream
        await stream.send_all(head_of(101, {"Upgrade": "shout", "Connection": "upgrade"}))
        await stream.send_all((await stream.receive_some()).upper())
        return False

    async with open_peer({"*": shout}) as peer, open_ours(backend) as client:
        headers = {"Upgrade": "shout", "Connection": "upgrade"}
        async with client.stream("GET", peer.url, headers=headers) as response:
            assert response.status_code == 101
            stream = response.extensions["network_stream"]
            await stream.write(b"hello")
            assert await stream.read(100) == b"HELLO"
            assert await stream.read(100) == b""
        await peer.wait_live(0)


# Proxies


AUTH = base64.b64encode(b"user:secret").decode()


def proxies(module: Any, url: str) -> list[Any]:
    """The ways to say it, all with the same user."""
    full = url.replace("://", "://user:secret@")
    return [full, module.URL(full), module.Proxy(url, auth=("user", "secret"))]


async def forwarded(exchange: Exchange) -> bool:
    return await answer(exchange.visit.target.encode())(exchange)


@both
@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize("tls", [False, True])
async def test_forwarding(backend: BackendName, way: int, tls: bool) -> None:
    """A proxy is a str, a URL or a Proxy; it gets the whole URL, and who is asking."""
    context = certified("127.0.0.1") if tls else None
    module = module_of(backend)
    async with open_peer({"*": forwarded, "http://far.example/a": forwarded}, tls=context) as peer:
        proxy = proxies(module, peer.url)[way]
        if tls:
            proxy = module.Proxy(proxy if way < 2 else proxy.url, ssl_context=trusting())
            proxy.auth = ("user", "secret")
        async with open_ours(backend, proxy=proxy) as client:
            for _ in range(2):
                response = await client.get("http://far.example/a?b=1")
            assert response.text == "http://far.example/a?b=1"
            assert peer.visits[-1].headers["proxy-authorization"] == f"Basic {AUTH}"
            assert peer.visits[-1].headers["host"] == "far.example"
            assert peer.accepted == 1


@both
async def test_proxy_headers(backend: BackendName) -> None:
    """The headers of a Proxy go to it."""
    module = module_of(backend)
    async with open_peer({"*": forwarded}) as peer:
        proxy = module.Proxy(peer.url, headers={"X-Mine": "1"})
        async with open_ours(backend, proxy=proxy) as client:
            await client.get("http://far.example/")
            assert peer.visits[-1].headers["x-mine"] == "1"


@both
@pytest.mark.parametrize("way", range(3))
async def test_refusing_proxy(backend: BackendName, way: int) -> None:
    """CONNECT says who is asking; a refusal is the backend's ProxyError, and leaves nothing."""
    module = module_of(backend)
    async with (
        open_peer({"far.example:443": answer(b"", 407)}) as peer,
        open_ours(backend, proxy=proxies(module, peer.url)[way]) as client,
    ):
        with pytest.raises(module.ProxyError, match="407"):
            await client.get("https://far.example/")
        (visit,) = peer.visits
        assert (visit.method, visit.target) == ("CONNECT", "far.example:443")
        assert visit.headers["proxy-authorization"] == f"Basic {AUTH}"
        await peer.wait_live(0)
        assert connections(client) == []


@both
@pytest.mark.parametrize(
    "given",
    [
        "ftp://host",
        "host:3128",
        "host",
        "",
        "http://",
        "http://host:port",
        "http://user:secret@host\n",
        5,
        b"http://user:secret@host",
        ["http://user:secret@host"],
        object(),
    ],
)
async def test_wrong_proxies(backend: BackendName, given: object) -> None:
    """What is no proxy is an OptionError, which has no password in it."""
    with pytest.raises(OptionError) as caught:
        open_pool(module_of(backend), proxy=given)
    assert caught.value.field == "proxy"
    assert "secret" not in str(caught.value)


async def test_the_others_proxies() -> None:
    """A URL or a Proxy of the other backend is an OptionError that names this one."""
    for module, other in ((httpx, httpx2), (httpx2, httpx)):
        for given in (other.URL("http://u:secret@host"), other.Proxy("http://u:secret@host")):
            with pytest.raises(OptionError, match=rf"Proxy of {module.__name__}\b") as caught:
                open_pool(module, proxy=given)
            assert "secret" not in str(caught.value)


@both
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_socks(backend: BackendName, scheme: str) -> None:
    """Without `socksio` a SOCKS proxy is an error that says what to install."""
    try:
        import socksio  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(OptionError, match=r"socksio.*not installed"):
            open_pool(module_of(backend), proxy=f"{scheme}://host:1080")
    else:
        open_pool(module_of(backend), proxy=f"{scheme}://host:1080")

"""HTTP servers for tests: real sockets on loopback, each path with its own behaviour."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, partial
from typing import TypeAlias

import attrs
import pytest
import trio
import trustme

__all__ = [
    "Behaviour",
    "Exchange",
    "Peer",
    "Visit",
    "answer",
    "authority",
    "both",
    "certified",
    "drip",
    "head_of",
    "open_peer",
    "raw",
    "redirect",
    "serve",
    "stall",
    "trusting",
]

both = pytest.mark.parametrize("backend", ["httpx", "httpx2"])


@attrs.frozen
class Visit:
    """One request as the server saw it. Header names are in lower case, equal ones are joined."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@attrs.frozen
class Exchange:
    """What a behaviour gets: the request, and the socket to answer on."""

    visit: Visit
    stream: trio.abc.Stream


#: Answers one request. False: the connection is closed after it.
Behaviour: TypeAlias = Callable[[Exchange], Awaitable[bool]]


@attrs.define
class Peer:
    """A running server. `live` connections are open now; `accepted` were, ever."""

    url: str
    paths: dict[str, Behaviour]
    visits: list[Visit] = attrs.Factory(list)
    live: int = 0
    accepted: int = 0

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.accepted += 1
        self.live += 1
        try:
            async with stream:
                while (visit := await _read_request(stream)) is not None:
                    self.visits.append(visit)
                    behaviour = self.paths.get(visit.path) or self.paths.get("*", answer())
                    if not await behaviour(Exchange(visit, stream)):
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.live -= 1

    async def wait_live(self, count: int) -> None:
        """Until so many connections are open."""
        with trio.fail_after(10):
            while self.live != count:
                await trio.sleep(0.001)


@asynccontextmanager
async def open_peer(
    paths: Mapping[str, Behaviour] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Peer]:
    """A server; the path "*" is every other path, by default a 200 with the body "ok"."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        await stack.enter_async_context(listener)
        port = listener.socket.getsockname()[1]
        peer = Peer(f"{'http' if tls is None else 'https'}://{host}:{port}", dict(paths or {}))
        serving = (
            listener if tls is None else trio.SSLListener(listener, tls, https_compatible=True)
        )
        await nursery.start(trio.serve_listeners, peer.serve, [serving])
        yield peer
        nursery.cancel_scope.cancel()


async def serve(
    nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[object]]
) -> int:
    """Run `handler` on each connection to a new port, which is returned."""
    listeners = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), handler, 0)
    port: int = listeners[0].socket.getsockname()[1]
    return port


def head_of(status: int, headers: Mapping[str, str]) -> bytes:
    """The head of a response, as bytes."""
    lines = [f"HTTP/1.1 {status} Here", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(body: bytes = b"ok", status: int = 200, **headers: str) -> Behaviour:
    """A whole response with its length; `_` in a header's name is `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def behave(exchange: Exchange) -> bool:
        length = {} if status in (204, 304) else {"Content-Length": str(len(body))}
        shown = b"" if exchange.visit.method == "HEAD" else body
        await exchange.stream.send_all(head_of(status, length | named) + shown)
        return True

    return behave


def redirect(location: str, status: int = 302) -> Behaviour:
    return answer(b"", status, Location=location)


def raw(data: bytes, *, stays: bool = False) -> Behaviour:
    """These bytes, and the end of the connection unless it `stays`."""

    async def behave(exchange: Exchange) -> bool:
        await exchange.stream.send_all(data)
        return stays

    return behave


def drip(part: bytes, count: int, every_s: float) -> Behaviour:
    """A body that comes in `count` parts, with a pause after each."""

    async def behave(exchange: Exchange) -> bool:
        await exchange.stream.send_all(head_of(200, {"Content-Length": str(len(part) * count)}))
        for _ in range(count):
            await exchange.stream.send_all(part)
            await trio.sleep(every_s)
        return True

    return behave


def stall(data: bytes = b"") -> Behaviour:
    """Send `data`, and then nothing until the client has gone."""

    async def behave(exchange: Exchange) -> bool:
        await exchange.stream.send_all(data)
        while await exchange.stream.receive_some(65536):
            pass
        return False

    return behave


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def certified(*hosts: str) -> ssl.SSLContext:
    """For a server with a certificate for `hosts` by `authority()`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*hosts).configure_cert(context)
    return context


@cache
def trusting() -> ssl.SSLContext:
    """For a client that trusts `authority()` alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


async def _read_request(stream: trio.abc.Stream) -> Visit | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        before = headers.get(name.lower())
        headers[name.lower()] = value.strip() if before is None else f"{before}, {value.strip()}"
    chunked = headers.get("transfer-encoding") == "chunked"
    length = int(headers.get("content-length", 0))
    while not body.endswith(b"0\r\n\r\n") if chunked else len(body) < length:
        more = await stream.receive_some(65536)
        if not more:
            return None
        body += more
    return Visit(method, target, headers, body)

"""trio_rt._dial and trio_rt._opening: from a URL to a wire, on either package."""

from __future__ import annotations

import base64
import datetime
import email.utils
import gc
import math
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, get_args

import pytest
import trio
import trio.testing
import trustme
from websockets.utils import accept_key

from trio_rt._ambient import Ambient, replace_ambient
from trio_rt._dial import REDIRECTS, DialOptions, dial
from trio_rt._tls import TlsStream
from trio_rt.errors import DialError, HandshakeError, LinkClosed, LinkError, OptionError
from trio_rt.options import WireName
from trio_rt.protocol.url import parse_url
from trio_rt.wires import Wire

from .wires.support import CONT, TEXT, Sent, frame

Script = Callable[[trio.abc.Stream], Awaitable[object]]


async def read_head(stream: trio.abc.Stream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = await stream.receive_some()
        if not chunk:
            break
        head += chunk
    return head


def key(head: bytes) -> str:
    return head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()


def switching(head: bytes, *lines: str, accept: str | None = None) -> bytes:
    """The 101 for this request, with more headers."""
    answer = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key(head)) if accept is None else accept}",
        *lines,
    ]
    return "\r\n".join([*answer, "", ""]).encode("iso-8859-1")


def answering(answer: bytes, *, end: bool = False) -> Script:
    """Read the request, write `answer`, and hang or hang up."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(answer)
        if end:
            await stream.aclose()
        await stream.receive_some()

    return script


def upgrading(*lines: str, accept: str | None = None, more: bytes = b"") -> Script:
    async def script(stream: trio.abc.Stream) -> None:
        head = await read_head(stream)
        await stream.send_all(switching(head, *lines, accept=accept) + more)
        await stream.receive_some()

    return script


async def silence(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


class Peer:
    """A scripted server: runs a script on each connection, and keeps what it was sent."""

    #: What it is dialled with: every test is run with each.
    wire: ClassVar[WireName]

    def __init__(self, nursery: trio.Nursery, *scripts: Script) -> None:
        self.nursery = nursery
        self.scripts = list(scripts)
        self.opened: list[tuple[str, int]] = []
        self.heads: list[bytes] = []
        self.streams: list[trio.abc.Stream] = []

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        self.opened.append((host, port))
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append(ours)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.nursery.start_soon(self.run, script, theirs)
        return ours

    async def run(self, script: Script, stream: trio.StapledStream[Any, Any]) -> None:
        receive = stream.receive_stream.receive_some

        async def receive_some(max_bytes: int | None = None) -> bytes:
            data = bytes(await receive(max_bytes))
            if b"HTTP/1.1\r\n" in data:
                self.heads.append(data)
            return data

        stream.receive_stream.receive_some = receive_some
        try:
            await script(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def dial(
        self,
        url: str = "ws://example.org/chat?room=1",
        *,
        headers: Sequence[tuple[str, str]] = (),
        protocols: Sequence[str] = (),
        protocols_elsewhere: Sequence[str] = (),
        **options: Any,
    ) -> Wire:
        options = {
            "open_stream": self.open_stream,
            "max_message_bytes": 1000,
            "wire": self.wire,
            **options,
        }
        with trio.fail_after(5):
            made = DialOptions(**options)
            return await dial(
                parse_url(url),
                made,
                nursery=self.nursery,
                headers=headers,
                protocols=protocols,
                protocols_elsewhere=protocols_elsewhere,
            )

    async def fail(self, kind: type[LinkError], **options: Any) -> Any:
        """Dial, fail with this kind of error, and leave no stream open."""
        with pytest.raises(kind) as caught:
            await self.dial(**options)
        assert type(caught.value) is kind
        for stream in self.streams:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()
        return caught.value


@pytest.fixture(params=get_args(WireName), autouse=True)
def wire_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> WireName:
    name: WireName = request.param
    monkeypatch.setattr(Peer, "wire", name, raising=False)
    return name


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """No file descriptor is left open."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def headers_of(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode("iso-8859-1").split("\r\n")[1:-2]
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


# -- the request ------------------------------------------------------------


async def test_the_request_is_a_websocket_handshake(nursery: trio.Nursery) -> None:
    """With path and query, host and port, and a fresh key."""
    peer = Peer(nursery, upgrading())
    await peer.dial("ws://Example.org:8080/chat?room=1")
    await peer.dial("ws://[::1]/")
    assert peer.opened == [("example.org", 8080), ("::1", 80)]
    first, second = peer.heads
    assert first.startswith(b"GET /chat?room=1 HTTP/1.1\r\n")
    headers = dict(headers_of(first))
    assert len(base64.b64decode(headers.pop("Sec-WebSocket-Key"))) == 16
    assert headers == {
        "Host": "example.org:8080",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "User-Agent": "trio-rt",
    }
    assert dict(headers_of(second))["Host"] == "[::1]"
    assert key(first) != key(second)


async def test_the_key_is_drawn_from_the_ambient_randomness(nursery: trio.Nursery) -> None:
    """So that a simulated world is the same each time."""

    class Zero(Ambient):
        def __init__(self) -> None:
            super().__init__()
            self.random = self.Random()

        class Random(type(Ambient().random)):  # type: ignore[misc]
            def randbytes(self, n: int) -> bytes:
                return bytes(n)

    peer = Peer(nursery, upgrading())
    old = replace_ambient(Zero())
    try:
        await peer.dial(wire="websockets")
    finally:
        replace_ambient(old)
    assert key(peer.heads[0]) == "A" * 22 + "=="


async def test_user_headers_are_added_and_take_the_place_of_ours(nursery: trio.Nursery) -> None:
    """Repeated ones are all sent, in order; Host, Authorization and User-Agent may be set."""
    peer = Peer(nursery, upgrading())
    headers = [
        ("host", "virtual"),
        ("Cookie", "a=1"),
        ("cookie", "b=ü"),
        ("authorization", "Bearer x"),
        ("user-agent", "mine"),
    ]
    await peer.dial("ws://user:pass@example.org", headers=headers)
    sent = [(name.lower(), value) for name, value in headers_of(peer.heads[0])]
    assert [
        item for item in sent if item[0] in ("host", "cookie", "authorization", "user-agent")
    ] == [(name.lower(), value) for name, value in headers]
    names = [name for name, _ in sent]
    assert [names.count(name) for name in ("host", "authorization", "user-agent")] == [1, 1, 1]


async def test_user_info_in_the_url_becomes_basic_authentication(nursery: trio.Nursery) -> None:
    """RFC 7617's own example."""
    peer = Peer(nursery, upgrading())
    await peer.dial("ws://Aladdin:open%20sesame@example.org")
    assert dict(headers_of(peer.heads[0]))["Authorization"] == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


async def test_a_long_host_is_sent_as_it_is(nursery: trio.Nursery) -> None:
    """A label of 63 characters and a port, or a Host of the program's own."""
    peer = Peer(nursery, upgrading())
    await peer.dial(f"ws://{'x' * 63}:8080/")
    await peer.dial(headers=[("Host", "y" * 70)])
    hosts = [dict(headers_of(head))["Host"] for head in peer.heads]
    assert hosts == [f"{'x' * 63}:8080", "y" * 70]


BAD_HEADERS = [
    ("X-Token", "canary\r\nEvil: 1"),
    ("X-Token", "canary\n"),
    ("X-Token", "canary\x00"),
    ("X-Token", "canary\x7f"),
    ("X-Token", "canary €"),
    ("X Token", "canary"),
    ("X-Token\r\nEvil", "canary"),
    ("", "canary"),
    ("Ü", "canary"),
    ("Upgrade", "canary"),
    ("connection", "canary"),
    ("Sec-WebSocket-Key", "canary"),
    ("sec-websocket-protocol", "canary"),
    ("Content-Length", "canary"),
]


@pytest.mark.parametrize("header", BAD_HEADERS)
async def test_headers_that_cannot_be_sent(nursery: trio.Nursery, header: tuple[str, str]) -> None:
    """They are refused before anything is opened; their value is not shown."""
    peer = Peer(nursery, upgrading())
    with pytest.raises(OptionError) as caught:
        await peer.dial(headers=[header])
    assert caught.value.field in ("headers", f"headers[{header[0]!r}]")
    assert "canary" not in repr(caught.value)
    assert not peer.opened


async def test_two_hosts_cannot_be_sent(nursery: trio.Nursery) -> None:
    """A server must refuse a second Host, so it is the caller's error."""
    peer = Peer(nursery, upgrading())
    with pytest.raises(OptionError, match="one Host"):
        await peer.dial(headers=[("Host", "a"), ("host", "b")])
    assert not peer.opened


@pytest.mark.parametrize("protocols", [["a b"], [""], ["a", "a"], ["ü"], ["a,b"]])
async def test_protocols_that_cannot_be_offered(
    nursery: trio.Nursery, protocols: list[str]
) -> None:
    """They must be distinct tokens."""
    peer = Peer(nursery, upgrading())
    with pytest.raises(OptionError, match="protocols"):
        await peer.dial(protocols=protocols)
    assert not peer.opened


# -- the answer -------------------------------------------------------------


async def test_the_wire_is_live(nursery: trio.Nursery) -> None:
    """It sends masked, receives, and takes what was glued to the 101 first."""
    received = []

    async def script(stream: trio.abc.Stream) -> None:
        head = await read_head(stream)
        await stream.send_all(switching(head) + frame(TEXT, b"glued") + frame(TEXT, b"cut")[:3])
        received.append(await stream.receive_some())
        await stream.send_all(frame(TEXT, b"cut")[3:])

    wire = await Peer(nursery, script).dial()
    with trio.fail_after(5):
        assert await wire.receive() == ["glued"]
        await wire.send([Sent(b"hello")])
        assert await wire.receive() == ["cut"]
    assert received[0][:2] == b"\x81\x85"


async def test_the_subprotocol_is_the_servers_choice(nursery: trio.Nursery) -> None:
    """All are offered, in order; choosing none is allowed."""
    peer = Peer(nursery, upgrading("Sec-WebSocket-Protocol: b"), upgrading())
    assert (await peer.dial(protocols=["a", "b"])).subprotocol == "b"
    assert (await peer.dial(protocols=["a", "b"])).subprotocol is None
    assert dict(headers_of(peer.heads[0]))["Sec-WebSocket-Protocol"] == "a, b"


async def test_compression_is_offered_if_asked_for(nursery: trio.Nursery) -> None:
    """And used if the server agrees."""
    peer = Peer(nursery, upgrading("Sec-WebSocket-Extensions: permessage-deflate"))
    wire = await peer.dial(compression=True, wire="websockets")
    assert "permessage-deflate" in dict(headers_of(peer.heads[0]))["Sec-WebSocket-Extensions"]
    with trio.fail_after(5):
        await wire.send([Sent(b"x" * 1000)])
    assert wire.bytes_out < 100


async def test_the_size_limit_is_the_one_given(nursery: trio.Nursery) -> None:
    """One byte more is 1009."""
    peer = Peer(nursery, upgrading(more=frame(TEXT, b"x" * 10) + frame(TEXT, b"x" * 11)))
    wire = await peer.dial(max_message_bytes=10)
    with trio.fail_after(5):
        assert await wire.receive() == ["x" * 10]
        with pytest.raises(LinkClosed) as caught:
            await wire.receive()
    assert caught.value.code == 1009
    wire = await peer.dial(max_message_bytes=math.inf)
    with trio.fail_after(5):
        assert len(await wire.receive()) == 2


async def test_the_fragment_limit_is_the_one_given(nursery: trio.Nursery) -> None:
    """One frame more is 1009."""
    pair = frame(TEXT, b"a", fin=False) + frame(CONT, b"b")
    three = frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) + frame(CONT, b"c")
    wire = await Peer(nursery, upgrading(more=pair + three)).dial(fragments=2)
    with trio.fail_after(5):
        assert await wire.receive() == ["ab"]
        with pytest.raises(LinkClosed) as caught:
            await wire.receive()
    assert caught.value.code == 1009


async def test_odd_answers_that_are_allowed(nursery: trio.Nursery) -> None:
    """Interim answers before the 101, and a header that is not ASCII."""

    async def script(stream: trio.abc.Stream) -> None:
        head = await read_head(stream)
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        await stream.send_all(interim + switching(head, "X-Motto: \xfcber"))

    assert await Peer(nursery, script).dial() is not None


HOSTILE: dict[str, Script] = {
    "wrong accept": upgrading(accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    "accept twice": upgrading("Sec-WebSocket-Accept: x"),
    "unoffered subprotocol": upgrading("Sec-WebSocket-Protocol: chat"),
    "unoffered extension": upgrading("Sec-WebSocket-Extensions: permessage-deflate"),
    "extension not ASCII": upgrading("Sec-WebSocket-Extensions: \xff"),
    "subprotocol not ASCII": upgrading("Sec-WebSocket-Protocol: \xff"),
    "two connections": upgrading("Connection: \xff"),
    "other upgrade": upgrading("Upgrade: h2c"),
    "101 without anything": answering(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    "garbage": answering(b"\x00\x01\x02\x03" * 100),
    "another protocol": answering(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "bad status line": answering(b"HTTP/1.1 abc OK\r\n\r\n"),
    "header not ASCII": answering("HTTP/1.1 101 OK\r\nä: x\r\n\r\n".encode()),
    "control character": answering(b"HTTP/1.1 101 OK\r\nx: \x01\r\n\r\n"),
    "endless header": answering(b"HTTP/1.1 101 OK\r\nx: " + b"y" * 1_000_000),
    "endless headers": answering(b"HTTP/1.1 101 OK\r\n" + b"x: y\r\n" * 100_000),
    "endless interim answers": answering(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_an_answer_that_is_no_websocket(nursery: trio.Nursery, name: str) -> None:
    """Is a HandshakeError at once, though the server keeps the connection open."""
    peer = Peer(nursery, HOSTILE[name])
    error = await peer.fail(HandshakeError)
    assert error.status in (None, 101)
    assert "ws://example.org/chat?..." in str(error)


@pytest.mark.parametrize(
    "parameter",
    [
        "server_max_window_bits=7",
        "server_max_window_bits=99999999999",
        "client_max_window_bits=8",
        "nonsense",
        "server_max_window_bits",
    ],
)
async def test_compression_with_parameters_that_cannot_be(
    nursery: trio.Nursery, parameter: str
) -> None:
    """Is a HandshakeError, not a crash of the inflater later."""
    line = f"Sec-WebSocket-Extensions: permessage-deflate; {parameter}"
    error = await Peer(nursery, upgrading(line)).fail(HandshakeError, compression=True)
    assert error.status == 101


async def test_http_1_0_cannot_upgrade(nursery: trio.Nursery) -> None:
    """RFC 6455, 4.1; but its refusals are heard."""

    async def script(stream: trio.abc.Stream) -> None:
        head = await read_head(stream)
        await stream.send_all(switching(head).replace(b"HTTP/1.1", b"HTTP/1.0"))

    error = await Peer(nursery, script).fail(HandshakeError)
    assert error.status == 101
    error = await Peer(nursery, answering(b"HTTP/1.0 503 Busy\r\n\r\n", end=True)).fail(
        HandshakeError
    )
    assert error.status == 503


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switch", b"HTTP/1.1 101 OK\r\nUpgrade: w"])
async def test_a_server_that_hangs_up_in_the_handshake(
    nursery: trio.Nursery, answer: bytes
) -> None:
    """Is a DialError of that stage, at once."""
    error = await Peer(nursery, answering(answer, end=True)).fail(DialError)
    assert (error.stage, error.certificate) == ("handshake", False)


async def test_a_server_that_is_gone_before_the_request(nursery: trio.Nursery) -> None:
    """Likewise."""

    async def script(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        stream = await peer.open_stream(host, port)
        await trio.testing.wait_all_tasks_blocked()
        return stream

    peer = Peer(nursery, script)
    error = await peer.fail(DialError, open_stream=open_stream)
    assert error.stage == "handshake"


@pytest.mark.parametrize("url", ["ws://example.org", "wss://example.org"])
@pytest.mark.parametrize("proxy", [None, "http://proxy"])
async def test_a_server_that_says_nothing_is_left_to_the_callers_timeout(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    url: str,
    proxy: str | None,
) -> None:
    """Cancelling the dial closes the stream, at every stage."""
    peer = Peer(nursery, silence)
    with pytest.raises(trio.TooSlowError):
        await peer.dial(url, proxy=proxy)
    assert trio.current_time() == 5
    with pytest.raises(trio.ClosedResourceError):
        await peer.streams[0].receive_some()


async def test_a_server_that_drips_is_left_to_the_callers_timeout(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A byte a second is no progress that would prolong it."""

    async def script(stream: trio.abc.Stream) -> None:
        for byte in b"HTTP/1.1 101 Switching Protocols":
            await trio.sleep(1)
            await stream.send_all(bytes([byte]))

    with pytest.raises(trio.TooSlowError):
        await Peer(nursery, script).dial()
    assert trio.current_time() == 5


# -- refusals ---------------------------------------------------------------


async def test_a_refusal_carries_status_headers_and_the_beginning_of_its_body(
    nursery: trio.Nursery,
) -> None:
    """The phrase is ours, not the server's."""
    answer = b"HTTP/1.1 403 <evil>\r\nX-Why: because\r\nContent-Length: 4\r\n\r\nnope"
    error = await Peer(nursery, answering(answer)).fail(HandshakeError)
    assert (error.status, error.headers["x-why"], error.body) == (403, "because", b"nope")
    assert error.retry_after_s is None
    assert str(error) == "ws://example.org/chat?... answered 403 (Forbidden)"


async def test_a_refusal_with_an_endless_body(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """1 KiB of it is read, and no more waited for; likewise if it hangs."""
    sent = 0

    async def script(stream: trio.abc.Stream) -> None:
        nonlocal sent
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 999999999999\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 1000)
            sent += 1000
            await trio.lowlevel.checkpoint()

    error = await Peer(nursery, script).fail(HandshakeError)
    assert error.body == b"x" * 1024
    assert sent < 100_000
    error = await Peer(nursery, answering(b"HTTP/1.1 403 No\r\n\r\nhm")).fail(HandshakeError)
    assert error.body == b"hm"
    assert trio.current_time() < 0.5


@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 404, 426, 500, 502, 599])
async def test_every_other_status_is_a_refusal(nursery: trio.Nursery, status: int) -> None:
    """With that status."""
    error = await Peer(nursery, answering(b"HTTP/1.1 %d\r\n\r\n" % status, end=True)).fail(
        HandshakeError
    )
    assert error.status == status


@pytest.mark.parametrize("status", [429, 503])
async def test_the_servers_advice_when_to_come_back(nursery: trio.Nursery, status: int) -> None:
    """In seconds, or as a date by the ambient wall clock."""

    class At(Ambient):
        def wall_s(self) -> float:
            return 1_000_000_000.0

    date = email.utils.formatdate(1_000_000_033.0, usegmt=True)
    old = replace_ambient(At())
    try:
        for value, seconds in [("17", 17.0), (date, 33.0), ("soon", None)]:
            answer = f"HTTP/1.1 {status} Busy\r\nRetry-After: {value}\r\n\r\n".encode()
            error = await Peer(nursery, answering(answer, end=True)).fail(HandshakeError)
            assert (error.status, error.retry_after_s) == (status, seconds)
    finally:
        replace_ambient(old)


# -- redirects --------------------------------------------------------------


def redirect(location: str, status: int = 302) -> Script:
    return answering(f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\n\r\n".encode())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_origin_keeps_headers_and_credentials(
    nursery: trio.Nursery, status: int
) -> None:
    """It is followed, and the stream to its sender closed."""
    peer = Peer(nursery, redirect("/new?x=2", status), upgrading())
    await peer.dial("ws://user:pass@example.org/old", headers=[("X-Token", "t")])
    assert peer.heads[1].startswith(b"GET /new?x=2 HTTP/1.1\r\n")
    assert ("X-Token", "t") in headers_of(peer.heads[1])
    assert b"\r\nAuthorization: Basic " in peer.heads[1]
    with pytest.raises(trio.ClosedResourceError):
        await peer.streams[0].receive_some()


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/",
        "ws://example.org:81/",
        "//user:evil@example.com/",
        "ws://a.example.org",
    ],
)
async def test_a_redirect_to_another_origin_drops_headers_and_credentials(
    nursery: trio.Nursery, location: str
) -> None:
    """All of them, also for a way back to the first origin."""
    peer = Peer(nursery, redirect(location), redirect("ws://example.org/back"), upgrading())
    headers = [("Authorization", "canary"), ("Cookie", "canary"), ("X-Token", "canary")]
    await peer.dial("ws://canary:canary@example.org/", headers=headers)
    assert peer.heads[0].count(b"canary") == 3
    for head in peer.heads[1:]:
        assert b"canary" not in head
        assert b"Authorization" not in head
    assert len(peer.heads) == 3


async def test_a_redirect_to_another_origin_offers_no_secret_subprotocols(
    nursery: trio.Nursery,
) -> None:
    """A subprotocol may be a token, so only those meant for others are offered there."""
    peer = Peer(nursery, redirect("ws://example.com/"), upgrading())
    await peer.dial(protocols=["chat", "canary"], protocols_elsewhere=["chat"])
    assert ("Sec-WebSocket-Protocol", "chat, canary") in headers_of(peer.heads[0])
    assert ("Sec-WebSocket-Protocol", "chat") in headers_of(peer.heads[1])


async def test_redirects_are_counted(nursery: trio.Nursery) -> None:
    """Five are followed; a loop ends."""
    scripts = [redirect(f"/{number}") for number in range(REDIRECTS)]
    peer = Peer(nursery, *scripts, upgrading())
    await peer.dial()
    assert len(peer.opened) == REDIRECTS + 1
    peer = Peer(nursery, redirect("/again?canary"))
    error = await peer.fail(HandshakeError)
    assert len(peer.opened) == REDIRECTS + 1
    assert "redirects" in str(error)
    assert "canary" not in str(error)


@pytest.mark.parametrize(
    "location",
    [
        "ftp://example.org/",
        "mailto:x@example.org",
        "ws://example.org:0/",
        "/a b",
        "ws://exa mple.org",
        "ws://[::1",
    ],
)
async def test_a_redirect_to_nowhere(nursery: trio.Nursery, location: str) -> None:
    """Is a refusal with its status."""
    peer = Peer(nursery, redirect(location))
    error = await peer.fail(HandshakeError)
    assert error.status == 302
    assert len(peer.opened) == 1


async def test_a_redirect_without_a_location_is_a_refusal(nursery: trio.Nursery) -> None:
    """With its status."""
    peer = Peer(nursery, answering(b"HTTP/1.1 302 Found\r\n\r\n", end=True))
    assert (await peer.fail(HandshakeError)).status == 302


# -- TCP --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "stage"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "dns"),
        (UnicodeError("label too long"), "dns"),
        (ConnectionRefusedError(111, "refused"), "tcp"),
        (OSError("all attempts failed"), "tcp"),
        (trio.BrokenResourceError("reset"), "tcp"),
        (TypeError("a bug"), "tcp"),
    ],
)
async def test_a_stream_that_cannot_be_opened(
    nursery: trio.Nursery, failure: Exception, stage: str
) -> None:
    """Whatever is raised is mapped and chained."""

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        raise failure

    error = await Peer(nursery, upgrading()).fail(DialError, open_stream=open_stream)
    assert error.stage == stage
    assert error.__cause__ is failure
    error = await Peer(nursery, upgrading()).fail(
        DialError, open_stream=open_stream, proxy="http://proxy"
    )
    assert error.stage == "proxy"


async def test_a_refused_connection(nursery: trio.Nursery, no_leaks: None) -> None:
    """Over real TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    peer = Peer(nursery, upgrading())
    error = await peer.fail(DialError, url=f"ws://127.0.0.1:{port}", open_stream=None)
    assert error.stage == "tcp"


async def test_over_tcp_the_wire_writes_directly(
    nursery: trio.Nursery, no_leaks: None, wire_name: WireName
) -> None:
    """If it can: trio's own streams are made direct, from the default and from `open_stream`."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serving(upgrading()), listeners)
    url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    for open_stream in (None, trio.open_tcp_stream):
        wire = await Peer(nursery, upgrading()).dial(url, open_stream=open_stream)
        assert wire.send_nowait([Sent(b"hello")]) == (wire_name == "websockets")
        wire.abort()
    nursery.cancel_scope.cancel()


def serving(script: Script) -> Script:
    """The script as a handler of trio's own servers."""

    async def handler(stream: trio.abc.Stream) -> None:
        async with stream:
            try:
                await script(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    return handler


@pytest.mark.parametrize("name", ["hang up", "reset", "garbage", "403", "silence"])
async def test_over_tcp_nothing_is_left_open(
    nursery: trio.Nursery, no_leaks: None, name: str, wire_name: WireName
) -> None:
    """After every kind of failure, cancelling included."""
    scripts: dict[str, Script] = {
        "hang up": answering(b"", end=True),
        "reset": resetting,
        "garbage": answering(b"\x00" * 100),
        "403": answering(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"),
        "silence": silence,
    }
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serving(scripts[name]), listeners)
    url = parse_url(f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    options = DialOptions(max_message_bytes=1000, wire=wire_name)
    dial_it = partial(dial, url, options, nursery=nursery)
    if name == "silence":
        async with trio.open_nursery() as dialling:
            dialling.start_soon(dial_it)
            await trio.testing.wait_all_tasks_blocked()
            dialling.cancel_scope.cancel()
    else:
        with trio.fail_after(5), pytest.raises((DialError, HandshakeError)):
            await dial_it()
    nursery.cancel_scope.cancel()


async def resetting(stream: trio.abc.Stream) -> None:
    await read_head(stream)
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


# -- TLS --------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def server_context(authority: trustme.CA, *hosts: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*hosts, **options).configure_cert(context)
    return context


def over_tls(context: ssl.SSLContext, script: Script) -> Script:
    async def wrapped(stream: trio.abc.Stream) -> None:
        secure = TlsStream(stream, context, server_side=True)
        await secure.do_handshake()
        await script(secure)

    return wrapped


async def test_wss(
    nursery: trio.Nursery, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    """TLS with the server's name, on port 443, then the same handshake."""
    names = []
    context = server_context(authority, "example.org")
    context.sni_callback = lambda _, name, __: names.append(name)
    hello = upgrading(more=frame(TEXT, b"hello"))
    peer = Peer(nursery, over_tls(context, hello))
    wire = await peer.dial("wss://example.org./", ssl_context=client_context)
    with trio.fail_after(5):
        assert await wire.receive() == ["hello"]
    assert peer.opened == [("example.org.", 443)]
    assert names == ["example.org"]


async def test_a_certificate_that_will_not_do(
    nursery: trio.Nursery, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    """Another name, an expired one, one of a stranger's: `certificate` is true."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    for context in (
        server_context(authority, "example.com"),
        server_context(authority, "example.org", not_after=past),
        server_context(trustme.CA(), "example.org"),
    ):
        peer = Peer(nursery, over_tls(context, upgrading()))
        error = await peer.fail(DialError, url="wss://example.org", ssl_context=client_context)
        assert (error.stage, error.certificate) == ("tls", True)


async def test_without_a_context_strangers_are_not_trusted(
    nursery: trio.Nursery, authority: trustme.CA
) -> None:
    """The default context verifies."""
    peer = Peer(nursery, over_tls(server_context(authority, "example.org"), upgrading()))
    error = await peer.fail(DialError, url="wss://example.org")
    assert (error.stage, error.certificate) == ("tls", True)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01"])
async def test_a_server_that_speaks_no_tls(
    nursery: trio.Nursery, client_context: ssl.SSLContext, answer: bytes
) -> None:
    """Is a DialError of that stage, and no matter of certificates."""

    async def script(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    peer = Peer(nursery, script)
    error = await peer.fail(DialError, url="wss://example.org", ssl_context=client_context)
    assert (error.stage, error.certificate) == ("tls", False)


async def test_a_redirect_from_wss_to_ws_is_refused(
    nursery: trio.Nursery, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    """From ws to wss it is followed."""
    context = server_context(authority, "example.org")
    peer = Peer(nursery, over_tls(context, redirect("http://example.org/")))
    error = await peer.fail(HandshakeError, url="wss://example.org", ssl_context=client_context)
    assert (error.status, len(peer.opened)) == (302, 1)
    peer = Peer(nursery, redirect("wss://example.org/"), over_tls(context, upgrading()))
    await peer.dial("ws://example.org", ssl_context=client_context)
    assert [port for _, port in peer.opened] == [80, 443]


# -- proxy ------------------------------------------------------------------


def tunnelling(script: Script) -> Script:
    async def wrapped(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
        await script(stream)

    return wrapped


async def test_through_a_proxy(nursery: trio.Nursery) -> None:
    """The proxy is dialled, asked for the server, and not told what is for the server."""
    peer = Peer(nursery, tunnelling(upgrading()))
    await peer.dial(
        "ws://user:canary@example.org/",
        headers=[("X-Token", "canary")],
        proxy="http://me:word@proxy:3128",
    )
    assert peer.opened == [("proxy", 3128)]
    connect, request = peer.heads
    assert connect.startswith(b"CONNECT example.org:80 HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6d29yZA==\r\n" in connect
    assert b"canary" not in connect
    assert b"Proxy-Authorization" not in request


async def test_wss_through_a_proxy(
    nursery: trio.Nursery, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    """TLS is with the server, inside the tunnel."""
    context = server_context(authority, "example.org")
    peer = Peer(nursery, tunnelling(over_tls(context, upgrading())))
    await peer.dial("wss://example.org", ssl_context=client_context, proxy="http://proxy")
    assert peer.opened == [("proxy", 80)]
    assert peer.heads[0].startswith(b"CONNECT example.org:443 HTTP/1.1\r\n")


async def test_a_proxy_that_refuses(nursery: trio.Nursery) -> None:
    """Is a DialError of its stage."""
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    error = await Peer(nursery, answering(answer)).fail(DialError, proxy="http://u:canary@proxy")
    assert error.stage == "proxy"
    assert "canary" not in repr(error)


def test_a_bad_proxy_is_found_with_the_options() -> None:
    """Not at the first dial; nor is a password in their repr."""
    with pytest.raises(OptionError, match="proxy"):
        DialOptions(max_message_bytes=1, proxy="ftp://proxy")
    assert "canary" not in repr(DialOptions(max_message_bytes=1, proxy="http://u:canary@proxy"))


# -- secrets ----------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        answering(b"garbage"),
        answering(b"", end=True),
        answering(b"HTTP/1.1 401 No\r\n\r\n", end=True),
        upgrading(accept="x"),
        redirect("ftp://x:canary@example.org/?canary"),
    ],
)
async def test_no_secret_is_in_any_message(
    nursery: trio.Nursery, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor in those of the causes, nor in a log at DEBUG."""
    caplog.set_level("DEBUG")
    peer = Peer(nursery, script)
    with pytest.raises(LinkError) as caught:
        await peer.dial(
            "ws://canary:canary@example.org/?token=canary", headers=[("X-Token", "canary")]
        )
    error: BaseException | None = caught.value
    while error is not None:
        assert "canary" not in repr(error) + str(error)
        error = error.__cause__ or error.__context__
    assert "canary" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("websockets")]

"""The server's side of the opening handshake."""

from __future__ import annotations

import logging
import math
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trio.testing
import trustme
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from trio_rt._accept import Accepted, AcceptHook, accept, remote_address
from trio_rt._handshake import Handshake
from trio_rt._streams import DirectStream
from trio_rt._tls import TlsStream
from trio_rt.errors import LinkClosed, Refuse
from trio_rt.options import ServerLimits
from trio_rt.protocol.frames import BATCH_MARGIN_BYTES

GOOD = {
    "Host": "good.example",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
#: The answer to that key in RFC 6455, 1.3.
GOOD_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#: Every status that a refusal can have without a hook.
DOCUMENTED = {400, 403, 405, 426, 431, 501, 505}


def request(
    *more: tuple[str, str], start: str = "GET /chat?q=1 HTTP/1.1", **changes: str | None
) -> bytes:
    """A good request; `changes` replace headers (None leaves one out), `more` are added."""
    renamed = {name.replace("_", "-").lower(): value for name, value in changes.items()}
    lines = [start]
    for name, value in GOOD.items():
        changed = renamed.pop(name.lower(), value)
        if changed is not None:
            lines.append(f"{name}: {changed}")
    assert not renamed
    lines += [f"{name}: {value}" for name, value in more]
    return "\r\n".join([*lines, "", ""]).encode("iso-8859-1")


@attrs.frozen
class Answer:
    """What the client read; `status` 0: nothing."""

    status: int
    headers: dict[str, str]
    body: bytes


def parsed(data: bytes) -> Answer:
    if not data:
        return Answer(0, {}, b"")
    head, _, body = data.partition(b"\r\n\r\n")
    start, *lines = head.decode("iso-8859-1").split("\r\n")
    assert start.startswith("HTTP/1.1 ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert len(headers) == len(lines)
    return Answer(int(start.split(" ")[1]), headers, body)


Door: TypeAlias = Callable[[trio.abc.Stream], Awaitable[Accepted | None]]


def door(
    *,
    limits: ServerLimits | None = None,
    protocols: Sequence[str] = (),
    session_protocol: str | None = None,
    hook: AcceptHook | None = None,
    compression: bool = False,
    max_message_bytes: float = 1 << 20,
    fragments: float = 4096,
) -> Door:
    """`accept` with these options."""

    async def answer(stream: trio.abc.Stream) -> Accepted | None:
        return await accept(
            stream,
            limits=limits or ServerLimits(),
            protocols=protocols,
            session_protocol=session_protocol,
            hook=hook,
            compression=compression,
            max_message_bytes=max_message_bytes,
            fragments=fragments,
        )

    return answer


async def read_answer(client: trio.abc.Stream) -> bytes:
    """All of a refusal, or the 101 up to its blank line."""
    data = b""
    while not (data.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in data):
        chunk = await client.receive_some()
        if not chunk:
            break
        data += chunk
    return data


async def knock(
    data: bytes | Sequence[bytes], *, end: bool = False, **options: Any
) -> tuple[Accepted | None, Answer]:
    """What becomes of a client that sends this, each piece when the last is dealt with."""
    client, server = memory_stream_pair()
    accepted: Accepted | None = None
    answer = b""
    turned_away = False

    async def serve() -> None:
        nonlocal accepted
        accepted = await door(**options)(server)

    async def listen() -> None:
        nonlocal answer, turned_away
        answer = await read_answer(client)
        turned_away = not answer.startswith(b"HTTP/1.1 101")
        if turned_away:
            await client.send_eof()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            nursery.start_soon(listen)
            for piece in [data] if isinstance(data, bytes) else data:
                if piece and not turned_away:
                    await client.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
            if end and not turned_away:
                await client.send_eof()
    return accepted, parsed(answer)


async def refused(data: bytes | Sequence[bytes], status: int, **options: Any) -> Answer:
    """The answer to a client that must be refused with this status."""
    accepted, answer = await knock(data, **options)
    assert accepted is None
    assert answer.status == status
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "close" in answer.headers["connection"]
    return answer


async def admitted(data: bytes | Sequence[bytes], **options: Any) -> tuple[Accepted, Answer]:
    """The link of a client that must be let in."""
    accepted, answer = await knock(data, **options)
    assert answer.status == 101
    assert accepted is not None
    return accepted, answer


# -- Letting in


async def test_good_request() -> None:
    """A good request is answered as the RFC's own example is, and gives a link."""
    accepted, answer = await admitted(request())
    assert answer.headers["sec-websocket-accept"] == GOOD_ACCEPT
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["connection"] == "Upgrade"
    assert answer.body == b""
    assert accepted.identity is None
    assert accepted.wire.subprotocol is None


async def test_handshake_seen() -> None:
    """The handshake tells path, query, headers, origin and the offered subprotocols."""
    accepted, _ = await admitted(
        request(
            ("Origin", "http://good.example"),
            ("X-Name", "\xe9"),
            ("Sec-WebSocket-Protocol", "b, a"),
            ("sec-websocket-protocol", "c"),
            start="GET /a%20b?q=1?2 HTTP/1.1",
        )
    )
    seen = accepted.handshake
    assert (seen.path, seen.query) == ("/a%20b", "q=1?2")
    assert seen.headers["X-Name"] == "\xe9"
    assert seen.origin == "http://good.example"
    assert seen.protocols == ("b", "a", "c")
    assert seen.remote is None
    assert not seen.secure


async def test_byte_by_byte() -> None:
    """A request that comes in single bytes is as good as any."""
    data = request()
    accepted, _ = await admitted([data[i : i + 1] for i in range(len(data))])
    assert accepted.handshake.path == "/chat"


@pytest.mark.parametrize(
    ("known", "offered", "chosen"),
    [
        (["a", "b"], "b, a", "a"),
        (["a", "b"], "c, b", "b"),
        (["a"], "b", None),
        (["a"], None, None),
        ([], "a", None),
        (["a"], "A", None),
    ],
)
async def test_subprotocol(known: list[str], offered: str | None, chosen: str | None) -> None:
    """The server's favourite among those offered is chosen; without one there is none."""
    more = [] if offered is None else [("Sec-WebSocket-Protocol", offered)]
    accepted, answer = await admitted(request(*more), protocols=known)
    assert accepted.wire.subprotocol == chosen
    assert answer.headers.get("sec-websocket-protocol") == chosen


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("a, trio-rt.plain, s", "s"),
        ("a, trio-rt.plain", "a"),
        ("trio-rt.plain, a", "a"),
        ("b, trio-rt.plain", "trio-rt.plain"),
        ("b", None),
    ],
)
async def test_session_protocol(offered: str, chosen: str | None) -> None:
    """A session is taken wherever it is offered; its absence only where nothing else is known."""
    more = [("Sec-WebSocket-Protocol", offered)]
    accepted, answer = await admitted(request(*more), protocols=["a"], session_protocol="s")
    assert accepted.wire.subprotocol == chosen
    assert answer.headers.get("sec-websocket-protocol") == chosen


def masked(data: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


async def test_first_frames_in_the_same_read() -> None:
    """Frames that came in the same read as the request are the link's first messages."""
    accepted, _ = await admitted(request() + masked(b"one") + masked(b"two"))
    messages: list[str | bytes] = []
    with trio.fail_after(60):
        while len(messages) < 2:
            messages += await accepted.wire.receive()
    assert messages == ["one", "two"]


async def test_nothing_is_http_behind_the_request() -> None:
    """A second request behind the first is no request: the link fails as a WebSocket does."""
    accepted, _ = await admitted(request() + request())
    with trio.fail_after(60), pytest.raises(LinkClosed) as caught:
        await accepted.wire.receive()
    assert (caught.value.code, caught.value.by_peer) == (1002, False)


async def test_end_behind_the_request() -> None:
    """A client that shuts its side after the request is let in, and its link is cut."""
    accepted, _ = await admitted(request(), end=True)
    with trio.fail_after(60), pytest.raises(LinkClosed) as caught:
        await accepted.wire.receive()
    assert caught.value.code == 1006


@pytest.mark.parametrize("frames", [2, 3])
async def test_limits_reach_the_wire(frames: int) -> None:
    """The link has the limits on a message's bytes and fragments."""
    first = masked(b"a", fin=False)
    more = masked(b"b", Opcode.CONT, fin=False) * (frames - 2) + masked(b"c", Opcode.CONT)
    accepted, _ = await admitted(request() + first + more, fragments=2)
    big, _ = await admitted(request() + masked(b"12345"), max_message_bytes=frames + 2)
    with trio.fail_after(60):
        if frames == 2:
            assert await accepted.wire.receive() == ["ac"]
            accepted = big
        with pytest.raises(LinkClosed) as caught:
            await accepted.wire.receive()
        assert caught.value.code == 1009
        if frames == 3:
            assert await big.wire.receive() == ["12345"]


@pytest.mark.parametrize("over", [0, 1])
async def test_a_batch_of_a_session_may_be_larger(over: int) -> None:
    """What is larger than a message on the wire is a batch: the first message in it is not."""
    data = masked(b"x" * (5 + BATCH_MARGIN_BYTES + over))
    offer = ("Sec-WebSocket-Protocol", "s")
    accepted, _ = await admitted(request(offer) + data, session_protocol="s", max_message_bytes=5)
    with trio.fail_after(60):
        if over:
            with pytest.raises(LinkClosed) as caught:
                await accepted.wire.receive()
            assert caught.value.code == 1009
        else:
            while not (batch := await accepted.wire.receive()):
                pass
            assert [len(data) for data in batch] == [5 + BATCH_MARGIN_BYTES]


# -- With a client that somebody else wrote


@attrs.frozen
class Text:
    data: bytes
    binary: bool = False


async def converse(client: ClientProtocol, **options: Any) -> tuple[Accepted, int]:
    """One echo of a long text with this client, and the bytes that the answer took."""
    near, far = memory_stream_pair()
    text = "hello " * 1000
    taken = 0

    async def pump() -> None:
        for data in client.data_to_send():
            await near.send_all(data)

    async def receive() -> int:
        data = await near.receive_some()
        client.receive_data(data)
        return len(data)

    async def serve() -> Accepted:
        accepted = await door(**options)(far)
        assert accepted is not None
        messages = await accepted.wire.receive()
        assert messages == [text]
        await accepted.wire.send([Text(text.encode())])
        return accepted

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            result: list[Accepted] = []

            async def keep() -> None:
                result.append(await serve())

            nursery.start_soon(keep)
            client.send_request(client.connect())
            await pump()
            await receive()
            assert client.handshake_exc is None
            client.send_text(text.encode())
            await pump()
            echoed = b""
            while len(echoed) < len(text):
                taken += await receive()
                for event in client.events_received():
                    if isinstance(event, Frame):
                        echoed += bytes(event.data)
    assert echoed == text.encode()
    return result[0], taken


async def test_websockets_client() -> None:
    """The `websockets` package's client is let in and echoed."""
    client = ClientProtocol(parse_uri("ws://good.example/chat?q=1"))
    accepted, taken = await converse(client)
    assert accepted.handshake.query == "q=1"
    assert taken > 6000
    assert client.extensions == []


async def test_compression() -> None:
    """With compression on, and only then, a client that offers it gets bounded windows."""
    offer = [ClientPerMessageDeflateFactory(client_max_window_bits=True)]
    client = ClientProtocol(parse_uri("ws://good.example/"), extensions=offer)
    _, taken = await converse(client, compression=True)
    assert taken < 1000
    (extension,) = client.extensions
    assert "remote_max_window_bits=12" in repr(extension)
    assert "local_max_window_bits=12" in repr(extension)
    client = ClientProtocol(parse_uri("ws://good.example/"), extensions=offer)
    await converse(client, compression=False)
    assert client.extensions == []


@pytest.mark.parametrize(
    ("offer", "agreed"),
    [
        ("permessage-deflate", "permessage-deflate; server_max_window_bits=12"),
        (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=8",
        ),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits=16", None),
        ("permessage-deflate; client_max_window_bits=1000000000000", None),
        ("permessage-deflate; client_max_window_bits=-9", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        ("permessage-deflate; unknown", None),
        ("x-webkit-deflate-frame", None),
        (
            "permessage-deflate; server_max_window_bits=16, permessage-deflate",
            "permessage-deflate; server_max_window_bits=12",
        ),
    ],
)
async def test_compression_offers(offer: str, agreed: str | None) -> None:
    """An offer with bits outside 8 to 15, or anything odd, is declined and not a fault."""
    _, answer = await admitted(request(("Sec-WebSocket-Extensions", offer)), compression=True)
    assert answer.headers.get("sec-websocket-extensions") == agreed


# -- The accept hook


async def test_identity() -> None:
    """What the hook returns is the identity, and it saw the very handshake."""
    seen: list[Handshake] = []

    async def hook(handshake: Handshake) -> object:
        await trio.lowlevel.checkpoint()
        seen.append(handshake)
        return {"user": 7}

    accepted, _ = await admitted(request(), hook=hook)
    assert accepted.identity == {"user": 7}
    assert seen == [accepted.handshake]


async def test_no_answer_before_the_hook() -> None:
    """The client hears nothing until the hook has decided."""
    client, server = memory_stream_pair()
    decided = trio.Event()
    heard: list[bytes] = []

    async def hook(handshake: Handshake) -> None:
        await decided.wait()

    async def listen() -> None:
        heard.append(await read_answer(client))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door(hook=hook), server)
            nursery.start_soon(listen)
            await client.send_all(request())
            await trio.testing.wait_all_tasks_blocked()
            assert heard == []
            decided.set()
    assert parsed(heard[0]).status == 101


async def test_hook_refuses() -> None:
    """`Refuse` in the hook is the answer: its status, text and headers."""

    async def hook(handshake: Handshake) -> None:
        await trio.lowlevel.checkpoint()
        raise Refuse(429, "later", headers={"Retry-After": "5"})

    answer = await refused(request(), 429, hook=hook)
    assert answer.body == b"later"
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    "error", [ValueError("x"), trio.BrokenResourceError("x"), ExceptionGroup("", [OSError()])]
)
async def test_hook_fails(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Any other exception in the hook is logged with its traceback and answered 500."""

    async def hook(handshake: Handshake) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    answer = await refused(request(), 500, hook=hook)
    assert b"x" not in answer.body
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "trio_rt.server"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_hook_is_not_asked_about_nonsense() -> None:
    """Only a good WebSocket handshake gets as far as the hook."""

    async def hook(handshake: Handshake) -> None:
        await trio.lowlevel.checkpoint()
        raise AssertionError("asked")

    await refused(request(upgrade=None), 426, hook=hook)
    await refused(request(host="\xff"), 400, hook=hook)
    await refused(request(("X", "1")), 431, hook=hook, limits=ServerLimits(headers=5))


@pytest.mark.parametrize(
    "origin", ["null", "http://good.evil.example", "http://good.example:81", "http://other"]
)
async def test_cross_site_page(origin: str) -> None:
    """Without a hook a page of another origin gets 403; a hook decides alone."""
    data = request(("Origin", origin))
    await refused(data, 403)
    seen: list[bool] = []

    async def hook(handshake: Handshake) -> str:
        await trio.lowlevel.checkpoint()
        seen.append(handshake.same_origin)
        return "let in"

    accepted, _ = await admitted(data, hook=hook)
    assert accepted.identity == "let in"
    assert seen == [False]


@pytest.mark.parametrize("origin", [None, "http://good.example", "HTTPS://GOOD.example:443"])
async def test_own_page(origin: str | None) -> None:
    """Without a hook a page of the same origin is let in, and so is what is no page."""
    more = [] if origin is None else [("Origin", origin)]
    accepted, _ = await admitted(request(*more))
    assert accepted.handshake.same_origin


# -- Turning away

HOSTILE = {
    "connection not ascii": (request(connection="Upgrade, \xff"), 400),
    "subprotocol not ascii": (request(("Sec-WebSocket-Protocol", "\xff")), 400),
    "extension not ascii": (request(("Sec-WebSocket-Extensions", "\xff")), 400),
    "upgrade not ascii": (request(upgrade="\xff"), 400),
    "version not ascii": (request(sec_websocket_version="\xff"), 426),
    "key not ascii": (request(sec_websocket_key="\xff" * 24), 400),
    "host not ascii": (request(host="\xff"), 400),
    "host broken punycode": (request(host="xn--\xff"), 400),
    "target not ascii": (request(start="GET /\xff HTTP/1.1"), 400),
    "header name not ascii": (request(("\xff", "1")), 400),
    "no host": (request(host=None), 400),
    "no key": (request(sec_websocket_key=None), 400),
    "bad key": (request(sec_websocket_key="abc"), 400),
    "short key": (request(sec_websocket_key="YWJj"), 400),
    "no version": (request(sec_websocket_version=None), 426),
    "old version": (request(sec_websocket_version="8"), 426),
    "no upgrade": (request(upgrade=None), 426),
    "no connection": (request(connection=None), 426),
    "connection keep-alive": (request(connection="keep-alive"), 426),
    "upgrade to h2c": (request(upgrade="h2c"), 426),
    "two hosts": (request(("Host", "good.example")), 400),
    "two keys": (request(("Sec-WebSocket-Key", GOOD["Sec-WebSocket-Key"])), 400),
    "two versions": (request(("Sec-WebSocket-Version", "13")), 426),
    "two upgrades": (request(("Upgrade", "websocket")), 426),
    "two origins": (request(("Origin", "http://a"), ("Origin", "http://b")), 400),
    "post": (request(start="POST / HTTP/1.1") + b"a=b", 405),
    "head": (request(start="HEAD / HTTP/1.1"), 405),
    "plain get": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 426),
    "garbage": (b"\xde\xad\xbe\xef" * 100 + b"\r\n\r\n", 400),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "http/1.0": (request(start="GET / HTTP/1.0"), 505),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04", 405),
    "body": (request(("Content-Length", "3")) + b"abc", 400),
    "chunked body": (request(("Transfer-Encoding", "chunked")) + b"0\r\n\r\n", 400),
    "endless request line": (b"GET /" + b"a" * 20000, 431),
    "header bomb": (request(("X", "a" * 20000)), 431),
    "too many headers": (request(*[("X", "1")] * 100), 431),
    "spaces before nul": (request(("X", " " * 16000 + "\0")), 400),
    "folded header": (request(("X", "1\r\n \x0b")), 400),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_request(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each hostile request gets its one documented answer, and nothing is raised or an error."""
    data, status = HOSTILE[name]
    caplog.set_level(logging.DEBUG)
    await refused(data, status, compression=True)
    assert status in DOCUMENTED
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "1.2.3.4:80"])
async def test_odd_host(host: str) -> None:
    """A Host that is merely odd is let in."""
    accepted, _ = await admitted(request(host=host))
    assert accepted.handshake.headers["host"] == host


async def test_answers_say_what_would_do() -> None:
    """405, and both kinds of 426, name what the server would take."""
    assert (await refused(request(start="PUT / HTTP/1.1"), 405)).headers["allow"] == "GET"
    answer = await refused(request(upgrade=None), 426)
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["connection"] == "close, upgrade"
    answer = await refused(request(sec_websocket_version="12"), 426)
    assert answer.headers["sec-websocket-version"] == "13"


async def test_no_body_for_head() -> None:
    """The answer to HEAD has no body."""
    answer = await refused(request(start="HEAD / HTTP/1.1"), 405)
    assert answer.body == b""


async def test_extensions_unread_without_compression() -> None:
    """Without compression the extension header is not looked at."""
    accepted, _ = await admitted(request(("Sec-WebSocket-Extensions", "\xff")))
    assert accepted.handshake.headers["sec-websocket-extensions"] == "\xff"


async def test_header_limits() -> None:
    """`header_bytes` and `headers` are the limits of the head."""
    data = request(start=f"GET /{'a' * 256} HTTP/1.1")
    await admitted(data, limits=ServerLimits(header_bytes=len(data), headers=5))
    await refused(data, 431, limits=ServerLimits(header_bytes=len(data) - 1))
    await refused(data, 431, limits=ServerLimits(headers=4))


async def test_nothing_at_all() -> None:
    """A client that only opens and closes gets no answer, just an end."""
    accepted, answer = await knock(b"", end=True)
    assert accepted is None
    assert answer.status == 0


async def test_half_a_request() -> None:
    """A client that shuts its side in the middle of the request gets 400."""
    await refused(request()[:-1], 400, end=True)


@pytest.mark.parametrize("data", [b"", b"GET /", request()[:-1]])
async def test_silent_client(data: bytes, autojump_clock: MockClock) -> None:
    """A client that does not finish its request is closed after `handshake_s`."""
    began = trio.current_time()
    accepted, answer = await knock(data, limits=ServerLimits(handshake_s=7))
    assert accepted is None
    assert answer.status == 0
    assert trio.current_time() - began == pytest.approx(7)


async def test_slow_client(autojump_clock: MockClock) -> None:
    """Bytes that trickle in do not move the deadline."""
    client, server = memory_stream_pair()
    took: list[float] = []

    async def serve() -> None:
        began = trio.current_time()
        assert await door(limits=ServerLimits(handshake_s=7))(server) is None
        took.append(trio.current_time() - began)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for byte in request()[:20]:
                if not took:
                    await client.send_all(bytes([byte]))
                    await trio.sleep(2)
    assert took == [pytest.approx(7)]


async def test_slow_hook(autojump_clock: MockClock) -> None:
    """The hook's time counts."""

    async def hook(handshake: Handshake) -> None:
        await trio.sleep_forever()

    began = trio.current_time()
    accepted, answer = await knock(request(), hook=hook, limits=ServerLimits(handshake_s=7))
    assert accepted is None
    assert answer.status == 0
    assert trio.current_time() - began == pytest.approx(7)


async def test_client_that_does_not_read(autojump_clock: MockClock) -> None:
    """A client that takes no answer, good or bad, is closed after `handshake_s`."""
    for data in (request(), request(host=None)):
        client, server = trio.testing.lockstep_stream_pair()
        results: list[Accepted | None] = []
        began = trio.current_time()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def serve(server: trio.abc.Stream = server) -> None:
                    limits = ServerLimits(handshake_s=7)
                    results.append(await door(limits=limits)(server))  # noqa: B023

                nursery.start_soon(serve)
                await client.send_all(data)
        assert results == [None]
        assert trio.current_time() - began == pytest.approx(7)


async def test_client_that_is_gone() -> None:
    """A client that is gone before the answer is no exception, and logged at debug."""
    for data in (request(), request(host=None)):
        client, server = memory_stream_pair()

        async def hook(handshake: Handshake, client: trio.abc.Stream = client) -> None:
            await client.aclose()

        await client.send_all(data)
        if b"Host" not in data:
            await client.aclose()
        with trio.fail_after(60):
            assert await door(hook=hook)(server) is None
        with pytest.raises(trio.ClosedResourceError):
            await server.send_all(b"x")


@pytest.mark.parametrize("data", [b"GET /", request(), request(host=None)])
async def test_cancelled(data: bytes) -> None:
    """Cancelled in the head, the hook or the answer: `Cancelled` leaves and the stream is closed."""
    client, server = memory_stream_pair()

    async def hook(handshake: Handshake) -> None:
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door(hook=hook), server)
            await client.send_all(data)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.ClosedResourceError):
            await server.receive_some()


async def test_stream_closed_by_the_server() -> None:
    """A stream that somebody else here closes meanwhile raises nothing."""
    client, server = memory_stream_pair()
    results: list[Accepted | None] = []

    async def serve() -> None:
        results.append(await door()(server))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await client.send_all(b"GET /")
            await trio.testing.wait_all_tasks_blocked()
            await server.aclose()
    assert results == [None]


async def test_no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """No log record has the query or a header's value, whatever becomes of the handshake."""
    caplog.set_level(logging.DEBUG)

    async def refuse(handshake: Handshake) -> None:
        await trio.lowlevel.checkpoint()
        raise Refuse(401, "no such token: canary", headers={"X": "canary\n"})

    start = "GET /?token=canary HTTP/1.1"
    secret = ("Authorization", "canary")
    hostile: list[bytes] = [
        request(secret, start=start),
        request(secret, ("Origin", "http://canary"), start=start),
        request(secret, start="GET /canary canary HTTP/1.1"),
        request(secret, ("canary canary", "")),
        request(secret, upgrade="canary"),
        request(secret, connection="canary \xff"),
        request(secret, sec_websocket_key="canary"),
        request(secret, sec_websocket_version="canary"),
        request(secret, host="canary\xff"),
        request(secret, ("Sec-WebSocket-Protocol", "canary\xff")),
        request(secret, ("Sec-WebSocket-Extensions", "canary\xff")),
        request(secret, ("X", "canary\0")),
        request(secret, ("Content-Length", "canary")),
        request(secret, start=start) + masked(b"canary"),
    ]
    for data in hostile:
        await knock(data, compression=True)
        await knock(data, hook=refuse)
    assert len(caplog.records) > len(hostile)
    assert "canary" not in caplog.text


# -- Any bytes

HEADER = st.tuples(
    st.sampled_from([*GOOD, "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin", "X"]),
    st.text(st.characters(max_codepoint=255), max_size=20)
    | st.sampled_from(["permessage-deflate; client_max_window_bits=", '"', "\\", ",", ";a=", "0"]),
).map(lambda pair: f"{pair[0]}: {pair[1]}\r\n".encode("iso-8859-1"))


@st.composite
def spoilt_requests(draw: st.DrawFn) -> bytes:
    """A good request with bytes cut out and others put in."""
    data = request()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 30)))
        junk = draw(st.binary(max_size=10) | HEADER)
        data = data[:start] + junk + data[end:]
    return data


@st.composite
def header_soups(draw: st.DrawFn) -> bytes:
    """A good start and end with any headers between, good ones among them."""
    good = [f"{name}: {value}\r\n".encode() for name, value in GOOD.items()]
    lines = draw(st.permutations(good + draw(st.lists(HEADER, max_size=4))))
    return b"GET / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n"


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=300) | spoilt_requests() | header_soups(),
    cut=st.integers(0, 300),
    end=st.booleans(),
    compression=st.booleans(),
)
@example(data=request(), cut=50, end=False, compression=True)
def test_any_bytes(data: bytes, cut: int, end: bool, compression: bool) -> None:
    """Any bytes end in a link, a documented answer or a closed stream: no exception, no hang."""

    async def main() -> None:
        accepted, answer = await knock(
            [data[:cut], data[cut:]], end=end, compression=compression, protocols=["a", "0"]
        )
        if accepted is None:
            assert answer.status in DOCUMENTED | {0}
        else:
            assert answer.status == 101

    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- Real sockets


@asynccontextmanager
async def on_sockets(**options: Any) -> AsyncIterator[tuple[socket.socket, list[Accepted | None]]]:
    """A blocking client socket, and where the server's result will be."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    client.settimeout(10)
    connection, _ = listener.accept()
    listener.close()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    results: list[Accepted | None] = []

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        results.append(await door(**options)(stream))

    with client, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield client, results
        await trio.aclose_forcefully(stream)


def drain(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


class TestSockets:
    """On real sockets."""

    async def test_remote(self) -> None:
        """`remote` is the peer's address."""
        async with on_sockets() as (client, results):
            client.sendall(request())
            assert (await trio.to_thread.run_sync(client.recv, 12)) == b"HTTP/1.1 101"
        assert results[0] is not None
        assert results[0].handshake.remote == "127.0.0.1"

    async def test_answer_survives_a_client_that_is_still_sending(self) -> None:
        """The answer to a large POST arrives: no reset overtakes it."""
        data = request(start="POST / HTTP/1.1") + bytes(500_000)
        async with on_sockets() as (client, results):
            await trio.to_thread.run_sync(client.sendall, data)
            client.shutdown(socket.SHUT_WR)
            answer = parsed(await trio.to_thread.run_sync(drain, client))
        assert answer.status == 405
        assert answer.body == b"the method must be GET"
        assert results == [None]

    @pytest.mark.parametrize("data", [b"", b"GET /", request(host=None), request()])
    async def test_reset(self, data: bytes) -> None:
        """A client that resets the connection at any point raises nothing."""
        async with on_sockets() as (client, results):
            client.sendall(data)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert len(results) == 1

    async def test_half_close(self) -> None:
        """A client that shuts its side right after the request is answered 101."""
        async with on_sockets() as (client, results):
            client.sendall(request())
            client.shutdown(socket.SHUT_WR)
            assert (await trio.to_thread.run_sync(client.recv, 12)) == b"HTTP/1.1 101"
        assert results[0] is not None


# -- TLS


@asynccontextmanager
async def over_tls(
    kind: str,
    **options: Any,
) -> AsyncIterator[tuple[trio.SSLStream[Any], list[Accepted | None]]]:
    """A TLS client in memory, and where the server's result will be."""
    authority = trustme.CA()
    inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("good.example").configure_cert(inside)
    outside = ssl.create_default_context()
    authority.configure_trust(outside)
    near, far = memory_stream_pair()
    results: list[Accepted | None] = []

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        stream: trio.abc.Stream
        if kind == "trio's":
            stream = trio.SSLStream(far, inside, server_side=True)
        else:
            stream = TlsStream(far, inside, server_side=True)
        results.append(await door(**options)(stream))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield (
                trio.SSLStream(
                    near, outside, server_hostname="good.example", https_compatible=True
                ),
                results,
            )


async def test_remote_address() -> None:
    """The address is found below TLS; what has none, or is closed, gives None."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    near, far = socket.socketpair()
    with near, far:
        assert remote_address(DirectStream(near)) is None
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        stream = DirectStream(connection)
        assert remote_address(stream) == "127.0.0.1"
        assert remote_address(TlsStream(stream, context, server_side=True)) == "127.0.0.1"
        await stream.aclose()
        assert remote_address(stream) is None
    assert remote_address(memory_stream_pair()[0]) is None


@pytest.mark.parametrize("kind", ["ours", "trio's"])
@pytest.mark.parametrize(("scheme", "status"), [("https", 101), ("http", 403)])
async def test_origin_over_tls(
    kind: str, scheme: str, status: int, autojump_clock: MockClock
) -> None:
    """Over TLS the page has to be https."""
    async with over_tls(kind) as (client, results):
        await client.send_all(request(("Origin", f"{scheme}://good.example")))
        assert parsed(await read_answer(client)).status == status
        await trio.aclose_forcefully(client)
    assert [accepted is None for accepted in results] == [status == 403]
    if results[0]:
        assert results[0].handshake.secure


@pytest.mark.parametrize("kind", ["ours", "trio's"])
@pytest.mark.parametrize("end", [True, False])
async def test_plain_http_on_a_tls_port(kind: str, end: bool) -> None:
    """Plain HTTP, cut or not, on a TLS port is closed without an exception."""
    async with over_tls(kind) as (client, results):
        await client.transport_stream.send_all(request())
        if end:
            await client.transport_stream.aclose()
    assert results == [None]


def test_no_limit() -> None:
    """`math.inf` is no limit, for messages and for time."""

    async def main() -> None:
        await admitted(
            request(),
            limits=ServerLimits(handshake_s=math.inf, headers=math.inf),
            fragments=math.inf,
            max_message_bytes=math.inf,
        )

    trio.run(main, clock=MockClock(autojump_threshold=0))

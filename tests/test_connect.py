"""`connect()`: every option is checked before anything is dialled, and every option counts."""

from __future__ import annotations

import math
import ssl
from typing import Any

import pytest
import trio
import trustme
from websockets.http11 import Request

import trio_rt
from tests.helpers import FarEnd, World, echo, open_world, outlast, sink
from tests.testing.support import virtual
from trio_rt import (
    Credentials,
    InboxLimits,
    LinkClosed,
    Liveness,
    Message,
    OptionError,
    OutboxLimits,
    Reconnect,
)


class OwnCodec(trio_rt.JsonCodec):
    """A program's own: nobody knows how it looks in a session."""

    def __repr__(self) -> str:
        return "OwnCodec()"


# Options that cannot be


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("open_timeout_s", 0),
        ("open_timeout_s", -1),
        ("open_timeout_s", math.nan),
        ("open_timeout_s", "10"),
        ("close_timeout_s", -0.1),
        ("close_timeout_s", None),
        ("session", "on"),
        ("session", None),
        ("store", "outbox.db"),
        ("fallback", "sse"),
        ("wire", "wsproto"),
        ("codec", "xml"),
        ("codec", trio_rt.JsonCodec),
        ("protocols", "chat"),
        ("protocols", ["a b"]),
        ("protocols", ["a", "a"]),
        ("protocols", [1]),
        ("headers", {"a b": "c"}),
        ("headers", {"Upgrade": "websocket"}),
        ("headers", ["a"]),
        ("reconnect", None),
        ("liveness", 15),
        ("outbox", {"messages": 1}),
        ("inbox", OutboxLimits()),
        ("ssl_context", True),
        ("compression", "deflate"),
        ("open_stream", "tcp"),
        ("credentials", 7),
        ("greet", "hello"),
        ("proxy", "socks5://proxy:1080"),
    ],
)
@virtual
async def test_bad_options(field: str, value: object) -> None:
    """A bad option raises an `OptionError` that names field, rule and value, at the call."""
    async with open_world() as world:
        world.script(sink)
        with pytest.raises(OptionError) as caught:
            world.connect(**{field: value})
        assert caught.value.field == field
        assert caught.value.rule.startswith(("must ", "is "))
        assert str(caught.value).startswith(f"{field} ")
        await trio.sleep(1)
        assert world.network.statistics().dials == 0


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"headers": {"X-Canary": "s3cr3t\n"}}, "Credentials.headers"),
        ({"token": "s3cr3t\n"}, "Credentials.token"),
        ({"url": "s3cr3t://"}, "Credentials.url"),
    ],
)
def test_fixed_credentials_are_checked_at_the_call(wrong: dict[str, Any], field: str) -> None:
    """What cannot be shown is an `OptionError` that shows none of it."""
    with pytest.raises(OptionError) as caught:
        trio_rt.connect("ws://server", credentials=Credentials(**wrong))
    assert caught.value.field.startswith(field)
    assert "s3cr3t" not in repr(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://server/",
        "ws://",
        "ws://server/#part",
        "ws://server:0/",
        "server",
        [],
        None,
        ["ws://server/", "ftp://server/"],
    ],
)
@virtual
async def test_bad_urls(url: Any) -> None:
    """A URL that cannot be is an `OptionError` for `url`; one bad of several is enough."""
    async with open_world() as world:
        with pytest.raises(OptionError) as caught:
            world.connect(url)
        assert caught.value.field == "url"


@virtual
async def test_a_bad_header_value_is_not_shown() -> None:
    """A header that would break the line is refused, and its value not shown."""
    async with open_world() as world:
        with pytest.raises(OptionError, match=r"headers\['X'\]") as caught:
            world.connect(headers={"X": "canary\r\nY: z"})
        assert "canary" not in str(caught.value)


@virtual
async def test_raw_refuses_heartbeat_envelopes() -> None:
    """`codec="raw"` has no envelopes, so no heartbeat envelopes either."""
    async with open_world() as world:
        with pytest.raises(OptionError, match=r"liveness\.beat"):
            world.connect(codec="raw", liveness=Liveness(beat="both"))


@virtual
async def test_what_a_wire_cannot_do_is_refused() -> None:
    """By name, before anything is dialled: trio-websocket cannot compress."""
    async with open_world() as world:
        with pytest.raises(OptionError, match="compression must be False") as caught:
            world.connect(wire="trio-websocket", compression=True)
        assert caught.value.field == "compression"
        assert world.network.statistics().dials == 0


# What reaches the handshake


async def handshake(world: World, **options: Any) -> Request:
    """The request that the server gets."""
    ends = world.script(sink)
    async with world.connect("ws://server/path?query=1", **options) as conn:
        await conn.wait_connected()
    return ends[0].request


@virtual
async def test_headers() -> None:
    """`headers` are added to the handshake."""
    async with open_world() as world:
        request = await handshake(world, headers={"X-One": "1", "X-Two": "2"})
        assert (request.headers["X-One"], request.headers["X-Two"]) == ("1", "2")
        assert request.path == "/path?query=1"
        assert "Sec-WebSocket-Extensions" not in request.headers


@pytest.mark.parametrize(
    ("options", "offered"),
    [
        ({}, "trio-rt.plain, trio-rt.v1+json"),
        ({"session": "offer", "codec": "msgpack"}, "trio-rt.plain, trio-rt.v1+msgpack"),
        ({"session": "off"}, None),
        ({"codec": "raw"}, None),
        ({"codec": OwnCodec()}, None),
        ({"protocols": ["b", "a"]}, "b, a, trio-rt.plain, trio-rt.v1+json"),
        ({"protocols": ["b", "a"], "session": "off"}, "b, a"),
        ({"protocols": ["trio-rt.plain", "a"]}, "trio-rt.plain, a, trio-rt.v1+json"),
    ],
    ids=repr,
)
@virtual
async def test_protocols(options: dict[str, Any], offered: str | None) -> None:
    """`protocols` are offered, in their order, and then a session, by its absence first."""
    async with open_world() as world:
        request = await handshake(world, **options)
        assert request.headers.get("Sec-WebSocket-Protocol") == offered


@pytest.mark.parametrize("codec", ["raw", OwnCodec()], ids=["raw", "own"])
@virtual
async def test_a_session_cannot_be_required(codec: Any) -> None:
    """There is none with bare messages, or with a codec of the program's own."""
    async with open_world() as world:
        with pytest.raises(OptionError) as caught:
            world.connect(codec=codec, session="require")
        assert caught.value.field == "session"


@virtual
async def test_compression() -> None:
    """`compression` offers permessage-deflate, and a repetitive message gets small."""
    async with open_world() as world:
        await world.serve(echo, compression=True)
        sent = []
        for compression in (False, True):
            before = world.network.statistics().bytes_to_servers
            async with world.connect(compression=compression) as conn:
                with conn.subscribe() as stream:
                    await conn.send("n", "x" * 50_000)
                    item = await stream.receive()
                    assert isinstance(item, Message)
                    assert item.payload == "x" * 50_000
            sent.append(world.network.statistics().bytes_to_servers - before)
        assert sent[0] > 50_000
        assert sent[1] < 2_000


@virtual
async def test_proxy() -> None:
    """`proxy` is dialled in place of the server, and asked for a tunnel to it."""
    async with open_world() as world:
        asked: list[bytes] = []

        async def script(far: FarEnd) -> None:
            asked.append(await far.stream.receive_some())
            await far.send_raw(b"HTTP/1.1 200 OK\r\n\r\n")
            await sink(far)

        world.script(script, "proxy", 3128)
        async with world.connect(proxy="http://user:word@proxy:3128") as conn:
            await conn.wait_connected()
        assert asked[0].startswith(b"CONNECT server:80 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n" in asked[0]


@virtual
async def test_ssl_context() -> None:
    """`ssl_context` is what the server's certificate is judged by."""
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("server").configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with open_world() as world:
        listener = world.network.listen("server", 443)

        async def serve() -> None:
            await trio_rt.serve_listeners(echo, [listener], ssl_context=server_context)

        world.nursery.start_soon(serve)
        async with world.connect("wss://server/", ssl_context=context) as conn:
            await conn.wait_connected()
        with pytest.raises(trio_rt.ServerRefused) as caught:
            async with world.connect("wss://server/"):
                await trio.sleep_forever()
        assert isinstance(caught.value.__cause__, trio_rt.DialError)
        assert caught.value.__cause__.certificate


# What reaches the connection


@virtual
async def test_open_timeout() -> None:
    """`open_timeout_s` bounds each attempt."""
    async with open_world() as world:
        world.network.black_hole("server")
        async with world.connect(open_timeout_s=1, reconnect=Reconnect(first_s=0, cap_s=0.01)):
            await trio.sleep(10.5)
        assert 10 <= world.network.statistics().dials <= 11


@virtual
async def test_close_timeout() -> None:
    """`close_timeout_s` bounds the end."""
    async with open_world() as world:
        world.network.refuse("server")
        for timeout_s in (0, 2):
            began = trio.current_time()
            async with world.connect(close_timeout_s=timeout_s) as conn:
                conn.send_nowait("n")
            assert trio.current_time() - began == pytest.approx(timeout_s)


@virtual
async def test_outbox() -> None:
    """`outbox` bounds what waits to be sent."""
    async with open_world() as world:
        world.network.refuse("server")
        limits = OutboxLimits(messages=2, message_bytes=1000)
        async with world.connect(outbox=limits, close_timeout_s=0) as conn:
            conn.send_nowait("n")
            conn.send_nowait("n")
            with pytest.raises(trio.WouldBlock):
                conn.send_nowait("n")
            with pytest.raises(trio_rt.PayloadError):
                conn.send_nowait("n", "x" * 1000)


@virtual
async def test_inbox() -> None:
    """`inbox` bounds the size of a message that is accepted."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept("x" * 101)
            await far.read_all()

        world.script(script)
        with pytest.raises(trio_rt.ProtocolBroken) as caught:
            async with world.connect(inbox=InboxLimits(message_bytes=100)):
                await trio.sleep_forever()
        assert isinstance(caught.value.__cause__, LinkClosed)
        assert caught.value.__cause__.code == 1009


@pytest.mark.parametrize("codec", ["json", "msgpack", trio_rt.JsonCodec()])
@virtual
async def test_codec(codec: Any) -> None:
    """`codec` is a name or a codec of the program's own; both ends must agree."""
    async with open_world() as world:
        await world.serve(echo, codec=codec)
        async with world.connect(codec=codec) as conn:
            with conn.subscribe("n") as stream:
                await conn.send("n", {"a": [1, None, "ü"]})
                item = await stream.receive()
                assert isinstance(item, Message)
                assert item.payload == {"a": [1, None, "ü"]}


@virtual
async def test_session_off() -> None:
    """`session="off"` is taken, as is "offer"."""
    async with open_world() as world:
        await world.serve(echo)
        for session in ("off", "offer"):
            async with world.connect(session=session) as conn:
                await conn.wait_connected()


@virtual
async def test_open_stream() -> None:
    """`open_stream(host, port)` gets host and port of the URL."""
    async with open_world() as world:
        ends = world.script(sink, "elsewhere", 99)
        asked: list[tuple[str, int]] = []

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            asked.append((host, port))
            return await world.network.open_stream("elsewhere", 99)

        async with world.connect("ws://server:81/", open_stream=open_stream) as conn:
            await conn.wait_connected()
        assert asked == [("server", 81)]
        assert len(ends) == 1


async def test_real_sockets() -> None:
    """Without `open_stream` it is TCP; nothing is left open at the end."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_rt.serve, echo, "127.0.0.1", 0)
            async with trio_rt.connect(server.url) as conn:
                with conn.subscribe() as stream:
                    await conn.send("n", 1)
                    item = await stream.receive()
                    assert isinstance(item, Message)
                    assert item.payload == 1
            await outlast(lambda: server.connections, 0.01)
            nursery.cancel_scope.cancel()

"""`serve()`: who gets in, what they share, and how it ends. In a virtual network."""

from __future__ import annotations

import logging
import socket
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from websockets.frames import Frame, Opcode

import trio_rt
from tests.helpers import echo, own_tasks
from tests.strangers import Stranger, complaints, open_site, records
from tests.testing.support import virtual
from trio_rt import (
    Handshake,
    InboxLimits,
    Liveness,
    Message,
    OptionError,
    OutboxLimits,
    Peer,
    RawPeer,
    Refuse,
    Server,
    ServerLimits,
    serve,
    serve_listeners,
)
from trio_rt.message import WRITTEN
from trio_rt.testing import VirtualNetwork

MUCH = "x" * 20_000


async def raw_echo(peer: RawPeer) -> None:
    with peer.subscribe() as stream:
        async for item in stream:
            assert isinstance(item, Message)
            await peer.send(item.payload)


async def flood(peer: RawPeer) -> None:
    """Send for ever."""
    while True:
        await peer.send(MUCH)


# The handler and its peer


@virtual
async def test_the_handler_runs_once_for_each_client() -> None:
    """It runs once per link, with a peer of its own that has a connection's verbs."""
    peers: list[Peer] = []

    async def handler(peer: Peer) -> None:
        peers.append(peer)
        await echo(peer)

    async with open_site(handler) as site:
        for number in range(3):
            async with site.connect() as conn:
                with conn.subscribe() as stream:
                    await conn.send("number", number)
                    item = await stream.receive()
                    assert isinstance(item, Message)
                    assert (item.type, item.payload) == ("number", number)
        assert len(peers) == len(set(peers)) == 3
        assert all(type(peer) is Peer for peer in peers)
        verbs = {name for name in dir(trio_rt.Connection) if not name.startswith("_")}
        of_links_to_come = {"retry_now", "state", "wait_connected", "watch_states"}
        assert verbs - set(dir(Peer)) == of_links_to_come


@virtual
async def test_the_accept_hook_gives_the_identity() -> None:
    """What the hook returns is `peer.identity`; the handshake is at hand as well."""
    seen: list[tuple[object, Handshake]] = []

    async def accept(handshake: Handshake) -> object:
        await trio.sleep(0.1)
        return ("user", handshake.headers["X-User"])

    async def handler(peer: RawPeer) -> None:
        seen.append((peer.identity, peer.handshake))

    async with open_site(handler, codec="raw", accept=accept) as site:
        for name in ("ann", "bob"):
            await (await site.enter("/room?q=1", headers={"X-User": name})).read_all()
    assert [identity for identity, _ in seen] == [("user", "ann"), ("user", "bob")]
    assert [(shake.path, shake.query) for _, shake in seen] == [("/room", "q=1")] * 2


@virtual
async def test_without_a_hook_there_is_no_identity() -> None:
    """Then `identity` is None, and a page of another origin gets 403."""
    seen: list[object] = []

    async def handler(peer: RawPeer) -> None:
        seen.append(peer.identity)

    async with open_site(handler, codec="raw") as site:
        await site.enter()
        await site.enter(origin="http://server")
        assert await (await site.dial()).shake(origin="http://evil.example") == 403
    assert seen == [None, None]


@virtual
async def test_the_accept_hook_refuses() -> None:
    """`Refuse` is answered with its status and headers, and no handler runs."""
    ran = False

    async def accept(handshake: Handshake) -> object:
        raise Refuse(429, "slowly", headers={"Retry-After": 7})

    async def handler(peer: RawPeer) -> None:
        nonlocal ran
        ran = True

    async with open_site(handler, codec="raw", accept=accept) as site:
        stranger = await site.dial()
        assert await stranger.shake() == 429
        assert stranger.response.headers["Retry-After"] == "7"
    assert not ran


@virtual
async def test_subprotocols() -> None:
    """The first of the server's that the client offers is picked; none in common: none."""
    async with open_site(raw_echo, codec="raw", protocols=["b", "a"]) as site:
        for offer, picked in [(("a", "b"), "b"), (("a", "c"), "a"), (("c",), None)]:
            stranger = await site.enter(protocols=offer)
            assert stranger.response.headers.get("Sec-WebSocket-Protocol") == picked


@virtual
async def test_raw() -> None:
    """`codec="raw"`: a `RawPeer`, text as text and bytes as bytes."""
    kinds: list[type] = []

    async def handler(peer: RawPeer) -> None:
        kinds.append(type(peer))
        await raw_echo(peer)

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        assert await stranger.ask("text") == "text"
        await stranger.send_frame(Frame(Opcode.BINARY, b"\xff"))
        frame = await stranger.read()
        assert frame is not None
        assert (frame.opcode, bytes(frame.data)) == (Opcode.BINARY, b"\xff")
    assert kinds == [RawPeer]


@virtual
async def test_msgpack() -> None:
    """`codec="msgpack"`: envelopes in binary frames, both ways."""
    async with open_site(echo, codec="msgpack") as site, site.connect(codec="msgpack") as conn:
        with conn.subscribe("type", as_=bytes) as stream:
            await conn.send("type", b"\x00\xff")
            item = await stream.receive()
            assert isinstance(item, Message)
            assert item.payload == b"\x00\xff"


# Where it listens


async def running(nursery: trio.Nursery, handler: Any, *where: Any, **options: Any) -> Server:
    server: Server = await nursery.start(partial(serve, handler, *where, **options))
    return server


async def is_echoed(host: str, port: int) -> bool:
    stranger = Stranger(await trio.open_tcp_stream(host, port))
    async with stranger.stream:
        assert await stranger.shake() == 101
        return await stranger.ask("hello") == "hello"


@pytest.mark.parametrize(
    ("host", "found"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")],
)
async def test_port_and_url(host: str, found: str) -> None:
    """Port 0 is any free one; `port` and `url` tell where, also after the end."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await running(nursery, raw_echo, host, 0, codec="raw")
            assert server.url == f"ws://{found}:{server.port}"
            assert await is_echoed(found.strip("[]"), server.port)
            async with trio_rt.connect(server.url, codec="raw") as conn:
                await conn.wait_connected()
            nursery.cancel_scope.cancel()
        assert server.url == f"ws://{found}:{server.port}"


async def test_every_interface() -> None:
    """`host=None` listens on every interface; `port` is that of the first listener."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await running(nursery, raw_echo, None, 0, codec="raw")
            assert await is_echoed(server.url[5:].rpartition(":")[0].strip("[]"), server.port)
            nursery.cancel_scope.cancel()


async def test_a_port_that_is_taken() -> None:
    """It raises `OSError`, before it has started."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await running(nursery, raw_echo, "127.0.0.1", 0, codec="raw")
            with pytest.raises(OSError, match="in use"):
                await serve(raw_echo, "127.0.0.1", server.port, codec="raw")
            nursery.cancel_scope.cancel()


async def test_listeners_without_an_address(tmp_path: Path) -> None:
    """With no TCP listener `port` and `url` raise `OptionError`; it serves all the same."""
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(tmp_path / "socket"))
    sock.listen()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listeners = [VirtualNetwork(1).listen("server", 80), trio.SocketListener(sock)]
            server = await nursery.start(partial(serve_listeners, raw_echo, listeners, codec="raw"))
            with pytest.raises(OptionError, match="TCP listener"):
                assert server.port
            with pytest.raises(OptionError, match="TCP listener"):
                assert server.url
            stranger = Stranger(await trio.open_unix_socket(tmp_path / "socket"))
            assert await stranger.shake() == 101
            assert await stranger.ask("hello") == "hello"
            await stranger.aclose()
            nursery.cancel_scope.cancel()


@virtual
async def test_several_listeners() -> None:
    """One server on two listeners: both are served, and both are closed at the end."""
    network = VirtualNetwork(1)
    listeners = [network.listen("a", 80), network.listen("b", 81)]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_listeners, raw_echo, listeners, codec="raw"))
        for host, port in [("a", 80), ("b", 81)]:
            stranger = Stranger(await network.open_stream(host, port))
            assert await stranger.shake() == 101
            assert await stranger.ask("hello") == "hello"
        assert server.connections == 2
        nursery.cancel_scope.cancel()
    for host, port in [("a", 80), ("b", 81)]:
        with pytest.raises(OSError, match="refused"):
            await network.open_stream(host, port)


@pytest.mark.parametrize("drained", [False, True])
async def test_listeners_are_closed_at_the_end(drained: bool) -> None:
    """By cancellation and by `drain()`: the caller's sockets are closed when it has returned."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_listeners, raw_echo, [listener]))
            if drained:
                await server.drain()
            else:
                nursery.cancel_scope.cancel()
    assert listener.socket.fileno() == -1


# Limits


@virtual
async def test_the_limit_on_connections() -> None:
    """One more gets 503 and `Retry-After`; when one has left there is room again."""
    async with open_site(raw_echo, codec="raw", limits=ServerLimits(connections=2)) as site:
        first = await site.enter()
        await site.dial()  # a handshake counts as well
        await trio.sleep(0.1)
        assert site.server.connections == 2
        for _ in range(3):
            stranger = await site.dial()
            assert await stranger.shake() == 503
            assert stranger.response.headers["Retry-After"] == "5"
            assert site.server.connections == 2
        await first.close()
        assert await (await site.enter()).ask("hello") == "hello"
        assert await (await site.dial()).shake() == 503


@virtual
async def test_those_turned_away_keep_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    """However many are being refused, a place that gets free is free at once."""
    async with open_site(raw_echo, codec="raw", limits=ServerLimits(connections=1)) as site:
        first = await site.enter()
        for _ in range(100):  # they stay, and say nothing
            await site.dial()
        await trio.sleep(0.1)
        await first.close()
        assert await (await site.enter()).ask("hello") == "hello"
        await trio.sleep(2)
        assert site.sockets == 1
    assert complaints(caplog) == []


@virtual
async def test_refusing_is_bounded_too() -> None:
    """Of very many over the limit, only some are told why; the others are just closed."""
    async with open_site(raw_echo, codec="raw", limits=ServerLimits(connections=1)) as site:
        await site.enter()
        answers: list[int] = []

        async def knock() -> None:
            stranger = await site.dial()
            answers.append(await stranger.shake())
            await trio.sleep(1)

        for _ in range(120):
            site.nursery.start_soon(knock)
        await trio.sleep(5)
        assert answers.count(503) == 64
        assert answers.count(0) == 56
        assert await (await site.dial()).shake() == 503


async def test_a_refused_client_that_resets(caplog: pytest.LogCaptureFixture) -> None:
    """A client that is gone before it can be refused is no fault of the server's."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await running(
                nursery,
                raw_echo,
                "127.0.0.1",
                0,
                codec="raw",
                limits=ServerLimits(connections_per_address=1),
            )
            async with await trio.open_tcp_stream("127.0.0.1", server.port):
                for _ in range(20):
                    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    stream.socket.close()
                stranger = Stranger(await trio.open_tcp_stream("127.0.0.1", server.port))
                assert await stranger.shake() == 503
                await stranger.aclose()
            nursery.cancel_scope.cancel()
    assert complaints(caplog) == []


async def test_the_limit_on_connections_of_one_address() -> None:
    """One address may have so many; another one is served; those that leave make room."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            limits = ServerLimits(connections_per_address=2)
            server = await running(nursery, raw_echo, "0.0.0.0", 0, codec="raw", limits=limits)

            async def dial(local: str = "127.0.0.1") -> Stranger:
                stream = await trio.open_tcp_stream("127.0.0.1", server.port, local_address=local)
                return Stranger(stream)

            strangers = [await dial(), await dial()]
            for stranger in strangers:
                assert await stranger.shake() == 101
            third = await dial()
            assert await third.shake() == 503
            assert third.response.headers["Retry-After"] == "5"
            other = await dial("127.0.0.2")
            assert await other.shake() == 101
            await strangers[0].close()
            while server.connections > 2:
                await trio.sleep(0.01)
            again = await dial()
            assert await again.shake() == 101
            for stranger in (strangers[1], third, other, again):
                await stranger.aclose()
            while server.connections:
                await trio.sleep(0.01)
            assert not server._open_by_address  # or every address there is would end up in it
            nursery.cancel_scope.cancel()


@virtual
async def test_slowloris() -> None:
    """50 sockets that send a byte a second are all gone at the deadline; others are served."""
    gone: list[float] = []

    async def drip() -> None:
        stranger = await site.dial()

        async def write() -> None:
            for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 1000:
                await stranger.send_raw(bytes([byte]))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            assert await stranger.stream.receive_some() == b""
            gone.append(trio.current_time())
            nursery.cancel_scope.cancel()

    limits = ServerLimits(handshake_s=7)
    async with open_site(raw_echo, codec="raw", limits=limits) as site:
        began = trio.current_time()
        for _ in range(50):
            site.nursery.start_soon(drip)
        for _ in range(6):
            await trio.sleep(1)
            assert await (await site.enter()).ask("hello") == "hello"
        assert site.server.connections == 56
        assert not gone
        await trio.sleep(5)
        assert len(gone) == 50
        assert gone == [pytest.approx(began + 7, abs=0.1)] * 50
        assert site.server.connections == 6


@virtual
async def test_an_accept_hook_that_hangs() -> None:
    """The hook has no longer than the handshake."""

    async def accept(handshake: Handshake) -> object:
        await trio.sleep_forever()

    limits = ServerLimits(handshake_s=3)
    async with open_site(raw_echo, codec="raw", accept=accept, limits=limits) as site:
        began = trio.current_time()
        assert await (await site.dial()).shake() == 0
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)


@virtual
async def test_limits_on_headers() -> None:
    """Too long a request and too many headers get 431."""
    limits = ServerLimits(header_bytes=1000, headers=10)
    async with open_site(raw_echo, codec="raw", limits=limits) as site:
        assert await (await site.dial()).shake(headers={"X": "x" * 500}) == 101
        assert await (await site.dial()).shake(headers={"X": "x" * 1000}) == 431
        assert await (await site.dial()).shake(headers={f"X-{n}": "x" for n in range(10)}) == 431


@virtual
async def test_the_limit_on_messages() -> None:
    """`InboxLimits.message_bytes`: a larger message closes its link with 1009."""
    inbox = InboxLimits(message_bytes=1000)
    async with open_site(raw_echo, codec="raw", inbox=inbox) as site:
        other = await site.enter()
        stranger = await site.enter()
        assert await stranger.ask("x" * 1000) == "x" * 1000
        await stranger.send("x" * 1001)
        await stranger.read_all()
        assert stranger.code == 1009
        assert await other.ask("hello") == "hello"


@virtual
async def test_the_limit_on_fragments() -> None:
    """`InboxLimits.fragments`: a message of more frames closes its link with 1009."""
    inbox = InboxLimits(fragments=5)
    async with open_site(raw_echo, codec="raw", inbox=inbox) as site:
        for frames, code in [(5, None), (6, 1009)]:
            stranger = await site.enter()
            await stranger.send_frame(Frame(Opcode.TEXT, b"0", fin=False))
            for number in range(1, frames):
                last = number == frames - 1
                await stranger.send_frame(Frame(Opcode.CONT, b"0", fin=last))
            if code is None:
                assert await stranger.text() == "0" * frames
            else:
                await stranger.read_all()
                assert stranger.code == code


@virtual
async def test_compression_only_where_enabled() -> None:
    """permessage-deflate is agreed to only with `compression=True`, and then used."""
    for enabled in (False, True):
        async with open_site(raw_echo, codec="raw", compression=enabled) as site:
            stranger = await site.enter(compression=True)
            agreed = "Sec-WebSocket-Extensions" in stranger.response.headers
            assert agreed is enabled
            before = site.network.statistics().bytes_to_clients
            assert await stranger.ask(MUCH) == MUCH
            grown = site.network.statistics().bytes_to_clients - before
            assert (grown < 1000) is enabled
            plain = await site.enter()
            assert await plain.ask("hello") == "hello"


@virtual
async def test_an_inflate_bomb() -> None:
    """What inflates beyond the limit closes its link with 1009; others do not notice."""
    squeeze = zlib.compressobj(9, wbits=-15)
    bomb = squeeze.compress(bytes(20 << 20)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    async with open_site(raw_echo, codec="raw", compression=True) as site:
        other = await site.enter(compression=True)
        stranger = await site.enter(compression=True)
        assert len(bomb) < 100_000
        first, *rest = Frame(Opcode.BINARY, bomb[:-4]).serialize(mask=True)
        await stranger.send_raw(bytes([first | 0x40, *rest]))  # "compressed"
        await stranger.read_all()
        assert stranger.code == 1009
        assert await other.ask("hello") == "hello"


@virtual
async def test_a_peer_that_does_not_read_delays_nobody() -> None:
    """Among 50 peers one does not read: its outbox is bounded, and the others get it all."""
    peers: list[RawPeer] = []
    outbox = OutboxLimits(messages=20, total_bytes=300_000)

    async def handler(peer: RawPeer) -> None:
        peers.append(peer)
        with peer.subscribe() as stream:
            async for _ in stream:
                pass

    async with open_site(handler, codec="raw", liveness=None, outbox=outbox) as site:
        await site.enter()  # it never reads
        readers = [await site.enter() for _ in range(49)]
        stuck, *others = peers
        refused = 0
        for number in range(60):
            for peer in peers:
                try:
                    peer.send_nowait(f"{number} {MUCH}")
                except trio.WouldBlock:
                    assert peer is stuck
                    refused += 1
            assert stuck.statistics().queued_bytes <= 300_000
            for reader in readers:
                assert await reader.text() == f"{number} {MUCH}"
        assert refused > 30
        assert all(peer.statistics().outcomes == {WRITTEN: 60} for peer in others)


@virtual
async def test_the_limit_on_the_outbox() -> None:
    """`outbox` is each peer's own: one that is full is full for nobody else."""
    peers: list[Peer] = []

    async def handler(peer: Peer) -> None:
        peers.append(peer)
        await trio.sleep_forever()

    async with open_site(handler, outbox=OutboxLimits(messages=3)) as site:
        for _ in range(2):
            await site.enter()
        for peer in peers:
            for _ in range(4):  # one goes out at once
                peer.send_nowait("type")
            with pytest.raises(trio.WouldBlock):
                peer.send_nowait("type")


class BrokenStream(trio.abc.Stream):
    """A foreign stream with a bug."""

    async def receive_some(self, max_bytes: int | None = None) -> bytearray:
        raise RuntimeError("oops")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("oops")

    async def wait_send_all_might_not_block(self) -> None:
        raise RuntimeError("oops")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class BrokenListener(trio.abc.Listener[trio.abc.Stream]):
    """A foreign listener with two such streams."""

    def __init__(self) -> None:
        self.streams: list[trio.abc.Stream] = [BrokenStream(), BrokenStream()]

    async def accept(self) -> trio.abc.Stream:
        if not self.streams:
            await trio.sleep_forever()
        return self.streams.pop()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@virtual
async def test_a_fault_of_the_server_itself(caplog: pytest.LogCaptureFixture) -> None:
    """What should never happen ends one connection, is logged, and the server lives."""
    network = VirtualNetwork(1)
    listeners = [BrokenListener(), network.listen("server", 80)]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_listeners, raw_echo, listeners, codec="raw"))
        stranger = Stranger(await network.open_stream("server", 80))
        assert await stranger.shake() == 101
        assert await stranger.ask("hello") == "hello"
        assert server.connections == 1
        nursery.cancel_scope.cancel()
    assert complaints(caplog) == ["None: a fault of the server itself"] * 2


# The end


@virtual
async def test_cancelling_closes_everybody_at_once() -> None:
    """Every peer is sent 1001 if its socket takes it; nobody waits, and nothing is left."""
    finished: list[float] = []

    async def handler(peer: RawPeer) -> None:
        try:
            if peer.handshake.path == "/flood":
                await flood(peer)
            elif peer.handshake.path == "/closing":
                peer.close(4000)
                await trio.sleep_forever()
            else:
                await raw_echo(peer)
        finally:
            finished.append(trio.current_time())

    async with open_site(handler, codec="raw") as site:
        strangers = [await site.enter() for _ in range(10)]
        await site.enter("/flood")  # reads nothing
        await site.enter("/closing")  # answers nothing
        handshake = await site.dial()
        await trio.sleep(0.5)
        assert site.server.connections == 13
        began = trio.current_time()
        tasks = own_tasks()
        site.scope.cancel()
        await site.ended.wait()
        assert trio.current_time() == began
        assert finished == [began] * 12
        assert site.server.connections == site.sockets == 0
        assert own_tasks() == tasks - 1
        for stranger in strangers:
            await stranger.read_all()
            assert stranger.code == 1001
        assert await handshake.shake() == 0


@virtual
async def test_cancelling_while_somebody_is_turned_away() -> None:
    """A refusal under way does not keep the server, nor its socket."""
    async with open_site(raw_echo, codec="raw", limits=ServerLimits(connections=1)) as site:
        await site.enter()
        await site.dial()
        await trio.sleep(0.1)
        assert site.sockets == 2
        began = trio.current_time()
        site.scope.cancel()
        await site.ended.wait()
        assert trio.current_time() == began
        assert site.sockets == 0


@virtual
async def test_draining_spreads_the_closes() -> None:
    """No new connections; closes with 1012 spread over `over_s`, each with random advice."""
    closes: list[tuple[float, int | None, float]] = []

    async def client(site: Any) -> None:
        stranger = await site.enter()
        await stranger.read_all()
        name, _, value = stranger.reason.partition("=")
        assert name == "retry-after"
        closes.append((trio.current_time() - began, stranger.code, float(value)))

    async with open_site(raw_echo, codec="raw") as site:
        began = 0.0
        for _ in range(50):
            site.nursery.start_soon(client, site)
        await trio.sleep(1)
        began = trio.current_time()
        await site.server.drain(10)
        assert 9.5 < trio.current_time() - began < 10
        await site.ended.wait()
        with pytest.raises(OSError, match="refused"):
            await site.dial()
    times, codes, advice = zip(*closes, strict=True)
    assert codes == (1012,) * 50
    assert max(sum(start <= time < start + 1 for time in times) for start in range(10)) <= 6
    assert 0 <= min(advice) < 2
    assert 8 < max(advice) <= 10


@virtual
async def test_no_new_connections_while_draining() -> None:
    """From the first moment of the drain nobody is let in."""
    async with open_site(raw_echo, codec="raw") as site:
        for _ in range(2):
            site.nursery.start_soon((await site.enter()).read_all)
        site.nursery.start_soon(site.server.drain, 10)
        for _ in range(9):
            await trio.sleep(0.5)
            assert not site.ended.is_set()
            with pytest.raises(OSError, match="refused"):
                await site.dial()
        await site.ended.wait()


@virtual
async def test_draining_ends_with_the_last_peer() -> None:
    """It does not wait out `over_s` when nobody is left to be closed."""
    async with open_site(raw_echo, codec="raw") as site:
        strangers = [await site.enter() for _ in range(10)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.server.drain, 100)
            await trio.sleep(1)
            began = trio.current_time()
            for stranger in strangers:
                await stranger.aclose()
        assert trio.current_time() - began < 10
    async with open_site(raw_echo, codec="raw") as site:
        site.nursery.start_soon((await site.enter()).read_all)
        began = trio.current_time()
        await site.server.drain(100)
        assert trio.current_time() - began < 1


@virtual
async def test_draining_without_peers() -> None:
    """`drain()` and `serve` return at once."""
    async with open_site(raw_echo, codec="raw") as site:
        began = trio.current_time()
        await site.server.drain()
        await site.ended.wait()
        assert trio.current_time() == began
        await site.server.drain()


@virtual
async def test_draining_during_a_handshake() -> None:
    """Who is in the handshake when the drain begins is closed behind it, and runs no handler."""
    ran = 0

    async def accept(handshake: Handshake) -> None:
        await trio.sleep(3)

    async def handler(peer: RawPeer) -> None:
        nonlocal ran
        ran += 1
        await raw_echo(peer)

    async with open_site(handler, codec="raw", accept=accept) as site:
        stranger = await site.dial()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stranger.shake)
            await trio.sleep(1)
            nursery.start_soon(site.server.drain, 5)
        await stranger.read_all()
        assert stranger.code == 1012
        assert 0 <= float(stranger.reason.removeprefix("retry-after=")) <= 5
        await site.ended.wait()
        assert not ran


@virtual
async def test_draining_does_not_wait_for_ever() -> None:
    """A peer that does not read, a handler that does not end, a handshake that hangs: bounded."""

    async def handler(peer: RawPeer) -> None:
        if peer.handshake.path == "/flood":
            await flood(peer)
        await trio.sleep_forever()

    limits = ServerLimits(handshake_s=6)
    async with open_site(handler, codec="raw", close_timeout_s=3, limits=limits) as site:
        await site.enter("/flood")
        await site.enter("/")
        await site.dial()
        began = trio.current_time()
        await site.server.drain(1)
        assert 5 < trio.current_time() - began < 7
        await site.ended.wait()


@virtual
async def test_draining_from_a_handler() -> None:
    """A handler may ask for it, and is closed like the others."""
    servers: list[Server] = []

    async def handler(peer: RawPeer) -> None:
        with peer.subscribe() as stream:
            await stream.receive()
        await servers[0].drain(1)

    async with open_site(handler, codec="raw", close_timeout_s=3) as site:
        servers.append(site.server)
        stranger = await site.enter()
        await stranger.send("drain")
        await stranger.read_all()
        assert stranger.code == 1012
        await site.ended.wait()


@virtual
async def test_draining_cancelled() -> None:
    """The others stay connected, and a second drain sees it through."""
    async with open_site(raw_echo, codec="raw") as site:
        strangers = [await site.enter() for _ in range(4)]
        with trio.move_on_after(10) as scope:
            for stranger in strangers:
                site.nursery.start_soon(stranger.read_all)
            await site.server.drain(20)
        assert scope.cancelled_caught
        assert site.server.connections == 2
        assert not site.ended.is_set()
        await site.server.drain(0)
        await site.ended.wait()


@pytest.mark.parametrize("over_s", [-1, float("inf"), float("nan"), "5"])
@virtual
async def test_draining_checks_its_argument(over_s: Any) -> None:
    """A time that is none is refused, and the server goes on."""
    async with open_site(raw_echo, codec="raw") as site:
        with pytest.raises(OptionError, match="over_s"):
            await site.server.drain(over_s)
        assert await (await site.enter()).ask("hello") == "hello"


# Options


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"close_timeout_s": -1}, "close_timeout_s"),
        ({"codec": "xml"}, "codec"),
        ({"codec": "raw", "liveness": Liveness(beat="both")}, "liveness.beat"),
    ],
)
async def test_options_that_cannot_be(options: dict[str, Any], field: str) -> None:
    """They raise `OptionError` before anything listens."""
    with trio.fail_after(10), pytest.raises(OptionError) as caught:
        await serve(raw_echo, "127.0.0.1", 0, **options)
    assert caught.value.field == field


# Logs


@virtual
async def test_logs_hold_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of a header, a cookie, a query or a message is logged, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    canary = "canary-7f3a"

    async def accept(handshake: Handshake) -> object:
        match handshake.path:
            case "/refused":
                raise Refuse(403, "no")
            case "/broken":
                raise ValueError(handshake)
        return handshake.headers["X-Token"]

    async def handler(peer: RawPeer) -> None:
        with peer.subscribe() as stream:
            async for _ in stream:
                raise ValueError(peer.handshake)

    secrets = {"X-Token": canary, "Cookie": canary, "Authorization": canary}
    limits = ServerLimits(connections=3)
    async with open_site(handler, codec="raw", accept=accept, limits=limits) as site:
        for path in ("/", "/refused", "/broken"):
            stranger = await site.dial()
            if await stranger.shake(f"{path}?token={canary}", headers=secrets) == 101:
                await stranger.send(canary)
                await stranger.send_raw(canary.encode())
                await stranger.read_all()
        for _ in range(4):  # some are too many
            await site.dial()
        await trio.sleep(20)
    text = "\n".join(map(logging.Formatter().format, caplog.records))
    assert len(records(caplog)) == 2
    assert "too many connections" in text
    assert canary not in text

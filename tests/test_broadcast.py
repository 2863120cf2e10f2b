"""The same messages to many peers: each path they can take, and what the books say of it."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trustme

import trio_rt
from tests.helpers import outlast
from tests.strangers import Site, Stranger, open_site
from tests.test_peer import keep
from tests.testing.support import virtual
from trio_rt import Message, OutboxLimits
from trio_rt._broadcast import Broadcast
from trio_rt.message import ACKED, INDETERMINATE, WRITTEN
from trio_rt.testing import VirtualLink
from trio_rt.testing._pipe import BUFFER_BYTES

#: More than the buffers of a virtual link take in at once.
MUCH = "x" * 300_000

#: The same in messages of which none is fragmented.
MANY = ["x" * 10_000] * 10


def shout(*texts: str) -> Broadcast:
    return Broadcast([text.encode() for text in texts], binary=False)


def books(peer: Any) -> tuple[int, int, int]:
    """Accepted, and of these queued and in flight: the rest has its outcome."""
    counts = peer.statistics()
    queued = sum(counts.queued.values())
    assert counts.accepted == sum(counts.outcomes.values()) + queued + counts.in_flight
    return counts.accepted, queued, counts.in_flight


def written(peer: Any) -> int:
    count: int = peer.statistics().outcomes.get(WRITTEN, 0)
    return count


@asynccontextmanager
async def open_pair(
    path: str = "/", *, compression: bool = False, **serve: Any
) -> AsyncIterator[tuple[Site, Any, Stranger]]:
    """A server that sends bare text, its peer, and the client of it."""
    peers: list[Any] = []
    async with open_site(keep(peers), codec="raw", compression=compression, **serve) as site:
        stranger = await site.enter(path, compression=compression)
        await outlast(lambda: not peers)
        yield site, peers[0], stranger


def link_of(site: Site) -> VirtualLink:
    link = site.network.connections[0]
    assert isinstance(link, VirtualLink)
    return link


async def texts(stranger: Stranger, count: int) -> list[str]:
    """The next messages, put together of their fragments."""
    found: list[str] = []
    while len(found) < count:
        data, fin = b"", False
        while not fin:
            frame = await stranger.read()
            assert frame is not None
            data, fin = data + bytes(frame.data), frame.fin
        found.append(data.decode())
    return found


# An idle plain link


@virtual
async def test_an_idle_link() -> None:
    """All of it is written in the call, and is in the books as any other send."""
    async with open_pair() as (site, peer, stranger):
        before = link_of(site).sent_bytes("client")
        broadcast = shout("one", "two")
        assert broadcast.count == 2
        assert broadcast.post(peer)
        assert link_of(site).sent_bytes("client") == before + 2 * (2 + 3)
        assert books(peer) == (2, 0, 0)
        assert written(peer) == 2
        assert await texts(stranger, 2) == ["one", "two"]


@virtual
async def test_it_may_be_posted_to_many() -> None:
    """One broadcast is for any number of peers, and for one of them again."""
    peers: list[Any] = []
    async with open_site(keep(peers), codec="raw") as site:
        strangers = [await site.enter() for _ in range(5)]
        await outlast(lambda: len(peers) < 5)
        broadcast = shout("all")
        assert all(broadcast.post(peer) for peer in [*peers, *peers])
        assert [await texts(each, 2) for each in strangers] == [["all", "all"]] * 5
        assert [books(peer) for peer in peers] == [(2, 0, 0)] * 5


@virtual
async def test_binary() -> None:
    """`binary` is the kind of the frames."""
    async with open_pair() as (_, peer, stranger):
        assert Broadcast([b"\xff"], binary=True).post(peer)
        frame = await stranger.read()
        assert frame is not None
        assert (frame.opcode.name, bytes(frame.data)) == ("BINARY", b"\xff")


# The order


async def mix(peer: Any, stranger: Stranger) -> None:
    """Broadcasts and sends in turn arrive in the order of the calls."""
    expected = []
    for number in range(40):
        if number % 3:
            assert shout(f"{number}a", f"{number}b").post(peer)
            expected += [f"{number}a", f"{number}b"]
        else:
            peer.send_nowait(f"{number}")
            expected.append(f"{number}")
        books(peer)
        if number % 7 == 6:
            await trio.lowlevel.checkpoint()
        if number % 11 == 10:
            await peer.drain()
    assert await texts(stranger, len(expected)) == expected
    await peer.drain()
    assert books(peer) == (len(expected), 0, 0)
    assert written(peer) == len(expected)


@virtual
async def test_the_order_on_an_idle_link() -> None:
    """Broadcasts go in the order of the calls, among ordinary sends."""
    async with open_pair() as (_, peer, stranger):
        await mix(peer, stranger)


@virtual
async def test_the_order_with_short_writes() -> None:
    """So they do where the kernel takes only the beginning of each write."""
    async with open_pair() as (site, peer, stranger):
        link = link_of(site)
        link.profile = attrs.evolve(link.profile, short_writes=1.0)
        await mix(peer, stranger)


@virtual
async def test_the_order_under_a_rate() -> None:
    """A rate limit is one for broadcasts, too: they leave as fast as any send."""
    limits = OutboxLimits(rate_per_s=10)
    async with open_pair(outbox=limits) as (_, peer, stranger):
        began = trio.current_time()
        await mix(peer, stranger)
        assert trio.current_time() - began >= 5.0


@virtual
async def test_a_rate() -> None:
    """Broadcasts alone keep it."""
    async with open_pair(outbox=OutboxLimits(rate_per_s=10)) as (_, peer, stranger):
        began = trio.current_time()
        for number in range(30):
            assert shout(f"{number}").post(peer)
        assert await texts(stranger, 30) == [f"{number}" for number in range(30)]
        assert trio.current_time() - began >= 2.8


@virtual
async def test_the_order_when_compressed() -> None:
    """A link that compresses has a compressor of its own: each peer's frames are its own."""
    async with open_pair(compression=True) as (site, peer, stranger):
        assert shout("y" * 10_000).post(peer)
        await peer.drain()
        assert link_of(site).sent_bytes("client") < 5000
        assert await texts(stranger, 1) == ["y" * 10_000]
        await peer.drain()
    async with open_pair(compression=True) as (_, peer, stranger):
        await mix(peer, stranger)


@virtual
async def test_tls() -> None:
    """Over TLS all of it is written when the ciphertext is."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("server").configure_cert(context)
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    peers: list[Any] = []
    async with open_site(keep(peers), codec="raw", ssl_context=context) as site:
        stream = trio.SSLStream(
            await site.network.open_stream("server", 80), trusts, server_hostname="server"
        )
        stranger = Stranger(stream)
        assert await stranger.shake() == 101
        await outlast(lambda: not peers)
        link = link_of(site)
        link.profile = attrs.evolve(link.profile, short_writes=0.5)
        await mix(peers[0], stranger)
        accepted = books(peers[0])[0]
        link.profile = attrs.evolve(link.profile, short_writes=0.0)
        assert shout(*MANY).post(peers[0])
        count, queued, in_flight = books(peers[0])
        assert (count, queued + in_flight) == (accepted + 10, 10 - written(peers[0]) + accepted)
        assert queued + in_flight > 0
        assert await texts(stranger, 10) == MANY
        await peers[0].drain()
        assert books(peers[0]) == (accepted + 10, 0, 0)
        link.cut()


# What does not fit


@virtual
async def test_a_short_write() -> None:
    """What the kernel has not taken wholly is in flight, and the rest follows by itself."""
    async with open_pair() as (site, peer, stranger):
        link = link_of(site)
        link.profile = attrs.evolve(link.profile, short_writes=1.0)
        assert shout("a" * 1000, "b" * 1000, "c" * 1000).post(peer)
        accepted, queued, in_flight = books(peer)
        assert (accepted, queued) == (3, 0)
        assert 0 < in_flight <= 3
        assert written(peer) == 3 - in_flight
        began = trio.current_time()
        assert await texts(stranger, 3) == ["a" * 1000, "b" * 1000, "c" * 1000]
        await peer.drain()
        assert books(peer) == (3, 0, 0)
        assert trio.current_time() - began < 1.0


@virtual
async def test_a_short_write_behind_a_whole_message() -> None:
    """That one is written at once."""
    async with open_pair() as (_, peer, stranger):
        assert shout("small", *MANY).post(peer)
        accepted, queued, in_flight = books(peer)
        assert (accepted, queued) == (11, 0)
        assert written(peer) == 1 + BUFFER_BYTES // 10_004 == 11 - in_flight
        assert await texts(stranger, 11) == ["small", *MANY]


@virtual
async def test_a_kernel_that_takes_nothing() -> None:
    """Then it is queued."""
    async with open_pair() as (_, peer, stranger):
        whole = "x" * (BUFFER_BYTES - 4)  # the head of its frame has four
        assert shout(whole).post(peer)
        assert books(peer) == (1, 0, 0)
        assert shout("more").post(peer)
        assert books(peer) == (2, 1, 0)
        assert await texts(stranger, 2) == [whole, "more"]


@virtual
async def test_pings_in_between() -> None:
    """Nothing goes between the two halves of a pong, nor is a pong forgotten."""
    async with open_pair() as (site, peer, stranger):
        link = link_of(site)
        link.profile = attrs.evolve(link.profile, short_writes=0.5)
        expected = []
        for number in range(50):
            stranger._protocol.send_ping(b"p" * 100)
            await stranger._flush()
            await trio.sleep(0.02)  # now it arrives, in one of these turns
            for each in range(6):
                assert shout(f"{number} {each}").post(peer)
                expected.append(f"{number} {each}")
                await trio.lowlevel.checkpoint()
        assert await texts(stranger, 300) == expected
        await peer.drain()
        assert books(peer) == (300, 0, 0)


@virtual
async def test_a_short_write_and_a_cut() -> None:
    """What was in flight when the link was cut has no other outcome than `indeterminate`."""
    async with open_pair() as (site, peer, _):
        assert shout(*MANY).post(peer)
        in_flight = books(peer)[2]
        assert in_flight > 1
        link_of(site).cut()
        await outlast(lambda: not peer.gone)
        assert books(peer) == (10, 0, 0)
        assert peer.statistics().outcomes == {WRITTEN: 10 - in_flight, INDETERMINATE: in_flight}


@virtual
async def test_a_full_outbox() -> None:
    """What has no room is not sent, and neither is what comes behind it in that broadcast."""
    async with open_pair(outbox=OutboxLimits(messages=3)) as (_, peer, stranger):
        assert shout(*MANY).post(peer)
        assert shout("1", "2").post(peer)
        assert books(peer)[:2] == (12, 2)
        assert peer.has_drained is False
        assert not shout("3", "4", "5").post(peer)
        assert not shout("6").post(peer)
        assert books(peer)[:2] == (13, 3)
        assert await texts(stranger, 13) == [*MANY, "1", "2", "3"]
        await peer.drain()
        assert peer.has_drained
        assert books(peer) == (13, 0, 0)


@virtual
async def test_a_full_outbox_in_bytes() -> None:
    """The bytes count, too: half of them free is drained. What is too large lets none behind it by."""
    async with open_pair(outbox=OutboxLimits(total_bytes=400_000)) as (_, peer, stranger):
        assert shout(*MANY).post(peer)
        assert shout("y" * 200_000).post(peer)
        assert peer.has_drained
        assert shout("z" * 10).post(peer)
        assert not peer.has_drained
        assert not shout("y" * 200_000, "small").post(peer)
        assert shout("w").post(peer)
        assert (await texts(stranger, 13))[11:] == ["z" * 10, "w"]
        await peer.drain()
        assert books(peer) == (13, 0, 0)


@virtual
async def test_it_does_not_overtake_who_waits() -> None:
    """A send that is parked for want of room comes before a later broadcast."""
    async with open_pair(outbox=OutboxLimits(messages=1)) as (site, peer, stranger):
        assert shout(*MANY).post(peer)
        peer.send_nowait("queued")
        site.nursery.start_soon(peer.send, "parked")
        await outlast(lambda: not peer.statistics().waiting)
        assert not shout("late").post(peer)
        assert await texts(stranger, 12) == [*MANY, "queued", "parked"]
        await peer.drain()
        assert books(peer) == (12, 0, 0)


@virtual
async def test_large_messages_are_fragmented() -> None:
    """So that control frames go between, and in the order of the calls."""
    async with open_pair() as (_, peer, stranger):
        assert shout("a", MUCH, "b").post(peer)
        assert shout("c").post(peer)
        assert await texts(stranger, 1) == ["a"]
        part = await stranger.read()
        assert part is not None
        assert not part.fin
        stranger.frames.insert(0, part)
        assert await texts(stranger, 3) == [MUCH, "b", "c"]
        await peer.drain()
        assert books(peer) == (4, 0, 0)


# The end of a peer


async def close(site: Site, peer: Any) -> None:
    peer.close()


async def close_and_wait(site: Site, peer: Any) -> None:
    peer.close()
    await outlast(lambda: not peer.gone)


async def cut(site: Site, peer: Any) -> None:
    link_of(site).cut()
    await outlast(lambda: not peer.gone)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("ending", [close, close_and_wait, cut])
@virtual
async def test_a_peer_that_is_closed(ending: Callable[[Site, Any], Any], first: int) -> None:
    """Nothing is sent or counted any more, from the moment of the call on."""
    async with open_pair() as (site, peer, stranger):
        if first:
            assert shout("first").post(peer)
            await trio.sleep(1)
        await ending(site, peer)
        assert shout("late").post(peer)
        assert books(peer) == (first, 0, 0)
        assert "late" not in await stranger.read_all()


@virtual
async def test_a_link_that_was_cut_unnoticed() -> None:
    """A write that fails is no error: the message is queued, and has its outcome at the end."""
    async with open_pair() as (site, peer, _):
        link_of(site).cut()
        assert shout("late").post(peer)
        assert books(peer)[0] == 1
        await outlast(lambda: not peer.gone)
        assert books(peer) == (1, 0, 0)
        assert written(peer) == 0


@virtual
async def test_a_client_that_closes() -> None:
    """What was written before stays in the books, also if more is posted behind its close."""
    async with open_pair() as (_, peer, stranger):
        assert shout("one", "two").post(peer)
        with peer.subscribe() as stream:
            stranger._protocol.send_text(b"and")
            stranger._protocol.send_close(1000)
            await stranger._flush()
            await stream.receive()
        assert shout("late").post(peer)
        await outlast(lambda: not peer.gone)
        assert books(peer) == (3, 0, 0)
        assert written(peer) == 2


# Sessions


@virtual
async def test_a_session() -> None:
    """There each message has a number, and is acked; over a cut link it is sent again."""
    peers: list[Any] = []
    async with open_site(keep(peers)) as site, site.connect(session="require") as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            await outlast(lambda: not peers)
            (peer,) = peers
            line = '{"type":"n","payload":%d}'
            assert shout(line % 1, line % 2).post(peer)
            first = [await stream.receive() for _ in range(2)]
            link_of(site).cut()
            await outlast(lambda: peer.linked)
            assert shout(line % 3, line % 4).post(peer)
            assert books(peer)[:2] == (4, 2)
            peer.send_nowait("n", 5)
            rest = [await stream.receive() for _ in range(3)]
            numbers = [item.payload for item in [*first, *rest] if isinstance(item, Message)]
            assert numbers == [1, 2, 3, 4, 5]
            await peer.drain()
            assert books(peer) == (5, 0, 0)
            assert peer.statistics().outcomes == {ACKED: 5}


@virtual
async def test_a_session_whose_outbox_is_full() -> None:
    """It refuses as any other, and takes up where it drained."""
    peers: list[Any] = []
    limits = OutboxLimits(messages=2)
    async with (
        open_site(keep(peers), outbox=limits) as site,
        site.connect(session="require") as conn,
    ):
        with conn.subscribe() as stream:
            await conn.wait_connected()
            await outlast(lambda: not peers)
            (peer,) = peers
            link_of(site).cut()
            await outlast(lambda: peer.linked)
            assert not shout(*['{"type":"n"}'] * 5).post(peer)
            assert books(peer) == (2, 2, 0)
            for _ in range(2):
                await stream.receive()
            await peer.drain()
            assert books(peer) == (2, 0, 0)


@pytest.mark.parametrize("rate", [math.inf, 100.0])
@virtual
async def test_a_heartbeat_in_between(rate: float) -> None:
    """Envelope heartbeats go among broadcasts, and are not in the books."""
    peers: list[Any] = []
    liveness = trio_rt.Liveness(interval_s=1.0, timeout_s=1.0, beat="both")
    outbox = OutboxLimits(rate_per_s=rate)
    async with open_site(keep(peers), liveness=liveness, outbox=outbox) as site:
        stranger = await site.enter()
        await outlast(lambda: not peers)
        (peer,) = peers
        heard: list[str] = []

        async def listen() -> None:
            while (frame := await stranger.read()) is not None:
                heard.append(bytes(frame.data).decode())

        site.nursery.start_soon(listen)
        for number in range(50):
            assert shout(f'{{"type":"n","payload":{number}}}').post(peer)
            await trio.sleep(0.1)
        await trio.sleep(1)
        assert [text for text in heard if '"n"' in text] == [
            f'{{"type":"n","payload":{number}}}' for number in range(50)
        ]
        assert sum('"heartbeat"' in text for text in heard) >= 3
        assert books(peer) == (50, 0, 0)

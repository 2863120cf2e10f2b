"""trio_rt.wires.websockets: what `test_contract` does not ask of every wire."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Side

from trio_rt._streams import DirectStream
from trio_rt.wires.websockets import FRAGMENT_BYTES, WebSocketsWire, size_limit

from .support import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Sent,
    deflate,
    frame,
    protocol,
    receive,
    receive_end,
    small_pair,
    wire_pair,
)

Pair = tuple[WebSocketsWire, WebSocketsWire]
SIZES = [0, 1, 125, 126, 65_535, 65_536, 65_537, 300_000]


@pytest.fixture(params=["plain", "compressed"])
async def wires(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """Both ends of a link, with and without permessage-deflate."""
    client, server = wire_pair(compressed=request.param == "compressed")
    yield client, server
    client.abort()
    server.abort()


def raw(
    side: Side, *, limit: float = 2**20, fragments: float = 4096
) -> tuple[WebSocketsWire, DirectStream]:
    """A wire, and the other end of its stream."""
    left, right = small_pair()
    made = protocol(side, limit=size_limit(limit))
    wire = WebSocketsWire(left, made, max_message_bytes=limit, fragments=fragments)
    return wire, right


# -- messages ---------------------------------------------------------------


async def test_messages_of_all_sizes_come_through_in_order(wires: Pair) -> None:
    """Both ways at once, text and binary, whole and fragmented."""
    batch = [Sent(bytes([65]) * size, kind) for size in SIZES for kind in (False, True)]
    expected = [m.data if m.binary else m.data.decode() for m in batch]
    got: dict[WebSocketsWire, list[str | bytes]] = {}

    async def read(wire: WebSocketsWire) -> None:
        got[wire] = await receive(wire, len(batch))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for wire in wires:
                nursery.start_soon(read, wire)
                nursery.start_soon(wire.send, batch)
    for wire in wires:
        assert got[wire] == expected
        assert wire.written == len(batch)
        assert wire.idle
    assert wires[0].bytes_out == wires[1].bytes_in > 0
    assert wires[1].bytes_out == wires[0].bytes_in > 0


async def test_a_batch_is_written_at_once(wires: Pair) -> None:
    """send_nowait gives all of it to the kernel, and it arrives as one list."""
    client, server = wires
    assert client.send_nowait([Sent(b"one"), Sent(b"two", True)])
    assert (client.written, client.idle, client.wants_flush) == (2, True, False)
    assert await receive(server, 2) == ["one", b"two"]


async def test_what_does_not_fit_is_taken_in_and_flushed(wires: Pair) -> None:
    """Until then the wire is not idle and takes no other batch."""
    client, server = wires
    batch = [Sent(os.urandom(30_000), True) for _ in range(10)]
    assert client.send_nowait(batch)
    assert client.wants_flush
    assert not client.idle
    assert client.written < 10
    assert not client.send_nowait([Sent(b"later")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.flush)
        assert await receive(server, 10) == [message.data for message in batch]
    assert (client.written, client.idle) == (10, True)


async def test_nothing_of_a_refused_batch_is_taken_in(wires: Pair) -> None:
    """Compressed messages after it still inflate: the compressor has not moved."""
    client, server = wires
    large = Sent(os.urandom(FRAGMENT_BYTES + 1), True)
    assert not client.send_nowait([Sent(b"first"), large])
    assert client.bytes_out == 0
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, [Sent(b"first"), large])
            assert await receive(server, 2) == ["first", large.data]


async def test_control_frames_go_between_the_fragments_of_a_large_message() -> None:
    """A ping queued meanwhile does not wait for the end of the message."""
    client, right = raw(CLIENT, limit=math.inf)
    made = protocol(SERVER, limit=None)
    seen: list[Opcode] = []
    async with right, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, [Sent(bytes(10 * FRAGMENT_BYTES), True)])
        await trio.testing.wait_all_tasks_blocked()
        assert client.ping()
        with trio.fail_after(10):
            while len(seen) < 11:
                made.receive_data(await right.receive_some())
                seen += [e.opcode for e in made.events_received() if isinstance(e, Frame)]
    assert seen.index(PING) <= 2
    assert sorted(seen) == [CONT] * 9 + [BINARY, PING]
    client.abort()


async def test_a_part_of_a_message_is_life_but_no_message() -> None:
    """receive returns [] and bytes_in has grown."""
    server, right = raw(SERVER)
    data = frame(TEXT, b"hello", to=SERVER)
    async with right:
        await right.send_all(data[:3])
        assert await server.receive() == []
        assert server.bytes_in == 3
        await right.send_all(data[3:])
        assert await server.receive() == ["hello"]
        assert server.bytes_in == len(data)
    server.abort()


async def test_a_send_cancelled_behind_a_remainder_breaks_the_link() -> None:
    """The batch is lost in part or whole, so nothing may follow it."""
    client, right = raw(CLIENT)
    assert client.send_nowait([Sent(bytes(60_000), True)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, [Sent(b"lost")])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await client.send([Sent(b"x")])
    assert client.written == 0
    client.abort()
    await right.aclose()


async def test_what_is_compressed_is_taken_in_even_by_a_full_kernel() -> None:
    """The compressor cannot go back; an uncompressed batch is refused then."""
    for compressed in (True, False):
        client, server = wire_pair(compressed=compressed)
        stream = client._stream
        assert isinstance(stream, DirectStream)
        pong = frame(PONG, b"", to=SERVER)
        while stream.try_send(pong):
            pass
        assert client.send_nowait([Sent(b"hello hello")]) is compressed
        assert client.wants_flush is compressed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, [Sent(b"hello again")])
            expected = ["hello hello", "hello again"] if compressed else ["hello again"]
            assert await receive(server, len(expected)) == expected
        client.abort()
        server.abort()


async def test_a_stream_without_try_send_takes_compressed_messages() -> None:
    """A refused direct write has not moved the compressor."""
    client, server = wire_pair(compressed=True)
    left, right = trio.testing.memory_stream_pair()
    one = WebSocketsWire(left, protocol(CLIENT, extensions=[deflate()]), max_message_bytes=100)
    two = WebSocketsWire(right, protocol(SERVER, extensions=[deflate()]), max_message_bytes=100)
    assert not one.send_nowait([Sent(b"hello hello")])
    await one.send([Sent(b"hello hello")])
    assert await receive(two, 1) == ["hello hello"]
    client.abort()
    server.abort()


# -- pings ------------------------------------------------------------------


async def test_all_pings_of_a_read_are_answered_in_order() -> None:
    """Ten at once, as in Autobahn 2.10, with their payloads, in one write."""
    server, right = raw(SERVER)
    async with right:
        await right.send_all(b"".join(frame(PING, b"%d" % n, to=SERVER) for n in range(10)))
        assert await server.receive() == []
        assert await right.receive_some() == b"".join(frame(PONG, b"%d" % n) for n in range(10))
    server.abort()


async def test_a_peer_that_pings_and_does_not_read_costs_no_memory() -> None:
    """Of 100,000 pings the pongs that wait are those of the last read."""
    server, right = raw(SERVER)
    pings = frame(PING, b"x" * 100, to=SERVER) * 1000

    async def flood() -> None:
        for _ in range(100):
            await right.send_all(pings)
        await right.send_all(frame(TEXT, b"end", to=SERVER))

    async with right, trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        assert await receive(server, 1) == ["end"]
        nursery.start_soon(server.flush)
        answered = b""
        with trio.fail_after(5):
            while not server.idle or len(answered) < server.bytes_out:
                answered += await right.receive_some()
    assert answered.endswith(frame(PONG, b"x" * 100))
    assert len(answered) < 200_000
    server.abort()


# -- ends -------------------------------------------------------------------


async def test_a_server_closes_tcp_at_once() -> None:
    """It has nothing more to hear."""
    server, right = raw(SERVER)
    async with right:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.close, 1012)
                await right.send_all(frame(CLOSE, b"\x03\xf4", to=SERVER))
            assert [chunk async for chunk in right] == [frame(CLOSE, b"\x03\xf4")]


async def test_close_nowait_says_goodbye_if_it_can() -> None:
    """One close frame and the end, at once; with a remainder only the end."""
    server, right = raw(SERVER)
    server.close_nowait(1001, "bye")
    server.close_nowait(1000)
    async with right:
        with trio.fail_after(5):
            assert [chunk async for chunk in right] == [frame(CLOSE, b"\x03\xe9bye")]
    server, right = raw(SERVER)
    server.send_nowait([Sent(b"x" * 60_000)])
    server.close_nowait(1001)
    async with right:
        with trio.fail_after(5):
            received = b"".join([chunk async for chunk in right])
    assert len(received) == server.bytes_out < 60_000


async def test_nothing_is_sent_after_a_close() -> None:
    """send raises, send_nowait is False, and the peer gets the close frame alone."""
    server, right = raw(SERVER)
    async with right:
        await right.send_all(frame(CLOSE, b"\x03\xe8", to=SERVER))
        assert (await receive_end(server)).code == 1000
        assert not server.send_nowait([Sent(b"x")])
        with pytest.raises(trio.BrokenResourceError):
            await server.send([Sent(b"x")])
        with trio.fail_after(5):
            await server.close()
            assert [chunk async for chunk in right] == [frame(CLOSE, b"\x03\xe8")]


async def test_the_fragment_limit_is_the_one_given() -> None:
    """One more is 1009."""
    server, right = raw(SERVER, fragments=2)
    async with right:
        await right.send_all(
            frame(TEXT, b"a", fin=False, to=SERVER)
            + frame(CONT, b"b", fin=False, to=SERVER)
            + frame(CONT, b"c", to=SERVER)
        )
        assert (await receive_end(server)).code == 1009
    server.abort()


async def test_a_server_that_found_a_fault_reads_on_until_the_peer_has_its_close() -> None:
    """Closing with data on its way would reset the connection under the close frame."""
    server, right = raw(SERVER, limit=1000)
    oversize = frame(BINARY, bytes(200_000), to=SERVER)

    async def send() -> None:
        await right.send_all(oversize)
        await right.send_eof()

    async with right:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert (await receive_end(server)).code == 1009
                nursery.start_soon(server.close)
                received = b"".join([chunk async for chunk in right])
    assert received[:4] == b"\x88" + bytes([received[1]]) + (1009).to_bytes(2, "big")


def test_the_limit_as_websockets_wants_it() -> None:
    """Infinity is None."""
    assert size_limit(math.inf) is None
    assert size_limit(1000) == 1000

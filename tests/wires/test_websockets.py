"""trio_rt.wires.websockets"""

from __future__ import annotations

import math
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence

import pytest
import trio
import trio.testing
import trustme
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Side

from trio_rt._streams import DirectStream
from trio_rt._tls import TlsStream
from trio_rt.errors import LinkClosed, OptionError
from trio_rt.wires import Wire
from trio_rt.wires.websockets import FRAGMENT_BYTES, WebSocketsWire, size_limit

from .support import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Sent,
    frame,
    parse,
    protocol,
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


async def receive(wire: Wire, count: int) -> list[str | bytes]:
    messages: list[str | bytes] = []
    with trio.fail_after(10):
        while len(messages) < count:
            messages += await wire.receive()
    return messages


async def receive_end(wire: Wire) -> LinkClosed:
    """What ends the link, once nothing else comes."""
    with trio.fail_after(10):
        while True:
            try:
                assert await wire.receive() == []
            except LinkClosed as closed:
                return closed


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


async def test_what_was_read_behind_the_handshake_comes_first() -> None:
    """`leftover` is parsed by the first receive."""
    left, right = small_pair()
    data = frame(TEXT, b"one") + frame(TEXT, b"two")
    wire = WebSocketsWire(left, protocol(CLIENT), max_message_bytes=100, leftover=data[:7])
    async with right:
        await right.send_all(data[7:])
        with trio.testing.assert_checkpoints():
            assert await wire.receive() == ["one"]
        assert await wire.receive() == ["two"]
        assert wire.bytes_in == len(data)
    wire.abort()


async def test_every_send_and_receive_is_a_checkpoint(wires: Pair) -> None:
    """Also where nothing has to be waited for."""
    client, server = wires
    for batch in ([], [Sent(b"x")], [Sent(b"x")] * 3):
        with trio.testing.assert_checkpoints():
            await client.send(batch)
    with trio.testing.assert_checkpoints():
        await server.receive()
    with trio.testing.assert_checkpoints():
        await client.flush()


async def test_a_cancelled_receive_loses_nothing(wires: Pair) -> None:
    """The next one gets the message."""
    client, server = wires
    client.send_nowait([Sent(b"kept")])
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.receive()
    assert scope.cancelled_caught
    assert await receive(server, 1) == ["kept"]


async def test_a_cancelled_send_breaks_the_link_and_tells_how_far_it_came() -> None:
    """`written` counts the whole messages; the peer gets no frame after the torn one."""
    client, right = raw(CLIENT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, [Sent(b"whole"), Sent(bytes(60_000), True)])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert client.written == 1
    taken = client.bytes_out
    assert not client.send_nowait([Sent(b"x")])
    assert not client.ping()
    with pytest.raises(trio.BrokenResourceError):
        await client.send([Sent(b"x")])
    with pytest.raises(trio.BrokenResourceError):
        await client.flush()
    with trio.fail_after(5):
        await client.close()
        assert sum([len(chunk) async for chunk in right]) == taken
    await right.aclose()


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


async def test_a_send_that_was_cancelled_before_it_began_breaks_nothing(wires: Pair) -> None:
    """Nothing was taken in."""
    client, server = wires
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send([Sent(b"never")])
    assert client.bytes_out == 0
    assert client.send_nowait([Sent(b"ever")])
    assert await receive(server, 1) == ["ever"]


async def test_one_task_sends() -> None:
    """A second one is busy, and direct writes do not get into a batch."""
    client, server = wire_pair()
    batch = [Sent(bytes(60_000), True)] * 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, batch)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.send([Sent(b"x")])
        assert not client.send_nowait([Sent(b"x")])
        assert len(await receive(server, 3)) == 3
    client.abort()
    server.abort()


async def test_a_stream_without_try_send_will_do() -> None:
    """Everything goes by the writer; a pong waits for its flush."""
    left, right = trio.testing.memory_stream_pair()
    client = WebSocketsWire(left, protocol(CLIENT), max_message_bytes=100)
    server = WebSocketsWire(right, protocol(SERVER), max_message_bytes=100)
    assert not client.send_nowait([Sent(b"x")])
    assert client.ping()
    await client.send([Sent(b"hello")])
    assert await receive(server, 1) == ["hello"]
    assert server.wants_flush
    await server.flush()
    assert await client.receive() == []
    assert client.pongs == 1
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.close, 1001)
            assert (await receive_end(server)).code == 1001
            await server.close()
    assert (await receive_end(client)).code == 1001


async def test_a_stream_without_try_send_takes_compressed_messages() -> None:
    """A refused direct write has not moved the compressor."""
    client, server = wire_pair(compressed=True)
    left, right = trio.testing.memory_stream_pair()
    one = WebSocketsWire(left, client._protocol, max_message_bytes=100)
    two = WebSocketsWire(right, server._protocol, max_message_bytes=100)
    assert not one.send_nowait([Sent(b"hello hello")])
    await one.send([Sent(b"hello hello")])
    assert await receive(two, 1) == ["hello hello"]
    client.abort()
    server.abort()


# -- pings ------------------------------------------------------------------


async def test_a_ping_is_answered_by_receiving(wires: Pair) -> None:
    """Both sides; the pong is counted, with its bytes."""
    for one, other in (wires, wires[::-1]):
        assert not one.ping()
        assert await other.receive() == []
        assert await one.receive() == []
        assert one.pongs == 1


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


@pytest.mark.parametrize("closer", [0, 1])
async def test_the_closing_handshake(wires: Pair, closer: int) -> None:
    """Either side may begin; both learn code and reason, after the messages before it."""
    ours, theirs = wires[closer], wires[1 - closer]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            ours.send_nowait([Sent(b"last")])
            nursery.start_soon(ours.close, 4001, "done")
            assert await receive(theirs, 1) == ["last"]
            closed = await receive_end(theirs)
            await theirs.close()
    assert (closed.code, closed.reason, closed.by_peer) == (4001, "done", True)
    echoed = await receive_end(ours)
    assert (echoed.code, echoed.reason, echoed.by_peer) == (4001, "done", True)


async def test_both_sides_may_close_at_once(wires: Pair) -> None:
    """Neither waits for the other."""
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wires[0].close, 1000)
            nursery.start_soon(wires[1].close, 1001)
    assert (await receive_end(wires[0])).code == 1001
    assert (await receive_end(wires[1])).code == 1000


async def test_closing_discards_data_and_answers_pings() -> None:
    """Until the peer's close comes, which ends it."""
    client, right = raw(CLIENT)
    async with right:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.close)
                await right.send_all(frame(TEXT, b"late") + frame(PING, b"still there?"))
                answers = b""
                while len(answers) < 8 + 18:
                    answers += await right.receive_some()
                assert [(f.opcode, f.data) for f in parse(answers, masked=True)] == [
                    (CLOSE, b"\x03\xe8"),
                    (PONG, b"still there?"),
                ]
                await right.send_all(frame(CLOSE, b"\x03\xe8"))
                await right.send_eof()


async def test_a_client_waits_for_the_server_to_close_tcp() -> None:
    """RFC 6455, 7.1.1: so that the server's port is not left in TIME_WAIT here."""
    client, right = raw(CLIENT)
    done = trio.Event()

    async def close() -> None:
        await client.close()
        done.set()

    async with right:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(close)
                await right.send_all(frame(CLOSE, b"\x03\xe8"))
                await trio.testing.wait_all_tasks_blocked()
                assert not done.is_set()
                await right.send_eof()
                await done.wait()
                received = [chunk async for chunk in right]
    assert len(b"".join(received)) == 8


async def test_a_server_closes_tcp_at_once() -> None:
    """It has nothing more to hear."""
    server, right = raw(SERVER)
    async with right:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.close, 1012)
                await right.send_all(frame(CLOSE, b"\x03\xf4", to=SERVER))
            assert [chunk async for chunk in right] == [frame(CLOSE, b"\x03\xf4")]


async def test_a_cancelled_close_closes_the_socket() -> None:
    """A peer that never answers holds nothing."""
    client, right = raw(CLIENT)
    async with right:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.close)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        with trio.fail_after(5):
            assert len(b"".join([chunk async for chunk in right])) == 8
    assert (await receive_end(client)).by_peer is False


async def test_closing_a_broken_link_closes_the_socket() -> None:
    """Without an error."""
    client, right = raw(CLIENT)
    right.abort()
    with trio.fail_after(5):
        await client.close()
        assert (await receive_end(client)).code == 1006
    with pytest.raises(trio.ClosedResourceError):
        await client._stream.receive_some()


async def test_an_end_without_a_close_is_1006() -> None:
    """The peer's doing; close is quick then."""
    for side in (CLIENT, SERVER):
        wire, right = raw(side)
        await right.aclose()
        closed = await receive_end(wire)
        assert (closed.code, closed.by_peer) == (1006, True)
        with trio.fail_after(5):
            await wire.close()


async def test_a_reset_is_1006_with_its_cause() -> None:
    """The stream's error is chained."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    wire = WebSocketsWire(DirectStream(left), protocol(CLIENT), max_message_bytes=100)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    right.close()
    closed = await receive_end(wire)
    assert (closed.code, closed.by_peer) == (1006, True)
    assert isinstance(closed.__cause__, trio.BrokenResourceError)
    wire.abort()


async def test_abort_ends_everything_and_may_be_repeated() -> None:
    """A waiting reader gets LinkClosed, not the peer's doing; the peer sees the end."""
    client, right = raw(CLIENT)
    ends = []

    async def read() -> None:
        ends.append(await receive_end(client))

    async with right:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                client.abort()
                client.abort()
            assert await right.receive_some() == b""
    assert (ends[0].code, ends[0].by_peer) == (1006, False)
    assert not client.send_nowait([Sent(b"x")])
    with pytest.raises(trio.BrokenResourceError):
        await client.send([Sent(b"x")])


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


async def test_a_long_reason_is_cut_at_a_character() -> None:
    """A close frame has room for 123 bytes of it."""
    server, right = raw(SERVER)
    server.close_nowait(1000, "ü" * 100)
    async with right:
        with trio.fail_after(5):
            data = await right.receive_some()
    assert data == frame(CLOSE, b"\x03\xe8" + ("ü" * 61).encode())


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_a_code_that_may_not_be_sent_is_refused(code: int) -> None:
    """Before anything is written."""
    server, right = raw(SERVER)
    with pytest.raises(OptionError, match="code"):
        await server.close(code)
    with pytest.raises(OptionError, match="code"):
        server.close_nowait(code)
    assert server.bytes_out == 0
    server.abort()
    await right.aclose()


FAULTS = {
    1002: b"\x83\x00",
    1007: frame(TEXT, b"\xff"),
    1009: b"\x82\x7e\xff\xff",
}


@pytest.mark.parametrize("code", FAULTS)
async def test_a_fault_of_the_peer_closes_the_link_with_its_code(code: int) -> None:
    """The messages before it are delivered first, and the peer is told."""
    client, right = raw(CLIENT, limit=1000)
    async with right:
        await right.send_all(frame(TEXT, b"good") + FAULTS[code])
        assert await receive(client, 1) == ["good"]
        closed = await receive_end(client)
        assert (closed.code, closed.by_peer) == (code, False)
        made = protocol(SERVER)
        made.receive_data(await right.receive_some())
        assert made.close_rcvd is not None
        assert made.close_rcvd.code == code
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.close)
                await right.send_all(b"x" * 100_000)
                await right.send_eof()


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


# -- TLS --------------------------------------------------------------------


async def tls_pair() -> Pair:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    left, right = small_pair()
    client = TlsStream(left, client_context, server_hostname="example.org")
    server = TlsStream(right, server_context, server_side=True)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
    return (
        WebSocketsWire(client, protocol(CLIENT), max_message_bytes=2**20),
        WebSocketsWire(server, protocol(SERVER), max_message_bytes=2**20),
    )


async def test_a_link_over_tls() -> None:
    """Direct writes, large messages both ways, and the closing handshake."""
    client, server = await tls_pair()
    assert client.send_nowait([Sent(b"hello")])
    assert (client.written, client.idle) == (1, True)
    assert await receive(server, 1) == ["hello"]
    batch: Sequence[Sent] = [Sent(os.urandom(size), True) for size in SIZES]
    with trio.fail_after(10):
        for one, other in ((client, server), (server, client)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send, batch)
                assert await receive(other, len(batch)) == [m.data for m in batch]
            assert one.written == len(batch) + (one is client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.close, 1001)
            assert (await receive_end(server)).code == 1001
            await server.close()


async def test_over_tls_a_cut_is_1006() -> None:
    """No close_notify, no orderly end."""
    client, server = await tls_pair()
    server.abort()
    closed = await receive_end(client)
    assert (closed.code, closed.by_peer) == (1006, True)
    client.abort()


def test_the_limit_as_websockets_wants_it() -> None:
    """Infinity is None."""
    assert size_limit(math.inf) is None
    assert size_limit(1000) == 1000

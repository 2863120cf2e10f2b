"""What `trio_rt.wires.Wire` promises, on every wire, client side."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol, get_args

import pytest
import trio
import trio.testing
import trustme
from websockets.protocol import SERVER

from trio_rt._streams import READ_BYTES, DirectStream
from trio_rt._tls import TlsStream
from trio_rt.errors import LinkClosed, OptionError
from trio_rt.options import WireName
from trio_rt.wires import Wire
from trio_rt.wires.websockets import WebSocketsWire

from .support import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Sent,
    frame,
    open_client,
    parse,
    protocol,
    receive,
    receive_end,
    receive_until,
    small_pair,
)

SIZES = [0, 1, 125, 126, 65_535, 65_536, 65_537, 300_000]


class Open(Protocol):
    """Opens a client's wire over a stream."""

    def __call__(
        self,
        stream: trio.abc.Stream,
        *,
        limit: float = 2**20,
        fragments: float = 4096,
        leftover: bytes = b"",
    ) -> AbstractAsyncContextManager[Wire]: ...


@pytest.fixture(params=get_args(WireName))
def open_wire(request: pytest.FixtureRequest) -> Open:
    return partial(open_client, request.param)


@pytest.fixture
async def ends(open_wire: Open) -> AsyncIterator[tuple[Wire, DirectStream]]:
    """A client's wire, and the other end of its stream."""
    left, right = small_pair()
    async with open_wire(left) as wire, right:
        yield wire, right


@pytest.fixture
async def pair(open_wire: Open) -> AsyncIterator[tuple[Wire, Wire]]:
    """A client's wire, and a server's."""
    left, right = small_pair()
    server = WebSocketsWire(right, protocol(SERVER), max_message_bytes=2**20)
    async with open_wire(left) as wire:
        yield wire, server
    server.abort()


# -- messages ---------------------------------------------------------------


async def test_messages_of_all_sizes(pair: tuple[Wire, Wire]) -> None:
    """Both ways at once, text and binary, in order; all of them are counted as written."""
    batch = [Sent("é".encode() * (size // 2), kind) for size in SIZES for kind in (False, True)]
    expected = [m.data if m.binary else m.data.decode() for m in batch]
    got: dict[Wire, list[str | bytes]] = {}

    async def read(wire: Wire) -> None:
        got[wire] = await receive(wire, len(batch))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for wire in pair:
                nursery.start_soon(read, wire)
                nursery.start_soon(wire.send, batch)
    for wire in pair:
        assert got[wire] == expected
        assert wire.written == len(batch)
        assert wire.idle
    assert pair[0].bytes_out == pair[1].bytes_in > 0
    assert pair[1].bytes_out == pair[0].bytes_in > 0


async def test_a_message_in_any_pieces(ends: tuple[Wire, DirectStream]) -> None:
    """Cut at every byte: a part is life but no message, and the whole comes once."""
    wire, right = ends
    data = frame(TEXT, b"x" * 200) + frame(BINARY, b"yy", fin=False) + frame(CONT, b"z")
    got: list[str | bytes] = []
    noticed = 0

    def notice() -> None:
        nonlocal noticed
        noticed += 1

    async def read() -> None:
        nonlocal noticed
        while True:
            messages = await wire.receive()
            got.extend(messages)
            noticed += not messages

    wire.on_control = notice
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for size in (1, 2, 3, 7, len(data)):
            got.clear()
            noticed = 0
            for at in range(0, len(data), size):
                heard = wire.bytes_in
                await right.send_all(data[at : at + size])
                await trio.testing.wait_all_tasks_blocked()
                assert wire.bytes_in == heard + len(data[at : at + size])
            assert got == ["x" * 200, b"yyz"]
            assert noticed == -(-len(data) // size) - (2 if size < len(data) else 1)
        nursery.cancel_scope.cancel()


async def test_one_read_is_one_list(ends: tuple[Wire, DirectStream]) -> None:
    """However many messages it brings, more than are queued anywhere."""
    wire, right = ends
    await right.send_all(frame(TEXT, b"1") * 1000)
    assert await wire.receive() == ["1"] * 1000


async def test_nothing_is_read_for_nobody(ends: tuple[Wire, DirectStream]) -> None:
    """While no one receives, what the peer sends stays in the kernel: it bounds it, not we."""
    wire, right = ends
    await right.send_all(frame(TEXT, b"x") * 100)
    await trio.testing.wait_all_tasks_blocked()
    assert wire.bytes_in == 0
    assert await receive(wire, 100) == ["x"] * 100


async def test_a_peer_that_never_pauses(ends: tuple[Wire, DirectStream]) -> None:
    """Each receive returns what one read brought, however slow the receiver is."""
    wire, right = ends

    async def flood() -> None:
        while True:
            await right.send_all(frame(TEXT, b"x") * 1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        for _ in range(20):
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            with trio.fail_after(10):
                messages = await wire.receive()
            assert 0 < len(messages) <= READ_BYTES / 3
        nursery.cancel_scope.cancel()


async def test_what_was_read_behind_the_handshake_comes_first(open_wire: Open) -> None:
    """`leftover` is taken by the first receive, and counts as bytes in."""
    left, right = small_pair()
    data = frame(TEXT, b"one") + frame(TEXT, b"two")
    async with open_wire(left, leftover=data[:7]) as wire, right:
        await right.send_all(data[7:])
        with trio.testing.assert_checkpoints():
            assert await wire.receive() == ["one"]
        assert await wire.receive() == ["two"]
        assert wire.bytes_in == len(data)


async def test_every_send_and_receive_is_a_checkpoint(pair: tuple[Wire, Wire]) -> None:
    """Also where nothing has to be waited for."""
    client, server = pair
    for batch in ([], [Sent(b"x")], [Sent(b"x")] * 3):
        with trio.testing.assert_checkpoints():
            await client.send(batch)
    with trio.testing.assert_checkpoints():
        await client.flush()
    await server.send([Sent(b"x")])
    with trio.testing.assert_checkpoints():
        await client.receive()


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_receive_loses_nothing(
    ends: tuple[Wire, DirectStream], turns: int
) -> None:
    """At whatever turn of the loop it is cancelled."""
    wire, right = ends
    await right.send_all(frame(TEXT, b"1") + frame(PING) + frame(TEXT, b"2") + frame(TEXT, b"3"))
    got: list[str | bytes] = []

    async def read() -> None:
        got.extend(await wire.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert got + await receive(wire, 3 - len(got)) == ["1", "2", "3"]


# -- sending ----------------------------------------------------------------


async def test_a_cancelled_send_breaks_the_link_and_tells_how_far_it_came(
    ends: tuple[Wire, DirectStream],
) -> None:
    """`written` counts the whole messages; the peer gets no frame after the torn one."""
    wire, right = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.send, [Sent(b"whole"), Sent(bytes(60_000), True)])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert wire.written == 1
    taken = wire.bytes_out
    assert not wire.send_nowait([Sent(b"x")])
    assert not wire.ping()
    with pytest.raises(trio.BrokenResourceError):
        await wire.send([Sent(b"x")])
    with pytest.raises(trio.BrokenResourceError):
        await wire.flush()
    with trio.fail_after(5):
        await wire.close()
        assert sum([len(chunk) async for chunk in right]) == taken


@pytest.mark.parametrize("turns", range(5))
async def test_a_send_cancelled_at_any_turn_is_whole_or_the_last(
    ends: tuple[Wire, DirectStream], turns: int
) -> None:
    """What the peer gets are whole frames, and a broken link sends no more."""
    wire, right = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.send, [Sent(b"%d" % n) for n in range(3)])
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    try:
        await wire.send([Sent(b"later")])
        broken = False
    except trio.BrokenResourceError:
        broken = True
    written = wire.written
    wire.abort()
    got = [f.data for f in parse(b"".join([chunk async for chunk in right]), masked=True)]
    sent = [b"0", b"1", b"2"][: written if broken else written - 1]
    assert got == (sent if broken else [*sent, b"later"])


async def test_a_send_that_was_cancelled_before_it_began_breaks_nothing(
    pair: tuple[Wire, Wire],
) -> None:
    """Nothing was taken in."""
    client, server = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send([Sent(b"never")])
    assert client.bytes_out == 0
    await client.send([Sent(b"ever")])
    assert await receive(server, 1) == ["ever"]


@pytest.mark.parametrize("turns", range(6))
async def test_send_soon_cancelled_at_any_turn_is_whole_or_nothing(
    pair: tuple[Wire, Wire], turns: int
) -> None:
    """And breaks nothing: the next message arrives."""
    client, server = pair
    taken = []

    async def send() -> None:
        taken.append(await client.send_soon([Sent(b"maybe")] * 3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await client.send([Sent(b"ever")])
    expected = ["maybe"] * 3 * len(taken) + ["ever"]
    assert await receive(server, len(expected)) == expected
    assert client.written == len(expected)


@pytest.mark.parametrize("turns", range(4))
async def test_a_close_amid_send_soon(ends: tuple[Wire, DirectStream], turns: int) -> None:
    """The message goes before the close frame, or not at all."""
    wire, right = ends
    taken = []

    async def send() -> None:
        taken.append(await wire.send_soon([Sent(b"x")]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        nursery.start_soon(wire.close)
        await trio.testing.wait_all_tasks_blocked()
        frames = parse(await right.receive_some(), masked=True)
        assert [f.opcode for f in frames] == [TEXT] * taken[0] + [CLOSE]
        nursery.cancel_scope.cancel()


async def test_send_soon_needs_no_more_than_a_turn(pair: tuple[Wire, Wire]) -> None:
    """False, and nothing taken in, where the kernel is full, the writer at work, or at the end."""
    client, server = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, [Sent(bytes(60_000), True)] * 3)
        await trio.testing.wait_all_tasks_blocked()
        assert not await client.send_soon([Sent(b"x")])
        assert len(await receive(server, 3)) == 3
    assert await client.send_soon([Sent(b"y")])
    assert await receive(server, 1) == ["y"]
    server.close_nowait(1000)
    await receive_end(client)
    assert not await client.send_soon([Sent(b"x")])
    assert client.written == 4


async def test_one_task_sends(pair: tuple[Wire, Wire]) -> None:
    """A second one is busy, and direct writes do not get into a batch."""
    client, server = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, [Sent(bytes(60_000), True)] * 3)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.send([Sent(b"x")])
        assert not client.send_nowait([Sent(b"x")])
        assert len(await receive(server, 3)) == 3


async def test_a_stream_without_try_send_will_do(open_wire: Open) -> None:
    """Everything goes by the writer; a pong waits for its flush."""
    left, right = trio.testing.memory_stream_pair()
    server = WebSocketsWire(right, protocol(SERVER), max_message_bytes=100)
    async with open_wire(left) as client:
        assert not client.send_nowait([Sent(b"x")])
        assert client.ping()
        await client.send([Sent(b"hello")])
        assert await receive(server, 1) == ["hello"]
        await server.flush()
        await receive_until(client, lambda: client.pongs == 1)
        assert server.ping()
        await server.flush()
        await receive_until(client, lambda: client.wants_flush)
        await client.flush()
        assert await server.receive() == []
        assert server.pongs == 1
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.close, 1001)
                assert (await receive_end(server)).code == 1001
                await server.close()
        assert (await receive_end(client)).code == 1001


# -- pings ------------------------------------------------------------------


async def test_a_ping_is_answered_by_receiving(pair: tuple[Wire, Wire]) -> None:
    """Both sides; the pong is counted, with its bytes."""
    client, server = pair
    assert not client.ping()
    await receive_until(server, lambda: server.bytes_out)
    await receive_until(client, lambda: client.pongs)
    assert (client.pongs, client.bytes_in) == (1, server.bytes_out)
    sent = client.bytes_out
    assert not server.ping()
    await receive_until(client, lambda: client.bytes_out > sent)
    await receive_until(server, lambda: server.pongs)
    assert (server.pongs, server.bytes_in) == (1, client.bytes_out)


async def test_pings_are_answered_in_order(ends: tuple[Wire, DirectStream]) -> None:
    """Ten at once, as in Autobahn 2.10, with their payloads, between messages."""
    wire, right = ends
    await right.send_all(b"".join(frame(PING, b"%d" % n) + frame(TEXT, b"m") for n in range(10)))
    assert await receive(wire, 10) == ["m"] * 10
    answers = b""
    with trio.fail_after(5):
        while len(answers) < 10 * 7:
            answers += await right.receive_some()
    assert [(f.opcode, f.data) for f in parse(answers, masked=True)] == [
        (PONG, b"%d" % n) for n in range(10)
    ]


async def test_a_peer_that_pings_and_does_not_read_costs_no_memory(
    ends: tuple[Wire, DirectStream],
) -> None:
    """Of the pongs that the kernel does not take only the newest wait."""
    wire, right = ends
    pings = frame(PING, b"x" * 100) * 500

    async def flood() -> None:
        for _ in range(20):
            await right.send_all(pings)
        await right.send_all(frame(TEXT, b"end"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        assert await receive(wire, 1) == ["end"]
        nursery.start_soon(wire.flush)
        answered = b""
        with trio.fail_after(5):
            while not wire.idle or len(answered) < wire.bytes_out:
                answered += await right.receive_some()
    assert parse(answered, masked=True)[-1].data == b"x" * 100
    assert len(answered) < 200_000


# -- ends -------------------------------------------------------------------


@pytest.mark.parametrize("closer", [0, 1])
async def test_the_closing_handshake(pair: tuple[Wire, Wire], closer: int) -> None:
    """Either side may begin; both learn code and reason, after the messages before it."""
    ours, theirs = pair[closer], pair[1 - closer]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await ours.send([Sent(b"last")])
            nursery.start_soon(ours.close, 4001, "done")
            assert await receive(theirs, 1) == ["last"]
            closed = await receive_end(theirs)
            await theirs.close()
    assert (closed.code, closed.reason, closed.by_peer) == (4001, "done", True)
    echoed = await receive_end(ours)
    assert (echoed.code, echoed.reason, echoed.by_peer) == (4001, "done", True)


async def test_both_sides_may_close_at_once(pair: tuple[Wire, Wire]) -> None:
    """Neither waits for the other."""
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair[0].close, 1000)
            nursery.start_soon(pair[1].close, 1001)
    assert (await receive_end(pair[0])).code == 1001
    assert (await receive_end(pair[1])).code == 1000


async def test_a_close_without_a_code_is_1005(ends: tuple[Wire, DirectStream]) -> None:
    """And is answered without one."""
    wire, right = ends
    await right.send_all(frame(CLOSE))
    closed = await receive_end(wire)
    assert (closed.code, closed.reason, closed.by_peer) == (1005, "", True)
    assert [(f.opcode, f.data) for f in parse(await right.receive_some(), masked=True)] == [
        (CLOSE, b"")
    ]


async def test_closing_discards_data_and_answers_pings(ends: tuple[Wire, DirectStream]) -> None:
    """Until the peer's close comes, which ends it: no error, and no second close frame."""
    wire, right = ends
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.close)
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
        assert await right.receive_some() == b""


async def test_a_client_waits_for_the_server_to_close_tcp(ends: tuple[Wire, DirectStream]) -> None:
    """RFC 6455, 7.1.1: so that the server's port is not left in TIME_WAIT here."""
    wire, right = ends
    done = trio.Event()

    async def close() -> None:
        await wire.close()
        done.set()

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


async def test_a_cancelled_close_closes_the_socket(ends: tuple[Wire, DirectStream]) -> None:
    """A peer that never answers holds nothing."""
    wire, right = ends
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.close)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with trio.fail_after(5):
        assert len(b"".join([chunk async for chunk in right])) == 8
    assert (await receive_end(wire)).by_peer is False


async def test_closing_a_broken_link_closes_the_socket(open_wire: Open) -> None:
    """Without an error."""
    left, right = small_pair()
    async with open_wire(left) as wire:
        right.abort()
        with trio.fail_after(5):
            await wire.close()
            assert (await receive_end(wire)).code == 1006
        assert left.socket.fileno() == -1


async def test_an_end_without_a_close_is_1006(ends: tuple[Wire, DirectStream]) -> None:
    """The peer's doing; close is quick then. What came before it is delivered."""
    wire, right = ends
    await right.send_all(frame(TEXT, b"last") + frame(TEXT, b"part")[:3])
    await right.aclose()
    assert await receive(wire, 1) == ["last"]
    closed = await receive_end(wire)
    assert (closed.code, closed.by_peer) == (1006, True)
    with trio.fail_after(5):
        await wire.close()


async def test_a_reset_is_1006_with_its_cause(open_wire: Open) -> None:
    """The stream's error is chained."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    async with open_wire(DirectStream(left)) as wire:
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        right.close()
        closed = await receive_end(wire)
        assert (closed.code, closed.by_peer) == (1006, True)
        assert isinstance(closed.__cause__, trio.BrokenResourceError)


async def test_abort_ends_everything_and_may_be_repeated(ends: tuple[Wire, DirectStream]) -> None:
    """A waiting reader gets LinkClosed, not the peer's doing; the peer sees the end."""
    wire, right = ends
    found = []

    async def read() -> None:
        found.append(await receive_end(wire))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            wire.abort()
            wire.abort()
        assert await right.receive_some() == b""
    assert (found[0].code, found[0].by_peer) == (1006, False)
    assert not wire.send_nowait([Sent(b"x")])
    with pytest.raises(trio.BrokenResourceError):
        await wire.send([Sent(b"x")])


async def test_close_nowait_says_goodbye(ends: tuple[Wire, DirectStream]) -> None:
    """One close frame and the end, at once; the reason is cut at a character."""
    wire, right = ends
    wire.close_nowait(1001, "ü" * 100)
    wire.close_nowait(1000)
    with trio.fail_after(5):
        [closing] = parse(b"".join([chunk async for chunk in right]), masked=True)
    assert (closing.opcode, closing.data) == (CLOSE, b"\x03\xe9" + ("ü" * 61).encode())


async def test_nothing_is_sent_after_a_close(ends: tuple[Wire, DirectStream]) -> None:
    """send raises, send_nowait is False, and the peer gets the close frame alone."""
    wire, right = ends
    await right.send_all(frame(CLOSE, b"\x03\xe8"))
    assert (await receive_end(wire)).code == 1000
    assert not wire.send_nowait([Sent(b"x")])
    with pytest.raises(trio.BrokenResourceError):
        await wire.send([Sent(b"x")])
    await right.send_eof()
    with trio.fail_after(5):
        await wire.close()
        [closing] = parse(b"".join([chunk async for chunk in right]), masked=True)
    assert (closing.opcode, closing.data) == (CLOSE, b"\x03\xe8")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_a_code_that_may_not_be_sent_is_refused(
    ends: tuple[Wire, DirectStream], code: int
) -> None:
    """Before anything is written."""
    wire, _ = ends
    with pytest.raises(OptionError, match="code"):
        await wire.close(code)
    with pytest.raises(OptionError, match="code"):
        wire.close_nowait(code)
    assert wire.bytes_out == 0


FAULTS: dict[str, tuple[int, bytes]] = {
    "a reserved opcode": (1002, b"\x83\x00"),
    "reserved bits": (1002, b"\xf1\x01x"),
    "a mask": (1002, frame(TEXT, b"x", to=SERVER)),
    "a continuation of nothing": (1002, frame(CONT, b"x")),
    "a message in a message": (1002, frame(TEXT, b"x", fin=False) + frame(TEXT, b"y")),
    "a fragmented ping": (1002, b"\x09\x00"),
    "a long ping": (1002, b"\x89\x7e\x00\x7e" + bytes(126)),
    "a close of one byte": (1002, b"\x88\x01x"),
    "invalid UTF-8": (1007, frame(TEXT, b"\xff")),
    "too large, in one frame": (1009, b"\x82\x7e\xff\xff"),
    "too large, in a frame without an end": (1009, b"\x82\x7f\x7f" + b"\xff" * 7),
    "too large, in fragments": (1009, frame(TEXT, b"x" * 600, fin=False) + b"\x80\x7e\x02\x58"),
    # 501 characters, 1002 bytes
    "too large, by its bytes": (1009, frame(TEXT, "é".encode() * 501)),
    "too many fragments": (1009, frame(TEXT, b"", fin=False) + frame(CONT, fin=False) * 3),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_peer_closes_the_link_with_its_code(
    open_wire: Open, name: str, whole: bool
) -> None:
    """The messages before it are delivered first, the peer is told, the socket is closed."""
    code, fault = FAULTS[name]
    left, right = small_pair()
    async with open_wire(left, limit=1000, fragments=3) as wire, right:
        await right.send_all(frame(TEXT, b"good"))
        if not whole:
            assert await receive(wire, 1) == ["good"]
        await right.send_all(fault)
        if whole:
            assert await receive(wire, 1) == ["good"]
        closed = await receive_end(wire)
        assert (closed.code, closed.by_peer) == (code, False)
        [closing] = parse(await right.receive_some(), masked=True)
        assert closing.opcode == CLOSE
        assert closing.data[:2] == code.to_bytes(2, "big")
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wire.close)
                await right.send_all(b"x" * 100_000)
                await right.send_eof()
        assert left.socket.fileno() == -1


# -- TLS --------------------------------------------------------------------


async def tls_pair() -> tuple[TlsStream, TlsStream]:
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
    return client, server


async def test_a_link_over_tls(open_wire: Open) -> None:
    """Large messages both ways, and the closing handshake."""
    left, right = await tls_pair()
    server: Wire = WebSocketsWire(right, protocol(SERVER), max_message_bytes=2**20)
    batch: Sequence[Sent] = [Sent(os.urandom(size), True) for size in SIZES]
    async with open_wire(left) as client:
        with trio.fail_after(10):
            for one, other in ((client, server), (server, client)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.send, batch)
                    assert await receive(other, len(batch)) == [m.data for m in batch]
                assert one.written == len(batch)
                assert one.idle
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.close, 1001)
                assert (await receive_end(server)).code == 1001
                await server.close()


async def test_over_tls_a_cut_is_1006(open_wire: Open) -> None:
    """No close_notify, no orderly end."""
    left, right = await tls_pair()
    async with open_wire(left) as client:
        right.abort()
        closed: LinkClosed = await receive_end(client)
        assert (closed.code, closed.by_peer) == (1006, True)

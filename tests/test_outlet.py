"""trio_rt._outlet"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
import trustme

from trio_rt._outlet import CLOSE, PING, PONG, Outlet
from trio_rt._streams import DirectStream
from trio_rt._tls import TlsStream

BIG = b"b" * 200_000


def pair() -> tuple[DirectStream, DirectStream]:
    """A connection whose kernel buffers are small."""
    left, right = socket.socketpair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    return DirectStream(left), DirectStream(right)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[DirectStream, DirectStream]]:
    left, right = pair()
    async with left, right:
        yield left, right


async def read(stream: trio.abc.Stream, size: int) -> bytes:
    data = b""
    with trio.fail_after(5):
        while len(data) < size:
            chunk = await stream.receive_some(size - len(data))
            assert chunk, f"the end after {len(data)} bytes"
            data += chunk
    return data


async def read_all(stream: trio.abc.Stream) -> bytes:
    with trio.fail_after(5):
        return b"".join([chunk async for chunk in stream])


async def test_an_idle_outlet_writes_at_once(ends: tuple[DirectStream, DirectStream]) -> None:
    """The batch is with the kernel when write_now returns, and counted."""
    left, right = ends
    outlet = Outlet(left)
    assert outlet.ready
    assert outlet.write_now([b"one", b"two"])
    assert (outlet.taken, outlet.written, outlet.idle) == (6, 2, True)
    assert await read(right, 6) == b"onetwo"


async def test_what_the_kernel_does_not_take_is_the_remainder(
    ends: tuple[DirectStream, DirectStream],
) -> None:
    """It is flushed before anything else, and `written` counts whole messages only."""
    left, right = ends
    outlet = Outlet(left)
    assert outlet.write_now([b"first", BIG, b"last"])
    assert 5 < outlet.taken < len(BIG)
    assert outlet.written == 1
    assert not outlet.idle
    assert outlet.wants_flush
    assert not outlet.write_now([b"not now"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.flush)
        assert await read(right, 9 + len(BIG)) == b"first" + BIG + b"last"
    assert (outlet.written, outlet.idle, outlet.wants_flush) == (3, True, False)
    assert outlet.taken == 9 + len(BIG)


async def test_a_full_kernel_takes_nothing_in(ends: tuple[DirectStream, DirectStream]) -> None:
    """write_now is False and the outlet stays idle; `keep` makes a remainder of it all."""
    left, right = ends
    filled = 0
    while sent := left.try_send(b"f" * 1000):
        filled += sent
    outlet = Outlet(left)
    assert not outlet.write_now([b"again"])
    assert outlet.idle
    assert outlet.write_now([b"kept"], keep=True)
    assert (outlet.idle, outlet.written) == (False, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.flush)
        assert (await read(right, filled + 4))[-4:] == b"kept"
    assert outlet.written == 1


async def test_control_frames_wait_for_the_remainder_and_have_one_slot_each(
    ends: tuple[DirectStream, DirectStream],
) -> None:
    """The newest of each kind goes out: pong, then ping, then close."""
    left, right = ends
    outlet = Outlet(left)
    outlet.write_now([BIG])
    outlet.put_control(CLOSE, b"<close>")
    outlet.put_control(PING, b"<ping>")
    for number in range(100_000):
        outlet.put_control(PONG, b"<pong %d>" % number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.flush)
        expected = BIG + b"<pong 99999><ping><close>"
        assert await read(right, len(expected)) == expected


async def test_an_idle_outlet_writes_a_control_frame_at_once(
    ends: tuple[DirectStream, DirectStream],
) -> None:
    """Without a flush; it is no message."""
    left, right = ends
    outlet = Outlet(left)
    outlet.put_control(PONG, b"<pong>")
    assert not outlet.wants_flush
    assert await read(right, 6) == b"<pong>"
    assert (outlet.written, outlet.taken) == (0, 6)


async def test_control_frames_go_between_two_writes(
    ends: tuple[DirectStream, DirectStream],
) -> None:
    """A ping queued during a write goes before the next one, not into it."""
    left, right = ends
    outlet = Outlet(left)

    async def write() -> None:
        await outlet.write([BIG], messages=False)
        await outlet.write([b"<end>"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        outlet.put_control(PING, b"<ping>")
        assert await read(right, len(BIG) + 11) == BIG + b"<ping><end>"
    assert outlet.written == 1


async def test_messages_count_when_control_frames_go_before_them(
    ends: tuple[DirectStream, DirectStream],
) -> None:
    """The bytes of control frames do not make messages look written."""
    left, right = ends
    outlet = Outlet(left)
    outlet.put_control(PONG, b"p" * 4000)
    outlet.write_now([BIG])
    outlet.put_control(PING, b"p" * 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.write, [b"x" * 100, BIG])
        await trio.testing.wait_all_tasks_blocked()
        assert outlet.written == 0
        await read(right, 4000 + len(BIG) + 200)
        await trio.testing.wait_all_tasks_blocked()
        assert outlet.written == 2
        await read(right, len(BIG))
    assert outlet.written == 3


async def test_a_cancelled_write_breaks_the_outlet_for_ever(
    ends: tuple[DirectStream, DirectStream],
) -> None:
    """Half a frame is followed by nothing, whoever tries."""
    left, right = ends
    outlet = Outlet(left)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.write, [b"whole", BIG])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    taken = outlet.taken
    assert outlet.written == 1
    assert not outlet.idle
    assert not outlet.wants_flush
    assert not outlet.write_now([b"x"])
    outlet.put_control(PING, b"x")
    with pytest.raises(trio.BrokenResourceError):
        await outlet.write([b"x"])
    with pytest.raises(trio.BrokenResourceError):
        await outlet.flush()
    await left.aclose()
    assert await read_all(right) == (b"whole" + BIG)[:taken]


async def test_a_cancelled_flush_is_resumed_by_the_next(
    ends: tuple[DirectStream, DirectStream],
) -> None:
    """A direct stream's remainder stays, to the byte."""
    left, right = ends
    outlet = Outlet(left)
    outlet.write_now([BIG])
    for _ in range(3):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outlet.flush)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.flush)
        assert await read(right, len(BIG)) == BIG


async def test_a_failing_write_breaks_the_outlet() -> None:
    """write_now is False, and the writer's calls raise BrokenResourceError."""
    left, right = pair()
    right.abort()
    async with left:
        outlet = Outlet(left)
        assert not outlet.write_now([b"x"])
        assert outlet.broken
        with pytest.raises(trio.BrokenResourceError):
            await outlet.write([b"x"])


async def test_a_reset_during_a_write_raises_and_breaks() -> None:
    """The waiting writer gets BrokenResourceError."""
    left, right = pair()
    outlet = Outlet(left)
    async with left:

        async def write() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await outlet.write([BIG])

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await trio.testing.wait_all_tasks_blocked()
                right.abort()
    assert outlet.broken


async def test_closing_the_stream_under_a_writer_ends_it() -> None:
    """An abort wakes the writer with a stream error, and the outlet is broken."""
    left, right = pair()
    outlet = Outlet(left)

    async def write() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await outlet.write([BIG])

    async with right:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await trio.testing.wait_all_tasks_blocked()
                left.abort()
    assert outlet.broken


async def test_only_one_task_writes(ends: tuple[DirectStream, DirectStream]) -> None:
    """A second writer gets BusyResourceError and disturbs nothing."""
    left, right = ends
    outlet = Outlet(left)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.write, [BIG])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await outlet.write([b"x"])
        assert not outlet.write_now([b"x"])
        assert await read(right, len(BIG)) == BIG


async def test_flush_is_a_checkpoint(ends: tuple[DirectStream, DirectStream]) -> None:
    """Also with nothing to do."""
    outlet = Outlet(ends[0])
    with trio.testing.assert_checkpoints():
        await outlet.flush()


async def test_a_stream_without_try_send_is_written_by_the_writer_alone() -> None:
    """write_now is False, control frames wait, and counts move with whole writes."""
    left, right = trio.testing.memory_stream_pair()
    outlet = Outlet(left)
    assert not outlet.ready
    assert not outlet.write_now([b"x"], keep=True)
    outlet.put_control(PING, b"<ping>")
    assert outlet.wants_flush
    await outlet.write([b"one", b"two"])
    assert (outlet.written, outlet.taken, outlet.idle) == (2, 12, True)
    assert await read(right, 12) == b"<ping>onetwo"


async def test_a_cancelled_send_all_breaks_the_outlet() -> None:
    """Where it stopped nobody knows: nothing of it counts, and nothing follows."""
    left, _right = trio.testing.lockstep_stream_pair()
    outlet = Outlet(left)
    outlet.put_control(PING, b"<ping>")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.flush)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert outlet.taken == 0
    with pytest.raises(trio.BrokenResourceError):
        await outlet.flush()


class Reluctant(trio.abc.Stream):
    """A direct stream that says it is writable and takes nothing directly."""

    def __init__(self, lower: trio.abc.Stream) -> None:
        self.lower = lower
        self.tries = 0

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        self.tries += 1
        return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.lower.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.lower.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.lower.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.lower.aclose()


async def test_a_stream_that_is_writable_and_takes_nothing_makes_no_hot_loop() -> None:
    """After one vain turn its send_all does the work."""
    left, right = trio.testing.memory_stream_pair()
    stream = Reluctant(left)
    outlet = Outlet(stream)
    with trio.fail_after(5):
        await outlet.write([b"hello"])
    assert stream.tries == 3
    assert outlet.written == 1
    assert await read(right, 5) == b"hello"


async def test_over_tls_a_message_is_written_when_its_ciphertext_is() -> None:
    """What TLS took in and the kernel did not is no reason to count, or to write more."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    left, right = pair()
    client = TlsStream(left, client_context, server_hostname="example.org")
    server = TlsStream(right, server_context, server_side=True)
    async with client, server:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.do_handshake)
                nursery.start_soon(server.do_handshake)
        outlet = Outlet(client)
        assert outlet.ready
        assert outlet.write_now([b"x" * 60_000])
        assert client.pending
        assert (outlet.taken, outlet.written, outlet.idle) == (0, 0, False)
        assert outlet.wants_flush
        assert not outlet.write_now([b"x"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outlet.write, [b"tail"])
            assert await read(server, 60_004) == b"x" * 60_000 + b"tail"
        assert (outlet.taken, outlet.written, outlet.idle) == (60_004, 2, True)

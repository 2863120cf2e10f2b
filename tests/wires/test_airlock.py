"""trio_rt.wires._airlock"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from websockets.protocol import SERVER

from trio_rt._outlet import Outlet
from trio_rt._streams import DirectStream
from trio_rt.wires._airlock import Airlock

from .support import CLOSE, PONG, TEXT, frame


async def nothing() -> bytes:
    """The network, for a library that does not read."""
    raise NotImplementedError


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Airlock, DirectStream]]:
    """An airlock whose library has made its request, and the peer."""
    left, right = map(DirectStream, socket.socketpair())
    airlock = Airlock(Outlet(left), nothing)
    await airlock.send_all(b"GET / HTTP/1.1\r\n\r\n")
    async with left, right:
        yield airlock, right


async def test_the_first_thing_written_is_the_request() -> None:
    """It is waited for, and does not go out."""
    left, right = map(DirectStream, socket.socketpair())
    airlock = Airlock(Outlet(left), nothing)
    found = []

    async def wait() -> None:
        found.append(await airlock.request())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await airlock.send_all(b"GET")
    assert found == [b"GET"]
    left.abort()
    assert await right.receive_some() == b""
    right.abort()


async def test_data_waits_for_the_writer_and_a_pong_does_not(
    ends: tuple[Airlock, DirectStream],
) -> None:
    """Data frames come by `take_frames`, once; a pong goes out at once."""
    airlock, right = ends
    pong, text = frame(PONG, b"x", to=SERVER), frame(TEXT, b"x", to=SERVER)
    await airlock.send_all(bytearray(text))
    await airlock.send_all(pong)
    assert await right.receive_some() == pong
    assert airlock.take_frames() == [text]
    assert airlock.take_frames() == []


@pytest.mark.parametrize("ours_first", [True, False])
async def test_one_close_frame_goes_out(
    ends: tuple[Airlock, DirectStream], ours_first: bool
) -> None:
    """The first, whoever made it; that the library wrote one is noted in any case."""
    airlock, right = ends
    ours, theirs = (frame(CLOSE, bytes([3, code]), to=SERVER) for code in (232, 233))
    if ours_first:
        airlock.put_close(ours)
    assert not airlock.answered_close
    await airlock.send_all(theirs)
    airlock.put_close(ours)
    assert await right.receive_some() == (ours if ours_first else theirs)
    assert airlock.closing
    assert airlock.answered_close


async def test_the_library_reads_the_answer_and_then_the_network() -> None:
    """Each whole, whatever it asks for."""
    reads = [b"one", b"two", b""]

    async def more() -> bytes:
        await trio.lowlevel.checkpoint()
        return reads.pop(0)

    left, right = map(DirectStream, socket.socketpair())
    airlock = Airlock(Outlet(left), more)
    read: list[bytes] = []

    async def library() -> None:
        while not read or read[-1]:
            read.append(await airlock.receive_some(1))

    async with left, right, trio.open_nursery() as nursery:
        nursery.start_soon(library)
        await trio.testing.wait_all_tasks_blocked()
        assert read == []
        airlock.answer(b"HTTP/1.1 101 Yes\r\n\r\n")
    assert read == [b"HTTP/1.1 101 Yes\r\n\r\n", b"one", b"two", b""]


async def test_only_the_wire_closes_the_socket(ends: tuple[Airlock, DirectStream]) -> None:
    """A library that closes what it takes for it ends its own task."""
    airlock, right = ends
    with trio.testing.assert_checkpoints():
        await airlock.wait_send_all_might_not_block()
    with airlock.scope:
        await airlock.aclose()
    assert airlock.scope.cancelled_caught
    pong = frame(PONG, b"x", to=SERVER)
    await airlock.send_all(pong)
    assert await right.receive_some() == pong

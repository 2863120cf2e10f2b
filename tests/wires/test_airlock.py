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


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Airlock, DirectStream]]:
    """An airlock whose library has made its request, and the peer."""
    left, right = map(DirectStream, socket.socketpair())
    airlock = Airlock(Outlet(left))
    await airlock.send_all(b"GET / HTTP/1.1\r\n\r\n")
    async with left, right:
        yield airlock, right


async def test_the_first_thing_written_is_the_request() -> None:
    """It is waited for, and does not go out."""
    left, right = map(DirectStream, socket.socketpair())
    airlock = Airlock(Outlet(left))
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
    """The first, whoever made it; the library's is noted in any case."""
    airlock, right = ends
    ours, theirs = (frame(CLOSE, bytes([3, code]), to=SERVER) for code in (232, 233))
    if ours_first:
        airlock.put_close(ours)
    await airlock.send_all(theirs)
    airlock.put_close(ours)
    assert await right.receive_some() == (ours if ours_first else theirs)
    assert airlock.closing
    assert airlock.close_frame == theirs


async def test_idle_is_when_the_library_is_back_for_more(
    ends: tuple[Airlock, DirectStream],
) -> None:
    """It gets all that was given at once, whatever it asks for."""
    airlock, _ = ends
    read: list[bytes] = []

    async def library() -> None:
        while not airlock.over:
            read.append(await airlock.receive_some(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(library)
        await airlock.wait_idle()
        airlock.give(b"one")
        airlock.give(b"two")
        assert not airlock.idle
        await airlock.wait_idle()
        assert read == [b"onetwo"]
        airlock.give(b"")
        assert airlock.idle
        airlock.give(b"three")
        airlock.end()
        await airlock.wait_idle()
        nursery.cancel_scope.cancel()
    assert not airlock.idle


async def test_only_the_wire_closes_the_socket(ends: tuple[Airlock, DirectStream]) -> None:
    """The library may close what it takes for it."""
    airlock, right = ends
    with trio.testing.assert_checkpoints():
        await airlock.aclose()
    assert airlock.over
    with trio.testing.assert_checkpoints():
        await airlock.wait_send_all_might_not_block()
    pong = frame(PONG, b"x", to=SERVER)
    await airlock.send_all(pong)
    assert await right.receive_some() == pong

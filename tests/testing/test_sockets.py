from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_rt.testing import _sockets
from trio_rt.testing._sockets import finish, listen, open_small, reset_on_close, wait_sent

from .relayed import LIMIT_S, read_to_the_end


@asynccontextmanager
async def _pair(host: str = "127.0.0.1") -> AsyncIterator[tuple[trio.SocketStream, ...]]:
    """Two ends of a connection."""
    with trio.fail_after(LIMIT_S):
        async with listen(host, 0) as listener:
            port = listener.socket.getsockname()[1]
            async with await open_small(host, port) as one, await listener.accept() as other:
                yield one, other


def _fill(stream: trio.SocketStream) -> None:
    """Give the kernel all that it takes."""
    try:
        while True:
            os.write(stream.socket.fileno(), bytes(1000))
    except BlockingIOError:
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_families(host: str) -> None:
    """IPv4 and IPv6 addresses can be listened on and connected to, with small buffers."""
    async with _pair(host) as ends:
        for stream in ends:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                size = stream.getsockopt(socket.SOL_SOCKET, option)
                assert size in (_sockets.BUFFER_BYTES, 2 * _sockets.BUFFER_BYTES)


async def test_a_port_that_is_taken() -> None:
    """It is an OSError, and leaves no socket behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", taken.getsockname()[1])


async def test_nobody_there() -> None:
    """A dial that is refused is an OSError, and leaves no socket behind."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await open_small(*bound.getsockname())


async def test_the_two_ends() -> None:
    """A FIN is an end of file; closing a stream that was made ready for it is a reset."""
    async with _pair() as (one, other):
        finish(one)
        assert await read_to_the_end(other) == (b"", "EOF")
        reset_on_close(other)
        await other.aclose()
        assert await read_to_the_end(one) == (b"", "ECONNRESET")
        finish(one)


async def test_wait_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lasts until the peer has made room for everything."""
    monkeypatch.setattr(_sockets, "SENT_POLLS", 10**9)
    async with _pair() as (one, other), trio.open_nursery() as nursery:
        _fill(one)
        done = trio.Event()

        async def wait() -> None:
            await wait_sent(one)
            done.set()

        nursery.start_soon(wait)
        await trio.lowlevel.checkpoint()
        assert not done.is_set()
        nursery.start_soon(read_to_the_end, other)
        await done.wait()
        nursery.cancel_scope.cancel()


async def test_wait_sent_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never makes room is not waited for for ever."""
    monkeypatch.setattr(_sockets, "SENT_POLLS", 2)
    async with _pair() as (one, _):
        _fill(one)
        await wait_sent(one)


async def test_where_the_kernel_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows nothing is waited for."""
    async with _pair() as (one, _):
        _fill(one)
        monkeypatch.setattr(sys, "platform", "win32")
        with trio.testing.assert_no_checkpoints():
            await wait_sent(one)

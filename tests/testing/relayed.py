"""A relay on real sockets, for its tests."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from trio_rt.testing import Relay, serve_relay
from trio_rt.testing._sockets import BUFFER_BYTES

__all__ = ["LIMIT_S", "read_exactly", "read_to_the_end", "relayed", "until"]

LIMIT_S = 20.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks bring about, and no event tells."""
    while True:
        await trio.lowlevel.checkpoint()
        if condition():
            return


@asynccontextmanager
async def relayed(
    *, seed: int = 0, receive_buffer_bytes: int = BUFFER_BYTES
) -> AsyncIterator[tuple[Relay, trio.SocketStream, trio.SocketStream]]:
    """A relay, and the two ends of one connection through it."""
    with trio.fail_after(LIMIT_S):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener, trio.open_nursery() as nursery:
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            port = listener.socket.getsockname()[1]
            relay: Relay = await nursery.start(partial(serve_relay, seed=seed), "127.0.0.1", port)
            client = await trio.open_tcp_stream("127.0.0.1", relay.port)
            async with client, await listener.accept() as server:
                await until(lambda: relay.statistics().links == 1)
                yield relay, client, server
            nursery.cancel_scope.cancel()


async def read_to_the_end(stream: trio.SocketStream) -> tuple[bytes, str]:
    """All that comes, and "EOF" or the name of the error."""
    data = b""
    try:
        async for chunk in stream:
            data += chunk
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        return data, errno.errorcode[getattr(cause, "errno", 0)]
    return data, "EOF"


async def read_exactly(stream: trio.SocketStream, size: int) -> bytes:
    """The next `size` bytes."""
    data = b""
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        assert chunk
        data += chunk
    return data

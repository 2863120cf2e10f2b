"""TCP sockets with small buffers, and the ways to end them, for the relay."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

import trio

__all__ = ["BUFFER_BYTES", "finish", "listen", "open_small", "reset_on_close", "wait_sent"]

#: SO_RCVBUF and SO_SNDBUF of every socket. Linux doubles them.
BUFFER_BYTES: Final = 32 << 10

#: A cut after the last allowed byte waits for the kernel to send it, which
#: has no event for that: so often, so long.
SENT_POLLS: Final = 1000
SENT_POLL_S: Final = 0.001

_LINGER_0: Final = struct.pack("ii", 1, 0)


def listen(host: str, port: int) -> trio.SocketListener:
    """Listen on one address; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _limit_buffers(listening)
        listening.bind((host, port))
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


async def open_small(host: str, port: int) -> trio.SocketStream:
    """As `trio.open_tcp_stream`, to the first address, with small buffers from the start."""
    (family, *_, address), *_ = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    connecting = socket.socket(family, socket.SOCK_STREAM)
    _limit_buffers(connecting)
    connected = trio.socket.from_stdlib_socket(connecting)
    try:
        await connected.connect(address)
    except BaseException:
        connected.close()
        raise
    return trio.SocketStream(connected)


def _limit_buffers(unconnected: socket.socket) -> None:
    # Before connect and listen: the TCP window scale is settled there.
    unconnected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    unconnected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)


def reset_on_close(stream: trio.SocketStream) -> None:
    """Make an RST of its close, which throws away what the kernel has not sent."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)


def finish(stream: trio.SocketStream) -> None:
    """Send a FIN after what was sent."""
    try:
        stream.socket.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the peer was faster


async def wait_sent(stream: trio.SocketStream) -> None:
    """Wait until the kernel has sent what it holds, a second at most."""
    for _ in range(SENT_POLLS):
        if not _unsent_bytes(stream.socket.fileno()):
            return
        await trio.sleep(SENT_POLL_S)


def _unsent_bytes(fd: int) -> int:
    """What the kernel still holds, 0 where it cannot be asked."""
    if sys.platform == "win32":
        return 0
    import fcntl  # not on Windows
    import termios

    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

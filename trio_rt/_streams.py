"""Byte streams whose sending side can be written without waiting.

Goal: a message that finds the link idle goes to the kernel in the sender's own
task, with no task switch. trio's `SocketStream` and `SSLStream` cannot: their
`send_all` is async, and tells nobody how many bytes went out when it fails.

The rule. A *direct* stream has `try_send(data) -> int`, which never waits and
says how many bytes it took in. What it took in and the kernel has not is
`pending` (always 0 on a socket; ciphertext on TLS). So the sending side is
flushed when nothing is left to try *and* `pending` is 0; `try_send(b"")` after
`wait_send_all_might_not_block()` moves `pending` along.

The remaining hole: a foreign stream that is not direct and fails in `send_all`
leaves the count of its last write unknown.
"""

from __future__ import annotations

import errno
import socket
from typing import Final, Protocol, TypeAlias

import trio

__all__ = [
    "READ_BYTES",
    "Buffer",
    "DirectStream",
    "Sender",
    "abort_stream",
    "as_direct",
    "direct_stream",
]

#: What one read asks for: trio's own default, and a batch of ours.
READ_BYTES: Final = 65_536

#: Unsent bytes in the kernel above which the socket counts as full. trio takes
#: 16 KiB; with one batch of 64 KiB each write still goes out in one call.
NOTSENT_LOWAT_BYTES: Final = 65_536

Buffer: TypeAlias = bytes | bytearray | memoryview

_CLOSED_ERRNOS: Final = frozenset({errno.EBADF, errno.ENOTSOCK})


class Sender(Protocol):
    """The sending side of a direct stream."""

    def try_send(self, data: Buffer, /) -> int: ...

    async def wait_send_all_might_not_block(self) -> None: ...


def _mapped(error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
    if error.errno in _CLOSED_ERRNOS:
        return trio.ClosedResourceError("this socket was already closed")
    return trio.BrokenResourceError(f"socket connection broken: {error}")


class DirectStream(trio.abc.HalfCloseableStream):
    """A connected, non-blocking stdlib stream socket as a direct stream.

    It owns `sock` from now on. Broken connections raise
    `trio.BrokenResourceError`; every method may be cancelled, and only
    `send_all` then leaves it unknown how much was sent.
    """

    pending: Final = 0

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._sending = False
        self._receiving = False
        self._emptied = False
        self._eof_sent = False
        self._set_options()

    def _set_options(self) -> None:
        options = [(socket.TCP_NODELAY, 1)]
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            options.append((socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES))
        for option, value in options:
            try:
                self._sock.setsockopt(socket.IPPROTO_TCP, option, value)
            except OSError:  # a socket of another family, or a platform that lacks it
                pass

    @property
    def socket(self) -> socket.socket:
        """The socket, to ask it for its names and options."""
        return self._sock

    def try_send(self, data: Buffer, /) -> int:
        """Write without waiting: how many bytes the kernel took, 0 if none now."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        return self._send(data)

    def _send(self, data: Buffer) -> int:
        if self._eof_sent:
            raise trio.ClosedResourceError("cannot send after sending EOF")
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _mapped(error) from error

    def _start_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._start_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            with memoryview(data) as rest:
                sent = self._send(rest)
                if sent == len(rest):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                while sent < len(rest):
                    await trio.lowlevel.wait_writable(self._sock)
                    sent += self._send(rest[sent:])
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        self._start_sending()
        try:
            if self._sock.fileno() == -1:
                raise trio.ClosedResourceError("this socket was already closed")
            await trio.lowlevel.wait_writable(self._sock)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        self._start_sending()
        try:
            await trio.lowlevel.checkpoint()
            if not self._eof_sent:
                self._sock.shutdown(socket.SHUT_WR)
                self._eof_sent = True
        except OSError as error:
            raise _mapped(error) from error
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What one read brings; b"" at the end. One full checkpoint each."""
        wanted = READ_BYTES if max_bytes is None else max_bytes
        if wanted < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            if self._emptied and self._sock.fileno() != -1:
                return await self._wait_and_receive(wanted)
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                data = self._receive(wanted)
            except BlockingIOError:
                return await self._wait_and_receive(wanted)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return data
        except OSError as error:
            raise _mapped(error) from error
        finally:
            self._receiving = False

    async def _wait_and_receive(self, wanted: int) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._receive(wanted)
            except BlockingIOError:
                pass

    def _receive(self, wanted: int) -> bytes:
        data = self._sock.recv(wanted)
        # A short read has emptied the socket: to try again at once would be
        # a system call for nothing.
        self._emptied = len(data) < wanted
        return data

    def abort(self) -> None:
        """Close the socket now; whoever waits on it gets `ClosedResourceError`."""
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def aclose(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()


def as_direct(stream: trio.abc.Stream) -> Sender | None:
    """The stream's direct sending side, or None if it has none."""
    if not hasattr(stream, "try_send") or not getattr(stream, "is_direct", True):
        return None
    return stream


def direct_stream(stream: trio.abc.Stream) -> trio.abc.Stream:
    """`stream` itself, or the same socket as a `DirectStream` if it is trio's own."""
    if isinstance(stream, trio.SocketStream):
        return DirectStream(socket.socket(fileno=stream.socket.detach()))
    return stream


def abort_stream(stream: trio.abc.Stream) -> None:
    """Close `stream` now.

    By its own synchronous `abort()`; a stream without one is closed by a
    system task of trio's, in the next turn of the loop.
    """
    abort = getattr(stream, "abort", None)
    if abort is not None:
        abort()
    else:
        trio.lowlevel.spawn_system_task(_close_quietly, stream)


async def _close_quietly(stream: trio.abc.Stream) -> None:
    try:
        await trio.aclose_forcefully(stream)
    except Exception:  # nobody is left to tell, and a system task must not raise
        pass

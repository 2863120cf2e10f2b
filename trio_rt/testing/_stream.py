"""One end of a virtual link, as the stream that a program holds."""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol

import trio

from ._pipe import WRITABLE_BYTES, Pipe
from ._profile import LinkProfile

__all__ = ["VirtualStream"]


class Link(Protocol):
    """What a stream asks of the link that it is an end of."""

    name: str
    profile: LinkProfile

    def carry(self, pipe: Pipe, data: bytes) -> None:
        """Put into `pipe` what the writing end has taken."""

    def finish(self, pipe: Pipe) -> None:
        """The writing end of `pipe` sends its FIN."""

    def stop_reading(self, pipe: Pipe) -> None:
        """The reading end of `pipe` was closed."""

    def note(self, pipe: Pipe, event: str) -> None:
        """Put an event into the trace."""


class _OneAtATime:
    """A context manager that raises trio.BusyResourceError for the second task."""

    __slots__ = ("busy", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.busy = False

    def check(self) -> None:
        if self.busy:
            raise trio.BusyResourceError(f"another task is {self.what} on this stream")

    def __enter__(self) -> None:
        self.check()
        self.busy = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.busy = False


class VirtualStream(trio.abc.HalfCloseableStream):
    """A byte stream through a `VirtualNetwork`, as TCP would be.

    Besides trio's methods it has `try_send()` and `abort()`, by which trio_rt
    writes directly. Cancelling `send_all` may leave a part of the data sent;
    cancelling anything else loses nothing.
    """

    def __init__(self, link: Link, inbound: Pipe, outbound: Pipe) -> None:
        self._link: Final = link
        self._inbound: Final = inbound
        self._outbound: Final = outbound
        self._closed = False
        self._eof_sent = False
        self._sending: Final = _OneAtATime("sending")
        self._receiving: Final = _OneAtATime("receiving")

    def __repr__(self) -> str:
        return f"<VirtualStream of {self._link.name}{', closed' if self._closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether the program that holds this end has closed it."""
        return self._closed

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has arrived, at most `max_bytes`; b"" when the peer has finished.

        Raises trio.BrokenResourceError when the connection is reset.
        """
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await trio.lowlevel.checkpoint()
            while True:
                self._check_open()
                data = self._inbound.take(trio.current_time(), max_bytes)
                if data is not None:
                    self._link.note(self._inbound, f"read {len(data)}")
                    return data
                await _park(self._inbound.readers, self._inbound.readable_at)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it, waiting for room. Raises as `try_send()` does."""
        with self._sending, memoryview(data) as view:
            await trio.lowlevel.checkpoint()
            sent = self._write(view)
            while sent < len(view):
                await self._wait_room()
                sent += self._write(view[sent:])

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes of `data` were taken now, 0 if there is no room.

        Raises trio.BrokenResourceError when the connection is known to be
        reset, trio.ClosedResourceError when this end was closed, and
        trio.BusyResourceError inside another task's `send_all()`.
        """
        self._sending.check()
        with memoryview(data) as view:
            return self._write(view)

    def _write(self, view: memoryview) -> int:
        self._check_can_send()
        profile = self._link.profile
        size = self._outbound.shorten(len(view), profile)
        if size:
            self._link.carry(self._outbound, bytes(view[:size]))
        return size

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room, or the connection is reset."""
        with self._sending:
            self._check_open()
            await self._wait_room()

    async def _wait_room(self) -> None:
        await trio.lowlevel.checkpoint()
        wanted = 0 if self._outbound.room_bytes else WRITABLE_BYTES
        while self._outbound.room_bytes < wanted and not self._closed and not self._reset_known():
            await _park(self._outbound.writers, self._inbound.reset_known_at)
        self._check_open()

    async def send_eof(self) -> None:
        """Send FIN. The other direction stays open."""
        with self._sending:
            self._check_open()
            await trio.lowlevel.checkpoint()
            self._check_open()
            if not self._eof_sent:
                self._eof_sent = True
                self._link.finish(self._outbound)

    def abort(self) -> None:
        """Close at once. As with a socket, unread bytes make a reset of the FIN."""
        if self._closed:
            return
        self._closed = True
        if not self._eof_sent:
            self._link.finish(self._outbound)
        self._link.stop_reading(self._inbound)
        self._outbound.writers.unpark_all()

    async def aclose(self) -> None:
        """Close, and checkpoint. What was sent still arrives."""
        self.abort()
        await trio.lowlevel.checkpoint()

    def _reset_known(self) -> bool:
        return self._inbound.reset_known_at() <= trio.current_time()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _check_can_send(self) -> None:
        self._check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("send_eof() was called on this stream")
        if self._reset_known():
            raise trio.BrokenResourceError("connection reset")


async def _park(lot: trio.lowlevel.ParkingLot, until: Callable[[], float]) -> None:
    with trio.move_on_at(until()):
        await lot.park()

"""The stream that a WebSocket library takes for its socket.

Goal: use a library that reads and writes a socket of its own, and yet be the
one owner of the real one, so that no defect of the library's can tear a frame,
hold the socket or wait for ever.

The rule. What the library writes never waits for the network: data frames are
kept for the writer, a pong or a close goes to its slot in the outlet. What it
reads comes from the wire, one read at a time: when it is back for more, all
that the last one made it do is done. When it wants to close, its task ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from .. import _outlet
from .._outlet import Outlet
from ._framing import CLOSE, PONG

__all__ = ["Airlock"]

_OPCODE = 0x0F


class Airlock(trio.abc.Stream):
    """One for each link. `more` gives what the network brings, b"" at its end.

    The first thing that the library writes is its HTTP request, and the first
    that it reads what is said to be the answer.
    """

    def __init__(self, outlet: Outlet, more: Callable[[], Awaitable[bytes]]) -> None:
        self._outlet = outlet
        self._more = more
        self._changed = trio.lowlevel.ParkingLot()
        self._request: bytes | None = None
        self._answer: bytes | None = None
        self._frames: list[bytes] = []
        #: Around the library's task.
        self.scope = trio.CancelScope()
        #: A close frame is on its way, the library's or the wire's own.
        self.closing = False
        #: Whether the library wrote a close frame, sent or not.
        self.answered_close = False

    # -- the wire's side -------------------------------------------------------

    async def request(self) -> bytes:
        """Wait for the HTTP request."""
        while self._request is None:
            await self._changed.park()
        return self._request

    def answer(self, head: bytes) -> None:
        """Let the library read this as the answer to its request."""
        self._answer = head
        self._changed.unpark_all()

    def take_frames(self) -> list[bytes]:
        """The data frames written since."""
        frames, self._frames = self._frames, []
        return frames

    def put_close(self, frame: bytes) -> None:
        """Queue a close frame, unless there was one."""
        if not self.closing:
            self.closing = True
            self._outlet.put_control(_outlet.CLOSE, frame)

    # -- the library's side ----------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Take `data`, which is the request or one frame, without a checkpoint."""
        written = bytes(data)
        if self._request is None:
            self._request = written
            self._changed.unpark_all()
        elif written[0] & _OPCODE == PONG:
            self._outlet.put_control(_outlet.PONG, written)
        elif written[0] & _OPCODE == CLOSE:
            self.answered_close = True
            self.put_close(written)
        else:
            self._frames.append(written)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """All there is, however little the library asks for."""
        while self._answer is None:
            await self._changed.park()
        if self._answer:
            answer, self._answer = self._answer, b""
            return answer
        return await self._more()

    async def aclose(self) -> None:
        """End the library's task; the socket is the wire's to close."""
        self.scope.cancel()
        await trio.lowlevel.checkpoint()

"""The stream that a WebSocket library takes for its socket.

Goal: use a library that reads and writes a socket of its own, and yet be the
one owner of the real one, so that no defect of the library's can tear a frame,
park a reader or hold the socket.

The rule. Nothing here touches the network, and the library never waits for it.
What it writes is sorted: data frames are kept for the writer, a pong or a
close goes to its slot in the outlet. What it reads is given to it, one read at
a time; it is *idle* once it comes back for more, and then everything that
those bytes made it do is done.
"""

from __future__ import annotations

import trio

from .. import _outlet
from .._outlet import Outlet
from ._framing import CLOSE, PONG

__all__ = ["Airlock"]

_OPCODE = 0x0F


class Airlock(trio.abc.Stream):
    """One for each link. The first thing that the library writes is its HTTP request."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._given = b""
        self._changed = trio.lowlevel.ParkingLot()
        self._request: bytes | None = None
        self._frames: list[bytes] = []
        #: The library waits for bytes, and has none left.
        self.idle = False
        #: The library has closed what it takes for its socket, or its task has ended.
        self.over = False
        #: A close frame is on its way, the library's or the wire's own.
        self.closing = False
        #: The close frame that the library wrote, whether or not it went out.
        self.close_frame: bytes | None = None

    # -- the wire's side -------------------------------------------------------

    async def request(self) -> bytes:
        """Wait for the HTTP request."""
        while self._request is None:
            await self._changed.park()
        return self._request

    def give(self, data: bytes) -> None:
        """Let the library have `data`; it is busy until it is idle again."""
        if data:
            self._given += data
            self.idle = False
            self._changed.unpark_all()

    async def wait_idle(self) -> None:
        """Wait until all that was given is dealt with. No checkpoint if it is."""
        while not (self.idle or self.over):
            await self._changed.park()

    def take_frames(self) -> list[bytes]:
        """The data frames written since."""
        frames, self._frames = self._frames, []
        return frames

    def put_close(self, frame: bytes) -> None:
        """Queue a close frame, unless there was one."""
        if not self.closing:
            self.closing = True
            self._outlet.put_control(_outlet.CLOSE, frame)

    def end(self) -> None:
        """Nothing more comes from the library."""
        self.over = True
        self._changed.unpark_all()

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
            self.close_frame = written
            self.put_close(written)
        else:
            self._frames.append(written)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What was given, all of it, however little the library asks for."""
        if not self._given:
            self.idle = True
            self._changed.unpark_all()
        while not self._given:
            await self._changed.park()
        given, self._given = self._given, b""
        return given

    async def aclose(self) -> None:
        """The library wants no more; the socket is the wire's to close."""
        self.end()
        await trio.lowlevel.checkpoint()

"""A port of the virtual network that a server listens on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from ._stream import VirtualStream

__all__ = ["VirtualListener"]

#: Connections that may wait for `accept()`; Linux's default (`somaxconn`) was
#: 128 for decades. One more is refused.
BACKLOG: Final = 128


class VirtualListener(trio.abc.Listener[VirtualStream]):
    """What `VirtualNetwork.listen()` returns; usable with `trio.serve_listeners`."""

    def __init__(self, host: str, port: int, closed: Callable[[VirtualListener], None]) -> None:
        self.host: Final = host
        self.port: Final = port
        self._on_close: Final = closed
        self._closed = False
        self._backlog: deque[VirtualStream] = deque()
        self._accepting = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<VirtualListener {self.host}:{self.port}{', closed' if self._closed else ''}>"

    @property
    def full(self) -> bool:
        return len(self._backlog) >= BACKLOG

    def offer(self, stream: VirtualStream) -> None:
        """Put a new connection's server end into the backlog. For the network."""
        self._backlog.append(stream)
        self._accepting.unpark()

    async def accept(self) -> VirtualStream:
        """The next connection. Raises trio.ClosedResourceError; cancelling loses none."""
        await trio.lowlevel.checkpoint()
        while not self._backlog:
            if self._closed:
                raise trio.ClosedResourceError("this listener was closed")
            await self._accepting.park()
        return self._backlog.popleft()

    def close(self) -> None:
        """Stop listening at once, and close the connections not yet accepted."""
        if self._closed:
            return
        self._closed = True
        self._on_close(self)
        while self._backlog:
            self._backlog.popleft().abort()
        self._accepting.unpark_all()

    async def aclose(self) -> None:
        """As `close()`, and checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

"""Sockets that the demo can stop in the middle of a frame.

Goal: cut a link under load, in mid-frame too, and yet be able to *check* what
`written` says, that the kernel took the message.

What does not work: a reset at any moment. It overtakes data that the sender's
kernel took and nobody has read; such messages are `written`, and lost, and no
plain link can know.

The rule. A closed gate is a full send buffer: it takes `room` more bytes, which
may end in mid-frame, and then none. Once both ends are closed, and each has
read what the other's kernel took, a reset destroys half a frame and whatever
waits behind it, and not one message that was `written`.
"""

from __future__ import annotations

import math
import socket

import trio

from .._streams import Buffer, DirectStream

__all__ = ["Gate", "GatedListener", "Gates"]


class Gate(DirectStream):
    """A socket of trio_rt's own kind that counts its bytes, and can be closed."""

    def __init__(self, sock: socket.socket, moved: trio.lowlevel.ParkingLot) -> None:
        super().__init__(sock)
        self._moved = moved
        self.sent = 0
        self.received = 0
        self.room = math.inf
        #: Set when a write was cut short by the closed gate, and at the end.
        self.torn = trio.Event()

    def try_send(self, data: Buffer, /) -> int:
        offered = len(data)
        with memoryview(data) as view:
            taken = super().try_send(view[: int(min(self.room, offered))]) if self.room else 0
        self.room -= taken
        self.sent += taken
        if taken < offered and not self.room:
            self.torn.set()
        return taken

    async def wait_send_all_might_not_block(self) -> None:
        if not self.room:
            await trio.sleep_forever()
        await super().wait_send_all_might_not_block()

    async def send_all(self, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest := rest[self.try_send(rest) :]:
            await self.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        self.received += len(data)
        self._moved.unpark_all()
        return data

    def abort(self) -> None:
        super().abort()
        self.torn.set()
        self._moved.unpark_all()

    @property
    def over(self) -> bool:
        return self.socket.fileno() == -1


class Gates:
    """The gates of both ends, link after link."""

    def __init__(self) -> None:
        #: Where one waits for news of any gate.
        self._moved = trio.lowlevel.ParkingLot()
        self._clients: list[Gate] = []
        self._servers: list[Gate] = []

    async def open_stream(self, host: str, port: int) -> Gate:
        """For `connect(open_stream=...)`."""
        gate = self._gate(await trio.open_tcp_stream(host, port))
        self._clients.append(gate)
        return gate

    def accepted(self, stream: trio.SocketStream) -> Gate:
        gate = self._gate(stream)
        self._servers.append(gate)
        return gate

    def pair(self) -> tuple[Gate, Gate]:
        """Both ends of the latest link, the client's first."""
        return self._clients[-1], self._servers[-1]

    async def quiet(self) -> None:
        """Wait until each end has read what the other's kernel took, or is over."""
        client, server = self.pair()
        while not (client.over or server.over) and (client.sent, server.sent) != (
            server.received,
            client.received,
        ):
            await self._moved.park()

    def _gate(self, stream: trio.SocketStream) -> Gate:
        return Gate(socket.socket(fileno=stream.socket.detach()), self._moved)


class GatedListener(trio.abc.Listener[Gate]):
    """For `serve_listeners(...)`."""

    def __init__(self, gates: Gates, lower: trio.SocketListener) -> None:
        self._gates = gates
        self._lower = lower
        self.port: int = lower.socket.getsockname()[1]

    async def accept(self) -> Gate:
        return self._gates.accepted(await self._lower.accept())

    async def aclose(self) -> None:
        await self._lower.aclose()

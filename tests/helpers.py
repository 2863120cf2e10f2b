"""What the tests of a whole connection share: a network, real servers, scripted peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

import pytest
import trio
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

import trio_rt
from trio_rt.message import ACKED, WRITTEN
from trio_rt.options import WireName
from trio_rt.testing import LinkProfile, VirtualNetwork, VirtualStream
from trio_rt.wires.websockets import QUIET

__all__ = [
    "FarEnd",
    "Script",
    "World",
    "echo",
    "either_link",
    "open_world",
    "outlast",
    "own_tasks",
    "sink",
]

URL = "ws://server/"

#: `connect(session=...)`, and the best that a send then comes to.
either_link = pytest.mark.parametrize(
    ("session", "best"), [("off", WRITTEN), ("require", ACKED)], ids=["plain", "session"]
)


class FarEnd:
    """The far end of one link, which does only what its script says.

    `number` counts the connections of its listener from 1. Nothing is answered
    unless the script reads.
    """

    def __init__(self, stream: VirtualStream, number: int) -> None:
        self.stream = stream
        self.number = number
        self.opened_at = trio.current_time()
        self.request: Request
        self.frames: list[Frame] = []
        self.closed = False
        self._protocol = ServerProtocol(logger=QUIET)

    async def hear(self) -> Request:
        """Read the handshake."""
        while True:
            self._protocol.receive_data(await self.stream.receive_some())
            for event in self._protocol.events_received():
                assert isinstance(event, Request)
                self.request = event
                return event

    async def accept(self, *behind: str) -> None:
        """Answer the handshake, with these messages in the same packet."""
        self._protocol.send_response(self._protocol.accept(await self.hear()))
        for text in behind:
            self._protocol.send_text(text.encode())
        await self._flush()

    async def refuse(self, status: int, **headers: str) -> None:
        """Answer the handshake with an HTTP status."""
        await self.hear()
        await self.refuse_now(status, **headers)

    async def refuse_now(self, status: int, **headers: str) -> None:
        """The answer alone."""
        lines = [f"HTTP/1.1 {status} No", "Content-Length: 0", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.stream.abort()

    async def read(self, *, answers: bool = True) -> Frame | None:
        """The next frame, pings and closes answered; None at the end, or behind a close."""
        while not self.frames:
            if self.closed:
                return None
            try:
                data = await self.stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._protocol.receive_data(data)
            self.frames += [e for e in self._protocol.events_received() if isinstance(e, Frame)]
            if answers:
                await self._flush()
        frame = self.frames.pop(0)
        self.closed = frame.opcode is Opcode.CLOSE
        return frame

    async def read_all(self) -> list[Frame]:
        """All frames to the end."""
        frames = []
        while (frame := await self.read()) is not None:
            frames.append(frame)
        return frames

    async def text(self) -> str | None:
        """The next text message; None at the end."""
        while (frame := await self.read()) is not None:
            if frame.opcode is Opcode.TEXT:
                return bytes(frame.data).decode()
        return None

    async def send(self, *texts: str) -> None:
        """Send messages in one packet."""
        for text in texts:
            self._protocol.send_text(text.encode())
        await self._flush()

    async def send_raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ping(self) -> None:
        self._protocol.send_ping(b"?")
        await self._flush()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake, unless the peer has, and see it through."""
        if not self.closed:
            self._protocol.send_close(code, reason)
            await self._flush()
            await self.read_all()
        self.stream.abort()

    async def close_and_reset(self, code: int, reason: str) -> None:
        """Send a close frame and be gone at once: what still comes is answered by a reset."""
        self._protocol.send_close(code, reason)
        await self._flush()
        self.stream.abort()

    @property
    def breach(self) -> Exception | None:
        """What the peer did against the protocol."""
        fault = self._protocol.parser_exc
        return None if isinstance(fault, EOFError) else fault

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                try:
                    await self.stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return


Script = Callable[[FarEnd], Awaitable[object]]


class World:
    """A network of hosts, and what runs on them until the world ends."""

    #: What its connections use; the fixture `each_wire` sets it.
    wire: ClassVar[WireName] = "websockets"

    def __init__(self, network: VirtualNetwork, nursery: trio.Nursery) -> None:
        self.network = network
        self.nursery = nursery

    def connect(
        self, url: Any = URL, **options: Any
    ) -> AbstractAsyncContextManager[trio_rt.Connection]:
        """`trio_rt.connect()` through this network."""
        options.setdefault("open_stream", self.network.open_stream)
        options.setdefault("wire", self.wire)
        conn: AbstractAsyncContextManager[trio_rt.Connection] = trio_rt.connect(url, **options)
        return conn

    async def serve(
        self, handler: Callable[[Any], Awaitable[object]], host: str = "server", **options: Any
    ) -> None:
        """Start a real server."""
        listener = self.network.listen(host, 80)

        async def run(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            await trio_rt.serve_listeners(handler, [listener], task_status=task_status, **options)

        await self.nursery.start(run)

    def script(self, script: Script, host: str = "server", port: int = 80) -> list[FarEnd]:
        """Run `script` on each connection of a new listener; returns the ends, as they come."""
        listener = self.network.listen(host, port)
        ends: list[FarEnd] = []

        async def one(stream: VirtualStream) -> None:
            end = FarEnd(stream, len(ends) + 1)
            ends.append(end)
            try:
                await script(end)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                stream.abort()

        self.nursery.start_soon(trio.serve_listeners, one, [listener])
        return ends

    @property
    def open_sockets(self) -> int:
        """Sockets that no client has closed."""
        return sum(not link.client_stream.closed for link in self.network.connections)


@asynccontextmanager
async def open_world(*, latency_s: float = 0.02, **profile: Any) -> AsyncIterator[World]:
    """A world with latency. At its end every client has closed its sockets."""
    network = VirtualNetwork(1, profile=LinkProfile(latency_s=latency_s, **profile))
    async with trio.open_nursery() as nursery:
        world = World(network, nursery)
        yield world
        assert world.open_sockets == 0
        nursery.cancel_scope.cancel()


async def outlast(condition: Callable[[], object], step_s: float = 0.01) -> None:
    """Wait as long as `condition()` holds, looking at it every `step_s`."""
    await trio.lowlevel.checkpoint()
    while condition():
        await trio.sleep(step_s)


def own_tasks() -> int:
    """How many tasks live in the nurseries that the current task has open."""
    return sum(len(nursery.child_tasks) for nursery in trio.lowlevel.current_task().child_nurseries)


async def echo(peer: Any) -> None:
    """A handler: send back every message."""
    with peer.subscribe() as stream:
        async for item in stream:
            await peer.send(item.type, item.payload)


async def sink(far: FarEnd) -> None:
    """A script: accept, and read to the end."""
    await far.accept()
    await far.read_all()

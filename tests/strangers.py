"""What the tests of a server share: a network with one server, and clients that obey."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri

import trio_rt
from trio_rt.testing import LinkProfile, VirtualNetwork

#: For what would log whole requests and messages.
QUIET = logging.Logger("quiet", logging.CRITICAL + 1)

__all__ = ["Site", "Stranger", "complaints", "open_site", "records"]


class Stranger:
    """A client that does only what its test tells it to. It reads when it is asked to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.frames: list[Frame] = []
        self.pings = 0
        #: The code with which the server closed the link, if it did.
        self.code: int | None = None
        self.reason = ""
        self.response: Response
        self._protocol: ClientProtocol

    async def shake(
        self,
        path: str = "/",
        *,
        headers: dict[str, str] | None = None,
        protocols: tuple[str, ...] = (),
        origin: str | None = None,
        compression: bool = False,
    ) -> int:
        """Do the opening handshake: the status that was answered, 0 for none."""
        self._protocol = ClientProtocol(
            parse_uri(f"ws://server{path}"),
            origin=None if origin is None else Origin(origin),
            subprotocols=[Subprotocol(name) for name in protocols] or None,
            extensions=[ClientPerMessageDeflateFactory()] if compression else None,
            logger=QUIET,
        )
        request = self._protocol.connect()
        request.headers.update(Headers(headers or {}))
        self._protocol.send_request(request)
        await self._flush()
        answered = 0
        while not answered and (data := await self._receive()):
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                if isinstance(event, Response):
                    self.response = event
                    answered = event.status_code
                else:
                    self._note(event)
        return answered

    async def read(self, *, answers: bool = True) -> Frame | None:
        """The next message, or part of one; None at the end. Pings and closes are answered."""
        while True:
            if answers:
                await self._flush()
            if self.frames:
                return self.frames.pop(0)
            data = await self._receive()
            if not data:
                return None
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                self._note(event)

    def _note(self, event: Any) -> None:
        if event.opcode is Opcode.CLOSE:
            close = Close.parse(event.data)
            self.code, self.reason = int(close.code), close.reason
        elif event.opcode is Opcode.PING:
            self.pings += 1
        elif event.opcode is not Opcode.PONG:
            self.frames.append(event)

    async def text(self) -> str:
        """The next message, which must be text."""
        frame = await self.read()
        assert frame is not None
        assert frame.opcode is Opcode.TEXT
        return bytes(frame.data).decode()

    async def read_all(self) -> list[str | bytes]:
        """The messages up to the end of the link."""
        messages: list[str | bytes] = []
        while (frame := await self.read()) is not None:
            data = bytes(frame.data)
            messages.append(data.decode() if frame.opcode is Opcode.TEXT else data)
        return messages

    async def send(self, *texts: str) -> None:
        """Send messages in one packet."""
        for text in texts:
            self._protocol.send_text(text.encode())
        await self._flush()

    async def send_frame(self, frame: Frame) -> None:
        await self.send_raw(frame.serialize(mask=True))

    async def send_raw(self, data: bytes) -> None:
        """Send it, or as much as a server that cuts the link takes."""
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def ask(self, text: str) -> str:
        """Send a message and return the next one that comes."""
        await self.send(text)
        return await self.text()

    async def close(self, code: int = 1000) -> None:
        """The closing handshake."""
        self._protocol.send_close(code)
        await self._flush()
        await self.read_all()
        await self.stream.aclose()

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self.send_raw(data)

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""


@attrs.frozen
class Site:
    """A server in a virtual network, and the way to it."""

    network: VirtualNetwork
    server: trio_rt.Server
    nursery: trio.Nursery
    #: Cancelled to end the server.
    scope: trio.CancelScope
    #: Set when `serve` has returned, or was cancelled.
    ended: trio.Event

    async def dial(self) -> Stranger:
        """A connection without a handshake."""
        return Stranger(await self.network.open_stream("server", 80))

    async def enter(self, path: str = "/", **how: Any) -> Stranger:
        """An open link."""
        stranger = await self.dial()
        assert await stranger.shake(path, **how) == 101
        return stranger

    def connect(self, **options: Any) -> Any:
        """`trio_rt.connect()` to it."""
        return trio_rt.connect("ws://server/", open_stream=self.network.open_stream, **options)

    @property
    def sockets(self) -> int:
        """Sockets that the server has not closed."""
        return sum(not link.server_stream.closed for link in self.network.connections)


@asynccontextmanager
async def open_site(
    handler: Callable[[Any], Awaitable[object]], *, latency_s: float = 0.02, **options: Any
) -> AsyncIterator[Site]:
    """A site with latency. Its server is cancelled at the end, and leaves no socket open."""
    network = VirtualNetwork(1, profile=LinkProfile(latency_s=latency_s))
    listener = network.listen("server", 80)
    scope, ended = trio.CancelScope(), trio.Event()

    async def run(task_status: trio.TaskStatus[trio_rt.Server]) -> None:
        with scope:
            await trio_rt.serve_listeners(handler, [listener], task_status=task_status, **options)
        ended.set()

    async with trio.open_nursery() as nursery:
        site = Site(network, await nursery.start(run), nursery, scope, ended)
        yield site
        scope.cancel()
        await ended.wait()
        nursery.cancel_scope.cancel()
    assert site.sockets == 0
    assert site.server.connections == 0


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The warnings and errors logged so far."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Their texts."""
    return [record.getMessage() for record in records(caplog)]

"""What the tests of the wires share."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol, Side
from websockets.streams import StreamReader
from websockets.utils import accept_key

from trio_rt._streams import DirectStream
from trio_rt.errors import LinkClosed
from trio_rt.options import WireName
from trio_rt.wires import Wire
from trio_rt.wires._framing import Lane
from trio_rt.wires.trio_websocket import TrioWebsocketWire
from trio_rt.wires.websockets import QUIET, WebSocketsWire, size_limit

__all__ = ["Lane"]

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
PING, PONG, CLOSE = Opcode.PING, Opcode.PONG, Opcode.CLOSE


@attrs.frozen
class Sent:
    """A message as the wire takes it."""

    data: bytes
    binary: bool = False


def frame(
    opcode: Opcode, data: bytes = b"", *, fin: bool = True, to: Side = CLIENT, rsv1: bool = False
) -> bytes:
    """One frame as the `websockets` package writes it; masked if it is for a server."""
    made = Frame(opcode, data, fin).serialize(mask=to is SERVER)
    return bytes([made[0] | (0x40 if rsv1 else 0)]) + made[1:]


def parse(data: bytes, *, masked: bool) -> list[Frame]:
    """The frames in `data`, by the `websockets` package."""
    reader = StreamReader()
    reader.feed_data(data)
    frames = []
    while reader.buffer:
        parser = Frame.parse(reader.read_exact, mask=masked)
        with pytest.raises(StopIteration) as caught:
            next(parser)
        frames.append(caught.value.value)
    return frames


def deflate() -> PerMessageDeflate:
    return PerMessageDeflate(False, False, 15, 15)


def protocol(
    side: Side, *, limit: int | None = 2**20, extensions: Sequence[PerMessageDeflate] = ()
) -> Protocol:
    """A protocol past its handshake."""
    made = Protocol(side, max_size=limit, logger=QUIET)
    made.extensions = list(extensions)
    return made


def small_pair() -> tuple[DirectStream, DirectStream]:
    """A connection whose kernel buffers are small."""
    left, right = socket.socketpair()
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    return DirectStream(left), DirectStream(right)


def wire_pair(
    *, limit: int = 2**20, fragments: float = 4096, compressed: bool = False
) -> tuple[WebSocketsWire, WebSocketsWire]:
    """The client's and the server's wire of one link."""
    wires = []
    for stream, side in zip(small_pair(), (CLIENT, SERVER), strict=True):
        extensions = [deflate()] if compressed else []
        made = protocol(side, limit=limit, extensions=extensions)
        wires.append(WebSocketsWire(stream, made, max_message_bytes=limit, fragments=fragments))
    return wires[0], wires[1]


@asynccontextmanager
async def open_client(
    kind: WireName,
    stream: trio.abc.Stream,
    *,
    limit: float = 2**20,
    fragments: float = 4096,
    leftover: bytes = b"",
) -> AsyncIterator[Wire]:
    """A client's wire past its handshake, of which nothing has touched the stream."""
    if kind == "websockets":
        wire = WebSocketsWire(
            stream,
            protocol(CLIENT, limit=size_limit(limit)),
            max_message_bytes=limit,
            fragments=fragments,
            leftover=leftover,
        )
        yield wire
        wire.abort()
        return
    other = TrioWebsocketWire(stream, max_message_bytes=limit, fragments=fragments)
    async with trio.open_nursery() as nursery:
        request = await nursery.start(other.run, "example.org", "/", [], [])
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
        await other.open(accept_key(key), None, leftover)
        yield other
        other.abort()


async def receive(wire: Wire, count: int) -> list[str | bytes]:
    messages: list[str | bytes] = []
    with trio.fail_after(10):
        while len(messages) < count:
            messages += await wire.receive()
    return messages


async def receive_until(wire: Wire, condition: Callable[[], object]) -> None:
    """Receive, no message, until `condition()` holds."""

    async def read() -> None:
        while True:
            assert await wire.receive() == []

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while not condition():
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def receive_end(wire: Wire) -> LinkClosed:
    """What ends the link, once nothing else comes."""
    with trio.fail_after(10):
        while True:
            try:
                assert await wire.receive() == []
            except LinkClosed as closed:
                return closed

"""What the tests of the wires share."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import attrs
import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol, Side
from websockets.streams import StreamReader

from trio_rt._streams import DirectStream
from trio_rt.wires._framing import Lane
from trio_rt.wires.websockets import QUIET, WebSocketsWire

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

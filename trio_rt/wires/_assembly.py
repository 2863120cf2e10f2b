"""Received bytes to messages: the receiving half of the wire, without I/O.

The fast lane (see `_framing`) takes all it knows; the frame at which it stops
is looked at here, one at a time. A frame that is not whole yet is kept, so that
`partial` never holds more than one frame within the limits: a header that
breaks a rule or a limit fails the connection before its payload is awaited.

The rules of closing are those of the `websockets` package. An object of its
protocol takes 1.2 kB and is of no use to an open link: so it is let go after the
handshake, and one in its place is made when the closing begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.frames import Frame as ExtensionFrame
from websockets.frames import Opcode
from websockets.protocol import CLIENT, SERVER, Protocol

from ..errors import LinkClosed
from ._framing import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Header,
    Lane,
    apply_mask,
    read_header,
    take_masked,
    take_unmasked,
)

__all__ = ["QUIET", "Assembly"]

#: A logger for `websockets` that drops everything: it would log whole requests
#: and responses, tokens and cookies included, at DEBUG.
QUIET: Final = logging.Logger("trio_rt.quiet", logging.CRITICAL + 1)

#: Pongs that the bytes of one read are answered with: the last so many. RFC
#: 6455, 5.5.3 allows one; Autobahn's case 2.10 sends ten pings at once.
PONGS_PER_READ: Final = 16

#: The longest payload of a control frame: RFC 6455, 5.5.
CONTROL_BYTES: Final = 125

#: Deflate makes noise longer: by 5 bytes for each stored block, which zlib makes
#: of at least 4 KiB, and by a few for the message and each of its flushes.
DEFLATE_SHARE: Final = 512
DEFLATE_BYTES: Final = 64

#: Pieces of a message are joined when they are so many: each costs some 40
#: bytes beside its own, and with no limit on fragments they may be tiny.
PIECES: Final = 1024

_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_RSV1: Final = 0x4


class _Breach(Exception):
    """The peer broke the protocol, or a limit."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Assembly:
    """Feed it bytes, take messages; the answers to send gather in it."""

    __slots__ = (
        "_binary",
        "_compressed",
        "_frames",
        "_lane",
        "_limit",
        "_masked",
        "_max_frames",
        "_message",
        "_needed",
        "_partial",
        "_size",
        "closing",
        "ended",
        "extensions",
        "pings",
        "pongs",
    )

    def __init__(self, protocol: Protocol, *, max_message_bytes: float, fragments: float) -> None:
        self._limit = max_message_bytes
        self._max_frames = fragments
        self._masked = protocol.side is SERVER
        self._lane: Lane = take_masked if self._masked else take_unmasked
        self._partial: bytes | bytearray = b""
        self._needed = 0
        # The fragmented message in progress.
        self._message: list[bytes] | None = None
        self._size = 0
        self._binary = False
        self._compressed = False
        self._frames = 0

        #: What the handshake agreed on.
        self.extensions: Sequence[Extension] = tuple(protocol.extensions)
        self.pongs = 0
        #: Payloads of pings not answered yet.
        self.pings: Sequence[bytes] = ()
        #: The package's side of the closing; None while the link is open.
        self.closing: Protocol | None = None
        #: How the link ended, once it has; what follows is discarded.
        self.ended: LinkClosed | None = None

    @property
    def missing(self) -> int:
        """Bytes that the frame in progress still needs; 0 between frames."""
        return self._needed - len(self._partial) if self._partial else 0

    def feed(self, data: bytes) -> list[str | bytes]:
        """The messages that `data` completes. Invalid input ends the link; nothing raises."""
        messages: list[str | bytes] = []
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return messages
            data = bytes(self._partial)
            self._partial = b""
        try:
            self._take(data, messages)
        except _Breach as breach:
            self.fail(breach.code, breach.reason)
        return messages

    def _take(self, data: bytes, messages: list[str | bytes]) -> None:
        at, end = 0, len(data)
        while self.ended is None:
            if self._message is None and not self.extensions:
                at = self._lane(data, at, self._limit, messages)
            if at == end:
                return
            at = self._take_one(data, at, messages)
            if at < 0:
                return

    def fail(self, code: int, reason: str) -> None:
        """End the link for a fault of the peer's."""
        self.begin_closing().fail(code, reason)
        self.end(LinkClosed(code, reason, by_peer=False))

    def end(self, closed: LinkClosed) -> None:
        """The first way in which the link ended is the one that counts."""
        if self.ended is None:
            self.ended = closed
            self._partial = b""
            self._message = None

    def begin_closing(self) -> Protocol:
        """The package's side of the closing. Data frames must not go out any more."""
        if self.closing is None:
            side = SERVER if self._masked else CLIENT
            self.closing = Protocol(side, max_size=None, logger=QUIET)
        return self.closing

    # -- one frame ----------------------------------------------------------

    def _take_one(self, data: bytes, at: int, messages: list[str | bytes]) -> int:
        """Take the frame at `at`; the end of it, or -1 if it is not whole and was kept."""
        header = read_header(data, at)
        if isinstance(header, int):
            return self._keep(data, at, header)
        self._check(header)
        if header.stop > len(data):
            return self._keep(data, at, header.stop - at)
        payload = data[header.start : header.stop]
        if header.opcode == CLOSE:
            self._close(data[at : header.stop])
            return header.stop
        if header.mask is not None:
            payload = apply_mask(payload, header.mask)
        if header.opcode == PING:
            self.pings = (*self.pings[1 - PONGS_PER_READ :], payload)
        elif header.opcode == PONG:
            self.pongs += 1
        else:
            self._take_data(header, payload, messages)
        return header.stop

    def _keep(self, data: bytes, at: int, needed: int) -> int:
        self._partial = bytearray(data[at:])
        self._needed = needed
        return -1

    def _check(self, header: Header) -> None:
        """Raise `_Breach` for a header that no rule of RFC 6455, 5 allows."""
        if header.opcode not in _OPCODES:
            raise _Breach(1002, "invalid opcode")
        if (header.mask is not None) != self._masked:
            raise _Breach(1002, "incorrect masking")
        if header.opcode >= CLOSE:
            if header.size > CONTROL_BYTES:
                raise _Breach(1002, "control frame too long")
            if not header.fin or header.rsv:
                raise _Breach(1002, "invalid control frame")
        else:
            self._check_data(header)

    def _check_data(self, header: Header) -> None:
        compressed = header.rsv == _RSV1 and header.opcode != CONTINUATION
        if header.rsv and not (compressed and self.extensions):
            raise _Breach(1002, "reserved bits must be 0")
        if (self._message is None) == (header.opcode == CONTINUATION):
            raise _Breach(1002, "fragments out of order")
        if header.size > self._room(compressed or (self._message is not None and self._compressed)):
            raise self._too_large()
        if header.size >= 1 << 63:
            raise _Breach(1002, "invalid length")
        if self._frames + 1 > self._max_frames:
            raise _Breach(1009, f"message of more than {self._max_frames:g} fragments")

    def _room(self, compressed: bool) -> float:
        """The longest payload that could belong to a message within the limit."""
        if compressed:
            return self._limit + self._limit / DEFLATE_SHARE + DEFLATE_BYTES
        return self._limit - (self._size if self._message is not None else 0)

    # -- data ---------------------------------------------------------------

    def _take_data(self, header: Header, payload: bytes, messages: list[str | bytes]) -> None:
        if header.opcode != CONTINUATION:
            self._message = []
            self._size = self._frames = 0
            self._binary = header.opcode == BINARY
            self._compressed = bool(header.rsv)
        assert self._message is not None
        data = self._inflated(header, payload) if self._compressed else payload
        self._message.append(data)
        self._size += len(data)
        self._frames += 1
        if header.fin:
            message, self._message = b"".join(self._message), None
            self._frames = 0
            messages.append(message if self._binary else _text(message))
        elif len(self._message) == PIECES:
            self._message = [b"".join(self._message)]

    def _inflated(self, header: Header, payload: bytes) -> bytes:
        frame = ExtensionFrame(Opcode(header.opcode), payload, header.fin, bool(header.rsv & _RSV1))
        # At least 1, because zlib takes 0 for "no limit".
        room = None if math.isinf(self._limit) else max(1, int(self._limit) - self._size)
        try:
            for extension in reversed(self.extensions):
                frame = extension.decode(frame, max_size=room)
        except PayloadTooBig as error:
            raise self._too_large() from error
        except ProtocolError as error:
            raise _Breach(1002, str(error)) from error
        if self._size + len(frame.data) > self._limit:
            raise self._too_large()
        return bytes(frame.data)

    def _too_large(self) -> _Breach:
        return _Breach(1009, f"message of more than {self._limit:g} bytes")

    # -- closing ------------------------------------------------------------

    def _close(self, frame: bytes) -> None:
        """The package judges a close frame, and makes the answer to it."""
        protocol = self.begin_closing()
        protocol.receive_data(frame)
        received = protocol.close_rcvd
        if protocol.parser_exc is None and received is not None:
            self.end(LinkClosed(int(received.code), received.reason))
        else:
            sent = protocol.close_sent
            code, reason = (
                (1002, "invalid close frame") if sent is None else (int(sent.code), sent.reason)
            )
            self.end(LinkClosed(code, reason, by_peer=False))


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError as error:
        raise _Breach(1007, f"invalid UTF-8 at byte {error.start}") from error

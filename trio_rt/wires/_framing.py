"""WebSocket frames (RFC 6455, 5.2) to and from bytes: pure functions.

The two lanes at the end are the hot loop of receiving. They know one kind of
frame, the whole data frame that is a message, and stop at every other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from .._ambient import ambient
from . import Frame

try:
    from websockets.speedups import apply_mask
except ImportError:  # websockets without its C extension
    from websockets.utils import apply_mask

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Header",
    "apply_mask",
    "encode_control",
    "encode_frame",
    "encode_messages",
    "read_header",
    "take_masked",
    "take_unmasked",
]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
_RSV1: Final = 0x40
_MASKED: Final = 0x80
_SHORT: Final = 126  # below: the length itself; 126: 16 bits follow
_LONG: Final = 127  # 64 bits follow


def _head(first: int, size: int, mask_bit: int) -> bytes:
    if size < _SHORT:
        return bytes((first, mask_bit | size))
    if size < 65_536:
        return struct.pack("!BBH", first, mask_bit | _SHORT, size)
    return struct.pack("!BBQ", first, mask_bit | _LONG, size)


#: Sizes below this have their header in a table: most messages, for 100 kB.
_COMMON: Final = 512

# The headers of unfragmented messages of common sizes, by [masked][binary][size].
_HEADS: Final = tuple(
    tuple(
        tuple(_head(_FIN | opcode, size, mask_bit) for size in range(_COMMON))
        for opcode in (TEXT, BINARY)
    )
    for mask_bit in (0, _MASKED)
)


def encode_frame(
    opcode: int, payload: bytes | memoryview, *, masked: bool, fin: bool = True, rsv1: bool = False
) -> bytes:
    """One frame."""
    first = opcode | (_FIN if fin else 0) | (_RSV1 if rsv1 else 0)
    if not masked:
        return _head(first, len(payload), 0) + bytes(payload)
    mask = ambient().random.randbytes(4)
    return _head(first, len(payload), _MASKED) + mask + apply_mask(payload, mask)


def encode_control(opcode: int, payloads: Sequence[bytes], *, masked: bool) -> bytes:
    """Control frames of one kind, joined."""
    return b"".join([encode_frame(opcode, payload, masked=masked) for payload in payloads])


def encode_messages(batch: Sequence[Frame], *, masked: bool) -> list[bytes]:
    """A frame for each message; all masks are one random draw."""
    return _masked_messages(batch) if masked else _plain_messages(batch)


def _plain_messages(batch: Sequence[Frame]) -> list[bytes]:
    heads = _HEADS[0]
    frames: list[bytes] = []
    for message in batch:
        data, binary = message.data, message.binary
        size = len(data)
        if size < _COMMON:
            frames.append(heads[binary][size] + data)
        else:
            frames.append(_head(_FIN | (BINARY if binary else TEXT), size, 0) + data)
    return frames


def _masked_messages(batch: Sequence[Frame]) -> list[bytes]:
    heads, xor = _HEADS[1], apply_mask
    masks = ambient().random.randbytes(4 * len(batch))
    frames: list[bytes] = []
    at = 0
    for message in batch:
        data, binary = message.data, message.binary
        mask = masks[at : at + 4]
        at += 4
        size = len(data)
        if size < _COMMON:
            frames.append(heads[binary][size] + mask + xor(data, mask))
        else:
            head = _head(_FIN | (BINARY if binary else TEXT), size, _MASKED)
            frames.append(head + mask + xor(data, mask))
    return frames


@attrs.frozen
class Header:
    """What precedes a frame's payload; `start` and `stop` are the payload's bounds."""

    fin: bool
    rsv: int
    opcode: int
    mask: bytes | None
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def read_header(data: bytes, at: int) -> Header | int:
    """The header at `data[at:]`, or how many bytes are needed to read it."""
    have = len(data) - at
    if have < 2:
        return 2
    first, second = data[at], data[at + 1]
    size, start = second & 0x7F, at + 2
    extra = 2 if size == _SHORT else 8 if size == _LONG else 0
    masked = second & _MASKED
    needed = 2 + extra + (4 if masked else 0)
    if have < needed:
        return needed
    if extra:
        size = int.from_bytes(data[start : start + extra], "big")
        start += extra
    mask = None
    if masked:
        mask = data[start : start + 4]
        start += 4
    return Header(bool(first & _FIN), first >> 4 & 0x7, first & 0xF, mask, start, start + size)


#: (data, at, limit, messages) -> where it stopped; messages are appended.
Lane = Callable[[bytes, int, float, list[str | bytes]], int]


def take_unmasked(data: bytes, at: int, limit: float, messages: list[str | bytes]) -> int:
    """Cut whole unmasked messages out of `data[at:]`, up to the first other thing."""
    last = len(data) - 2
    while at <= last:
        first = data[at]
        size = data[at + 1]
        if size < 126:
            start = at + 2
        elif size == 126:
            start = at + 4
            size = int.from_bytes(data[at + 2 : start], "big")
        elif size == 127:
            start = at + 10
            size = int.from_bytes(data[at + 2 : start], "big")
        else:
            break
        stop = start + size
        if stop > last + 2 or size > limit:
            break
        if first == 0x81:
            try:
                messages.append(data[start:stop].decode())
            except UnicodeDecodeError:
                break
        elif first == 0x82:
            messages.append(data[start:stop])
        else:
            break
        at = stop
    return at


def take_masked(data: bytes, at: int, limit: float, messages: list[str | bytes]) -> int:
    """The same for masked messages."""
    xor = apply_mask
    last = len(data) - 6
    while at <= last:
        first = data[at]
        size = data[at + 1] - 128
        if size < 0:
            break
        if size < 126:
            start = at + 6
        elif size == 126:
            start = at + 8
            size = int.from_bytes(data[at + 2 : at + 4], "big")
        else:
            start = at + 14
            size = int.from_bytes(data[at + 2 : at + 10], "big")
        stop = start + size
        if stop > last + 6 or size > limit:
            break
        if first == 0x81:
            try:
                messages.append(xor(data[start:stop], data[start - 4 : start]).decode())
            except UnicodeDecodeError:
                break
        elif first == 0x82:
            messages.append(xor(data[start:stop], data[start - 4 : start]))
        else:
            break
        at = stop
    return at

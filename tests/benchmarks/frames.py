"""WebSocket frames, as little of them as the fixed server needs.

The server must never be what is measured. So client frames are counted by
their headers alone, and a run of frames with equal headers is counted by
striding over the bytes in C: if the header at `p` says `size` bytes, and the
bytes at `p + size`, `p + 2 * size`... equal that header, then each of them is
where a frame starts. That is exact, not a guess.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8

#: A message of this size or more is not counted: it asks for the count.
ASK_BYTES: Final = 1000
#: How far a stride looks ahead; a run that breaks sooner wastes the rest.
_STRIDE_FRAMES: Final = 256


def frame(payload: bytes, opcode: int, *, masked: bool = False) -> bytes:
    """One unfragmented frame."""
    size, bit = len(payload), 0x80 * masked
    if size < 126:
        head = bytes((0x80 | opcode, bit | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, bit | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, bit | 127)) + size.to_bytes(8)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + unmask(payload, mask)


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Apply a mask; as integers, because that runs in C."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def _sizes(data: bytes, pos: int) -> tuple[int, int] | None:
    """Size of the header (mask included) and the frame at `pos`; None: too little of it."""
    if len(data) - pos < 2:
        return None
    length = data[pos + 1] & 127
    head = 2
    if length == 126:
        head, length = 4, int.from_bytes(data[pos + 2 : pos + 4])
    elif length == 127:
        head, length = 10, int.from_bytes(data[pos + 2 : pos + 10])
    if len(data) - pos < head:
        return None
    if data[pos + 1] & 128:
        head += 4
    return head, head + length


class FrameCounter:
    """Counts the messages in a stream of bytes, from the frame headers alone."""

    def __init__(self) -> None:
        self.messages = 0
        self.payload_bytes = 0
        self.total_bytes = 0
        self.asked = False
        self.closed = False
        self._rest = b""
        self._skip = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self.total_bytes += len(data)
        if self._rest:
            data = self._rest + data
        pos, end, last = self._skip, len(data), 0
        while pos < end:
            sizes = _sizes(data, pos)
            if sizes is None:
                break
            head, size = sizes
            run = _run(data, pos, head, size) if size == last else 1
            last = size
            self._count(data[pos], run, size - head)
            pos += run * size
        self._rest = data[pos:]
        self._skip = max(0, pos - end)

    def _count(self, first: int, run: int, length: int) -> None:
        if first & 8:
            self.closed = self.closed or first & 15 == CLOSE
            return
        if length >= ASK_BYTES:
            self.asked = True
            return
        self.payload_bytes += run * length
        if first & 128:
            self.messages += run


def _run(data: bytes, pos: int, head: int, size: int) -> int:
    """How many frames in a row, from `pos` on, are whole and have this header."""
    most = min((len(data) - pos) // size, _STRIDE_FRAMES)
    plain = head - 4 if data[pos + 1] & 128 else head
    for offset in range(pos, pos + plain):
        if most < 2:
            return 1
        column = data[offset : offset + (most - 1) * size + 1 : size]
        most = most - len(column.lstrip(column[:1]))
    return most


class FrameReader:
    """Cuts whole frames out of a stream of bytes: (opcode, payload) each."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take the next bytes; to be iterated to its end."""
        data = self._rest + data
        pos = 0
        while (sizes := _sizes(data, pos)) is not None and pos + sizes[1] <= len(data):
            head, size = sizes
            payload = data[pos + head : pos + size]
            if data[pos + 1] & 128:
                payload = unmask(payload, data[pos + head - 4 : pos + head])
            yield data[pos] & 15, payload
            pos += size
        self._rest = data[pos:]

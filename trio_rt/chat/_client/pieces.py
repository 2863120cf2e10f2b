"""An upload in pieces: which one is next, how large it is, and the hash of all of them."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import trio

from ...errors import PayloadError
from .sources import Source
from .transfers import FileCorrupted

__all__ = ["Pace", "Pieces"]

_FIRST_BYTES: Final = 64 << 10
_LEAST_BYTES: Final = 16 << 10
_QUICK_S: Final = 0.5
_SLOW_S: Final = 2.0


class Pace:
    """How large the next piece is: such that it takes about a second. At most `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.piece_bytes = min(_FIRST_BYTES, most)

    def took(self, seconds: float) -> None:
        """A piece has arrived after so long."""
        if seconds < _QUICK_S:
            self.piece_bytes = min(self._most, 2 * self.piece_bytes)
        elif seconds > _SLOW_S:
            self.failed()

    def failed(self) -> None:
        """A piece has not arrived."""
        self.piece_bytes = max(min(_LEAST_BYTES, self._most), self.piece_bytes // 2)


class Pieces:
    """A window on a source. What was read last is held until the service has gone past it."""

    def __init__(self, source: Source) -> None:
        #: What the service has.
        self.offset = 0
        self._source = source
        #: What was read last, and where it is in the file.
        self._held, self._at = b"", 0
        #: Of the first so many bytes.
        self._hash: Any = hashlib.sha256()
        self._hashed = 0

    @property
    def size(self) -> int | None:
        """Of the file; None if it is not known before the end."""
        return self._source.size

    @property
    def sha256(self) -> str:
        """Of what was read."""
        return str(self._hash.hexdigest())

    async def go_to(self, offset: int) -> bool:
        """The service has the bytes before `offset`; False if those behind cannot be had again."""
        await trio.lowlevel.checkpoint()
        if offset > self._at + len(self._held):
            raise FileCorrupted("the service has more than was sent")
        if offset < self._at:
            if not await self._source.seek(offset):
                return False
            self._held, self._at = b"", offset
        self.offset = offset
        return True

    async def next(self, count: int) -> bytes:
        """What comes at the offset, at most `count` bytes; b"" at the end only."""
        await trio.lowlevel.checkpoint()
        if self.offset == self._at + len(self._held):
            self._held, self._at = await self._read(count), self.offset
        start = self.offset - self._at
        return self._held[start : start + count]

    async def _read(self, count: int) -> bytes:
        at, size = self.offset, self._source.size
        piece = await self._source.read(count if size is None else min(count, size - at))
        size = self._source.size
        if size is not None and len(piece) < min(count, size - at):
            raise PayloadError("source", f"must have {size} bytes", at + len(piece))
        self._hash.update(piece[max(0, self._hashed - at) :])
        self._hashed = max(self._hashed, at + len(piece))
        return piece

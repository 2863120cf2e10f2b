"""Unpacking gzip and deflate piece by piece, so that a bomb never goes off.

zlib is told the most that it may unpack at a time: a peak is two pieces and two
windows of 32 KiB, whatever comes in.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

__all__ = ["PACKINGS", "Unpacker"]

#: As large as a read of httpcore.
PIECE_BYTES: Final = 64 * 1024

GZIP: Final = 16 + zlib.MAX_WBITS
PACKINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})


class Unpacker:
    """Takes off the `codings` of a body, given in the order in which they were put on."""

    def __init__(self, codings: Sequence[str]) -> None:
        self._steps = [_Step(coding != "deflate") for coding in reversed(codings)]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that `data` unpacks to. Raises ValueError for what is not packed."""
        pieces = iter((data,))
        for step in self._steps:
            pieces = step.unpack_all(pieces)
        return pieces

    def finish(self) -> None:
        """The body has ended. Raises ValueError if it may not."""
        for step in self._steps:
            step.finish()


class _Step:
    def __init__(self, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._held = b""
        self._zlib: Any = None

    def unpack_all(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for data in pieces:
            yield from self._unpack(data)

    def _unpack(self, data: bytes) -> Iterator[bytes]:
        data = self._held + data
        self._held = b""
        while data:
            if self._zlib is not None and self._zlib.eof:
                data = data.lstrip(b"\0")  # a gzip file may be several, padded with zeros
                if not data:
                    return
                if not self._is_gzip:
                    raise ValueError("there is more behind the end of the packed body")
                self._zlib = None
            if self._zlib is None and not self._begin(data):
                self._held = data
                return
            yield from self._pieces(data)
            data = self._zlib.unused_data

    def _begin(self, data: bytes) -> bool:
        if self._is_gzip:
            self._zlib = zlib.decompressobj(GZIP)
        elif len(data) >= 2:
            # "deflate" is zlib's format, but some servers send it bare; RFC 1950, 2.2.
            has_head = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._zlib = zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
        return self._zlib is not None

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            piece = self._zlib.decompress(data, PIECE_BYTES)
            while piece:
                yield piece
                piece = self._zlib.decompress(self._zlib.unconsumed_tail, PIECE_BYTES)
        except zlib.error as error:
            raise ValueError(str(error)) from error

    def finish(self) -> None:
        if self._held or (self._zlib is not None and not self._zlib.eof):
            raise ValueError("the packed body ends too early")

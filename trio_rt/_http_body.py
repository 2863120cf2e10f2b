"""How the body of a request comes out of its bytes. Decides only; reads nothing.

**Goal.** The same bytes that any strict reader sees, in bounded memory and CPU.

**What does not work.** h11's reader of chunks: its header pattern, which costs
quadratic time on some lines, is applied to the trailers as well; extensions are
thrown away without a bound; and blanks and bare line feeds, in which readers
differ, get past it.

**The rule.** A chunk's line is its size in at most 16 hexadecimal digits and an
extension behind a semicolon, and ends with CRLF; extensions and trailers are
thrown away. All that is not the body's own bytes (sizes, extensions, trailers)
may have `FRAMING_BYTES` and twice the body so far (the measure of Go's
`net/http`, where 16 bytes of each chunk are free besides).

**The remaining hole.** A long body in chunks of one or two bytes is refused.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

__all__ = ["FRAMING_BYTES", "BodyFault", "Chunked", "Framing", "Sized", "framing"]

FRAMING_BYTES: Final = 16 << 10

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BodyFault(Exception):
    """The body is malformed (400) or too large (413)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Sized:
    """A body whose length is known: `Content-Length`, or none."""

    def __init__(self, length: int) -> None:
        self.left = length
        #: What came behind the body.
        self.rest = b""

    @property
    def done(self) -> bool:
        return not self.left

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in `data`, which came next."""
        piece, self.rest = data[: self.left], data[self.left :]
        self.left -= len(piece)
        return piece


class Chunked:
    """A body of at most `most` bytes that comes in chunks."""

    def __init__(self, most: float) -> None:
        self.done = False
        self.rest = b""
        self._buffer = bytearray()
        self._most = most
        self._size = 0
        self._framing = 0
        self._left = 0  # of the chunk
        self._within = False  # a chunk, or the CRLF behind it
        self._trailing = False

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in `data`, which came next. Raises `BodyFault`."""
        self._buffer += data
        pieces = []
        while not self.done:
            if self._left:
                piece = self._take()
                if not piece:
                    break
                pieces.append(piece)
            elif not self._step():
                break
        if self.done:
            self.rest = bytes(self._buffer)
            self._buffer.clear()
        return b"".join(pieces)

    def _take(self) -> bytes:
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        return piece

    def _step(self) -> bool:
        """Go over the next line, if it is whole."""
        end = self._buffer.find(b"\r\n")
        self._check_framing(len(self._buffer) if end < 0 else end + 2)
        if end < 0:
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._framing += end + 2
        if self._within:
            if line:
                raise BodyFault(400, "a chunk is longer than its size")
            self._within = False
        elif self._trailing:
            self._end_line(line)
        else:
            self._begin_chunk(line)
        return True

    def _check_framing(self, more: int) -> None:
        if self._framing + more > FRAMING_BYTES + 2 * self._size:
            raise BodyFault(400, "the body has more framing than content")

    def _end_line(self, line: bytes) -> None:
        if not line:
            self.done = True
        elif not _TRAILER.fullmatch(line):
            raise BodyFault(400, "a bad trailer behind the body")

    def _begin_chunk(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise BodyFault(400, "a bad chunk in the body")
        self._left = int(found[1], 16)
        self._size += self._left
        if self._size > self._most:
            raise BodyFault(413, f"the body has more than {self._most:g} bytes")
        self._within = self._left > 0
        self._trailing = not self._within


Framing: TypeAlias = Sized | Chunked


def framing(length: int | None, most: float) -> Framing:
    """For a body of `length` bytes (None: in chunks). Raises `BodyFault` if that is too much."""
    if length is None:
        return Chunked(most)
    if length > most:
        raise BodyFault(413, f"the body has more than {most:g} bytes")
    return Sized(length)

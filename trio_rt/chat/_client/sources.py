"""Where the bytes of an upload come from: memory, a file, or what a program yields."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import trio

from ...errors import OptionError, PayloadError
from ...options import check_number

__all__ = ["Source", "SourceLike", "guessed_type", "source_of"]

SourceLike: TypeAlias = str | os.PathLike[str] | bytes | AsyncIterable[bytes]


class Source(Protocol):
    """Bytes in their order."""

    #: None if it is not known before the end.
    size: int | None
    name: str

    async def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end only. Cancelled: they are lost."""

    async def seek(self, offset: int) -> bool:
        """Have `read` begin at `offset`; False if it cannot."""

    async def aclose(self) -> None:
        """Nothing more is read."""


def source_of(given: SourceLike, size: int | None) -> Source:
    """The source that `given` stands for. Raises `OptionError`."""
    if size is not None:
        check_number("size", size, whole=True, finite=True)
        if not isinstance(given, AsyncIterable):
            raise OptionError("size", "must come with an async iterable only", size)
    if isinstance(given, (bytes, bytearray, memoryview)):
        return _Memory(bytes(given))
    if isinstance(given, (str, os.PathLike)):
        return _File(Path(given))
    if isinstance(given, AsyncIterable):
        return _Yielded(given, size)
    rule = "must be a path, bytes, or an async iterable of bytes"
    raise OptionError("source", rule, type(given).__name__)


def guessed_type(name: str) -> str:
    """By the name; "" for none. What is an image, the service sees by itself."""
    kind = mimetypes.guess_type(name)[0] or ""
    return "" if kind.startswith("image/") else kind


class _Memory:
    name = ""

    def __init__(self, data: bytes) -> None:
        self.size: int | None = len(data)
        self._data = data
        self._at = 0

    async def read(self, count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = self._data[self._at : self._at + count]
        self._at += len(piece)
        return piece

    async def seek(self, offset: int) -> bool:
        await trio.lowlevel.checkpoint()
        self._at = offset
        return True

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _File:
    """A file. What is added to it after the beginning is not read; `OSError` as from the system."""

    def __init__(self, path: Path) -> None:
        self.size: int | None = None
        self.name = path.name
        self._path = path
        self._file: Any = None

    async def open(self) -> None:
        if self._file is None:
            self._file = await trio.open_file(self._path, "rb", buffering=0)
            self.size = (await trio.Path(self._path).stat()).st_size

    async def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (piece := await self._file.read(count - len(data))):
            data += piece
        return data

    async def seek(self, offset: int) -> bool:
        await self._file.seek(offset)
        return True

    async def aclose(self) -> None:
        if self._file is not None:
            await self._file.aclose()


class _Yielded:
    name = ""

    def __init__(self, given: AsyncIterable[bytes], size: int | None) -> None:
        self.size = size
        self._pieces: AsyncIterator[bytes] = aiter(given)
        self._held = bytearray()
        self._ended = False

    async def read(self, count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while len(self._held) < count and not self._ended:
            try:
                self._held += self._checked(await anext(self._pieces))
            except StopAsyncIteration:
                self._ended = True
        piece = bytes(self._held[:count])
        del self._held[:count]
        return piece

    def _checked(self, piece: object) -> bytes:
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise PayloadError("source", "must yield bytes", piece)
        return bytes(piece)

    async def seek(self, offset: int) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def aclose(self) -> None:
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()
        await trio.lowlevel.checkpoint()

"""Where the bytes of an upload come from: memory, a file, or what a program yields."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import AsyncIterable, AsyncIterator
from io import FileIO
from pathlib import Path
from typing import Protocol, TypeAlias

import trio

from ...errors import OptionError, PayloadError
from ...options import check_number

__all__ = ["Source", "SourceLike", "guessed_type", "open_source"]

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


async def open_source(given: SourceLike, size: int | None) -> Source:
    """The source that `given` stands for. Raises `OptionError`, and `OSError` for a path."""
    await trio.lowlevel.checkpoint()
    if size is not None:
        check_number("size", size, whole=True, finite=True)
        if not isinstance(given, AsyncIterable):
            raise OptionError("size", "must come with an async iterable only", size)
    if isinstance(given, (bytes, bytearray, memoryview)):
        return _Memory(bytes(given))
    if isinstance(given, (str, os.PathLike)):
        return _File(Path(given).name, await trio.to_thread.run_sync(FileIO, given, "rb"))
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
    """An open file. What is added to it later is not read; `OSError` as from the system."""

    def __init__(self, name: str, file: FileIO) -> None:
        self.name = name
        self.size: int | None = os.fstat(file.fileno()).st_size
        self._file = file

    async def read(self, count: int) -> bytes:
        return await trio.to_thread.run_sync(self._read, count)

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count and (piece := self._file.read(count - len(data))):
            data += piece
        return bytes(data)

    async def seek(self, offset: int) -> bool:
        await trio.lowlevel.checkpoint()
        self._file.seek(offset)
        return True

    async def aclose(self) -> None:
        self._file.close()
        await trio.lowlevel.checkpoint()


class _Yielded:
    """It looks one byte ahead, and so knows at the last piece that it is the last."""

    name = ""

    def __init__(self, given: AsyncIterable[bytes], size: int | None) -> None:
        self.size = size
        self._pieces: AsyncIterator[bytes] = aiter(given)
        self._held = bytearray()
        self._count = 0

    async def read(self, count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while len(self._held) <= count:
            try:
                self._take(await anext(self._pieces))
            except StopAsyncIteration:
                self._end()
                break
        piece = bytes(self._held[:count])
        del self._held[:count]
        return piece

    def _take(self, piece: object) -> None:
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise PayloadError("source", "must yield bytes", piece)
        self._held += piece
        self._count += len(piece)
        if self.size is not None and self._count > self.size:
            raise PayloadError("source", f"must have {self.size} bytes", self._count)

    def _end(self) -> None:
        if self.size is None:
            self.size = self._count

    async def seek(self, offset: int) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def aclose(self) -> None:
        """Close it, if it is a generator. Cancelled, it is told so."""
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()
        await trio.lowlevel.checkpoint()

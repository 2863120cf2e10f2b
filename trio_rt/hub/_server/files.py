"""Files to be served: found, and read, in threads. See `site` for what may be found."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.resources.abc import Traversable
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

import attrs
import trio

from ...errors import OptionError

__all__ = ["PIECE_BYTES", "Directory", "Files", "Found", "Pieces", "Resources"]

#: Read in one go; larger files are read in pieces of it.
PIECE_BYTES: Final = 64 << 10

#: A device is not waited for, nor made the terminal; a link is not followed.
_FLAGS: Final = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY")
)
#: The client's mistake, or nobody's; all else is the server's.
_ABSENT: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP}
    | {errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO, errno.EINVAL}
)
#: The last second that an HTTP date can have.
_LAST_S: Final = 253_402_300_799


@attrs.frozen(kw_only=True)
class Found:
    """A file, or a folder that has an index and was asked for without the slash."""

    is_folder: bool = False
    size: int = 0
    #: As `ETag` has it.
    tag: str = ""
    #: Seconds since the epoch; None if unknown.
    modified: int | None = None
    #: Of a small file.
    content: bytes | None = None
    #: How `content` is encoded, as `Content-Encoding` has it; "" for as it is.
    coding: str = ""
    #: Opens it again; `OSError` if it is not the same any more. Blocks.
    open: Callable[[], FileIO] | None = None


class Files(Protocol):
    """Where files are."""

    def find(self, names: Sequence[str]) -> Found | None:
        """What these segments name, the last one "" for a folder's index. Blocks."""


class Directory:
    """The regular files below a directory. It may be replaced, or be a link that is."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)
        if not os.path.isdir(self._root):
            raise OptionError("files", "must be a directory", root)

    def find(self, names: Sequence[str]) -> Found | None:
        *folders, last = names
        try:
            path = self._resolve([*folders, last or "index.html"])
            if path is None:
                return None
            if last and path.is_dir():
                index = self._resolve([*names, "index.html"])
                return Found(is_folder=True) if index is not None and index.is_file() else None
            return _look(path) if path.is_file() else None
        except ValueError:  # a name that the file system cannot have
            return None
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def _resolve(self, names: Sequence[str]) -> Path | None:
        """Where it really is, if that is below the directory and hidden nowhere."""
        root = Path(os.path.realpath(self._root))
        path = Path(os.path.realpath(root.joinpath(*names)))
        if not path.is_relative_to(root):
            return None
        hidden = any(name.startswith(".") for name in path.relative_to(root).parts)
        return None if hidden else path


def _open(path: Path) -> tuple[FileIO, os.stat_result]:
    """A regular file, opened. `OSError` if it is none."""
    file = FileIO(os.open(path, _FLAGS), "rb")
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENXIO, "not a regular file")
    except BaseException:
        file.close()
        raise
    return file, status


def _tag(status: os.stat_result) -> str:
    words = f"{status.st_mtime_ns} {status.st_size} {status.st_ino} {status.st_dev}"
    return f'"{hashlib.sha256(words.encode()).hexdigest()[:32]}"'


def _look(path: Path) -> Found:
    file, status = _open(path)
    with file:
        size, content = status.st_size, None
        if size <= PIECE_BYTES:
            content = _read_all(file)
            size = len(content)
    tag = _tag(status)

    def reopen() -> FileIO:
        file, status = _open(path)
        if _tag(status) != tag:
            file.close()
            raise OSError("the file has changed")
        return file

    modified = int(status.st_mtime)
    return Found(
        size=size,
        tag=tag,
        modified=modified if 0 <= modified <= _LAST_S else None,
        content=content,
        open=reopen,
    )


def _read_all(file: FileIO) -> bytes:
    """What is in a small file, and no more of one that has grown since."""
    data = b""
    while piece := file.read(PIECE_BYTES - len(data)):
        data += piece
    return data


class Resources:
    """The files of a package that is no directory, as in a zip archive."""

    def __init__(self, root: Traversable) -> None:
        if not root.is_dir():
            raise OptionError("files", "must be a directory", root)
        self._root = root

    def find(self, names: Sequence[str]) -> Found | None:
        *folders, last = names
        place = self._root
        try:
            for name in (*folders, last or "index.html"):
                place = place.joinpath(name)
            if last and place.is_dir():
                has_index = place.joinpath("index.html").is_file()
                return Found(is_folder=True) if has_index else None
            content = place.read_bytes() if place.is_file() else None
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        if content is None:
            return None
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return Found(size=len(content), tag=tag, content=content)


class Pieces(AsyncIterator[bytes]):
    """The bytes of `found` from `start` to before `end`, in pieces.

    `OSError` if the file is not the same any more. It is opened for the first
    piece, and closed behind the last or by `aclose()`. A cancelled piece is lost.
    """

    def __init__(self, found: Found, start: int, end: int) -> None:
        self._found = found
        self._at = start
        self._end = end
        self._file: FileIO | None = None

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._at >= self._end:
            raise StopAsyncIteration
        if self._file is None:
            assert self._found.open is not None
            self._file = await trio.to_thread.run_sync(self._found.open)
            self._file.seek(self._at)
        wanted = min(PIECE_BYTES, self._end - self._at)
        piece = await trio.to_thread.run_sync(self._file.read, wanted)
        self._at += len(piece)
        if not piece or self._at == self._end:
            self._close()
        if not piece:
            raise OSError("the file has become shorter")
        return piece

    def _close(self) -> None:
        self._at = self._end
        if self._file is not None:
            self._file.close()
            self._file = None

    async def aclose(self) -> None:
        """Close the file. Cancelled: it is closed."""
        self._close()
        await trio.lowlevel.checkpoint()

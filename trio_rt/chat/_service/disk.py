"""The files on the disk. All of it blocks, and is called in threads.

**Goal.** What is served is whole, was checked, and has the content that its address says;
also after a crash at any moment, of the process or of the machine.

**The rule.** In `uploads/` lies what is not finished: the bytes, and beside them who began
it (`.json`). In `files/` lies what is served, by the SHA-256 of its content. The only way
from one to the other: the bytes are flushed to the disk, read and hashed, and renamed.
Names on the disk are made here, and only of hexadecimal digits.

**The remaining hole.** One process at a time may have the directory. After a crash of the
machine an unfinished upload may have lost its newest bytes, or have zeros in their place:
then its hash is not what its client expects.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

from ...errors import OptionError
from .sniff import SNIFF_BYTES
from .uploads import Known, Upload

__all__ = ["Disk"]

_PIECE_BYTES: Final = 1 << 20
_INFO: Final = ".json"
_SAFE: Final = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))


class _Info(msgspec.Struct):
    user: str
    name: str
    type: str
    length: int | None


class Disk:
    """The directory. It is made if it is not there; raises `OptionError` if it cannot be."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        root = Path(os.path.abspath(directory))
        self._files = root / "files"
        self._uploads = root / "uploads"
        # Two uploads of the same content may end at once.
        self._renaming = threading.Lock()
        try:
            for each in (self._files, self._uploads):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError("directory", f"must be one ({error.strerror})", directory) from error

    def sizes(self) -> Iterator[int]:
        """Of all the files."""
        with os.scandir(self._files) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False).st_size

    # Unfinished

    def unfinished(self) -> Iterator[Upload]:
        """What a former process has left and can be gone on with; the rest is deleted."""
        names = sorted(os.listdir(self._uploads))
        whole = {name for name in names if name + _INFO in names}
        for name in names:
            if name not in whole and name.removesuffix(_INFO) not in whole:
                (self._uploads / name).unlink(missing_ok=True)
        for name in sorted(whole):
            upload = self._read_upload(name)
            if upload is None:
                self.discard(name)
            else:
                yield upload

    def _read_upload(self, id: str) -> Upload | None:
        status = (self._uploads / id).stat()
        try:
            data = (self._uploads / (id + _INFO)).read_bytes()
            info = msgspec.json.decode(data, type=_Info)
        except (msgspec.DecodeError, UnicodeDecodeError):  # it was cut while it was written
            return None
        if info.length is not None and status.st_size > info.length:
            return None
        return Upload(
            id=id,
            user=info.user,
            name=info.name,
            type=info.type,
            length=info.length,
            offset=status.st_size,
            touched_at=status.st_mtime,
        )

    def begin(self, upload: Upload) -> None:
        """Have a place for its bytes."""
        try:
            self.note(upload, upload.length)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
            os.close(os.open(self._uploads / upload.id, flags, 0o600))
        except BaseException:
            self.discard(upload.id)
            raise

    def note(self, upload: Upload, length: int | None) -> None:
        """Write down what is known of it, and that it has this length."""
        info = _Info(upload.user, upload.name, upload.type, length)
        (self._uploads / (upload.id + _INFO)).write_bytes(msgspec.json.encode(info))

    def write(self, id: str, offset: int, data: bytes) -> None:
        """Put `data` at `offset`. `OSError`: some of it may be there."""
        rest = memoryview(data)
        with FileIO(os.open(self._uploads / id, os.O_WRONLY | _SAFE), "wb") as file:
            file.seek(offset)
            while rest:
                rest = rest[file.write(rest) :]

    def truncate(self, id: str, size: int) -> None:
        os.truncate(self._uploads / id, size)

    def discard(self, id: str) -> None:
        """Delete it, as far as it is there."""
        for name in (id + _INFO, id):
            (self._uploads / name).unlink(missing_ok=True)

    def look(self, id: str) -> Known:
        """What is known of its bytes, which are on the disk then."""
        found = hashlib.sha256()
        with FileIO(os.open(self._uploads / id, os.O_RDWR | _SAFE), "rb+") as file:
            os.fsync(file.fileno())
            head = file.read(SNIFF_BYTES)
            file.seek(0)
            while piece := file.read(_PIECE_BYTES):
                found.update(piece)
            return Known(found.hexdigest(), file.tell(), head)

    def keep(self, id: str, sha256: str) -> bool:
        """Make it a file, which it is as a whole or not at all; False if there was such a one."""
        target = self._files / sha256
        with self._renaming:
            is_new = not target.exists()
            os.replace(self._uploads / id, target)
        _flush(self._files)
        (self._uploads / (id + _INFO)).unlink(missing_ok=True)
        return is_new

    # Files

    def open(self, sha256: str) -> FileIO:
        """A file, to be read. `FileNotFoundError` if there is no such."""
        return FileIO(os.open(self._files / sha256, os.O_RDONLY | _SAFE), "rb")

    def find(self, sha256: str) -> Known | None:
        """What is known of a file; None if there is no such."""
        try:
            with self.open(sha256) as file:
                status = os.fstat(file.fileno())
                is_file = stat.S_ISREG(status.st_mode)
                return Known(sha256, status.st_size, file.read(SNIFF_BYTES)) if is_file else None
        except FileNotFoundError:
            return None

    def delete(self, sha256: str) -> int | None:
        """Delete a file: how large it was; None if there was no such."""
        with self._renaming:
            try:
                size = (self._files / sha256).stat().st_size
                (self._files / sha256).unlink()
            except FileNotFoundError:
                return None
        return size


def _flush(directory: Path) -> None:
    """Have the directory's entries on the disk, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

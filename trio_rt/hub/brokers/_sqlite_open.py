"""A SQLite file for one process, and whose it is.

*One process.* The connection takes sqlite's exclusive lock when it opens the file and
has it until it is closed, so that two processes never count offsets side by side.
(It also spares the shared memory of the write-ahead log.) The system releases it when the
process dies.

*What was told is there.* Each commit is synchronized with the disk (`FULL`): in the
mode that is usual with a write-ahead log a power failure takes the last commits back, and
offsets would be given twice in one epoch. Batches pay for that.

*Whose file.* A file is ours by the mark in its header. One of ours that is broken is
set aside as `<name>.set-aside`, in place of the last one, for a new one, with new epochs.
What has no mark, or that of another program or version, is never touched: `Foreign`.
What cannot be seen is an old copy that was put back: it would give offsets again. Such a one
needs new epochs first: `UPDATE rooms SET epoch = hex(randomblob(8))`, and the same for
`epochs` in `store`.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

__all__ = ["Foreign", "Transaction", "is_broken", "is_locked", "open_file", "set_aside_file"]

#: "trhr": marks the files of this store for everybody, `file(1)` included.
_APPLICATION: Final = 0x74726872
#: Changes with the tables.
_VERSION: Final = 1

_SCHEMA: Final = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
CREATE TABLE store (epochs TEXT NOT NULL, forgotten INTEGER NOT NULL, tries INTEGER NOT NULL);
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL
);
CREATE TABLE items (
    id INTEGER PRIMARY KEY, room INTEGER NOT NULL, place INTEGER NOT NULL, at REAL NOT NULL,
    whose TEXT NOT NULL, but TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (room, place)
);
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, room INTEGER NOT NULL, key TEXT NOT NULL,
    place INTEGER NOT NULL, at REAL NOT NULL, UNIQUE (room, key)
);
CREATE TABLE marks (
    room INTEGER NOT NULL, user TEXT NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (room, user)
) WITHOUT ROWID
"""

#: https://www.sqlite.org/fileformat2.html: how a file begins, and where the application is.
_MAGIC: Final = b"SQLite format 3\0"
_APPLICATION_AT: Final = slice(68, 72)

#: Where the log is cut after a checkpoint.
_LOG_BYTES: Final = 16 << 20


class Foreign(Exception):
    """The file is not of this store."""


def _code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def is_locked(error: BaseException) -> bool:
    """Whether another process has the file."""
    return _code(error) == sqlite3.SQLITE_BUSY


def is_broken(error: BaseException) -> bool:
    """Whether it says that the file is damaged."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_marked(path: Path) -> bool:
    """Not to be called while the file is open here: closing it drops this process's locks."""
    with path.open("rb") as file:
        head = file.read(100)
    return head.startswith(_MAGIC) and head[_APPLICATION_AT] == _APPLICATION.to_bytes(4, "big")


def set_aside_file(path: Path) -> None:
    """With its write-ahead log. It is to be closed."""
    for log in ("-wal", ""):
        aside = Path(f"{path}.set-aside{log}")
        aside.unlink(missing_ok=True)
        if log == "" or os.path.exists(f"{path}{log}"):
            os.replace(f"{path}{log}", aside)
    for log in ("-shm", "-journal"):
        Path(f"{path}{log}").unlink(missing_ok=True)


def _create(path: Path) -> None:
    """Readable by its owner alone."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass


def open_file(path: Path, epochs: str) -> sqlite3.Connection:
    """Open it, or make one whose epochs begin with `epochs`. A broken one is set aside first."""
    _create(path)
    try:
        return _open(path, epochs)
    except sqlite3.DatabaseError as error:
        if not is_broken(error):
            raise
        if not _is_marked(path):
            raise Foreign from error
    set_aside_file(path)
    _create(path)
    return _open(path, epochs)


class Transaction:
    """All of the block, or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _open(path: Path, epochs: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    execute = connection.execute
    try:
        execute("PRAGMA locking_mode = EXCLUSIVE")
        application = execute("PRAGMA application_id").fetchone()[0]
        tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        version = execute("PRAGMA user_version").fetchone()[0]
        is_new = not (application or tables or version)
        if not is_new and (application, version) != (_APPLICATION, _VERSION):
            raise Foreign
        if is_new:
            with Transaction(connection):
                for statement in _SCHEMA.split(";"):
                    execute(statement)
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        with Transaction(connection):
            if execute("SELECT count(*) FROM store").fetchone()[0] != 1:
                execute("DELETE FROM store")
                execute("INSERT INTO store VALUES (?, 0, 0)", (epochs,))
    except BaseException:
        connection.close()
        raise
    return connection

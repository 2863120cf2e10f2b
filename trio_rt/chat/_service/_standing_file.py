"""The SQLite file of `SqliteStandings`. All of it blocks."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from ...errors import OptionError

__all__ = ["banned", "open_file", "read", "sweep", "write"]

#: "trst": marks the files of this store for everybody, `file(1)` included.
_APPLICATION: Final = 0x74727374
#: Changes with the table.
_VERSION: Final = 1
#: How long another process that writes is waited for.
_WAIT_S: Final = 2.0

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS standings (
    room TEXT NOT NULL, user TEXT NOT NULL, role TEXT NOT NULL, muted INTEGER, banned INTEGER,
    PRIMARY KEY (room, user)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT
"""
_OVER: Final = """
DELETE FROM standings WHERE role = 'member'
AND (muted IS NULL OR muted BETWEEN 1 AND :now) AND (banned IS NULL OR banned BETWEEN 1 AND :now)
"""


def open_file(path: Path) -> sqlite3.Connection:
    """Open it, or make one. Raises `OptionError` for another program's, else what sqlite3 does."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    file = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(file, path)
    except BaseException:
        file.close()
        raise
    return file


def _prepare(file: sqlite3.Connection, path: Path) -> None:
    execute = file.execute
    application, version, tables = (
        execute(question).fetchone()[0]
        for question in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_master",
        )
    )
    if not (application or version or tables):
        for statement in _SCHEMA.split(";"):
            execute(statement)
    elif (application, version) != (_APPLICATION, _VERSION):
        raise OptionError("path", "must be new, or a file of this store and version", str(path))
    execute("PRAGMA journal_mode = WAL")
    execute("PRAGMA synchronous = FULL")


def read(file: sqlite3.Connection, room: str, user: str) -> Any:
    """Role, mute and ban; None of whom nothing was decided."""
    question = "SELECT role, muted, banned FROM standings WHERE room = ? AND user = ?"
    return file.execute(question, (room, user)).fetchone()


def banned(file: sqlite3.Connection, room: str, now: int) -> list[str]:
    """Users who are banned from a room."""
    question = "SELECT user FROM standings WHERE room = ? AND (banned = 0 OR banned > ?)"
    return [user for (user,) in file.execute(question, (room, now))]


def write(file: sqlite3.Connection, room: str, user: str, fields: tuple[Any, ...] | None) -> None:
    """Role, mute and ban; None: nothing is decided any more."""
    if fields is None:
        file.execute("DELETE FROM standings WHERE room = ? AND user = ?", (room, user))
    else:
        file.execute("REPLACE INTO standings VALUES (?, ?, ?, ?, ?)", (room, user, *fields))


def sweep(file: sqlite3.Connection, now: int) -> None:
    """Delete what is over at `now`."""
    file.execute(_OVER, {"now": now})

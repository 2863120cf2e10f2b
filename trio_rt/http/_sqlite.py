"""A store in a file, by sqlite, for one process or several at once.

All work with sqlite is done in threads, one at a time for reading and one for
writing; the write-ahead log lets them, and other processes, work side by side.
What is put counts at once: it is `_unwritten` until a task has written it, many
entries in one transaction, and meanwhile lies over what the file says.

A cancelled `get` waits for its thread, which is one look-up: so no thread is left
with a database that is closed. A database that fails is a store that has nothing,
never an error of a request. One that is broken, or of another version of this
schema, is set aside as `<name>.set-aside` for a new one. Files of other programs are
never touched: the constructor refuses them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from .._ambient import ambient
from ..errors import OptionError
from ._freshness import Entry
from ._layer import Crew
from ._store import MOST_VARIANTS, StoreStatistics, check_sizes, size_bytes

__all__ = ["SqliteStore"]

#: "trhc": marks the files of this store for everybody, `file(1)` included.
_APPLICATION: Final = 0x74726863
#: Changes with the table, and with the fields of `Entry` and `Terms`.
_VERSION: Final = 1

_SCHEMA: Final = f"""
CREATE TABLE entries (
    key TEXT NOT NULL, variant BLOB NOT NULL, entry BLOB NOT NULL,
    bytes INTEGER NOT NULL, used REAL NOT NULL, PRIMARY KEY (key, variant)
) WITHOUT ROWID;
CREATE INDEX by_use ON entries (used);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""

#: For a lock of another process; a write of ours is done within milliseconds.
_BUSY_S: Final = 1.0
#: Two processes that begin the same file at once can be refused without any wait.
_TRIES: Final = 3
#: What is put beyond this is dropped: the disk is too slow for it.
_MOST_UNWRITTEN_BYTES: Final = 32 << 20
#: So many uses are written down even if nothing is stored.
_MOST_USES: Final = 1024
#: `closing` writes what is left for at most so long.
_FLUSH_S: Final = 2.0

#: https://www.sqlite.org/fileformat2.html: how a file begins, and where the application is.
_MAGIC: Final = b"SQLite format 3\0"
_APPLICATION_AT: Final = slice(68, 72)


class _Pending:
    """What is to be written under one key: first, perhaps, a deletion."""

    __slots__ = ("deleted", "entries")

    def __init__(self) -> None:
        self.deleted = False
        self.entries: dict[bytes, Entry] = {}


def _check_is_ours(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OptionError("path", f"must be readable ({error.strerror})", str(path)) from error
    application = int.from_bytes(head[_APPLICATION_AT], "big")
    if head and (not head.startswith(_MAGIC) or application not in (0, _APPLICATION)):
        raise OptionError("path", "must be new, or a file of this store", str(path))


class _File:
    """The two connections. All of it blocks, and runs in threads."""

    def __init__(self, path: Path, max_bytes: int, busy_s: float) -> None:
        """Waits up to `busy_s` for the lock of another process."""
        self._path = path
        self._busy_s = busy_s
        self._max_bytes = max_bytes
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Entry).decode
        self.count = self.bytes = 0
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            self._writer = self._open()
        except sqlite3.OperationalError:
            raise  # locked, or a full disk: nothing is wrong with it
        except sqlite3.DatabaseError:
            self.set_aside()
            self._writer = self._open()
        self._reader = self._connect()
        for connection in (self._reader, self._writer):
            connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if application != _APPLICATION and (application or tables):
                raise OptionError("path", "must be new, or a file of this store", str(self._path))
            if connection.execute("PRAGMA user_version").fetchone()[0] not in (0, _VERSION):
                connection.close()
                self.set_aside()
                connection = self._connect()
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")  # two processes may be here
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
            connection.execute("COMMIT")
            self.count, self.bytes = _totals(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def set_aside(self) -> None:
        os.replace(self._path, f"{self._path}.set-aside")
        for log in ("-wal", "-shm"):
            Path(f"{self._path}{log}").unlink(missing_ok=True)

    def read(self, key: str) -> list[Entry]:
        rows = self._reader.execute(
            "SELECT entry FROM entries WHERE key = ? ORDER BY used DESC LIMIT ?",
            (key, MOST_VARIANTS),
        ).fetchall()
        return [self._decode(row[0]) for row in rows]

    def write(self, batch: dict[str, _Pending], used: dict[str, float], now: float) -> None:
        """All of it or nothing."""
        execute = self._writer.execute
        execute("BEGIN IMMEDIATE")
        try:
            for key, at in used.items():
                execute("UPDATE entries SET used = ? WHERE key = ?", (at, key))
            for key, pending in batch.items():
                if pending.deleted:
                    execute("DELETE FROM entries WHERE key = ?", (key,))
                for variant, entry in pending.entries.items():
                    row = (key, variant, self._encode(entry), size_bytes(key, entry), now)
                    execute("REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", row)
            self._shrink()
            execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                execute("ROLLBACK")
            raise

    def _shrink(self) -> None:
        """Delete what was used longest ago, until the rest fits."""
        execute = self._writer.execute
        self.count, self.bytes = _totals(self._writer)
        while self.bytes > self._max_bytes:
            rows = execute("SELECT key, variant, bytes FROM entries ORDER BY used LIMIT 16")
            for key, variant, size in rows.fetchall():
                if self.bytes > self._max_bytes:
                    execute("DELETE FROM entries WHERE key = ? AND variant = ?", (key, variant))
                    self.count -= 1
                    self.bytes -= size

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


def _totals(connection: sqlite3.Connection) -> tuple[int, int]:
    row = connection.execute("SELECT count(*), total(bytes) FROM entries").fetchone()
    return row[0], int(row[1])


class SqliteStore:
    """Keeps entries in the file `path`, at most `max_bytes` of them: those used last.

    The file is opened with the client and closed with it. Caches of several
    processes may use it at once, all private or all shared. It holds what was
    received, in plain, and is made readable by its owner alone. Raises OptionError
    if `path` is the file of another program.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int = 256 << 20,
        max_body_bytes: int = 4 << 20,
    ) -> None:
        check_sizes(max_bytes, max_body_bytes)
        if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
            raise OptionError("path", "must be a path", path)
        self.path = Path(path)
        _check_is_ours(self.path)
        self.max_bytes = max_bytes
        self.max_body_bytes = max_body_bytes
        self._file: _File | None = None
        #: Between `opened` and the end: what is put will be written.
        self._takes = False
        self._reading = trio.CapacityLimiter(1)
        self._writing = trio.CapacityLimiter(1)
        self._unwritten: dict[str, _Pending] = {}
        self._being_written: dict[str, _Pending] = {}
        self._unwritten_bytes = 0
        self._used: dict[str, float] = {}
        self._count = self._bytes = self._errors = 0
        self._closing = self._broken = False
        self._work = trio.Event()
        self._closed = trio.Event()

    def opened(self, crew: Crew) -> None:
        """Open the file. Where that fails there is no store, and `errors` counts it.

        While another process has it locked, a thread waits for that: until then what is
        put is kept in memory, and what is in the file is not there.
        """
        self._closing = self._broken = False
        self._takes = True
        self._closed = trio.Event()
        try:
            self._file = _File(self.path, self.max_bytes, 0)
        except sqlite3.OperationalError:
            crew.start(self._open_late)
        except (sqlite3.Error, OSError):
            self._give_up()
        else:
            self._note(self._file)
            crew.start(self._keep_writing, self._file)

    async def _open_late(self) -> None:
        for _ in range(_TRIES):
            try:
                file = await trio.to_thread.run_sync(
                    _File, self.path, self.max_bytes, _BUSY_S, limiter=self._writing
                )
            except sqlite3.OperationalError:
                if self._closing:
                    break
            except (sqlite3.Error, OSError, OptionError):
                break
            else:
                self._file = file
                self._note(file)
                await self._keep_writing(file)
                return
        self._give_up()

    def _give_up(self) -> None:
        self._errors += 1
        self._takes = False
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self._closed.set()

    async def closing(self) -> None:
        """Write what was put, within 2 s, and close the file."""
        self._closing = True
        self._work.set()
        with trio.move_on_after(_FLUSH_S, shield=True):
            await self._closed.wait()

    def peek(self, key: str) -> None:
        """It is in a file."""

    async def get(self, key: str) -> Sequence[Entry]:
        found: dict[bytes, Entry] = {}
        for pending in (self._unwritten.get(key), self._being_written.get(key)):
            if pending is not None:
                found = pending.entries | found
                if pending.deleted:
                    return list(found.values())
        for entry in await self._read(key):
            found.setdefault(entry.variant, entry)
        return list(found.values())

    async def _read(self, key: str) -> Sequence[Entry]:
        file = self._file
        if file is None or self._broken:
            return ()
        try:
            entries = await trio.to_thread.run_sync(file.read, key, limiter=self._reading)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            self._failed(error)
            return ()
        if entries:
            self._used[key] = ambient().wall_s()
            if len(self._used) >= _MOST_USES:
                self._work.set()
        return entries

    def put(self, key: str, entry: Entry) -> None:
        size = size_bytes(key, entry)
        if self._unwritten_bytes + size > _MOST_UNWRITTEN_BYTES:
            self._errors += 1
            self.delete(key)  # what is there is older
        elif self._takes:
            self._unwritten_bytes += size
            self._unwritten.setdefault(key, _Pending()).entries[entry.variant] = entry
            self._work.set()

    def delete(self, key: str) -> None:
        if self._takes:
            pending = self._unwritten[key] = _Pending()
            pending.deleted = True
            self._work.set()

    def statistics(self) -> StoreStatistics:
        """As of the last writing; what other processes changed is seen then."""
        return StoreStatistics(entries=self._count, bytes=self._bytes, errors=self._errors)

    async def _keep_writing(self, file: _File) -> None:
        try:
            while not self._closing or self._unwritten:
                if self._unwritten or len(self._used) >= _MOST_USES:
                    await self._write(file)
                else:
                    self._work = trio.Event()
                    await self._work.wait()
        finally:
            self._file = None
            self._takes = False
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close, file, limiter=self._reading)
            self._closed.set()

    async def _write(self, file: _File) -> None:
        batch, self._unwritten = self._unwritten, {}
        used, self._used = self._used, {}
        self._being_written = batch
        self._unwritten_bytes = 0
        now = ambient().wall_s()
        try:
            if not self._broken:
                await trio.to_thread.run_sync(file.write, batch, used, now, limiter=self._writing)
        except Exception as error:
            self._failed(error)
        finally:
            self._being_written = {}
        self._note(file)

    def _close(self, file: _File) -> None:
        file.close()
        if self._broken:
            try:
                file.set_aside()
            except OSError:
                self._errors += 1

    def _note(self, file: _File) -> None:
        self._count, self._bytes = file.count, file.bytes

    def _failed(self, error: Exception) -> None:
        self._errors += 1
        # Locked, full, or closed while this one waited for its turn: no damage.
        harmless = (sqlite3.OperationalError, sqlite3.ProgrammingError)
        if isinstance(error, sqlite3.Error | msgspec.MsgspecError):
            self._broken = self._broken or not isinstance(error, harmless)

"""The rows of `SqliteBroker`. All of it blocks, and runs in one thread at a time.

`id`s grow with time: what is too old is found at the front of a table. A room has
a row only once something was stored; the epoch of all others is that of `store`, and
changes when the row of a room goes, so that the room never has the same one again.

Nobody else reads the file, so that what is too old need not be deleted at once: those who
ask are told where the log begins by now, and a sweep deletes piece by piece. What is too much
for a room is deleted by the commit that brings more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from .._broker import Draft, Head, Item, LogLimits, Page, Way
from .._log import MOST_MARKS
from ._sqlite_open import Transaction, open_file, set_aside_file

__all__ = ["File", "Place"]

#: Of what is too old or too much: at most so many rows go with one commit, besides as
#: many as came. 30 ms.
_CHUNK: Final = 2000


class Place(NamedTuple):
    """Where a draft came to be: offset 0 if it is passing, not `new` if it was known."""

    epoch: str
    offset: int
    new: bool


class _Room:
    """A row of `rooms`; `added` counts the messages of this commit."""

    __slots__ = ("added", "bytes", "epoch", "first", "id", "last")

    def __init__(self, row: tuple[int, str, int, int, int]) -> None:
        self.id, self.epoch, self.first, self.last, self.bytes = row
        self.added = 0


class File:
    """An open file. Raises `Foreign`, `sqlite3.Error` or `OSError`; nothing is done then."""

    def __init__(self, path: Path, limits: LogLimits, epochs: str) -> None:
        """Open it, or make one whose epochs begin with `epochs`."""
        self._path = path
        self._limits = limits
        self._swept = 0
        self.broken = False
        self._connection = open_file(path, epochs)
        self._execute = self._connection.execute

    def close(self) -> None:
        """If it is `broken`, it is set aside."""
        self._connection.close()
        if self.broken:
            set_aside_file(self._path)

    def probe(self) -> None:
        """Write something."""
        self._execute("UPDATE store SET tries = tries + 1")

    def write(
        self, drafts: Sequence[tuple[Draft, bool]], marks: Mapping[tuple[str, str], int], now: float
    ) -> tuple[list[Place], list[tuple[str, str, int]]]:
        """Commit drafts (those with True are to be stored) and marks: all or nothing.

        Returns their places, and the marks that have moved.
        """
        with Transaction(self._connection):
            rooms: dict[str, _Room] = {}
            places = [
                self._append(rooms, draft, now) if stored else self._pass(rooms, draft.room)
                for draft, stored in drafts
            ]
            for room in rooms.values():
                if room.added:
                    self._trim(room, now)
            moved = [
                (name, user, offset)
                for (name, user), offset in marks.items()
                if self._mark(name, user, offset)
            ]
        return places, moved

    def sweep(self, held: Collection[str], now: float) -> bool:
        """Delete a piece of what is too old, and rooms without anything that are not `held`.

        Returns whether there may be more at once.
        """
        with Transaction(self._connection):
            more = self._sweep_items(now - self._limits.keep_s)
            more |= self._sweep_keys(now - self._limits.repeat_s)
            self._sweep_rooms(held)
        return more

    def page(
        self, room: str, way: Way, offset: int, limit: int, max_bytes: int, now: float
    ) -> Page:
        row = self._row(room)
        if row is None:
            return Page(Head(self._epoch(), 1, 0), ())
        head = self._head(row, now)
        offset = max(0, min(offset, head.last + 1))
        if way == "after":
            span = (max(offset + 1, head.first), head.last)
        else:
            span = (head.first, min(offset - 1, head.last))
        rows = self._execute(
            "SELECT place, body, whose, but FROM items WHERE room = ? AND place BETWEEN ? AND ?"
            f" ORDER BY place {'ASC' if way == 'after' else 'DESC'} LIMIT ?",
            (row.id, *span, max(0, min(limit, self._limits.messages))),
        )
        items: list[Item] = []
        for place, body, whose, but in rows:
            max_bytes -= len(body)
            if items and max_bytes < 0:
                break
            items.append(Item(room, row.epoch, place, body, whose, but))
        rows.close()
        return Page(head, items if way == "after" else items[::-1])

    def look(self, room: str, now: float) -> tuple[Head, dict[str, int]]:
        """Head and marks."""
        row = self._row(room)
        if row is None:
            return Head(self._epoch(), 1, 0), {}
        marks = self._execute(
            "SELECT user, place FROM marks WHERE room = ? ORDER BY place DESC LIMIT ?",
            (row.id, MOST_MARKS),
        )
        return self._head(row, now), dict(marks.fetchall())

    def _epoch(self) -> str:
        epochs, forgotten = self._execute("SELECT epochs, forgotten FROM store").fetchone()
        return f"{epochs}-{forgotten:x}"

    def _row(self, name: str) -> _Room | None:
        row = self._execute(
            "SELECT id, epoch, first, last, bytes FROM rooms WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else _Room(row)

    def _room(self, rooms: dict[str, _Room], name: str) -> _Room:
        """A row, made if need be."""
        room = rooms.get(name) or self._row(name)
        if room is None:
            epoch = self._epoch()
            row = self._execute("INSERT INTO rooms VALUES (NULL, ?, ?, 1, 0, 0)", (name, epoch))
            assert row.lastrowid is not None
            room = _Room((row.lastrowid, epoch, 1, 0, 0))
        rooms[name] = room
        return room

    def _append(self, rooms: dict[str, _Room], draft: Draft, now: float) -> Place:
        room = self._room(rooms, draft.room)
        known = self._execute(
            "SELECT place FROM keys WHERE room = ? AND key = ? AND at > ?",
            (room.id, draft.key, now - self._limits.repeat_s),
        ).fetchone()
        if known is not None:
            return Place(room.epoch, known[0], False)
        room.last += 1
        room.bytes += len(draft.body)
        room.added += 1
        self._execute(
            "INSERT INTO items VALUES (NULL, ?, ?, ?, ?, ?, ?)",
            (room.id, room.last, now, draft.only, draft.but, draft.body),
        )
        self._execute(
            "REPLACE INTO keys VALUES (NULL, ?, ?, ?, ?)", (room.id, draft.key, room.last, now)
        )
        return Place(room.epoch, room.last, True)

    def _pass(self, rooms: dict[str, _Room], name: str) -> Place:
        room = rooms.get(name) or self._row(name)
        return Place(self._epoch() if room is None else room.epoch, 0, True)

    def _trim(self, room: _Room, now: float) -> None:
        """Delete what is beyond the limits, and write the row."""
        limits = self._limits
        first = room.last - limits.messages + 1
        rows = self._execute(
            "SELECT place, at, length(body) FROM items WHERE room = ? AND place >= ?"
            " ORDER BY place LIMIT ?",
            (room.id, room.first, _CHUNK + room.added),
        )
        for place, at, size in rows:
            too_much = place < first or room.bytes > limits.total_bytes
            if not too_much and at > now - limits.keep_s:
                break
            room.first = place + 1
            room.bytes -= size
        rows.close()
        self._execute("DELETE FROM items WHERE room = ? AND place < ?", (room.id, room.first))
        self._execute(
            "UPDATE rooms SET first = ?, last = ?, bytes = ? WHERE id = ?",
            (room.first, room.last, room.bytes, room.id),
        )

    def _head(self, room: _Room, now: float) -> Head:
        """As it is by now: the first that is not too old is found by halving."""
        low = max(room.first, room.last - self._limits.messages + 1)
        high = room.last + 1
        while low < high:
            middle = (low + high) // 2
            if self._at(room.id, middle) > now - self._limits.keep_s:
                high = middle
            else:
                low = middle + 1
        return Head(room.epoch, low, room.last)

    def _at(self, room: int, place: int) -> float:
        row = self._execute("SELECT at FROM items WHERE room = ? AND place = ?", (room, place))
        at: float = row.fetchone()[0]
        return at

    def _mark(self, name: str, user: str, offset: int) -> bool:
        moved = self._execute(
            "INSERT INTO marks SELECT id, ?, ? FROM rooms WHERE name = ? AND last >= ?"
            " ON CONFLICT DO UPDATE SET place = excluded.place WHERE excluded.place > place",
            (user, offset, name, offset),
        )
        return moved.rowcount > 0

    def _sweep_items(self, old: float) -> bool:
        rows = self._execute("SELECT id, room, place, at, length(body) FROM items ORDER BY id")
        ends: dict[int, list[int]] = {}
        last = count = 0
        for number, room, place, at, size in rows:
            if at > old or count == _CHUNK:
                break
            last, count = number, count + 1
            end = ends.setdefault(room, [0, 0])
            end[:] = place + 1, end[1] + size
        rows.close()
        if count:
            self._execute("DELETE FROM items WHERE id <= ?", (last,))
            self._connection.executemany(
                "UPDATE rooms SET first = max(first, ?), bytes = bytes - ? WHERE id = ?",
                [(first, size, room) for room, (first, size) in ends.items()],
            )
        return count == _CHUNK

    def _sweep_keys(self, old: float) -> bool:
        rows = self._execute("SELECT id, at FROM keys ORDER BY id LIMIT ?", (_CHUNK,))
        last, count = self._front(rows, old)
        self._execute("DELETE FROM keys WHERE id <= ?", (last,))
        return count == _CHUNK

    def _front(self, rows: Iterable[tuple[int, float]], old: float) -> tuple[int, int]:
        last = count = 0
        for number, at in rows:
            if at > old:
                break
            last, count = number, count + 1
        return last, count

    def _sweep_rooms(self, held: Collection[str]) -> None:
        """The next piece of the table, all of it in turns."""
        rows = self._execute(
            "SELECT id, name, first > last AND NOT EXISTS"
            " (SELECT * FROM keys WHERE keys.room = rooms.id)"
            " FROM rooms WHERE id > ? ORDER BY id LIMIT ?",
            (self._swept, _CHUNK),
        ).fetchall()
        self._swept = rows[-1][0] if len(rows) == _CHUNK else 0
        empty = [(number,) for number, name, is_empty in rows if is_empty and name not in held]
        if empty:
            self._connection.executemany("DELETE FROM rooms WHERE id = ?", empty)
            self._connection.executemany("DELETE FROM marks WHERE room = ?", empty)
            self._execute("UPDATE store SET forgotten = forgotten + 1")

"""What a node makes of the bus: pure. It tells the sink, and notices what it has missed.

Entries are numbered without holes within a *generation* of the bus. So an entry that is
not the next one, or of another generation, means: something is gone (trimmed, flushed,
or lost with the end of the store's file), and the sink is told so at once. A room's own
offsets are checked too: they find a room that was lost alone.

A snapshot comes by another link, with the number of the bus at its time. The bus may be
read behind it or before it then. So what is heard of a room that is not watched yet is
kept until the snapshot is there, and what is in that is not told; and of one that was
watched before, `_Watched.since` says until where entries are older than the snapshot.

*Positions*: of each room the last place that anybody here was told, with the store's
time of that message. After a restart of the store they are checked: the store may have
forgotten the end of a log, and given its offsets again. The remaining hole is a place
that is known to clients only: its node has ended, or has forgotten it (`MOST_POSITIONS`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .._broker import Item, Sink
from ._redis_wire import Told, bus_number, bus_room, read_bus, to_bytes

__all__ = ["MOST_POSITIONS", "Ear"]

#: Rooms that are not watched any more, whose positions are remembered.
MOST_POSITIONS: Final = 10_000


class _Watched:
    __slots__ = ("begins", "early", "epoch", "held", "last", "name", "pending", "since", "snapshot")

    def __init__(self, name: str) -> None:
        self.name: Final = name
        #: Watches under way, and whether there was a snapshot.
        self.pending = 0
        self.held = False
        #: What was heard before the first snapshot.
        self.early: list[Told] = []
        #: As the bus has told it; "" and 0: not yet.
        self.epoch = ""
        self.last = 0
        #: The number of the bus at the snapshot, and the epoch and last offset then.
        self.since = -1
        #: The number of the bus at the first snapshot.
        self.begins = -1
        self.snapshot = ("", 0)

    def forget(self) -> None:
        """Anything may come next."""
        self.epoch, self.last, self.since, self.begins = "", 0, -1, -1
        self.early.clear()


class Ear:
    """`sink` is told by `hear`, in order."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._rooms: dict[bytes, _Watched] = {}
        self._positions: dict[str, tuple[str, int, int]] = {}
        #: Where the bus is read: generation, number and id of the last entry.
        self.generation = b""
        self.number = 0
        self.id = b"0-0"
        self.placed = False
        self.losses = 0
        self.entries = 0
        self.garbage = 0

    def begin_watch(self, room: str) -> _Watched:
        watched = self._rooms.setdefault(to_bytes(room), _Watched(room))
        watched.pending += 1
        return watched

    def end_watch(self, watched: _Watched) -> None:
        watched.pending -= 1
        key = to_bytes(watched.name)
        if not watched.held and not watched.pending and self._rooms.get(key) is watched:
            del self._rooms[key]

    def snapshot(
        self, watched: _Watched, generation: bytes, number: int, epoch: str, last: int, at_ms: int
    ) -> None:
        """A snapshot was taken when the bus was there."""
        self.note(watched.name, epoch, last, at_ms)
        watched.snapshot = (epoch, last)
        first, watched.held = not watched.held, True
        if first and generation == self.generation:
            watched.begins = number
        if generation != self.generation:
            watched.since, watched.epoch, watched.last = -1, "", 0
        elif first or number >= self.number:
            watched.since = number
        early, watched.early = watched.early, []
        for told in early:
            self._tell(watched, told)

    def unwatch(self, room: str) -> None:
        self._rooms.pop(to_bytes(room), None)

    def note(self, room: str, epoch: str, offset: int, at_ms: int) -> None:
        """Somebody here was told of a position."""
        positions = self._positions
        known = positions.get(room)
        if known is None:
            if len(positions) >= MOST_POSITIONS + len(self._rooms):
                unwatched = (name for name in positions if to_bytes(name) not in self._rooms)
                positions.pop(next(unwatched, room), None)
        elif known[0] == epoch and known[1] >= offset:
            return
        positions[room] = (epoch, offset, at_ms)

    def positions(self) -> Iterator[tuple[str, str, int, int]]:
        """Room, epoch, offset, ms of all that are known."""
        for room, (epoch, offset, at_ms) in list(self._positions.items()):
            if offset:
                yield room, epoch, offset, at_ms

    def place(self, generation: bytes, number: int, last_id: bytes) -> None:
        """Read on from there."""
        self.generation, self.number, self.id = generation, number, last_id
        self.placed = True

    def lost(self) -> None:
        """Something of any room was missed."""
        self.losses += 1
        for watched in self._rooms.values():
            watched.forget()
        self._sink.lost(None)

    def hear(self, entry: Any) -> None:
        """The next entry of the bus: an id, and fields."""
        self.id, fields = entry
        self.entries += 1
        room = bus_room(fields)
        found = bus_number(fields) if room is not None else None
        if found is None:
            self.garbage += 1
            return
        generation, number, words = found
        if number != self.number + 1 or generation != self.generation:
            self.generation, self.number = generation, number
            self.lost()
        self.number = number
        assert room is not None
        watched = self._rooms.get(room)
        if watched is not None:
            told = read_bus(watched.name, fields, words)
            if told is None:
                self.garbage += 1
                self._lost_room(watched)
            elif watched.held:
                self._tell(watched, told)
            else:
                watched.early.append(told)

    def _tell(self, watched: _Watched, told: Told) -> None:
        if told.number <= watched.begins:
            return
        if -1 < watched.since < told.number:
            watched.epoch, watched.last = watched.snapshot
            watched.since = -1
        name = watched.name
        if told.item is not None:
            self._tell_item(watched, told.item, told.at_ms)
        elif told.kind == b"m":
            self._sink.marked(name, told.user, told.offset)
        elif told.who is not None:
            self._sink.present(name, told.who)
        elif told.kind == b"a":
            self._sink.absent(name, told.device, told.for_good)
        else:
            self._lost_room(watched)

    def _tell_item(self, watched: _Watched, item: Item, at_ms: int) -> None:
        same = watched.epoch == item.epoch
        if watched.epoch and not same:
            self._lost_room(watched)
        elif item.offset and same and watched.last:
            if item.offset <= watched.last:
                self.garbage += 1
                return
            if item.offset != watched.last + 1:
                self._lost_room(watched)
        watched.epoch = item.epoch
        if item.offset:
            watched.last = item.offset
            self.note(watched.name, item.epoch, item.offset, at_ms)
        elif not same:
            watched.last = 0
        self._sink.item(item)

    def _lost_room(self, watched: _Watched) -> None:
        watched.forget()
        self._sink.lost(watched.name)

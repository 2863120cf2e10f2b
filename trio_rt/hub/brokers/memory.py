"""Rooms in the memory of this process: one node, whose hub is told in the same step.

Rooms are made by anybody who joins or asks. What is *held* is a room that is watched or
has somebody in it: so many there are as the hub lets its peers be in. Of the others
only those are kept that have a log, at most `rooms` of them (those used last), and no
longer than their messages and keys. For all else there is one epoch: it is that of each room
of which nothing is known, and it is changed whenever a log is forgotten, so that
a room that is made again never has the epoch of its former log.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from ..._ambient import ambient
from ...options import check_kind, check_number
from .._broker import (
    Broker,
    BrokerError,
    Draft,
    Head,
    Item,
    LogLimits,
    Page,
    Position,
    Present,
    Sink,
    Snapshot,
    Way,
)
from .._log import MOST_MARKS, Log, farthest

__all__ = ["MemoryBroker"]

#: Between two looks for rooms whose messages are all too old.
SWEEP_S: Final = 60.0


class _Room:
    __slots__ = ("log", "marks", "present", "watched")

    def __init__(self, log: Log) -> None:
        self.log = log
        self.watched = False
        self.present: dict[str, Present] = {}
        self.marks: dict[str, int] = {}


class MemoryBroker(Broker):
    """Keeps rooms in this process, in `limits`, over several `run`s in one run of trio.

    Of the rooms that nobody watches or is in, the `rooms` used last are kept. A room takes
    up to `limits.total_bytes`, some 250 bytes for each message, and 150 for each known key.
    Marks beyond the end of a log are ignored.
    """

    def __init__(self, limits: LogLimits = LogLimits(), rooms: float = 100_000) -> None:
        check_kind("limits", limits, LogLimits)
        check_number("rooms", rooms, whole=True)
        self.limits: Final = limits
        self.most_rooms: Final = rooms
        self._sink: Sink | None = None
        self._rooms: dict[str, _Room] = {}
        #: Those not held, and when they were used last, the oldest first.
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._lasts_s: Final = max(limits.keep_s, limits.repeat_s)
        self._epochs: Final = f"{ambient().random.getrandbits(64):016x}"
        self._forgotten = 0
        self._epoch = f"{self._epochs}-0"
        self._clock: Callable[[], float]
        self._trio: trio.lowlevel.TrioToken | None = None

    async def run(
        self, sink: Sink, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        if self._sink is not None:
            raise trio.BusyResourceError("this broker runs already")
        self._take_time()
        self._sink = sink
        task_status.started()
        try:
            while True:
                await trio.sleep(SWEEP_S)
                self._sweep(self._clock())
        finally:
            self._sink = None
            for name in self._rooms.keys() - self._idle.keys():
                room = self._rooms[name]
                room.watched = False
                room.present.clear()
                self._release(name, room)

    def append(self, draft: Draft, done: Callable[[Position | BrokerError], None]) -> None:
        """As `Broker.append`. The sink is told first, and then `done`, both at once."""
        sink = self._sink
        if sink is None:
            done(BrokerError("the hub does not run"))
            return
        name = draft.room
        now = self._clock()
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room(Log(name, self._epoch, self.limits))
        log = room.log
        offset = log.known(draft.key, now)
        if not offset:
            item = log.append(draft, now)
            offset = item.offset
            if room.watched:
                sink.item(item)
        if not room.watched and not room.present:
            self._rest(name, now)
        done(Position(log.epoch, offset))

    def post(self, draft: Draft) -> None:
        if self._sink is None:
            raise BrokerError("the hub does not run")
        room = self._rooms.get(draft.room)
        if room is not None and room.watched:
            epoch = room.log.epoch
            self._sink.item(Item(draft.room, epoch, 0, draft.body, draft.only, draft.but))

    async def page(self, room: str, way: Way, offset: int, *, limit: int, max_bytes: int) -> Page:
        await trio.lowlevel.checkpoint()
        self._check_runs()
        there = self._rooms.get(room)
        if there is None:
            return Page(Head(self._epoch, 1, 0), ())
        now = self._clock()
        there.log.prune(now)
        if room in self._idle:
            self._rest(room, now)
        return Page(there.log.head, there.log.page(way, offset, limit, max_bytes))

    async def watch(self, room: str) -> Snapshot:
        await trio.lowlevel.checkpoint()
        self._check_runs()
        there = self._hold(room)
        there.watched = True
        there.log.prune(self._clock())
        return Snapshot(there.log.head, tuple(there.present.values()), farthest(there.marks))

    def unwatch(self, room: str) -> None:
        there = self._rooms.get(room)
        if there is not None:
            there.watched = False
            self._release(room, there)

    def enter(self, room: str, who: Present) -> None:
        if self._sink is None:
            return
        there = self._hold(room)
        if there.present.get(who.device) != who:
            there.present[who.device] = who
            if there.watched:
                self._sink.present(room, who)

    def leave(self, room: str, device: str, *, for_good: bool = False) -> None:
        there = self._rooms.get(room)
        if self._sink is None or there is None or there.present.pop(device, None) is None:
            return
        if there.watched:
            self._sink.absent(room, device, for_good)
        self._release(room, there)

    def mark(self, room: str, user: str, offset: int) -> None:
        there = self._rooms.get(room)
        if self._sink is None or there is None:
            return
        marks = there.marks
        if marks.get(user, 0) < offset <= there.log.last:
            marks[user] = offset
            if len(marks) > 2 * MOST_MARKS:
                there.marks = farthest(marks)
            if there.watched:
                self._sink.marked(room, user, offset)

    def statistics(self) -> Mapping[str, Any]:
        """`rooms`: how many are known; `idle`: those of them that are not held."""
        return {"rooms": len(self._rooms), "idle": len(self._idle)}

    def _check_runs(self) -> None:
        if self._sink is None:
            raise BrokerError("the hub does not run")

    def _take_time(self) -> None:
        """Each run of trio has a clock of its own: times of another one mean nothing."""
        token = trio.lowlevel.current_trio_token()
        if token is not self._trio:
            self._trio = token
            self._clock = trio.lowlevel.current_clock().current_time
            for name in list(self._rooms):
                self._forget(name)

    def _hold(self, name: str) -> _Room:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room(Log(name, self._epoch, self.limits))
        self._idle.pop(name, None)
        return room

    def _release(self, name: str, room: _Room) -> None:
        """It may be held no more."""
        if room.watched or room.present or name in self._idle:
            return
        if room.log.last:
            self._rest(name, self._clock())
        else:
            del self._rooms[name]

    def _rest(self, name: str, now: float) -> None:
        """It is not held, and was used now."""
        self._idle[name] = now
        self._idle.move_to_end(name)
        while len(self._idle) > self.most_rooms:
            self._forget(next(iter(self._idle)))

    def _sweep(self, now: float) -> None:
        while self._idle:
            name, used_at = next(iter(self._idle.items()))
            if used_at > now - self._lasts_s:
                break
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._idle.pop(name, None)
        if self._rooms.pop(name).log.last:
            self._forgotten += 1
            self._epoch = f"{self._epochs}-{self._forgotten:x}"

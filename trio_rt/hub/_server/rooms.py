"""The rooms that have members on this node, and what the store tells of them.

A room is here while it has members, or somebody is about to join or to look. It is opened
by a snapshot, which is tried once: who wants in is told if it fails. Later snapshots, of a
room that has missed something, are tried until they succeed.

Where several could ask the store for one room at the same time, nobody could tell what it
watches in the end. So a room stays until its snapshot has come or failed, also where nobody
wants it any more: one name is one room here, and has one snapshot on its way at most.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
import trio

from ..._ambient import ambient
from ..._waker import Waker
from ...options import Reconnect
from ...protocol.backoff import delays
from .._broker import Broker, BrokerError, Item, Present, Snapshot
from .._words import is_body, void
from .room import Room
from .rules import HubLimits

__all__ = ["STORE_S", "Rooms"]

_log: Final = logging.getLogger("trio_rt.hub")

#: When a snapshot that could not be taken is tried again.
LOOKS: Final = Reconnect(first_s=0.1, cap_s=5.0)

#: Snapshots on their way at once: after an outage all rooms want one.
LOOKING: Final = 64

#: A store that does not answer for so long cannot be reached.
STORE_S: Final = 5.0


class Rooms:
    """Those of one hub. It is the `Sink` of its broker, too. `touched` is as for `Room`."""

    def __init__(self, broker: Broker, limits: HubLimits, touched: Callable[[Room], None]) -> None:
        self._broker: Final = broker
        self._limits: Final = limits
        self._touched: Final = touched
        self._rooms: dict[str, Room] = {}
        #: When a user of the room may have left, the first one first.
        self._graces: deque[tuple[float, Room]] = deque()
        self._grace: Final = Waker()
        self._looking: Final = trio.Semaphore(LOOKING)
        self._nursery: trio.Nursery | None = None
        #: Messages from the store that no hub has written.
        self.foreign = 0

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def members(self) -> int:
        """Members of them, each counted in each room."""
        return sum(room.size for room in self._rooms.values())

    def get(self, name: str) -> Room | None:
        """The room, if it is here."""
        return self._rooms.get(name)

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Room]:
        """A room with a snapshot; it stays here within the block. Raises `BrokerError`."""
        room = self._rooms.get(name) or self._begin(name)
        room.expected += 1
        try:
            await room.opened.wait()
            if room.failure is not None:
                raise BrokerError("the store cannot be reached") from room.failure
            yield room
        finally:
            room.expected -= 1
            self.release(room)

    def release(self, room: Room) -> None:
        """Let go of it if nobody is there, or about to be."""
        if not room.size and not room.expected and self._rooms.get(room.name) is room:
            del self._rooms[room.name]
            with suppress(BrokerError):
                self._broker.unwatch(room.name)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Its tasks, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self._broker.run, self)
                nursery.start_soon(self._end_graces)
                task_status.started()
        finally:
            self.close()

    def close(self) -> None:
        """It ends: no snapshots are taken any more, and so no rooms opened."""
        self._nursery = None

    # From the broker: the `Sink`

    def item(self, item: Item) -> None:
        room = self._rooms.get(item.room)
        if room is None:
            return
        if not is_body(item.body):
            self.foreign += 1
            item = void(item)
        if not room.item(item):
            self.lost(item.room)

    def present(self, room: str, who: Present) -> None:
        found = self._rooms.get(room)
        if found is not None:
            now = trio.current_time()
            found.roster.enter(_checked(who), now)
            self._watch_grace(found, now)
            found.notice()

    def absent(self, room: str, device: str, for_good: bool) -> None:
        found = self._rooms.get(room)
        if found is not None:
            now = trio.current_time()
            found.roster.absent(device, now, for_good=for_good)
            self._watch_grace(found, now)
            found.notice()

    def marked(self, room: str, user: str, offset: int) -> None:
        found = self._rooms.get(room)
        if found is not None:
            found.mark(user, offset)

    def lost(self, room: str | None) -> None:
        names = list(self._rooms) if room is None else [room]
        for name in names:
            found = self._rooms.get(name)
            if found is not None and found.doubt() and self._nursery is not None:
                self._look_at(found, self._nursery)

    # Within

    def _begin(self, name: str) -> Room:
        limits = self._limits
        if self._nursery is None:
            raise BrokerError("the hub does not run")
        room = Room(name, limits.grace_s, limits.presence_users, self._touched)
        self._look_at(room, self._nursery)
        self._rooms[name] = room
        return room

    def _look_at(self, room: Room, nursery: trio.Nursery) -> None:
        room.expected += 1
        nursery.start_soon(self._look, room)

    async def _look(self, room: Room) -> None:
        """Take a snapshot of `room`, or as many as it takes while there is somebody."""
        try:
            for delay_s in delays(LOOKS, ambient().random):
                if await self._take(room):
                    return
                await trio.sleep(delay_s)
                if not room.size and room.expected == 1:
                    return
        finally:
            if not room.opened.is_set():
                self._fail(room, BrokerError("the hub does not run"))
            room.expected -= 1
            self.release(room)

    async def _take(self, room: Room) -> bool:
        """Take a snapshot. False: another one is to be taken."""
        failure = BrokerError("the store does not answer")
        snapshot: Snapshot | None = None
        try:
            with trio.move_on_after(STORE_S):
                async with self._looking:
                    snapshot = await self._broker.watch(room.name)
        except BrokerError as error:
            failure = error
        except Exception:  # a fault of the broker's own ends no hub
            _log.exception("%s: the store cannot tell how it is", room.type)
        if snapshot is not None:
            return self._take_in(room, snapshot)
        if room.opened.is_set():
            return False
        self._fail(room, failure)
        return True

    def _fail(self, room: Room, failure: BrokerError) -> None:
        room.failure = failure
        room.opened.set()

    def _take_in(self, room: Room, snapshot: Snapshot) -> bool:
        now = trio.current_time()
        present = tuple(map(_checked, snapshot.present))
        is_whole = room.begin(Snapshot(snapshot.head, present, snapshot.marks), now)
        self._watch_grace(room, now)
        room.notice()
        return is_whole

    def _watch_grace(self, room: Room, now: float) -> None:
        if room.roster.due <= now + self._limits.grace_s:
            self._graces.append((now + self._limits.grace_s, room))
            if len(self._graces) == 1:
                self._grace.wake()

    async def _end_graces(self) -> None:
        graces = self._graces
        while True:
            await self._grace.wait(graces[0][0] if graces else math.inf)
            now = trio.current_time()
            while graces and graces[0][0] <= now:
                _, room = graces.popleft()
                room.roster.tick(now)
                room.notice()


def _checked(who: Present) -> Present:
    """The same, without `info` that is not JSON."""
    try:
        msgspec.json.decode(who.info)
    except (ValueError, RecursionError):
        return Present(who.user, who.device)
    return who

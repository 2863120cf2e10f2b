"""What all who are in rooms over one connection share: who holds which room, and a gate.

The gate paces what is asked for when a session or link was lost: so many questions at
a time, and first those of the room in which something happened last. It has no task: who
comes joins the queue, lets the others who were told of the loss at the same time come, too,
and then whoever is first in the queue goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakKeyDictionary

import trio

from ..._connection import Connection

__all__ = ["AT_ONCE", "Desk", "Gate", "clear_desk", "desk_of"]

#: Joins and pages under way at a time, for each connection.
AT_ONCE: Final = 8


class _Waiter:
    __slots__ = ("active", "called")

    def __init__(self, active: int) -> None:
        self.active = active
        self.called: Final = trio.Event()


class Gate:
    """At most `free` at a time, those with the highest `active` first."""

    def __init__(self, free: int = AT_ONCE) -> None:
        self._free = free
        self._waiting: list[_Waiter] = []

    @asynccontextmanager
    async def turn(self, active: int) -> AsyncIterator[None]:
        """Wait for one's turn; it lasts as long as the block. Cancelled, nothing is left."""
        waiter = _Waiter(active)
        self._waiting.append(waiter)
        try:
            await trio.lowlevel.checkpoint()
            self._call()
            await waiter.called.wait()
            yield
        finally:
            if waiter.called.is_set():
                self._free += 1
                self._call()
            else:
                self._waiting.remove(waiter)

    def _call(self) -> None:
        while self._free and self._waiting:
            # The first of equals: of those who came in one turn of the loop, any.
            waiter = max(self._waiting, key=lambda each: each.active)
            self._waiting.remove(waiter)
            self._free -= 1
            waiter.called.set()


class _Hold:
    __slots__ = ("entered", "holders")

    def __init__(self) -> None:
        self.holders = 0
        #: Whether the hub may have this connection as a member.
        self.entered = False


class Desk:
    """Of one connection, while it holds any room."""

    def __init__(self) -> None:
        self.gate: Final = Gate()
        self._holds: dict[str, _Hold] = {}
        #: Rooms that were left, of which the hub could not be told yet.
        self.unsaid: set[str] = set()
        self._ticks = 0

    def tick(self) -> int:
        """A number for now, larger than all before."""
        self._ticks += 1
        return self._ticks

    def hold(self, room: str) -> None:
        hold = self._holds.setdefault(room, _Hold())
        hold.holders += 1
        if room in self.unsaid:
            self.unsaid.remove(room)
            hold.entered = True

    def note(self, room: str, *, entered: bool) -> None:
        """Whether the hub has, or may have, this connection in `room`."""
        self._holds[room].entered = entered

    def let_go(self, room: str) -> bool:
        """One holder less. True: it was the last one, and the hub is to be told."""
        hold = self._holds[room]
        hold.holders -= 1
        if hold.holders:
            return False
        del self._holds[room]
        return hold.entered

    @property
    def is_idle(self) -> bool:
        return not self._holds and not self.unsaid


_desks: Final[WeakKeyDictionary[Connection, Desk]] = WeakKeyDictionary()


def desk_of(conn: Connection) -> Desk:
    """The one of `conn`, made for its first room."""
    desk = _desks.get(conn)
    if desk is None:
        desk = _desks[conn] = Desk()
    return desk


def clear_desk(conn: Connection) -> None:
    """Forget that of `conn` if it holds no room any more."""
    desk = _desks.get(conn)
    if desk is not None and desk.is_idle:
        del _desks[conn]

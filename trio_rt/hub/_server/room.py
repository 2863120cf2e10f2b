"""A room while it has members on this node.

What is to be told of a room gathers here, and one task of the hub tells it: all that
gathers in a turn of the loop is one write for each member. Who joins in the meantime is
a *newcomer*: it was given the room as it is, and is told only what came behind that.

The log is known in the order of its offsets. Where that has a hole, or begins anew, the
room is *stale*: what is told of it is kept until there is a new snapshot. A loss that is
heard while a snapshot is on its way may be in it or not: there has to be another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import msgspec
import trio

from .._broker import BrokerError, Head, Item, Snapshot
from .._log import MOST_MARKS, farthest
from .._words import Event, room_type
from .guest import GuestOf, LagOf
from .roster import News, Roster

__all__ = ["Guest", "Lag", "Room", "Telling"]

#: Items kept while a snapshot is on its way. More, and another snapshot is taken.
EARLY: Final = 1000

#: A room that had too many users to name them names them again at so much of the limit.
FEW_AGAIN: Final = 0.9

#: What waits to be told: a message, a user's mark, or that all is to be looked at anew.
Telling: TypeAlias = Item | tuple[str, int] | None


Guest: TypeAlias = GuestOf["Room"]
Lag: TypeAlias = LagOf["Room"]


class Room:
    """One room of a hub. `touched` is called when there is something to tell.

    More than `most` users are counted, and not named.
    """

    __slots__ = (
        "_again",
        "_crowded",
        "_early",
        "_most",
        "_touched",
        "expected",
        "failure",
        "guests",
        "head",
        "marks",
        "name",
        "newcomers",
        "opened",
        "roster",
        "stale",
        "type",
        "waiting",
    )

    def __init__(
        self, name: str, grace_s: float, most: float, touched: Callable[[Room], None]
    ) -> None:
        self.name: Final = name
        self.type: Final = room_type(name)
        self.guests: dict[Guest, None] = {}
        #: With how much of what waits each need not be told.
        self.newcomers: dict[Guest, int] = {}
        #: Those who are about to join, or look; a snapshot on its way is one of them.
        self.expected = 0
        self.roster: Final = Roster(grace_s)
        self.head = Head("", 1, 0)
        self.marks: dict[str, int] = {}
        #: Set when there is a first snapshot, or `failure`.
        self.opened: Final = trio.Event()
        self.failure: BrokerError | None = None
        #: Whether a snapshot is to be taken, and another one behind it.
        self.stale = True
        self._again = False
        self._crowded = False
        self.waiting: list[Telling] = []
        self._early: deque[Item] = deque(maxlen=EARLY)
        self._most: Final = most
        self._touched: Final = touched

    # Who is in it

    @property
    def size(self) -> int:
        """Members on this node."""
        return len(self.guests) + len(self.newcomers)

    def members_of(self, user: str) -> list[Guest]:
        """A user's devices on this node."""
        return [guest for guest in (*self.guests, *self.newcomers) if guest.who.user == user]

    def join(self, guest: Guest) -> None:
        """A member that is given the room as it is now: also one that was a member before."""
        self.leave(guest)
        self.newcomers[guest] = len(self.waiting)

    def leave(self, guest: Guest) -> None:
        self.guests.pop(guest, None)
        self.newcomers.pop(guest, None)
        if guest.lag is not None:
            guest.lag.missed.pop(self, None)

    def take(self) -> tuple[list[Telling], list[Guest], dict[Guest, int]]:
        """What waits, for whom, and with how much less for the newcomers: members from now on."""
        waiting, self.waiting = self.waiting, []
        newcomers, self.newcomers = self.newcomers, {}
        guests = list(self.guests)
        self.guests.update(dict.fromkeys(newcomers))
        return waiting, guests, newcomers

    # What happens in it

    def begin(self, snapshot: Snapshot, now: float) -> bool:
        """Take in a snapshot; its members, if any, are told to look at it.

        False: it was too early. The room is stale again, and another one is to be taken.
        """
        self._take_marks(snapshot)
        self.head = snapshot.head
        self.roster.replace(snapshot.present, now)
        self.stale = False
        if self.opened.is_set():
            self.waiting.append(None)
            self._touched(self)
        else:
            self.roster.news = News()
            self._crowded = self._is_crowded()
            self.opened.set()
        early = list(self._early)
        self._early.clear()
        again, self._again = self._again, False
        for item in early:
            again |= not self.item(item)
        if again:
            self.doubt()
        return not self.stale

    def doubt(self) -> bool:
        """Something was missed. True: a snapshot is to be taken, and nobody does yet."""
        self.roster.doubt()
        if self.stale:
            self._again = True
            return False
        self.stale = True
        return True

    def item(self, item: Item) -> bool:
        """A message is in it. False: there is a hole before it, or it is of another epoch."""
        if self.stale:
            self._early.append(item)
            return True
        if item.offset:
            head = self.head
            if item.epoch != head.epoch or item.offset > head.last + 1:
                return False
            if item.offset <= head.last:
                return True
            self.head = Head(head.epoch, head.first, item.offset)
        self.waiting.append(item)
        self._touched(self)
        return True

    def mark(self, user: str, offset: int) -> None:
        """A user has read so far."""
        if offset > self.marks.get(user, 0):
            self.marks[user] = offset
            if len(self.marks) > 2 * MOST_MARKS:
                self.marks = farthest(self.marks)
            self.waiting.append((user, offset))
            self._touched(self)

    def notice(self) -> None:
        """The roster may have news."""
        if self.roster.news:
            self._touched(self)

    def _take_marks(self, snapshot: Snapshot) -> None:
        """A mark that was heard since the snapshot was taken may be farther than that in it."""
        known: Mapping[str, int] = {}
        if snapshot.head.epoch == self.head.epoch or not self.opened.is_set():
            known = self.marks
        self.marks = dict(snapshot.marks)
        for user, offset in known.items():
            if offset > self.marks.get(user, 0):
                self.marks[user] = offset

    # What is told of it

    def members(self) -> list[dict[str, Any]]:
        """Who is present; nobody is named where there are too many."""
        if self._crowded or self.roster.count > self._most:
            return []
        return list(_members(self.roster.users()))

    def state(self, kind: str, re: str = "") -> Event:
        """How it is, as an event."""
        head, marks = self.head, self.marks
        return Event(
            kind,
            re,
            epoch=head.epoch,
            first=head.first,
            last=head.last,
            members=self.members(),
            count=self.roster.count,
            marks=dict(marks) if len(marks) <= self._most else {},
        )

    def news(self) -> Event | None:
        """What is new in the roster, to be told once; None for nothing, or among too many."""
        news, self.roster.news = self.roster.news, News()
        was_crowded, self._crowded = self._crowded, self._is_crowded()
        if was_crowded != self._crowded:
            return self.state("room")
        if not news or self._crowded:
            return None
        return Event("presence", joined=list(_members(news.joined)), left=list(news.left))

    def _is_crowded(self) -> bool:
        most = self._most * (FEW_AGAIN if self._crowded else 1)
        return self.roster.count > most


def _members(users: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    for user, info in users.items():
        yield {"user": user, "info": msgspec.Raw(info)}

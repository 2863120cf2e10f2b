"""The task that tells members what happens in their rooms.

Goal: a message costs its room one encoding for each codec and one write for each member,
and a member that does not read costs the others nothing.

The rule. Nothing here waits for a peer. What gathered in a room is one write; a short
write, or a busy link, is the business of that peer's own outbox (`_broadcast`). A peer
whose outbox is full *lags*: it is sent nothing more until the outbox has drained to half,
and its commands wait. Then it is sent the answers that were held, and how each room is that
it missed something of, by which it finds what that was. Or, by policy, it is closed.
A large room is told in slices, with a turn of the loop in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
import trio

from ..._waker import Waker
from ...protocol.lanes import Entry
from .._broker import Item
from .._words import Event
from .room import Guest, Lag, Room, Telling
from .told import Told, speak

__all__ = ["Lagging", "Teller"]

_log: Final = logging.getLogger("trio_rt.hub")

Lagging: TypeAlias = Literal["gap", "close"]

#: Members who are told something in one turn of the loop.
SLICE: Final = 500

#: How often it is looked whether who lags has room again.
LAG_S: Final = 0.05

#: RFC 6455's registry: "try again later".
TOO_SLOW: Final = 1013


class Teller:
    """Of one hub. `heard` is called with each message once its room's members are told."""

    def __init__(self, lagging: Lagging, heard: Callable[[Room, Item], None] | None = None) -> None:
        self._policy: Final = lagging
        self._heard: Final = heard
        self._touched: dict[Room, None] = {}
        self._work: Final = Waker()
        self._laggards: dict[Guest, Lag] = {}
        self._late: Final = Waker()
        self._left = SLICE
        #: Messages to members, and how often one began to lag.
        self.deliveries = 0
        self.lags = 0

    @property
    def lagging(self) -> int:
        """How many do not keep up."""
        return len(self._laggards)

    def touched(self, room: Room) -> None:
        """There is something to tell in `room`."""
        if not self._touched:
            self._work.wake()
        self._touched[room] = None

    def answer(self, guest: Guest, type: str, event: Event) -> None:
        """Tell one peer something: at once, or when it keeps up again. Raises nothing."""
        lag = guest.lag
        if lag is None:
            if _post(guest, type, event):
                return
            lag = self._lags(guest)
        lag.held.append((type, event))

    def forget(self, guest: Guest) -> None:
        """It is gone, or will be: it never keeps up again."""
        self._laggards.pop(guest, None)
        if guest.lag is not None:
            guest.lag.over.set()

    async def run(self) -> None:
        """Tell what is to be told, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_laggards)
            while True:
                await self._work.wait()
                self._left = SLICE
                rooms, self._touched = self._touched, {}
                for room in rooms:
                    try:
                        await self._tell(room)
                    except Exception:  # its members find a hole in the offsets
                        _log.exception("%s: it could not be told", room.type)

    # A room

    async def _tell(self, room: Room) -> None:
        waiting, guests, newcomers = room.take()
        events = list(_events(room, waiting))
        news = room.news()
        tail = [] if news is None else [news]
        await self._send(room, guests, [*events, *tail])
        for skip in sorted(set(newcomers.values())):
            late = [guest for guest, start in newcomers.items() if start == skip]
            await self._send(room, late, [*events[skip:], *tail])
        if self._heard is not None:
            for event in events:
                if isinstance(event, Item):
                    self._hear(self._heard, room, event)

    def _hear(self, heard: Callable[[Room, Item], None], room: Room, item: Item) -> None:
        try:
            heard(room, item)
        except Exception:
            _log.exception("%s: the extension failed to hear a message", room.type)

    async def _send(
        self, room: Room, guests: Sequence[Guest], events: Sequence[Item | Event]
    ) -> None:
        """Send it to `guests`, as far as they are members since before it happened."""
        if not events:
            return
        told, members = Told(room.type, events), room.guests
        at = 0
        while at < len(guests):
            if self._left <= 0:
                await trio.lowlevel.checkpoint()
                self._left = SLICE
            some = guests[at : at + self._left]
            at += len(some)
            self._left -= len(some)
            tongue, broadcast, said = None, None, 0
            for guest in some:
                if guest not in members:
                    continue
                if guest.lag is not None:
                    guest.lag.missed[room] = None
                    continue
                if guest.tongue is not tongue or not told.is_common:
                    tongue, broadcast = guest.tongue, told.to(guest)
                if broadcast is None:
                    continue
                if broadcast.post(guest.peer):
                    said += broadcast.count
                else:
                    self._lags(guest).missed[room] = None
            self.deliveries += said

    # Who lags

    def _lags(self, guest: Guest) -> Lag:
        guest.lag = lag = Lag()
        self.lags += 1
        if self._policy == "close":
            guest.peer.close(TOO_SLOW, "too slow")
            lag.over.set()
        else:
            self._laggards[guest] = lag
            self._late.wake()
        return lag

    async def _watch_laggards(self) -> None:
        while True:
            await self._late.wait()
            while self._laggards:
                await trio.sleep(LAG_S)
                for guest, lag in list(self._laggards.items()):
                    if guest.peer.has_drained and _catch_up(guest, lag):
                        del self._laggards[guest]
                        guest.lag = None
                        lag.over.set()


def _events(room: Room, waiting: Iterable[Telling]) -> Iterable[Item | Event]:
    for each in waiting:
        if each is None:
            yield room.state("room")
        elif isinstance(each, Item):
            yield each
        else:
            yield Event("mark", user=each[0], offset=each[1])


def _post(guest: Guest, type: str, event: Event) -> bool:
    """Send it or queue it. False: there is no room."""
    peer, tongue = guest.peer, guest.tongue
    said = speak(tongue, type, event)
    for shorter in (_counted, _too_large):
        if max(map(len, said), default=0) > peer.largest_bytes:
            said = speak(tongue, type, shorter(event))
    return peer.post([Entry(data, tongue.codec.binary) for data in said])


def _counted(event: Event) -> Event:
    """The same, with nobody named: as of a room with too many users."""
    return msgspec.structs.replace(event, members=[], marks={})


def _too_large(event: Event) -> Event:
    text = "the answer is larger than this side sends"
    return Event("refused", event.re, code="too_large", text=text)


def _catch_up(guest: Guest, lag: Lag) -> bool:
    """Send what was held. False: there is no room again."""
    while lag.held:
        if not _post(guest, *lag.held[0]):
            return False
        lag.held.popleft()
    while lag.missed:
        room = next(iter(lag.missed))
        if not _post(guest, room.type, room.state("room")):
            return False
        del lag.missed[room]
    return True

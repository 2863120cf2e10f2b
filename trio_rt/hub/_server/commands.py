"""The hub's own commands: what each does, and its answer.

Each ends in one answer, `done` or `refused`. A publish is given to the store in the order in
which it was asked for and does not hold up the next command; its answer comes when the store
has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from ...errors import Refused
from .._broker import Broker, BrokerError, Draft, Page, Position
from .._words import (
    Event,
    History,
    Join,
    Leave,
    Mark,
    Members,
    Publish,
    message_event,
    room_type,
)
from .drafts import check_publish, peer_draft
from .room import Guest, Room
from .rules import HubLimits, Rules
from .tell import Teller

__all__ = ["END", "MOST_CODES", "Commands", "Host", "unavailable"]

#: Codes of refusals that are counted each for itself: hooks may make them up.
MOST_CODES: Final = 64

#: Offsets from here on are none's.
END: Final = 1 << 62

#: One answer, so that nobody learns which rooms there are.
_NO_ROOM: Final = ("no_room", "there is no such room, or it is not for you")
_NOT_JOINED: Final = ("not_joined", "join the room first")


class Host(Protocol):
    """What commands need of their hub."""

    broker: Broker
    rules: Rules
    limits: HubLimits
    teller: Teller
    refusals: Counter[str]

    async def enter(self, guest: Guest, name: str) -> Room: ...
    def leave(self, guest: Guest, room: Room) -> None: ...
    def look(self, name: str) -> AbstractAsyncContextManager[Room]: ...
    async def page(
        self, room: str, after: int | None, before: int | None, limit: float
    ) -> Page: ...
    def append(self, draft: Draft, done: Callable[[Position | BrokerError], None]) -> None: ...
    def new_id(self) -> str: ...


class Commands:
    """Those that the peers of one hub give."""

    def __init__(self, hub: Host) -> None:
        self._hub: Final = hub
        self._doers: Final[Mapping[type, Callable[[Guest, str, Any], Awaitable[None]]]] = {
            Join: self._join,
            Leave: self._leave,
            Publish: self._publish,
            History: self._history,
            Members: self._members,
            Mark: self._mark,
        }

    async def do(self, guest: Guest, re: str, command: Any) -> None:
        """Do one, and answer, or raise `Refused` or `BrokerError`."""
        await self._doers[type(command)](guest, re, command)

    def done(self, guest: Guest, re: str, type: str, event: Event) -> None:
        """Answer a command, if it has an id."""
        if re:
            self._hub.teller.answer(guest, type, event)

    def refuse(self, guest: Guest, re: str, type: str, refusal: Refused) -> None:
        """Answer a command that is not done."""
        refusals, code = self._hub.refusals, refusal.code
        refusals[code if code in refusals or len(refusals) < MOST_CODES else "other"] += 1
        event = Event("refused", re, code=code, text=refusal.text)
        self._hub.teller.answer(guest, type, event)

    # The commands

    async def _join(self, guest: Guest, re: str, command: Join) -> None:
        hub, name = self._hub, command.room
        room = guest.rooms.get(name)
        if room is None:
            if len(guest.rooms) >= hub.limits.rooms_per_peer:
                raise Refused("too_many_rooms", "leave another room first")
            _check(await hub.rules.may_join(guest.who, name))
            room = await hub.enter(guest, name)
        else:
            room.join(guest)
        state = room.state("done", re)
        state.user, state.device = guest.who.user, guest.shown_device
        self.done(guest, re, room.type, state)

    async def _leave(self, guest: Guest, re: str, command: Leave) -> None:
        room = guest.rooms.get(command.room)
        if room is not None:
            self._hub.leave(guest, room)
        self.done(guest, re, room_type(command.room), Event("done", re))

    async def _publish(self, guest: Guest, re: str, command: Publish) -> None:
        hub = self._hub
        room = _joined(guest, command.room)
        check_publish(command)
        if await hub.rules.may_publish(guest.who, command) is not True:
            raise Refused("forbidden", "that may not be said here")
        _joined(guest, command.room)  # still
        id = command.id or hub.new_id()
        draft = peer_draft(guest, id, command, hub.limits)
        if not command.store:
            hub.broker.post(draft)
            self.done(guest, re, room.type, Event("done", re, epoch=room.head.epoch, id=id))
        else:
            hub.append(draft, lambda result: self._published(guest, re, room.type, id, result))

    def _published(
        self, guest: Guest, re: str, type: str, id: str, result: Position | BrokerError
    ) -> None:
        if isinstance(result, BrokerError):
            self.refuse(guest, re, type, unavailable())
        else:
            event = Event("done", re, result.epoch, result.offset, id)
            self.done(guest, re, type, event)

    async def _history(self, guest: Guest, re: str, command: History) -> None:
        hub, name = self._hub, command.room
        _check(await hub.rules.may_read(guest.who, name))
        if command.after is not None and command.before is not None:
            raise Refused("malformed", "payload.after and payload.before must not both be there")
        for offset in (command.after, command.before, command.limit):
            if offset is not None and not 0 <= offset < END:
                raise Refused("malformed", "offsets and limits must be numbers from 0")
        page = await hub.page(name, command.after, command.before, command.limit)
        if command.epoch and command.epoch != page.head.epoch:
            raise Refused("foreign_epoch", "the log of that epoch is gone")
        self.done(guest, re, room_type(name), _page_event(re, page))

    async def _members(self, guest: Guest, re: str, command: Members) -> None:
        _check(await self._hub.rules.may_see(guest.who, command.room))
        async with self._hub.look(command.room) as room:
            event = Event("done", re, members=room.members(), count=room.roster.count)
        self.done(guest, re, room.type, event)

    async def _mark(self, guest: Guest, re: str, command: Mark) -> None:
        room = _joined(guest, command.room)
        if command.epoch and command.epoch != room.head.epoch:
            raise Refused("foreign_epoch", "the log of that epoch is gone")
        if not 0 <= command.offset <= room.head.last:
            raise Refused("malformed", "payload.offset must be that of a message in the log")
        self._hub.broker.mark(room.name, guest.who.user, command.offset)
        self.done(guest, re, room.type, Event("done", re))


def _check(allowed: object) -> None:
    """Nothing but True lets anybody in."""
    if allowed is not True:
        raise Refused(*_NO_ROOM)


def _joined(guest: Guest, name: str) -> Room:
    room = guest.rooms.get(name)
    if room is None:
        raise Refused(*_NOT_JOINED)
    return room


def unavailable() -> Refused:
    """What a peer is told of a `BrokerError`."""
    return Refused("unavailable", "the store cannot be reached: try again")


def _page_event(re: str, page: Page) -> Event:
    head = page.head
    items = [message_event(item) for item in page.items]
    return Event("done", re, epoch=head.epoch, first=head.first, last=head.last, items=items)

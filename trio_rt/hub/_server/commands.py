"""What a peer asks of its hub, command by command.

Each command ends in one answer, `done` or `refused`, and none of them can end the loop that
reads them: the worst that a peer can do is to be refused. Commands of one peer are taken in
the order in which they came, and not while it lags. A publish is given to the store in that
order and does not hold up the next command; its answer comes when the store has it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import trio

from ...errors import DecodeError, Refused
from ...message import Message
from ...protocol.payloads import Reader, reader
from .._broker import Broker, BrokerError, Draft, Page, Position
from .._names import is_name
from .._words import (
    HISTORY,
    JOIN,
    LEAVE,
    MARK,
    MEMBERS,
    PUBLISH,
    REFUSED,
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

__all__ = ["END", "MOST_CODES", "Commands", "Host"]

_log: Final = logging.getLogger("trio_rt.hub")

_SHAPES: Final[Mapping[str, type]] = {
    JOIN: Join,
    LEAVE: Leave,
    PUBLISH: Publish,
    HISTORY: History,
    MEMBERS: Members,
    MARK: Mark,
}

#: The longest id of a command that comes back with its answer.
ID_LENGTH: Final = 256

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
    """Those of the peers of one hub."""

    def __init__(self, hub: Host) -> None:
        self._hub: Final = hub
        # For JSON and for MessagePack.
        self._readers: Final[tuple[Mapping[str, Reader], ...]] = tuple(
            {name: reader(binary, shape) for name, shape in _SHAPES.items()}
            for binary in (False, True)
        )
        self._doers: Final[Mapping[str, Callable[[Guest, str, Any], Awaitable[None]]]] = {
            JOIN: self._join,
            LEAVE: self._leave,
            PUBLISH: self._publish,
            HISTORY: self._history,
            MEMBERS: self._members,
            MARK: self._mark,
        }

    async def take(self, guest: Guest, message: Message[Any]) -> None:
        """Do one, and answer; `message` has its payload as it came. Raises only `Cancelled`.

        Waits while the guest lags. Where it never keeps up again nothing is done.
        """
        while (lag := guest.lag) is not None:
            await lag.over.wait()
            if guest.lag is lag:
                return
        re = message.id if isinstance(message.id, str) and len(message.id) <= ID_LENGTH else ""
        type = REFUSED
        try:
            is_timely = guest.spend(trio.current_time())
            command = self._readers[guest.peer.codec.binary][message.type](message.payload)
            if not is_name(command.room, self._hub.limits.name_bytes):
                raise Refused("bad_name", "the room's name is none")
            type = room_type(command.room)
            if not is_timely:
                raise Refused("too_fast", "more commands than are taken in a second")
            await self._doers[message.type](guest, re, command)
        except DecodeError as error:
            self._refuse(guest, re, type, Refused("malformed", f"{error.field} {error.rule}"))
        except BrokerError:
            self._refuse(guest, re, type, _unavailable())
        except Refused as refusal:
            self._refuse(guest, re, type, refusal)
        except Exception:
            _log.exception("%s: %s failed", guest.peer.handshake.remote, message.type)
            self._refuse(guest, re, type, Refused("error", "the hub failed"))

    def missed(self, guest: Guest) -> None:
        """Commands came faster than they could be taken in, and are lost."""
        self._refuse(guest, "", REFUSED, Refused("too_fast", "commands were lost"))

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
        self._done(guest, re, room.type, state)

    async def _leave(self, guest: Guest, re: str, command: Leave) -> None:
        room = guest.rooms.get(command.room)
        if room is not None:
            self._hub.leave(guest, room)
        self._done(guest, re, room_type(command.room), Event("done", re))

    async def _publish(self, guest: Guest, re: str, command: Publish) -> None:
        hub = self._hub
        room = _joined(guest, command.room)
        check_publish(command)
        who, type = guest.who, command.type
        if await hub.rules.may_publish(who, room.name, type, command.payload) is not True:
            raise Refused("forbidden", "that may not be said here")
        _joined(guest, command.room)  # still
        id = command.id or hub.new_id()
        draft = peer_draft(guest, id, command, hub.limits)
        if not command.store:
            hub.broker.post(draft)
            self._done(guest, re, room.type, Event("done", re, epoch=room.head.epoch, id=id))
        else:
            hub.append(draft, lambda result: self._published(guest, re, room.type, id, result))

    def _published(
        self, guest: Guest, re: str, type: str, id: str, result: Position | BrokerError
    ) -> None:
        if isinstance(result, BrokerError):
            self._refuse(guest, re, type, _unavailable())
        else:
            event = Event("done", re, result.epoch, result.offset, id)
            self._done(guest, re, type, event)

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
        self._done(guest, re, room_type(name), _page_event(re, page))

    async def _members(self, guest: Guest, re: str, command: Members) -> None:
        _check(await self._hub.rules.may_see(guest.who, command.room))
        async with self._hub.look(command.room) as room:
            event = Event("done", re, members=room.members(), count=room.roster.count)
        self._done(guest, re, room.type, event)

    async def _mark(self, guest: Guest, re: str, command: Mark) -> None:
        room = _joined(guest, command.room)
        if command.epoch and command.epoch != room.head.epoch:
            raise Refused("foreign_epoch", "the log of that epoch is gone")
        if not 0 <= command.offset <= room.head.last:
            raise Refused("malformed", "payload.offset must be that of a message in the log")
        self._hub.broker.mark(room.name, guest.who.user, command.offset)
        self._done(guest, re, room.type, Event("done", re))

    # Within

    def _done(self, guest: Guest, re: str, type: str, event: Event) -> None:
        if re:
            self._hub.teller.answer(guest, type, event)

    def _refuse(self, guest: Guest, re: str, type: str, refusal: Refused) -> None:
        refusals, code = self._hub.refusals, refusal.code
        refusals[code if code in refusals or len(refusals) < MOST_CODES else "other"] += 1
        event = Event("refused", re, code=code, text=refusal.text)
        self._hub.teller.answer(guest, type, event)


def _check(allowed: object) -> None:
    """Nothing but True lets anybody in."""
    if allowed is not True:
        raise Refused(*_NO_ROOM)


def _joined(guest: Guest, name: str) -> Room:
    room = guest.rooms.get(name)
    if room is None:
        raise Refused(*_NOT_JOINED)
    return room


def _unavailable() -> Refused:
    """What a peer is told of a `BrokerError`."""
    return Refused("unavailable", "the store cannot be reached: try again")


def _page_event(re: str, page: Page) -> Event:
    head = page.head
    items = [message_event(item) for item in page.items]
    return Event("done", re, epoch=head.epoch, first=head.first, last=head.last, items=items)

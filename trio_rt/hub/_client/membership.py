"""`Membership`: what a program does in a room. The work is its `Member`'s."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar

import trio

from ..._ambient import ambient
from ...errors import OptionError, Refused
from ...options import check_flag, check_kind, check_number
from .._broker import Position
from .._names import check_name
from .._words import HISTORY, MARK, PUBLISH, Event
from .calls import FOR_NOW, pauses
from .items import HistoryPage, RoomItem, RoomMessage
from .member import PAGE, Member

__all__ = ["Membership"]

T_co = TypeVar("T_co", covariant=True)

_ID_BITS: Final = 128


class Membership(trio.abc.ReceiveChannel[RoomItem[T_co]], Generic[T_co]):
    """Being in a room: made by `open_room()` alone. Iterate over it for what happens there.

    When the hub will not have this member any more, what is left can be received, and then
    `Refused` is raised; at the end of the connection `trio.EndOfChannel`.
    """

    def __init__(self, member: Member) -> None:
        self._member: Final = member

    @property
    def name(self) -> str:
        """That of the room."""
        return self._member.room

    @property
    def joined(self) -> bool:
        """Whether the hub has this member, as far as is known."""
        return self._member.joined

    @property
    def user(self) -> str:
        """As whom the hub has this member: a guest is another user in each session."""
        return self._member.user

    @property
    def is_behind(self) -> bool:
        """Whether there is something in the log that is still to come."""
        return self._member.follow.behind

    @property
    def members(self) -> Mapping[str, Any]:
        """Who is present, this user included, with what the hub says of each.

        Empty where the room is too large for the hub to name them.
        """
        return MappingProxyType(self._member.company.members)

    @property
    def member_count(self) -> int:
        """How many users are present."""
        return self._member.company.count

    @property
    def marks(self) -> Mapping[str, int]:
        """How far each user has read."""
        return MappingProxyType(self._member.company.marks)

    @property
    def position(self) -> Position:
        """Of the message that was received last: `since=position` gives what came after it."""
        return self._member.position

    @property
    def reached(self) -> int:
        """The offset up to which all was received, or told by a `Gap`."""
        if self._member.channel.has_places:
            return self.position.offset
        return self._member.follow.cursor

    # The channel

    async def receive(self) -> RoomItem[T_co]:
        """The next item; waits for it. A checkpoint; cancelling loses nothing.

        Raises `trio.BusyResourceError` for a second receiver, and what the class says.
        """
        item = await self._member.channel.receive()
        self._member.taken(item)
        return item

    def receive_nowait(self) -> RoomItem[T_co]:
        """The next item, or `trio.WouldBlock`."""
        item = self._member.channel.receive_nowait()
        self._member.taken(item)
        return item

    def close(self) -> None:
        """Receive no more. The room is left at the end of its block. Idempotent."""
        self._member.channel.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    # Commands

    async def publish(
        self,
        payload: Any = None,
        *,
        type: str = "message",
        to: Literal["all", "others"] = "all",
        only: str | None = None,
        store: bool = True,
        id: str | None = None,
    ) -> Position | None:
        """Say something in the room. Returns its position when the store has it.

        - `to="others"`: this device is not told of it.
        - `only`: the one user it is for; it cannot be stored then.
        - `store=False`: it passes: there is no position, it is not sent later if it cannot be
          now, and may be lost without a word.
        - `id`: its name among those of this user: said again, it is the same message.

        What is stored is said until the store has it, and stored once, whatever is lost
        meanwhile, and while the hub refuses with `too_fast` or `unavailable`: bound it with
        `trio.fail_after`. (Once, for a user whom the hub knows by the same name in the next
        session; a guest has a new one, and may say it twice.)
        Raises `Refused`, `OptionError`, and as `Connection.send`. Cancelled: withdrawn; if it
        has left, it may be stored.
        """
        body = self._checked(payload, type, to, only, id, store=store)
        self._member.note_activity()
        if not store:
            await self._pass_by(body)
            return None
        event = await self._command(PUBLISH, body)
        return Position(event.epoch, event.offset)

    async def history(
        self, *, before: int | None = None, after: int | None = None, limit: int = PAGE
    ) -> HistoryPage[T_co]:
        """A page of the log: `limit` messages next to an offset, or the last ones.

        The hub may give fewer. Raises as `publish`.
        """
        if before is not None and after is not None:
            raise OptionError("before", "must not be given with `after`", before)
        body: dict[str, Any] = {"room": self.name, "limit": limit}
        check_number("limit", limit, least=1, whole=True, finite=True)
        for field, offset in (("before", before), ("after", after)):
            if offset is not None:
                check_number(field, offset, whole=True, finite=True)
                body[field] = offset
        event = await self._command(HISTORY, body)
        messages: list[RoomMessage[T_co] | None] = [
            self._member.letters.read(e) for e in event.items
        ]
        found = tuple(message for message in messages if message is not None)
        return HistoryPage(found, event.first, event.last, event.epoch)

    async def mark(self, offset: int) -> None:
        """This user has read up to `offset` of the log as it is known here. Raises as `publish`."""
        check_number("offset", offset, whole=True, finite=True)
        epoch = self._member.follow.epoch
        await self._command(MARK, {"room": self.name, "offset": offset, "epoch": epoch})

    async def command(
        self, type: str, fields: Mapping[str, Any] = {}, *, names_room: bool = True
    ) -> Any:
        """Give a command that the server's program has added to its hub: the answer's payload.

        It goes with these `fields`, and the room's name as `room` unless `names_room` is false.
        It is given again until it is answered, so that it may be done more than once.
        Raises as `publish`. Cancelled: it may be done or not.
        """
        check_name("type", type)
        check_kind("fields", fields, Mapping)
        check_flag("names_room", names_room)
        body = {**fields, "room": self.name} if names_room else dict(fields)
        self._member.note_activity()
        return (await self._command(type, body)).payload

    def _checked(
        self, payload: Any, type: str, to: str, only: str | None, id: str | None, *, store: bool
    ) -> dict[str, Any]:
        """What goes over the wire."""
        check_flag("store", store)
        check_name("type", type)
        if to not in ("all", "others") or (only is not None and to != "all"):
            raise OptionError("to", 'must be "all" or "others", and "all" with `only`', to)
        if id is None:
            id = f"{ambient().random.getrandbits(_ID_BITS):032x}"
        check_name("id", id)
        body = {"room": self.name, "payload": payload, "type": type, "id": id, "store": store}
        if only is None:
            return {**body, "to": to}
        check_name("only", only)
        if store:
            raise OptionError("store", "must be False for one user only", store)
        return {**body, "to": "user", "user": only}

    async def _command(self, type: str, body: dict[str, Any]) -> Event:
        """Ask until there is an answer that says something about the command."""
        member, waits = self._member, pauses()
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            await member.until_joined()
            event = await member.calls.ask(type, body)
            if event is None:
                continue
            if event.kind == "done":
                return event
            if event.code not in FOR_NOW:
                raise Refused(event.code, event.text)
            await trio.sleep(next(waits))

    async def _pass_by(self, body: dict[str, Any]) -> None:
        member = self._member
        member.channel.check()
        if not member.joined:
            await trio.lowlevel.checkpoint()
            return
        event = await member.calls.ask(PUBLISH, body, passing=True)
        if event is not None and event.kind == "refused":
            raise Refused(event.code, event.text)

"""The dialect of plain clients: chat messages in camel case, a message for each event.

**Goal.** A client of a few lines, without sessions, offsets or history, sits in the same
rooms as those of `open_chat()`. It says `join_room`, `leave_room`, `chat_message` and
`typing_indicator`, and is told `chat_message` (its own, too), `typing_indicator`,
`user_joined`, `user_left`, `chat_message_edited`, `chat_message_deleted` and `error`.

**What does not work.** To believe a message's `userId`, `username` or `timestamp`: anybody can
write anything there. To number messages by the client's ids: edits name a message by its
place in the log, so that is the `id` that such a client is told.

**The rule.** Who a client is comes from the accept hook. One that has shown nothing is a guest,
may join and read, and becomes the first user that it claims to be, if `may_claim` says so
and nobody has the name.

**The remaining hole.** What such a client misses while it has no link, or does not keep up, it
is not told later; `error` with the code `missed` says that there may have been something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import msgspec
import trio

from ...errors import PayloadError, Refused
from ...hub._names import is_name
from ...hub._server.extension import Shapes
from ...hub._server.hub import Dialect, Guest, Hub
from ...hub._words import Event, Join, Leave, Publish
from .._words import (
    DELETE,
    EDIT,
    KINDS,
    TYPING,
    Delete,
    Edit,
    Kind,
    SaidBody,
    Typing,
    check_content,
    check_metadata,
)
from .claims import Claims, MayClaim
from .plain_users import PlainUsers, shown_name

__all__ = ["PlainDialect"]

ShapeT = TypeVar("ShapeT")

#: An envelope's id of so many characters is nobody else's: what is said again under it by the
#: same user is not said twice. Shorter ones may be numbers that begin anew with each link.
UNIQUE_LENGTH: Final = 16

_Said: TypeAlias = Iterable[tuple[str, Any]]


class JoinRoom(msgspec.Struct):
    """Be a member; again, it is nothing."""

    room: str = msgspec.field(name="roomId")


class LeaveRoom(msgspec.Struct):
    """Be no member any more."""

    room: str = msgspec.field(name="roomId")


class PlainMessage(msgspec.Struct):
    """What is said. Its time is the service's, whatever `timestamp` there is."""

    content: str
    user: str = msgspec.field(name="userId", default="")
    username: str = ""
    type: Kind = "text"
    metadata: dict[str, Any] | None = None


class SayMessage(msgspec.Struct):
    """Say something."""

    room: str = msgspec.field(name="roomId")
    message: PlainMessage


class SayTyping(msgspec.Struct):
    """Begin or end to type."""

    room: str = msgspec.field(name="roomId")
    on: bool = msgspec.field(name="isTyping")
    user: str = msgspec.field(name="userId", default="")


class PlainDialect(Dialect):
    """`may_claim` as in `open_chat_service()`; without it nobody may."""

    commands: ClassVar[Shapes] = {
        "join_room": JoinRoom,
        "leave_room": LeaveRoom,
        "chat_message": SayMessage,
        "typing_indicator": SayTyping,
    }

    def __init__(self, *, may_claim: MayClaim | None = None) -> None:
        self._claims: Final = Claims(may_claim)
        self._users: Final = PlainUsers()

    # What a client says

    async def take(self, hub: Hub, guest: Guest, command: Any, re: str) -> None:
        match command:
            case JoinRoom():
                await self._join(hub, guest, command.room)
            case LeaveRoom():
                await hub.perform(guest, Leave(command.room), re)
            case SayMessage():
                await self._say(hub, guest, command, re)
            case SayTyping():
                _check_joined(guest, command.room)
                await self._claims.check(hub, guest, "payload.userId", command.user)
                payload = msgspec.to_builtins(Typing(command.on))
                publish = Publish(command.room, payload, TYPING, to="others", store=False)
                await hub.perform(guest, publish, re)

    async def _join(self, hub: Hub, guest: Guest, name: str) -> None:
        if name in guest.rooms:
            await trio.lowlevel.checkpoint()
            return
        await hub.perform(guest, Join(name))
        room = guest.rooms[name]
        # Who is there already. The others are about to be told, to everybody.
        told = [user for user in room.members() if user["user"] not in room.roster.news.joined]
        hub.teller.answer(guest, room.type, Event("presence", joined=told))

    async def _say(self, hub: Hub, guest: Guest, command: SayMessage, re: str) -> None:
        said = command.message
        metadata = said.metadata or {}
        _check(check_content, said.content)
        _check(check_metadata, metadata)
        _check_joined(guest, command.room)
        await self._claims.check(hub, guest, "payload.message.userId", said.user, said.username)
        body = SaidBody(said.content, shown_name(guest.who.info), metadata=metadata)
        id = re if len(re) >= UNIQUE_LENGTH and is_name(re) else ""
        await hub.perform(
            guest, Publish(command.room, msgspec.to_builtins(body), said.type, id), re
        )

    # What a client is told

    def say(self, room: str, event: Event) -> Iterable[tuple[str, Any]]:
        match event.kind:
            case "message":
                return self._message(room, event)
            case "presence":
                return self._presence(room, event.joined, event.left)
            case "refused":
                return [("error", {"code": event.code, "text": event.text, "re": event.re})]
            case "removed":
                return [_error(room, event.code, event.text)]
            case "room":
                missed = _error(room, "missed", "messages may be missing here")
                return [missed, *self._presence(room, event.members, ())]
        return ()

    def _message(self, room: str, event: Event) -> _Said:
        if event.type in KINDS:
            return self._said(room, event)
        if event.type == TYPING:
            return self._typing(room, event)
        if event.type == EDIT and (edit := _read(event, Edit)):
            payload = {"roomId": room, "messageId": str(edit.target), "content": edit.content}
            return [("chat_message_edited", payload)]
        if event.type == DELETE and (delete := _read(event, Delete)):
            return [("chat_message_deleted", {"roomId": room, "messageId": str(delete.target)})]
        return ()

    def _said(self, room: str, event: Event) -> _Said:
        body = _read(event, SaidBody)
        if body is None:
            return ()
        message = {
            "id": str(event.offset) if event.offset else event.id,
            "userId": event.user,
            "username": body.name or self._users.name(event.user),
            "content": body.content,
            "timestamp": event.at,
            "type": event.type,
            "metadata": body.metadata,
        }
        return [("chat_message", {"roomId": room, "message": message})]

    def _typing(self, room: str, event: Event) -> _Said:
        typing = _read(event, Typing)
        if typing is None:
            return ()
        name = self._users.name(event.user)
        payload = {"userId": event.user, "username": name, "isTyping": typing.on}
        return [("typing_indicator", {"roomId": room, **payload})]

    def _presence(
        self, room: str, joined: Iterable[dict[str, Any]], left: Iterable[str]
    ) -> list[tuple[str, Any]]:
        users = [("user_joined", self._users.seen(each["user"], each["info"])) for each in joined]
        users += [("user_left", self._users.gone(user)) for user in left]
        return [(type, {"roomId": room, "user": user}) for type, user in users]


def _error(room: str, code: str, text: str) -> tuple[str, Any]:
    """Of no message of the client's."""
    return "error", {"code": code, "text": text, "re": "", "roomId": room}


def _read(event: Event, shape: type[ShapeT]) -> ShapeT | None:
    """None for what other programs have put there."""
    try:
        return msgspec.convert(event.payload, shape)
    except msgspec.ValidationError:
        return None


def _check_joined(guest: Guest, room: str) -> None:
    if room not in guest.rooms:
        raise Refused("not_joined", "join the room first")


def _check(check: Callable[[object], None], value: object) -> None:
    try:
        check(value)
    except PayloadError as error:
        code = "too_large" if error.rule.startswith("must have at most") else "malformed"
        raise Refused(code, f"payload.message.{error.field} {error.rule}") from error

"""What a chat's program sees: users, messages, and what happens in a room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NoReturn, TypeAlias

import attrs

from ..message import Gap, Reset
from ._words import Action, Kind, Role, Status

__all__ = [
    "EMPTY",
    "ChatMessage",
    "Deleted",
    "Edited",
    "MessageState",
    "Moderated",
    "Reacted",
    "ReadMoved",
    "RoomEvent",
    "Spoken",
    "TypingChanged",
    "User",
    "UserChanged",
    "UserJoined",
    "UserLeft",
]

#: Where a message of one's own is. It only goes forward; "failed" is final until a retry.
#:
#: - "queued": here, waiting for its turn or for a connection;
#: - "sent": on its way; nobody has said that it is stored;
#: - "acked": the service has stored it;
#: - "echoed": it is in the room, in its place. All messages of others are.
#: - "failed": the service will not have it.
MessageState: TypeAlias = Literal["queued", "sent", "acked", "echoed", "failed"]


class _Empty(dict[str, Any]):
    """A dictionary that stays empty."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a message cannot be changed")

    __setitem__ = setdefault = update = __ior__ = _refuse


#: What most messages have for metadata and reactions: one for all of them.
EMPTY: Final[Mapping[str, Any]] = _Empty()


@attrs.frozen
class User:
    """Somebody, as the service knows them. The `id` is who it is; the `name` is only shown."""

    id: str
    name: str
    status: Status = "online"
    avatar: str = ""


@attrs.frozen(kw_only=True)
class ChatMessage:
    """One message, with what was said about it since."""

    #: Who said it named it so; for one's own the same from "queued" on.
    id: str
    #: As they were known when the message was.
    user: User
    kind: Kind
    #: "" once it is deleted.
    content: str
    #: Its place in the room's log; 0 while it is not stored. Order by it, never by `at`.
    offset: int = 0
    #: When the service took it, in ms since the epoch; one's own clock before that.
    at: int = 0
    #: The offset of the message that it answers; 0 for none.
    reply: int = 0
    #: As its sender gave it: JSON of any form. Texts in it may have control characters.
    metadata: Mapping[str, Any] = attrs.field(default=EMPTY, hash=False)
    #: When its content was changed last; 0 for never.
    edited_at: int = 0
    deleted: bool = False
    #: Ids of users, by what they reacted with.
    reactions: Mapping[str, frozenset[str]] = attrs.field(default=EMPTY, hash=False)
    mine: bool = False
    state: MessageState = "echoed"
    #: Why it failed, for people.
    failure: str = ""


@attrs.frozen
class Spoken:
    """A message is in the room, in its place: one's own, too."""

    message: ChatMessage


@attrs.frozen
class Edited:
    """The message at `offset` says something else. `message` is None if it is not kept here."""

    offset: int
    content: str
    by: User
    message: ChatMessage | None = None


@attrs.frozen
class Deleted:
    """The message at `offset` is not to be shown any more."""

    offset: int
    by: User
    message: ChatMessage | None = None


@attrs.frozen
class Reacted:
    """A user has reacted to the message at `offset`, or does no more (`on` false)."""

    offset: int
    reaction: str
    by: User
    on: bool = True
    message: ChatMessage | None = None


@attrs.frozen
class TypingChanged:
    """Who is typing now, this user's own devices left out."""

    users: tuple[User, ...]


@attrs.frozen
class UserJoined:
    """A user is there now."""

    user: User


@attrs.frozen
class UserLeft:
    """A user has left with the last device; or that was lost, and the grace is over."""

    user: User


@attrs.frozen
class UserChanged:
    """A user has another name, status or avatar."""

    user: User


@attrs.frozen
class ReadMoved:
    """A user has read up to the message at `offset`."""

    user: User
    offset: int


@attrs.frozen
class Moderated:
    """`by` has decided something about `user`. `until`: ms since the epoch, 0 for ever."""

    action: Action
    user: User
    by: User
    until: int = 0
    role: Role = "member"


RoomEvent: TypeAlias = (
    Spoken
    | Edited
    | Deleted
    | Reacted
    | TypingChanged
    | UserJoined
    | UserLeft
    | UserChanged
    | ReadMoved
    | Moderated
    | Gap
    | Reset
)

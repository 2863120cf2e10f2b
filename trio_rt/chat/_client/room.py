"""`ChatRoom`: what a program sees and does in a room. The work is its `Holder`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, get_args

import msgspec
import trio

from ..._ambient import ambient
from ...errors import OptionError
from ...hub._names import check_name
from ...options import check_flag, check_kind, check_number
from .._words import (
    DELETE,
    EDIT,
    KINDS,
    MODERATE,
    REACT,
    Action,
    Delete,
    Edit,
    Kind,
    React,
    Role,
    check_content,
    check_metadata,
    check_reaction,
)
from ..models import ChatMessage, User
from .events import EventStream
from .holder import Holder
from .ids import new_id
from .said import Said

__all__ = ["ChatRoom"]


class ChatRoom:
    """Being in a room: made by `Chat.room()` alone.

    What it shows is always of now, and is changed by no task of the program: `messages` has
    one's own from when they are queued on. After the end of its block it shows what was
    known, and its methods raise `trio.ClosedResourceError`.
    """

    def __init__(self, holder: Holder) -> None:
        self._holder: Final = holder
        self._log: Final = holder.log

    def __repr__(self) -> str:
        return f"<ChatRoom {self.name!r}>"

    # What there is

    @property
    def name(self) -> str:
        """That of the room."""
        return self._holder.membership.name

    @property
    def messages(self) -> Sequence[ChatMessage]:
        """The last 1000 in the room's order, and behind them one's own that are not there yet."""
        return self._log.messages

    @property
    def last_message(self) -> ChatMessage | None:
        """The last of them."""
        return self._log.last_message

    @property
    def members(self) -> Mapping[str, User]:
        """Who is present, by id, this user included."""
        return self._log.members

    @property
    def typing_users(self) -> tuple[User, ...]:
        """Who is typing, this user left out. Nobody is known to be after a lost link."""
        return self._holder.typing_users

    @property
    def unread(self) -> int:
        """How many of the messages that are kept were said by others, and are not read."""
        return self._log.unread

    @property
    def me(self) -> User:
        """This user, as the service knows it."""
        return self._log.user(self._log.me)

    @property
    def marks(self) -> Mapping[str, int]:
        """How far each user has read: an offset, by the user's id."""
        return self._log.marks

    def events(self, capacity: int = 1000) -> EventStream:
        """A stream of what happens from now on: `with room.events() as events:`.

        There may be several. `capacity`: events that lie in it until they are received.
        """
        self._holder.check()
        return self._holder.events.open(capacity)

    # One's own messages

    async def say(
        self,
        content: str,
        *,
        kind: Kind = "text",
        metadata: Mapping[str, Any] | None = None,
        reply_to: ChatMessage | int | None = None,
    ) -> Said:
        """Queue a message: it is said when its turn comes and there is a link.

        Messages of one `ChatRoom` are said one at a time, in the order of these calls, each
        once over any number of lost links. `content` of an image or a file is where it is.
        Waits while 1000 are on their way. Ends this device's typing.
        Raises `PayloadError` and `OptionError`. If it raises, or is cancelled, nothing is queued.
        """
        check_content(content)
        check_metadata({} if metadata is None else metadata)
        if kind not in KINDS:
            raise OptionError("kind", f"must be one of {', '.join(KINDS)}", kind)
        reply = 0 if reply_to is None else _offset_of("reply_to", reply_to)
        kept = msgspec.json.decode(msgspec.json.encode(metadata or {}))
        await self._holder.speaker.wait_room()
        self._holder.typing.stop()
        return self._holder.speaker.queue(
            ChatMessage(
                id=new_id(),
                user=self.me,
                kind=kind,
                content=content,
                at=int(ambient().wall_s() * 1000),
                reply=reply,
                metadata=kept,
                mine=True,
                state="queued",
            )
        )

    def dismiss(self, said: Said) -> bool:
        """Show a message that failed no more. False: it has not failed, or is gone already."""
        check_kind("said", said, Said)
        return self._holder.speaker.dismiss(said)

    # About messages

    async def edit(self, message: ChatMessage | int, content: str) -> None:
        """Let a message say something else.

        As `delete` and `react`: `message` may be an offset. Returns when it is stored, which
        is once, whatever is lost meanwhile. Raises `Refused` and as `say`. Cancelled: it may
        be stored.
        """
        check_content(content)
        await self._amend(EDIT, Edit(_offset_of("message", message), content))

    async def delete(self, message: ChatMessage | int) -> None:
        """Let a message be shown no more."""
        await self._amend(DELETE, Delete(_offset_of("message", message)))

    async def react(self, message: ChatMessage | int, reaction: str, *, on: bool = True) -> None:
        """React to a message, or no more."""
        check_reaction(reaction)
        check_flag("on", on)
        await self._amend(REACT, React(_offset_of("message", message), reaction, on))

    async def _amend(self, type: str, body: msgspec.Struct) -> None:
        payload = msgspec.to_builtins(body)
        await self._holder.membership.publish(payload, type=type, id=new_id())

    # Typing

    @contextmanager
    def typing(self) -> Iterator[None]:
        """Others are told that this user types until the block ends, or something is said."""
        self._holder.check()
        block = object()
        self._holder.typing.hold(block)
        try:
            yield
        finally:
            self._holder.typing.release(block)

    def keystroke(self) -> None:
        """A key was pressed: others are told at most every 3 s, and of the end 6 s later."""
        self._holder.check()
        self._holder.typing.press()

    # What was read, and what was said before

    async def mark_read(self, message: ChatMessage | int | None = None) -> None:
        """This user has read up to a message, by default the last one; never backwards.

        Calls that come while one is on its way are told as one. Raises `OptionError` for a
        message that is not in the room, and `Refused`. Cancelled: it may be told.
        """
        self._holder.check()
        offset = self._last_offset() if message is None else _offset_of("message", message)
        if offset > max(self._holder.membership.reached, self._last_offset()):
            raise OptionError("message", "must be one that is in the room", message)
        if offset > self._log.marks.get(self._log.me, 0):
            await self._holder.marker.mark(offset)
        else:
            await trio.lowlevel.checkpoint()

    async def history(
        self, before: ChatMessage | int | None = None, limit: int = 50
    ) -> tuple[ChatMessage, ...]:
        """Messages before one, by default before the oldest kept: the `limit` last of the log.

        Edits and reactions have places in the log, too, so there may be fewer; there is none
        only at its beginning. They are not added to `messages`. Raises `OptionError` and
        `Refused`; waits for a link.
        """
        self._holder.check()
        check_number("limit", limit, least=1, whole=True, finite=True)
        at = self._first_offset() if before is None else _offset_of("before", before)
        return await self._holder.history(at, limit)

    def _last_offset(self) -> int:
        return max((message.offset for message in self._log.messages), default=0)

    def _first_offset(self) -> int | None:
        return next((message.offset for message in self._log.messages if message.offset), None)

    # What its owners decide

    async def moderate(
        self, action: Action, user: User | str, *, for_s: float = 0.0, role: Role = "member"
    ) -> None:
        """Decide about a user, as the room's owner.

        - `for_s`: seconds, of "mute" and "ban"; 0 for ever.
        - `role`: of "role".

        Returns when it is done. Raises `Refused` and `OptionError`. Cancelled: it may be done.
        """
        _check_choice("action", action, get_args(Action))
        _check_choice("role", role, get_args(Role))
        check_number("for_s", for_s, finite=True)
        id = user.id if isinstance(user, User) else user
        check_name("user", id)
        fields = {"action": action, "user": id, "for_s": for_s, "role": role}
        await self._holder.membership.command(MODERATE, fields)


def _check_choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(field, f"must be one of {', '.join(choices)}", value)


def _offset_of(field: str, message: ChatMessage | int) -> int:
    offset = message.offset if isinstance(message, ChatMessage) else message
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 1:
        raise OptionError(field, "must be a message that is in the room, or its offset", message)
    return offset

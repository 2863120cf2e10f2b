"""What a room's log has said, as far as it is known here: messages, with what was said since."""

from __future__ import annotations

from typing import Any, Final

from ...hub._client.items import HistoryPage, RoomMessage
from .._words import Delete, Edit, Moderation, React, SaidBody
from ..models import (
    EMPTY,
    ChatMessage,
    Deleted,
    Edited,
    Moderated,
    Reacted,
    RoomEvent,
    Spoken,
    User,
)
from .amendments import Amendments, amend
from .kept import Kept
from .people import People
from .reading import Amendment, Body, read, time_of

__all__ = ["Stored"]


class Stored:
    """Of one log at a time: that of `epoch`, which is "" until its first message."""

    def __init__(self, keep: int, people: People) -> None:
        self.epoch = ""
        self.messages: Final = Kept(keep)
        #: Messages of the hub that say nothing here.
        self.skipped = 0
        self._people: Final = people
        self._amendments: Final = Amendments()

    def begin(self, epoch: str) -> None:
        """From now on it is the log of `epoch`, and nothing is kept of another one."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.messages.clear()
        self._amendments.begin(epoch)

    def take(self, item: RoomMessage[Any], body: Body | None, *, mine: bool) -> list[RoomEvent]:
        """The next message of the log, which says `body`: what has happened."""
        match body:
            case SaidBody():
                user = self._people.speaks(item.user, body.name)
                message = _message(item, body, user, mine=mine)
                is_double = self.messages.get(message.offset) is not None
                message = self.put(message)
                return [] if is_double else [Spoken(message)]
            case Moderation(action, id, by, until, role):
                user = self._people.user(id)
                return [Moderated(action, user, self._people.user(by), until, role)]
            case None:
                self.skipped += 1
                return []
        return self._amend(item, body)

    def put(self, message: ChatMessage) -> ChatMessage:
        """Keep it, as it is after all that is known to have been said about it."""
        message = self._amendments.onto(message)
        self.messages.put(message)
        return message

    def page(self, page: HistoryPage[Any], me: str) -> tuple[ChatMessage, ...]:
        """As `RoomLog.page`."""
        if self.epoch not in ("", page.epoch):
            return ()
        self._amendments.begin(page.epoch)
        said: list[ChatMessage] = []
        for item in page.messages:
            match read(item):
                case SaidBody() as body:
                    user = self._people.spoke(item.user, body.name)
                    said.append(_message(item, body, user, mine=item.mine or item.user == me))
                case Edit() | Delete() | React() as body:
                    self._apply(item, body)
                case None:
                    self.skipped += 1
        said.sort(key=lambda message: message.offset)
        return tuple(self.messages.get(m.offset) or self._amendments.onto(m) for m in said)

    def count_unread(self, mark: int) -> int:
        """Kept messages of others behind `mark` that are not deleted."""
        count = 0
        for message in reversed(self.messages):
            if message.offset <= mark:
                break
            count += not (message.mine or message.deleted)
        return count

    def _amend(self, item: RoomMessage[Any], body: Amendment) -> list[RoomEvent]:
        counts, message = self._apply(item, body)
        if not counts:
            return []
        by = self._people.user(item.user)
        match body:
            case Edit(target, content):
                return [Edited(target, content, by, message)]
            case Delete(target):
                return [Deleted(target, by, message)]
            case React(target, reaction, on):
                return [Reacted(target, reaction, by, on, message)]

    def _apply(self, item: RoomMessage[Any], body: Amendment) -> tuple[bool, ChatMessage | None]:
        """Whether it changes something, as far as is known, and the message, if it is kept."""
        at = time_of(item)
        before = self.messages.get(body.target)
        counts = self._amendments.learn(body, _offset(item), item.user, at)
        if before is None or not counts:
            return counts, before
        after = amend(before, body, item.user, at)
        if after is not before:
            self.messages.put(after)
        return after is not before, after


def _message(item: RoomMessage[Any], body: SaidBody, user: User, *, mine: bool) -> ChatMessage:
    """As it was said."""
    offset = _offset(item)
    return ChatMessage(
        id=item.id,
        user=user,
        kind=item.type,  # type: ignore[arg-type]
        content=body.content,
        offset=offset,
        at=time_of(item),
        reply=body.reply if 0 < body.reply < offset else 0,
        metadata=body.metadata or EMPTY,
        mine=mine,
    )


def _offset(item: RoomMessage[Any]) -> int:
    """Of one that was read, and so has a position."""
    return item.position.offset if item.position is not None else 0

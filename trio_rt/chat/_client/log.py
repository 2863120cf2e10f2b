"""`RoomLog`: what a client knows of a room, from what the hub tells of it.

**Goal.** Each message once, in the order of the log, as it is after all that was said about
it; one's own from the moment they are queued.

**What does not work.** To order by time, or by arrival: clocks differ, and history comes
backwards. To show one's own message until its echo comes and the echo then: for a moment
there are both, or none. To wait for the echo alone: it may have fallen into a gap.

**The rule.** Offsets decide the order, ids of one's own messages which echo is whose, and
epochs of which log an offset is. What changes, changes within one call. The log is
trusted about who may say what, and about nothing else (`reading`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import attrs

from ...hub._client.items import HistoryPage, Joined, Left, Marked, RoomItem, RoomMessage
from ...hub._names import is_name
from ...message import Gap, Reset
from .._words import TYPING, Delete, Edit, Moderation, React, SaidBody
from ..models import (
    EMPTY,
    ChatMessage,
    Deleted,
    Edited,
    MessageState,
    Moderated,
    Reacted,
    ReadMoved,
    RoomEvent,
    Spoken,
    User,
)
from .amendments import Amendments, amend
from .kept import Kept
from .pending import Pending
from .people import People
from .reading import Amendment, read, time_of

__all__ = ["KEEP", "RoomLog"]

#: Stored messages that are kept.
KEEP: Final = 1000


class RoomLog:
    """Of one room. `me` is one's own user, "" until that is known."""

    def __init__(self, keep: int = KEEP, me: str = "") -> None:
        self.me = me
        #: Messages that say nothing here: of foreign kinds, or as no service should let through.
        self.skipped = 0
        self._kept: Final = Kept(keep)
        self._pending: Final = Pending()
        self._amendments: Final = Amendments()
        self._people: Final = People()
        self._marks: dict[str, int] = {}
        # The log that is followed, "" until its first message, and how far it was taken.
        self._epoch = ""
        self._until = 0
        self._shown: tuple[ChatMessage, ...] | None = None
        # One's own mark, and what is unread behind it.
        self._unread: tuple[int, int] | None = None

    # What is known

    @property
    def messages(self) -> Sequence[ChatMessage]:
        """Those of the log that are kept, in its order, and behind them one's own to come."""
        if self._shown is None:
            self._shown = (*self._kept, *self._pending)
        return self._shown

    @property
    def last_message(self) -> ChatMessage | None:
        """The last of `messages`."""
        return self.messages[-1] if self.messages else None

    @property
    def pending(self) -> tuple[ChatMessage, ...]:
        """One's own that are not in their place yet."""
        return tuple(self._pending)

    @property
    def stranded(self) -> tuple[str, ...]:
        """Ids of pending ones that were acked in a log that is gone."""
        return self._pending.stranded

    @property
    def members(self) -> Mapping[str, User]:
        """Who is there."""
        return self._people.members

    @property
    def users(self) -> Mapping[str, User]:
        """Who is there, and who was or has said something, as far as is remembered."""
        return self._people.users

    @property
    def marks(self) -> Mapping[str, int]:
        """How far each user has read."""
        return MappingProxyType(self._marks)

    @property
    def unread(self) -> int:
        """Kept messages of others behind one's own mark that are not deleted."""
        mark = self._marks.get(self.me, 0)
        if self._unread is None or self._unread[0] != mark:
            self._unread = mark, self._count_unread(mark)
        return self._unread[1]

    def user(self, id: str) -> User:
        """Anybody, as they are known."""
        return self._people.user(id)

    # One's own messages

    def queue(self, message: ChatMessage) -> None:
        """One's own that is to be said, shown behind all others."""
        self._pending.queue(message)
        self._changed()

    def moved(
        self,
        id: str,
        state: MessageState,
        *,
        offset: int = 0,
        at: int = 0,
        failure: str = "",
        epoch: str = "",
    ) -> ChatMessage | None:
        """A pending message is in another state. None if it is not pending, as after its echo.

        Acked, it has its `offset` in the log of `epoch` ("": of the one that is followed). If
        that was passed already, it is in its place now: its state is "echoed", and no
        `Spoken` will come for it.
        """
        message = self._pending.moved(id, state, offset, at, failure, epoch)
        self._changed()
        for placed in self._place():
            if placed.id == id:
                return placed
        return message

    def dismiss(self, id: str) -> bool:
        """Show a pending message no more. False if it is not pending."""
        self._changed()
        return self._pending.pop(id) is not None

    # What the hub tells

    def meet(self, members: Mapping[str, Any], marks: Mapping[str, int]) -> list[RoomEvent]:
        """Who is there and how far each has read, as the membership has it: what is new.

        To be told at first, after a `Reset`, which makes marks void, and after a `Gap`, in which
        it may be lost who came and went.
        """
        events: list[RoomEvent] = []
        for user in [user for user in self.members if user not in members]:
            events += self._leave(user)
        for user, info in members.items():
            events += self._join(user, info)
        for user, offset in marks.items():
            if offset != self._marks.get(user):
                events += self._mark(user, offset)
        return events

    def take(self, item: RoomItem[Any], *, until: int) -> list[RoomEvent]:
        """The next of a membership, whose position is `until` now: what has happened."""
        match item:
            case RoomMessage():
                return self._take_message(item, until)
            case Reset():
                self._lose_log()
                return [item]
            case Joined(user, info):
                events = self._join(user, info)
            case Left(user):
                events = self._leave(user)
            case Marked(user, offset):
                events = self._mark(user, offset)
            case Gap(count):
                events = [item]
                self._until += count  # at least: each had a place
        if self._epoch:
            self._until = max(self._until, until)
        return [*events, *map(Spoken, self._place())]

    def page(self, page: HistoryPage[Any]) -> tuple[ChatMessage, ...]:
        """What a piece of history says, with all that is known about it here.

        What it says about messages that are kept changes these, too, without an event. Of
        another log than the one that is followed it says nothing: a `Reset` will come.
        """
        if self._epoch not in ("", page.epoch):
            return ()
        self._amendments.begin(page.epoch)
        said: list[ChatMessage] = []
        for item in page.messages:
            match read(item):
                case SaidBody() as body:
                    said.append(self._message(item, body, is_new=False))
                case Edit() | Delete() | React() as body:
                    self._apply(item, body)
                case None:
                    self.skipped += 1
        said.sort(key=lambda message: message.offset)
        return tuple(self._kept.get(m.offset) or self._amendments.onto(m) for m in said)

    # Within

    def _take_message(self, item: RoomMessage[Any], until: int) -> list[RoomEvent]:
        position = item.position
        if position is None:
            self.skipped += item.type != TYPING
            return []
        events = self._begin(position.epoch)
        body = read(item)
        if isinstance(body, SaidBody) and self._is_mine(item):
            self._pending.pop(item.id)
        self._until = max(self._until, until, position.offset)
        events += map(Spoken, self._place())
        match body:
            case SaidBody():
                events += self._say(self._message(item, body, is_new=True))
            case Moderation(action, user, by, ends, role):
                events.append(Moderated(action, self.user(user), self.user(by), ends, role))
            case None:
                self.skipped += 1
            case _:
                events += self._amend(item, body)
        return events

    def _begin(self, epoch: str) -> list[RoomEvent]:
        """A message is of the log of `epoch`."""
        if epoch == self._epoch:
            return []
        events: list[RoomEvent] = []
        if self._epoch:  # nobody has said that it is another one
            self._lose_log()
            events.append(Reset())
        self._epoch = epoch
        self._amendments.begin(epoch)
        return events

    def _lose_log(self) -> None:
        self._pending.lose_log(self._epoch)
        self._amendments.begin("")
        self._kept.clear()
        self._marks.clear()
        self._epoch, self._until = "", 0
        self._changed()

    def _message(self, item: RoomMessage[Any], body: SaidBody, *, is_new: bool) -> ChatMessage:
        """As it was said."""
        offset, people = _offset(item), self._people
        return ChatMessage(
            id=item.id,
            user=(people.speaks if is_new else people.spoke)(item.user, body.name),
            kind=item.type,  # type: ignore[arg-type]
            content=body.content,
            offset=offset,
            at=time_of(item),
            reply=body.reply if 0 < body.reply < offset else 0,
            metadata=body.metadata or EMPTY,
            mine=self._is_mine(item),
        )

    def _is_mine(self, item: RoomMessage[Any]) -> bool:
        return item.mine or item.user == self.me

    def _say(self, message: ChatMessage) -> list[RoomEvent]:
        """It is in its place; no news if it was there."""
        is_double = self._kept.get(message.offset) is not None
        message = self._amendments.onto(message)
        self._kept.put(message)
        self._changed()
        return [] if is_double else [Spoken(message)]

    def _place(self) -> list[ChatMessage]:
        """Those pending whose echo does not come any more are in their place now."""
        placed = []
        for message in self._pending.due(self._epoch, self._until):
            if self._kept.get(message.offset) is None:
                self._pending.pop(message.id)
                message = self._amendments.onto(attrs.evolve(message, state="echoed"))
                self._kept.put(message)
                placed.append(message)
        if placed:
            self._changed()
        return placed

    def _amend(self, item: RoomMessage[Any], body: Amendment) -> list[RoomEvent]:
        counts, message = self._apply(item, body)
        by = self.user(item.user)
        match body:
            case _ if not counts:
                return []
            case Edit(target, content):
                return [Edited(target, content, by, message)]
            case Delete(target):
                return [Deleted(target, by, message)]
            case React(target, reaction, on):
                return [Reacted(target, reaction, by, on, message)]

    def _apply(self, item: RoomMessage[Any], body: Amendment) -> tuple[bool, ChatMessage | None]:
        """Whether it changes something, as far as is known, and the message, if it is kept."""
        offset, at = _offset(item), time_of(item)
        before = self._kept.get(body.target)
        counts = self._amendments.learn(body, offset, item.user, at)
        if before is None or not counts:
            return counts, before
        after = amend(before, body, item.user, at)
        if after is not before:
            self._kept.put(after)
            self._changed()
        return after is not before, after

    def _join(self, user: str, info: Any) -> list[RoomEvent]:
        event = self._people.joined(user, info)
        return [] if event is None else [event]

    def _leave(self, user: str) -> list[RoomEvent]:
        event = self._people.left(user)
        return [] if event is None else [event]

    def _mark(self, user: str, offset: int) -> list[RoomEvent]:
        if not is_name(user):
            return []
        self._marks[user] = offset
        return [ReadMoved(self.user(user), offset)]

    def _count_unread(self, mark: int) -> int:
        count = 0
        for message in reversed(self._kept):
            if message.offset <= mark:
                break
            count += not (message.mine or message.deleted)
        return count

    def _changed(self) -> None:
        self._shown = self._unread = None


def _offset(item: RoomMessage[Any]) -> int:
    """Of one that was read, and so has a position."""
    return item.position.offset if item.position is not None else 0

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
from typing import Any, Final

import attrs

from ...hub._broker import Position
from ...hub._client.items import HistoryPage, Joined, Left, Marked, RoomItem, RoomMessage
from ...message import Gap, Reset
from .._words import TYPING, SaidBody
from ..models import ChatMessage, MessageState, RoomEvent, Spoken, User
from .pending import Pending
from .people import People
from .reading import read
from .stored import Stored

__all__ = ["KEEP", "RoomLog"]

#: Stored messages that are kept.
KEEP: Final = 1000


class RoomLog:
    """Of one room. `me` is one's own user, "" until that is known."""

    def __init__(self, keep: int = KEEP, me: str = "") -> None:
        self.me = me
        self._people: Final = People()
        self._stored: Final = Stored(keep, self._people)
        self._pending: Final = Pending()
        # How far the log was taken.
        self._until = 0
        self._shown: tuple[ChatMessage, ...] | None = None
        # One's own mark, and what is unread behind it.
        self._unread: tuple[int, int] | None = None

    # What is known

    @property
    def messages(self) -> Sequence[ChatMessage]:
        """Those of the log that are kept, in its order, and behind them one's own to come."""
        if self._shown is None:
            self._shown = (*self._stored.messages, *self._pending)
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
        return self._people.marks

    @property
    def unread(self) -> int:
        """Kept messages of others behind one's own mark that are not deleted."""
        mark = self.marks.get(self.me, 0)
        if self._unread is None or self._unread[0] != mark:
            self._unread = mark, self._stored.count_unread(mark)
        return self._unread[1]

    @property
    def skipped(self) -> int:
        """Messages that say nothing here: of foreign kinds, or as no service lets through."""
        return self._stored.skipped

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

        Acked, it has its `offset` in the log of `epoch`. If that was passed already, it is in
        its place now: its state is "echoed", and no `Spoken` will come for it.
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

    def begin(self, position: Position) -> None:
        """At first: which log is followed, and from where. Not told, its first message says."""
        self._stored.begin(position.epoch)
        self._until = position.offset

    def meet(self, members: Mapping[str, Any], marks: Mapping[str, int]) -> list[RoomEvent]:
        """Who is there and how far each has read, as the membership has it: what is new.

        To be told at first, after a `Reset`, which makes marks void, and after a `Gap`, in which
        it may be lost who came and went.
        """
        return self._people.meet(members, marks)

    def take(self, item: RoomItem[Any], *, until: int) -> list[RoomEvent]:
        """The next of a membership, whose position is `until` now: what has happened."""
        match item:
            case RoomMessage():
                return self._take_message(item, until)
            case Reset():
                self._lose_log()
                return [item]
            case Joined(user, info):
                events = self._people.joined(user, info)
            case Left(user):
                events = self._people.left(user)
            case Marked(user, offset):
                events = self._people.marked(user, offset)
            case Gap(count):
                events = [item]
                self._until += count  # at least: each had a place
        if self._stored.epoch:
            self._until = max(self._until, until)
        return [*events, *map(Spoken, self._place())]

    def page(self, page: HistoryPage[Any]) -> tuple[ChatMessage, ...]:
        """What a piece of history says, with all that is known about it here.

        What it says about messages that are kept changes these, too, without an event. Of
        another log than the one that is followed it says nothing: a `Reset` will come.
        """
        self._changed()
        return self._stored.page(page, self.me)

    # Within

    def _take_message(self, item: RoomMessage[Any], until: int) -> list[RoomEvent]:
        position = item.position
        if position is None:
            self._stored.skipped += item.type != TYPING
            return []
        events = self._begin(position.epoch)
        body, mine = read(item), item.mine or item.user == self.me
        if mine and isinstance(body, SaidBody):
            self._pending.pop(item.id)
        self._until = max(self._until, until, position.offset)
        events += map(Spoken, self._place())
        events += self._stored.take(item, body, mine=mine)
        self._changed()
        return events

    def _begin(self, epoch: str) -> list[RoomEvent]:
        """A message is of the log of `epoch`."""
        known = self._stored.epoch
        if epoch == known:
            return []
        if known:  # nobody has said that it is another one
            self._lose_log()
        self._stored.begin(epoch)
        return [Reset()] if known else []

    def _lose_log(self) -> None:
        self._pending.lose_log(self._stored.epoch)
        self._stored.begin("")
        self._people.clear_marks()
        self._until = 0
        self._changed()

    def _place(self) -> list[ChatMessage]:
        """Those pending whose echo does not come any more are in their place now."""
        placed = []
        for message in self._pending.due(self._stored.epoch, self._until):
            if self._stored.messages.get(message.offset) is None:
                self._pending.pop(message.id)
                placed.append(self._stored.put(attrs.evolve(message, state="echoed")))
        if placed:
            self._changed()
        return placed

    def _changed(self) -> None:
        self._shown = self._unread = None

"""Every message of a log once and in order, from what arrives in any way.

**Goal.** A member is given each message behind its cursor once and in order; what is gone
for good is told with its number, and a log that began anew as what it is. That holds over
lost links, lost sessions, a hub that left something out, and a store that forgot all.

**What does not work.** To trust the order in which messages come: what is told live and
what a page of the log has overlap, and come from different places. To hold up live
messages until all before them is there: under steady traffic that is for ever, or without
bound. To believe whoever names another epoch: what a hub says of a room may be older
than what its store says.

**The rule.** Only the cursor counts, the offset of what was given last. The next one is
given; one at or below is a double; one beyond it shows a hole, and is kept. So does a look at
the room whose end is beyond the cursor. While there is a hole (`behind`) somebody asks for
the page after the cursor, one at a time. The last `KEPT` live messages are kept, so paging
has only to come to the first of these, and does, if pages are faster than the traffic. Only
a page says what is gone, and only a page changes the epoch: a foreign one is a doubt, and
a reason to ask.

**The remaining hole.** Messages that pass (offset 0) have no place: a lost one is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from ...message import Gap, Reset
from .._broker import Position
from .._words import Event

__all__ = ["Follow", "News", "Since"]

#: Live messages kept behind a hole.
KEPT: Final = 1000

Since: TypeAlias = Position | Literal["start"] | int | None

#: What is to be told: `Event`s are of the kinds `message` and `own`.
News: TypeAlias = Event | Gap | Reset


class Follow:
    """One member's way through a room's log. `since` is as in `open_room()`."""

    def __init__(self, since: Since) -> None:
        self._since: Final = since
        self._started = False
        self.epoch = ""
        self.cursor = 0
        #: The last offset that is known to be there.
        self.head = 0
        self._kept: deque[Event] = deque(maxlen=KEPT)
        # Another epoch that somebody spoke of, and how far it goes.
        self._doubt: tuple[str, int] | None = None

    @property
    def behind(self) -> bool:
        """Whether the page after the cursor is to be asked for."""
        return self._doubt is not None or self.cursor < self.head

    @property
    def position(self) -> Position:
        """Of what was given last."""
        return Position(self.epoch, self.cursor)

    def look(self, epoch: str, first: int, last: int) -> None:
        """The hub says how far the log goes."""
        if not self._started:
            self._start(epoch, first, last)
        if epoch != self.epoch:
            self._doubt = (epoch, last)
        else:
            self.head = max(self.head, last)

    def live(self, event: Event) -> list[News]:
        """A message of the room, or an `own`, behind a first look: what is to be told now."""
        if not event.offset:
            return [event]
        if event.epoch != self.epoch:
            self._doubt = (event.epoch, event.offset)
            self._keep(event)
            return []
        self.head = max(self.head, event.offset)
        if event.offset > self.cursor + 1:
            self._keep(event)
        elif event.offset > self.cursor:
            self.cursor = event.offset
            return [event, *self._next_kept()]
        return []

    def page(self, epoch: str, first: int, last: int, items: Sequence[Event]) -> list[News]:
        """The page after the cursor, as it was when that was asked for."""
        news: list[News] = []
        self._doubt = None
        if epoch != self.epoch:
            news.append(self._begin_anew(epoch, first - 1))
            if items and items[0].offset != first:
                items = ()  # it was asked for by an offset of the former log
        self.head = max(self.head, last)
        news += self._pass_to(first - 1)
        for item in items:
            if item.offset > self.cursor:
                news += self._pass_to(item.offset - 1)
                if item.offset > self.cursor:
                    self.cursor = item.offset
                    news.append(item)
        return news + self._next_kept()

    def denied(self) -> list[News]:
        """Pages are not for this member: what is missing is lost to it."""
        news: list[News] = []
        if self._doubt is not None:
            (epoch, last), self._doubt = self._doubt, None
            if epoch != self.epoch:
                kept = self._kept
                known = kept[0].offset - 1 if kept and kept[0].epoch == epoch else last
                news.append(self._begin_anew(epoch, known))
                self.head = max(known, last)
        return news + self._pass_to(self.head)

    # Within

    def _start(self, epoch: str, first: int, last: int) -> None:
        self._started = True
        since = self._since
        self.epoch, self.cursor = epoch, last
        if isinstance(since, Position):
            self.epoch, self.cursor = since.epoch, since.offset
        elif since == "start":
            self.cursor = first - 1
        elif since is not None:
            self.cursor = max(first - 1, last - int(since))

    def _begin_anew(self, epoch: str, cursor: int) -> Reset:
        self.epoch, self.cursor, self.head = epoch, cursor, cursor
        if self._kept and self._kept[0].epoch != epoch:
            self._kept.clear()
        return Reset()

    def _keep(self, event: Event) -> None:
        kept = self._kept
        if kept and kept[-1].epoch != event.epoch:
            kept.clear()
        kept.append(event)

    def _next_kept(self) -> list[News]:
        """What of the kept follows the cursor."""
        news: list[News] = []
        kept = self._kept
        while kept and kept[0].epoch == self.epoch and kept[0].offset <= self.cursor + 1:
            event = kept.popleft()
            if event.offset > self.cursor:
                self.cursor = event.offset
                news.append(event)
        return news

    def _pass_to(self, offset: int) -> list[News]:
        """Come to `offset`: with what was kept, and a `Gap` for what was not."""
        news = self._next_kept()
        while self.cursor < offset:
            until, kept = offset, self._kept
            if kept and kept[0].epoch == self.epoch:
                until = min(until, kept[0].offset - 1)
            news.append(Gap(until - self.cursor))
            self.cursor = until
            news += self._next_kept()
        return news

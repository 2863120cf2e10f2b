"""A room's past as rows: messages in the order of the log, notes, and what is on its way.

A row has a position that stays the same while others are added at either end, so that what
is on the screen stays where it is. Positions may be negative.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from ..._ambient import ambient
from ...chat import ChatMessage
from .rows import MessageRow, Mood, NoteRow, Row, is_action
from .words import day_text, local_time

__all__ = ["KEEP", "Timeline"]

#: Rows that are kept of a room.
KEEP: Final = 10_000
#: Rows that go at a time when there are more.
PIECE: Final = 500
#: Messages of one user within so long need the name but once.
TOGETHER_MS: Final = 300_000


class Timeline:
    """Of one room. `end` is the position behind the last row, `first` that of the first."""

    def __init__(self, keep: int = KEEP) -> None:
        self._keep: Final = keep
        self._rows: list[Row] = []
        self._offsets: dict[int, MessageRow] = {}
        self._pending: list[MessageRow] = []
        self.first = 0
        #: Goes up when a message changes that others may quote.
        self.version = 0
        #: Where what is new begins, if that is to be shown.
        self.new_at: int | None = None
        #: Whether the log has nothing before the first row.
        self.complete = False

    # What there is

    @property
    def end(self) -> int:
        return self.first + len(self._rows) + len(self._pending)

    def __getitem__(self, position: int) -> Row:
        index = position - self.first
        if index < 0:
            raise IndexError(position)
        stored = len(self._rows)
        return self._rows[index] if index < stored else self._pending[index - stored]

    def get(self, offset: int) -> ChatMessage | None:
        """The message at an offset of the log."""
        row = self._offsets.get(offset)
        return None if row is None else row.message

    def message_at(self, position: int) -> ChatMessage | None:
        """None for what is no message."""
        if not self.first <= position < self.end:
            return None
        row = self[position]
        return row.message if isinstance(row, MessageRow) else None

    @property
    def first_offset(self) -> int:
        """Of the first message; 0 if there is none."""
        return next((row.message.offset for row in self._rows if isinstance(row, MessageRow)), 0)

    @property
    def last_offset(self) -> int:
        """Of the last message; 0 if there is none."""
        rows = reversed(self._rows)
        return next((row.message.offset for row in rows if isinstance(row, MessageRow)), 0)

    def last(self, fits: Callable[[ChatMessage], bool]) -> ChatMessage | None:
        """The last message in its place that fits."""
        messages = (row.message for row in reversed(self._rows) if isinstance(row, MessageRow))
        return next(filter(fits, messages), None)

    @property
    def has_room(self) -> bool:
        """Whether older messages may be added."""
        return len(self._rows) < self._keep

    # How it changes

    def clear(self) -> None:
        """It is another log."""
        self.first = self.end
        self._rows, self._offsets, self.new_at = [], {}, None
        self.complete = False
        self.version += 1

    def merge(self, messages: Iterable[ChatMessage]) -> None:
        """Messages that are in their place; those that are known are replaced."""
        for message in messages:
            self.put(message)

    def put(self, message: ChatMessage) -> None:
        """One that is in its place."""
        known = self._offsets.get(message.offset)
        if known is not None:
            known.message = message
            self.version += 1
            return
        row = self._offsets[message.offset] = MessageRow(message)
        if message.offset > self.last_offset:
            self._append(row)
        else:
            self._insert(row)

    def change(self, offset: int, **changes: object) -> None:
        """What is said about a message that may be known here alone."""
        row = self._offsets.get(offset)
        if row is not None:
            row.message = attrs.evolve(row.message, **changes)  # type: ignore[arg-type]
            self.version += 1

    def prepend(self, messages: Sequence[ChatMessage]) -> None:
        """Messages of before the first."""
        rows = [MessageRow(message) for message in messages if message.offset not in self._offsets]
        self._offsets.update((row.message.offset, row) for row in rows)
        self._rows[:0] = rows
        self.first -= len(rows)
        before: Row | None = None
        for row in self._rows[: len(rows) + 1]:
            self._join(before, row)
            before = row

    def note(self, text: str, mood: Mood = "note") -> None:
        """Something that this screen says. Who comes and goes shares a row."""
        last = self._rows[-1] if self._rows else None
        if mood == "presence" and isinstance(last, NoteRow) and last.mood == mood:
            last.texts.append(text)
            return
        self._append(NoteRow([text], mood, int(ambient().wall_s() * 1000)))

    def renote(self, before: str, after: str) -> None:
        """Change what the last row says, if it is who comes and goes."""
        last = self._rows[-1] if self._rows else None
        if isinstance(last, NoteRow) and last.mood == "presence":
            last.texts = [after if text == before else text for text in last.texts]

    def set_pending(self, messages: Sequence[ChatMessage]) -> None:
        """One's own that are on their way, in their order."""
        known = {row.message.id: row for row in self._pending}
        self._pending = []
        before = self._rows[-1] if self._rows else None
        for message in messages:
            row = known.get(message.id) or MessageRow(message)
            row.message = message
            self._join(before, row)
            self._pending.append(row)
            before = row

    def mark_new(self, after: int) -> None:
        """Show what is new: what others have said behind an offset."""
        self.new_at = None
        for index in range(len(self._rows) - 1, -1, -1):
            row = self._rows[index]
            if not isinstance(row, MessageRow):
                continue
            if row.message.offset <= after:
                break
            if not row.message.mine:
                self.new_at = self.first + index

    def mark_last(self) -> None:
        """Show that the last message is new, and what comes behind it."""
        if self.new_at is None:
            self.new_at = self.first + len(self._rows) - 1

    # Within

    def _append(self, row: Row) -> None:
        self._join(self._rows[-1] if self._rows else None, row)
        self._rows.append(row)
        if len(self._rows) >= self._keep + PIECE:
            self._forget(len(self._rows) - self._keep)

    def _insert(self, row: MessageRow) -> None:
        """Where its offset says: what is behind it moves."""
        messages = [
            (each.message.offset, index)
            for index, each in enumerate(self._rows)
            if isinstance(each, MessageRow)
        ]
        at = messages[bisect_left(messages, (row.message.offset, 0))][1]
        self._rows.insert(at, row)
        for index in (at, at + 1):
            self._join(self._rows[index - 1] if index else None, self._rows[index])

    def _forget(self, count: int) -> None:
        for row in self._rows[:count]:
            if isinstance(row, MessageRow):
                del self._offsets[row.message.offset]
        del self._rows[:count]
        self.first += count
        self.complete = False
        self._join(None, self._rows[0])

    def _join(self, before: Row | None, row: Row) -> None:
        """Say above a row what sets it apart from the one before."""
        if isinstance(row, NoteRow):
            row.after = 0 if before is None else _time_of(before)
            return
        row.day = _day_above(before, row.message)
        row.follows = not row.day and _goes_on(before, row.message)


def _day_above(before: Row | None, message: ChatMessage) -> str:
    at = local_time(message.at)
    if at is None:
        return ""
    earlier = None if before is None else local_time(_time_of(before))
    if earlier is not None and earlier.date() >= at.date():
        return ""
    today = local_time(int(ambient().wall_s() * 1000))
    return day_text(at.date(), at.date() if today is None else today.date())


def _time_of(row: Row) -> int:
    """Of the last message there."""
    return row.message.at if isinstance(row, MessageRow) else row.after


def _goes_on(before: Row | None, message: ChatMessage) -> bool:
    if not isinstance(before, MessageRow):
        return False
    earlier = before.message
    if is_action(message) or is_action(earlier):
        return False
    return (
        earlier.user.id == message.user.id
        and earlier.user.name == message.user.name
        and 0 <= message.at - earlier.at < TOGETHER_MS
    )

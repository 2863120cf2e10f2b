"""What this side of a session has received. Its marks are explained in `ledger`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

import msgspec

from .frames import RANGES, Header, Position, breach
from .idle import NOTHING
from .ledger import ACK_SHARE, WINDOWS_BEHIND, Bounds

__all__ = ["Incoming", "Slot", "release_all"]


class Slot(msgspec.Struct, eq=False, gc=False):
    """A windowed message that was received: under which number, and who still holds it."""

    number: int
    size: int
    #: Its books: those of a session that is lost count no more.
    book: Any
    holders: int = 1
    taken: bool = False

    def release(self, *, taken: bool) -> None:
        """One holder less; `taken`: because the program took it, or did not want it."""
        self.holders -= 1
        if taken:
            self.taken = True
        if self.holders <= 0:
            self.book.consume(self)


def release_all(slots: Sequence[Slot]) -> None:
    """`release(taken=True)` of each."""
    book, count, size = slots[0].book, 0, 0
    for slot in slots:
        if slot.holders == 1 and slot.book is book:
            slot.holders = 0
            count += 1
            size += slot.size
        else:
            slot.release(taken=True)
    if count:
        book.consumed_more(count, size)


class Incoming:
    """The frames that the other side sends.

    `due` is called when an ack is wanted: soon (False) or at once (True).
    """

    __slots__ = (
        "_bytes",
        "_claimed",
        "_credit_bytes",
        "_credit_messages",
        "_dropped",
        "_due",
        "_is_ignored",
        "_listed",
        "_many_bytes",
        "_many_frame_bytes",
        "_many_frames",
        "_many_messages",
        "_messages",
        "_new_bytes",
        "_pending",
        "_settled",
        "_successor",
        "_told_bytes",
        "_told_messages",
        "_told_received",
        "_window",
        "received",
        "unacked",
    )

    def __init__(
        self,
        window: Bounds,
        held: Bounds,
        still_held: Bounds,
        replay: Bounds,
        due: Callable[[bool], None],
    ) -> None:
        self._window = window
        self._due = due
        #: Up to here all came.
        self.received = 0
        #: An ack is wanted.
        self.unacked = False
        # What the window counts, cumulative. What is `held` of it came before this
        # session; some of that may have been taken since the other side was told.
        self._messages = held.messages
        self._bytes = held.bytes
        self._credit_messages = held.messages - still_held.messages
        self._credit_bytes = held.bytes - still_held.bytes
        # Windowed messages in order, from the first that is not consumed.
        self._pending: deque[Slot] = NOTHING
        # Numbers that nobody took, as long as the other side may not know it: a heap.
        self._dropped: list[int] = []
        self._is_ignored = False
        self._settled = 0
        # Up to where headers have said `consumed`: on this link, and on any.
        self._listed = 0
        self._claimed = 0
        # What the last header said, and what makes the next one urgent.
        self._told_received = 0
        self._told_messages = 0
        self._told_bytes = 0
        self._new_bytes = 0
        self._many_messages = max(1, window.messages // ACK_SHARE)
        self._many_bytes = max(1, window.bytes // ACK_SHARE)
        self._many_frames = max(1, replay.messages // ACK_SHARE)
        self._many_frame_bytes = max(1, replay.bytes // ACK_SHARE)
        self._successor: Incoming | None = None

    @property
    def consumed(self) -> int:
        """Up to here all was taken, or dropped."""
        return self._pending[0].number - 1 if self._pending else self.received

    @property
    def held(self) -> Bounds:
        """What was received and not taken."""
        return Bounds(self._messages - self._credit_messages, self._bytes - self._credit_bytes)

    def announce(self) -> None:
        """The other side was told of more than is `held` now: that is to be said."""
        if self._credit_messages:
            self._want(False)

    # From the other side

    def begin(self, first: int, settled: int) -> int:
        """A batch begins: how many of its numbered frames are known already."""
        if not 0 < first <= self.received + 1:
            raise breach(f"the number {first} where {self.received + 1} was due")
        if settled != self._settled:
            self._confirm(settled)
        if self._is_ignored:
            raise breach("nothing that was acked is settled")
        return self.received + 1 - first

    def _confirm(self, settled: int) -> None:
        self.check_settled(settled)
        self._settled = settled
        self._is_ignored = False
        while self._dropped and self._dropped[0] <= settled:
            heappop(self._dropped)

    def message(self, size: int) -> Slot:
        """The next number is a windowed message. Raises the breach if there was no room."""
        messages = self._messages - self._credit_messages
        if messages and (
            messages >= self._window.messages
            or self._bytes - self._credit_bytes + size > self._window.bytes
        ):
            raise breach("more than the window lets through")
        if len(self._pending) >= WINDOWS_BEHIND * self._window.messages:
            raise breach(f"{WINDOWS_BEHIND} windows behind one message that nobody takes")
        self.received += 1
        self._messages += 1
        self._bytes += size
        self._new_bytes += size
        slot = Slot(self.received, size, self)
        if self._pending is NOTHING:
            self._pending = deque()
        self._pending.append(slot)
        return slot

    def messages(self, sizes: Sequence[int]) -> Iterable[Slot]:
        """`message` for each of these; only as far as they are iterated over."""
        if self._pending is NOTHING:
            self._pending = deque()
        total, pending = sum(sizes), self._pending
        most = min(
            self._window.messages - self._messages + self._credit_messages,
            WINDOWS_BEHIND * self._window.messages - len(pending),
        )
        if len(sizes) > most or total > self._window.bytes - self._bytes + self._credit_bytes:
            return map(self.message, sizes)
        slots = [Slot(number, size, self) for number, size in enumerate(sizes, self.received + 1)]
        pending.extend(slots)
        self.received += len(slots)
        self._messages += len(slots)
        self._bytes += total
        self._new_bytes += total
        return slots

    def note(self, size: int) -> None:
        """The next number is a note."""
        self.received += 1
        self._new_bytes += size

    def batch_over(self) -> None:
        """What a batch brought is to be acked."""
        if self.received != self._told_received:
            self._want(
                self.received - self._told_received >= self._many_frames
                or self._new_bytes >= self._many_frame_bytes
            )

    # From the program

    def consume(self, slot: Slot) -> None:
        """Nobody holds this one any more."""
        if not slot.taken:
            heappush(self._dropped, slot.number)
            # Who sent so much has our acks, and says so.
            self._is_ignored = len(self._dropped) > 2 * WINDOWS_BEHIND * self._window.messages
        self.consumed_more(1, slot.size)

    def consumed_more(self, count: int, size: int) -> None:
        """So many more, of `size` bytes in all, are held by nobody."""
        pending = self._pending
        while pending and pending[0].holders <= 0:
            pending.popleft()
        if not pending:
            self._pending = NOTHING
        book = self
        while book._successor is not None:
            book = book._successor
        if book is not self:
            self._successor = book
        book._add_credit(count, size)

    def _add_credit(self, count: int, size: int) -> None:
        self._credit_messages += count
        self._credit_bytes += size
        self._want(
            self._credit_messages - self._told_messages >= self._many_messages
            or self._credit_bytes - self._told_bytes >= self._many_bytes
        )

    def _want(self, urgent: bool) -> None:
        if urgent or not self.unacked:
            self.unacked = True
            self._due(urgent)

    def end(self) -> None:
        """The session is lost: nothing is acked any more."""
        self._due = _nothing
        # The collector does not look into slots: they and these books are a cycle.
        self._pending.clear()

    def succeed(self, successor: Incoming) -> None:
        """What is left here takes room of the window of a later session."""
        self._successor = successor

    # To the other side

    def header(self, first: int, settled: int) -> Header:
        """The header of a batch that goes out next; `said` when it does."""
        consumed, drops = self._list_drops()
        return Header(
            first,
            settled,
            self.received,
            consumed,
            self._credit_messages,
            self._credit_bytes,
            drops,
        )

    def last_header(self, first: int, settled: int) -> Header:
        """That of the last batch of all. One before it may never have been written, so
        it lists again all that the other side is not known to know of."""
        told, self._listed = self._listed, self._settled
        header = self.header(first, settled)
        self._listed = told
        # With too many ranges it would take back what was told.
        return header if header.consumed >= told else self.header(first, settled)

    def said(self, header: Header | Position) -> None:
        """The other side is being told."""
        self._told_received = header.received
        self._told_messages = header.messages
        self._told_bytes = header.bytes
        self._new_bytes = 0
        self._listed = header.consumed
        self._claimed = max(self._claimed, header.consumed)
        self.unacked = False
        if (
            header.received < self.received
            or header.consumed < self.consumed
            or header.messages < self._credit_messages
        ):
            # It came since the header was made, or there are more drops than that can list.
            self._want(len(header.drops) == RANGES)

    def position(self, settled: int) -> Position:
        """The same for the beginning of a link, with all that may not have arrived."""
        self._listed = self._settled
        header = self.header(0, settled)
        return Position(
            settled,
            header.received,
            header.consumed,
            header.messages,
            header.bytes,
            header.drops,
        )

    def check_settled(self, settled: int) -> None:
        """Raise the breach that it is if the other side cannot know of our acks up to there."""
        if not self._settled <= settled <= self._claimed:
            raise breach(f"{settled} settled, which was not acked")

    def resume(self, settled: int) -> None:
        """A link begins, and the other side knows of our acks up to `settled`."""
        self._confirm(settled)
        self._listed = settled

    def _list_drops(self) -> tuple[int, list[tuple[int, int]]]:
        """What to call consumed, and the ranges of it that were dropped."""
        consumed = self.consumed
        ranges: list[tuple[int, int]] = []
        for number in sorted(n for n in self._dropped if self._listed < n <= consumed):
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1] = ranges[-1][0], number
            elif len(ranges) == RANGES:
                return number - 1, ranges
            else:
                ranges.append((number, number))
        return consumed, ranges


def _nothing(urgent: bool) -> None:
    """A lost session acks nothing."""

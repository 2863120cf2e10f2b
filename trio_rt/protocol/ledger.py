"""The books of one session: what was sent and what was taken, by number.

Each direction has numbers of its own, 1, 2, 3 and so on, and three marks:

- *received*: up to here the other side has it, in its memory. Its copy here is
  no longer needed for a replay.
- *consumed*: up to here its program has taken it, which settles a send as
  `acked`. It is the low-water mark: one message that nobody takes holds it up.
- *credit*: how many messages, and bytes, were taken in all. It opens the window,
  so that what is not taken costs its own room and nobody else's.

What does not work. To ack what was received: then the window bounds nothing. To
open the window by the low-water mark: then one slow stream stops all. To number
a message anew when it is sent again: then the other side cannot tell that it has it.

Messages and requests are *windowed*. Notes (replies, parts, cancels, voids) are
not, or two sides with full windows would wait for each other; they have bounds
of their own, in `requests`.

`Outgoing` is the sender's side, `Incoming` the receiver's. A message committed
and then taken back stays under its number; if the other side turns out at a
resume not to have it, a `void` goes in its place.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any, Final

import msgspec

from ..message import ACKED, Outcome, dropped
from .frames import RANGES, Header, Position, breach
from .lanes import Entry

__all__ = ["ACK_S", "Bounds", "Incoming", "Note", "Outgoing", "Slot", "release_all"]

#: How long an ack may wait for a batch to travel with.
ACK_S: Final = 0.2

#: An ack goes at once when so much of the window, or of the other side's replay
#: memory, waits for it.
ACK_SHARE: Final = 4

#: A batch larger than this takes half of the window at most: while the other side
#: works on one, the next is made.
SMALL_BATCH: Final = 32

#: So many windows may be under way behind one message that nobody takes. All of
#: them are credited, and none settled: what is kept of them has to have a bound.
WINDOWS_BEHIND: Final = 16

_RECEIVER: Final = dropped("receiver")


class Bounds(msgspec.Struct, frozen=True):
    """Messages (or frames) and bytes."""

    messages: int
    bytes: int


class Note(Entry, eq=False, gc=False):
    """A numbered frame outside the window. It is none in the books of sends."""


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


class Outgoing:
    """The frames that this side sends."""

    def __init__(
        self,
        window: Bounds,
        held: Bounds,
        replay: Bounds,
        settle: Callable[[Entry, Outcome], None],
        settle_acked: Callable[[list[Entry]], None],
        void: bytes,
    ) -> None:
        self._window = window
        self._replay = replay
        self._batch_messages = max(SMALL_BATCH, window.messages // 2)
        self._settle = settle
        self._settle_acked = settle_acked
        self._void = void
        #: The last number given.
        self.sent = 0
        self.received = 0
        self.settled = 0
        # What the window counts, cumulative; what is held of it was never sent here.
        self._messages = held.messages
        self._bytes = held.bytes
        self._credit_messages = 0
        self._credit_bytes = 0
        # Numbers `received + 1` to `sent`; the last `_again` of them were not sent
        # on this link.
        self._unreceived: deque[Entry] = deque()
        self._unreceived_bytes = 0
        self._again = 0
        # Windowed ones that are not settled.
        self._unsettled: deque[Entry] = deque()

    @property
    def unsettled(self) -> int:
        return len(self._unsettled)

    @property
    def unreceived(self) -> int:
        return len(self._unreceived)

    @property
    def in_window(self) -> tuple[int, int]:
        """Messages and bytes in flight."""
        return self._messages - self._credit_messages, self._bytes - self._credit_bytes

    @property
    def next(self) -> int:
        """The number of the first frame of the next batch."""
        return self.sent - self._again + 1

    # Room

    def room(self) -> tuple[float, float]:
        """How many windowed messages, and bytes of them, may be committed to one batch now.

        With nothing in flight (`is_window_empty`) the first may be of any size.
        """
        messages, size = self.in_window
        most = min(
            self._window.messages - messages,
            self._replay.messages - len(self._unreceived),
            self._batch_messages,
        )
        if (
            most <= 0
            or self._again
            or self._unreceived_bytes >= self._replay.bytes
            or len(self._unsettled) >= WINDOWS_BEHIND * self._window.messages
        ):
            return 0, 0
        return most, self._window.bytes - size

    @property
    def is_window_empty(self) -> bool:
        """Whether nothing is in flight."""
        return self._messages == self._credit_messages

    def has_note_room(self) -> bool:
        """Whether a note may be committed now."""
        return (
            not self._again
            and len(self._unreceived) < self._replay.messages
            and self._unreceived_bytes < self._replay.bytes
        )

    # Commit

    def commit(self, entry: Entry) -> None:
        """Give `entry` its number."""
        self.sent = entry.number = self.sent + 1
        size = len(entry.data)
        self._unreceived.append(entry)
        self._unreceived_bytes += size
        if entry.__class__ is not Note:
            self._unsettled.append(entry)
            self._messages += 1
            self._bytes += size

    def commit_all(self, entries: Sequence[Entry], size: int) -> None:
        """`commit` for messages, one after the other, of `size` bytes in all."""
        for number, entry in enumerate(entries, self.sent + 1):
            entry.number = number
        self.sent += len(entries)
        self._unreceived.extend(entries)
        self._unreceived_bytes += size
        self._unsettled.extend(entries)
        self._messages += len(entries)
        self._bytes += size

    def roll_back(self, entry: Entry) -> bool:
        """Take the last number back: nothing of `entry` has left.

        False: it is not the last one any more; the session was lost meanwhile.
        """
        if not self._unreceived or self._unreceived[-1] is not entry:
            return False
        self.sent -= 1
        entry.number = 0
        self._unreceived.pop()
        self._unreceived_bytes -= len(entry.data)
        self._unsettled.pop()
        self._messages -= 1
        self._bytes -= len(entry.data)
        return True

    # A new link

    def check_position(self, position: Position) -> None:
        """Raise the breach that it is if the other side cannot stand there."""
        # It may not know how far we have settled, and list anew what we know.
        self._check(position, 0)
        _check_drops(position.drops, 0, position.consumed)

    def resume(self, position: Position) -> None:
        """The other side stands there; what it does not have is to be sent again."""
        self._take_in(position)
        self._again = len(self._unreceived)

    def replay(self, room_bytes: int, most: int, now: float) -> list[bytes]:
        """The next frames that go out again, with a `void` for what is not wanted any more."""
        frames: list[bytes] = []
        start = len(self._unreceived) - self._again
        unwanted: list[tuple[int, Entry]] = []
        for index, entry in enumerate(islice(self._unreceived, start, start + most), start):
            if entry.unwanted is None and entry.expires_at <= now:
                entry.unwanted = dropped("expired")
            data = entry.data if entry.unwanted is None else self._void
            if frames and len(data) > room_bytes:
                break
            room_bytes -= len(data)
            frames.append(data)
            if entry.unwanted is not None:
                unwanted.append((index, entry))
        self._again -= len(frames)
        for index, entry in unwanted:
            self._make_void(index, entry)
        return frames

    @property
    def replays(self) -> bool:
        """Whether something is still to be sent again."""
        return self._again > 0

    def _make_void(self, index: int, entry: Entry) -> None:
        self._unreceived[index] = Note(self._void, number=entry.number)
        size = len(entry.data)
        self._unreceived_bytes += len(self._void) - size
        if entry.__class__ is Note:
            return
        self._messages -= 1
        self._bytes -= size
        self._unsettled.remove(entry)
        assert entry.unwanted is not None
        self._settle(entry, entry.unwanted)

    # What the other side says

    def acknowledged(self, header: Header) -> bool:
        """Take in what a batch says of our frames. True: it changed something.

        Raises the breach that it is if it cannot be.
        """
        if (
            header.received == self.received
            and header.consumed == self.settled
            and header.messages == self._credit_messages
            and header.bytes == self._credit_bytes
            and not header.drops
        ):
            return False
        self._check(header, self.settled)
        _check_drops(header.drops, self.settled, header.consumed)
        self._take_in(header)
        return True

    def _check(self, said: Header | Position, settled: int) -> None:
        if said.received > self.sent - self._again:
            raise breach(f"an ack of {said.received}, which was not sent")
        if said.received < self.received or said.consumed < settled:
            raise breach("an ack behind an earlier one")
        if said.consumed > said.received:
            raise breach("more consumed than received")
        if said.messages > self._messages or said.bytes > self._bytes:
            raise breach("more credit than was sent")
        if said.messages < self._credit_messages or said.bytes < self._credit_bytes:
            raise breach("less credit than before")

    def _take_in(self, said: Header | Position) -> None:
        unreceived = self._unreceived
        freed = 0
        for _ in range(said.received - self.received):
            entry = unreceived.popleft()
            freed += len(entry.data)
            entry.data = b""  # what is left of it here is its outcome
        self._unreceived_bytes -= freed
        self.received = said.received
        self._credit_messages = said.messages
        self._credit_bytes = said.bytes
        if said.consumed > self.settled:
            self._settle_to(said.consumed, said.drops)

    def _settle_to(self, consumed: int, drops: Sequence[tuple[int, int]]) -> None:
        self.settled = consumed
        unsettled, settle = self._unsettled, self._settle
        if not drops:
            acked = []
            while unsettled and unsettled[0].number <= consumed:
                acked.append(unsettled.popleft())
            self._settle_acked(acked)
            return
        lost = iter(drops)
        first, last = next(lost, (math.inf, math.inf))
        while unsettled and unsettled[0].number <= consumed:
            entry = unsettled.popleft()
            while entry.number > last:
                first, last = next(lost, (math.inf, math.inf))
            settle(entry, ACKED if entry.number < first else _RECEIVER)

    # The end

    def drain(self) -> list[Entry]:
        """The session is lost: what nobody will ever know about."""
        unsettled = list(self._unsettled)
        self._unsettled.clear()
        self._unreceived.clear()
        self._unreceived_bytes = self._again = 0
        return unsettled

    def forget(self, which: Callable[[Entry], bool], outcome: Outcome) -> None:
        """What is committed, not received and `which` is not wanted any more."""
        for entry in self._unreceived:
            if entry.unwanted is None and which(entry):
                entry.unwanted = outcome


class Incoming:
    """The frames that the other side sends.

    `due` is called when an ack is wanted: soon (False) or at once (True).
    """

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
        self._pending: deque[Slot] = deque()
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
        self._pending.append(slot)
        return slot

    def messages(self, sizes: Sequence[int]) -> Iterable[Slot]:
        """`message` for each of these; only as far as they are iterated over."""
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


def _check_drops(drops: Sequence[tuple[int, int]], after: int, consumed: int) -> None:
    """Ranges within what is newly consumed, in order, apart from each other."""
    for first, last in drops:
        if not after < first <= last <= consumed:
            raise breach(f"a drop of {first} to {last}, which cannot be")
        after = last

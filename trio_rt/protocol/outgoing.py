"""What this side of a session has sent. Its marks are explained in `ledger`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from ..message import ACKED, Outcome, dropped
from .frames import Header, Position, breach
from .idle import NOTHING
from .lanes import Entry
from .ledger import WINDOWS_BEHIND, Bounds

__all__ = ["Note", "Outgoing"]

#: A batch larger than this takes half of the window at most: while the other side
#: works on one, the next is made.
SMALL_BATCH: Final = 32

_RECEIVER: Final = dropped("receiver")


class Note(Entry, eq=False, gc=False):
    """A numbered frame outside the window. It is none in the books of sends."""


class Outgoing:
    """The frames that this side sends."""

    __slots__ = (
        "_again",
        "_batch_messages",
        "_bytes",
        "_credit_bytes",
        "_credit_messages",
        "_messages",
        "_replay",
        "_settle",
        "_settle_acked",
        "_unreceived",
        "_unreceived_bytes",
        "_unsettled",
        "_void",
        "_window",
        "received",
        "sent",
        "settled",
    )

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
        self._unreceived: deque[Entry] = NOTHING
        self._unreceived_bytes = 0
        self._again = 0
        # Windowed ones that are not settled.
        self._unsettled: deque[Entry] = NOTHING

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
        if self._unreceived is NOTHING:
            self._unreceived = deque()
        self.sent = entry.number = self.sent + 1
        size = len(entry.data)
        self._unreceived.append(entry)
        self._unreceived_bytes += size
        if entry.__class__ is not Note:
            if self._unsettled is NOTHING:
                self._unsettled = deque()
            self._unsettled.append(entry)
            self._messages += 1
            self._bytes += size

    def commit_all(self, entries: Sequence[Entry], size: int) -> None:
        """`commit` for messages, one after the other, of `size` bytes in all."""
        if self._unreceived is NOTHING:
            self._unreceived = deque()
        if self._unsettled is NOTHING:
            self._unsettled = deque()
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
        _check_drops(position.drops, position.consumed)

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
        _check_drops(header.drops, header.consumed)
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
        popleft = self._unreceived.popleft
        freed = 0
        for _ in range(said.received - self.received):
            entry = popleft()
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
            # Their numbers have no gaps but for notes: no more than this many.
            most = min(consumed - unsettled[0].number + 1, len(unsettled)) if unsettled else 0
            if most > 0 and unsettled[most - 1].number == consumed:
                acked = [unsettled.popleft() for _ in range(most)]
            else:
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


def _check_drops(drops: Sequence[tuple[int, int]], consumed: int) -> None:
    """Ranges within what is consumed, in order, apart from each other.

    They may begin in what is settled: the last batch lists again what is not
    known to be known.
    """
    after = 0
    for first, last in drops:
        if not after < first <= last <= consumed:
            raise breach(f"a drop of {first} to {last}, which cannot be")
        after = last

"""What a node has for the store and the store has not confirmed: pure.

Three kinds, since each may be treated in its own way when a link is lost:

- *drafts* are sent in order, again after a loss, until they are answered or too old.
  Those to be passed on and not stored are lost with the link;
- *devices*: only the last word on each counts. It is sent until it is confirmed;
- *marks*: only the farthest of each user counts. The same.

A batch takes devices first, then marks, then drafts. There is one batch on its way at a
time; `settle` or `lost` ends it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from .._broker import BrokerError, Draft, Position, Present

__all__ = ["Batch", "Entry", "Queue"]

Done = Callable[[Position | BrokerError], None]


class Entry:
    """A draft on its way. Without `done` it is to be passed on, or has its outcome."""

    __slots__ = ("deadline", "done", "draft", "number", "over", "size", "stored")

    def __init__(
        self, draft: Draft, size: int, done: Done | None, deadline: float, number: int
    ) -> None:
        self.draft: Final = draft
        self.size: Final = size
        self.done = done
        self.stored: Final = done is not None
        self.deadline: Final = deadline
        #: As in `Queue.asked`.
        self.number: Final = number
        self.over = False


class Batch:
    """What goes at once. `devices` has None for one that is to leave."""

    def __init__(self) -> None:
        self.devices: dict[tuple[str, str], Present | None] = {}
        #: Those of them that leave as they wished.
        self.for_good: set[tuple[str, str]] = set()
        self.marks: dict[tuple[str, str], int] = {}
        self.entries: list[Entry] = []
        #: What was asked up to this number is in here, or confirmed.
        self.asked = 0

    def __len__(self) -> int:
        return len(self.devices) + len(self.marks) + len(self.entries)


class Queue:
    """`messages` and `total_bytes` bound the drafts that are not settled, and the marks."""

    def __init__(self, messages: float, total_bytes: float) -> None:
        self._most_messages: Final = messages
        self._most_bytes: Final = total_bytes
        self._waiting: deque[Entry] = deque()
        self._flight: Batch | None = None
        #: In the order of their deadlines.
        self._aging: deque[Entry] = deque()
        self.messages = 0
        self.total_bytes = 0
        #: Devices that are to be there, and those whose last word is not confirmed.
        self.present: dict[tuple[str, str], Present] = {}
        self._changed: dict[tuple[str, str], None] = {}
        self._for_good: set[tuple[str, str]] = set()
        #: Devices that the store may have.
        self._given: set[tuple[str, str]] = set()
        self._failed: dict[tuple[str, str], None] = {}
        self._marks: dict[tuple[str, str], int] = {}
        #: Marks that found no room.
        self.dropped_marks = 0
        #: All of it is numbered as it comes, to tell who waits for it.
        self.asked = 0
        self.confirmed = 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not (self._waiting or self._changed or self._marks)

    @property
    def deadline(self) -> float | None:
        """When the oldest draft is too old."""
        while self._aging and self._aging[0].over:
            self._aging.popleft()
        return self._aging[0].deadline if self._aging else None

    def put(self, draft: Draft, done: Done | None, deadline: float) -> bool:
        """False: there is no room."""
        size = len(draft.body) + len(draft.room) + 150
        if self.messages >= self._most_messages or self.total_bytes + size > self._most_bytes:
            return False
        self.asked += 1
        entry = Entry(draft, size, done, deadline, self.asked)
        self.messages += 1
        self.total_bytes += size
        self._waiting.append(entry)
        if done is not None:
            self._aging.append(entry)
        return True

    def enter(self, room: str, who: Present) -> None:
        self.present[room, who.device] = who
        self._changed[room, who.device] = None
        self._for_good.discard((room, who.device))
        self.asked += 1

    def leave(self, room: str, device: str, for_good: bool) -> None:
        key = (room, device)
        self.present.pop(key, None)
        self.asked += 1
        flying = self._flight is not None and key in self._flight.devices
        if key in self._given or flying:
            self._changed[key] = None
            if for_good:
                self._for_good.add(key)
        else:
            self._changed.pop(key, None)

    def retry(self) -> None:
        """Say again what was refused."""
        self._changed.update(self._failed)
        self._failed.clear()

    def enter_all(self) -> None:
        """The store has lost them: say it again."""
        self._changed.update(dict.fromkeys(self.present))
        self.asked += 1

    def mark(self, room: str, user: str, offset: int) -> None:
        key = (room, user)
        if key not in self._marks and len(self._marks) >= self._most_messages:
            self.dropped_marks += 1
            return
        self._marks[key] = max(offset, self._marks.get(key, 0))
        self.asked += 1

    def take(self, most: int, most_bytes: int) -> Batch:
        """The next batch, up to `most` of each kind. Ends with `settle` or `lost`."""
        assert self._flight is None
        batch = self._flight = Batch()
        for key in list(self._changed)[:most]:
            del self._changed[key]
            who = batch.devices[key] = self.present.get(key)
            if who is not None:
                self._given.add(key)
            elif key in self._for_good:
                batch.for_good.add(key)
        for key in list(self._marks)[:most]:
            batch.marks[key] = self._marks.pop(key)
        while self._waiting and len(batch.entries) < most and most_bytes > 0:
            entry = self._waiting.popleft()
            if not entry.over:
                batch.entries.append(entry)
                most_bytes -= entry.size
        if self._changed or self._marks:
            batch.asked = self.confirmed
        else:
            batch.asked = self._waiting[0].number - 1 if self._waiting else self.asked
        return batch

    @property
    def quiet(self) -> bool:
        """Whether nothing waits, or is on its way."""
        return self.empty and not self._flight

    def settle(
        self,
        batch: Batch,
        outcomes: Sequence[Position | BrokerError | None],
        failed: Sequence[tuple[str, str]] = (),
    ) -> None:
        """One outcome for each of its entries; None for one that was passed on.

        `failed` are devices that the store has refused; `retry` tries them again.
        """
        self._flight = None
        self._failed.update(dict.fromkeys(failed))
        for key, who in batch.devices.items():
            if who is None and key not in self.present and key not in self._failed:
                self._given.discard(key)
                self._for_good.discard(key)
        self.confirmed = max(self.confirmed, batch.asked)
        for entry, outcome in zip(batch.entries, outcomes, strict=True):
            self._end(entry, outcome)

    def lost(self, batch: Batch | None) -> None:
        """A link was lost, with a batch on it or none: what can be sent again waits again."""
        if batch is not None:
            self._flight = None
            self._changed = dict.fromkeys(batch.devices) | self._changed
            for key, offset in batch.marks.items():
                self._marks[key] = max(offset, self._marks.get(key, 0))
            self._waiting.extendleft(reversed(batch.entries))
        for entry in self._waiting:
            if not entry.stored:
                self._end(entry, None)
        self._waiting = deque(entry for entry in self._waiting if not entry.over)

    def expire(self, now: float) -> None:
        """Drafts that are too old come to nothing, as far as is known."""
        while self._aging and (self._aging[0].over or self._aging[0].deadline <= now):
            self._end(self._aging.popleft(), BrokerError("the store could not be reached in time"))
        while self._waiting and self._waiting[0].over:
            self._waiting.popleft()

    def refuse(self, error: BrokerError) -> None:
        """All drafts come to nothing."""
        for entry in list(self._waiting):
            self._end(entry, error)
        self._waiting.clear()

    def close(self, error: BrokerError) -> None:
        """All is over, and forgotten."""
        flight, self._flight = self._flight, None
        for entry in [*(flight.entries if flight else ()), *self._waiting]:
            self._end(entry, error)
        for each in (self._waiting, self._aging, self.present, self._changed, self._given):
            each.clear()
        self._failed.clear()
        self._for_good.clear()
        self._marks.clear()
        self.confirmed = self.asked

    def statistics(self) -> dict[str, Any]:
        return {
            "waiting": self.messages,
            "waiting_bytes": self.total_bytes,
            "dropped_marks": self.dropped_marks,
        }

    def _end(self, entry: Entry, outcome: Position | BrokerError | None) -> None:
        if entry.over:
            return
        entry.over = True
        self.messages -= 1
        self.total_bytes -= entry.size
        done, entry.done = entry.done, None
        if done is not None and outcome is not None:
            done(outcome)

"""What one stream has not taken yet, and what it loses when it is full.

Loss is an item, in its place: a `Gap` where messages of this stream were, a
`Reset` where nobody knows. Marks must be bounded too, since a full stream may
lose a million messages; so they merge: two gaps add up, and a `Reset` swallows
the marks right before it. What is left between two messages is at most one
`Reset` and then one `Gap`, whatever happens: dropping a message brings the
marks on its two sides together, and they merge again.

Whatever a queue does for one message takes a constant time. Every item is in
a cell of its own, so that a conflating queue can change one in its middle.

The remaining hole: bounds are in encoded bytes, while payloads lie here
decoded, which takes several times as much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable
from typing import Any, Final

import msgspec

from ..errors import DecodeError, OptionError, StreamOverflow
from ..message import Gap, Item, Malformed, Message, Reset
from ..options import Conflate, OnFull
from .idle import NOTHING
from .incoming import Slot, release_all

__all__ = ["Queue", "make_queue"]

Reader = Callable[[Any], Any]

#: Stands for the size of a mark, which takes no room.
_MARK: Final = -1


class _Cell(msgspec.Struct, eq=False, gc=False):
    """An item, its size in bytes or `_MARK`, its slot in a session's books, and its
    key in a conflating queue.

    A struct that the collector does not look at: there are as many as messages.
    """

    item: Any
    size: int
    slot: Slot | None = None
    key: Hashable = None


class Queue:
    """Full, it loses the newest."""

    __slots__ = (
        "_cells",
        "_room_bytes",
        "capacity",
        "closed",
        "delivered",
        "ended",
        "failure",
        "had_turn",
        "lost",
        "messages",
        "reader",
        "refill",
        "total_bytes",
        "types",
        "wake",
    )

    def __init__(
        self,
        types: Collection[str] | None,
        reader: Reader,
        capacity: float,
        room_bytes: float,
    ) -> None:
        self.types = types
        self.reader = reader
        self.capacity = capacity
        #: Called once, when something lands or nothing more will; then it is
        #: None again. A consumer that waits sets it.
        self.wake: Callable[[], None] | None = None
        #: Called before anything is taken, while the inbox holds things back.
        self.refill: Callable[[], None] | None = None
        #: Its holder has closed it: it is empty, and stays so.
        self.closed = False
        #: Nothing more will land; what is here can still be taken.
        self.ended = False
        #: Why it ended, where that was its own overflow.
        self.failure: StreamOverflow | None = None
        #: It was full, its consumer was given a turn, and took nothing.
        self.had_turn = False
        self.messages = 0
        self.total_bytes = 0
        self.delivered = 0
        self.lost = 0
        self._room_bytes = room_bytes
        self._cells: deque[_Cell] = NOTHING

    def __len__(self) -> int:
        """Items that can be taken, marks included."""
        return len(self._cells)

    # By the consumer

    def take(self) -> Item | Malformed | None:
        """The next item, or None if there is none now."""
        if self.refill is not None:
            self.refill()
        if not self._cells:
            self._cells = NOTHING
            return None
        self.had_turn = False
        item: Item | Malformed = self._shift()
        return item

    def take_many(self, limit: int) -> list[Item | Malformed]:
        """The next items, at most `limit`; none if there are none now."""
        if self.refill is not None:
            self.refill()
        self.had_turn = False
        if not self._cells:
            self._cells = NOTHING
            return []
        return self._shift_many(min(limit, len(self._cells)))

    # By the inbox

    def is_full(self, size: int, slot: Slot | None) -> bool:
        """Whether a message of `size` bytes has no room. Where there is none yet, it has."""
        messages = self.messages
        return messages >= self.capacity or (
            messages > 0 and self.total_bytes + size > self._room_bytes
        )

    def make_room(self, size: int, *, held: bool = False) -> bool:
        """Lose something, being full. False: that was the newcomer.

        `held` messages are bounded already, and taken beyond the capacity.
        """
        if held:
            return True
        self.put_gap(1)
        self.lost += 1
        return False

    def put(self, item: Any, size: int, slot: Slot | None) -> None:
        """Append a message. Raises `DecodeError` where its key cannot be found.

        In a session its `slot` is released when it has left, and how.
        """
        if self._cells is NOTHING:
            self._cells = deque()
        self._cells.append(_Cell(item, size, slot))
        self.messages += 1
        self.total_bytes += size
        self.delivered += 1
        if self.wake is not None:
            self._notify()

    def put_gap(self, count: int) -> None:
        cells = self._cells
        if cells and type(cells[-1].item) is Gap:
            count += cells.pop().item.count
        self._put_mark(Gap(count))

    def put_reset(self, reset: Reset) -> None:
        cells = self._cells
        while cells and cells[-1].size == _MARK:
            cells.pop()
        self._put_mark(reset)

    def drain(self) -> list[tuple[Any, int, Slot | None]]:
        """All items, with their sizes and slots, which are not released; then it is empty."""
        items = [(cell.item, cell.size, cell.slot) for cell in self._cells]
        self._clear()
        return items

    def end(self, failure: StreamOverflow | None = None) -> None:
        """Nothing more will come."""
        self.ended = True
        self.failure = failure
        self._notify()

    def close(self) -> None:
        self.closed = True
        self.refill = None
        slots = [cell.slot for cell in self._cells if cell.slot is not None]
        self._clear()
        for slot in slots:
            slot.release(taken=True)
        self._notify()

    # Within

    def _put_mark(self, mark: Gap | Reset) -> None:
        if self._cells is NOTHING:
            self._cells = deque()
        self._cells.append(_Cell(mark, _MARK))
        self._notify()

    def _append(self, cell: _Cell) -> None:
        if self._cells is NOTHING:
            self._cells = deque()
        self._cells.append(cell)
        self.messages += 1
        self.total_bytes += cell.size
        self.delivered += 1
        if self.wake is not None:
            self._notify()

    def _notify(self) -> None:
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def _clear(self) -> None:
        self._cells.clear()
        self.messages = self.total_bytes = 0

    def _shift(self, *, taken: bool = True) -> Any:
        cell = self._cells.popleft()
        size = cell.size
        if size != _MARK:
            self.messages -= 1
            self.total_bytes -= size
            if cell.slot is not None:
                cell.slot.release(taken=taken)
        return cell.item

    def _shift_many(self, count: int) -> list[Any]:
        cells = self._cells
        taken = [cells.popleft() for _ in range(count)]
        sizes = [cell.size for cell in taken if cell.size != _MARK]
        self.messages -= len(sizes)
        self.total_bytes -= sum(sizes)
        slots = [cell.slot for cell in taken if cell.slot is not None]
        if slots:
            release_all(slots)
        return [cell.item for cell in taken]

    def _drop_oldest(self) -> None:
        reset, gap = self._shift_marks()
        self._shift(taken=False)
        self.lost += 1
        self._unshift_marks(reset, gap + 1)

    def _shift_marks(self) -> tuple[Reset | None, int]:
        """Take the marks off the head."""
        reset, gap = None, 0
        cells = self._cells
        while cells and cells[0].size == _MARK:
            mark = cells.popleft().item
            if type(mark) is Gap:
                gap = mark.count
            else:
                reset = mark
        return reset, gap

    def _unshift_marks(self, reset: Reset | None, gap: int) -> None:
        """Put marks to the head, before those that are there."""
        later, more = self._shift_marks()
        if later is not None:
            reset, gap = later, more
        else:
            gap += more
        if gap:
            self._cells.appendleft(_Cell(Gap(gap), _MARK))
        if reset is not None:
            self._cells.appendleft(_Cell(reset, _MARK))


class Pauses(Queue):
    """Never full in a session, whose window holds the sender back; else it loses the newest."""

    __slots__ = ()

    def is_full(self, size: int, slot: Slot | None) -> bool:
        return slot is None and super().is_full(size, None)


class OldestGoes(Queue):
    """Full, it loses the oldest."""

    __slots__ = ()

    def make_room(self, size: int, *, held: bool = False) -> bool:
        while self.is_full(size, None):
            self._drop_oldest()
        return True


class Fails(Queue):
    """Full, it ends."""

    __slots__ = ()

    def make_room(self, size: int, *, held: bool = False) -> bool:
        if held:
            return True
        self.lost += 1
        self.end(StreamOverflow(f"{self.messages} messages waited, and one more came"))
        return False


class Conflating(OldestGoes):
    """A message takes the place of the waiting one of the same key.

    Not across a `Reset`: the newer one would come to lie before it.
    """

    __slots__ = ("_by_key", "_key")

    def __init__(
        self,
        types: Collection[str] | None,
        reader: Reader,
        capacity: float,
        room_bytes: float,
        key: Callable[[Message[Any]], Hashable],
    ) -> None:
        super().__init__(types, reader, capacity, room_bytes)
        self._key = key
        self._by_key: dict[Hashable, _Cell] = {}

    def make_room(self, size: int, *, held: bool = False) -> bool:
        """Whether any is needed, the key tells: see `put`."""
        return True

    def put(self, item: Any, size: int, slot: Slot | None) -> None:
        try:
            key = self._key(item)
            old = self._by_key.get(key)
        except Exception as error:
            rule = f"cannot be found ({type(error).__name__}: {error})"
            raise DecodeError("the key to conflate by", rule, item) from error
        if old is not None:
            self._replace(old, item, size, slot)
            return
        super().make_room(size)
        cell = _Cell(item, size, slot, key)
        self._by_key[key] = cell
        self._append(cell)

    def _replace(self, cell: _Cell, item: Any, size: int, slot: Slot | None) -> None:
        if cell.slot is not None:
            cell.slot.release(taken=False)
        self.total_bytes += size - cell.size
        cell.item, cell.size, cell.slot = item, size, slot
        self.delivered += 1
        while self.total_bytes > self._room_bytes and self.messages > 1:
            self._drop_oldest_but(cell)

    def _drop_oldest_but(self, cell: _Cell) -> None:
        """The newcomer is bigger than what it replaced: others go, not itself."""
        marks = self._shift_marks()
        if self._cells[0] is cell:
            self._cells.popleft()
            self._drop_oldest()
            self._cells.appendleft(cell)
        else:
            self._drop_oldest()
        self._unshift_marks(*marks)

    def put_reset(self, reset: Reset) -> None:
        self._by_key.clear()
        super().put_reset(reset)

    def _clear(self) -> None:
        self._by_key.clear()
        super()._clear()

    def _shift_many(self, count: int) -> list[Any]:
        return [self._shift() for _ in range(count)]

    def _shift(self, *, taken: bool = True) -> Any:
        cell = self._cells[0]
        if cell.size != _MARK and self._by_key.get(cell.key) is cell:
            del self._by_key[cell.key]
        return super()._shift(taken=taken)


def _type_and_key(message: Message[Any]) -> Hashable:
    return message.type, message.key


_KINDS: Final[dict[str, type[Queue]]] = {
    "pause": Pauses,
    "drop_newest": Queue,
    "drop_oldest": OldestGoes,
    "fail": Fails,
}


def make_queue(
    types: Collection[str] | None,
    reader: Reader,
    capacity: float,
    room_bytes: float,
    on_full: OnFull,
) -> Queue:
    """The queue that behaves so when it is full. Raises `OptionError`."""
    if isinstance(on_full, Conflate):
        return Conflating(types, reader, capacity, room_bytes, on_full.key or _type_and_key)
    if not isinstance(on_full, str) or on_full not in _KINDS:
        raise OptionError("on_full", f"must be one of {', '.join(_KINDS)}, or Conflate()", on_full)
    return _KINDS[on_full](types, reader, capacity, room_bytes)

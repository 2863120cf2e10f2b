"""A plain link's books: what was handed to the wire, and what the kernel took of it.

Messages carry no numbers here. *Committed* means handed to the wire; the kernel
taking a message's last byte settles it as `written`, and a link that dies before
that leaves it `indeterminate`: it is not sent again, since it may have arrived.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from ..message import INDETERMINATE, WRITTEN, Outcome
from .incoming import Slot
from .lanes import BATCH_BYTES, Entry

__all__ = ["Arrival", "Heartbeat", "PlainLink", "size_bytes"]

#: A message as it came, its size in bytes, and its slot in a session.
Arrival: TypeAlias = tuple[str | bytes, int, Slot | None]


def size_bytes(data: str | bytes) -> int:
    """What `data` takes on the wire, in bytes: characters are not bytes."""
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode())


class Heartbeat(Entry, eq=False, gc=False):
    """A heartbeat message: it travels as a send does, but is none in the books."""


class Books(Protocol):
    """Who is told of outcomes."""

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """Settle `entry`, and count it."""

    def count_written(self, count: int) -> None:
        """So many are settled as `written`; count them."""


class PlainLink:
    """The un-numbered link of the moment, or its absence."""

    __slots__ = ("_beat", "_books", "_flight", "_written")

    #: Whether the first message of a batch may be of any size.
    takes_any: Final = True

    def __init__(self, books: Books) -> None:
        self._books = books
        self._flight: list[Entry] = []
        self._written = 0
        self._beat: Heartbeat | None = None

    @property
    def unsettled(self) -> int:
        """Sends that were committed and have no outcome."""
        return sum(type(entry) is not Heartbeat for entry in self._flight)

    # Out

    def room(self) -> tuple[float, float]:
        """How many messages, and bytes, may be committed now."""
        return math.inf, math.inf

    def may_go(self, entry: Entry) -> bool:
        """Whether `entry` may be committed at once."""
        return not self._flight and not entry.needs_session

    def try_commit(self, entry: Entry) -> Entry:
        """Commit one message: what the wire is to send. Then `confirm` or `undo`."""
        return entry

    def confirm(self, entry: Entry, written: int, now: float) -> None:
        """It went to the wire; `written` is the wire's count since."""
        self._flight.append(entry)
        self.written(written)

    def undo(self, entry: Entry) -> bool:
        """It did not. False: it has its outcome all the same."""
        return True

    def outside(self, entry: Entry) -> Entry:
        """A message of nobody's books, as the wire is to send it."""
        return entry

    def aside(self, entry: Heartbeat) -> None:
        """Send a heartbeat before anything else; one at a time waits."""
        if self._beat is None:
            self._beat = entry

    def prepare(self, now: float) -> int:
        """Begin a batch: the bytes left for messages."""
        return BATCH_BYTES

    def finish(self, entries: Sequence[Entry], now: float) -> Sequence[Entry]:
        """The batch, with these messages in it: what the wire is to send."""
        batch = entries
        if self._beat is not None:
            batch, self._beat = [self._beat, *entries], None
        self._flight.extend(batch)
        return batch

    def ready_at(self, now: float) -> float:
        """When there is something of its own to send."""
        return math.inf if self._beat is None else -math.inf

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight, and no heartbeat waits."""
        return not self._flight and self._beat is None

    # From the network

    def link_up(self, written: int, now: float) -> None:
        self._written = written

    def link_down(self) -> None:
        self._beat = None
        flight, self._flight = self._flight, []
        for entry in flight:
            self._books.settle(entry, INDETERMINATE)

    def written(self, count: int) -> None:
        """The kernel has taken `count` messages of this link wholly."""
        new = count - self._written
        if not new:
            return
        taken = self._flight[:new]
        sends = len(taken)
        for entry in taken:
            entry.settle(WRITTEN)
            if type(entry) is Heartbeat:
                sends -= 1
        del self._flight[:new]
        self._written = count
        if sends:
            self._books.count_written(sends)

    def receive(self, batch: Sequence[str | bytes], now: float, arrived: deque[Arrival]) -> None:
        """Append what one read brought."""
        for data in batch:
            size = len(data) if data.__class__ is bytes or data.isascii() else size_bytes(data)
            arrived.append((data, size, None))

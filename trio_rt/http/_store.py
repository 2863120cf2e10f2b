"""Where a cache keeps what it stored: the protocol of stores, and the one in memory.

A key is a URL. Under it are the entries of its variants (`Vary`), each immutable.
Only reading may wait: `put` and `delete` count at once for every later `get`,
whatever a store still has to write. So nothing is half stored when a caller is
cancelled, and no reader of a body waits for a disk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Final, Generic, Protocol, TypeVar

import attrs
import trio

from ..errors import OptionError
from ._freshness import Entry
from ._layer import Crew

__all__ = ["MemoryStore", "Recent", "Store", "StoreStatistics", "check_sizes", "size_bytes"]

K = TypeVar("K", bound=Hashable)

#: What an entry weighs beside its body and headers: objects, key, place in the order.
_OVERHEAD_BYTES: Final = 1024

#: Of one URL so many variants are kept, the latest: a `Vary: User-Agent` or
#: `Vary: Cookie` has no natural end, and each is looked at in turn.
MOST_VARIANTS: Final = 16

MOST_RECENT: Final = 1024


class Recent(Generic[K]):
    """A number for each of the last 1024 keys; 0.0 for all others."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[K, float] = OrderedDict()

    def __setitem__(self, key: K, number: float) -> None:
        self._numbers[key] = number
        self._numbers.move_to_end(key)
        if len(self._numbers) > MOST_RECENT:
            self._numbers.popitem(last=False)

    def __getitem__(self, key: K) -> float:
        return self._numbers.get(key, 0.0)


@attrs.frozen(kw_only=True)
class StoreStatistics:
    """`bytes` is what the bound counts. `errors` is how often the store failed."""

    entries: int
    bytes: int
    errors: int


class Store(Protocol):
    """A place for entries. Its failures are its own: they are counted, and read as "not there"."""

    @property
    def max_body_bytes(self) -> int:
        """Larger bodies are not given to it."""

    def opened(self, crew: Crew) -> None:
        """Begin. It may start tasks, which are cancelled after `closing`."""

    async def closing(self) -> None:
        """End, in bounded time; what was put is kept if it can be."""

    def peek(self, key: str) -> Sequence[Entry] | None:
        """The entries under `key`, the latest first; None: that takes a `get`."""

    async def get(self, key: str) -> Sequence[Entry]:
        """The entries under `key`, the latest first. A cancellation leaves nothing behind."""

    def put(self, key: str, entry: Entry) -> None:
        """Keep `entry`, in place of one of the same variant."""

    def delete(self, key: str) -> None:
        """Forget all entries under `key`."""

    def statistics(self) -> StoreStatistics: ...


def size_bytes(key: str, entry: Entry) -> int:
    headers = sum(map(len, chain.from_iterable(entry.headers)))
    return _OVERHEAD_BYTES + len(key) + len(entry.body) + headers


def check_sizes(max_bytes: int, max_body_bytes: int) -> None:
    for field, value in (("max_bytes", max_bytes), ("max_body_bytes", max_body_bytes)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise OptionError(field, "must be a whole number from 1", value)
    if max_body_bytes > max_bytes:
        raise OptionError("max_body_bytes", "must not be above max_bytes", max_body_bytes)


class MemoryStore:
    """Keeps entries in memory, at most `max_bytes` of them: the URLs used last.

    It keeps them when its client is closed, for the next one that is given it. Not
    for two threads.
    """

    def __init__(self, max_bytes: int = 32 << 20, max_body_bytes: int = 4 << 20) -> None:
        check_sizes(max_bytes, max_body_bytes)
        self.max_bytes = max_bytes
        self.max_body_bytes = max_body_bytes
        self._entries: OrderedDict[str, tuple[Entry, ...]] = OrderedDict()
        self._count = 0
        self._bytes = 0

    def opened(self, crew: Crew) -> None:
        """Nothing to open."""

    async def closing(self) -> None:
        """Nothing to close."""

    def peek(self, key: str) -> Sequence[Entry]:
        entries = self._entries.get(key)
        if entries is None:
            return ()
        self._entries.move_to_end(key)
        return entries

    async def get(self, key: str) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        return self.peek(key)

    def put(self, key: str, entry: Entry) -> None:
        old = self._entries.get(key)
        if old is None:
            self._count += 1
            self._bytes += size_bytes(key, entry)
            self._entries[key] = (entry,)
        else:
            others = [other for other in old if other.variant != entry.variant]
            new = (entry, *others[: MOST_VARIANTS - 1])
            self.delete(key)
            self._count += len(new)
            self._bytes += self._weight(key, new)
            self._entries[key] = new
        while self._bytes > self.max_bytes:
            self.delete(next(iter(self._entries)))

    def delete(self, key: str) -> None:
        entries = self._entries.pop(key, ())
        self._count -= len(entries)
        self._bytes -= self._weight(key, entries)

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(entries=self._count, bytes=self._bytes, errors=0)

    def _weight(self, key: str, entries: tuple[Entry, ...]) -> int:
        return sum([size_bytes(key, entry) for entry in entries])

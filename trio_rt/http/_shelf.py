"""A store, and what happened to it while others were under way.

A fetch takes time, and so may a look into a slow store. `turn` counts what changes
the store. With the turn it began at, a fetch can tell that its URL was changed by a
POST meanwhile (what it brings is old), and a look that the answer arrived meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from ._freshness import Entry
from ._store import Recent, Store

__all__ = ["Shelf", "key_of"]


def key_of(url: httpx.URL) -> str:
    """What a response is stored under: the URL without fragment, user and password."""
    key = str(url)
    if "@" in key:
        key = str(url.copy_with(username=None, password=None))
    return key.partition("#")[0] if "#" in key else key


class Shelf:
    """What `store` raises is counted, and reads as "not there"."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.turn = 0
        self.stored = 0
        self.errors = 0
        #: How many looks are under way: only those need `_kept_at`.
        self._looking = 0
        self._kept_at: Recent[str] = Recent()
        self._forgotten_at: Recent[str] = Recent()

    def peek(self, key: str) -> Sequence[Entry] | None:
        """What is there, where that can be told at once."""
        try:
            return self.store.peek(key)
        except Exception:
            self.errors += 1
            return ()

    async def entries(self, key: str) -> Sequence[Entry]:
        turn = self.turn
        self._looking += 1
        try:
            entries = await self.store.get(key)
        except Exception:
            self.errors += 1
            return ()
        finally:
            self._looking -= 1
        if self.turn != turn and self._kept_at[key] > turn:
            return await self.entries(key)
        return entries

    def keep(self, key: str, entry: Entry, since: int) -> bool:
        """Store what was asked for at turn `since`. False: it was forgotten after that."""
        if self.turn != since and self._forgotten_at[key] > since:
            return False
        self.turn += 1
        if self._looking:
            self._kept_at[key] = self.turn
        self.stored += 1
        try:
            self.store.put(key, entry)
        except Exception:
            self.errors += 1
        return True

    def forget(self, key: str) -> None:
        """Drop what is stored under `key`, and what was asked for before now."""
        self.turn += 1
        self._forgotten_at[key] = self.turn
        try:
            self.store.delete(key)
        except Exception:
            self.errors += 1

    def forget_beside(self, url: httpx.URL, where: str) -> None:
        """Drop what is at `where`, seen from `url`, if that is the same origin."""
        try:
            other = url.join(where)
        except Exception:  # InvalidURL, of whichever backend
            return
        if (other.scheme, other.netloc) == (url.scheme, url.netloc):
            self.forget(key_of(other))

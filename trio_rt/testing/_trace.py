"""What happened in a virtual network, and a hash of it."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

import trio

__all__ = ["Trace"]

#: Events kept for looking at. The hash is over all of them.
KEPT_EVENTS: Final = 100_000


class Trace:
    """A list of (time, event), of which the last 100,000 are kept."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, str]] = deque(maxlen=KEPT_EVENTS)
        self._hash = hashlib.blake2b(digest_size=16)

    def note(self, event: str) -> None:
        now = trio.current_time()
        self._events.append((now, event))
        self._hash.update(f"{now!r} {event}\n".encode())

    def events(self) -> list[tuple[float, str]]:
        return list(self._events)

    def digest(self) -> str:
        return self._hash.hexdigest()

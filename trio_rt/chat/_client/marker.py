"""How far one has read, as it is told to the service: never backwards, and not for each message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

__all__ = ["Marker"]


class Marker:
    """Of one room. `tell` tells the service, and returns when that has it."""

    def __init__(self, tell: Callable[[int], Awaitable[None]]) -> None:
        self._tell: Final = tell
        self._turn: Final = trio.Lock()
        # Of those who wait, one each.
        self._wanted: Final[list[int]] = []
        self._told = 0

    def forget(self) -> None:
        """The log began anew."""
        self._told = 0

    async def mark(self, offset: int) -> None:
        """Read up to `offset`. Those who come while one is told are told as one, the furthest.

        Raises as `tell`. Cancelled: it may be told.
        """
        await trio.lowlevel.checkpoint()
        self._wanted.append(offset)
        try:
            async with self._turn:
                furthest = max(self._wanted)
                if offset > self._told:
                    await self._tell(furthest)
                    self._told = furthest
        finally:
            self._wanted.remove(offset)

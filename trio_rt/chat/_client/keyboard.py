"""What others are told of this device's typing: when a word is due.

A word says "on" at once, and again every 3 s while it goes on, so that who came later or
lost one knows; there is no more than one in 3 s. Then one word says "off". Words pass: one
that cannot leave now is dropped, since it would not be true later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

__all__ = ["IDLE_S", "REPEAT_S", "Keyboard"]

#: Seconds between two words "on".
REPEAT_S: Final = 3.0
#: Seconds after the last keystroke when the typing is over.
IDLE_S: Final = 6.0


class Keyboard:
    """That of one device in one room. Times are of one clock, in seconds."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self._tell: Final = tell
        # Blocks of the program that say so as long as they last.
        self._blocks: set[object] = set()
        self._idle_at = -math.inf
        self._free_at = -math.inf
        self._told = False

    def press(self, now: float) -> None:
        """A key."""
        self._idle_at = now + IDLE_S
        self.look(now)

    def hold(self, block: object, now: float) -> None:
        """Typing goes on until `block` is released."""
        self._blocks.add(block)
        self.look(now)

    def release(self, block: object, now: float) -> None:
        """Idempotent."""
        self._blocks.discard(block)
        self.look(now)

    def stop(self, now: float) -> None:
        """It is over, whoever holds it."""
        self._blocks.clear()
        self._idle_at = -math.inf
        self.look(now)

    def look(self, now: float) -> float:
        """Say what is due. When to look again: `math.inf` for not before something happens."""
        is_typing = bool(self._blocks) or now < self._idle_at
        if is_typing and now >= self._free_at:
            self._free_at, self._told = now + REPEAT_S, True
            self._tell(True)
        elif self._told and not is_typing:
            self._told = False
            self._tell(False)
        if not is_typing:
            return math.inf
        return self._free_at if self._blocks else min(self._free_at, self._idle_at)

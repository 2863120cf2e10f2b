"""What a seed does to the bytes of one direction, however they are read."""

from __future__ import annotations

import math
import random
from typing import Final

__all__ = ["Mangler"]


class Mangler:
    """Draws flips and cuts for each place in the stream, not for each chunk of it.

    The kernel decides what one read brings, and would else have a say in what
    the seed means.
    """

    def __init__(self, seed: str) -> None:
        self._flips: Final = random.Random(f"{seed} flips")
        self._cuts: Final = random.Random(f"{seed} cuts")
        #: Bytes to the next cut, 0 if it is to be drawn.
        self._left = 0

    def flip(self, data: bytes, share: float) -> bytes:
        """The next bytes of the stream, with one bit flipped in this share of them."""
        if share == 0:
            return data
        flips = self._flips
        return bytes(
            byte ^ (1 << flips.randrange(8)) if flips.random() < share else byte for byte in data
        )

    def cut(self, size: int, most: float) -> int:
        """How many of the next `size` bytes one write has: at most `most`, and up to a cut."""
        if most == math.inf:
            self._left = 0
            return size
        if not 0 < self._left <= most:
            self._left = self._cuts.randint(1, int(most))
        size = min(size, self._left)
        self._left -= size
        return size

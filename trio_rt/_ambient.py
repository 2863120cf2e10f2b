"""The world outside the program: the wall clock and randomness.

Everything in trio_rt that needs the time of day or a random number takes it
from here, and only `trio_rt.testing` replaces them (monotonic time is trio's
own clock). Users' programs in the virtual network are deterministic for it.
"""

from __future__ import annotations

import random
import time

__all__ = ["Ambient", "ambient"]


class Ambient:
    """`wall_s()` is seconds since the epoch; `random` draws everything random."""

    def __init__(self) -> None:
        self.random: random.Random = random.SystemRandom()

    wall_s = staticmethod(time.time)


class _Current:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = Ambient()


_current = _Current()


def ambient() -> Ambient:
    """The one in force."""
    return _current.value


def replace_ambient(new: Ambient) -> Ambient:
    """Put `new` in force and return the old one. For `trio_rt.testing` alone."""
    old, _current.value = _current.value, new
    return old

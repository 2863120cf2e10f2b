"""The world outside: wall clock and randomness."""

from __future__ import annotations

import random
import time

from trio_rt._ambient import Ambient, ambient, replace_ambient


class Other(Ambient):
    def wall_s(self) -> float:
        return 1.0


def test_default() -> None:
    """By default it is the system's clock and the system's randomness."""
    world = ambient()
    assert type(world) is Ambient
    assert isinstance(world.random, random.SystemRandom)
    before = time.time()
    assert before <= world.wall_s() <= time.time()


def test_replace() -> None:
    """What is put in force is in force at once, and the old one is given back."""
    other = Other()
    old = replace_ambient(other)
    try:
        assert ambient() is other
        assert ambient().wall_s() == 1.0
    finally:
        assert replace_ambient(old) is other
    assert ambient() is old

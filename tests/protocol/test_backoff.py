"""How long to wait before the next dial."""

from __future__ import annotations

import math
import random
from itertools import islice

import attrs
import pytest

from trio_rt.options import Reconnect
from trio_rt.protocol.backoff import advised, delays


@attrs.define
class Recorder:
    """Draws a fixed part of each range, and keeps the ranges."""

    part: float = 1.0
    ranges: list[tuple[float, float]] = attrs.Factory(list)

    def uniform(self, a: float, b: float, /) -> float:
        self.ranges.append((a, b))
        return a + (b - a) * self.part


def bounds(reconnect: Reconnect, count: int) -> list[float]:
    return list(islice(delays(reconnect, Recorder()), count))


def test_bounds_grow_by_the_factor_up_to_the_cap() -> None:
    """first_s, factor and cap_s each have their part."""
    assert bounds(Reconnect(first_s=0.5, factor=3.0, cap_s=10.0), 5) == [0.5, 1.5, 4.5, 10.0, 10.0]


def test_jitter_is_full() -> None:
    """Each delay, the first included, is drawn from 0 to its bound."""
    recorder = Recorder()
    list(islice(delays(Reconnect(first_s=1.0, factor=2.0, cap_s=3.0), recorder), 3))
    assert recorder.ranges == [(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]


def test_cap_is_inside_the_jitter() -> None:
    """At the cap clients still spread over the whole range; nobody waits exactly the cap."""
    drawn = list(islice(delays(Reconnect(first_s=30.0), random.Random(1)), 1000))
    assert all(0.0 <= each < 30.0 for each in drawn)
    assert min(drawn) < 1.0
    assert max(drawn) > 29.0
    assert 14.0 < sum(drawn) / 1000 < 16.0


def test_the_first_bound_is_capped_too() -> None:
    """A first_s above the cap is the cap."""
    assert bounds(Reconnect(first_s=50.0, cap_s=3.0), 2) == [3.0, 3.0]


@pytest.mark.parametrize("factor", [1.0, 2.0, 1e299])
def test_attempt_2000(factor: float) -> None:
    """There is no overflow, however many attempts there were."""
    assert all(map(math.isfinite, bounds(Reconnect(factor=factor), 2001)))


def test_no_hot_loop_from_zero() -> None:
    """After a first bound of 0 the bounds grow from 0.1 s."""
    found = bounds(Reconnect(first_s=0.0, factor=2.0), 4)
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.4])


def test_no_advice() -> None:
    """Without advice the delay is the delay, and nothing is drawn."""
    recorder = Recorder()
    assert advised(1.5, None, Reconnect(), recorder) == 1.5
    assert recorder.ranges == []


def test_advice_is_a_lower_bound() -> None:
    """Nobody comes back before the time advised, nor before the own delay."""
    assert advised(1.0, 8.0, Reconnect(), Recorder(0.0)) == 8.0
    assert advised(20.0, 8.0, Reconnect(), Recorder(0.0)) == 20.0


def test_advice_is_spread() -> None:
    """Clients given the same advice come back over another half of it."""
    recorder = Recorder(1.0)
    assert advised(0.0, 8.0, Reconnect(), recorder) == 12.0
    assert recorder.ranges == [(0.0, 4.0)]


def test_the_spread_is_capped() -> None:
    """The spread is never more than cap_s."""
    assert advised(0.0, 8.0, Reconnect(cap_s=2.0), Recorder(1.0)) == 10.0


def test_advice_is_capped() -> None:
    """Beyond ten times cap_s a server is not believed."""
    assert advised(0.0, 1e12, Reconnect(cap_s=2.0), Recorder(0.0)) == 20.0

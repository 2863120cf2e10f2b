"""Blocks in turn, and what is made of their times."""

from __future__ import annotations

import pytest

from .blocks import WARM_UP, Block, clock_us, cost_us, in_turn, rate, speed

SLOW, FAST = Block(10, clock_s=2.0, cpu_s=0.5), Block(10, clock_s=1.0, cpu_s=0.4)


def test_a_block_in_half_the_time_is_twice_as_fast() -> None:
    """The speed is theirs by ours: more is better."""
    assert speed([FAST], [SLOW]) == 2.0
    assert speed([SLOW], [FAST]) == 0.5


def test_the_speed_by_cpu_time_ignores_the_clock() -> None:
    """For a busy machine."""
    assert speed([FAST], [SLOW], cpu=True) == pytest.approx(1.25)


def test_the_speed_is_the_median_of_the_turns() -> None:
    """Not the ratio of the medians: both sides of one come from one turn."""
    ours = [Block(1, clock_s, 1.0) for clock_s in (1.0, 40.0, 60.0)]
    theirs = [Block(1, clock_s, 1.0) for clock_s in (1.0, 10.0, 20.0)]
    assert speed(ours, theirs) == pytest.approx(1 / 3)


def test_turns_must_be_whole() -> None:
    """A block without its neighbour has no ratio."""
    with pytest.raises(ValueError, match="longer"):
        speed([FAST], [SLOW, SLOW])


def test_costs_and_rates_are_of_one_call() -> None:
    """Medians, in microseconds and in calls a second."""
    blocks = [FAST, SLOW, FAST]
    assert cost_us(blocks) == pytest.approx(40_000)
    assert clock_us(blocks) == pytest.approx(100_000)
    assert rate(blocks) == pytest.approx(10)


async def test_ways_go_in_turn_and_the_first_turns_do_not_count() -> None:
    """A A B B A A B B: two calls a block, by two tasks."""
    done: list[str] = []

    async def one() -> None:
        done.append("A")

    async def other() -> None:
        done.append("B")

    found = await in_turn([one, other], calls=2, turns=3, workers=2)
    assert "".join(done) == "AABB" * (WARM_UP + 3)
    assert [len(blocks) for blocks in found] == [3, 3]
    assert all(block.calls == 2 for blocks in found for block in blocks)

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

from trio_rt.errors import OptionError
from trio_rt.testing import Conditions
from trio_rt.testing._conditions import Way

from .support import virtual


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("delay_s", -0.1),
        ("delay_s", math.inf),
        ("jitter_s", math.nan),
        ("rate_bytes_per_s", 0),
        ("split_bytes", 0),
        ("split_bytes", 1.5),
        ("corrupt", 1.1),
        ("corrupt", -0.1),
        ("blackhole", 1),
    ],
)
def test_bad_values_are_refused(field: str, value: Any) -> None:
    """A value that cannot be is named by its field."""
    with pytest.raises(OptionError, match=f"Conditions.{field}"):
        Conditions(**{field: value})


def test_extremes_are_taken() -> None:
    """The least and the most of each field are values like others."""
    extremes: list[dict[str, Any]] = [
        {"delay_s": 0, "rate_bytes_per_s": math.inf, "split_bytes": math.inf, "corrupt": 0},
        {"jitter_s": 0, "rate_bytes_per_s": 1e-9, "split_bytes": 1, "corrupt": 1},
    ]
    for fields in extremes:
        Conditions(**fields)


@virtual
async def test_a_change_wakes_who_waits_for_it() -> None:
    """`wait_change()` ends with a change, or at its time."""
    way = Way()
    await way.wait_change(5.0)
    assert trio.current_time() == 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(way.wait_change, math.inf)
        await trio.sleep(1)
        way.conditions = Conditions(delay_s=1)
    assert trio.current_time() == 6


@virtual
async def test_a_blackhole_is_waited_out() -> None:
    """`wait_passable()` outlasts changes of other conditions, and ends with the blackhole."""
    way = Way()
    way.conditions = Conditions(blackhole=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(way.wait_passable)
        await trio.sleep(1)
        way.conditions = Conditions(blackhole=True, delay_s=1)
        await trio.sleep(1)
        way.conditions = Conditions(delay_s=1)
    assert trio.current_time() == 2

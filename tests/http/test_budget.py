"""How many tries beyond the first all calls together may make."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import OptionError
from trio_rt.http._budget import SLICES, Budget, Window


def spent(budget: Budget, now: float) -> int:
    count = 0
    while budget.spend(now):
        count += 1
    return count


def test_the_floor() -> None:
    """With no calls, `floor` tries are paid."""
    assert spent(Budget(floor=3), 0.0) == 3


def test_the_share() -> None:
    """1,000 calls pay 200 tries, the floor is not added to them."""
    budget = Budget(floor=10)
    for _ in range(1000):
        budget.deposit(0.0)
    assert budget.left(0.0) == 200
    assert spent(budget, 0.0) == 200
    assert budget.left(0.0) == 0


def test_another_share() -> None:
    """`share` is the part of the calls; what it pays is rounded down."""
    budget = Budget(share=0.5, floor=0)
    for _ in range(7):
        budget.deposit(0.0)
    assert spent(budget, 0.0) == 3


def test_the_window_moves() -> None:
    """Calls and tries of more than `window_s` ago do not count, those of 0.9 of it do."""
    budget = Budget(floor=0, window_s=10.0)
    for _ in range(10):
        budget.deposit(0.0)
    assert budget.spend(8.9)
    assert budget.left(8.9) == 1
    assert budget.left(10.0) == 0
    for _ in range(10):
        budget.deposit(11.0)
    assert budget.left(17.8) == 1
    assert budget.left(18.9) == 2


def test_no_limit() -> None:
    """`floor=inf` is no limit."""
    budget = Budget(floor=math.inf)
    assert budget.left(0.0) == math.inf
    assert budget.spend(0.0)


@pytest.mark.parametrize(
    "options", [{"share": -0.1}, {"floor": -1}, {"floor": 0.5}, {"window_s": 0}, {"share": "1"}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    """They are refused by name."""
    with pytest.raises(OptionError, match=next(iter(options))):
        Budget(**options)


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60))
def test_the_window_counts_what_is_in_it(events: list[tuple[float, bool]]) -> None:
    """All of the last nine slices' time, nothing of more than ten, whatever the steps."""
    window_s = 7.0
    window = Window(window_s)
    now = 100.0
    totals: list[float] = []
    marks: list[float] = []
    for step, is_mark in events:
        now += step
        (window.mark if is_mark else window.count)(now)
        (marks if is_mark else totals).append(now)
        for found, times in ((window.total, totals), (window.marked, marks)):
            sure = sum(time > now - window_s * (SLICES - 1) / SLICES + 1e-6 for time in times)
            most = sum(time > now - window_s - 1e-6 for time in times)
            assert sure <= found <= most


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 3)), max_size=80))
def test_the_bound(events: list[tuple[float, int]]) -> None:
    """At each try: those of the window are at most a fifth of its calls, or the floor."""
    budget = Budget(floor=2, window_s=10.0)
    now, calls, tries = 0.0, [], []
    for step, tried in events:
        now += step
        budget.deposit(now)
        calls.append(now)
        for _ in range(tried):
            if budget.spend(now):
                tries.append(now)
                recent = sum(time > now - 9.0 + 1e-6 for time in tries)
                assert recent <= max(2, 0.2 * sum(time > now - 10.0 - 1e-6 for time in calls))

"""How many calls a server can take at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_rt.http._adaptive import AdaptiveLimit


def cut(limit: AdaptiveLimit, times: int = 1) -> list[int]:
    """What the limit is after each overload, each of a call started after the one before."""
    found = []
    for _ in range(times):
        limit.overloaded(limit.epoch)
        found.append(limit.limit)
    return found


def grown(limit: AdaptiveLimit, answers: int) -> list[int]:
    found = []
    for _ in range(answers):
        limit.succeeded()
        found.append(limit.limit)
    return found


def test_it_starts_at_the_top() -> None:
    """Nothing is held back before the first overload, and answers raise it no higher."""
    limit = AdaptiveLimit(6)
    assert limit.limit == 6
    assert grown(limit, 100)[-1] == 6


def test_an_overload_cuts_by_three_tenths() -> None:
    """Each one leaves 70 %, rounded down, and 1 at the least."""
    assert cut(AdaptiveLimit(100), 4) == [70, 49, 34, 24]
    assert cut(AdaptiveLimit(6), 8) == [4, 2, 2, 1, 1, 1, 1, 1]


def test_it_grows_by_one_each_limit_answers() -> None:
    """At 2 it takes two answers to 3, three to 4, and so on."""
    limit = AdaptiveLimit(2)
    cut(limit, 5)
    assert limit.limit == 1
    limit.most = 8
    assert grown(limit, 6) == [2, 2, 3, 3, 3, 4]


def test_one_overload_is_heard_once() -> None:
    """What was started before a cut tells nothing new; what was started after it does."""
    limit = AdaptiveLimit(100)
    before = limit.epoch
    for _ in range(6):
        limit.overloaded(before)
    assert limit.limit == 70
    limit.overloaded(limit.epoch)
    assert limit.limit == 49


def test_the_top_moves() -> None:
    """A limit at the top goes along; one that was cut stays, or is bounded."""
    limit = AdaptiveLimit(10)
    limit.most = 20
    assert (limit.limit, limit.most) == (20, 20)
    cut(limit)
    limit.most = 30
    assert limit.limit == 14
    limit.most = 5
    assert limit.limit == 5
    limit.most = 9
    assert limit.limit == 9


@given(st.integers(1, 50), st.lists(st.sampled_from(["ok", "over", "late"]), max_size=200))
def test_bounds(most: int, news: list[str]) -> None:
    """It is a whole number from 1 to the top, rises by one at most, and returns to the top."""
    limit = AdaptiveLimit(most)
    for each in news:
        before = limit.limit
        if each == "ok":
            limit.succeeded()
            assert before <= limit.limit <= before + 1
        else:
            limit.overloaded(limit.epoch - (each == "late"))
            assert limit.limit <= before
            assert each == "over" or limit.limit == before
        assert isinstance(limit.limit, int)
        assert 1 <= limit.limit <= most
    assert grown(limit, most * most + 2)[-1] == most

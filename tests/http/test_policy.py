"""Whether a call is tried again, and after how long."""

from __future__ import annotations

import math
import random
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import OptionError
from trio_rt.http._policy import STATUSES, Policy, may_repeat


def policy(**options: Any) -> Policy:
    known: dict[str, Any] = {
        "retries": 2,
        "first_s": 0.25,
        "cap_s": 10.0,
        "max_retry_after_s": 60.0,
        "statuses": STATUSES,
    }
    return Policy(**known | options)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_idempotent_methods(method: str) -> None:
    """They may be repeated, with a body that is still there."""
    assert may_repeat(method, has_key=False, replayable=True)
    assert not may_repeat(method, has_key=False, replayable=False)


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "BREW"])
def test_other_methods(method: str) -> None:
    """They may be repeated with an idempotency key alone."""
    assert not may_repeat(method, has_key=False, replayable=True)
    assert may_repeat(method, has_key=True, replayable=True)
    assert not may_repeat(method, has_key=True, replayable=False)


def test_the_delays_have_full_jitter() -> None:
    """From 0 to a bound that doubles, from `first_s` up to `cap_s`."""

    class Most:
        def uniform(self, a: float, b: float, /) -> float:
            assert a == 0.0
            return b

    found = list(islice(policy(first_s=0.5, cap_s=3.0).delays(Most()), 5))
    assert found == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_without_advice() -> None:
    """The delay is the delay."""
    assert policy().wait_s(1.5, None, math.inf) == 1.5


def test_advice_is_a_lower_bound() -> None:
    """The delay comes on top, so that clients spread."""
    assert policy().wait_s(1.5, 7.0, math.inf) == 8.5


def test_advice_at_the_cap() -> None:
    """It is believed up to `max_retry_after_s`, and above it the call is given up."""
    assert policy(max_retry_after_s=7.0).wait_s(1.0, 7.0, math.inf) == 8.0
    assert policy(max_retry_after_s=7.0).wait_s(1.0, 7.1, math.inf) is None
    assert policy(max_retry_after_s=math.inf).wait_s(0.0, 1e9, math.inf) == 1e9


def test_the_deadline() -> None:
    """A wait that would last as long as the caller has is not begun."""
    assert policy().wait_s(1.0, 2.0, 3.0) is None
    assert policy().wait_s(1.0, 2.0, 3.1) == 3.0
    assert policy().wait_s(1.0, None, 1.0) is None


@given(st.floats(0, 20), st.none() | st.floats(0, 100), st.floats(0, 100), st.integers(0))
def test_any_wait(delay_s: float, advice_s: float | None, left_s: float, seed: int) -> None:
    """It is at least the advice, and less than what is left."""
    delay_s = min(delay_s, next(policy(first_s=20, cap_s=20).delays(random.Random(seed))))
    wait_s = policy().wait_s(delay_s, advice_s, left_s)
    if wait_s is not None:
        assert (advice_s or 0.0) <= wait_s < left_s


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"retries": 1.5},
        {"retries": math.inf},
        {"first_s": -1},
        {"cap_s": 0},
        {"max_retry_after_s": -1},
        {"statuses": [200]},
        {"statuses": [600]},
        {"statuses": ["503"]},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    """They are refused by name."""
    with pytest.raises(OptionError, match=f"Retry.{next(iter(options))}"):
        policy(**options)

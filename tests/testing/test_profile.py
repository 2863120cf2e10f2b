from __future__ import annotations

import random

import pytest

from trio_rt.errors import OptionError
from trio_rt.testing import LinkProfile
from trio_rt.testing._profile import log_uniform


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_s", 0.0),
        ("latency_s", float("inf")),
        ("jitter_s", -1.0),
        ("rechunk", 1.1),
        ("short_writes", -0.1),
        ("bandwidth_bytes_per_s", 0.0),
    ],
)
def test_bad_values_are_refused(field: str, value: float) -> None:
    """A value that cannot be is named by its field."""
    with pytest.raises(OptionError, match=f"LinkProfile.{field}"):
        LinkProfile(**{field: value})


def test_log_uniform_covers_its_range() -> None:
    """Every number from 1 to the most is drawn, small ones more often."""
    draws = [log_uniform(random.Random(seed), 10) for seed in range(2000)]
    assert set(draws) == set(range(1, 11))
    assert draws.count(1) > draws.count(2) > draws.count(10)

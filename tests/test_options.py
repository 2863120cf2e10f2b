"""The options: what they accept, and what they say of what they do not."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import attrs
import pytest

from trio_rt import options as module
from trio_rt.errors import OptionError, UsageError
from trio_rt.message import Message
from trio_rt.options import (
    Conflate,
    InboxLimits,
    Liveness,
    OutboxLimits,
    Reconnect,
    ServerLimits,
    check_number,
)

NO_NUMBERS = [True, False, math.nan, "1", None, b"1", [1], 1j, Decimal(1), -1, -0.001, -math.inf]

#: Of each option: what it takes besides ordinary numbers, and what it does not.
Values = tuple[list[Any], list[Any]]

SECONDS: Values = ([0, 0.0, math.inf], [])
FINITE_SECONDS: Values = ([0, 0.0], [math.inf])
POSITIVE: Values = ([1e-9, math.inf], [0, 0.0])
POSITIVE_FINITE: Values = ([1e-9], [0, math.inf])
COUNT: Values = ([1, math.inf], [0, 0.5, 1.5, 2.0])

NUMBERS: dict[type, dict[str, Values]] = {
    Reconnect: {
        "first_s": FINITE_SECONDS,
        "cap_s": POSITIVE_FINITE,
        "factor": ([1, 1.0], [0.999, 0, math.inf]),
        "max_attempts": COUNT,
        "give_up_after_s": POSITIVE,
        "min_uptime_s": SECONDS,
    },
    Liveness: {"interval_s": POSITIVE_FINITE, "timeout_s": POSITIVE_FINITE},
    OutboxLimits: {
        "messages": COUNT,
        "total_bytes": COUNT,
        "message_bytes": COUNT,
        "rate_per_s": POSITIVE,
    },
    InboxLimits: {
        "messages": COUNT,
        "total_bytes": COUNT,
        "message_bytes": COUNT,
        "fragments": COUNT,
    },
    ServerLimits: {
        "connections": COUNT,
        "connections_per_address": COUNT,
        "handshake_s": POSITIVE,
        "header_bytes": ([256], [255, 300.0, math.inf]),
        "headers": COUNT,
        "body_bytes": ([0, math.inf], [300.0]),
        "keep_alive_s": POSITIVE,
    },
}

FIELDS = [(kind, name) for kind, fields in NUMBERS.items() for name in fields]
GOOD = [(kind, name, each) for kind, name in FIELDS for each in (*NUMBERS[kind][name][0], 1000)]
BAD = [
    (kind, name, each) for kind, name in FIELDS for each in (*NUMBERS[kind][name][1], *NO_NUMBERS)
]


def ids(value: object) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)


def test_every_number_is_here() -> None:
    """No option escapes these tests."""
    for kind, fields in NUMBERS.items():
        names = {field.name for field in attrs.fields(kind)}
        assert names - fields.keys() <= {"verdict", "beat"}


@pytest.mark.parametrize(("kind", "name", "value"), GOOD, ids=ids)
def test_good_number(kind: type, name: str, value: float) -> None:
    """What makes sense is taken as it is."""
    assert getattr(kind(**{name: value}), name) == value


@pytest.mark.parametrize(("kind", "name", "value"), BAD, ids=ids)
def test_bad_number(kind: type, name: str, value: object) -> None:
    """What cannot be is refused by the option's full name, with a rule and the value."""
    with pytest.raises(OptionError) as caught:
        kind(**{name: value})
    error = caught.value
    assert error.field == f"{kind.__name__}.{name}"
    assert error.rule.startswith("must be a ")
    assert error.value is value


def test_defaults() -> None:
    """The defaults are the documented ones."""
    inf = math.inf
    assert attrs.astuple(Reconnect()) == (0.5, 30.0, 2.0, inf, inf, 5.0, None)
    assert attrs.astuple(Liveness()) == (15.0, 10.0, "ping")
    assert attrs.astuple(OutboxLimits()) == (1000, 4 << 20, 1 << 20, inf)
    assert attrs.astuple(InboxLimits()) == (256, 4 << 20, 1 << 20, 4096)
    assert Conflate().key is None


@pytest.mark.parametrize("kind", NUMBERS, ids=ids)
def test_frozen_and_by_keyword(kind: type) -> None:
    """Options cannot be changed, are given by name, and are values."""
    one = kind()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(one, attrs.fields(kind)[0].name, 5)
    with pytest.raises(TypeError):
        kind(5)
    assert one == kind()
    assert hash(one) == hash(kind())
    with pytest.raises(OptionError):
        attrs.evolve(one, **{next(iter(NUMBERS[kind])): -1})


@pytest.mark.parametrize("beat", ["ping", "both"])
def test_beat(beat: Any) -> None:
    """There are two ways to beat."""
    assert Liveness(beat=beat).beat == beat


@pytest.mark.parametrize("beat", ["pong", "", None, True, 1, ["ping"]])
def test_bad_beat(beat: Any) -> None:
    """Another way to beat is refused."""
    with pytest.raises(OptionError) as caught:
        Liveness(beat=beat)
    assert caught.value.field == "Liveness.beat"
    assert caught.value.rule == 'must be "ping" or "both"'
    assert caught.value.value == beat


def test_verdict() -> None:
    """A verdict is any function, or none."""

    def verdict(cause: object) -> None:
        return None

    assert Reconnect(verdict=verdict).verdict is verdict


def test_conflate() -> None:
    """`Conflate` takes a function of the message."""

    def key(message: Message[Any]) -> str:
        return message.id

    assert Conflate(key).key is key
    assert Conflate(key) == Conflate(key=key)


@pytest.mark.parametrize(
    ("rules", "rule"),
    [
        ({}, "must be a number from 0"),
        ({"above": True}, "must be a number above 0"),
        ({"least": 1, "whole": True}, "must be a whole number from 1"),
        ({"finite": True}, "must be a finite number from 0"),
        ({"least": 256, "whole": True, "finite": True}, "must be a finite whole number from 256"),
        ({"least": 0.5, "above": True}, "must be a number above 0.5"),
    ],
)
def test_rules_read_well(rules: dict[str, Any], rule: str) -> None:
    """The rule is said in words that tell what to write instead."""
    with pytest.raises(OptionError) as caught:
        check_number("n", -1, **rules)
    assert str(caught.value) == f"n {rule}, not -1"


@pytest.mark.parametrize("value", [10**301, 10**400, 10**5000, 1e300], ids=range(4))
@pytest.mark.parametrize("finite", [False, True])
def test_numbers_that_are_too_much(value: float, finite: bool) -> None:
    """What arithmetic with floats could not hold is refused, and can be shown."""
    with pytest.raises(OptionError) as caught:
        check_number("n", value, finite=finite)
    assert str(caught.value).startswith("n must be below 1e+300")
    assert ("math.inf" in str(caught.value)) is not finite


def test_except_value_error() -> None:
    """Who knows only Python's own exceptions catches a bad option too."""
    with pytest.raises(ValueError, match=r"Reconnect.cap_s must be a finite number above 0"):
        Reconnect(cap_s=-1)
    assert issubclass(OptionError, UsageError)


def test_public() -> None:
    """All that `__all__` promises is there."""
    assert all(hasattr(module, name) for name in module.__all__)

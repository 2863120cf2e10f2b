"""Checks of options that more than one layer has."""

from __future__ import annotations

import math
from typing import Any, Final

from .. import options
from ..errors import OptionError

__all__ = ["check_flag", "check_kind", "check_number"]

#: Below the largest float: sums and products with such a number are floats still.
MOST: Final = 1e300


def check_number(name: str, value: object, **rules: Any) -> None:
    """As `options.check_number`, and no finite number from 1e300."""
    if isinstance(value, int | float) and MOST <= value != math.inf:
        raise OptionError(name, "must be below 1e300, or math.inf", value)
    options.check_number(name, value, **rules)


def check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise OptionError(name, "must be True or False", value)


def check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise OptionError(name, f"must be a {kind.__name__}", value)

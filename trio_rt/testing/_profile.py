"""How a virtual link behaves, and the ways in which it can be cut."""

from __future__ import annotations

import math
import random
from typing import Any, Literal, TypeAlias

import attrs

from ..errors import OptionError
from ..options import check_number

__all__ = ["CutKind", "LinkProfile", "Towards", "check_seconds", "check_share", "log_uniform"]

#: - `"rst"`: both ends find the connection reset;
#: - `"fin"`: both ends read an end of file, and what they send is answered by
#:   a reset (a proxy or a server process that ended);
#: - `"vanish"`: half-open. Bytes go into the void, nobody is told.
CutKind: TypeAlias = Literal["rst", "fin", "vanish"]

#: A direction of a link: the bytes that the dialler sends go towards the server.
Towards: TypeAlias = Literal["server", "client"]


def log_uniform(randomness: random.Random, most: int) -> int:
    """A whole number from 1 to `most`, all magnitudes alike."""
    return min(most, int((most + 1) ** randomness.random()))


def check_seconds(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """A validator: a finite time from 0."""
    check_number(f"{type(instance).__name__}.{attribute.name}", value, finite=True)


def _check_positive(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_number(
        f"LinkProfile.{attribute.name}", value, above=True, finite=attribute.name == "latency_s"
    )


def check_share(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    """A validator: from 0 to 1."""
    name = f"{type(instance).__name__}.{attribute.name}"
    check_number(name, value, finite=True)
    if value > 1:
        raise OptionError(name, "must be at most 1", value)


@attrs.frozen(kw_only=True)
class LinkProfile:
    """How the bytes of a link travel, in each direction alike.

    What a seed draws, it draws from here; a profile may be replaced while the
    link lives, and then holds for the bytes sent from that moment.
    """

    #: One way. Never 0: a network without latency hides most bugs.
    latency_s: float = attrs.field(default=0.02, validator=_check_positive)
    #: From 0 to this many seconds more for each piece; the order is kept.
    jitter_s: float = attrs.field(default=0.0, validator=check_seconds)
    #: The share of pieces that are cut again at a random byte, and of reads
    #: that end there: from 0.0, whole writes, to 1.0.
    rechunk: float = attrs.field(default=0.0, validator=check_share)
    #: The share of writes of which only the beginning is taken.
    short_writes: float = attrs.field(default=0.0, validator=check_share)
    bandwidth_bytes_per_s: float = attrs.field(default=math.inf, validator=_check_positive)

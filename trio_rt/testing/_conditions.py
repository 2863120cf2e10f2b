"""How a relay passes bytes on in one direction, as it may change at any moment."""

from __future__ import annotations

import math
from typing import Final

import attrs
import trio

from ..errors import OptionError
from ..options import check_number
from ._profile import check_seconds, check_share

__all__ = ["Conditions", "Way"]


def _check_rate(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    check_number(f"Conditions.{attribute.name}", value, above=True)


def _check_size(instance: object, attribute: attrs.Attribute[float], value: object) -> None:
    check_number(f"Conditions.{attribute.name}", value, least=1, whole=True)


def _check_switch(instance: object, attribute: attrs.Attribute[bool], value: object) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"Conditions.{attribute.name}", "must be True or False", value)


@attrs.frozen(kw_only=True)
class Conditions:
    """How the bytes of a relay's links travel in one direction; as it is, nothing is wrong.

    For the same bytes the same seed draws the same flips and the same cuts.
    """

    #: The order is kept, and many reads are on their way at once: up to 1 MiB
    #: of each link, and then its source is not read.
    delay_s: float = attrs.field(default=0.0, validator=check_seconds)
    #: From 0 to this many seconds more for each read of the relay; the order is kept.
    jitter_s: float = attrs.field(default=0.0, validator=check_seconds)
    #: Of each link; `math.inf` for no limit.
    rate_bytes_per_s: float = attrs.field(default=math.inf, validator=_check_rate)
    #: Each write has from 1 to so many bytes; `math.inf`: as they were read.
    #: A reader that is late finds several writes joined by the kernel.
    split_bytes: float = attrs.field(default=math.inf, validator=_check_size)
    #: The share of bytes in which a bit is flipped, from 0.0 to 1.0. Only TLS
    #: or a checksum of the program notices all of it: a WebSocket does not
    #: check payloads, except that text must be UTF-8.
    corrupt: float = attrs.field(default=0.0, validator=check_share)
    #: A dead path: nothing passes, an end or a reset neither, and nobody is
    #: told. Connections stay up, for as long as it lasts new ones are made by
    #: the kernel alone, and what was held back goes on after it, as TCP would
    #: send it again. What the kernel had already taken still arrives.
    blackhole: bool = attrs.field(default=False, validator=_check_switch)


class Way:
    """One direction of all links of a relay: its conditions, and what has passed."""

    def __init__(self) -> None:
        self.passed_bytes = 0
        self._conditions = Conditions()
        self._changed: Final = trio.lowlevel.ParkingLot()

    @property
    def conditions(self) -> Conditions:
        return self._conditions

    @conditions.setter
    def conditions(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._changed.unpark_all()

    async def wait_change(self, until: float) -> None:
        """Wait for new conditions, until then at the latest (on trio's clock)."""
        with trio.move_on_at(until):
            await self._changed.park()

    async def wait_passable(self) -> None:
        """Wait until there is no blackhole."""
        while self._conditions.blackhole:
            await self._changed.park()

"""How long to wait before the next dial: a stream of seconds.

Full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015): each delay is
drawn from 0 to a bound, and the bounds grow. The cap is a cap of the *bound*;
capping what was drawn instead makes all clients wait exactly the cap, and so
come back together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from ..options import Reconnect

__all__ = ["Uniform", "advised", "delays"]

#: What a bound of 0 grows to, so that `first_s=0` redials at once, but once.
LEAST_SECOND_BOUND_S: Final = 0.1

#: A server's advice is believed up to this many times `cap_s`: one typing
#: error in a `Retry-After` must not silence its clients for a year.
ADVICE_CAPS: Final = 10

#: Clients given the same advice return spread over this part of it.
ADVICE_SPREAD: Final = 0.5


class Uniform(Protocol):
    """The part of `random.Random` that is needed."""

    def uniform(self, a: float, b: float, /) -> float: ...


def delays(reconnect: Reconnect, random: Uniform) -> Iterator[float]:
    """The delays, in seconds, before the first redial, the second, and so on for ever."""
    bound_s = reconnect.first_s
    while True:
        bound_s = min(bound_s, reconnect.cap_s)
        yield random.uniform(0.0, bound_s)
        bound_s = bound_s * reconnect.factor or LEAST_SECOND_BOUND_S


def advised(delay_s: float, advice_s: float | None, reconnect: Reconnect, random: Uniform) -> float:
    """`delay_s`, or longer if the server advised so.

    The advice, at most `10 * cap_s` of it, is a lower bound. On top of it
    comes a random time of up to half of it (at most `cap_s`).
    """
    if advice_s is None:
        return delay_s
    least_s = min(advice_s, ADVICE_CAPS * reconnect.cap_s)
    spread_s = min(least_s * ADVICE_SPREAD, reconnect.cap_s)
    return max(delay_s, least_s + random.uniform(0.0, spread_s))

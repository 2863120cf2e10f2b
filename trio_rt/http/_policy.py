"""Whether a call is tried again, and after how long.

A try fails in one of three ways. *Unsent*: no connection was made, so the server saw
nothing and any call may be repeated, a streamed body included. *Broken*: the
connection failed later; the server may have acted. A *status*: it answered with one
that often passes. After the last two only what may happen twice is sent twice: the
idempotent methods of RFC 9110, 9.2.2, and calls with an idempotency key; and only
with a body that is still there.

The delay has full jitter. A `Retry-After` is a lower bound: the delay comes on top
of it, so that clients given the same advice spread. A wait that is surely in vain,
past the cap of the advice or the caller's deadline, is not begun.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias

import attrs

from ..errors import OptionError
from ..options import Reconnect, check_number
from ..protocol.backoff import Uniform, delays

__all__ = ["IDEMPOTENT", "STATUSES", "Failure", "Policy", "may_repeat"]

#: RFC 9110, 9.2.2.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

#: Timeouts, overload and failures behind a proxy; 425 is RFC 8470, 5.2.
STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

Failure: TypeAlias = Literal["unsent", "broken"]


def may_repeat(method: str, *, has_key: bool, replayable: bool) -> bool:
    """Whether the call may reach the server twice."""
    return replayable and (has_key or method in IDEMPOTENT)


def _set(statuses: Iterable[int]) -> frozenset[int]:
    try:
        return frozenset(statuses)
    except TypeError:  # not iterable, or what is in it not hashable
        raise OptionError("Retry.statuses", "must be statuses from 400 to 599", statuses) from None


@attrs.frozen(kw_only=True)
class Policy:
    """The options of `Retry`, checked."""

    retries: int
    first_s: float
    cap_s: float
    #: Of a server's advice; `math.inf` believes any.
    max_retry_after_s: float
    statuses: frozenset[int] = attrs.field(converter=_set)
    _backoff: Reconnect = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        check_number("Retry.retries", self.retries, whole=True, finite=True)
        check_number("Retry.first_s", self.first_s, finite=True)
        check_number("Retry.cap_s", self.cap_s, above=True, finite=True)
        check_number("Retry.max_retry_after_s", self.max_retry_after_s)
        for status in self.statuses:
            if not isinstance(status, int) or not 400 <= status <= 599:
                raise OptionError("Retry.statuses", "must be statuses from 400 to 599", status)
        object.__setattr__(self, "_backoff", Reconnect(first_s=self.first_s, cap_s=self.cap_s))

    def delays(self, random: Uniform) -> Iterator[float]:
        """The delays in seconds before the second try, the third, and so on."""
        return delays(self._backoff, random)

    def wait_s(self, delay_s: float, advice_s: float | None, left_s: float) -> float | None:
        """How long to wait, or None: give up.

        `advice_s` is the server's `Retry-After`, `left_s` the time that the caller has.
        """
        if advice_s is not None:
            if advice_s > self.max_retry_after_s:
                return None
            delay_s += advice_s
        return delay_s if delay_s < left_s else None

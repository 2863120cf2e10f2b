"""Where to dial next, when, and when to stop: the memory of the supervisor.

One URL is *current*. It stays so while it works; a failure moves on to the
next that is not struck out. A fatal verdict strikes out that URL only, and
the connection fails when none is left. What a URL's failures mean depends on
its past (did it ever connect, were fresh credentials tried, how many links
in a row broke the protocol), so that past is kept with it.

The delay grows with every redial and starts anew once a link has *proved*
itself: some life above TCP, and `min_uptime_s`. A server that accepts and
closes at once therefore meets a client that slows down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from ..errors import (
    AttemptsExhausted,
    ConnectionFailed,
    DialError,
    HookError,
    LinkClosed,
    LinkError,
    OptionError,
)
from ..options import Reconnect, Verdict
from .backoff import Uniform, advised, delays
from .url import Url
from .verdict import advice_s, failure, judge

__all__ = ["Route"]


@attrs.define
class _Past:
    url: Url
    connected: bool = False
    refreshed: bool = False
    breaches: int = 0
    struck: bool = False
    #: Whether it has welcomed a session, and whether it will not have one offered.
    welcomed: bool = False
    plain: bool = False


class Route:
    def __init__(self, urls: Sequence[Url], reconnect: Reconnect, random: Uniform) -> None:
        self._reconnect = reconnect
        self._random = random
        self._pasts = [_Past(url) for url in urls]
        self._index = 0
        self._delays = delays(reconnect, random)
        self._failing_since = math.nan
        #: Dials since the last proven link.
        self.attempt = 0
        #: Whether the server has refused the credentials that it was given last.
        self.refused = False

    @property
    def url(self) -> Url:
        return self._pasts[self._index].url

    def dialling(self, now: float) -> None:
        """A dial of `url` starts."""
        self.attempt += 1
        if math.isnan(self._failing_since):
            self._failing_since = now

    def opened(self) -> None:
        """The dial came to a link."""
        past = self._pasts[self._index]
        past.connected = True
        self.refused = False

    @property
    def takes_offers(self) -> bool:
        """Whether a session is worth offering to the current URL."""
        return not self._pasts[self._index].plain

    def welcomed(self) -> None:
        """It has a session with us."""
        self._pasts[self._index].welcomed = True

    def offer_refused(self) -> bool:
        """It cannot bear the offer. True: none is made any more. False: it once could."""
        past = self._pasts[self._index]
        past.plain = not past.welcomed
        return past.plain

    def ended(self, *, proven: bool, now: float) -> None:
        """The link ended. If it was a proven one, everything starts anew."""
        if proven:
            past = self._pasts[self._index]
            past.refreshed = False
            past.breaches = -1  # its own end, which comes next, is none in a row
            self.attempt = 0
            self._delays = delays(self._reconnect, self._random)
            self._failing_since = now

    def failed(self, cause: LinkError, now: float, *, linked: bool) -> float | ConnectionFailed:
        """The dial, or the link (`linked`), ended with `cause`: the delay in seconds
        before the next dial, or why there will be none."""
        past = self._pasts[self._index]
        breach = isinstance(cause, LinkClosed) and cause.code in (1002, 1007)
        past.breaches = past.breaches + 1 if breach else 0
        verdict = self._own_verdict(cause) or judge(
            cause,
            ever_connected=past.connected,
            refreshed=past.refreshed,
            breaches=past.breaches,
        )
        refresh = verdict == "refresh"
        # Where none were given, those that were refused are still the last.
        self.refused = refresh or (self.refused and _without_credentials(cause))
        past.refreshed = past.refreshed or refresh
        past.struck = verdict == "fatal"
        if verdict == "fatal" and all(other.struck for other in self._pasts):
            return _chained(failure(cause, verdict), cause)
        if (not refresh and not linked) or past.struck:
            self._move_on()
        return self._exhausted(cause, now) or self._delay_s(cause, now)

    def hurry(self) -> None:
        """The program is leaving: the delays start anew, to make the most of what is left."""
        self._delays = delays(self._reconnect, self._random)

    def _own_verdict(self, cause: LinkError) -> Verdict | None:
        own = None if self._reconnect.verdict is None else self._reconnect.verdict(cause)
        if own not in (None, "retry", "refresh", "fatal"):
            rule = 'must return "retry", "refresh", "fatal" or None'
            raise OptionError("Reconnect.verdict", rule, own)
        return own

    def _move_on(self) -> None:
        count = len(self._pasts)
        steps = [(self._index + step) % count for step in range(1, count + 1)]
        self._index = next(index for index in steps if not self._pasts[index].struck)

    def _exhausted(self, cause: LinkError, now: float) -> AttemptsExhausted | None:
        reconnect = self._reconnect
        if self.attempt >= reconnect.max_attempts:
            spent = f"{self.attempt} attempts"
        elif now - self._failing_since >= reconnect.give_up_after_s:
            spent = f"{now - self._failing_since:.3g} s"
        else:
            return None
        error = AttemptsExhausted(f"no lasting link after {spent}; the last: {cause}")
        error.__cause__ = cause
        return error

    def _delay_s(self, cause: LinkError, now: float) -> float:
        delay_s = advised(next(self._delays), advice_s(cause), self._reconnect, self._random)
        left_s = self._failing_since + self._reconnect.give_up_after_s - now
        return min(delay_s, left_s)


def _chained(error: ConnectionFailed, cause: LinkError) -> ConnectionFailed:
    error.__cause__ = cause
    return error


def _without_credentials(cause: LinkError) -> bool:
    """Whether an attempt ended before the program had given credentials for it."""
    match cause:
        case HookError(hook="credentials") | DialError(stage="credentials"):
            return True
        case _:
            return False

"""A circuit breaker's state, as one table.

CLOSED lets every call through and counts. When of the calls of the last `window_s`
at least `failures`, and at least the part `share`, have failed, it is TRIPPED: OPEN
lets nothing through. After `open_s` it is RESTED: HALF_OPEN lets `half_open` calls
at a time through, as probes. The first that ends decides.

A call gets a ticket, the number of the state's turn, and reports with it. A report
from an earlier turn is void: a slow failure of the time before it opened says
nothing about the probe, and a slow success does not close it. A call that says
nothing of the server, such as a cancelled one, gives its place back.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from ..options import check_number
from ._budget import Window

__all__ = ["TABLE", "Circuit", "Rules", "State", "Trigger"]


class State(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Trigger(enum.Enum):
    TRIPPED = "too many calls failed"
    RESTED = "open_s is over"
    PROVED = "a probe succeeded"
    FAILED = "a probe failed"


TABLE: Final = {
    State.CLOSED: {Trigger.TRIPPED: State.OPEN},
    State.OPEN: {Trigger.RESTED: State.HALF_OPEN},
    State.HALF_OPEN: {Trigger.PROVED: State.CLOSED, Trigger.FAILED: State.OPEN},
}


@attrs.frozen(kw_only=True)
class Rules:
    """The options of `Breaker`, checked."""

    failures: int
    share: float
    window_s: float
    open_s: float
    half_open: int

    def __attrs_post_init__(self) -> None:
        check_number("Breaker.failures", self.failures, least=1, whole=True, finite=True)
        check_number("Breaker.share", self.share)
        check_number("Breaker.window_s", self.window_s, above=True, finite=True)
        check_number("Breaker.open_s", self.open_s, above=True, finite=True)
        check_number("Breaker.half_open", self.half_open, least=1, whole=True, finite=True)


class Circuit:
    """The breaker of one origin."""

    __slots__ = ("_opened_at", "_probes", "_rules", "_turn", "_window", "state")

    def __init__(self, rules: Rules) -> None:
        self.state = State.CLOSED
        self._rules = rules
        self._turn = 0
        self._window = Window(rules.window_s)
        self._opened_at = 0.0
        self._probes = 0

    def admit(self, now: float) -> int | None:
        """The ticket of a call, or None: it may not go on."""
        if self.state is State.CLOSED:
            return self._turn
        if self.state is State.OPEN and now >= self._opened_at + self._rules.open_s:
            self._pull(Trigger.RESTED, now)
        if self.state is State.OPEN or self._probes >= self._rules.half_open:
            return None
        self._probes += 1
        return self._turn

    def wait_s(self, now: float) -> float:
        """How long until it lets a probe through, at the latest, if no other probe succeeds."""
        if self.state is State.OPEN:
            return self._opened_at + self._rules.open_s - now
        return self._rules.open_s

    def succeeded(self, ticket: int, now: float) -> None:
        if ticket != self._turn:
            return
        if self.state is State.CLOSED:
            self._window.count(now)
        else:
            self._pull(Trigger.PROVED, now)

    def failed(self, ticket: int, now: float) -> bool:
        """Whether this opened it."""
        if ticket != self._turn:
            return False
        if self.state is State.HALF_OPEN:
            self._pull(Trigger.FAILED, now)
            return True
        window = self._window
        window.count(now)
        window.mark(now)
        rules = self._rules
        if window.marked < rules.failures or window.marked < rules.share * window.total:
            return False
        self._pull(Trigger.TRIPPED, now)
        return True

    def left(self, ticket: int) -> None:
        """The call ended and says nothing of the server."""
        if ticket == self._turn and self.state is State.HALF_OPEN:
            self._probes -= 1

    def _pull(self, trigger: Trigger, now: float) -> None:
        self.state = TABLE[self.state][trigger]
        self._turn += 1
        self._probes = 0
        if self.state is State.OPEN:
            self._opened_at = now
        elif self.state is State.CLOSED:
            self._window = Window(self._rules.window_s)

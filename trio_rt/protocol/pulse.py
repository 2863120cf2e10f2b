"""When to ping, and when a link is dead.

Goal: a dead link is noticed within `interval_s + timeout_s` of its last byte,
also while a send is stuck; a healthy one is never killed, whatever the program
does to the event loop.

What does not work. Waiting for the pong of each ping: a peer that is busy
sending a large message has no room for a pong, and is as alive as can be. A
timer that kills: after the program blocked the loop for a minute every timer
has run out, and the pongs lie unread in the socket. Ageing by the silence
alone: after the same minute nothing may have been asked, so silence means
nothing.

The rule. Every inbound byte is life. After `interval_s` of silence: PING, once
a silence. A silence is suspect only when it is `interval_s + timeout_s` old
*and* a ping in it is `timeout_s` old. Then the driver lets the reader find the
socket empty, and asks for the `verdict`.

The first ping of a link comes at a random point of its first interval, so that
clients that came together do not beat together. And when the wall clock ran
ahead of the monotonic one, the machine was asleep and the peer may have hung
up long ago: PING at once, and the answer has `timeout_s` from there. That is
looked for at every tick, so ticks are never further apart than
`CLOCK_CHECK_S`.

Nobody tells the driver that a byte has come. With an answer the next event can
be sooner than the death that it waits for (if `timeout_s` is the longer time),
but never sooner than an interval from now: so ticks are never further apart
than that, either.

The remaining hole: a wall clock set back during the sleep hides it, and the
silence is then found the ordinary way.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from ..options import Liveness

__all__ = ["Beat", "Pulse"]

#: Seconds of wall clock beyond the monotonic one that tell a sleep: more than
#: clock slewing and a leap second make, less than any sleep worth a probe.
JUMP_S: Final = 1.5

#: Seconds between looks at the clocks. A wake-up of a task costs some 10 us.
CLOCK_CHECK_S: Final = 5.0


class Beat(enum.Enum):
    NOTHING = enum.auto()
    #: Send a ping.
    PING = enum.auto()
    #: Read what there is to read, then ask for the `verdict`.
    SUSPECT = enum.auto()


class Pulse:
    """The heartbeat of one link. `now` is monotonic seconds, `wall` those since the epoch.

    `first_jitter`, from 0 to 1, places the first ping in the first interval.
    """

    __slots__ = (
        "_asked_at",
        "_dead_at",
        "_first_ping_at",
        "_heard_at",
        "_interval_s",
        "_now",
        "_pinged_at",
        "_timeout_s",
        "_wall",
        "latency_s",
    )

    def __init__(self, liveness: Liveness, now: float, wall: float, first_jitter: float) -> None:
        self._interval_s = liveness.interval_s
        self._timeout_s = liveness.timeout_s
        self._now = now
        self._wall = wall
        self._heard_at = now
        self._first_ping_at = now + first_jitter * liveness.interval_s
        self._pinged_at = -math.inf
        self._dead_at = math.inf
        self._asked_at: float | None = None
        #: Seconds from the last answered ping to its pong; None before the first.
        self.latency_s: float | None = None

    def heard(self, now: float) -> None:
        """Bytes came in, any bytes; this may be told late."""
        if now > self._heard_at:
            self._heard_at = now

    def pong(self, now: float) -> None:
        """A pong came in. One that nobody asked for tells nothing."""
        if self._asked_at is not None:
            self.latency_s = now - self._asked_at
            self._asked_at = None

    @property
    def due(self) -> float:
        """When `tick` must be called next, whatever is `heard` meanwhile."""
        return min(self._next_event(), self._now + min(self._interval_s, CLOCK_CHECK_S))

    def tick(self, now: float, wall: float) -> Beat:
        """What is to be done now. PING counts the ping as sent."""
        slept = (wall - self._wall) - (now - self._now) > JUMP_S
        self._now, self._wall = now, wall
        if now >= self._next_event():
            if self._unanswered:
                return Beat.SUSPECT
            self._ping(now, max(now, self._heard_at + self._interval_s))
            return Beat.PING
        if slept:
            self._ping(now, now)
            return Beat.PING
        return Beat.NOTHING

    def verdict(self, now: float) -> float | None:
        """Seconds of silence if the link is dead, else None.

        Only after SUSPECT, and after the reader has found the socket empty.
        """
        dead = self._unanswered and now >= self._dead_at
        return now - self._heard_at if dead else None

    @property
    def _unanswered(self) -> bool:
        return self._pinged_at > self._heard_at

    def _next_event(self) -> float:
        if self._unanswered:
            return self._dead_at
        if self._pinged_at == -math.inf:
            return self._first_ping_at
        return self._heard_at + self._interval_s

    def _ping(self, now: float, patient_from: float) -> None:
        dead_at = patient_from + self._timeout_s
        # A second ping in one silence never puts the end off.
        self._dead_at = min(dead_at, self._dead_at) if self._unanswered else dead_at
        self._pinged_at = now
        if self._asked_at is None:
            self._asked_at = now

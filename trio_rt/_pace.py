"""How often something that is ready lets the others run.

A full checkpoint costs 7.5 us, several times what handing over a message
costs. So `send()` and `receive()` do `checkpoint_if_cancelled` while they need
not wait, and a full checkpoint every 64th call or every millisecond: nobody
is kept from running for longer than that.
"""

from __future__ import annotations

from typing import Final

import trio

__all__ = ["Pace"]

CALLS: Final = 64
SPAN_S: Final = 0.001


class Pace:
    """Await one of two things at each call: `checkpoint_if_cancelled` where `is_due()`
    is false, else `turn()`."""

    __slots__ = ("_calls", "_clock", "_until")

    def __init__(self) -> None:
        self._calls = 0
        self._until = 0.0
        # For `trio.current_time`, without looking up the run each time.
        self._clock = trio.lowlevel.current_clock()

    def is_due(self) -> bool:
        """Count a call; whether it is to be a full checkpoint."""
        return self.is_due_at(self._clock.current_time())

    def is_due_at(self, now: float) -> bool:
        """The same for who has looked at trio's clock."""
        self._calls -= 1
        return self._calls <= 0 or now >= self._until

    async def turn(self) -> None:
        """A full checkpoint, and the count starts anew."""
        await trio.lowlevel.checkpoint()
        self.restart()

    def restart(self) -> None:
        """The count starts anew, without a checkpoint: for who is about to wait."""
        self._calls = CALLS
        self._until = self._clock.current_time() + SPAN_S

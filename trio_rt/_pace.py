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
    __slots__ = ("_calls", "_until")

    def __init__(self) -> None:
        self._calls = 0
        self._until = 0.0

    async def step(self) -> None:
        """Always notices a cancellation; yields when it is time to."""
        self._calls -= 1
        if self._calls > 0 and trio.current_time() < self._until:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        await trio.lowlevel.checkpoint()
        self._calls = CALLS
        self._until = trio.current_time() + SPAN_S

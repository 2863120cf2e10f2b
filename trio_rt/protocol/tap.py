"""A way past the books of an idle plain link, for who writes the same to many.

Goal: a message to thousands costs each of them little above its system call. What each of
them has in books, outbox, outlet and stream lies in a dozen places, and to look at them all
costs more than to send.

The rule. Once all of them were found idle the *tap* is open, and its `send` may be called at
once. Whoever else uses the sending side, on the way to the outlet or to the outbox, shuts
it; then they are looked at again. What went by it whole is in no other books than `posted`,
and is `written` there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["NO_TAP", "Tap"]


class Tap:
    """One link's. `send` takes bytes and says how many went, as a direct stream's `try_send`."""

    __slots__ = ("open", "posted", "send")

    def __init__(self, send: Callable[[bytes], int]) -> None:
        self.send: Final = send
        self.open = False
        #: Messages that went by it and are not counted elsewhere yet.
        self.posted = 0


def _never(data: bytes) -> int:
    raise NotImplementedError


#: That of who has none: nobody opens it.
NO_TAP: Final = Tap(_never)

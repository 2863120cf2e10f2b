"""Commands of a member under way: each is sent, and waits for its answer or its loss.

A command is an ordinary message, and its answer another one that has its id. Between them
a link or a session may be lost, or the hub may have had no room for the answer. Then
nobody knows whether it was done. All commands may be said again (a publish by its
id), so who asks is told of the loss, and asks again when that makes sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import trio

from ..._ambient import ambient
from ..._connection import Connection
from ...delivery import Delivery
from ...options import Reconnect
from ...protocol.backoff import delays
from ...protocol.lifecycle import Phase
from .._words import Event

__all__ = ["FOR_NOW", "PATIENCE_S", "Calls", "Then", "pauses"]

#: An answer that takes longer is given up: the hub had no room for it.
PATIENCE_S: Final = 10.0

#: How long to wait before a command is tried again that the hub could not do.
AGAIN: Final = Reconnect(first_s=0.1, cap_s=5.0)

#: Refusals that say nothing about the command.
FOR_NOW: Final = frozenset({"too_fast", "unavailable"})

Then = Callable[[Event], None]


class _Call:
    __slots__ = ("answer", "changed", "lost", "then")

    def __init__(self, then: Then | None) -> None:
        self.then = then
        self.answer: Event | None = None
        self.lost = False
        self.changed: trio.Event | None = None

    def notify(self) -> None:
        if self.changed is not None:
            self.changed.set()

    async def wait(self, delivery: Delivery, *, passing: bool) -> None:
        """Until there is an answer, or none will come."""
        while self.answer is None and not self.lost:
            if passing and _is_dropped(delivery):
                return
            self.changed = trio.Event()
            if passing:
                delivery.changed = self.changed  # set when the delivery is settled
            await self.changed.wait()


class Calls:
    """Those of one member."""

    def __init__(self, conn: Connection) -> None:
        self._conn: Final = conn
        self._open: dict[str, _Call] = {}
        self._losses = 0
        #: Types of commands that were given up, and may be done nevertheless.
        self.loose: set[str] = set()

    @property
    def online(self) -> bool:
        """Whether there is a link."""
        return self._conn.state.phase is Phase.CONNECTED

    async def ask(
        self, type: str, body: Mapping[str, Any], *, then: Then | None = None, passing: bool = False
    ) -> Event | None:
        """The answer, `done` or `refused`; None if there will be none.

        `then` is called when it comes, before anything behind it is looked at. What is
        `passing` is not sent later if it cannot be now. Raises as `Connection.send`.
        Cancelled: withdrawn if it has not left, otherwise it may be done.
        """
        losses = self._losses
        delivery = await self._conn.send(type, body, when_offline="drop" if passing else "queue")
        call = _Call(then)
        call.lost = losses != self._losses
        # No answer can have come yet: that takes a read, and so another turn of the loop.
        self._open[delivery.id] = call
        try:
            with trio.move_on_after(PATIENCE_S):
                await call.wait(delivery, passing=passing)
        finally:
            del self._open[delivery.id]
            if call.answer is None and not delivery.withdraw():
                self.loose.add(type)
        return call.answer

    def answered(self, event: Event) -> bool:
        """An answer has come. False: to nothing that is waited for here."""
        call = self._open.get(event.re)
        if call is None or call.answer is not None or call.lost:
            return False
        call.answer = event
        if call.then is not None:
            call.then(event)
        call.notify()
        return True

    def lose(self) -> None:
        """Answers may be lost: what was asked till now will have none."""
        self._losses += 1
        for call in self._open.values():
            call.lost = True
            call.notify()


def _is_dropped(delivery: Delivery) -> bool:
    return delivery.outcome is not None and delivery.outcome.kind not in ("written", "acked")


def pauses() -> Iterator[float]:
    """Seconds before each further try."""
    return delays(AGAIN, ambient().random)

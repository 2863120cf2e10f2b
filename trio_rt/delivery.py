"""`Delivery`: what `send` returns, and how a send came out."""

from __future__ import annotations

from typing import Any

import trio

from .errors import NoSession, Undelivered
from .message import Outcome
from .protocol.lanes import Entry

__all__ = ["Delivery"]


class Delivery(Entry, eq=False, gc=False):
    """One accepted send. It is itself the queued message: one object a send.

    `outcome` is None until the send has come to its end, and is then set once
    for all. `id` is the message's id on the wire ("" under `codec="raw"`).
    """

    id: str = ""
    #: Takes a message back; the mailbox's.
    take_back: Any = None
    settled_event: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.id!r}: {self.outcome or 'pending'}>"

    def settle(self, outcome: Outcome) -> None:
        # As `Entry.settle`; a call less at every message.
        if self.outcome is None:
            self.outcome = outcome
        # The collector does not look into this object, so what is settled must
        # not keep the connection, and with it perhaps its own holder, alive.
        self.take_back = None
        if self.settled_event is not None:
            self.settled_event.set()

    def withdraw(self) -> bool:
        """Take the message back. True: it is never sent, and the outcome is
        `withdrawn`. False: it is committed or settled already; nothing changed."""
        return self.take_back is not None and bool(self.take_back(self))

    async def wait_written(self) -> None:
        """Wait until the kernel has taken the message's last byte.

        Raises `Undelivered` if it came to nothing. Cancelling stops the wait
        and nothing else: the message stays queued.
        """
        await trio.lowlevel.checkpoint()
        if self.outcome is None:
            if self.settled_event is None:
                self.settled_event = trio.Event()
            await self.settled_event.wait()
        assert self.outcome is not None
        if self.outcome.kind not in ("written", "acked", "kept"):
            raise Undelivered(self.outcome)

    async def wait_acked(self) -> None:
        """Wait until the peer's program took the message; sessions only.

        Raises `NoSession` on a plain link, where nobody can tell.
        """
        await trio.lowlevel.checkpoint()
        raise NoSession("a plain link has no acks: use wait_written()")

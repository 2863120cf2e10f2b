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
    #: Where it was sent.
    mailbox: Any = None
    #: Set, and then None again, when something may have changed for who waits.
    changed: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.id!r}: {self.outcome or 'pending'}>"

    def disown(self) -> None:
        """It was not accepted, and never will be settled."""
        # The traceback of the error that it was not accepted for has it still.
        self.mailbox = None

    def settle(self, outcome: Outcome) -> None:
        # As `Entry.settle`; a call less at every message.
        if self.outcome is None:
            self.outcome = outcome
        # The collector does not look into this object, so what is settled must
        # not keep the connection, and with it perhaps its own holder, alive.
        self.mailbox = None
        if self.changed is not None:
            self.notify()

    def notify(self) -> None:
        """Let those who wait look again."""
        changed, self.changed = self.changed, None
        if changed is not None:
            changed.set()

    def withdraw(self) -> bool:
        """Take the message back. True: it is never sent, and the outcome is
        `withdrawn`. False: it is settled, or committed: numbered into a batch of
        a session, or handed to a plain link. It may then still be withdrawn: where
        a session finds out that it has not arrived, it is not sent again."""
        return self.mailbox is not None and bool(self.mailbox.withdraw(self))

    async def wait_written(self) -> None:
        """Wait until the kernel has taken the message's last byte.

        Raises `Undelivered` if it came to nothing. Cancelling stops the wait
        and nothing else: the message stays queued.
        """
        await trio.lowlevel.checkpoint()
        mailbox = self.mailbox
        if mailbox is not None and not mailbox.is_written(self):
            mailbox.watch(self)
            while self.outcome is None and not mailbox.is_written(self):
                await self._wait()
        self._check()

    async def wait_acked(self) -> None:
        """Wait until the peer's program took the message; sessions only.

        Raises `Undelivered` if it came to nothing, and `NoSession` on a plain
        link, where nobody can tell. Cancelling stops the wait and nothing else.
        """
        await trio.lowlevel.checkpoint()
        mailbox = self.mailbox
        while self.outcome is None and not mailbox.is_plain:
            await self._wait()
        if self.outcome is None or self.outcome.kind == "written":
            raise NoSession("a plain link has no acks: use wait_written()")
        self._check()

    async def wait_settled(self) -> None:
        """Wait for the best outcome there is: `acked` in a session, `written` without.

        Raises `Undelivered` if it came to nothing. Cancelling stops the wait
        and nothing else.
        """
        await trio.lowlevel.checkpoint()
        while self.outcome is None:
            await self._wait()
        self._check()

    async def _wait(self) -> None:
        if self.changed is None:
            self.changed = trio.Event()
        await self.changed.wait()

    def _check(self) -> None:
        outcome = self.outcome
        if outcome is not None and outcome.kind not in ("written", "acked", "kept"):
            raise Undelivered(outcome)

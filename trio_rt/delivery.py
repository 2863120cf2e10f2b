"""`Delivery`: what `send` returns, and how a send came out."""

from __future__ import annotations

from collections.abc import Callable

import trio

from .errors import NoSession, Undelivered
from .message import Outcome, Priority
from .protocol.lanes import Entry

__all__ = ["Delivery"]


class Delivery(Entry):
    """One accepted send. It is itself the queued message: one object a send.

    `outcome` is None until the send has come to its end, and is then set once
    for all. `id` is the message's id on the wire ("" under `codec="raw"`).
    """

    __slots__ = ("_event", "_withdraw", "id")

    def __init__(
        self,
        id: str,
        data: bytes,
        binary: bool,
        priority: Priority,
        key: str | None,
        order: str | None,
        expires_at: float,
        ephemeral: bool,
        withdraw: Callable[[Entry], bool],
    ) -> None:
        super().__init__(
            data,
            binary=binary,
            priority=priority,
            key=key,
            order=order,
            expires_at=expires_at,
            ephemeral=ephemeral,
        )
        self.id = id
        self._withdraw = withdraw
        self._event: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.id!r}: {self.outcome or 'pending'}>"

    def settle(self, outcome: Outcome) -> None:
        super().settle(outcome)
        if self._event is not None:
            self._event.set()

    def withdraw(self) -> bool:
        """Take the message back. True: it is never sent, and the outcome is
        `withdrawn`. False: it is committed or settled already; nothing changed."""
        return self._withdraw(self)

    async def wait_written(self) -> None:
        """Wait until the kernel has taken the message's last byte.

        Raises `Undelivered` if it came to nothing. Cancelling stops the wait
        and nothing else: the message stays queued.
        """
        await trio.lowlevel.checkpoint()
        if self.outcome is None:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()
        assert self.outcome is not None
        if self.outcome.kind not in ("written", "acked", "kept"):
            raise Undelivered(self.outcome)

    async def wait_acked(self) -> None:
        """Wait until the peer's program took the message; sessions only.

        Raises `NoSession` on a plain link, where nobody can tell.
        """
        await trio.lowlevel.checkpoint()
        raise NoSession("a plain link has no acks: use wait_written()")

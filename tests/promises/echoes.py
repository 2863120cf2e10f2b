"""A peer that answers some of what it receives."""

from __future__ import annotations

from typing import Any

from trio_rt import Message, Priority

from .actors import say
from .plans import PeerPlan, Plan, Send
from .records import Side

__all__ = ["Echo"]


class Echo:
    """Answers some of what a peer receives, without ever waiting."""

    def __init__(self, side: Side, plan: Plan, peer: PeerPlan) -> None:
        self._side = side
        self._plan = plan
        self._every = peer.echo_every
        self._count = 0

    def __call__(self, message: Message[Any]) -> None:
        self._count += 1
        if not self._every or self._count % self._every:
            return
        send = Send(
            wait_s=0.0,
            verb="nowait",
            size=len(message.payload),
            wide=False,
            binary=False,
            type="a",
            priority=Priority.NORMAL,
            key=None,
            order=None,
            ttl_s=None,
            when_offline="queue",
            patience_s=0.0,
        )
        _at_once(say(self._side, self._plan, f"{self._side.name}.e", self._count, send))


def _at_once(coroutine: Any) -> None:
    """Run a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")

"""What `trio-rt serve` says in its log of what its hub does."""

from __future__ import annotations

import logging
from typing import Any, Final

import trio

from ..hub import Hub, Rules, Who

__all__ = ["Attendant", "log", "watch"]

_log: Final = logging.getLogger("trio_rt.serve")

#: Between two looks at the hub.
LOOK_S: Final = 0.5


def log(level: int, message: str, **fields: Any) -> None:
    """A record with fields: `event`, `peer`, `user` and what else there is."""
    _log.log(level, message, extra={"fields": fields})


class Attendant(Rules):
    """Says who comes and goes: each session, not each link. Lets everybody do everything."""

    hub: Hub

    def __init__(self, *options: Any) -> None:
        super().__init__(*options)
        self._users: dict[Any, str] = {}

    async def who(self, peer: Any) -> Who:
        who = await super().who(peer)
        self._users[peer] = who.user
        remote = peer.handshake.remote
        log(logging.INFO, "connected", event="opened", peer=remote, user=who.user)
        return who

    async def __call__(self, peer: Any) -> None:
        """The handler of `serve()`: the hub's."""
        began = trio.current_time()
        try:
            await self.hub(peer)
        finally:
            user = self._users.pop(peer, "")
            lasted_s = round(trio.current_time() - began, 3)
            remote = peer.handshake.remote
            log(
                logging.INFO,
                "disconnected",
                event="closed",
                peer=remote,
                user=user,
                seconds=lasted_s,
            )


async def watch(hub: Hub) -> None:
    """Say when the store is there, and is not, and that peers lag; until cancelled."""
    up, lags = True, 0
    while True:
        now = hub.statistics()
        if now.broker_up is not up:
            up = now.broker_up
            if up:
                log(logging.INFO, "the broker is up", event="broker_up")
            else:
                log(logging.WARNING, "the broker is down", event="broker_down")
        if now.lags > lags:
            text = "peers do not keep up"
            log(logging.WARNING, text, event="lagging", count=now.lags - lags, now=now.lagging)
            lags = now.lags
        await trio.sleep(LOOK_S)

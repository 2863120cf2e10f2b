"""Hubs on a virtual network, their clients, and what the tests of rooms share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal

import attrs
import pytest
import trio

import trio_rt
from trio_rt.hub._broker import Broker
from trio_rt.hub._client.desk import _desks
from trio_rt.hub._client.items import RoomItem, RoomMessage
from trio_rt.hub._client.membership import Membership
from trio_rt.hub._server.hub import Hub, open_hub
from trio_rt.hub._server.rules import HubLimits, Rules
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.options import OutboxLimits, Reconnect
from trio_rt.testing import LinkProfile, VirtualNetwork

__all__ = [
    "CARRIERS",
    "Carrier",
    "HubWorld",
    "all_ready",
    "carriers",
    "desks",
    "messages",
    "open_hub_world",
    "payloads",
    "take",
]

#: Redials at once, or nearly so.
QUICK: Final = Reconnect(first_s=0.05, cap_s=0.5)


@attrs.frozen
class Carrier:
    """How a client and its hub speak."""

    session: Literal["off", "require"]
    codec: Literal["json", "msgpack"]

    def __str__(self) -> str:
        return f"{'plain' if self.session == 'off' else 'session'}-{self.codec}"


CARRIERS: Final = [
    Carrier("require", "json"),
    Carrier("off", "json"),
    Carrier("require", "msgpack"),
    Carrier("off", "msgpack"),
]

#: The test is run with each.
carriers = pytest.mark.parametrize("carrier", CARRIERS, ids=str)


class HubWorld:
    """A network with a hub on the host `server`, which can be stopped and started again."""

    def __init__(
        self, network: VirtualNetwork, nursery: trio.Nursery, carrier: Carrier, **options: Any
    ) -> None:
        self.network: Final = network
        self.nursery: Final = nursery
        self.carrier: Final = carrier
        self.hub: Hub
        self._options: Final = options
        self._scope: trio.CancelScope

    async def start(self, broker: Broker | None = None) -> None:
        """Start a hub."""
        await self.nursery.start(self._run, broker or MemoryBroker())

    async def stop(self) -> None:
        """Kill it, with all its links."""
        self.network.cut("server")
        self._scope.cancel()
        await trio.testing.wait_all_tasks_blocked()

    def connect(self, user: str, **options: Any) -> AbstractAsyncContextManager[trio_rt.Connection]:
        """A client, on a host of the user's name."""
        options.setdefault("session", self.carrier.session)
        options.setdefault("codec", self.carrier.codec)
        options.setdefault("reconnect", QUICK)
        options.setdefault("open_stream", self.network.open_stream_from(user))
        conn: AbstractAsyncContextManager[trio_rt.Connection] = trio_rt.connect(
            f"ws://server/{user}", **options
        )
        return conn

    async def _run(self, broker: Broker, task_status: trio.TaskStatus[None]) -> None:
        options = self._options
        with trio.CancelScope() as self._scope:
            async with open_hub(
                broker,
                rules=options.get("rules", Rules()),
                limits=options.get("limits", HubLimits(rate_per_s=10_000, burst=10_000)),
                lagging=options.get("lagging", "gap"),
            ) as self.hub:
                listener = self.network.listen("server", 80)
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._serve, listener)
                    task_status.started()

    async def _serve(self, listener: Any, task_status: trio.TaskStatus[Any]) -> None:
        await trio_rt.serve_listeners(
            self.hub,
            [listener],
            accept=_accept,
            codec=self.carrier.codec,
            outbox=self._options.get("outbox", OutboxLimits()),
            task_status=task_status,
        )


async def _accept(handshake: trio_rt.Handshake) -> str | None:
    await trio.lowlevel.checkpoint()
    return handshake.path.removeprefix("/") or None


@asynccontextmanager
async def open_hub_world(
    carrier: Carrier = CARRIERS[0],
    *,
    broker: Broker | None = None,
    latency_s: float = 0.02,
    seed: int = 1,
    **options: Any,
) -> AsyncIterator[HubWorld]:
    """A world with a hub that runs. At the end no room is held by anybody."""
    network = VirtualNetwork(seed, profile=LinkProfile(latency_s=latency_s))
    async with trio.open_nursery() as nursery:
        world = HubWorld(network, nursery, carrier, **options)
        await world.start(broker)
        yield world
        assert not desks()
        nursery.cancel_scope.cancel()


def desks() -> int:
    """Connections over which somebody holds a room."""
    return len(_desks)


async def take(room: Membership[Any], count: int) -> list[RoomItem[Any]]:
    """The next `count` items."""
    return [await room.receive() for _ in range(count)]


async def messages(room: Membership[Any], count: int) -> list[RoomMessage[Any]]:
    """The next `count` messages; what else there is between them is skipped."""
    found: list[RoomMessage[Any]] = []
    while len(found) < count:
        item = await room.receive()
        if isinstance(item, RoomMessage):
            found.append(item)
        else:
            assert not isinstance(item, (trio_rt.Gap, trio_rt.Reset)), item
    return found


async def payloads(room: Membership[Any], count: int) -> list[Any]:
    """Of the next `count` messages."""
    return [message.payload for message in await messages(room, count)]


async def all_ready(room: Membership[Any]) -> list[RoomItem[Any]]:
    """What is there when nothing happens any more."""
    await trio.sleep(1)
    found = []
    while True:
        try:
            found.append(room.receive_nowait())
        except trio.WouldBlock:
            return found

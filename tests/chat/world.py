"""A chat's service on a virtual network, which can be killed and started again.

Users are `name` or `name/device`, known by the path that they connect to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

import trio_rt
from trio_rt.chat import ChatService, open_chat_service
from trio_rt.hub import Broker, HubLimits, MemoryBroker, Who
from trio_rt.options import OutboxLimits
from trio_rt.testing import LinkProfile, VirtualNetwork

from ..hub.support import CARRIERS, Carrier, HubWorld, desks

__all__ = ["ServiceWorld", "open_service_world"]


class ServiceWorld(HubWorld):
    """Its hub is the service's."""

    service: ChatService

    async def _run(self, broker: Broker, task_status: trio.TaskStatus[None]) -> None:
        options = self._options
        with trio.CancelScope() as self._scope:
            async with open_chat_service(
                broker,
                limits=options.get("limits", HubLimits(rate_per_s=10_000, burst=10_000, grace_s=1)),
                owners=options.get("owners"),
            ) as self.service:
                self.hub = self.service.hub
                listener = self.network.listen("server", 80)
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._serve, listener)
                    task_status.started()

    async def _serve(self, listener: Any, task_status: trio.TaskStatus[Any]) -> None:
        await trio_rt.serve_listeners(
            self.service,
            [listener],
            accept=_accept,
            codec=self.carrier.codec,
            outbox=self._options.get("outbox", OutboxLimits()),
            task_status=task_status,
        )


async def _accept(handshake: trio_rt.Handshake) -> Who:
    await trio.lowlevel.checkpoint()
    user, _, device = handshake.path.removeprefix("/").partition("/")
    return Who(user, device, {"name": user.title(), "status": "online", "avatar": ""})


@asynccontextmanager
async def open_service_world(
    carrier: Carrier = CARRIERS[0],
    *,
    broker: Broker | None = None,
    latency_s: float = 0.02,
    seed: int = 1,
    **options: Any,
) -> AsyncIterator[ServiceWorld]:
    """A world with a service that runs. At the end no room is held by anybody."""
    network = VirtualNetwork(seed, profile=LinkProfile(latency_s=latency_s))
    async with trio.open_nursery() as nursery:
        world = ServiceWorld(network, nursery, carrier, **options)
        await world.start(broker or MemoryBroker())
        yield world
        assert not desks()
        nursery.cancel_scope.cancel()

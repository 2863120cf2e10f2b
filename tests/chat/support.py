"""Chats on a virtual network, and what their tests share: users are `name` or `name/device`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio

from trio_rt import Connection, Refused
from trio_rt.chat._client.chat import open_chat
from trio_rt.chat._client.events import EventStream
from trio_rt.chat._client.room import ChatRoom
from trio_rt.chat._service.service import open_chat_service
from trio_rt.chat._words import TYPING
from trio_rt.chat.models import RoomEvent
from trio_rt.hub._broker import Broker
from trio_rt.hub._server.rules import HubLimits, Rules, Who
from trio_rt.hub._words import Publish
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.testing import LinkProfile, VirtualNetwork

from ..hub.support import CARRIERS, Carrier, HubWorld, desks, open_hub_world

__all__ = [
    "FORBIDDEN",
    "Doorman",
    "ServiceWorld",
    "all_events",
    "contents",
    "enter",
    "in_room",
    "leftovers",
    "next_of",
    "open_chat_world",
    "open_service_world",
    "restart",
    "states_of",
    "tells",
]

EventT = TypeVar("EventT")

#: What nobody may say.
FORBIDDEN = "a swear word"

OWNERS = {"lobby": {"olga"}}


class Doorman(Rules):
    """Knows users and their devices by the path, and does not let them swear while `strict`."""

    async def who(self, peer: Any) -> Who:
        user, _, device = peer.identity.partition("/")
        return Who(user, device, {"name": user.title(), "status": "online", "avatar": ""})

    def __init__(self) -> None:
        self.strict = True
        #: When which user said that it types, or has stopped.
        self.typing: list[tuple[float, str, bool]] = []

    async def may_publish(self, who: Who, message: Publish) -> bool:
        payload = message.payload
        if message.type == TYPING:
            self.typing.append((trio.current_time(), who.user, payload["on"]))
        elif self.strict and payload.get("content") == FORBIDDEN:
            raise Refused("forbidden", "no swearing")
        return True


@asynccontextmanager
async def open_chat_world(
    carrier: Carrier = CARRIERS[0], *, broker: Broker | None = None, **options: Any
) -> AsyncIterator[HubWorld]:
    """A hub with users as above. At the end no room is held by anybody."""
    options.setdefault("rules", Doorman())
    options.setdefault("limits", HubLimits(rate_per_s=10_000, burst=10_000, grace_s=1))
    async with open_hub_world(carrier, broker=broker, **options) as world:
        yield world


class ServiceWorld(HubWorld):
    """With the chat's own service; `olga` is the owner of the lobby."""

    async def _run(self, broker: Broker, task_status: trio.TaskStatus[None]) -> None:
        limits = HubLimits(rate_per_s=10_000, burst=10_000, grace_s=1)
        with trio.CancelScope() as self._scope:
            async with open_chat_service(broker, limits=limits, owners=OWNERS) as service:
                self.hub = service.hub
                listener = self.network.listen("server", 80)
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._serve, listener)
                    task_status.started()


@asynccontextmanager
async def open_service_world(carrier: Carrier = CARRIERS[0]) -> AsyncIterator[ServiceWorld]:
    """A chat's service on a network. At the end no room is held by anybody."""
    network = VirtualNetwork(1, profile=LinkProfile(latency_s=0.02))
    async with trio.open_nursery() as nursery:
        world = ServiceWorld(network, nursery, carrier)
        await world.start()
        yield world
        assert not desks()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def enter(
    world: HubWorld, user: str, room: str = "lobby", **options: Any
) -> AsyncIterator[ChatRoom]:
    """A room held by `user` over a connection of its own."""
    history = options.pop("history", 50)
    async with (
        world.connect(user, **options) as conn,
        open_chat(conn) as chat,
        chat.room(room, history) as held,
    ):
        yield held


def in_room(
    conn: Connection, room: str = "lobby", history: int = 50
) -> AbstractAsyncContextManager[ChatRoom]:
    """A room held over `conn`."""

    @asynccontextmanager
    async def hold() -> AsyncIterator[ChatRoom]:
        async with open_chat(conn) as chat, chat.room(room, history) as held:
            yield held

    return hold()


async def restart(world: HubWorld, broker: MemoryBroker | None = None) -> None:
    """The hub is killed, and another one started on `broker`, or on an empty store."""
    await world.stop()
    await world.start(broker)


def contents(room: ChatRoom) -> list[str]:
    """What is shown."""
    return [message.content for message in room.messages]


def states_of(room: ChatRoom) -> list[tuple[str, str]]:
    """What is shown, with the state of each."""
    return [(message.content, message.state) for message in room.messages]


async def next_of(events: EventStream, kind: type[EventT]) -> EventT:
    """The next event of that kind; others are skipped."""
    while True:
        event = await events.receive()
        if isinstance(event, kind):
            return event


async def all_events(events: EventStream, quiet_s: float = 1.0) -> list[RoomEvent]:
    """What is there when nothing happens for a while."""
    await trio.sleep(quiet_s)
    found = []
    while True:
        try:
            found.append(events.receive_nowait())
        except trio.WouldBlock:
            return found


def tells(events: list[RoomEvent], kind: type[EventT]) -> list[EventT]:
    """Those of that kind."""
    return [event for event in events if isinstance(event, kind)]


def leftovers(conn: Connection) -> tuple[int, int]:
    """Subscriptions and state streams that are open."""
    return len(conn._session.inbox._queues), len(conn._board._watchers)

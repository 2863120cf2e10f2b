"""What the tests of a hub's server side share: a hub behind a server, and peers that talk to it.

async with open_house() as house:
    anna = await house.enter("anna")
    await anna.join("lobby")
    done = await anna.ask(PUBLISH, room="lobby", payload="hello")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

import trio_rt
from tests.strangers import Site, open_site
from trio_rt import Message
from trio_rt.hub import Broker, Hub, HubLimits, Rules, open_hub
from trio_rt.hub._words import JOIN, Event, room_type

__all__ = ["House", "Talker", "open_door", "open_house"]

LIMIT_S = 60.0


class Talker:
    """A peer of a hub, by a connection of the library, and all that it was told."""

    def __init__(self, conn: trio_rt.Connection, scope: trio.CancelScope) -> None:
        self.conn = conn
        self.scope = scope
        #: With their types, in order.
        self.told: list[tuple[str, Event]] = []
        self.gone = trio.Event()
        #: What may not be read for now.
        self.reads = trio.Event()
        self.reads.set()
        self._news = trio.Event()

    async def ask(self, command: str, /, **fields: Any) -> Event:
        """Give a command, and wait for the answer."""
        return await self.answer(await self.say(command, **fields))

    async def say(self, command: str, /, **fields: Any) -> str:
        """Give a command: its id."""
        return (await self.conn.send(command, fields)).id

    async def answer(self, re: str) -> Event:
        await self.until(lambda: any(event.re == re for _, event in self.told))
        (found,) = (event for _, event in self.told if event.re == re)
        return found

    async def join(self, room: str) -> Event:
        done = await self.ask(JOIN, room=room)
        assert done.kind == "done", done
        return done

    def of(self, room: str, *kinds: str) -> list[Event]:
        """What was told of a room, of these kinds or of all, but the answers."""
        return [
            event
            for type, event in self.told
            if type == room_type(room) and not event.re and (not kinds or event.kind in kinds)
        ]

    def heard(self, room: str) -> list[Any]:
        """The payloads of the messages in a room; "own" for those of its own."""
        return [
            event.payload if event.kind == "message" else "own"
            for event in self.of(room, "message", "own")
        ]

    def offsets(self, room: str) -> list[int]:
        return [event.offset for event in self.of(room, "message", "own") if event.offset]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until what was told makes it true."""
        with trio.fail_after(LIMIT_S):
            await trio.lowlevel.checkpoint()
            while not condition():
                await self._news.wait()

    async def hears(self, room: str, count: int) -> list[Any]:
        """Wait for so many messages in a room: their payloads."""
        await self.until(lambda: len(self.heard(room)) >= count)
        return self.heard(room)

    async def looks(self, room: str) -> Event:
        """Wait until it is told to look at a room."""
        await self.until(lambda: self.of(room, "room"))
        return self.of(room, "room")[-1]

    async def listen(self) -> None:
        with self.conn.subscribe(as_=Event) as stream:
            async for item in stream:
                if isinstance(item, Message):
                    self.told.append((item.type, item.payload))
                    self._news.set()
                    self._news = trio.Event()
                await self.reads.wait()

    async def leave(self) -> None:
        """End the connection."""
        self.scope.cancel()
        await self.gone.wait()


class House:
    """A hub in a virtual network."""

    def __init__(self, hub: Hub, site: Site) -> None:
        self.hub = hub
        self.site = site

    async def enter(self, user: str, **options: Any) -> Talker:
        """A peer; without a session unless it is asked for. In `device` the user's device."""
        device = options.pop("device", "")
        options.setdefault("session", "off")
        url = f"ws://server/{user}/{device}"

        async def live(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            with trio.CancelScope() as scope:
                async with trio_rt.connect(
                    url, open_stream=self.site.network.open_stream, **options
                ) as conn:
                    await conn.wait_connected()
                    talker = Talker(conn, scope)
                    task_status.started(talker)
                    try:
                        await talker.listen()
                    finally:
                        talker.gone.set()

        talker: Talker = await self.site.nursery.start(live)
        return talker


@asynccontextmanager
async def open_door(hub: Hub, **serve: Any) -> AsyncIterator[House]:
    """A server of the hub: one hub may have several, of different codecs."""
    async with open_site(hub, accept=who_is, **serve) as site:
        yield House(hub, site)


async def who_is(handshake: trio_rt.Handshake) -> trio_rt.hub.Who:
    """Who somebody is, and which device, by the path."""
    user, _, device = handshake.path.removeprefix("/").partition("/")
    return trio_rt.hub.Who(user, device, {"name": user})


@asynccontextmanager
async def open_house(
    broker: Broker | None = None,
    *,
    rules: Rules | None = None,
    limits: HubLimits | None = None,
    lagging: Any = "gap",
    **serve: Any,
) -> AsyncIterator[House]:
    """A hub with a server, and a network with latency. Nothing is left over at the end."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(
            open_hub(broker, rules=rules, limits=limits or HubLimits(), lagging=lagging)
        )
        yield await stack.enter_async_context(open_door(hub, **serve))
    counts = hub.statistics()
    assert (counts.peers, counts.rooms, counts.members, counts.lagging) == (0, 0, 0, 0)

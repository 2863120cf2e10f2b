"""Stories of chats over a bad network: in the end all see the same, and nothing is doubled.

Some users, one of them on two devices, say, edit, react and type in two rooms, while links
are cut, peers stalled, and the hub is killed and started again on its store.
"""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
import trio

from trio_rt import Gap, Reset
from trio_rt.chat._client.chat import open_chat
from trio_rt.chat._client.room import ChatRoom
from trio_rt.chat.models import ChatMessage, Spoken
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.options import Liveness
from trio_rt.testing import run

from ..hub.support import CARRIERS, HubWorld
from .support import all_events, open_chat_world

SEEDS = 24
WHO = ("ann/phone", "ann/laptop", "bob", "eve")
ROOMS = ("red", "blue")
SAID = 12
FAULTS_S = 6.0


@attrs.define
class View:
    """Of one device in one room, when all is quiet."""

    messages: list[ChatMessage]
    #: Ids, in the order in which they were told.
    told: list[str]
    lost: int
    typing: int


@attrs.define
class Story:
    #: Contents, by device and room, in the order in which they were said.
    said: dict[tuple[str, str], list[str]] = attrs.field(factory=dict)
    views: dict[tuple[str, str], View] = attrs.field(factory=dict)
    stuck: list[str] = attrs.field(factory=list)
    restarts: int = 0
    resumes: int = 0


class Scene:
    def __init__(self, world: HubWorld, broker: MemoryBroker, seed: int) -> None:
        self.world, self.broker = world, broker
        self.draw = random.Random(f"{seed} chat")
        self.story = Story()
        self.quiet = trio.Event()
        self.talking = len(WHO) * len(ROOMS)

    async def play(self) -> None:
        async with trio.open_nursery() as nursery:
            for who in WHO:
                nursery.start_soon(self._live, who)
            await self._disturb()
            with trio.move_on_after(300) as limit:
                while self.talking:
                    await trio.sleep(0.5)
            await trio.sleep(30)
            self.story.stuck += ["talking"] * limit.cancelled_caught
            self.quiet.set()

    async def _disturb(self) -> None:
        network, draw = self.world.network, self.draw
        began = trio.current_time()
        while trio.current_time() < began + FAULTS_S:
            await trio.sleep(draw.uniform(0.05, 1))
            host = draw.choice(WHO)
            match draw.choice(("cut", "cut", "vanish", "stall", "restart")):
                case "stall":
                    network.stall(host)
                    await trio.sleep(draw.uniform(0, 1))
                    network.resume(host)
                case "restart":
                    self.story.restarts += 1
                    await self.world.stop()
                    await trio.sleep(draw.uniform(0, 0.5))
                    await self.world.start(self.broker)
                case "cut":
                    network.cut(host, "rst")
                case "vanish":
                    network.cut(host, "vanish")

    async def _live(self, who: str) -> None:
        liveness = Liveness(interval_s=1, timeout_s=1)
        async with (
            self.world.connect(who, liveness=liveness) as conn,
            open_chat(conn) as chat,
            chat.room(ROOMS[0]) as red,
            chat.room(ROOMS[1]) as blue,
            trio.open_nursery() as nursery,
        ):
            for room in (red, blue):
                nursery.start_soon(self._talk, who, room)
            with conn.watch_states() as states:
                while not self.quiet.is_set():
                    with trio.move_on_after(1):
                        self.story.resumes += (await states.receive()).resumed

    async def _talk(self, who: str, room: ChatRoom) -> None:
        said = self.story.said[who, room.name] = []
        with room.events(capacity=10_000) as events:
            handles = []
            for n in range(SAID):
                await trio.sleep(self.draw.uniform(0, 0.8))
                said.append(f"{who} {n}")
                handles.append(await room.say(said[-1]))
                await self._do_more(room)
            for handle in handles:
                await handle.wait_acked()
            self.talking -= 1
            await self.quiet.wait()
            self._note(who, room, await all_events(events))

    async def _do_more(self, room: ChatRoom) -> None:
        stored = [message for message in room.messages if message.offset]
        room.keystroke()
        if stored:
            target = self.draw.choice(stored)
            match self.draw.randrange(5):
                case 0:
                    await room.react(target, "x", on=self.draw.random() < 0.7)
                case 1 if target.mine:
                    await room.edit(target, f"{target.content}!")
                case 2:
                    await room.mark_read(target)

    def _note(self, who: str, room: ChatRoom, events: list[Any]) -> None:
        told = [event.message.id for event in events if isinstance(event, Spoken)]
        lost = sum(isinstance(event, (Gap, Reset)) for event in events)
        typing = len(room.typing_users)
        self.story.views[who, room.name] = View(list(room.messages), told, lost, typing)


async def tell(seed: int) -> Story:
    broker = MemoryBroker()
    carrier = CARRIERS[seed % len(CARRIERS)]
    latency_s = (0.001, 0.02, 0.1)[seed % 3]
    async with open_chat_world(carrier, broker=broker, seed=seed, latency_s=latency_s) as world:
        scene = Scene(world, broker, seed)
        await scene.play()
    return scene.story


def shown(message: ChatMessage) -> tuple[Any, ...]:
    """What must be the same for all."""
    users = {key: sorted(ids) for key, ids in message.reactions.items()}
    user = message.user.id
    return message.id, message.offset, user, message.content, message.state, users


@pytest.mark.parametrize("seed", range(SEEDS))
def test_story(seed: int) -> None:
    """Every message is once in each view, told once, and in its user's order."""
    story = run(tell, seed, seed=seed)
    assert not story.stuck
    for room in ROOMS:
        views = [story.views[who, room] for who in WHO]
        assert all(
            [shown(message) for message in view.messages]
            == [shown(message) for message in views[0].messages]
            for view in views
        )
        contents = [message.content.rstrip("!") for message in views[0].messages]
        assert len(contents) == len(set(contents)) == len(WHO) * SAID
        for who in WHO:
            said = story.said[who, room]
            assert [content for content in contents if content in set(said)] == said
        for view in views:
            ids = [message.id for message in view.messages]
            assert (view.lost, view.typing) == (0, 0)
            assert view.told == ids[len(ids) - len(view.told) :]
            assert {message.state for message in view.messages} == {"echoed"}


def test_stories_meet_something() -> None:
    """They would prove nothing otherwise."""
    stories = [run(tell, seed, seed=seed) for seed in range(8)]
    assert sum(story.restarts for story in stories) > 2
    assert sum(story.resumes for story in stories) > 5
    assert len({view.messages[0].id for view in stories[0].views.values()}) == len(ROOMS)

"""Stories of a chat over a bad network: `python -m tests.chat.sweep --seeds N --first A`.

Users with one or two devices talk in one room or two: they say, edit, delete and react, type
and stop, read, change their status, go and come back, while links are cut, peers stalled, and
the service is killed and started again, with its store or with an empty one. When that is over,
and all is quiet, everybody who is there must show the same: what the log comes to, who is
there and nobody typing, each message once and each user's in the order in which they were said.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import attrs
import msgspec
import trio
import trio.testing

from trio_rt import Gap, Refused, Reset
from trio_rt.chat import ChatMessage, ChatRoom, RoomEvent, Said, Spoken, open_chat
from trio_rt.hub import BrokerError, Draft, HubLimits, LogLimits, MemoryBroker, Position
from trio_rt.options import Liveness
from trio_rt.testing import run

from ..hub.support import CARRIERS, Carrier
from .world import ServiceWorld, open_service_world

__all__ = ["Plan", "Story", "breaches", "draw_plan", "run_seed", "tell"]

FaultKind = Literal["cut", "vanish", "stall", "restart", "wipe"]
ActKind = Literal[
    "say", "edit", "delete", "react", "key", "type", "read", "status", "leave", "page", "withdraw"
]

FAULTS_S: Final = 8.0
QUIET_S: Final = 300.0
KINDS: Final = ("text", "image", "file")


@attrs.frozen(kw_only=True)
class Plan:
    """What a seed makes of a story."""

    carrier: Carrier
    #: Devices, as `user/device`, and the rooms of each.
    devices: tuple[tuple[str, tuple[str, ...]], ...]
    acts: int
    latency_s: float
    log: LogLimits
    limits: HubLimits
    history: int
    faults: tuple[tuple[float, FaultKind, str], ...]

    @property
    def keeps_all(self) -> bool:
        """Whether no log ever loses anything."""
        return self.log == LogLimits() and not any(kind == "wipe" for _, kind, _ in self.faults)


def draw_plan(seed: int) -> Plan:
    """The plan of `seed`."""
    draw = random.Random(f"{seed} chat")
    rooms = ("lobby", "den")[: draw.randint(1, 2)]
    devices = []
    for number in range(draw.randint(2, 3)):
        own = tuple(room for room in rooms if room == "lobby" or draw.random() < 0.7)
        devices += [(f"user{number}/{device}", own) for device in range(draw.choice((1, 1, 2)))]
    faults = [
        (
            draw.uniform(0.2, FAULTS_S),
            *draw.choices(get_args(FaultKind), (8, 1, 1, 2, 0.5)),
            draw.choice(devices)[0].partition("/")[0],
        )
        for _ in range(draw.randint(0, 10))
    ]
    return Plan(
        carrier=CARRIERS[seed % len(CARRIERS)],
        devices=tuple(devices),
        acts=draw.randint(5, 30),
        latency_s=draw.choice((0.001, 0.005, 0.05, 0.2)),
        log=LogLimits(messages=draw.randint(2, 40)) if draw.random() < 0.15 else LogLimits(),
        limits=HubLimits(
            rate_per_s=draw.choice((20.0, 1000.0)), burst=50, page=draw.choice((3, 100)), grace_s=1
        ),
        history=draw.choice((0, 5, 50)),
        faults=tuple(sorted(faults)),
    )


class Truth(MemoryBroker):
    """A store that remembers what it ever stored."""

    def __init__(self, limits: LogLimits, story: Story) -> None:
        super().__init__(limits)
        self._story = story
        self.logs: dict[str, dict[int, dict[str, Any]]] = {}

    def append(self, draft: Draft, done: Callable[[Position | BrokerError], None]) -> None:
        def noted(result: Position | BrokerError) -> None:
            if isinstance(result, Position):
                body = msgspec.json.decode(draft.body)
                body["target"] = (body["payload"] or {}).get("target", 0)
                log = self.logs.setdefault(draft.room, {})
                assert log.setdefault(result.offset, body)["id"] == body["id"]
            done(result)

        super().append(draft, noted)


@attrs.define(eq=False)
class View:
    """One holder of a room, and what it was told."""

    device: str
    room: ChatRoom
    events: list[RoomEvent] = attrs.field(factory=list)
    said: list[Said] = attrs.field(factory=list)


@attrs.define(eq=False)
class Story:
    plan: Plan
    store: Truth
    #: Those who are there at the end, and all there ever were.
    views: list[View] = attrs.field(factory=list)
    ever: list[View] = attrs.field(factory=list)
    statuses: dict[str, str] = attrs.field(factory=dict)
    met: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)


class Scene:
    """A story while it runs."""

    def __init__(self, plan: Plan, world: ServiceWorld, seed: int, story: Story) -> None:
        self.plan, self.world, self.story = plan, world, story
        self.draw = random.Random(f"{seed} scene")
        self.over = trio.Event()
        self.acting = sum(len(rooms) for _, rooms in plan.devices)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for device, rooms in self.plan.devices:
                nursery.start_soon(self._device, device, rooms)
            with trio.move_on_after(FAULTS_S + QUIET_S):
                await self._do_faults()
                while self.acting or _wrongs(self.story):
                    await trio.sleep(0.5)
            if self.acting:
                self.story.wrong.append(f"{self.acting} are stuck")
            self.story.wrong += _wrongs(self.story)
            self.over.set()

    async def _do_faults(self) -> None:
        began, network = trio.current_time(), self.world.network
        for at, kind, host in self.plan.faults:
            await trio.sleep_until(began + at)
            self.story.met[kind] += 1
            if kind in ("cut", "vanish"):
                for device, _ in self.plan.devices:
                    if device.startswith(host):
                        network.cut(device, "rst" if kind == "cut" else "vanish")
            elif kind == "stall":
                device = self.draw.choice(self.plan.devices)[0]
                network.stall(device)
                await trio.sleep(self.draw.uniform(0, 1))
                network.resume(device)
            else:
                await self.world.stop()
                await trio.sleep(self.draw.uniform(0, 1))
                if kind == "wipe":
                    self.story.store = Truth(self.plan.log, self.story)
                await self.world.start(self.story.store)

    async def _device(self, device: str, rooms: tuple[str, ...]) -> None:
        liveness = Liveness(interval_s=1.0, timeout_s=1.0)
        async with (
            self.world.connect(device, liveness=liveness) as conn,
            open_chat(conn) as chat,
            trio.open_nursery() as nursery,
        ):
            for room in rooms:
                nursery.start_soon(self._live, device, chat, room)

    async def _live(self, device: str, chat: Any, name: str) -> None:
        left = self.plan.acts
        while True:
            async with chat.room(name, history=self.plan.history) as room:
                view = View(device, room)
                self.story.ever.append(view)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, view)
                    async with trio.open_nursery() as acting:
                        while left:
                            left -= 1
                            pace = self.plan.acts / FAULTS_S
                            await trio.sleep(self.draw.expovariate(pace))
                            kind = self.draw.choices(
                                get_args(ActKind), (8, 2, 1, 2, 2, 1, 2, 1, 1, 1, 0.5)
                            )[0]
                            if kind == "leave":
                                break
                            acting.start_soon(self._act, kind, view, chat)
                    if not left:
                        self.acting -= 1
                        self.story.views.append(view)
                        await self.over.wait()
                    nursery.cancel_scope.cancel()
            if not left:
                return

    async def _read(self, view: View) -> None:
        with view.room.events(capacity=100_000) as events:
            async for event in events:
                view.events.append(event)

    async def _act(self, kind: ActKind, view: View, chat: Any) -> None:
        try:
            await self._do(kind, view, chat)
        except Refused as refusal:
            self.story.met[f"{kind}: {refusal.code}"] += 1
            if kind == "say" or refusal.code not in self._gone:
                self.story.wrong.append(f"{view.device} may not {kind}: {refusal!r}")
        else:
            self.story.met[kind] += 1

    @property
    def _gone(self) -> tuple[str, ...]:
        """Why one may not do something about a message that is gone with its log."""
        gone = ("no_message",)
        return gone if self.plan.keeps_all else (*gone, "not_yours", "foreign_epoch", "malformed")

    async def _do(self, kind: ActKind, view: View, chat: Any) -> None:
        draw, room = self.draw, view.room
        some = [message for message in room.messages if message.offset and not message.deleted]
        mine = [message for message in some if message.mine]
        match kind:
            case "say" | "withdraw":
                reply = draw.choice(some) if some and draw.random() < 0.2 else None
                text = f"{view.device} {len(view.said)}"
                said = await room.say(text, kind=draw.choice(KINDS), reply_to=reply)
                view.said.append(said)
                if kind == "withdraw":
                    await trio.sleep(draw.choice((0, 0, 0.01)))
                    self.story.met["withdrawn"] += said.withdraw()
            case "edit" if mine:
                await room.edit(draw.choice(mine), f"edited {draw.random()}")
            case "delete" if mine:
                await room.delete(draw.choice(mine))
            case "react" if some:
                await room.react(draw.choice(some), draw.choice("xyz"), on=draw.random() < 0.7)
            case "key":
                room.keystroke()
            case "type":
                with room.typing():
                    await trio.sleep(draw.uniform(0, 4))
            case "read" if some:
                await room.mark_read(draw.choice(some))
            case "status":
                user = view.device.partition("/")[0]
                status: Any = draw.choice(("away", "online"))
                self.story.statuses[user] = status
                await chat.set_status(status)
            case "page":
                page = await room.history(limit=draw.choice((3, 50)))
                assert [m.offset for m in page] == sorted({m.offset for m in page})


async def _tell(seed: int) -> Story:
    plan = draw_plan(seed)
    story = Story(plan, None)  # type: ignore[arg-type]
    story.store = Truth(plan.log, story)
    async with open_service_world(
        plan.carrier,
        broker=story.store,
        latency_s=plan.latency_s,
        seed=seed,
        limits=plan.limits,
    ) as world:
        await Scene(plan, world, seed, story).run()
    return story


def tell(seed: int) -> Story:
    """The story of `seed`."""
    return run(_tell, seed, seed=seed)


def breaches(story: Story) -> list[str]:
    """What is wrong with it."""
    return story.wrong


# What must hold when all is quiet


def _wrongs(story: Story) -> list[str]:
    found = []
    for view in story.views:
        found += [f"{view.device} in {view.room.name}: {wrong}" for wrong in _view(story, view)]
    for view in story.ever:
        found += [f"{view.device}: {wrong}" for wrong in _sayings(story, view)]
    found += _common(story)
    return found


def _fold(log: dict[int, dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
    """The messages that a log comes to, by offset: another way than the client's."""
    messages: dict[int, list[Any]] = {}
    for offset, body in sorted(log.items()):
        kind, payload, target = body["type"], body["payload"], messages.get(body["target"])
        if kind in KINDS:
            messages[offset] = [body["id"], body["user"], kind, payload["content"], False, {}]
        elif target is None:
            continue
        elif kind == "edit" and not target[4]:
            target[3] = payload["content"]
        elif kind == "delete":
            target[3], target[4] = "", True
        elif kind == "react":
            users = target[5].setdefault(payload["reaction"], set())
            (users.add if payload.get("on", True) else users.discard)(body["user"])
    return {offset: _frozen(*message) for offset, message in messages.items()}


def _frozen(
    id: str, user: str, kind: str, content: str, deleted: bool, reactions: Any
) -> tuple[Any, ...]:
    shown = {name: frozenset(users) for name, users in reactions.items() if users}
    return id, user, kind, content, deleted, {} if deleted else shown


def _shown(message: ChatMessage) -> tuple[Any, ...]:
    return _frozen(
        message.id,
        message.user.id,
        message.kind,
        message.content,
        message.deleted,
        dict(message.reactions),
    )


def _view(story: Story, view: View) -> list[str]:
    found = []
    room = view.room
    truth = _fold(story.store.logs.get(room.name, {}))
    stored = {m.offset: _shown(m) for m in room.messages if m.state == "echoed"}
    ids = [message.id for message in room.messages]
    if len(set(ids)) < len(ids):
        found.append("a message twice")
    if [*stored] != sorted(stored):
        found.append("messages out of order")
    expected = {offset: m for offset, m in truth.items() if offset >= min(stored, default=0)}
    if not story.plan.keeps_all:
        expected = {offset: m for offset, m in expected.items() if offset in stored}
    if any(isinstance(event, Gap) for event in view.events):  # what was said about some is lost
        expected, stored = _identities(expected), _identities(stored)
    if stored != expected and (stored or story.plan.history):
        wrong = [o for o in sorted({*stored, *expected}) if stored.get(o) != expected.get(o)]
        what = [(o, stored.get(o), expected.get(o)) for o in wrong[:3]]
        found.append(f"not what the log comes to: {what}")
    if story.plan.keeps_all and not stored and max(truth, default=0) > _begun(view):
        found.append("nothing is shown")
    waiting = [m for m in room.messages if m.state not in ("echoed", "failed")]
    found += [f"{m.content!r} is still {m.state}" for m in waiting]
    if room.typing_users:
        found.append(f"typing: {room.typing_users}")
    spoken = Counter(
        event.message.id for event in view.events[_after_reset(view) :] if isinstance(event, Spoken)
    )
    found += [f"{id} was told twice" for id, times in spoken.items() if times > 1]
    return found


def _identities(messages: dict[int, tuple[Any, ...]]) -> dict[int, tuple[Any, ...]]:
    return {offset: message[:3] for offset, message in messages.items()}


def _begun(view: View) -> int:
    """An offset from which on it has seen something."""
    return min((said.offset for said in view.said if said.offset), default=1 << 60)


def _after_reset(view: View) -> int:
    resets = [at for at, event in enumerate(view.events) if isinstance(event, Reset)]
    return resets[-1] if resets else 0


def _sayings(story: Story, view: View) -> list[str]:
    found = []
    log = story.store.logs.get(view.room.name, {})
    places = Counter(body["id"] for body in log.values())
    at = {body["id"]: offset for offset, body in log.items()}
    last = 0
    for said in view.said:
        story_keeps = story.plan.keeps_all
        if said.state == "echoed" and story_keeps and places[said.id] != 1:
            found.append(f"{said.message.content!r} is in the log {places[said.id]} times")
        if said.state == "failed" and story_keeps and places[said.id]:
            found.append(f"{said.message.content!r} failed, and is in the log")
        if said.id in at:
            if at[said.id] < last:
                found.append(f"{said.message.content!r} is not in the order in which it was said")
            last = at[said.id]
    return found


def _common(story: Story) -> list[str]:
    """What all who are in a room must see alike."""
    found = []
    for name in ("lobby", "den"):
        rooms = [view.room for view in story.views if view.room.name == name]
        there = {view.device.partition("/")[0] for view in story.views if view.room.name == name}
        for room in rooms:
            if set(room.members) != there:
                found.append(f"in {name} are {there}, not {set(room.members)}")
            if room.members != rooms[0].members:
                found.append(f"in {name} some know others otherwise")
            if room.marks != rooms[0].marks:
                found.append(f"in {name} marks differ")
    return found


def run_seed(seed: int) -> tuple[int, list[str]]:
    """What is wrong with the story of this seed."""
    try:
        return seed, breaches(tell(seed))
    except Exception as error:  # a bug may come out as anything
        inner: BaseException = error
        while isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        return seed, traceback.format_exception(inner)[-5:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    failed = 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for seed, wrong in pool.imap(run_seed, seeds, 5):
            failed += bool(wrong)
            for line in wrong[:5]:
                print(f"seed {seed}: {line.strip()[:400]}")
    print(f"{options.seeds} seeds, {failed} failed, {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

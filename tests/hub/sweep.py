"""Stories of rooms over a bad network: `python -m tests.hub.sweep --seeds N --first A`.

Some users publish and follow one room while links are cut, peers stalled, and the hub is
killed and started again, with its store or with an empty one. When that is over, and all is
quiet, each holder must have every message once and in order, but for what a `Gap` counts
and what a `Reset` says that nobody can count. Every publish must be in the log once.
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

from trio_rt import Gap, Reset
from trio_rt.hub._broker import BrokerError, Draft, LogLimits, Position
from trio_rt.hub._client.items import RoomItem, RoomMessage
from trio_rt.hub._client.membership import Membership
from trio_rt.hub._client.opening import open_room
from trio_rt.hub._server.rules import HubLimits
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.options import Liveness, OutboxLimits
from trio_rt.testing import run

from .support import CARRIERS, Carrier, HubWorld, open_hub_world

__all__ = ["Plan", "Story", "breaches", "draw_plan", "run_seed", "tell"]

ROOM: Final = "the room"
FaultKind = Literal["cut", "vanish", "stall", "restart", "wipe"]

FAULTS_S: Final = 8.0
QUIET_S: Final = 300.0


@attrs.frozen(kw_only=True)
class Plan:
    """What a seed makes of a story."""

    carrier: Carrier
    users: int
    publishes: int
    latency_s: float
    log: LogLimits
    limits: HubLimits
    outbox: OutboxLimits
    #: Of each user's holders: seconds after which it begins, where, capacity, pause per item.
    holders: tuple[tuple[tuple[float, Any, int, float], ...], ...]
    faults: tuple[tuple[float, FaultKind, str], ...]


def draw_plan(seed: int) -> Plan:
    """The plan of `seed`."""
    draw = random.Random(f"{seed} hub")
    users = draw.randint(2, 4)
    holders = [
        tuple(_draw_holder(draw) for _ in range(draw.choice((1, 1, 2)))) for _ in range(users)
    ]
    kinds = get_args(FaultKind)
    faults = [
        (
            draw.uniform(0.2, FAULTS_S),
            *draw.choices(kinds, (8, 1, 1, 2, 1)),
            f"user{draw.randrange(users)}",
        )
        for _ in range(draw.randint(0, 12))
    ]
    tiny, small = draw.random() < 0.2, draw.random() < 0.2
    return Plan(
        carrier=CARRIERS[seed % len(CARRIERS)],
        users=users,
        publishes=draw.randint(5, 40),
        latency_s=draw.choice((0.001, 0.005, 0.05, 0.2)),
        log=LogLimits(messages=draw.randint(1, 30)) if tiny else LogLimits(),
        limits=HubLimits(
            rate_per_s=draw.choice((20.0, 1000.0)), burst=50, page=draw.choice((1, 7, 100))
        ),
        outbox=OutboxLimits(messages=draw.randint(2, 10)) if small else OutboxLimits(),
        holders=tuple(holders),
        faults=tuple(sorted(faults)),
    )


def _draw_holder(draw: random.Random) -> tuple[float, Any, int, float]:
    slow = draw.random() < 0.2
    since = draw.choice((None, None, "start", draw.randint(0, 20)))
    capacity, pause_s = (draw.randint(1, 20), 0.2) if slow else (1000, 0.0)
    return draw.uniform(0, 2), since, capacity, pause_s


class Truth(MemoryBroker):
    """A store that remembers what it ever stored."""

    def __init__(self, limits: LogLimits, story: Story) -> None:
        super().__init__(limits)
        self._story = story

    def append(self, draft: Draft, done: Callable[[Position | BrokerError], None]) -> None:
        def noted(result: Position | BrokerError) -> None:
            if isinstance(result, Position):
                body = msgspec.json.decode(draft.body)
                self._story.newest = result.epoch
                log = self._story.told.setdefault(result.epoch, {})
                assert log.setdefault(result.offset, body)["id"] == body["id"]
            done(result)

        super().append(draft, noted)


@attrs.define(eq=False)
class Holder:
    user: str
    begin: Position
    room: Membership[Any]
    pause_s: float
    items: list[RoomItem[Any]] = attrs.field(factory=list)


@attrs.define(eq=False)
class Story:
    plan: Plan
    told: dict[str, dict[int, dict[str, Any]]] = attrs.field(factory=dict)
    holders: list[Holder] = attrs.field(factory=list)
    said: dict[str, Position] = attrs.field(factory=dict)
    #: The epoch of the last store; "" while it is empty.
    newest: str = ""
    stuck: list[str] = attrs.field(factory=list)
    lags: int = 0


class Scene:
    """A story while it runs."""

    def __init__(self, plan: Plan, world: HubWorld, seed: int, story: Story) -> None:
        self.plan, self.world, self.story = plan, world, story
        self.draw = random.Random(f"{seed} scene")
        self.over = trio.Event()
        self.publishing = plan.users

    async def run(self) -> None:
        story, plan = self.story, self.plan
        async with trio.open_nursery() as nursery:
            for number in range(plan.users):
                nursery.start_soon(self._user, f"user{number}", plan.holders[number])
            with trio.move_on_after(FAULTS_S + QUIET_S) as limit:
                await self._do_faults()
                while self.publishing or not self._is_complete():
                    await trio.sleep(0.5)
            if limit.cancelled_caught:
                story.stuck.append(f"publishing {self.publishing}")
            self.over.set()

    async def _do_faults(self) -> None:
        began, network = trio.current_time(), self.world.network
        for at, kind, host in self.plan.faults:
            await trio.sleep_until(began + at)
            if kind in ("cut", "vanish"):
                network.cut(host, "rst" if kind == "cut" else "vanish")
            elif kind == "stall":
                network.stall(host)
                await trio.sleep(self.draw.uniform(0, 1))
                network.resume(host)
            else:
                self._note_lags()
                await self.world.stop()
                await trio.sleep(self.draw.uniform(0, 1))
                await self.world.start(self.new_store() if kind == "wipe" else self.store)
        self._note_lags()

    def new_store(self) -> MemoryBroker:
        self.story.newest = ""
        self.store = Truth(self.plan.log, self.story)
        return self.store

    def _note_lags(self) -> None:
        self.story.lags += self.world.hub.statistics().lags

    async def _user(self, user: str, holders: Any) -> None:
        liveness = Liveness(interval_s=1.0, timeout_s=1.0)
        async with (
            self.world.connect(user, liveness=liveness) as conn,
            trio.open_nursery() as nursery,
        ):
            for holder in holders:
                nursery.start_soon(self._hold, user, conn, holder)
            async with open_room(conn, ROOM) as room:
                await self._publish(user, room)
                await self.over.wait()

    async def _publish(self, user: str, room: Membership[Any]) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self.plan.publishes):
                await trio.sleep(self.draw.expovariate(self.plan.publishes / FAULTS_S))
                nursery.start_soon(self._say, room, f"{user}-{number}")
        self.publishing -= 1

    async def _say(self, room: Membership[Any], id: str) -> None:
        to: Literal["all", "others"] = "others" if self.draw.random() < 0.1 else "all"
        position = await room.publish({"to": to}, id=id, to=to)
        assert position is not None
        self.story.said[id] = position

    async def _hold(self, user: str, conn: Any, holder: Any) -> None:
        begins_s, since, capacity, pause_s = holder
        await trio.sleep(begins_s)
        async with open_room(conn, ROOM, since=since, capacity=capacity) as room:
            held = Holder(user, room.position, room, pause_s)
            self.story.holders.append(held)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, held)
                await self.over.wait()
                nursery.cancel_scope.cancel()

    async def _read(self, held: Holder) -> None:
        async for item in held.room:
            held.items.append(item)
            if held.pause_s and not self.publishing:
                continue
            await trio.sleep(held.pause_s)

    def _is_complete(self) -> bool:
        return not any(_wrong(self.story, holder) for holder in self.story.holders)


async def _tell(seed: int) -> Story:
    plan = draw_plan(seed)
    story = Story(plan)
    store = Truth(plan.log, story)
    async with open_hub_world(
        plan.carrier,
        broker=store,
        latency_s=plan.latency_s,
        seed=seed,
        limits=plan.limits,
        outbox=plan.outbox,
    ) as world:
        scene = Scene(plan, world, seed, story)
        scene.store = store
        await scene.run()
    return story


def tell(seed: int) -> Story:
    """The story of `seed`."""
    return run(_tell, seed, seed=seed)


def breaches(story: Story) -> list[str]:
    """What is wrong with it."""
    found = [f"stuck: {each}" for each in story.stuck]
    for holder in story.holders:
        wrong = _wrong(story, holder)
        if wrong:
            found.append(f"{holder.user}: {wrong}")
    for epoch, log in story.told.items():
        found += [
            f"{id} twice in {epoch}"
            for id, n in Counter(b["id"] for b in log.values()).items()
            if n > 1
        ]
    wiped = any(kind == "wipe" for _, kind, _ in story.plan.faults)
    for id, position in story.said.items():
        if story.told[position.epoch][position.offset]["id"] != id:
            found.append(f"{id} is not at {position}")
        if (
            not wiped
            and sum(b["id"] == id for log in story.told.values() for b in log.values()) != 1
        ):
            found.append(f"{id} is not there once")
    return found


def _wrong(story: Story, holder: Holder) -> str:
    """What is wrong with what a holder got; "" for nothing."""
    epoch, offset, gone, anew = holder.begin.epoch, holder.begin.offset, 0, False
    for item in holder.items:
        if isinstance(item, Reset):
            anew, gone = True, 0
        elif isinstance(item, Gap):
            gone += item.count
        elif isinstance(item, RoomMessage):
            place = item.position
            assert place is not None
            if anew:
                if place.epoch == epoch:
                    return f"a reset, and the old epoch at {place}"
                epoch, offset = place.epoch, place.offset - 1 - gone
            if place.epoch != epoch or not _fits(story, holder, epoch, offset, place.offset, gone):
                return f"{place} follows {offset} of {epoch} and {gone} gone"
            if story.told[epoch][place.offset]["id"] != item.id:
                return f"{item.id} is not what is at {place}"
            offset, gone, anew = place.offset, 0, False
    if anew:
        epoch, offset = story.newest, 0
    elif story.newest not in ("", epoch):
        return "not the newest log"
    last = max(story.told.get(epoch, {}), default=0)
    if not _fits(story, holder, epoch, offset, last + 1, gone):
        return f"ends at {offset} with {gone} gone, and not at {last}"
    return ""


def _fits(story: Story, holder: Holder, epoch: str, offset: int, there: int, gone: int) -> bool:
    """Whether so many are missing between the two, but for one's own to others."""
    between = range(offset + 1, there)
    log = story.told.get(epoch, {})
    own = sum(
        log[each]["user"] == holder.user and log[each]["payload"]["to"] == "others"
        for each in between
        if each in log
    )
    return offset < there and gone <= len(between) <= gone + own


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

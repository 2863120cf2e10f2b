"""Rooms over bad networks, and hubs that die: what a member has in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_rt
from trio_rt import Gap, Phase, Refused, Reset
from trio_rt.hub._broker import LogLimits, Position
from trio_rt.hub._client.desk import AT_ONCE, Gate
from trio_rt.hub._client.items import Joined, Left, RoomMessage
from trio_rt.hub._client.membership import Membership
from trio_rt.hub._client.opening import open_room
from trio_rt.hub._server.rules import HubLimits, Rules, Who
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.options import OutboxLimits
from trio_rt.testing import VirtualNetwork

from ..clocked import clocked
from ..helpers import own_tasks
from .support import (
    CARRIERS,
    Carrier,
    HubWorld,
    all_ready,
    carriers,
    desks,
    messages,
    open_hub_world,
    payloads,
    take,
)
from .sweep import breaches, tell

# ruff: noqa: SIM117 - who is there, and in which room, are two things

SEEDS = 60
CHUNK = 6


story_of = cache(tell)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_stories(first: int) -> None:
    """Whatever happens, in the end everybody has every message once and in order."""
    wrong = {seed: breaches(story_of(seed)) for seed in range(first, first + CHUNK)}
    assert not {seed: found for seed, found in wrong.items() if found}


def test_stories_meet_something() -> None:
    """They would prove nothing otherwise."""
    met: Counter[str] = Counter()
    for seed in range(SEEDS):
        story = story_of(seed)
        met["lags"] += story.lags
        met["second logs"] += len(story.told) - 1
        for holder in story.holders:
            met.update(type(item).__name__ for item in holder.items)
    assert met["RoomMessage"] > 4000
    assert all(met[each] > 5 for each in ("Gap", "Reset", "Joined", "Left", "lags", "second logs"))


# Lost links and sessions


async def drop_session(world: HubWorld, broker: MemoryBroker) -> None:
    """The hub is killed, and another one started on the same store."""
    await world.stop()
    await world.start(broker)


@carriers
@clocked
async def test_missed_messages_are_fetched(carrier: Carrier) -> None:
    """What was said while there was no link is told, in order, before what is said then."""
    broker = MemoryBroker()
    async with open_hub_world(carrier, broker=broker) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            for n in range(5):
                await world.hub.publish("lobby", n)
            await drop_session(world, broker)
            for n in range(5, 300):
                await world.hub.publish("lobby", n)
            assert await payloads(ann, 300) == list(range(300))
            assert ann.joined


@carriers
@clocked
async def test_position_is_the_consumers(carrier: Carrier) -> None:
    """It stays where the consumer is, whatever comes in, and when the room is joined again."""
    broker = MemoryBroker()
    async with open_hub_world(carrier, broker=broker) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            for n in range(3):
                await world.hub.publish("lobby", n)
            await ann.publish("hi", to="others")
            await messages(ann, 1)
            await drop_session(world, broker)
            await trio.sleep(5)
            await ann.publish("hi", to="others")
            assert ann.joined
            assert ann.position.offset == 1


@carriers
@clocked
async def test_new_log(carrier: Carrier) -> None:
    """A hub with an empty store: a `Reset`, and then all that the new log has."""
    async with open_hub_world(carrier) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            for n in range(5):
                await world.hub.publish("lobby", n)
            assert await payloads(ann, 5) == list(range(5))
            await world.stop()
            await world.start()
            for n in range(9):
                await world.hub.publish("lobby", n)
            assert isinstance(await ann.receive(), Reset)
            assert await payloads(ann, 9) == list(range(9))
            assert ann.position.offset == 9


@carriers
@clocked
async def test_tiny_log(carrier: Carrier) -> None:
    """What was missed and is gone is counted exactly."""
    broker = MemoryBroker(LogLimits(messages=4))
    async with open_hub_world(carrier, broker=broker) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            await world.hub.publish("lobby", 0)
            assert await payloads(ann, 1) == [0]
            await drop_session(world, broker)
            for n in range(1, 21):
                await world.hub.publish("lobby", n)
            assert await ann.receive() == Gap(16)
            assert await payloads(ann, 4) == [17, 18, 19, 20]


@carriers
@clocked
async def test_publish_is_stored_once(carrier: Carrier) -> None:
    """A publish whose answer was lost is said again, and is in the log once."""
    broker = MemoryBroker()
    async with open_hub_world(carrier, broker=broker) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann, trio.open_nursery() as nursery:
            world.network.connections[-1].stall("client")
            positions: list[Position | None] = []

            async def say(n: int) -> None:
                positions.append(await ann.publish(n))

            for n in range(5):
                nursery.start_soon(say, n)
            await trio.sleep(1)
            assert (await broker.page("lobby", "after", 0, limit=9, max_bytes=9999)).head.last == 5
            await drop_session(world, broker)
            began = trio.current_time()
            assert sorted(await payloads(ann, 5)) == list(range(5))
        assert trio.current_time() - began < 3
        assert sorted(p.offset for p in positions if p) == [1, 2, 3, 4, 5]
        assert (await broker.page("lobby", "after", 0, limit=9, max_bytes=9999)).head.last == 5


@carriers
@clocked
async def test_publish_without_a_link_waits(carrier: Carrier) -> None:
    """It is said when there is a link again, once."""
    broker = MemoryBroker()
    async with open_hub_world(carrier, broker=broker) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            await world.stop()
            with trio.move_on_after(60) as scope:
                await ann.publish("late")
            assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ann.publish, "later")
                await trio.sleep(60)
                await world.start(broker)
            assert await payloads(ann, 1) == ["later"]


@clocked
async def test_cancelled_publish_is_withdrawn() -> None:
    """One that has not left is never said."""
    async with open_hub_world(CARRIERS[1]) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            world.network.stall("ann")
            world.network.cut("ann")
            await trio.lowlevel.checkpoint()
            queued = a.statistics().accepted
            with trio.move_on_after(0.01):
                await ann.publish("never")
            assert a.statistics().queued_bytes == 0
            world.network.resume("ann")
            await ann.publish("said")
            assert await payloads(ann, 1) == ["said"]
            assert a.statistics().accepted >= queued


@clocked
async def test_publish_that_overtook_the_join() -> None:
    """One that waited for room in the outbox, and leaves before the room is joined again."""
    broker = MemoryBroker()
    async with open_hub_world(CARRIERS[1], broker=broker) as world:
        async with world.connect("ann", outbox=OutboxLimits(messages=1)) as a:
            async with open_room(a, "lobby") as ann, trio.open_nursery() as nursery:
                await world.stop()
                await a.send("filler")
                nursery.start_soon(ann.publish, "hi")
                await trio.sleep(1)
                assert a.statistics().waiting == 1
                await world.start(broker)
                assert await payloads(ann, 1) == ["hi"]


@clocked
async def test_hub_that_does_not_answer() -> None:
    """A question without an answer is asked again."""
    asked: list[str] = []

    async def hub(peer: Any) -> None:
        with peer.subscribe() as commands:
            async for command in commands:
                asked.append(command.type)
                if len(asked) % 2 == 0:
                    event = {"kind": "done", "re": command.id, "epoch": "e", "offset": 1}
                    await peer.send("room:lobby", event)

    network = VirtualNetwork(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_rt.serve_listeners, hub, [network.listen("server", 80)])
        async with trio_rt.connect("ws://server", open_stream=network.open_stream) as conn:
            async with open_room(conn, "lobby") as room:
                assert await room.publish(1) == Position("e", 1)
                assert asked == ["hub.join", "hub.join", "hub.publish", "hub.publish"]
        nursery.cancel_scope.cancel()


@carriers
@clocked
async def test_other_commands_survive(carrier: Carrier) -> None:
    """History and marks are asked for again in the next session."""
    broker = MemoryBroker()
    async with open_hub_world(carrier, broker=broker) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            await ann.publish(1)
            await world.stop()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ann.mark, 1)

                async def ask() -> None:
                    assert [m.payload for m in (await ann.history()).messages] == [1]

                nursery.start_soon(ask)
                await trio.sleep(5)
                await world.start(broker)
            await trio.sleep(1)
            assert ann.marks == {"ann": 1}


@clocked
async def test_full_stream_on_a_plain_link() -> None:
    """Where the connection's own inbox lost something all is asked for again."""
    async with (
        open_hub_world(CARRIERS[1]) as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as ann,
    ):
        world.network.stall("ann")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.publish, 1)
            await trio.sleep(1)
            for queue in a._session.inbox._queues:
                queue.put_gap(3)
            await wait_all_tasks_blocked()
            assert not ann.joined
            world.network.resume("ann")
        assert ann.joined
        assert await payloads(ann, 1) == [1]
        page = await ann.history()
        assert (page.last, world.hub.statistics().members) == (1, 1)


@carriers
@clocked
async def test_lagging_member(carrier: Carrier) -> None:
    """One whose outbox at the hub was full has it all in the end, and its answers."""
    outbox = OutboxLimits(messages=4)
    async with (
        open_hub_world(carrier, outbox=outbox) as world,
        world.connect("ann") as a,
        world.connect("bob") as b,
        open_room(a, "lobby") as ann,
        open_room(b, "lobby") as bob,
    ):
        world.network.stall("ann")
        async with trio.open_nursery() as nursery:
            for n in range(200):
                await bob.publish([n, "x" * 2000])
            assert world.hub.statistics().lagging == 1
            nursery.start_soon(ann.publish, [200, ""])
            await trio.sleep(5)
            world.network.resume("ann")
        assert [n for n, _ in await payloads(ann, 201)] == list(range(201))


@carriers
@clocked
async def test_lagging_member_of_a_room_that_falls_silent(carrier: Carrier) -> None:
    """It has all, though nothing is said any more that could show a hole."""
    async with (
        open_hub_world(carrier, outbox=OutboxLimits(messages=4)) as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as ann,
    ):
        world.network.stall("ann")
        for n in range(200):
            await world.hub.publish("lobby", [n, "x" * 2000])
            await trio.sleep(0.01)
        assert world.hub.statistics().lagging == 1
        world.network.resume("ann")
        assert [n for n, _ in await payloads(ann, 200)] == list(range(200))


@pytest.mark.parametrize("carrier", [CARRIERS[0], CARRIERS[3]], ids=str)
@clocked
async def test_catching_up_with_steady_traffic(carrier: Carrier) -> None:
    """At 500 messages a second and 50 ms a round trip, a member that missed 1500 comes up."""
    broker = MemoryBroker(LogLimits(messages=20_000, total_bytes=1 << 26))
    async with open_hub_world(carrier, broker=broker, latency_s=0.025) as world:
        epoch = ""
        for n in range(1, 1501):
            position = await world.hub.publish("lobby", n)
            assert position is not None
            epoch = position.epoch
        async with trio.open_nursery() as nursery, world.connect("ann") as a:

            async def talk() -> None:
                n = 1500
                while True:
                    n += 1
                    await world.hub.publish("lobby", n)
                    await trio.sleep(0.002)

            nursery.start_soon(talk)
            since = Position(epoch, 0)
            async with open_room(a, "lobby", since=since, capacity=100_000) as ann:
                began = trio.current_time()
                assert await payloads(ann, 3000) == list(range(1, 3001))
                assert trio.current_time() - began < 3.3
                sent = a.statistics().accepted
                assert await payloads(ann, 500) == list(range(3001, 3501))
                assert a.statistics().accepted == sent  # live: nothing is asked for any more
            nursery.cancel_scope.cancel()


@clocked
async def test_only_real_changes_of_presence() -> None:
    """After a lost link nobody has come or gone who was there before, within the grace."""
    async with (
        open_hub_world(CARRIERS[1]) as world,
        world.connect("ann") as a,
        world.connect("bob") as b,
        world.connect("cid") as c,
    ):
        async with open_room(a, "lobby") as ann, open_room(c, "lobby"):
            assert await take(ann, 1) == [Joined("cid")]
            async with open_room(b, "lobby"):
                assert await take(ann, 1) == [Joined("bob")]
                world.network.cut("ann")
                world.network.cut("bob")
                assert await all_ready(ann) == []
                assert ann.members.keys() == {"ann", "bob", "cid"}
                world.network.cut("ann")
            await trio.sleep(20)
            assert await all_ready(ann) == [Left("bob")]


class Forgetful(MemoryBroker):
    """A store that may say that something was lost."""

    def lose(self, room: str | None) -> None:
        assert self._sink is not None
        self._sink.lost(room)


@clocked
async def test_hub_that_missed_something() -> None:
    """It says how the room is; to its members nothing is lost or doubled."""
    broker = Forgetful()
    async with (
        open_hub_world(broker=broker) as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as ann,
    ):
        for n in range(100):
            await ann.publish(n)
            broker.lose("lobby" if n % 2 else None)
        assert await payloads(ann, 100) == list(range(100))
        assert await all_ready(ann) == []


@clocked
async def test_second_holder_hears_nothing_before_its_join() -> None:
    """What the first one is told while the second one's join is on its way is not its own."""
    broker = Forgetful()
    async with (
        open_hub_world(broker=broker) as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as first,
        world.connect("bob") as b,
        trio.open_nursery() as nursery,
    ):
        await world.hub.publish("lobby", 1)
        begun: list[int] = []

        async def hold(since: Any, expected: list[int]) -> None:
            async with open_room(a, "lobby", since=since) as room:
                begun.append(room.position.offset)
                await trio.sleep(3)
                found = [item for item in await all_ready(room) if not isinstance(item, Left)]
                assert all(isinstance(item, RoomMessage) for item in found)
                assert [item.payload for item in found if isinstance(item, RoomMessage)] == expected

        world.network.connections[0].stall("server")
        nursery.start_soon(hold, "start", [1, 2, 3, 4])
        nursery.start_soon(hold, None, [4])
        await trio.sleep(1)
        await world.hub.publish("lobby", 2)
        broker.lose("lobby")
        async with open_room(b, "lobby"):
            await world.hub.publish("lobby", 3)
            await trio.sleep(0.1)
        world.network.connections[0].resume("server")
        await trio.sleep(1)
        await world.hub.publish("lobby", 4)
        assert await payloads(first, 4) == [1, 2, 3, 4]
        assert sorted(begun) == [0, 3]


# Many rooms


class Slow(Rules):
    """Notes who joins, and lets nobody in before `gate`."""

    def __init__(self) -> None:
        self.joins: list[str] = []
        self.gate = trio.Event()
        self.gate.set()

    async def may_join(self, who: Who, room: str) -> bool:
        self.joins.append(room)
        await self.gate.wait()
        return True


@carriers
@clocked
async def test_many_rooms_come_back_in_order(carrier: Carrier) -> None:
    """100 rooms after a reset: eight at a time, those first where something happened last."""
    rules, broker = Slow(), MemoryBroker()
    limits = HubLimits(rate_per_s=50, burst=100)
    async with open_hub_world(carrier, rules=rules, broker=broker, limits=limits) as world:
        async with world.connect("ann") as a, trio.open_nursery() as nursery:
            rooms: dict[str, Membership[Any]] = {}
            leave = trio.Event()

            async def hold(name: str) -> None:
                async with open_room(a, name) as room:
                    rooms[name] = room
                    await leave.wait()

            for n in range(100):
                nursery.start_soon(hold, f"room{n}")
            await trio.sleep(5)
            assert len(rooms) == 100
            order = [f"room{n * 37 % 100}" for n in range(100)]
            for name in reversed(order):
                await world.hub.publish(name, "hi")
                await trio.sleep(0.1)
            rules.joins.clear()
            rules.gate = trio.Event()
            await world.stop()
            sent = a.statistics().accepted
            await world.start(broker)
            await trio.sleep(5)
            assert a.statistics().accepted - sent == AT_ONCE
            rules.gate.set()
            await trio.sleep(20)
            assert all(room.joined for room in rooms.values())
            assert len(rules.joins) == 100
            for place, name in enumerate(rules.joins):
                assert abs(order.index(name) - place) < AT_ONCE
            leave.set()


@carriers
@clocked
async def test_passing_message_between_joins(carrier: Carrier) -> None:
    """While the room is to be joined again it comes to nothing at once, and is not sent."""
    rules, broker = Slow(), MemoryBroker()
    async with open_hub_world(carrier, rules=rules, broker=broker) as world:
        async with world.connect("ann") as a, open_room(a, "lobby") as ann:
            rules.gate = trio.Event()
            await drop_session(world, broker)
            await trio.sleep(3)
            assert not ann.joined
            sent = a.statistics().accepted
            assert await ann.publish("typing", store=False) is None
            assert a.statistics().accepted == sent
            rules.gate.set()
            assert await ann.publish("said") is not None
            assert await payloads(ann, 1) == ["said"]


@clocked
async def test_gate_lets_the_most_recent_in_first() -> None:
    """Of those who come at the same time, whatever the order in which they run."""
    gate, came = Gate(2), []
    async with trio.open_nursery() as nursery:

        async def come(active: int) -> None:
            async with gate.turn(active):
                came.append(active)
                await trio.sleep(1)

        for active in (3, 5, 1, 4, 2):
            nursery.start_soon(come, active)
    assert [set(came[:2]), set(came[2:4]), set(came[4:])] == [{5, 4}, {3, 2}, {1}]


@clocked
async def test_cancelled_at_the_gate() -> None:
    """Who leaves the queue, or has just been called, takes no place away."""
    gate = Gate(1)
    for _ in range(20):
        async with trio.open_nursery() as nursery:

            async def come(scope: trio.CancelScope) -> None:
                with scope:
                    async with gate.turn(1):
                        await trio.sleep(1)

            scopes = [trio.CancelScope() for _ in range(5)]
            for scope in scopes:
                nursery.start_soon(come, scope)
            await trio.sleep(0.5)
            for scope in scopes:
                scope.cancel()
    with trio.fail_after(0.5):
        async with gate.turn(1):
            pass


# Cancellation


class CancelAfter(trio.abc.Instrument):
    """Cancels when the current task, or one that it started, has made so many steps."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope, self._steps = scope, steps
        self._root = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._root:
            self._steps -= 1
            if self._steps == 0:
                self._scope.cancel()


async def cancel_everywhere(scenario: Callable[[], Awaitable[None]]) -> int:
    """Cancel it after one step, after two and so on; how many there were."""
    for steps in range(1, 1000):
        with trio.CancelScope() as scope:
            instrument = CancelAfter(scope, steps)
            trio.lowlevel.add_instrument(instrument)
            try:
                await scenario()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if not scope.cancelled_caught:
            return steps
    raise AssertionError("it never ends")


@carriers
@clocked
async def test_cancellation_anywhere(carrier: Carrier) -> None:
    """At each step of a holder: no task, no stream, no desk is left, and the room is."""
    async with open_hub_world(carrier) as world, world.connect("ann") as a:
        await a.wait_connected()
        tasks = own_tasks()

        async def scenario() -> None:
            try:
                async with open_room(a, "lobby", since=2) as ann:
                    await ann.publish("hi")
                    await messages(ann, 1)
                    await ann.publish("hum", store=False)
                    await ann.history()
                    await ann.mark(1)
            finally:
                assert (own_tasks(), len(a._session.inbox._queues), desks()) == (tasks, 0, 0)

        steps = 0

        async def checked() -> None:
            nonlocal steps
            steps += 1
            try:
                await scenario()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                    assert world.hub.statistics().members == 0

        assert await cancel_everywhere(checked) > 10
        assert steps > 10


@carriers
@clocked
async def test_cancelled_entry_without_a_link(carrier: Carrier) -> None:
    """Waiting for a hub that is not there ends at once, and nothing is left in the outbox."""
    async with open_hub_world(carrier) as world:
        await world.stop()
        async with world.connect("ann") as a:
            with trio.move_on_after(30) as scope:
                async with open_room(a, "lobby"):
                    pytest.fail("entered")
            assert scope.cancelled_caught
            assert a.state.phase is not Phase.CONNECTED
            books = a.statistics()
            assert (books.queued_bytes, books.in_flight, desks()) == (0, 0, 0)
            left_at = trio.current_time()
        assert trio.current_time() == left_at


@carriers
@clocked
async def test_cancelled_entry_whose_join_has_arrived(carrier: Carrier) -> None:
    """The hub has the member, and is told to forget it."""
    async with open_hub_world(carrier) as world, world.connect("ann") as a:
        await a.wait_connected()
        world.network.connections[0].stall("client")
        with trio.move_on_after(1):
            async with open_room(a, "lobby"):
                pytest.fail("entered")
        assert world.hub.statistics().members == 1
        await trio.sleep(1)
        assert (world.hub.statistics().members, desks()) == (0, 0)
        world.network.connections[0].resume("client")


@clocked
async def test_error_in_a_cancelled_block() -> None:
    """The body's own error leaves, and the cancellation does not hide it."""
    async with open_hub_world() as world, world.connect("ann") as a:
        with trio.CancelScope() as scope:
            try:
                async with open_room(a, "lobby"):
                    scope.cancel()
                    raise KeyError
            except KeyError as error:
                caught = error
        assert isinstance(caught, KeyError)
        assert not scope.cancelled_caught


@carriers
@clocked
async def test_entry_waits_for_the_hub(carrier: Carrier) -> None:
    """As long as the connection takes."""
    async with open_hub_world(carrier) as world:
        await world.stop()
        async with world.connect("ann") as a, trio.open_nursery() as nursery:

            async def enter() -> None:
                async with open_room(a, "lobby") as ann:
                    assert await ann.publish(1) is not None

            nursery.start_soon(enter)
            await trio.sleep(100)
            await world.start()


@clocked
async def test_command_of_a_room_that_ends() -> None:
    """A publish that waits when its room is left raises; it does not hang."""
    async with open_hub_world() as world, world.connect("ann") as a, trio.open_nursery() as nursery:

        async def say(room: Membership[Any]) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await room.publish(1)

        async with open_room(a, "lobby") as ann:
            world.network.stall("ann")
            nursery.start_soon(say, ann)
            nursery.start_soon(partial(say, ann))
            await wait_all_tasks_blocked()
        world.network.resume("ann")
        await trio.sleep(1)


@clocked
async def test_removed_while_a_command_waits() -> None:
    """It raises what ended the room."""
    async with open_hub_world() as world, world.connect("ann") as a, open_room(a, "x") as ann:
        world.network.connections[-1].stall("server")
        async with trio.open_nursery() as nursery:

            async def say() -> None:
                with pytest.raises(Refused, match="removed"):
                    await ann.publish(1)

            nursery.start_soon(say)
            await trio.sleep(1)
            world.hub.remove("ann", "x")
            await trio.sleep(1)
        world.network.connections[-1].resume("server")

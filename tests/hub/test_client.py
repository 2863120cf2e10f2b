"""`open_room()` against a real hub: what a member sees, says and leaves behind."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import Any, Literal, cast

import attrs
import msgspec
import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import trio_rt
from trio_rt import Gap, OptionError, Refused
from trio_rt.hub._broker import BrokerError, Draft, LogLimits, Position
from trio_rt.hub._client.items import Joined, Left, Marked, RoomMessage
from trio_rt.hub._client.opening import open_room
from trio_rt.hub._server.hub import open_hub
from trio_rt.hub._server.rules import HubLimits, Rules, Who
from trio_rt.hub._words import Publish
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.options import OutboxLimits, WireName
from trio_rt.testing import Relay, serve_relay

from ..clocked import clocked
from ..helpers import open_world, own_tasks
from .support import (
    CARRIERS,
    Carrier,
    all_ready,
    carriers,
    desks,
    messages,
    open_hub_world,
    payloads,
    take,
)

# ruff: noqa: SIM117 - who is there, and in which room, are two things


def offsets(items: list[Any]) -> list[int]:
    return [item.position.offset for item in items]


# What is said


@carriers
@clocked
async def test_message_reaches_everybody(carrier: Carrier) -> None:
    """Who says it and who hears it get the same, with a position; `mine` tells them apart."""
    async with (
        open_hub_world(carrier) as world,
        world.connect("ann") as a,
        world.connect("bob") as b,
        open_room(a, "lobby") as ann,
        open_room(b, "lobby") as bob,
    ):
        position = await ann.publish({"n": 1}, type="note", id="one")
        (heard,), (own,) = await messages(bob, 1), await messages(ann, 1)
    assert position is not None
    assert position == heard.position == Position(position.epoch, 1)
    assert (heard.id, heard.user, heard.type, heard.payload) == ("one", "ann", "note", {"n": 1})
    assert heard.at > 0
    assert heard.device
    assert (own.mine, heard.mine) == (True, False)
    assert msgspec.structs.replace(own, mine=False) == heard


@carriers
@clocked
async def test_to_others(carrier: Carrier) -> None:
    """Who says something to others does not hear it, and misses nothing behind it."""
    async with (
        open_hub_world(carrier) as world,
        world.connect("ann") as a,
        world.connect("bob") as b,
        open_room(a, "lobby") as ann,
        open_room(b, "lobby") as bob,
    ):
        position = await ann.publish(1, to="others")
        assert await payloads(bob, 1) == [1]
        assert ann.position == position
        await bob.publish(2)
        assert await payloads(ann, 1) == [2]
        assert world.hub.statistics().refusals == {}


@clocked
async def test_only_one_user() -> None:
    """What is for one user reaches no other one, and has no position."""
    async with open_hub_world() as world, world.connect("ann") as a, world.connect("bob") as b:
        async with open_room(a, "lobby") as ann, open_room(b, "lobby") as bob:
            assert await ann.publish("psst", only="bob", store=False) is None
            await ann.publish("hi")
            first, second = await messages(bob, 2)
            assert await payloads(ann, 1) == ["hi"]
    assert (first.payload, first.position) == ("psst", None)
    assert second.position is not None
    assert second.position.offset == 1


@clocked
async def test_passing_message() -> None:
    """What is not stored is heard by who is there, and is in no log."""
    async with open_hub_world() as world, world.connect("ann") as a, world.connect("bob") as b:
        async with open_room(a, "lobby") as ann, open_room(b, "lobby") as bob:
            assert await ann.publish("typing", store=False) is None
            assert await payloads(bob, 1) == ["typing"]
            assert bob.position.offset == 0
            assert (await ann.history()).messages == ()


@carriers
@clocked
async def test_passing_message_is_not_sent_later(carrier: Carrier) -> None:
    """Without a link it comes to nothing, and its sender does not wait for one."""
    async with open_hub_world(carrier) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            world.network.refuse("server")
            world.network.cut("ann")
            await trio.sleep(1)
            now = trio.current_time()
            await ann.publish("typing", store=False)
            assert trio.current_time() == now
            world.network.accept("server")
            await ann.publish("after")
            assert await payloads(ann, 1) == ["after"]


@carriers
@clocked
async def test_passing_message_that_was_lost(carrier: Carrier) -> None:
    """One that was on its way when the link was cut comes to nothing with the next link."""
    async with open_hub_world(carrier) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            world.network.stall("ann")
            async with trio.open_nursery() as nursery:

                async def pass_by() -> None:
                    assert await ann.publish("typing", store=False) is None

                nursery.start_soon(pass_by)
                await trio.sleep(0.1)
                world.network.cut("ann")
                began = trio.current_time()
            assert trio.current_time() - began < 3
            assert await ann.publish("after") is not None


@clocked
async def test_same_id_is_said_once() -> None:
    """A publish with an id that was used has the position of the first."""
    async with open_hub_world() as world, world.connect("ann") as a, open_room(a, "x") as ann:
        assert await ann.publish(1, id="i") == await ann.publish(2, id="i")
        assert [item.payload for item in await all_ready(ann) if isinstance(item, RoomMessage)] == [
            1
        ]


@clocked
async def test_publishes_keep_their_order() -> None:
    """One task's messages are in the log as it said them."""
    async with open_hub_world() as world, world.connect("ann") as a, open_room(a, "x") as ann:
        for n in range(50):
            await ann.publish(n)
        assert await payloads(ann, 50) == list(range(50))


# Where it begins


async def fill(world: Any, count: int) -> Position:
    for n in range(1, count + 1):
        position = await world.hub.publish("lobby", n)
    return cast(Position, position)


@carriers
@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, []),
        ("start", [1, 2, 3, 4, 5]),
        (2, [4, 5]),
        (99, [1, 2, 3, 4, 5]),
        (0, []),
        (4.0, [5]),
    ],
)
@clocked
async def test_since(carrier: Carrier, since: Any, expected: list[int]) -> None:
    """Nothing, all, the last so many, or what came after a position; and then live."""
    async with open_hub_world(carrier) as world, world.connect("ann") as a:
        epoch = (await fill(world, 5)).epoch
        if isinstance(since, float):
            since = Position(epoch, int(since))
        async with open_room(a, "lobby", since=since) as ann:
            assert ann.position == Position(epoch, 5 - len(expected))
            await ann.publish(6)
            assert await payloads(ann, len(expected) + 1) == [*expected, 6]
            assert ann.position == Position(epoch, 6)


@clocked
async def test_position_is_where_to_go_on() -> None:
    """What was not received is given to the next holder who says where the first one was."""
    async with open_hub_world() as world, world.connect("ann") as a:
        await fill(world, 5)
        async with open_room(a, "lobby", since="start") as ann:
            await all_ready(ann) and None
            position = Position(ann.position.epoch, 2)
        async with open_room(a, "lobby", since="start") as ann:
            await messages(ann, 2)
            await trio.sleep(1)
            assert ann.position == position
        async with open_room(a, "lobby", since=position) as ann:
            assert await payloads(ann, 3) == [3, 4, 5]


@clocked
async def test_beginning_that_is_gone() -> None:
    """What came after the position, and is no longer in the log, is a `Gap`; not for "start"."""
    broker = MemoryBroker(LogLimits(messages=3))
    async with open_hub_world(broker=broker) as world, world.connect("ann") as a:
        epoch = (await fill(world, 10)).epoch
        async with open_room(a, "lobby", since=Position(epoch, 2)) as ann:
            assert await ann.receive() == Gap(5)
            assert await payloads(ann, 3) == [8, 9, 10]
        async with open_room(a, "lobby", since="start") as ann:
            assert await payloads(ann, 3) == [8, 9, 10]


@clocked
async def test_beginning_in_another_log() -> None:
    """A position of an epoch that is over: a `Reset`, and all that there is."""
    async with open_hub_world() as world, world.connect("ann") as a:
        await fill(world, 3)
        async with open_room(a, "lobby", since=Position("gone", 2)) as ann:
            assert isinstance(await ann.receive(), trio_rt.Reset)
            assert await payloads(ann, 3) == [1, 2, 3]


@clocked
async def test_long_history_waits_for_the_consumer() -> None:
    """More than there is room for is paged in as it is taken: nothing is lost."""
    async with open_hub_world() as world, world.connect("ann") as a:
        await fill(world, 500)
        async with open_room(a, "lobby", since="start", capacity=10) as ann:
            await trio.sleep(10)
            assert await payloads(ann, 500) == list(range(1, 501))


@clocked
async def test_pages_too_large_for_the_hub() -> None:
    """If a page does not fit into what the hub sends, smaller ones are asked for."""
    outbox = OutboxLimits(message_bytes=4000)
    async with open_hub_world(outbox=outbox) as world, world.connect("ann") as a:
        for n in range(60):
            await world.hub.publish("lobby", [n, "x" * 300])
        async with open_room(a, "lobby", since="start") as ann:
            assert [n for n, _ in await payloads(ann, 60)] == list(range(60))


# Types


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize("carrier", [CARRIERS[0], CARRIERS[2]], ids=str)
@clocked
async def test_payload_types(carrier: Carrier) -> None:
    """Payloads are of the type asked for; others are complained of, and are no hole."""
    async with open_hub_world(carrier) as world, world.connect("ann") as a:
        with a.malformed() as malformed:
            async with open_room(a, "lobby", as_=Point) as ann:
                await ann.publish(Point(1))
                await ann.publish({"x": "no"})
                await ann.publish(Point(2))
                assert await payloads(ann, 2) == [Point(1), Point(2)]
                assert [m.payload for m in (await ann.history()).messages] == [
                    Point(1),
                    Point(2),
                ]
            wrong = malformed.receive_nowait()
    assert isinstance(wrong, trio_rt.Malformed)
    assert wrong.data == b'{"x":"no"}'
    assert wrong.error.field == "payload"


# History, marks, members


@clocked
async def test_history() -> None:
    """Pages before, after, and at the end, with the extent of the log."""
    async with (
        open_hub_world() as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as ann,
    ):
        epoch = (await fill(world, 9)).epoch
        page = await ann.history(limit=2)
        assert ([m.payload for m in page.messages], page.first, page.last) == ([8, 9], 1, 9)
        assert page.epoch == epoch
        assert offsets(list((await ann.history(before=4, limit=2)).messages)) == [2, 3]
        assert offsets(list((await ann.history(after=4, limit=2)).messages)) == [5, 6]
        assert await payloads(ann, 9) == list(range(1, 10))


@clocked
async def test_marks() -> None:
    """A mark is told to all, and known to who comes later."""
    async with open_hub_world() as world, world.connect("ann") as a, world.connect("bob") as b:
        async with open_room(a, "lobby") as ann:
            await fill(world, 3)
            await ann.mark(2)
            assert (await take(ann, 4))[3] == Marked("ann", 2)
            async with open_room(b, "lobby") as bob:
                assert bob.marks == ann.marks == {"ann": 2}
                await bob.mark(3)
                assert await take(bob, 1) == [Marked("bob", 3)]
                with pytest.raises(Refused, match="malformed"):
                    await bob.mark(4)


@carriers
@clocked
async def test_members(carrier: Carrier) -> None:
    """Who is there is known at entry, and who comes and goes is told."""
    limits = HubLimits(grace_s=1)

    class Told(Rules):
        async def who(self, peer: Any) -> Who:
            return Who(peer.identity, info={"name": peer.identity.title()})

    async with (
        open_hub_world(carrier, limits=limits, rules=Told()) as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as ann,
    ):
        assert (ann.members, ann.member_count) == ({"ann": {"name": "Ann"}}, 1)
        async with world.connect("bob") as b, open_room(b, "lobby") as bob:
            assert bob.members.keys() == {"ann", "bob"}
            assert await take(ann, 1) == [Joined("bob", {"name": "Bob"})]
            assert ann.member_count == 2
        assert await take(ann, 1) == [Left("bob")]
        assert ann.members.keys() == {"ann"}


# The channel


@clocked
async def test_slow_consumer_loses_the_oldest() -> None:
    """A full buffer has a `Gap` where the oldest were; publishing goes on all the time."""
    async with open_hub_world() as world, world.connect("ann") as a:
        async with open_room(a, "lobby", capacity=5) as ann:
            for n in range(1, 21):
                await ann.publish(n)
            assert await ann.receive() == Gap(15)
            assert await payloads(ann, 5) == [16, 17, 18, 19, 20]


@clocked
async def test_receive_is_a_checkpoint() -> None:
    """Also where something is ready; cancelled there it takes nothing."""
    async with (
        open_hub_world() as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as ann,
    ):
        await ann.publish(1)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ann.receive()
        assert scope.cancelled_caught
        with trio.testing.assert_checkpoints():
            (message,) = await messages(ann, 1)
        assert message.payload == 1


@clocked
async def test_second_receiver_is_refused() -> None:
    """One task receives at a time."""
    async with (
        open_hub_world() as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as ann,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.receive)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await ann.receive()
            with pytest.raises(trio.BusyResourceError):
                ann.receive_nowait()
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.WouldBlock):
            ann.receive_nowait()


@clocked
async def test_closed_channel() -> None:
    """It gives no more, wakes its receiver, and the room goes on to the end of its block."""
    async with (
        open_hub_world() as world,
        world.connect("ann") as a,
        open_room(a, "lobby") as ann,
    ):
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await ann.receive()

            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await ann.aclose()
        assert await ann.publish(1) is not None
        with pytest.raises(trio.ClosedResourceError):
            ann.receive_nowait()


@clocked
async def test_end_of_the_connection() -> None:
    """What is left can be received, then the channel ends; commands find it closed."""
    async with open_hub_world() as world, trio.open_nursery() as nursery:
        entered, over = trio.Event(), trio.Event()

        async def hold(conn: trio_rt.Connection) -> None:
            async with open_room(conn, "lobby") as ann:
                await ann.publish(1)
                await ann.publish(2)
                entered.set()
                await over.wait()
                found = [item.payload async for item in ann if isinstance(item, RoomMessage)]
                assert found == [1, 2]
                for command in (ann.publish(3), ann.history(), ann.publish(3, store=False)):
                    with pytest.raises(trio.ClosedResourceError):
                        await command
                assert not ann.joined

        async with world.connect("ann") as a:
            nursery.start_soon(hold, a)
            await entered.wait()
        over.set()


# Leaving


@carriers
@clocked
async def test_leaving_the_block_leaves_the_room(carrier: Carrier) -> None:
    """By return, error or cancellation: the hub has no member, and here nothing is left."""
    async with open_hub_world(carrier) as world, world.connect("ann") as a:
        await a.wait_connected()
        tasks, streams = own_tasks(), len(a._session.inbox._queues)
        for how in ("return", "error", "cancel"):
            with trio.CancelScope() as scope:
                try:
                    async with open_room(a, "lobby") as ann:
                        assert world.hub.users("lobby") == ["ann"]
                        if how == "error":
                            raise KeyError
                        if how == "cancel":
                            scope.cancel()
                            await trio.sleep_forever()
                except KeyError:
                    assert how == "error"
            assert not ann.joined
            await trio.sleep(0.1)
            assert world.hub.statistics().members == 0
            assert (own_tasks(), len(a._session.inbox._queues)) == (tasks, streams)
            assert desks() == 0
            with pytest.raises(trio.ClosedResourceError):
                await ann.publish(1)
            with pytest.raises(trio.ClosedResourceError):
                await ann.receive()


@clocked
async def test_two_holders() -> None:
    """Each has all from its own beginning on; the room is left with the last one."""
    async with open_hub_world() as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as first:
            await first.publish(1)
            async with open_room(a, "lobby") as second:
                await second.publish(2)
                assert await payloads(second, 1) == [2]
            await trio.sleep(1)
            assert world.hub.statistics().members == 1
            async with open_room(a, "lobby", since="start") as third:
                await first.publish(3)
                assert await payloads(third, 3) == [1, 2, 3]
            assert await payloads(first, 3) == [1, 2, 3]
            assert desks() == 1
        await trio.sleep(1)
        assert world.hub.statistics().members == 0


@clocked
async def test_second_holder_is_no_loss_for_the_first() -> None:
    """A join while messages are about to be told takes none of them from who was there."""
    async with open_hub_world() as world, world.connect("ann") as a, world.connect("bob") as b:
        async with open_room(a, "lobby") as ann, open_room(b, "lobby") as bob:
            for n in range(50):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bob.publish, n)
                    async with open_room(a, "lobby"):
                        pass
                with trio.fail_after(5):
                    assert await payloads(ann, 1) == [n]


@clocked
async def test_leaving_offline_in_a_session() -> None:
    """The hub is told when the session is taken up again."""
    async with open_hub_world() as world, world.connect("ann") as a:
        async with open_room(a, "lobby"):
            world.network.refuse("server")
            world.network.cut("ann")
            await trio.sleep(1)
        assert world.hub.statistics().members == 1
        world.network.accept("server")
        await trio.sleep(5)
        assert world.hub.statistics().members == 0


@clocked
async def test_leaving_offline_on_a_plain_link() -> None:
    """Nobody is told: a new link is no member. The connection has nothing to wait for."""
    async with open_hub_world(CARRIERS[1]) as world:
        async with world.connect("ann") as a:
            async with open_room(a, "lobby"):
                world.network.refuse("server")
                world.network.cut("ann")
                await trio.sleep(1)
            left_at = trio.current_time()
        assert trio.current_time() == left_at


def fill_outbox(conn: trio_rt.Connection) -> None:
    """Until the outbox has no more room."""
    with suppress(trio.WouldBlock):
        while True:
            conn.send_nowait("other")


@carriers
@clocked
async def test_leaving_with_a_full_outbox(carrier: Carrier) -> None:
    """The hub is told as soon as there is room."""
    limits = OutboxLimits(messages=5, rate_per_s=2)
    async with open_hub_world(carrier) as world, world.connect("ann", outbox=limits) as a:
        async with open_room(a, "lobby"):
            fill_outbox(a)
        assert world.hub.statistics().members == 1
        await trio.sleep(5)
        assert world.hub.statistics().members == 0
        assert not desks()


@clocked
async def test_back_before_the_hub_is_told() -> None:
    """Who holds the room again is not put out of it, and leaves it at the end, joined or not."""
    limits = OutboxLimits(messages=5, rate_per_s=2)
    async with open_hub_world() as world, world.connect("ann", outbox=limits) as a:
        async with open_room(a, "lobby"):
            fill_outbox(a)
        async with open_room(a, "lobby"):
            await trio.sleep(5)
            assert world.hub.statistics().members == 1
            fill_outbox(a)
        with trio.move_on_after(0.05):
            async with open_room(a, "lobby"):
                raise AssertionError("there was no room to ask")
        await trio.sleep(5)
        assert world.hub.statistics().members == 0


@clocked
async def test_a_connection_that_ends_before_the_hub_is_told() -> None:
    """The task that would tell it ends, too."""
    limits = OutboxLimits(messages=5, rate_per_s=2)
    async with open_hub_world() as world:
        async with world.connect("ann", outbox=limits) as a:
            async with open_room(a, "lobby"):
                fill_outbox(a)
        assert not desks()
        await trio.sleep(1)
        assert world.hub.statistics().members == 0


# Refusals


class NoEntry(Rules):
    """Rules that can be changed."""

    allowed = False

    async def may_join(self, who: Who, room: str) -> bool:
        return self.allowed

    async def may_publish(self, who: Who, message: Publish) -> bool:
        return bool(message.payload != "bad")

    async def may_read(self, who: Who, room: str) -> bool:
        return False


@carriers
@clocked
async def test_refused_join(carrier: Carrier) -> None:
    """`open_room()` raises it, ungrouped, and leaves nothing."""
    async with open_hub_world(carrier, rules=NoEntry()) as world, world.connect("ann") as a:
        tasks = own_tasks()
        with pytest.raises(Refused) as caught:
            async with open_room(a, "lobby"):
                pytest.fail("entered")
        assert caught.value.code == "no_room"
        assert (own_tasks(), len(a._session.inbox._queues), desks()) == (tasks, 0, 0)
        sent = a.statistics().accepted
        await trio.sleep(1)
        assert sent == a.statistics().accepted == 1


@clocked
async def test_refused_commands() -> None:
    """They raise, and the room goes on."""
    rules = NoEntry()
    rules.allowed = True
    async with (
        open_hub_world(rules=rules) as world,
        world.connect("ann") as a,
        open_room(a, "x") as ann,
    ):
        for store in (True, False):
            with pytest.raises(Refused, match="forbidden"):
                await ann.publish("bad", store=store)
        with pytest.raises(Refused, match="too_large"):
            await ann.publish("x" * 100_000)
        with pytest.raises(Refused, match="no_room"):
            await ann.history()
        assert await ann.publish("good") is not None


@clocked
async def test_removed_member() -> None:
    """What is left can be received, then `Refused` is raised, as by each command."""
    async with open_hub_world() as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann, open_room(a, "lobby") as again:
            await ann.publish(1)
            await trio.sleep(1)
            assert world.hub.remove("ann", "lobby", "be nice") == 1
            await trio.sleep(1)
            assert not ann.joined
            assert await payloads(ann, 1) == await payloads(again, 1) == [1]
            for room in (ann, again):
                for _ in range(2):
                    with pytest.raises(Refused, match="removed: be nice"):
                        await room.receive()
                with pytest.raises(Refused, match="removed: be nice"):
                    await room.publish(2)
        async with open_room(a, "lobby") as ann:
            assert ann.joined


@carriers
@clocked
async def test_refused_after_a_reconnect(carrier: Carrier) -> None:
    """Who is no longer allowed in the next session has the end of the channel."""
    rules = NoEntry()
    rules.allowed = True
    async with open_hub_world(carrier, rules=rules) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            rules.allowed = False
            await world.stop()
            await world.start()
            with pytest.raises(Refused, match="no_room"):
                await ann.receive()
            with pytest.raises(Refused, match="no_room"):
                ann.receive_nowait()


@clocked
async def test_may_not_read() -> None:
    """Who may be there, and not read, has a `Gap` for what it missed."""
    rules = NoEntry()
    rules.allowed = True
    async with open_hub_world(CARRIERS[1], rules=rules) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            world.network.cut("ann")
            await fill(world, 3)
            assert await ann.receive() == Gap(3)
            await fill(world, 1)
            assert await payloads(ann, 1) == [1]


@clocked
async def test_too_fast_is_tried_again() -> None:
    """A hub that takes few commands gets them all in the end; passing ones are refused."""
    limits = HubLimits(rate_per_s=10, burst=5)
    async with open_hub_world(limits=limits) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            async with trio.open_nursery() as nursery:
                for n in range(30):
                    nursery.start_soon(ann.publish, n)
            assert sorted(await payloads(ann, 30)) == list(range(30))
            await trio.sleep(10)
            refused = 0
            for _ in range(10):
                try:
                    await ann.publish(store=False)
                except Refused as refusal:
                    refused += refusal.code == "too_fast"
            assert refused > 0
        assert world.hub.statistics().refusals["too_fast"] > 1


class Moody(MemoryBroker):
    """A store that cannot be reached now and then."""

    moods = 0

    def append(self, draft: Draft, done: Any) -> None:
        self.moods += 1
        if self.moods % 3:
            done(BrokerError("in a mood"))
        else:
            super().append(draft, done)

    async def watch(self, room: str) -> Any:
        self.moods += 1
        if self.moods % 3:
            raise BrokerError("in a mood")
        return await super().watch(room)


@clocked
async def test_unavailable_is_tried_again() -> None:
    """A store that fails in passing is no error, at entry or later."""
    async with open_hub_world(broker=Moody()) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            for n in range(5):
                await ann.publish(n)
            assert await payloads(ann, 5) == list(range(5))
        assert world.hub.statistics().refusals["unavailable"] >= 10


class Away(MemoryBroker):
    """A store that can be reached in a minute, or when it was asked a hundred times."""

    asked = 0

    def append(self, draft: Draft, done: Any) -> None:
        self.asked += 1
        if trio.current_time() < 60 and self.asked < 100:
            done(BrokerError("away"))
        else:
            super().append(draft, done)


@clocked
async def test_a_store_that_is_away_is_asked_in_peace() -> None:
    """A message waits longer and longer between its tries, and is stored in the end."""
    broker = Away()
    async with open_hub_world(broker=broker) as world, world.connect("ann") as a:
        async with open_room(a, "lobby") as ann:
            assert await ann.publish(1)
            assert trio.current_time() >= 60
            assert 5 < broker.asked < 60


class Down(MemoryBroker):
    """A store that cannot be reached."""

    async def watch(self, room: str) -> Any:
        await trio.lowlevel.checkpoint()
        raise BrokerError("down")


@clocked
async def test_who_waits_for_a_room_can_read_why(caplog: pytest.LogCaptureFixture) -> None:
    """That it cannot be joined yet is logged once, with what the hub says."""
    with caplog.at_level("WARNING", "trio_rt.hub"):
        async with open_hub_world(broker=Down()) as world, world.connect("ann") as a:
            with trio.move_on_after(60) as limit:
                async with open_room(a, "lobby"):
                    pass
    assert limit.cancelled_caught
    assert caplog.messages == ["room:lobby cannot be joined yet: unavailable"]


@clocked
async def test_a_server_without_a_hub(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody answers: that is logged once, too."""
    async with open_world() as world:
        await world.serve(_listen_only)
        with caplog.at_level("WARNING", "trio_rt.hub"):
            async with world.connect() as conn:
                with trio.move_on_after(60) as limit:
                    async with open_room(conn, "lobby"):
                        pass
    assert limit.cancelled_caught
    assert caplog.messages == ["room:lobby cannot be joined yet: no answer: is there a hub?"]


async def _listen_only(peer: trio_rt.Peer) -> None:
    with peer.subscribe() as stream:
        async for _ in stream:
            pass


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("", {}),
        (" x", {}),
        ("x" * 200, {}),
        (5, {}),
        ("x", {"since": -1}),
        ("x", {"since": True}),
        ("x", {"since": "end"}),
        ("x", {"since": Position("e", -1)}),
        ("x", {"capacity": 0}),
        ("x", {"capacity": math.inf}),
        ("x", {"as_": 5}),
    ],
)
@clocked
async def test_bad_options(name: Any, options: dict[str, Any]) -> None:
    """They raise at the call, and nothing is sent."""
    async with open_hub_world() as world, world.connect("ann") as a:
        with pytest.raises(OptionError):
            open_room(a, name, **options)
        assert (a.statistics().accepted, desks()) == (0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"type": ""},
        {"id": "\n"},
        {"to": "user"},
        {"only": "bob"},
        {"only": "", "store": False},
        {"only": "bob", "to": "others", "store": False},
        {"store": 1},
    ],
)
@clocked
async def test_bad_publish(options: dict[str, Any]) -> None:
    """It raises, and nothing is sent."""
    async with open_hub_world() as world, world.connect("ann") as a, open_room(a, "x") as ann:
        before = a.statistics().accepted
        with pytest.raises(OptionError):
            await ann.publish(1, **options)
        with pytest.raises(trio_rt.PayloadError):
            await ann.publish(object())
        with pytest.raises(OptionError):
            await ann.history(before=1, after=1)
        with pytest.raises(OptionError):
            await ann.history(limit=0)
        with pytest.raises(OptionError):
            await ann.mark(-1)
        assert a.statistics().accepted == before


@clocked
async def test_no_connection() -> None:
    """Only a connection of typed messages can have rooms."""
    with pytest.raises(OptionError):
        open_room(cast(Any, object()), "x")


# Real sockets


@attrs.frozen
class Real:
    session: Literal["off", "require"]
    wire: WireName


@pytest.mark.parametrize(
    "real",
    [Real("require", "websockets"), Real("off", "websockets"), Real("require", "trio-websocket")],
    ids=str,
)
async def test_real_sockets(real: Real) -> None:
    """The same over TCP, the link cut once."""

    async def accept(handshake: trio_rt.Handshake) -> str:
        return handshake.path[1:]

    options: Any = {"session": real.session, "wire": real.wire}
    async with open_hub() as hub, trio.open_nursery() as nursery:
        server: Any = await nursery.start(
            partial(trio_rt.serve, hub, "127.0.0.1", 0, accept=accept)
        )
        relay: Relay = await nursery.start(serve_relay, "127.0.0.1", server.port)
        url = f"ws://127.0.0.1:{relay.port}"
        with trio.fail_after(30):
            async with (
                trio_rt.connect(f"{url}/ann", **options) as a,
                trio_rt.connect(f"{server.url}/bob", **options) as b,
                open_room(a, "lobby") as ann,
                open_room(b, "lobby") as bob,
            ):
                for n in range(50):
                    await ann.publish(n)
                relay.rst()
                for n in range(50, 100):
                    await ann.publish(n)
                assert await payloads(ann, 100) == list(range(100))
                assert await payloads(bob, 100) == list(range(100))
        nursery.cancel_scope.cancel()

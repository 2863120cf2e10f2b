"""A chat's room: what it shows, what happens in it, and what is left when it is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_rt
from trio_rt import Gap, OptionError, PayloadError, Phase, Refused, Reset
from trio_rt.chat._client.chat import open_chat
from trio_rt.chat._client.events import Events
from trio_rt.chat._client.holder import LEAVE_S
from trio_rt.chat._client.room import ChatRoom
from trio_rt.chat.models import (
    Deleted,
    Edited,
    Moderated,
    Reacted,
    ReadMoved,
    Spoken,
    User,
    UserJoined,
    UserLeft,
)
from trio_rt.hub._broker import LogLimits
from trio_rt.hub._server.rules import HubLimits
from trio_rt.hub.brokers.memory import MemoryBroker

from ..clocked import clocked
from ..helpers import own_tasks
from ..hub.support import CARRIERS, Carrier, carriers, desks
from .support import (
    Doorman,
    all_events,
    contents,
    enter,
    in_room,
    leftovers,
    next_of,
    open_chat_world,
    open_service_world,
    restart,
    states_of,
    tells,
)

# ruff: noqa: SIM117 - who is there, and in which room, are two things

ANN = User("ann", "Ann")
BOB = User("bob", "Bob")


# What is shown


@carriers
@clocked
async def test_message_as_others_see_it(carrier: Carrier) -> None:
    """All that was said of it comes along; who said it, and when, is the service's word."""
    async with (
        open_chat_world(carrier) as world,
        enter(world, "ann") as ann,
        enter(world, "bob") as bob,
    ):
        metadata = {"size": 3, "tags": ["a"]}
        first = await ann.say("https://example.org/a.png", kind="image", metadata=metadata)
        metadata["size"] = 4
        await first.wait_acked()
        await trio.sleep(1)
        (seen,) = bob.messages
        second = await bob.say("nice", reply_to=seen)
        third = await bob.say("very", reply_to=seen.offset)
        await third.wait_acked()
        await trio.sleep(1)
        assert (seen.user, seen.kind, seen.mine, seen.state) == (ANN, "image", False, "echoed")
        assert (seen.id, seen.offset) == (first.id, 1)
        assert seen.at > 0
        assert seen.metadata == {"size": 3, "tags": ["a"]}
        assert [message.reply for message in ann.messages] == [0, 1, 1]
        assert ann.messages[0].mine
        assert ann.last_message == ann.messages[-1]
        assert second.message.user == BOB
        assert (ann.me, bob.me, ann.name) == (ANN, BOB, "lobby")
        assert "lobby" in repr(ann)


@carriers
@clocked
async def test_beginning(carrier: Carrier) -> None:
    """At entry the last messages are there, amended, with who is present and who has read what."""
    async with open_chat_world(carrier) as world, enter(world, "ann") as ann:
        for n in range(10):
            await ann.say(str(n))
        await (await ann.say("last")).wait_acked()
        await trio.sleep(1)
        await ann.edit(10, "nine")
        await ann.mark_read()
        async with enter(world, "bob", history=3) as bob:
            assert contents(bob) == ["nine", "last"]
            assert bob.messages[0].edited_at > 0
            assert bob.members == {"ann": ANN, "bob": BOB}
            assert bob.marks == {"ann": 11}
            assert bob.unread == 2
        async with enter(world, "eve", history=0) as eve:
            assert contents(eve) == []
            await ann.say("new")
            await trio.sleep(1)
            assert contents(eve) == ["new"]


@clocked
async def test_long_beginning() -> None:
    """More than a page of the log is there, too, while others go on."""
    limits = HubLimits(page=7, rate_per_s=10_000, burst=10_000)
    async with open_chat_world(limits=limits) as world, enter(world, "ann") as ann:
        for n in range(100):
            await ann.say(str(n))
        await trio.sleep(3)
        async with enter(world, "bob", history=60) as bob:
            first = int(contents(bob)[0])
            last = first + len(bob.messages)
            assert 60 <= last - first < last < 100
            assert contents(bob) == [str(n) for n in range(first, last)]


@clocked
async def test_two_users_in_two_rooms() -> None:
    """Each room has its own, and one connection holds both."""
    async with open_chat_world() as world, world.connect("ann") as a, world.connect("bob") as b:
        async with open_chat(a) as one, open_chat(b) as two:
            async with (
                one.room("red") as ann_red,
                one.room("blue") as ann_blue,
                two.room("red") as bob_red,
                two.room("blue") as bob_blue,
            ):
                assert one.rooms == (ann_red, ann_blue)
                for room, text in ((ann_red, "r"), (ann_blue, "b"), (bob_red, "R")):
                    await (await room.say(text)).wait_acked()
                await trio.sleep(1)
                assert contents(ann_red) == contents(bob_red) == ["r", "R"]
                assert contents(ann_blue) == contents(bob_blue) == ["b"]
                assert (bob_red.unread, bob_blue.unread, ann_red.unread) == (1, 1, 1)
            assert not one.rooms
            assert one.conn is a


@clocked
async def test_devices_of_one_user() -> None:
    """What is said on one is the user's own on the other, and what one has read is read."""
    async with (
        open_chat_world() as world,
        enter(world, "ann/phone") as phone,
        enter(world, "ann/laptop") as laptop,
        enter(world, "bob") as bob,
    ):
        await (await phone.say("hi")).wait_acked()
        await bob.say("hello")
        await trio.sleep(1)
        assert [message.mine for message in laptop.messages] == [True, False]
        assert states_of(laptop) == states_of(phone)
        assert (laptop.unread, phone.unread) == (1, 1)
        await phone.mark_read()
        await trio.sleep(1)
        assert (laptop.unread, phone.unread) == (0, 0)
        assert laptop.members.keys() == {"ann", "bob"}


@carriers
@clocked
async def test_two_holders_of_one_room(carrier: Carrier) -> None:
    """Over one chat: both see everything once, whoever says it."""
    async with open_chat_world(carrier) as world, world.connect("ann") as conn:
        async with open_chat(conn) as chat, chat.room("lobby") as one:
            await (await one.say("before")).wait_acked()
            async with chat.room("lobby") as two:
                assert chat.rooms == (one, two)
                said = await two.say("from two")
                await one.say("from one")
                await said.wait_acked()
                await trio.sleep(1)
                assert states_of(one) == states_of(two)
                assert sorted(contents(one)) == ["before", "from one", "from two"]
            await (await one.say("after")).wait_acked()
            await trio.sleep(1)
            assert contents(one)[-1] == "after"


# What happens


@carriers
@clocked
async def test_events(carrier: Carrier) -> None:
    """Everything is told, in its order, to every stream from when it was opened on."""
    async with open_chat_world(carrier) as world, enter(world, "ann") as ann:
        with ann.events() as events, ann.events() as others:
            async with enter(world, "bob") as bob:
                await (await bob.say("hi")).wait_acked()
                await bob.edit(1, "hello")
                await bob.react(1, "👍")
                await bob.react(1, "👍", on=False)
                await bob.mark_read(1)
                await bob.delete(1)
            found = await all_events(events, 5)
            assert [type(event) for event in found] == [
                UserJoined,
                Spoken,
                Edited,
                Reacted,
                Reacted,
                ReadMoved,
                Deleted,
                UserLeft,
            ]
            assert await all_events(others) == found
        (edited,) = tells(found, Edited)
        assert (edited.offset, edited.content, edited.by) == (1, "hello", BOB)
        assert [event.on for event in tells(found, Reacted)] == [True, False]
        assert ann.messages[0].deleted


@clocked
async def test_slow_consumer_loses_the_oldest() -> None:
    """It has a `Gap` in their place, and slows nobody: another consumer and the room go on."""
    async with open_chat_world() as world, enter(world, "ann") as ann:
        with ann.events(capacity=3) as slow, ann.events() as quick:
            for n in range(10):
                await ann.say(str(n))
            assert len(tells(await all_events(quick), Spoken)) == 10
            found = await all_events(slow)
            assert found[0] == Gap(7)
            assert [event.message.content for event in tells(found, Spoken)] == ["7", "8", "9"]
            await ann.say("more")
            assert (await next_of(slow, Spoken)).message.content == "more"
        assert len(ann.messages) == 11


@clocked
async def test_reset_is_told_to_a_slow_consumer() -> None:
    """Whatever else is lost with it."""
    async with open_chat_world() as world, enter(world, "ann") as ann:
        with ann.events(capacity=2) as events:
            await (await ann.say("old")).wait_acked()
            await restart(world)
            for n in range(5):
                await ann.say(str(n))
            await trio.sleep(5)
            found = await all_events(events)
            assert isinstance(found[0], Reset)
            assert isinstance(found[1], Gap)
            assert [event.message.content for event in tells(found, Spoken)] == ["3", "4"]


@clocked
async def test_stream_of_events() -> None:
    """One receiver at a time; cancelled it loses nothing; closed or at its end it says so."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        async with in_room(conn) as room:
            with room.events() as events:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(events.receive)
                    await wait_all_tasks_blocked()
                    with pytest.raises(trio.BusyResourceError):
                        await events.receive()
                    with pytest.raises(trio.BusyResourceError):
                        events.receive_nowait()
                    nursery.cancel_scope.cancel()
                with pytest.raises(trio.WouldBlock):
                    events.receive_nowait()
                await (await room.say("hi")).wait_acked()
                await trio.sleep(1)
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await events.receive()
                with trio.testing.assert_checkpoints():
                    assert isinstance(await events.receive(), Spoken)
            with pytest.raises(trio.ClosedResourceError):
                await events.receive()
            await events.aclose()
            last = room.events()
            await (await room.say("bye")).wait_acked()
            await trio.sleep(1)
        assert isinstance(await last.receive(), Spoken)
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await last.receive()


@clocked
async def test_stream_that_is_closed_under_its_receiver() -> None:
    """The receiver raises `ClosedResourceError`."""
    async with open_chat_world() as world, enter(world, "ann") as room:
        events = room.events()
        raised = []

        async def receive() -> None:
            try:
                await events.receive()
            except trio.ClosedResourceError as error:
                raised.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            events.close()
        assert len(raised) == 1


@clocked
async def test_what_is_lost_is_counted() -> None:
    """Gaps among it with what they stand for; streams that are closed or ended take nothing."""
    events = Events()
    stream, closed = events.open(2), events.open(2)
    closed.close()
    events.put((Gap(5), UserJoined(ANN), Gap(2), UserJoined(BOB), UserLeft(ANN)))
    assert [stream.receive_nowait() for _ in range(3)] == [Gap(8), UserJoined(BOB), UserLeft(ANN)]
    assert not closed._items
    with pytest.raises(trio.ClosedResourceError):
        closed.receive_nowait()
    events.end(trio.EndOfChannel())
    events.end(Refused("late"))
    events.put((UserJoined(ANN),))
    for each in (stream, events.open(1)):
        with pytest.raises(trio.EndOfChannel):
            await each.receive()


@carriers
@clocked
async def test_removed(carrier: Carrier) -> None:
    """Streams have what was before, and then `Refused`; what is said fails; the block goes on."""
    async with open_service_world(carrier) as world, enter(world, "ann") as ann:
        async with enter(world, "olga") as olga:
            with ann.events() as events:
                await olga.moderate("ban", "ann", for_s=600)
                while True:
                    try:
                        await events.receive()
                    except Refused:
                        break
            with pytest.raises(Refused):
                await ann.events().receive()
            said = await ann.say("hi")
            with pytest.raises(Refused):
                await said.wait_acked()
            assert said.state == "failed"
            with pytest.raises(Refused):
                await ann.edit(1, "x")
        with pytest.raises(Refused, match="no_room"):
            async with enter(world, "ann"):
                pass


@clocked
async def test_moderate() -> None:
    """An owner decides, everybody hears of it, and others are refused."""
    async with (
        open_service_world() as world,
        enter(world, "olga") as olga,
        enter(world, "ann") as ann,
    ):
        with olga.events() as events:
            await olga.moderate("mute", ann.me, for_s=600)
            event = await next_of(events, Moderated)
            assert (event.action, event.user.id, event.by.id) == ("mute", "ann", "olga")
            assert event.until > 0
        said = await ann.say("hi")
        with pytest.raises(Refused, match="muted"):
            await said.wait_acked()
        with pytest.raises(Refused, match="forbidden"):
            await ann.moderate("unmute", "ann")
        await olga.moderate("unmute", "ann")
        await (await ann.say("hi")).wait_acked()


# What was said before


@carriers
@clocked
async def test_history(carrier: Carrier) -> None:
    """Pages before the oldest, or before any other, with all that is known of them."""
    async with open_chat_world(carrier) as world, enter(world, "ann") as ann:
        for n in range(10):
            await (await ann.say(str(n))).wait_acked()
        await ann.edit(2, "one")
        await ann.delete(3)
        async with enter(world, "bob", history=4) as bob:
            assert contents(bob) == ["8", "9"]
            page = await bob.history(limit=3)
            assert [message.content for message in page] == ["5", "6", "7"]
            assert [m.content for m in await bob.history(before=page[0], limit=3)] == ["", "3", "4"]
            (first, second, third) = await bob.history(before=4)
            assert (first.content, second.content, third.deleted) == ("0", "one", True)
            assert await bob.history(before=1) == ()
            assert contents(bob) == ["8", "9"]
        async with enter(world, "eve", history=0) as eve:
            assert len(await eve.history(limit=5)) == 3


@clocked
async def test_history_behind_many_amendments() -> None:
    """A page of nothing else is passed by: nothing comes at the log's beginning only."""
    async with open_chat_world() as world, enter(world, "ann") as ann:
        await (await ann.say("hi")).wait_acked()
        for n in range(20):
            await ann.edit(1, f"hi {n}")
        (found,) = await ann.history(before=22, limit=5)
        assert found.content == "hi 19"
        assert await ann.history(before=1, limit=5) == ()


@clocked
async def test_log_that_forgets() -> None:
    """What it dropped is a gap, and history ends where the log begins."""
    broker = MemoryBroker(LogLimits(messages=5))
    async with open_chat_world(broker=broker) as world, enter(world, "ann") as ann:
        for n in range(10):
            await (await ann.say(str(n))).wait_acked()
        async with enter(world, "bob", history=50) as bob:
            assert contents(bob) == ["5", "6", "7", "8", "9"]
            assert await bob.history() == ()


# Marks


class Marks(MemoryBroker):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def mark(self, room: str, user: str, offset: int) -> None:
        self.told.append(offset)
        super().mark(room, user, offset)


@clocked
async def test_marks_are_coalesced() -> None:
    """Many at once are told as two: the first one, and the furthest of the others."""
    broker = Marks()
    async with (
        open_chat_world(broker=broker) as world,
        enter(world, "ann") as ann,
        enter(world, "bob") as bob,
    ):
        for n in range(20):
            await ann.say(str(n))
        await trio.sleep(5)
        async with trio.open_nursery() as nursery:
            for message in bob.messages:
                nursery.start_soon(bob.mark_read, message)
        assert broker.told[-1] == 20
        assert len(broker.told) <= 2
        await trio.sleep(1)
        assert bob.unread == 0
        broker.told.clear()
        await bob.mark_read(5)
        await bob.mark_read()
        assert broker.told == []
        assert ann.marks["bob"] == 20


@clocked
async def test_mark_of_another_device() -> None:
    """What was read there is not told again, nor is less of it."""
    broker = Marks()
    async with (
        open_chat_world(broker=broker) as world,
        enter(world, "ann/phone") as phone,
        enter(world, "ann/laptop") as laptop,
    ):
        for n in range(3):
            await (await phone.say(str(n))).wait_acked()
        await trio.sleep(1)
        await phone.mark_read()
        await trio.sleep(1)
        await laptop.mark_read(2)
        await laptop.mark_read()
        assert broker.told == [3]


@clocked
async def test_marks_begin_anew_with_the_log() -> None:
    """What was read of the old log says nothing of the new one."""
    async with open_chat_world() as world, enter(world, "ann") as ann:
        for _ in range(3):
            await (await ann.say("old")).wait_acked()
        await trio.sleep(1)
        await ann.mark_read()
        await restart(world)
        await (await ann.say("new")).wait_acked()
        await trio.sleep(1)
        await ann.mark_read()
        await trio.sleep(1)
        assert ann.marks == {"ann": 1}


@carriers
@clocked
async def test_marks_of_a_log_that_one_came_late_to(carrier: Carrier) -> None:
    """What others had read of the new log before one was there is known."""
    async with open_chat_world(carrier) as world, enter(world, "ann") as ann:
        await (await ann.say("old")).wait_acked()
        world.network.stall("ann")
        await restart(world)
        async with enter(world, "bob") as bob:
            for _ in range(3):
                await (await bob.say("new")).wait_acked()
            await trio.sleep(1)
            await bob.mark_read()
            world.network.resume("ann")
            await trio.sleep(30)
            assert contents(ann) == ["new"] * 3
            assert ann.marks == {"bob": 3}
            assert ann.unread == 3
            assert ann.members.keys() == {"ann", "bob"}


@clocked
async def test_nothing_to_mark() -> None:
    """An empty room is read already."""
    broker = Marks()
    async with open_chat_world(broker=broker) as world, enter(world, "ann") as ann:
        with trio.testing.assert_checkpoints():
            await ann.mark_read()
        assert broker.told == []


# Lost links


@carriers
@clocked
async def test_amendments_over_a_restart(carrier: Carrier) -> None:
    """An edit that is on its way when the hub dies is stored once."""
    for step in range(6):
        broker = MemoryBroker()
        async with open_chat_world(carrier, broker=broker) as world, enter(world, "ann") as ann:
            await (await ann.say("hi")).wait_acked()
            with ann.events() as events:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ann.edit, 1, "hello")
                    await trio.sleep(step * 0.01)
                    await restart(world, broker)
                found = tells(await all_events(events), Edited)
            assert [event.content for event in found] == ["hello"]
            assert contents(ann) == ["hello"]


@carriers
@clocked
async def test_members_after_a_restart(carrier: Carrier) -> None:
    """Only who has really come or gone is told."""
    broker = MemoryBroker()
    async with open_chat_world(carrier, broker=broker) as world, enter(world, "ann") as ann:
        async with enter(world, "bob"):
            await trio.sleep(1)
            with ann.events() as events:
                await restart(world, broker)
                await trio.sleep(5)
                await (await ann.say("hi")).wait_acked()
                found = await all_events(events)
        gone = [event.user.id for event in tells(found, UserLeft)]
        came = [event.user.id for event in tells(found, UserJoined)]
        assert gone == came
        assert "ann" not in gone
        assert ann.members["ann"] == ANN


# Leaving


@carriers
@clocked
async def test_leaving_says_what_is_queued(carrier: Carrier) -> None:
    """On return, and on an error of the program's own, which leaves as it is, in no group."""
    async with open_chat_world(carrier) as world, enter(world, "bob") as bob:
        async with world.connect("ann") as conn:
            async with in_room(conn) as ann:
                said = [await ann.say(str(n)) for n in range(10)]
            assert {each.state for each in said} <= {"acked", "echoed"}
            error = KeyError("mine")
            with pytest.raises(KeyError) as caught:  # noqa: PT012
                async with in_room(conn) as ann:
                    said = [await ann.say(str(n)) for n in range(10, 20)]
                    raise error
            assert caught.value is error
        await trio.sleep(1)
        assert contents(bob) == [str(n) for n in range(20)]


@clocked
async def test_leaving_when_cancelled() -> None:
    """Nothing is waited for; what is queued is withdrawn."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        with trio.CancelScope() as scope:
            async with in_room(conn) as ann:
                said = [await ann.say(str(n)) for n in range(5)]
                await trio.sleep(0.001)
                before = trio.current_time()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == before
        assert [each.state for each in said] == ["sent"] + 4 * ["failed"]
        await trio.sleep(1)
        async with in_room(conn) as ann:
            assert contents(ann) in ([], ["0"])


@clocked
async def test_leaving_without_a_link() -> None:
    """Nothing is waited for: that might be for ever."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        async with in_room(conn) as ann:
            await world.stop()
            await trio.sleep(1)
            said = await ann.say("hi")
            before = trio.current_time()
        assert trio.current_time() == before
        assert said.state == "failed"
        assert contents(ann) == []


@clocked
async def test_leaving_when_the_link_is_lost() -> None:
    """From then on nothing is waited for."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        async with in_room(conn) as ann, trio.open_nursery() as nursery:
            await ann.say("hi")

            async def lose() -> None:
                await trio.sleep(0.005)
                await world.stop()

            nursery.start_soon(lose)
            before = trio.current_time()
        assert trio.current_time() - before < 1
        assert conn.state.phase is not Phase.CONNECTED


@clocked
async def test_leaving_over_a_link_that_stalls() -> None:
    """It is given some seconds; the program's error leaves nevertheless."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        with pytest.raises(KeyError):  # noqa: PT012
            async with in_room(conn) as ann:
                world.network.stall("ann")
                await ann.say("hi")
                before = trio.current_time()
                raise KeyError
        assert trio.current_time() - before == pytest.approx(LEAVE_S)
        with trio.move_on_after(1) as scope:
            async with in_room(conn):
                pass
        assert scope.cancelled_caught
        world.network.resume("ann")


@clocked
async def test_leaving_is_cancelled() -> None:
    """While it waits for what is queued: it goes at once, and the program's error is kept."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        for error in (None, KeyError("mine")):
            with trio.move_on_after(2) as scope:
                try:
                    async with in_room(conn) as ann:
                        world.network.stall("ann")
                        await ann.say("hi")
                        if error is not None:
                            raise error
                except KeyError as caught:
                    assert caught is error  # noqa: PT017 - which one of two leaves
            assert scope.cancelled_caught == (error is None)
            world.network.resume("ann")
        await trio.sleep(5)


@clocked
async def test_after_the_end() -> None:
    """The room shows what was known, and does nothing more."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        async with in_room(conn) as room:
            await (await room.say("hi")).wait_acked()
            await trio.sleep(1)
        assert contents(room) == ["hi"]
        assert room.me == ANN
        for call in (
            lambda: room.say("x"),
            lambda: room.edit(1, "x"),
            lambda: room.delete(1),
            lambda: room.react(1, "x"),
            lambda: room.mark_read(),
            lambda: room.history(),
            lambda: room.moderate("mute", "bob"),
        ):
            with pytest.raises(trio.ClosedResourceError):
                await call()
        with pytest.raises(trio.ClosedResourceError):
            room.keystroke()
        with pytest.raises(trio.ClosedResourceError), room.typing():
            pass
        with pytest.raises(trio.ClosedResourceError):
            room.events()


class CancelAt(trio.abc.Instrument):
    """Cancels `scope` after so many steps of all tasks."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope, self._left = scope, steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def live(conn: trio_rt.Connection, mark: str) -> None:
    """Everything that a program may do in a room."""
    async with in_room(conn) as room:
        with room.events() as events:
            room.keystroke()
            said = await room.say(f"{mark} a")
            with room.typing():
                await room.say(f"{mark} b")
                await next_of(events, Spoken)
            offset = await said.wait_acked()
            await room.react(offset, "x")
            await room.edit(offset, f"{mark} c")
            await room.mark_read()
            await room.history()
            await room.say(f"{mark} d")
            async for _ in said.states():
                pass


@pytest.mark.parametrize("carrier", CARRIERS[:2], ids=str)
@pytest.mark.parametrize("first", range(4))
@clocked
async def test_cancelled_at_any_step(carrier: Carrier, first: int) -> None:
    """No task, subscription or desk is left, and the connection goes on; nothing is doubled."""
    async with open_chat_world(carrier) as world, enter(world, "bob", history=0) as bob:
        async with world.connect("ann") as conn:
            await conn.wait_connected()
            before, tasks, others = leftovers(conn), own_tasks(), desks()
            steps, done = 1 + first, False
            while not done:
                with trio.CancelScope() as scope:
                    cancel = CancelAt(scope, steps)
                    trio.lowlevel.add_instrument(cancel)
                    try:
                        await live(conn, str(steps))
                        done = True
                    finally:
                        trio.lowlevel.remove_instrument(cancel)
                assert (leftovers(conn), own_tasks(), desks()) == (before, tasks, others)
                steps += 4
            assert steps > 100
            await trio.sleep(20)
            assert conn.state.phase is Phase.CONNECTED
            heard = [message.id for message in bob.messages]
            assert len(heard) == len(set(heard)) > 10
            said = [content for content in contents(bob) if content.startswith(f"{steps - 4} ")]
            assert said == [f"{steps - 4} {letter}" for letter in "cbd"]
            assert bob.typing_users == ()


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "field"),
    [
        (lambda room: room.say(""), PayloadError, "content"),
        (lambda room: room.say(" \n"), PayloadError, "content"),
        (lambda room: room.say(5), PayloadError, "content"),
        (lambda room: room.say("\x1b[2J"), PayloadError, "content"),
        (lambda room: room.say("\ud800"), PayloadError, "content"),
        (lambda room: room.say("x" * 20_000), PayloadError, "content"),
        (lambda room: room.say("x", kind="edit"), OptionError, "kind"),
        (lambda room: room.say("x", kind=None), OptionError, "kind"),
        (lambda room: room.say("x", kind=["text"]), OptionError, "kind"),
        (lambda room: room.say("x", metadata=[1]), PayloadError, "metadata"),
        (lambda room: room.say("x", metadata={"a": object()}), PayloadError, "metadata"),
        (lambda room: room.say("x", metadata={"a": "x" * 5000}), PayloadError, "metadata"),
        (lambda room: room.say("x", reply_to=0), OptionError, "reply_to"),
        (lambda room: room.say("x", reply_to=True), OptionError, "reply_to"),
        (lambda room: room.say("x", reply_to="1"), OptionError, "reply_to"),
        (lambda room: room.edit(1, ""), PayloadError, "content"),
        (lambda room: room.edit(-1, "x"), OptionError, "message"),
        (lambda room: room.delete(1.0), OptionError, "message"),
        (lambda room: room.delete(None), OptionError, "message"),
        (lambda room: room.react(1, "\n"), PayloadError, "reaction"),
        (lambda room: room.react(1, "x" * 65), PayloadError, "reaction"),
        (lambda room: room.react(1, "x", on=1), OptionError, "on"),
        (lambda room: room.mark_read(0), OptionError, "message"),
        (lambda room: room.mark_read(2), OptionError, "message"),
        (lambda room: room.history(before=0), OptionError, "before"),
        (lambda room: room.history(limit=0), OptionError, "limit"),
        (lambda room: room.history(limit=1.5), OptionError, "limit"),
        (lambda room: room.moderate("kick", "bob"), OptionError, "action"),
        (lambda room: room.moderate("mute", ""), OptionError, "user"),
        (lambda room: room.moderate("mute", "bob", for_s=-1), OptionError, "for_s"),
        (lambda room: room.moderate("role", "bob", role="king"), OptionError, "role"),
    ],
)
@clocked
async def test_bad_input(
    call: Callable[[ChatRoom], Any], error: type[Exception], field: str
) -> None:
    """It is a typed error of that field, at once, and nothing is queued or sent."""
    rules = Doorman()
    async with open_chat_world(rules=rules) as world, enter(world, "ann") as room:
        await (await room.say("hi")).wait_acked()
        await trio.sleep(1)
        with pytest.raises(error) as caught:
            await call(room)
        assert getattr(caught.value, "field", None) == field
        await trio.sleep(1)
        assert contents(room) == ["hi"]
        assert world.hub.statistics().refusals == {}


@clocked
async def test_bad_input_of_what_does_not_wait() -> None:
    """It is a typed error, too; so is a message that is not in the room yet."""
    async with open_chat_world() as world, enter(world, "ann") as room:
        with pytest.raises(OptionError, match="capacity"):
            room.events(capacity=0)
        with pytest.raises(OptionError, match="said"):
            room.dismiss("x")  # type: ignore[arg-type]
        await world.stop()
        said = await room.say("hi")
        with pytest.raises(OptionError, match="reply_to"):
            await room.say("x", reply_to=said.message)
        with pytest.raises(OptionError, match="message"):
            await room.edit(room.messages[0], "x")
        assert contents(room) == ["hi"]

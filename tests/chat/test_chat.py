"""`open_chat()`: over which connection, what a user tells of itself, and how it leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_rt
from trio_rt import Credentials, OptionError, Phase, Refused
from trio_rt.chat._client.beside import beside
from trio_rt.chat._client.chat import Chat, open_chat
from trio_rt.chat._client.room import ChatRoom
from trio_rt.chat.models import Spoken, User, UserChanged
from trio_rt.hub._server.hub import open_hub
from trio_rt.hub._server.rules import Rules, Who
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.options import Reconnect

from ..clocked import clocked
from ..helpers import own_tasks
from ..hub.support import Carrier, carriers
from .support import (
    Doorman,
    all_events,
    contents,
    enter,
    leftovers,
    next_of,
    open_chat_world,
    open_service_world,
    tells,
)

# ruff: noqa: SIM117 - who is there, and in which room, are two things


# The connection


@clocked
async def test_given_connection_is_left_open() -> None:
    """It is used as it is, and nothing of the chat is left on it."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        await conn.wait_connected()
        before, tasks = leftovers(conn), own_tasks()
        async with open_chat(conn) as chat, chat.room("lobby") as room:
            await room.say("hi")
        assert (leftovers(conn), own_tasks()) == (before, tasks)
        assert conn.state.phase is Phase.CONNECTED
        async with open_chat(conn) as chat, chat.room("lobby") as room:
            assert contents(room) == ["hi"]


@pytest.mark.parametrize("many", [False, True])
async def test_connection_of_its_own(many: bool) -> None:
    """By a URL or several, with credentials; it ends with the chat."""
    asked = []

    async def accept(handshake: trio_rt.Handshake) -> Who:
        await trio.lowlevel.checkpoint()
        asked.append(handshake.headers.get("authorization"))
        return Who("ann", info={"name": "Ann"})

    with trio.fail_after(20):
        async with open_hub() as hub, trio.open_nursery() as nursery:
            serve = partial(trio_rt.serve, hub, "127.0.0.1", 0, accept=accept)
            server = await nursery.start(serve)
            url = f"ws://127.0.0.1:{server.port}"
            where = [url, url] if many else url
            async with open_chat(where, credentials=Credentials(token="secret")) as chat:
                async with chat.room("lobby") as room:
                    await (await room.say("hi")).wait_acked()
                    assert room.me == User("ann", "Ann")
                conn = chat.conn
            assert conn.state.phase is Phase.DISCONNECTED
            assert asked[0] == "Bearer secret"
            nursery.cancel_scope.cancel()


@clocked
async def test_errors_leave_as_they_are() -> None:
    """From the chat's block and from a room's, in no group."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        error = KeyError("mine")
        with pytest.raises(KeyError) as caught:
            async with open_chat(conn):
                raise error
        assert caught.value is error
        with pytest.raises(KeyError) as caught:
            async with open_chat(conn) as chat, chat.room("lobby"):
                raise error
        assert caught.value is error


@clocked
async def test_connection_that_fails() -> None:
    """Its own error leaves, and not one of the chat."""
    reconnect = Reconnect(first_s=0.05, max_attempts=2)
    async with open_chat_world() as world:
        with pytest.raises(trio_rt.AttemptsExhausted):  # noqa: PT012
            async with enter(world, "ann", reconnect=reconnect) as room:
                await world.stop()
                said = await room.say("hi")
                await trio.sleep_forever()
        assert said.state == "failed"


@clocked
async def test_interrupt_at_the_end() -> None:
    """Ctrl-C while the rest is waited for leaves as it is, and ends the tasks."""

    async def interrupt() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    tasks = own_tasks()
    with pytest.raises(KeyboardInterrupt):
        async with beside(trio.sleep_forever, at_end=interrupt):
            pass
    assert own_tasks() == tasks


@clocked
async def test_interrupt_in_the_block() -> None:
    """Ctrl-C waits for nothing."""
    waited = []

    async def wait() -> None:
        waited.append("for what is queued")
        await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        async with beside(at_end=wait):
            raise KeyboardInterrupt
    assert waited == []


@clocked
async def test_room_that_is_not_for_everybody() -> None:
    """`Refused` leaves where it is entered, and the chat goes on."""

    class Closed(Doorman):
        async def may_join(self, who: Who, room: str) -> bool:
            return room != "secret"

    async with open_chat_world(rules=Closed()) as world, world.connect("ann") as conn:
        async with open_chat(conn) as chat:
            with pytest.raises(Refused, match="no_room"):
                async with chat.room("secret"):
                    pass
            assert not chat.rooms
            async with chat.room("lobby") as room:
                assert chat.rooms == (room,)


@clocked
async def test_connection_that_ends_before_its_room() -> None:
    """A room that is held by another task ends; what it has still to say is withdrawn."""
    async with open_chat_world() as world, trio.open_nursery() as nursery:
        ended = []

        async def hold(chat: Chat, task_status: trio.TaskStatus[ChatRoom]) -> None:
            async with chat.room("lobby") as room:
                with room.events() as events:
                    task_status.started(room)
                    async for event in events:
                        assert not isinstance(event, Spoken)
                    ended.append(room)

        async with world.connect("ann") as conn, open_chat(conn) as chat:
            room = await nursery.start(hold, chat)
            await world.stop()
            said = await room.say("hi")
        await wait_all_tasks_blocked()
        assert ended == [room]
        assert said.state == "failed"


@clocked
async def test_guests() -> None:
    """Who has no name has one of the hub's, and knows its own messages by it."""
    async with open_chat_world(rules=Rules()) as world, enter(world, "") as guest:
        await (await guest.say("hi")).wait_acked()
        await trio.sleep(1)
        (message,) = guest.messages
        assert message.mine
        assert guest.me.id == message.user.id
        assert guest.me.id.startswith("guest-")


@clocked
async def test_guest_in_a_new_session() -> None:
    """It is somebody else, who has said the same nevertheless."""
    broker = MemoryBroker()
    async with open_chat_world(rules=Rules(), broker=broker) as world, enter(world, "") as guest:
        await (await guest.say("hi")).wait_acked()
        first = guest.me
        await world.stop()
        await world.start(broker)
        await (await guest.say("ho")).wait_acked()
        await trio.sleep(5)
        assert guest.me != first
        assert guest.me.id in guest.members
        assert [message.mine for message in guest.messages] == [True, True]
        assert guest.unread == 0


# What a user tells of itself


@carriers
@clocked
async def test_profile(carrier: Carrier) -> None:
    """Everybody sees it, in all rooms, and it is restored after the loss of the session."""
    async with open_service_world(carrier) as world, enter(world, "bob") as bob:
        async with world.connect("ann") as conn, open_chat(conn) as chat:
            async with chat.room("lobby") as room:
                with bob.events() as events:
                    await chat.set_status("away")
                    event = await next_of(events, UserChanged)
                    assert (event.user.id, event.user.status) == ("ann", "away")
                    await chat.set_profile(name="Ann A.", avatar="🦉")
                    event = await next_of(events, UserChanged)
                    assert event.user == User("ann", "Ann A.", "away", "🦉") == room.me
                    await chat.set_profile()
                for kind in ("restart", "cut"):
                    if kind == "cut":
                        world.network.cut("ann", "rst")
                    else:
                        await world.stop()
                        await world.start()
                    await (await room.say(kind)).wait_acked()
                    await trio.sleep(5)
                    assert bob.members["ann"] == User("ann", "Ann A.", "away", "🦉")
                    assert bob.messages[-1].user.name == "Ann A."
        with pytest.raises(trio.ClosedResourceError):
            await chat.set_status("online")


@clocked
async def test_nothing_of_a_profile_is_left() -> None:
    """At the end of the chat the connection is as it was."""
    async with open_service_world() as world, world.connect("ann") as conn:
        await conn.wait_connected()
        before, tasks = leftovers(conn), own_tasks()
        async with open_chat(conn) as chat:
            await chat.set_status("away")
            await trio.sleep(1)
        assert (leftovers(conn), own_tasks()) == (before, tasks)


@clocked
async def test_profile_that_is_changed_often() -> None:
    """What was set last holds in the end, though the service takes only so many changes."""
    async with open_service_world() as world, enter(world, "bob") as bob:
        async with world.connect("ann") as conn, open_chat(conn) as chat, chat.room("lobby"):
            for n in range(35):
                await chat.set_status("away" if n % 2 else "online")
                await chat.set_profile(name=f"Ann {n}")
                await trio.sleep(0.1)
            assert world.hub.statistics().refusals["too_fast"] > 10
            await trio.sleep(30)
            assert bob.members["ann"] == User("ann", "Ann 34", "online")


@clocked
async def test_profile_that_is_set_offline() -> None:
    """It is told when there is a link, as it is then, once."""
    async with open_service_world() as world, enter(world, "bob") as bob:
        await world.stop()
        async with world.connect("ann") as conn, open_chat(conn) as chat:
            for change in ({"name": "Ann A."}, {"avatar": "x"}, {"name": "Ann B."}):
                await chat.set_profile(**change)
                await trio.sleep(0.01)
            await chat.set_status("away")
            await trio.sleep(0.01)
            assert sum(conn.statistics().queued.values()) == 1
            await world.start()
            with bob.events() as events:
                async with chat.room("lobby"):
                    await trio.sleep(5)
                    assert bob.members["ann"] == User("ann", "Ann B.", "away", "x")
                    assert len(tells(await all_events(events), UserChanged)) <= 1


@clocked
async def test_name_that_another_device_has_changed() -> None:
    """A message under the old name is said nevertheless."""
    async with open_service_world() as world:
        async with world.connect("ann") as phone, world.connect("ann") as laptop:
            async with open_chat(phone) as one, open_chat(laptop) as two:
                async with one.room("lobby") as room, two.room("lobby"):
                    await one.set_profile(name="Ann A.")
                    await trio.sleep(1)
                    said = []
                    for n in range(10):
                        await two.set_profile(name=f"Ann {n}")
                        said.append(await room.say(str(n)))
                        await trio.sleep(0.031)
                    for each in said:
                        await each.wait_acked()
                    await trio.sleep(1)
                    assert contents(room) == [str(n) for n in range(10)]


@clocked
async def test_profile_that_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """For good: it is logged, and is not told again and again."""
    async with open_service_world() as world, enter(world, "bob") as bob:
        async with world.connect("ann") as conn, open_chat(conn) as chat, chat.room("lobby"):
            chat._teller.change(name="\n")
            await trio.sleep(30)
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "malformed" in caplog.text
            await chat.set_profile(name="Ann A.")
            await trio.sleep(5)
            assert bob.members["ann"].name == "Ann A."


@clocked
async def test_hub_that_knows_no_profiles() -> None:
    """It answers nothing, and all else goes on."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        async with open_chat(conn) as chat, chat.room("lobby") as room:
            await chat.set_status("away")
            await (await room.say("hi")).wait_acked()
            await trio.sleep(60)
            assert room.me.status == "online"
            assert conn.state.phase is Phase.CONNECTED


@clocked
async def test_cancelled_change() -> None:
    """Nothing is changed."""
    async with open_service_world() as world, world.connect("ann") as conn:
        async with open_chat(conn) as chat, chat.room("lobby") as room:
            with trio.CancelScope() as scope:
                scope.cancel()
                await chat.set_status("away")
            assert scope.cancelled_caught
            with trio.CancelScope() as scope:
                scope.cancel()
                await chat.set_profile(name="Ann A.")
            assert scope.cancelled_caught
            await trio.sleep(1)
            assert room.me == User("ann", "ann")


# Bad input

#: Without its types.
open_anything: Any = open_chat


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda conn: open_anything(None), "where"),
        (lambda conn: open_anything(5), "where"),
        (lambda conn: open_anything(b"ws://server"), "url"),
        (lambda conn: open_anything([]), "url"),
        (lambda conn: open_anything("http://server"), "url"),
        (lambda conn: open_anything("ws://server", credentials=5), "credentials"),
        (lambda conn: open_anything(conn, credentials=Credentials(token="x")), "credentials"),
    ],
)
@clocked
async def test_bad_connection(call: Callable[[Any], Any], field: str) -> None:
    """It is an `OptionError` of that field, at once."""
    async with open_chat_world() as world, world.connect("ann") as conn:
        with pytest.raises(OptionError) as caught:
            call(conn)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda chat: chat.room(""), "name"),
        (lambda chat: chat.room(" x"), "name"),
        (lambda chat: chat.room(5), "name"),
        (lambda chat: chat.room("x", history=-1), "history"),
        (lambda chat: chat.room("x", history=1.5), "history"),
        (lambda chat: chat.room("x", history=True), "history"),
        (lambda chat: chat.room("x", history="start"), "history"),
    ],
)
@clocked
async def test_bad_room(call: Callable[[Chat], Any], field: str) -> None:
    """It is an `OptionError` of that field, at once."""
    async with open_chat_world() as world, world.connect("ann") as conn, open_chat(conn) as chat:
        with pytest.raises(OptionError) as caught:
            call(chat)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda chat: chat.set_status("offline"), "status"),
        (lambda chat: chat.set_status(None), "status"),
        (lambda chat: chat.set_status([]), "status"),
        (lambda chat: chat.set_profile(name=""), "name"),
        (lambda chat: chat.set_profile(name=5), "name"),
        (lambda chat: chat.set_profile(name="Ann", avatar="\n"), "avatar"),
        (lambda chat: chat.set_profile(avatar="x" * 600), "avatar"),
    ],
)
@clocked
async def test_bad_profile(call: Callable[[Chat], Any], field: str) -> None:
    """It is an `OptionError` of that field, and nothing is changed."""
    async with open_service_world() as world, world.connect("ann") as conn:
        async with open_chat(conn) as chat, chat.room("lobby") as room:
            with pytest.raises(OptionError) as caught:
                await call(chat)
            assert caught.value.field == field
            await trio.sleep(1)
            assert room.me == User("ann", "ann")

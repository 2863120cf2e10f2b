"""What a program adds to a hub: own commands, an ear, other identities, dialects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import msgspec
import pytest
import trio

import trio_rt
from tests.hub.talkers import House, open_door
from tests.strangers import complaints
from tests.testing.support import virtual
from trio_rt import OptionError, PayloadError, Refused
from trio_rt.hub import BrokerError, HubLimits, Rules, Who, open_hub, open_room
from trio_rt.hub._broker import Item
from trio_rt.hub._server.extension import Shapes
from trio_rt.hub._server.hub import Dialect, Extension, Guest, Hub, Room
from trio_rt.hub._words import JOIN, MEMBERS, PUBLISH, Event, Join, Publish, message_event

GRACE_S = HubLimits().grace_s


class Add(msgspec.Struct):
    """About a room."""

    room: str
    a: int
    b: int = 1


class Ping(msgspec.Struct):
    """About no room."""

    mode: str = ""


class Shout(msgspec.Struct):
    """A dialect's."""

    room: str
    text: str = ""


class Shouting(Dialect):
    """Says everything in capitals."""

    commands: ClassVar[Shapes] = {"shout.in": Shout, "shout": Shout}

    def __init__(self) -> None:
        self.said = 0

    async def take(self, hub: Hub, guest: Guest, command: Shout, re: str) -> None:
        if command.text:
            await hub.perform(guest, Publish(command.room, command.text), re)
        else:
            await hub.perform(guest, Join(command.room), re)

    def say(self, room: str, event: Event) -> Iterable[tuple[str, Any]]:
        self.said += 1
        match event.kind:
            case "message":
                if event.payload == "broken":
                    raise RuntimeError("no words")
                yield "SHOUT", [room, str(event.payload).upper(), event.offset]
                if event.payload == "twice":
                    yield "SHOUT", [room, "AGAIN", event.offset]
            case "refused":
                yield "NO", [room, event.code, event.re]
            case "presence":
                yield "HERE", [member["user"] for member in event.joined]


class Own(Extension):
    """Adds numbers, and keeps what it hears."""

    commands: ClassVar[Shapes] = {"own.add": Add, "own.ping": Ping}

    def __init__(self) -> None:
        self.dialects = [Shouting()]
        self.takes: list[tuple[str, Any]] = []
        self.items: list[tuple[str, int, Any]] = []

    async def take(self, hub: Hub, guest: Guest, command: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.takes.append((guest.who.user, command))
        if isinstance(command, Ping):
            return _ping(command.mode)
        if command.a < 0:
            raise Refused("negative", "only from 0 on")
        await trio.sleep(command.b if command.a == 100 else 0)
        return command.a + command.b

    def heard(self, hub: Hub, room: Room, item: Item) -> None:
        event = message_event(item)
        self.items.append((room.name, item.offset, event.payload))
        if event.payload == "deaf":
            raise RuntimeError("deaf")
        if event.payload == "out":
            hub.remove(event.user, room.name, "out")


def _ping(mode: str) -> Any:
    match mode:
        case "store":
            raise BrokerError("away")
        case "fault":
            raise RuntimeError("a fault")
        case "unsayable":
            return object()
    return mode


@asynccontextmanager
async def open_own(**options: Any) -> AsyncIterator[tuple[House, Own]]:
    """A hub with `Own`."""
    own = Own()
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(open_hub(extension=own, **options))
        yield await stack.enter_async_context(open_door(hub)), own


async def settle() -> None:
    await trio.sleep(1.0)


# Own commands


@virtual
async def test_an_own_command_about_a_room() -> None:
    """It is answered as of the room, with what `take` returned."""
    async with open_own() as (house, own):
        anna = await house.enter("anna")
        done = await anna.ask("own.add", room="r", a=2, b=3)
        assert (done.kind, done.payload) == ("done", 5)
        assert anna.told[-1][0] == "room:r"
        assert own.takes == [("anna", Add("r", 2, 3))]


@virtual
async def test_an_own_command_about_no_room() -> None:
    """It is answered with the types `hub.done` and `hub.refused`."""
    async with open_own() as (house, _):
        anna = await house.enter("anna")
        assert (await anna.ask("own.ping", mode="x")).payload == "x"
        assert (await anna.ask("own.ping", mode="store")).code == "unavailable"
        assert [type for type, _ in anna.told] == ["hub.done", "hub.refused"]


@pytest.mark.parametrize(
    ("command", "fields", "code", "type"),
    [
        ("own.add", {"room": "r", "a": -1}, "negative", "room:r"),
        ("own.add", {"room": "r", "a": "x"}, "malformed", "hub.refused"),
        ("own.add", {"room": "r"}, "malformed", "hub.refused"),
        ("own.add", {"room": " r", "a": 1}, "bad_name", "hub.refused"),
        ("own.add", {"room": "", "a": 1}, "bad_name", "hub.refused"),
        ("own.add", {"a": 1}, "malformed", "hub.refused"),
        ("own.ping", {"mode": 1}, "malformed", "hub.refused"),
        ("own.ping", {"mode": "fault"}, "error", "hub.refused"),
        ("own.ping", {"mode": "unsayable"}, "unsaid", "hub.done"),
    ],
)
@virtual
async def test_an_own_command_is_refused(
    command: str, fields: dict[str, Any], code: str, type: str
) -> None:
    """As the hub's own are, and the next one is taken."""
    async with open_own() as (house, _):
        anna = await house.enter("anna")
        refused = await anna.ask(command, **fields)
        assert (refused.kind, refused.code, anna.told[-1][0]) == ("refused", code, type)
        assert (await anna.ask("own.add", room="r", a=1)).payload == 2


@virtual
async def test_own_commands_have_the_rate_of_all() -> None:
    """They are counted with the hub's."""
    async with open_own(limits=HubLimits(rate_per_s=1, burst=3)) as (house, own):
        anna = await house.enter("anna")
        await anna.join("r")
        asked = [await anna.say("own.add", room="r", a=n) for n in range(4)]
        kinds = [(await anna.answer(each)).kind for each in asked]
        assert kinds == ["done", "done", "refused", "refused"]
        assert house.hub.statistics().refusals == {"too_fast": 2}
        assert len(own.takes) == 2


@virtual
async def test_own_commands_are_in_order() -> None:
    """The next command of the same peer waits; those of others do not."""
    async with open_own() as (house, _):
        anna, bob = await house.enter("anna"), await house.enter("bob")
        await anna.say("own.add", room="r", a=100, b=5)
        behind = await anna.say("own.ping")
        await trio.sleep(1)
        assert (await bob.ask("own.ping")).kind == "done"
        assert not anna.told
        await anna.answer(behind)
        assert [event.payload for _, event in anna.told] == [105, ""]


class Foreign(msgspec.Struct):
    """Of a type that is taken."""


@pytest.mark.parametrize(
    "commands",
    [
        {JOIN: Foreign},
        {"heartbeat": Foreign},
        {"hub.done": Foreign},
        {"": Foreign},
        {"shout": Foreign},
        {"own": dict},
        {"own": Foreign()},
    ],
)
async def test_an_extension_that_cannot_be(commands: Any) -> None:
    """Types of somebody else, and shapes that are none, are errors at once."""
    own = Own()
    own.commands = commands  # type: ignore[misc]
    with pytest.raises(OptionError, match=r"extension\.commands"):
        async with open_hub(extension=own):
            raise AssertionError


async def test_no_extension() -> None:
    """Anything else in its place is an error."""
    with pytest.raises(OptionError, match="extension"):
        async with open_hub(extension=Rules()):  # type: ignore[arg-type]
            raise AssertionError


# At a client


@asynccontextmanager
async def open_client(house: House, user: str, **options: Any) -> AsyncIterator[Any]:
    async with trio_rt.connect(
        f"ws://server/{user}", open_stream=house.site.network.open_stream_from(user), **options
    ) as conn:
        yield conn


@pytest.mark.parametrize("session", ["off", "require"])
@virtual
async def test_membership_command(session: Any) -> None:
    """It returns what the answer has, or raises what it was refused with."""
    async with open_own() as (house, own), open_client(house, "anna", session=session) as conn:
        async with open_room(conn, "r") as room, open_room(conn, "r") as other:
            assert await room.command("own.add", {"a": 1, "b": 2}) == 3
            assert await room.command("own.add", {"a": 1, "b": 2, "room": "s"}) == 3
            assert await other.command("own.ping", {"mode": "x"}, names_room=False) == "x"
            with pytest.raises(Refused, match="negative"):
                await room.command("own.add", {"a": -1})
            with pytest.raises(Refused, match="malformed"):
                await room.command("own.ping", {"mode": 1}, names_room=False)
            with pytest.raises(Refused, match="error"):
                await other.command("own.ping", {"mode": "fault"}, names_room=False)
        assert {command.room for _, command in own.takes if isinstance(command, Add)} == {"r"}


@virtual
async def test_membership_command_checks() -> None:
    """What cannot be is an error before anything is sent."""
    async with open_own() as (house, own), open_client(house, "anna") as conn:
        async with open_room(conn, "r") as room:
            for type, fields, names_room, field in [
                ("", {}, True, "type"),
                ("own.add", [], True, "fields"),
                ("own.add", {}, 1, "names_room"),
            ]:
                with pytest.raises(OptionError) as caught:
                    await room.command(type, fields, names_room=names_room)  # type: ignore[arg-type]
                assert caught.value.field == field
            with pytest.raises(PayloadError):
                await room.command("own.add", {"a": object()})
        assert own.takes == []


@virtual
async def test_membership_command_over_a_lost_link() -> None:
    """It is given again until it is answered."""
    async with open_own() as (house, own):
        async with (
            open_client(house, "anna", session="off") as conn,
            open_room(conn, "r") as room,
            trio.open_nursery() as nursery,
        ):

            async def cut() -> None:
                await trio.sleep(1)
                house.site.network.cut("server")

            nursery.start_soon(cut)
            assert await room.command("own.add", {"a": 100, "b": 3}) == 103
        assert len(own.takes) == 2


# Hearing


@virtual
async def test_heard() -> None:
    """Each message of a room with members here, stored or not, once and in order."""
    async with open_own() as (house, own):
        await house.hub.publish("r", "before")
        anna, bob = await house.enter("anna"), await house.enter("bob")
        await anna.join("r")
        await bob.join("r")
        await anna.ask(PUBLISH, room="r", payload=1)
        await anna.ask(PUBLISH, room="r", payload=2, store=False)
        await house.hub.publish("other", "nobody there")
        await bob.ask(PUBLISH, room="r", payload=3, to="others")
        await settle()
        assert own.items == [("r", 2, 1), ("r", 0, 2), ("r", 3, 3)]


@virtual
async def test_heard_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the members are told all the same."""
    async with open_own() as (house, own):
        anna = await house.enter("anna")
        await anna.join("r")
        for payload in ("deaf", "well"):
            await anna.ask(PUBLISH, room="r", payload=payload)
        assert await anna.hears("r", 2) == ["deaf", "well"]
        assert [payload for _, _, payload in own.items] == ["deaf", "well"]
        assert complaints(caplog) == ["room:r: the extension failed to hear a message"]


@virtual
async def test_heard_removes() -> None:
    """It may remove members: they were told the message before."""
    async with open_own() as (house, _):
        anna, bob = await house.enter("anna"), await house.enter("bob")
        await anna.join("r")
        await bob.join("r")
        await anna.ask(PUBLISH, room="r", payload="out")
        await settle()
        assert [event.kind for event in anna.of("r", "message", "removed")] == [
            "message",
            "removed",
        ]
        assert bob.heard("r") == ["out"]
        assert (await anna.ask(PUBLISH, room="r")).code == "not_joined"


# Who somebody is


@virtual
async def test_describe() -> None:
    """All rooms hear of a user's new info, and later comers are given it."""
    async with open_own() as (house, _):
        anna, phone = await house.enter("anna"), await house.enter("anna", device="phone")
        bob = await house.enter("bob")
        for talker, room in [(anna, "r"), (phone, "s"), (bob, "r"), (bob, "s")]:
            await talker.join(room)
        await settle()
        assert house.hub.describe("anna", {"name": "Anna K"}) == 2
        await settle()
        for room in "rs":
            assert bob.of(room, "presence")[-1].joined == [
                {"user": "anna", "info": {"name": "Anna K"}}
            ]
        carl = await house.enter("carl")
        assert {"user": "anna", "info": {"name": "Anna K"}} in (await carl.join("r")).members
        assert house.hub.describe("nobody", None) == 0


@virtual
async def test_describe_what_cannot_be() -> None:
    """Info that is no JSON, and a user that is none, are errors, and nothing changes."""
    async with open_own() as (house, _):
        anna = await house.enter("anna")
        await anna.join("r")
        with pytest.raises(PayloadError, match="info"):
            house.hub.describe("anna", object())
        with pytest.raises(OptionError, match="user"):
            house.hub.describe("", None)
        assert (await anna.ask(MEMBERS, room="r")).members == [
            {"user": "anna", "info": {"name": "anna"}}
        ]


@virtual
async def test_describe_survives_a_lost_link() -> None:
    """A session that is taken up again shows what it was described as last."""
    async with open_own() as (house, _):
        bob = await house.enter("bob")
        await bob.join("r")
        network = house.site.network
        async with (
            open_client(house, "anna", session="require") as conn,
            open_room(conn, "r"),
        ):
            house.hub.describe("anna", "new")
            network.refuse("server")
            network.cut("anna")
            await trio.sleep(GRACE_S + 1)
            assert "anna" not in house.hub.users("r")
            house.hub.describe("anna", "newer")
            await settle()
            assert "anna" not in house.hub.users("r")
            network.accept("server")
            await conn.wait_connected()
            await settle()
            members = (await bob.ask(MEMBERS, room="r")).members
            assert {"user": "anna", "info": "newer"} in members


@virtual
async def test_identify() -> None:
    """In all its rooms the one that it was leaves and the other one enters, and says what is said."""
    async with open_own() as (house, _):
        anna, bob = await house.enter("anna"), await house.enter("bob")
        for room in "rs":
            await anna.join(room)
            await bob.join(room)
        (guest,) = house.hub.devices("anna")
        before = guest.device
        house.hub.identify(guest, Who("eve", info={"name": "Eve"}))
        assert (guest.is_identified, guest.device != before) == (True, True)
        assert house.hub.devices("anna") == []
        assert house.hub.devices("eve") == [guest]
        await trio.sleep(GRACE_S + 1)
        for room in "rs":
            assert sorted(house.hub.users(room)) == ["bob", "eve"]
            assert {"user": "eve", "info": {"name": "Eve"}} in bob.of(room, "presence")[-2].joined
            assert bob.of(room, "presence")[-1].left == ["anna"]
            await anna.ask(PUBLISH, room=room, payload=room)
        await settle()
        said = bob.of("r", "message")[-1]
        assert (said.user, said.device) == ("eve", guest.device)
        again = await anna.ask(JOIN, room="r")
        assert (again.user, again.device) == ("eve", guest.device)
        await anna.leave()
        await trio.sleep(GRACE_S + 1)
        assert house.hub.users("s") == ["bob"]


@virtual
async def test_identify_is_checked() -> None:
    """Only a `Who` is somebody."""
    async with open_own() as (house, _):
        await house.enter("anna")
        (guest,) = house.hub.devices("anna")
        with pytest.raises(OptionError, match="who"):
            house.hub.identify(guest, "eve")  # type: ignore[arg-type]
        assert guest.who.user == "anna"

"""What a program adds to a hub: own commands, an ear, other identities, dialects."""

from __future__ import annotations

import math
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
            case "room":
                yield "LOOK", [room, event.last]
            case "presence":
                yield "HERE", [member["user"] for member in event.joined]


class Own(Extension):
    """Adds numbers, and keeps what it hears."""

    commands: ClassVar[Shapes] = {"own.add": Add, "own.ping": Ping}

    def __init__(self) -> None:
        self.shouting = Shouting()
        self.dialects = [self.shouting]
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
            wrong: list[tuple[Any, Any, Any, str]] = [
                ("", {}, True, "type"),
                ("own.add", [], True, "fields"),
                ("own.add", {}, 1, "names_room"),
            ]
            for type, fields, names_room, field in wrong:
                with pytest.raises(OptionError) as caught:
                    await room.command(type, fields, names_room=names_room)
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
        await settle()
        for room in "rs":
            assert sorted(house.hub.users(room)) == ["bob", "eve"]
            news = bob.of(room, "presence")[-1]
            assert news.joined == [{"user": "eve", "info": {"name": "Eve"}}]
            assert news.left == ["anna"]
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


# Dialects


class Shouter:
    """A peer that speaks the dialect."""

    def __init__(self, conn: trio_rt.Connection) -> None:
        self.conn = conn
        self.told: list[tuple[str, Any]] = []
        self.beats = 0
        self.metas: list[tuple[str, int | None]] = []

    async def say(self, room: str, text: str = "") -> str:
        return (await self.conn.send("shout", {"room": room, "text": text})).id

    async def listen(self, task_status: trio.TaskStatus[None]) -> None:
        kinds = ("SHOUT", "NO", "HERE", "LOOK", "room:r", "hub.refused", "heartbeat")
        with self.conn.subscribe(*kinds) as stream:
            task_status.started()
            async for item in stream:
                assert isinstance(item, trio_rt.Message)
                if item.type == "heartbeat":
                    self.beats += 1
                else:
                    self.told.append((item.type, item.payload))
                    self.metas.append((item.id, item.timestamp))

    def of(self, type: str) -> list[Any]:
        return [payload for each, payload in self.told if each == type]


@asynccontextmanager
async def open_shouter(house: House, user: str, **options: Any) -> AsyncIterator[Shouter]:
    options.setdefault("session", "off")
    async with open_client(house, user, **options) as conn, trio.open_nursery() as nursery:
        await conn.wait_connected()
        shouter = Shouter(conn)
        await nursery.start(shouter.listen)
        yield shouter
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("session", ["off", "require"])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@virtual
async def test_a_dialect(session: Any, codec: Any) -> None:
    """Its speaker is told all in its words, beside members who are told the hub's."""
    own = Own()
    async with open_hub(extension=own) as hub, open_door(hub, codec=codec) as house:
        anna = await house.enter("anna", codec=codec)
        await anna.join("r")
        async with open_shouter(house, "bob", session=session, codec=codec) as bob:
            await bob.say("r")
            await settle()
            await bob.say("r", "hello")
            await anna.ask(PUBLISH, room="r", payload="hi")
            await settle()
            assert anna.heard("r") == ["hello", "hi"]
            assert bob.told == [
                ("HERE", ["bob"]),
                ("SHOUT", ["r", "HELLO", 1]),
                ("SHOUT", ["r", "HI", 2]),
            ]
            ids = [id for id, _ in bob.metas]
            assert all(ids)
            assert len(set(ids)) == 3
            assert all(isinstance(at, int) for _, at in bob.metas)


@virtual
async def test_a_dialect_begins_with_its_first_message() -> None:
    """Before, its speaker is told things as everybody is; from then on refusals, too."""
    async with open_own() as (house, _), open_shouter(house, "bob") as bob:
        await bob.conn.send(JOIN, {"room": "r"})
        await bob.conn.send(PUBLISH, {"room": "s"})
        await settle()
        assert {type for type, _ in bob.told} == {"room:r"}
        bob.told.clear()
        first = await bob.say("s", "not a member")
        second = (await bob.conn.send("shout", {"room": 1})).id
        third = (await bob.conn.send(PUBLISH, {"room": "s"})).id
        fourth = (await bob.conn.send("own.add", {"room": "r", "a": -1})).id
        await bob.conn.send("own.add", {"room": "r", "a": 1})
        await settle()
        assert bob.told == [
            ("NO", ["s", "not_joined", first]),
            ("NO", ["", "malformed", second]),
            ("NO", ["s", "not_joined", third]),
            ("NO", ["r", "negative", fourth]),
        ]


@virtual
async def test_a_dialect_says_a_message_once_for_all() -> None:
    """However many speak it."""
    async with open_own() as (house, own), AsyncExitStack() as stack:
        anna = await house.enter("anna")
        await anna.join("r")
        shouters = [await stack.enter_async_context(open_shouter(house, f"u{n}")) for n in range(5)]
        for shouter in shouters:
            await shouter.say("r")
        await settle()
        before = own.shouting.said
        await anna.ask(PUBLISH, room="r", payload="twice")
        await settle()
        assert own.shouting.said - before == 1
        for shouter in shouters:
            assert shouter.of("SHOUT") == [["r", "TWICE", 1], ["r", "AGAIN", 1]]


@virtual
async def test_messages_of_a_dialect_for_some() -> None:
    """What spares a device, or is for one user, is so for speakers of a dialect."""
    async with open_own() as (house, _), open_shouter(house, "bob") as bob:
        anna = await house.enter("anna")
        await anna.join("r")
        await bob.say("r")
        await settle()
        await bob.conn.send(PUBLISH, {"room": "r", "payload": "not me", "to": "others"})
        await settle()
        for user in ("anna", "bob"):
            await house.hub.publish("r", f"to {user}", only=user, store=False)
        await settle()
        assert anna.heard("r") == ["not me", "to anna"]
        assert bob.of("SHOUT") == [["r", "TO BOB", 0]]


@virtual
async def test_a_dialect_without_words(caplog: pytest.LogCaptureFixture) -> None:
    """What it fails to say is logged and not told; what is behind it is."""
    async with open_own() as (house, _), open_shouter(house, "bob") as bob:
        anna = await house.enter("anna")
        await anna.join("r")
        await bob.say("r")
        await settle()
        for payload in ("broken", "whole"):
            await anna.ask(PUBLISH, room="r", payload=payload)
        await settle()
        assert anna.heard("r") == ["broken", "whole"]
        assert bob.of("SHOUT") == [["r", "WHOLE", 2]]
        assert complaints(caplog) == ["room:r: the dialect cannot say what is to be told"]


@virtual
async def test_a_speaker_of_a_dialect_that_lags() -> None:
    """It is told to look, in its words, and what it asked is answered behind that."""
    own, much = Own(), "x" * 10_000
    limits = HubLimits(rate_per_s=math.inf)
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(open_hub(extension=own, limits=limits))
        door = open_door(hub, outbox=trio_rt.OutboxLimits(messages=20))
        house = await stack.enter_async_context(door)
        anna = await house.enter("anna")
        await anna.join("r")
        bob = await stack.enter_async_context(open_shouter(house, "bob"))
        await bob.say("r")
        await settle()
        link = [link for link in house.site.network.connections if link.alive][-1]
        link.stall("client")
        for number in range(100):
            await anna.say(PUBLISH, room="r", payload=f"{number} {much}")
        await anna.hears("r", 100)
        assert hub.statistics().lagging == 1
        asked = await bob.say("s", "not a member")
        link.resume()
        await settle()
        kinds = [type for type, _ in bob.told]
        assert bob.of("LOOK") == [["r", 100]]
        assert kinds[1:] == ["SHOUT"] * (len(kinds) - 3) + ["LOOK", "NO"]
        assert bob.of("NO") == [["s", "not_joined", asked]]


@virtual
async def test_heartbeats_are_answered() -> None:
    """Those of a plain link, once in a second; and they make nobody speak a dialect."""
    async with open_own() as (house, _):
        async with open_shouter(house, "bob") as bob:
            for _ in range(5):
                await bob.conn.send("heartbeat")
            await settle()
            assert bob.beats == 1
            await bob.conn.send("heartbeat", {"any": "thing"})
            await bob.conn.send(JOIN, {"room": "r"})
            await settle()
            assert bob.beats == 2
            assert bob.of("room:r")
        async with open_shouter(house, "eve", session="require") as eve:
            await eve.conn.send("heartbeat")
            await settle()
            assert eve.beats == 0


@virtual
async def test_heartbeats_count() -> None:
    """A flood of them leaves nothing for commands, and is not answered."""
    limits = HubLimits(rate_per_s=1, burst=3)
    async with open_own(limits=limits) as (house, _), open_shouter(house, "bob") as bob:
        for _ in range(50):
            await bob.conn.send("heartbeat")
        await bob.say("r")
        await settle()
        assert (bob.beats, bob.of("NO")[0][:2]) == (1, ["r", "too_fast"])

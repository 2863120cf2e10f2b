"""The service: moderation on one node and on two, over restarts; profiles; and its edges."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_rt
from tests.chat.parlour import SECRET, Parlour, Visitor, open_parlour
from tests.hub.faulty import FaultyBroker
from tests.hub.redis_store import shared_server
from tests.testing.support import virtual
from trio_rt import BrokerError, OptionError, Refused
from trio_rt.chat import (
    ChatRules,
    MemoryStandings,
    SqliteStandings,
    Standing,
    open_chat_service,
    sign_token,
)
from trio_rt.chat._service.moderation import LOOK_S, MOST_S, REPEAT_S
from trio_rt.chat._service.service import PROFILES_BURST
from trio_rt.chat._service.standing import now_ms
from trio_rt.chat._service.tokens import SERVICE
from trio_rt.chat._words import MODERATE, MODERATION, PROFILE
from trio_rt.hub import RedisBroker, RoomMessage, Rules, Who, open_room
from trio_rt.hub._words import JOIN, Event
from trio_rt.testing import jump_wall_clock

OWNERS = {"r": ["olga"]}
#: Real seconds after which a test has hung.
LIMIT_S = 20


def decisions(visitor: Visitor, room: str = "r") -> list[dict[str, Any]]:
    """Those that it was told of."""
    messages = [event for event in visitor.of(room, "message") if event.type == MODERATION]
    assert all(event.user == SERVICE and event.offset for event in messages)
    return [event.payload for event in messages]


def removed(visitor: Visitor, room: str = "r") -> list[str]:
    return [event.text for event in visitor.of(room, "removed")]


async def is_removed(visitor: Visitor) -> None:
    """Wait for that."""
    await visitor.until(lambda: removed(visitor))


async def enter(parlour: Parlour, *users: str, room: str = "r") -> list[Visitor]:
    visitors = [await parlour.enter(user) for user in users]
    for visitor in visitors:
        await visitor.join(room)
    return visitors


# Decisions


@virtual
async def test_a_mute() -> None:
    """Everybody hears of it; the user may listen, and speaks again afterwards."""
    async with open_parlour(owners=OWNERS) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")
        done = await olga.moderate("r", "mute", "anna", for_s=600)
        assert done.payload["until"] == pytest.approx(now_ms() + 600_000, abs=1000)
        assert (await anna.say_text("r", "hello")).code == "muted"
        assert (await anna.ask(JOIN, room="r")).kind == "done"
        await olga.moderate("r", "unmute", "anna")
        assert (await anna.say_text("r", "hello")).kind == "done"
        await trio.sleep(1)
        for visitor in (olga, anna):
            mute, unmute = decisions(visitor)
            assert mute == {**done.payload, "action": "mute", "user": "anna", "by": "olga"}
            assert unmute == {"action": "unmute", "user": "anna", "by": "olga"}
        assert parlour.service.statistics().decisions == {"mute": 1, "unmute": 1}


@virtual
async def test_a_ban() -> None:
    """All devices of the user are told, and removed; they stay in other rooms."""
    async with open_parlour(owners=OWNERS) as parlour:
        olga, anna, phone, bob = await enter(parlour, "olga", "anna", "anna", "bob")
        await anna.join("s")
        assert (await olga.moderate("r", "ban", "anna")).kind == "done"
        for device in (anna, phone):
            await is_removed(device)
            assert removed(device) == ["you are banned for good"]
            assert decisions(device) == [{"action": "ban", "user": "anna", "by": "olga"}]
            assert (await device.ask(JOIN, room="r")).code == "no_room"
            assert (await device.say_text("r", "hello")).code == "not_joined"
        assert not removed(bob)
        assert (await anna.say_text("s", "hello")).kind == "done"
        await olga.moderate("r", "unban", "anna")
        assert (await anna.ask(JOIN, room="r")).kind == "done"


@virtual
async def test_a_ban_ends() -> None:
    """By the wall clock, and what was decided besides stays."""
    async with open_parlour(owners=OWNERS) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")
        await olga.moderate("r", "role", "anna", role="reader")
        await olga.moderate("r", "ban", "anna", for_s=60)
        await is_removed(anna)
        assert removed(anna)[0].startswith("you are banned until 2030-01-01 00:01:0")
        assert (await anna.ask(JOIN, room="r")).code == "no_room"
        jump_wall_clock(60)
        assert (await anna.ask(JOIN, room="r")).kind == "done"
        assert (await anna.say_text("r", "hello")).code == "read_only"


@virtual
async def test_what_was_decided_stays_with_the_next_decision() -> None:
    """A decision changes one thing about a user, and nothing else that was decided."""
    standings = MemoryStandings()
    async with open_parlour(standings=standings) as parlour:
        decide = parlour.service.moderate
        await decide("r", "role", "anna", role="reader")
        await decide("r", "mute", "anna")
        await decide("r", "ban", "anna")
        assert await standings.get("r", "anna") == Standing("reader", 0, 0)
        await decide("r", "unban", "anna")
        assert await standings.get("r", "anna") == Standing("reader", 0, None)
        await decide("r", "ban", "anna")
        await decide("r", "unmute", "anna")
        assert await standings.get("r", "anna") == Standing("reader", None, 0)


@virtual
async def test_owners_make_owners() -> None:
    """And unmake them, but not those that the program has named, nor admins, nor guests."""
    async with open_parlour(owners=OWNERS, anonymous=True) as parlour:
        olga, anna, bob = await enter(parlour, "olga", "anna", "bob")
        root, guest = await parlour.enter("root", admin=True), await parlour.enter(None)
        await root.join("r")
        stranger = (await guest.join("r")).user
        assert (await anna.moderate("r", "mute", "bob")).code == "forbidden"
        await olga.moderate("r", "role", "anna", role="owner")
        assert (await anna.moderate("r", "role", "bob", role="owner")).kind == "done"
        assert (await bob.moderate("r", "role", "anna", role="member")).kind == "done"
        assert (await anna.moderate("r", "mute", "bob")).code == "forbidden"
        assert (await anna.moderate("s", "mute", "bob")).code == "forbidden"
        for user in ("olga", "root"):
            assert (await bob.moderate("r", "ban", user)).code == "forbidden"
        assert (await bob.moderate("r", "role", stranger, role="owner")).code == "forbidden"
        assert (await bob.moderate("r", "role", stranger, role="reader")).kind == "done"
        assert (await guest.say_text("r", "hello")).code == "read_only"
        assert (await root.moderate("s", "mute", "bob")).kind == "done"


@virtual
async def test_an_owner_who_is_banned_owns_nothing() -> None:
    """Until somebody else lets him in again."""
    async with open_parlour(owners=OWNERS) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")
        await olga.moderate("r", "role", "anna", role="owner")
        await olga.moderate("r", "ban", "anna")
        assert (await anna.moderate("r", "unban", "anna")).code == "forbidden"
        await olga.moderate("r", "unban", "anna")
        await anna.join("r")
        assert (await anna.moderate("r", "mute", "bob")).kind == "done"


BAD: list[dict[str, Any]] = [
    {},
    {"action": "ban"},
    {"user": "anna"},
    {"action": "kill", "user": "anna"},
    {"action": "moderate", "user": "anna"},
    {"action": "ban", "user": ""},
    {"action": "ban", "user": "a\nb"},
    {"action": "ban", "user": "x" * 129},
    {"action": "ban", "user": 7},
    {"action": "ban", "user": "anna", "for_s": -1},
    {"action": "ban", "user": "anna", "for_s": MOST_S + 1},
    {"action": "ban", "user": "anna", "for_s": "600"},
    {"action": "ban", "user": "anna", "for_s": 1e300},
    {"action": "ban", "user": "anna", "by": "root"},
    {"action": "role", "user": "anna", "role": "king"},
]


@virtual
async def test_bad_decisions() -> None:
    """They are refused, and nothing is decided."""
    async with open_parlour(owners=OWNERS) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")
        for fields in BAD:
            answer = await olga.ask(MODERATE, room="r", **fields)
            assert answer.code == "malformed", fields
        assert (await olga.ask(MODERATE, room="\n", action="ban", user="anna")).code == "bad_name"
        assert (await anna.say_text("r", "hello")).kind == "done"
        assert decisions(olga) == []
        assert parlour.service.statistics().decisions == {}


@virtual
async def test_a_decision_that_is_asked_for_again() -> None:
    """At once it is the same message; after another one, or later, it is a new one."""
    async with open_parlour(owners=OWNERS) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")

        async def ask(action: str) -> Any:
            return (await olga.moderate("r", action, "anna", for_s=60)).payload

        first = await ask("mute")
        await trio.sleep(1)
        assert await ask("mute") == first
        await ask("unmute")
        second = await ask("mute")
        assert second["until"] > first["until"]
        await trio.sleep(REPEAT_S)
        assert (await ask("mute"))["until"] > second["until"]
        await trio.sleep(1)
        assert [each["action"] for each in decisions(anna)] == ["mute", "unmute", "mute", "mute"]


@virtual
async def test_a_decision_that_was_taken_back_elsewhere() -> None:
    """The same one again is a new one: the user may be there again."""
    standings = MemoryStandings()
    async with open_parlour(owners=OWNERS, standings=standings) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")
        await olga.moderate("r", "ban", "anna")
        await is_removed(anna)
        await standings.set("r", "anna", Standing())
        await anna.join("r")
        await olga.moderate("r", "ban", "anna")
        await trio.sleep(1)
        assert len(removed(anna)) == 2


@virtual
async def test_what_is_over_is_forgotten() -> None:
    """With the next decision about the user."""
    standings = MemoryStandings()
    async with open_parlour(standings=standings) as parlour:
        await parlour.service.moderate("r", "mute", "anna", for_s=1)
        jump_wall_clock(1)
        await parlour.service.moderate("r", "unban", "anna")
        assert await standings.get("r", "anna") == Standing()


async def test_what_another_node_has_just_decided(tmp_path: Path) -> None:
    """It stays, beside what is decided here."""
    standings, other = SqliteStandings(tmp_path / "s"), SqliteStandings(tmp_path / "s")
    async with open_chat_service(standings=standings) as service:
        assert await standings.get("r", "anna") == Standing()
        await other.set("r", "anna", Standing("reader"))
        await service.moderate("r", "ban", "anna")
        assert await standings.get("r", "anna") == Standing("reader", banned_until=0)
    await other.aclose()


@virtual
async def test_the_program_decides() -> None:
    """About anybody, in any room, before anybody was there."""
    async with open_parlour(owners=OWNERS) as parlour:
        moderate = parlour.service.moderate
        decision = await moderate("new", "ban", "anna", for_s=60)
        assert (decision.by, decision.until) == (SERVICE, now_ms() + 60_000)
        await moderate("new", "role", "bob", role="owner")
        anna, bob = await parlour.enter("anna"), await parlour.enter("bob")
        assert (await anna.ask(JOIN, room="new")).code == "no_room"
        assert (await bob.moderate("new", "unban", "anna")).kind == "done"
        assert (await anna.ask(JOIN, room="new")).kind == "done"
        page = await parlour.service.hub.history("new")
        assert len(page.items) == 3


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("room", ("", "ban", "anna")),
        ("action", ("r", "kill", "anna")),
        ("action", ("r", None, "anna")),
        ("user", ("r", "ban", "")),
        ("for_s", ("r", "ban", "anna", -1)),
        ("for_s", ("r", "ban", "anna", math.inf)),
        ("for_s", ("r", "ban", "anna", math.nan)),
        ("for_s", ("r", "ban", "anna", "1")),
        ("role", ("r", "role", "anna", 0, "king")),
    ],
)
@virtual
async def test_bad_decisions_of_the_program(field: str, arguments: tuple[Any, ...]) -> None:
    """They are errors where they are made."""
    options = dict(zip(("for_s", "role"), arguments[3:], strict=False))
    async with open_parlour() as parlour:
        with pytest.raises(OptionError) as caught:
            await parlour.service.moderate(*arguments[:3], **options)
        assert caught.value.field == field


@virtual
async def test_what_nobody_said_is_not_believed() -> None:
    """A message like a decision, by a user, removes nobody."""
    async with open_parlour() as parlour:
        anna, bob = await enter(parlour, "anna", "bob")
        forged = {"action": "ban", "user": "anna", "by": "olga"}
        assert (await bob.publish("r", MODERATION, forged)).code == "forbidden"
        assert (await bob.publish("r", MODERATION, forged, store=False)).code == "forbidden"
        assert (await bob.say_text("r", '"moderation"')).kind == "done"
        await parlour.service.hub.publish("r", forged, type=MODERATION, user="bob")
        assert (await anna.say_text("r", "hello")).kind == "done"
        assert not removed(anna)


# Where something fails


@virtual
async def test_a_message_that_was_missed() -> None:
    """Who is banned is found all the same, after a while."""
    standings = MemoryStandings()
    async with open_parlour(owners=OWNERS, standings=standings) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")
        root = await parlour.enter("root", admin=True)
        await root.join("r")
        for user in ("olga", "anna", "root", "nobody"):
            await standings.set("r", user, Standing(banned_until=0))
        await trio.sleep(LOOK_S + 1)
        assert removed(anna) == ["you are banned"]
        assert not removed(olga)
        assert not removed(root)


@virtual
async def test_a_user_on_the_way_in() -> None:
    """Who is banned while a slow store tells how the room is does not stay."""
    broker = FaultyBroker()
    broker.delay_s = 2.0
    async with open_parlour(broker, owners=OWNERS) as parlour:
        anna = await parlour.enter("anna")
        re = await anna.say(JOIN, room="r")
        await trio.sleep(1)
        await parlour.service.moderate("r", "ban", "anna")
        await anna.answer(re)
        await trio.sleep(LOOK_S + 5)
        assert len(removed(anna)) == 1
        assert (await anna.say_text("r", "hello")).code == "not_joined"


@virtual
async def test_a_look_while_a_user_is_on_the_way_in() -> None:
    """The room is looked at again when the user is there."""
    broker, standings = FaultyBroker(), MemoryStandings()
    broker.delay_s = 2.0
    async with open_parlour(broker, standings=standings) as parlour:
        anna = await parlour.enter("anna")
        await trio.sleep(LOOK_S - 1)
        await anna.join("r")
        await standings.set("r", "anna", Standing(banned_until=0))
        await trio.sleep(LOOK_S + 1)
        assert removed(anna) == ["you are banned"]


@virtual
async def test_decisions_at_the_same_time() -> None:
    """None of them undoes another one."""
    standings = MemoryStandings()
    async with open_parlour(standings=standings) as parlour:
        moderate = parlour.service.moderate
        async with trio.open_nursery() as nursery:
            nursery.start_soon(moderate, "r", "mute", "anna")
            nursery.start_soon(moderate, "r", "ban", "anna")
        assert await standings.get("r", "anna") == Standing("member", 0, 0)


@virtual
async def test_rooms_that_nobody_is_in_are_not_looked_at() -> None:
    """They are forgotten some time after the last one has left."""
    async with open_parlour() as parlour:
        (anna,) = await enter(parlour, "anna")
        await anna.leave()
        rules = parlour.service._extension._rules
        assert list(rules.entered) == ["r"]
        await trio.sleep(3 * LOOK_S)
        assert not rules.entered


class NoStandings(MemoryStandings):
    """A store that cannot be reached."""

    async def get(self, room: str, user: str) -> Standing:
        await trio.lowlevel.checkpoint()
        raise BrokerError("it is away")

    async def banned(self, room: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise BrokerError("it is away")


def test_standings_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody but owners by the program's word is let in, and all is served again afterwards."""
    caplog.set_level(logging.WARNING)
    _be_away()
    assert "nobody knows who is banned" in caplog.text


@virtual
async def _be_away() -> None:
    async with open_parlour(owners=OWNERS, standings=NoStandings()) as parlour:
        olga, anna = await parlour.enter("olga"), await parlour.enter("anna")
        assert (await olga.ask(JOIN, room="r")).kind == "done"
        assert (await anna.ask(JOIN, room="r")).code == "unavailable"
        assert (await olga.moderate("r", "ban", "anna")).code == "unavailable"
        await trio.sleep(2 * LOOK_S)
        assert (await olga.say_text("r", "hello")).kind == "done"


@virtual
async def test_a_store_that_takes_no_message() -> None:
    """A ban holds on this node all the same; asked for again it is told to everybody."""
    broker = FaultyBroker()
    async with open_parlour(broker, owners=OWNERS) as parlour:
        olga, anna, bob = await enter(parlour, "olga", "anna", "bob")
        broker.failing.add("done")
        assert (await olga.moderate("r", "ban", "anna")).code == "unavailable"
        await trio.sleep(0.1)
        assert removed(anna)
        assert (await anna.ask(JOIN, room="r")).code == "no_room"
        with pytest.raises(BrokerError):
            await parlour.service.moderate("r", "ban", "carl")
        broker.failing.clear()
        assert (await olga.moderate("r", "ban", "anna")).kind == "done"
        await bob.until(lambda: decisions(bob))
        assert [each["user"] for each in decisions(bob)] == ["anna"]


@virtual
async def test_a_cancelled_decision() -> None:
    """It may hold or not; the next one is not held up."""
    async with open_parlour() as parlour:
        for deadline in (0.0, 0.001):
            with trio.move_on_after(deadline):
                await parlour.service.moderate("r", "ban", "anna")
        await parlour.service.moderate("r", "unban", "anna")
        (anna,) = await enter(parlour, "anna")
        assert (await anna.say_text("r", "hello")).kind == "done"


# Clients of the library, several nodes, restarts


async def connected(
    parlour: Parlour, nursery: trio.Nursery, user: str, room: str = "r"
) -> tuple[trio_rt.Connection, Any]:
    """A client in a room, until the nursery ends."""

    async def tell(attempt: trio_rt.Attempt) -> trio_rt.Credentials:
        await trio.lowlevel.checkpoint()
        return trio_rt.Credentials(token=sign_token(SECRET, user))

    async def live(task_status: trio.TaskStatus[Any]) -> None:
        async with (
            parlour.site.connect(credentials=tell) as conn,
            open_room(conn, room, since="start") as membership,
        ):
            task_status.started((conn, membership))
            await trio.sleep_forever()

    found: tuple[trio_rt.Connection, Any] = await nursery.start(live)
    return found


@virtual
async def test_with_the_librarys_client() -> None:
    """A member gives the command; who is banned receives what was said, and then `Refused`."""
    async with open_parlour(owners=OWNERS) as parlour, trio.open_nursery() as nursery:
        _, olga = await connected(parlour, nursery, "olga")
        with pytest.raises(Refused) as refused:
            await olga.command(MODERATE, {"action": "ban", "user": "olga"})
        assert refused.value.code == "forbidden"

        async def visit() -> list[Any]:
            _, anna = await connected(parlour, visits, "anna")
            await anna.publish({"content": "hello"}, type="text")
            await olga.command(MODERATE, {"action": "ban", "user": "anna"})
            seen: list[Any] = []
            try:
                while True:
                    seen.append(await anna.receive())
            except Refused as refusal:
                code = refusal.code
            return [item.type for item in seen if isinstance(item, RoomMessage)] + [code]

        async with trio.open_nursery() as visits:
            assert await visit() == ["text", MODERATION, "removed"]
            visits.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_two_nodes(tmp_path: Path) -> None:
    """What is decided on one node holds on the other, at once: in one store, and one file."""
    url, file = shared_server("valkey").url, tmp_path / "standings"
    with trio.fail_after(LIMIT_S):
        async with (
            open_parlour(
                RedisBroker(url, prefix="chat"), owners=OWNERS, standings=SqliteStandings(file)
            ) as one,
            open_parlour(
                RedisBroker(url, prefix="chat"), owners=OWNERS, standings=SqliteStandings(file)
            ) as two,
        ):
            (olga,) = await enter(one, "olga")
            anna, phone, bob = await enter(two, "anna", "anna", "bob")
            await olga.moderate("r", "mute", "bob", for_s=600)
            await bob.until(lambda: decisions(bob))
            assert (await bob.say_text("r", "hello")).code == "muted"
            await olga.moderate("r", "ban", "anna")
            for device in (anna, phone):
                await is_removed(device)
                assert (await device.ask(JOIN, room="r")).code == "no_room"
            late = await two.enter("anna")
            assert (await late.ask(JOIN, room="r")).code == "no_room"
            await olga.moderate("r", "unban", "anna")
            await bob.until(lambda: len(decisions(bob)) == 3)
            assert (await late.ask(JOIN, room="r")).kind == "done"


async def test_messages_of_another_node() -> None:
    """One's own may be edited, and another's not, wherever they were said."""
    url = shared_server("valkey").url
    with trio.fail_after(LIMIT_S):
        async with (
            open_parlour(RedisBroker(url, prefix="chat2")) as one,
            open_parlour(RedisBroker(url, prefix="chat2")) as two,
        ):
            (anna,) = await enter(one, "anna")
            offset = (await anna.say_text("r", "helo")).offset
            phone, bob = await enter(two, "anna", "bob")
            edit = {"target": offset, "content": "hello"}
            assert (await bob.publish("r", "edit", edit)).code == "not_yours"
            assert (await phone.publish("r", "edit", edit)).kind == "done"


async def test_a_restart(tmp_path: Path) -> None:
    """Bans, mutes and roles are as they were."""
    file = tmp_path / "standings"
    with trio.fail_after(LIMIT_S):
        async with open_parlour(owners=OWNERS, standings=SqliteStandings(file)) as parlour:
            (olga,) = await enter(parlour, "olga")
            await olga.moderate("r", "ban", "anna")
            await olga.moderate("r", "mute", "bob", for_s=600)
            await olga.moderate("r", "role", "carl", role="owner")
        async with open_parlour(standings=SqliteStandings(file)) as parlour:
            anna = await parlour.enter("anna")
            assert (await anna.ask(JOIN, room="r")).code == "no_room"
            bob, carl = await enter(parlour, "bob", "carl")
            assert (await bob.say_text("r", "hello")).code == "muted"
            assert (await carl.moderate("r", "unban", "anna")).kind == "done"
            assert (await anna.ask(JOIN, room="r")).kind == "done"


# Profiles


def infos(visitor: Visitor, user: str) -> list[Any]:
    """What it was told of a user, without repetitions."""
    found = [
        member["info"]
        for event in visitor.of("r", "presence")
        for member in event.joined
        if member["user"] == user
    ]
    return [info for number, info in enumerate(found) if not number or info != found[number - 1]]


@virtual
async def test_a_profile() -> None:
    """Others see it in all rooms; what is not given stays; the name may be said."""
    async with open_parlour() as parlour:
        (bob,) = await enter(parlour, "bob")
        anna = await parlour.enter("anna", name="Anna", avatar="/a.png")
        await anna.join("r")
        done = await anna.ask(PROFILE, status="away", name="Annabel")
        assert done.payload == {"name": "Annabel", "status": "away", "avatar": "/a.png"}
        assert (await anna.ask(PROFILE, avatar="🐦")).payload["status"] == "away"
        await anna.ask(PROFILE)
        await trio.sleep(1)
        assert infos(bob, "anna") == [
            {"name": "Anna", "status": "online", "avatar": "/a.png"},
            {"name": "Annabel", "status": "away", "avatar": "/a.png"},
            {"name": "Annabel", "status": "away", "avatar": "🐦"},
        ]
        assert (await anna.say_text("r", "hello", name="Annabel")).kind == "done"
        assert (await anna.say_text("r", "hello", name="Anna")).code == "forged_name"
        assert parlour.service.statistics().profiles == 2
        assert anna.told[-1][0] == "room:r"
        assert {type for type, event in anna.told if event.payload == done.payload} == {"hub.done"}


@virtual
async def test_a_profile_changes_nothing_else() -> None:
    """An admin stays one; a name is nobody's, and gives nobody any right."""
    async with open_parlour(owners=OWNERS, anonymous=True) as parlour:
        root, guest = await parlour.enter("root", admin=True), await parlour.enter(None)
        await guest.join("r")
        assert (await root.ask(PROFILE, name="Root")).kind == "done"
        assert (await guest.ask(PROFILE, name="olga")).kind == "done"
        assert (await root.moderate("r", "mute", "anna")).kind == "done"
        assert (await guest.moderate("r", "mute", "anna")).code == "forbidden"
        assert (await guest.say_text("r", "I am", name="olga")).kind == "done"


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "\x1b[2J"},
        {"name": " "},
        {"name": "x" * 129},
        {"name": 7},
        {"avatar": "a\nb"},
        {"avatar": "x" * 513},
        {"status": "offline"},
        {"status": "busy"},
        {"user": "olga"},
        {"admin": True},
    ],
)
@virtual
async def test_bad_profiles(fields: dict[str, Any]) -> None:
    """They are refused, and nothing is changed."""
    async with open_parlour() as parlour:
        anna = await parlour.enter("anna", name="Anna")
        answer = await anna.ask(PROFILE, **fields)
        assert (answer.code, next(iter(fields)) in answer.text) == ("malformed", True)
        assert (await anna.ask(PROFILE)).payload["name"] == "Anna"


@virtual
async def test_profiles_are_throttled() -> None:
    """Everybody is told of each: who changes it all the time is told to wait."""
    async with open_parlour() as parlour:
        (anna,) = await enter(parlour, "anna")
        answers = [await anna.ask(PROFILE, name=f"Anna {number}") for number in range(20)]
        codes = [answer.code for answer in answers]
        assert PROFILES_BURST <= codes.count("") < 20
        assert set(codes) == {"", "too_fast"}
        await trio.sleep(5)
        assert (await anna.ask(PROFILE, name="Anna")).kind == "done"


# Its edges


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("secret", {"secret": "short"}),
        ("anonymous", {"secret": SECRET, "anonymous": 1}),
        ("origins", {"secret": SECRET, "origins": ["*"]}),
        ("standings", {"standings": {}}),
        ("owners", {"owners": {"r": [""]}}),
        ("broker", {"broker": 7}),
        ("limits", {"limits": 7}),
        ("lagging", {"lagging": "never"}),
    ],
)
async def test_bad_options(field: str, options: dict[str, Any]) -> None:
    """They are found before anything is begun."""
    with pytest.raises(OptionError) as caught:
        async with open_chat_service(**options):
            raise AssertionError("it is open")
    assert caught.value.field == field


async def test_a_service_with_a_hook_of_the_programs_own() -> None:
    """There is no hook by tokens without a secret."""
    async with open_chat_service() as service:
        with pytest.raises(OptionError, match="secret"):
            service.accept  # noqa: B018


async def test_a_foreign_file(tmp_path: Path) -> None:
    """A service does not begin on the standings of another program."""
    import sqlite3

    file = sqlite3.connect(tmp_path / "birds")
    file.execute("CREATE TABLE birds (name)")
    file.close()
    with pytest.raises(OptionError, match="path"):
        async with open_chat_service(standings=SqliteStandings(tmp_path / "birds")):
            raise AssertionError("it is open")


async def test_what_ends_the_block(tmp_path: Path) -> None:
    """It leaves as it was raised, in no group, and the file is closed."""
    standings = SqliteStandings(tmp_path / "standings")
    with pytest.raises(ZeroDivisionError):
        async with open_chat_service(standings=standings):
            raise ZeroDivisionError
    assert standings._file is None
    with trio.move_on_after(0.05) as scope:
        async with open_chat_service(standings=standings):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert standings._file is None


class PrivateRooms(ChatRules):
    """Of each user, beside all that a chat's rules say."""

    async def may_join(self, who: Who, room: str) -> bool:
        return room in ("r", who.user) and await super().may_join(who, room)


@virtual
async def test_rules_of_ones_own() -> None:
    """They decide beside those of a chat, which hold still."""
    async with open_parlour(owners=OWNERS, rules=PrivateRooms) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")
        assert (await anna.ask(JOIN, room="anna")).kind == "done"
        assert (await anna.ask(JOIN, room="olga")).code == "no_room"
        await olga.moderate("r", "ban", "anna")
        assert (await anna.ask(JOIN, room="r")).code == "no_room"


async def test_rules_that_are_none() -> None:
    """Said at once."""
    with pytest.raises(OptionError, match="rules"):
        async with open_chat_service(rules=lambda standings, owners: Rules()):  # type: ignore[arg-type, return-value]
            pass


@virtual
async def test_statistics() -> None:
    """The hub's, and the chat's own."""
    async with open_parlour(owners=OWNERS) as parlour:
        olga, anna = await enter(parlour, "olga", "anna")
        await anna.say_text("r", "hello")
        await anna.say_text("r", "")
        await olga.moderate("r", "ban", "anna")
        found = parlour.service.statistics()
        assert (found.hub.peers, found.hub.published) == (2, 2)
        assert found.hub.refusals == {"malformed": 1}
        assert (found.decisions, found.profiles) == ({"ban": 1}, 0)
        assert isinstance(anna.told[0][1], Event)

"""A hub and its peers: what is joined, said, read and marked, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import websockets.sync.client

import trio_rt
from tests.helpers import outlast
from tests.hub.talkers import House, Talker, open_door, open_house
from tests.strangers import complaints, open_site
from tests.testing.support import virtual
from trio_rt import Message, OptionError, PayloadError
from trio_rt.hub import (
    BrokerError,
    Hub,
    HubLimits,
    LogLimits,
    MemoryBroker,
    Position,
    Rules,
    SqliteBroker,
    Who,
    open_hub,
)
from trio_rt.hub._server import tell as _tell
from trio_rt.hub._words import HISTORY, JOIN, LEAVE, MARK, MEMBERS, PUBLISH
from trio_rt.protocol.codec import JsonCodec, Meta

GRACE_S = HubLimits().grace_s


async def settle() -> None:
    """Longer than anything takes, but a grace."""
    await trio.sleep(1.0)


async def enter(house: House, *users: str, room: str = "r", **options: Any) -> list[Talker]:
    """Peers that are in a room, and have heard of each other."""
    talkers = []
    for user in users:
        talkers.append(await house.enter(user, **options))
        await talkers[-1].join(room)
    await settle()
    return talkers


def names(members: Iterable[dict[str, Any]]) -> list[str]:
    return [member["user"] for member in members]


# Joining and leaving


@virtual
async def test_join() -> None:
    """The answer is the room as it is: the log's ends, who is there, the marks, and oneself."""
    async with open_house() as house:
        anna = await house.enter("anna")
        first = await anna.join("r")
        assert (first.first, first.last, first.count) == (1, 0, 1)
        assert first.members == [{"user": "anna", "info": {"name": "anna"}}]
        assert (first.user, bool(first.device)) == ("anna", True)
        await anna.ask(PUBLISH, room="r", payload=1)
        await anna.ask(MARK, room="r", offset=1)
        bob = await house.enter("bob", device="phone")
        second = await bob.join("r")
        assert (second.epoch, second.first, second.last) == (first.epoch, 1, 1)
        assert (names(second.members), second.count) == (["anna", "bob"], 2)
        assert (second.marks, second.device) == ({"anna": 1}, "phone")
        assert house.hub.statistics().members == 2


@virtual
async def test_join_again() -> None:
    """It is answered anew, joins nobody twice, and nothing before the answer comes behind it."""
    async with open_house() as house:
        anna, bob = await enter(house, "anna", "bob")
        for number in range(20):
            await anna.say(PUBLISH, room="r", payload=number)
            if number == 10:
                again = await bob.say(JOIN, room="r")
        done = await bob.answer(again)
        await settle()
        place = next(n for n, (_, event) in enumerate(bob.told) if event.re == again)
        behind = [event.offset for _, event in bob.told[place:] if event.kind == "message"]
        assert behind == list(range(done.last + 1, 21))
        assert 0 < len(behind) < 20
        assert house.hub.statistics().members == 2


@virtual
async def test_leave() -> None:
    """Who left is told nothing more, and may leave again, or a room that it never was in."""
    async with open_house() as house:
        anna, bob = await enter(house, "anna", "bob")
        assert (await bob.ask(LEAVE, room="r")).kind == "done"
        await anna.ask(PUBLISH, room="r", payload=1)
        await settle()
        assert bob.heard("r") == []
        assert (await bob.ask(LEAVE, room="r")).kind == "done"
        assert (await bob.ask(LEAVE, room="other")).kind == "done"
        assert (await bob.ask(PUBLISH, room="r")).code == "not_joined"
        assert (await bob.ask(MARK, room="r", offset=0)).code == "not_joined"
        await bob.join("r")
        await anna.ask(PUBLISH, room="r", payload=2)
        assert await bob.hears("r", 1) == [2]


@virtual
async def test_a_command_without_an_id() -> None:
    """It is done, and answered only if it is refused."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        stranger = await house.site.enter("/bob")
        await stranger.send('{"type":"hub.join","payload":{"room":"r"}}')
        await stranger.send('{"type":"hub.publish","payload":{"room":"r","payload":1}}')
        assert await anna.hears("r", 1) == [1]
        await stranger.send('{"type":"hub.mark","payload":{"room":"r","offset":9}}')
        texts = [msgspec.json.decode(await stranger.text())["payload"] for _ in range(3)]
        assert sorted(text["kind"] for text in texts) == ["message", "presence", "refused"]
        assert all("re" not in text for text in texts)
        await stranger.aclose()


@virtual
async def test_a_full_room() -> None:
    """There is no room for one more, until one has left."""
    async with open_house(limits=HubLimits(members_per_room=2)) as house:
        anna, _bob = await enter(house, "anna", "bob")
        cleo = await house.enter("cleo")
        refused = await cleo.ask(JOIN, room="r")
        assert (refused.kind, refused.code) == ("refused", "full")
        await anna.ask(LEAVE, room="r")
        await cleo.join("r")
        assert house.hub.statistics().members == 2


@virtual
async def test_too_many_rooms() -> None:
    """A peer is in so many rooms at most."""
    async with open_house(limits=HubLimits(rooms_per_peer=2)) as house:
        anna = await house.enter("anna")
        await anna.join("1")
        await anna.join("2")
        assert (await anna.ask(JOIN, room="3")).code == "too_many_rooms"
        await anna.join("2")
        await anna.ask(LEAVE, room="1")
        await anna.join("3")


# Saying something


@pytest.mark.parametrize("options", [{}, {"session": "require"}], ids=["plain", "session"])
@virtual
async def test_publish_to_all(options: dict[str, Any]) -> None:
    """Each member gets it, who said it as well, with who that was, and where it is in the log."""
    async with open_house() as house:
        anna, bob, cleo = await enter(house, "anna", "bob", "cleo", **options)
        done = await anna.ask(PUBLISH, room="r", payload={"a": [1, None]}, type="note", id="n1")
        assert (done.kind, done.offset, done.id) == ("done", 1, "n1")
        for each in (anna, bob, cleo):
            await each.hears("r", 1)
            (event,) = each.of("r", "message")
            assert (event.epoch, event.offset, event.id) == (done.epoch, 1, "n1")
            assert (event.user, event.type, event.payload) == ("anna", "note", {"a": [1, None]})
            assert event.device
            assert event.at > 1.5e12


@virtual
async def test_publish_to_others() -> None:
    """The device that says it gets its place, with the id; the user's other devices get it."""
    async with open_house() as house:
        anna, second, bob = await enter(house, "anna", "anna", "bob")
        done = await anna.ask(PUBLISH, room="r", payload=1, to="others", id="mine")
        await anna.ask(PUBLISH, room="r", payload=2)
        assert await anna.hears("r", 2) == ["own", 2]
        (own,) = anna.of("r", "own")
        assert (own.epoch, own.offset, own.id) == (done.epoch, 1, "mine")
        assert await second.hears("r", 2) == [1, 2]
        assert await bob.hears("r", 2) == [1, 2]


@virtual
async def test_publish_to_a_user() -> None:
    """Its devices get it, and nobody else."""
    async with open_house() as house:
        anna, bob, again, cleo = await enter(house, "anna", "bob", "bob", "cleo")
        done = await anna.ask(PUBLISH, room="r", payload=1, to="user", user="bob", store=False)
        assert (done.kind, done.offset) == ("done", 0)
        await settle()
        assert [each.heard("r") for each in (anna, bob, again, cleo)] == [[], [1], [1], []]


@virtual
async def test_what_is_not_stored() -> None:
    """It has no place in the log, and is in the order of what is stored."""
    async with open_house() as house:
        anna, bob = await enter(house, "anna", "bob")
        for number in range(10):
            await anna.say(PUBLISH, room="r", payload=number, store=number % 2 == 0)
        assert await bob.hears("r", 10) == list(range(10))
        assert bob.offsets("r") == [1, 2, 3, 4, 5]
        page = await bob.ask(HISTORY, room="r")
        assert [event.payload for event in page.items] == [0, 2, 4, 6, 8]
        to_others = await anna.ask(PUBLISH, room="r", payload="x", store=False, to="others")
        assert to_others.kind == "done"
        await settle()
        assert (bob.heard("r")[-1], anna.heard("r")[-1]) == ("x", 9)


@virtual
async def test_the_same_id_again() -> None:
    """It is not said again, and answered with the place of the first."""
    async with open_house() as house:
        anna, bob = await enter(house, "anna", "bob")
        first = await anna.ask(PUBLISH, room="r", payload=1, id="x")
        again = await anna.ask(PUBLISH, room="r", payload=2, id="x")
        assert (again.offset, again.epoch) == (first.offset, first.epoch)
        of_another = await bob.ask(PUBLISH, room="r", payload=3, id="x")
        assert of_another.offset == 2
        elsewhere = await house.enter("anna")
        await elsewhere.join("r")
        assert (await elsewhere.ask(PUBLISH, room="r", payload=4, id="x")).offset == 1
        await settle()
        assert bob.heard("r") == [1, 3]


@virtual
async def test_publishes_in_a_row() -> None:
    """They are said in the order in which they came, from each peer."""
    async with open_house(limits=HubLimits(rate_per_s=math.inf)) as house:
        talkers = await enter(house, "anna", "bob", "cleo")
        for number in range(100):
            for talker in talkers[:2]:
                await talker.say(PUBLISH, room="r", payload=number)
        heard = await talkers[2].hears("r", 200)
        assert talkers[2].offsets("r") == list(range(1, 201))
        said = talkers[2].of("r", "message")
        for user in ("anna", "bob"):
            assert [e.payload for e in said if e.user == user] == list(range(100))
        assert sorted(heard) == sorted([*range(100), *range(100)])
        assert await talkers[0].hears("r", 200) == heard


@virtual
async def test_messages_of_one_turn_are_one_write() -> None:
    """So a burst costs each member one packet."""
    async with open_house() as house:
        anna, bob = await enter(house, "anna", "bob")
        drafts = [
            trio_rt.hub.Draft(
                "r",
                f"k{n}",
                b'{"id":"%d","user":"u","device":"","type":"t","payload":%d,"at":0}' % (n, n),
            )
            for n in range(50)
        ]
        before = house.hub.statistics().deliveries
        for draft in drafts:
            house.hub.broker.append(draft, lambda _: None)
        assert await bob.hears("r", 50) == list(range(50))
        assert await anna.hears("r", 50) == list(range(50))
        assert house.hub.statistics().deliveries == before + 100


# History and marks


@virtual
async def test_history() -> None:
    """Both ways from an offset, or the last ones; a page has its limits; the order is the log's."""
    async with open_house(limits=HubLimits(page=5)) as house:
        (anna,) = await enter(house, "anna")
        for number in range(1, 13):
            await anna.ask(PUBLISH, room="r", payload=number)

        async def page(**fields: Any) -> list[Any]:
            done = await anna.ask(HISTORY, room="r", **fields)
            assert (done.kind, done.first, done.last) == ("done", 1, 12)
            assert [event.offset for event in done.items] == [e.payload for e in done.items]
            return [event.payload for event in done.items]

        assert await page() == [8, 9, 10, 11, 12]
        assert await page(limit=2) == [11, 12]
        assert await page(after=0) == [1, 2, 3, 4, 5]
        assert await page(after=0, limit=2) == [1, 2]
        assert await page(after=10) == [11, 12]
        assert await page(after=12) == []
        assert await page(after=1000) == []
        assert await page(before=3) == [1, 2]
        assert await page(before=1) == []
        assert await page(before=0) == []
        assert await page(before=1000, limit=1) == [12]
        assert await page(limit=0) == []
        epoch = (await anna.ask(HISTORY, room="r")).epoch
        assert await page(after=11, epoch=epoch) == [12]
        refused = await anna.ask(HISTORY, room="r", after=11, epoch="another")
        assert (refused.kind, refused.code) == ("refused", "foreign_epoch")


@virtual
async def test_history_of_a_log_whose_beginning_is_gone() -> None:
    """A page begins where the log does now, and says so."""
    broker = MemoryBroker(LogLimits(messages=3))
    async with open_house(broker) as house:
        (anna,) = await enter(house, "anna")
        for number in range(1, 11):
            await anna.ask(PUBLISH, room="r", payload=number)
        page = await anna.ask(HISTORY, room="r", after=2)
        assert (page.first, page.last) == (8, 10)
        assert [event.payload for event in page.items] == [8, 9, 10]


@virtual
async def test_history_in_bytes() -> None:
    """A page is bounded in bytes, and has one message at least."""
    async with open_house(limits=HubLimits(page_bytes=1)) as house:
        (anna,) = await enter(house, "anna")
        for number in range(3):
            await anna.ask(PUBLISH, room="r", payload=number)
        page = await anna.ask(HISTORY, room="r", after=0)
        assert [event.payload for event in page.items] == [0]


@virtual
async def test_history_without_being_a_member() -> None:
    """Who may read may read; a room that nobody ever used has an empty log."""
    async with open_house() as house:
        anna = await house.enter("anna")
        page = await anna.ask(HISTORY, room="r")
        assert (page.kind, page.first, page.last, page.items) == ("done", 1, 0, [])
        await house.hub.publish("r", 1)
        page = await anna.ask(HISTORY, room="r")
        assert [event.payload for event in page.items] == [1]


@virtual
async def test_marks() -> None:
    """Each member hears how far a user has read; a mark never goes back, nor beyond the log."""
    async with open_house() as house:
        anna, bob = await enter(house, "anna", "bob")
        for number in range(3):
            await anna.ask(PUBLISH, room="r", payload=number)
        for offset in (2, 1, 3):
            assert (await bob.ask(MARK, room="r", offset=offset)).kind == "done"
        await settle()
        assert [(e.user, e.offset) for e in anna.of("r", "mark")] == [("bob", 2), ("bob", 3)]
        assert (await bob.ask(MARK, room="r", offset=4)).code == "malformed"
        assert (await bob.ask(MARK, room="r", offset=-1)).code == "malformed"
        refused = await bob.ask(MARK, room="r", offset=1, epoch="another")
        assert refused.code == "foreign_epoch"
        cleo = await house.enter("cleo")
        assert (await cleo.join("r")).marks == {"bob": 3}


# Presence


@virtual
async def test_presence() -> None:
    """Who joins is told at once, and who leaves; who is gone, behind the grace."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        bob = await house.enter("bob")
        await bob.join("r")
        await settle()
        assert names(anna.of("r", "presence")[-1].joined) == ["bob"]
        began = trio.current_time()
        await bob.leave()
        await anna.until(lambda: anna.of("r", "presence")[-1].left == ["bob"])
        assert GRACE_S <= trio.current_time() - began <= GRACE_S + 1
        members = await anna.ask(MEMBERS, room="r")
        assert (names(members.members), members.count) == (["anna"], 1)


@virtual
async def test_several_devices() -> None:
    """A user is there while one device is; two that have the same name are two."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        first, second = await enter(house, "bob", "bob", device="phone")
        seen = len(anna.of("r", "presence"))
        await first.leave()
        await trio.sleep(2 * GRACE_S)
        assert len(anna.of("r", "presence")) == seen
        assert house.hub.users("r") == ["anna", "bob"]
        await second.ask(LEAVE, room="r")
        await settle()
        assert anna.of("r", "presence")[-1].left == ["bob"]
        await second.join("r")
        await settle()
        assert names(anna.of("r", "presence")[-1].joined) == ["bob"]
        assert house.hub.users("r") == ["anna", "bob"]


@virtual
async def test_devices_of_the_same_name_of_two_users() -> None:
    """They have nothing to do with each other."""
    async with open_house() as house:
        anna, bob, cleo = await enter(house, "anna", "bob", "cleo", device="web")
        await cleo.leave()
        await trio.sleep(GRACE_S + 1)
        assert house.hub.users("r") == ["anna", "bob"]
        await anna.ask(PUBLISH, room="r", payload=1, to="others")
        assert await bob.hears("r", 1) == [1]
        assert anna.heard("r") == ["own"]


@virtual
async def test_back_within_the_grace() -> None:
    """A page that is loaded again is no news."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        bob = await house.enter("bob")
        await bob.join("r")
        await settle()
        seen = len(anna.of("r", "presence"))
        for _ in range(3):
            await bob.leave()
            bob = await house.enter("bob")
            await bob.join("r")
        await trio.sleep(2 * GRACE_S)
        assert len(anna.of("r", "presence")) == seen


@virtual
async def test_a_session_whose_link_is_gone() -> None:
    """Its member is absent while there is no link, and a member all the time."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob", session="require")
        link = house.site.network.connections[-1]
        link.cut()
        await anna.ask(PUBLISH, room="r", payload=1)
        assert await bob.hears("r", 1) == [1]
        await trio.sleep(2 * GRACE_S)
        assert all("bob" not in event.left for event in anna.of("r", "presence"))
        assert house.hub.users("r") == ["anna", "bob"]
        await bob.ask(PUBLISH, room="r", payload=2)
        assert await anna.hears("r", 2) == [1, 2]


@virtual
async def test_a_session_that_stays_away() -> None:
    """It has left when the grace is over, and has joined when it is back; it missed nothing."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        gate = trio.Event()

        async def slowly(attempt: Any) -> trio_rt.Credentials:
            if attempts:
                await gate.wait()
            attempts.append(attempt)
            return trio_rt.Credentials()

        attempts: list[Any] = []
        (bob,) = await enter(house, "bob", session="require", credentials=slowly, open_timeout_s=99)
        house.site.network.connections[-1].cut()
        await anna.until(lambda: anna.of("r", "presence")[-1].left == ["bob"])
        assert house.hub.users("r") == ["anna"]
        assert house.hub.statistics().members == 2
        for number in range(3):
            await anna.ask(PUBLISH, room="r", payload=number)
        gate.set()
        assert await bob.hears("r", 3) == [0, 1, 2]
        assert names(anna.of("r", "presence")[-1].joined) == ["bob"]
        assert house.hub.users("r") == ["anna", "bob"]


class Slow(Rules):
    """Answers when it may. `waits` has what waits for it."""

    def __init__(self, slow: str) -> None:
        self.slow = slow
        self.gate = trio.Event()
        self.waits: list[str] = []

    async def _wait(self, name: str, user: str) -> None:
        if name == self.slow and user == "bob":
            self.waits.append(name)
            await self.gate.wait()

    async def who(self, peer: Any) -> Who:
        await self._wait("who", peer.identity.user)
        return await super().who(peer)

    async def may_join(self, who: Who, room: str) -> bool:
        await self._wait("may_join", who.user)
        return True


@pytest.mark.parametrize("slow", ["who", "may_join"])
@virtual
async def test_a_join_while_there_is_no_link(slow: str) -> None:
    """It is a member then, and present when the link is there again."""
    rules, back = Slow(slow), trio.Event()
    attempts: list[Any] = []

    async def dial(attempt: Any) -> trio_rt.Credentials:
        if attempts:
            await back.wait()
        attempts.append(attempt)
        return trio_rt.Credentials()

    async with open_house(rules=rules) as house:
        await enter(house, "anna")
        options = {"session": "require", "credentials": dial, "open_timeout_s": 99}
        bob = await house.enter("bob", **options)
        re = await bob.say(JOIN, room="r")
        await outlast(lambda: not rules.waits)
        await settle()
        house.site.network.connections[-1].cut()
        await settle()
        rules.gate.set()
        await settle()
        assert house.hub.statistics().members == 2
        assert house.hub.users("r") == ["anna"]
        back.set()
        assert (await bob.answer(re)).kind == "done"
        await settle()
        assert house.hub.users("r") == ["anna", "bob"]


@virtual
async def test_members() -> None:
    """They are told to who may see them, as a member or not; nobody is there in an empty room."""
    async with open_house() as house:
        await enter(house, "anna", "bob")
        cleo = await house.enter("cleo")
        there = await cleo.ask(MEMBERS, room="r")
        assert (names(there.members), there.count) == (["anna", "bob"], 2)
        empty = await cleo.ask(MEMBERS, room="empty")
        assert (empty.kind, empty.members, empty.count) == ("done", [], 0)
        assert house.hub.statistics().rooms == 1


@virtual
async def test_a_crowd_is_not_named() -> None:
    """With more users than are named there is a count alone."""
    async with open_house(limits=HubLimits(presence_users=2)) as house:
        anna, _bob = await enter(house, "anna", "bob")
        (cleo,) = await enter(house, "cleo")
        assert (anna.told[-1][1].kind, anna.told[-1][1].count) == ("room", 3)
        members = await cleo.ask(MEMBERS, room="r")
        assert (members.members, members.count) == ([], 3)


# Rooms


@virtual
async def test_a_room_that_is_emptied_and_opened_again() -> None:
    """Its log goes on; with nobody there the node knows nothing of it."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        first = await anna.ask(PUBLISH, room="r", payload=1)
        await anna.ask(LEAVE, room="r")
        assert house.hub.statistics().rooms == 0
        assert house.hub.users("r") == []
        bob = await house.enter("bob")
        again = await bob.join("r")
        assert (again.epoch, again.last, names(again.members)) == (first.epoch, 1, ["bob"])
        assert (await bob.ask(PUBLISH, room="r", payload=2)).offset == 2
        assert await bob.hears("r", 1) == [2]


@virtual
async def test_joins_at_the_same_time() -> None:
    """Many who open a room together are all in it, and a look by who leaves at once harms none."""
    async with open_house() as house:
        talkers = [await house.enter(f"user{n}") for n in range(20)]
        for _ in range(3):
            asked = [await t.say(JOIN, room="r") for t in talkers]
            for talker, re in zip(talkers, asked, strict=True):
                assert (await talker.answer(re)).kind == "done"
            assert house.hub.statistics().members == 20
            asked = [await t.say(LEAVE, room="r") for t in talkers]
            for talker, re in zip(talkers, asked, strict=True):
                await talker.answer(re)
            assert house.hub.statistics().rooms == 0


@virtual
async def test_a_large_room_is_told_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves, or joins again, between two slices is told nothing that is not for it."""
    monkeypatch.setattr(_tell, "SLICE", 3)
    async with open_house() as house:
        talkers = await enter(house, *[f"user{n}" for n in range(10)])
        for number in range(5):
            await talkers[0].say(PUBLISH, room="r", payload=number)
            await talkers[9].say(LEAVE, room="r")
            await talkers[9].say(JOIN, room="r")
        for talker in talkers[:9]:
            assert await talker.hears("r", 5) == list(range(5))
        await settle()
        last = 0
        for _, event in talkers[9].told:
            if event.kind == "done":
                last = event.last or last
            elif event.kind == "message":
                assert event.offset == last + 1
                last = event.offset


@pytest.mark.parametrize("turns", range(8))
@virtual
async def test_who_is_removed_between_two_slices(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told nothing of the room any more, and the others are told all."""
    monkeypatch.setattr(_tell, "SLICE", 2)
    async with open_house() as house:
        talkers = await enter(house, *[f"user{n}" for n in range(10)])
        await house.hub.publish("r", 1)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        assert house.hub.remove("user9", "r") == 1
        await settle()
        assert talkers[9].told[-1][1].kind == "removed"
        for talker in talkers[:9]:
            assert talker.heard("r") == [1]


# The program


@virtual
async def test_the_program_publishes() -> None:
    """With members or without; to one user; the same id once."""
    async with open_house() as house:
        hub = house.hub
        first = await hub.publish("r", {"n": 1}, id="x")
        assert isinstance(first, Position)
        assert first.offset == 1
        assert await hub.publish("r", {"n": 2}, id="x") == first
        anna, bob = await enter(house, "anna", "bob")
        assert await hub.publish("r", 1, type="news", user="editor") == Position(first.epoch, 2)
        assert await hub.publish("r", 2, store=False) is None
        assert await hub.publish("r", 3, store=False, only="bob") is None
        assert await bob.hears("r", 3) == [1, 2, 3]
        assert await anna.hears("r", 2) == [1, 2]
        event = anna.of("r", "message")[0]
        assert (event.user, event.type, event.device) == ("editor", "news", "")
        page = await hub.history("r")
        assert [item.offset for item in page.items] == [1, 2]
        assert [item.offset for item in (await hub.history("r", after=1)).items] == [2]
        assert [item.offset for item in (await hub.history("r", before=2, limit=1)).items] == [1]


LINES = msgspec.Raw(b'{\n "a":\r\n 1}')


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"room": "a\n"}, OptionError),
        ({"room": ""}, OptionError),
        ({"type": "\u202e"}, OptionError),
        ({"user": "x" * 129}, OptionError),
        ({"id": " "}, OptionError),
        ({"id": ""}, OptionError),
        ({"id": 3}, OptionError),
        ({"only": "bob"}, OptionError),
        ({"only": "\n", "store": False}, OptionError),
        ({"only": "", "store": False}, OptionError),
        ({"payload": object()}, PayloadError),
        ({"payload": math.nan}, PayloadError),
        ({"payload": [1, None, {"a": -math.inf}]}, PayloadError),
        ({"payload": 2**64}, PayloadError),
        ({"payload": "\ud800"}, PayloadError),
        ({"payload": msgspec.Raw(b"{")}, PayloadError),
        ({"payload": msgspec.Raw(b'1,"at":2')}, PayloadError),
        ({"payload": msgspec.Raw(b'"\xff"')}, PayloadError),
        ({"payload": "x" * 70_000}, PayloadError),
    ],
)
@virtual
async def test_what_the_program_must_not_publish(
    fields: dict[str, Any], error: type[Exception]
) -> None:
    """It raises, and nothing is stored."""
    async with open_house() as house:
        with pytest.raises(error):
            await house.hub.publish(**{"room": "r", "payload": None} | fields)
        assert (await house.hub.history("r")).items in ([], ())


@virtual
async def test_raw_of_several_lines() -> None:
    """It is put on one."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        await house.hub.publish("r", LINES)
        assert await anna.hears("r", 1) == [{"a": 1}]
        (item,) = (await house.hub.history("r")).items
        assert len(item.body.splitlines()) == 1


@pytest.mark.parametrize(
    "fields", [{"after": -1}, {"before": 1.5}, {"limit": -1}, {"after": 1, "before": 2}]
)
@virtual
async def test_what_history_the_program_must_not_ask_for(fields: dict[str, Any]) -> None:
    """It raises."""
    async with open_house() as house:
        with pytest.raises(OptionError):
            await house.hub.history("r", **fields)


@virtual
async def test_remove() -> None:
    """All devices of the user here are no members any more, and are told why."""
    async with open_house() as house:
        anna, bob, again = await enter(house, "anna", "bob", "bob")
        assert house.hub.remove("bob", "r", "enough") == 2
        assert house.hub.remove("bob", "r") == 0
        assert house.hub.remove("anna", "other") == 0
        await anna.ask(PUBLISH, room="r", payload=1)
        await settle()
        for each in (bob, again):
            event = each.told[-1][1]
            assert (event.kind, event.code, event.text) == ("removed", "removed", "enough")
            assert each.heard("r") == []
        assert (await bob.ask(PUBLISH, room="r")).code == "not_joined"
        assert house.hub.remove("anna", "r") == 1
        assert house.hub.statistics().rooms == 0


@virtual
async def test_statistics() -> None:
    """They add up."""
    async with open_house() as house:
        anna, _bob = await enter(house, "anna", "bob")
        (cleo,) = await enter(house, "cleo", room="s")
        before = house.hub.statistics()
        assert (before.peers, before.rooms, before.members) == (3, 2, 3)
        await anna.ask(PUBLISH, room="r", payload=1)
        await anna.ask(PUBLISH, room="r", payload=1, to="others")
        await house.hub.publish("s", 1)
        await cleo.ask(PUBLISH, room="r")
        await settle()
        after = house.hub.statistics()
        assert after.published == 3
        assert after.deliveries - before.deliveries == 5
        assert after.refusals == {"not_joined": 1}
        assert len(after.publish_s) == 3
        assert (after.lagging, after.lags, after.broker_up) == (0, 0, True)
        assert after.broker == {"rooms": 2, "idle": 0}


# Codecs


class Bracket(JsonCodec):
    """A dialect: one list. It can be compared, and so not hashed."""

    binary = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bracket)

    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        return msgspec.json.encode([type, meta.id, payload])

    def decode(self, data: str | bytes) -> Iterable[Message[Any]]:
        type, id, payload = msgspec.json.decode(data)
        return (Message(type, payload, id),)


@virtual
async def test_peers_of_several_codecs() -> None:
    """One room has members of JSON, of MessagePack, in sessions, and of a program's own codec."""
    codec = Bracket()
    async with (
        open_house() as house,
        open_door(house.hub, codec="msgpack") as packed,
        open_door(house.hub, codec=codec) as own,
    ):
        talkers = [
            await house.enter("anna"),
            await house.enter("bob", session="require"),
            await packed.enter("cleo", codec="msgpack"),
            await packed.enter("dora", codec="msgpack", session="require"),
            await own.enter("emil", codec=codec),
        ]
        for talker in talkers:
            await talker.join("r")
        for number, talker in enumerate(talkers):
            done = await talker.ask(PUBLISH, room="r", payload={"n": [number, "é", None, 0.5]})
            assert done.offset == number + 1
        for talker in talkers:
            heard = await talker.hears("r", 5)
            assert heard == [{"n": [number, "é", None, 0.5]} for number in range(5)]
            page = await talker.ask(HISTORY, room="r", after=3)
            assert [event.payload["n"][0] for event in page.items] == [3, 4]
            assert (await talker.ask(JOIN, room="\n")).code == "bad_name"


class Counted(Bracket):
    """It counts what is told of messages in a room."""

    messages = 0

    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        self.messages += type == "room:r" and payload["kind"] == "message"
        return super().encode(type, payload, meta)


@virtual
async def test_a_message_is_encoded_once_for_all() -> None:
    """Also where some are told something else at the same time."""
    codec = Counted()
    async with open_house() as house, open_door(house.hub, codec=codec) as own:
        talkers = [await own.enter(user, codec=Bracket()) for user in ("anna", "bob", "cleo")]
        for talker in talkers:
            await talker.join("r")
        await trio.sleep(1)
        await house.hub.publish("r", 1)
        for talker in talkers:
            assert await talker.hears("r", 1) == [1]
        assert codec.messages == 1
        await house.hub.publish("r", 2, store=False, only="anna")
        await house.hub.publish("r", 3)
        for talker in talkers:
            assert (await talker.hears("r", 3 if talker is talkers[0] else 2))[-1] == 3
        # 2 and 3 for anna, and 3 for the others: together or one behind the other.
        assert codec.messages in (3, 4)


@virtual
async def test_strangers_that_only_send_json() -> None:
    """A client of another library needs nothing but the envelope."""
    async with open_house() as house:
        (_anna,) = await enter(house, "anna")
        stranger = await house.site.enter("/bob")
        done = msgspec.json.decode(
            await stranger.ask('{"type":"hub.join","id":"1","payload":{"room":"r"}}')
        )
        assert (done["type"], done["payload"]["re"], done["payload"]["kind"]) == (
            "room:r",
            "1",
            "done",
        )
        await stranger.close()


async def test_a_client_of_another_library() -> None:
    """Over real sockets, by the synchronous client of `websockets`, in a thread."""

    def talk(url: str) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        with websockets.sync.client.connect(url, open_timeout=10) as client:
            for text in (
                '{"type":"hub.join","id":"1","payload":{"room":"r"}}',
                '{"type":"hub.publish","id":"2","payload":{"room":"r","payload":{"a":1}}}',
                '{"type":"hub.history","id":"3","payload":{"room":"r"}}',
            ):
                client.send(text)
            while len(told) < 5:  # three answers, the message, and who joined
                told.append(msgspec.json.decode(client.recv(timeout=10)))
        return told

    with trio.fail_after(20):
        async with open_hub() as hub, trio.open_nursery() as nursery:
            server = await nursery.start(trio_rt.serve, hub, "127.0.0.1", 0)
            told = await trio.to_thread.run_sync(talk, server.url)
            nursery.cancel_scope.cancel()
    assert {event["type"] for event in told} == {"room:r"}
    events = [event["payload"] for event in told]
    assert [e["payload"] for e in events if e["kind"] == "message"] == [{"a": 1}]
    (page,) = [e for e in events if e.get("re") == "3"]
    assert [item["payload"] for item in page["items"]] == [{"a": 1}]
    assert [e["offset"] for e in events if e.get("re") == "2"] == [1]


# The end


class Closing:
    """A hub that ends when it is told to, and its server goes on."""

    def __init__(self) -> None:
        self.end = trio.Event()
        self.ended = trio.Event()

    async def hold(self, task_status: trio.TaskStatus[Hub]) -> None:
        async with open_hub() as hub:
            task_status.started(hub)
            await self.end.wait()
        self.ended.set()


@virtual
async def test_the_hub_closes_before_the_server() -> None:
    """Its peers are sent away with 1012, also one that comes later; nothing is left over."""
    closing = Closing()
    async with trio.open_nursery() as nursery:
        hub = await nursery.start(closing.hold)
        async with open_site(hub) as site:
            stranger = await site.enter()
            await stranger.send('{"type":"hub.join","id":"1","payload":{"room":"r"}}')
            await stranger.text()
            closing.end.set()
            await closing.ended.wait()
            assert not any("refused" in str(text) for text in await stranger.read_all())
            assert stranger.code == 1012
            late = await site.enter()
            assert await late.read_all() == []
            assert late.code == 1012
            await settle()
            counts = hub.statistics()
            assert (counts.peers, counts.rooms, counts.members) == (0, 0, 0)
            with pytest.raises(BrokerError):
                await hub.publish("r", 1)
            with pytest.raises(BrokerError):
                await hub.history("r")


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
@virtual
async def test_commands_while_the_hub_closes(turns: int, caplog: pytest.LogCaptureFixture) -> None:
    """They fail quietly."""
    closing = Closing()
    async with trio.open_nursery() as nursery:
        hub = await nursery.start(closing.hold)
        async with open_site(hub) as site:
            stranger = await site.enter()
            join = '{"type":"hub.join","id":"%d","payload":{"room":"r%d"}}'
            await stranger.send(*[join % (n, n) for n in range(50)])
            await trio.sleep(0.02)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            closing.end.set()
            await stranger.read_all()
            await settle()
            assert hub.statistics().peers == 0
    assert complaints(caplog) == []


@virtual
async def test_a_session_behind_a_hub_that_closes() -> None:
    """Its peer, that has no link at the moment, ends too."""
    async with (
        open_hub() as hub,
        open_site(hub) as site,
        site.connect(session="require") as conn,
    ):
        await conn.wait_connected()
        await outlast(lambda: not hub.statistics().peers)
        site.network.connections[-1].cut()
        await trio.lowlevel.checkpoint()
        hub.close()
        await outlast(lambda: hub.statistics().peers)
        assert hub.statistics().peers == 0


@virtual
async def test_an_error_in_the_block() -> None:
    """It leaves as it is, in no group."""
    with pytest.raises(ValueError, match="oops"):
        async with open_hub():
            raise ValueError("oops")
    with trio.CancelScope() as scope:
        async with open_hub():
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


@virtual
async def test_an_error_in_a_cancelled_block() -> None:
    """A cancellation from around hides none that the block has raised."""
    scope = trio.CancelScope()

    async def block() -> None:
        async with open_hub():
            scope.cancel()
            raise ValueError("oops")

    with scope, pytest.raises(ValueError, match="oops"):
        await block()


async def test_a_store_of_somebody_else(tmp_path: Path) -> None:
    """That is refused in no group, and the block is not entered."""
    path = tmp_path / "rooms"
    path.write_text("something else, and long enough to be seen as no file of ours" * 10)
    with pytest.raises(OptionError, match="new, or a file of this store"):
        async with open_hub(SqliteBroker(path)):
            raise AssertionError("entered")


@virtual
async def test_a_broker_is_for_one_hub_at_a_time() -> None:
    """A second one does not begin; the first goes on, and later there may be another."""
    broker = MemoryBroker()
    async with open_house(broker) as house:
        with pytest.raises(trio.BusyResourceError):
            async with open_hub(broker):
                pass
        await enter(house, "anna")
        await house.hub.publish("r", 1)
    async with open_house(broker) as house:
        (anna,) = await enter(house, "anna")
        page = await anna.ask(HISTORY, room="r")
        assert [event.payload for event in page.items] == [1]
        assert house.hub.users("r") == ["anna"]


@pytest.mark.parametrize(
    "options",
    [{"limits": None}, {"limits": 3}, {"lagging": "drop"}, {"rules": 3}, {"broker": "redis://"}],
)
async def test_bad_options(options: dict[str, Any]) -> None:
    """They are found at once."""
    with pytest.raises(OptionError):
        async with open_hub(**options):
            pass


@pytest.mark.parametrize("steps", range(0, 40, 3))
@virtual
async def test_publish_is_cancelled(steps: int) -> None:
    """Wherever it is: it is said or not, once, and the hub goes on."""
    async with open_house() as house:
        (anna,) = await enter(house, "anna")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.hub.publish, "r", 1)
                for _ in range(steps % 4):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        await settle()
        assert anna.heard("r") in ([], [1])
        await house.hub.publish("r", 2)
        await settle()
        assert anna.heard("r") in ([2], [1, 2])


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.0201, 0.03, 0.04, 0.041, 0.06, 0.08, 0.1])
@virtual
async def test_everything_is_cancelled(delay_s: float) -> None:
    """At any moment of a join, a publish and a leave: nothing is left over."""
    hub = None
    with trio.move_on_after(delay_s + 0.2):
        async with open_house() as house:
            hub = house.hub
            anna, bob = await house.enter("anna"), await house.enter("bob", session="require")
            await anna.say(JOIN, room="r")
            await bob.say(JOIN, room="r")
            await anna.say(PUBLISH, room="r", payload=1)
            await bob.say(LEAVE, room="r")
            await trio.sleep_forever()
    assert hub is not None
    counts = hub.statistics()
    assert (counts.peers, counts.rooms, counts.members) == (0, 0, 0)

"""Members that do not keep up: they cost the others nothing, and find out what they missed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

from tests.helpers import outlast
from tests.hub.talkers import House, Talker, open_house
from tests.strangers import Stranger
from tests.testing.support import virtual
from trio_rt import OutboxLimits, Peer, Reconnect
from trio_rt.hub import HubLimits, MemoryBroker, Rules, Who
from trio_rt.hub._server.room import Lag
from trio_rt.hub._server.tell import LAG_S
from trio_rt.hub._words import HISTORY, JOIN, LEAVE, PUBLISH, message_event

MUCH = "x" * 10_000

#: Few, so that a member lags soon.
FEW = OutboxLimits(messages=20)

#: Not back within a test.
NEVER = Reconnect(first_s=1000.0, cap_s=1000.0)

#: Nobody is refused for haste here.
HASTE = HubLimits(rate_per_s=math.inf)


async def enter(house: House, *users: str, **options: Any) -> list[Talker]:
    talkers = [await house.enter(user, **options) for user in users]
    for talker in talkers:
        await talker.join("r")
    await trio.sleep(1)
    return talkers


async def stall(house: House, talker: Talker) -> Any:
    """Nothing arrives at `talker` any more; give the link, to be resumed."""
    links = [link for link in house.site.network.connections if link.alive]
    link = links[-1]
    link.stall("client")
    return link


async def shout(talker: Talker, count: int, room: str = "r", **fields: Any) -> None:
    for number in range(count):
        await talker.say(PUBLISH, room=room, payload=[number, MUCH], **fields)


async def lag(house: House, talker: Talker, count: int = 100) -> None:
    """Say so much that who does not read lags."""
    lags = house.hub.statistics().lags
    await shout(talker, count)
    await talker.hears("r", count)
    assert house.hub.statistics().lags > lags


@virtual
async def test_one_among_fifty_that_never_reads() -> None:
    """The others' messages are not delayed, and what waits for it is bounded."""
    limits = OutboxLimits(messages=50)
    async with open_house(limits=HASTE, outbox=limits) as house:
        talkers = await enter(house, *[f"user{n}" for n in range(49)])
        (deaf,) = await enter(house, "deaf")
        link = await stall(house, deaf)
        arrived: list[float] = []
        for number in range(200):
            sent = trio.current_time()
            await talkers[0].say(PUBLISH, room="r", payload=[number, MUCH], to="others")
            await talkers[48].hears("r", number + 1)
            arrived.append(trio.current_time() - sent)
        assert max(arrived) <= 0.041
        counts = house.hub.statistics()
        assert (counts.lagging, counts.lags) == (1, 1)
        (slow,) = [guest.peer for guest in house.hub._guests if guest.who.user == "deaf"]
        books = slow.statistics()
        assert sum(books.queued.values()) <= 50
        assert books.queued_bytes <= 50 * 11_000
        link.resume()
        await deaf.until(lambda: deaf.of("r", "room"))
        assert deaf.of("r", "room")[0].last == 200
        page = await deaf.ask(HISTORY, room="r", after=deaf.offsets("r")[-1])
        assert page.items[-1].offset <= 200
        assert house.hub.statistics().lagging == 0


@virtual
async def test_a_lagging_member_is_told_once_it_has_drained() -> None:
    """What it got is a beginning without a hole; then comes one `room`, and then the rest."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        link = await stall(house, bob)
        await lag(house, anna)
        link.resume()
        await bob.until(lambda: bob.of("r", "room"))
        got = bob.offsets("r")
        assert got == list(range(1, len(got) + 1))
        assert len(got) < 100
        (room,) = bob.of("r", "room")
        assert (room.last, room.count) == (100, 2)
        assert bob.told[-1][1] is room
        await shout(anna, 5)
        await bob.hears("r", len(got) + 5)
        assert bob.offsets("r")[len(got) :] == [101, 102, 103, 104, 105]
        assert len(bob.of("r", "room")) == 1


@virtual
async def test_a_command_of_who_lags_again_at_once() -> None:
    """It waits on, and is done in the end: the first lag is over, and another one has begun."""
    async with open_house(limits=HASTE) as house:
        (bob,) = await enter(house, "bob")
        (guest,) = house.hub._guests
        guest.lag = first = Lag()
        re = await bob.say(HISTORY, room="r")
        await trio.sleep(1)
        guest.lag = second = Lag()
        first.over.set()
        await trio.sleep(1)
        guest.lag = None
        second.over.set()
        assert (await bob.answer(re)).kind == "done"


@virtual
async def test_only_the_last_message_was_missed() -> None:
    """That is told, too."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        link = await stall(house, bob)
        count = 0
        while not house.hub.statistics().lags:
            await anna.ask(PUBLISH, room="r", payload=[count, MUCH])
            await trio.sleep(0.1)
            count += 1
        link.resume()
        await bob.until(lambda: bob.of("r", "room"))
        assert bob.offsets("r") == list(range(1, count))
        assert bob.of("r", "room")[0].last == count


@virtual
async def test_it_drains_to_half_first() -> None:
    """Before that nothing is sent to it, or it would lag again at once."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        link = await stall(house, bob)
        await lag(house, anna)
        (slow,) = [guest for guest in house.hub._guests if guest.who.user == "bob"]
        link.resume()
        while slow.lag is not None:
            queued = sum(slow.peer.statistics().queued.values())
            await trio.sleep(LAG_S / 10)
        assert queued <= 10


@virtual
async def test_several_rooms() -> None:
    """It is told of each room of which it missed something, and of no other."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        bob = await house.enter("bob")
        for room in ("quiet", "r", "s", "t"):
            await bob.join(room)
        await anna.join("s")
        await anna.join("t")
        link = await stall(house, bob)
        await lag(house, anna)
        await shout(anna, 1, "s")
        await shout(anna, 1, "t")
        await anna.hears("t", 1)
        link.resume()
        await bob.until(lambda: bob.of("t", "room"))
        await trio.sleep(1)
        assert [len(bob.of(room, "room")) for room in ("quiet", "r", "s", "t")] == [0, 1, 1, 1]


@virtual
async def test_more_rooms_than_there_is_room_for() -> None:
    """It is told of them one after the other, and answers before; then it keeps up."""
    async with open_house(limits=HASTE, outbox=OutboxLimits(messages=2)) as house:
        anna, bob = await house.enter("anna"), await house.enter("bob")
        rooms = [f"r{number}" for number in range(10)]
        for room in rooms:
            await anna.join(room)
            await bob.join(room)
        link = await stall(house, bob)
        for _ in range(20):
            await house.hub.publish("r0", MUCH)
            await trio.sleep(0.1)
        assert house.hub.statistics().lagging == 1
        assert sum(house.hub.remove("bob", room) for room in rooms[4:]) == 6
        for room in rooms[:4]:
            await house.hub.publish(room, 1)
        await trio.sleep(0.1)
        link.resume()
        for room in rooms[:4]:
            await bob.looks(room)
        for room in rooms[4:]:
            assert [event.kind for event in bob.of(room)][-1] == "removed"
        await trio.sleep(1)
        counts = house.hub.statistics()
        assert (counts.lagging, counts.members) == (0, 14)
        await house.hub.publish("r3", "again")
        await bob.until(lambda: "again" in bob.heard("r3"))


@virtual
async def test_answers_are_held() -> None:
    """A command that was taken is answered, however full the outbox was; none is taken then."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        link = await stall(house, bob)
        asked = [await bob.say(PUBLISH, room="r", payload=[n, MUCH]) for n in range(100)]
        await trio.sleep(2)
        assert house.hub.statistics().lagging == 1
        taken = len(anna.heard("r"))
        assert 0 < taken < 100
        (slow,) = [guest for guest in house.hub._guests if guest.who.user == "bob"]
        assert slow.lag is not None
        assert len(slow.lag.held) <= 1
        link.resume()
        done = [await bob.answer(re) for re in asked]
        assert [event.offset for event in done] == list(range(1, 101))
        page = await house.hub.history("r", after=0)
        assert [message_event(item).payload[0] for item in page.items] == list(
            range(len(page.items))
        )


@virtual
async def test_a_join_whose_answer_has_no_room() -> None:
    """The answer is held, and what happens in the room behind it is told by a `room`."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        await anna.join("s")
        gate = Gate()
        house.hub.rules = gate
        re = await bob.say(JOIN, room="s")
        await outlast(lambda: not gate.waits)
        link = await stall(house, bob)
        await lag(house, anna)
        gate.open.set()
        await trio.sleep(1)
        assert "s" in next(g for g in house.hub._guests if g.who.user == "bob").rooms
        await shout(anna, 3, "s")
        await anna.hears("s", 3)
        link.resume()
        joined = await bob.answer(re)
        assert (joined.kind, joined.last) == ("done", 0)
        await bob.until(lambda: bob.of("s", "room"))
        assert bob.of("s", "room")[0].last == 3
        assert bob.heard("s") == []


class Gate(Rules):
    """Who joins waits."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.waits = 0

    async def may_join(self, who: Any, room: str) -> bool:
        self.waits += 1
        await self.open.wait()
        return True


@virtual
async def test_lagging_and_leaving() -> None:
    """The command waits for the outbox; behind it nothing is told of the room."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        link = await stall(house, bob)
        await lag(house, anna)
        re = await bob.say(LEAVE, room="r")
        await trio.sleep(1)
        assert house.hub.statistics().members == 2
        link.resume()
        await bob.answer(re)
        assert house.hub.statistics().members == 1
        await shout(anna, 3)
        await trio.sleep(1)
        assert bob.told[-1][1].re == re


@virtual
async def test_lagging_and_removed() -> None:
    """It is told so when it has drained, and nothing of the room."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        link = await stall(house, bob)
        await lag(house, anna)
        assert house.hub.remove("bob", "r", "slow") == 1
        link.resume()
        await bob.until(lambda: bob.of("r", "removed"))
        await trio.sleep(1)
        assert bob.told[-1][1].kind == "removed"
        assert bob.of("r", "room") == []


@virtual
async def test_lagging_and_gone() -> None:
    """Nothing of it is kept."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        link = await stall(house, bob)
        await lag(house, anna)
        await bob.say(PUBLISH, room="r", payload="never taken")
        await trio.sleep(1)
        link.cut()
        bob.scope.cancel()
        await outlast(lambda: house.hub.statistics().peers > 1)
        assert house.hub.statistics().lagging == 0
        assert house.hub.statistics().members == 1


@virtual
async def test_the_hub_closes_while_one_lags() -> None:
    """What it asked is not done any more, and its handler does not wait for it."""
    async with open_house(limits=HASTE, outbox=FEW, close_timeout_s=20.0) as house:
        (anna,) = await enter(house, "anna")
        stranger = await house.site.enter("/bob")
        await stranger.send('{"type":"hub.join","id":"1","payload":{"room":"r"}}')
        await trio.sleep(1)
        link = house.site.network.connections[-1]
        link.stall("client")
        await lag(house, anna)
        await stranger.send('{"type":"hub.publish","payload":{"room":"r","payload":"late"}}')
        await trio.sleep(0.5)
        house.hub.close()
        link.resume()
        await stranger.read_all()
        assert stranger.code == 1012
        await trio.sleep(0.5)
        assert house.hub.statistics().peers == 0
        assert "late" not in anna.heard("r")


@virtual
async def test_a_session_that_lags_without_a_link() -> None:
    """It is resumed, drains, and is told to look."""
    async with open_house(limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob", session="require")
        link = house.site.network.connections[-1]
        link.stall()
        await lag(house, anna)
        link.cut()
        await bob.until(lambda: bob.of("r", "room"))
        got = bob.offsets("r")
        assert got == list(range(1, len(got) + 1))
        done = await bob.ask(PUBLISH, room="r", payload="back")
        assert done.offset == 101


@virtual
async def test_close() -> None:
    """By that policy it is closed with 1013, the others hear nothing of it, and it may come back."""
    async with open_house(limits=HASTE, outbox=FEW, lagging="close", close_timeout_s=2.0) as house:
        (anna,) = await enter(house, "anna")
        stranger: Stranger = await house.site.enter("/bob")
        await stranger.send('{"type":"hub.join","id":"1","payload":{"room":"r"}}')
        await trio.sleep(1)
        link = house.site.network.connections[-1]
        link.stall("client")
        await lag(house, anna)
        await stranger.send('{"type":"hub.publish","payload":{"room":"r","payload":"late"}}')
        await trio.sleep(0.5)
        link.resume()
        texts = await stranger.read_all()
        assert stranger.code == 1013
        assert not any('"room"' in str(text)[:30] for text in texts)
        assert [1 for payload in anna.heard("r") if payload == "late"] == []
        await trio.sleep(0.1)
        counts = house.hub.statistics()
        assert (counts.peers, counts.members, counts.lagging, counts.lags) == (1, 1, 0, 1)
        again = await house.site.enter("/bob")
        assert '"done"' in await again.ask('{"type":"hub.join","id":"1","payload":{"room":"r"}}')
        await again.close()


@virtual
async def test_who_never_reads_is_closed_for_good() -> None:
    """Where the close frame has no room either the link ends with its timeout."""
    async with open_house(limits=HASTE, outbox=FEW, lagging="close", close_timeout_s=2.0) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob", reconnect=NEVER)
        link = await stall(house, bob)
        await lag(house, anna)
        await outlast(lambda: house.hub.statistics().peers > 1)
        assert house.hub.statistics().members == 1
        assert link is not None
        bob.scope.cancel()


@virtual
async def test_an_answer_that_is_too_large() -> None:
    """It is refused: what never fits must not hold up the peer for ever."""
    limits = OutboxLimits(message_bytes=20_000)
    async with open_house(limits=HASTE, outbox=limits) as house:
        (anna,) = await enter(house, "anna")
        for _ in range(3):
            await anna.ask(PUBLISH, room="r", payload=MUCH)
        refused = await anna.ask(HISTORY, room="r")
        assert (refused.kind, refused.code) == ("refused", "too_large")
        page = await anna.ask(HISTORY, room="r", limit=1)
        assert [event.offset for event in page.items] == [3]


class Wordy(Rules):
    """Much is to be seen of everybody."""

    async def who(self, peer: Peer) -> Who:
        return Who(str(peer.identity), info=MUCH)


@virtual
async def test_a_room_whose_members_are_too_large() -> None:
    """They are counted, not named: the room can be joined."""
    limits = OutboxLimits(message_bytes=20_000)
    async with open_house(limits=HASTE, outbox=limits, rules=Wordy()) as house:
        anna, *_ = await enter(house, "anna", "bob", "carl")
        await trio.sleep(1)
        again = await anna.ask(JOIN, room="r")
        assert (again.kind, again.members, again.count) == ("done", [], 3)


@pytest.mark.parametrize("count", [1, 3])
@virtual
async def test_what_a_lagging_room_keeps(count: int) -> None:
    """Nothing: what it was not sent is in the store alone."""
    async with open_house(MemoryBroker(), limits=HASTE, outbox=FEW) as house:
        (anna,) = await enter(house, "anna")
        (bob,) = await enter(house, "bob")
        link = await stall(house, bob)
        for _ in range(count):
            await shout(anna, 50)
        await anna.hears("r", 50 * count)
        await trio.sleep(1)
        (slow,) = [guest for guest in house.hub._guests if guest.who.user == "bob"]
        assert slow.lag is not None
        assert (len(slow.lag.held), len(slow.lag.missed)) == (0, 1)
        (room,) = slow.lag.missed
        assert room.waiting == []
        assert sum(slow.peer.statistics().queued.values()) <= 20
        link.resume()

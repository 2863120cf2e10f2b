"""Who may do what: user by room by verb, the limits, and who somebody is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from tests.hub.talkers import House, Talker, open_house
from tests.strangers import open_site
from tests.testing.support import virtual
from trio_rt import OptionError
from trio_rt.hub import HubLimits, Rules, Who, open_hub
from trio_rt.hub._words import HISTORY, JOIN, LEAVE, MARK, MEMBERS, PUBLISH, Event, Publish

USERS = ["owner", "member", "reader", "nobody"]
ROOMS = ["secret", "open", "absent"]
VERBS = [JOIN, PUBLISH, HISTORY, MEMBERS, MARK, LEAVE]

#: What each may do in "secret"; in "open" and "absent" everybody may do everything.
MAY: dict[str, set[str]] = {
    "owner": {JOIN, PUBLISH, HISTORY, MEMBERS},
    "member": {JOIN, HISTORY, MEMBERS},
    "reader": {HISTORY},
    "nobody": set(),
}


class Table(Rules):
    """By `MAY`, and it keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def _may(self, who: Who, room: str, verb: str) -> bool:
        self.asked.append((who.user, room, verb))
        return room != "secret" or verb in MAY[who.user]

    async def may_join(self, who: Who, room: str) -> bool:
        return self._may(who, room, JOIN)

    async def may_publish(self, who: Who, message: Publish) -> bool:
        return self._may(who, message.room, PUBLISH)

    async def may_read(self, who: Who, room: str) -> bool:
        return self._may(who, room, HISTORY)

    async def may_see(self, who: Who, room: str) -> bool:
        return self._may(who, room, MEMBERS)


async def attempt(house: House, talker: Talker, user: str, room: str, verb: str) -> Event:
    """Do it, as a member if one may be one."""
    if verb in (PUBLISH, MARK, LEAVE):
        await talker.ask(JOIN, room=room)
    fields: dict[str, Any] = {"offset": 0} if verb == MARK else {}
    return await talker.ask(verb, room=room, **fields)


def expected(user: str, room: str, verb: str) -> str:
    """The code, "" for done."""
    if room != "secret":
        return ""
    may_join = JOIN in MAY[user]
    if verb == LEAVE:
        return ""
    if verb in (PUBLISH, MARK) and not may_join:
        return "not_joined"
    if verb == PUBLISH:
        return "" if PUBLISH in MAY[user] else "forbidden"
    if verb == MARK:
        return ""
    return "" if verb in MAY[user] else "no_room"


@pytest.mark.parametrize(("user", "room", "verb"), list(itertools.product(USERS, ROOMS, VERBS)))
@virtual
async def test_the_table(user: str, room: str, verb: str) -> None:
    """Each verb asks its own hook, and nothing is done or told where it says no."""
    rules = Table()
    async with open_house(rules=rules) as house:
        talker = await house.enter(user)
        event = await attempt(house, talker, user, room, verb)
        assert event.code == expected(user, room, verb)
        assert event.kind == ("refused" if event.code else "done")
        if event.kind == "refused":
            assert (event.items, event.members, event.count, event.last) == ([], [], 0, 0)
        asked = {JOIN, PUBLISH, HISTORY, MEMBERS} & {verb}
        assert all(
            (user, room, each) in rules.asked
            for each in asked
            if not (verb == PUBLISH and event.code == "not_joined")
        )
        assert len((await house.hub.history(room)).items) == (
            verb == PUBLISH and event.kind == "done"
        )


@virtual
async def test_the_very_same_answer() -> None:
    """A room that is not for one cannot be told from one that nobody ever used."""

    class Closed(Rules):
        async def may_join(self, who: Who, room: str) -> bool:
            return who.user == "owner"

        may_read = may_see = may_join

    async with open_house(rules=Closed()) as house:
        owner = await house.enter("owner")
        await owner.join("there")
        await owner.ask(PUBLISH, room="there", payload=1)
        nobody = await house.enter("nobody")
        for verb in VERBS:
            answers = []
            for room in ("there", "not there"):
                event = await nobody.ask(verb, room=room, offset=0)
                event.re = ""
                answers.append(event)
            assert answers[0] == answers[1], verb
        assert house.hub.statistics().rooms == 1


@virtual
async def test_what_a_publish_hook_is_asked() -> None:
    """It sees the type and the payload, and decides by them."""

    class Polite(Rules):
        async def may_publish(self, who: Who, message: Publish) -> bool:
            return (message.type, message.payload) != ("shout", {"n": [1]})

    async with open_house(rules=Polite()) as house:
        anna = await house.enter("anna")
        await anna.join("r")
        said = await anna.ask(PUBLISH, room="r", type="say", payload={"n": [1]})
        assert said.kind == "done"
        shouted = await anna.ask(PUBLISH, room="r", type="shout", payload={"n": [1]})
        assert (shouted.kind, shouted.code) == ("refused", "forbidden")
        passing = await anna.ask(PUBLISH, room="r", type="shout", payload={"n": [1]}, store=False)
        assert passing.code == "forbidden"


# Who somebody is


@pytest.mark.parametrize(
    ("identity", "user"), [(Who("anna"), "anna"), ("bob", "bob"), (None, "guest-"), (7, "guest-")]
)
@virtual
async def test_identity(identity: object, user: str) -> None:
    """It comes from the accept hook, and never from what a peer says."""

    async def accept(handshake: Any) -> object:
        return identity

    async with (
        open_hub() as hub,
        open_site(hub, accept=accept) as site,
        site.connect(session="off") as conn,
    ):
        with conn.subscribe(as_=Event) as stream:
            await conn.send(JOIN, {"room": "r", "user": "mallory"})
            done = await stream.receive()
            assert done.payload.user.startswith(user)
            await conn.send(PUBLISH, {"room": "r", "device": "mallory"})
            while done.payload.kind != "message":
                done = await stream.receive()
            assert done.payload.user.startswith(user)
            assert done.payload.device != "mallory"


@pytest.mark.parametrize("user", ["", " ", "a\n", "x" * 129, "\u202e", None, 3])
def test_bad_users(user: Any) -> None:
    """A user's name is a name."""
    with pytest.raises(OptionError):
        Who(user)
    if user:
        with pytest.raises(OptionError):
            Who("anna", user)


# Limits


@pytest.mark.parametrize(
    "limits",
    [
        {"rooms_per_peer": 0},
        {"members_per_room": 0},
        {"members_per_room": 1.5},
        {"name_bytes": 0},
        {"message_bytes": 0},
        {"rate_per_s": 0},
        {"rate_per_s": -1},
        {"burst": 0},
        {"page": 0},
        {"page": math.inf},
        {"page_bytes": math.inf},
        {"presence_users": -1},
        {"grace_s": -1},
        {"grace_s": math.inf},
        {"grace_s": math.nan},
    ],
)
def test_bad_limits(limits: dict[str, Any]) -> None:
    """They are found where they are written."""
    with pytest.raises(OptionError, match=f"HubLimits.{next(iter(limits))}"):
        HubLimits(**limits)


@virtual
async def test_no_limits() -> None:
    """`inf` is none."""
    limits = HubLimits(
        rooms_per_peer=math.inf,
        members_per_room=math.inf,
        message_bytes=math.inf,
        rate_per_s=math.inf,
        burst=math.inf,
        presence_users=math.inf,
    )
    async with open_house(limits=limits) as house:
        anna = await house.enter("anna")
        for number in range(200):
            await anna.join(f"r{number}")
        await anna.ask(PUBLISH, room="r0", payload="x" * 200_000)
        assert await anna.hears("r0", 1) == ["x" * 200_000]


@virtual
async def test_names_have_a_limit_of_their_own() -> None:
    """`name_bytes` is of rooms."""
    async with open_house(limits=HubLimits(name_bytes=5)) as house:
        anna = await house.enter("anna-the-great")
        await anna.join("12345")
        assert (await anna.ask(JOIN, room="123456")).code == "bad_name"
        with pytest.raises(OptionError):
            await house.hub.publish("123456", 1)

"""Who may say what: user by room by verb, what cannot be said, and what is said too often."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chat.parlour import Parlour, Visitor, open_parlour
from tests.testing.support import virtual
from trio_rt import OptionError, Refused
from trio_rt.chat import ChatWho, MemoryStandings, Standing, Standings
from trio_rt.chat._service import rules as module
from trio_rt.chat._service import targets
from trio_rt.chat._service.rules import ChatRules, Throttle
from trio_rt.chat._service.standing import now_ms
from trio_rt.chat._service.targets import Target, Targets
from trio_rt.chat._words import CONTENT_BYTES, METADATA_BYTES, MODERATE, REACTION_BYTES
from trio_rt.hub import Item, LogLimits, MemoryBroker, Who, open_hub
from trio_rt.hub._server.commands import END
from trio_rt.hub._words import HISTORY, JOIN, MEMBERS, Publish, event_body
from trio_rt.testing import jump_wall_clock, run

USERS = ["olga", "oscar", "root", "anna", "rita", "mute", "bana", None]
ROOMS = ["lobby", "elsewhere"]
VERBS = [JOIN, HISTORY, MEMBERS, "text", "image", "file", "typing", "react", "edit", "edit other"]
VERBS += ["delete", "delete other", "moderation", MODERATE]


async def decided() -> Standings:
    """About the users of "lobby"; nothing is about those of "elsewhere"."""
    standings = MemoryStandings()
    await standings.set("lobby", "oscar", Standing("owner"))
    await standings.set("lobby", "rita", Standing("reader"))
    await standings.set("lobby", "mute", Standing(muted_until=now_ms() + 600_000))
    await standings.set("lobby", "bana", Standing(banned_until=0))
    # It does not hold: they stand above that.
    await standings.set("lobby", "olga", Standing("reader", 0, 0))
    await standings.set("lobby", "root", Standing("reader", 0, 0))
    return standings


def expected(user: str | None, room: str, verb: str) -> str:
    """The code, "" for done."""
    if room != "lobby" and user == "olga":
        user = "anna"
    role = user if room == "lobby" or user == "root" else "anna"
    if role == "bana":
        return "forbidden" if verb == MODERATE else "no_room"
    if verb in (JOIN, HISTORY, MEMBERS):
        return ""
    is_owner = role in ("olga", "oscar", "root")
    if verb == MODERATE:
        return "" if is_owner else "forbidden"
    if role in ("rita", "mute"):
        return {"rita": "read_only", "mute": "muted"}[role]
    if verb == "moderation":
        return "forbidden"
    if verb in ("edit other", "delete other"):
        return "" if is_owner and verb == "delete other" else "not_yours"
    return ""


async def attempt(visitor: Visitor, room: str, verb: str, own: int, other: int) -> str:
    """Do it: the code of the refusal."""
    if verb in (JOIN, HISTORY, MEMBERS):
        return (await visitor.ask(verb, room=room)).code
    if verb == MODERATE:
        return (await visitor.moderate(room, "mute", "somebody")).code
    type, _, whose = verb.partition(" ")
    target = other if whose else own
    payloads: dict[str, dict[str, Any]] = {
        "react": {"target": other, "reaction": "👍"},
        "edit": {"target": target, "content": "new"},
        "delete": {"target": target},
        "typing": {"on": True},
        "moderation": {"action": "ban", "user": "anna", "by": "olga"},
    }
    payload = payloads.get(type, {"content": "x"})
    passing = {"store": False, "to": "others"} if type == "typing" else {}
    return (await visitor.publish(room, type, payload, **passing)).code


async def offsets(parlour: Parlour, room: str, user: str) -> tuple[int, int]:
    """Of a message of the user's own, and of another's, as if they had said it before."""
    hub = parlour.service.hub
    own = await hub.publish(room, {"content": "mine"}, type="text", user=user)
    other = await hub.publish(room, {"content": "not mine"}, type="text", user="zoe")
    assert own is not None
    assert other is not None
    return own.offset, other.offset


@pytest.mark.parametrize(("user", "room"), list(itertools.product(USERS, ROOMS)))
@virtual
async def test_the_table(user: str | None, room: str) -> None:
    """Every verb of every user in every room is as the table says, and is kept only then."""
    async with open_parlour(
        owners={"lobby": ["olga"]}, anonymous=True, standings=await decided()
    ) as parlour:
        for verb in VERBS:
            visitor = await parlour.enter(user, **({"admin": True} if user == "root" else {}))
            if user == "bana" and room == "lobby" and verb not in (JOIN, HISTORY, MEMBERS):
                await be_banned_inside(parlour, visitor, room)
                own, other = await offsets(parlour, room, "bana")
            else:
                done = await visitor.ask(JOIN, room=room)
                own, other = await offsets(parlour, room, done.user or "nobody")
            before = (await parlour.service.hub.history(room)).head.last
            code = await attempt(visitor, room, verb, own, other)
            assert code == expected(user, room, verb), verb
            stored = (await parlour.service.hub.history(room)).head.last - before
            is_stored = verb not in (JOIN, HISTORY, MEMBERS, "typing")
            assert stored == (not code and is_stored)
            await visitor.leave()


async def be_banned_inside(parlour: Parlour, visitor: Visitor, room: str) -> None:
    """A member who is banned, and not removed yet."""
    standings = parlour.service._extension._rules.standings
    await standings.set(room, "bana", Standing())
    await visitor.join(room)
    await standings.set(room, "bana", Standing(banned_until=0))


@virtual
async def test_a_banned_user_learns_nothing() -> None:
    """What is answered about the room is what is answered about none, whatever is said."""
    standings = MemoryStandings()
    await standings.set("r", "bana", Standing(banned_until=0))
    async with open_parlour(standings=standings) as parlour:
        anna, bana = await parlour.enter("anna"), await parlour.enter("bana")
        await anna.join("r")
        await anna.say_text("r", "a secret")
        for verb in (JOIN, HISTORY, MEMBERS):
            answer = await bana.ask(verb, room="r")
            assert (answer.code, answer.items, answer.members, answer.last) == (
                "no_room",
                [],
                [],
                0,
            )
        assert (await bana.say_text("r", "let me in")).code == "not_joined"


@virtual
async def test_a_mute_ends() -> None:
    """By the wall clock; until then its end is in the answer."""
    standings = MemoryStandings()
    await standings.set("r", "anna", Standing(muted_until=now_ms() + 60_000))
    async with open_parlour(standings=standings) as parlour:
        anna = await parlour.enter("anna")
        await anna.join("r")
        refused = await anna.say_text("r", "hello")
        assert (refused.code, refused.text) == (
            "muted",
            "you are muted until 2030-01-01 00:01:00 UTC",
        )
        jump_wall_clock(60)
        assert (await anna.say_text("r", "hello")).kind == "done"


@virtual
async def test_a_guest_is_a_member_at_most() -> None:
    """Whatever was decided about a name, who shows no token does not own a room."""
    standings = MemoryStandings()
    rules = ChatRules(standings, {"s": ["anna"]})
    anna = ChatWho("anna", guest=True)
    await standings.set("r", "anna", Standing("owner", 0, None))
    assert await rules.standing(anna, "r") == Standing("member", 0, None)
    await standings.set("r", "anna", Standing("reader"))
    assert (await rules.standing(anna, "r")).role == "reader"
    assert (await rules.standing(anna, "s")).role == "member"
    guest = await rules.who(Identified(None))  # type: ignore[arg-type]
    assert isinstance(guest, ChatWho)
    assert guest.guest


# What can be said


SAYABLE: list[tuple[str, Any, str]] = [
    ("text", {"content": "x"}, ""),
    ("text", {"content": "a\n\tb 👩‍👩‍👧", "metadata": {"a": [1, {"b": None}]}, "reply": 1}, ""),
    ("text", {"content": "x" * CONTENT_BYTES}, ""),
    ("text", {"content": "x" * (CONTENT_BYTES + 1)}, "too_large content"),
    ("text", {"content": "ä" * (CONTENT_BYTES // 2 + 1)}, "too_large content"),
    ("text", {"content": "x", "metadata": {"a": "x" * METADATA_BYTES}}, "too_large metadata"),
    ("text", {"content": ""}, "malformed content"),
    ("text", {"content": " \n "}, "malformed content"),
    ("text", {"content": "\x1b[2J"}, "malformed content"),
    ("text", {"content": "a\x00"}, "malformed content"),
    ("text", {"content": 7}, "malformed content"),
    ("text", {"content": ["x"]}, "malformed content"),
    ("text", {}, "malformed content"),
    ("text", None, "malformed payload"),
    ("text", "x", "malformed payload"),
    ("text", ["x"], "malformed payload"),
    ("text", {"content": "x", "admin": True}, "malformed admin"),
    ("text", {"content": "x", "user": "olga"}, "malformed user"),
    ("text", {"content": "x", "reply": -1}, "malformed reply"),
    ("text", {"content": "x", "reply": END}, "malformed reply"),
    ("text", {"content": "x", "reply": 1.5}, "malformed reply"),
    ("text", {"content": "x", "reply": "1"}, "malformed reply"),
    ("text", {"content": "x", "metadata": 7}, "malformed metadata"),
    ("text", {"content": "x", "metadata": []}, "malformed metadata"),
    ("text", {"content": "x", "name": "Anna B."}, ""),
    ("text", {"content": "x", "name": "anna"}, ""),
    ("text", {"content": "x", "name": ""}, ""),
    ("text", {"content": "x", "name": "olga"}, "forged_name name"),
    ("text", {"content": "x", "name": "anna b."}, "forged_name name"),
    ("text", {"content": "x", "name": 7}, "malformed name"),
    ("image", {"content": "/files/x.png"}, ""),
    ("image", {"content": "\x07"}, "malformed content"),
    ("file", {"content": "x", "name": "olga"}, "forged_name name"),
    ("message", {"content": "x"}, "malformed type"),
    ("Text", {"content": "x"}, "malformed type"),
    ("moderation", {"action": "ban", "user": "anna", "by": "olga"}, "forbidden service"),
    ("moderation", None, "forbidden service"),
    ("edit", {"target": 1, "content": "x"}, ""),
    ("edit", {"target": 1, "content": " "}, "malformed content"),
    ("edit", {"target": 1, "content": "x" * (CONTENT_BYTES + 1)}, "too_large content"),
    ("edit", {"target": 1}, "malformed content"),
    ("edit", {"target": 1, "content": "x", "name": "olga"}, "malformed name"),
    ("react", {"target": 1, "reaction": "👍"}, ""),
    ("react", {"target": 1, "reaction": "👍", "on": False}, ""),
    ("react", {"target": 1, "reaction": ""}, "malformed reaction"),
    ("react", {"target": 1, "reaction": "a\nb"}, "malformed reaction"),
    ("react", {"target": 1, "reaction": "x" * (REACTION_BYTES + 1)}, "too_large reaction"),
    ("react", {"target": 1, "reaction": "x", "on": 1}, "malformed on"),
    ("typing", {"on": "yes"}, "malformed on"),
    ("typing", {}, "malformed on"),
    ("delete", {"target": 1, "content": "x"}, "malformed content"),
]
SAYABLE += [
    (kind, {"target": target, **more}, code)
    for kind, more in [("edit", {"content": "x"}), ("delete", {}), ("react", {"reaction": "x"})]
    for target, code in [
        (0, "malformed target"),
        (-1, "malformed target"),
        (END, "malformed target"),
        (1 << 70, "malformed target"),
        (True, "malformed target"),
        (1.5, "malformed target"),
        ("1", "malformed target"),
        (99, "no_message message"),
        (END - 1, "no_message message"),
        (2, "no_message message"),  # a reaction
    ]
]


@virtual
async def test_what_can_be_said() -> None:
    """The answer names the field, and nothing else comes into the log."""
    async with open_parlour() as parlour:
        anna = await parlour.enter("anna", name="Anna B.")
        await anna.join("r")
        await anna.say_text("r", "first")
        await anna.publish("r", "react", {"target": 1, "reaction": "x"})
        count = 2
        for type, payload, expected in SAYABLE:
            passing = {"store": False} if type == "typing" else {}
            answer = await anna.publish("r", type, payload, **passing)
            code, _, word = expected.partition(" ")
            assert answer.code == code, (type, payload, answer.text)
            assert word in answer.text, (type, payload, answer.text)
            count += not code
        assert (await parlour.service.hub.history("r")).head.last == count


@virtual
async def test_only_typing_passes() -> None:
    """What is said is stored, or nobody could page to it; and who types is in no log."""
    async with open_parlour() as parlour:
        anna = await parlour.enter("anna")
        await anna.join("r")
        for type, payload, store in (
            ("text", {"content": "x"}, False),
            ("delete", {"target": 1}, False),
            ("typing", {"on": True}, True),
        ):
            answer = await anna.publish("r", type, payload, store=store)
            assert (answer.code, "store" in answer.text) == ("malformed", True)
        assert (await parlour.service.hub.history("r")).head.last == 0


CODES = {"", "malformed", "too_large", "forged_name", "forbidden", "no_message"}


@settings(deadline=None)
@given(
    kind=st.sampled_from(["text", "edit", "delete", "react", "typing", "moderation", "x"]),
    payload=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["content", "target", "reaction", "on", "name", "x"]), inner
            )
        ),
        max_leaves=8,
    ),
)
def test_anything(kind: str, payload: Any) -> None:
    """Whatever comes is taken or refused, and breaks nothing."""

    async def main() -> None:
        rules = ChatRules(MemoryStandings())
        who = ChatWho("anna", info={"name": "Anna", "status": "online", "avatar": ""})
        async with open_hub() as rules.hub:
            try:
                code = "" if await rules.may_publish(who, Publish("r", payload, kind)) else "?"
            except Refused as refusal:
                code = refusal.code
        assert code in CODES

    run(main, seed=1)


# About a message


@virtual
async def test_a_message_that_is_gone() -> None:
    """What is deleted is not edited, nor reacted to; it may be deleted again."""
    async with open_parlour(owners={"r": ["olga"]}) as parlour:
        anna, olga = await parlour.enter("anna"), await parlour.enter("olga")
        for visitor in (anna, olga):
            await visitor.join("r")
        first = (await anna.say_text("r", "first")).offset
        assert (await olga.publish("r", "delete", {"target": first})).kind == "done"
        await trio.sleep(1)
        edit = await anna.publish("r", "edit", {"target": first, "content": "again"})
        react = await olga.publish("r", "react", {"target": first, "reaction": "x"})
        assert [edit.code, react.code] == ["no_message", "no_message"]
        assert (await anna.publish("r", "delete", {"target": first})).kind == "done"


@virtual
async def test_old_messages() -> None:
    """What nobody has heard here is in the store, or is nowhere."""
    async with open_parlour() as parlour:
        hub = parlour.service.hub
        for user in ("anna", "bob"):
            await hub.publish("r", {"content": "old"}, type="text", user=user)
        await hub.publish("r", {"target": 1, "content": "new"}, type="edit", user="anna")
        anna = await parlour.enter("anna")
        await anna.join("r")
        codes = [
            (await anna.publish("r", "edit", {"target": target, "content": "x"})).code
            for target in (1, 2, 3, 5)
        ]
        assert codes == ["", "not_yours", "no_message", "no_message"]


@virtual
async def test_messages_that_the_log_has_dropped() -> None:
    """They are none any more, and the next one is not taken for them."""
    async with open_parlour(MemoryBroker(LogLimits(messages=2))) as parlour:
        for _ in range(4):
            await parlour.service.hub.publish("r", {"content": "x"}, type="text", user="anna")
        anna = await parlour.enter("anna")
        await anna.join("r")
        for target, code in {2: "no_message", 3: ""}.items():
            edit = {"target": target, "content": "y"}
            assert (await anna.publish("r", "edit", edit)).code == code


def item(offset: int, user: str, type: str, payload: Any, epoch: str = "e") -> Item:
    return Item("r", epoch, offset, event_body("id", user, "", type, payload, 0))


def test_targets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten; what is no message of a chat is none."""
    monkeypatch.setattr(targets, "KNOWN", 2)
    known = Targets()
    for each in (
        item(1, "anna", "text", {"content": "x"}),
        item(2, "bob", "image", {"content": "x"}),
        item(2, "anna", "text", {"content": "x"}, epoch="another"),
        Item("r", "e", 3, b"nonsense"),
        item(0, "bob", "text", {"content": "x"}),
    ):
        known.heard(each)
    assert dict(known._known) == {
        ("r", "another", 2): Target("anna"),
        ("r", "e", 3): None,
    }


def test_targets_hear_of_deletions() -> None:
    """Of those that they know, whatever else is said to be deleted."""
    known = Targets()
    known.heard(item(1, "anna", "text", {"content": "x"}))
    for number, payload in enumerate([{"target": 1}, {"target": 9}, {"target": "1"}, None], 2):
        known.heard(item(number, "anna", "delete", payload))
    assert known._known["r", "e", 1] == Target("anna", deleted=True)


# Too often


@virtual
async def test_typing_is_throttled() -> None:
    """By user and room, over all devices; what is more is refused, and what follows is not."""
    async with open_parlour() as parlour:
        anna, phone, bob = [await parlour.enter(user) for user in ("anna", "anna", "bob")]
        for visitor in (anna, phone, bob):
            await visitor.join("r")
        await anna.join("s")
        answers = [
            await visitor.publish("r", "typing", {"on": True}, store=False, to="others")
            for _ in range(10)
            for visitor in (anna, phone)
        ]
        passed = [answer.code for answer in answers].count("")
        assert module.TYPING_BURST <= passed < len(answers)
        assert {answer.code for answer in answers} == {"", "too_fast"}
        assert (await anna.publish("s", "typing", {"on": True}, store=False)).code == ""
        assert (await bob.publish("r", "typing", {"on": True}, store=False)).code == ""
        assert (await anna.say_text("r", "hello")).code == ""
        await trio.sleep(2)
        assert (await anna.publish("r", "typing", {"on": True}, store=False)).code == ""


@virtual
async def test_the_pace() -> None:
    """So much at once, and so much in the mean."""
    throttle, taken = Throttle(2.0, 4), 0
    for _ in range(1000):
        try:
            throttle.take("anna")
            taken += 1
        except Refused:
            pass
        await trio.sleep(0.01)
    assert 20 <= taken <= 24


@virtual
async def test_paces_are_bounded() -> None:
    """Those who come last are known."""
    throttle = Throttle(1.0, 1)
    for number in range(module.PACES + 10):
        throttle.take(str(number))
    assert len(throttle._paces) == module.PACES
    with pytest.raises(Refused):
        throttle.take(str(module.PACES + 9))


# Who somebody is


@pytest.mark.parametrize(
    ("identity", "info"),
    [
        ("anna", {"name": "", "status": "online", "avatar": ""}),
        (Who("anna", info={"name": "A", "avatar": "/a"}), ("A", "/a")),
        (Who("anna", info={"name": "\x1b", "avatar": 7, "x": 1}), ("", "")),
        (Who("anna", info=["name"]), ("", "")),
        (ChatWho("anna", info={"any": "thing"}), {"any": "thing"}),
    ],
)
@virtual
async def test_a_hook_of_the_programs_own(identity: Any, info: Any) -> None:
    """What it says is taken, as far as it can be shown."""
    if isinstance(info, tuple):
        info = {"name": info[0], "status": "online", "avatar": info[1]}
    who = await ChatRules(MemoryStandings()).who(Identified(identity))  # type: ignore[arg-type]
    assert isinstance(who, ChatWho)
    assert (who.user, who.info, who.admin) == ("anna", info, False)


@virtual
async def test_nobody_is_the_service() -> None:
    """Its user is its own."""
    with pytest.raises(Refused):
        await ChatRules(MemoryStandings()).who(Identified("chat.service"))  # type: ignore[arg-type]


class Identified:
    """A peer, as far as it is asked who it is."""

    def __init__(self, identity: object) -> None:
        self.identity = identity


@pytest.mark.parametrize("owners", [{"": ["anna"]}, {"r": ["a\n"]}, {"r": [7]}])
def test_bad_owners(owners: Any) -> None:
    """They are found where they are written."""
    with pytest.raises(OptionError, match="owners"):
        ChatRules(MemoryStandings(), owners)

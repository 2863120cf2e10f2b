"""Plain clients in a chat's rooms, beside clients with sessions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import websockets.sync.client

import trio_rt
from tests.hub.support import messages
from tests.strangers import Site, complaints, open_site
from tests.testing.support import virtual
from trio_rt import Message
from trio_rt.chat._service.plain_users import USERS, PlainUsers
from trio_rt.chat._service.service import ChatService, open_chat_service
from trio_rt.chat._service.tokens import ChatWho, profile
from trio_rt.chat._words import CONTENT_BYTES, METADATA_BYTES
from trio_rt.hub import HubLimits, Present, open_room
from trio_rt.hub._client.membership import Membership

GRACE_S = HubLimits().grace_s


class PlainClient:
    """One, and what it was told."""

    def __init__(self, conn: trio_rt.Connection) -> None:
        self.conn = conn
        self.told: list[tuple[str, Any]] = []

    async def tell(self, type: str, **payload: Any) -> str:
        return (await self.conn.send(type, payload)).id

    async def join(self, room: str = "lobby") -> None:
        await self.tell("join_room", roomId=room)
        await settle()

    async def say(self, content: Any, room: str = "lobby", **fields: Any) -> str:
        return await self.tell("chat_message", roomId=room, message={"content": content, **fields})

    async def refusal(self, type: str, payload: Any) -> tuple[str, str]:
        """The code and the text of the one answer to what is refused."""
        before = len(self.of("error"))
        id = (await self.conn.send(type, payload)).id
        await settle()
        (error,) = self.of("error")[before:]
        assert (error.keys(), error["re"]) == ({"code", "text", "re"}, id)
        return error["code"], error["text"]

    def of(self, *types: str) -> list[Any]:
        return [payload for type, payload in self.told if type in types]

    def said(self) -> list[str]:
        return [payload["message"]["content"] for payload in self.of("chat_message")]

    async def listen(self, task_status: trio.TaskStatus[None]) -> None:
        with self.conn.subscribe() as stream, self.conn.subscribe("heartbeat") as beats:
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take, stream)
                nursery.start_soon(self._take, beats)

    async def _take(self, stream: Any) -> None:
        async for item in stream:
            if isinstance(item, Message):
                self.told.append((item.type, item.payload))


@attrs.frozen
class World:
    """A chat's server on a virtual network; users are known by the path, "/" is nobody."""

    service: ChatService
    site: Site

    @asynccontextmanager
    async def plain(self, user: str = "", **options: Any) -> AsyncIterator[PlainClient]:
        options.setdefault("session", "off")
        async with self.connect(user, **options) as conn, trio.open_nursery() as nursery:
            await conn.wait_connected()
            client = PlainClient(conn)
            await nursery.start(client.listen)
            yield client
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def room(self, user: str, room: str = "lobby") -> AsyncIterator[Membership[Any]]:
        """Of a client with a session."""
        async with self.connect(user) as conn, open_room(conn, room) as held:
            yield held

    def connect(self, user: str, **options: Any) -> Any:
        dial = self.site.network.open_stream_from(user or "nobody")
        return trio_rt.connect(f"ws://server/{user}", open_stream=dial, **options)


async def who_is(handshake: trio_rt.Handshake) -> ChatWho | None:
    await trio.lowlevel.checkpoint()
    user = handshake.path.removeprefix("/")
    return ChatWho(user, info=profile(user.title(), f"/{user}.png")) if user else None


@asynccontextmanager
async def open_world(
    may_claim: Any = None, *, serve: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[World]:
    async with (
        open_chat_service(may_claim=may_claim, **options) as service,
        open_site(service, accept=who_is, **(serve or {})) as site,
    ):
        yield World(service, site)


async def anybody(user: str) -> bool:
    await trio.lowlevel.checkpoint()
    return user != "boss"


async def settle() -> None:
    await trio.sleep(0.5)


def user(name: str, **fields: str) -> dict[str, str]:
    known = {"name": name.title(), "status": "online", "avatar": f"/{name}.png"}
    return {"id": name, **known, **fields}


# Both ways


@pytest.mark.parametrize("session", ["off", "require"])
@virtual
async def test_from_a_plain_client(session: Any) -> None:
    """A message is one of the chat's for all others, and comes back to who said it."""
    async with (
        open_world() as world,
        world.plain("anna", session=session) as anna,
        world.room("bob") as bob,
    ):
        await anna.join()
        await anna.say(
            "hello",
            userId="anna",
            username="whatever",
            timestamp=12.5,
            type="image",
            metadata={"alt": [1]},
        )
        (heard,) = await messages(bob, 1)
        assert (heard.user, heard.type) == ("anna", "image")
        assert heard.payload == {"content": "hello", "name": "Anna", "metadata": {"alt": [1]}}
        await settle()
        assert anna.of("chat_message") == [
            {
                "roomId": "lobby",
                "message": {
                    "id": "1",
                    "userId": "anna",
                    "username": "Anna",
                    "content": "hello",
                    "timestamp": heard.at,
                    "type": "image",
                    "metadata": {"alt": [1]},
                },
            }
        ]
        assert anna.of("error") == []


@virtual
async def test_to_a_plain_client() -> None:
    """It is told what members with sessions say, change and delete, and no reactions."""
    async with open_world() as world, world.plain("anna") as anna, world.room("bob") as bob:
        await anna.join()
        anna.told.clear()
        await bob.publish({"content": "hello"}, type="text")
        await bob.publish({"target": 1, "content": "hullo"}, type="edit")
        await bob.publish({"target": 1, "reaction": "+"}, type="react")
        await bob.publish({"target": 1}, type="delete")
        await settle()
        (first, *rest) = anna.told
        message = first[1]["message"]
        assert first[0] == "chat_message"
        assert (message["id"], message["userId"], message["username"]) == ("1", "bob", "Bob")
        assert (message["type"], message["metadata"]) == ("text", {})
        assert rest == [
            ("chat_message_edited", {"roomId": "lobby", "messageId": "1", "content": "hullo"}),
            ("chat_message_deleted", {"roomId": "lobby", "messageId": "1"}),
        ]


@virtual
async def test_what_is_no_chat_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Messages of the program's own kinds, or of other shapes, are passed over."""
    async with open_world() as world, world.plain("anna") as anna:
        await anna.join()
        anna.told.clear()
        hub = world.service.hub
        for type, payload in [
            ("message", "x"),
            ("text", "x"),
            ("text", {"content": 1}),
            ("edit", {"target": "1"}),
            ("delete", None),
            ("typing", {}),
            ("moderation", {"action": "mute"}),
        ]:
            await hub.publish("lobby", payload, type=type)
        for id, name in (("p", ""), ("q", "The hub")):
            payload = {"content": "passes", "name": name}
            await hub.publish("lobby", payload, type="text", store=False, id=id)
        await settle()
        told = [payload["message"] for payload in anna.of("chat_message")]
        assert len(anna.told) == 2
        assert [each["id"] for each in told] == ["p", "q"]
        assert [each["username"] for each in told] == ["hub", "The hub"]
        assert complaints(caplog) == []


@virtual
async def test_typing() -> None:
    """Both ways, with names, and not back to who types."""
    async with (
        open_world() as world,
        world.room("bob") as bob,
        world.plain("anna") as anna,
        world.plain("carl") as carl,
    ):
        await anna.join()
        await carl.join()
        for on in (True, False):
            await anna.tell("typing_indicator", roomId="lobby", isTyping=on, userId="anna")
        heard = await messages(bob, 2)
        assert [(each.user, each.type, each.payload) for each in heard] == [
            ("anna", "typing", {"on": True}),
            ("anna", "typing", {"on": False}),
        ]
        assert all(each.position is None for each in heard)
        await bob.publish({"on": True}, type="typing", store=False, to="others")
        await settle()
        bobs = {"roomId": "lobby", "userId": "bob", "username": "Bob", "isTyping": True}
        annas = [
            {"roomId": "lobby", "userId": "anna", "username": "Anna", "isTyping": on}
            for on in (True, False)
        ]
        assert anna.of("typing_indicator") == [bobs]
        assert carl.of("typing_indicator") == [*annas, bobs]


@virtual
async def test_who_comes_and_goes() -> None:
    """A joiner is told who is there and of itself, each once; leaving has a grace."""
    async with open_world() as world, world.plain("anna") as anna:
        async with world.room("bob"):
            await anna.join()
            assert anna.told == [
                ("user_joined", {"roomId": "lobby", "user": user("bob")}),
                ("user_joined", {"roomId": "lobby", "user": user("anna")}),
            ]
            async with world.plain("carl") as carl:
                await carl.join()
                joined = [payload["user"]["id"] for payload in carl.of("user_joined")]
                assert joined == ["bob", "anna", "carl"]
                assert anna.of("user_joined")[2:] == [{"roomId": "lobby", "user": user("carl")}]
                await carl.tell("leave_room", roomId="lobby")
                await carl.tell("leave_room", roomId="never")
                await trio.sleep(GRACE_S + 1)
                gone = {"roomId": "lobby", "user": user("carl", status="offline")}
                assert anna.of("user_left") == [gone]
                assert carl.of("user_left", "error") == []
        await trio.sleep(GRACE_S + 1)
        assert anna.of("user_left")[1]["user"] == user("bob", status="offline")


@virtual
async def test_join_twice() -> None:
    """The second time is nothing, to nobody; another device is told who is there, itself, too."""
    async with open_world() as world, world.plain("anna") as anna, world.plain("anna") as phone:
        await anna.join()
        told = list(anna.told)
        await anna.join()
        assert anna.told == told == [("user_joined", {"roomId": "lobby", "user": user("anna")})]
        await phone.join()
        assert (anna.told, phone.told) == (told, told)
        await anna.say("once")
        await settle()
        assert anna.said() == phone.said() == ["once"]


@virtual
async def test_a_new_profile() -> None:
    """It is told as if the user joined again, with what is new."""
    async with open_world() as world, world.plain("anna") as anna, world.room("bob") as bob:
        await anna.join()
        await bob.command("chat.profile", {"status": "away"}, names_room=False)
        await settle()
        assert anna.of("user_joined")[-1]["user"] == user("bob", status="away")


@virtual
async def test_removed() -> None:
    """Who is banned is told why, of which room."""
    async with (
        open_world(owners={"lobby": ["bob"]}) as world,
        world.plain("anna") as anna,
        world.room("bob") as bob,
    ):
        await anna.join()
        await bob.command("chat.moderate", {"action": "ban", "user": "anna"})
        await settle()
        (error,) = anna.of("error")
        assert (error["code"], error["roomId"], error["re"]) == ("removed", "lobby", "")
        code, _ = await anna.refusal("chat_message", said("still here"))
        assert code == "not_joined"
        code, _ = await anna.refusal("join_room", {"roomId": "lobby"})
        assert code == "no_room"


@virtual
async def test_said_again() -> None:
    """Under the same long id a message is said once; short ids may be numbers."""
    async with open_world() as world:
        stranger = await world.site.enter("/anna")
        await stranger.send(envelope("join_room", {"roomId": "lobby"}, "1"))
        long = "0123456789abcdef"
        for id in (long, long, "7", "7", "", f"{long}\n", f"{long}\n"):
            await stranger.send(envelope("chat_message", said("x"), id))
        await settle()
        page = await world.service.hub.history("lobby")
        assert len(page.items) == 6
        await stranger.aclose()


@virtual
async def test_heartbeats() -> None:
    """They are answered, before anything else is said, too."""
    async with open_world() as world, world.plain("anna") as anna:
        await anna.conn.send("heartbeat", {"timestamp": 1})
        await settle()
        assert anna.told == [("heartbeat", None)]


@virtual
async def test_a_plain_client_that_does_not_keep_up() -> None:
    """It is told that it may have missed something, and who is there."""
    much = "x" * 10_000
    serve = {"outbox": trio_rt.OutboxLimits(messages=20)}
    limits = HubLimits(rate_per_s=1000, burst=1000)
    async with (
        open_world(serve=serve, limits=limits) as world,
        world.room("bob") as bob,
        world.plain("anna") as anna,
    ):
        await anna.join()
        link = [link for link in world.site.network.connections if link.alive][-1]
        link.stall("client")
        for number in range(100):
            await bob.publish({"content": f"{number} {much}"}, type="text")
        link.resume()
        await settle()
        (error,) = anna.of("error")
        assert (error["code"], error["roomId"], error["re"]) == ("missed", "lobby", "")
        at = anna.told.index(("error", error))
        assert [payload["user"]["id"] for _, payload in anna.told[at + 1 :]] == ["bob", "anna"]
        got = anna.said()
        assert got == [f"{number} {much}" for number in range(len(got))]
        await bob.publish({"content": "behind"}, type="text")
        await settle()
        assert anna.said()[-1] == "behind"


# Who it is


@pytest.mark.parametrize("type", ["chat_message", "typing_indicator"])
@virtual
async def test_a_forged_user(type: str) -> None:
    """Nothing is said in the name of another, by nobody."""
    async with open_world(anybody) as world, world.plain("anna") as anna, world.room("bob") as bob:
        await anna.join()
        payload = said("x", userId="bob") if type == "chat_message" else types(userId="bob")
        assert (await anna.refusal(type, payload))[0] == "forged_user"
        payload = said("x", userId="free") if type == "chat_message" else types(userId="free")
        code, text = await anna.refusal(type, payload)
        assert code == "forged_user"
        assert "userId must be your own" in text
        assert not (await world.service.hub.history("lobby")).items
        assert bob.members.keys() == {"anna", "bob"}


@virtual
async def test_a_guest_that_claims_to_be_somebody() -> None:
    """It joins and reads as a guest, and is the first user that it claims from then on."""
    async with open_world(anybody) as world, world.room("bob") as bob, world.plain() as eve:
        await eve.join()
        await eve.join("hall")
        (guest,) = world.service.hub.users("hall")
        assert guest.startswith("guest-")
        await bob.publish({"content": "hello"}, type="text")
        await settle()
        assert eve.said() == ["hello"]
        await eve.say("hi", userId="eve", username="Evelyn")
        (_, heard) = await messages(bob, 2)
        assert (heard.user, heard.payload["name"]) == ("eve", "Evelyn")
        await trio.sleep(GRACE_S + 1)
        assert world.service.hub.users("hall") == ["eve"]
        assert bob.members["eve"]["name"] == "Evelyn"
        assert bob.members.keys() == {"bob", "eve"}
        code, _ = await eve.refusal("chat_message", said("x", userId="eva"))
        assert code == "forged_user"
        await eve.say("again", username="Another")
        (heard,) = await messages(bob, 1)
        assert (heard.user, heard.payload["name"]) == ("eve", "Evelyn")


@virtual
async def test_a_guest_that_says_nothing_about_itself() -> None:
    """It speaks as the guest that it is."""
    async with open_world(anybody) as world, world.room("bob") as bob, world.plain() as eve:
        await eve.join()
        await eve.say("hi", username="Evelyn")
        (heard,) = await messages(bob, 1)
        assert heard.user.startswith("guest-")
        assert heard.payload == {"content": "hi"}


@virtual
async def test_a_claim_by_typing() -> None:
    """The name to be shown is the first that comes."""
    async with open_world(anybody) as world, world.room("bob") as bob, world.plain() as eve:
        await eve.join()
        await eve.tell("typing_indicator", **types(userId="eve"))
        (heard,) = await messages(bob, 1)
        assert (heard.user, bob.members["eve"]["name"]) == ("eve", "")
        await eve.say("hi", username="Evelyn")
        await eve.say("hi", username="Another")
        heard, second = await messages(bob, 2)
        assert heard.payload["name"] == second.payload["name"] == "Evelyn"
        code, text = await eve.refusal("chat_message", said("x", userId="eva"))
        assert (code, text) == ("forged_user", "payload.message.userId must be your own")


@pytest.mark.parametrize("name", ["bob", "carl", "boss", "guest-1", "chat.service", "hub"])
@virtual
async def test_a_name_that_is_taken(name: str) -> None:
    """On this node, by another guest, by the service's own will, or for ever; another may do."""
    async with (
        open_world(anybody) as world,
        world.room("bob") as bob,
        world.plain() as carl,
        world.plain() as eve,
    ):
        for client in (carl, eve):
            await client.join()
        await carl.say("mine", userId="carl")
        await settle()
        assert (await eve.refusal("chat_message", said("x", userId=name)))[0] == "name_taken"
        await eve.say("y", userId="eve")
        heard = await messages(bob, 2)
        assert [each.user for each in heard] == ["carl", "eve"]


@virtual
async def test_a_name_that_is_taken_on_another_node() -> None:
    """As the rosters of the claimer's rooms tell; in its grace it may be claimed again."""
    async with open_world(anybody) as world, world.plain() as eve:
        hub = world.service.hub
        await eve.join()
        hub.broker.enter("lobby", Present("anna", "elsewhere"))
        assert (await eve.refusal("chat_message", said("x", userId="anna")))[0] == "name_taken"
        hub.broker.leave("lobby", "elsewhere")
        await eve.say("x", userId="anna")
        await settle()
        assert eve.of("chat_message")[0]["message"]["userId"] == "anna"


@virtual
async def test_a_claim_of_who_is_banned() -> None:
    """Nobody becomes somebody who may not be in the rooms where they are."""
    async with open_world(anybody) as world, world.plain() as eve:
        await world.service.moderate("lobby", "ban", "mallory")
        await eve.join()
        assert (await eve.refusal("chat_message", said("x", userId="mallory")))[0] == "forbidden"
        assert (await eve.refusal("chat_message", said("x", userId="a\nb")))[0] == "malformed"
        code, text = await eve.refusal("chat_message", said("x", userId="eve", username="\x1b"))
        assert (code, text) == ("malformed", "payload.message.username must be a name")


@virtual
async def test_a_claim_in_another_room() -> None:
    """Where one may not speak, one becomes nobody."""
    async with open_world(anybody) as world, world.plain() as eve:
        await eve.join()
        payload = said("x", "other", userId="eva")
        assert (await eve.refusal("chat_message", payload))[0] == "not_joined"
        payload = {**types(userId="eva"), "roomId": "other"}
        assert (await eve.refusal("typing_indicator", payload))[0] == "not_joined"
        await eve.say("x", userId="eve")
        await settle()
        assert eve.of("chat_message")[0]["message"]["userId"] == "eve"


@virtual
async def test_nobody_may_claim() -> None:
    """Unless the service says so: where tokens are signed a claim proves nothing."""
    signed: dict[str, Any] = {"anonymous": True, "secret": b"x" * 32}
    for options in ({}, signed):
        async with open_world(**options) as world, world.plain() as eve:
            await eve.join()
            assert (await eve.refusal("chat_message", said("x", userId="eve")))[0] == "forged_user"


@virtual
async def test_anybody_may_claim_where_nobody_has_tokens() -> None:
    """And is a member at most: also who claims to be an owner."""
    async with open_world(anonymous=True, owners={"lobby": ["eve"]}) as world, world.plain() as eve:
        await eve.join()
        await eve.say("x", userId="eve")
        await settle()
        assert eve.of("chat_message")[0]["message"]["userId"] == "eve"
        (guest,) = world.service.hub.devices("eve")
        assert isinstance(guest.who, ChatWho)
        assert guest.who.guest


# Bad input


def said(content: Any, room: Any = "lobby", **fields: Any) -> dict[str, Any]:
    return {"roomId": room, "message": {"content": content, **fields}}


def types(**fields: Any) -> dict[str, Any]:
    return {"roomId": "lobby", "isTyping": True, **fields}


def envelope(type: str, payload: Any, id: Any = "x") -> str:
    return json.dumps({"id": id, "type": type, "payload": payload})


BAD: list[tuple[str, Any, str, str]] = [
    ("join_room", None, "malformed", "payload "),
    ("join_room", [], "malformed", "payload "),
    ("join_room", {}, "malformed", "roomId"),
    ("join_room", {"room": "lobby"}, "malformed", "roomId"),
    ("join_room", {"roomId": 1}, "malformed", "payload.roomId"),
    ("join_room", {"roomId": ""}, "bad_name", ""),
    ("join_room", {"roomId": " a"}, "bad_name", ""),
    ("join_room", {"roomId": "a\x00b"}, "bad_name", ""),
    ("join_room", {"roomId": "a\u200bb"}, "bad_name", ""),
    ("join_room", {"roomId": "x" * 129}, "bad_name", ""),
    ("leave_room", {"roomId": None}, "malformed", "payload.roomId"),
    ("chat_message", {"roomId": "lobby"}, "malformed", "message"),
    ("chat_message", {"roomId": "lobby", "message": "x"}, "malformed", "payload.message"),
    ("chat_message", {"roomId": "lobby", "message": {}}, "malformed", "content"),
    ("chat_message", said(1), "malformed", "payload.message.content"),
    ("chat_message", said(None), "malformed", "payload.message.content"),
    ("chat_message", said(""), "malformed", "payload.message.content"),
    ("chat_message", said(" \n\t "), "malformed", "payload.message.content"),
    ("chat_message", said("a\x07"), "malformed", "payload.message.content"),
    ("chat_message", said("\x1b[31m"), "malformed", "payload.message.content"),
    ("chat_message", said("x" * (CONTENT_BYTES + 1)), "too_large", "payload.message.content"),
    ("chat_message", said("€" * (CONTENT_BYTES // 2)), "too_large", "payload.message.content"),
    ("chat_message", said("x", type="video"), "malformed", "payload.message.type"),
    ("chat_message", said("x", type=1), "malformed", "payload.message.type"),
    ("chat_message", said("x", userId=7), "malformed", "payload.message.userId"),
    ("chat_message", said("x", username=[]), "malformed", "payload.message.username"),
    ("chat_message", said("x", metadata=[1]), "malformed", "payload.message.metadata"),
    (
        "chat_message",
        said("x", metadata={"k": "x" * METADATA_BYTES}),
        "too_large",
        "payload.message.metadata",
    ),
    ("chat_message", said("x", "other"), "not_joined", ""),
    ("chat_message", said("x", 1), "malformed", "payload.roomId"),
    ("typing_indicator", {"roomId": "lobby"}, "malformed", "isTyping"),
    ("typing_indicator", types(isTyping=1), "malformed", "payload.isTyping"),
    ("typing_indicator", types(userId={}), "malformed", "payload.userId"),
    ("typing_indicator", types(roomId="other"), "not_joined", ""),
    ("typing_indicator", "x", "malformed", "payload "),
]


@pytest.mark.parametrize("session", ["off", "require"])
@pytest.mark.parametrize(("type", "payload", "code", "field"), BAD)
@virtual
async def test_bad_input(session: Any, type: str, payload: Any, code: str, field: str) -> None:
    """Each is refused by a code and, where a field is wrong, with its name; nothing is said."""
    async with open_world() as world, world.plain("anna", session=session) as anna:
        await anna.join()
        told, text = await anna.refusal(type, payload)
        assert told == code
        assert field in text
        assert not (await world.service.hub.history("lobby")).items
        await anna.say("whole")
        await settle()
        assert anna.said() == ["whole"]


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"chat_message"}',
        '{"type":"chat_message","payload":' + "[" * 5000 + "]" * 5000 + "}",
        '{"type":"chat_message","payload":{"roomId":"lobby","message":{"content":"\\ud800"}}}',
        '{"type":"chat_message","payload":{"roomId":"lobby","message":{"content":"x","metadata":{"a":1e999}}}}',
        '{"type":"join_room","payload":{"roomId":"\\ud800"}}',
        '{"type":"typing_indicator","payload":{}}',
        '{"type":"unknown","payload":{}}',
        '{"type":"heartbeat","payload":{}}',
        '{"type":1}',
        "[]",
        "not json",
        "",
    ],
)
@virtual
async def test_bad_input_of_a_stranger(text: str) -> None:
    """It costs nobody anything: the same link and all others are served on."""
    async with open_world() as world, world.plain("bob") as bob:
        await bob.join()
        stranger = await world.site.enter("/anna")
        await stranger.send(envelope("join_room", {"roomId": "lobby"}), text)
        await stranger.send(envelope("chat_message", said("whole")))
        await settle()
        assert bob.said() == ["whole"]
        await stranger.aclose()


@virtual
async def test_a_flood() -> None:
    """What is beyond the rate is refused, and the others are not held up."""
    limits = HubLimits(rate_per_s=10, burst=20)
    async with open_world(limits=limits) as world, world.plain("bob") as bob:
        await bob.join()
        async with world.plain("anna") as anna:
            await anna.join()
            for number in range(200):
                await anna.say(f"{number}")
            await settle()
            assert 10 < len(bob.said()) < 30
            assert {error["code"] for error in anna.of("error")} == {"too_fast"}
            assert len(anna.of("error")) + len(anna.said()) == 200
            await trio.sleep(5)
            await anna.say("behind")
            await settle()
            assert bob.said()[-1] == "behind"


# Over real sockets


def talk(url: str, told: list[dict[str, Any]]) -> None:
    """A client of the synchronous library, until the other one has said goodbye."""
    with websockets.sync.client.connect(url, open_timeout=10) as client:
        say = {"userId": "anna", "username": "Anna", "timestamp": 1, "type": "text"}
        client.send(envelope("join_room", {"roomId": "lobby"}, "1"))
        told.append(json.loads(client.recv(timeout=10)))
        client.send(envelope("heartbeat", None, "0"))
        client.send(envelope("typing_indicator", types(userId="anna"), "2"))
        client.send(envelope("chat_message", said("hello", **say, metadata=None), "3"))
        client.send(envelope("chat_message", said("forged", **{**say, "userId": "bob"}), "4"))
        while not {"chat_message_deleted", "error"} <= {each["type"] for each in told}:
            told.append(json.loads(client.recv(timeout=10)))
        client.send(envelope("leave_room", {"roomId": "lobby"}, "5"))


async def test_a_client_of_another_library() -> None:
    """By threads and sockets, beside a member with a session."""
    told: list[dict[str, Any]] = []
    async with (
        open_chat_service(limits=HubLimits(grace_s=0)) as service,
        trio.open_nursery() as nursery,
    ):
        with trio.fail_after(20):
            server = await nursery.start(
                partial(trio_rt.serve, service, "127.0.0.1", 0, accept=who_is)
            )
            async with (
                trio_rt.connect(f"{server.url}/bob") as conn,
                open_room(conn, "lobby") as bob,
            ):
                nursery.start_soon(trio.to_thread.run_sync, talk, f"{server.url}/anna", told)
                typing, hello = await messages(bob, 2)
                answer = await bob.publish({"content": "hi"}, type="text")
                assert answer is not None
                await bob.publish({"target": answer.offset}, type="delete")
                while "anna" in bob.members:
                    await bob.receive()
            nursery.cancel_scope.cancel()
    assert (typing.payload, hello.payload) == ({"on": True}, {"content": "hello", "name": "Anna"})
    of = {each["type"]: each["payload"] for each in told}
    kinds = [each["type"] for each in told if each["type"] not in ("user_joined", "error")]
    assert kinds == ["heartbeat", "chat_message", "chat_message", "chat_message_deleted"]
    assert (of["error"]["code"], of["error"]["re"]) == ("forged_user", "4")
    assert of["chat_message"]["message"]["userId"] == "bob"
    assert of["chat_message_deleted"] == {"roomId": "lobby", "messageId": "2"}
    joined = [each["payload"]["user"] for each in told if each["type"] == "user_joined"]
    assert joined == [user("bob"), user("anna")]
    assert all({"id", "type", "payload", "timestamp", "priority"} <= each.keys() for each in told)


def test_users_that_are_known_are_bounded() -> None:
    """The one that was seen longest ago goes; it is shown by its id."""
    users = PlainUsers()
    for number in range(USERS):
        users.seen(f"u{number}", {"name": f"n{number}"})
    users.seen("u0", {"name": "again"})
    users.seen("more", {"name": 1, "status": None})
    assert [users.name(each) for each in ("u0", "u1", "u2", "more")] == [
        "again",
        "u1",
        "n2",
        "more",
    ]
    assert users.gone("u1") == {"id": "u1", "name": "u1", "avatar": "", "status": "offline"}
    assert users.seen("x", "text") == {"id": "x", "name": "x", "status": "online", "avatar": ""}

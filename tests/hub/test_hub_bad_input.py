"""What clients, hooks and stores can do wrong: a refusal to who asked, and nobody else notices."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from tests.helpers import outlast
from tests.hub.faulty import FaultyBroker
from tests.hub.talkers import House, Talker, open_door, open_house
from tests.strangers import Stranger, complaints
from tests.testing.support import virtual
from trio_rt import InboxLimits, Message, Refused
from trio_rt.hub import BrokerError, Draft, HubLimits, LogLimits, Rules, Who
from trio_rt.hub._broker import Item, Present
from trio_rt.hub._log import Log
from trio_rt.hub._server import commands as _commands
from trio_rt.hub._server import rooms as _rooms
from trio_rt.hub._words import (
    COMMANDS,
    HISTORY,
    JOIN,
    LEAVE,
    MARK,
    MEMBERS,
    PUBLISH,
    Publish,
    is_body,
)
from trio_rt.protocol.codec import JsonCodec, Meta

LOG = "trio_rt.hub"


@asynccontextmanager
async def open_witness(**options: Any) -> AsyncIterator[tuple[House, Talker, Stranger]]:
    """A house, a member of "r" to whom nothing may happen, and a client that does wrong."""
    async with open_house(**options) as house:
        anna = await house.enter("anna")
        await anna.join("r")
        stranger = await house.site.enter("/bob")
        yield house, anna, stranger
        seen = len(anna.heard("r"))
        await anna.ask(PUBLISH, room="r", payload="still here")
        assert (await anna.hears("r", seen + 1))[-1] == "still here"
        assert [event.kind for event in anna.of("r", "removed", "room", "refused")] == []
        await stranger.aclose()


async def tell(stranger: Stranger, command: str, payload: str | bytes, id: str = "1") -> None:
    body = payload if isinstance(payload, bytes) else payload.encode()
    raw = b'{"type":%b,"id":%b,"payload":%b}' % (
        msgspec.json.encode(command),
        msgspec.json.encode(id),
        body,
    )
    stranger._protocol.send_text(raw)
    await stranger._flush()


async def answer(stranger: Stranger, re: str = "1") -> dict[str, Any]:
    """The answer, with its `type` as `about`."""
    while True:
        data = b""
        while True:
            frame = await stranger.read()
            assert frame is not None, stranger.code
            data += bytes(frame.data)
            if frame.fin:
                break
        message = msgspec.json.decode(data)
        payload: dict[str, Any] = message["payload"]
        if payload.get("re", "") == re and (re or payload["kind"] == "refused"):
            return payload | {"about": message["type"]}


async def code(stranger: Stranger, command: str, payload: str | bytes) -> str:
    """That of the refusal of a command."""
    await tell(stranger, command, payload)
    refused = await answer(stranger)
    assert refused["kind"] == "refused", refused
    found: str = refused["code"]
    return found


# Names

BAD_NAMES = [
    "",
    " ",
    " r",
    "r\\u0000",
    "r\\n",
    "r\\u200b",
    "\\u202er",
    "r\\ufeff",
    "x" * 10_240,
    "\\u00e9" * 65,
    "r\\u2028",
]


@pytest.mark.parametrize("name", BAD_NAMES)
@virtual
async def test_names_of_rooms(name: str) -> None:
    """One that is none is refused by each command, with an answer that does not repeat it."""
    async with open_witness() as (house, _, stranger):
        for command in COMMANDS:
            await tell(stranger, command, f'{{"room":"{name}","offset":0}}')
            refused = await answer(stranger)
            assert (refused["code"], refused["about"]) == ("bad_name", "hub.refused")
            assert len(str(refused)) < 300
        assert house.hub.statistics().rooms == 1


@pytest.mark.parametrize("name", BAD_NAMES[1:])
@pytest.mark.parametrize("field", ["type", "id", "user"])
@virtual
async def test_names_in_a_publish(field: str, name: str) -> None:
    """Types, ids and users are names, too."""
    async with open_witness() as (_, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        payload = f'{{"room":"r","{field}":"{name}","payload":1}}'
        assert await code(stranger, PUBLISH, payload) == "malformed"
        to_user = f'{{"room":"r","{field}":"{name}","to":"user","store":false}}'
        assert await code(stranger, PUBLISH, to_user) == "malformed"
        assert anna.heard("r") == []


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\udfffb"', b'"\xff"', b'"\xed\xa0\x80"'])
@pytest.mark.parametrize("where", ['{"room":%b}', '{"room":"r","payload":%b}'])
@virtual
async def test_what_utf_8_cannot_say(where: str, text: str | bytes) -> None:
    """It is no JSON, and in bytes no text either: that ends the link of who sent it."""
    raw = text if isinstance(text, bytes) else text.encode()
    async with open_witness() as (house, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        await tell(stranger, PUBLISH, where.encode() % raw)
        if isinstance(text, str):
            await tell(stranger, MEMBERS, '{"room":"r"}', "good")
            assert (await answer(stranger, "good"))["kind"] == "done"
            (peer,) = [guest.peer for guest in house.hub._guests if guest.who.user == "bob"]
            assert peer.statistics().malformed == 1
        else:
            await stranger.read_all()
            assert stranger.code == 1007
        assert anna.heard("r") == []


# Shapes

WRONG = ["null", "1", "-1.5", "true", '"x"', "[]", "{}", "1e400", "99999999999999999999999"]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("command", COMMANDS)
@virtual
async def test_a_payload_that_is_no_command(command: str, value: str) -> None:
    """It is refused as malformed, and what the answer is about is not known."""
    async with open_witness() as (_, _, stranger):
        await tell(stranger, command, value)
        refused = await answer(stranger)
        assert (refused["code"], refused["about"]) == ("malformed", "hub.refused")


FIELDS = {
    JOIN: ["room"],
    LEAVE: ["room"],
    PUBLISH: ["room", "type", "id", "to", "user", "store"],
    HISTORY: ["room", "after", "before", "epoch", "limit"],
    MEMBERS: ["room"],
    MARK: ["room", "offset", "epoch"],
}


@pytest.mark.parametrize("command", COMMANDS)
@virtual
async def test_wrong_types_in_every_field(command: str) -> None:
    """Each is a refusal, or was no wrong type; the peer may go on."""
    async with open_witness() as (_, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        for field in FIELDS[command]:
            for number, value in enumerate([*WRONG, "-1", str(2**62), str(2**63), "NaN"]):
                fields = {"room": '"r"', "offset": "0"} | {field: value}
                body = ",".join(f'"{name}":{each}' for name, each in fields.items())
                re = f"{field}{number}"
                await tell(stranger, command, f"{{{body}}}", re)
                if value == "NaN":  # no JSON, so that nobody knows what it was
                    continue
                got = await answer(stranger, re)
                fine = (
                    (got["kind"], field) == ("done", "id")
                    or value == '"x"'
                    or (value == "null" and field in ("after", "before"))
                    or (value == "true" and field == "store")
                    or (value == "1" and field in ("after", "before", "limit"))
                )
                assert fine or got["code"] == "malformed", (field, value, got)
        await tell(stranger, MEMBERS, '{"room":"r"}', "last")
        assert (await answer(stranger, "last"))["count"] == 2
        assert [text for text in anna.heard("r") if text is not None] == []


@virtual
async def test_fields_that_are_not_there_or_too_many() -> None:
    """The first are refused, the others left out."""
    async with open_witness() as (_, _, stranger):
        for command in COMMANDS:
            assert await code(stranger, command, '{"rooms":"r"}') == "malformed"
        await tell(stranger, JOIN, '{"room":"r","more":[1],"room":"s"}')
        assert (await answer(stranger))["about"] == "room:s"


PAYLOADS = {
    "nan": "NaN",
    "infinity": "-Infinity",
    "huge float": "1e999",
    "deep list": "[" * 50_000 + "]" * 50_000,
    "deep map": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "half": '{"a":',
    "trailing": "1}, {",
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=list(PAYLOADS))
@virtual
async def test_payloads_that_are_no_json(payload: str) -> None:
    """They are refused, or the whole message is counted as malformed where that is no JSON."""
    async with open_witness() as (_, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        await tell(stranger, PUBLISH, f'{{"room":"r","payload":{payload}}}', "bad")
        await tell(stranger, MEMBERS, '{"room":"r"}', "good")
        assert (await answer(stranger, "good"))["kind"] == "done"
        assert anna.heard("r") == []


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300])
@virtual
async def test_numbers_that_not_all_codecs_can_say(number: int) -> None:
    """One member of JSON must not be able to say what members of MessagePack cannot hear."""
    async with open_witness() as (_, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        assert await code(stranger, PUBLISH, f'{{"room":"r","payload":{number}}}') == "malformed"
        fits = [2**64 - 1, -(2**63), 1e300]
        await tell(
            stranger, PUBLISH, f'{{"room":"r","payload":{msgspec.json.encode(fits).decode()}}}'
        )
        assert (await answer(stranger))["kind"] == "done"
        assert await anna.hears("r", 1) == [fits]


@virtual
async def test_not_a_number_by_messagepack() -> None:
    """It is no JSON, and is refused, not made a null of."""
    async with open_house() as house, open_door(house.hub, codec="msgpack") as packed:
        anna, bob = await house.enter("anna"), await packed.enter("bob", codec="msgpack")
        await anna.join("r")
        await bob.join("r")
        for payload in (float("nan"), [None, {"a": float("inf")}]):
            refused = await bob.ask(PUBLISH, room="r", payload=payload)
            assert (refused.kind, refused.code) == ("refused", "malformed")
        assert (await bob.ask(PUBLISH, room="r", payload=None)).kind == "done"
        assert (await bob.ask(PUBLISH, room="r", payload="null")).kind == "done"
        assert await anna.hears("r", 2) == [None, "null"]


@virtual
async def test_large_payloads() -> None:
    """More than a message may have is refused; more than the server takes ends the link."""
    async with open_witness() as (_, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        large = "x" * 65_536
        assert await code(stranger, PUBLISH, f'{{"room":"r","payload":"{large}"}}') == "too_large"
        await tell(stranger, PUBLISH, '{"room":"r","payload":"%s"}' % ("x" * 10_000_000))
        await stranger.read_all()
        assert stranger.code == 1009
        assert anna.heard("r") == []


@virtual
async def test_a_message_at_the_limit() -> None:
    """The limit is that of the stored message, both sides of it."""
    async with open_witness(limits=HubLimits(message_bytes=1000)) as (house, _, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await tell(stranger, PUBLISH, '{"room":"r","payload":"","id":"i"}')
        await answer(stranger)
        (item,) = (await house.hub.history("r")).items
        left = 1000 - len(item.body)
        assert (
            await code(stranger, PUBLISH, f'{{"room":"r","payload":"{"x" * (left + 1)}","id":"j"}}')
            == "too_large"
        )
        await tell(stranger, PUBLISH, f'{{"room":"r","payload":"{"x" * left}","id":"j"}}')
        assert (await answer(stranger))["offset"] == 2


@virtual
async def test_binary_frames() -> None:
    """A server of JSON reads them as text, and what is none is malformed."""
    async with open_witness() as (house, _, stranger):
        stranger._protocol.send_binary(b'{"type":"hub.join","id":"1","payload":{"room":"r"}}')
        stranger._protocol.send_binary(b"\x00\xff\xfe")
        stranger._protocol.send_binary(b"")
        await stranger._flush()
        assert (await answer(stranger))["kind"] == "done"
        assert house.hub.statistics().members == 2


@pytest.mark.parametrize("id", ["", "x" * 257, 7, None, ["x"], {"a": 1}, True])
@virtual
async def test_odd_ids(id: Any) -> None:
    """An id that is none, or too long, does not come back; a number does, as text."""
    async with open_witness() as (_, _, stranger):
        envelope = {"type": MARK, "id": id, "payload": {"room": "r", "offset": 0}}
        await stranger.send(msgspec.json.encode(envelope).decode())
        refused = await answer(stranger, "7" if id == 7 else "")
        assert (refused["code"], refused["about"]) == ("not_joined", "room:r")


@virtual
async def test_odd_targets() -> None:
    """What `to` and `user` and `store` say has to fit together."""
    async with open_witness() as (_, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        for fields in (
            '"to":"nobody"',
            '"to":""',
            '"to":"user"',
            '"to":"user","user":"anna"',
            '"to":"all","user":"anna"',
            '"to":"others","user":"anna","store":false',
            '"user":"anna"',
            '"type":""',
        ):
            assert await code(stranger, PUBLISH, f'{{"room":"r",{fields}}}') == "malformed"
        assert anna.heard("r") == []


@virtual
async def test_both_ways_of_history() -> None:
    """At once there are none."""
    async with open_witness() as (_, _, stranger):
        assert await code(stranger, HISTORY, '{"room":"r","after":1,"before":2}') == "malformed"


# Floods


@pytest.mark.parametrize("command", [*COMMANDS, "malformed", "nameless"])
@virtual
async def test_floods(command: str) -> None:
    """Beyond its rate each is refused, each is answered, and the others are not held up."""
    limits = HubLimits(rate_per_s=100, burst=50)
    async with open_witness(limits=limits) as (house, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        await trio.sleep(1)
        name = "" if command == "nameless" else "r"
        payload = "[]" if command == "malformed" else f'{{"room":"{name}","offset":0}}'
        type = command if command in COMMANDS else JOIN
        began = trio.current_time()
        for number in range(500):
            await tell(stranger, type, payload, f"f{number}")
        answers = [await answer(stranger, f"f{number}") for number in range(500)]
        codes = [each.get("code", "") for each in answers]
        assert trio.current_time() - began < 0.5
        if command in COMMANDS:
            assert 445 <= codes.count("too_fast") <= 455
            assert codes[:49] == [""] * 49
        assert len(anna.heard("r")) <= 55
        await trio.sleep(0.1)
        await tell(stranger, MEMBERS, '{"room":"r"}', "later")
        assert (await answer(stranger, "later"))["kind"] == "done"
        assert house.hub.statistics().rooms == 1


@virtual
async def test_a_burst() -> None:
    """`burst` commands may come at once, and then `rate_per_s`."""
    limits = HubLimits(rate_per_s=10, burst=20)
    async with open_witness(limits=limits) as (_, _, stranger):
        for number in range(30):
            await tell(stranger, MEMBERS, '{"room":"r"}', f"{number}")
        codes = [(await answer(stranger, f"{number}")).get("code", "") for number in range(30)]
        assert codes.count("") in (19, 20, 21)
        await trio.sleep(1.01)
        for number in range(15):
            await tell(stranger, MEMBERS, '{"room":"r"}', f"{number}")
        codes = [(await answer(stranger, f"{number}")).get("code", "") for number in range(15)]
        assert codes.count("") in (9, 10, 11)


@virtual
async def test_more_than_is_taken_in() -> None:
    """What a plain link loses of a flood is told once, as commands that were lost."""
    rules = Slow(5.0)
    inbox = InboxLimits(total_bytes=10_000)
    async with open_house(inbox=inbox, rules=rules) as house:
        stranger = await house.site.enter("/bob")
        for number in range(1000):
            await tell(stranger, JOIN, '{"room":"r"}', f"{number}")
        lost = await answer(stranger, "")
        assert (lost["code"], lost["text"]) == ("too_fast", "commands were lost")
        await stranger.aclose()


@virtual
async def test_many_rooms_by_members() -> None:
    """Who looks into rooms by random names leaves nothing behind."""
    async with open_witness() as (house, _, stranger):
        for number in range(100):
            await tell(stranger, MEMBERS, f'{{"room":"r{number}"}}', f"{number}")
            await tell(stranger, HISTORY, f'{{"room":"r{number}"}}', f"h{number}")
        await answer(stranger, "h99")
        assert house.hub.statistics().rooms == 1
        assert house.hub.statistics().broker == {"rooms": 1, "idle": 0}


# Hooks


class Slow(Rules):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def may_join(self, who: Who, room: str) -> bool:
        await trio.sleep(self.seconds)
        return True


class Hooks(Rules):
    """Each hook does what `act` has for it; anna may do everything."""

    def __init__(self, act: Any) -> None:
        self.act = act

    async def _do(self, who: Who) -> Any:
        return True if who.user == "anna" else await self.act()

    async def may_join(self, who: Who, room: str) -> bool:
        return await self._do(who)  # type: ignore[no-any-return]

    async def may_publish(self, who: Who, message: Publish) -> bool:
        return await self._do(who)  # type: ignore[no-any-return]

    async def may_read(self, who: Who, room: str) -> bool:
        return await self._do(who)  # type: ignore[no-any-return]

    async def may_see(self, who: Who, room: str) -> bool:
        return await self._do(who)  # type: ignore[no-any-return]


async def fails() -> Any:
    raise ZeroDivisionError("secret")


async def refuses() -> Any:
    raise Refused("payment", "pay first")


def gives(value: Any) -> Any:
    async def act() -> Any:
        return value

    return act


ACTS = [
    (fails, "error", True),
    (refuses, "payment", False),
    (gives(False), "no_room", False),
    (gives(None), "no_room", False),
    (gives("no"), "no_room", False),
    (gives(1), "no_room", False),
    (gives([True]), "no_room", False),
]


@pytest.mark.parametrize(("act", "expected", "logged"), ACTS)
@virtual
async def test_hooks(
    act: Any, expected: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not True refuses; what a hook raises is logged, and not told."""
    rules = Hooks(gives(True))
    async with open_witness(rules=rules) as (house, _, stranger):
        await tell(stranger, JOIN, '{"room":"s"}', "0")
        await answer(stranger, "0")
        rules.act = act
        for command in (JOIN, HISTORY, MEMBERS):
            await tell(stranger, command, '{"room":"t"}')
            refused = await answer(stranger)
            assert (refused["kind"], refused["code"]) == ("refused", expected)
            assert "secret" not in str(refused)
        refused_code = await code(stranger, PUBLISH, '{"room":"s"}')
        assert refused_code == ("forbidden" if expected == "no_room" else expected)
        assert bool(complaints(caplog)) is logged
        assert house.hub.statistics().rooms == 2


@virtual
async def test_hooks_that_hang() -> None:
    """They hold up that peer alone; when it has gone they are cancelled, and it is no member."""
    rules = Hooks(gives(True))
    async with open_witness(rules=rules, close_timeout_s=2.0) as (house, anna, stranger):
        rules.act = trio.sleep_forever
        await tell(stranger, JOIN, '{"room":"t"}')
        await trio.sleep(1)
        await anna.ask(PUBLISH, room="r", payload=1)
        await stranger.aclose()
        await outlast(lambda: house.hub.statistics().peers > 1)
        assert house.hub.statistics().rooms == 1


@virtual
async def test_a_hook_that_is_slow_while_its_peer_leaves() -> None:
    """The join may still come, of a peer that is no more: it leaves with it."""
    async with open_house(rules=Slow(1.0), close_timeout_s=5.0) as house:
        stranger = await house.site.enter("/bob")
        await tell(stranger, JOIN, '{"room":"t"}')
        await trio.sleep(0.5)
        await stranger.aclose()
        await trio.sleep(2)
        assert (house.hub.statistics().peers, house.hub.statistics().rooms) == (0, 0)


@virtual
async def test_a_hook_that_is_slow_while_its_peer_is_removed() -> None:
    """What it then allows is not said any more."""
    rules = Hooks(gives(True))
    async with open_witness(rules=rules) as (house, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")

        async def slow() -> bool:
            await trio.sleep(1)
            return True

        rules.act = slow
        await tell(stranger, PUBLISH, '{"room":"r","payload":1}')
        await trio.sleep(0.5)
        assert house.hub.remove("bob", "r") == 1
        assert (await answer(stranger))["code"] == "not_joined"
        assert anna.heard("r") == []


class Doors(Rules):
    def __init__(self, act: Any) -> None:
        self.act = act

    async def who(self, peer: Any) -> Who:
        if peer.identity.user == "anna":
            return await super().who(peer)
        return await self.act()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("act", "closed"), [(fails, 1011), (refuses, 1008), (gives("bob"), 1011), (gives(None), 1011)]
)
@virtual
async def test_who_raises_or_gives_nonsense(act: Any, closed: int) -> None:
    """That peer is sent away."""
    async with open_witness(rules=Doors(act)) as (house, _, stranger):
        await stranger.read_all()
        assert stranger.code == closed
        assert house.hub.statistics().peers == 1


@virtual
async def test_who_takes_its_time() -> None:
    """Commands that come meanwhile are not lost."""

    async def slow() -> Who:
        await trio.sleep(1)
        return Who("bob")

    async with open_witness(rules=Doors(slow)) as (house, _, stranger):
        await tell(stranger, JOIN, '{"room":"r"}')
        await trio.sleep(0.5)
        assert house.hub.statistics().peers == 1
        assert (await answer(stranger))["kind"] == "done"


@virtual
async def test_codes_that_hooks_make_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted each for itself up to a number, and then together."""
    monkeypatch.setattr(_commands, "MOST_CODES", 5)
    numbers = iter(range(1000))

    async def act() -> Any:
        raise Refused(f"code {next(numbers)}")

    async with open_witness(rules=Hooks(act)) as (house, _, stranger):
        for _ in range(50):
            await code(stranger, MEMBERS, '{"room":"r"}')
        refusals = house.hub.statistics().refusals
        assert len(refusals) == 6
        assert (refusals["other"], sum(refusals.values())) == (45, 50)


# A store that fails


@virtual
async def test_a_store_that_is_down() -> None:
    """Every command that needs it is refused as unavailable; members stay, and it may be back."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        await anna.ask(PUBLISH, room="r", payload=1)
        broker.fail()
        for command, payload in [
            (JOIN, '{"room":"s"}'),
            (PUBLISH, '{"room":"r"}'),
            (PUBLISH, '{"room":"r","store":false}'),
            (HISTORY, '{"room":"r"}'),
            (MEMBERS, '{"room":"s"}'),
            (MARK, '{"room":"r","offset":1}'),
        ]:
            assert await code(stranger, command, payload) == "unavailable"
        await tell(stranger, MEMBERS, '{"room":"r"}')
        assert (await answer(stranger))["count"] == 2
        cleo = await house.enter("cleo", session="require")
        house.site.network.connections[-1].cut()
        assert (await cleo.ask(JOIN, room="r")).code == "unavailable"
        await tell(stranger, LEAVE, '{"room":"r"}')
        assert (await answer(stranger))["kind"] == "done"
        await stranger.aclose()
        await cleo.leave()
        await outlast(lambda: house.hub.statistics().peers > 1)
        assert house.hub.statistics().members == 1
        broker.failing.clear()


@virtual
async def test_a_store_that_does_not_take_a_message() -> None:
    """Who said it is refused, the program gets the error, and the next one may be taken."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        broker.failing = {"done"}
        assert await code(stranger, PUBLISH, '{"room":"r","payload":1,"id":"x"}') == "unavailable"
        with pytest.raises(BrokerError):
            await house.hub.publish("r", 1)
        broker.failing.clear()
        await tell(stranger, PUBLISH, '{"room":"r","payload":2,"id":"x"}')
        assert (await answer(stranger))["offset"] == 1
        assert await anna.hears("r", 1) == [2]


@virtual
async def test_what_the_store_tells_of_rooms_that_are_not_here() -> None:
    """It is nothing."""
    async with open_witness() as (house, _, _):
        sink = house.hub._rooms
        sink.item(Item("s", "e", 1, b"{}"))
        sink.present("s", Present("u", "d"))
        sink.absent("s", "d", False)
        sink.marked("s", "u", 1)
        sink.lost("s")
        assert len(sink) == 1


@pytest.mark.parametrize("method", ["watch", "page"])
@virtual
async def test_a_store_that_hangs(method: str) -> None:
    """It cannot be reached then, and holds up who asked no longer than that."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, _, stranger):
        broker.hanging = {method}
        command = HISTORY if method == "page" else JOIN
        began = trio.current_time()
        assert await code(stranger, command, '{"room":"s"}') == "unavailable"
        assert trio.current_time() - began == pytest.approx(_rooms.STORE_S, abs=0.1)
        assert house.hub.statistics().rooms == 1
        broker.hanging.clear()
        await tell(stranger, command, '{"room":"s"}')
        assert (await answer(stranger))["kind"] == "done"


@pytest.mark.parametrize("method", ["watch", "page"])
@virtual
async def test_a_store_with_a_fault(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and is a refusal to who asked."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, stranger):
        broker.broken = {method}
        command = HISTORY if method == "page" else JOIN
        expected = "error" if method == "page" else "unavailable"
        assert await code(stranger, command, '{"room":"s"}') == expected
        house.hub._rooms.lost("r")
        await trio.sleep(1)
        broker.broken.clear()
        await anna.until(lambda: anna.of("r", "room"))
        anna.told = [each for each in anna.told if each[1].kind != "room"]
        assert complaints(caplog)


@virtual
async def test_all_rooms_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage the store is asked for a few of them at a time."""
    monkeypatch.setattr(_rooms, "LOOKING", 3)
    broker = FaultyBroker()
    async with open_house(broker) as house:
        anna = await house.enter("anna")
        for number in range(20):
            await anna.join(f"r{number}")
        broker.delay_s = 0.1
        house.hub._rooms.lost(None)
        for number in range(20):
            room = f"r{number}"
            await anna.looks(room)
        assert broker.most_looking == 3


@virtual
async def test_who_leaves_while_the_store_hangs() -> None:
    """Nothing is left of the room when the store has been given up."""
    broker = FaultyBroker()
    async with open_witness(broker=broker, close_timeout_s=1.0) as (house, _, stranger):
        broker.hanging = {"watch"}
        await tell(stranger, JOIN, '{"room":"s"}')
        await trio.sleep(0.5)
        await stranger.aclose()
        await outlast(lambda: house.hub.statistics().peers > 1)
        await trio.sleep(_rooms.STORE_S)
        assert house.hub.statistics().rooms == 1
        broker.hanging.clear()
        cleo = await house.enter("cleo")
        await cleo.join("s")


@virtual
async def test_answers_that_come_late() -> None:
    """An answer goes to who asked, in the order of the store, or to nobody where that is gone."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        late: list[Any] = []
        broker.late = late
        for number in range(4):
            await tell(stranger, PUBLISH, f'{{"room":"r","payload":{number}}}', f"p{number}")
        await tell(stranger, LEAVE, '{"room":"r"}')
        assert (await answer(stranger))["kind"] == "done"
        assert await anna.hears("r", 4) == [0, 1, 2, 3]
        late[0]()
        late[1]()
        assert (await answer(stranger, "p0"))["offset"] == 1
        assert (await answer(stranger, "p1"))["offset"] == 2
        broker.late = None
        await stranger.aclose()
        await outlast(lambda: house.hub.statistics().peers > 1)
        late[2]()
        late[3]()
        assert house.hub.statistics().refusals == {}


@virtual
async def test_an_answer_that_comes_while_the_peer_closes() -> None:
    """It is not sent behind the close."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, _, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        late: list[Any] = []
        broker.late = late
        await tell(stranger, PUBLISH, '{"room":"r"}')
        await trio.sleep(0.5)
        (peer,) = [guest.peer for guest in house.hub._guests if guest.who.user == "bob"]
        peer.close(1000)
        late[0]()
        broker.late = None
        assert not any('"done"' in str(text) for text in await stranger.read_all())


# A store that others have written


GARBAGE = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"{",
    b'{"id":"1","user":"u","device":"","type":"t","payload":1,"at":1,"kind":"removed"}',
    b'{"id":1,"user":"u","device":"","type":"t","payload":1,"at":1}',
    b'{"id":"1","user":"u","device":"","type":"t","payload":"\xff","at":1}',
    b'{"id":"1","user":"u","device":"","type":"t","payload":1,"at":1} ',
    b'{"id":"1","user":"u","device":"","type":"t","payload":%b,"at":1}'
    % (b"[" * 5000 + b"]" * 5000),
]


@pytest.mark.parametrize("body", GARBAGE)
@virtual
async def test_garbage_in_the_store(body: bytes) -> None:
    """It is told as a message with nothing in it, so that the offsets have no hole."""
    async with open_witness() as (house, anna, stranger):
        await tell(stranger, JOIN, '{"room":"r"}', "0")
        await answer(stranger, "0")
        good = is_body(body)
        await anna.ask(PUBLISH, room="r", payload="before")
        for but in ("", next(g.device for g in house.hub._guests if g.who.user == "anna")):
            house.hub.broker.append(Draft("r", f"k{but}", body, "", but), lambda _: None)
        await anna.ask(PUBLISH, room="r", payload="behind")
        await anna.hears("r", 4)
        assert anna.offsets("r") == [1, 2, 3, 4]
        if not good:
            assert [e.type for e in anna.of("r", "message", "own")] == [
                "message",
                "",
                "",
                "message",
            ]
        page = await anna.ask(HISTORY, room="r")
        assert [event.offset for event in page.items] == [1, 2, 3, 4]


@pytest.mark.parametrize("info", [b"", b"{", b"\xff", b"1 2", b"[" * 5000 + b"]" * 5000])
@virtual
async def test_garbage_in_the_roster(info: bytes) -> None:
    """Info that is no JSON is none; who is there is told all the same."""
    async with open_witness() as (house, anna, _):
        house.hub.broker.enter("r", Present("mallory", "m", info))
        await anna.until(lambda: anna.of("r", "presence")[-1].joined[0]["user"] == "mallory")
        assert anna.of("r", "presence")[-1].joined[0]["info"] is None
        there = await anna.ask(MEMBERS, room="r")
        assert [member["info"] for member in there.members][-1] is None
        cleo = await house.enter("cleo")
        await cleo.join("r")
        house.hub.broker.leave("r", "m")


# Holes, losses, and another epoch


@virtual
async def test_a_loss() -> None:
    """Members are told to look; nothing is said twice, and nothing is missing behind it."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, _):
        rooms = house.hub._rooms
        broker.delay_s = 1.0
        await anna.ask(PUBLISH, room="r", payload=1)
        rooms.lost("r")
        await trio.sleep(0.5)
        await anna.ask(PUBLISH, room="r", payload=2)
        rooms.lost(None)
        await trio.sleep(3)
        rooms_told = anna.of("r", "room")
        assert [event.last for event in rooms_told] == [2, 2]
        await anna.ask(PUBLISH, room="r", payload=3)
        await anna.hears("r", 3)
        assert anna.offsets("r") == [1, 2, 3]
        anna.told = [each for each in anna.told if each[1].kind != "room"]


@virtual
async def test_a_hole() -> None:
    """A message that the store has lost on its way is found by the next one's offset."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, _):
        await anna.ask(PUBLISH, room="r", payload=1)
        sink, broker._sink = broker._sink, DEAF
        await house.hub.publish("r", 2)
        broker._sink = sink
        await house.hub.publish("r", 3)
        await anna.until(lambda: anna.of("r", "room"))
        assert anna.of("r", "room")[0].last == 3
        await house.hub.publish("r", 4)
        await anna.hears("r", 2)
        assert anna.offsets("r") == [1, 4]
        anna.told = [each for each in anna.told if each[1].kind != "room"]


class Deaf:
    def item(self, item: Item) -> None: ...
    def present(self, room: str, who: Present) -> None: ...
    def absent(self, room: str, device: str, for_good: bool) -> None: ...
    def marked(self, room: str, user: str, offset: int) -> None: ...
    def lost(self, room: str | None) -> None: ...


DEAF = Deaf()


@virtual
async def test_another_epoch() -> None:
    """Members are told so, and go on in it; positions of the old one are refused."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, stranger):
        first = await anna.ask(PUBLISH, room="r", payload=1)
        broker._rooms["r"].log = Log("r", "another", LogLimits())
        await house.hub.publish("r", 2)
        await anna.until(lambda: anna.of("r", "room"))
        (room,) = anna.of("r", "room")
        assert (room.epoch, room.last) == ("another", 1)
        done = await anna.ask(PUBLISH, room="r", payload=3)
        assert (done.epoch, done.offset) == ("another", 2)
        await anna.hears("r", 2)
        refused = await anna.ask(HISTORY, room="r", after=1, epoch=first.epoch)
        assert refused.code == "foreign_epoch"
        assert (await anna.ask(MARK, room="r", offset=1, epoch=first.epoch)).code == "foreign_epoch"
        anna.told = [each for each in anna.told if each[1].kind != "room"]
        assert stranger.code is None


@virtual
async def test_snapshots_that_fail_later() -> None:
    """They are tried again, and the members stay meanwhile."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, _):
        broker.failing = {"watch"}
        house.hub._rooms.lost("r")
        await trio.sleep(30)
        looks = broker.asked.count("watch")
        assert 6 < looks < 60
        assert anna.of("r", "room") == []
        broker.failing.clear()
        await anna.until(lambda: anna.of("r", "room"))
        anna.told = [each for each in anna.told if each[1].kind != "room"]


@virtual
async def test_who_leaves_while_a_snapshot_fails() -> None:
    """Then it is tried no more, and the room is gone."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, _, stranger):
        await tell(stranger, JOIN, '{"room":"s"}')
        await answer(stranger)
        broker.failing = {"watch"}
        house.hub._rooms.lost("s")
        await trio.sleep(1)
        await tell(stranger, LEAVE, '{"room":"s"}')
        await answer(stranger)
        await trio.sleep(6)
        assert house.hub.statistics().rooms == 1
        broker.failing.clear()


@virtual
async def test_a_room_that_is_opened_again_while_a_snapshot_is_on_its_way() -> None:
    """It is the same room: who joins is told what the snapshot brings, and all is watched."""
    broker = FaultyBroker()
    async with open_witness(broker=broker) as (house, anna, stranger):
        broker.delay_s = 1.0
        await tell(stranger, JOIN, '{"room":"s"}')
        await answer(stranger)
        house.hub._rooms.lost("s")
        await tell(stranger, LEAVE, '{"room":"s"}')
        await answer(stranger)
        await tell(stranger, JOIN, '{"room":"s"}', "2")
        await answer(stranger, "2")
        await trio.sleep(3)
        await house.hub.publish("s", 7)
        while '"payload":7' not in await stranger.text():
            pass
        assert house.hub.statistics().rooms == 2
        assert anna.heard("s") == []


# Codecs of a program's own


class Picky(JsonCodec):
    """One that cannot say some things."""

    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        if b"unspeakable" in msgspec.json.encode(payload):
            raise ValueError("I cannot say that")
        return super().encode(type, payload, meta)


class Mute(JsonCodec):
    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        raise ValueError("I say nothing")


class Odd(JsonCodec):
    """One that gives odd messages."""

    def decode(self, data: str | bytes) -> Iterable[Message[Any]]:
        yield Message(JOIN, {"room": "r"}, None)  # type: ignore[arg-type]
        yield Message(JOIN, {"room": "r"}, "\ud800")
        yield Message(JOIN, object(), "1")
        yield Message(JOIN, msgspec.Raw(b"\xff"), "2")
        yield Message(JOIN, {"room": "\ud800"}, "3")
        yield Message(PUBLISH, {"room": "r", "payload": object()}, "4")
        yield Message(PUBLISH, {"room": "r", "payload": "\ud800"}, "5")
        yield Message(MEMBERS, {"room": "r"}, "6")


@virtual
async def test_a_codec_that_cannot_say_something(caplog: pytest.LogCaptureFixture) -> None:
    """Its peers are told that there was something; others notice nothing, and it is logged."""
    async with open_witness() as (house, anna, _), open_door(house.hub, codec=Picky()) as door:
        bob = await door.enter("bob")
        await bob.join("r")
        for payload in (1, "unspeakable", 3):
            await anna.ask(PUBLISH, room="r", payload=payload)
        assert await anna.hears("r", 3) == [1, "unspeakable", 3]
        assert await bob.hears("r", 3) == [1, None, 3]
        event = bob.of("r", "message")[1]
        assert (event.code, event.offset, event.type, event.user) == ("unsaid", 2, "", "")
        refused = await bob.ask(HISTORY, room="r")
        assert (refused.kind, refused.code) == ("refused", "unsaid")
        assert len([r for r in caplog.records if r.name == LOG and r.levelno == logging.ERROR]) == 2


@virtual
async def test_a_codec_that_says_nothing() -> None:
    """Its peers are told nothing; others notice nothing."""
    async with open_witness() as (house, anna, _), open_door(house.hub, codec=Mute()) as door:
        stranger = await door.site.enter("/bob")
        await tell(stranger, JOIN, '{"room":"r"}')
        await trio.sleep(1)
        assert house.hub.statistics().members == 2
        await anna.ask(PUBLISH, room="r", payload=1)
        await stranger.aclose()


@virtual
async def test_a_codec_that_gives_odd_messages() -> None:
    """Each is a refusal, where one can be said."""
    async with open_witness() as (house, _, _), open_door(house.hub, codec=Odd()) as door:
        stranger = await door.site.enter("/bob")
        await stranger.send("x")
        codes = [(await answer(stranger, f"{n}")).get("code") for n in range(1, 7)]
        assert codes == ["malformed", "malformed", "bad_name", "malformed", "malformed", None]
        await stranger.aclose()

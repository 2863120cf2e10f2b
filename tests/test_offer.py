"""The client's side of sessions: when one is offered, begun, resumed and lost."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio

from tests.helpers import FarEnd, open_world
from tests.testing.support import virtual
from trio_rt import (
    DialError,
    Greeting,
    HandshakeError,
    LinkClosed,
    Message,
    NoSession,
    OptionError,
    Peer,
    Phase,
    Reconnect,
    Reset,
    ServerRefused,
    SessionLimits,
    State,
    TakenOver,
    connect,
)
from trio_rt.message import ACKED, INDETERMINATE, WRITTEN

JSON = "trio-rt.v1+json"
PLAIN = "trio-rt.plain"
TERMS = {
    "window": [256, 1 << 20],
    "held": [0, 0],
    "replay": [1000, 1 << 20],
    "message_bytes": 1 << 20,
}
START = {"settled": 0, "received": 0, "consumed": 0, "messages": 0, "bytes": 0, "drops": []}
SOON = Reconnect(first_s=0.1, cap_s=0.1)

pytestmark = pytest.mark.usefixtures("each_wire")


def welcome(*, session: str = "s", resumed: bool = False, **position: int) -> str:
    return json.dumps(["welcome", session, "t", resumed, TERMS, START | position])


def offered(end: FarEnd) -> list[str]:
    return [
        name.strip() for name in end.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    ]


async def pick(end: FarEnd, name: str) -> None:
    """Answer the handshake, and take this offer."""
    response = end._protocol.accept(await end.hear())
    response.headers["Sec-WebSocket-Protocol"] = name
    end._protocol.send_response(response)
    await end._flush()


async def sink(end: FarEnd) -> None:
    await end.read_all()


# The offer


@virtual
async def test_what_is_offered() -> None:
    """The program's own first, then the plain envelope, then a session of its codec."""

    async def script(end: FarEnd) -> None:
        await end.accept()
        await end.read_all()

    async with open_world() as world:
        ends = world.script(script)
        for options in (
            {},
            {"protocols": ("chat", PLAIN)},
            {"codec": "msgpack"},
            {"codec": "raw"},
            {"session": "off"},
        ):
            async with world.connect(**options) as conn:
                await conn.wait_connected()
    assert [offered(end) for end in ends] == [
        [PLAIN, JSON],
        ["chat", PLAIN, JSON],
        [PLAIN, "trio-rt.v1+msgpack"],
        [""],
        [""],
    ]


@pytest.mark.parametrize("picked", [None, PLAIN])
def test_a_server_without_sessions(picked: str | None) -> None:
    """It gets the plain envelope; there are no acks, and a new link is a `Reset`."""

    async def script(end: FarEnd) -> None:
        if picked is None:
            await end.accept()
        else:
            await pick(end, picked)
        if end.number == 1:
            assert json.loads(await end.text() or "")["type"] == "x"
            await end.close()
        await end.read_all()

    @virtual
    async def check() -> None:
        async with open_world() as world:
            world.script(script)
            async with world.connect(reconnect=SOON) as conn:
                with conn.subscribe() as stream:
                    delivery = await conn.send("x")
                    await delivery.wait_written()
                    assert delivery.outcome is WRITTEN
                    with pytest.raises(NoSession):
                        await delivery.wait_acked()
                    assert isinstance(await stream.receive(), Reset)

    check()


@pytest.mark.parametrize("fault", ["400", "silence", "its own words"])
def test_a_server_that_cannot_bear_the_offer(fault: str) -> None:
    """It is dialled again at once without the offer, and never offered one again."""

    async def script(end: FarEnd) -> None:
        if end.number > 1:
            await end.accept()
            await (end.close() if end.number == 2 else end.read_all())
        elif fault == "400":
            await end.refuse(400)
        else:
            await pick(end, JSON)
            if fault == "its own words":
                await end.send('{"type":"hello"}')
            await end.read_all()

    @virtual
    async def check() -> None:
        async with open_world() as world:
            ends = world.script(script)
            async with world.connect(reconnect=SOON, open_timeout_s=4.0) as conn:
                with conn.watch_states() as states:
                    while (await states.receive()).phase is not Phase.CONNECTED:
                        pass
                    assert conn.state.attempt == 1
                    while (await states.receive()).phase is not Phase.CONNECTED:
                        pass
            assert [offered(end) != [""] for end in ends] == [True, False, False]
            if fault == "silence":
                assert 2.0 <= ends[1].opened_at - ends[0].opened_at <= 2.5
            else:
                assert ends[1].opened_at - ends[0].opened_at < 0.5

    check()


@pytest.mark.parametrize("fault", ["400", "plain", "silence"])
def test_a_session_is_required(fault: str) -> None:
    """`session="require"`: a server without sessions will not do."""

    async def script(end: FarEnd) -> None:
        match fault:
            case "400":
                await end.refuse(400)
            case "plain":
                await end.accept()
                await end.read_all()
            case _:
                await pick(end, JSON)
                await end.read_all()

    @virtual
    async def check() -> None:
        async with open_world() as world:
            ends = world.script(script)
            with trio.move_on_after(30.0) as scope:
                with pytest.raises(ServerRefused) as caught:
                    async with world.connect(session="require") as conn:
                        await conn.wait_connected()
                assert isinstance(caught.value.__cause__, HandshakeError)
            assert scope.cancelled_caught is (fault == "silence")
            assert all(JSON in offered(end) for end in ends)

    check()


@virtual
async def test_no_downgrade() -> None:
    """A server that has welcomed a session once is offered it again, whatever happens."""

    async def script(end: FarEnd) -> None:
        if end.number == 2:
            await end.refuse(400)
        elif end.number == 3:
            await pick(end, JSON)
            await end.send("what?")
            await end.read_all()
        else:
            await pick(end, JSON)
            await end.text()
            await end.send(welcome(resumed=end.number > 1))
            await (end.close(1012) if end.number == 1 else end.read_all())

    async with open_world() as world:
        ends = world.script(script)
        async with world.connect(reconnect=SOON) as conn:
            with conn.subscribe() as stream, conn.watch_states() as states:
                async for state in states:
                    if state.resumed:
                        break
                with pytest.raises(trio.WouldBlock):
                    stream.receive_nowait()
    assert [JSON in offered(end) for end in ends] == [True] * 4


@pytest.mark.parametrize(
    "words",
    [
        welcome(resumed=True),
        welcome().replace("256", "0"),
        welcome().replace("false", "0"),
        '["welcome"]',
        '["hello","","",{},{}]',
    ],
)
def test_a_welcome_that_cannot_be(words: str) -> None:
    """The dial has failed, and the cause says why."""

    async def script(end: FarEnd) -> None:
        await pick(end, JSON)
        await end.text()
        await end.send(words)
        await end.read_all()

    @virtual
    async def check() -> None:
        async with open_world() as world:
            world.script(script)
            async with world.connect(session="require", reconnect=SOON) as conn:
                with conn.watch_states() as states:
                    async for state in states:
                        if state.cause is not None:
                            break
            assert isinstance(state.cause, DialError)
            assert "welcome" in str(state.cause)

    check()


@virtual
async def test_a_resume_that_cannot_be() -> None:
    """A position beyond what was sent: the session is lost, and the next one is new."""
    hellos: list[Any] = []

    async def script(end: FarEnd) -> None:
        await pick(end, JSON)
        hellos.append(json.loads(await end.text() or ""))
        await end.send(welcome(resumed=end.number == 2, received=9 if end.number == 2 else 0))
        if end.number == 1:
            await end.close(1012)
        await end.read_all()

    async with open_world() as world:
        world.script(script)
        async with world.connect(reconnect=SOON) as conn:
            with conn.subscribe() as stream:
                assert isinstance(await stream.receive(), Reset)
    assert [hello[1] for hello in hellos] == ["", "s", ""]


@virtual
async def test_two_welcomes() -> None:
    """The second one is a breach: 1002, and the session is over."""

    async def script(end: FarEnd) -> None:
        await pick(end, JSON)
        await end.text()
        await end.send(welcome(session=f"s{end.number}"))
        if end.number == 1:
            await trio.sleep(0.1)
            await end.send(welcome())
        await end.read_all()

    async with open_world() as world:
        ends = world.script(script)
        async with world.connect(reconnect=SOON) as conn:
            with conn.subscribe() as stream:
                reset = await stream.receive()
    assert isinstance(reset, Reset)
    assert isinstance(reset.cause, LinkClosed)
    assert (reset.cause.code, reset.cause.by_peer) == (1002, False)
    assert len(ends) == 2


@virtual
async def test_a_breach_right_behind_the_welcome() -> None:
    """The session that has just begun is over, and not asked for again."""
    hellos: list[Any] = []

    async def script(end: FarEnd) -> None:
        await pick(end, JSON)
        hellos.append(json.loads(await end.text() or ""))
        broken = [welcome()] if end.number == 1 else []
        await end.send(welcome(session=f"s{end.number}"), *broken)
        await end.read_all()

    async with open_world() as world:
        world.script(script)
        async with world.connect(reconnect=SOON) as conn:
            with conn.subscribe() as stream:
                assert isinstance(await stream.receive(), Reset)
    assert [hello[1] for hello in hellos] == ["", ""]


# Resumed and lost


async def echo(peer: Peer) -> None:
    with peer.subscribe() as stream:
        async for item in stream:
            assert isinstance(item, Message)
            await peer.send(item.type, item.payload)


async def first_message(stream: Any) -> Message[Any]:
    item = await stream.receive()
    assert isinstance(item, Message)
    return item


async def connected(states: Any) -> State:
    """The state of the next link."""
    async for state in states:
        if state.phase is Phase.CONNECTED:
            assert isinstance(state, State)
            return state
    raise AssertionError


@virtual
async def test_a_resume() -> None:
    """A cut link is no loss: no mark in the stream, and the state says so."""
    async with open_world() as world:
        await world.serve(echo)
        async with world.connect(reconnect=SOON) as conn:
            with conn.subscribe() as stream, conn.watch_states() as states:
                assert not (await connected(states)).resumed
                for number in range(5):
                    delivery = await conn.send("x", number)
                    world.network.connections[-1].cut()
                    assert (await first_message(stream)).payload == number
                    await delivery.wait_acked()
                    assert (await connected(states)).resumed
                assert conn.statistics().outcomes == {ACKED: 5}


@virtual
async def test_a_session_that_is_lost() -> None:
    """Too long away: `Reset` in every stream, `indeterminate`, and what was queued goes on."""
    async with open_world() as world:
        await world.serve(echo, session=SessionLimits(keep_s=1.0))
        async with world.connect(reconnect=Reconnect(first_s=60.0, cap_s=60.0)) as conn:
            with conn.subscribe() as stream, conn.subscribe("y") as other:
                await conn.deliver("x", 1)
                assert (await first_message(stream)).payload == 1
                committed = await conn.send("x", 2)
                world.network.connections[-1].cut()
                while conn.state.phase is Phase.CONNECTED:
                    await trio.sleep(0.01)
                await trio.sleep(3.0)
                queued = await conn.send("x", 3)
                conn.retry_now()
                await queued.wait_acked()
                assert committed.outcome is INDETERMINATE
                mark = await stream.receive()
                assert isinstance(mark, Reset)
                assert isinstance(mark.cause, LinkClosed)
                assert (await first_message(stream)).payload == 3
                assert isinstance(await other.receive(), Reset)


@virtual
async def test_taken_over() -> None:
    """Who has lost its session to a copy of itself does not fight for it."""

    async def script(end: FarEnd) -> None:
        await pick(end, JSON)
        await end.text()
        await end.send(welcome())
        await end.close(4409, "taken over")

    async with open_world() as world:
        ends = world.script(script)
        with pytest.raises(TakenOver) as caught:
            async with world.connect(reconnect=SOON):
                await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, LinkClosed)
    assert len(ends) == 1


# Greeting


@virtual
async def test_a_greeting_in_a_session() -> None:
    """It comes before the outbox, outside the numbers, and knows whether it is a resume."""
    resumed: list[bool] = []

    async def greet(greeting: Greeting) -> None:
        resumed.append(greeting.resumed)
        await greeting.send(json.dumps({"type": "greeting", "payload": len(resumed)}))
        data = await greeting.receive()
        assert json.loads(data)["payload"] == len(resumed)

    async with open_world() as world:
        await world.serve(echo)
        async with world.connect(greet=greet, reconnect=SOON, liveness=None) as conn:
            with conn.subscribe() as stream:
                for number in range(3):
                    delivery = await conn.send("x", number)
                    await delivery.wait_acked()
                    assert (await first_message(stream)).payload == number
                    world.network.connections[-1].cut()
                    while conn.state.phase is Phase.CONNECTED:
                        await trio.sleep(0.01)
    assert resumed[:3] == [False, True, True]


@pytest.mark.parametrize("words", ["no JSON", '{"type":\n"x"}', b"\x80"])
def test_a_greeting_that_cannot_be(words: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    """In a session a greeting must be a message; the attempt fails, and the log says why."""

    async def greet(greeting: Greeting) -> None:
        await greeting.send(words)

    @virtual
    async def check() -> None:
        async with open_world() as world:
            await world.serve(echo)
            async with world.connect(greet=greet, reconnect=SOON) as conn:
                with conn.watch_states() as states:
                    async for state in states:
                        if state.cause is not None:
                            break
            assert "data must be a message as trio-rt.v1+json has them" in str(state.cause)

    with caplog.at_level(logging.CRITICAL, logger="trio_rt"):
        check()


# Options


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"session": "on"}, 'must be "offer", "require" or "off"'),
        ({"session": "require", "codec": "raw"}, "must not be required with this codec"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], rule: str) -> None:
    """The error names the field, the rule and the value."""
    with pytest.raises(OptionError) as caught:
        connect("ws://server", **options)
    assert (caught.value.field, caught.value.rule) == ("session", rule)

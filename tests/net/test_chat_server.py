"""Two clients of ours in a room of a chat server on Node, which speaks the plain envelope."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import trio_rt
from trio_rt import Connection, Greeting, Liveness, Message, Phase, Reset

from .support import LIMIT_S, WIRES, node, requires, running
from .talk import QUICK, check_books

pytestmark = requires("node")

ROOM = {"roomId": "lobby"}


async def join(greeting: Greeting) -> None:
    """Be in the room before anything else is said, on every link."""
    await greeting.send(json.dumps({"type": "join_room", "payload": ROOM}))
    answer = json.loads(await greeting.receive())
    assert (answer["type"], answer["payload"]) == ("joined", ROOM)


@asynccontextmanager
async def guest(url: str, wire: Any, **options: Any) -> AsyncIterator[Connection]:
    """A client in the room."""
    connecting = trio_rt.connect(url, greet=join, wire=wire, reconnect=QUICK, **options)
    async with connecting as conn:
        await conn.wait_connected()
        yield conn
    check_books(conn.statistics())


async def say(conn: Connection, *words: str) -> None:
    for content in words:
        await conn.send("chat_message", {**ROOM, "content": content})


async def hear(stream: Any, count: int) -> list[str]:
    """What is said next in the room; the stream is not interrupted."""
    heard = []
    for _ in range(count):
        item = await stream.receive()
        assert isinstance(item, Message)
        heard.append(item.payload["content"])
    return heard


async def wait_phase(states: trio_rt.StateStream, phase: Phase) -> None:
    """Wait until it is in this phase, after all that has been taken from `states`."""
    async for state in states:
        if state.phase is phase:
            return


@pytest.mark.parametrize("wire", WIRES)
async def test_a_talk_across_a_killed_server(wire: Any) -> None:
    """Both hear both, in order, before the server is killed and when it is back."""
    with trio.fail_after(LIMIT_S):
        async with (
            running(node("chat.js")) as program,
            guest(program.url(), wire) as ann,
            guest(program.url(), wire) as bob,
        ):
            with (
                ann.subscribe("chat_message") as to_ann,
                bob.subscribe("chat_message") as to_bob,
                ann.watch_states() as states_of_ann,
                bob.watch_states() as states_of_bob,
            ):
                words = [f"hello {number}" for number in range(100)]
                await say(ann, *words)
                assert await hear(to_bob, 100) == await hear(to_ann, 100) == words

                await program.kill()
                await wait_phase(states_of_ann, Phase.RECONNECTING)
                await say(ann, "meanwhile")
                await wait_phase(states_of_bob, Phase.RECONNECTING)
                await program.start()
                await wait_phase(states_of_ann, Phase.CONNECTED)
                await wait_phase(states_of_bob, Phase.CONNECTED)
                assert isinstance(await to_ann.receive(), Reset)
                assert isinstance(await to_bob.receive(), Reset)

                await say(bob, *words)
                assert await hear(to_ann, 101) == ["meanwhile", *words]
                # He may have been too late in the room for the first.
                heard = await hear(to_bob, 100)
                if heard[0] == "meanwhile":
                    heard = [*heard[1:], *await hear(to_bob, 1)]
                assert heard == words


@pytest.mark.parametrize("wire", WIRES)
async def test_a_message_keeps_its_envelope(wire: Any) -> None:
    """Id, priority and payload come back as they were sent, with the server's timestamp."""
    with trio.fail_after(LIMIT_S):
        async with running(node("chat.js")) as program, guest(program.url(), wire) as conn:
            with conn.subscribe("chat_message") as stream:
                sent = await conn.send("chat_message", ROOM, priority=trio_rt.Priority.HIGH)
                item = await stream.receive()
                assert isinstance(item, Message)
                assert (item.id, item.payload) == (sent.id, ROOM)
                assert item.priority is trio_rt.Priority.HIGH
                assert item.timestamp is not None


@pytest.mark.parametrize("wire", WIRES)
async def test_heartbeats(wire: Any) -> None:
    """With `beat="both"` the server is sent heartbeat messages, and answers each."""
    liveness = Liveness(interval_s=0.1, timeout_s=30.0, beat="both")
    with trio.fail_after(LIMIT_S):
        async with (
            running(node("chat.js")) as program,
            guest(program.url(), wire, liveness=liveness) as conn,
        ):
            with conn.subscribe("heartbeat") as stream:
                for _ in range(3):
                    item = await stream.receive()
                    assert isinstance(item, Message)
                    assert item.type == "heartbeat"

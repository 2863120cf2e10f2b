"""The client in JavaScript against our server, in Node and in a browser, over links that break."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

import trio_rt
from tests.net.support import LIMIT_S, ROOT, Program, requires, running, tool
from trio_rt import Liveness, Message, Peer, Refused, Server
from trio_rt.testing import Conditions, Relay, serve_relay

PEERS: Final = Path(__file__).parent / "peers"
MODULE: Final = ROOT / "trio_rt" / "page" / "trio-rt.js"

#: As root Chromium needs the first one; the others keep it from talking to anybody.
FLAGS: Final = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

#: A dead link is found soon.
WATCHFUL: Final = Liveness(interval_s=0.2, timeout_s=0.2)

#: So that something is under way when a link is cut.
SLOW: Final = Conditions(rate_bytes_per_s=100_000)

Handler = Callable[[Peer], Awaitable[object]]


def script(name: str, *arguments: object) -> Callable[[int], list[str]]:
    words = [str(argument) for argument in arguments]
    return lambda _: [str(tool("node")), str(PEERS / name), *words]


def said(program: Program) -> list[Any]:
    """The lines of JSON that it has printed."""
    return [json.loads(line) for line in program.lines]


async def results(command: Callable[[int], list[str]]) -> list[Any]:
    """All that a program prints until it ends."""
    async with running(command, ready=None) as program:
        await program.wait_ended()
        await trio.testing.wait_all_tasks_blocked()
        return said(program)


@asynccontextmanager
async def serving(
    handler: Handler, **options: Any
) -> AsyncIterator[tuple[Server, Relay, trio.Nursery]]:
    """A server, and a relay to it, for at most `LIMIT_S`."""
    options = {"liveness": WATCHFUL, "close_timeout_s": 0.2, **options}
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            start = partial(trio_rt.serve, handler, "127.0.0.1", 0, **options)
            server: Server = await nursery.start(start)
            relay: Relay = await nursery.start(serve_relay, "127.0.0.1", server.port)
            yield server, relay, nursery
            nursery.cancel_scope.cancel()


def url(relay: Relay) -> str:
    return f"ws://127.0.0.1:{relay.port}"


async def spoil(relay: Relay, progress: Callable[[], int], cuts: list[str]) -> None:
    """End one link after another, each in its own way, whenever something has got through."""
    draw = random.Random(7)
    kinds = ("rst", "fin", "towards server", "towards client", "vanish", "stall")
    while True:
        for kind in kinds:
            before = progress()
            while not relay.statistics().links or progress() < before + 20:
                await trio.sleep(0.005)
            match kind:
                case "rst":
                    relay.rst()
                case "fin":
                    relay.fin()
                case "towards server":
                    relay.cut_after(draw.randrange(2000), towards="server")
                case "towards client":
                    relay.cut_after(draw.randrange(2000), towards="client", how="fin")
                case "vanish":
                    relay.impose(Conditions(blackhole=True))
                    await trio.sleep(0.5)
                    relay.rst()
                    relay.impose(SLOW)
                case _:
                    relay.impose(Conditions(delay_s=0.05, jitter_s=0.05, split_bytes=50))
                    await trio.sleep(0.1)
                    relay.impose(SLOW)
            cuts.append(kind)


@requires("node")
async def test_vectors() -> None:
    """All vectors of the protocol that a client can be, and those of the server, mirrored."""
    with trio.fail_after(LIMIT_S):
        found = await results(script("vectors.js"))
    assert [each for each in found if each["error"] is not None] == []
    assert len(found) == len({each["name"] for each in found}) >= 88


class Numbers:
    """Takes numbers, and gives as many."""

    def __init__(self, count: int) -> None:
        self.up: list[int] = []
        self.handlers = 0
        self._count = count

    async def __call__(self, peer: Peer) -> None:
        self.handlers += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak, peer)
            with peer.subscribe("up", as_=int) as stream:
                async for item in stream:
                    assert isinstance(item, Message)
                    self.up.append(item.payload)

    async def _speak(self, peer: Peer) -> None:
        for number in range(self._count):
            await peer.send("down", number)
        await peer.send("end")


@requires("node")
async def test_nothing_is_lost_over_cut_links() -> None:
    """Thousands of messages each way over dozens of cuts: each once, in order, and acked."""
    count = 4000
    numbers, cuts = Numbers(count), list[str]()
    window = InboxLimits(messages=64)
    async with serving(numbers, inbox=window) as (_, relay, nursery):
        relay.impose(SLOW)
        nursery.start_soon(spoil, relay, lambda: len(numbers.up), cuts)
        (found,) = await results(script("scenes.js", "talk", url(relay), count))
    assert found["heard"] == count
    assert found["wrong"] == []
    assert found["outcomes"] == {"acked": count}
    assert found["phase"] == "disconnected"
    assert numbers.up == list(range(count))
    assert numbers.handlers == 1
    assert len(cuts) > 24
    assert found["links"] > 15
    assert found["resumed"] == found["links"] - 1


class Answers:
    """Answers requests, and counts how often each was run."""

    def __init__(self) -> None:
        self.runs = Counter[int]()
        self.cancelled = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.serve_requests(self._answer, "double", "story", "fail", "sleep", "ended")

    async def _answer(self, request: trio_rt.Request[Any]) -> object:
        match request.type:
            case "double":
                self.runs[request.payload] += 1
                await trio.sleep(0.002)
                return 2 * int(request.payload)
            case "story":
                for number in range(request.payload):
                    await request.send(f"{number} {'x' * 1000}")
                return "the end"
            case "fail":
                raise Refused("broken", "as told")
            case "ended":
                return self.cancelled
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled += 1


@requires("node")
async def test_requests_over_cut_links() -> None:
    """Each is run once and answered; replies in parts are whole; what is given up ends here too."""
    answers, cuts = Answers(), list[str]()
    async with serving(answers) as (_, relay, nursery):
        nursery.start_soon(spoil, relay, lambda: answers.runs.total(), cuts)
        (found,) = await results(script("scenes.js", "ask", url(relay), 400, 4, 600))
    assert found["replies"] == [2 * number for number in range(400)]
    assert answers.runs == dict.fromkeys(range(400), 1)
    story = [*(f"{number} {'x' * 1000}" for number in range(600)), "the end"]
    assert found["told"] == [story] * 4
    assert found["refused"] == ["refused", "unserved"]
    assert found["failed"] == ["refused", "broken"]
    assert (found["late"], found["aborted"]) == ("deadline", "cancelled")
    assert found["early"] == story[:3]
    assert found["served"] == 2
    assert found["links"] > 5


@requires("node")
async def test_what_is_taken_back() -> None:
    """What was withdrawn, has expired or was for one link only is not sent again."""
    heard: list[str] = []

    async def handler(peer: Peer) -> None:
        with peer.subscribe("ready", "say", as_=str | None) as stream:
            async for item in stream:
                assert isinstance(item, Message)
                if item.type == "say":
                    heard.append(item.payload)
                    continue
                await peer.deliver("deaf")
                relay.impose(Conditions(blackhole=True))

    async with serving(handler) as (_, relay, nursery):
        command = script("scenes.js", "regret", url(relay))
        async with running(command, ready="mend") as program:
            relay.rst()
            relay.impose(Conditions())
            await program.wait_ended()
            await trio.testing.wait_all_tasks_blocked()
            _, found = said(program)
        nursery.cancel_scope.cancel()
    assert found == {}
    assert heard == []

"""The client in JavaScript against our server, in Node and in a browser, over links that break."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import trio_rt
from tests.net.support import LIMIT_S, ROOT, Program, requires, running, tool
from trio_rt import (
    HttpRequest,
    HttpResponse,
    InboxLimits,
    Liveness,
    Message,
    Peer,
    Refuse,
    Refused,
    Server,
)
from trio_rt.testing import Conditions, Relay, serve_relay

PEERS: Final = Path(__file__).parent / "peers"
FOLDER: Final = ROOT / "trio_rt" / "page"
MODULES: Final = [FOLDER / "trio-rt.js", FOLDER / "trio-rt-session.js"]

GUIDE: Final = ROOT / "docs" / "javascript.md"

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

#: The last line of each script.
END: Final = '"end"'

#: A dead link is found soon.
WATCHFUL: Final = Liveness(interval_s=0.2, timeout_s=0.2)

#: So that something is under way when a link is cut; but a batch must not take as long as a beat.
SLOW: Final = Conditions(rate_bytes_per_s=150_000)
BRISK: Final = Conditions(rate_bytes_per_s=2_000_000)

Handler = Callable[[Peer], Awaitable[object]]


def script(name: str, *arguments: object) -> Callable[[int], list[str]]:
    words = [str(argument) for argument in arguments]
    return lambda _: [str(tool("node")), str(PEERS / name), *words]


async def finished(program: Program) -> list[Any]:
    """All that it has printed when it has ended."""
    await program.wait_line(END)
    return [json.loads(line) for line in program.lines if line != END]


async def results(command: Callable[[int], list[str]]) -> list[Any]:
    """All that a program prints until it ends."""
    async with running(command, ready=None) as program:
        return await finished(program)


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


async def spoil(
    relay: Relay, usual: Conditions, progress: Callable[[], int], cuts: list[str]
) -> None:
    """End one link after another, each in its own way, whenever something has got through."""
    draw = random.Random(7)
    relay.impose(usual)
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
                    relay.impose(usual)
                case _:
                    relay.impose(Conditions(delay_s=0.05, jitter_s=0.05, split_bytes=50))
                    await trio.sleep(0.1)
                    relay.impose(usual)
            cuts.append(kind)


@requires("node")
async def test_vectors() -> None:
    """All vectors of the protocol that a client can be, and those of the server, mirrored."""
    with trio.fail_after(LIMIT_S):
        found = await results(script("vectors.js"))
    assert [each for each in found if each["error"] is not None] == []
    assert len(found) == len({each["name"] for each in found}) >= 88


@requires("node")
async def test_the_books() -> None:
    """What is bounded, what is listed and what is voided, in a session without links."""
    with trio.fail_after(LIMIT_S):
        found = await results(script("books.js"))
    assert [each for each in found if each["error"] is not None] == []
    assert len(found) >= 23


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
    count = 3000
    numbers, cuts = Numbers(count), list[str]()
    window = InboxLimits(messages=64)
    async with serving(numbers, inbox=window) as (_, relay, nursery):
        nursery.start_soon(spoil, relay, SLOW, lambda: len(numbers.up), cuts)
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
        self.asleep = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.serve_requests(self._answer, "double", "story", "fail", "sleep", "asleep")

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
            case "asleep":
                await trio.sleep(0.05)
                return self.asleep
        self.asleep += 1
        try:
            await trio.sleep_forever()
        finally:
            self.asleep -= 1


@requires("node")
async def test_requests_over_cut_links() -> None:
    """Each is run once and answered; replies in parts are whole; what is given up ends here too."""
    answers, cuts = Answers(), list[str]()
    async with serving(answers) as (_, relay, nursery):
        nursery.start_soon(spoil, relay, BRISK, lambda: answers.runs.total(), cuts)
        (found,) = await results(script("scenes.js", "ask", url(relay), 400, 4, 600))
    assert found["replies"] == [2 * number for number in range(400)]
    assert answers.runs == dict.fromkeys(range(400), 1)
    story = [*(f"{number} {'x' * 1000}" for number in range(600)), "the end"]
    assert found["told"] == [story] * 4
    assert found["refused"] == ["refused", "unserved"]
    assert found["failed"] == ["refused", "broken"]
    assert (found["late"], found["aborted"]) == ("deadline", "cancelled")
    assert found["early"] == story[:3]
    assert found["asleep"] == 0
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
            _, found = await finished(program)
        nursery.cancel_scope.cancel()
    assert found == {
        "early": False,
        "withdrawn": "withdrawn",
        "expired": "expired",
        "fleeting": "offline",
        "kept": "acked",
        "drop": "offline",
        "evicted": "evicted",
        "taken": "withdrawn",
        "queued": True,
        "old": "replaced",
        "young": "acked",
        "late": "expired",
        "urgent": "acked",
        "fails": ["0 offline", "1 outbox_full"],
    }
    assert heard == ["kept", "urgent", "young", "more"]


@requires("node")
async def test_a_server_that_restarts() -> None:
    """The session is lost: a reset in the stream, and what was not acked is indeterminate."""
    restart = trio.Event()

    async def first(peer: Peer) -> None:
        await peer.send("hello", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.serve_requests, answer)
            await trio.sleep_forever()

    async def answer(request: trio_rt.Request[Any]) -> None:
        if request.type == "restart":
            restart.set()
        await trio.sleep_forever()

    async def second(peer: Peer) -> None:
        await peer.send("hello", 2)
        with peer.subscribe("say") as stream:
            async for _ in stream:
                pass

    async with serving(first) as (server, relay, nursery):
        command = script("scenes.js", "outlive", url(relay))
        async with running(command, ready=None) as program:
            await restart.wait()
            relay.refuse()
            await server.drain(over_s=0)
            relay.rst()
            await nursery.start(partial(trio_rt.serve, second, "127.0.0.1", server.port))
            relay.accept()
            (found,) = await finished(program)
    assert found["items"] == [1, "reset", 2]
    assert found["outcomes"] == ["indeterminate", ["undelivered", "indeterminate"], "acked"]
    assert found["links"] == 2


@requires("node")
async def test_a_slow_consumer_holds_up_its_own_messages() -> None:
    """Half of the window is not taken; in the rest of it nearly 16 windows of others flow."""
    count = 16 * 16 - 8

    async def handler(peer: Peer) -> None:
        for number in range(8):
            await peer.send("slow", number)
        for number in range(count):
            await peer.send("fast", number)
        await trio.sleep_forever()

    async with serving(handler) as (_, relay, _nursery):
        (found,) = await results(script("scenes.js", "dawdle", url(relay), count))
    assert found == {"heard": list(range(count)), "late": list(range(8)), "all": count + 8}


@requires("node")
async def test_a_server_that_drains() -> None:
    """Its advice is kept to, and the next server is found."""

    async def handler(peer: Peer) -> None:
        await peer.send("hello")
        with peer.subscribe() as stream:
            async for _ in stream:
                pass

    async with serving(handler) as (server, relay, nursery):
        command = script("scenes.js", "drain", url(relay))
        async with running(command, ready="message") as program:
            await server.drain(over_s=0.1)
            await nursery.start(partial(trio_rt.serve, handler, "127.0.0.1", server.port))
            *items, end = await finished(program)
    assert items[-1]["kinds"] == ["message", "reset", "message"]
    assert "1012" in end["cause"]
    advice = re.search(r"retry-after=(\S+)", end["cause"])
    assert advice is not None
    assert items[-1]["at"] >= end["retryAt"] - 1
    assert end["phase"] == "disconnected"


@requires("node")
async def test_a_link_on_which_nothing_happens() -> None:
    """The client asks for acks, and gets them."""

    async def handler(peer: Peer) -> None:
        await trio.sleep(1)
        await peer.send("tick")
        await trio.sleep_forever()

    async with serving(handler) as (server, _, _nursery):
        (found,) = await results(script("scenes.js", "idle", server.url))
    assert found == {"links": 1}


@requires("node")
async def test_a_silent_server_is_asked_for_acks() -> None:
    """Again and again, in the same link, as long as it answers."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("hostile.js", "idle"))
    assert found == {"voids": 3, "links": 1}


@requires("node")
async def test_what_lies_there_when_the_session_is_lost() -> None:
    """The next hello names it; what is taken from then on, before the welcome or behind it, is credit."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("hostile.js", "held"))
    assert found == {"held": [[0, 0], [2, 30]], "credit": [2, 30]}


@requires("node")
async def test_a_bye() -> None:
    """What comes behind it is passed over; the close that follows counts, and a new session begins."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("hostile.js", "bye"))
    assert found == {
        "kinds": ["reset", "message"],
        "cause": "the link was closed: 1000",
        "links": 2,
    }


@requires("node")
async def test_advice() -> None:
    """It is kept to, up to ten caps of 50 ms, with a random time of up to one cap on top."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("hostile.js", "advice"))
    assert found["no-retry-after=1000"] <= 50
    assert 50 < found["retry-after=0.2"] <= 250
    assert 250 < found["later; retry-after=1000"] <= 550
    assert 250 < found["bye"] <= 550


@requires("node")
async def test_credit_that_is_urgent() -> None:
    """A quarter of the window is acknowledged at once; and who closes says bye."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("hostile.js", "urgent"))
    assert found == {"phase": "disconnected", "acks": [1, 2, 3, 4], "said": ['["bye",""]']}


@requires("node")
async def test_tokens() -> None:
    """A token is a subprotocol beside a real one, asked for anew, and a wrong one ends it all."""

    async def handler(peer: Peer) -> None:
        await peer.send("hello")
        with peer.subscribe() as stream:
            async for _ in stream:
                pass

    async def accept(handshake: trio_rt.Handshake) -> str:
        if "trio-rt.token.good" not in handshake.protocols:
            raise Refuse(401)
        return "good"

    async with serving(handler, accept=accept) as (_, relay, _nursery):
        (found,) = await results(script("scenes.js", "knock", url(relay), "good"))
    right = {"asked": 2, "kind": "acked", "links": 1}
    assert found == {**right, "error": "refused", "phase": "failed"}


@requires("node")
async def test_misuse_and_an_end_from_outside() -> None:
    """What cannot be is refused before anything is sent; a signal ends everything at once."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("scenes.js", "misuse", "ws://127.0.0.1:9"))
    kinds = ["usage"] * 3 + ["payload"] * 2 + ["usage"] * 2 + ["closed"]
    assert found == {
        "kinds": kinds,
        "phase": "disconnected",
        "cause": "aborted",
        "done": True,
        "asked": "undelivered",
        "outcome": "withdrawn",
    }


@requires("node")
async def test_illegal_input() -> None:
    """A server that breaks the protocol is closed with 1002, and asked for a new session."""
    with trio.fail_after(LIMIT_S):
        found = await results(script("hostile.js", "illegal"))
    large = [each for each in found if "large" in each["name"]]
    assert [each["code"] for each in large] == [1009, 1009]
    assert [each["items"] for each in large] == [["illegal"]] * 2
    others = [each for each in found if each not in large]
    assert len(others) > 20
    for each in others:
        assert (each["code"], each["items"]) == (1002, ["reset", "good"]), each["name"]


@requires("node")
async def test_noise() -> None:
    """Whatever letters of a batch are changed, it is taken or it is a breach."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("hostile.js", "noise"))
    assert found["others"] == []
    assert found["taken"] > 1000 < found["breaches"]


@requires("node")
async def test_the_order_of_what_is_sent() -> None:
    """Urgent ones overtake, within their patience, and an order is kept through priorities."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("scenes.js", "lanes"))
    order = ["urgent", "first", "second", "high", "normal", "low", "late"]
    assert found == {"order": order, "bytes": 0}


@requires("node")
async def test_a_page_that_comes_online() -> None:
    """The wait before the next dial is cut short."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("scenes.js", "online"))
    assert found == {"attempts": [1, 2, 3]}


@requires("node")
async def test_close_codes_of_a_page() -> None:
    """A page may not close with 1002 and 1009: it says 4002 and 4009."""
    with trio.fail_after(LIMIT_S):
        found = await results(script("hostile.js", "page"))
    assert [each["code"] for each in found] == [4002, 4009]
    assert found[0]["items"] == ["reset", "good"]


@requires("node")
async def test_servers_without_sessions() -> None:
    """Each ends the connection with an error that says what was the matter; nothing was sent."""
    with trio.fail_after(LIMIT_S):
        found = {each["name"]: each for each in await results(script("hostile.js", "unable"))}
    assert {name: (each["failed"], each["links"]) for name, each in found.items()} == {
        "picks nothing": ("no_session", 1),
        "picks the plain one": ("no_session", 1),
        "refuses with 400": ("unwanted", 0),
        "sends no welcome": ("broken", 3),
        "is silent": ("broken", 3),
    }
    for each in found.values():
        assert each["kind"] == "withdrawn"
        assert set(each["offers"]) <= {"trio-rt.plain,trio-rt.v1+json"}


@requires("node")
async def test_a_server_that_has_welcomed() -> None:
    """It is dialled again, also after it has refused with 400 or has had no sessions."""
    with trio.fail_after(LIMIT_S):
        (found,) = await results(script("hostile.js", "welcomed"))
    assert found["offers"] == ["trio-rt.plain,trio-rt.v1+json"] * 6
    assert found["items"] == ["good", "reset", "good", "reset", "good"]
    assert found["resets"] == ["reset"]


@requires("node")
async def test_what_comes_before_the_first_stream() -> None:
    """It is kept, and is for all the streams that are opened together."""

    async def handler(peer: Peer) -> None:
        await peer.send("one", 1)
        await peer.send("two", 2)
        await trio.sleep_forever()

    async with serving(handler) as (server, _, _nursery):
        (found,) = await results(script("scenes.js", "lobby", server.url))
    assert found == {"heard": [1, 2]}


@requires("node")
async def test_what_ends_a_connection() -> None:
    """Close codes and statuses that would come again end it; after others it dials again."""
    with trio.fail_after(LIMIT_S):
        found = await results(script("hostile.js", "ends"))
    failed = {each.get("code", each.get("status")): each["failed"] for each in found}
    assert failed == {
        1000: None,
        1002: "broken",
        1003: "illegal",
        1008: "refused",
        1011: None,
        3500: "unwanted",
        4000: None,
        4401: "refused",
        4409: "taken_over",
        4500: "unwanted",
        401: "refused",
        404: "unwanted",
        503: None,
    }
    links = {each["code"]: each["links"] for each in found if "code" in each}
    assert links[1002] == 3
    assert links[1008] == links[4401] == 1
    assert links[1000] > 1 < links[1011]


@requires("node")
async def test_the_example() -> None:
    """That of the documentation does what it says."""

    async def answer(request: trio_rt.Request[Any]) -> object:
        if request.type == "sum":
            return sum(request.payload)
        for word in ("once", "upon", "a", "time"):
            await request.send(word)
        return None

    async def handler(peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.serve_requests, answer)
            with peer.subscribe("chat") as stream:
                async for item in stream:
                    assert isinstance(item, Message)
                    await peer.send("chat", item.payload)

    async with serving(handler) as (server, _, _nursery):
        (found,) = await results(script("example.js", server.url))
    assert found == {"shown": [{"text": "hi"}, "acked", 3, "once", "upon", "a", "time"]}
    (block,) = re.findall(r"^```js\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert block in (PEERS / "example.js").read_text()


class Page:
    """Serves a page with the client, and takes what the page posts."""

    def __init__(self) -> None:
        self.files = {
            "/": ("text/html", (PEERS / "page.html").read_bytes()),
            **{f"/{each.name}": ("text/javascript", each.read_bytes()) for each in MODULES},
        }
        self.posted: list[Any] = []
        self.came = trio.Event()

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            self.posted.append(json.loads(await request.read()))
            self.came.set()
            return HttpResponse(204)
        kind, body = self.files.get(request.path, ("", b""))
        return HttpResponse(200 if body else 404, {"Content-Type": kind}, body)


@requires("chromium")
async def test_in_a_browser(tmp_path: Path) -> None:
    """In a page: numbers both ways over cut links, and a request."""
    count = 1000
    page, numbers, cuts = Page(), Numbers(count), list[str]()

    async def handler(peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(numbers, peer)
            nursery.start_soon(peer.serve_requests, double, "double")

    async def double(request: trio_rt.Request[Any]) -> int:
        return 2 * int(request.payload)

    async with serving(handler, http=page) as (_, relay, nursery):
        address = f"http://127.0.0.1:{relay.port}/?count={count}"
        browser = [str(tool("chromium")), *FLAGS, f"--user-data-dir={tmp_path}", address]
        async with running(lambda _: browser, ready=None):
            while not numbers.up:
                await trio.sleep(0.01)
            nursery.start_soon(spoil, relay, SLOW, lambda: len(numbers.up), cuts)
            await page.came.wait()
        nursery.cancel_scope.cancel()
    (found,) = page.posted
    assert numbers.up == list(range(count))
    assert found["heard"] == count
    assert found["wrong"] == 0
    assert found["outcomes"] == {"acked": count}
    assert found["double"] == 42
    assert len(cuts) > 1
    assert found["resumed"] > 1


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_the_modules_are_small_and_plain(module: Path) -> None:
    """No dependency, no leftovers, lines of a bearable length."""
    text = module.read_text()
    imports = re.findall(r"^import .* from (.*);$", text, re.MULTILINE)
    assert imports in ([], ['"./trio-rt-session.js"'])
    assert not re.findall(r"\b(var|console|debugger|eval)\b", text)
    assert not re.findall(r"^\t*  ", text, re.MULTILINE)
    assert not re.findall(r"[^=!]==[^=]|!=[^=]", text)
    assert max(map(len, text.expandtabs(2).splitlines())) <= 120
    assert len(text.encode()) < 24_000


@requires("node")
@pytest.mark.parametrize(
    "file", [*MODULES, *sorted(PEERS.glob("*.js"))], ids=lambda file: file.name
)
def test_node_can_read_it(file: Path) -> None:
    """`node --check` finds nothing."""
    command = [str(tool("node")), "--check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""The server's side of sessions: who may resume what, for how long, and what is refused."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from typing import Any

import attrs
import pytest
import trio
from websockets.frames import Frame, Opcode

from tests.helpers import open_world, outlast
from tests.strangers import Site, Stranger, complaints, open_site
from tests.testing.support import virtual
from trio_rt import (
    Handshake,
    InboxLimits,
    Liveness,
    Message,
    OptionError,
    Peer,
    Refuse,
    SessionLimits,
)
from trio_rt.message import ACKED, INDETERMINATE, dropped
from trio_rt.protocol.numbered import UNANSWERED_S

JSON = "trio-rt.v1+json"
TERMS = {
    "window": [256, 1 << 20],
    "held": [0, 0],
    "replay": [1000, 1 << 20],
    "message_bytes": 1 << 20,
}
START = {"settled": 0, "received": 0, "consumed": 0, "messages": 0, "bytes": 0, "drops": []}


@attrs.define
class Client:
    """A client that speaks the session protocol by hand."""

    stranger: Stranger
    session: str = ""
    token: str = ""
    resumed: bool = False
    #: Messages taken, and their bytes.
    taken: int = 0
    taken_bytes: int = 0
    position: dict[str, Any] = attrs.field(factory=dict)

    async def hello(self, session: str = "", token: str = "", **position: Any) -> Client:
        await self.stranger.send(json.dumps(["hello", session, token, TERMS, START | position]))
        return self

    async def welcome(self) -> Client:
        kind, self.session, self.token, self.resumed, _, self.position = json.loads(
            await self.stranger.text()
        )
        assert kind == "welcome"
        return self

    async def batch(self, *frames: Any, number: int = 1) -> None:
        header: tuple[Any, ...] = (
            number,
            0,
            self.taken,
            self.taken,
            self.taken,
            self.taken_bytes,
            [],
        )
        lines = [json.dumps(part) for part in (header, *frames)]
        await self.stranger.send("\n".join(lines))

    async def say(self, payload: Any, number: int = 1) -> None:
        """One message, under this number."""
        await self.batch({"type": "said", "payload": payload}, number=number)

    async def heard(self) -> list[Any]:
        """The payloads of the next batch that has any."""
        while True:
            _, *frames = (await self.stranger.text()).split("\n")
            messages = [frame for frame in frames if frame.startswith("{")]
            self.taken += len(messages)
            self.taken_bytes += sum(map(len, messages))
            if messages:
                return [json.loads(message)["payload"] for message in messages]

    async def code(self) -> int | None:
        """The code with which the server closes the link."""
        await self.stranger.read_all()
        return self.stranger.code


async def enter(site: Site, user: str = "ann", session: str = "", token: str = "") -> Client:
    """A client past its welcome."""
    client = await arrive(site, user)
    await client.hello(session, token)
    return await client.welcome()


async def resume(site: Site, last: Client) -> Client:
    """The client of `last` on its next link."""
    client = await arrive(site)
    client.taken, client.taken_bytes = last.taken, last.taken_bytes
    at = dict.fromkeys(("received", "consumed", "messages"), last.taken)
    await client.hello(last.session, last.token, **at, bytes=last.taken_bytes)
    return await client.welcome()


async def arrive(site: Site, user: str = "ann") -> Client:
    """A client before its hello."""
    stranger = await site.enter(protocols=("trio-rt.plain", JSON), headers={"X-User": user})
    assert stranger.response.headers["Sec-WebSocket-Protocol"] == JSON
    return Client(stranger)


async def who(handshake: Handshake) -> str:
    user = handshake.headers["X-User"]
    if user == "banned":
        raise Refuse(403)
    return user


@attrs.define
class Handlers:
    """The handlers that were started, and what each has heard."""

    peers: list[Peer] = attrs.field(factory=list)
    heard: list[list[Any]] = attrs.field(factory=list)
    ended: list[int] = attrs.field(factory=list)

    async def __call__(self, peer: Peer) -> None:
        number = len(self.peers)
        self.peers.append(peer)
        heard: list[Any] = []
        self.heard.append(heard)
        try:
            with peer.subscribe() as stream:
                async for item in stream:
                    heard.append(item.payload if isinstance(item, Message) else item)
                    await peer.send("echo", heard[-1])
        finally:
            self.ended.append(number)


# The beginning


@virtual
async def test_the_handler_spans_the_links() -> None:
    """A resume goes on where the link before stopped, with the same handler."""
    handlers = Handlers()
    async with open_site(handlers, accept=who) as site:
        first = await enter(site)
        await first.say("one")
        assert await first.heard() == ["one"]
        await first.stranger.aclose()
        second = await resume(site, first)
        assert second.resumed
        assert second.session == first.session
        assert second.position["received"] == 1
        await second.say("two", 2)
        assert await second.heard() == ["two"]
        assert handlers.heard == [["one", "two"]]


@virtual
async def test_who_speaks_first() -> None:
    """A client that picked a session and says nothing is closed; others are served meanwhile."""
    async with open_site(Handlers(), accept=who) as site:
        silent = await arrive(site)
        talking = await enter(site)
        await talking.say("still")
        assert await talking.heard() == ["still"]
        began = trio.current_time()
        assert await silent.code() == 4408
        assert trio.current_time() - began == pytest.approx(10.0, abs=1.0)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "{}",
        "[]",
        "hello",
        '["hello"]',
        '["hello","","",{},{}]',
        '["welcome","","",true,{},{}]',
        json.dumps(["hello", 1, "", TERMS, START]),
        json.dumps(["hello", "", "", TERMS | {"window": [0, 1]}, START]),
        json.dumps(["hello", "", "", TERMS | {"window": [1, -1]}, START]),
        json.dumps(["hello", "", "", TERMS | {"replay": ["1", 1]}, START]),
        json.dumps(["hello", "", "", TERMS, START | {"received": True}]),
        json.dumps(["hello", "", "", TERMS, START | {"received": 2**63}]),
        '[1,0,0,0,0,0,[]]\n{"type":"said"}',
    ],
)
def test_no_hello(words: str) -> None:
    """What is no hello is closed with 1002."""

    @virtual
    async def check() -> None:
        handlers = Handlers()
        async with open_site(handlers, accept=who) as site:
            client = await arrive(site)
            await client.stranger.send(words)
            assert await client.code() == 1002
            assert handlers.peers == []

    check()


@virtual
async def test_the_wrong_kind_of_message() -> None:
    """A binary hello is none of the JSON protocol."""
    async with open_site(Handlers(), accept=who) as site:
        client = await arrive(site)
        data = json.dumps(["hello", "", "", TERMS, START]).encode()
        await client.stranger.send_frame(Frame(Opcode.BINARY, data))
        assert await client.code() == 1002


@virtual
async def test_impatience() -> None:
    """Nothing may follow a hello before the welcome."""
    async with open_site(Handlers(), accept=who) as site:
        client = await arrive(site)
        hello = json.dumps(["hello", "", "", TERMS, START])
        await client.stranger.send(hello, '[1,0,0,0,0,0,[]]\n{"type":"said"}')
        assert await client.code() == 1002


@virtual
async def test_two_hellos() -> None:
    """A second hello is a breach; the session is over, its handler ends."""
    handlers = Handlers()
    async with open_site(handlers, accept=who) as site:
        client = await enter(site)
        await client.batch(["hello", client.session, client.token, TERMS, START])
        assert await client.code() == 1002
        await outlast(lambda: not handlers.ended)
        assert not (await resume(site, client)).resumed


@virtual
async def test_without_sessions() -> None:
    """`session=None`: the offer is not taken, and "plain" is."""
    handlers = Handlers()
    async with open_site(handlers, session=None) as site:
        stranger = await site.enter(protocols=("trio-rt.plain", JSON))
        assert stranger.response.headers["Sec-WebSocket-Protocol"] == "trio-rt.plain"
        await stranger.send('{"type":"said","payload":1}')
        assert json.loads(await stranger.text())["payload"] == 1


@virtual
async def test_plain_clients_beside() -> None:
    """Who offers no session gets the plain envelope."""
    async with open_site(Handlers(), accept=who) as site:
        stranger = await site.enter(headers={"X-User": "ann"})
        assert "Sec-WebSocket-Protocol" not in stranger.response.headers
        await stranger.send('{"type":"said","payload":1}')
        assert json.loads(await stranger.text())["payload"] == 1


# Who may resume


@pytest.mark.parametrize("stolen", ["forged id", "forged token", "no token", "somebody else"])
def test_not_theirs(stolen: str) -> None:
    """Who cannot resume gets a session of their own; the owner notices nothing."""

    @virtual
    async def check() -> None:
        handlers = Handlers()
        async with open_site(handlers, accept=who) as site:
            owner = await enter(site)
            session, token, user = owner.session, owner.token, "ann"
            match stolen:
                case "forged id":
                    session = "0" * len(session)
                case "forged token":
                    token = "0" * len(token)
                case "no token":
                    token = ""
                case _:
                    user = "bob"
            thief = await enter(site, user, session, token)
            assert not thief.resumed
            assert thief.session != owner.session
            await owner.say("mine")
            assert await owner.heard() == ["mine"]
            assert handlers.heard == [["mine"], []]
            await owner.stranger.aclose()
            again = await resume(site, owner)
            assert again.resumed

    check()


@virtual
async def test_a_token_that_was_used() -> None:
    """Once something came in on the link of the new token, the old one opens nothing."""
    async with open_site(Handlers(), accept=who) as site:
        first = await enter(site)
        second = await resume(site, first)
        assert second.token != first.token
        await second.say("under the new one")
        await second.heard()
        late = await resume(site, first)
        assert not late.resumed
        await second.say("still here", 2)
        assert await second.heard() == ["still here"]


@virtual
async def test_a_welcome_that_was_lost() -> None:
    """Until then the old token holds, since the new one may not have arrived."""
    handlers = Handlers()
    async with open_site(handlers, accept=who) as site:
        first = await enter(site)
        for _ in range(3):
            lost = await arrive(site)
            await lost.hello(first.session, first.token)
            await trio.sleep(0.1)
            await lost.stranger.aclose()
        again = await resume(site, first)
        assert again.resumed
        newest = await resume(site, again)
        assert newest.resumed
        assert len(handlers.peers) == 1


@virtual
async def test_a_right_that_was_lost() -> None:
    """The accept hook is asked on a resume too. The session waits for who has the right."""
    rights = ["ann", "banned", "ann"]

    async def accept(handshake: Handshake) -> str:
        if rights.pop(0) == "banned":
            raise Refuse(403)
        return "ann"

    handlers = Handlers()
    async with open_site(handlers, accept=accept) as site:
        first = await enter(site)
        await first.stranger.aclose()
        stranger = await site.dial()
        assert await stranger.shake(protocols=(JSON,)) == 403
        assert (await resume(site, first)).resumed
        assert len(handlers.peers) == 1


@pytest.mark.parametrize(
    "position",
    [
        {"received": 7},
        {"received": 1, "consumed": 2},
        {"received": 1, "consumed": 1, "messages": 9},
        {"received": 1, "consumed": 1, "bytes": 1 << 40},
        {"settled": 5},
        {"received": 1, "consumed": 1, "drops": [[2, 3]]},
        {"received": 1, "consumed": 1, "drops": [[1, 0]]},
    ],
)
def test_a_position_that_cannot_be(position: dict[str, Any]) -> None:
    """It is closed with 1002, and the real session and its link go on."""

    @virtual
    async def check() -> None:
        async with open_site(Handlers(), accept=who) as site:
            owner = await enter(site)
            await owner.say("one")
            assert await owner.heard() == ["one"]
            liar = await arrive(site)
            await liar.hello(owner.session, owner.token, **position)
            assert await liar.code() == 1002
            await owner.say("two", 2)
            assert await owner.heard() == ["two"]

    check()


@pytest.mark.parametrize("words", ["garbage", '["bye",""]'])
def test_a_resume_behind_an_end(words: str) -> None:
    """While the last link of a session that is over is being closed, it is not resumed."""

    @virtual
    async def check() -> None:
        handlers = Handlers()
        async with open_site(handlers, accept=who) as site:
            client = await enter(site)
            if words == "garbage":
                await client.stranger.send(words)
            else:
                await client.batch(json.loads(words))
            await trio.sleep(0.03)
            again = await resume(site, client)
            assert not again.resumed
            assert again.session != client.session
            await again.say("fresh")
            assert await again.heard() == ["fresh"]

    check()


class Odd:
    """An identity that can be neither compared nor shown."""

    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise ValueError


@virtual
async def test_an_odd_identity() -> None:
    """It costs its sessions their resume, and nobody else anything."""

    async def accept(handshake: Handshake) -> Odd:
        return Odd()

    handlers = Handlers()
    async with open_site(handlers, accept=accept, session=SessionLimits(kept=2)) as site:
        for _ in range(4):
            client = await enter(site)
            await client.stranger.aclose()
            await trio.sleep(0.1)
        assert handlers.ended == [0, 1]
        again = await resume(site, client)
        assert not again.resumed
        await again.say("fresh")
        assert await again.heard() == ["fresh"]


# Taking over


@virtual
async def test_takeover_of_a_half_open_link() -> None:
    """The new link has the session at once, and the old one is told why it ends."""
    handlers = Handlers()
    async with open_site(handlers, accept=who) as site:
        old = await enter(site)
        await old.say("before")
        await old.heard()
        began = trio.current_time()
        new = await resume(site, old)
        assert new.resumed
        assert trio.current_time() - began < 0.3
        await new.say("after", 2)
        assert await new.heard() == ["after"]
        assert await old.code() == 4409
        assert old.stranger.reason == "taken over"
        assert handlers.heard == [["before", "after"]]


@virtual
async def test_a_session_that_was_taken_over_is_not_away() -> None:
    """The end of the old link starts no time after which the session would end."""
    handlers = Handlers()
    limits = SessionLimits(keep_s=5)
    async with open_site(handlers, accept=who, session=limits, liveness=None) as site:
        old = await enter(site)
        new = await resume(site, old)
        assert await old.code() == 4409
        await trio.sleep(20)
        await new.say("alive")
        assert await new.heard() == ["alive"]


@virtual
async def test_what_the_old_link_says_after_a_takeover() -> None:
    """It is not taken in: the new link has the numbers now."""
    handlers = Handlers()
    async with open_site(handlers, accept=who) as site:
        old = await enter(site)
        new = await resume(site, old)
        await old.say("from the grave")
        await new.say("alive")
        assert await new.heard() == ["alive"]
        assert handlers.heard == [["alive"]]


@virtual
async def test_two_resumes_at_once() -> None:
    """One of them has the session in the end; the other is told that it was taken over."""
    handlers = Handlers()
    async with open_site(handlers, accept=who) as site:
        first = await enter(site)
        await first.stranger.aclose()
        await trio.sleep(0.1)
        both = [await arrive(site), await arrive(site)]
        async with trio.open_nursery() as nursery:
            for client in both:
                nursery.start_soon(client.hello, first.session, first.token)
        for client in both:
            await client.welcome()
        codes: list[int | None] = [None, None]

        async def read(number: int) -> None:
            codes[number] = await both[number].code()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 0)
            nursery.start_soon(read, 1)
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
        assert codes.count(4409) == 1
        winner = both[1 - codes.index(4409)]
        await winner.say("won")
        assert await winner.heard() == ["won"]
        assert len(handlers.peers) == 1


# How long


@virtual
async def test_a_session_that_nobody_resumes_ends() -> None:
    """After `keep_s` the handler's streams end, and its unacknowledged sends are unknown."""
    handlers = Handlers()
    async with open_site(handlers, accept=who, session=SessionLimits(keep_s=30.0)) as site:
        client = await enter(site)
        await client.say("bye")
        await client.heard()
        await client.stranger.aclose()
        await trio.sleep(29.0)
        assert handlers.ended == []
        await trio.sleep(2.0)
        assert handlers.ended == [0]
        outcomes = handlers.peers[0].statistics().outcomes
        assert outcomes == {INDETERMINATE: 1}
        late = await resume(site, client)
        assert not late.resumed


@virtual
async def test_the_oldest_makes_room() -> None:
    """Of the sessions without a link `kept` stay; one with a link is never ended for another."""
    handlers = Handlers()
    async with open_site(handlers, accept=who, session=SessionLimits(kept=2)) as site:
        live = await enter(site)
        away = []
        for _ in range(3):
            client = await enter(site)
            await client.stranger.aclose()
            await trio.sleep(0.1)
            away.append(client)
        assert handlers.ended == [1]
        for client, resumed in zip(away, (False, True, True), strict=True):
            again = await resume(site, client)
            assert again.resumed is resumed
        await live.say("here")
        assert await live.heard() == ["here"]


@virtual
async def test_many_of_one_push_out_nobody_else() -> None:
    """Where somebody comes and goes without end, it is their own sessions that end."""
    handlers = Handlers()
    async with open_site(handlers, accept=who, session=SessionLimits(kept=3)) as site:
        ann = await enter(site)
        await ann.stranger.aclose()
        for _ in range(9):
            bob = await enter(site, "bob")
            await bob.stranger.aclose()
            await trio.sleep(0.1)
        assert len(handlers.ended) == 7
        assert (await resume(site, ann)).resumed


@virtual
async def test_bye() -> None:
    """A client that says bye is not waited for."""
    handlers = Handlers()
    async with open_site(handlers, accept=who) as site:
        client = await enter(site)
        await client.batch(["bye", ""])
        await client.stranger.close()
        await trio.sleep(0.1)
        assert handlers.ended == [0]
        assert not (await resume(site, client)).resumed


@virtual
async def test_a_client_that_leaves_says_bye() -> None:
    """Leaving `connect()` ends the handler at once, cancelled or not."""
    handlers = Handlers()
    async with open_site(handlers) as site:
        for cancelled in (False, True):
            with trio.CancelScope() as scope:
                async with site.connect() as conn:
                    await conn.deliver("said", 1)
                    if cancelled:
                        scope.cancel()
            await trio.sleep(0.2)
            assert len(handlers.ended) == 1 + cancelled


@virtual
async def test_drain_ends_those_who_are_away() -> None:
    """`Server.drain()` waits for no client that may come back."""
    handlers = Handlers()
    async with open_site(handlers, accept=who) as site:
        client = await enter(site)
        await client.stranger.aclose()
        await trio.sleep(0.1)
        await site.server.drain(0.0)
        await site.ended.wait()
        assert handlers.ended == [0]


@virtual
async def test_drain_ends_those_who_are_lost_meanwhile() -> None:
    """A link that is lost while the server drains is not waited for to come back."""
    handlers = Handlers()
    async with open_site(handlers, accept=who, close_timeout_s=1) as site:
        clients = [await enter(site) for _ in range(2)]
        began = trio.current_time()
        site.nursery.start_soon(site.server.drain, 10.0)
        await trio.sleep(1)
        for client in clients:
            await client.stranger.aclose()
        await site.ended.wait()
        assert trio.current_time() - began < 3
        assert sorted(handlers.ended) == [0, 1]


@virtual
async def test_drain_closes_who_says_hello_late() -> None:
    """A session that begins while the server drains is welcomed, and closed behind it."""
    handlers = Handlers()
    async with open_site(handlers, accept=who, close_timeout_s=1) as site:
        client = await arrive(site)
        await trio.sleep(0.1)
        site.nursery.start_soon(site.server.drain, 0.0)
        await trio.sleep(0.1)
        await client.hello()
        await client.welcome()
        assert await client.code() == 1012
        with trio.fail_after(5):
            await site.ended.wait()


@virtual
async def test_a_fault_of_the_servers_own(caplog: pytest.LogCaptureFixture) -> None:
    """A session in which the server itself has failed is not kept for its client."""
    handlers = Handlers()

    async def handler(peer: Peer) -> None:
        def on_link(up: bool) -> None:
            raise RuntimeError("oops")

        peer.on_link = on_link
        await handlers(peer)

    async with open_site(handler, accept=who) as site:
        client = await enter(site)
        await client.stranger.aclose()
        await trio.sleep(1)
        assert handlers.ended == [0]
        assert not (await enter(site, session=client.session, token=client.token)).resumed
    assert complaints(caplog)[0] == "None: a fault of the server itself"


# A peer that never acknowledges


@virtual
async def test_a_client_that_never_acks() -> None:
    """What is kept for it is bounded, and after a while it is cut, with a reason."""
    sent: list[Any] = []

    async def handler(peer: Peer) -> None:
        with trio.move_on_after(10 * UNANSWERED_S):
            while True:
                sent.append(await peer.send("flood", "x" * 100))

    liveness = Liveness(interval_s=5.0, timeout_s=5.0)
    async with open_site(handler, accept=who, liveness=liveness) as site:
        client = await enter(site)
        began = trio.current_time()
        assert await client.code() == 1002
        assert client.stranger.reason == "nothing is acked"
        assert UNANSWERED_S <= trio.current_time() - began <= UNANSWERED_S + 10.0
        await outlast(lambda: None in [delivery.outcome for delivery in sent])
        outcomes = Counter(delivery.outcome for delivery in sent)
        assert outcomes == {INDETERMINATE: 256, dropped("closed"): 1000}


# Secrets, options


@virtual
async def test_tokens_are_told_to_their_client_only() -> None:
    """No log record and no repr has a token in it."""
    shown: list[str] = []

    class Tap(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(self.format(record))

    tap, logger = Tap(), logging.getLogger("trio_rt")
    logger.addHandler(tap)
    logger.setLevel(logging.DEBUG)
    try:
        handlers = Handlers()
        async with open_site(handlers, accept=who) as site:
            owner = await enter(site)
            thief = await enter(site, "bob", owner.session, owner.token)
            broken = await arrive(site)
            await broken.stranger.send(f'["hello","{owner.session}","{owner.token}"]')
            await broken.code()
            registry = site.server._sessions
            shown.append(repr([*registry._by_id.values(), *handlers.peers]))
    finally:
        logger.removeHandler(tap)
        logger.setLevel(logging.NOTSET)
    assert shown
    for token in (owner.token, thief.token):
        assert len(token) >= 43  # 256 bits, in the densest text that URLs take
        assert not any(token in text for text in shown)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"keep_s": -1}, "SessionLimits.keep_s"),
        ({"messages": 0}, "SessionLimits.messages"),
        ({"messages": True}, "SessionLimits.messages"),
        ({"total_bytes": 0.5}, "SessionLimits.total_bytes"),
        ({"kept": "many"}, "SessionLimits.kept"),
    ],
)
def test_limits_that_cannot_be(options: dict[str, Any], field: str) -> None:
    """The error names the field, the rule and the value."""
    with pytest.raises(OptionError) as caught:
        SessionLimits(**options)
    assert caught.value.field == field


def test_limits_without_a_limit() -> None:
    """`inf` is one."""
    limits = SessionLimits(keep_s=math.inf, messages=math.inf, total_bytes=math.inf, kept=math.inf)
    assert limits.keep_s == math.inf


@virtual
async def test_no_limits_at_all() -> None:
    """Such a session works as others do."""
    limits = SessionLimits(keep_s=math.inf, messages=math.inf, total_bytes=math.inf, kept=math.inf)
    handlers = Handlers()
    async with open_site(handlers, session=limits) as site, site.connect() as conn:
        delivery = await conn.send("said", 1)
        await delivery.wait_acked()
        assert delivery.outcome is ACKED


@pytest.mark.usefixtures("each_wire")
@virtual
async def test_what_comes_after_a_shut_window_goes() -> None:
    """The writer sleeps while the window is shut, and an ack wakes it for what is new too."""
    got: list[Any] = []
    may_take = trio.Event()

    async def handler(peer: Peer) -> None:
        with peer.subscribe() as stream:
            await may_take.wait()
            async for item in stream:
                assert isinstance(item, Message)
                got.append(item.payload)

    async with open_world(latency_s=0.01) as world:
        await world.serve(handler, inbox=InboxLimits(messages=2))
        async with world.connect() as conn:
            await conn.wait_connected()
            first = [conn.send_nowait("t", number) for number in range(6)]
            await trio.sleep(1)
            assert [each.withdraw() for each in first] == [False] * 2 + [True] * 4
            may_take.set()
            await trio.sleep(1)
            for number in (6, 7, 8):
                conn.send_nowait("t", number)
            await trio.sleep(1)
            assert got == [0, 1, 6, 7, 8]

"""One client of a server: how its link and its handler end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.helpers import echo, either_link
from tests.strangers import Stranger, complaints, open_site, records
from tests.testing.support import virtual
from tests.wires.support import wire_pair
from trio_rt import (
    InboxLimits,
    LinkClosed,
    Liveness,
    Message,
    OptionError,
    OutboxLimits,
    Outcome,
    Peer,
    Priority,
    RawPeer,
    Undelivered,
    UsageError,
    serve_listeners,
)
from trio_rt._mailbox import Mailbox
from trio_rt._tasks import Link
from trio_rt.message import INDETERMINATE, WRITTEN, dropped
from trio_rt.protocol.codec import decode_raw
from trio_rt.protocol.lanes import Entry
from trio_rt.protocol.session import Session
from trio_rt.testing import LinkProfile, VirtualNetwork

CLOSED = dropped("closed")

#: As much as the outbox and the buffers of a link take in, and more.
MUCH = "x" * 20_000


def keep(peers: list[Any]) -> Callable[[Any], Awaitable[None]]:
    """A handler that puts its peer there, and waits for its end."""

    async def handler(peer: Any) -> None:
        peers.append(peer)
        with peer.subscribe() as stream:
            async for _ in stream:
                pass

    return handler


async def raw_echo(peer: RawPeer) -> None:
    with peer.subscribe() as stream:
        async for item in stream:
            assert isinstance(item, Message)
            await peer.send(item.payload)


# The handler comes to its end


@virtual
async def test_a_handler_that_returns_drains_and_closes() -> None:
    """What a handler has queued is sent before its link is closed with 1000."""

    async def handler(peer: RawPeer) -> None:
        for number in range(100):
            peer.send_nowait(f"{number}")

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        assert await stranger.read_all() == [f"{number}" for number in range(100)]
        assert stranger.code == 1000
        assert site.server.connections == 0


async def fail_at_once(peer: Any) -> None:
    raise ValueError("oops")


async def fail_in_a_nursery(peer: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_at_once, peer)
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize("failing", [fail_at_once, fail_in_a_nursery])
@virtual
async def test_a_handler_that_raises(
    failing: Callable[[Any], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback, that peer is closed with 1011, and the server lives."""

    async def handler(peer: RawPeer) -> None:
        if peer.handshake.path == "/fails":
            peer.send_nowait("last words")
            await failing(peer)
        await raw_echo(peer)

    async with open_site(handler, codec="raw") as site:
        other = await site.enter()
        stranger = await site.enter("/fails")
        assert await stranger.read_all() == ["last words"]
        assert stranger.code == 1011
        assert await other.ask("still there?") == "still there?"
        assert await (await site.enter()).ask("and for others?") == "and for others?"
    assert complaints(caplog) == ["None: the handler failed"]
    (record,) = records(caplog)
    assert record.name == "trio_rt.server"
    text = logging.Formatter().format(record)
    assert "oops" in text
    assert ("ExceptionGroup" in text) is (failing is fail_in_a_nursery)


@virtual
async def test_a_handler_that_raises_after_its_peer_has_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged as well, and the server lives."""

    async def handler(peer: RawPeer) -> None:
        with peer.subscribe() as stream:
            async for _ in stream:
                pass
        raise ValueError("oops")

    async with open_site(handler, codec="raw") as site:
        await (await site.enter()).close()
        await (await site.enter()).aclose()
        await trio.sleep(1)
        assert site.server.connections == 0
        assert await site.enter()
    assert complaints(caplog) == ["None: the handler failed"] * 2


@virtual
async def test_a_handler_that_returns_after_its_peer_has_left() -> None:
    """Its connection is over in the same moment."""
    async with open_site(raw_echo, codec="raw") as site:
        await (await site.enter()).close()
        assert site.server.connections == 0


async def find_out_by_send(peer: Any) -> None:
    while True:
        await peer.send("more")
        await trio.sleep(0.1)


async def find_out_by_receive(peer: Any) -> None:
    with peer.subscribe() as stream:
        while True:
            await stream.receive()


async def find_out_by_deliver(peer: Any) -> None:
    while True:
        await peer.deliver(MUCH)


async def find_out_in_a_nursery(peer: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(find_out_by_send, peer)
        nursery.start_soon(find_out_by_receive, peer)


FINDING_OUT = [find_out_by_send, find_out_by_receive, find_out_by_deliver, find_out_in_a_nursery]


@pytest.mark.parametrize("handler", FINDING_OUT)
@virtual
async def test_a_handler_that_finds_out_that_its_peer_has_left(
    handler: Callable[[Any], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """That is no failure: nothing above DEBUG is logged."""
    caplog.set_level(logging.DEBUG, "trio_rt.server")
    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        await trio.sleep(1)
        await stranger.aclose()
        await trio.sleep(1)
        assert site.server.connections == 0
    assert complaints(caplog) == []
    assert "None: the handler failed" in caplog.messages


@pytest.mark.parametrize("handler", FINDING_OUT)
@virtual
async def test_a_handler_that_finds_out_that_its_peer_is_sent_away(
    handler: Callable[[Any], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is it a failure to be told by a verb that the server drains, and the code stays."""
    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.server.drain, 1)
            await stranger.read_all()
        assert stranger.code == 1012
    assert complaints(caplog) == []


@virtual
async def test_a_closed_resource_of_the_handlers_own(caplog: pytest.LogCaptureFixture) -> None:
    """With the peer still there, it is a failure like any other."""

    async def handler(peer: RawPeer) -> None:
        sender, _ = trio.open_memory_channel[None](0)
        sender.close()
        await sender.send(None)

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        await stranger.read_all()
        assert stranger.code == 1011
    assert complaints(caplog) == ["None: the handler failed"]


@virtual
async def test_a_failure_beside_a_farewell(caplog: pytest.LogCaptureFixture) -> None:
    """A group with anything else in it is a failure, and is logged."""

    async def handler(peer: RawPeer) -> None:
        try:
            await find_out_by_send(peer)
        except trio.ClosedResourceError as error:
            raise ExceptionGroup("two", [error, ValueError("oops")]) from None

    async with open_site(handler, codec="raw") as site:
        await (await site.enter()).aclose()
        await trio.sleep(1)
    assert complaints(caplog) == ["None: the handler failed"]


# The client is gone


@pytest.mark.parametrize("leave", [Stranger.close, Stranger.aclose])
@virtual
async def test_streams_end_after_their_items(leave: Callable[[Stranger], Any]) -> None:
    """What the client had sent is read, and then the streams of the handler end."""
    seen: list[object] = []
    ends = 0

    async def handler(peer: RawPeer) -> None:
        nonlocal ends
        with peer.subscribe() as stream, peer.malformed() as malformed:
            await trio.sleep(3)
            async for item in stream:
                assert isinstance(item, Message)
                seen.append(item.payload)
            ends += 1
            async for _ in malformed:
                pass
            ends += 1

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        await stranger.send("a", "b", "c")
        await leave(stranger)
        await trio.sleep(4)
    assert seen == ["a", "b", "c"]
    assert ends == 2


@virtual
async def test_queued_sends_are_dropped() -> None:
    """What was queued when the client left is `dropped("closed")`; the books balance."""
    deliveries: list[Any] = []
    peers: list[RawPeer] = []

    async def handler(peer: RawPeer) -> None:
        peers.append(peer)
        deliveries.extend(peer.send_nowait(MUCH) for _ in range(100))
        await trio.sleep(1)

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        await stranger.aclose()
        await trio.sleep(2)
    outcomes = [delivery.outcome for delivery in deliveries]
    written = outcomes.count(WRITTEN)
    lost = outcomes.count(INDETERMINATE)
    assert 1 <= written <= 10
    assert 1 <= lost <= 4
    assert outcomes == [WRITTEN] * written + [INDETERMINATE] * lost + [CLOSED] * (
        100 - written - lost
    )
    statistics = peers[0].statistics()
    assert statistics.accepted == 100 == sum(statistics.outcomes.values())
    assert statistics.outcomes[CLOSED] == 100 - written - lost
    assert statistics.in_flight == statistics.waiting == statistics.queued_bytes == 0


@virtual
async def test_whoever_waits_is_told() -> None:
    """A send that waits for room, a drain and a wait for an outcome end with the client."""
    ends: list[str] = []

    async def send(peer: RawPeer) -> None:
        try:
            while True:
                await peer.send(MUCH)
        except trio.ClosedResourceError:
            ends.append("send")

    async def deliver(peer: RawPeer) -> None:
        try:
            await peer.deliver("last", priority=Priority.LOW)
        except (Undelivered, trio.ClosedResourceError):
            ends.append("deliver")

    async def drain(peer: RawPeer) -> None:
        await trio.sleep(0.1)
        await peer.drain()
        ends.append("drain")

    async def handler(peer: RawPeer) -> None:
        async with trio.open_nursery() as nursery:
            for task in (send, deliver, drain):
                nursery.start_soon(task, peer)

    async with open_site(handler, codec="raw", outbox=OutboxLimits(messages=10)) as site:
        stranger = await site.enter()
        await trio.sleep(1)
        assert ends in ([], ["deliver"])
        await stranger.aclose()
        await trio.sleep(0.1)
        assert sorted({*ends, "deliver"}) == ["deliver", "drain", "send"]
        assert site.server.connections == 0


@virtual
async def test_sends_raise_afterwards() -> None:
    """To send to a client that has gone raises `ClosedResourceError`, whatever the way."""
    raised = 0

    async def handler(peer: Peer) -> None:
        nonlocal raised
        with peer.subscribe() as stream:
            async for _ in stream:
                pass
        for send in (peer.send, peer.deliver, peer.sender("type").send):
            with pytest.raises(trio.ClosedResourceError):
                await send("type")
            raised += 1
        for when in ("queue", "fail", "drop"):
            with pytest.raises(trio.ClosedResourceError):
                peer.send_nowait("type", when_offline=when)
            raised += 1

    async with open_site(handler) as site:
        await (await site.enter()).close()
        await trio.sleep(0.1)
    assert raised == 6


@pytest.mark.parametrize("timeout_s", [0.0, 3.0])
@virtual
async def test_a_handler_that_does_not_end_is_cancelled(timeout_s: float) -> None:
    """It has `close_timeout_s` from the moment that its client is gone."""
    cancelled_at = 0.0

    async def handler(peer: RawPeer) -> None:
        nonlocal cancelled_at
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at = trio.current_time()

    async with open_site(handler, codec="raw", close_timeout_s=timeout_s) as site:
        stranger = await site.enter()
        await stranger.aclose()
        left_at = trio.current_time()
        await trio.sleep(10)
        assert cancelled_at == pytest.approx(left_at + 0.02 + timeout_s)
        assert site.server.connections == 0


@virtual
async def test_a_clients_close_is_answered() -> None:
    """A client that closes gets its own code back."""
    async with open_site(raw_echo, codec="raw") as site:
        stranger = await site.enter()
        await stranger.close(4001)
        assert stranger.code == 4001


# `close`


@virtual
async def test_close_sends_what_is_queued_first() -> None:
    """What is queued leaves before the close frame with its code and reason; no more is taken."""
    refused = False

    async def handler(peer: RawPeer) -> None:
        nonlocal refused
        for number in range(50):
            peer.send_nowait(f"{number} {MUCH}")
        peer.close(4321, "for a reason")
        with pytest.raises(trio.ClosedResourceError):
            peer.send_nowait("too late")
        refused = True
        await trio.sleep_forever()

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        assert await stranger.read_all() == [f"{number} {MUCH}" for number in range(50)]
        assert (stranger.code, stranger.reason) == (4321, "for a reason")
    assert refused


@virtual
async def test_what_comes_in_meanwhile_is_received() -> None:
    """While the queue is sent before the close, messages of the client still come in."""
    seen: list[object] = []

    async def handler(peer: RawPeer) -> None:
        peer.send_nowait(MUCH * 10)
        peer.close()
        with peer.subscribe() as stream:
            async for item in stream:
                assert isinstance(item, Message)
                seen.append(item.payload)

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        await stranger.send("meanwhile")
        await trio.sleep(1)
        assert seen == ["meanwhile"]
        await stranger.read_all()
        assert stranger.code == 1000


@virtual
async def test_close_is_idempotent() -> None:
    """The first code is the one that is sent, whatever the handler then does."""

    async def handler(peer: RawPeer) -> None:
        peer.close(4001, "first")
        peer.close(4002, "second")
        await trio.sleep(0.01)
        peer.close(4003, "third")
        raise ValueError("oops")

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        await stranger.read_all()
        assert (stranger.code, stranger.reason) == (4001, "first")


@virtual
async def test_close_checks_its_arguments() -> None:
    """A code or reason that RFC 6455 does not let be sent is refused, and nothing is closed."""
    checked = False

    async def handler(peer: RawPeer) -> None:
        nonlocal checked
        codes: list[Any] = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1, 1000.0, "1000"]
        for code in codes:
            with pytest.raises(OptionError, match="code"):
                peer.close(code)
        for reason in ("x" * 124, "é" * 62, "\ud800"):
            with pytest.raises(UsageError, match="reason"):
                peer.close(1000, reason)
        checked = True
        await raw_echo(peer)

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        assert await stranger.ask("open?") == "open?"
    assert checked


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1011, 1013, 3000, 4999])
@virtual
async def test_codes_that_may_be_sent(code: int) -> None:
    """They arrive, with a reason of up to 123 bytes."""

    async def handler(peer: RawPeer) -> None:
        peer.close(code, "é" * 61 + "x")

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        await stranger.read_all()
        assert (stranger.code, stranger.reason) == (code, "é" * 61 + "x")


@virtual
async def test_close_of_a_client_that_has_gone() -> None:
    """It is nothing, also after the server has gone."""
    peers: list[RawPeer] = []
    async with open_site(keep(peers), codec="raw") as site:
        await (await site.enter()).close()
        assert site.server.connections == 0
        peers[0].close(4000)
        await site.enter()
    peers[1].close(4000)
    assert len(peers) == 2


@virtual
async def test_a_peer_that_never_answers_the_close() -> None:
    """It is cut after `close_timeout_s`."""

    async def handler(peer: RawPeer) -> None:
        peer.close()

    async with open_site(handler, codec="raw", close_timeout_s=3) as site:
        stranger = await site.enter()
        began = trio.current_time()
        while not (frames := await stranger.read(answers=False)) and site.server.connections:
            pass
        assert frames is None
        assert stranger.code == 1000
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)
        assert site.server.connections == 0


@pytest.mark.parametrize("closes", [True, False])
@virtual
async def test_a_peer_that_does_not_read(closes: bool) -> None:
    """It is cut after `close_timeout_s` too, counted from the close or the handler's return."""
    peers: list[RawPeer] = []
    ended_at = 0.0

    async def handler(peer: RawPeer) -> None:
        nonlocal ended_at
        peers.append(peer)
        for _ in range(100):
            peer.send_nowait(MUCH)
        if closes:
            peer.close()
            try:
                await trio.sleep_forever()
            finally:
                ended_at = trio.current_time()

    async with open_site(handler, codec="raw", close_timeout_s=3) as site:
        await site.enter()
        entered_at = trio.current_time()
        await trio.sleep(2.9)
        assert site.sockets == 1
        await trio.sleep(0.2)
        assert site.sockets == 0
        await trio.sleep(4)
        assert site.server.connections == 0
        outcomes = peers[0].statistics().outcomes
        assert outcomes[CLOSED] > 80
        assert sum(outcomes.values()) == 100
        if closes:  # the handler had its `close_timeout_s` behind that of the link
            assert ended_at - entered_at == pytest.approx(6, abs=0.1)


@virtual
async def test_the_handler_outlives_its_own_close() -> None:
    """After `close()` the handler goes on; its streams end when the client is gone."""
    ended_at = closed_at = 0.0

    async def handler(peer: RawPeer) -> None:
        nonlocal ended_at, closed_at
        closed_at = trio.current_time()
        peer.close()
        with peer.subscribe() as stream:
            async for _ in stream:
                pass
        ended_at = trio.current_time()

    async with open_site(handler, codec="raw", latency_s=0.5) as site:
        stranger = await site.enter()
        await stranger.read_all()
        await trio.sleep(1)
    assert ended_at - closed_at == pytest.approx(1)


# The rest


@virtual
async def test_a_message_expires_while_it_is_queued() -> None:
    """`ttl_s` holds for a peer as for a connection."""
    deliveries: list[Any] = []

    async def handler(peer: RawPeer) -> None:
        for _ in range(10):
            peer.send_nowait(MUCH)
        deliveries.append(peer.send_nowait("news", ttl_s=1))
        await trio.sleep(1.5)
        deliveries.append(deliveries[0].outcome)

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        await trio.sleep(3)
        assert deliveries[1] == dropped("expired")
        assert "news" not in await stranger.read_all()


@virtual
async def test_no_task_of_a_peer_outlives_it() -> None:
    """Its writer, and what drops its messages in time, end with its link and its handler."""

    async def handler(peer: RawPeer) -> None:
        peer.send_nowait(MUCH * 50, ttl_s=1000)
        peer.send_nowait("news", ttl_s=1000)
        await raw_echo(peer)

    async with open_site(handler, codec="raw") as site:
        await trio.testing.wait_all_tasks_blocked()
        before = len(site.server._nursery.child_tasks)
        stranger = await site.enter()
        await trio.sleep(1)
        assert len(site.server._nursery.child_tasks) > before + 2
        await stranger.aclose()
        await trio.sleep(20)
        assert len(site.server._nursery.child_tasks) == before


@pytest.mark.parametrize("handler_first", [True, False])
@virtual
async def test_nothing_of_a_peer_outlives_link_and_handler(handler_first: bool) -> None:
    """With both at their end it is over at once, though it had messages that may expire."""

    async def handler(peer: RawPeer) -> None:
        for _ in range(3):
            peer.send_nowait("news", ttl_s=1000)
        if not handler_first:
            with peer.subscribe() as stream:
                async for _ in stream:
                    pass

    async with open_site(handler, codec="raw") as site:
        stranger = await site.enter()
        if handler_first:
            await stranger.read_all()
        else:
            await trio.sleep(1)
            await stranger.close()
        await trio.sleep(0.1)
        assert site.server.connections == 0


@either_link
@virtual
async def test_statistics_of_a_live_peer(session: str, best: Outcome) -> None:
    """They count what came and went, and tell the round trip of the last ping."""
    peers: list[Peer] = []

    async def handler(peer: Peer) -> None:
        peers.append(peer)
        await echo(peer)

    async with open_site(handler, latency_s=0.25, liveness=Liveness(interval_s=2)) as site:
        async with site.connect(liveness=None, session=session) as conn:
            with conn.subscribe() as stream:
                await conn.send("hello", 1)
                await stream.receive()
                assert peers[0].statistics().latency_s is None
                await trio.sleep(10)
                statistics = peers[0].statistics()
                assert statistics.latency_s == pytest.approx(0.5)
                # In a session an ack came too, in a WebSocket message of its own.
                assert statistics.received == (1 if session == "off" else 2)
                assert statistics.accepted == statistics.outcomes[best] == 1
        await trio.sleep(1)
        assert peers[0].statistics().latency_s == pytest.approx(0.5)


class Odd(trio.abc.Stream):
    """A stream with a bug: after the handshake it raises what no stream may."""

    def __init__(self, lower: trio.abc.Stream) -> None:
        self.lower = lower
        self.sends = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends += 1
        if self.sends > 1:
            raise RuntimeError("oops")
        await self.lower.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.lower.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.lower.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.lower.aclose()


class OddListener(trio.abc.Listener[trio.abc.Stream]):
    """Its first connection is odd."""

    def __init__(self, lower: trio.abc.Listener[Any]) -> None:
        self.lower = lower
        self.wrap: Callable[[trio.abc.Stream], trio.abc.Stream] = Odd

    async def accept(self) -> trio.abc.Stream:
        stream = await self.lower.accept()
        wrap, self.wrap = self.wrap, lambda stream: stream
        return wrap(stream)

    async def aclose(self) -> None:
        await self.lower.aclose()


@virtual
async def test_a_fault_in_the_writer(caplog: pytest.LogCaptureFixture) -> None:
    """What a peer's writer raises is logged, and ends that peer and nobody else."""
    ended: list[str] = []

    async def handler(peer: RawPeer) -> None:
        path = peer.handshake.path
        with peer.subscribe() as stream:
            async for _ in stream:
                await peer.send("an answer")
        ended.append(path)

    network = VirtualNetwork(1, profile=LinkProfile(latency_s=0.02))
    listeners = [OddListener(network.listen("server", 80))]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_listeners, handler, listeners, codec="raw"))
        strangers = {}
        for path in ("/odd", "/other"):
            strangers[path] = Stranger(await network.open_stream("server", 80))
            assert await strangers[path].shake(path) == 101
        await strangers["/odd"].send("?")
        assert await strangers["/odd"].read_all() == []
        assert await strangers["/other"].ask("?") == "an answer"
        assert ended == ["/odd"]
        assert server.connections == 1
        nursery.cancel_scope.cancel()
    assert complaints(caplog) == ["None: a fault of the server itself"]
    (record,) = records(caplog)
    assert "oops" in logging.Formatter().format(record)


@virtual
async def test_a_hub_is_told_of_links() -> None:
    """`on_link` hears of each link of a session once it takes sends, and once it is lost."""
    heard: list[tuple[bool, bool]] = []

    async def handler(peer: Peer) -> None:
        def on_link(up: bool) -> None:
            heard.append((up, peer._session.linked))

        assert peer.linked
        peer.on_link = on_link
        await keep([])(peer)

    async with open_site(handler) as site:
        async with site.connect() as conn:
            await conn.wait_connected()
            await trio.sleep(1)
            assert heard == []
            site.network.cut()
            await trio.sleep(60)
            assert heard == [(False, False), (True, True)]
        await trio.sleep(1)
        assert heard == [(False, False), (True, True), (False, False)]


@virtual
async def test_a_hub_is_told_of_a_takeover_in_order() -> None:
    """The link that is taken over is down before the next one is up."""
    heard: list[bool] = []

    async def handler(peer: Peer) -> None:
        peer.on_link = heard.append
        await keep([])(peer)

    mine = Liveness(interval_s=2, timeout_s=2)
    async with (
        open_site(handler, liveness=None) as site,
        site.connect(liveness=mine) as conn,
    ):
        await conn.wait_connected()
        await trio.sleep(1)
        site.network.stall()  # half-open: only the client finds out
        await trio.sleep(60)
        assert heard == [False, True]


async def test_a_hub_is_not_told_of_a_link_that_never_was() -> None:
    """A link that dies under its first words was not up, and so is not down."""
    heard: list[bool] = []
    wire, other = wire_pair()
    wire.abort()
    mailbox = Mailbox(Session(decode_raw, OutboxLimits(), InboxLimits()))
    link = Link(wire, mailbox, None, None, words=Entry(b"welcome"))
    async with trio.open_nursery() as nursery:
        await link.run_in(nursery, lambda told, up: told.append(up), heard)
    assert isinstance(link.cause, LinkClosed)
    assert heard == []
    other.abort()


@virtual
async def test_a_handler_that_is_no_coroutine(caplog: pytest.LogCaptureFixture) -> None:
    """It is that peer's 1011, and the log tells why."""

    def handler(peer: Any) -> None:
        return None

    async with open_site(handler, codec="raw") as site:  # type: ignore[arg-type]
        stranger = await site.enter()
        await stranger.read_all()
        assert stranger.code == 1011
    (record,) = records(caplog)
    assert "TypeError" in logging.Formatter().format(record)

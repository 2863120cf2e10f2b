"""Requests and exchanges in trio: from who asks to who serves and back, over links that die."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

import trio_rt
from tests.helpers import FarEnd, World, open_world, outlast
from tests.strangers import QUIET, Stranger, complaints, open_site
from tests.testing.support import virtual
from trio_rt import (
    DecodeError,
    InboxLimits,
    Message,
    NoSession,
    OptionError,
    OutboxLimits,
    PayloadError,
    Peer,
    Priority,
    Reconnect,
    Refused,
    Request,
    SessionLimits,
    Undelivered,
)
from trio_rt._handlers import IDLE_S
from trio_rt._requests import _NO_PARTS, _left_ms
from trio_rt.message import ACKED, INDETERMINATE, WITHDRAWN, dropped
from trio_rt.protocol.frames import (
    JSON_SYNTAX,
    Cancel,
    Control,
    End,
    Fail,
    Header,
    Hello,
    More,
    Part,
    Position,
    Req,
    Terms,
    Welcome,
)
from trio_rt.protocol.inquiries import PARTS, Inquiry
from trio_rt.protocol.requests import CALLS
from trio_rt.testing import CutKind, Towards

#: Back within a second, and never two seconds later.
SOON = Reconnect(first_s=0.1, cap_s=0.5)
NEVER = Reconnect(first_s=1e6, cap_s=1e6)

CODECS = ["json", "msgpack"]

Handler = Callable[[Request[Any]], Awaitable[Any]]


@attrs.define(eq=False)
class Scene:
    """A client of a server that serves requests."""

    world: World
    conn: trio_rt.Connection = attrs.field(init=False)
    peers: list[Peer] = attrs.field(factory=list)

    @property
    def peer(self) -> Peer:
        return self.peers[-1]

    async def cut(self, how: CutKind = "rst") -> None:
        """Cut the link, and let both ends find out."""
        self.world.network.cut(how=how)
        await trio.sleep(0.1)

    async def lose_session(self) -> None:
        """Keep the client away for longer than its session is kept."""
        self.world.network.refuse("server")
        self.world.network.cut()
        await trio.sleep(KEEP_S + 1)
        self.world.network.accept("server")
        self.conn.retry_now()
        await self.conn.wait_connected()


KEEP_S = 5.0


@asynccontextmanager
async def open_scene(
    handler: Handler | None = None,
    *types: str,
    limit: int = 64,
    codec: str = "json",
    latency_s: float = 0.02,
    server: dict[str, Any] | None = None,
    serves: Callable[[Peer], Awaitable[object]] | None = None,
    **options: Any,
) -> AsyncIterator[Scene]:
    """At its end nothing is left of any request, and the books add up on both sides."""
    async with open_world(latency_s=latency_s) as world:
        scene = Scene(world)

        async def handle(peer: Peer) -> None:
            scene.peers.append(peer)
            if serves is not None:
                await serves(peer)
            elif handler is not None:
                await peer.serve_requests(handler, *types, limit=limit)
            else:
                await trio.sleep_forever()

        how = {"session": SessionLimits(keep_s=KEEP_S), "codec": codec, **(server or {})}
        await world.serve(handle, **how)
        options.setdefault("reconnect", SOON)
        async with world.connect(codec=codec, **options) as conn:
            scene.conn = conn
            await conn.wait_connected()
            await outlast(lambda: not scene.peers)
            yield scene
            await trio.sleep(3)
            assert_clean(conn)
            assert not scene.peer._session.requests._inquiries
        for each in (conn, *scene.peers):
            assert_clean(each)


def assert_clean(talker: Any) -> None:
    """No request is left, and every send is accounted for."""
    requests = talker._session.requests
    assert not requests._calls
    assert not requests.foreign
    books = talker.statistics()
    settled, queued = sum(books.outcomes.values()), sum(books.queued.values())
    assert books.accepted == settled + queued + books.in_flight


class Handlers:
    """A handler that takes its time, and keeps count. "wait" waits for ever."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.began: list[Any] = []
        self.cancelled: list[Any] = []
        self.ended_at: dict[Any, float] = {}
        self.running = self.most = 0

    async def __call__(self, request: Request[Any]) -> Any:
        self.began.append(request.payload)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(math.inf if request.type == "wait" else self.takes_s)
        except trio.Cancelled:
            self.cancelled.append(request.payload)
            raise
        finally:
            self.running -= 1
            self.ended_at[request.payload] = trio.current_time()
        return request.payload


async def echo(request: Request[Any]) -> Any:
    return request.payload


async def count(request: Request[Any]) -> None:
    """As many parts as was asked for."""
    for number in range(request.payload):
        await request.send(number)


# A request and its reply


@pytest.mark.usefixtures("each_wire")
@pytest.mark.parametrize("codec", CODECS)
@virtual
async def test_reply(codec: str) -> None:
    """A request is answered by what its handler returns, as a message of its type."""
    seen: list[Request[Any]] = []

    async def add(request: Request[Any]) -> Any:
        seen.append(request)
        return sum(request.payload)

    async with open_scene(add, codec=codec) as scene:
        began = trio.current_time()
        reply = await scene.conn.request("add", [1, 2], priority=Priority.HIGH)
        assert (reply.type, reply.payload) == ("add", 3)
        assert reply.received_at == trio.current_time() >= began + 0.04
        assert (await scene.conn.request("add", [])).payload == 0
        request = seen[0]
        assert (request.type, request.payload, request.takes_parts) == ("add", [1, 2], False)
        assert request.message.priority is Priority.HIGH
        assert request.message.received_at == pytest.approx(began + 0.02)
        await trio.sleep(1)
        assert scene.conn.statistics().outcomes == {ACKED: 2}


@virtual
async def test_a_peer_asks_its_client() -> None:
    """Both verbs are there at both ends."""
    async with open_scene() as scene, trio.open_nursery() as nursery:
        await nursery.start(scene.conn.serve_requests, count, "count")
        async with scene.peer.open_exchange("count", 3) as parts:
            assert [part.payload async for part in parts] == [0, 1, 2]
        assert (await scene.peer.request("count", 0)).payload is None
        nursery.cancel_scope.cancel()


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize("codec", CODECS)
@virtual
async def test_typed_reply(codec: str) -> None:
    """`as_` is what the reply is read as; one that is not is a `DecodeError`."""
    async with open_scene(echo, codec=codec) as scene:
        reply: Message[Point] = await scene.conn.request("p", {"x": 5}, as_=Point)
        assert reply.payload == Point(5)
        assert (await scene.conn.request("p", 5, as_=int | None)).payload == 5
        with pytest.raises(DecodeError) as caught:
            await scene.conn.request("p", {"x": "5"}, as_=Point)
        assert caught.value.field == "payload.x"


@virtual
async def test_bad_arguments() -> None:
    """They are the caller's own fault, and take no place among the calls."""
    async with open_scene(echo) as scene:
        conn = scene.conn
        with pytest.raises(PayloadError):
            await conn.request("t", object())
        with pytest.raises(PayloadError):
            await conn.request("t", "x" * (1 << 20))
        with pytest.raises(PayloadError):
            await conn.request(5)  # type: ignore[call-overload]
        with pytest.raises(OptionError):
            await conn.request("t", priority=5)  # type: ignore[call-overload]
        with pytest.raises(OptionError):
            await conn.request("t", as_=Request)
        for limit in (0, -1, 1.5, True, None):
            with pytest.raises(OptionError):
                await conn.serve_requests(echo, limit=limit)  # type: ignore[arg-type]
        with pytest.raises(OptionError):
            await conn.serve_requests(echo, 5)  # type: ignore[arg-type]
        assert_clean(conn)
        assert conn.statistics().accepted == 0


@virtual
async def test_request_larger_than_the_other_side_takes() -> None:
    """It is not sent, and the link stays."""
    async with open_scene(echo, server={"inbox": InboxLimits(message_bytes=1000)}) as scene:
        with pytest.raises(Undelivered) as caught:
            await scene.conn.request("t", "x" * 1000)
        assert caught.value.outcome is dropped("oversize")
        assert (await scene.conn.request("t", 1)).payload == 1
        assert scene.world.network.statistics().dials == 1


# Refusals


@virtual
async def test_refused() -> None:
    """`Refused` reaches who asked, with code and text; also out of nurseries."""

    async def refuse(request: Request[Any]) -> None:
        if request.payload == "plain":
            raise Refused("no", "not today")
        async with trio.open_nursery(), trio.open_nursery():
            raise Refused("no", "not today")

    async with open_scene(refuse) as scene:
        for how in ("plain", "nested"):
            with pytest.raises(Refused) as caught:
                await scene.conn.request("t", how)
            assert (caught.value.code, caught.value.text) == ("no", "not today")
            with pytest.raises(Refused) as caught:
                async with scene.conn.open_exchange("t", how) as parts:
                    await parts.receive()
            assert (caught.value.code, caught.value.text) == ("no", "not today")


@virtual
async def test_a_failing_handler(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback; who asked learns nothing of it; others go on."""
    secret = "the password is swordfish"

    async def fail(request: Request[Any]) -> Any:
        match request.payload:
            case "one":
                raise RuntimeError(secret)
            case "group":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    raise RuntimeError(secret)
            case "two":
                raise ExceptionGroup(secret, [Refused("no", secret), RuntimeError(secret)])
            case "unencodable":
                return object()
            case payload:
                return payload

    async with open_scene(fail) as scene, trio.open_nursery() as nursery:
        nursery.start_soon(scene.conn.request, "t", "fine")
        for how in ("one", "group", "two", "unencodable"):
            caplog.clear()
            with pytest.raises(Refused) as caught:
                await scene.conn.request("t", how)
            assert (caught.value.code, caught.value.text) == ("error", "the handler failed")
            (record,) = caplog.records
            assert record.levelno == logging.ERROR
            assert record.getMessage() == "the handler of 't' failed"
            assert record.exc_info is not None
            error = record.exc_info[1]
            if how == "one":
                assert isinstance(error, RuntimeError)
            if how != "unencodable":
                assert secret in repr(error)
        assert (await scene.conn.request("t", "fine")).payload == "fine"


@virtual
async def test_a_handler_that_fails_while_it_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By its requester, or by the end of serving: it is logged, and nobody else suffers."""

    async def stumble() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("at the end")

    async def handle(request: Request[Any]) -> Any:
        if request.payload == "fine":
            return "fine"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stumble)
            nursery.start_soon(trio.sleep_forever)
        return None

    async with open_scene(handle) as scene:
        with trio.move_on_after(0.5):
            await scene.conn.request("t")
        await trio.sleep(0.5)
        assert complaints(caplog) == ["the handler of 't' failed"]
        assert (await scene.conn.request("t", "fine")).payload == "fine"

    caplog.clear()
    async with open_scene() as scene, trio.open_nursery() as nursery:
        serving = trio.CancelScope()

        async def serve() -> None:
            with serving:
                await scene.peer.serve_requests(handle)

        async def ask() -> None:
            with pytest.raises(Refused):
                await scene.conn.request("t")

        nursery.start_soon(serve)
        nursery.start_soon(ask)
        await trio.sleep(1)
        serving.cancel()
    assert complaints(caplog) == ["the handler of 't' failed"]


@pytest.mark.parametrize("mine", [1 << 20, 2000])
@virtual
async def test_a_reply_that_is_too_large(mine: int, caplog: pytest.LogCaptureFixture) -> None:
    """It is not sent; who asked is told so, and the link stays."""

    async def large(request: Request[Any]) -> Any:
        return "x" * request.payload

    async with open_scene(large, inbox=InboxLimits(message_bytes=mine)) as scene:
        with pytest.raises(Refused) as caught:
            await scene.conn.request("t", mine)
        assert caught.value.code == "oversize"
        assert complaints(caplog) == ["the handler of 't' failed"]
        reply = await scene.conn.request("t", mine - 250)
        assert len(reply.payload) == mine - 250
        assert scene.world.network.statistics().dials == 1


@virtual
async def test_refusals_that_no_link_could_bear() -> None:
    """Too long, or no Unicode: the other side gets what can be told."""

    async def refuse(request: Request[Any]) -> Any:
        raise Refused("no\ud800", "\x01" * 3_000_000)

    async with open_scene(refuse, inbox=InboxLimits(message_bytes=2000)) as scene:
        with pytest.raises(Refused) as caught:
            await scene.conn.request("t")
        assert caught.value.code == "no?"
        assert caught.value.text.startswith("\x01\x01")
        assert scene.world.network.statistics().dials == 1


@virtual
async def test_a_payload_that_cannot_be_read() -> None:
    """Its request is refused, and no handler is called."""
    handlers = Handlers()
    async with open_site(lambda peer: peer.serve_requests(handlers)) as site:
        stranger = await speak(site)
        envelope = msgspec.Raw(b'{"type":"t","payload":1e999}')
        await stranger.tell(Req(1, None, (0, 0), None, envelope))
        answer = await stranger.hear(Fail)
        assert (answer.id, answer.code) == (1, "malformed")
        assert handlers.began == []
        await stranger.leave()


# Who serves


@virtual
async def test_types() -> None:
    """Each has its handler; the others go to who names none, or are refused."""

    async def serves(peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            for name in ("a", "b"):
                nursery.start_soon(peer.serve_requests, named(name), name)
            with trio.CancelScope() as rest:
                scopes.append(rest)
                await peer.serve_requests(named("rest"))
            await trio.sleep_forever()

    def named(name: str) -> Handler:
        async def handle(request: Request[Any]) -> str:
            return name

        return handle

    scopes: list[trio.CancelScope] = []
    async with open_scene(serves=serves) as scene:
        assert [(await scene.conn.request(type)).payload for type in "abc"] == ["a", "b", "rest"]
        scopes[0].cancel()
        await trio.sleep(0.1)
        assert (await scene.conn.request("a")).payload == "a"
        with pytest.raises(Refused) as caught:
            await scene.conn.request("c")
        assert caught.value.code == "unserved"


@virtual
async def test_handlers_that_are_started_together() -> None:
    """Requests that came before are refused by neither of them."""

    async def serves(peer: Peer) -> None:
        await trio.sleep(2)
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(peer.serve_requests, echo, name)

    async with open_scene(serves=serves) as scene, trio.open_nursery() as nursery:
        for name in ("c", "b", "a"):
            nursery.start_soon(scene.conn.request, name)
        with pytest.raises(Refused):
            await scene.conn.request("d")
        assert trio.current_time() >= 2


@virtual
async def test_types_served_twice() -> None:
    """The second is refused, and the first goes on; once it has ended its types are free."""
    async with open_scene() as scene, trio.open_nursery() as nursery:
        scope = await nursery.start(serve_within_scope, scene.peer, echo, "a", "b")
        with pytest.raises(OptionError):
            await scene.peer.serve_requests(echo, "b", "c")
        assert (await scene.conn.request("b", 1)).payload == 1
        scope.cancel()
        await wait_all_tasks_blocked()
        await nursery.start(serve_within_scope, scene.peer, echo, "b", "c")
        assert (await scene.conn.request("c", 1)).payload == 1
        nursery.cancel_scope.cancel()


async def serve_within_scope(
    peer: Any, handler: Handler, *types: str, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.serve_requests, handler, *types)
            task_status.started(scope)


@virtual
async def test_requests_wait_for_the_first_who_serves() -> None:
    """They come before, and are answered then."""

    async def serves(peer: Peer) -> None:
        await trio.sleep(10)
        await peer.serve_requests(echo)

    async with open_scene(serves=serves) as scene:
        assert (await scene.conn.request("t", 1)).payload == 1
        assert trio.current_time() > 10


@virtual
async def test_limit() -> None:
    """No more handlers than `limit` run; the others wait, in order."""
    handlers = Handlers(takes_s=1)
    async with open_scene(handlers, limit=3) as scene, trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(scene.conn.request, "t", number)
            await trio.sleep(0.01)
    assert (len(handlers.began), handlers.most) == (10, 3)
    assert handlers.began == list(range(10))


@virtual
async def test_stop_serving() -> None:
    """Cancelled, it cancels its handlers; their requests and those that wait are `stopped`."""
    handlers, codes = Handlers(), []
    async with open_scene() as scene, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def serve() -> None:
            with scope:
                await scene.peer.serve_requests(handlers, "wait", limit=1)

        async def ask(number: int) -> None:
            with pytest.raises(Refused) as caught:
                await scene.conn.request("wait", number)
            codes.append(caught.value.code)

        nursery.start_soon(serve)
        for number in range(3):
            nursery.start_soon(ask, number)
        await trio.sleep(1)
        scope.cancel()
    assert codes == ["stopped"] * 3
    assert len(handlers.cancelled) == 1


@virtual
async def test_serving_ends_with_the_connection() -> None:
    """`serve_requests` returns at both ends, and later ones at once."""
    ended: list[str] = []

    async def serves(peer: Peer) -> None:
        await peer.serve_requests(echo)
        ended.append("peer")

    async with trio.open_nursery() as nursery:

        async def serve(conn: trio_rt.Connection) -> None:
            await conn.serve_requests(echo)
            ended.append("client")

        async with open_scene(serves=serves) as scene:
            nursery.start_soon(serve, scene.conn)
            await trio.sleep(1)
    assert sorted(ended) == ["client", "peer"]
    await scene.conn.serve_requests(echo)


@virtual
async def test_cancelled_just_as_the_peer_ends() -> None:
    """The task that hands out has been woken, the tasks without work are cancelled: none of
    them is woken by both.
    """
    async with open_scene() as scene:
        scope = trio.CancelScope()

        async def serve() -> None:
            with scope:
                await scene.peer.serve_requests(echo, "t")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            assert (await scene.conn.request("t", 1)).payload == 1
            await wait_all_tasks_blocked()
            scene.peer._session.requests.end()
            scope.cancel()
    assert scope.cancel_called


# Deadlines and cancelling


@virtual
async def test_deadline() -> None:
    """That of who asks bounds the handler, also where the link is gone meanwhile."""
    handlers = Handlers()
    async with open_scene(handlers, reconnect=NEVER) as scene:
        began = trio.current_time()
        for cuts in (False, True):
            with trio.move_on_after(2) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(scene.conn.request, "wait", cuts)
                    await trio.sleep(1)
                    if cuts:
                        scene.world.network.cut()
            assert scope.cancelled_caught
            await trio.sleep(0.03)
        assert handlers.cancelled == [False, True]
        for number, end in enumerate(handlers.ended_at.values()):
            assert end == pytest.approx(began + 2 + number * 2.03, abs=0.03)
        scene.conn.retry_now()


@virtual
async def test_deadline_counts_while_the_request_waits() -> None:
    """One whose time is up before its turn is not run."""
    handlers = Handlers(takes_s=3)
    async with open_scene(handlers, limit=1) as scene, trio.open_nursery() as nursery:
        nursery.start_soon(scene.conn.request, "t", "first")
        await trio.sleep(0.1)
        # No cancel can come: who asked says nothing any more.
        with trio.move_on_after(1), trio.CancelScope():
            call = await scene.conn._ask("t", "late", Priority.NORMAL, _NO_PARTS)
        await trio.sleep(5)
        assert handlers.began == ["first"]
        assert isinstance(call.failure, Refused)
        assert call.failure.code == "deadline"


@pytest.mark.parametrize(
    ("left_s", "expected"),
    [(math.inf, None), (0.0001, 1), (1.5, 1500), (1e14, None), (1e300, None), (0, 0), (-5, 0)],
)
@virtual
async def test_how_long_is_left(left_s: float, expected: int | None) -> None:
    """Rounded up to milliseconds, as far as the protocol's numbers go."""
    deadline = trio.current_time() + left_s
    with trio.CancelScope(deadline=deadline, shield=True):  # noqa: ASYNC100 - not to wait
        found = _left_ms()
    assert found == expected


@virtual
async def test_a_deadline_that_cannot_be_told() -> None:
    """Millions of years are as good as none."""
    async with open_scene(echo) as scene:
        with trio.move_on_after(1e18):
            assert (await scene.conn.request("t", 1)).payload == 1


@virtual
async def test_asking_in_a_cancelled_scope() -> None:
    """It is cancelled, and nothing is accepted."""
    async with open_scene(echo) as scene:
        for _ in range(100):
            with trio.CancelScope() as scope:
                scope.cancel()
                await scene.conn.request("t")
            assert scope.cancelled_caught
            with trio.CancelScope() as scope:
                scope.cancel()
                async with scene.conn.open_exchange("t"):
                    pytest.fail("entered")
            assert scope.cancelled_caught
        assert scene.conn.statistics().accepted == 0
        assert_clean(scene.conn)


@pytest.mark.usefixtures("each_wire")
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.05, 0.5])
@virtual
async def test_cancelled(after_s: float) -> None:
    """At any moment: if the handler has begun, it is cancelled; nothing is left."""
    handlers = Handlers()
    async with open_scene(handlers) as scene:
        with trio.move_on_after(after_s):
            await scene.conn.request("wait", "x")
        await trio.sleep(1)
        assert handlers.began == handlers.cancelled
        assert handlers.running == 0
        assert_clean(scene.conn)
        assert (await scene.conn.request("t", 1)).payload == 1


@virtual
async def test_cancelled_in_the_outbox() -> None:
    """It is withdrawn, and never sent."""
    handlers = Handlers()
    async with open_scene(handlers, reconnect=NEVER) as scene:
        await scene.cut()
        with trio.move_on_after(1):
            await scene.conn.request("t", "never")
        assert scene.conn.statistics().outcomes == {WITHDRAWN: 1}
        assert_clean(scene.conn)
        scene.conn.retry_now()
        assert (await scene.conn.request("t", "this")).payload == "this"
        assert handlers.began == ["this"]


@virtual
async def test_cancelled_while_it_waits_for_room() -> None:
    """It is not accepted; the others are sent."""
    handlers = Handlers()
    outbox = OutboxLimits(messages=2)
    async with open_scene(handlers, reconnect=NEVER, outbox=outbox) as scene:
        await scene.cut()
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(scene.conn.request, "t", number)
            await wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await scene.conn.request("t", "never")
            assert scene.conn.statistics().accepted == 2
            assert len(scene.conn._session.requests._calls) == 2
            scene.conn.retry_now()
        assert sorted(handlers.began) == [0, 1]


@virtual
async def test_cancelled_in_the_servers_queue() -> None:
    """It is not run when its turn comes."""
    handlers = Handlers(takes_s=2)
    async with open_scene(handlers, limit=1) as scene, trio.open_nursery() as nursery:
        nursery.start_soon(scene.conn.request, "t", "first")
        await trio.sleep(0.1)
        with trio.move_on_after(1):
            await scene.conn.request("t", "never")
        await scene.conn.request("t", "last")
        assert handlers.began == ["first", "last"]


@virtual
async def test_cancelled_between_queue_and_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancel comes in the same turn in which the handler's task is started: it does not run."""
    begin = Inquiry.begin

    def begin_and_cancel(inquiry: Inquiry) -> None:
        begin(inquiry)
        if inquiry.message.type == "t" and not inquiry.cancelled:
            inquiry._requests._cancel(inquiry)  # type: ignore[attr-defined]

    handlers = Handlers()
    async with open_scene(handlers) as scene:
        monkeypatch.setattr(Inquiry, "begin", begin_and_cancel)
        with pytest.raises(Refused) as caught:
            await scene.conn.request("t", "never")
        assert caught.value.code == "cancelled"
        assert (await scene.conn.request("u", 1)).payload == 1
        assert handlers.began == [1]


# Links that die

STAGES = [(count, towards) for count in range(0, 420, 23) for towards in ("server", "client")]


@pytest.mark.parametrize(("count", "towards"), STAGES)
@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.usefixtures("each_wire")
@virtual
async def test_cut_anywhere(count: int, towards: Towards, how: CutKind) -> None:
    """Request, parts or reply in flight: the handler runs once, and all arrives once."""
    handlers = Handlers(takes_s=0.3)

    async def handle(request: Request[Any]) -> Any:
        if request.takes_parts:
            await request.send(1)
            await request.send(2)
        return await handlers(request)

    async with open_scene(handle) as scene:
        link = await scene.world.network.wait_connection()
        link.cut_after(count, towards=towards, how=how)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange, scene.conn, [1, 2, "x"])
            assert (await scene.conn.request("t", "y")).payload == "y"
    assert sorted(handlers.began) == ["x", "y"]
    assert not handlers.cancelled


async def exchange(conn: Any, expected: list[Any]) -> None:
    async with conn.open_exchange("t", "x") as parts:
        assert [part.payload async for part in parts] == expected


@pytest.mark.parametrize("codec", CODECS)
@virtual
async def test_cut_while_the_handler_runs(codec: str) -> None:
    """It runs on without a link, and its reply waits for the next one."""
    handlers = Handlers(takes_s=2)
    async with open_scene(handlers, codec=codec, reconnect=NEVER) as scene:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.conn.request, "t", "x")
            await trio.sleep(1)
            await scene.cut()
            await trio.sleep(2)
            assert list(handlers.ended_at) == ["x"]
            scene.conn.retry_now()
        assert handlers.began == ["x"]


@virtual
async def test_session_lost() -> None:
    """What was sent is indeterminate; what was queued goes on in the new session."""
    handlers = Handlers()
    async with open_scene(handlers) as scene, trio.open_nursery() as nursery:
        outcomes: list[Any] = []

        async def ask(type: str, payload: Any) -> None:
            try:
                outcomes.append((await scene.conn.request(type, payload)).payload)
            except Undelivered as error:
                outcomes.append(error.outcome)

        async def read() -> None:
            with pytest.raises(Undelivered):
                async with scene.conn.open_exchange("wait", 2) as parts:
                    await parts.receive()

        nursery.start_soon(ask, "wait", 1)
        nursery.start_soon(read)
        await trio.sleep(1)
        scene.world.network.refuse("server")
        await scene.cut()
        nursery.start_soon(ask, "t", "queued")
        await scene.lose_session()
        await outlast(lambda: len(outcomes) < 2)
        assert outcomes == [INDETERMINATE, "queued"]
        assert sorted(handlers.cancelled) == [1, 2]


@virtual
async def test_connection_ends() -> None:
    """Who still waits learns that nothing will come."""
    failures: list[Any] = []

    async def ask(conn: trio_rt.Connection) -> None:
        try:
            await conn.request("wait")
        except Undelivered as error:
            failures.append(error.outcome)
        try:
            await conn.request("t")
        except trio.ClosedResourceError:
            failures.append("closed")

    handlers = Handlers()
    async with trio.open_nursery() as nursery, open_world() as world:
        await world.serve(lambda peer: peer.serve_requests(handlers))
        async with world.connect() as conn:
            await conn.wait_connected()
            nursery.start_soon(ask, conn)
            await trio.sleep(1)
        await trio.sleep(1)
        assert failures == [INDETERMINATE, "closed"]
        assert handlers.cancelled == [None]
        assert_clean(conn)


@virtual
async def test_connection_cancelled_before_there_was_a_link() -> None:
    """What was queued is withdrawn: that is no lack of a session."""
    failures: list[Undelivered] = []

    async def ask(conn: trio_rt.Connection) -> None:
        with pytest.raises(Undelivered) as caught:
            await conn.request("t")
        failures.append(caught.value)

    async with trio.open_nursery() as nursery, open_world() as world:
        world.network.listen("server", 80)
        world.network.refuse("server")
        with trio.move_on_after(3):
            async with world.connect() as conn:
                nursery.start_soon(ask, conn)
                await trio.sleep_forever()
    assert [failure.outcome for failure in failures] == [WITHDRAWN]


# How many


@virtual
async def test_the_limit_of_calls() -> None:
    """1,024 wait; more wait until one has ended, and one of those may be cancelled."""
    handlers = Handlers(takes_s=1)
    extra = 40
    async with open_scene(handlers, outbox=OutboxLimits(messages=5000)) as scene:
        requests = scene.conn._session.requests
        scopes: list[trio.CancelScope] = []
        answers: list[int] = []

        async def ask(number: int) -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                answers.append((await scene.conn.request("t", number)).payload)

        async with trio.open_nursery() as nursery:
            for number in range(CALLS + extra):
                nursery.start_soon(ask, number)
            await wait_all_tasks_blocked()
            assert requests.is_full
            assert len(requests._calls) == CALLS
            scopes[-1].cancel()  # one that waits, and one that has its place
            scopes[0].cancel()
            while nursery.child_tasks:
                assert len(requests._calls) <= CALLS
                await trio.sleep(0.1)
        assert len(answers) == len(set(answers)) == CALLS + extra - 2


@virtual
async def test_many_requests_and_full_windows() -> None:
    """Neither side takes a message; requests that are under way end all the same."""

    async def ask_back(request: Request[Any]) -> Any:
        if request.takes_parts:
            for number in range(2000):
                await request.send(number)
        await go.wait()
        return request.payload

    go = trio.Event()
    async with open_scene(ask_back) as scene, trio.open_nursery() as nursery:
        await nursery.start(scene.conn.serve_requests, ask_back)
        sides = (scene.conn, scene.peer)
        answers: list[int] = []
        begun = trio.Event()

        async def ask(side: Any, number: int) -> None:
            answers.append((await side.request("t", number)).payload)

        async def stream(side: Any) -> None:
            async with side.open_exchange("t", None) as parts:
                await begun.wait()
                assert [part.payload async for part in parts] == list(range(2000))
                answers.append(-1)

        for side in sides:
            side.subscribe("event")
            nursery.start_soon(stream, side)
            for number in range(20):
                nursery.start_soon(ask, side, number)
        await trio.sleep(1)
        for side in sides:
            for _ in range(600):
                side.send_nowait("event", "x")
        await trio.sleep(1)
        for side in sides:
            numbered = side._session.numbered
            assert numbered is not None
            assert numbered.room()[0] == 0
        begun.set()
        go.set()
        await trio.sleep(5)
        assert len(answers) == 42
        nursery.cancel_scope.cancel()


# Exchanges


@pytest.mark.usefixtures("each_wire")
@pytest.mark.parametrize("codec", CODECS)
@virtual
async def test_exchange(codec: str) -> None:
    """Parts come in order; what the handler returns, if that is something, is the last."""

    async def tell(request: Request[Any]) -> Any:
        assert request.takes_parts
        for word in ("one", "two"):
            await request.send(word)
        return request.payload

    async with open_scene(tell, codec=codec) as scene:
        values: list[Any] = ["three", 0, "", [], False, {"a": None}]
        for last in values:
            async with scene.conn.open_exchange("t", last) as parts:
                found = [part async for part in parts]
                assert [part.payload for part in found] == ["one", "two", last]
                assert {part.type for part in found} == {"t"}
                with pytest.raises(trio.EndOfChannel):
                    await parts.receive()
        async with scene.conn.open_exchange("t", None) as parts:
            assert [part.payload async for part in parts] == ["one", "two"]


@virtual
async def test_typed_parts() -> None:
    """A part that is not as asked for is an error, and the next one may be good."""

    async def tell(request: Request[Any]) -> Any:
        for part in (1, "two", 3):
            await request.send(part)
        return "four"

    async with open_scene(tell) as scene, scene.conn.open_exchange("t", as_=int) as parts:
        assert (await parts.receive()).payload == 1
        with pytest.raises(DecodeError):
            await parts.receive()
        assert (await parts.receive()).payload == 3
        with pytest.raises(DecodeError):
            await parts.receive()
        with pytest.raises(trio.EndOfChannel):
            await parts.receive()


@virtual
async def test_parts_for_a_request() -> None:
    """Who asked for one reply takes no parts; the handler can see that."""
    seen: list[Any] = []

    async def tell(request: Request[Any]) -> Any:
        seen.append(request.takes_parts)
        with pytest.raises(OptionError):
            await request.send(1)
        return "whole"

    async with open_scene(tell) as scene:
        assert (await scene.conn.request("t")).payload == "whole"
    assert seen == [False]


@virtual
async def test_parts_that_cannot_be_sent() -> None:
    """They are the handler's own fault, which it may handle."""

    async def tell(request: Request[Any]) -> Any:
        for bad in (object(), "x" * (1 << 20)):
            with pytest.raises(PayloadError):
                await request.send(bad)
        await request.send("good")

    async with open_scene(tell) as scene, scene.conn.open_exchange("t") as parts:
        assert [part.payload async for part in parts] == ["good"]


@pytest.mark.parametrize("size", [1, 5000, 100_000])
@virtual
async def test_parts_hold_the_handler_back(size: int) -> None:
    """No more than the credit is ever waiting at who does not take them."""
    sent: list[int] = []

    async def tell(request: Request[Any]) -> None:
        for number in range(1000):
            await request.send([number, "x" * size])
            sent.append(number)

    async with open_scene(tell) as scene, scene.conn.open_exchange("t") as parts:
        (call,) = scene.conn._session.requests._calls.values()
        assert isinstance(call, type(parts._call))
        taken = 0
        most, most_bytes = 0, 0
        for _ in range(10):
            await trio.sleep(5)
            most = max(most, len(call._parts))
            most_bytes = max(most_bytes, call._waiting_bytes)
            assert len(sent) - taken == len(call._parts)
            while taken < len(sent):
                assert (await parts.receive()).payload[0] == taken
                taken += 1
                most = max(most, len(call._parts))
                most_bytes = max(most_bytes, call._waiting_bytes)
        limit = PARTS.bytes // (size + 80)
        assert min(PARTS.messages, limit) <= most <= PARTS.messages
        assert PARTS.bytes - size - 100 <= most_bytes or most == PARTS.messages
        assert most_bytes <= PARTS.bytes


@virtual
async def test_large_parts() -> None:
    """Larger than all credit, behind small ones: each goes when nothing waits before it."""
    sizes = [1, 600_000, 10, 300_000, 200_000, 200_000, 900_000, 5]

    async def tell(request: Request[Any]) -> None:
        for size in sizes:
            await request.send("x" * size)

    async with open_scene(tell) as scene, scene.conn.open_exchange("t") as parts:
        assert [len(part.payload) async for part in parts] == sizes


@virtual
async def test_leaving_early_cancels_the_handler() -> None:
    """It stops where it stands, whether it waits for credit or for something else."""
    stopped: list[int] = []

    async def tell(request: Request[Any]) -> None:
        number = 0
        try:
            while True:
                await request.send(number)
                number += 1
                if request.payload:
                    await trio.sleep(request.payload)
        finally:
            stopped.append(number)

    async with open_scene(tell) as scene:
        for pause_s in (0, 0.1):
            async with scene.conn.open_exchange("t", pause_s) as parts:
                await trio.sleep(1)
                assert (await parts.receive()).payload == 0
            await trio.sleep(0.5)
            assert_clean(scene.conn)
        assert stopped[0] == PARTS.messages
        assert stopped[1] == pytest.approx(10, abs=2)


@virtual
async def test_an_exchange_that_is_left_or_closed() -> None:
    """Nothing can be received of it; who is receiving finds out."""
    closed: list[str] = []
    async with open_scene(Handlers()) as scene:

        async def receive(parts: Any, how: str) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await parts.receive()
            closed.append(how)

        async with trio.open_nursery() as nursery:
            async with scene.conn.open_exchange("wait") as parts:
                nursery.start_soon(receive, parts, "left")
                await trio.sleep(1)
            await trio.sleep(1)
            with pytest.raises(trio.ClosedResourceError):
                await parts.receive()
            async with scene.conn.open_exchange("wait") as parts:
                nursery.start_soon(receive, parts, "closed")
                await trio.sleep(1)
                await parts.aclose()
                await trio.sleep(1)
                assert closed == ["left", "closed"]


@virtual
async def test_two_consumers() -> None:
    async with (
        open_scene(Handlers()) as scene,
        scene.conn.open_exchange("wait") as parts,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(parts.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await parts.receive()
        nursery.cancel_scope.cancel()


@virtual
async def test_several_tasks_send_parts() -> None:
    """Each waits for credit, none is forgotten, and one that is cancelled troubles no other."""

    async def tell(request: Request[Any]) -> None:
        async def send(name: int) -> None:
            for number in range(300):
                await request.send([name, number])

        async with trio.open_nursery() as nursery:
            for name in range(3):
                nursery.start_soon(send, name)
            with trio.move_on_after(1):
                await send(99)

    async with open_scene(tell) as scene, scene.conn.open_exchange("t") as parts:
        await trio.sleep(2)
        found = [part.payload async for part in parts]
    for name in range(3):
        assert [number for who, number in found if who == name] == list(range(300))


@virtual
async def test_receiving_is_cancelled() -> None:
    """Nothing is lost by it."""

    async def tell(request: Request[Any]) -> None:
        for number in range(50):
            await request.send(number)
            await trio.sleep(0.1)

    async with open_scene(tell) as scene, scene.conn.open_exchange("t") as parts:
        found: list[int] = []
        while len(found) < 50:
            with trio.move_on_after(0.03):
                found.append((await parts.receive()).payload)
        assert found == list(range(50))


@pytest.mark.usefixtures("each_wire")
@pytest.mark.parametrize("codec", CODECS)
@virtual
async def test_ten_thousand_parts_over_cut_links(codec: str) -> None:
    """None is lost or doubled, in whatever direction the links are cut."""
    async with open_scene(count, codec=codec) as scene, trio.open_nursery() as nursery:

        async def cut() -> None:
            for number in range(40):
                link = await scene.world.network.wait_connection()
                towards: Towards = "server" if number % 2 else "client"
                link.cut_after(number * 37 * (1 if number % 2 else 30), towards=towards)
                await link.wait_ended()

        nursery.start_soon(cut)
        async with scene.conn.open_exchange("count", 10_000) as parts:
            assert [part.payload async for part in parts] == list(range(10_000))
        assert scene.world.network.statistics().cuts > 5
        nursery.cancel_scope.cancel()


# Requests within requests


@virtual
async def test_a_handler_asks_back() -> None:
    """To any depth: each handler asks who asked it for one less."""

    def asker(other: Callable[[], Any]) -> Handler:
        async def handle(request: Request[Any]) -> Any:
            if request.payload == 0:
                return []
            reply = await other().request("down", request.payload - 1)
            return [request.payload, *reply.payload]

        return handle

    async with open_scene() as scene, trio.open_nursery() as nursery:
        await nursery.start(scene.conn.serve_requests, asker(lambda: scene.peer))
        await nursery.start(scene.peer.serve_requests, asker(lambda: scene.conn))
        async with trio.open_nursery() as askers:
            for side in (scene.conn, scene.peer) * 5:
                askers.start_soon(ask_down, side)
        nursery.cancel_scope.cancel()


async def ask_down(side: Any) -> None:
    assert (await side.request("down", 10)).payload == list(range(10, 0, -1))


@virtual
async def test_the_deadline_travels_on() -> None:
    """A handler that asks on is bounded, and so is whom it asks."""
    handlers = Handlers()

    async def ask_on(request: Request[Any]) -> Any:
        return (await scene.peer.request("wait", 1)).payload

    async with open_scene() as scene, trio.open_nursery() as nursery:
        await nursery.start(scene.conn.serve_requests, handlers)
        await nursery.start(scene.peer.serve_requests, ask_on)
        with trio.move_on_after(2):
            await scene.conn.request("t")
        await trio.sleep(0.5)
        assert handlers.cancelled == [1]
        nursery.cancel_scope.cancel()


@virtual
async def test_trace() -> None:
    """The trace of who asks is that of the handler, and goes on to whom it asks."""
    seen: list[str | None] = []

    async def handle(request: Request[Any]) -> None:
        seen.append(trio_rt.traceparent.get())
        if request.payload:
            await scene.peer.request("t", request.payload - 1)

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with open_scene() as scene, trio.open_nursery() as nursery:
        await nursery.start(scene.conn.serve_requests, handle)
        await nursery.start(scene.peer.serve_requests, handle)
        await scene.conn.request("t")
        token = trio_rt.traceparent.set(trace)
        await scene.conn.request("t", 1)
        trio_rt.traceparent.reset(token)
        await scene.conn.request("t")
        assert seen == [None, trace, trace, None]
        nursery.cancel_scope.cancel()


# The tasks of handlers


MARK: ContextVar[str] = ContextVar("mark", default="")


@pytest.mark.parametrize(("limit", "at_once"), [(64, 1), (2, 2), (2, 6), (3, 7)])
@virtual
async def test_each_request_has_a_context_of_its_own(limit: int, at_once: int) -> None:
    """What one handler sets in the context of its task, the next does not find."""
    found: list[str] = []

    async def handle(request: Request[Any]) -> None:
        found.append(MARK.get())
        MARK.set("left behind")
        await trio.sleep(0.1)

    async with open_scene(handle, limit=limit) as scene:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(scene.conn.request, "t")
    assert found == [""] * 3 * at_once


@pytest.mark.parametrize("limit", [1, 64])
@virtual
async def test_what_ended_one_handler_does_not_end_the_next(limit: int) -> None:
    """A cancelled request and a passed deadline are of that request alone."""
    handlers = Handlers(0.1)
    async with open_scene(handlers, limit=limit) as scene:
        for number in range(3):
            assert (await scene.conn.request("t", number)).payload == number
            with trio.move_on_after(0.05):
                await scene.conn.request("wait", f"late {number}")
            with trio.move_on_after(0.3):
                assert (await scene.conn.request("t", f"in time {number}")).payload
        await trio.sleep(0.5)
        assert (await scene.conn.request("t", "last")).payload == "last"
    assert handlers.cancelled == ["late 0", "late 1", "late 2"]


@virtual
async def test_a_deadline_that_passes_at_the_end_is_of_no_other() -> None:
    """A handler that outlives its deadline without a checkpoint leaves a clean task behind."""

    async def handle(request: Request[Any]) -> Any:
        if request.payload == "slow":
            await trio.sleep(0.05)
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
        else:
            await trio.sleep(0.01)
        return request.payload

    async with open_scene(handle, limit=1) as scene:
        with trio.move_on_after(0.1):
            await scene.conn.request("t", "slow")
        assert (await scene.conn.request("t", "next")).payload == "next"


@virtual
async def test_a_deadline_that_was_kept_is_of_no_other() -> None:
    """The next request, which has none, may take longer."""

    async def handle(request: Request[Any]) -> Any:
        await trio.sleep(request.payload)
        return request.payload

    async with open_scene(handle, limit=1) as scene:
        with trio.fail_after(0.5):
            assert (await scene.conn.request("t", 0.1)).payload == 0.1
        answered: list[Any] = []

        async def ask() -> None:
            answered.append((await scene.conn.request("t", 0.9)).payload)

        # The test has a deadline, which requests would inherit; a system task has none.
        trio.lowlevel.spawn_system_task(ask)
        await trio.sleep(2)
        assert answered == [0.9]


@virtual
async def test_idle_tasks_do_not_outlive_the_connection() -> None:
    """Serving ends with the connection, just after a request too."""
    async with open_world() as world, trio.open_nursery() as nursery:
        peers: list[Peer] = []
        served = trio.Event()

        async def handler(peer: Peer) -> None:
            peers.append(peer)
            await trio.sleep_forever()

        async def serve(conn: trio_rt.Connection) -> None:
            await conn.serve_requests(echo)
            served.set()

        await world.serve(handler)
        async with world.connect() as conn:
            nursery.start_soon(serve, conn)
            await conn.wait_connected()
            await outlast(lambda: not peers)
            assert (await peers[0].request("t", 1)).payload == 1
        with trio.fail_after(IDLE_S / 2):
            await served.wait()


@virtual
async def test_tasks_without_work_end() -> None:
    """They are kept for a second after the last request, for the next ones, and no longer."""
    async with open_scene(Handlers(0.1), limit=10) as scene:
        await scene.conn.request("t")
        await trio.sleep(2 * IDLE_S)
        before = tasks()
        for _ in range(2):
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for number in range(10):
                        nursery.start_soon(scene.conn.request, "t", number)
                assert tasks() == before + 10
            await trio.sleep(2 * IDLE_S)
            assert tasks() == before


# Plain links


@pytest.mark.parametrize("plain_at", ["client", "server"])
@virtual
async def test_no_session(plain_at: str) -> None:
    """Neither verb works on a plain link, before there is one or after."""
    async with open_world() as world:
        failures: list[str] = []

        async def handler(peer: Peer) -> None:
            await refuses(peer)
            failures.append("peer")
            await trio.sleep_forever()

        async def refuses(talker: Any) -> None:
            with pytest.raises(NoSession):
                await talker.request("t")
            with pytest.raises(NoSession):
                async with talker.open_exchange("t"):
                    pytest.fail("entered")
            assert_clean(talker)

        await world.serve(handler, session=None if plain_at == "server" else SessionLimits())
        session = "off" if plain_at == "client" else "offer"
        async with world.connect(session=session) as conn:
            await refuses(conn)
            await conn.wait_connected()
            await refuses(conn)
            await trio.sleep(1)
            assert failures == ["peer"]
            if plain_at == "client":
                with pytest.raises(NoSession):
                    await conn.serve_requests(echo)


@virtual
async def test_raw_has_no_such_verbs() -> None:
    async with open_world() as world:
        await world.serve(lambda peer: trio.sleep_forever(), codec="raw")
        async with world.connect(codec="raw") as conn:
            for verb in ("request", "open_exchange", "serve_requests"):
                assert not hasattr(conn, verb)


# Servers of others


class Dialect(trio_rt.JsonCodec):
    """{"op", "args", "ref"} out; {"type", "payload"} in, of which replies have a "key" "re:<ref>"."""

    def encode(self, type: str, payload: Any, meta: trio_rt.Meta) -> bytes:
        return msgspec.json.encode({"op": type, "args": payload, "ref": meta.id})

    def correlate(self, message: Message[Any]) -> str | None:
        key = message.key or ""
        return key.removeprefix("re:") if key.startswith("re:") else None


def answer(said: str | None, payload: Any) -> str:
    assert said is not None
    return json.dumps({"type": "ok", "payload": payload, "key": f"re:{json.loads(said)['ref']}"})


@pytest.mark.usefixtures("each_wire")
@virtual
async def test_foreign_server() -> None:
    """The codec finds the replies, in whatever order; other messages go to the streams."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            first, second = await far.text(), await far.text()
            await far.send('{"type":"news","payload":1}', answer(second, "second"))
            await far.send(answer(first, "first"), '{"type":"ok","key":"re:nobody"}')
            await far.read_all()

        world.script(script)
        async with world.connect(codec=Dialect()) as conn:
            with conn.subscribe() as stream:
                async with trio.open_nursery() as nursery:
                    for name in ("first", "second"):
                        nursery.start_soon(expect_reply, conn, name)
                        await wait_all_tasks_blocked()
                await trio.sleep(1)
                items = []
                while True:
                    try:
                        item = stream.receive_nowait()
                    except trio.WouldBlock:
                        break
                    assert isinstance(item, Message)
                    items.append(item.type)
            assert items == ["news", "ok"]
            assert_clean(conn)
            with pytest.raises(NoSession):
                async with conn.open_exchange("t"):
                    pytest.fail("entered")
            with pytest.raises(NoSession):
                await conn.serve_requests(echo)


async def expect_reply(conn: trio_rt.Connection, name: str) -> None:
    assert (await conn.request("get", name, as_=str)).payload == name


@pytest.mark.usefixtures("each_wire")
@virtual
async def test_foreign_server_is_lost() -> None:
    """A request that is out has no reply on the next link; one that waits is sent there."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            said = await far.text()
            if far.number == 1:
                await trio.sleep(1)
                return
            await far.send(answer(said, "late"))
            await far.read_all()

        world.script(script)
        async with world.connect(codec=Dialect(), reconnect=SOON) as conn:
            with pytest.raises(Undelivered) as caught:
                await conn.request("get")
            assert caught.value.outcome is INDETERMINATE
            assert (await conn.request("get")).payload == "late"
            assert_clean(conn)


@virtual
async def test_foreign_request_cancelled() -> None:
    """Its reply, if it comes, is a message like others."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            said = await far.text()
            await trio.sleep(2)
            await far.send(answer(said, "late"))
            await far.read_all()

        world.script(script)
        async with world.connect(codec=Dialect()) as conn:
            with conn.subscribe("ok") as stream:
                with trio.move_on_after(1):
                    await conn.request("get")
                assert_clean(conn)
                item = await stream.receive()
                assert isinstance(item, Message)
                assert item.payload == "late"


# Peers that do what they like

TERMS = Terms((256, 1 << 22), (0, 0), (1000, 1 << 22), 1 << 20)
ENVELOPE = msgspec.Raw(b'{"type":"t"}')
BAD = msgspec.Raw(b"5")


class Speaker:
    """One side of a session, which says what it is told to."""

    def __init__(self, send: Any, text: Any, close: Any) -> None:
        self.send, self.text, self.close = send, text, close
        self.said = self.heard = 0
        self.waiting: list[Any] = []

    async def tell(self, *frames: Control) -> None:
        header = Header(self.said + 1, 0, self.heard, self.heard, 0, 0, [])
        header.consumed = 0
        self.said += len(frames)
        encoded = [JSON_SYNTAX.encode(frame) for frame in frames]
        await self.send(JSON_SYNTAX.join(header, encoded).decode())

    async def hear(self, kind: Any) -> Any:
        """The next frame of this kind."""
        while True:
            while not self.waiting:
                _, frames = JSON_SYNTAX.split(await self.text())
                self.waiting += [JSON_SYNTAX.control(each) for each in frames if each[0] == "["]
                self.heard += len(frames)
            frame = self.waiting.pop(0)
            if isinstance(frame, kind):
                return frame

    async def leave(self) -> None:
        await self.close()


async def speak(site: Any) -> Any:
    """A client of `site`."""
    stranger: Stranger = await site.enter(protocols=(JSON_SYNTAX.subprotocol,))
    await stranger.ask(JSON_SYNTAX.encode(Hello("", "", TERMS, Position())).decode())
    speaker = Speaker(stranger.send, stranger.text, stranger.aclose)
    speaker.stranger = stranger  # type: ignore[attr-defined]
    return speaker


def asked(id: int, deadline_ms: int | None = None, parts: tuple[int, int] = (9, 900)) -> Req:
    return Req(id, deadline_ms, parts, None, ENVELOPE)


@pytest.mark.parametrize(
    "frames",
    [
        [End(1, ENVELOPE)],
        [Fail(1, "no", "")],
        [Part(1, ENVELOPE)],
        [asked(1), asked(1)],
        [asked(number) for number in range(CALLS + 1)],
        [asked(1), More(1, (1, 1))],
    ],
    ids=["end", "fail", "part", "twice", "too many", "more"],
)
@virtual
async def test_hostile_client(frames: list[Control], caplog: pytest.LogCaptureFixture) -> None:
    """Its link is closed with 1002 and its session is over; others notice nothing."""
    handlers = Handlers()
    gone: list[str] = []

    async def handle(peer: Peer) -> None:
        await peer.serve_requests(handlers, "wait", "t", limit=2000)
        gone.append(peer.session_id)

    site_inbox = InboxLimits(messages=5000)
    async with open_site(handle, inbox=site_inbox) as site, site.connect() as conn:
        asker = trio.CancelScope()

        async def ask() -> None:
            with asker:
                await conn.request("wait", "good")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            speaker = await speak(site)
            handlers.takes_s = 50
            await speaker.tell(*frames)
            assert await speaker.stranger.read_all() is not None
            assert speaker.stranger.code == 1002
            await speaker.leave()
            await trio.sleep(1)
            assert len(gone) == 1
            assert "good" not in handlers.cancelled
            assert handlers.running == 1
            asker.cancel()
        handlers.takes_s = 0
        assert (await conn.request("t", 1)).payload == 1
        assert complaints(caplog) == []


@virtual
async def test_a_client_that_is_late() -> None:
    """Cancels and credit for requests that there are not are nothing."""
    async with open_site(lambda peer: peer.serve_requests(echo)) as site:
        speaker = await speak(site)
        await speaker.tell(Cancel(9), More(9, (5, 5)), asked(1))
        assert (await speaker.hear(End)).id == 1
        await speaker.tell(Cancel(1), More(1, (5, 5)), asked(2))
        assert (await speaker.hear(End)).id == 2
        await speaker.leave()


@virtual
async def test_a_client_that_asks_for_any_number_of_parts() -> None:
    """What it does not take is bounded by the server's own measure."""
    sent: list[int] = []

    async def tell(request: Request[Any]) -> None:
        while True:
            await request.send(len(sent))
            sent.append(1)

    async with open_site(lambda peer: peer.serve_requests(tell)) as site:
        speaker = await speak(site)
        await speaker.tell(asked(1, parts=(2**50, 2**50)))
        await trio.sleep(10)
        assert len(sent) == PARTS.messages
        await speaker.leave()


@pytest.mark.parametrize(
    "frames",
    [
        [End(7, ENVELOPE)],
        [Fail(7, "no", "")],
        [Part(7, ENVELOPE)],
        [End(1, BAD)],
        [Part(1, BAD)],
        [Part(1, ENVELOPE)] * (PARTS.messages + 1),
        [Fail(1, "no", ""), Fail(1, "no", "")],
    ],
    ids=["end", "fail", "part", "bad end", "bad part", "credit", "twice"],
)
@virtual
async def test_hostile_server(frames: list[Control]) -> None:
    """The link ends with 1002, what was asked is indeterminate, and a new session begins."""
    async with open_world() as world:
        codes: list[int | None] = []

        async def script(far: FarEnd) -> None:
            speaker = await welcome(far)
            await speaker.hear(Req)
            if far.number == 1:
                await speaker.tell(*frames)
                frame = (await far.read_all())[-1]
                codes.append(int.from_bytes(bytes(frame.data)[:2], "big"))
            else:
                await speaker.tell(End(2, ENVELOPE))
                await far.read_all()

        world.script(script)
        async with world.connect(reconnect=SOON) as conn, conn.open_exchange("t") as parts:
            await trio.sleep(1)
            failure: Any = parts._call.failure
            if frames[0] == Fail(1, "no", ""):
                assert isinstance(failure, Refused)
            else:
                assert failure.outcome is INDETERMINATE
            assert codes == [1002]
            assert (await conn.request("t")).payload is None
            assert_clean(conn)


async def welcome(far: FarEnd) -> Speaker:
    """Accept a client that offers a session, and welcome it."""
    names = [Subprotocol(JSON_SYNTAX.subprotocol)]
    far._protocol = ServerProtocol(subprotocols=names, logger=QUIET)
    await far.accept()
    assert await far.text() is not None
    words = Welcome(f"s{far.number}", "token", False, TERMS, Position())
    await far.send(JSON_SYNTAX.encode(words).decode())
    return Speaker(far.send, far.text, far.close)


# Trio's rules


@virtual
async def test_checkpoints() -> None:
    """Every verb is a checkpoint; those that go by a pace are so when it is due."""

    async def tell(request: Request[Any]) -> None:
        with assert_checkpoints():
            await request.send(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await request.send(2)
        assert scope.cancelled_caught

    async with open_scene(tell) as scene:
        conn = scene.conn
        async with AsyncExitStack() as stack:
            with assert_checkpoints():
                parts = await stack.enter_async_context(conn.open_exchange("t"))
            await trio.sleep(1)
            with assert_checkpoints():
                assert (await parts.receive()).payload == 1
            with pytest.raises(trio.EndOfChannel):
                await parts.receive()
            with assert_checkpoints():
                await parts.aclose()
    with assert_checkpoints():
        await conn.serve_requests(echo)


@virtual
async def test_no_tasks_are_left() -> None:
    """Handlers, and what waits for them, end with their requests."""
    async with open_scene(Handlers()) as scene:
        await scene.conn.request("t")  # the writers are there from now on
        await trio.sleep(2 * IDLE_S)
        before = tasks()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(scene.conn.request, "wait")
            await trio.sleep(1)
            assert tasks() >= before + 40
            nursery.cancel_scope.cancel()
        await trio.sleep(2 * IDLE_S)
        assert tasks() == before


def tasks() -> int:
    """How many tasks there are."""

    def below(task: trio.lowlevel.Task) -> Iterable[trio.lowlevel.Task]:
        yield task
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from below(child)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return sum(1 for _ in below(root))


# Real sockets


async def test_over_real_sockets() -> None:
    """Asked from both ends, with parts, at once."""

    async def handle(peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.serve_requests, count, "count")
            nursery.start_soon(peer.serve_requests, ask_back, "ask back")

    async def ask_back(request: Request[Any]) -> Any:
        return request.payload

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_rt.serve, handle, "127.0.0.1", 0)
            async with trio_rt.connect(server.url) as conn:
                async with conn.open_exchange("count", 5000) as parts:
                    assert (await conn.request("ask back", "x")).payload == "x"
                    assert [part.payload async for part in parts] == list(range(5000))
                with pytest.raises(Refused):
                    await conn.request("other")
                assert_clean(conn)
            nursery.cancel_scope.cancel()


@virtual
async def test_a_batch_that_the_wire_refused_comes_first() -> None:
    """What was taken for the wire in the midst of a turn has lower numbers than what follows."""

    async def handler(peer: Peer) -> None:
        with peer.subscribe() as stream:
            async for _ in stream:
                pass

    async with open_world() as world:
        await world.serve(handler)
        async with world.connect() as conn:
            await conn.wait_connected()
            await wait_all_tasks_blocked()
            session, link = conn._session, conn._link
            assert session.numbered is not None
            assert link is not None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(link.wire), "send_nowait", lambda wire, batch: False)
                for _ in range(40):
                    session.numbered.note(Cancel(7))  # of nothing: ignored
                session.hurry()
            assert link._taken
            conn._mailbox.direct = link._direct  # the reader has run
            delivery = conn.send_nowait("x", 1)
            await delivery.wait_acked()
            assert not link._taken
            assert conn._link is link

"""What a connection and a peer can do alike: send, deliver, subscribe, and the books."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_rt
from tests.helpers import FarEnd, World, echo, either_link, open_world, outlast
from tests.testing.support import virtual
from trio_rt import (
    Conflate,
    DecodeError,
    Gap,
    Message,
    NoSession,
    Offline,
    OptionError,
    OutboxLimits,
    Outcome,
    PayloadError,
    Phase,
    Priority,
    Reconnect,
    StreamOverflow,
    Undelivered,
)
from trio_rt.message import INDETERMINATE, WITHDRAWN, WRITTEN, dropped

LOW, NORMAL, HIGH, CRITICAL = Priority

NEVER = Reconnect(first_s=1e6, cap_s=1e6)


async def take(peer: Any, into: list[Any]) -> None:
    """A handler: read to the end, and answer nothing."""
    with peer.subscribe() as stream:
        async for item in stream:
            into.append(item.payload)  # noqa: PERF401 - it is cut short


@asynccontextmanager
async def offline(**options: Any) -> AsyncIterator[tuple[trio_rt.Connection, list[Any], World]]:
    """A connection whose server refuses it, what the server got, and their world."""
    async with open_world() as world:
        got: list[Any] = []

        await world.serve(partial(take, into=got))
        world.network.refuse("server")
        options.setdefault("close_timeout_s", 0)
        async with world.connect(reconnect=NEVER, **options) as conn:
            await outlast(lambda: conn.state.retry_at is None, 0.01)
            yield conn, got, world


async def go_online(conn: trio_rt.Connection, world: World) -> None:
    """Let the server accept, and wait until what is queued has arrived."""
    world.network.accept("server")
    conn.retry_now()
    await conn.wait_connected()
    await conn.drain()
    await trio.sleep(1)


def adds_up(conn: trio_rt.Connection | Any) -> bool:
    books = conn.statistics()
    settled, queued = sum(books.outcomes.values()), sum(books.queued.values())
    return bool(books.accepted == settled + queued + books.in_flight)


# Sending


@virtual
async def test_send_returns_a_delivery() -> None:
    """`send` and `send_nowait` return a delivery whose id is the message's on the wire."""
    async with open_world() as world:
        texts: list[str | None] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            texts.extend([await far.text() for _ in range(2)])
            await far.read_all()

        world.script(script)
        async with world.connect() as conn:
            first = await conn.send("a", {"x": 1}, priority=HIGH, key="k")
            second = conn.send_nowait("b")
            assert first.outcome is None
            await first.wait_written()
            await second.wait_written()
            assert first.outcome == second.outcome == WRITTEN
            with pytest.raises(NoSession):
                await first.wait_acked()
            await trio.sleep(1)
        assert first.id != second.id
        assert f'"id":"{first.id}"' in str(texts[0])
        assert '"type":"a","payload":{"x":1}' in str(texts[0])
        assert '"priority":"high","key":"k"' in str(texts[0])
        assert f'"id":"{second.id}"' in str(texts[1])


@virtual
async def test_queued_messages_leave_most_urgent_first() -> None:
    """What was queued offline leaves by priority, in order within one."""
    async with offline() as (conn, got, world):
        for number, priority in enumerate([LOW, NORMAL, HIGH, CRITICAL, NORMAL, CRITICAL]):
            await conn.send("n", number, priority=priority)
        await go_online(conn, world)
        assert got == [3, 5, 2, 1, 4, 0]


@virtual
async def test_key() -> None:
    """A message takes the place of the queued one with its key."""
    async with offline() as (conn, got, world):
        old = await conn.send("n", "old", key="k")
        await conn.send("n", "other")
        await conn.send("n", "new", key="k")
        assert old.outcome == dropped("replaced")
        with pytest.raises(Undelivered, match="replaced"):
            await old.wait_written()
        await go_online(conn, world)
        assert got == ["new", "other"]
        assert adds_up(conn)


@virtual
async def test_order() -> None:
    """Messages of one `order` keep their order, whatever their priority."""
    async with offline() as (conn, got, world):
        await conn.send("n", 1, priority=LOW, order="o")
        await conn.send("n", 2, priority=CRITICAL, order="o")
        await conn.send("n", 3, priority=NORMAL)
        await go_online(conn, world)
        assert got == [3, 1, 2]


@virtual
async def test_ttl() -> None:
    """A message whose `ttl_s` is over is dropped at that moment, and never sent."""
    async with offline() as (conn, got, world):
        delivery = await conn.send("n", 1, ttl_s=5)
        await conn.send("n", 2, ttl_s=50)
        await trio.sleep(4.9)
        assert delivery.outcome is None
        await trio.sleep(0.2)
        assert delivery.outcome == dropped("expired")
        await go_online(conn, world)
        assert got == [2]
        assert adds_up(conn)


@virtual
async def test_ttl_of_a_send_that_waits_for_room() -> None:
    """A send whose `ttl_s` is over while it waits for room is accepted and expired."""
    async with offline(outbox=OutboxLimits(messages=1)) as (conn, _, _world):
        await conn.send("n")
        began = trio.current_time()
        delivery = await conn.send("n", ttl_s=3)
        assert trio.current_time() - began == pytest.approx(3)
        assert delivery.outcome == dropped("expired")
        assert adds_up(conn)


@virtual
async def test_when_offline() -> None:
    """Offline, "fail" raises and accepts nothing, "drop" drops, "queue" queues."""
    async with offline() as (conn, got, world):
        with pytest.raises(Offline):
            await conn.send("n", when_offline="fail")
        with pytest.raises(Offline):
            conn.send_nowait("n", when_offline="fail")
        assert conn.statistics().accepted == 0
        delivery = await conn.send("n", when_offline="drop")
        assert delivery.outcome == dropped("offline")
        with pytest.raises(Undelivered):
            await conn.deliver("n", when_offline="drop")
        await conn.send("n", "queued", when_offline="queue")
        await go_online(conn, world)
        for way in ("fail", "drop"):
            await conn.deliver("n", way, when_offline=way)
        await trio.sleep(1)
        assert got == ["queued", "fail", "drop"]
        assert adds_up(conn)


@virtual
async def test_ephemeral_messages_do_not_outlive_the_link() -> None:
    """What was sent with "drop" or "fail", and had not left, is dropped with the link."""
    async with offline(outbox=OutboxLimits(rate_per_s=1)) as (conn, got, world):
        await go_online(conn, world)
        for number in range(3):
            await conn.send("n", number)
        drop = await conn.send("n", "drop", when_offline="drop")
        fail = await conn.send("n", "fail", when_offline="fail")
        kept = await conn.send("n", "kept")
        world.network.cut()
        await trio.sleep(0.1)
        assert drop.outcome == fail.outcome == dropped("offline")
        assert kept.outcome is None
        await go_online(conn, world)
        assert got[-1] == "kept"
        assert adds_up(conn)


@virtual
async def test_an_ephemeral_send_that_waits_for_room() -> None:
    """A "drop" that waits for room when the link is lost waits no longer: it is dropped."""
    limits = OutboxLimits(messages=1, rate_per_s=0.01)
    async with offline(outbox=limits) as (conn, _, world):
        await go_online(conn, world)
        await conn.send("n")
        await conn.send("n")
        deliveries: list[trio_rt.Delivery] = []

        async def send() -> None:
            deliveries.append(await conn.send("n", when_offline="drop"))

        world.nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert conn.statistics().waiting == 1
        world.network.cut()
        await trio.sleep(1)
        assert [delivery.outcome for delivery in deliveries] == [dropped("offline")]
        assert adds_up(conn)


# Delivering and withdrawing (P3)


@virtual
async def test_deliver_waits_until_it_is_written() -> None:
    """`deliver` returns when the kernel has taken the message."""
    async with offline() as (conn, got, world):
        ended: list[float] = []

        async def deliver() -> None:
            await conn.deliver("n", 1)
            ended.append(trio.current_time())

        world.nursery.start_soon(deliver)
        await trio.sleep(10)
        assert not ended
        await go_online(conn, world)
        assert ended
        assert got == [1]


@virtual
async def test_deliver_cancelled_before_the_commit() -> None:
    """A `deliver` cancelled before the message is committed: it is never sent."""
    async with offline() as (conn, got, world):
        with trio.move_on_after(1) as scope:
            await conn.deliver("n", 1)
        assert scope.cancelled_caught
        assert conn.statistics().outcomes == {WITHDRAWN: 1}
        await go_online(conn, world)
        assert got == []


@either_link
@virtual
async def test_deliver_cancelled_after_the_commit(session: str, best: Outcome) -> None:
    """A `deliver` cancelled when the link has the message changes nothing: it arrives."""
    async with offline(session=session) as (conn, got, world):
        await go_online(conn, world)
        world.network.stall()
        with trio.move_on_after(1) as scope:
            await conn.deliver("n", "x" * 300_000)
        assert scope.cancelled_caught
        assert conn.statistics().outcomes == {}
        assert conn.statistics().in_flight == 1
        world.network.resume()
        await conn.drain()
        await trio.sleep(1)
        assert [len(text) for text in got] == [300_000]
        assert conn.statistics().outcomes == {best: 1}


@either_link
@virtual
async def test_withdraw(session: str, best: Outcome) -> None:
    """`withdraw()` takes back what is queued; of what is committed or settled, nothing."""
    async with offline(session=session) as (conn, got, world):
        queued = await conn.send("n", "queued")
        assert queued.withdraw()
        assert not queued.withdraw()
        assert queued.outcome == WITHDRAWN
        await go_online(conn, world)
        written = await conn.send("n", "written")
        assert not written.withdraw()
        world.network.stall()
        committed = await conn.send("n", "x" * 300_000)
        await trio.sleep(1)
        assert not committed.withdraw()
        assert committed.outcome is None
        world.network.resume()
        await conn.drain()
        await trio.sleep(1)
        assert len(got) == 2
        assert conn.statistics().outcomes == {WITHDRAWN: 1, best: 2}


@virtual
async def test_deliver_on_a_link_that_dies() -> None:
    """`deliver` raises `Undelivered` with `indeterminate` if a plain link dies under it."""
    async with offline(session="off") as (conn, _, world):
        await go_online(conn, world)
        world.network.stall()

        async def cut() -> None:
            await trio.sleep(1)
            world.network.cut()

        world.nursery.start_soon(cut)
        with pytest.raises(Undelivered) as caught, trio.fail_after(5):
            await conn.deliver("n", "x" * 300_000)
        assert caught.value.outcome == INDETERMINATE


# Room


@virtual
async def test_no_room() -> None:
    """With a full outbox `send_nowait` raises `WouldBlock`, and `send` waits for room."""
    async with offline(outbox=OutboxLimits(messages=2)) as (conn, got, world):
        first = await conn.send("n", 1)
        await conn.send("n", 2)
        with pytest.raises(trio.WouldBlock):
            conn.send_nowait("n", 3)
        with trio.move_on_after(1) as scope:
            await conn.send("n", 4)
        assert scope.cancelled_caught
        assert conn.statistics().accepted == 2
        world.nursery.start_soon(conn.send, "n", 5)
        await wait_all_tasks_blocked()
        assert conn.statistics().waiting == 1
        assert first.withdraw()
        await wait_all_tasks_blocked()
        assert conn.statistics().waiting == 0
        await go_online(conn, world)
        assert got == [2, 5]
        assert adds_up(conn)


@virtual
async def test_eviction() -> None:
    """A full outbox gives up the oldest of the lowest lane for a more urgent message."""
    async with offline(outbox=OutboxLimits(messages=2)) as (conn, got, world):
        low = await conn.send("n", 1, priority=LOW)
        await conn.send("n", 2)
        await conn.send("n", 3, priority=HIGH)
        assert low.outcome == dropped("evicted")
        await go_online(conn, world)
        assert got == [3, 2]


@virtual
async def test_larger_than_the_outbox() -> None:
    """What could never find room is refused, and does not wait for ever."""
    async with offline(outbox=OutboxLimits(total_bytes=1000)) as (conn, _, _world):
        with pytest.raises(PayloadError), trio.fail_after(5):
            await conn.send("n", "x" * 1000)
        assert conn.statistics().accepted == 0


@virtual
async def test_rate() -> None:
    """`rate_per_s` bounds how fast messages leave."""
    async with offline(outbox=OutboxLimits(rate_per_s=10)) as (conn, got, world):
        for number in range(50):
            conn.send_nowait("n", number)
        began = trio.current_time()
        await go_online(conn, world)
        assert 4.5 < trio.current_time() - began - 1 < 5.5
        assert got == list(range(50))


# Arguments that cannot be


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("ttl_s", {"ttl_s": -1}),
        ("ttl_s", {"ttl_s": math.nan}),
        ("ttl_s", {"ttl_s": "5"}),
        ("priority", {"priority": 7}),
        ("priority", {"priority": "high"}),
        ("when_offline", {"when_offline": "wait"}),
        ("key", {"key": 5}),
        ("order", {"order": ["o"]}),
        ("type", {"type": 5}),
        ("payload", {"payload": object()}),
        ("payload", {"payload": math.inf}),
        ("payload", {"payload": "\ud800"}),
        ("payload", {"payload": "x" * (1 << 20)}),
    ],
)
@virtual
async def test_bad_arguments(field: str, arguments: dict[str, Any]) -> None:
    """A bad argument raises at the call, names the field, and nothing is accepted."""
    async with offline() as (conn, _, _world):
        call = {"type": "n", **arguments}
        for send in (conn.send, conn.deliver):
            with pytest.raises(trio_rt.UsageError) as caught:
                await send(**call)
            assert caught.value.field == field
        with pytest.raises(trio_rt.UsageError):
            conn.send_nowait(**call)
        assert conn.statistics().accepted == 0


@virtual
async def test_bad_arguments_of_subscribe() -> None:
    """`subscribe` refuses what cannot be, by field."""
    async with offline() as (conn, _, _world):
        for field, make in (
            ("types", lambda: conn.subscribe(5)),  # type: ignore[call-overload]
            ("capacity", lambda: conn.subscribe(capacity=0)),
            ("on_full", lambda: conn.subscribe(on_full="explode")),  # type: ignore[call-overload]
            ("as_", lambda: conn.subscribe(as_=trio.Event)),
        ):
            with pytest.raises(OptionError) as caught:
                make()
            assert caught.value.field == field


# Receiving


@attrs.frozen
class Point:
    x: int
    y: int


@virtual
async def test_typed_payloads() -> None:
    """`as_` gives payloads of that type; what does not fit goes to `malformed()`."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep(1)
            await far.send(
                '{"type": "p", "payload": {"x": 1, "y": 2}}',
                '{"type": "p", "payload": {"x": "one", "y": 2}}',
                '{"type": "p", "payload": {"x": 3, "y": 4}}',
            )
            await far.read_all()

        world.script(script)
        async with world.connect() as conn:
            with conn.subscribe("p", as_=Point) as points, conn.malformed() as bad:
                first, second = await points.receive(), await points.receive()
                assert isinstance(first, Message)
                assert isinstance(second, Message)
                assert (first.payload, second.payload) == (Point(1, 2), Point(3, 4))
                complaint = bad.receive_nowait()
                assert isinstance(complaint, trio_rt.Malformed)
                assert complaint.error.field == "payload.x"
                assert complaint.error.value == "one"


@virtual
async def test_malformed() -> None:
    """What is no message is counted and shown, with why, and the link goes on."""
    async with open_world() as world:
        bad_ones = ["{", "[]", '{"payload": 1}', '{"type": 5}', "[" * 100_000, ""]

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep(1)
            await far.send(*bad_ones, '{"type": "fine"}')
            await far.read_all()

        ends = world.script(script)
        async with world.connect() as conn:
            with conn.subscribe() as stream, conn.malformed() as malformed:
                item = await stream.receive()
                assert isinstance(item, Message)
                assert item.type == "fine"
                complaints = malformed.receive_nowait(), *(await malformed.receive_many())
                for complaint, data in zip(complaints, bad_ones, strict=True):
                    assert isinstance(complaint, trio_rt.Malformed)
                    assert isinstance(complaint.error, DecodeError)
                    assert complaint.data == data
            assert conn.statistics().malformed == 6
            assert conn.statistics().received == 7
            assert conn.state.phase is Phase.CONNECTED
        assert len(ends) == 1


@virtual
async def test_malformed_keeps_the_latest() -> None:
    """A stream of malformed things that nobody reads keeps 256, and says how many it lost."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep(1)
            await far.send(*[f"bad {number}" for number in range(300)])
            await far.read_all()

        world.script(script)
        async with world.connect() as conn:
            with conn.malformed() as malformed:
                await trio.sleep(2)
                items = await malformed.receive_many()
        assert items[0] == Gap(44)
        assert len(items) == 257


@virtual
async def test_two_streams_get_each_message() -> None:
    """Each stream gets every message of its types once, in order."""
    async with open_world() as world:
        await world.serve(echo)
        async with world.connect() as conn:
            with conn.subscribe() as every, conn.subscribe("a", "b") as some:
                for type in ("a", "b", "c", "a"):
                    await conn.send(type)
                await trio.sleep(1)
                types = [
                    [m.type for m in await s.receive_many() if isinstance(m, Message)]
                    for s in (every, some)
                ]
        assert types == [["a", "b", "c", "a"], ["a", "b", "a"]]


@virtual
async def test_messages_before_the_first_stream() -> None:
    """What arrives before the first stream is held for it; later unmatched ones are discarded."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept('{"type": "early"}')
            await trio.sleep(2)
            await far.send('{"type": "late"}')
            await far.read_all()

        world.script(script)
        async with world.connect() as conn:
            await trio.sleep(1)
            with conn.subscribe() as stream:
                item = await stream.receive()
                assert isinstance(item, Message)
                assert item.type == "early"
            await trio.sleep(2)
            assert conn.statistics().discarded == 1


@pytest.mark.parametrize(
    ("on_full", "expected"),
    [
        ("pause", [0, 1, Gap(8)]),
        ("drop_newest", [0, 1, Gap(8)]),
        ("drop_oldest", [Gap(8), 8, 9]),
        (Conflate(), [9]),
        (Conflate(lambda message: message.payload % 3), [6, 7, 8]),
    ],
)
@virtual
async def test_on_full(on_full: Any, expected: list[Any]) -> None:
    """A full stream loses what `on_full` says, and a `Gap` marks the place."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep(1)
            for number in range(10):
                await far.send(f'{{"type": "n", "payload": {number}}}')
                await trio.sleep(0.1)
            await far.read_all()

        world.script(script)
        async with world.connect() as conn:
            capacity = 3 if callable(getattr(on_full, "key", None)) else 2
            with conn.subscribe(capacity=capacity, on_full=on_full) as stream:
                await trio.sleep(5)
                items: list[Any] = await stream.receive_many()
                seen = [item.payload if isinstance(item, Message) else item for item in items]
        if expected == [6, 7, 8]:
            seen, expected = sorted(seen), [7, 8, 9]
        assert seen == expected


@virtual
async def test_on_full_fail() -> None:
    """With "fail" a full stream ends with `StreamOverflow` after what it held."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep(1)
            await far.send(*['{"type": "n"}'] * 10)
            await far.read_all()

        world.script(script)
        async with world.connect() as conn:
            with conn.subscribe(capacity=2, on_full="fail") as stream:
                await trio.sleep(2)
                for _ in range(2):
                    await stream.receive()
                with pytest.raises(StreamOverflow):
                    await stream.receive()


@virtual
async def test_a_burst_is_no_overflow_for_a_consumer_that_keeps_up() -> None:
    """A read with more than a stream holds loses nothing if its consumer takes its turn."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep(1)
            await far.send(*['{"type": "n"}'] * 1000)
            await far.read_all()

        world.script(script)
        async with world.connect() as conn:
            with conn.subscribe(capacity=10) as stream:
                for _ in range(1000):
                    assert isinstance(await stream.receive(), Message)
            assert conn.statistics().lost == 0


@virtual
async def test_two_consumers_of_one_stream() -> None:
    """A second task that receives from a stream gets `BusyResourceError`."""
    async with open_world() as world:
        await world.serve(echo)
        async with world.connect() as conn:
            with conn.subscribe() as stream:
                world.nursery.start_soon(stream.receive)
                await wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await stream.receive()
                await conn.send("n")
                await trio.sleep(1)


@virtual
async def test_streams_end_with_the_connection() -> None:
    """After the end a stream gives what it holds, and then ends; a closed one is closed."""
    async with open_world() as world:
        await world.serve(echo)
        async with world.connect() as conn:
            stream, closed, bad = conn.subscribe(), conn.subscribe(), conn.malformed()
            await conn.send("n")
            await trio.sleep(1)
            closed.close()
        assert isinstance(await stream.receive(), Message)
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()
        with pytest.raises(trio.EndOfChannel):
            await bad.receive()
        with pytest.raises(trio.ClosedResourceError):
            await closed.receive()


@virtual
async def test_use_after_the_end() -> None:
    """After the end sends raise `ClosedResourceError`, and everything else is harmless."""
    async with open_world() as world:
        await world.serve(partial(take, into=[]))
        async with world.connect() as conn:
            sender = conn.sender("n")
            old = await conn.send("n")
        for way in ("queue", "fail", "drop"):
            with pytest.raises(trio.ClosedResourceError):
                await conn.send("n", when_offline=way)
            with pytest.raises(trio.ClosedResourceError):
                conn.send_nowait("n", when_offline=way)
        with pytest.raises(trio.ClosedResourceError):
            await conn.deliver("n")
        with pytest.raises(trio.ClosedResourceError):
            await sender.send(1)
        assert not old.withdraw()
        await conn.drain()
        conn.retry_now()
        with conn.subscribe() as stream, pytest.raises(trio.EndOfChannel):
            await stream.receive()
        with conn.watch_states() as states:
            assert (await states.receive()).phase is Phase.DISCONNECTED
            with pytest.raises(trio.EndOfChannel):
                await states.receive()
        assert conn.statistics().accepted == 1


@virtual
async def test_a_send_that_waits_when_the_connection_ends() -> None:
    """A send that waits for room when the program leaves was not accepted, and is told so."""
    async with open_world() as world:
        world.network.refuse("server")
        ended: list[str] = []

        async def wait(conn: trio_rt.Connection) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await conn.send("n")
            ended.append("closed")

        limits = OutboxLimits(messages=1)
        async with world.connect(outbox=limits, close_timeout_s=1) as conn:
            await conn.send("n")
            world.nursery.start_soon(wait, conn)
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert ended == ["closed"]
        assert conn.statistics().outcomes == {dropped("closed"): 1}


# Senders, raw


@virtual
async def test_sender() -> None:
    """A sender is a `SendChannel` for one type; closing it closes only itself."""
    async with offline() as (conn, got, world):
        sender = conn.sender("n", priority=HIGH, key="k", ttl_s=1000)
        assert isinstance(sender, trio.abc.SendChannel)
        await sender.send(1)
        await sender.send(2)
        await sender.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await sender.send(3)
        await conn.send("n", 4)
        await go_online(conn, world)
        assert got == [2, 4]


@virtual
async def test_sender_arguments_are_checked_at_once() -> None:
    """A sender with options that cannot be is refused when it is made, not at each send."""
    async with offline() as (conn, _, _world):
        with pytest.raises(OptionError):
            conn.sender("n", when_offline="wait")  # type: ignore[arg-type]
        with pytest.raises(OptionError):
            conn.sender("n", ttl_s=-1)


@virtual
async def test_raw() -> None:
    """`codec="raw"`: text goes and comes as text, bytes as bytes; nothing is added."""
    async with open_world() as world:

        async def handler(peer: trio_rt.RawPeer) -> None:
            with peer.subscribe() as stream:
                async for item in stream:
                    assert isinstance(item, Message)
                    await peer.send(item.payload)

        await world.serve(handler, codec="raw")
        open_stream = world.network.open_stream
        async with trio_rt.connect("ws://server/", codec="raw", open_stream=open_stream) as conn:
            with conn.subscribe() as stream:
                delivery = await conn.send("text ü")
                assert delivery.id == ""
                conn.send_nowait(bytearray(b"\x00\xff"), priority=HIGH)
                await conn.deliver(memoryview(b"view"), ttl_s=5)
                items = [await stream.receive() for _ in range(3)]
                assert sorted(map(repr, (i.payload for i in items if isinstance(i, Message)))) == [
                    "'text ü'",
                    "b'\\x00\\xff'",
                    "b'view'",
                ]
            for bad in (5, None, "\ud800"):
                with pytest.raises(PayloadError):
                    await conn.send(bad)  # type: ignore[arg-type]
            assert isinstance(conn, trio_rt.RawConnection)


# The books


@either_link
@virtual
async def test_statistics(session: str, best: Outcome) -> None:
    """`statistics()` adds up at every moment, through cuts, full queues and drops."""
    async with open_world(short_writes=0.3) as world:
        await world.serve(echo)
        limits = OutboxLimits(messages=20)
        fast = Reconnect(first_s=0.05)
        async with world.connect(
            session=session, outbox=limits, reconnect=fast, close_timeout_s=1
        ) as conn:
            with conn.subscribe(capacity=5):
                for number in range(400):
                    try:
                        conn.send_nowait(
                            "n",
                            "x" * (number * 37 % 3000),
                            priority=Priority(number % 4),
                            key=f"k{number % 7}" if number % 3 == 0 else None,
                            ttl_s=0.03 if number % 5 == 0 else None,
                            when_offline="drop" if number % 11 == 0 else "queue",
                        )
                    except trio.WouldBlock:
                        pass
                    if number % 50 == 25:
                        world.network.cut()
                    await trio.sleep(0.005 if number % 2 else 0)
                    assert adds_up(conn)
        books = conn.statistics()
        assert books.accepted == sum(books.outcomes.values())
        assert (books.in_flight, books.queued_bytes, books.waiting) == (0, 0, 0)
        assert {best, dropped("expired"), dropped("replaced")} <= books.outcomes.keys()


@either_link
@virtual
async def test_drain(session: str, best: Outcome) -> None:
    """`drain()` returns when every accepted send has its outcome, and not before."""
    async with offline(session=session) as (conn, _, world):
        await conn.drain()
        delivery = await conn.send("n")
        with trio.move_on_after(5) as scope:
            await conn.drain()
        assert scope.cancelled_caught
        assert delivery.outcome is None
        world.network.accept("server")
        conn.retry_now()
        await conn.drain()
        assert delivery.outcome == best


@virtual
async def test_several_drains() -> None:
    """Several tasks may wait in `drain()`; a withdrawal counts, too."""
    async with offline() as (conn, _, _world):
        delivery = await conn.send("n")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(conn.drain)
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 3
            delivery.withdraw()
        assert conn.statistics().outcomes == {WITHDRAWN: 1}


@virtual
async def test_send_is_cancelled_before_it_is_accepted() -> None:
    """In a cancelled scope `send` raises `Cancelled` and accepts nothing."""
    async with offline() as (conn, _, _world):
        with trio.CancelScope() as scope:
            scope.cancel()
            await conn.send("n")
        assert scope.cancelled_caught
        assert conn.statistics().accepted == 0


@either_link
@virtual
async def test_a_peer_has_the_same_verbs(session: str, best: Outcome) -> None:
    """A server's peer sends, delivers and keeps books as a connection does."""
    async with open_world() as world:
        books: list[trio_rt.Statistics] = []

        async def handler(peer: trio_rt.Peer) -> None:
            await peer.send("n", 1, priority=HIGH)
            await peer.deliver("n", 2)
            await peer.sender("n").send(3)
            await peer.drain()
            books.append(peer.statistics())

        await world.serve(handler)
        async with world.connect(session=session) as conn:
            with conn.subscribe("n") as stream:
                items = [await stream.receive() for _ in range(3)]
                await outlast(lambda: not books)
        assert [item.payload for item in items if isinstance(item, Message)] == [1, 2, 3]
        assert books[0].outcomes == {best: 3}


@virtual
async def test_timestamps_follow_the_wall_clock() -> None:
    """They are whole milliseconds, and at most one behind."""
    stamps: list[Any] = []

    async def handler(peer: Any) -> None:
        with peer.subscribe() as stream:
            async for item in stream:
                stamps.append(item.timestamp)  # noqa: PERF401 - it is cut short

    async with open_world() as world:
        await world.serve(handler)
        async with world.connect() as conn:
            await conn.wait_connected()
            for pause_s in (0.0005, 0.0005, 0.25, 0.002):
                conn.send_nowait("t")
                await trio.sleep(pause_s)
            conn.send_nowait("t")
            await trio.sleep(1)
    ago = [stamp - stamps[0] for stamp in stamps]
    assert ago == [pytest.approx(true_ms, abs=1.001) for true_ms in (0, 0.5, 1, 251, 253)]

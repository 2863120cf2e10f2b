"""One link: liveness, reading, writing, and what becomes of a batch when it dies."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from websockets.frames import Opcode

import trio_rt
from tests.helpers import FarEnd, echo, either_link, open_world, outlast, sink
from tests.testing.support import virtual
from trio_rt import (
    LinkClosed,
    LinkDead,
    Liveness,
    Message,
    Outcome,
    Phase,
    Reconnect,
    Reset,
    Undelivered,
)
from trio_rt.message import INDETERMINATE, WITHDRAWN, WRITTEN
from trio_rt.testing import run

pytestmark = pytest.mark.usefixtures("each_wire")

NEVER = Reconnect(first_s=1e6, cap_s=1e6)
BRISK = Liveness(interval_s=3, timeout_s=2)


async def lost(conn: trio_rt.Connection) -> Exception | None:
    """Wait until the link is lost; why."""
    await outlast(lambda: conn.state.phase is not Phase.RECONNECTING, 0.01)
    return conn.state.cause


# Liveness (P7)


@virtual
async def test_a_half_open_link_is_found() -> None:
    """A peer that vanished is noticed `interval_s + timeout_s` after its last byte."""
    async with open_world() as world:
        await world.serve(echo)
        async with world.connect(liveness=BRISK, reconnect=NEVER) as conn:
            await conn.wait_connected()
            await trio.sleep(10)
            assert conn.state.phase is Phase.CONNECTED
            world.network.cut(how="vanish")
            began = trio.current_time()
            cause = await lost(conn)
            assert isinstance(cause, LinkDead)
            assert 4 < cause.silent_s <= 5.1
            assert trio.current_time() - began <= 5.1


@virtual
async def test_a_stuck_send_does_not_hide_a_dead_link() -> None:
    """The same with a send that is stuck, and on a plain link its message is indeterminate."""
    async with open_world() as world:
        await world.serve(echo, session=None)
        async with world.connect(liveness=BRISK, reconnect=NEVER, close_timeout_s=0) as conn:
            await conn.wait_connected()
            world.network.cut(how="vanish")
            stuck = await conn.send("n", "x" * 500_000)
            queued = await conn.send("n")
            began = trio.current_time()
            assert isinstance(await lost(conn), LinkDead)
            assert trio.current_time() - began <= 5.1
            assert stuck.outcome == INDETERMINATE
            assert queued.outcome is None


@virtual
async def test_any_byte_is_life() -> None:
    """A peer that sends but never answers a ping lives, even by parts of one frame."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await far.send_raw(b"\x82\x14")
            for _ in range(20):
                await trio.sleep(2)
                await far.send_raw(b"x")

        world.script(script)
        async with world.connect(liveness=BRISK, reconnect=NEVER) as conn:
            await trio.sleep(40)
            assert conn.state.phase is Phase.CONNECTED
            assert isinstance(await lost(conn), LinkClosed | LinkDead)


@virtual
async def test_a_program_that_blocks_the_loop_kills_no_link() -> None:
    """After the program blocked the loop for a minute, healthy links go on."""
    async with open_world() as world:
        ends = world.script(sink)
        async with world.connect(liveness=BRISK, reconnect=NEVER) as conn:
            await conn.wait_connected()
            for wait_s in (2.9, 3.0, 3.02, 3.04, 4.99, 5.0, 0.5, 7.7):
                await trio.sleep(wait_s)
                world.network.jump_clock(60)
                await trio.sleep(1)
                assert conn.state.phase is Phase.CONNECTED
        assert len(ends) == 1


@pytest.mark.parametrize("seed", range(10))
def test_a_pong_that_waits_unread_is_life(seed: int) -> None:
    """The verdict falls only after the reader has found the socket empty."""

    async def story() -> None:
        async with open_world() as world:
            world.script(sink)
            async with world.connect(liveness=BRISK, reconnect=NEVER) as conn:
                await conn.wait_connected()
                link = await world.network.wait_connection()
                # Block the loop when a pong is on its way: it is then in the
                # socket, and the deadline is long over.
                for _ in range(10):
                    sent = link.sent_bytes("client")
                    await outlast(lambda sent=sent: link.sent_bytes("client") == sent, 0.005)  # type: ignore[misc]
                    world.network.jump_clock(60)
                    await trio.sleep(0.2)
                    assert conn.state.phase is Phase.CONNECTED

    run(story, seed=seed, limit_s=2000)


@pytest.mark.parametrize("session", ["off", "require"])
@virtual
async def test_a_slow_reader_kills_no_link(session: str) -> None:
    """A program that reads a message a minute keeps its link."""
    async with open_world() as world:

        async def flood(peer: Any) -> None:
            for number in range(100_000):
                await peer.send("n", number)
                await trio.sleep(0.5)

        await world.serve(flood)
        async with world.connect(session=session, liveness=BRISK, reconnect=NEVER) as conn:
            with conn.subscribe(capacity=10) as stream:
                for _ in range(3):
                    await stream.receive()
                    await trio.sleep(60)
            assert conn.state.phase is Phase.CONNECTED


@virtual
async def test_liveness_off() -> None:
    """With `liveness=None` nothing is sent, and silence means nothing."""
    async with open_world() as world:
        frames: list[Any] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            frames.extend(await far.read_all())

        world.script(script)
        async with world.connect(liveness=None) as conn:
            await trio.sleep(500)
            assert conn.state.phase is Phase.CONNECTED
        await trio.sleep(1)
        assert [frame.opcode for frame in frames] == [Opcode.CLOSE]


@virtual
async def test_pings_only_in_silence() -> None:
    """A link that is never silent is pinged once, for its proof; a silent one each interval."""
    async with open_world() as world:
        pings = [0, 0]

        async def script(far: FarEnd) -> None:
            await far.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, far)
                while far.number == 1 and not far.closed:
                    await far.send('{"type": "n"}')
                    await trio.sleep(1)

        async def read(far: FarEnd) -> None:
            while (frame := await far.read()) is not None:
                pings[far.number - 1] += frame.opcode is Opcode.PING
            far.stream.abort()

        world.script(script)
        async with world.connect(liveness=BRISK):
            await trio.sleep(30)
        async with world.connect(liveness=BRISK):
            await trio.sleep(30)
    assert pings[0] <= 1
    assert 9 <= pings[1] <= 11


@virtual
async def test_beat_both() -> None:
    """With `beat="both"` each ping is accompanied by the envelope of type `heartbeat`."""
    async with open_world() as world:
        seen: list[Opcode] = []
        texts: list[bytes] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            while (frame := await far.read()) is not None:
                seen.append(frame.opcode)
                if frame.opcode is Opcode.TEXT:
                    texts.append(bytes(frame.data))

        world.script(script)
        both = Liveness(interval_s=3, timeout_s=2, beat="both")
        async with world.connect(liveness=both) as conn:
            await trio.sleep(30)
            assert conn.statistics().accepted == 0
            assert conn.statistics().outcomes == {}
            await conn.drain()
        assert 8 <= seen.count(Opcode.TEXT) == seen.count(Opcode.PING) <= 12
        assert all(b'"type":"heartbeat"' in text for text in texts)
        assert len(set(texts)) == len(texts)


@virtual
async def test_a_heartbeat_of_the_peer() -> None:
    """A heartbeat message is life, and goes only to a stream that names it."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            for _ in range(20):
                await trio.sleep(2)
                await far.send('{"type": "heartbeat"}')
            await far.send('{"type": "n"}')
            await trio.sleep(1)
            await far.read_all()

        world.script(script)
        async with world.connect(liveness=BRISK, reconnect=NEVER) as conn:
            with conn.subscribe() as everything, conn.subscribe("heartbeat") as beats:
                item = await everything.receive()
                assert isinstance(item, Message)
                assert item.type == "n"
                assert len(await beats.receive_many()) == 20
            assert conn.statistics().discarded == 0


@virtual
async def test_latency() -> None:
    """`statistics().latency_s` is the round trip of the last ping, while the link is up too."""
    async with open_world(latency_s=0.25) as world:
        world.script(sink)
        async with world.connect(liveness=BRISK) as conn:
            assert conn.statistics().latency_s is None
            await trio.sleep(10)
            assert conn.statistics().latency_s == pytest.approx(0.5)
        assert conn.statistics().latency_s == pytest.approx(0.5)


# The reader never parks (P4)


@virtual
async def test_pings_and_closes_while_nobody_reads() -> None:
    """With full streams and no consumer, pings are answered and a close is seen."""
    async with open_world() as world:
        pongs: list[float] = []

        async def script(far: FarEnd) -> None:
            await far.accept(*['{"type": "n"}'] * 500)
            for _ in range(3):
                began = trio.current_time()
                await far.ping()
                while (frame := await far.read()) and frame.opcode is not Opcode.PONG:
                    pass
                pongs.append(trio.current_time() - began)
                await far.send(*['{"type": "n"}'] * 500)
            await far.close(4000, "enough")

        world.script(script)
        async with world.connect(reconnect=NEVER, liveness=None) as conn:
            with conn.subscribe(capacity=3), conn.subscribe(capacity=2, on_full="drop_oldest"):
                cause = await lost(conn)
            assert isinstance(cause, LinkClosed)
            assert cause.code == 4000
        assert pongs == [pytest.approx(0.04)] * 3


@virtual
async def test_a_ping_is_answered_between_the_parts_of_a_large_message() -> None:
    """On the wire that fragments, a ping is answered while a large message is being sent."""
    async with open_world(bandwidth_bytes_per_s=200_000) as world:
        seen: list[Opcode] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep(1)
            await far.ping()
            while len(seen) < 17 and (frame := await far.read()) is not None:
                seen.append(frame.opcode)
            await far.read_all()

        world.script(script)
        async with world.connect(wire="websockets") as conn:
            await conn.wait_connected()
            await conn.send("n", "x" * 1_000_000)
        assert seen[0] is Opcode.TEXT
        assert Opcode.PONG in seen[1:12]


# Writing


@either_link
@virtual
async def test_sends_of_one_moment_are_one_batch(session: str, best: Outcome) -> None:
    """A burst of sends leaves in order, in few writes."""
    async with open_world() as world:
        numbers: list[int] = []

        async def handler(peer: Any) -> None:
            with peer.subscribe() as stream:
                async for item in stream:
                    numbers.append(item.payload)  # noqa: PERF401 - it is cut short

        await world.serve(handler)
        async with world.connect(session=session) as conn:
            await conn.wait_connected()
            await trio.sleep(1)
            before = len(world.network.trace)
            deliveries = [conn.send_nowait("n", number) for number in range(500)]
            await conn.drain()
            writes = [e for _, e in world.network.trace[before:] if "> write" in e]
            assert len(writes) <= 6
            assert {delivery.outcome for delivery in deliveries} == {best}
            await trio.sleep(1)
            assert numbers == list(range(500))


@virtual
async def test_an_idle_link_is_written_directly() -> None:
    """On the wire that can, the sender itself writes: `send` returns with the outcome."""
    async with open_world() as world:
        world.script(sink)
        async with world.connect(wire="websockets") as conn:
            await conn.wait_connected()
            assert conn.send_nowait("n").outcome == WRITTEN


@virtual
async def test_a_send_that_waits_writes_too() -> None:
    """On every wire: when `await send` returns on an idle link, the kernel has the message."""
    async with open_world() as world:
        world.script(sink)
        async with world.connect() as conn:
            await conn.wait_connected()
            assert (await conn.send("n")).outcome == WRITTEN


async def _numbers(peer: Any, into: list[int]) -> None:
    with peer.subscribe() as stream:
        async for item in stream:
            into.append(item.payload)  # noqa: PERF401 - it is cut short


@either_link
@virtual
async def test_many_send_while_one_writes(session: str, best: Outcome) -> None:
    """Those that come in the turn of a direct write go behind it, and none is forgotten."""
    async with open_world() as world:
        numbers: list[int] = []
        deliveries: dict[int, trio_rt.Delivery] = {}
        await world.serve(partial(_numbers, into=numbers))
        async with world.connect(session=session) as conn:
            await conn.wait_connected()

            async def send(number: int) -> None:
                deliveries[number] = await conn.send("n", number)

            for first in range(0, 100, 10):
                await trio.sleep(0.1)
                async with trio.open_nursery() as nursery:
                    for number in range(first, first + 10):
                        nursery.start_soon(send, number)
            await trio.sleep(1)
            assert {delivery.outcome for delivery in deliveries.values()} == {best}
            assert sorted(numbers) == list(range(100))


@either_link
@pytest.mark.parametrize("turns", range(5))
@virtual
async def test_a_direct_write_cancelled_at_any_turn(
    turns: int, session: str, best: Outcome
) -> None:
    """It is accepted and arrives, or neither; and the next one arrives."""
    async with open_world() as world:
        numbers: list[int] = []
        await world.serve(partial(_numbers, into=numbers))
        async with world.connect(session=session) as conn:
            await conn.wait_connected()
            await trio.sleep(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(conn.send, "n", 1)
                nursery.start_soon(conn.send, "n", 2)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            accepted = conn.statistics().accepted
            await conn.send("n", 3)
            await trio.sleep(1)
            assert numbers[-1] == 3
            assert len(numbers) == accepted + 1
            books = conn.statistics()
            assert books.outcomes == {best: accepted + 1}


@virtual
async def test_a_link_that_dies_inside_its_batch() -> None:
    """What was committed to a plain link that died is indeterminate, and is not sent again."""
    async with open_world() as world:
        numbers: list[int] = []

        async def handler(peer: Any) -> None:
            with peer.subscribe() as stream:
                async for item in stream:
                    numbers.append(item.payload[0])  # noqa: PERF401 - it is cut short

        await world.serve(handler, session=None)
        async with world.connect(reconnect=Reconnect(first_s=0.1)) as conn:
            await conn.wait_connected()
            await trio.sleep(1)
            link = await world.network.wait_connection()
            link.cut_after(100_000)
            deliveries = [conn.send_nowait("n", [n, "x" * 30_000]) for n in range(20)]
            await conn.drain()
            await trio.sleep(2)
            books = conn.statistics()
            assert books.accepted == 20 == sum(books.outcomes.values())
            lost = [n for n, one in enumerate(deliveries) if one.outcome == INDETERMINATE]
            written = [n for n, one in enumerate(deliveries) if one.outcome == WRITTEN]
            assert lost
            assert len(lost) + len(written) == 20
            assert len(numbers) == len(set(numbers))
            assert numbers == sorted(numbers)
            assert set(numbers) >= {n for n in written if n > max(lost)}


@virtual
async def test_half_a_frame_is_never_followed_by_another() -> None:
    """Short writes and cuts at any byte: no peer ever sees a breach of the protocol."""
    async with open_world(short_writes=0.5, rechunk=0.5, jitter_s=0.01) as world:
        got: list[int] = []
        closes: list[int] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            while (frame := await far.read()) is not None:
                if frame.opcode is Opcode.TEXT:
                    got.append(int(bytes(frame.data).split(b'"id":"')[1].split(b'"')[0][17:]))
                if frame.opcode is Opcode.CLOSE:
                    closes.append(int.from_bytes(frame.data[:2]))
            assert far.breach is None

        world.script(script)
        async with world.connect(reconnect=Reconnect(first_s=0.05)) as conn:
            for number in range(300):
                if number % 30 == 7:
                    link = await world.network.wait_connection()
                    link.cut_after(number * 3)
                with trio.move_on_after(0.002 if number % 3 == 0 else math.inf):
                    with suppress(Undelivered):  # a cut amid it
                        await conn.deliver("n", "x" * (number * 7 % 900))
                    await trio.sleep(0.001)
        books = conn.statistics()
        assert books.accepted == sum(books.outcomes.values())
        assert set(books.outcomes) <= {WRITTEN, INDETERMINATE, WITHDRAWN}
        assert len(got) == len(set(got)) > 50
        assert got == sorted(got)


@virtual
async def test_the_peers_last_words() -> None:
    """When a write fails, the close frame that explains it is still read."""
    async with open_world() as world:

        async def script(far: FarEnd) -> None:
            await far.accept()
            await trio.sleep(1)
            await far.close_and_reset(4001, "too loud")

        world.script(script)
        async with world.connect(reconnect=NEVER) as conn:
            await conn.wait_connected()
            while conn.state.phase is Phase.CONNECTED:
                await conn.send("n")
                await trio.sleep(0.005)
            cause = conn.state.cause
            assert isinstance(cause, LinkClosed)
            assert (cause.code, cause.reason) == (4001, "too loud")


@virtual
async def test_a_write_to_a_reset_link() -> None:
    """A write that fails, with nothing to read, loses the link with 1006."""
    async with open_world() as world:
        await world.serve(echo)
        async with world.connect(reconnect=NEVER) as conn:
            await conn.wait_connected()
            world.network.cut()
            await conn.send("n")
            cause = await lost(conn)
            assert isinstance(cause, LinkClosed)
            assert cause.code == 1006


class Fragile(trio.abc.Stream):
    """A stream of the program's own: without `try_send`, and it can be closed under the link."""

    def __init__(self, lower: trio.abc.Stream) -> None:
        self.lower = lower

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.lower.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.lower.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.lower.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.lower.aclose()


@virtual
async def test_a_stream_without_try_send() -> None:
    """Any trio stream will do; one closed by its maker is a lost link."""
    async with open_world() as world:
        await world.serve(echo, session=None)
        streams: list[Fragile] = []

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            streams.append(Fragile(await world.network.open_stream(host, port)))
            return streams[-1]

        async with world.connect(open_stream=open_stream, reconnect=Reconnect(first_s=0)) as conn:
            with conn.subscribe() as stream:
                await conn.send("n", 1)
                item = await stream.receive()
                assert isinstance(item, Message)
                assert item.payload == 1
                await streams[0].aclose()
                await conn.send("n", 2)
                await outlast(
                    lambda: conn.state.attempt < 2 or conn.state.phase is not Phase.CONNECTED, 0.01
                )
                assert isinstance(await stream.receive(), Reset)
                await conn.deliver("n", 3)
        assert len(streams) == 2


@virtual
async def test_pings_on_a_stream_without_try_send() -> None:
    """Where nothing can be written at once, the writer answers pings, and sends ours."""
    async with open_world() as world:
        seen: list[Opcode] = []

        async def script(far: FarEnd) -> None:
            await far.accept()
            await far.ping()
            with trio.fail_after(0.1):
                while not seen and (frame := await far.read()) is not None:
                    seen.append(frame.opcode)
            while len(seen) < 2 and (frame := await far.read()) is not None:
                seen.append(frame.opcode)
            await far.read_all()

        world.script(script)

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            return Fragile(await world.network.open_stream(host, port))

        async with world.connect(open_stream=open_stream, liveness=BRISK) as conn:
            await trio.sleep(20)
            assert conn.state.attempt == 1
            assert conn.state.phase is Phase.CONNECTED
        assert seen == [Opcode.PONG, Opcode.PING]


@pytest.mark.parametrize("seed", range(8))
def test_a_stream_closed_under_a_send(seed: int) -> None:
    """A stream that its maker closes is a lost link, whether the reader or the writer sees it."""

    async def story() -> None:
        async with open_world() as world:
            world.script(sink)
            streams: list[trio_rt.testing.VirtualStream] = []

            async def open_stream(host: str, port: int) -> trio.abc.Stream:
                streams.append(await world.network.open_stream(host, port))
                return Fragile(streams[-1])

            async with world.connect(open_stream=open_stream, reconnect=NEVER) as conn:
                await conn.wait_connected()
                await trio.sleep(1)
                world.network.stall()
                delivery = conn.send_nowait("n", "x" * 300_000)
                await trio.sleep(1)
                streams[0].abort()
                assert isinstance(await lost(conn), LinkClosed)
                assert delivery.outcome == INDETERMINATE

    run(story, seed=seed, limit_s=100)

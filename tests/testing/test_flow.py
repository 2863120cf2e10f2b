from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from trio_rt.testing import Conditions, run
from trio_rt.testing._conditions import Way
from trio_rt.testing._flow import LINE_BYTES, PIECE_BYTES, READ_BYTES, Allowance, Flow, Outcome

from .support import virtual


class _Source(trio.abc.ReceiveStream):
    """A read for each chunk that is given to it, or more if it is longer than is asked for."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes | None](math.inf)
        self._rest = b""
        self.reads = 0

    def give(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self._send.send_nowait(chunk)

    def finish(self) -> None:
        self._send.send_nowait(b"")

    def reset(self) -> None:
        self._send.send_nowait(None)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        chunk = self._rest or await self._receive.receive()
        if chunk is None:
            raise trio.BrokenResourceError
        self.reads += 1
        self._rest = chunk[max_bytes:]
        return chunk[:max_bytes]

    async def aclose(self) -> None:
        raise NotImplementedError


class _Sink(trio.abc.SendStream):
    """Knows what was written, and when. While it is stuck, a write does not return."""

    def __init__(self) -> None:
        self.writes: list[tuple[float, bytes]] = []
        self.gone = False
        self.stuck = False
        self.after_write: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    @property
    def written(self) -> bytes:
        return b"".join(data for _, data in self.writes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.gone:
            raise trio.BrokenResourceError
        self.writes.append((trio.current_time(), bytes(data)))
        await self.after_write()
        if self.stuck:
            await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


@attrs.define
class _Rig:
    """A flow that runs, and what it is between."""

    seed: str = "a"
    way: Way = attrs.field(factory=Way)
    source: _Source = attrs.field(factory=_Source)
    sink: _Sink = attrs.field(factory=_Sink)
    flow: Flow = attrs.field(init=False)
    outcome: Outcome | None = None
    ended_at: float = math.nan

    def __attrs_post_init__(self) -> None:
        self.flow = Flow(self.source, self.sink, self.way, self.seed)

    async def give_out(self) -> None:
        self.outcome = await self.flow.give_out()
        self.ended_at = trio.current_time()


@asynccontextmanager
async def _running(*rigs: _Rig) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for rig in rigs:
            nursery.start_soon(rig.flow.take_in)
            nursery.start_soon(rig.give_out)
        yield
        nursery.cancel_scope.cancel()


def _new_rig(conditions: Conditions | None = None, seed: str = "a") -> _Rig:
    rig = _Rig(seed)
    rig.way.conditions = conditions or Conditions()
    return rig


@virtual
async def test_passes_everything_and_then_the_end() -> None:
    """Without conditions bytes go through as they are read, at once, and are counted."""
    rig = _new_rig()
    rig.source.give(b"one", b"two")
    rig.source.finish()
    async with _running(rig):
        await trio.sleep(1)
    assert rig.sink.writes == [(0, b"one"), (0, b"two")]
    assert (rig.outcome, rig.ended_at, rig.way.passed_bytes) == ("fin", 0, 6)


@virtual
async def test_a_delay_is_no_limit_of_throughput() -> None:
    """Each read comes out its delay later, though there are many within one delay."""
    rig = _new_rig(Conditions(delay_s=5))
    async with _running(rig):
        for number in range(10):
            rig.source.give(bytes([number]))
            await trio.sleep(1)
        await trio.sleep(10)
    assert rig.sink.writes == [(5 + number, bytes([number])) for number in range(10)]


@virtual
async def test_an_end_is_delayed_and_comes_last() -> None:
    """An end of file and a reset take the way that bytes take, behind them."""
    ending, broken = rigs = _new_rig(Conditions(delay_s=5)), _new_rig(Conditions(delay_s=5))
    for rig in rigs:
        rig.source.give(b"last words")
    ending.source.finish()
    broken.source.reset()
    async with _running(*rigs):
        await trio.sleep(10)
    assert ending.sink.writes == broken.sink.writes == [(5, b"last words")]
    assert (ending.outcome, ending.ended_at) == ("fin", 5)
    assert (broken.outcome, broken.ended_at) == ("rst", 5)


async def _arrivals(seed: str) -> list[tuple[float, bytes]]:
    rig = _new_rig(Conditions(delay_s=1, jitter_s=2), seed)
    async with _running(rig):
        for number in range(50):
            rig.source.give(bytes([number]))
            await trio.sleep(0.5)
        await trio.sleep(10)
    return rig.sink.writes


def test_jitter_keeps_the_order() -> None:
    """Each read has its own delay within the bounds, none overtakes another."""
    arrivals = run(_arrivals, "a", seed=1)
    assert [data for _, data in arrivals] == [bytes([number]) for number in range(50)]
    delays = [at - number / 2 for number, (at, _) in enumerate(arrivals)]
    assert min(delays) >= 1
    assert max(delays) <= 3
    assert max(delays) - min(delays) > 1


def test_jitter_is_drawn_from_the_seed() -> None:
    """The same seed makes the same delays, another one others."""
    assert run(_arrivals, "a", seed=1) == run(_arrivals, "a", seed=2) != run(_arrivals, "b", seed=1)


@virtual
async def test_a_change_holds_for_what_is_under_way() -> None:
    """A shorter delay lets out what it no longer holds, a longer one holds it longer."""
    rig = _new_rig(Conditions(delay_s=100))
    async with _running(rig):
        rig.source.give(b"first")
        await trio.sleep(1)
        rig.source.give(b"second")
        await trio.sleep(1)
        rig.way.conditions = Conditions(delay_s=2)
        await trio.sleep(0.5)
        rig.way.conditions = Conditions(delay_s=10)
        await trio.sleep(100)
    assert rig.sink.writes == [(2, b"first"), (11, b"second")]


@pytest.mark.parametrize("size", [1, 1000, READ_BYTES])
@virtual
async def test_a_delay_is_bounded_in_bytes(size: int) -> None:
    """No more is read than fits on the line, small reads with what they take themselves."""
    rig = _new_rig(Conditions(jitter_s=50))
    rig.source.give(*[bytes(size)] * (2 * LINE_BYTES // (size + PIECE_BYTES)))
    async with _running(rig):
        await trio.testing.wait_all_tasks_blocked()
        assert LINE_BYTES <= rig.source.reads * (size + PIECE_BYTES) < LINE_BYTES + READ_BYTES + 200
        await trio.sleep(500)
    assert len(rig.sink.written) == 2 * LINE_BYTES // (size + PIECE_BYTES) * size


@virtual
async def test_without_a_delay_one_read_is_held() -> None:
    """With a sink that takes nothing more, the source is left alone."""
    rig = _new_rig()
    rig.sink.stuck = True
    rig.source.give(*[b"x"] * 10)
    async with _running(rig):
        await trio.testing.wait_all_tasks_blocked()
    assert rig.source.reads == 1


@virtual
async def test_a_rate_is_paid_before_the_bytes_arrive() -> None:
    """At 100 bytes a second 5 bytes take 0.05 s, and the next 5 as long again."""
    rig = _new_rig(Conditions(rate_bytes_per_s=100))
    rig.source.give(b"12345", b"67890")
    async with _running(rig):
        await trio.sleep(10)
    assert rig.sink.writes == [(0.05, b"12345"), (0.1, b"67890")]


@virtual
async def test_a_rate_is_read_in_portions() -> None:
    """One read brings a twentieth of a second's worth, and at least a byte."""
    rig, slow_rig = (
        _new_rig(Conditions(rate_bytes_per_s=64)),
        _new_rig(Conditions(rate_bytes_per_s=0.5)),
    )
    for each in (rig, slow_rig):
        each.source.give(b"1234567")
    async with _running(rig, slow_rig):
        await trio.sleep(1)
        assert [data for _, data in rig.sink.writes] == [b"123", b"456", b"7"]
        await trio.sleep(4)
        assert slow_rig.sink.writes == [(2, b"1"), (4, b"2")]


@virtual
async def test_a_rate_holds_for_a_read_that_has_begun() -> None:
    """What was asked for without a limit is let in by portions, once there is one."""
    rig = _new_rig()
    async with _running(rig):
        await trio.sleep(1)
        rig.way.conditions = Conditions(rate_bytes_per_s=20)
        rig.source.give(b"123")
        await trio.sleep(1)
    assert rig.source.reads == 1
    assert [data for _, data in rig.sink.writes] == [b"1", b"2", b"3"]
    assert [at for at, _ in rig.sink.writes] == pytest.approx([1.05, 1.1, 1.15])


@virtual
async def test_a_rate_that_is_lifted_holds_nothing_up() -> None:
    """A byte that was to take a million seconds passes with the change."""
    rig = _new_rig(Conditions(rate_bytes_per_s=1e-6))
    rig.source.give(b"12345")
    async with _running(rig):
        await trio.sleep(1)
        assert rig.sink.writes == []
        rig.way.conditions = Conditions()
        await trio.testing.wait_all_tasks_blocked()
    assert rig.sink.writes == [(1, b"1"), (1, b"2345")]


@virtual
async def test_splits_writes() -> None:
    """Writes have 1 to `split_bytes` bytes, and their sizes come from the seed."""
    rigs = [_new_rig(Conditions(split_bytes=3), seed) for seed in "aab"]
    for rig in rigs:
        rig.source.give(bytes(range(256)))
    async with _running(*rigs):
        await trio.sleep(1)
    first, again, other = ([data for _, data in rig.sink.writes] for rig in rigs)
    assert {len(data) for data in first} == {1, 2, 3}
    assert b"".join(first) == bytes(range(256))
    assert first == again != other


@virtual
async def test_corrupts() -> None:
    """A share of the bytes is changed, and which ones comes from the seed."""
    rigs = [_new_rig(Conditions(corrupt=0.5), seed) for seed in "aab"]
    for rig in rigs:
        rig.source.give(bytes(1000))
    async with _running(*rigs):
        await trio.sleep(1)
    first, again, other = (rig.sink.written for rig in rigs)
    assert 400 < first.count(0) < 600
    assert first == again != other


@virtual
async def test_a_blackhole_holds_everything() -> None:
    """Neither bytes nor the end pass while it lasts, and all of it does afterwards."""
    rig = _new_rig(Conditions(blackhole=True))
    rig.source.give(b"one", b"two")
    rig.source.reset()
    async with _running(rig):
        await trio.sleep(100)
        assert (rig.sink.writes, rig.outcome, rig.source.reads) == ([], None, 1)
        rig.way.conditions = Conditions()
        await trio.sleep(1)
    assert rig.sink.writes == [(100, b"one"), (100, b"two")]
    assert (rig.outcome, rig.ended_at) == ("rst", 100)


@virtual
async def test_a_blackhole_holds_an_end_that_comes_later() -> None:
    """A reset in a blackhole is not told."""
    rig = _new_rig(Conditions(blackhole=True))
    async with _running(rig):
        await trio.sleep(1)
        rig.source.reset()
        await trio.sleep(1)
        assert rig.outcome is None


@virtual
async def test_a_blackhole_begins_within_a_read() -> None:
    """Of a read that is split, what is not written yet waits."""
    rig = _new_rig(Conditions(split_bytes=1))

    async def dig() -> None:
        await trio.lowlevel.checkpoint()
        rig.way.conditions = Conditions(split_bytes=1, blackhole=len(rig.sink.writes) == 4)

    rig.sink.after_write = dig
    rig.source.give(b"123456789")
    async with _running(rig):
        await trio.sleep(10)
        assert rig.sink.written == b"1234"
        rig.way.conditions = Conditions()
        await trio.sleep(10)
    assert rig.sink.writes[4:] == [(10, b"56789")]


@virtual
async def test_a_sink_that_is_gone() -> None:
    """What a write raises leaves `give_out()`."""
    rig = _new_rig()
    rig.sink.gone = True
    rig.source.give(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.flow.take_in)
        with pytest.raises(trio.BrokenResourceError):
            await rig.flow.give_out()
        nursery.cancel_scope.cancel()


@virtual
async def test_an_allowance_is_used_up() -> None:
    """So many bytes more, however they are read and split, and then the flow is cut."""
    rig = _new_rig(Conditions(split_bytes=4))
    rig.flow.allowance = Allowance(15)
    rig.source.give(b"0123456789", b"0123456789")
    async with _running(rig):
        await trio.sleep(1)
    assert (rig.outcome, rig.sink.written) == ("cut", b"012345678901234")


@virtual
async def test_a_shared_allowance_waits_for_the_last_bytes() -> None:
    """Who finds it used up passes nothing more; the cut is when all of it has been written."""
    slow, quick = rigs = _new_rig(), _new_rig()
    slow.flow.allowance = quick.flow.allowance = Allowance(5)
    slow.sink.after_write = lambda: trio.sleep(7)
    slow.source.give(b"abc")
    async with _running(*rigs):
        await trio.sleep(1)
        quick.source.give(b"1234567")
        await trio.sleep(1)
        assert (slow.outcome, quick.outcome, quick.sink.written) == (None, None, b"12")
        await trio.sleep(10)
    assert (slow.outcome, slow.ended_at, slow.sink.written) == ("cut", 7, b"abc")
    assert (quick.outcome, quick.sink.written) == (None, b"12")


def test_the_books_of_an_allowance() -> None:
    """It is used up when the last byte has passed, and not when it was taken."""
    allowance = Allowance(5)
    assert (allowance.take(3), allowance.take(3), allowance.take(3)) == (3, 2, 0)
    assert not allowance.passed(2)
    assert allowance.passed(3)


def test_an_allowance_without_limit() -> None:
    """As it is at first, it is never used up."""
    allowance = Allowance()
    assert allowance.take(10**9) == 10**9
    assert not allowance.passed(10**9)

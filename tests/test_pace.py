"""How often something that is ready yields."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints

from tests.clocked import Steps, clocked, sleep
from trio_rt._pace import CALLS, SPAN_S, Pace


async def step(pace: Pace) -> None:
    """What every paced call does."""
    if pace.is_due():
        await pace.turn()
    else:
        await trio.lowlevel.checkpoint_if_cancelled()


async def yields(pace: Pace) -> bool:
    """Whether the next step lets the other tasks run."""
    with Steps() as steps:
        await step(pace)
    return steps.count == 1


def test_constants() -> None:
    """64 calls or a millisecond, as promised."""
    assert (CALLS, SPAN_S) == (64, 0.001)


@clocked
async def test_every_64th_call() -> None:
    """The first call yields, and then every 64th."""
    pace = Pace()
    found = [call for call in range(200) if await yields(pace)]
    assert found == [0, 64, 128, 192]


@clocked
async def test_every_millisecond() -> None:
    """A call that comes a millisecond after the last yield is the next one."""
    pace = Pace()
    assert await yields(pace)
    sleep(0.0005)
    assert not await yields(pace)
    sleep(0.0006)
    assert await yields(pace)
    assert not await yields(pace)


@clocked
async def test_yield_starts_anew() -> None:
    """After a yield for the time the calls are counted anew, and the other way round."""
    pace = Pace()
    await step(pace)
    for _ in range(60):
        assert not await yields(pace)
    sleep(0.002)
    assert await yields(pace)
    found = [call for call in range(1, 100) if await yields(pace)]
    assert found == [64]
    sleep(0.0009)
    for _ in range(64 - 35 - 1):
        assert not await yields(pace)
    assert await yields(pace)
    sleep(0.0009)
    assert not await yields(pace)


@clocked
async def test_full_checkpoint() -> None:
    """The yield is a full checkpoint by trio's rules."""
    with assert_checkpoints():
        await step(Pace())


@pytest.mark.parametrize("call", [0, 1, 2, 33, 63, 64, 65, 127, 128])
@clocked
async def test_every_call_notices_cancellation(call: int) -> None:
    """Whichever call it is, in a cancelled scope it raises."""
    pace = Pace()
    for _ in range(call):
        await step(pace)
    with trio.CancelScope() as scope:
        scope.cancel()
        await step(pace)
    assert scope.cancelled_caught

"""Waking one parked task."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.clocked import clocked
from trio_rt._waker import Waker


async def is_pending(waker: Waker) -> bool:
    """Whether a `wait()` returns at once."""
    with trio.move_on_after(1) as scope:
        await waker.wait()
    return not scope.cancelled_caught


@clocked
async def test_wake() -> None:
    """A wake-up ends the wait, and is used up by it."""
    waker = Waker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waker.wait)
        await wait_all_tasks_blocked()
        waker.wake()
    assert not await is_pending(waker)


@clocked
async def test_wake_is_remembered_once() -> None:
    """Wake-ups that find nobody waiting end the next wait, and only that."""
    waker = Waker()
    waker.wake()
    waker.wake()
    with assert_checkpoints():
        await waker.wait()
    assert not await is_pending(waker)


@clocked
async def test_wake_twice_while_parked() -> None:
    """Of two wake-ups in a row the first is for who waits, the second is remembered."""
    waker = Waker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waker.wait)
        await wait_all_tasks_blocked()
        waker.wake()
        waker.wake()
    assert await is_pending(waker)


@clocked
async def test_until() -> None:
    """Without a wake-up the wait ends exactly when it was to."""
    waker = Waker()
    start = trio.current_time()
    await waker.wait(start + 5)
    assert trio.current_time() == start + 5
    assert not await is_pending(waker)


@clocked
async def test_wake_before_until() -> None:
    """A wake-up ends a wait with a limit before its time."""
    waker = Waker()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waker.wait, start + 100)
        await trio.sleep(3)
        waker.wake()
    assert trio.current_time() == start + 3


@pytest.mark.parametrize("until", [-math.inf, 0.0])
@clocked
async def test_until_is_past(until: float) -> None:
    """A wait to a time that is past is a checkpoint and no more."""
    waker = Waker()
    await trio.sleep(10)
    with assert_checkpoints():
        await waker.wait(until)
    assert trio.current_time() == 10
    assert not await is_pending(waker)


@clocked
async def test_second_waiter() -> None:
    """A second task that waits is told so, and the first waits on."""
    waker = Waker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waker.wait)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await waker.wait()
        waker.wake()


@clocked
async def test_cancelled_while_parked() -> None:
    """A cancelled wait leaves the waker as it was."""
    waker = Waker()
    assert not await is_pending(waker)
    waker.wake()
    assert await is_pending(waker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waker.wait)
        await wait_all_tasks_blocked()
        waker.wake()
    assert not await is_pending(waker)


@clocked
async def test_cancelled_with_a_wake_up_pending() -> None:
    """A cancelled wait does not use up a wake-up."""
    waker = Waker()
    waker.wake()
    with trio.CancelScope() as scope:
        scope.cancel()
        await waker.wait()
    assert scope.cancelled_caught
    assert await is_pending(waker)


@pytest.mark.parametrize("wake_first", [True, False])
@clocked
async def test_wake_and_cancel_at_once(wake_first: bool) -> None:
    """Of a wake-up and a cancellation in one step none is lost."""
    waker = Waker()
    woken = False

    async def wait() -> None:
        nonlocal woken
        await waker.wait()
        woken = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        if wake_first:
            waker.wake()
            nursery.cancel_scope.cancel()
        else:
            nursery.cancel_scope.cancel()
            waker.wake()
    assert woken is wake_first
    assert await is_pending(waker) is not wake_first

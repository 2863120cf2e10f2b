"""The board of states and its watchers."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.clocked import clocked
from trio_rt._states import StateBoard, StateStream
from trio_rt.protocol.lifecycle import Phase, State


def state(number: int) -> State:
    return State(Phase.RECONNECTING, attempt=number)


async def ready(stream: StateStream) -> list[int]:
    """The attempts of all states that can be had without waiting."""
    found = []
    with trio.move_on_after(1):
        while True:
            found.append((await stream.receive()).attempt)
    return found


@clocked
async def test_current_first() -> None:
    """A watcher gets the state of the moment, then every later one in order."""
    board = StateBoard(state(0))
    board.post(state(1))
    with board.watch() as states:
        board.post(state(2))
        board.post(state(3))
        assert await ready(states) == [1, 2, 3]
    assert board.current == state(3)


@clocked
async def test_every_watcher_gets_all() -> None:
    """Watchers do not take states from one another."""
    board = StateBoard(state(0))
    with board.watch() as first, board.watch() as second:
        board.post(state(1))
        assert await ready(first) == [0, 1]
        assert await ready(second) == [0, 1]


@clocked
async def test_last_64_are_kept() -> None:
    """A watcher that falls behind misses the oldest states, never the latest."""
    board = StateBoard(state(0))
    with board.watch() as states:
        for number in range(1, 101):
            board.post(state(number))
        assert await ready(states) == list(range(37, 101))


@clocked
async def test_waits_for_the_next() -> None:
    """`receive` waits for the next state, and is woken by it."""
    board = StateBoard(state(0))
    found = []

    async def watch(states: StateStream) -> None:
        async for item in states:
            found.append(item.attempt)  # noqa: PERF401 - looked at on the way

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, board.watch())
        for number in (1, 2):
            await wait_all_tasks_blocked()
            assert found == list(range(number))
            board.post(state(number))
        board.end()
    assert found == [0, 1, 2]


@clocked
async def test_end() -> None:
    """After the last state a stream ends, also one that is waited for."""
    board = StateBoard(state(0))
    with board.watch() as states:
        board.post(state(1))
        board.end()
        assert [item.attempt async for item in states] == [0, 1]
        with pytest.raises(trio.EndOfChannel):
            await states.receive()


@clocked
async def test_end_wakes() -> None:
    """A watcher that waits when the board ends gets the end."""
    board = StateBoard(state(0))
    with board.watch() as states:
        await states.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect, trio.EndOfChannel, states)
            await wait_all_tasks_blocked()
            board.end()


@clocked
async def test_watch_after_the_end() -> None:
    """Who comes after the end gets the last state and the end."""
    board = StateBoard(state(0))
    board.post(state(1))
    board.end()
    with board.watch() as states:
        assert [item.attempt async for item in states] == [1]


@clocked
async def test_closed_by_its_holder() -> None:
    """A closed stream raises `ClosedResourceError`, even with states left, and gets no more."""
    board = StateBoard(state(0))
    states = board.watch()
    await states.aclose()
    board.post(state(1))
    board.end()
    with pytest.raises(trio.ClosedResourceError):
        await states.receive()
    states.close()


@clocked
async def test_closed_while_waited_for() -> None:
    """A task that waits in `receive` learns that the stream was closed."""
    board = StateBoard(state(0))
    states = board.watch()
    await states.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect, trio.ClosedResourceError, states)
        await wait_all_tasks_blocked()
        states.close()


@clocked
async def test_two_tasks() -> None:
    """A second task that waits for the next state is told so."""
    board = StateBoard(state(0))
    with board.watch() as states:
        await states.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(states.receive)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await states.receive()
            board.post(state(1))


@clocked
async def test_cancelling_loses_nothing() -> None:
    """A cancelled `receive` leaves the states where they are."""
    board = StateBoard(state(0))
    with board.watch() as states:
        with trio.CancelScope() as scope:
            scope.cancel()
            await states.receive()
        assert await ready(states) == [0]
        board.post(state(1))
        assert await ready(states) == [1]


@clocked
async def test_checkpoints() -> None:
    """`receive` and `aclose` are checkpoints, also with a state ready."""
    states = StateBoard(state(0)).watch()
    with assert_checkpoints():
        await states.receive()
    with assert_checkpoints():
        await states.aclose()


async def _expect(error: type[Exception], states: StateStream) -> None:
    with pytest.raises(error):
        await states.receive()

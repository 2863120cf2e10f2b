"""A task beside its owner's."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from tests.clocked import clocked
from trio_rt._aide import Aide


def nothing_fails(error: Exception) -> None:
    raise AssertionError(error)


@clocked
async def test_it_runs_until_it_is_ended() -> None:
    """It begins at once, and whoever ends it comes back when its clean-up is done."""
    said: list[str] = []

    async def task() -> None:
        said.append("begun")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            said.append("ended")

    async with trio.open_nursery() as nursery:
        aide = Aide(nursery, task, nothing_fails)
        await wait_all_tasks_blocked()
        assert said == ["begun"]
        await aide.end()
        assert said == ["begun", "ended"]
        await aide.end()


@clocked
async def test_an_end_before_the_beginning() -> None:
    """Ended in the turn in which it was made, it goes no further than its first wait."""
    said: list[str] = []

    async def task() -> None:
        said.append("begun")
        await trio.lowlevel.checkpoint()
        said.append("gone on")

    async with trio.open_nursery() as nursery:
        await Aide(nursery, task, nothing_fails).end()
    assert said == ["begun"]


@clocked
async def test_the_wait_for_its_end_cannot_be_cancelled() -> None:
    """A cancelled owner leaves no task behind."""
    said: list[str] = []

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            said.append("over")

    async with trio.open_nursery() as nursery:
        aide = Aide(nursery, task, nothing_fails)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await aide.end()
            finally:
                said.append("waited")
    assert said == ["over", "waited"]


@clocked
async def test_a_failure_goes_to_the_owner() -> None:
    """What it raises is told, and does not end the others in its nursery."""
    told: list[Exception] = []
    error = ValueError("oops")

    async def task() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        aide = Aide(nursery, task, told.append)
        await wait_all_tasks_blocked()
        assert told == [error]
        assert not nursery.cancel_scope.cancel_called
        await aide.end()


@clocked
async def test_it_dies_with_its_nursery() -> None:
    """A cancelled nursery ends it as any other task."""
    async with trio.open_nursery() as nursery:
        aide = Aide(nursery, trio.sleep_forever, nothing_fails)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await aide.end()
    assert nursery.cancel_scope.cancelled_caught

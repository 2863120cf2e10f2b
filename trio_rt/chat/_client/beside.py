"""Tasks beside a block, which ends them, and whose exception leaves as it is, in no group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

__all__ = ["beside"]


async def _nothing() -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def beside(
    *tasks: Callable[[], Awaitable[None]], at_end: Callable[[], Awaitable[None]] = _nothing
) -> AsyncIterator[None]:
    """Run `tasks` until the block ends.

    `at_end` runs, beside them still, when the block has returned or raised an ordinary
    error, and not when it is cancelled. No task is to raise.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
            try:
                yield
            except BaseException as caught:  # noqa: ASYNC103 - raised outside, in no group
                error = caught
            if error is None or isinstance(error, Exception):
                try:
                    await at_end()
                except KeyboardInterrupt as caught:  # not to leave in a group
                    error = caught
            nursery.cancel_scope.cancel()
    except BaseException as caught:  # noqa: ASYNC103 - the same
        if error is None or not _is_cancellation(caught):
            error = caught
    if error is not None:
        raise error


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)

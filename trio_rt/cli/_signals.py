"""Running until done, or until a signal says to stop."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio

__all__ = ["run_until_signal"]


def run_until_signal(main: Callable[[], Awaitable[int]]) -> int:
    """`trio.run(main)`, cancelled by SIGINT and SIGTERM: its result, or 128 + the signal.

    A second SIGINT ends it even if something will not be cancelled.
    """
    try:
        return trio.run(_run, main)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


async def _run(main: Callable[[], Awaitable[int]]) -> int:
    status = 0
    async with trio.open_nursery() as nursery:

        async def stop_at_signal(task_status: trio.TaskStatus[None]) -> None:
            nonlocal status
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                task_status.started()
                async for number in signals:
                    status = 128 + number
                    nursery.cancel_scope.cancel()

        await nursery.start(stop_at_signal)
        status = await main()
        nursery.cancel_scope.cancel()
    return status

"""A task beside its owner's, in a nursery that is somebody else's.

A nursery of its own for each link and each handler would do the same, and takes
1 kB; most peers of a server never need a second task for either. What a nursery
promises holds here too: whoever starts one ends it, and waits for its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

__all__ = ["Aide", "Task"]

Task: TypeAlias = Callable[[], Awaitable[None]]


class Aide:
    """`task` begins at once. `failed` is told what it raises, if that is an `Exception`."""

    __slots__ = ("_failed", "_over", "_scope", "_task")

    def __init__(
        self, nursery: trio.Nursery, task: Task, failed: Callable[[Exception], None]
    ) -> None:
        self._task = task
        self._failed = failed
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        nursery.start_soon(self._run)

    async def end(self) -> None:
        """Cancel the task and wait until it is over. That wait cannot be cancelled."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._over.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._task()
        except Exception as error:
            self._failed(error)
        finally:
            self._over.set()

"""The tasks that requests are handled in: each handles one after the other.

A request is to be handled as if in a task of its own: in a fresh copy of the context
variables, under a scope with its deadline. But a new task with a new cancel scope
costs 8.5 us, a third of all that a request takes, and handing it to a task that has
done its work 2. So a task stays for a while, and its scope too, as long as
that was not cancelled: between two requests it has no deadline and nobody holds it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import Final

import trio

from .protocol.calls import Call
from .protocol.inquiries import Inquiry, RequestQueue

__all__ = ["Handlers", "park"]

#: How long tasks without work are kept after the last request came.
IDLE_S: Final = 1.0


class _Worker:
    __slots__ = ("job", "task")

    def __init__(self, job: Inquiry) -> None:
        self.job: Inquiry | None = job
        self.task: trio.lowlevel.Task


class Handlers:
    """Runs `handle` for what lands in `queue`, at most `limit` at a time.

    `handle` may be cancelled: at the inquiry's deadline, or with the inquiry.
    """

    def __init__(
        self, queue: RequestQueue, handle: Callable[[Inquiry], Awaitable[None]], limit: float
    ) -> None:
        self._queue = queue
        self._handle = handle
        self._limit = limit
        self._count = 0
        self._idle: list[_Worker] = []
        self._context = copy_context()

    async def run(self, nursery: trio.Nursery) -> None:
        """Until nothing more will land; what has landed is handled by then, or in `nursery`."""
        queue = self._queue
        while not queue.ended or queue.inquiries:
            while queue.inquiries and (self._idle or self._count < self._limit):
                job = self._take()
                if self._idle:
                    self._resume(self._idle.pop(), job)
                else:
                    self._count += 1
                    nursery.start_soon(self._work, _Worker(job))
            await self._wait()
        self._dismiss()

    async def _wait(self) -> None:
        if not self._idle and not self._count:
            await park(self._queue)
            return
        with trio.move_on_after(IDLE_S) as quiet:
            await park(self._queue)
        if quiet.cancelled_caught:
            self._dismiss()

    def _take(self) -> Inquiry:
        job = self._queue.inquiries.popleft()
        job.begin()
        return job

    def _resume(self, worker: _Worker, job: Inquiry | None) -> None:
        worker.job = job
        worker.task.context = self._context.copy()
        trio.lowlevel.reschedule(worker.task)

    def _dismiss(self) -> None:
        while self._idle:
            self._resume(self._idle.pop(), None)

    async def _work(self, worker: _Worker) -> None:
        worker.task = trio.lowlevel.current_task()
        try:
            while worker.job is not None:
                await self._work_in_scope(worker)
        finally:
            self._count -= 1
            if worker.job is not None and not worker.job.finished:
                worker.job.fail("stopped", "nobody serves this type any more")

    async def _work_in_scope(self, worker: _Worker) -> None:
        """Handle jobs until there is none, or one of them was cancelled."""
        with trio.CancelScope() as scope:
            while worker.job is not None:
                await self._work_at(worker.job, scope)
                if scope.cancel_called:
                    break
                await self._next(worker)
            else:
                return
        assert worker.job is not None
        _conclude(worker.job)
        await self._next(worker)

    async def _work_at(self, job: Inquiry, scope: trio.CancelScope) -> None:
        if not job.cancelled and trio.current_time() < job.deadline:
            if job.deadline < math.inf:  # to set it takes 1.2 us
                scope.deadline = job.deadline
            job.on_cancel = scope.cancel
            await self._handle(job)
            if job.deadline < math.inf:
                scope.deadline = math.inf
        _conclude(job)

    async def _next(self, worker: _Worker) -> None:
        """Give `worker` its next job, or None if it is to end."""
        if self._queue.inquiries:
            worker.job = self._take()
            worker.task.context = self._context.copy()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            # `run()` may have been woken just before, and will look for idle ones once more.
            self._idle.remove(worker)
            return trio.lowlevel.Abort.SUCCEEDED

        self._idle.append(worker)
        await trio.lowlevel.wait_task_rescheduled(abort)


def _conclude(job: Inquiry) -> None:
    """Refuse it if the handler came to no end."""
    if not job.finished:
        late = trio.current_time() >= job.deadline
        job.fail("deadline" if late else "cancelled", "")


async def park(owner: Call | Inquiry | RequestQueue) -> None:
    """Wait until `owner` wakes who waits. A checkpoint."""
    task = trio.lowlevel.current_task()

    def abort(_: object) -> trio.lowlevel.Abort:
        owner.wake = None
        return trio.lowlevel.Abort.SUCCEEDED

    owner.wake = partial(trio.lowlevel.reschedule, task)
    await trio.lowlevel.wait_task_rescheduled(abort)

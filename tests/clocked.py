"""Async tests in virtual time, each with its cap."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import trio
from trio.testing import MockClock

__all__ = ["LIMIT_S", "Steps", "clocked", "run_clocked", "sleep"]

P = ParamSpec("P")

#: Virtual seconds after which a test has hung.
LIMIT_S = 600.0


def run_clocked(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run `scenario` on a clock that jumps whenever all tasks wait."""

    async def capped() -> None:
        with trio.fail_after(LIMIT_S):
            await scenario()

    trio.run(capped, clock=MockClock(autojump_threshold=0))


def clocked(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """The decorator for it."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run_clocked(functools.partial(test, *args, **kwargs))

    return wrapper


def sleep(seconds: float) -> None:
    """Let time pass without letting any task run."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)


class Steps(trio.abc.Instrument):
    """Within the block: how often the current task was suspended."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Steps:
        self.count = 0
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self._task

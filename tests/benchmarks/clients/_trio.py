"""Running a job on trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import ParamSpec, TypeVar

import trio

P = ParamSpec("P")
T = TypeVar("T")


def on_trio(job: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """The job as a plain function that runs it."""

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return trio.run(partial(job, *args, **kwargs))

    return run

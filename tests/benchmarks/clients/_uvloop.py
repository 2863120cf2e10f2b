"""Running an asyncio job on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import uvloop

P = ParamSpec("P")
T = TypeVar("T")


def on_uvloop(job: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The job as a plain function that runs it in a new loop."""

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(job(*args, **kwargs))

    return run

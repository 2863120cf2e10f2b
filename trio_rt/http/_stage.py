"""Where a call is, and until when: told by the layers, read by `Timeout`.

A `Progress` travels in the request's extensions, and so over redirects. A layer
that waits says so before, and that the wait is over after: `set_stage(request,
"queue")`, then `set_stage(request, "answer")`. Without a `Timeout` above it
costs one dictionary look-up and does nothing.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, TypeAlias

import httpx
import trio

__all__ = ["KEY", "Progress", "Stage", "set_stage", "stage_of"]

Stage: TypeAlias = Literal["queue", "backoff", "answer", "body"]

KEY: Final = "trio_rt.progress"


class Progress:
    """One for each call.

    `is_whole`: it covers the call with its redirects and log-ins. `is_bounded`: who
    calls reads the body to its end, and has a scope around all of it.
    """

    __slots__ = ("deadline", "is_bounded", "is_whole", "stage", "timeout_s")

    def __init__(self, *, is_whole: bool = False, is_bounded: bool = False) -> None:
        self.stage: Stage = "answer"
        self.is_whole = is_whole
        self.is_bounded = is_bounded
        self.timeout_s = math.inf
        #: In trio's time.
        self.deadline = math.inf

    def begin(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.deadline = trio.current_time() + timeout_s


def set_stage(request: httpx.Request, stage: Stage) -> None:
    progress: Any = request.extensions.get(KEY)
    if progress is not None:
        progress.stage = stage


def stage_of(request: httpx.Request) -> Stage:
    """What was set last; "answer" where nothing was."""
    progress: Any = request.extensions.get(KEY)
    return "answer" if progress is None else progress.stage

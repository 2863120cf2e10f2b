"""Keeping a process on one core."""

from __future__ import annotations

import os
from typing import Final

#: The client's core and the server's; the same one on a machine with one.
CLIENT_CORE: Final = 0
SERVER_CORE: Final = 1


#: Tells the processes that a pinned one starts which cores there are: they inherit
#: its one core, and would all share it.
_CORES: Final = "TRIO_RT_BENCHMARK_CORES"


def pin(core: int) -> None:
    """Keep this process on one of the cores it may use; nothing where that is unknown."""
    if hasattr(os, "sched_setaffinity"):
        mine = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        allowed = os.environ.setdefault(_CORES, mine).split(",")
        os.sched_setaffinity(0, {int(allowed[core % len(allowed)])})


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

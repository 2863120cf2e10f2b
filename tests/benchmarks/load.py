"""How busy everybody else keeps the machine; Linux only, elsewhere nobody is seen."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import attrs

_STAT: Final = Path("/proc/stat")
#: Columns of /proc/stat that are idle time: idle and iowait; guest time is in user time already.
_IDLE: Final = (3, 4)
_COLUMNS: Final = 8


@attrs.frozen
class Load:
    """CPU seconds so far: of the whole machine, and of the benchmark in it."""

    at: float
    machine_s: float
    own_s: float

    @classmethod
    def now(cls, server: int) -> Load:
        """The load up to now; `server` is the fixed server's process id."""
        if not _STAT.exists():
            return cls(time.monotonic(), 0.0, 0.0)
        ticks = os.sysconf("SC_CLK_TCK")
        columns = [int(part) for part in _STAT.read_text().split("\n")[0].split()[1:]][:_COLUMNS]
        busy = sum(count for column, count in enumerate(columns) if column not in _IDLE)
        served = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
        own = os.times()
        own_s = own.user + own.system + own.children_user + own.children_system
        own_s += (int(served[11]) + int(served[12])) / ticks
        return cls(time.monotonic(), busy / ticks, own_s)

    def others_since(self, before: Load) -> float:
        """The part of one core that others took, stolen time included; 0.3 is 30 % of a core."""
        others_s = (self.machine_s - before.machine_s) - (self.own_s - before.own_s)
        return max(0.0, others_s / (self.at - before.at))

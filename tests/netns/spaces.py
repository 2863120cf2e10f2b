"""Namespaces, and what is run in them.

`unshare --net` makes one without a name, and becomes the program to run in it.
The last process to leave it takes it along, and a scenario ends by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import trio

__all__ = ["Result", "run_scenario", "why_not"]

ROOT: Final = Path(__file__).parents[2]

TOOLS: Final = ("unshare", "ip", "tc", "iptables", "ss")

#: What all of a scenario may take.
LIMIT_S: Final = 60.0

#: Whether the kernel lets us: a namespace, its interface, and a packet filter.
PROBE: Final = "ip link set lo up && iptables -w -A INPUT -p tcp --dport 1 -j DROP"


def why_not() -> str | None:
    """Why no scenario can run here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs to be root on Linux"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    probe = subprocess.run(
        ["unshare", "--net", "sh", "-c", PROBE], capture_output=True, text=True, timeout=10
    )
    return f"not permitted: {probe.stderr.strip()}" if probe.returncode else None


@attrs.frozen(kw_only=True)
class Result:
    """What a scenario found; without `breaches`, all is well."""

    scenario: str
    wire: str
    breaches: list[str] = attrs.field(factory=list)
    #: Why it could not be played on this kernel.
    skipped: str | None = None
    sent: int = 0
    outcomes: Mapping[str, int] = attrs.field(factory=dict)
    delivered: int = 0
    links: int = 0
    #: Seconds until each end had noticed the fault.
    noticed: Mapping[str, float] = attrs.field(factory=dict)
    packets_hit: int | None = None
    leave_s: float = 0.0
    took_s: float = 0.0

    def __str__(self) -> str:
        title = f"{self.scenario:10}  {self.wire:14}"
        if self.skipped is not None:
            return f"{title}  skipped: {self.skipped}"
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.items())
        words = [f"{self.sent} sent ({outcomes})", f"{self.delivered} delivered"]
        words.append(f"links: {self.links}")
        if self.packets_hit is not None:
            words.append(f"packets hit: {self.packets_hit}")
        words += [f"{end} noticed after {seconds:.2f} s" for end, seconds in self.noticed.items()]
        words += [f"left in {self.leave_s:.2f} s", f"took {self.took_s:.1f} s"]
        words.append("FAILED" if self.breaches else "ok")
        return f"{title}  {'; '.join(words)}"


async def run_scenario(scenario: str, wire: str) -> Result:
    """Play it in a namespace of its own. Cancelled: its process is ended."""
    began = trio.current_time()
    command = [
        *("unshare", "--net", sys.executable, "-X", "dev", "-W", "error"),
        *("-m", "tests.netns.inside", scenario, wire),
    ]
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    with trio.fail_after(LIMIT_S):
        done = await trio.run_process(
            command, check=False, capture_stdout=True, capture_stderr=True, cwd=ROOT, env=env
        )
    found: dict[str, Any] = {"breaches": [f"it ended with {done.returncode}"]}
    if done.stdout:
        found = json.loads(done.stdout)
    if done.stderr:
        # Where warnings of what was left open go to.
        found.setdefault("breaches", []).append(done.stderr.decode(errors="replace"))
    return Result(scenario=scenario, wire=wire, took_s=trio.current_time() - began, **found)

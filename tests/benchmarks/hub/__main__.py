"""`python -m tests.benchmarks.hub`: fan-out of the hub beside other servers."""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from typing import Final

import attrs

from ..pinning import CLIENT_CORE, pin
from ..report import machine
from . import scenes
from .crowd import DIALECTS, Crowd
from .running import running
from .sessions import session_fan_out

#: What is said: small, and known by its mark.
TEXT: Final = "x:" + "-" * 118

#: Messages in one write of who says them, for "stream".
BURST: Final = 16


@attrs.frozen
class Row:
    """One figure: deliveries for each second of the server's CPU."""

    name: str
    members: int
    burst: int
    times: int
    #: Members that say something at the same time.
    talkers: int = 1


ROWS: Final = (
    Row("one by one, 500 members", 500, 1, 60),
    Row("one by one, 5,000 members", 5000, 1, 10),
    Row("eight at a time, 500 members", 500, 1, 20, talkers=8),
    Row("a stream, 500 members", 500, BURST, 20),
    Row("a stream, 5,000 members", 5000, BURST, 3),
)
PEERS: Final = ("websockets", "socketio", "bare")
MUST: Final = {"websockets": 3.0, "socketio": 10.0}
AIM: Final = {"bare": 0.8}


def fan_out(kind: str, row: Row) -> float:
    """Deliveries for each second of the server's CPU."""
    with running(kind) as server:
        crowd = Crowd(server.port, DIALECTS[kind], row.members)
        crowd.join()
        crowd.settle()
        for times in (3, row.times):  # the first to warm up
            begin, before = server.cpu_s(), crowd.heard
            for _ in range(times):
                for talker in range(row.talkers):
                    crowd.say(TEXT, row.burst, member=talker)
                crowd.hear(crowd.heard + row.members * row.burst * row.talkers)
            used, heard = server.cpu_s() - begin, crowd.heard - before
        crowd.close()
    return heard / used


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hub")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", action="append", metavar="TEXT")
    options = parser.parse_args()
    pin(CLIENT_CORE)
    rows = [r for r in ROWS if not options.rows or any(t in r.name for t in options.rows)]
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        jobs = [(row, kind) for row in rows for kind in ("ours", *PEERS)]
        random.shuffle(jobs)
        for row, kind in jobs:
            found.setdefault((row.name, kind), []).append(fan_out(kind, row))
    broken = 0
    for row in rows:
        ours = found[row.name, "ours"]
        print(f"{row.name}: {statistics.median(ours):,.0f} deliveries per CPU second")
        for kind in PEERS:
            theirs = found[row.name, kind]
            ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
            text = f"  {kind} {statistics.median(theirs):,.0f}: {statistics.median(ratios):.2f} x"
            if kind in MUST:
                good = sum(ratio >= MUST[kind] for ratio in ratios)
                broken += good < len(ratios)
                text += f" (must {MUST[kind]:g}: {good} of {len(ratios)})"
            elif kind in AIM:
                text += f" (aim {AIM[kind]:g})"
            print(text)
        if row.talkers == 1:
            beside = session_fan_out(TEXT, row.members, row.burst, row.times)
            print(f"  with sessions {beside:,.0f}")
    for scene in (scenes.stuck, scenes.rooms, scenes.returning, scenes.memory):
        if not options.rows or any(text in scene.__name__ for text in options.rows):
            print(*scene(), sep="\n")
    print(f"\n{machine()}, {os.cpu_count()} cores; {options.rounds} rounds")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.faults`: every fault on every wire; what was promised is checked in each.

Client and server are trio_rt's, over TCP on this machine, with a relay in a process
of its own between them (`python -m trio_rt.testing.relay`). Prints the table that
docs/faults.md has. The exit status is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final, get_args

import trio

from trio_rt.options import WireName

from .matrix import Result, run
from .table import FAULTS

#: What is shown of a breach.
CHARACTERS: Final = 500

HEADINGS: Final = (
    *("fault", "times", "wire", "links", "sends", "written", "indeterminate", "dropped or withdrawn"),
    *("delivered", "noticed after, at most", "broken promises"),
)  # fmt: skip


def _row(result: Result) -> tuple[str, ...]:
    outcomes = result.outcomes
    sends, written = outcomes.total(), outcomes["written"]
    unsure = outcomes["indeterminate"]
    noticed = "" if not result.noticed_s else f"{max(result.noticed_s):.2f} s"
    times = str(result.fault.times) if result.fault.loses else "all the time"
    numbers = (result.links, sends, written, unsure, sends - written - unsure, result.delivered)
    words = (result.fault.name, times, result.wire)
    return (*words, *map(str, numbers), noticed, str(len(result.breaches)))


def _say(row: tuple[str, ...]) -> None:
    print(f"| {' | '.join(row)} |", flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fault", default="", metavar="TEXT", help="only those with TEXT in them")
    parser.add_argument("--wire", choices=get_args(WireName), help="only on this one")
    arguments = parser.parse_args()
    wires: tuple[WireName, ...] = (arguments.wire,) if arguments.wire else get_args(WireName)
    faults = [fault for fault in FAULTS if arguments.fault in fault.name]
    if not faults:
        parser.error(f"no fault has {arguments.fault!r} in its name")
    broken = []
    _say(HEADINGS)
    _say(("---", "--:", "---", *["--:"] * 7, "--:"))
    for fault in faults:
        for wire in wires:
            result = trio.run(run, fault, wire)
            _say(_row(result))
            broken += [f"{fault.name}, {wire}: {line}" for line in result.breaches]
    for line in broken:
        print(line[:CHARACTERS], file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

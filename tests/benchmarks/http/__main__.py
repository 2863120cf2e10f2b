"""`python -m tests.benchmarks.http`: measure, print the table, say what does not hold."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from ..pinning import cores
from . import report
from .rounds import run_rounds
from .rows import all_rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.http",
        description="Measure the HTTP client above its backends. Exit status 1: a must is broken.",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rows",
        action="append",
        metavar="TEXT",
        help="only rows with TEXT in their name; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="speeds by the client's CPU time: for a busy machine, not the stated measure",
    )
    return parser.parse_args()


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Run what was asked for."""
    options = _options()
    rows = [
        row
        for row in all_rows()
        if options.rows is None or any(text in row.name for text in options.rows)
    ]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if cores() < 2:
        print("One core for the client and the server: the figures mean little.")
    began = time.monotonic()
    rounds = run_rounds(rows, options.rounds, _progress)
    _progress("")
    if options.cpu:
        print("Speeds by the CPU time of the client.\n")
    print(report.table(rows, rounds, cpu=options.cpu))
    print(f"\n{report.machine()}")
    print(f"{len(rounds)} rounds, {time.monotonic() - began:.0f} s; {report.disturbance(rounds)}")
    print(f"\n{report.NOTES}\n")
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_figures(rounds), indent=1))
    broken = report.broken(rows, rounds, cpu=options.cpu)
    print("\n".join(["Does not hold:", *broken]) if broken else "Every must holds.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

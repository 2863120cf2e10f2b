"""`python -m tests.benchmarks`: measure, print the table, say what does not hold."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from . import report
from .pinning import cores
from .rounds import Round, run_rounds
from .rows import Row, all_rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure trio_rt side by side with its peers. Exit status 1: a must is broken.",
    )
    parser.add_argument("--quick", action="store_true", help="one round, not seven")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--rows",
        action="append",
        metavar="TEXT",
        help="only rows with TEXT in their name; may be repeated",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        metavar="TEXT",
        default=[],
        help="no rows with TEXT in their name",
    )
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="rates by the client's CPU time: for a busy machine, not the stated measure",
    )
    return parser.parse_args()


def _chosen(wanted: Sequence[str] | None, unwanted: Sequence[str]) -> list[Row]:
    return [
        row
        for row in all_rows()
        if (wanted is None or any(text in row.name for text in wanted))
        and not any(text in row.name for text in unwanted)
    ]


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _as_json(rounds: Sequence[Round], machine: dict[str, Any]) -> str:
    found = [
        [
            attrs.asdict(measured)
            | {"result": result if isinstance(result, str) else attrs.asdict(result)}
            for measured, result in one.items()
        ]
        for one in rounds
    ]
    return json.dumps({"machine": machine, "rounds": found}, indent=1)


def main() -> int:
    """Run what was asked for."""
    options = _options()
    rows = _chosen(options.rows, options.exclude)
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if cores() < 2:
        print("One core for the client and the server: the figures mean little.")
    began = time.monotonic()
    wanted = {measured for row in rows for measured in row.measurements}
    rounds = run_rounds(wanted, 1 if options.quick else options.rounds, _progress)
    _progress("")
    machine = report.machine()
    if options.cpu:
        rounds = report.by_cpu(rounds)
        print("Rates by the CPU time of the client.\n")
    print(report.table(rows, rounds))
    print(report.described(machine))
    print(f"{len(rounds)} rounds, {time.monotonic() - began:.0f} s; {report.disturbance(rounds)}")
    print(f"\n{report.NOTES}\n")
    if options.json is not None:
        options.json.write_text(_as_json(rounds, machine))
    broken = report.broken(rows, rounds)
    print("\n".join(["Does not hold:", *broken]) if broken else "Every must holds.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

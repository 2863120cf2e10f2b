"""`python -m tests.conformance`: Autobahn's cases against client and server.

The exit status is 0 only if every case is OK, NON-STRICT or INFORMATIONAL and
its connection was closed as it should be (`exempt` are those that kosoku
declines to run with any client like ours; see `suites.py`). `--suite original` takes the path of
a `wstest` executable; `tests/conformance/__init__.py` tells how to make one.
"""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path
from typing import Final

import trio

from .runs import Mode, Plan, Result, run
from .selections import ALL_DEFLATE, PLAIN, QUICK_DEFLATE, QUICK_PLAIN, SOME_DEFLATE, Selection
from .suites import Kosoku, Original, Suite
from .testees import WIRES

MODES: Final[tuple[Mode, ...]] = ("client", "server")

#: The only wire with compression, and the only one of a server.
WEBSOCKETS: Final = "websockets"

HEADINGS: Final = (
    "mode", "wire", "which", "cases", "OK", "non-strict", "informational", "exempt", "failed", "again", "time",
)  # fmt: skip


def plans(
    modes: tuple[Mode, ...], wires: tuple[str, ...], selections: tuple[Selection, ...]
) -> list[Plan]:
    """Every combination that there is."""
    return [
        Plan(mode, wire, selection)
        for mode in modes
        for wire in wires
        for selection in selections
        if wire == WEBSOCKETS or (mode == "client" and not selection.compression)
    ]


def _row(result: Result) -> tuple[str, ...]:
    plan, tally = result.plan, result.tally
    numbers = (
        tally.cases,
        tally.ok,
        tally.non_strict,
        tally.informational,
        tally.exempt,
        len(result.faults),
        result.again,
    )
    words = (plan.mode, plan.wire, plan.selection.name)
    return (*words, *map(str, numbers), f"{result.took_s:.1f} s")


def _print(row: tuple[str, ...]) -> None:
    widths = (6, 14, 11, *(len(heading) for heading in HEADINGS[3:-1]), 7)
    cells = (
        cell.ljust(width) if column < 3 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    print("  ".join(cells), flush=True)


async def _run_all(suite: Suite, todo: list[Plan], reports: Path | None) -> bool:
    """Whether all is well."""
    good = True
    _print(HEADINGS)
    for plan in todo:
        try:
            result = await run(suite, plan, reports)
        except Exception as error:  # a bug in the library may come out as anything
            traceback.print_exception(error)
            good = False
        else:
            _print(_row(result))
            for fault in result.faults:
                print(f"    {fault}", flush=True)
            good = good and not result.faults
    return good


def main() -> int:
    """The command line; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="some cases of each kind")
    size.add_argument("--all", action="store_true", help="all 517, which takes many minutes")
    parser.add_argument("--mode", choices=MODES, help="the end under test; both")
    parser.add_argument("--wire", choices=WIRES, help="the client's; all")
    parser.add_argument("--suite", choices=("kosoku", "original"), default="kosoku")
    parser.add_argument("--wstest", type=Path, help="the executable of the original suite")
    parser.add_argument("--reports", type=Path, help="a new folder to keep the reports in")
    arguments = parser.parse_args()
    suite: Suite = Kosoku()
    if arguments.suite == "original":
        if arguments.wstest is None:
            parser.error("--suite original needs --wstest")
        suite = Original(arguments.wstest)
    selections = (PLAIN, ALL_DEFLATE if arguments.all else SOME_DEFLATE)
    if arguments.quick:
        selections = (QUICK_PLAIN, QUICK_DEFLATE)
    modes: tuple[Mode, ...] = (arguments.mode,) if arguments.mode else MODES
    wires = (arguments.wire,) if arguments.wire else WIRES
    todo = plans(modes, wires, selections)
    return 0 if trio.run(_run_all, suite, todo, arguments.reports) else 1


if __name__ == "__main__":
    raise SystemExit(main())

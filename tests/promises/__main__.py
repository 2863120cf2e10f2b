"""`python -m tests.promises --seeds A:B`: run any seeds, and say how to run a failing one again."""

from __future__ import annotations

import argparse
import itertools
import time
import traceback
from typing import Final, get_args

from trio_rt.options import WireName

from .checks import breaches
from .story import tell

#: What is shown of a failure.
LINES: Final = 6
CHARACTERS: Final = 500


def run_seed(seed: int, wire: WireName) -> list[str]:
    """What is wrong with the story of this seed on this wire."""
    try:
        return breaches(tell(seed, wire))
    except Exception as error:  # a bug in the library may come out as anything
        inner: BaseException = error
        while isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        return traceback.format_exception(inner)[-LINES:]


def _seeds(text: str) -> range:
    first, colon, end = text.partition(":")
    return range(int(first), int(end) if colon else int(first) + 1)


def main() -> int:
    """The command line; the exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.promises", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(500), help="A:B, or one; 0:500")
    parser.add_argument("--wire", choices=get_args(WireName), help="on one; on all, one by one")
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first that fails")
    arguments = parser.parse_args()
    began, failed = time.perf_counter(), 0
    wires = [arguments.wire] if arguments.wire else get_args(WireName)
    for wire, seed in itertools.product(wires, arguments.seeds):
        found = run_seed(seed, wire)
        if found:
            failed += 1
            print(f"again: python -m tests.promises --wire {wire} --seeds {seed}")
            for line in found[:LINES]:
                print(f"    {line.rstrip()[:CHARACTERS]}", flush=True)
            if arguments.fail_fast:
                break
    spent_s = time.perf_counter() - began
    print(f"{len(arguments.seeds)} seeds on {len(wires)} wires, {failed} failed, {spent_s:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

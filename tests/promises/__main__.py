"""`python -m tests.promises --seeds A:B`: run any seeds, and say how to run a failing one again."""

from __future__ import annotations

import argparse
import time
import traceback
from typing import Final

from .checks import breaches
from .story import tell

#: What is shown of a failure.
LINES: Final = 6
CHARACTERS: Final = 500


def run_seed(seed: int) -> list[str]:
    """What is wrong with the story of this seed."""
    try:
        return breaches(tell(seed))
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
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first that fails")
    arguments = parser.parse_args()
    began, failed = time.perf_counter(), 0
    for seed in arguments.seeds:
        found = run_seed(seed)
        if found:
            failed += 1
            print(f"seed {seed}; again: python -m tests.promises --seeds {seed}")
            for line in found[:LINES]:
                print(f"    {line.rstrip()[:CHARACTERS]}", flush=True)
            if arguments.fail_fast:
                break
    spent_s = time.perf_counter() - began
    print(f"{len(arguments.seeds)} seeds, {failed} failed, {spent_s:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

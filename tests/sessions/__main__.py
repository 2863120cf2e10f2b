"""`python -m tests.sessions --seeds N --first A`: run seeds, and say how to run one again."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Final, get_args

from trio_rt.options import WireName

from .checks import breaches
from .plans import CodecName
from .story import tell

#: What is shown of a failure.
LINES: Final = 5
CHARACTERS: Final = 400

#: Seeds that a process takes at once.
CHUNK: Final = 20


def run_seed(
    seed: int, codec: CodecName | None = None, wire: WireName | None = None
) -> tuple[int, list[str]]:
    """What is wrong with the story of this seed."""
    try:
        return seed, breaches(tell(seed, codec, wire))
    except Exception as error:  # a bug in the library may come out as anything
        inner: BaseException = error
        while isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        return seed, traceback.format_exception(inner)[-LINES:]


def _show(seed: int, codec: CodecName | None, wire: WireName | None) -> None:
    """One seed: its plan, what the network did, and what became of every send."""
    story = tell(seed, codec, wire)
    print(story.plan)
    assert story.network is not None
    for at, event in story.network.trace:
        print(f"{at:10.4f} {event}")
    for side in [*([story.client] if hasattr(story, "client") else []), *story.peers]:
        print(f"{side.name}: {story.lives[side.name]}")
        for sent in side.sent:
            print(f"    {sent.label} {sent.send.verb}: {sent.raised or sent.outcome}")


def _results(
    seeds: range, codec: CodecName | None, wire: WireName | None
) -> Iterator[tuple[int, list[str]]]:
    with multiprocessing.Pool(os.cpu_count()) as pool:
        yield from pool.imap(partial(run_seed, codec=codec, wire=wire), seeds, CHUNK)


def main() -> int:
    """The command line; the exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sessions", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000, help="how many; 20000")
    parser.add_argument("--first", type=int, default=0, help="from this one on; 0")
    parser.add_argument("--seed", type=int, help="this one, with all that happened")
    parser.add_argument("--codec", choices=get_args(CodecName), help="else drawn")
    parser.add_argument("--wire", choices=get_args(WireName), help="else drawn")
    arguments = parser.parse_args()
    codec, wire = arguments.codec, arguments.wire
    began, failed = time.perf_counter(), 0
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    if arguments.seed is not None:
        _show(arguments.seed, codec, wire)
        seeds = range(arguments.seed, arguments.seed + 1)
    options = "".join(
        f" --{name} {value}" for name, value in (("codec", codec), ("wire", wire)) if value
    )
    for seed, faults in _results(seeds, codec, wire):
        if faults:
            failed += 1
            print(f"again: python -m tests.sessions --seed {seed}{options}")
            for line in faults[:LINES]:
                print(f"    {line.rstrip()[:CHARACTERS]}", flush=True)
    spent_s = time.perf_counter() - began
    print(f"{len(seeds)} seeds, {failed} failed, {spent_s:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

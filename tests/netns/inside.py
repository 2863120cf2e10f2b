"""`python -m tests.netns.inside SCENARIO WIRE`: one scenario, in the namespace that it runs in.

It changes that namespace's packet filter, so run it only where `spaces` does.
What it found goes to its output, as JSON.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from typing import Any

import trio

from tests.promises.logs import listening_to_logs

from .checks import breaches
from .scenarios import SCENARIOS
from .stage import Late, Skipped, Stage, play


def _figures(stage: Stage) -> dict[str, Any]:
    ends = [stage.client, *stage.peers]
    return {
        "sent": sum(len(books.sent) for books in ends),
        "outcomes": Counter(str(sent.delivery.outcome) for books in ends for sent in books.sent),
        "delivered": sum(len(books.received) for books in ends),
        "links": len(stage.links),
        "noticed": stage.noticed(),
        "packets_hit": stage.packets_hit,
        "leave_s": stage.leave_s,
    }


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def main(name: str, wire: str) -> dict[str, Any]:
    """The result of the scenario."""
    found: list[str] = []
    try:
        with listening_to_logs(found):
            stage = trio.run(play, SCENARIOS[name], wire)
    except Exception as error:
        for leaf in _leaves(error):
            if isinstance(leaf, Skipped):
                return {"skipped": str(leaf)}
            if isinstance(leaf, Late):
                return {"breaches": [str(leaf), *found]}
        return {"breaches": ["".join(traceback.format_exception(error))]}
    return {**_figures(stage), "breaches": [*breaches(stage), *found]}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))

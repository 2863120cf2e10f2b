"""Run one job of one client and print what it came to, as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
from types import ModuleType
from typing import Final

import attrs

from ..pinning import CLIENT_CORE, pin
from . import Job, Run, Target

#: Long enough to be well above start-up effects, short enough for seven rounds.
DURATION_S: Final = 0.4
#: Cold, then warm: each run tells how many messages the next one can do.
FIRST_MESSAGES: Final = 50
WARM_UP_S: Final = (0.02, 0.08, DURATION_S)
MOST_MESSAGES: Final = 1_000_000


def measure(module: ModuleType, job: str, target: Target) -> Run:
    """The figure of one job; a rate from a run of about `DURATION_S`."""
    if job in getattr(module, "FIGURES", {}):
        figure: Run = module.FIGURES[job](target)
        return figure
    run: Job = module.JOBS[job]
    messages = FIRST_MESSAGES
    for duration in WARM_UP_S:
        watch = run(target, messages)
        messages = max(FIRST_MESSAGES, min(MOST_MESSAGES, int(messages / watch.seconds * duration)))
    watch = run(target, messages)
    done = messages if watch.confirmed is None else watch.confirmed
    return Run(done / watch.seconds, done / watch.cpu_seconds, notes=watch.notes)


def main() -> None:
    """Pin, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client")
    parser.add_argument("job")
    parser.add_argument("target")
    options = parser.parse_args()
    pin(CLIENT_CORE)
    module = importlib.import_module(f".{options.client}", __package__)
    run = measure(module, options.job, Target(**json.loads(options.target)))
    print(json.dumps(attrs.asdict(run)))


if __name__ == "__main__":
    main()

"""Run one job in this process and print what it came to, as JSON."""

from __future__ import annotations

import argparse
import importlib
import json

import attrs

from ..clients import Run
from ..pinning import CLIENT_CORE, pin
from .origin import Origin


def main() -> None:
    """Pin, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job")
    parser.add_argument("backend")
    parser.add_argument("case")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    pin(CLIENT_CORE)
    module = importlib.import_module(f".{options.job}", __package__)
    run: Run = module.run(Origin(options.port), options.backend, options.case)
    print(json.dumps(attrs.asdict(run)))


if __name__ == "__main__":
    main()

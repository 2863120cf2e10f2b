"""`python -m tests.netns`: the scenarios in network namespaces, as root.

Prints a line for each with what was sent, what became of it, and how soon a
dead link was noticed. The exit status is 1 if a promise was broken, and 2 if
no scenario can run here.
"""

from __future__ import annotations

import argparse

import trio

from .scenarios import SCENARIOS
from .spaces import run_scenario, why_not
from .stage import WIRES


async def _run_all(scenarios: tuple[str, ...], wires: tuple[str, ...]) -> bool:
    good = True
    for scenario in scenarios:
        for wire in wires:
            result = await run_scenario(scenario, wire)
            print(result, flush=True)
            for breach in result.breaches:
                print(f"    {breach}", flush=True)
                good = False
    return good


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.netns",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", choices=SCENARIOS, help="one of them; all")
    parser.add_argument("--wire", choices=WIRES, help="the client's; all")
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        print(reason)
        return 2
    scenarios = (arguments.scenario,) if arguments.scenario else tuple(SCENARIOS)
    wires = (arguments.wire,) if arguments.wire else WIRES
    return 0 if trio.run(_run_all, scenarios, wires) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""Open as many raw WebSocket connections as each line of the standard input says."""

from __future__ import annotations

import sys

from . import Target
from .blocking import connect


def main() -> None:
    """Until the standard input ends."""
    target = Target({"ws": int(sys.argv[1])}, "")
    kept = []
    for line in sys.stdin:
        kept += [connect(target, "") for _ in range(int(line))]
        print("open", flush=True)


if __name__ == "__main__":
    main()

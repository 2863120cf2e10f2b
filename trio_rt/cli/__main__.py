"""`python -m trio_rt.cli`: the same as the command `trio-rt`."""

from __future__ import annotations

from . import main

if __name__ == "__main__":
    main()

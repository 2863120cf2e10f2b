"""The benchmark: trio_rt side by side with its peers, in one run.

    pip install -e .[bench]
    python -m tests.benchmarks [--quick] [--rows PATTERN] [--json FILE]

`server.py` is the one server that every client talks to, but those that need
their own (sessions do, and python-socketio); `clients/` has a module per
library, and those servers; `rows.py` says what is compared and what it must reach;
`rounds.py` runs it; `report.py` prints it.
"""

"""The benchmark: trio_rt side by side with its peers, in one run.

    pip install -e .[bench]
    python -m tests.benchmarks [--quick] [--rows PATTERN] [--json FILE]

`server.py` is the one server that every client talks to; `clients/` has a
module per library; `rows.py` says what is compared and what it must reach;
`rounds.py` runs it; `report.py` prints it.
"""

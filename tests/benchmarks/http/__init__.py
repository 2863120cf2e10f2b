"""The benchmark of the HTTP client: `trio_rt.http` above httpx, and beside it.

    pip install -e .[bench]
    python -m tests.benchmarks.http [--rounds N] [--rows TEXT] [--cpu] [--json FILE]

`server.py` is the one server, in a process of its own on a core of its own;
`origin.py` is where it is. A module per job, each run by `job.py` in a fresh
process on another core:

    overhead            all layers against the bare backend, the cache missed
    hit                 a fresh answer from memory against the bare backend
    gate                the queue alone, without a socket
    flights             equal calls at once
    critical            one urgent call behind 500 others
    cancels, leaving    a storm of cancels; how soon a cancelled call is back
    dead                what a server that fails gets to see
    stages              where the time goes
    aiohttp_asyncio     another client
    ceiling             the server's own limit

`blocks.py` times two things in turn; `rows.py` says what must be reached;
`rounds.py` runs it; `report.py` prints it.
"""

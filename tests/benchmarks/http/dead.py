"""How often a server that fails every time is asked, by a client that tries again."""

from __future__ import annotations

import time
from typing import Final

import trio

from trio_rt.http import BackendName, open_client

from ..clients import Run
from .origin import Origin, unique

REQUESTS: Final = 1000
#: So that waits between tries go on side by side.
CALLERS: Final = 100


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """Tries for each request, as the server counts; `case` is "dead" or "hang-up"."""
    return trio.run(_run, origin, name, unique(f"/{case}"))


async def _run(origin: Origin, name: BackendName, path: str) -> Run:
    failed = 0

    async def call() -> None:
        nonlocal failed
        for _ in range(REQUESTS // CALLERS):
            try:
                response = await client.get(path, cache="no-store")
            except Exception:
                failed += 1
            else:
                failed += response.status_code == 503

    start = time.perf_counter()
    async with open_client(origin.url, backend=name) as client, trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(call)
    assert failed == REQUESTS
    spent_s = time.perf_counter() - start
    return Run(origin.hits(path) / REQUESTS, notes={"seconds": spent_s})

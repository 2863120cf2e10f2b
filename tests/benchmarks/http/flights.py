"""Equal calls at once: one request where the answer may be shared, no queue where not."""

from __future__ import annotations

import time
from typing import Final

import trio

from trio_rt.http import BackendName, open_client

from ..clients import Run
from .bare import getter
from .origin import Origin, unique

SHARED: Final = 200
ALONE: Final = 50
#: How long the server takes.
ANSWER_MS: Final = 50


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """`case` "shared": requests at the server. A number of slots: milliseconds more by the cache."""
    if case == "shared":
        return trio.run(_shared, origin, name)
    return trio.run(_alone, origin, name, int(case))


async def _all_at_once(client: object, path: str, calls: int) -> list[str]:
    ways: list[str] = []

    async def call() -> None:
        response = await client.get(path)  # type: ignore[attr-defined]
        assert response.status_code == 200
        ways.append(response.extensions.get("trio_rt.cache", ""))

    async with trio.open_nursery() as nursery:
        for _ in range(calls):
            nursery.start_soon(call)
    return ways


async def _shared(origin: Origin, name: BackendName) -> Run:
    path = unique(f"/shared/{ANSWER_MS}")
    async with open_client(origin.url, backend=name) as client:
        start = time.perf_counter()
        ways = await _all_at_once(client, path, SHARED)
        spent_s = time.perf_counter() - start
    return Run(
        origin.hits(path),
        notes={"all answered ms": spent_s * 1e3, "coalesced": ways.count("coalesced")},
    )


async def _alone(origin: Origin, name: BackendName, slots: int) -> Run:
    """The same calls with and without a cache: what more it takes is what they wait for."""
    spent_ms: dict[str, float] = {}
    for label, has_cache in (("without", False), ("with", True)):
        async with open_client(
            origin.url,
            backend=name,
            cache=has_cache,
            max_concurrent=slots,
            per_host=slots,
        ) as client:
            path = unique(f"/wait/{ANSWER_MS}")
            async with trio.open_nursery() as nursery:  # warm: all connections are made
                for _ in range(slots):
                    nursery.start_soon(
                        getter(client, unique(f"/wait/{ANSWER_MS}"), _way(has_cache))
                    )
            for time_of in (label, f"{label}, again"):
                start = time.perf_counter()
                await _all_at_once(client, path, ALONE)
                spent_ms[time_of] = (time.perf_counter() - start) * 1e3
            assert origin.hits(path) == 2 * ALONE
    return Run(
        spent_ms["with"] - spent_ms["without"],
        notes={f"{label} ms": spent for label, spent in spent_ms.items()},
    )


def _way(has_cache: bool) -> str | None:
    return "miss" if has_cache else None

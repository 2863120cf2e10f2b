"""aiohttp on asyncio: what the same requests cost a client with a parser in C."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import aiohttp

from trio_rt.http import BackendName

from ..clients import Run
from .blocks import WORKERS, Block, cost_us, rate
from .origin import Origin

CALLS: Final = 600
TURNS: Final = 6


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """Requests a second."""
    return asyncio.run(_run(origin))


async def _run(origin: Origin) -> Run:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(origin.url, connector=connector) as session:
        await _block(session)
        blocks = [await _block(session) for _ in range(TURNS)]
    return Run(rate(blocks), 1e6 / cost_us(blocks), notes={"CPU us": cost_us(blocks)})


async def _block(session: aiohttp.ClientSession) -> Block:
    async def work() -> None:
        for _ in range(CALLS // WORKERS):
            async with session.get("/no-store") as response:
                assert response.status == 200
                await response.read()

    cpu, clock = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return Block(CALLS, time.perf_counter() - clock, time.process_time() - cpu)

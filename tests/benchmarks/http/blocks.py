"""Timing several ways to do the same in one process: blocks of calls in turn.

What disturbs the machine for longer than a block disturbs all of them, so their
ratio within one turn stays right where that of two processes does not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import attrs
import trio

Call: TypeAlias = Callable[[], Awaitable[object]]

WORKERS: Final = 6
WARM_UP: Final = 2


@attrs.frozen
class Block:
    """Some calls; both times are seconds."""

    calls: int
    clock_s: float
    cpu_s: float


def cost_us(blocks: Sequence[Block]) -> float:
    """CPU microseconds of a call: the median."""
    return statistics.median(block.cpu_s / block.calls for block in blocks) * 1e6


def clock_us(blocks: Sequence[Block]) -> float:
    """Microseconds of a call by the clock: the median."""
    return statistics.median(block.clock_s / block.calls for block in blocks) * 1e6


def rate(blocks: Sequence[Block]) -> float:
    """Calls a second: the median."""
    return statistics.median(block.calls / block.clock_s for block in blocks)


def speed(ours: Sequence[Block], theirs: Sequence[Block], *, cpu: bool = False) -> float:
    """How many of ours there are for each of theirs in the same time: the median of the turns."""
    return statistics.median(
        (other.cpu_s if cpu else other.clock_s) / (own.cpu_s if cpu else own.clock_s)
        for own, other in zip(ours, theirs, strict=True)
    )


async def block(call: Call, calls: int, workers: int) -> Block:
    """`calls` of them, by so many tasks."""

    async def work() -> None:
        for _ in range(calls // workers):
            await call()

    cpu, clock = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)
    return Block(calls, time.perf_counter() - clock, time.process_time() - cpu)


async def in_turn(
    ways: Sequence[Call], *, calls: int, turns: int, workers: int = WORKERS
) -> list[list[Block]]:
    """The blocks of each way: A B C A B C, after `WARM_UP` turns that do not count."""
    found: list[list[Block]] = [[] for _ in ways]
    for turn in range(-WARM_UP, turns):
        for way, blocks in zip(ways, found, strict=True):
            measured = await block(way, calls, workers)
            if turn >= 0:
                blocks.append(measured)
    return found

"""Runs that repeat themselves: one seed, one order of events.

trio runs the tasks that are ready in a random order, on purpose. It has a
private switch that makes the order follow a generator that can be seeded
(trio turns it on itself when Hypothesis is loaded). This module is the only
place that touches it, and a test compares traces with and without it, so that
a release of trio that changes it is noticed.

What remains random: threads, real sockets, TLS (the length of signatures),
`os.urandom` where its *value* decides something, and the order of sets of
strings (PYTHONHASHSEED).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, TypeVarTuple

import trio
import trio.testing
from trio._core import _run as _trio_run

from .._ambient import Ambient, ambient, replace_ambient

__all__ = ["jump_wall_clock", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: What the wall clock shows when a run begins: 2030-01-01 00:00 UTC.
EPOCH_S: Final = 1_893_456_000.0


class _SeededAmbient(Ambient):
    """Seeded randomness, and a wall clock that follows trio's."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"{seed} ambient")
        self.skew_s = 0.0

    def wall_s(self) -> float:
        return EPOCH_S + trio.current_time() + self.skew_s


def run(
    async_fn: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    seed: int,
    limit_s: float = 3600.0,
) -> T:
    """`trio.run(async_fn, *args)` in virtual time, the same for the same seed.

    Time stands still while any task can run, and jumps when all wait. The
    wall clock and all randomness of trio_rt are virtual as well.

    After `limit_s` virtual seconds it is cancelled and trio.TooSlowError
    raised: a deadlock beside a heartbeat would go on for ever. Whatever is
    raised bears a note with the seed.
    """
    try:
        with _deterministic_scheduling(seed), _ambient_replaced(_SeededAmbient(seed)):
            clock = trio.testing.MockClock(autojump_threshold=0)
            return trio.run(_limited, limit_s, async_fn, *args, clock=clock)
    except BaseException as error:
        error.add_note(f"in trio_rt.testing.run(..., seed={seed})")
        raise


def jump_wall_clock(seconds: float) -> None:
    """Inside `run()`: move the wall clock and not trio's, as a suspended machine does."""
    current = ambient()
    if not isinstance(current, _SeededAmbient):
        raise RuntimeError("jump_wall_clock() works only inside trio_rt.testing.run()")
    current.skew_s += seconds


async def _limited(limit_s: float, async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    with trio.fail_after(limit_s):
        return await async_fn(*args)


@contextmanager
def _deterministic_scheduling(seed: int) -> Iterator[None]:
    module = vars(_trio_run)
    flag, state = module["_ALLOW_DETERMINISTIC_SCHEDULING"], _trio_run._r.getstate()
    module["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    _trio_run._r.seed(seed)
    try:
        yield
    finally:
        module["_ALLOW_DETERMINISTIC_SCHEDULING"] = flag
        _trio_run._r.setstate(state)


@contextmanager
def _ambient_replaced(new: Ambient) -> Iterator[None]:
    old = replace_ambient(new)
    try:
        yield
    finally:
        replace_ambient(old)

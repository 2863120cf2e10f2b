from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio._core import _run as trio_run

from trio_rt._ambient import ambient
from trio_rt.testing import jump_wall_clock, run

from .story import virtually

ROOT = Path(__file__).parents[2]


def _in_a_process(how: str, *seeds: int, hash_seed: int = 0) -> list[str]:
    # A process of its own also because Hypothesis, once loaded by any test,
    # turns trio's switch on for good.
    done = subprocess.run(
        [sys.executable, "-m", "tests.testing.story", how, *map(str, seeds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.split()


def test_same_seed_same_trace() -> None:
    """20 runs of one seed in one process have one trace."""
    assert len({virtually(7) for _ in range(20)}) == 1


def test_same_trace_in_other_processes() -> None:
    """3 processes with different hash seeds tell the traces that this one has."""
    here = [virtually(seed) for seed in range(5)]
    for hash_seed in (1, 2, 3):
        assert _in_a_process("virtual", *range(5), hash_seed=hash_seed) == here


def test_different_seeds_differ() -> None:
    """20 seeds have 20 traces."""
    assert len({virtually(seed) for seed in range(20)}) == 20


def test_without_the_switch_traces_differ() -> None:
    """Under plain `trio.run` one seed has many traces: so it is `run()` that makes them equal."""
    assert len(set(_in_a_process("plain", *[7] * 20))) > 10


async def _draws() -> tuple[float, float, float]:
    began = ambient().wall_s()
    await trio.sleep(10)
    return ambient().random.random(), began, ambient().wall_s()


def test_ambient_is_seeded_and_follows_trios_clock() -> None:
    """Randomness is the seed's, the wall clock trio's, and both are restored afterwards."""
    before = ambient()
    first, second, other = (run(_draws, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first[0] != other[0]
    assert first[2] - first[1] == 10
    assert ambient() is before


async def _suspend() -> tuple[float, float]:
    began, wall = trio.current_time(), ambient().wall_s()
    jump_wall_clock(3600)
    await trio.lowlevel.checkpoint()
    return trio.current_time() - began, ambient().wall_s() - wall


def test_jump_wall_clock_leaves_trios() -> None:
    """A jump of the wall clock is what a suspended machine shows."""
    assert run(_suspend, seed=1) == (0, 3600)


def test_jump_wall_clock_needs_run() -> None:
    """Outside `run()` the wall clock is the real one, and cannot jump."""
    with pytest.raises(RuntimeError, match="run"):
        jump_wall_clock(1)


def test_limit_ends_a_deadlock() -> None:
    """What still waits after the limit is ended by TooSlowError, with the seed in a note."""
    with pytest.raises(trio.TooSlowError) as info:
        run(trio.sleep_forever, seed=17, limit_s=60)
    assert any("seed=17" in note for note in info.value.__notes__)


def test_trios_scheduler_is_restored() -> None:
    """After a run trio's switch and its generator are as they were, after a failed one too."""
    switch, state = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    with pytest.raises(trio.TooSlowError):
        run(trio.sleep_forever, seed=1, limit_s=1)
    assert switch == trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    assert trio_run._r.getstate() == state

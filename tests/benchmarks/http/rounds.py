"""Running it: the server, and rounds of jobs in shuffled order, each in a fresh process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

import attrs

from ..clients import Run
from ..load import Load
from ..pinning import SERVER_CORE
from ..rounds import MOST_DISTURBED
from .rows import Measurement, Row

#: A job that takes longer has failed.
TIMEOUT_S: Final = 60.0

#: Timed in turn with what they are compared with, or only counting: no load of others
#: turns their result, so they are not repeated for it.
_STEADY: Final = frozenset(("overhead", "hit", "cancels", "dead", "stages"))

#: What a job came to, or why it came to nothing.
Result: TypeAlias = Run | str
Round: TypeAlias = Mapping[Measurement, Result]


def due(rows: Sequence[Row], number: int) -> list[Measurement]:
    """What is measured in the round of this number, from 0."""
    found = {measured for row in rows if number < row.rounds for measured in row.measurements}
    return sorted(found, key=str)


def reason(traceback: str) -> str:
    """The last line of a traceback that says something; a group ends with a frame of lines."""
    told = [line.strip(" |+-") for line in traceback.splitlines()]
    return next((line for line in reversed(told) if line), "")


@contextmanager
def _server() -> Iterator[tuple[int, int]]:
    """Its port and its process id."""
    command = [sys.executable, "-m", f"{__package__}.server", "--core", str(SERVER_CORE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


def _measure(measured: Measurement, port: int) -> Result:
    command = [sys.executable, "-m", f"{__package__}.job", *attrs.astuple(measured), str(port)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"not done within {TIMEOUT_S:g} s"
    if done.returncode:
        return reason(done.stderr) or f"ended with {done.returncode}"
    return Run(**json.loads(done.stdout))


def _observed(measured: Measurement, port: int, server: int) -> tuple[Result, float]:
    before = Load.now(server)
    result = _measure(measured, port)
    return result, Load.now(server).others_since(before)


def _measure_quietly(measured: Measurement, port: int, server: int) -> Result:
    """Once more if others kept the machine busy meanwhile, whatever the figure was."""
    result, others = _observed(measured, port, server)
    if others > MOST_DISTURBED and measured.job not in _STEADY:
        result, others = _observed(measured, port, server)
    return attrs.evolve(result, others=others) if isinstance(result, Run) else result


def run_rounds(rows: Sequence[Row], rounds: int, progress: Callable[[str], None]) -> list[Round]:
    """Measure what each round has; what fails is in the result, not raised."""
    results: list[Round] = []
    with _server() as (port, server):
        for number in range(rounds):
            order = due(rows, number)
            random.shuffle(order)
            found: dict[Measurement, Result] = {}
            for measured in order:
                progress(f"round {number + 1}/{rounds}: {' '.join(attrs.astuple(measured))}")
                found[measured] = _measure_quietly(measured, port, server)
            results.append(found)
    return results

"""Running it: the fixed server, and rounds of clients in shuffled order.

All rows are measured once in each round, so that both sides of a ratio come
from the same minute; each measurement is a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import trustme

from .clients import Run, Target
from .load import Load
from .pinning import SERVER_CORE
from .rows import Measurement

#: A measurement that takes longer has failed.
TIMEOUT_S: Final = 20.0
#: Measured in so many rounds only: memory hardly differs between rounds and 500
#: connections take a while; the server's own limit is several times what is asked of it.
FEWER_ROUNDS: Final = {"memory_ours": 1, "memory_websockets": 1, "blocking": 2}
#: How much of a core the rest of the machine may take before a measurement is repeated.
MOST_DISTURBED: Final = 0.15

#: What a measurement came to, or why it came to nothing.
Result: TypeAlias = Run | str
Round: TypeAlias = Mapping[Measurement, Result]


def _environment() -> dict[str, str]:
    """Ours without proxies: some clients would use them even for this machine."""
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def _command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"{__package__}.{module}", *arguments]


@contextmanager
def fixed_server() -> Iterator[tuple[Target, int]]:
    """The server in its own process, with a certificate made for it; and its process id."""
    with tempfile.TemporaryDirectory() as directory:
        authority, certificate = Path(directory, "ca.pem"), Path(directory, "server.pem")
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(authority))
        made = ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        made.write_to_path(str(certificate))
        command = _command("server", "--core", str(SERVER_CORE), "--certificate", str(certificate))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                yield Target(json.loads(process.stdout.readline()), str(authority)), process.pid
            finally:
                process.kill()


def measure(measurement: Measurement, target: Target) -> Result:
    """One client in a fresh process."""
    asked = Target(target.ports, target.authority, measurement.tls)
    command = _command("clients", measurement.client, measurement.job, asked.to_json())
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, env=_environment()
        )
    except subprocess.TimeoutExpired:
        return f"not done within {TIMEOUT_S:g} s"
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"ended with {done.returncode}"
    return Run(**json.loads(done.stdout))


def measure_quietly(measurement: Measurement, target: Target, server: int) -> Result:
    """The same; once more if others kept the machine busy meanwhile, whatever the figure was."""
    result, others = _observed(measurement, target, server)
    if others > MOST_DISTURBED:
        result, others = _observed(measurement, target, server)
    return attrs.evolve(result, others=others) if isinstance(result, Run) else result


def _observed(measurement: Measurement, target: Target, server: int) -> tuple[Result, float]:
    before = Load.now(server)
    result = measure(measurement, target)
    return result, Load.now(server).others_since(before)


def run_rounds(
    measurements: Iterable[Measurement], rounds: int, progress: Callable[[str], None]
) -> list[Round]:
    """Measure everything once a round; what fails is in the result, not raised."""
    wanted = sorted(measurements, key=str)
    results: list[Round] = []
    with fixed_server() as (target, server):
        for number in range(rounds):
            order = [
                measurement
                for measurement in wanted
                if number < FEWER_ROUNDS.get(measurement.client, rounds)
            ]
            random.shuffle(order)
            results.append(
                {
                    measurement: _one(
                        measurement, target, server, f"{number + 1}/{rounds}", progress
                    )
                    for measurement in order
                }
            )
    return results


def _one(
    measurement: Measurement,
    target: Target,
    server: int,
    where: str,
    progress: Callable[[str], None],
) -> Result:
    tls = "TLS " if measurement.tls else ""
    progress(f"round {where}: {measurement.client}, {tls}{measurement.job}")
    return measure_quietly(measurement, target, server)

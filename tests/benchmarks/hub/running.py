"""A server of `servers` in its own process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["Server", "running"]


class Server:
    """One of `servers` in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process: Final = process
        assert process.stdout is not None
        self.port: Final = int(process.stdout.readline())

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used."""
        return self._usage()[0]

    def resident_bytes(self) -> float:
        """What it has of the memory."""
        return self._usage()[1]

    def _usage(self) -> tuple[float, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        cpu_s, resident = self._process.stdout.readline().split()
        return float(cpu_s), float(resident)


@contextmanager
def running(kind: str) -> Iterator[Server]:
    """A fresh server."""
    command = [sys.executable, "-m", f"{__package__}.servers", kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()

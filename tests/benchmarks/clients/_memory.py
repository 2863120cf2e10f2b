"""What measuring memory needs: the resident set, and strangers that only connect."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from . import Target

#: Connections that are counted, and some before them that pay what is paid once.
CONNECTIONS: Final = 500
WARM_UP: Final = 50
#: Queued messages, of 128 bytes and not the same object.
MESSAGES: Final = 20_000


def resident_bytes() -> int:
    """The resident set of this process; Linux only."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def payloads() -> list[bytes]:
    """Messages that share nothing. The caller drops the list: what it queued is what stays."""
    return [number.to_bytes(128) for number in range(MESSAGES)]


@attrs.frozen
class Strangers:
    """A process that opens raw connections when told."""

    process: subprocess.Popen[str]

    def open(self, count: int) -> None:
        """Have `count` more connections opened; blocks until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()


@contextmanager
def strangers(port: int) -> Iterator[Strangers]:
    """Someone to connect to a WebSocket server at `port`; gone at the end."""
    command = [sys.executable, "-m", f"{__package__}._strangers", str(port)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Strangers(process)
        finally:
            process.kill()


def idle_url(target: Target) -> str:
    """Where a connection is never spoken to."""
    return target.url("sink", n=1)

"""The clients: a module per library, each with a table of its jobs.

A job is run in a fresh process and does a number of messages; it returns the
time they took, from before the first to the proof of the last.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import attrs

__all__ = ["Figure", "Job", "Run", "Stopwatch", "Target", "check"]


@attrs.frozen
class Target:
    """Where the fixed server is."""

    ports: Mapping[str, int]
    authority: str
    tls: bool = False

    def url(self, path: str, **query: object) -> str:
        """The WebSocket URL that asks the server for `path`."""
        scheme = "wss" if self.tls else "ws"
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{scheme}://127.0.0.1:{self.ports[scheme]}/{path}?{asked}"

    @property
    def tcp_port(self) -> int:
        """The port that sends bytes back, without WebSocket."""
        return self.ports["tcps" if self.tls else "tcp"]

    def context(self) -> ssl.SSLContext | None:
        """The client's TLS context, or None without TLS."""
        return ssl.create_default_context(cafile=self.authority) if self.tls else None

    def to_json(self) -> str:
        """For the command line of a client."""
        return json.dumps(attrs.asdict(self))


@attrs.frozen
class Run:
    """What a job came to: a rate, or bytes. `notes` are printed beside it."""

    value: float
    #: The same rate, by the client's CPU time instead of the clock.
    cpu_value: float | None = None
    #: The part of a core that the rest of the machine took meanwhile.
    others: float = 0.0
    notes: dict[str, float] = attrs.field(factory=dict)


#: Does so many messages; returns how long they took, and notes.
Job: TypeAlias = Callable[[Target, int], "Stopwatch"]
#: Measures something else than a rate.
Figure: TypeAlias = Callable[[Target], Run]


class Stopwatch:
    """Runs from its making to `stop()`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        #: What the sink confirmed, where that may be less than was asked for.
        self.confirmed: int | None = None
        self.cpu_seconds = 0.0
        self.notes: dict[str, float] = {}
        self._cpu_start = time.process_time()
        self._start = time.perf_counter()

    def stop(self, **notes: float) -> Stopwatch:
        """The time since it was made; itself."""
        self.seconds = time.perf_counter() - self._start
        self.cpu_seconds = time.process_time() - self._cpu_start
        self.notes = notes
        return self


def check(confirmed: object, messages: int, message_bytes: int | None = None) -> None:
    """The sink must have got every message, and every byte where their size is known."""
    if isinstance(confirmed, (bytes, bytearray)):
        confirmed = confirmed.decode()
    count, total = map(int, str(confirmed).split())
    if count != messages or (message_bytes is not None and total != count * message_bytes):
        raise AssertionError(f"{messages} sent, the sink says {confirmed}")

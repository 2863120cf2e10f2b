"""What the tasks of one run share."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import attrs
import trio

from ..._ambient import ambient
from .._broker import BrokerError, LogLimits, Present
from ._redis_ear import Ear
from ._redis_link import Link, LinkLost, StoreRefused
from ._redis_queue import Queue
from ._redis_wire import pairs_of, read_present

__all__ = ["Node", "Settings"]

#: Batches whose duration is known.
SAMPLE: Final = 512


@attrs.frozen(kw_only=True)
class Settings:
    """Options as the tasks need them."""

    prefix: str
    limits: LogLimits
    timeout_s: float
    lease_s: float
    bus_messages: int
    bus_bytes: int
    most_keys: int

    def arguments(self) -> tuple[Any, ...]:
        """What each script begins with, behind prefix and seed."""
        limits = self.limits
        keep_ms = 0 if limits.keep_s == math.inf else max(1, round(limits.keep_s * 1000))
        return (
            *(limits.messages, limits.total_bytes, keep_ms, max(1, round(limits.repeat_s * 1000))),
            *(self.most_keys, self.bus_messages, self.bus_bytes),
        )


class Node:
    """A run of a broker."""

    def __init__(self, settings: Settings, queue: Queue, ear: Ear) -> None:
        self.settings: Final = settings
        self.queue: Final = queue
        self.ear: Final = ear
        self.name: Final = f"{ambient().random.getrandbits(64):016x}".encode()
        #: Of the last of our links that the store has given a lease.
        self.link_number = 0
        self._arguments: Final = settings.arguments()
        #: The writer's, while it is in order.
        self.link: Link | None = None
        #: Set while it is.
        self.writes = trio.Event()
        #: Whether the reader's is in order.
        self.reads = False
        #: Why there is no link, once that is known; and if the store refuses, why it does.
        self.failure: BrokerError | None = None
        self.refusal: StoreRefused | None = None
        self._changed = trio.Event()
        self.links = 0
        self.appends = 0
        self.batches = 0
        self.durations_s: deque[float] = deque(maxlen=SAMPLE)

    @property
    def is_up(self) -> bool:
        return self.link is not None and self.reads

    def arguments(self) -> Iterator[Any]:
        """The first arguments of a script."""
        yield self.settings.prefix
        yield f"{ambient().random.getrandbits(64):016x}"
        yield from self._arguments

    def linked(self, link: Link) -> None:
        self.link = link
        self.writes.set()
        self._recovered()

    def reading(self) -> None:
        self.reads = True
        self._recovered()

    def _recovered(self) -> None:
        """One of the links is in order. What the other has met is told by it again."""
        self.failure = self.refusal = None
        self.changed()

    def unlinked(self) -> None:
        self.link = None
        if self.writes.is_set():
            self.writes = trio.Event()

    def count(self, entries: int, duration_s: float) -> None:
        """A batch was answered."""
        self.appends += entries
        self.batches += 1
        self.durations_s.append(duration_s)

    def changed(self) -> None:
        """Wake those who wait for a link."""
        self._changed.set()
        self._changed = trio.Event()

    def failed(self, error: BrokerError) -> None:
        self.failure = error
        if isinstance(error, StoreRefused):
            self.refusal = error
            self.queue.refuse(error)
        self.changed()

    def close(self, error: BrokerError) -> None:
        self.link = None
        self.failure = error
        self.queue.close(error)
        self.changed()

    async def wait_linked(self) -> Link:
        """The writer's link. Waits for the first attempt only; then raises `BrokerError`."""
        while self.link is None:
            await self.wait_changed()
        return self.link

    async def wait_placed(self) -> None:
        """Wait until the reader knows from where on it reads. Raises as `wait_linked`."""
        while not self.ear.placed:
            await self.wait_changed()

    async def wait_changed(self) -> None:
        """Wait for `changed`. Raises `LinkLost` where a link is missing, and why is known."""
        ready = self.link is not None and self.ear.placed
        if self.failure is not None and not ready:
            raise LinkLost(str(self.failure))
        await self._changed.wait()

    def living(self, roster: Any, alive: set[bytes]) -> list[Present]:
        """Devices whose nodes have a lease."""
        present = []
        for device, value in pairs_of(roster).items():
            found = read_present(device, value)
            if found is None:
                self.ear.garbage += 1
            elif found[0] in alive:
                present.append(found[1])
        return present

    def statistics(self) -> dict[str, Any]:
        durations = sorted(self.durations_s) or [0.0]
        return {
            "appends": self.appends,
            "batches": self.batches,
            "batch_p50_s": durations[len(durations) // 2],
            "batch_p99_s": durations[len(durations) * 99 // 100],
            "entries": self.ear.entries,
            "garbage": self.ear.garbage,
            "losses": self.ear.losses,
            "links": self.links,
            "devices": len(self.queue.present),
            **self.queue.statistics(),
        }

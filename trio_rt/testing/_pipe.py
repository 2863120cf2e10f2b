"""One direction of a virtual link: bytes that take time.

Goal: latency, loss and cuts without a task that moves the bytes. A pump task
would add task switches, of which a busy program can delay any number, and a
clock that jumps would pass the moment of arrival before the pump has run.

The rule: a piece gets its time of arrival when it is sent, and the *reader*
compares that with the clock. Ends (FIN, RST) are times too. So a pipe is a
value of the moment: nothing in it runs.

What a reader that sleeps must be woken for is only what can come sooner than
it knew when it fell asleep: the first piece, an end, or a fault.

The remaining hole: acknowledgements of the kernel are not modelled. Room in
the buffer is free again for the sender the moment the reader has read.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Final

import trio

from ._profile import CutKind, LinkProfile, log_uniform

#: What a link holds in each direction, in flight and unread together: the
#: smaller of Linux's usual socket buffers on both sides.
BUFFER_BYTES: Final = 64 << 10

#: A full link is writable again when so much is free, as on Linux
#: (`sk_stream_is_writeable`): a reader of single bytes makes no writer of them.
WRITABLE_BYTES: Final = BUFFER_BYTES // 3

#: With a bandwidth, bytes arrive in pieces of this size (TCP over Ethernet).
SEGMENT_BYTES: Final = 1460


class Pipe:
    """Bytes from a writing to a reading end. All times are of trio's clock."""

    __slots__ = (
        "_deaf",
        "_fin_at",
        "_free_at",
        "_last_at",
        "_pieces",
        "_random",
        "_reset_at",
        "_severed",
        "_stalled_at",
        "accepted_bytes",
        "held_bytes",
        "read_bytes",
        "readers",
        "writers",
    )

    def __init__(self, randomness: random.Random) -> None:
        self._random = randomness
        # (arrival, bytes, whether a read ends after it)
        self._pieces: deque[tuple[float, bytes, bool]] = deque()
        self._free_at = self._last_at = -math.inf
        self._fin_at = self._reset_at = self._stalled_at = math.inf
        self._severed: CutKind | None = None
        self._deaf = False
        self.held_bytes = self.accepted_bytes = self.read_bytes = 0
        self.readers = trio.lowlevel.ParkingLot()
        self.writers = trio.lowlevel.ParkingLot()

    @property
    def room_bytes(self) -> int:
        return BUFFER_BYTES - self.held_bytes

    @property
    def answered_by_reset(self) -> bool:
        """Nobody is there to read what is written."""
        return self._deaf or self._severed == "fin"

    def shorten(self, size: int, profile: LinkProfile) -> int:
        """How much of `size` bytes one write takes now: maybe not all, maybe 0."""
        size = min(size, self.room_bytes)
        if size > 1 and self._draw(profile.short_writes):
            return log_uniform(self._random, size)
        return size

    def write(self, data: bytes, now: float, profile: LinkProfile, passing: int) -> None:
        """Take `data`, of which only `passing` bytes will get through."""
        self.held_bytes += len(data)
        self.accepted_bytes += len(data)
        if self._deaf or self._severed:
            return
        idle = not self._pieces
        start = 0
        while start < passing:
            size, ends_read = self._next_piece(passing - start, profile)
            arrival = self.arrival(now, profile, size)
            self._pieces.append((arrival, data[start : start + size], ends_read))
            start += size
        if idle:
            self.readers.unpark_all()

    def _next_piece(self, size: int, profile: LinkProfile) -> tuple[int, bool]:
        if profile.bandwidth_bytes_per_s < math.inf:
            size = min(size, SEGMENT_BYTES)
        if self._draw(profile.rechunk):
            return log_uniform(self._random, size), True
        return size, False

    def _draw(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def arrival(self, now: float, profile: LinkProfile, size: int = 0) -> float:
        """When `size` bytes sent now arrive, never before those sent earlier."""
        self._free_at = max(now, self._free_at) + size / profile.bandwidth_bytes_per_s
        delay_s = profile.latency_s
        if profile.jitter_s:
            delay_s += self._random.random() * profile.jitter_s
        self._last_at = max(self._last_at, self._free_at + delay_s)
        return self._last_at

    def finish(self, at: float) -> None:
        """The writing end has sent its FIN."""
        if self._severed is None:
            self._fin_at = min(self._fin_at, at)
            self.readers.unpark_all()

    def reset(self, at: float) -> None:
        """An RST is on its way to the reading end."""
        if self._severed != "vanish":
            self._reset_at = min(self._reset_at, at)
            self._drop_later_than(at)
            self.readers.unpark_all()

    def sever(self, how: CutKind, at: float) -> None:
        """The network cuts this direction: what arrives after `at` never does."""
        self._drop_later_than(min(at, self._stalled_at))
        self._severed = how
        self._stalled_at = math.inf
        if how == "rst":
            self._reset_at = min(self._reset_at, at)
        elif how == "fin":
            self._fin_at = min(self._fin_at, at)
        self.readers.unpark_all()

    def stop_reading(self, now: float) -> float | None:
        """The reading program closed its end. When that meets bytes: they cause a reset."""
        self._deaf = True
        meets = max(now, self._pieces[0][0]) if self._pieces else None
        self._pieces.clear()
        self.readers.unpark_all()
        return meets

    def _drop_later_than(self, at: float) -> None:
        while self._pieces and self._pieces[-1][0] > at:
            self._pieces.pop()

    def stall(self, now: float) -> None:
        self._stalled_at = min(self._stalled_at, now)

    def resume(self, at: float) -> None:
        """What the stall held back arrives at `at`."""
        since, self._stalled_at = self._stalled_at, math.inf

        def held(arrival: float) -> float:
            return max(arrival, at) if arrival > since else arrival

        self._pieces = deque((held(arrival), data, ends) for arrival, data, ends in self._pieces)
        self._fin_at, self._reset_at = held(self._fin_at), held(self._reset_at)
        self._last_at = max(self._last_at, at)
        self.readers.unpark_all()

    def readable_at(self) -> float:
        """When the reader finds something, as far as is known; inf: nothing is on its way."""
        first = self._pieces[0][0] if self._pieces else math.inf
        return self._unless_stalled(min(first, self._fin_at, self._reset_at))

    def reset_known_at(self) -> float:
        """When the reading end learns of a reset."""
        return self._unless_stalled(self._reset_at)

    def _unless_stalled(self, at: float) -> float:
        return at if at <= self._stalled_at else math.inf

    def take(self, now: float, max_bytes: int | None) -> bytes | None:
        """What has arrived; b"" at the end, None for nothing yet.

        Raises trio.BrokenResourceError after the last byte before a reset.
        """
        limit = min(now, self._stalled_at)
        if self._pieces and self._pieces[0][0] <= limit:
            return self._join(limit, BUFFER_BYTES if max_bytes is None else max_bytes)
        if self._reset_at <= limit:
            raise trio.BrokenResourceError("connection reset")
        return b"" if self._fin_at <= limit else None

    def _join(self, limit: float, most: int) -> bytes:
        parts: list[bytes] = []
        while most and self._pieces and self._pieces[0][0] <= limit:
            arrival, data, ends_read = self._pieces.popleft()
            if len(data) > most:
                self._pieces.appendleft((arrival, data[most:], ends_read))
                data = data[:most]
            parts.append(data)
            most -= len(data)
            if ends_read:
                break
        joined = parts[0] if len(parts) == 1 else b"".join(parts)
        self.held_bytes -= len(joined)
        self.read_bytes += len(joined)
        self.writers.unpark_all()
        return joined

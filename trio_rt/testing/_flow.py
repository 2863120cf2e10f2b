"""One direction of a relay's link: bytes from a source to a sink, under changing conditions.

Goal: a delay that is no limit of throughput, and faults that act at once,
also on what is under way. One task that reads, waits and writes has but one
read on its way, so that a delay becomes a limit; and a time of arrival that
is settled when a read comes in outlives the delay that it was made with.

The rule: one task takes in and another gives out, with a bounded queue of
what was read, and when, between them. The head of the queue is due by the
conditions of the moment, and a change of them wakes who waits for it. An end
of the source is queued like bytes. Without a delay the queue holds one read,
so that the relay hides no more than that from the sender.

The remaining hole: what was handed to the kernel is gone, blackhole or not.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Final, Literal, TypeAlias

import attrs
import trio

from ._conditions import Way
from ._mangler import Mangler

__all__ = ["Allowance", "EndKind", "Flow", "Outcome"]

#: A reset, or an end of file.
EndKind: TypeAlias = Literal["rst", "fin"]

#: How the source ended, or that the allowance is used up.
Outcome: TypeAlias = Literal["rst", "fin", "cut"]

#: The most that is read at once.
READ_BYTES: Final = 32 << 10

#: With a delay, the source is read while less than this is on its way.
LINE_BYTES: Final = 1 << 20

#: What a piece takes besides its bytes, as measured on CPython 3.11.
PIECE_BYTES: Final = 160

#: At a limited rate, portions of this many seconds' worth are read.
PORTION_S: Final = 0.05


@attrs.define
class Allowance:
    """So many more bytes, then an end. The two directions of a link may share one."""

    left: float = math.inf
    how: EndKind = "rst"
    _in_hand: int = attrs.field(default=0, init=False)

    def take(self, size: int) -> int:
        """How many of `size` bytes may be passed on."""
        size = int(min(size, self.left))
        self.left -= size
        self._in_hand += size
        return size

    def passed(self, size: int) -> bool:
        """They have been passed on. Were they the last?"""
        self._in_hand -= size
        return self.left == self._in_hand == 0


@attrs.frozen
class _Piece:
    read_at: float
    #: Which part of the jitter it gets.
    luck: float
    data: bytes
    end: EndKind | None


class Flow:
    """From `source` to `sink`: run `take_in()` and `give_out()` side by side.

    Cancelled, both forget what is on its way.
    """

    def __init__(
        self, source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, way: Way, seed: str
    ) -> None:
        self._source: Final = source
        self._sink: Final = sink
        self._way: Final = way
        self._mangler: Final = Mangler(seed)
        self._jitter: Final = random.Random(f"{seed} jitter")
        self._pieces: Final[deque[_Piece]] = deque()
        self._held_bytes = 0
        self._moved: Final = trio.lowlevel.ParkingLot()
        self.allowance = Allowance()

    async def take_in(self) -> None:
        """Read until the source ends, as fast as the rate and the room allow."""
        end: EndKind = "fin"
        try:
            while data := await self._source.receive_some(self._portion_bytes()):
                await self._admit(bytes(data))
        except trio.BrokenResourceError:
            end = "rst"
        self._put(b"", end)

    async def _admit(self, data: bytes) -> None:
        """Take it in by portions: it may have been asked for at a higher rate."""
        while data:
            size = self._portion_bytes()
            await self._pay(min(size, len(data)))
            self._put(data[:size])
            data = data[size:]
            await self._wait_room()

    def _portion_bytes(self) -> int:
        return int(max(1, min(READ_BYTES, self._way.conditions.rate_bytes_per_s * PORTION_S)))

    async def _pay(self, size: int) -> None:
        wait_s = size / self._way.conditions.rate_bytes_per_s
        if wait_s > 0:
            await self._way.wait_change(trio.current_time() + wait_s)

    def _put(self, data: bytes, end: EndKind | None = None) -> None:
        self._pieces.append(_Piece(trio.current_time(), self._jitter.random(), data, end))
        self._held_bytes += PIECE_BYTES + len(data)
        self._moved.unpark_all()

    async def _wait_room(self) -> None:
        while self._held_bytes >= self._room_bytes():
            await self._moved.park()

    def _room_bytes(self) -> int:
        conditions = self._way.conditions
        return LINE_BYTES if conditions.delay_s + conditions.jitter_s > 0 else 1

    async def give_out(self) -> Outcome:
        """Write everything when it is due; returns how the source ended when that is.

        Returns "cut" when the allowance is used up. Raises
        trio.BrokenResourceError if the sink is gone.
        """
        while True:
            piece = await self._wait_due()
            if piece.end:
                return piece.end
            if not await self._write(piece.data):
                return "cut"
            self._pieces.popleft()
            self._held_bytes -= PIECE_BYTES + len(piece.data)
            self._moved.unpark_all()

    async def _wait_due(self) -> _Piece:
        while not self._pieces:
            await self._moved.park()
        piece = self._pieces[0]
        while (due_at := self._due_at(piece)) > trio.current_time():
            await self._way.wait_change(due_at)
        return piece

    def _due_at(self, piece: _Piece) -> float:
        conditions = self._way.conditions
        if conditions.blackhole:
            return math.inf
        return piece.read_at + conditions.delay_s + piece.luck * conditions.jitter_s

    async def _write(self, data: bytes) -> bool:
        """Returns whether more may be passed on after it."""
        rest = memoryview(self._mangler.flip(data, self._way.conditions.corrupt))
        while rest:
            await self._way.wait_passable()
            allowance = self.allowance
            size = self._mangler.cut(len(rest), self._way.conditions.split_bytes)
            size = allowance.take(size)
            if not size:
                await trio.sleep_forever()  # the other direction passes the last bytes
            await self._sink.send_all(rest[:size])
            rest = rest[size:]
            self._way.passed_bytes += size
            if allowance.passed(size):
                return False
        return True

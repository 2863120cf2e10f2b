"""The one owner of a stream's sending side.

Goal: frames go out whole, in order, and it is known how many the kernel took.
A batch that was written in part leaves *the remainder*: nothing else is written
before it, and if it cannot be finished the outlet is broken for ever, because
half a frame followed by another frame is garbage to the peer.

The rule. Whoever finds the outlet idle may write at once (`write_now`,
`put_control`); everything else is the writer task's (`write`, `flush`), and
between two writes of its own the control frames go out that gathered
meanwhile. Each kind of control frame has one slot, in which the newer takes the
place of the older: a peer that pings and does not read costs no memory.

`taken` counts what the kernel has, on TLS only once all the ciphertext so far
is out; `written` counts the messages whose last byte is in `taken`. On a stream
without `try_send` both move with whole writes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Final

import trio

from ._streams import Buffer, DirectStream, as_direct
from .protocol.tap import NO_TAP, Tap

__all__ = ["CLOSE", "PING", "PONG", "Outlet"]

#: The slots of the control frames, in the order in which they go out.
PONG: Final = 0
PING: Final = 1
CLOSE: Final = 2

_NOTHING: Final = memoryview(b"")
_NO_CONTROL: Final[Mapping[int, bytes]] = MappingProxyType({})


class Outlet:
    """Frames in, kernel out. See the module's text for who may call what."""

    __slots__ = (
        "_accepted",
        "_busy",
        "_control",
        "_direct",
        "_ends",
        "_holds_back",
        "_rest",
        "_stream",
        "_tap",
        "_written",
        "broken",
        "taken",
    )

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._direct = as_direct(stream)
        self._holds_back = hasattr(stream, "pending") and not isinstance(stream, DirectStream)
        self._tap = NO_TAP
        self._rest = _NOTHING
        self._control = _NO_CONTROL
        self._busy = False
        self._accepted = 0
        self._ends: list[int] = []
        self._written = 0
        self.broken = False
        #: Bytes that the kernel took, cumulative.
        self.taken = 0

    @property
    def idle(self) -> bool:
        """Nothing waits and nobody writes."""
        return not (self._rest or self._control or self._busy or self.broken or self._pending)

    @property
    def ready(self) -> bool:
        """Idle, and the stream can be written without waiting."""
        return self._direct is not None and self.idle

    @property
    def wants_flush(self) -> bool:
        """Something waits for `flush()`."""
        return bool(self._rest or self._control or self._pending) and not self.broken

    @property
    def written(self) -> int:
        """Messages whose last byte the kernel took, cumulative."""
        if self._ends:
            count = bisect_right(self._ends, self.taken)
            del self._ends[:count]
            self._written += count
        return self._written

    @property
    def _pending(self) -> int:
        """What the stream took in and the kernel did not."""
        return getattr(self._stream, "pending", 0) if self._holds_back else 0

    # -- at once ------------------------------------------------------------

    def write_now(self, frames: Sequence[bytes], *, keep: bool = False) -> bool:
        """Write messages of one frame each without waiting.

        False: nothing was taken in. True: taken in, and what the kernel did
        not take is the remainder. `keep` takes them in even if the kernel took
        nothing. Never raises; a failing write breaks the outlet.
        """
        if not self.ready:
            return False
        self._tap.open = False
        data = b"".join(frames)
        base = self._accepted
        sent = self._try(data)
        if self.broken or (sent == 0 and not keep and not self._pending):
            return False
        if self.taken - base == len(data):
            self._written = self.written + len(frames)
        else:
            self._rest = memoryview(data)[sent:]
            self._add_ends(frames, base)
        return True

    def _add_ends(self, frames: Sequence[bytes], base: int) -> None:
        """Note where in the stream each of `frames` ends, the first one beginning at `base`."""
        ends = accumulate(map(len, frames), initial=base)
        next(ends)
        self._ends.extend(ends)

    def put_control(self, slot: int, frame: bytes) -> None:
        """Queue a control frame in the place of an older one, and write it if idle."""
        if self.broken:
            return
        was_idle = self.idle
        self._tap.open = False
        self._control = {**self._control, slot: frame}
        if was_idle and self._direct is not None:
            self._take_control()
            self._rest = self._rest[self._try(self._rest) :]

    def open_tap(self) -> Tap:
        """A way past this to the socket, open where it is ready; the next write here shuts it."""
        stream = self._direct
        if self._tap is NO_TAP and stream is not None and not self._holds_back:
            # The socket's own, where there is one: two calls less.
            self._tap = Tap(
                stream.socket.send if isinstance(stream, DirectStream) else stream.try_send
            )
        if self._tap is not NO_TAP:
            self._tap.open = self.ready
        return self._tap

    def take_rest(self, data: bytes, sent: int, frames: Sequence[bytes]) -> None:
        """Of `data`, `frames` joined, `sent` bytes went by the tap: the others are the remainder."""
        base = self._accepted
        self._tap.open = False
        self.taken = self._accepted = base + sent
        self._rest = memoryview(data)[sent:]
        self._add_ends(frames, base)

    def _try(self, data: Buffer) -> int:
        assert self._direct is not None
        try:
            sent = self._direct.try_send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken = True
            return 0
        self._accepted += sent
        if not self._pending:
            self.taken = self._accepted
        return sent

    def _take_control(self) -> None:
        frames = [frame for _, frame in sorted(self._control.items())]
        self._control = _NO_CONTROL
        self._rest = memoryview(b"".join(frames))

    # -- the writer task ----------------------------------------------------

    def check(self) -> None:
        """Raise `trio.BrokenResourceError` if nothing can be written any more."""
        if self.broken:
            raise trio.BrokenResourceError("the link was broken by an earlier write")

    async def flush(self) -> None:
        """Write the remainder and the control frames.

        Cancelled, a direct stream's remainder stays and a later flush goes on
        with it; another stream is broken. One checkpoint at least.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not await self._owned(None, 0):
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def write(self, frames: Sequence[bytes], *, messages: bool = True) -> bool:
        """Flush, then write all of `frames`. True if it had to wait on the way.

        Without a wait there was no checkpoint: that is the caller's duty.
        `messages` is false for frames with which no message ends. Cancelled or
        failing part-way, the outlet is broken.
        """
        return await self._owned(frames, len(frames) if messages else 0)

    async def _owned(self, frames: Sequence[bytes] | None, messages: int) -> bool:
        self.check()
        if self._busy:
            raise trio.BusyResourceError("another task is writing on this link")
        self._busy = True
        self._tap.open = False
        try:
            waited = await self._drain()
            if frames is not None:
                if messages:
                    self._add_ends(frames, self._accepted)
                waited |= await self._write_whole(b"".join(frames))
            return waited
        finally:
            self._busy = False

    async def _write_whole(self, data: bytes) -> bool:
        self._rest = memoryview(data)
        finished = False
        try:
            waited = await self._write_rest()
            finished = True
            return waited
        finally:
            if not finished:
                self.broken = True

    async def _drain(self) -> bool:
        waited = False
        while self._rest or self._control or self._pending:
            if not self._rest:
                self._take_control()
            waited |= await self._write_rest()
        return waited

    async def _write_rest(self) -> bool:
        """Write the remainder and what the stream holds back. True if it waited."""
        if self._direct is None:
            await self._send_rest()
            return True
        waited = False
        while True:
            before = len(self._rest), self._pending
            self._rest = self._rest[self._try(self._rest) :]
            self.check()
            left = len(self._rest), self._pending
            if not any(left):
                return waited
            if waited and left == before:  # "writable", and yet it takes nothing
                await self._send_rest()
            else:
                await self._wait()
            waited = True

    async def _wait(self) -> None:
        assert self._direct is not None
        try:
            await self._direct.wait_send_all_might_not_block()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken = True
            raise

    async def _send_rest(self) -> None:
        """By the stream's own `send_all`: where it stopped, if it fails, nobody knows."""
        self.broken = True
        await self._stream.send_all(self._rest)
        self.broken = False
        self._accepted += len(self._rest)
        self.taken = self._accepted
        self._rest = _NOTHING

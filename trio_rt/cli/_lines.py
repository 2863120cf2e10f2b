"""Lines from standard input, without making anything non-blocking.

What does not work: O_NONBLOCK, as `trio.lowlevel.FdStream` sets it. It belongs
to the open file, which the shell and our own output share; whoever is next to
print gets EAGAIN. A thread that reads cannot be cancelled, and takes the
terminal's next line away from the shell.

The rule: wait until the descriptor is readable, then read once; that returns
what there is. What cannot be waited for (a regular file, the null device, most
things on Windows) is read in a thread.

The remaining hole: another process that reads the same input at the same time
may take what this one was told about.
"""

from __future__ import annotations

import os
from typing import Final, Self

import trio

__all__ = ["LineTooLong", "Lines"]

READ_BYTES: Final = 65_536


class LineTooLong(Exception):
    """A line has more than `limit_bytes` bytes."""


class Lines:
    """An async iterator over the lines of a descriptor, without their ends.

    Raises `LineTooLong`. Cancelling loses no line.
    """

    def __init__(self, fd: int, limit_bytes: int) -> None:
        self._fd = fd
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                return self._cut(end, end + 1)
            if self._ended and not self._buffer:
                raise StopAsyncIteration
            if self._ended:
                return self._cut(len(self._buffer), len(self._buffer))
            self._searched = len(self._buffer)
            if self._searched > self._limit_bytes:
                raise LineTooLong(f"a line is longer than {self._limit_bytes} bytes")
            data = await _read(self._fd)
            self._ended = not data
            self._buffer += data

    def _cut(self, end: int, after: int) -> bytes:
        line = bytes(self._buffer[:end])
        del self._buffer[:after]
        self._searched = 0
        return line.removesuffix(b"\r")


async def _read(fd: int) -> bytes:
    """What is there; b"" at the end, also of a terminal that has gone."""
    try:
        try:
            await trio.lowlevel.wait_readable(fd)
        except OSError:
            return await trio.to_thread.run_sync(os.read, fd, READ_BYTES, abandon_on_cancel=True)
        return os.read(fd, READ_BYTES)
    except OSError:
        return b""

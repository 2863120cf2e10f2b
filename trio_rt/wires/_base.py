"""What the wires on a trio stream have in common: the counts, the outlet, the ends."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from .. import _outlet
from .._outlet import Outlet
from .._streams import READ_BYTES, abort_stream
from ..errors import LinkClosed, OptionError
from ..protocol.tap import NO_TAP, Tap
from . import Frame
from ._framing import PING, encode_control, encode_messages

__all__ = ["FRAGMENTS", "StreamWire"]

#: Frames that a message may come in: `MAX_FRAGMENTS` of the `websockets` package.
FRAGMENTS: Final = 4096

#: The longest reason of a close frame: RFC 6455, 5.5, less the code.
REASON_BYTES: Final = 123


class StreamWire(abc.ABC):
    """A wire on a trio stream; `masks` is true for the client's side of a link.

    `trio_rt.wires.Wire` has the contract of the methods.
    """

    __slots__ = (
        "_aborted",
        "_leftover",
        "_masks",
        "_outlet",
        "_sending",
        "_stream",
        "bytes_in",
        "on_control",
        "subprotocol",
    )

    def __init__(self, stream: trio.abc.Stream, *, masks: bool, leftover: bytes = b"") -> None:
        self._stream = stream
        self._masks = masks
        self._outlet = Outlet(stream)
        self._leftover = leftover
        self._sending = False
        self._aborted = False
        self.on_control: Callable[[], None] = _nothing
        self.subprotocol: str | None = None
        self.bytes_in = 0

    #: Whether `send_nowait` ever takes something in.
    sends_at_once = True

    # -- what each does in its own way ----------------------------------------

    @property
    @abc.abstractmethod
    def pongs(self) -> int: ...

    @property
    @abc.abstractmethod
    def _ended(self) -> LinkClosed | None:
        """How the link ended, once it has."""

    @abc.abstractmethod
    def _end(self, closed: LinkClosed) -> None:
        """Note an end; the first one counts."""

    @abc.abstractmethod
    def _is_open(self) -> bool:
        """Whether neither side has begun to close."""

    @abc.abstractmethod
    async def _send(self, batch: Sequence[Frame]) -> None: ...

    @abc.abstractmethod
    async def receive(self) -> list[str | bytes]:
        """Where an idle link waits: each coroutine on the way takes 250 bytes."""

    @abc.abstractmethod
    def _put_close(self, code: int, reason: str) -> None:
        """Queue the close frame that begins the closing handshake."""

    # -- sending ---------------------------------------------------------------

    @property
    def heard_at(self) -> float:
        return getattr(self._stream, "heard_at", -math.inf)

    @property
    def bytes_out(self) -> int:
        return self._outlet.taken

    @property
    def written(self) -> int:
        return self._outlet.written

    @property
    def idle(self) -> bool:
        return not self._sending and self._outlet.idle

    @property
    def wants_flush(self) -> bool:
        return self._outlet.wants_flush

    def open_tap(self) -> Tap:
        return NO_TAP

    def take_rest(self, data: bytes, sent: int, frames: Sequence[bytes]) -> None:
        self._outlet.take_rest(data, sent, frames)

    async def send(self, batch: Sequence[Frame]) -> None:
        self._outlet.check()
        if not self._is_open():
            raise trio.BrokenResourceError("the link is closing")
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this link")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._sending = True
        torn = True
        try:
            await self._send(batch)
            torn = False
        except trio.BrokenResourceError:
            torn = False  # the outlet knows; and the answer to a close may still go out
            raise
        finally:
            self._sending = False
            if torn:
                self._outlet.broken = True

    async def send_soon(self, batch: Sequence[Frame]) -> bool:
        await trio.lowlevel.checkpoint()
        return self.send_nowait(batch)

    @abc.abstractmethod
    def send_nowait(self, batch: Sequence[Frame]) -> bool: ...

    async def flush(self) -> None:
        await self._outlet.flush()

    def ping(self) -> bool:
        frame = encode_control(PING, [b""], masked=self._masks)
        self._outlet.put_control(_outlet.PING, frame)
        return self._outlet.wants_flush

    # -- receiving -------------------------------------------------------------

    def _note_read(self, data: bytes) -> None:
        """A read brought `data`."""
        if not data:
            self._end(LinkClosed(1006, "the connection ended without a close"))
        self.bytes_in += len(data)

    def _end_by(self, error: Exception) -> None:
        """A read raised `error`."""
        closed = LinkClosed(1006, str(error), by_peer=not self._aborted)
        closed.__cause__ = error
        self._end(closed)

    # -- closing ---------------------------------------------------------------

    def _start_closing(self, code: int, reason: str) -> None:
        if self._is_open():
            self._put_close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        check_close_code(code)
        finished = False
        try:
            self._start_closing(code, reason)
            await self._finish_closing()
            await self._stream.aclose()
            finished = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()
        finally:
            if not finished:
                self.abort()
            self._end_here()

    async def _finish_closing(self) -> None:
        await self._outlet.flush()
        while self._ended is None:
            with suppress(LinkClosed):
                await self.receive()
            if self._outlet.wants_flush:
                await self._outlet.flush()
        # RFC 6455, 7.1.1: the server closes TCP first. After a breach it must
        # not while data is on its way: the reset would overtake the close frame.
        if self._masks or not self._ended.by_peer:
            await self._read_to_the_end()

    async def _read_to_the_end(self) -> None:
        if not self._masks and isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        while data := await self._stream.receive_some(READ_BYTES):
            self.bytes_in += len(data)

    def close_nowait(self, code: int, reason: str = "", *, last: Sequence[Frame] = ()) -> None:
        check_close_code(code)
        if last and self.idle and self._is_open():
            self._outlet.write_now(encode_messages(last, masked=self._masks))
        if self.idle:
            self._start_closing(code, reason)
        self.abort()

    def abort(self) -> None:
        if not self._aborted:
            self._aborted = True
            self._outlet.broken = True
            self._end_here()
            abort_stream(self._stream)

    def _end_here(self) -> None:
        self._end(LinkClosed(1006, "closed by this side", by_peer=False))


def _nothing() -> None:
    """Nobody asked."""


def check_close_code(code: int) -> None:
    """Raise `OptionError` for a code that no close frame may carry (RFC 6455, 7.4)."""
    if not (code in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= code < 5000):
        raise OptionError("code", "must be a close code that may be sent", code)

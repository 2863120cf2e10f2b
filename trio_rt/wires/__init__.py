"""Wires: one live WebSocket each, whatever library speaks the protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..protocol.tap import Tap

__all__ = ["Frame", "Wire"]


class Frame(Protocol):
    """An encoded message: text as UTF-8, or binary."""

    @property
    def data(self) -> bytes: ...
    @property
    def binary(self) -> bool: ...


class Wire(Protocol):
    """One live WebSocket.

    One task, the reader, calls `receive`; one, the writer, calls `send` and
    `flush`; any may call what does not wait. Nothing here has a timeout.
    """

    #: Called for a read that brought something else than messages: life, a pong, or
    #: a ping whose answer may wait for `flush()`. Not where `receive` returns for it.
    on_control: Callable[[], None]

    @property
    def sends_at_once(self) -> bool:
        """Whether `send_nowait` ever takes something in; if not, `send_soon` does."""

    @property
    def subprotocol(self) -> str | None:
        """What the handshake agreed on."""

    @property
    def pongs(self) -> int:
        """Pongs received so far."""

    @property
    def bytes_in(self) -> int:
        """Bytes received so far, parts of frames included."""

    @property
    def heard_at(self) -> float:
        """When bytes came that `bytes_in` may not have yet: a part of a TLS record.

        On trio's clock; -inf where no bytes can be kept back so.
        """

    @property
    def bytes_out(self) -> int:
        """Bytes that the kernel took so far."""

    @property
    def written(self) -> int:
        """Messages whose last byte the kernel has taken, cumulative, in order."""

    @property
    def idle(self) -> bool:
        """Nothing waits to be written, and nobody is writing."""

    @property
    def wants_flush(self) -> bool:
        """Control frames or a remainder wait for the writer."""

    def send_nowait(self, batch: Sequence[Frame]) -> bool:
        """Write the batch at once, in one system call.

        False: not possible now, nothing was taken in (the wire is busy, closing
        or broken, the stream cannot, or a message is so large that it must be
        fragmented). True: taken in; what the kernel did not take waits for
        `flush()`. Never raises.
        """

    def open_tap(self) -> Tap:
        """The way past the wire for unmasked frames; open where they could go now.

        Never where frames are masked or compressed.
        """

    def take_rest(self, data: bytes, sent: int, frames: Sequence[bytes]) -> None:
        """Of `data`, `frames` joined, only `sent` bytes went by the tap. The rest waits for `flush`."""

    async def send_soon(self, batch: Sequence[Frame]) -> bool:
        """As `send_nowait`, in a turn of the loop. For any task.

        Nobody may call `send` meanwhile. Cancelled: nothing was taken in.
        """

    async def send(self, batch: Sequence[Frame]) -> None:
        """Write what waits and then all of the batch. For the writer task.

        One checkpoint at least. Raises `trio.BrokenResourceError` if the link
        is broken. Cancelled or failing part-way, it is broken from then on,
        and `written` tells how far it came.
        """

    async def flush(self) -> None:
        """Write the remainder and the control frames. For the writer task.

        Raises `trio.BrokenResourceError`. Cancelled, what remains stays.
        """

    def ping(self) -> bool:
        """Queue a ping and try to write it. True: `flush()` is needed. Never raises."""

    async def receive(self) -> list[str | bytes]:
        """The complete messages that one read brought. For the reader task.

        For a read without any it returns an empty list, or calls `on_control()`
        and goes on.

        Pings and closes are answered on the way; the answer may wait for
        `flush()`. A full checkpoint each call; nothing is lost by cancelling.
        Raises `LinkClosed` once the link has ended, after all messages.
        """

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """The closing handshake, then close the stream. Instead of reader and writer.

        Messages that still come are discarded. It ends when the peer has
        answered or gone; the caller bounds it. Cancelled: the stream is closed
        at once.
        """

    def close_nowait(self, code: int, reason: str = "", *, last: Sequence[Frame] = ()) -> None:
        """Write `last` and a close frame if that needs no waiting, then `abort()`."""

    def abort(self) -> None:
        """Close the stream now. Idempotent."""

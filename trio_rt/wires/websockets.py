"""The wire on the sans-I/O protocol of the `websockets` package, for both sides.

Goal: the price of a message is near that of its bytes, and nothing that a peer
can send costs more than its size.

What does not work: to hand every byte to `Protocol.receive_data` and every
message to `send_text`. A frame then takes generators, dataclasses and a system
call of randomness for its mask, the parts of a message have no limit on their
number, and a close between two fragments counts as a breach.

The rule. Data frames, pings and pongs are cut and made here (`_framing`,
`_assembly`); `websockets` supplies the handshake, the extensions, the masking
in C, and the rules of closing. The masks of a batch are one random draw, its
frames one system call. Messages above `FRAGMENT_BYTES` are fragmented, and
control frames go out in between. A read with pings is answered with one write.

The remaining hole: a peer that neither reads nor answers a close is ended only
by the caller's timeout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import trio
from websockets.frames import Frame as ExtensionFrame
from websockets.frames import Opcode
from websockets.protocol import SERVER, Protocol

from .. import _outlet
from .._streams import READ_BYTES
from ..errors import LinkClosed
from ..protocol.tap import NO_TAP, Tap
from . import Frame
from ._assembly import QUIET, Assembly
from ._base import FRAGMENTS, StreamWire
from ._framing import (
    BINARY,
    CONTINUATION,
    PONG,
    TEXT,
    encode_control,
    encode_frame,
    encode_messages,
)

__all__ = ["FRAGMENTS", "QUIET", "WebSocketsWire", "size_limit"]

#: Messages above this are fragmented: so much is in the way of a control frame.
FRAGMENT_BYTES: Final = 65_536

#: A read for the rest of a long frame asks for at most this much.
LONG_READ_BYTES: Final = 262_144

#: Writes in a row without a wait before `send` gives other tasks a turn.
WRITES_PER_TURN: Final = 16


def size_limit(max_message_bytes: float) -> int | None:
    """The limit as `websockets` wants it: None for no limit."""
    return None if math.isinf(max_message_bytes) else int(max_message_bytes)


class WebSocketsWire(StreamWire):
    """A live WebSocket over a trio stream; `protocol` is past its handshake.

    `leftover` is what was read behind the handshake. `max_message_bytes` holds
    before a message is assembled, and after it is inflated. `fragments` is the
    most frames that one message may come in. `trio_rt.wires.Wire` has the
    contract of the methods.
    """

    __slots__ = ("_assembly",)

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: Protocol,
        *,
        max_message_bytes: float,
        fragments: float = FRAGMENTS,
        leftover: bytes = b"",
    ) -> None:
        super().__init__(stream, masks=protocol.side is not SERVER, leftover=leftover)
        self._assembly = Assembly(
            protocol, max_message_bytes=max_message_bytes, fragments=fragments
        )
        self.subprotocol = protocol.subprotocol

    @property
    def pongs(self) -> int:
        return self._assembly.pongs

    @property
    def _ended(self) -> LinkClosed | None:
        return self._assembly.ended

    def _end(self, closed: LinkClosed) -> None:
        self._assembly.end(closed)

    def _is_open(self) -> bool:
        return self._assembly.closing is None

    # -- sending ------------------------------------------------------------

    def send_nowait(self, batch: Sequence[Frame]) -> bool:
        if self._sending or self._assembly.closing is not None or not self._outlet.ready:
            return False
        for message in batch:
            if len(message.data) > FRAGMENT_BYTES:
                return False
        if not self._assembly.extensions:
            return self._outlet.write_now(encode_messages(batch, masked=self._masks))
        # What was deflated cannot be taken back: the compressor has moved on.
        frames = [frame for message in batch for frame in self._deflated(message)]
        return self._outlet.write_now(frames, keep=True)

    def open_tap(self) -> Tap:
        assembly = self._assembly
        if self._masks or self._sending or assembly.closing is not None or assembly.extensions:
            return NO_TAP
        return self._outlet.open_tap()

    async def _send(self, batch: Sequence[Frame]) -> None:
        writes = 0
        for frames, messages in self._encoded(batch):
            waited = await self._outlet.write(frames, messages=messages)
            writes = 0 if waited else writes + 1
            if writes == WRITES_PER_TURN:
                await trio.lowlevel.checkpoint()
                writes = 0
        if writes or not batch:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _encoded(self, batch: Sequence[Frame]) -> Iterator[tuple[Sequence[bytes], bool]]:
        """The batch as writes: frames, and whether each of them ends a message."""
        if sum([len(message.data) for message in batch]) <= FRAGMENT_BYTES:
            if batch:
                yield self._run(batch), True
            return
        run: list[Frame] = []
        run_bytes = 0
        for message in batch:
            size = len(message.data)
            if run and run_bytes + size > FRAGMENT_BYTES:
                yield self._run(run), True
                run, run_bytes = [], 0
            if size > FRAGMENT_BYTES:
                yield from self._fragments(message)
            else:
                run.append(message)
                run_bytes += size
        if run:
            yield self._run(run), True

    def _run(self, run: Sequence[Frame]) -> Sequence[bytes]:
        if not self._assembly.extensions:
            return encode_messages(run, masked=self._masks)
        return [frame for message in run for frame in self._deflated(message)]

    def _fragments(self, message: Frame) -> Iterator[tuple[Sequence[bytes], bool]]:
        opcode = BINARY if message.binary else TEXT
        view = memoryview(message.data)
        for start in range(0, len(view), FRAGMENT_BYTES):
            part = view[start : start + FRAGMENT_BYTES]
            fin = start + FRAGMENT_BYTES >= len(view)
            yield [self._frame(opcode, part, fin)], fin
            opcode = CONTINUATION

    def _deflated(self, message: Frame) -> Iterator[bytes]:
        yield self._frame(BINARY if message.binary else TEXT, message.data, True)

    def _frame(self, opcode: int, payload: bytes | memoryview, fin: bool) -> bytes:
        if not self._assembly.extensions:
            return encode_frame(opcode, payload, masked=self._masks, fin=fin)
        frame = ExtensionFrame(Opcode(opcode), payload, fin)
        for extension in self._assembly.extensions:
            frame = extension.encode(frame)
        data = frame.data if isinstance(frame.data, memoryview) else bytes(frame.data)
        return encode_frame(opcode, data, masked=self._masks, fin=fin, rsv1=frame.rsv1)

    # -- receiving ----------------------------------------------------------

    async def receive(self) -> list[str | bytes]:
        if self._assembly.ended is not None:
            await trio.lowlevel.checkpoint()
            raise self._assembly.ended
        missing = self._assembly.missing
        wanted = READ_BYTES if missing <= READ_BYTES else min(missing, LONG_READ_BYTES)
        try:
            if self._leftover:
                await trio.lowlevel.checkpoint()
                data, self._leftover = self._leftover, b""
            else:
                data = bytes(await self._stream.receive_some(wanted))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._end_by(error)
            messages: list[str | bytes] = []
        else:
            self._note_read(data)
            messages = self._assembly.feed(data)
            self._answer()
        if self._assembly.ended is not None and not messages:
            raise self._assembly.ended
        return messages

    def _answer(self) -> None:
        """Pongs, and the close frame that the package made."""
        pings = self._assembly.pings
        if pings:
            frames = encode_control(PONG, pings, masked=self._masks)
            self._assembly.pings = ()
            self._outlet.put_control(_outlet.PONG, frames)
        self._take_close()

    def _take_close(self) -> None:
        closing = self._assembly.closing
        for data in () if closing is None else closing.data_to_send():
            if data:  # b"" asks for a half-close, which `close` does in its own time
                self._outlet.put_control(_outlet.CLOSE, data)

    def _put_close(self, code: int, reason: str) -> None:
        self._assembly.begin_closing().send_close(code, reason)
        self._take_close()

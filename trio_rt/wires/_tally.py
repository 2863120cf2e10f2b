"""What inbound frames amount to, told from their headers alone.

For a wire on a library that takes bytes in and gives messages out: how many
messages the bytes so far complete, how many pongs came, and whether a message
is within the limits, before a byte of what breaks them is passed on. Whatever
else is wrong with a frame is left to the library; nothing raises here.
"""

from __future__ import annotations

from ._framing import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Header, read_header

__all__ = ["Tally"]

_FIN_TEXT = 0x80 | TEXT
_FIN_BINARY = 0x80 | BINARY


class Tally:
    """Feed it what a server sends. All counts are cumulative."""

    def __init__(self, *, max_message_bytes: float, fragments: float) -> None:
        self.max_message_bytes = max_message_bytes
        self._max_frames = fragments
        self._head = b""
        # Of the frame in progress: what its payload still lacks, and what it is.
        self._missing = 0
        self._opcode = CONTINUATION
        self._fin = False
        # Of the message in progress.
        self._size = 0
        self._frames = 0

        #: Messages that are complete.
        self.messages = 0
        self.pongs = 0
        #: Pings and closes: frames that want an answer.
        self.questions = 0
        #: The close code and reason for a message that broke a limit.
        self.breach: tuple[int, str] | None = None

    @property
    def missing(self) -> int:
        """Bytes that the payload in progress still needs; 0 between payloads."""
        return self._missing

    def feed(self, data: bytes) -> bytes:
        """`data` as far as it may be passed on: up to a frame that breaks a limit."""
        known = len(self._head)
        joined = self._head + data
        at = min(self._missing, len(joined))
        if at:
            self._missing -= at
            if self._missing:
                return data
            self._finish()
        while not self._missing:
            at = self._skip_common(joined, at)
            header = read_header(joined, at)
            if isinstance(header, int):
                break
            if not self._admit(header):
                self._head = b""
                return data[: max(0, at - known)]
            at = min(header.stop, len(joined))
            self._missing = header.stop - at
            if not self._missing:
                self._finish()
        self._head = joined[at:]
        return data

    def _skip_common(self, data: bytes, at: int) -> int:
        """The hot loop: whole messages in one short frame each."""
        end, limit = len(data), self.max_message_bytes
        while at + 4 <= end:
            first, size = data[at], data[at + 1]
            if first != _FIN_TEXT and first != _FIN_BINARY:
                break
            start = at + 2
            if size == 126:
                size = int.from_bytes(data[start : start + 2], "big")
                start += 2
            if data[at + 1] > 126 or size > limit or start + size > end:
                break
            at = start + size
            self.messages += 1
        return at

    def _admit(self, header: Header) -> bool:
        self._opcode, self._fin = header.opcode, header.fin
        if header.opcode >= CLOSE:
            return True
        if header.opcode != CONTINUATION:
            self._size = self._frames = 0
        self._size += header.size
        self._frames += 1
        if self._size > self.max_message_bytes:
            self.breach = (1009, f"message of more than {self.max_message_bytes:g} bytes")
        elif self._frames > self._max_frames:
            self.breach = (1009, f"message of more than {self._max_frames:g} fragments")
        return self.breach is None

    def _finish(self) -> None:
        """The frame in progress is complete."""
        if self._opcode == PONG:
            self.pongs += 1
        elif self._opcode in (PING, CLOSE):
            self.questions += 1
        elif self._opcode < CLOSE and self._fin:
            self.messages += 1

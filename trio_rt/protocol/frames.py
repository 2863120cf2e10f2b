"""The session protocol on the wire: batches and frames, to bytes and back.

`docs/protocol.md` specifies it, for whoever wants to write another one. In short:

- A WebSocket message is a *batch*: a header, and frames. In JSON they are the
  lines of a text message; in MessagePack one array of byte strings, in a binary
  message. So a frame that cannot be read spoils no other.
- A frame that is an object (a map) is a message: the plain envelope's bytes. One
  that is an array is a control frame, whose first item is its kind.
- The header is an array of numbers. It says which number the first numbered
  frame has (the others follow from it), and what was received, consumed and
  settled so far: every batch is an acknowledgement too.
- The first message of each side is no batch but one control frame: `hello`
  from the client, `welcome` from the server.

What is wrong in a header or in a control frame is a breach of the protocol: it
ends the link with 1002. What is wrong in a message is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

from ..errors import LinkClosed

__all__ = [
    "BATCH_FRAMES",
    "BATCH_MARGIN_BYTES",
    "JSON_SYNTAX",
    "MAX_NUMBER",
    "MSGPACK_SYNTAX",
    "PLAIN",
    "RANGES",
    "Aside",
    "Bye",
    "Cancel",
    "Control",
    "End",
    "Fail",
    "Header",
    "Hello",
    "More",
    "Part",
    "Position",
    "Req",
    "Syntax",
    "Terms",
    "Void",
    "Welcome",
    "breach",
]

#: A subprotocol that means: no session, and the plain envelope. It is offered
#: before the session's, for servers that take the first of a list unseen.
PLAIN: Final = "trio-rt.plain"

#: The most frames of a batch, and the most ranges of drops in a header.
BATCH_FRAMES: Final = 4096
RANGES: Final = 256

#: How much larger than the largest message a batch may be: the small ones before it
#: (64 KiB at most), and the header.
BATCH_MARGIN_BYTES: Final = (64 + 16) << 10

#: RFC 8259, 6: integers that every JSON library keeps exact.
MAX_NUMBER: Final = 2**53 - 1

#: RFC 6455, 5.5: what a close frame's reason can hold.
_REASON_BYTES: Final = 123

Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
_Range = tuple[Number, Number]


class Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """What every batch begins with."""

    #: The number of the first numbered frame of this batch, or of a later one.
    first: Number
    #: Up to here the sender of this batch knows what became of its own frames.
    settled: Number
    #: Up to here it has the other side's frames, and up to here its program has
    #: taken them, those in `drops` excepted.
    received: Number
    consumed: Number
    #: How many messages, and bytes of messages, its program has taken in all.
    messages: Number
    bytes: Number
    #: Ranges of numbers, both ends included, that nobody took: of those consumed
    #: since the header before.
    drops: Annotated[list[_Range], msgspec.Meta(max_length=RANGES)]


class Position(msgspec.Struct, forbid_unknown_fields=True):
    """Where a side stands in a session: the fields of a header, at a resume."""

    settled: Number = 0
    received: Number = 0
    consumed: Number = 0
    messages: Number = 0
    bytes: Number = 0
    drops: list[_Range] = []


class Terms(msgspec.Struct):
    """What a side takes, and keeps. The other side may not go beyond it."""

    #: What may be in flight to it, as messages and bytes, and what of that is
    #: taken at the start of a session.
    window: tuple[_Size, _Size]
    held: tuple[Number, Number]
    #: What it keeps of its own for a resume, as frames and bytes.
    replay: tuple[_Size, _Size]
    #: The largest frame that it takes.
    message_bytes: _Size


class Hello(msgspec.Struct, tag="hello", array_like=True):
    """The client's first words. `session` and `token` are "" for a new session."""

    session: str
    token: str
    terms: Terms
    position: Position


class Welcome(msgspec.Struct, tag="welcome", array_like=True):
    """The server's answer. `token` is what to resume with the next time."""

    session: str
    token: str
    resumed: bool
    terms: Terms
    position: Position


class Void(msgspec.Struct, tag="void", array_like=True):
    """A number whose message was taken back before it was received."""


class Aside(msgspec.Struct, tag="aside", array_like=True, gc=False):
    """A message without a number, for this link only: a greeting or a heartbeat."""

    envelope: msgspec.Raw


class Bye(msgspec.Struct, tag="bye", array_like=True):
    """The session is over, and not to be resumed. `reason` may have advice, as a close's."""

    reason: str


class Req(msgspec.Struct, tag="req", array_like=True, gc=False):
    """A request. `parts` is how many parts, and bytes of parts, may come at first."""

    id: Number
    deadline_ms: Number | None
    parts: tuple[Number, Number]
    trace: str | None
    envelope: msgspec.Raw


class Part(msgspec.Struct, tag="part", array_like=True, gc=False):
    id: Number
    envelope: msgspec.Raw


class End(msgspec.Struct, tag="end", array_like=True, gc=False):
    """The reply, after which nothing of this request comes."""

    id: Number
    envelope: msgspec.Raw


class Fail(msgspec.Struct, tag="fail", array_like=True):
    """Instead of the reply."""

    id: Number
    code: str
    text: str


class Cancel(msgspec.Struct, tag="cancel", array_like=True, gc=False):
    """The requester no longer wants it; the reply, or `fail`, comes all the same."""

    id: Number


class More(msgspec.Struct, tag="more", array_like=True, gc=False):
    """Parts, and bytes of parts, of this request that were taken in all."""

    id: Number
    parts: tuple[Number, Number]


Control: TypeAlias = Void | Aside | Bye | Req | Part | End | Fail | Cancel | More

Frame: TypeAlias = str | bytes

T = TypeVar("T")


def breach(rule: str) -> LinkClosed:
    """The peer breaks the session protocol: the link ends with 1002 and this reason."""
    reason = rule.encode(errors="replace")[:_REASON_BYTES].decode(errors="ignore")
    return LinkClosed(1002, reason, by_peer=False)


class Syntax:
    """One of the two: how headers, frames and batches look."""

    def __init__(self, name: str, module: Any, *, binary: bool) -> None:
        self.binary = binary
        #: The subprotocol that stands for it.
        self.subprotocol = f"trio-rt.v1+{name}"
        self.void = module.encode(Void())
        self._encode: Callable[[Any], bytes] = module.Encoder().encode
        self._header: Callable[[Any], Header] = module.Decoder(Header).decode
        self._control: Callable[[Any], Control] = module.Decoder(Control).decode
        self._hello: Callable[[Any], Hello] = module.Decoder(Hello).decode
        self._welcome: Callable[[Any], Welcome] = module.Decoder(Welcome).decode
        self._list: Callable[[Any], list[bytes]] = module.Decoder(list[bytes]).decode

    def encode(self, frame: Control | Hello | Welcome) -> bytes:
        return self._encode(frame)

    def control(self, frame: Frame) -> Control:
        """Raises the breach that it is if it is no control frame."""
        return self._checked(self._control, frame, "a control frame")

    def hello(self, data: str | bytes) -> Hello:
        return self._checked(self._hello, data, "a hello")

    def welcome(self, data: str | bytes) -> Welcome:
        return self._checked(self._welcome, data, "a welcome")

    def _checked(self, decode: Callable[[Any], T], data: Frame, what: str) -> T:
        self._check_kind(data)
        try:
            return decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise breach(f"{what} that cannot be: {error}") from error

    def _check_kind(self, data: Frame) -> None:
        if isinstance(data, bytes) is not self.binary:
            kind = "binary" if self.binary else "text"
            raise breach(f"{self.subprotocol} has {kind} messages only")

    def is_frame(self, frame: bytes) -> bool:
        """Whether `frame` is a control frame that can go in a batch."""
        try:
            self.control(frame if self.binary else frame.decode())
        except (LinkClosed, UnicodeDecodeError):
            return False
        return self.binary or b"\n" not in frame

    # A batch

    def join(self, header: Header, frames: Sequence[bytes]) -> bytes:
        raise NotImplementedError

    def split(self, data: str | bytes) -> tuple[Header, Sequence[Frame]]:
        """Header and frames. Raises the breach that it is if there is no header."""
        raise NotImplementedError

    def is_control(self, frame: Frame) -> bool:
        raise NotImplementedError

    def has_control(self, frames: Sequence[Frame]) -> bool:
        """Whether there is a control frame among them."""
        return any(map(self.is_control, frames))


class _Json(Syntax):
    def __init__(self) -> None:
        super().__init__("json", msgspec.json, binary=False)

    def join(self, header: Header, frames: Sequence[bytes]) -> bytes:
        return b"\n".join([self._encode(header), *frames])

    def split(self, data: str | bytes) -> tuple[Header, Sequence[Frame]]:
        self._check_kind(data)
        assert isinstance(data, str)
        frames = data.split("\n", BATCH_FRAMES + 1)
        if len(frames) > BATCH_FRAMES + 1:
            raise breach(f"a batch of more than {BATCH_FRAMES} frames")
        return self._checked(self._header, frames.pop(0), "a header"), frames

    def is_control(self, frame: Frame) -> bool:
        return frame[:1] == "["

    def has_control(self, frames: Sequence[Frame]) -> bool:
        # As the other's, without a call for each frame.
        return any(frame[:1] == "[" for frame in frames)


class _Msgpack(Syntax):
    def __init__(self) -> None:
        super().__init__("msgpack", msgspec.msgpack, binary=True)

    def join(self, header: Header, frames: Sequence[bytes]) -> bytes:
        return self._encode([self._encode(header), *frames])

    def split(self, data: str | bytes) -> tuple[Header, Sequence[Frame]]:
        self._check_kind(data)
        frames = self._checked(self._list, data, "a batch")
        if not frames:
            raise breach("a batch without a header")
        if len(frames) > BATCH_FRAMES + 1:
            raise breach(f"a batch of more than {BATCH_FRAMES} frames")
        return self._checked(self._header, frames.pop(0), "a header"), frames

    def is_control(self, frame: Frame) -> bool:
        # fixarray, array 16, array 32: the MessagePack specification's formats.
        return bool(frame) and (0x90 <= frame[0] <= 0x9F or frame[0] in (0xDC, 0xDD))  # type: ignore[operator]


JSON_SYNTAX: Final[Syntax] = _Json()
MSGPACK_SYNTAX: Final[Syntax] = _Msgpack()

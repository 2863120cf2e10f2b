"""Messages to bytes and back.

On the wire a message is one JSON object, or one MessagePack map, with `id`,
`type`, `payload`, `timestamp` (milliseconds since the epoch, or null),
`priority` (its name in lower case) and, where there is one, `key`.

Outbound, what cannot be encoded is the caller's own fault, found before it is
queued: `PayloadError`. Inbound, only `type` is asked for. Almost every
message fits a strict struct, which msgspec fills in one go; one that does not
is read a second time field by field, so that a foreign id or timestamp costs
its default and not the message. Whatever else is wrong is a `DecodeError`.

A payload stays undecoded (`msgspec.Raw`) until a stream that wants it has
said of what type it should be: nobody pays for what nobody reads. So an
error *inside* a payload is found by its reader, not by `decode`.

Two things that msgspec lets through are caught here. JSON has no NaN and no
infinity, and msgspec writes `null` for them: where an encoded message says
`null`, its payload is searched for them. The search is all a message without
a null pays (0.1 us). A `msgspec.Raw` from the caller is copied verbatim: it
may hold line breaks, which would end a frame that is one line, so a message
with line breaks is checked and written again without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import msgspec

from ..errors import DecodeError, OptionError, PayloadError
from ..message import Message, Priority
from .payloads import Reader, is_foreign, located, reader

__all__ = [
    "Codec",
    "JsonCodec",
    "Meta",
    "MsgpackCodec",
    "decode_raw",
    "encode_raw",
    "packer",
    "payload_reader",
    "resolve_codec",
]

#: A payload that lies in a buffer larger than this, and than twice itself, is
#: copied, so that a small message does not keep a large buffer alive.
PINNED_BYTES: Final = 1024

_LINE_FEED: Final = 0x0A

#: Few messages have the letter, none of it is ours, and one byte is found five times
#: as fast as four.
_U: Final = ord("u")

_NAMES: Final = tuple(priority.name.lower() for priority in Priority)
_PRIORITIES: Final[dict[object, Priority]] = dict(zip(_NAMES, Priority, strict=True))


class Meta(msgspec.Struct, frozen=True, gc=False):
    """What goes out with a payload, besides its type."""

    id: str
    #: Milliseconds since the epoch.
    timestamp: int | None
    priority: Priority
    key: str | None


@runtime_checkable
class Codec(Protocol):
    """How messages look on the wire. Write one to talk to a server of another dialect.

    One codec serves a whole connection, and its methods are called by several
    tasks: they keep no state between calls, and never block.
    """

    #: Whether encoded messages go in binary frames.
    binary: bool

    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        """One message. Raises `PayloadError`; UTF-8 text unless `binary`."""

    def decode(self, data: str | bytes) -> Iterable[Message[Any]]:
        """The messages in one frame: any number. Raises `DecodeError`.

        `data` is text from a text frame and bytes from a binary one.
        `received_at` is left 0. A payload may be a `msgspec.Raw`: JSON, or
        MessagePack where `binary` is true.
        """

    def correlate(self, message: Message[Any]) -> str | None:
        """The id of the request that `message` answers, or None if it answers none."""


#: type, payload, id, timestamp, priority, key
Pack: TypeAlias = Callable[[str, Any, str, int | None, Priority, str | None], bytes]


class _Outbound(msgspec.Struct, omit_defaults=True, gc=False):
    id: str
    type: str
    payload: Any
    timestamp: int | None
    priority: str
    key: str | None = None


_ABSENT: Final = msgspec.Raw()


class _Inbound(msgspec.Struct, gc=False):
    type: str
    payload: msgspec.Raw = _ABSENT
    id: str | int | None = ""
    timestamp: int | float | None = None
    priority: str | int | None = None
    key: str | None = None


class _Foreign(msgspec.Struct, gc=False):
    type: str
    payload: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT
    timestamp: msgspec.Raw = _ABSENT
    priority: msgspec.Raw = _ABSENT
    key: msgspec.Raw = _ABSENT


class _EnvelopeCodec:
    """What the two envelope codecs share: all but the syntax."""

    def __init__(self, syntax: str, module: Any, null: bytes) -> None:
        self._syntax = syntax
        self._null = msgspec.Raw(null)
        self._encode: Callable[[Any], bytes] = module.Encoder().encode
        self._decode: Callable[[Any], Any] = module.Decoder().decode
        self._inbound: Callable[[Any], _Inbound] = module.Decoder(_Inbound).decode
        self._foreign: Callable[[Any], _Foreign] = module.Decoder(_Foreign).decode

    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        return self.pack(type, payload, meta.id, meta.timestamp, meta.priority, meta.key)

    def pack(
        self,
        type: str,
        payload: Any,
        id: str,
        timestamp: int | None,
        priority: Priority,
        key: str | None,
    ) -> bytes:
        """`encode` without a `Meta`: 0.12 us less."""
        if not isinstance(type, str):
            raise PayloadError("type", "must be a string", type)
        try:
            return self._encode(_Outbound(id, type, payload, timestamp, _NAMES[priority], key))
        except Exception as error:
            raise self._unencodable(type, payload, id, key, error) from error

    def _unencodable(
        self, type: str, payload: Any, id: str, key: str | None, error: Exception
    ) -> PayloadError:
        for field, value in (("type", type), ("key", key), ("id", id)):
            try:
                self._encode(value)
            except Exception:
                return PayloadError(field, f"must fit in {self._syntax} ({error})", value)
        return PayloadError("payload", f"must fit in {self._syntax} ({error})", payload)

    def decode(self, data: str | bytes) -> Iterable[Message[Any]]:
        try:
            found = self._inbound(data)
        except msgspec.ValidationError:
            return (self._decode_foreign(data),)
        except (ValueError, RecursionError, TypeError) as error:
            raise self._malformed(data, error) from error
        timestamp = found.timestamp
        if timestamp.__class__ is float:
            timestamp = _timestamp(timestamp)
        id = found.id
        payload = found.payload
        if payload is _ABSENT or len(data) > PINNED_BYTES:
            payload = self._unpinned(payload, data)
        return (
            Message(
                found.type,
                payload,
                id if id.__class__ is str else _id(id),
                timestamp,  # type: ignore[arg-type]
                _PRIORITIES.get(found.priority, Priority.NORMAL),
                found.key,
            ),
        )

    def _decode_foreign(self, data: str | bytes) -> Message[Any]:
        try:
            found = self._foreign(data)
        except (ValueError, RecursionError, TypeError) as error:
            raise self._malformed(data, error) from error
        id, timestamp, priority, key = map(
            self._plain, (found.id, found.timestamp, found.priority, found.key)
        )
        return Message(
            found.type,
            self._unpinned(found.payload, data),
            _id(id),
            _timestamp(timestamp),
            _PRIORITIES[priority] if priority in _NAMES else Priority.NORMAL,
            key if isinstance(key, str) else None,
        )

    def _plain(self, raw: msgspec.Raw) -> Any:
        """The value in `raw`, or None where it is none that Python can hold."""
        try:
            return self._decode(raw)
        except (ValueError, RecursionError, TypeError):
            return None

    def _unpinned(self, payload: msgspec.Raw, data: str | bytes) -> msgspec.Raw:
        if payload is _ABSENT:
            return self._null
        if 2 * memoryview(payload).nbytes < len(data):
            return payload.copy()
        return payload

    def _malformed(self, data: str | bytes, error: Exception) -> DecodeError:
        if not isinstance(error, msgspec.ValidationError):
            return DecodeError("message", f"is not valid {self._syntax} ({error})", data)
        rule, path, _ = located(error)
        if path == ".type":
            return DecodeError("type", rule, data)
        return DecodeError("message", rule, data)

    def correlate(self, message: Message[Any]) -> str | None:
        """None: the envelope has no field for it."""
        return None


class JsonCodec(_EnvelopeCodec):
    """The envelope as a JSON object, in a text frame: one line.

    Takes text, or UTF-8 bytes. NaN and the infinities are refused in both
    directions. What msgspec encodes can be sent: dataclasses, attrs classes,
    datetimes, UUIDs, bytes (as base64) and so on; numbers as keys of a dict
    become strings.
    """

    binary: bool = False

    def __init__(self) -> None:
        super().__init__("JSON", msgspec.json, b"null")

    def pack(
        self,
        type: str,
        payload: Any,
        id: str,
        timestamp: int | None,
        priority: Priority,
        key: str | None,
    ) -> bytes:
        # As the other's, not through it, and not `in` for more than one byte: 0.4 us less.
        if type.__class__ is not str:
            return _EnvelopeCodec.pack(self, type, payload, id, timestamp, priority, key)
        try:
            data = self._encode(_Outbound(id, type, payload, timestamp, _NAMES[priority], key))
        except Exception as error:
            raise self._unencodable(type, payload, id, key, error) from error
        if (
            _U in data
            and data.find(b"null") >= 0
            and payload is not None
            and _has_nonfinite(payload)
        ):
            raise PayloadError("payload", "must fit in JSON (no NaN, no infinity)", payload)
        if _LINE_FEED in data:
            return _on_one_line(data, payload)
        return data

    def decode(self, data: str | bytes) -> Iterable[Message[Any]]:
        if not isinstance(data, str):
            try:
                data = str(data, "utf-8")
            except UnicodeDecodeError as error:
                raise self._malformed(data, error) from error
        return _EnvelopeCodec.decode(self, data)


class MsgpackCodec(_EnvelopeCodec):
    """The envelope as a MessagePack map, in a binary frame.

    Integers are at most 64 bits wide; NaN and the infinities travel as they are.
    """

    binary: bool = True

    def __init__(self) -> None:
        super().__init__("MessagePack", msgspec.msgpack, b"\xc0")


_BUILT_IN: Final[dict[str, Codec]] = {"json": JsonCodec(), "msgpack": MsgpackCodec()}


def resolve_codec(codec: str | Codec) -> Codec:
    """The codec of this name, or the one given. Raises `OptionError`."""
    if isinstance(codec, str) and codec in _BUILT_IN:
        return _BUILT_IN[codec]
    if isinstance(codec, Codec) and not isinstance(codec, type):
        return codec
    raise OptionError("codec", 'must be "json", "msgpack", "raw" or a Codec', codec)


def packer(codec: Codec) -> Pack:
    """`codec.encode`, with what is in its `Meta` one by one."""
    if codec.__class__ in (JsonCodec, MsgpackCodec):  # not what is derived from them
        return codec.pack

    return lambda type, payload, *meta: codec.encode(type, payload, Meta(*meta))


def encode_raw(data: object) -> tuple[bytes, bool]:
    """`data` as the bytes of a frame, and whether that is a binary one.

    Raises `PayloadError` for anything but valid text and bytes.
    """
    if isinstance(data, str):
        try:
            return data.encode(), False
        except UnicodeEncodeError as error:
            raise PayloadError("data", f"must be valid text ({error})", data) from error
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), True
    raise PayloadError("data", "must be text or bytes", data)


def decode_raw(data: str | bytes) -> Iterable[Message[str | bytes]]:
    """`data` as the payload of one message, whose type is ""."""
    return (Message("", data),)


def payload_reader(codec: Codec, as_: Any = Any) -> Reader:
    """A function from a payload of `codec` to a value of type `as_`.

    It raises `DecodeError`, and nothing else: `field` is the path of what
    does not fit ("payload.price"), `value` what stands there. `as_` is any
    type that msgspec can build; `Any` leaves what the syntax gives. A codec
    of the program's own may also give payloads that are such values already.
    Raises `OptionError` for a type that can never be.
    """
    found = reader(codec.binary, as_)
    if isinstance(codec, _EnvelopeCodec) and is_foreign(as_):
        raise OptionError("as_", "must be a type that msgspec can build", as_)
    return found


def _id(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else ""


def _timestamp(value: object) -> int | None:
    if isinstance(value, float):
        return int(value) if math.isfinite(value) else None
    return value if type(value) is int else None


def _has_nonfinite(payload: Any) -> bool:
    """Whether a NaN or an infinity is among the values of an encodable payload."""
    waiting = [msgspec.to_builtins(payload, str_keys=True, enc_hook=lambda raw: None)]
    while waiting:
        value = waiting.pop()
        kind = value.__class__
        if kind is float:
            if not math.isfinite(value):
                return True
        elif kind is dict:
            waiting.extend(value.values())
        elif kind is list or kind is tuple:
            waiting.extend(value)
    return False


def _on_one_line(data: bytes, payload: Any) -> bytes:
    try:
        return msgspec.json.format(data, indent=-1)
    except (ValueError, RecursionError) as error:
        raise PayloadError("payload", f"must hold valid JSON ({error})", payload) from error

"""The envelope, and what is no envelope."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import DecodeError, OptionError, PayloadError
from trio_rt.message import Message, Priority
from trio_rt.protocol.codec import (
    Codec,
    JsonCodec,
    Meta,
    MsgpackCodec,
    decode_raw,
    encode_raw,
    packer,
    payload_reader,
    resolve_codec,
)

JSON = JsonCodec()
MSGPACK = MsgpackCodec()
BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
META = Meta("i-1", 1_700_000_000_000, Priority.NORMAL, None)


def encode(payload: object, codec: Codec = JSON, type: str = "t", meta: Meta = META) -> bytes:
    return codec.encode(type, payload, meta)


def decode(data: str | bytes, codec: Codec = JSON) -> Message[Any]:
    """The only message in `data`, its payload decoded."""
    (message,) = codec.decode(data)
    return msgspec.structs.replace(message, payload=payload_reader(codec)(message.payload))


def refusal(data: str | bytes, codec: Codec = JSON) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(data, codec)
    return caught.value


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# Out


def test_the_envelope_is_the_documented_object() -> None:
    """Five fields, and the key where there is one; the priority by its name."""
    meta = Meta("i-1", 5, Priority.HIGH, "k")
    assert json.loads(encode({"a": 1}, meta=meta)) == {
        "id": "i-1",
        "type": "t",
        "payload": {"a": 1},
        "timestamp": 5,
        "priority": "high",
        "key": "k",
    }
    bare = Meta("i-2", None, Priority.LOW, None)
    assert json.loads(encode(None, meta=bare)) == {
        "id": "i-2",
        "type": "t",
        "payload": None,
        "timestamp": None,
        "priority": "low",
    }


@pytest.mark.parametrize("priority", Priority)
@BOTH
def test_every_priority_comes_back(codec: Codec, priority: Priority) -> None:
    """The name on the wire is that of the same priority at the other end."""
    data = encode(1, codec, meta=Meta("i", None, priority, None))
    assert decode(data, codec).priority is priority


@BOTH
def test_an_empty_key_is_a_key(codec: Codec) -> None:
    """Only None is no key."""
    assert decode(encode(1, codec, meta=Meta("", 0, Priority.LOW, "")), codec).key == ""


@pytest.mark.parametrize(
    "payload",
    [object(), "\ud800", {"\ud800": 1}, {(1, 2): object()}, 1j, nested(100_000), [10**5000]],
    ids=["object", "surrogate", "surrogate key", "value", "complex", "deep", "huge int"],
)
@BOTH
def test_what_cannot_be_encoded_is_the_callers_error(codec: Codec, payload: object) -> None:
    """`PayloadError` names the payload and has it, whatever the encoder stumbled on."""
    with pytest.raises(PayloadError) as caught:
        encode(payload, codec)
    assert caught.value.field == "payload"
    assert caught.value.value is payload
    assert caught.value.__cause__ is not None


@BOTH
def test_a_circular_payload_is_refused(codec: Codec) -> None:
    """Endless recursion ends in a `PayloadError`."""
    payload: list[Any] = []
    payload.append(payload)
    with pytest.raises(PayloadError):
        encode(payload, codec)


@BOTH
def test_a_payload_whose_own_code_fails_is_refused(codec: Codec) -> None:
    """An attribute that was never set is found at the send, as a `PayloadError`."""

    @attrs.define
    class Half:
        there: int = attrs.field(init=False)
        hook: Any = None

    with pytest.raises(PayloadError):
        encode(Half(hook=object()), codec)


@pytest.mark.parametrize("integer", [2**64, -(2**63) - 1])
def test_json_takes_integers_that_messagepack_refuses(integer: int) -> None:
    """MessagePack has 64 bits; JSON has as many as wanted."""
    assert decode(encode(integer)).payload == integer
    with pytest.raises(PayloadError, match="MessagePack"):
        encode(integer, MSGPACK)


@pytest.mark.parametrize(
    ("type", "meta", "field"),
    [
        (5, META, "type"),
        (None, META, "type"),
        ("\ud800", META, "type"),
        ("t", Meta("i", None, Priority.LOW, "\udfff"), "key"),
        ("t", Meta("\udfff", None, Priority.LOW, None), "id"),
    ],
)
@BOTH
def test_the_field_at_fault_is_named(codec: Codec, type: Any, meta: Meta, field: str) -> None:
    """A bad type or key is not blamed on the payload."""
    with pytest.raises(PayloadError) as caught:
        encode({}, codec, type, meta)
    assert caught.value.field == field


@attrs.define
class Reading:
    value: float
    note: str | None = None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_it_has_no_number_for(number: float) -> None:
    """NaN and the infinities are not turned into null, wherever they hide."""
    for payload in (
        number,
        [1, number],
        {"a": [None, {"b": (number,)}]},
        Reading(number),
        {1: Reading(1.0), 2: Reading(number)},
        [msgspec.Raw(b"null"), number],
    ):
        with pytest.raises(PayloadError, match="no NaN"):
            encode(payload)


def test_a_null_is_not_taken_for_a_nan() -> None:
    """None, the word "null" and large numbers of any kind pass."""
    for payload in (None, [None], "null", {"null": 1.5}, Reading(1e308), [2**70, None]):
        encode(payload)
    assert decode(encode(msgspec.Raw(b"[null]"))).payload == [None]


def test_messagepack_carries_nan_and_infinity() -> None:
    """They are numbers there."""
    read = decode(encode([math.nan, math.inf], MSGPACK), MSGPACK).payload
    assert math.isnan(read[0])
    assert read[1] == math.inf


def test_an_encoded_json_message_is_one_line() -> None:
    """Line breaks come in only by a verbatim payload, and are taken out."""
    data = encode([msgspec.Raw(b'{\n  "a": "x\\ny"\n}'), "b\n c"])
    assert b"\n" not in data
    assert decode(data).payload == [{"a": "x\ny"}, "b\n c"]


def test_a_verbatim_payload_with_line_breaks_must_be_json() -> None:
    """It cannot smuggle a second line into the frame."""
    with pytest.raises(PayloadError, match="valid JSON"):
        encode(msgspec.Raw(b'1}\n{"type":"x"'))


def test_packing_is_encoding() -> None:
    """What sends use is a codec's own `encode`, also of one that derives from a built-in."""

    class Prefixed(JsonCodec):
        def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
            return super().encode(f"x-{type}", payload, meta)

    parts = ("id-1", 7, Priority.HIGH, "k")
    for codec in (JsonCodec(), MsgpackCodec(), Prefixed()):
        assert packer(codec)("t", [1], *parts) == codec.encode("t", [1], Meta(*parts))


# In


@pytest.mark.parametrize("data", ['{"type":"t"}', b'{"type":"t"}'])
def test_only_the_type_is_required(data: str | bytes) -> None:
    """Everything else has a default."""
    assert decode(data) == Message("t", None, "", None, Priority.NORMAL, None, 0.0)
    assert decode(msgspec.msgpack.encode({"type": "t"}), MSGPACK) == Message("t", None)


@BOTH
def test_unknown_fields_are_ignored(codec: Codec) -> None:
    """A server may add what it likes, nested too."""
    dump = msgspec.msgpack.encode if codec.binary else msgspec.json.encode
    data = dump({"x": [{"y": 1}], "type": "t", "payload": 1, "received_at": 9.0})
    assert decode(data, codec) == Message("t", 1)


@pytest.mark.parametrize(
    ("field", "sent", "read"),
    [
        ("id", "a", "a"),
        ("id", 17, "17"),
        ("id", -3, "-3"),
        ("id", 2**63, str(2**63)),
        ("id", 1.5, ""),
        ("id", None, ""),
        ("id", True, ""),
        ("id", ["a"], ""),
        ("id", {"a": 1}, ""),
        ("timestamp", 12, 12),
        ("timestamp", 12.9, 12),
        ("timestamp", -1, -1),
        ("timestamp", 1e30, int(1e30)),
        ("timestamp", None, None),
        ("timestamp", True, None),
        ("timestamp", "12", None),
        ("timestamp", [12], None),
        ("priority", "critical", Priority.CRITICAL),
        ("priority", "CRITICAL", Priority.NORMAL),
        ("priority", "urgent", Priority.NORMAL),
        ("priority", 3, Priority.NORMAL),
        ("priority", 3.0, Priority.NORMAL),
        ("priority", True, Priority.NORMAL),
        ("priority", None, Priority.NORMAL),
        ("priority", ["high"], Priority.NORMAL),
        ("priority", {"high": 1}, Priority.NORMAL),
        ("key", "k", "k"),
        ("key", "", ""),
        ("key", None, None),
        ("key", 5, None),
        ("key", ["k"], None),
    ],
)
@BOTH
def test_a_foreign_field_costs_its_value_and_nothing_else(
    codec: Codec, field: str, sent: object, read: object
) -> None:
    """Its default takes its place; the other fields are as they were sent."""
    whole = {
        "id": "i",
        "type": "t",
        "payload": {"a": 1},
        "timestamp": 5,
        "priority": "high",
        "key": "z",
    }
    dump = msgspec.msgpack.encode if codec.binary else msgspec.json.encode
    found = decode(dump({**whole, field: sent}), codec)
    expected = Message("t", {"a": 1}, "i", 5, Priority.HIGH, "z")
    assert found == msgspec.structs.replace(expected, **{field: read})
    assert type(getattr(found, field)) is type(read)


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "1e999", "1" + "0" * 400])
def test_numbers_beyond_reason_are_foreign(number: str) -> None:
    """An id or timestamp of thousands of digits is no more than a foreign one."""
    found = decode(f'{{"type":"t","id":{number},"timestamp":{number},"key":"k"}}')
    assert found.key == "k"
    assert found.id in ("", number)
    assert found.timestamp in (None, 10**400)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_timestamp_that_is_no_number_is_none(number: float) -> None:
    """MessagePack can carry it; an int cannot hold it."""
    data = msgspec.msgpack.encode({"type": "t", "timestamp": number})
    assert decode(data, MSGPACK).timestamp is None


def test_the_last_of_duplicate_fields_wins() -> None:
    """As in the JSON parsers of most languages."""
    assert decode('{"type":"a","payload":1,"type":"b","payload":2}') == Message("b", 2)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "x",
        "null",
        "5",
        '"type"',
        '["type"]',
        "{",
        "{}",
        '{"payload":1}',
        '{"type":null}',
        '{"type":5}',
        '{"type":["t"]}',
        '{"type":"t"} {"type":"t"}',
        '{"type":"t","payload":NaN}',
        '{"type":"t","payload":[Infinity]}',
        '{"type":"t","payload":-Infinity}',
        '{"type":"t","payload":"\ud800"}',
        '{"type":"t","payload":"\\ud800"}',
        '{"type":"t","payload":"\\udc00x"}',
        '{"type":"\\ud800"}',
        b'{"type":"t","payload":"\xff"}',
        b'{"type":"t","other":"\xed\xa0\x80"}',
        b'{"type":"t","\xff":1}',
        b'\xff{"type":"t"}',
        b'\xef\xbb\xbf{"type":"t"}',
        '{"type":"t","payload":%s}' % ("9" * 5000),
        '{"type":"t","payload":1e999}',
        "[" * 100_000,
        '{"type":' + "[" * 100_000,
        '{"type":"t","payload":' + "[" * 100_000,
        '{"type":"t","payload":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type":"t","id":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
        '{"type":"t","other":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_json_message_is_a_decode_error(data: str | bytes) -> None:
    """Malformed, hostile or of another shape: one kind of error, in words, with a value."""
    error = refusal(data)
    assert error.field
    assert error.rule
    assert str(error)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x90",
        b"\x80",
        b"\x81\xa4type\x05",
        b"\x81\xa4type\xa1\xff",
        b"\x82\xa4type\xa1t\x01\x02",
        b"\x81\xa4type\xa1t\xc0",
        b"\x82\xa4type\xa1t\xa7payload",
        b"\x82\xa4type\xa1t\xa7payload\xa1\xff",
        b"\x82\xa4type\xa1t\xa7payload\xdd\xff\xff\xff\xff",
        b"\x82\xa4type\xa1t\xa7payload\x81\x81\x01\x02\x03",
        b"\x82\xa4type\xa1t\xa7payload" + b"\x91" * 100_000 + b"\x90",
        '{"type":"t"}',
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_messagepack_message_is_a_decode_error(data: str | bytes) -> None:
    """Text, half messages, lengths that lie, deep nesting."""
    assert refusal(data, MSGPACK).rule


def test_the_error_says_what_is_wrong() -> None:
    """A bad type is named; the frame is the value."""
    error = refusal('{"type":5}')
    assert (error.field, error.value) == ("type", '{"type":5}')
    assert "str" in error.rule
    assert refusal("[]").field == "message"
    assert "required field `type`" in refusal("{}").rule


def test_bad_utf8_in_bytes_is_found_at_once() -> None:
    """`decode` itself refuses it, though nobody reads the payload."""
    with pytest.raises(DecodeError):
        JSON.decode(b'{"type":"t","payload":"\xff"}')


@BOTH
def test_a_payload_is_decoded_only_when_read(codec: Codec) -> None:
    """`decode` gives it as it came."""
    (message,) = codec.decode(encode({"a": [1]}, codec))
    assert isinstance(message.payload, msgspec.Raw)
    assert payload_reader(codec)(message.payload) == {"a": [1]}


@pytest.mark.parametrize(
    ("filler", "payload", "kept"),
    [(100_000, "x", False), (50_000, "x" * 100_000, True), (10, "x", True)],
)
@BOTH
def test_a_small_payload_does_not_keep_a_large_frame_alive(
    codec: Codec, filler: int, payload: str, kept: bool
) -> None:
    """It is a copy where the frame is large and mostly something else; else a view."""
    value = {"type": "t", "payload": payload, "filler": "x" * filler}
    packed = msgspec.msgpack.encode(value)
    data = packed if codec.binary else msgspec.json.encode(value).decode()
    before = sys.getrefcount(data)
    messages = list(codec.decode(data))
    assert (sys.getrefcount(data) > before) is kept
    assert payload_reader(codec)(messages[0].payload) == payload


@BOTH
def test_the_envelope_answers_nothing(codec: Codec) -> None:
    """It has no field for it: an adapter's codec has to say."""
    assert codec.correlate(Message("t", None, "i-1")) is None


# Properties

_numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_text = st.text(st.characters(exclude_categories=["Cs"]))
_payloads: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _numbers | _text,
    lambda inner: st.lists(inner) | st.dictionaries(_text, inner),
    max_leaves=20,
)
_metas = st.builds(
    Meta,
    _text,
    st.none() | st.integers(0, 2**53),
    st.sampled_from(Priority),
    st.none() | _text,
)


@BOTH
@given(type=_text, payload=_payloads, meta=_metas)
def test_what_is_encoded_comes_back(codec: Codec, type: str, payload: Any, meta: Meta) -> None:
    """For every type, payload and meta."""
    assert decode(codec.encode(type, payload, meta), codec) == Message(
        type, payload, meta.id, meta.timestamp, meta.priority, meta.key
    )


@given(type=_text, payload=_payloads, meta=_metas)
def test_a_text_frame_and_its_bytes_say_the_same(type: str, payload: Any, meta: Meta) -> None:
    """JSON is taken either way."""
    data = JSON.encode(type, payload, meta)
    assert decode(data) == decode(data.decode())


def _only_decode_error(data: str | bytes, codec: Codec) -> None:
    try:
        messages = list(codec.decode(data))
        for message in messages:
            payload_reader(codec)(message.payload)
    except DecodeError:
        return
    assert all(type(message) is Message for message in messages)


_almost = st.dictionaries(
    st.sampled_from(["id", "type", "payload", "timestamp", "priority", "key", "x"]), _payloads
)


@BOTH
@given(data=st.binary())
def test_any_bytes_give_messages_or_a_decode_error(codec: Codec, data: bytes) -> None:
    """Nothing else leaves the codec."""
    _only_decode_error(data, codec)


@given(data=st.text() | st.text('{}[]":,\\ud8type019.-eE'))
def test_any_text_gives_messages_or_a_decode_error(data: str) -> None:
    """Lone surrogates and almost-JSON included."""
    _only_decode_error(data, JSON)


@BOTH
@given(envelope=_almost, flip=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_envelope_gives_messages_or_a_decode_error(
    codec: Codec, envelope: dict[str, Any], flip: int, byte: int
) -> None:
    """One byte of a likely message is changed."""
    dump = msgspec.msgpack.encode if codec.binary else msgspec.json.encode
    data = bytearray(dump(envelope))
    data[flip % len(data)] = byte
    _only_decode_error(bytes(data), codec)


@BOTH
@given(envelope=_almost, type=_text)
def test_a_foreign_envelope_is_still_a_message(
    codec: Codec, envelope: dict[str, Any], type: str
) -> None:
    """Whatever the other fields hold, a type makes it one."""
    dump = msgspec.msgpack.encode if codec.binary else msgspec.json.encode
    found = decode(dump({**envelope, "type": type}), codec)
    assert found.type == type
    assert found.payload == envelope.get("payload")


# Which codec


class Own:
    """A codec of the program's own."""

    binary = False

    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        return b""

    def decode(self, data: str | bytes) -> Iterable[Message[Any]]:
        return ()

    def correlate(self, message: Message[Any]) -> str | None:
        return None


def test_codecs_have_names() -> None:
    """ "json" and "msgpack"; one of the program's own is taken as it is."""

    own = Own()
    assert isinstance(resolve_codec("json"), JsonCodec)
    assert isinstance(resolve_codec("msgpack"), MsgpackCodec)
    assert resolve_codec(own) is own
    assert not resolve_codec("json").binary
    assert resolve_codec("msgpack").binary


@pytest.mark.parametrize("codec", ["JSON", "raw", "", None, 5, JsonCodec, object(), ["json"]])
def test_what_is_no_codec_is_an_option_error(codec: Any) -> None:
    """A wrong name, a class instead of an instance, something else."""
    with pytest.raises(OptionError) as caught:
        resolve_codec(codec)
    assert caught.value.field == "codec"


# Payloads of a codec


def test_a_payload_is_read_in_the_codecs_syntax() -> None:
    """The same value comes out of either."""
    for codec in (JSON, MSGPACK):
        (message,) = codec.decode(encode({"value": 1.5}, codec))
        assert payload_reader(codec, Reading)(message.payload) == Reading(1.5)


def test_a_type_that_the_envelope_cannot_give_is_an_option_error() -> None:
    """Not a stream of malformed messages later. A codec of one's own may give it."""

    class Alien:
        pass

    for codec, as_ in ((JSON, Alien), (MSGPACK, Alien), (MSGPACK, 5)):
        with pytest.raises(OptionError) as caught:
            payload_reader(codec, as_)
        assert caught.value.field == "as_"
    assert payload_reader(JSON, object)(msgspec.Raw(b"1")) == 1
    alien = Alien()
    assert payload_reader(Own(), Alien)(alien) is alien


# Raw


def test_raw_text_and_bytes_go_in_frames_of_their_kind() -> None:
    """Text in text frames; bytes, in any wrapping, in binary ones."""
    assert encode_raw("ä") == ("ä".encode(), False)
    assert encode_raw(b"\xff") == (b"\xff", True)
    assert encode_raw(bytearray(b"ab")) == (b"ab", True)
    assert encode_raw(memoryview(b"abcd")[::2]) == (b"ac", True)


def test_raw_bytes_are_the_callers_no_longer() -> None:
    """What is changed after the send does not change what is sent."""
    mine = bytearray(b"ab")
    data, _ = encode_raw(mine)
    mine[0] = 0
    assert data == b"ab"


@pytest.mark.parametrize("data", ["\ud800", 5, None, {"a": 1}, ["x"]])
def test_raw_takes_nothing_else(data: object) -> None:
    """Not even text that is no text."""
    with pytest.raises(PayloadError) as caught:
        encode_raw(data)
    assert caught.value.field == "data"


@pytest.mark.parametrize("data", ["ä", b"\xff", ""])
def test_raw_data_is_the_payload_of_a_message_without_a_type(data: str | bytes) -> None:
    """As it came."""
    assert list(decode_raw(data)) == [Message("", data)]

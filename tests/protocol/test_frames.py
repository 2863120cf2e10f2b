"""Batches and frames: how they look, and that nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import LinkClosed
from trio_rt.protocol.frames import (
    BATCH_FRAMES,
    JSON_SYNTAX,
    MAX_NUMBER,
    MSGPACK_SYNTAX,
    RANGES,
    Aside,
    Bye,
    Cancel,
    Control,
    End,
    Fail,
    Header,
    Hello,
    More,
    Part,
    Position,
    Req,
    Syntax,
    Terms,
    Void,
    Welcome,
    breach,
)

SYNTAXES = (JSON_SYNTAX, MSGPACK_SYNTAX)
TERMS = Terms((256, 4096), (1, 20), (1000, 9999), 512)

#: What no number of the protocol can be, as JSON.
NO_NUMBERS = (
    "-1",
    str(MAX_NUMBER + 1),
    str(2**63),
    str(2**64),
    "1.0",
    "1e0",
    "NaN",
    "Infinity",
    "true",
    "null",
    '"1"',
    "[]",
    "{}",
    "01",
)

#: The same for MessagePack, as values.
NO_NUMBERS_MSGPACK: tuple[object, ...] = (
    -1,
    MAX_NUMBER + 1,
    2**63,
    1.0,
    float("nan"),
    True,
    None,
    "1",
    b"1",
    [],
    {},
)

numbers = st.integers(0, MAX_NUMBER)
headers = st.builds(
    Header, *[numbers] * 6, st.lists(st.tuples(numbers, numbers), max_size=RANGES).map(list)
)


def both(function: Any) -> Any:
    return pytest.mark.parametrize("syntax", SYNTAXES, ids=["json", "msgpack"])(function)


def on_wire(syntax: Syntax, data: bytes) -> str | bytes:
    """`data` as the wire gives it: text, or binary."""
    return data if syntax.binary else data.decode()


def refusal(syntax: Syntax, data: str | bytes) -> LinkClosed:
    """The breach that `data` is as a batch."""
    with pytest.raises(LinkClosed) as caught:
        syntax.split(data)
    assert caught.value.code == 1002
    assert not caught.value.by_peer
    return caught.value


# A batch


def test_json_batch() -> None:
    """Lines of text: the header, then the frames as they are."""
    data = JSON_SYNTAX.join(
        Header(7, 3, 12, 10, 9, 845, [(4, 4), (6, 9)]), [b'{"type":"a"}', b'["void"]']
    )
    assert data == b'[7,3,12,10,9,845,[[4,4],[6,9]]]\n{"type":"a"}\n["void"]'
    header, frames = JSON_SYNTAX.split(data.decode())
    assert header == Header(7, 3, 12, 10, 9, 845, [(4, 4), (6, 9)])
    assert list(frames) == ['{"type":"a"}', '["void"]']


def test_msgpack_batch() -> None:
    """An array of byte strings: the header, then the frames as they are."""
    message = msgspec.msgpack.encode({"type": "a"})
    data = MSGPACK_SYNTAX.join(Header(7, 3, 12, 10, 9, 8, [(4, 4)]), [message, b"\x91\xa4void"])
    assert data == bytes.fromhex("93c40b9707030c0a090891920404c40881a474797065a161c40691a4766f6964")
    header, frames = MSGPACK_SYNTAX.split(data)
    assert header == Header(7, 3, 12, 10, 9, 8, [(4, 4)])
    assert list(frames) == [message, b"\x91\xa4void"]


@both
@given(headers, st.lists(st.binary(max_size=9), max_size=9))
def test_batch_there_and_back(syntax: Syntax, header: Header, blobs: list[bytes]) -> None:
    """Any header and any frames (in JSON: that are lines) arrive as they were."""
    frames = blobs if syntax.binary else [blob.hex().encode() for blob in blobs]
    found, parts = syntax.split(on_wire(syntax, syntax.join(header, frames)))
    assert found == header
    assert [part if isinstance(part, bytes) else part.encode() for part in parts] == frames


@both
def test_ack_only(syntax: Syntax) -> None:
    """A batch of a header and nothing else."""
    header = Header(1, 0, 2, 2, 2, 40, [])
    found, frames = syntax.split(on_wire(syntax, syntax.join(header, ())))
    assert found == header
    assert not frames


@both
def test_most_frames(syntax: Syntax) -> None:
    """So many frames, and not one more."""
    frame = b"\x80" if syntax.binary else b"{}"
    header = Header(1, 0, 0, 0, 0, 0, [])
    data = syntax.join(header, [frame] * BATCH_FRAMES)
    assert len(syntax.split(on_wire(syntax, data))[1]) == BATCH_FRAMES
    data = syntax.join(header, [frame] * (BATCH_FRAMES + 1))
    assert "frames" in refusal(syntax, on_wire(syntax, data)).reason


@both
def test_a_frame_spoils_no_other(syntax: Syntax) -> None:
    """What is no message is cut out of a batch all the same."""
    frames = [b"\xc1", b"", b"\x80"] if syntax.binary else [b"{", b"", b"{}"]
    data = syntax.join(Header(1, 0, 0, 0, 0, 0, []), frames)
    assert len(syntax.split(on_wire(syntax, data))[1]) == 3


@pytest.mark.parametrize(
    ("frame", "control"),
    [('["void"]', True), ("[", True), ('{"type":"a"}', False), (' ["void"]', False), ("", False)],
)
def test_is_control_json(frame: str, control: bool) -> None:
    """The first character tells."""
    assert JSON_SYNTAX.is_control(frame) is control


@pytest.mark.parametrize("first", range(256))
def test_is_control_msgpack(first: int) -> None:
    """The first byte tells: those with which arrays begin."""
    array = bytes([first]) + bytes(4)
    assert MSGPACK_SYNTAX.is_control(array) is (first >> 4 == 9 or first in (0xDC, 0xDD))
    assert not MSGPACK_SYNTAX.is_control(b"")


# Illegal headers


@pytest.mark.parametrize("field", range(6))
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_no_number_json(field: int, value: str) -> None:
    """Each number of a header is a plain integer from 0 to 2^53 - 1."""
    fields = ["1", "0", "0", "0", "0", "0", "[]"]
    JSON_SYNTAX.split(f"[{','.join(fields)}]")
    fields[field] = value
    refusal(JSON_SYNTAX, f"[{','.join(fields)}]")


@pytest.mark.parametrize("field", range(6))
@pytest.mark.parametrize("value", NO_NUMBERS_MSGPACK, ids=repr)
def test_no_number_msgpack(field: int, value: object) -> None:
    """The same in MessagePack."""
    fields: list[object] = [1, 0, 0, 0, 0, 0, []]
    fields[field] = value
    refusal(MSGPACK_SYNTAX, msgspec.msgpack.encode([msgspec.msgpack.encode(fields)]))


@pytest.mark.parametrize(
    "drops",
    [
        *(f"[[{value},9]]" for value in NO_NUMBERS),
        *(f"[[1,{value}]]" for value in NO_NUMBERS),
        "null",
        "{}",
        "[1,2]",
        "[[1]]",
        "[[1,2,3]]",
        json.dumps([[n, n] for n in range(RANGES + 1)]),
    ],
)
def test_no_ranges(drops: str) -> None:
    """Drops are pairs of numbers, and not too many."""
    JSON_SYNTAX.split(f"[1,0,0,0,0,0,{json.dumps([[n, n] for n in range(RANGES)])}]")
    refusal(JSON_SYNTAX, f"[1,0,0,0,0,0,{drops}]")


@pytest.mark.parametrize(
    "data",
    [
        "",
        "\n",
        "\n{}",
        "{}",
        '{"type":"a"}',
        '["void"]',
        '["hello","","",{"window":[1,1],"held":[0,0],"replay":[1,1],"message_bytes":1},{}]',
        "[1,0,0,0,0,0]",
        "[1,0,0,0,0,0,[],0]",
        "[1,0,0,0,0,0,[]] {}",
        "[1,0,0,0,0,0,[]",
        "[1,0,0,\n0,0,0,[]]",
        "[" * 100_000,
    ],
)
def test_no_header_json(data: str) -> None:
    """The first line is a header, or it is a breach."""
    refusal(JSON_SYNTAX, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x90",
        b"\xc0",
        b"\x80",
        b"\x97\x01\x00\x00\x00\x00\x00\x90",
        b"\x91\x97\x01\x00\x00\x00\x00\x00\x90",
        b"\x91\xa1a",
        b"\x91\xc4\x00",
        b"\x91\xc4\x01\x97",
        b"\x91\xc4\x08\x97\x01\x00\x00\x00\x00\x00\x90 ",
        b"\x92\xc4\x08\x97\x01\x00\x00\x00\x00\x00\x90",
        b"\x92\xc4\x08\x97\x01\x00\x00\x00\x00\x00\x90\xa1a",
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_no_header_msgpack(data: bytes) -> None:
    """The first byte string is a header, and all items are byte strings."""
    refusal(MSGPACK_SYNTAX, data)


@both
@given(st.binary(max_size=40))
def test_noise(syntax: Syntax, noise: bytes) -> None:
    """Whatever comes is a batch or a breach, and nothing else."""
    data = noise if syntax.binary else noise.decode("latin-1")
    readers: tuple[Callable[[str | bytes], object], ...] = (
        syntax.split,
        syntax.control,
        syntax.hello,
        syntax.welcome,
    )
    for read in readers:
        try:
            read(data)
        except LinkClosed as error:
            code = error.code
        else:
            code = 1002
        assert code == 1002


def test_wrong_kind() -> None:
    """JSON in text messages only, MessagePack in binary ones only, hello and welcome too."""
    assert "text" in refusal(JSON_SYNTAX, b"[1,0,0,0,0,0,[]]").reason
    assert "binary" in refusal(MSGPACK_SYNTAX, "[1,0,0,0,0,0,[]]").reason
    for syntax in SYNTAXES:
        hello = syntax.encode(Hello("", "", TERMS, Position()))
        wrong = hello.decode("latin-1") if syntax.binary else hello
        with pytest.raises(LinkClosed):
            syntax.hello(wrong)
        assert syntax.hello(on_wire(syntax, hello)).session == ""


# Control frames

FRAMES: tuple[tuple[Control, str], ...] = (
    (Void(), '["void"]'),
    (Aside(msgspec.Raw(b'{"type":"a"}')), '["aside",{"type":"a"}]'),
    (Bye("retry-after=3"), '["bye","retry-after=3"]'),
    (
        Req(4, 1500, (256, 4096), "00-a-b-01", msgspec.Raw(b'{"type":"a"}')),
        '["req",4,1500,[256,4096],"00-a-b-01",{"type":"a"}]',
    ),
    (
        Req(4, None, (0, 0), None, msgspec.Raw(b'{"type":"a"}')),
        '["req",4,null,[0,0],null,{"type":"a"}]',
    ),
    (Part(4, msgspec.Raw(b'{"type":"a"}')), '["part",4,{"type":"a"}]'),
    (End(4, msgspec.Raw(b'{"type":"a"}')), '["end",4,{"type":"a"}]'),
    (Fail(4, "denied", "no"), '["fail",4,"denied","no"]'),
    (Cancel(4), '["cancel",4]'),
    (More(4, (2, 40)), '["more",4,[2,40]]'),
)


@pytest.mark.parametrize(("frame", "text"), FRAMES, ids=lambda value: str(value)[:12])
def test_control_json(frame: Control, text: str) -> None:
    """An array, whose first item is its kind."""
    assert JSON_SYNTAX.encode(frame).decode() == text
    assert JSON_SYNTAX.encode(JSON_SYNTAX.control(text)).decode() == text
    assert JSON_SYNTAX.is_control(text)


@pytest.mark.parametrize("text", [text for _, text in FRAMES])
def test_control_msgpack(text: str) -> None:
    """The same values as a MessagePack array."""
    data = msgspec.msgpack.encode(json.loads(text))
    assert msgspec.msgpack.decode(MSGPACK_SYNTAX.encode(MSGPACK_SYNTAX.control(data))) == (
        json.loads(text)
    )
    assert MSGPACK_SYNTAX.is_control(data)


@pytest.mark.parametrize(
    "text", ['["void",0]', '["bye","",{"later":1}]', '["cancel",4,"why"]', '["more",4,[2,40],0]']
)
def test_control_may_have_more(text: str) -> None:
    """Items behind those that are known are for later versions."""
    JSON_SYNTAX.control(text)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[",
        "[0]",
        "[null]",
        '["Void"]',
        '["nope"]',
        '["hello","","",{},{}]',
        '["welcome","","",false,{},{}]',
        '["aside"]',
        '["aside",{]',
        '["bye"]',
        '["bye",1]',
        '["req",4,null,[0,0],null]',
        '["req",-1,null,[0,0],null,{}]',
        '["req",4,0.5,[0,0],null,{}]',
        '["req",4,null,[0],null,{}]',
        '["req",4,null,0,null,{}]',
        '["req",4,null,[0,0],7,{}]',
        '["part",4]',
        '["part","4",{}]',
        '["end",null,{}]',
        '["fail",4,"code"]',
        '["fail",4,7,""]',
        '["cancel"]',
        '["cancel",9007199254740992]',
        '["more",4,[1]]',
        '["more",4,[-1,0]]',
        '["cancel",4]]',
        '{"type":"a"}',
    ],
)
def test_no_control(text: str) -> None:
    """Anything else that begins like one is a breach."""
    with pytest.raises(LinkClosed) as caught:
        JSON_SYNTAX.control(text)
    assert (caught.value.code, caught.value.by_peer) == (1002, False)


def test_is_frame() -> None:
    """What can go in a batch as a control frame: in JSON, on one line."""
    assert JSON_SYNTAX.is_frame(b'["aside",{"type":"a"}]')
    assert not JSON_SYNTAX.is_frame(b'["aside",{"type":\n"a"}]')
    assert not JSON_SYNTAX.is_frame(b'["aside",')
    assert not JSON_SYNTAX.is_frame(b"\xff")
    assert MSGPACK_SYNTAX.is_frame(MSGPACK_SYNTAX.encode(Aside(msgspec.Raw(b"\xa1\n"))))
    assert not MSGPACK_SYNTAX.is_frame(b"\x92\xa5aside")


# The first words


@both
def test_hello_and_welcome(syntax: Syntax) -> None:
    """They arrive as they were said."""
    position = Position(3, 9, 8, 7, 140, [(2, 3)])
    hello = Hello("id", "token", TERMS, position)
    assert syntax.hello(on_wire(syntax, syntax.encode(hello))) == hello
    welcome = Welcome("id", "token", True, TERMS, position)
    assert syntax.welcome(on_wire(syntax, syntax.encode(welcome))) == welcome


HELLO = (
    '["hello","","",{"window":[8,99],"held":[0,0],"replay":[8,99],"message_bytes":64},'
    '{"settled":0,"received":0,"consumed":0,"messages":0,"bytes":0,"drops":[]}]'
)


def test_hello_defaults() -> None:
    """An empty position is that of the beginning; terms and arrays may have more."""
    hello = JSON_SYNTAX.hello(HELLO)
    assert hello == Hello("", "", Terms((8, 99), (0, 0), (8, 99), 64), Position())
    at = HELLO.index('{"settled"')
    assert JSON_SYNTAX.hello(HELLO[:at] + "{}]") == hello
    assert JSON_SYNTAX.hello(HELLO[:at] + "{},0]") == hello
    assert JSON_SYNTAX.hello(HELLO.replace(":64}", ':64,"later":1}')) == hello


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ('"hello"', '"welcome"'),
        ('"hello"', '"void"'),
        ('"","",', '"",'),
        ('"","",', 'null,"",'),
        ('"window":[8,99],', ""),
        ("[8,99]", "[0,99]"),
        ("[8,99]", "[8,0]"),
        ("[8,99]", "[8]"),
        ("[8,99]", "[8,1.5]"),
        ("[8,99]", "8"),
        ('"held":[0,0]', '"held":[-1,0]'),
        ('"held":[0,0],', ""),
        ('"replay":[8,99]', '"replay":[0,99]'),
        ('"replay":[8,99],', ""),
        ('"message_bytes":64', '"message_bytes":0'),
        ('"message_bytes":64', '"message_bytes":9007199254740992'),
        (',"message_bytes":64', ""),
        ('"drops":[]', '"drops":[1]'),
        ('"drops":[]', '"drops":[],"later":1'),
        ('"settled":0', '"settled":true'),
        ('"received":0', '"received":-1'),
        ('"consumed":0', '"consumed":"0"'),
        ("}]", "}"),
        ("}]", "}]\n"),
        ("}]", "}]\n[1,0,0,0,0,0,[]]"),
    ],
)
def test_no_hello(part: str, wrong: str) -> None:
    """What is no hello is a breach. (A line end behind it is JSON's white space.)"""
    assert part in HELLO
    text = HELLO.replace(part, wrong, 1) if part != "}]" else HELLO.removesuffix(part) + wrong
    if text.strip() == HELLO:
        JSON_SYNTAX.hello(text)
        return
    with pytest.raises(LinkClosed) as caught:
        JSON_SYNTAX.hello(text)
    assert (caught.value.code, caught.value.by_peer) == (1002, False)


def test_breach_has_a_short_reason() -> None:
    """It may quote the peer; the wire cuts it to what a close frame can hold."""
    assert len(breach("x" * 500).reason) == 123
    with pytest.raises(LinkClosed) as caught:
        JSON_SYNTAX.control(json.dumps(["é" * 200], ensure_ascii=False))
    assert len(caught.value.reason.encode()) <= 123

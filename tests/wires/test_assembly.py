"""trio_rt.wires._assembly"""

from __future__ import annotations

import math
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Side

from trio_rt.wires._assembly import PONGS_PER_READ, Assembly

from .support import BINARY, CLOSE, CONT, PING, PONG, TEXT, deflate, frame, protocol

SIDES = [CLIENT, SERVER]


def assembly(
    side: Side = CLIENT, *, limit: float = 1000, fragments: float = 10, compressed: bool = False
) -> Assembly:
    made = protocol(
        side,
        limit=None if math.isinf(limit) else int(limit),
        extensions=[deflate()] if compressed else [],
    )
    return Assembly(made, max_message_bytes=limit, fragments=fragments)


def ended(made: Assembly) -> tuple[int, bool]:
    """The close code, and whether it was the peer's."""
    assert made.ended is not None
    return made.ended.code, made.ended.by_peer


# -- messages ---------------------------------------------------------------


def mixed(side: Side) -> tuple[bytes, list[str | bytes]]:
    """A stream of everything allowed, and its messages."""
    data = [
        frame(TEXT, "grüße".encode(), to=side),
        frame(PING, b"one", to=side),
        frame(BINARY, b"\xff" * 200, to=side),
        frame(TEXT, "ü".encode()[:1], fin=False, to=side),
        frame(PONG, to=side),
        frame(CONT, b"", fin=False, to=side),
        frame(PING, b"two", to=side),
        frame(CONT, "ü".encode()[1:], to=side),
        frame(TEXT, b"", to=side),
        frame(BINARY, b"a", fin=False, to=side),
        frame(CONT, b"b" * 300, to=side),
        frame(TEXT, b"x" * 900, to=side),
    ]
    messages: list[str | bytes] = ["grüße", b"\xff" * 200, "ü", "", b"a" + b"b" * 300, "x" * 900]
    return b"".join(data), messages


@pytest.mark.parametrize("side", SIDES)
@given(cuts=st.lists(st.integers(1, 200), max_size=40))
def test_any_cut_of_the_bytes_gives_the_same_messages(side: Side, cuts: list[int]) -> None:
    """Frames, headers and characters may be torn anywhere."""
    data, messages = mixed(side)
    made = assembly(side)
    got: list[str | bytes] = []
    at = 0
    for size in [*cuts, len(data)]:
        got += made.feed(data[at : at + size])
        at += size
    assert got == messages
    assert list(made.pings) == [b"one", b"two"]
    assert (made.pongs, made.ended, made.missing) == (1, None, 0)


@pytest.mark.parametrize("side", SIDES)
def test_single_bytes_give_the_same_messages(side: Side) -> None:
    """The finest cut."""
    data, messages = mixed(side)
    made = assembly(side)
    assert [m for byte in data for m in made.feed(bytes([byte]))] == messages


@pytest.mark.parametrize("side", SIDES)
def test_a_message_of_exactly_the_limit_is_taken(side: Side) -> None:
    """Whole, and in fragments."""
    made = assembly(side)
    assert made.feed(frame(TEXT, b"x" * 1000, to=side)) == ["x" * 1000]
    parts = frame(BINARY, b"x" * 500, fin=False, to=side) + frame(CONT, b"x" * 500, to=side)
    assert made.feed(parts) == [b"x" * 1000]
    assert made.ended is None


def test_missing_tells_how_much_of_a_frame_is_to_come() -> None:
    """0 between frames."""
    made = assembly(limit=100_000)
    data = frame(BINARY, b"x" * 80_000)
    assert made.missing == 0
    made.feed(data[:30_000])
    assert made.missing == len(data) - 30_000
    assert made.feed(data[30_000:]) == [b"x" * 80_000]
    assert made.missing == 0


def test_a_long_frame_in_many_reads_costs_its_size_and_not_its_square() -> None:
    """Appending is linear: memory never holds more than a few copies."""
    size = 8 << 20
    data = frame(BINARY, bytes(size))
    made = assembly(limit=math.inf)
    tracemalloc.start()
    try:
        for at in range(0, len(data), 4096):
            got = made.feed(data[at : at + 4096])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert got == [bytes(size)]
    assert peak < 4 * size


# -- limits -----------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [1001, 70_000, 2**40, 2**63 - 1])
def test_an_oversize_frame_fails_at_its_header(side: Side, size: int) -> None:
    """1009 before a byte of payload is there; what came before is delivered."""
    made = assembly(side)
    bit = 0x80 if side is SERVER else 0
    length = bytes([bit | 127]) + size.to_bytes(8, "big") + bytes(4 if bit else 0)
    got = made.feed(frame(TEXT, b"good", to=side) + b"\x82" + length)
    assert got == ["good"]
    assert ended(made) == (1009, False)
    assert made.missing == 0


def test_fragments_together_are_bound_by_the_limit() -> None:
    """The frame that would pass it fails at its header."""
    made = assembly()
    made.feed(frame(TEXT, b"x" * 600, fin=False))
    assert made.ended is None
    made.feed(frame(CONT, b"x" * 401)[:4])
    assert ended(made) == (1009, False)


def test_a_message_has_a_limited_number_of_fragments() -> None:
    """As many as allowed are taken; one more is 1009."""
    made = assembly(fragments=3)
    part = frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False)
    assert made.feed(part + frame(CONT, b"c")) == ["abc"]
    assert made.feed(part + frame(CONT, b"c", fin=False)) == []
    assert made.ended is None
    made.feed(frame(CONT, b"d"))
    assert ended(made) == (1009, False)


def test_without_a_limit_on_fragments_their_number_costs_no_memory() -> None:
    """Tiny pieces are joined on the way."""
    made = assembly(limit=math.inf, fragments=math.inf)
    tracemalloc.start()
    try:
        made.feed(frame(BINARY, b"a", fin=False))
        for _ in range(40):
            made.feed(frame(CONT, b"bc", fin=False) * 500)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.feed(frame(CONT)) == [b"a" + b"bc" * 20_000]
    assert size < 200_000


def test_a_million_empty_fragments_are_cut_at_the_limit() -> None:
    """Nothing behind the cut is looked at, so it costs and holds nothing."""
    made = assembly(SERVER, fragments=4096)
    empty = frame(CONT, fin=False, to=SERVER)
    made.feed(frame(TEXT, fin=False, to=SERVER) + empty * 4095)
    assert made.ended is None
    made.feed(empty * 1_000_000)
    assert ended(made) == (1009, False)
    made.feed(frame(PING, b"late", to=SERVER))
    assert not made.pings


def test_of_many_pings_the_last_few_are_answered() -> None:
    """Pings that were not answered yet take bounded memory."""
    made = assembly()
    made.feed(b"".join(frame(PING, b"%d" % number) for number in range(100_000)))
    expected = [b"%d" % number for number in range(100_000 - PONGS_PER_READ, 100_000)]
    assert list(made.pings) == expected


# -- text -------------------------------------------------------------------

BAD_TEXTS = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("bad", BAD_TEXTS)
def test_invalid_utf8_fails_the_link(side: Side, bad: bytes) -> None:
    """1007, after the messages before it; the same bytes are fine in a binary message."""
    made = assembly(side)
    assert made.feed(frame(BINARY, bad, to=side)) == [bad]
    got = made.feed(frame(TEXT, b"good", to=side) + frame(TEXT, bad, to=side))
    assert got == ["good"]
    assert ended(made) == (1007, False)


@pytest.mark.parametrize("bad", BAD_TEXTS)
def test_invalid_utf8_in_fragments_fails_the_link(bad: bytes) -> None:
    """However it is spread."""
    made = assembly()
    made.feed(frame(TEXT, b"good" + bad[:1], fin=False) + frame(CONT, bad[1:]))
    assert ended(made) == (1007, False)


# -- breaches ---------------------------------------------------------------

START = frame(TEXT, b"a", fin=False)
BREACHES = {
    "opcode 3": b"\x83\x00",
    "opcode 11": b"\x8b\x00",
    "rsv1 without an extension": b"\xc1\x00",
    "rsv2": b"\xa1\x00",
    "rsv3": b"\x91\x00",
    "rsv1 on a ping": b"\xc9\x00",
    "masked by a server": b"\x81\x80\x00\x00\x00\x00",
    "long ping": b"\x89\x7e\x00\x7e",
    "long pong": b"\x8a\x7f" + bytes(7) + b"\xff",
    "ping in fragments": b"\x09\x00",
    "close in fragments": b"\x08\x00",
    "continuation of nothing": frame(CONT, b"a"),
    "text in a fragmented message": START + frame(TEXT, b"b"),
    "close of one byte": frame(CLOSE, b"\x03"),
    "close with 999": frame(CLOSE, b"\x03\xe7"),
    "close with 1005": frame(CLOSE, b"\x03\xed"),
    "close with 1006": frame(CLOSE, b"\x03\xee"),
    "close with 5000": frame(CLOSE, b"\x13\x88"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_fails_the_link(name: str, compressed: bool) -> None:
    """1002, found here, as soon as the header shows it; nothing behind it counts."""
    made = assembly(compressed=compressed)
    if name == "rsv1 without an extension" and compressed:
        return
    assert made.feed(BREACHES[name] + frame(TEXT, b"late")) == []
    assert ended(made) == (1002, False)


def test_an_unmasked_frame_to_a_server_fails_the_link() -> None:
    """RFC 6455, 5.1."""
    made = assembly(SERVER)
    assert made.feed(frame(TEXT, b"x", to=CLIENT)) == []
    assert ended(made) == (1002, False)


def test_a_length_that_cannot_be_is_a_breach_even_without_a_limit() -> None:
    """The highest bit of a 64-bit length must be 0."""
    made = assembly(limit=math.inf)
    made.feed(b"\x82\x7f\x80" + bytes(7))
    assert ended(made) == (1002, False)


@given(data=st.binary(max_size=200), side=st.sampled_from(SIDES), compressed=st.booleans())
def test_no_bytes_whatever_raise(data: bytes, side: Side, compressed: bool) -> None:
    """Garbage gives messages, an end, or patience."""
    made = assembly(side, compressed=compressed)
    made.feed(data)
    assert made.ended is None or made.ended.code in range(1000, 5000)


# -- closing ----------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_a_close_ends_the_link_with_its_code_and_reason(side: Side) -> None:
    """Messages before it are delivered, bytes behind it discarded."""
    made = assembly(side)
    data = frame(TEXT, b"good", to=side) + frame(CLOSE, b"\x0f\xa1bye", to=side)
    assert made.feed(data + frame(TEXT, b"late", to=side)) == ["good"]
    assert ended(made) == (4001, True)
    assert made.ended is not None
    assert made.ended.reason == "bye"
    assert made.feed(frame(TEXT, b"later", to=side)) == []


def test_a_close_without_a_code_is_1005() -> None:
    """RFC 6455, 7.1.5."""
    made = assembly()
    made.feed(frame(CLOSE))
    assert ended(made) == (1005, True)


def test_a_close_reason_must_be_text() -> None:
    """Otherwise 1007, found here."""
    made = assembly()
    made.feed(frame(CLOSE, b"\x03\xe8\xff"))
    assert ended(made) == (1007, False)


def test_a_close_may_interrupt_a_fragmented_message() -> None:
    """It is a control frame (Autobahn 7.1.5)."""
    made = assembly()
    assert made.feed(START + frame(CLOSE, b"\x03\xe8")) == []
    assert ended(made) == (1000, True)


# -- compression ------------------------------------------------------------


def deflated(side: Side, data: bytes, *, parts: int = 1) -> bytes:
    """A compressed text message, in so many frames."""
    extension = deflate()
    step = max(1, -(-len(data) // parts))
    chunks = [data[at : at + step] for at in range(0, len(data), step)] or [b""]
    made = b""
    for number, chunk in enumerate(chunks):
        opcode, fin = (CONT if number else TEXT), number == len(chunks) - 1
        coded = extension.encode(Frame(opcode, chunk, fin))
        made += frame(opcode, bytes(coded.data), fin=fin, to=side, rsv1=coded.rsv1)
    return made


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("size", [0, 1, 500, 1000])
def test_a_compressed_message_is_inflated(side: Side, parts: int, size: int) -> None:
    """In one frame or several, up to the very limit."""
    text = random.Random(size).randbytes(size).hex()[:size]
    made = assembly(side, limit=1000, compressed=True)
    assert made.feed(deflated(side, text.encode(), parts=parts)) == [text]
    assert made.ended is None


def test_a_message_of_the_limit_may_be_larger_compressed() -> None:
    """Noise grows by a little when it is compressed; that little is allowed for."""
    made = assembly(limit=1000, compressed=True)
    (data,) = packed(random.Random(1).randbytes(1000))
    assert len(data) > 1000
    got = made.feed(frame(BINARY, data[:-4], rsv1=True))
    assert [len(message) for message in got] == [1000]


def test_uncompressed_messages_are_fine_where_compression_was_agreed() -> None:
    """The peer chooses for each message; control frames never are compressed."""
    made = assembly(compressed=True)
    data = frame(TEXT, b"plain") + frame(PING, b"p") + deflated(CLIENT, b"packed")
    fragments = frame(BINARY, b"a", fin=False) + frame(CONT, b"b")
    assert made.feed(data + fragments) == ["plain", "packed", b"ab"]
    assert list(made.pings) == [b"p"]


def packed(*pieces: bytes) -> list[bytes]:
    packer = zlib.compressobj(wbits=-15)
    return [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]


@pytest.mark.parametrize("used", [0, 999, 1000])
def test_a_deflate_bomb_costs_no_more_than_the_limit(used: int) -> None:
    """1009, also where an earlier fragment has used up the limit (0 is no limit to zlib)."""
    opening, bomb = packed(b"x" * used, bytes(900_000))
    assert len(bomb) < 1000
    made = assembly(limit=1000, compressed=True)
    made.feed(frame(TEXT, opening, fin=False, rsv1=True))
    assert made.ended is None
    data = frame(CONT, bomb, fin=False)
    tracemalloc.start()
    try:
        made.feed(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ended(made) == (1009, False)
    assert peak < 100_000


def test_broken_deflate_data_fails_the_link() -> None:
    """1002."""
    made = assembly(compressed=True)
    made.feed(frame(TEXT, b"\xff\xff\xff\xff", rsv1=True))
    assert ended(made) == (1002, False)


def test_a_continuation_may_not_have_rsv1() -> None:
    """RFC 7692, 6.1: only the first frame says that the message is compressed."""
    made = assembly(compressed=True)
    made.feed(frame(TEXT, b"", fin=False, rsv1=True) + frame(Opcode.CONT, b"", rsv1=True))
    assert ended(made) == (1002, False)

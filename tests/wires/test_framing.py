"""trio_rt.wires._framing"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from websockets.protocol import CLIENT, SERVER, Side
from websockets.utils import apply_mask as python_apply_mask

from trio_rt._ambient import Ambient, replace_ambient
from trio_rt.wires._framing import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Header,
    apply_mask,
    encode_control,
    encode_frame,
    encode_messages,
    read_header,
    take_masked,
    take_unmasked,
)

from . import support
from .support import Sent, frame, parse

SIZES = [0, 1, 2, 3, 4, 5, 125, 126, 127, 1000, 65_535, 65_536, 70_000]


@pytest.mark.parametrize("masked", [True, False])
def test_messages_of_all_sizes_are_framed_as_the_rfc_says(masked: bool) -> None:
    """Another implementation reads them as they were."""
    batch = [Sent(b"x" * size, binary) for size in SIZES for binary in (False, True)]
    frames = parse(b"".join(encode_messages(batch, masked=masked)), masked=masked)
    assert [(bytes(f.data), f.opcode, f.fin, f.rsv1) for f in frames] == [
        (message.data, BINARY if message.binary else TEXT, True, False) for message in batch
    ]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_single_frame_has_its_bits(masked: bool, size: int) -> None:
    """Opcode, FIN and RSV1 are as asked, for bytes and memoryviews."""
    data = bytes(range(256)) * (size // 256 + 1)
    payload = memoryview(data)[:size]
    (whole,) = parse(encode_frame(CONTINUATION, payload, masked=masked), masked=masked)
    assert (whole.opcode, whole.fin, bytes(whole.data)) == (CONTINUATION, True, data[:size])
    (part,) = parse(encode_frame(BINARY, data[:size], masked=masked, fin=False), masked=masked)
    assert (part.opcode, part.fin) == (BINARY, False)
    deflated = encode_frame(TEXT, payload, masked=masked, rsv1=True)
    assert deflated[0] == 0x80 | 0x40 | TEXT


def test_control_frames_are_joined() -> None:
    """One for each payload, in order."""
    frames = parse(encode_control(PING, [b"a", b"bc"], masked=True), masked=True)
    assert [(f.opcode, bytes(f.data)) for f in frames] == [(PING, b"a"), (PING, b"bc")]


class Recorder(random.Random):
    """A source of randomness that tells how often it was asked."""

    asked: list[int]

    def randbytes(self, n: int) -> bytes:
        self.asked.append(n)
        return bytes(range(1, n + 1))


def test_the_masks_of_a_batch_are_one_draw_and_differ() -> None:
    """Randomness comes from the ambient source; a server draws none."""
    ambient = Ambient()
    ambient.random = recorder = Recorder()
    recorder.asked = []
    old = replace_ambient(ambient)
    try:
        masked = encode_messages([Sent(b"\0\0\0\0"), Sent(b"\0\0\0\0")], masked=True)
        encode_messages([Sent(b"x")], masked=False)
        encode_frame(TEXT, b"x", masked=False)
    finally:
        replace_ambient(old)
    assert recorder.asked == [8]
    assert [made[2:] for made in masked] == [
        b"\1\2\3\4\1\2\3\4",
        b"\5\6\7\x08\5\6\7\x08",
    ]


@pytest.mark.parametrize("size", SIZES)
def test_masking_in_c_is_masking_in_python(size: int) -> None:
    """Both are their own inverse and agree, so either may be installed."""
    data = random.Random(size).randbytes(size)
    assert apply_mask(data, b"\1\x80\0\xff") == python_apply_mask(data, b"\1\x80\0\xff")
    assert apply_mask(apply_mask(data, b"abcd"), b"abcd") == data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_a_header_is_read_once_it_is_whole(side: Side, size: int) -> None:
    """Any shorter beginning tells how many bytes are needed."""
    data = b"junk" + frame(support.BINARY, b"x" * size, fin=False, to=side)
    header = read_header(data, 4)
    assert isinstance(header, Header)
    assert (header.fin, header.rsv, header.opcode, header.size) == (False, 0, BINARY, size)
    assert header.stop == len(data)
    assert (header.mask is None) == (side is CLIENT)
    for cut in range(4, header.start):
        needed = read_header(data[:cut], 4)
        assert isinstance(needed, int)
        assert cut - 4 < needed <= header.start - 4


LANES = [(take_unmasked, CLIENT), (take_masked, SERVER)]


@pytest.mark.parametrize(("lane", "side"), LANES)
def test_the_fast_lane_takes_whole_messages(lane: support.Lane, side: Side) -> None:
    """Of all sizes, text and binary, from any position up to a part of one."""
    payloads = [b"x" * size for size in SIZES]
    data = b"junk" + b"".join(
        frame(opcode, payload, to=side)
        for payload in payloads
        for opcode in (support.TEXT, support.BINARY)
    )
    messages: list[str | bytes] = []
    stopped = lane(data + frame(support.TEXT, b"part", to=side)[:-1], 4, math.inf, messages)
    assert stopped == len(data)
    assert messages == [kind for payload in payloads for kind in (payload.decode(), payload)]


OTHERS: dict[str, Callable[[Side], bytes]] = {
    "ping": lambda side: frame(support.PING, b"x", to=side),
    "close": lambda side: frame(support.CLOSE, b"\x03\xe8", to=side),
    "fragment": lambda side: frame(support.TEXT, b"x", fin=False, to=side),
    "continuation": lambda side: frame(support.CONT, b"x", to=side),
    "compressed": lambda side: frame(support.TEXT, b"x", rsv1=True, to=side),
    "bad text": lambda side: frame(support.TEXT, b"\xff", to=side),
    "surrogate": lambda side: frame(support.TEXT, b"\xed\xa0\x80", to=side),
    "too long": lambda side: frame(support.TEXT, b"x" * 11, to=side),
    "wrong mask": lambda side: frame(support.TEXT, b"x", to=CLIENT if side is SERVER else SERVER),
    "16-bit header cut": lambda side: frame(support.TEXT, b"x" * 200, to=side)[:3],
    "64-bit header cut": lambda side: frame(support.TEXT, b"x" * 70_000, to=side)[:6],
    "cut after a byte": lambda side: b"\x81",
}


@pytest.mark.parametrize(("lane", "side"), LANES)
@pytest.mark.parametrize("other", OTHERS)
def test_the_fast_lane_stops_at_everything_else(lane: support.Lane, side: Side, other: str) -> None:
    """It takes nothing of what it does not know, and nothing behind it."""
    known = frame(support.TEXT, b"good", to=side)
    messages: list[str | bytes] = []
    data = known + OTHERS[other](side) + (known if "cut" not in other else b"")
    assert lane(data, 0, 10, messages) == len(known)
    assert messages == ["good"]

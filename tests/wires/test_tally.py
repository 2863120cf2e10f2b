"""trio_rt.wires._tally"""

from __future__ import annotations

import math
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from trio_rt.wires._tally import Tally

from .support import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame

#: What a frame begins, and how it counts: messages, pongs, questions.
ANYTHING: Final = [
    *(frame(opcode, b"x" * size) for opcode in (TEXT, BINARY) for size in (0, 1, 125, 126, 70_000)),
    frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) + frame(PING) + frame(CONT, b"c"),
    frame(PING, b"?"),
    frame(PONG, b"!"),
    frame(CLOSE, b"\x03\xe8"),
]
COUNTS: Final = [*((1, 0, 0) for _ in range(10)), (1, 0, 1), (0, 0, 1), (0, 1, 0), (0, 0, 1)]


@given(
    st.lists(st.integers(0, len(ANYTHING) - 1), max_size=8),
    st.lists(st.integers(1, 300), min_size=1, max_size=5),
)
def test_counts(kinds: list[int], sizes: list[int]) -> None:
    """In any pieces: whole messages, pongs, pings and closes; and all of it is passed on."""
    tally = Tally(max_message_bytes=math.inf, fragments=math.inf)
    data = b"".join(ANYTHING[kind] for kind in kinds)
    passed, at, turn = b"", 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)] * (1 if turn < 100 else 1000)
        passed += tally.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert passed == data
    counted = (tally.messages, tally.pongs, tally.questions)
    assert counted == tuple(sum(COUNTS[kind][i] for kind in kinds) for i in range(3))
    assert tally.breach is None


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_garbage(pieces: list[bytes]) -> None:
    """Any bytes are passed on, up to what breaks a limit, and nothing raises."""
    tally = Tally(max_message_bytes=1000, fragments=3)
    data = b"".join(pieces)
    passed = b"".join(tally.feed(piece) for piece in pieces)
    assert passed == data if tally.breach is None else len(passed) < len(data)


def test_a_message_over_the_limit_is_stopped_at_its_header() -> None:
    """What is before the frame is passed on, and of the frame nothing in this read."""
    good = frame(TEXT, b"x" * 10)
    for bad in (frame(TEXT, b"x" * 11), b"\x82\x7e\x00\x0b", b"\x82\x7f" + b"\x7f" * 8):
        tally = Tally(max_message_bytes=10, fragments=3)
        assert tally.feed(good + bad) == good
        assert (tally.messages, tally.breach) == (1, (1009, "message of more than 10 bytes"))
    tally = Tally(max_message_bytes=10, fragments=3)
    begun = frame(TEXT, b"x" * 6, fin=False)
    assert tally.feed(begun + b"\x80") == begun + b"\x80"
    assert tally.feed(b"\x05") == b""
    assert tally.breach == (1009, "message of more than 10 bytes")


def test_fragments_over_the_limit() -> None:
    """A frame too many is stopped, be it empty; a new message is counted anew."""
    tally = Tally(max_message_bytes=math.inf, fragments=2)
    message = frame(TEXT, fin=False) + frame(CONT)
    assert tally.feed(message + message) == message + message
    begun = frame(TEXT, fin=False) + frame(CONT, fin=False)
    assert tally.feed(begun + frame(CONT)) == begun
    assert (tally.messages, tally.breach) == (2, (1009, "message of more than 2 fragments"))

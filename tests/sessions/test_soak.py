"""A small soak, over real sockets; and what a soak has to notice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import get_args

import attrs
import pytest

from trio_rt import Gap, Message, Reset, Statistics
from trio_rt.message import ACKED, INDETERMINATE
from trio_rt.options import WireName

from ..benchmarks.frames import BINARY, frame
from .plans import CodecName
from .soak import LANES, Frames, Side, Soak, numbers, payload, run

MESSAGES = 12
#: One lane behind the other.
ALL = [
    Message("soak", payload(number), priority=lane)
    for lane in LANES
    for number in numbers(MESSAGES, lane)
]
BOOKS = Statistics(
    accepted=MESSAGES,
    outcomes={ACKED: MESSAGES},
    queued={},
    queued_bytes=0,
    in_flight=0,
    waiting=0,
    received=MESSAGES,
    discarded=0,
    malformed=0,
    lost=0,
    latency_s=None,
)


@pytest.mark.parametrize("wire", get_args(WireName))
@pytest.mark.parametrize("codec", get_args(CodecName))
async def test_all_arrives_once_and_in_order_over_cut_links(
    codec: CodecName, wire: WireName
) -> None:
    """P1 and P2 over TCP: resets and ends, half of them in mid-frame, and each link resumes."""
    report = await run(Soak(messages=10_000, cuts=12, codec=codec, wire=wire, timeout_s=30.0))
    assert report.wrong == []
    assert report.cuts == report.resumed == 12
    assert report.in_mid_frame >= 6


def _judged(items: Sequence[object], books: Statistics | None = BOOKS) -> list[str]:
    wrong: list[str] = []
    side = Side("client", MESSAGES, wrong)
    for item in items:
        side.take(item)
    side.books = books
    side.check()
    return wrong


def test_what_is_as_it_should_be_is_not_wrong() -> None:
    """In any order of the lanes."""
    assert _judged(ALL) == []
    assert _judged(list(chain(ALL[6:], ALL[:6]))) == []


@pytest.mark.parametrize(
    "items",
    [
        ALL[:-1],
        ALL[1:],
        [*ALL, ALL[-1]],
        [ALL[0], *ALL],
        [ALL[1], ALL[0], *ALL[2:]],
        [*ALL[:5], Gap(1), *ALL[5:]],
        [*ALL[:5], Reset(), *ALL[5:]],
        [Message("soak", [payload(4)[0], "y"], priority=ALL[0].priority), *ALL[1:]],
    ],
    ids=["last", "first", "twice", "first twice", "order", "gap", "reset", "content"],
)
def test_what_arrives_otherwise_is_wrong(items: Sequence[object]) -> None:
    """Lost, doubled, overtaken, or damaged."""
    assert _judged(items) != []


@pytest.mark.parametrize(
    "books",
    [
        None,
        attrs.evolve(BOOKS, outcomes={ACKED: MESSAGES - 1}),
        attrs.evolve(BOOKS, outcomes={ACKED: MESSAGES - 1}, in_flight=1),
        attrs.evolve(BOOKS, outcomes={ACKED: MESSAGES - 1, INDETERMINATE: 1}),
        attrs.evolve(BOOKS, accepted=MESSAGES + 1),
        attrs.evolve(BOOKS, malformed=1),
        attrs.evolve(BOOKS, discarded=1),
        attrs.evolve(BOOKS, lost=1),
    ],
)
def test_books_that_say_otherwise_are_wrong(books: Statistics | None) -> None:
    """Sums, outcomes, and what no stream got."""
    assert _judged(ALL, books) != []


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_frame_that_has_not_ended_is_seen(size: int, masked: bool, step: int) -> None:
    """Wherever it is cut, however it was read; the opening handshake is none."""
    head, whole = b"HTTP/1.1 101\r\n\r\n", frame(bytes(size), BINARY, masked=masked)
    data = head + whole + whole
    frames = Frames()
    for start in range(0, len(data), step):
        frames.feed(data[start : start + step])
        behind = min(start + step, len(data)) - len(head)
        assert frames.amid is (behind > 0 and behind % len(whole) > 0)

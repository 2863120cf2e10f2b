"""The fixed server's frame counter: the figures stand on it."""

from __future__ import annotations

import random

import pytest

from .frames import ASK_BYTES, BINARY, CLOSE, TEXT, FrameCounter, FrameReader, frame

PING = 9


def _stream(seed: int) -> tuple[bytes, list[bytes]]:
    """Frames of changing sizes, in runs and alone, with pings between; and the messages."""
    chance = random.Random(seed)
    parts, messages = [], []
    for _ in range(100):
        payload = bytes(chance.choice((0, 1, 125, 126, 128, 130, 200)))
        masked = chance.random() < 0.9
        for _ in range(chance.choice((1, 1, 3, 300))):
            parts.append(frame(payload, BINARY, masked=masked))
            messages.append(payload)
        if chance.random() < 0.2:
            parts.append(frame(b"", PING, masked=True))
    return b"".join(parts), messages


def _cut(data: bytes, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    pieces, pos = [], 0
    while pos < len(data):
        size = chance.choice((1, 2, 3, 7, 100, 5000, 100_000))
        pieces.append(data[pos : pos + size])
        pos += size
    return pieces


@pytest.mark.parametrize("seed", range(20))
def test_counts_every_message_however_the_stream_is_cut(seed: int) -> None:
    """Messages and their bytes are counted exactly; pings are not."""
    data, messages = _stream(seed)
    counter = FrameCounter()
    for piece in _cut(data, seed):
        counter.feed(piece)
    assert counter.messages == len(messages)
    assert counter.payload_bytes == sum(map(len, messages))
    assert counter.total_bytes == len(data)


@pytest.mark.parametrize("seed", range(5))
def test_reader_gives_back_what_was_framed(seed: int) -> None:
    """Every payload comes out whole and unmasked."""
    data, messages = _stream(seed)
    reader = FrameReader()
    found = [item for piece in _cut(data, seed) for item in reader.feed(piece)]
    assert [payload for opcode, payload in found if opcode == BINARY] == messages


def test_a_mask_is_taken_off() -> None:
    """The payload of a masked frame is what went in, also where the size is no multiple of four."""
    assert list(FrameReader().feed(frame(b"hello", TEXT, masked=True))) == [(TEXT, b"hello")]


def test_fragments_are_one_message() -> None:
    """Only the final fragment counts."""
    first, last = bytearray(frame(b"ab", TEXT)), bytearray(frame(b"cd", TEXT))
    first[0], last[0] = TEXT, 0x80
    counter = FrameCounter()
    counter.feed(bytes(first + last))
    assert (counter.messages, counter.payload_bytes) == (1, 4)


def test_a_message_that_asks_is_not_counted() -> None:
    """The question for the count is no part of it."""
    counter = FrameCounter()
    counter.feed(frame(b"ab", TEXT) + frame(bytes(ASK_BYTES), TEXT, masked=True))
    assert (counter.messages, counter.asked) == (1, True)


def test_a_close_is_seen() -> None:
    """The counter tells that the client closes."""
    counter = FrameCounter()
    counter.feed(frame((1000).to_bytes(2), CLOSE, masked=True))
    assert counter.closed

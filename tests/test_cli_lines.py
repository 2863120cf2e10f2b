from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio

from trio_rt.cli._lines import Lines, LineTooLong
from trio_rt.cli._text import printable

CAP_S = 10


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end, the latter to be closed by the test."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


async def test_lines(pipe: tuple[int, int]) -> None:
    """Lines come without their ends, whatever the end; the last may have none."""
    reading, writing = pipe
    os.write(writing, b"one\ntwo\r\n\nlast")
    os.close(writing)
    with trio.fail_after(CAP_S):
        assert [line async for line in Lines(reading, 100)] == [b"one", b"two", b"", b"last"]


async def test_parts_of_lines(pipe: tuple[int, int]) -> None:
    """A line may come in parts; a cancelled wait loses none of them."""
    reading, writing = pipe
    lines = Lines(reading, 100)
    os.write(writing, b"a")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lines.__anext__)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    os.write(writing, b"b\nc")
    with trio.fail_after(CAP_S):
        assert await lines.__anext__() == b"ab"
        os.close(writing)
        assert await lines.__anext__() == b"c"


async def test_descriptor_stays_blocking(pipe: tuple[int, int]) -> None:
    """The descriptor, which others share, is not made non-blocking."""
    reading, writing = pipe
    os.write(writing, b"one\n")
    with trio.fail_after(CAP_S):
        await Lines(reading, 100).__anext__()
    assert os.get_blocking(reading)
    os.close(writing)


async def test_long_line(pipe: tuple[int, int]) -> None:
    """A line beyond the limit raises; one at the limit is a line."""
    reading, writing = pipe
    os.write(writing, b"x" * 100 + b"\n" + b"y" * 101)
    lines = Lines(reading, 100)
    with trio.fail_after(CAP_S):
        assert await lines.__anext__() == b"x" * 100
        with pytest.raises(LineTooLong, match="100 bytes"):
            await lines.__anext__()
    os.close(writing)


async def test_closed_descriptor() -> None:
    """A descriptor that is not open has no lines."""
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with trio.fail_after(CAP_S):
        assert [line async for line in Lines(reading, 100)] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 😀", "plain é 😀"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b2J", "\\x9b2J"),
        ("a\nb\rc\td\x00\x7f", "a\\nb\\rc\\td\\x00\\x7f"),
        ("\u202e\u2028\ud800", "\\u202e\\u2028\\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """What is no printable character comes out escaped, everything else as it is."""
    assert printable(text) == shown

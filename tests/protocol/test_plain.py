"""The un-numbered link: what was handed over, and what the kernel took of it."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytest

from trio_rt.message import INDETERMINATE, WRITTEN, Outcome
from trio_rt.protocol.lanes import BATCH_BYTES, Entry
from trio_rt.protocol.plain import Arrival, Heartbeat, PlainLink, size_bytes


class Send(Entry):
    """An entry that cannot be settled twice."""

    def settle(self, outcome: Outcome) -> None:
        assert self.outcome is None, "settled twice"
        super().settle(outcome)


class Link:
    """A `PlainLink`, and what it counted."""

    def __init__(self, written: int = 0) -> None:
        self.counted = 0
        self.lost: list[Entry] = []
        self.plain = PlainLink(self)
        self.plain.link_up(written, 0.0)

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        assert outcome is INDETERMINATE
        entry.settle(outcome)
        self.lost.append(entry)

    def count_written(self, count: int) -> None:
        self.counted += count

    def say(self, *entries: Entry) -> list[Any]:
        self.plain.prepare(0.0)
        return list(self.plain.finish(entries, 0.0))


def sends(*data: str) -> list[Send]:
    return [Send(each.encode()) for each in data]


@pytest.mark.parametrize(
    ("data", "size"), [("", 0), ("abc", 3), ("é€", 5), ("\U0001f600", 4), (b"\xff\x00", 2)]
)
def test_size_bytes(data: str | bytes, size: int) -> None:
    """Characters are not bytes."""
    assert size_bytes(data) == size


def test_messages_go_as_they_are() -> None:
    """Each is a WebSocket message of its own; a batch is bounded, the room is not."""
    link = Link()
    entries = sends("a", "b")
    assert link.plain.room() == (math.inf, math.inf)
    assert link.plain.prepare(0.0) == BATCH_BYTES
    assert link.plain.finish(entries, 0.0) == entries
    assert link.plain.outside(entries[0]) is entries[0]
    assert [entry.number for entry in entries] == [0, 0]


def test_written() -> None:
    """The kernel's count settles them in order; what went before the link was up is not theirs."""
    link = Link(written=5)
    first, second, third = sends("a", "b", "c")
    link.say(first, second, third)
    assert link.plain.unsettled == 3
    link.plain.written(5)
    assert first.outcome is None
    link.plain.written(7)
    assert first.outcome is second.outcome is WRITTEN
    assert third.outcome is None
    assert (link.plain.unsettled, link.counted) == (1, 2)
    link.plain.written(8)
    assert third.outcome is WRITTEN


def test_a_link_that_dies() -> None:
    """What it had not taken wholly may have arrived, and is not sent again."""
    link = Link()
    taken, lost = sends("a", "b")
    link.say(taken, lost)
    link.plain.written(1)
    link.plain.link_down()
    assert link.lost == [lost]
    assert link.plain.unsettled == 0
    link.plain.link_up(0, 0.0)
    assert link.say() == []


def test_direct_write() -> None:
    """One at a time: what is in flight is in front."""
    link = Link()
    first, second = sends("a", "b")
    assert link.plain.may_go(first)
    assert link.plain.try_commit(first) is first
    link.plain.confirm(first, 0, 0.0)
    assert not link.plain.may_go(second)
    link.plain.written(1)
    assert link.plain.may_go(second)
    link.plain.try_commit(second)
    link.plain.confirm(second, 2, 0.0)
    assert second.outcome is WRITTEN
    assert link.counted == 2


def test_undo() -> None:
    """Nothing was changed by the try."""
    link = Link()
    (entry,) = sends("a")
    link.plain.try_commit(entry)
    assert link.plain.undo(entry)
    assert link.plain.unsettled == 0
    assert entry.outcome is None


def test_heartbeat() -> None:
    """It goes before all else, one at a time waits, and it is none in the books."""
    link = Link()
    assert link.plain.ready_at(0.0) == math.inf
    beat = Heartbeat(b"beat")
    link.plain.aside(beat)
    link.plain.aside(Heartbeat(b"another"))
    assert link.plain.ready_at(0.0) == -math.inf
    (entry,) = sends("a")
    assert link.say(entry) == [beat, entry]
    assert link.plain.unsettled == 1
    link.plain.written(2)
    assert link.counted == 1
    assert beat.outcome is WRITTEN


def test_heartbeat_is_never_for_another_link() -> None:
    link = Link()
    link.plain.aside(Heartbeat(b"beat"))
    link.plain.link_down()
    link.plain.link_up(0, 0.0)
    assert link.plain.ready_at(0.0) == math.inf
    assert link.say() == []


def test_receive() -> None:
    """Data, its size in bytes, and no slot: nobody says what was received."""
    link = Link()
    arrived: deque[Arrival] = deque()
    link.plain.receive(["é", b"\xff", "abc"], 0.0, arrived)
    assert list(arrived) == [
        ("é", 2, None),
        (b"\xff", 1, None),
        ("abc", 3, None),
    ]

"""The books of a session: numbers, the three marks, the window, drops, replay, void."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rt.errors import LinkClosed
from trio_rt.message import ACKED, WITHDRAWN, Outcome, dropped
from trio_rt.protocol.frames import MAX_NUMBER, RANGES, Header, Position
from trio_rt.protocol.incoming import Incoming, Slot, release_all
from trio_rt.protocol.lanes import Entry
from trio_rt.protocol.ledger import WINDOWS_BEHIND, Bounds
from trio_rt.protocol.outgoing import SMALL_BATCH, Note, Outgoing

NONE = Bounds(0, 0)
PLENTY = Bounds(1000, 1 << 20)
VOID = b'["void"]'
RECEIVER = dropped("receiver")


class Send(Entry):
    """An entry that cannot be settled twice."""

    def settle(self, outcome: Outcome) -> None:
        assert self.outcome is None, "settled twice"
        super().settle(outcome)


def settle(entry: Entry, outcome: Outcome) -> None:
    entry.settle(outcome)


def settle_acked(entries: list[Entry]) -> None:
    for entry in entries:
        entry.settle(ACKED)


def outgoing(window: Bounds = PLENTY, held: Bounds = NONE, replay: Bounds = PLENTY) -> Outgoing:
    return Outgoing(window, held, replay, settle, settle_acked, VOID)


def committed(out: Outgoing, *data: str, **options: Any) -> list[Send]:
    entries = [Send(each.encode(), **options) for each in data]
    for entry in entries:
        out.commit(entry)
    return entries


def ack(
    received: int,
    consumed: int | None = None,
    *,
    credit: int | None = None,
    size: int = 0,
    drops: list[tuple[int, int]] | None = None,
) -> Header:
    """What the other side says; by default it has consumed all, of messages without bytes."""
    took = received if consumed is None else consumed
    return Header(1, 0, received, took, took if credit is None else credit, size, drops or [])


def position(of: Header) -> Position:
    return Position(of.settled, of.received, of.consumed, of.messages, of.bytes, of.drops)


class Books:
    """`Incoming`, and what it asks for: "soon" and "now"."""

    def __init__(
        self,
        window: Bounds = PLENTY,
        held: Bounds = NONE,
        still_held: Bounds = NONE,
        replay: Bounds = PLENTY,
    ) -> None:
        self.wants: list[str] = []
        self.into = Incoming(
            window,
            held,
            still_held,
            replay,
            lambda urgent: self.wants.append("now" if urgent else "soon"),
        )

    def take_in(self, *sizes: int) -> list[Slot]:
        """A batch of messages of these sizes."""
        self.into.begin(self.into.received + 1, 0)
        slots = [self.into.message(size) for size in sizes]
        self.into.batch_over()
        return slots

    def say(self, settled: int = 0) -> Header:
        """A header goes out."""
        header = self.into.header(1, settled)
        self.into.said(header)
        return header

    def heard(self, settled: int) -> None:
        """The other side knows of acks up to there."""
        self.into.begin(self.into.received + 1, settled)


# Numbers


def test_numbers() -> None:
    """Messages and notes have numbers of one row, from 1 on."""
    out = outgoing()
    (first,) = committed(out, "a")
    note = Note(b"note")
    out.commit(note)
    (third,) = committed(out, "b")
    assert [first.number, note.number, third.number] == [1, 2, 3]
    assert (out.sent, out.next) == (3, 4)


@pytest.mark.parametrize("middle", range(7))
@pytest.mark.parametrize("pattern", list(product([False, True], repeat=6)), ids=str)
def test_an_ack_settles_what_is_up_to_it(pattern: tuple[bool, ...], middle: int) -> None:
    """Whatever notes (True) are between: the messages up to its number, and no others."""
    out = outgoing()
    sends: list[Send] = []
    for is_note in pattern:
        if is_note:
            out.commit(Note(b"n"))
        else:
            sends += committed(out, "a")
    for consumed in (middle, 6):
        out.acknowledged(ack(6, consumed, credit=pattern[:consumed].count(False)))
        settled = [each.number for each in sends if each.outcome == ACKED]
        assert settled == [each.number for each in sends if each.number <= consumed]


def test_numbers_in() -> None:
    """What arrives has the next number, messages and notes alike."""
    books = Books()
    (first,) = books.take_in(5)
    books.into.note(3)
    (third,) = books.take_in(5)
    assert [first.number, third.number] == [1, 3]
    assert books.into.received == 3


@pytest.mark.parametrize(("first", "known"), [(1, 3), (2, 2), (3, 1), (4, 0)])
def test_known(first: int, known: int) -> None:
    """A batch may begin with numbers that are known; so many of it are."""
    books = Books()
    books.take_in(1, 1, 1)
    assert books.into.begin(first, 0) == known


@pytest.mark.parametrize("first", [0, 5, 6, MAX_NUMBER])
def test_gap(first: int) -> None:
    """A number may not be missing, and there is no number 0."""
    books = Books()
    books.take_in(1, 1, 1)
    with pytest.raises(LinkClosed, match="4 was due"):
        books.into.begin(first, 0)


# Acks


def test_received_is_not_consumed() -> None:
    """Consumed settles a send; received only frees its copy."""
    out = outgoing()
    first, second = committed(out, "a", "b")
    assert out.acknowledged(ack(2, 0))
    assert (out.unreceived, out.unsettled) == (0, 2)
    assert first.outcome is None
    assert out.acknowledged(ack(2, 1))
    assert first.outcome is ACKED
    assert second.outcome is None
    assert out.settled == 1
    assert out.acknowledged(ack(2, 2))
    assert out.unsettled == 0


def test_nothing_new() -> None:
    """A header that says what is known changes nothing."""
    out = outgoing()
    committed(out, "a")
    assert out.acknowledged(ack(1))
    assert not out.acknowledged(ack(1))


def test_drops_settle_as_dropped() -> None:
    """Of what is consumed the ranges were taken by nobody; the rest is acked."""
    out = outgoing()
    entries = committed(out, *"abcdefgh")
    out.acknowledged(ack(8, 8, drops=[(2, 3), (6, 6), (8, 8)]))
    assert [each.outcome for each in entries] == [
        ACKED,
        RECEIVER,
        RECEIVER,
        ACKED,
        ACKED,
        RECEIVER,
        ACKED,
        RECEIVER,
    ]


def test_drops_over_notes() -> None:
    """A range may hold notes, which have no outcome."""
    out = outgoing()
    (first,) = committed(out, "a")
    out.commit(Note(b"n"))
    (third,) = committed(out, "b")
    out.acknowledged(ack(3, 3, credit=2, drops=[(1, 3)]))
    assert first.outcome is third.outcome is RECEIVER


def test_low_water_mark() -> None:
    """One message that nobody takes holds `consumed` up, and not the credit."""
    books = Books()
    slots = books.take_in(10, 20, 30)
    books.into.note(5)
    slots[2].release(taken=True)
    slots[1].release(taken=True)
    header = books.say()
    assert (header.received, header.consumed) == (4, 0)
    assert (header.messages, header.bytes) == (2, 50)
    slots[0].release(taken=True)
    header = books.say()
    assert (header.consumed, header.messages, header.bytes) == (4, 3, 60)


def test_notes_are_consumed_when_received() -> None:
    """No program has to take them."""
    books = Books()
    books.into.note(5)
    header = books.say()
    assert (header.received, header.consumed, header.messages, header.bytes) == (1, 1, 0, 0)


def test_last_holder() -> None:
    """With several streams it is consumed when the last took it, and dropped if none did."""
    books = Books()
    both, one, none = books.take_in(1, 1, 1)
    for slot in (both, one, none):
        slot.holders = 2
    both.release(taken=True)
    assert books.say().messages == 0
    both.release(taken=True)
    one.release(taken=False)
    one.release(taken=True)
    none.release(taken=False)
    none.release(taken=False)
    header = books.say()
    assert (header.consumed, header.messages, header.drops) == (3, 3, [(3, 3)])


# When an ack is wanted


def test_soon() -> None:
    """What was received, and what was consumed, is acked soon: asked for once."""
    books = Books()
    (slot,) = books.take_in(1)
    assert books.wants == ["soon"]
    slot.release(taken=True)
    assert books.wants == ["soon"]
    assert books.into.unacked
    books.say()
    assert not books.into.unacked
    (slot,) = books.take_in(1)
    assert books.wants == ["soon", "soon"]


def test_at_a_quarter_of_the_messages() -> None:
    """Credit for a quarter of the window goes at once."""
    books = Books(Bounds(20, 1 << 20))
    slots = books.take_in(*[1] * 9)
    for slot in slots[:4]:
        slot.release(taken=True)
    assert books.wants == ["soon"]
    slots[4].release(taken=True)
    assert books.wants == ["soon", "now"]
    books.say()
    for slot in slots[5:]:
        slot.release(taken=True)
    assert books.wants == ["soon", "now", "soon"]


def test_at_a_quarter_of_the_bytes() -> None:
    """The same for its bytes."""
    books = Books(Bounds(1000, 400))
    slots = books.take_in(99, 1)
    slots[0].release(taken=True)
    assert "now" not in books.wants
    slots[1].release(taken=True)
    assert books.wants[-1] == "now"


def test_at_a_quarter_of_the_replay_memory() -> None:
    """So that the sender does not run out of it: its messages and bytes, notes too."""
    books = Books(replay=Bounds(8, 1 << 20))
    books.take_in(1)
    assert books.wants == ["soon"]
    books.into.note(1)
    books.into.batch_over()
    assert books.wants == ["soon", "now"]
    books = Books(replay=Bounds(1000, 400))
    books.take_in(99)
    assert books.wants == ["soon"]
    books.into.note(1)
    books.into.batch_over()
    assert books.wants == ["soon", "now"]
    books.say()
    books.take_in(99)
    assert books.wants == ["soon", "now", "soon"]


def test_tiny_window() -> None:
    """In a window of one message each credit goes at once."""
    books = Books(Bounds(1, 1))
    (slot,) = books.take_in(1)
    slot.release(taken=True)
    assert books.wants[-1] == "now"


def test_known_batch_is_not_acked() -> None:
    """A batch that brings nothing wants no ack, or two sides would ack acks for ever."""
    books = Books()
    books.heard(0)
    books.into.batch_over()
    assert not books.wants


def test_a_stale_header_leaves_the_ack_wanted() -> None:
    """What came after a header was made is still to be acked when it goes out."""
    books = Books()
    header = books.into.header(1, 0)
    books.take_in(1)
    books.into.said(header)
    assert books.into.unacked


# The window


def test_window_in_messages() -> None:
    """No more than that in flight, until the other side gives credit."""
    out = outgoing(Bounds(2, 100))
    assert out.room() == (2, 100)
    committed(out, "a")
    assert out.room() == (1, 99)
    committed(out, "bb")
    assert out.in_window == (2, 3)
    assert out.room()[0] == 0
    out.acknowledged(ack(2, 0))
    assert out.room()[0] == 0
    out.acknowledged(ack(2, 0, credit=1, size=2))
    assert out.room() == (1, 99)


def test_window_in_bytes() -> None:
    """What is left of it; a message of any size may go when nothing is in flight."""
    out = outgoing(Bounds(10, 10))
    assert out.is_window_empty
    committed(out, "x" * 25)
    assert not out.is_window_empty
    assert out.room() == (9, -15)
    out.acknowledged(ack(1, 1, size=25))
    assert out.is_window_empty
    assert out.room() == (10, 10)


@pytest.mark.parametrize("window", [1, SMALL_BATCH, SMALL_BATCH + 1, 3 * SMALL_BATCH])
def test_a_large_batch_takes_half_of_the_window(window: int) -> None:
    """So that the other side works on one while the next is made."""
    out = outgoing(Bounds(window, 100))
    most = out.room()[0]
    assert most == (window if window <= SMALL_BATCH else max(SMALL_BATCH, window // 2))
    committed(out, *["x"] * int(most))
    assert out.room()[0] == min(most, window - most)


def test_notes_take_no_room() -> None:
    """They are outside the window, and bounded by the memory for a replay."""
    out = outgoing(Bounds(2, 10), replay=Bounds(4, 100))
    committed(out, "a", "b")
    assert out.room()[0] == 0
    for _ in range(2):
        assert out.has_note_room()
        out.commit(Note(b"n" * 30))
    assert out.in_window == (2, 2)
    assert not out.has_note_room()
    out.acknowledged(ack(3, 0))
    assert out.has_note_room()


def test_replay_memory_bounds_all() -> None:
    """Frames that were not received fill it, as frames and as bytes."""
    out = outgoing(replay=Bounds(2, 100))
    out.commit(Note(b"n"))
    assert out.room()[0] == 1
    out.commit(Note(b"n"))
    assert out.room()[0] == 0
    out = outgoing(replay=Bounds(10, 10))
    out.commit(Note(b"n" * 9))
    assert out.has_note_room()
    assert out.room()[0] == 9
    out.commit(Note(b"n"))
    assert not out.has_note_room()
    assert out.room() == (0, 0)


def test_replay_memory_is_freed() -> None:
    """By what is received, to the last byte; and a void takes its own bytes only."""
    out = outgoing(replay=Bounds(10, 10))
    (entry,) = committed(out, "x" * 10)
    assert not out.has_note_room()
    out.acknowledged(ack(1, 0))
    assert out.has_note_room()
    (entry,) = committed(out, "x" * 10)
    entry.unwanted = WITHDRAWN
    out.resume(position(ack(1, 0)))
    out.replay(1000, 100, 0.0)
    assert out.has_note_room()
    out.commit(Note(b"nn"))
    assert not out.has_note_room()


def test_window_is_kept_by_the_receiver() -> None:
    """Messages and bytes beyond it are a breach; with nothing in flight one may always come."""
    books = Books(Bounds(2, 10))
    (big,) = books.take_in(25)
    with pytest.raises(LinkClosed, match="window"):
        books.into.message(1)
    big.release(taken=True)
    books.take_in(4, 6)
    with pytest.raises(LinkClosed, match="window"):
        books.into.message(0)
    books = Books(Bounds(3, 10))
    books.take_in(4)
    with pytest.raises(LinkClosed, match="window"):
        books.into.message(7)
    books.take_in(6)


def test_notes_are_not_in_the_receivers_window() -> None:
    books = Books(Bounds(1, 1))
    books.take_in(1)
    for _ in range(10):
        books.into.note(100)
    assert books.into.held == Bounds(1, 1)


# What an earlier session left


def test_held_over() -> None:
    """What lies at the receiver takes room, at both ends alike, until it is taken."""
    window, held = Bounds(4, 100), Bounds(3, 30)
    out = outgoing(window, held)
    old = Books()
    left = old.take_in(10, 10, 10)
    old.into.end()
    new = Books(window, held, old.into.held)
    old.into.succeed(new.into)
    assert out.in_window == (3, 30)
    assert out.room() == (1, 70)
    committed(out, "x")
    new.take_in(1)
    with pytest.raises(LinkClosed, match="window"):
        new.into.message(1)
    left[1].release(taken=True)
    header = new.say()
    assert (header.received, header.consumed, header.messages, header.bytes) == (1, 0, 1, 10)
    out.acknowledged(header)
    assert out.room() == (1, 79)
    assert new.into.held == Bounds(3, 21)


def test_held_over_twice() -> None:
    """Over several sessions the credit goes to the last one."""
    books = [Books(), Books(held=Bounds(1, 7), still_held=Bounds(1, 7))]
    (slot,) = books[0].take_in(7)
    books[0].into.succeed(books[1].into)
    books.append(Books(held=Bounds(1, 7), still_held=Bounds(1, 7)))
    books[1].into.succeed(books[2].into)
    slot.release(taken=True)
    assert [each.into.held for each in books] == [Bounds(1, 7), Bounds(1, 7), NONE]


def test_held_over_and_dropped() -> None:
    """Its number means nothing in the new session: it is in no list of drops."""
    old = Books()
    (slot,) = old.take_in(7)
    new = Books(held=Bounds(1, 7), still_held=Bounds(1, 7))
    old.into.succeed(new.into)
    new.take_in(1)[0].release(taken=True)
    slot.release(taken=False)
    header = new.say()
    assert (header.consumed, header.messages, header.bytes, header.drops) == (1, 2, 8, [])


def test_taken_before_the_welcome() -> None:
    """What the other side believes to lie here and does not any more, is credit from the start."""
    books = Books(Bounds(3, 100), held=Bounds(3, 30), still_held=Bounds(1, 10))
    header = books.into.header(1, 0)
    assert (header.messages, header.bytes) == (2, 20)
    assert books.into.held == Bounds(1, 10)


# Drops


def test_drops_by_ranges() -> None:
    """Neighbours are one range; only those that are consumed are listed."""
    books = Books()
    slots = books.take_in(*[1] * 9)
    for number in (2, 3, 5, 9):
        slots[number - 1].release(taken=False)
    assert books.say().drops == []
    for number in (1, 4, 6):
        slots[number - 1].release(taken=True)
    header = books.say()
    assert (header.consumed, header.drops) == (6, [(2, 3), (5, 5)])
    for number in (7, 8):
        slots[number - 1].release(taken=True)
    header = books.say()
    assert (header.consumed, header.drops) == (9, [(9, 9)])


def test_drops_are_listed_once_on_a_link() -> None:
    """And again on the next, as long as the other side does not know."""
    books = Books()
    for slot in books.take_in(1, 1):
        slot.release(taken=False)
    assert books.say().drops == [(1, 2)]
    assert books.say().drops == []
    said = books.into.position(0)
    assert (said.consumed, said.drops) == (2, [(1, 2)])
    books.into.said(said)
    books.into.resume(2)
    assert books.into.position(0).drops == []


def test_settled_forgets_drops() -> None:
    """What the other side has settled is never listed again."""
    books = Books()
    slots = books.take_in(*[1] * 4)
    for slot in slots[:2]:
        slot.release(taken=False)
    books.say()
    slots[2].release(taken=True)
    slots[3].release(taken=False)
    books.say()
    books.heard(2)
    said = books.into.position(0)
    assert (said.consumed, said.drops) == (4, [(4, 4)])


def test_resume_goes_on_from_what_is_settled() -> None:
    """The first header of a link lists what is behind `settled` of the other side."""
    books = Books()
    for slot in books.take_in(1, 1, 1):
        slot.release(taken=False)
    books.say()
    books.into.resume(1)
    assert books.say().drops == [(2, 3)]


def scattered(books: Books, ranges: int) -> None:
    """So many drops, each on its own."""
    for number, slot in enumerate(books.take_in(*[1] * 2 * ranges)):
        slot.release(taken=number % 2 == 0)


def test_so_many_ranges() -> None:
    """A header lists so many, and is silent about what is behind; the rest follows at once."""
    books = Books(Bounds(10_000, 1 << 20), replay=Bounds(10_000, 1 << 20))
    scattered(books, RANGES + 2)
    books.wants.clear()
    header = books.say()
    assert len(header.drops) == RANGES
    assert header.drops[-1] == (2 * RANGES, 2 * RANGES)
    assert header.consumed == 2 * RANGES + 1
    assert books.wants == ["now"]
    header = books.say()
    assert header.consumed == 2 * RANGES + 4
    assert header.drops == [(2 * RANGES + 2,) * 2, (2 * RANGES + 4,) * 2]
    assert books.wants == ["now"]


def test_a_position_may_list_less_than_was_said() -> None:
    """What was said before stays said, and the other side may have settled it."""
    books = Books(Bounds(10_000, 1 << 20), replay=Bounds(10_000, 1 << 20))
    scattered(books, RANGES + 2)
    books.say()
    books.say()
    said = books.into.position(0)
    books.into.said(said)
    assert said.consumed == 2 * RANGES + 1
    books.into.check_settled(2 * RANGES + 4)
    books.into.resume(2 * RANGES + 4)
    assert books.say().drops == []


def test_exactly_so_many_ranges() -> None:
    """Nothing is left behind, so nothing follows."""
    books = Books(Bounds(10_000, 1 << 20), replay=Bounds(10_000, 1 << 20))
    scattered(books, RANGES)
    books.wants.clear()
    header = books.say()
    assert (len(header.drops), header.consumed) == (RANGES, 2 * RANGES)
    assert books.wants == []


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.lists(st.integers(0, 59), max_size=200), st.data())
def test_every_send_learns_the_truth(
    taken: list[bool], order: list[int], data: st.DataObject
) -> None:
    """Consumed in whatever order, told by whatever headers and resumes: each is settled right."""
    books, out = Books(), outgoing()
    entries = committed(out, *["m"] * len(taken))
    slots = books.take_in(*[1] * len(taken))
    released = set()
    for step in [*order, *range(len(taken))]:
        if step < len(taken) and step not in released:
            released.add(step)
            slots[step].release(taken=taken[step])
        match data.draw(st.integers(0, 5)) if len(released) < len(taken) else 0:
            case 0:
                out.acknowledged(books.say())
            case 1:
                books.heard(out.settled)
            case 2:
                said = books.into.position(0)
                books.into.said(said)
                out.check_position(said)
                out.resume(said)
                books.into.resume(out.settled)
            case _:
                pass
    out.acknowledged(books.say())
    assert [each.outcome for each in entries] == [ACKED if each else RECEIVER for each in taken]
    assert out.in_window == (0, 0)


# A new link


def test_replay_in_order_under_the_same_numbers() -> None:
    """What the other side does not have goes out again, as it was."""
    out = outgoing()
    entries = committed(out, "a", "b")
    note = Note(b"n")
    out.commit(note)
    entries += committed(out, "c")
    out.resume(position(ack(1, 0)))
    assert out.replays
    assert out.next == 2
    assert out.replay(1000, 100, 0.0) == [b"b", b"n", b"c"]
    assert not out.replays
    assert out.next == 5
    assert [each.number for each in (*entries, note)] == [1, 2, 4, 3]


def test_replay_in_batches() -> None:
    """So many bytes and frames at a time, at least one; nothing new goes meanwhile."""
    out = outgoing()
    committed(out, "aaaa", "bb", "cc", "d", "e")
    out.resume(Position())
    assert out.room() == (0, 0)
    assert not out.has_note_room()
    assert out.replay(1, 100, 0.0) == [b"aaaa"]
    assert out.next == 2
    assert out.replay(4, 100, 0.0) == [b"bb", b"cc"]
    assert out.replay(1000, 1, 0.0) == [b"d"]
    assert out.room() == (0, 0)
    assert out.replay(1000, 100, 0.0) == [b"e"]
    assert out.room()[0] > 0
    assert out.has_note_room()


def test_replay_cut_short() -> None:
    """The next link goes on from what the other side has then."""
    out = outgoing()
    committed(out, "a", "b", "c")
    out.resume(Position())
    out.replay(1, 100, 0.0)
    out.check_position(position(ack(1, 0)))
    with pytest.raises(LinkClosed, match="not sent"):
        out.check_position(position(ack(2, 0)))
    out.resume(position(ack(1, 0)))
    assert out.replay(1000, 100, 0.0) == [b"b", b"c"]


def test_resume_takes_acks_in() -> None:
    """Those that died with the link come with the position."""
    out = outgoing(Bounds(3, 100))
    first, second, third = committed(out, "a", "b", "c")
    out.resume(position(ack(3, 2, size=2, drops=[(2, 2)])))
    assert first.outcome is ACKED
    assert second.outcome is RECEIVER
    assert third.outcome is None
    assert not out.replays
    assert out.room() == (2, 99)


def test_position_may_tell_what_is_known() -> None:
    """The other side may not know how far this one has settled."""
    out = outgoing()
    committed(out, "a", "b", "c")
    out.acknowledged(ack(3, 3, drops=[(1, 1)]))
    said = position(ack(3, 3, drops=[(1, 1)]))
    out.check_position(said)
    out.resume(said)
    assert out.settled == 3
    # So many ranges may be behind it that it does not come up to there at once.
    out.check_position(position(ack(3, 2, credit=3, drops=[(1, 1)])))


# Void


@pytest.mark.parametrize(
    ("unwanted", "outcome"),
    [(WITHDRAWN, WITHDRAWN), (dropped("offline"), dropped("offline"))],
)
def test_void(unwanted: Outcome, outcome: Outcome) -> None:
    """What was taken back and has not arrived leaves a void under its number, and no hole."""
    out = outgoing(Bounds(3, 100))
    first, second, third = committed(out, "aa", "bb", "cc")
    second.unwanted = unwanted
    assert second.outcome is None
    out.resume(position(ack(1, 0)))
    assert second.outcome is None
    assert out.replay(1000, 100, 0.0) == [VOID, b"cc"]
    assert second.outcome is outcome
    assert out.in_window == (2, 4)
    assert out.unsettled == 2
    out.acknowledged(ack(3, 3, credit=2, size=4))
    assert first.outcome is third.outcome is ACKED


def test_no_void_for_what_arrived() -> None:
    """It is acked as any other."""
    out = outgoing()
    (entry,) = committed(out, "a")
    entry.unwanted = WITHDRAWN
    out.resume(position(ack(1, 0)))
    assert not out.replays
    out.acknowledged(ack(1))
    assert entry.outcome is ACKED


def test_void_is_replayed_too() -> None:
    """A void that was lost goes out again, and is settled once."""
    out = outgoing()
    (entry,) = committed(out, "a")
    entry.unwanted = WITHDRAWN
    for _ in range(2):
        out.resume(Position())
        assert out.replay(1000, 100, 0.0) == [VOID]
    assert entry.outcome is WITHDRAWN
    out.acknowledged(ack(1, 1, credit=0))


def test_expired_at_the_replay() -> None:
    """`ttl_s` is looked at again when a message goes out again."""
    out = outgoing()
    late, early = committed(out, "a", expires_at=10.0) + committed(out, "b", expires_at=11.0)
    out.resume(Position())
    assert out.replay(1000, 100, 10.0) == [VOID, b"b"]
    assert late.outcome is dropped("expired")
    assert early.outcome is None


def test_forget() -> None:
    """Those that were not received and are of a kind are not wanted any more; the first wish
    counts."""
    out = outgoing()
    (arrived,) = committed(out, "a", ephemeral=True)
    taken_back, lost = committed(out, "b", "c", ephemeral=True)
    (normal,) = committed(out, "d")
    taken_back.unwanted = WITHDRAWN
    out.acknowledged(ack(1, 0))
    out.forget(lambda entry: entry.ephemeral, dropped("offline"))
    assert arrived.unwanted is normal.unwanted is None
    assert taken_back.unwanted is WITHDRAWN
    assert lost.unwanted is dropped("offline")


# Direct writes


def test_roll_back() -> None:
    """What never left gives its number and its room back."""
    out = outgoing(Bounds(2, 10))
    committed(out, "a")
    (entry,) = committed(out, "bb")
    before = entry.number
    assert out.roll_back(entry)
    assert (out.sent, out.unreceived, out.unsettled, out.in_window) == (1, 1, 1, (1, 1))
    assert entry.number == 0
    assert entry.outcome is None
    (again,) = committed(out, "c")
    assert again.number == before


def test_roll_back_of_a_lost_session() -> None:
    """There is nothing to roll back any more."""
    out = outgoing()
    (entry,) = committed(out, "a")
    assert out.drain() == [entry]
    assert not out.roll_back(entry)
    assert (out.unsettled, out.unreceived) == (0, 0)


# What the other side may not say

ILLEGAL_ACKS = [
    (ack(5, 0), "not sent"),
    (ack(MAX_NUMBER, 0), "not sent"),
    (ack(1, 0, credit=1, size=1), "behind"),
    (ack(3, 0, credit=1, size=1), "behind"),
    (ack(3, 4, credit=1, size=1), "more consumed"),
    (ack(3, 1, credit=5, size=1), "more credit"),
    (ack(3, 1, credit=4, size=5), "more credit"),
    (ack(3, 1, credit=0, size=1), "less credit"),
    (ack(3, 1, credit=1, size=0), "less credit"),
    (ack(3, 3, credit=1, size=1, drops=[(0, 0)]), "a drop"),
    (ack(3, 3, credit=1, size=1, drops=[(3, 4)]), "a drop"),
    (ack(3, 3, credit=1, size=1, drops=[(3, 2)]), "a drop"),
    (ack(3, 3, credit=1, size=1, drops=[(3, 3), (2, 2)]), "a drop"),
    (ack(3, 3, credit=1, size=1, drops=[(2, 3), (3, 3)]), "a drop"),
    (ack(3, 2, credit=1, size=1, drops=[(2, 3)]), "a drop"),
]


@pytest.mark.parametrize(("header", "why"), ILLEGAL_ACKS)
def test_illegal_ack(header: Header, why: str) -> None:
    """An ack that cannot be is a breach, and changes nothing."""
    out = outgoing()
    entries = committed(out, "a", "b", "c", "d")
    out.acknowledged(ack(3, 1, credit=1, size=1))
    with pytest.raises(LinkClosed, match=why) as caught:
        out.acknowledged(header)
    assert (caught.value.code, caught.value.by_peer) == (1002, False)
    assert (out.received, out.settled, out.in_window) == (3, 1, (3, 3))
    assert [each.outcome for each in entries] == [ACKED, None, None, None]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (ack(5, 0), "not sent"),
        (ack(2, 0, credit=1, size=1), "behind"),
        (ack(3, 4, credit=1, size=1), "more consumed"),
        (ack(3, 3, credit=5, size=1), "more credit"),
        (ack(3, 3, credit=1, size=0), "less credit"),
        (ack(3, 3, credit=1, size=1, drops=[(3, 4)]), "a drop"),
        (ack(3, 3, credit=1, size=1, drops=[(0, 1)]), "a drop"),
        (ack(3, 3, credit=1, size=1, drops=[(2, 3), (1, 1)]), "a drop"),
    ],
)
def test_illegal_position(said: Header, why: str) -> None:
    """At a resume as on a link."""
    out = outgoing()
    committed(out, "a", "b", "c", "d")
    out.acknowledged(ack(3, 1, credit=1, size=1))
    with pytest.raises(LinkClosed, match=why):
        out.check_position(position(said))


@pytest.mark.parametrize("settled", [0, 4, MAX_NUMBER])
def test_illegal_settled(settled: int) -> None:
    """Nobody can know of acks that were not sent, or not know any more."""
    books = Books()
    slots = books.take_in(*[1] * 4)
    for slot in slots[:3]:
        slot.release(taken=True)
    books.say()
    slots[3].release(taken=True)
    books.heard(2)
    for check in (books.heard, books.into.check_settled, books.into.resume):
        with pytest.raises(LinkClosed, match="not acked"):
            check(settled)
    books.into.check_settled(3)
    books.heard(3)


def test_settled_of_an_earlier_link() -> None:
    """An ack that went out on a link that died may have arrived."""
    books = Books()
    for slot in books.take_in(1, 1):
        slot.release(taken=True)
    books.say()
    books.into.check_settled(2)
    books.into.resume(0)
    books.into.check_settled(2)
    books.into.check_settled(0)


# Bounds


def drop_all(books: Books, count: int) -> None:
    """Nobody takes anything, and the other side settles nothing."""
    for _ in range(count):
        books.take_in(1)[0].release(taken=False)
        books.say()


def test_a_peer_that_settles_nothing() -> None:
    """The list of drops is bounded, whatever the other side says."""
    books = Books(Bounds(10, 1000))
    with pytest.raises(LinkClosed):
        drop_all(books, 5000)


def test_one_message_that_nobody_takes() -> None:
    """The books behind it are bounded too, at both ends."""
    out, books = outgoing(Bounds(10, 1000)), Books(Bounds(10, 1000))
    for _ in range(5000):
        if out.room()[0] < 1:
            break
        committed(out, "m")
        (slot,) = books.take_in(1)
        if slot.number > 1:
            slot.release(taken=True)
        out.acknowledged(books.say())
    assert out.unsettled < 5000


def test_windows_behind() -> None:
    """The sender stops at the number of messages at which the receiver would call it a breach."""
    out, books = outgoing(Bounds(2, 1000)), Books(Bounds(2, 1000))
    while out.room()[0] >= 1:
        committed(out, "m")
        (slot,) = books.take_in(1)
        if slot.number == 1:
            stuck = slot
        else:
            slot.release(taken=True)
        out.acknowledged(books.say())
    assert out.unsettled == WINDOWS_BEHIND * 2
    with pytest.raises(LinkClosed, match="behind one message"):
        books.into.message(1)
    stuck.release(taken=True)
    out.acknowledged(books.say())
    assert out.unsettled == 0
    assert out.room()[0] == 2


def test_settled_in_time() -> None:
    """A side that says what it has settled may have anything dropped, for ever."""
    books = Books(Bounds(1, 1000))
    for number in range(1, 200):
        books.heard(books.say().consumed)
        books.into.message(1).release(taken=False)
        assert books.into.received == number


def test_drops_that_are_settled_are_forgotten() -> None:
    """However many there were, and in whatever order: the list is of those in doubt."""
    books, settled = Books(Bounds(10, 1000)), 0
    for _ in range(200):
        books.into.begin(books.into.received + 1, settled)
        for slot in reversed([books.into.message(1) for _ in range(10)]):
            slot.release(taken=False)
        settled = books.say().consumed
    assert settled == 2000
    assert len(books.into._dropped) == 10


# Many at once


SIZES = st.lists(st.integers(0, 9), max_size=8)


@given(
    st.builds(Bounds, st.integers(1, 6), st.integers(1, 20)),
    st.lists(st.tuples(SIZES, st.integers(0, 8)), max_size=6),
)
def test_many_messages_are_as_one_after_the_other(
    window: Bounds, reads: list[tuple[list[int], int]]
) -> None:
    """`messages` gives the slots that `message` gives, and breaks where that breaks."""

    def told(*, at_once: bool) -> list[Any]:
        books = Books(window)
        into, held, seen = books.into, list[Slot](), list[Any]()
        for sizes, taken in reads:
            try:
                for slot in into.messages(sizes) if at_once else map(into.message, sizes):
                    held.append(slot)
                    seen.append((slot.number, slot.size))
            except LinkClosed as error:
                return [*seen, str(error), into.held]
            into.batch_over()
            for slot in held[:taken]:
                slot.release(taken=True)
            del held[:taken]
            seen.append((into.received, into.consumed, into.held, list(books.wants)))
        return seen

    assert told(at_once=True) == told(at_once=False)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.booleans())
def test_releasing_many_is_as_one_after_the_other(holders: list[int], other_book: bool) -> None:
    """`release_all` frees what nobody else holds, whosever books it is in."""

    def told(*, at_once: bool) -> list[Any]:
        books = [Books(Bounds(20, 100)), Books(Bounds(20, 100))]
        slots = []
        for number, count in enumerate(holders):
            slot = books[number % 2 if other_book else 0].into.message(number)
            slot.holders = count
            slots.append(slot)
        if at_once:
            release_all(slots)
        else:
            for slot in slots:
                slot.release(taken=True)
        return [(each.into.consumed, each.into.held, each.into.unacked) for each in books]

    assert told(at_once=True) == told(at_once=False)


def test_an_ack_of_many_is_urgent_once() -> None:
    """Taking more than a quarter of the window in one go asks for one ack, at once."""
    books = Books(Bounds(8, 100))
    slots = list(books.into.messages([1] * 6))
    release_all(slots)
    assert books.wants == ["now"]
    assert (books.into.consumed, books.into.held) == (6, NONE)


def test_drops_that_are_told_again_are_passed_over() -> None:
    """What is settled stays so; a range may begin in it and end behind it."""
    out = outgoing()
    entries = committed(out, *"abcde")
    out.acknowledged(ack(2, size=2, drops=[(2, 2)]))
    out.acknowledged(ack(4, size=4, drops=[(1, 3)]))
    assert [entry.outcome for entry in entries] == [ACKED, RECEIVER, RECEIVER, ACKED, None]


def test_the_last_header_lists_all_that_may_not_be_known() -> None:
    """A batch that was told, and never written, may have listed some of it."""
    books = Books()
    for slot in books.into.messages([1] * 4):
        slot.release(taken=slot.number % 2 == 0)
    header = books.into.header(1, 0)
    books.into.said(header)
    assert header.drops == [(1, 1), (3, 3)]
    assert books.into.header(1, 0).drops == []
    assert books.into.last_header(1, 0).drops == [(1, 1), (3, 3)]
    assert books.into.header(1, 0).drops == []
    books.into.begin(1, 2)
    assert books.into.last_header(1, 0).drops == [(3, 3)]


def test_the_last_header_takes_nothing_back() -> None:
    """More ranges than a header has: then only those after what was told are listed."""
    window = 2 * RANGES + 4
    books = Books(Bounds(window, 1 << 20))
    for slot in books.into.messages([1] * window):
        slot.release(taken=slot.number % 2 == 0)
    first = books.into.header(1, 0)
    books.into.said(first)
    second = books.into.header(1, 0)
    books.into.said(second)
    assert (len(first.drops), second.consumed) == (RANGES, window)
    assert books.into.last_header(1, 0).consumed == window

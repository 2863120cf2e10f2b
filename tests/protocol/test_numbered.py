"""A numbered session: batches out and in, acks in time, resumes, and what ends it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rt.errors import LinkClosed, PayloadError
from trio_rt.message import ACKED, INDETERMINATE, WITHDRAWN, Message, Outcome, dropped
from trio_rt.options import InboxLimits, OutboxLimits
from trio_rt.protocol.codec import JsonCodec
from trio_rt.protocol.frames import (
    BATCH_FRAMES,
    BATCH_MARGIN_BYTES,
    JSON_SYNTAX,
    MSGPACK_SYNTAX,
    RANGES,
    Cancel,
    Control,
    Fail,
    Header,
    Position,
    Req,
    Syntax,
    Terms,
)
from trio_rt.protocol.incoming import Slot
from trio_rt.protocol.lanes import BATCH_BYTES, Entry
from trio_rt.protocol.ledger import ACK_S, Bounds
from trio_rt.protocol.numbered import UNANSWERED_S, Batch, Numbered
from trio_rt.protocol.plain import Arrival, Heartbeat
from trio_rt.protocol.queues import Queue
from trio_rt.protocol.session import Session, bounds

VOID = '["void"]'


class Send(Entry):
    """An entry that cannot be settled twice."""

    def settle(self, outcome: Outcome) -> None:
        assert self.outcome is None, "settled twice"
        super().settle(outcome)


def terms(
    messages: int = 1000,
    size: int = 1 << 20,
    *,
    replay: tuple[int, int] = (10_000, 1 << 20),
    message_bytes: int = 1 << 20,
) -> Terms:
    return Terms((messages, size), (0, 0), replay, message_bytes)


def settle(entry: Entry, outcome: Outcome) -> None:
    entry.settle(outcome)


def settle_acked(entries: list[Entry]) -> None:
    for entry in entries:
        entry.settle(ACKED)


class Side:
    """A `Numbered`, with what it was given and what it asks for."""

    def __init__(self, own: Terms, peer: Terms, syntax: Syntax = JSON_SYNTAX) -> None:
        self.numbered = Numbered("id", syntax, own, peer, Bounds(*own.held), settle, settle_acked)
        self.syntax = syntax
        self.binary = syntax.binary
        self.wakes = 0
        self.controls: list[Control] = []
        self.slots: list[Slot] = []
        self.numbered.wake = self._count_wake
        self.numbered.on_control = lambda frame, slot, now: self.controls.append(frame)

    def _count_wake(self) -> None:
        self.wakes += 1

    def say(self, *entries: Entry, now: float = 0.0) -> list[str | bytes]:
        """A turn of the writer, with these messages: the WebSocket messages of it."""
        self.numbered.prepare(now)
        return [self.wire(batch) for batch in self.numbered.finish(entries, now)]

    def wire(self, batch: Batch) -> str | bytes:
        assert batch.binary is self.binary
        return batch.data if self.binary else batch.data.decode()

    def hear(self, *batches: str | bytes, now: float = 0.0) -> list[Any]:
        """One read. Slots of messages are kept, untaken."""
        arrived: deque[Arrival] = deque()
        self.numbered.receive(batches, now, arrived)
        self.slots += [slot for _, _, slot in arrived if slot is not None]
        return [data for data, _, _ in arrived]

    def take(self, count: int = 1, *, taken: bool = True) -> None:
        """The program takes the oldest, or nobody wants them."""
        for slot in self.slots[:count]:
            slot.release(taken=taken)
        del self.slots[:count]

    def ack(self, now: float = 0.0) -> str | bytes:
        """The batch that goes out within `ACK_S` by itself."""
        at = self.numbered.ready_at(now)
        assert at <= now + ACK_S
        (data,) = self.say(now=max(at, now))
        return data

    def header(self, *entries: Entry, now: float = 0.0) -> Header:
        (data,) = self.say(*entries, now=now)
        return self.syntax.split(data)[0]


def pair(client: Terms | None = None, server: Terms | None = None) -> tuple[Side, Side]:
    client, server = client or terms(), server or terms()
    return Side(client, server), Side(server, client)


def sends(*data: str, **options: Any) -> list[Send]:
    return [Send(each.encode(), **options) for each in data]


def cut(one: Side, other: Side, now: float = 0.0) -> None:
    """The link is lost, and the next one begins: `one` says hello."""
    for side in (one, other):
        side.numbered.link_down()
    hello = one.numbered.position()
    other.numbered.check_position(hello)
    other.numbered.resume(hello)
    welcome = other.numbered.position()
    one.numbered.check_position(welcome)
    one.numbered.resume(welcome)
    for side in (one, other):
        side.numbered.link_up(0, now)


def broken(side: Side, *batches: str | bytes, code: int = 1002) -> str:
    """That it breaks the protocol, and ends the session."""
    with pytest.raises(LinkClosed) as caught:
        side.hear(*batches)
    assert (caught.value.code, caught.value.by_peer) == (code, False)
    assert side.numbered.over is not None
    return caught.value.reason


# Batches


def test_one_batch() -> None:
    """Messages of one turn are one WebSocket message, in their order, numbered from 1."""
    one, other = pair()
    entries = sends('{"type":"a"}', '{"type":"b"}')
    (data,) = one.say(*entries)
    assert data == '[1,0,0,0,0,0,[]]\n{"type":"a"}\n{"type":"b"}'
    assert [each.number for each in entries] == [1, 2]
    assert other.hear(data) == ['{"type":"a"}', '{"type":"b"}']
    assert [slot.number for slot in other.slots] == [1, 2]


def test_nothing_to_say() -> None:
    one, _ = pair()
    assert one.say() == []
    assert one.numbered.ready_at(0.0) == math.inf


def test_effective_window() -> None:
    """The smaller of what one side takes and the other keeps, at both ends."""
    client = terms(5, 500, replay=(8, 80))
    server = terms(20, 40, replay=(3, 3000))
    one, other = pair(client, server)
    for side, most, room in ((one, 8, 40), (other, 3, 500)):
        assert side.numbered.room() == (most, room)
        (entry,) = sends("m")
        side.say(entry)
        assert side.numbered.room() == (most - 1, room - 1)
    one, _ = pair(terms(replay=(8, 80)), terms(20, 400))
    one.say(*sends("m"))
    assert one.numbered.room() == (7, 79)


def test_effective_window_is_kept() -> None:
    """By the receiver: of what the server may have in flight not one more."""
    one, _ = pair(terms(5, 500), terms(replay=(3, 3000)))
    one.hear("[1,0,0,0,0,0,[]]" + "\n{}" * 3)
    assert "window" in broken(one, "[4,0,0,0,0,0,[]]\n{}")


def test_sizes_are_bytes() -> None:
    """Characters are not bytes: the window counts the frame as UTF-8, without the line end."""
    one, other = pair()
    other.hear('[1,0,0,0,0,0,[]]\n"é"\n{}')
    assert other.numbered.into.held == Bounds(2, 6)
    one.say(*sends('"é"', "{}"))
    assert one.numbered.out.in_window == (2, 6)


def test_oversize_for_the_peer() -> None:
    """What the other side would not take is dropped, takes no number, and spoils no batch."""
    one, other = pair(server=terms(message_bytes=20))
    fits, big, last = sends("x" * 20, "x" * 21, "y")
    assert one.numbered.may_go(fits)
    assert not one.numbered.may_go(big)
    (data,) = one.say(fits, big, last)
    assert big.outcome == dropped("oversize")
    assert (fits.number, big.number, last.number) == (1, 0, 2)
    assert other.hear(data) == ["x" * 20, "y"]
    (big,) = sends("x" * 21)
    assert one.say(big) == []
    assert one.numbered.unsettled == 2


def test_msgpack() -> None:
    """The same talk in the other syntax."""
    one = Side(terms(), terms(), MSGPACK_SYNTAX)
    other = Side(terms(), terms(), MSGPACK_SYNTAX)
    message = msgspec.msgpack.encode({"type": "a"})
    entry = Send(message, binary=True)
    (data,) = one.say(entry)
    assert other.hear(data) == [message]
    other.take()
    one.hear(other.ack())
    assert entry.outcome is ACKED


def test_any_size_may_go_directly_in_an_empty_window() -> None:
    """And behind it only what fits."""
    one, _ = pair(server=terms(4, 10))
    big, small = sends("x" * 20, "y")
    assert one.numbered.may_go(big)
    one.numbered.try_commit(big)
    one.numbered.confirm(big, 1, 0.0)
    assert not one.numbered.may_go(small)
    one.hear("[1,0,1,1,1,20,[]]")
    one.numbered.try_commit(small)
    one.numbered.confirm(small, 2, 0.0)
    assert one.numbered.may_go(*sends("z" * 9))
    assert not one.numbered.may_go(*sends("z" * 10))


# Acks in time


def test_ack_within_a_while() -> None:
    """What was received and taken is acked within `ACK_S`, by a batch of a header alone."""
    one, other = pair()
    (entry,) = sends("m")
    other.hear(*one.say(entry))
    assert other.wakes == 1
    assert other.numbered.ready_at(5.0) == 5.0 + ACK_S
    assert other.say(now=5.0 + ACK_S / 2) == []
    other.take()
    (data,) = other.say(now=5.0 + ACK_S)
    assert data == "[1,0,1,1,1,1,[]]"
    one.hear(data)
    assert entry.outcome is ACKED
    assert other.numbered.ready_at(6.0) == math.inf


def test_acks_are_not_acked() -> None:
    """Nothing answers a batch that brings only an ack."""
    one, other = pair()
    other.hear(*one.say(*sends("m")))
    other.take()
    one.hear(other.ack())
    assert one.numbered.ready_at(1.0) == math.inf


def test_ack_at_once() -> None:
    """At a quarter of the window it does not wait."""
    one, other = pair(server=terms(8))
    other.hear(*one.say(*sends(*"abcd")))
    other.take(1)
    assert other.numbered.ready_at(0.0) == ACK_S
    other.take(1)
    assert other.numbered.ready_at(0.0) == -math.inf
    assert other.header().messages == 2
    assert other.numbered.ready_at(0.0) == ACK_S


def test_ack_travels_with_a_message() -> None:
    """And the timer, when it is over, finds nothing."""
    one, other = pair()
    other.hear(*one.say(*sends("m")))
    assert other.numbered.ready_at(0.0) == ACK_S
    assert other.header(*sends("n"), now=0.1).received == 1
    assert other.say(now=ACK_S) == []
    assert other.numbered.ready_at(ACK_S) == math.inf


def test_lazy_timer_serves_the_next() -> None:
    """One that runs on acks what came since, early rather than late."""
    one, other = pair()
    other.hear(*one.say(*sends("a")))
    other.numbered.ready_at(0.0)
    other.say(*sends("n"), now=0.1)
    other.hear(*one.say(*sends("b")), now=0.15)
    assert other.numbered.ready_at(0.15) == ACK_S
    assert other.header(now=ACK_S).received == 2


def test_ack_travels_with_a_direct_write() -> None:
    """A message that is written at once has the same header."""
    one, other = pair()
    (entry,) = sends("m")
    other.hear(*one.say(entry))
    other.take()
    (answer,) = sends("n")
    data = other.wire(other.numbered.try_commit(answer))
    assert data == "[1,0,1,1,1,1,[]]\nn"
    other.numbered.confirm(answer, 1, 0.0)
    assert other.say(now=ACK_S) == []
    one.hear(data)
    assert entry.outcome is ACKED


@pytest.mark.parametrize("taken", [True, False])
def test_ack_of_what_came_during_a_direct_write(taken: bool) -> None:
    """Where a write takes a turn of the loop, what comes in that turn is acked in time too."""
    one, other = pair()
    (answer,) = sends("n")
    other.numbered.try_commit(answer)
    other.hear(*one.say(*sends("m")))
    if taken:
        other.take()
    other.numbered.confirm(answer, 1, 0.0)
    assert other.ack() == f"[2,0,1,{taken:d},{taken:d},{taken:d},[]]"


def test_more_drops_than_a_direct_write_can_list() -> None:
    """The rest follows at once, as behind any batch."""
    one, other = pair()
    other.hear(*one.say(*sends(*"m" * (2 * RANGES + 4))))
    for _ in range(RANGES + 2):
        other.take(1, taken=True)
        other.take(1, taken=False)
    (answer,) = sends("n")
    other.numbered.try_commit(answer)
    other.numbered.confirm(answer, 1, 0.0)
    assert other.numbered.ready_at(0.0) == -math.inf
    assert other.header().consumed == 2 * RANGES + 4


def test_unanswered() -> None:
    """A peer that is alive and acks nothing for long is broken."""
    one, other = pair()
    one.numbered.link_up(0, 0.0)
    assert not one.numbered.is_unanswered(1000.0)
    batch = one.say(*sends("a"), now=1000.0)
    one.numbered.written(1)
    assert not one.numbered.is_unanswered(1000.0)
    assert not one.numbered.is_unanswered(1000.0 + UNANSWERED_S)
    assert one.numbered.is_unanswered(1000.1 + UNANSWERED_S)
    other.hear(*batch)
    one.say(*sends("b"), now=1030.0)
    one.numbered.written(2)
    assert not one.numbered.is_unanswered(1030.0)
    one.hear(other.ack(), now=1040.0)
    assert not one.numbered.is_unanswered(1039.0 + UNANSWERED_S)
    assert one.numbered.is_unanswered(1041.0 + UNANSWERED_S)


def test_unanswered_counts_from_the_direct_write() -> None:
    one, _ = pair()
    one.numbered.link_up(0, 0.0)
    (entry,) = sends("a")
    one.numbered.try_commit(entry)
    one.numbered.confirm(entry, 1, 1000.0)
    assert not one.numbered.is_unanswered(1000.0)
    assert not one.numbered.is_unanswered(1000.0 + UNANSWERED_S)
    assert one.numbered.is_unanswered(1000.1 + UNANSWERED_S)


def test_unanswered_counts_from_the_kernel() -> None:
    """What a slow link has not taken yet, nobody can have acked."""
    one, _ = pair()
    one.numbered.link_up(0, 0.0)
    one.say(*sends("a" * 1_000_000), now=0.0)
    assert not one.numbered.is_unanswered(UNANSWERED_S + 1)
    one.numbered.written(1)
    assert not one.numbered.is_unanswered(2 * UNANSWERED_S)
    assert not one.numbered.is_unanswered(3 * UNANSWERED_S)
    assert one.numbered.is_unanswered(3 * UNANSWERED_S + 0.1)


def test_unanswered_counts_anew_on_a_link() -> None:
    one, other = pair()
    one.say(*sends("a"), now=0.0)
    cut(one, other, now=500.0)
    one.say(now=500.0)
    one.numbered.written(1)
    assert not one.numbered.is_unanswered(500.0)
    assert not one.numbered.is_unanswered(500.0 + UNANSWERED_S)
    assert one.numbered.is_unanswered(500.1 + UNANSWERED_S)


def test_received_but_not_taken_is_an_answer() -> None:
    """A program that takes nothing for an hour is slow, and not broken."""
    one, other = pair()
    other.hear(*one.say(*sends("a")))
    one.hear(other.ack(), now=0.2)
    assert not one.numbered.is_unanswered(3600.0)


# Written


def test_written() -> None:
    """The wire counts WebSocket messages; the last number of each tells what is in them."""
    one, _ = pair()
    one.numbered.link_up(7, 0.0)
    one.say(*sends("a", "b"))
    one.say(*sends("c"))
    one.numbered.written(8)
    assert one.numbered.written_to == 2
    one.numbered.written(9)
    assert one.numbered.written_to == 3


def test_written_is_never_less() -> None:
    """A replay of what the kernel had taken already does not take it back."""
    one, other = pair()
    one.numbered.link_up(0, 0.0)
    one.say(*sends("a" * BATCH_BYTES, "b"))
    one.numbered.written(1)
    cut(one, other)
    one.say()
    one.numbered.written(1)
    assert one.numbered.written_to == 2


def test_written_on_the_next_link() -> None:
    """What the link before had not taken is not in its count."""
    one, other = pair()
    one.numbered.link_up(0, 0.0)
    one.say(*sends("a"))
    one.say(*sends("b"))
    cut(one, other)
    one.say()
    one.numbered.written(1)
    assert one.numbered.written_to == 2


# Notes


def test_notes() -> None:
    """They go before messages, have numbers, and arrive once and in order."""
    one, other = pair()
    note = one.numbered.note(Cancel(7))
    assert one.wakes == 1
    assert one.numbered.ready_at(0.0) == -math.inf
    (data,) = one.say(*sends("m"))
    assert data == '[1,0,0,0,0,0,[]]\n["cancel",7]\nm'
    assert note.number == 1
    assert other.hear(data) == ["m"]
    assert other.controls == [Cancel(7)]
    assert other.numbered.into.received == 2


def test_no_direct_write_past_notes() -> None:
    one, _ = pair()
    (entry,) = sends("m")
    assert one.numbered.may_go(entry)
    one.numbered.note(Cancel(7))
    assert not one.numbered.may_go(entry)


def test_notes_in_a_full_window() -> None:
    """They are outside of it."""
    one, other = pair(server=terms(1))
    one.say(*sends("m"))
    assert one.numbered.room()[0] == 0
    one.numbered.note(Cancel(7))
    assert one.numbered.ready_at(0.0) == -math.inf
    other.hear("[1,0,0,0,0,0,[]]\nm")
    other.hear(*one.say())
    assert other.controls == [Cancel(7)]


def test_notes_wait_for_replay_memory() -> None:
    """And go on when the other side has received something."""
    one, other = pair(terms(replay=(2, 1000)))
    for id in range(3):
        one.numbered.note(Cancel(id))
    other.hear(*one.say())
    assert other.controls == [Cancel(0), Cancel(1)]
    assert one.say() == []
    assert one.numbered.ready_at(0.0) == math.inf
    wakes = one.wakes
    one.hear(*other.say())
    assert one.wakes == wakes + 1
    other.hear(*one.say())
    assert other.controls[-1] == Cancel(2)


def test_notes_leave_room_in_a_batch() -> None:
    """Half of it at most is theirs while more of them wait."""
    one, _ = pair()
    for id in range(1000):
        one.numbered.note(Fail(id, "code", "x" * 100))
    room = one.numbered.prepare(0.0)
    assert BATCH_BYTES // 2 - 200 <= room <= BATCH_BYTES // 2
    one.numbered.finish((), 0.0)
    assert one.numbered.ready_at(0.0) == -math.inf


# Requests are messages


def test_request_takes_room() -> None:
    """A `req` is numbered as a message, and in the window."""
    one, other = pair(server=terms(2))
    got: list[tuple[Control, Slot | None]] = []
    other.numbered.on_control = lambda frame, slot, now: got.append((frame, slot))
    req = '["req",1,null,[0,0],null,{"type":"q"}]'
    other.hear(*one.say(*sends(req, "m")))
    ((frame, slot),) = got
    assert isinstance(frame, Req)
    assert slot is not None
    assert (slot.number, slot.size) == (1, len(req))
    assert other.numbered.into.consumed == 0
    slot.release(taken=True)
    assert other.numbered.into.consumed == 1
    other.hear(f"[3,0,0,0,0,0,[]]\n{req}")
    assert "window" in broken(other, f"[4,0,0,0,0,0,[]]\n{req}")


# Asides


def test_heartbeat_aside() -> None:
    """It has no number and is not sent again; the newest of those that wait goes."""
    one, other = pair()
    one.numbered.aside(Heartbeat(b'{"type":"old"}'))
    one.numbered.aside(Heartbeat(b'{"type":"new"}'))
    assert one.numbered.ready_at(0.0) == -math.inf
    (data,) = one.say(*sends("m"))
    assert data == '[1,0,0,0,0,0,[]]\n["aside",{"type":"new"}]\nm'
    assert other.hear(data) == [b'{"type":"new"}', "m"]
    assert other.numbered.into.received == 1
    one.numbered.aside(Heartbeat(b"{}"))
    cut(one, other)
    assert one.say() == []


def test_outside() -> None:
    """A greeting is an aside in a batch of its own."""
    one, other = pair()
    batch = one.numbered.outside(Send(b'{"op":"login"}'))
    assert other.hear(one.wire(batch)) == [b'{"op":"login"}']
    assert one.numbered.out.sent == 0


@pytest.mark.parametrize("data", [b"{", b"[1,\n2]", b"\xff"])
def test_outside_must_be_a_message(data: bytes) -> None:
    """Or the other side would take it for a breach: it is refused here."""
    one, _ = pair()
    with pytest.raises(PayloadError):
        one.numbered.outside(Send(data))


def test_outside_of_the_wrong_kind() -> None:
    one, _ = pair()
    with pytest.raises(PayloadError):
        one.numbered.outside(Send(b"{}", binary=True))


def test_asides_are_not_counted_among_known() -> None:
    """In a batch that is known in part they are heard, and take no number."""
    _, other = pair()
    other.hear("[1,0,0,0,0,0,[]]\na\nb")
    again = '[1,0,0,0,0,0,[]]\na\n["aside",{}]\nb\nc'
    assert other.hear(again) == [b"{}", "c"]


# What is known already


def test_known_numbers_are_passed_over() -> None:
    """In a batch that is known wholly or in part; messages and numbered control frames."""
    _, other = pair()
    batch = '[1,0,0,0,0,0,[]]\na\n["cancel",7]\n["void"]\nb'
    assert other.hear(batch) == ["a", "b"]
    assert other.hear(batch) == []
    assert other.hear(batch + '\nc\n["cancel",8]') == ["c"]
    assert other.controls == [Cancel(7), Cancel(8)]
    assert other.numbered.into.received == 6
    assert other.hear('[3,0,0,0,0,0,[]]\n["void"]\nb\nc\n["cancel",8]\nd') == ["d"]


def test_known_requests_are_not_run_twice() -> None:
    _, other = pair()
    req = '["req",1,null,[0,0],null,{}]'
    other.hear(f"[1,0,0,0,0,0,[]]\n{req}", f"[1,0,0,0,0,0,[]]\n{req}\n{req}")
    assert len(other.controls) == 2
    assert other.numbered.into.received == 2


def test_known_frames_take_no_room() -> None:
    one, other = pair(server=terms(2))
    (batch,) = one.say(*sends("a", "b"))
    for _ in range(5):
        other.hear(batch)
    assert other.numbered.into.held == Bounds(2, 2)


def test_a_message_that_cannot_be_read_is_one() -> None:
    """Whatever a frame holds that is no control frame is handed on, with a number and a slot."""
    _, other = pair()
    odd = ["{", "", "null", ' ["void"]', '"\ud7ff"', '{"type":1}']
    assert other.hear("\n".join(["[1,0,0,0,0,0,[]]", *odd])) == odd
    assert len(other.slots) == other.numbered.into.received == 6
    assert other.numbered.over is None


# A new link


def test_replay() -> None:
    """In order, under the same numbers, before anything new."""
    one, other = pair()
    other.hear(*one.say(*sends("a", "b")))
    one.numbered.note(Cancel(7))
    one.say(*sends("c", "d"))
    cut(one, other)
    assert one.numbered.ready_at(0.0) == -math.inf
    assert one.numbered.room()[0] == 0
    assert not one.numbered.may_go(sends("e")[0])
    assert one.numbered.prepare(0.0) == 0
    (batch,) = one.numbered.finish((), 0.0)
    assert one.wire(batch) == '[3,0,0,0,0,0,[]]\n["cancel",7]\nc\nd'
    assert other.hear(one.wire(batch)) == ["c", "d"]
    assert one.numbered.room()[0] > 0


def test_replay_of_nothing() -> None:
    """Where only the acks were lost, the position tells, and nothing goes out again."""
    one, other = pair()
    entries = sends("a", "b")
    other.hear(*one.say(*entries))
    other.take(1)
    other.take(1, taken=False)
    cut(one, other)
    assert [each.outcome for each in entries] == [ACKED, dropped("receiver")]
    assert one.say() == []
    assert other.numbered.ready_at(0.0) == math.inf


def test_replay_is_cut_into_batches() -> None:
    """Of at most 64 KiB, or one frame."""
    one, other = pair()
    entries = sends("a" * 40_000, "b" * 30_000, "c" * 30_000, "d" * 80_000, "e")
    one.say(*entries)
    cut(one, other)
    got: list[list[int]] = []
    while one.numbered.ready_at(0.0) == -math.inf:
        (batch,) = one.say()
        got.append([len(data) for data in other.hear(batch)])
    assert got == [[40_000], [30_000, 30_000], [80_000], [1]]


def test_replay_of_many_voids() -> None:
    """A batch has at most `BATCH_FRAMES` frames, whatever they are."""
    plenty = terms(10_000, replay=(10_000, 1 << 20))
    one, other = pair(plenty, plenty)
    entries = sends(*"m" * 5000)
    one.say(*entries)
    for entry in entries:
        one.numbered.take_back(entry, WITHDRAWN)
    cut(one, other)
    while one.numbered.ready_at(0.0) == -math.inf:
        (batch,) = one.say()
        assert len(JSON_SYNTAX.split(batch)[1]) <= BATCH_FRAMES
        assert other.hear(batch) == []
    assert other.numbered.into.received == 5000
    assert all(entry.outcome is WITHDRAWN for entry in entries)


def test_a_replay_fits_in_a_batch() -> None:
    """With all its voids it is no larger than the other side takes."""
    large = terms(10_000, message_bytes=1000)
    one, other = pair(large, large)
    kept, lost = sends(*["x" * 800] * 80), sends(*"m" * 4000)
    one.say(*kept)
    one.say(*lost)
    for entry in lost:
        one.numbered.take_back(entry, WITHDRAWN)
    cut(one, other)
    while one.numbered.ready_at(0.0) == -math.inf:
        (batch,) = one.say()
        assert len(batch) <= 1000 + BATCH_MARGIN_BYTES
        other.hear(batch)


def test_heartbeat_in_a_replay() -> None:
    one, other = pair()
    one.say(*sends("a"))
    cut(one, other)
    one.numbered.aside(Heartbeat(b"{}"))
    (batch,) = one.say()
    assert batch == '[1,0,0,0,0,0,[]]\n["aside",{}]\na'


def test_void_for_withdrawn() -> None:
    """A message that was taken back after it was committed, and did not arrive, never will."""
    one, other = pair()
    arrived, lost, kept = sends("a", "b", "c")
    other.hear(*one.say(arrived))
    one.say(lost, kept)
    for entry in (arrived, lost):
        one.numbered.take_back(entry, WITHDRAWN)
        assert entry.outcome is None
    cut(one, other)
    (batch,) = one.say()
    assert batch == f"[2,0,0,0,0,0,[]]\n{VOID}\nc"
    assert other.hear(batch) == ["c"]
    assert lost.outcome is WITHDRAWN
    other.take(2)
    one.hear(other.ack())
    assert arrived.outcome is kept.outcome is ACKED


def test_void_for_expired() -> None:
    """What has expired meanwhile is not sent again."""
    one, other = pair()
    (entry,) = sends("a", expires_at=10.0)
    one.say(entry, now=0.0)
    cut(one, other)
    assert other.hear(*one.say(now=10.0)) == []
    assert entry.outcome == dropped("expired")


def test_void_for_ephemeral() -> None:
    """What is not to be queued offline is not sent again when its link died."""
    one, other = pair()
    arrived, lost = sends("a", "b", ephemeral=True)
    (normal,) = sends("c")
    other.hear(*one.say(arrived))
    one.say(lost, normal)
    cut(one, other)
    (batch,) = one.say()
    assert batch == f"[2,0,0,0,0,0,[]]\n{VOID}\nc"
    other.hear(batch)
    assert lost.outcome == dropped("offline")
    other.take(2)
    one.hear(other.ack())
    assert arrived.outcome is normal.outcome is ACKED


def test_the_first_wish_counts() -> None:
    """What was withdrawn, and then lost its link, was withdrawn."""
    one, other = pair()
    (entry,) = sends("a", ephemeral=True)
    one.say(entry)
    one.numbered.take_back(entry, WITHDRAWN)
    one.numbered.take_back(entry, dropped("closed"))
    cut(one, other)
    one.say()
    assert entry.outcome is WITHDRAWN


def test_void_frees_the_window() -> None:
    """At both ends alike."""
    one, other = pair(server=terms(2))
    entries = sends("a", "b")
    one.say(*entries)
    for entry in entries:
        one.numbered.take_back(entry, WITHDRAWN)
    cut(one, other)
    other.hear(*one.say())
    assert one.numbered.room()[0] == 2
    assert other.hear(*one.say(*sends("c", "d"))) == ["c", "d"]


def test_a_link_that_dies_in_the_replay() -> None:
    """The next one goes on with what is missing then."""
    one, other = pair()
    one.say(*sends("a" * BATCH_BYTES, "b", "c"))
    cut(one, other)
    other.hear(*one.say())
    cut(one, other)
    assert other.hear(*one.say()) == ["b", "c"]


def test_a_welcome_that_is_lost() -> None:
    """The server has heard the hello, the client not the welcome: the next hello tells the same."""
    one, other = pair()
    (entry,) = sends("a")
    other.hear(*one.say(entry))
    other.take()
    for side in (one, other):
        side.numbered.link_down()
    hello = one.numbered.position()
    other.numbered.check_position(hello)
    other.numbered.resume(hello)
    other.numbered.position()
    other.numbered.link_up(0, 0.0)
    cut(one, other)
    assert entry.outcome is ACKED
    (entry,) = sends("b")
    assert other.hear(*one.say(entry)) == ["b"]


def test_undo_of_a_direct_write() -> None:
    """It gives its number back, and what was to be acked with it is still to be acked."""
    one, other = pair()
    other.hear(*one.say(*sends("m")))
    (entry,) = sends("n")
    other.numbered.try_commit(entry)
    assert other.numbered.undo(entry)
    assert (entry.number, other.numbered.out.sent) == (0, 0)
    at = other.numbered.ready_at(0.0)
    assert at == ACK_S
    assert other.say(now=at) == ["[1,0,1,0,0,0,[]]"]


# Over


def test_bye() -> None:
    """The session is over, with a reason."""
    one, other = pair()
    other.hear(*one.say(*sends("a")))
    data = one.wire(one.numbered.farewell("retry-after=3"))
    assert str(data).endswith(',0,0,0,0,0,[]]\n["bye","retry-after=3"]')
    assert other.hear(data) == []
    assert other.numbered.over == "retry-after=3"
    assert one.numbered.over is None


def test_bye_behind_what_was_never_written() -> None:
    """It is heard, whatever of the batches before it has arrived."""
    one, other = pair()
    one.say(*sends("a", "b"))
    one.numbered.try_commit(*sends("c"))
    other.hear(one.wire(one.numbered.farewell("")))
    assert other.numbered.over == ""
    assert other.numbered.into.received == 0


@pytest.mark.parametrize("written", [True, False])
def test_bye_behind_an_ack_that_was_never_written(written: bool) -> None:
    """What nobody took is no ack, though only the batch before it said so."""
    one, other = pair()
    taken, dropped_one = sends("a", "b")
    other.hear(*one.say(taken, dropped_one))
    other.take()
    other.take(taken=False)
    (ack,) = other.say(*sends("x"))
    if written:
        one.hear(ack)
    one.hear(other.wire(other.numbered.farewell("")))
    assert (taken.outcome, dropped_one.outcome) == (ACKED, dropped("receiver"))
    assert one.numbered.over == ""


def test_bye_behind_messages() -> None:
    """What came before it in the batch is taken."""
    _, other = pair()
    assert other.hear('[1,0,0,0,0,0,[]]\na\n["bye",""]') == ["a"]
    assert other.numbered.over == ""


def test_bye_acks() -> None:
    """It has a header as every batch."""
    one, other = pair()
    (entry,) = sends("a")
    other.hear(*one.say(entry))
    other.take()
    one.hear(other.wire(other.numbered.farewell("")))
    assert entry.outcome is ACKED


def test_the_end() -> None:
    """What is committed and not settled is handed back; nothing wakes anybody any more."""
    one, other = pair()
    other.hear(*one.say(*sends("x")))
    one.hear(*other.say(*sends("y")))
    first, second = sends("a", "b")
    one.say(first, second)
    one.numbered.note(Cancel(7))
    wakes = one.wakes
    assert [each.data for each in one.numbered.end()] == [b"", b"a", b"b"]
    one.take()
    assert one.wakes == wakes
    assert one.numbered.unsettled == 0


# Illegal input

#: By a side that has sent 1 to 3, of which 2 are received and 1 is consumed, and has
#: received 1 and 2, of which it has consumed 1. Its own acks up to 1 are settled.
ILLEGAL = {
    "no header": '{"type":"a"}',
    "empty": "",
    "binary": b"[3,1,2,1,1,1,[]]",
    "a second hello": '["hello","","",{"window":[1,1],"held":[0,0],"replay":[1,1],'
    '"message_bytes":1},{}]',
    "a second welcome": '["welcome","id","t",false,{"window":[1,1],"held":[0,0],'
    '"replay":[1,1],"message_bytes":1},{}]',
    "a hello in a batch": '[3,1,2,1,1,1,[]]\n["hello","","",{},{}]',
    "a number of 0": "[0,1,2,1,1,1,[]]",
    "a gap": "[4,1,2,1,1,1,[]]\na",
    "a gap, and nothing behind it": "[4,1,2,1,1,1,[]]",
    "an ack of the future": "[3,1,4,1,1,1,[]]",
    "an ack of the past": "[3,1,1,1,1,1,[]]",
    "consumed in the past": "[3,1,2,0,1,1,[]]",
    "consumed before received": "[3,1,2,3,1,1,[]]",
    "credit for too many messages": "[3,1,2,1,4,1,[]]",
    "credit for too many bytes": "[3,1,2,1,1,4,[]]",
    "fewer messages than before": "[3,1,2,1,0,1,[]]",
    "fewer bytes than before": "[3,1,2,1,1,0,[]]",
    "a drop that is not consumed": "[3,1,3,2,1,1,[[2,3]]]",
    "a drop without an ack": "[3,1,2,1,1,1,[[2,2]]]",
    "a drop of 0": "[3,1,3,2,1,1,[[0,2]]]",
    "a range backwards": "[3,1,3,3,1,1,[[3,2]]]",
    "ranges out of order": "[3,1,3,3,1,1,[[3,3],[2,2]]]",
    "ranges that overlap": "[3,1,3,3,1,1,[[2,3],[3,3]]]",
    "settled that was not acked": "[3,2,2,1,1,1,[]]",
    "settled of the past": "[3,0,2,1,1,1,[]]",
    "an unknown control frame": '[3,1,2,1,1,1,[]]\n["nope"]',
    "a control frame that is none": '[3,1,2,1,1,1,[]]\n["cancel"',
    "a known control frame that is none": '[1,1,2,1,1,1,[]]\n["cancel"',
    "too many messages": "[3,1,2,1,1,1,[]]" + "\na" * 4,
    "too many bytes": "[3,1,2,1,1,1,[]]\n" + "a" * 41,
    "too many frames": "[3,1,2,1,1,1,[]]" + "\n[]" * 4097,
}


def on_the_way() -> Side:
    """The receiver of `ILLEGAL`: a window of 4 messages and 40 bytes."""
    side = Side(terms(4, 40, message_bytes=50), terms())
    side.say(*sends(*"abc"))
    side.hear("[1,0,2,1,1,1,[]]\na\nb")
    side.take()
    side.ack()
    side.hear("[3,1,2,1,1,1,[]]")
    return side


@pytest.mark.parametrize("data", ILLEGAL.values(), ids=list(ILLEGAL))
def test_illegal(data: str | bytes) -> None:
    """A breach ends the link with 1002, and the session with it."""
    broken(on_the_way(), data)


@pytest.mark.parametrize(
    "data",
    [
        "[3,1,2,1,1,1,[]]",
        "[3,1,3,3,3,3,[[2,3]]]",
        "[3,1,3,3,2,3,[[2,2],[3,3]]]",
        "[3,1,2,1,1,1,[]]" + "\na" * 3,
        "[3,1,2,1,1,1,[]]\n" + "a" * 39,
        '[3,1,2,1,1,1,[]]\n["cancel",4]',
        "[1,1,2,1,1,1,[]]\na\nb",
        "[2,1,2,1,1,1,[]]\nb\nc",
        "[3,1,2,1,1,1,[]]\n{",
    ],
)
def test_legal(data: str) -> None:
    """The table above does not refuse what is right beside it."""
    side = on_the_way()
    side.hear(data)
    assert side.numbered.over is None


def test_a_frame_too_large() -> None:
    """Of any kind: 1009."""
    for frame in ("a" * 51, "é" * 26, '["aside",{"a":"' + "x" * 40 + '"}]'):
        assert "bytes" in broken(on_the_way(), f"[3,1,2,1,1,1,[]]\n{frame}", code=1009)
    side = Side(terms(message_bytes=50), terms())
    side.hear("[1,0,0,0,0,0,[]]\n" + "é" * 25)


def test_a_message_larger_than_the_window() -> None:
    """One may come when nothing is in flight, and no other with it."""
    side = Side(terms(4, 10), terms())
    side.hear("[1,0,0,0,0,0,[]]\n" + "a" * 30)
    broken(side, "[2,0,0,0,0,0,[]]\na")
    side = Side(terms(4, 10), terms())
    side.hear("[1,0,0,0,0,0,[]]\na")
    broken(side, "[2,0,0,0,0,0,[]]\n" + "a" * 30)


def test_a_wrong_kind_for_msgpack() -> None:
    side = Side(terms(), terms(), MSGPACK_SYNTAX)
    assert "binary" in broken(side, "[1,0,0,0,0,0,[]]")


@pytest.mark.parametrize(
    "said",
    [
        Position(1, 4, 1, 1, 1),
        Position(1, 1, 1, 1, 1),
        Position(1, 2, 3, 1, 1),
        Position(1, 2, 1, 4, 1),
        Position(1, 2, 1, 1, 4),
        Position(1, 2, 1, 0, 1),
        Position(1, 2, 1, 1, 0),
        Position(0, 2, 1, 1, 1),
        Position(2, 2, 1, 1, 1),
        Position(1, 2, 1, 1, 1, [(1, 2)]),
        Position(1, 2, 2, 1, 1, [(2, 2), (1, 1)]),
    ],
)
def test_illegal_position(said: Position) -> None:
    """Of the other side at a resume; it disturbs nothing."""
    side = on_the_way()
    side.numbered.link_down()
    side.numbered.check_position(Position(1, 2, 1, 1, 1))
    with pytest.raises(LinkClosed) as caught:
        side.numbered.check_position(said)
    assert (caught.value.code, caught.value.by_peer) == (1002, False)
    assert side.numbered.over is None


header_numbers = st.integers(-1, 5)


@settings(max_examples=500, deadline=None)
@given(
    st.tuples(*[header_numbers] * 6),
    st.lists(st.tuples(header_numbers, header_numbers), max_size=3),
    st.lists(
        st.sampled_from(["a", '["void"]', '["cancel",1]', '["aside",{}]', "[", ""]), max_size=4
    ),
)
def test_no_header_breaks_the_books(
    numbers: tuple[int, ...], drops: Sequence[tuple[int, int]], frames: list[str]
) -> None:
    """Whatever is said, it is taken in wholly or is a breach, and the marks keep their order."""
    side = on_the_way()
    data = msgspec.json.encode([*numbers, drops]).decode()
    try:
        side.hear("\n".join([data, *frames]))
    except LinkClosed as error:
        answer = (error.code, error.by_peer, side.numbered.over is None)
    else:
        answer = (1002, False, side.numbered.over is not None)
    assert answer == (1002, False, False)
    out, into = side.numbered.out, side.numbered.into
    assert 1 <= out.settled <= out.received <= out.sent == 3
    assert 1 <= into.consumed <= into.received
    assert min(out.in_window) >= 0
    assert into.held.messages <= 4


# In a session


def session(
    inbox: InboxLimits | None = None, outbox: OutboxLimits | None = None, replay: int = 1000
) -> Session:
    return Session(
        JsonCodec().decode,
        outbox or OutboxLimits(),
        inbox or InboxLimits(),
        JSON_SYNTAX,
        bounds(replay, 1 << 20),
    )


def introduce(client: Session, server: Session, number: int = 1) -> None:
    """A new session, or the old one on a new link."""
    hello = JSON_SYNTAX.hello(client.hello().data.decode())
    if server.numbered is not None:
        server.check_hello(hello)
    welcome = server.welcome(hello, "id", f"token {number}").data.decode()
    client.welcomed(welcome, None)
    for side in (client, server):
        side.link_up(0.0, 0)


def wired(batches: Sequence[Any]) -> list[str]:
    return [batch.data.decode() for batch in batches]


def acks(side: Session) -> list[str]:
    """What goes out within `ACK_S` by itself."""
    at = side.ready_at(0.0)
    return wired(side.take(max(at, 0.0))) if at <= ACK_S else []


def opened(side: Session, *types: str) -> Queue:
    return side.inbox.open(
        frozenset(types) or None, reader=lambda payload: payload, capacity=None, on_full="pause"
    )


def envelope(type: str = "a", payload: str = "") -> Send:
    return Send(msgspec.json.encode({"type": type, "payload": payload}))


def queued(side: Session, *entries: Entry) -> None:
    for entry in entries:
        assert side.offer(entry, 0.0)


def test_a_batch_stays_in_the_window() -> None:
    """Its bytes bound the first batch as they do the later ones."""
    client, server = session(), session(InboxLimits(total_bytes=100))
    introduce(client, server)
    queued(client, *[envelope(payload="x" * 10) for _ in range(9)])
    server.receive(wired(client.take(0.0)), 0.0)
    assert server.numbered is not None
    assert server.numbered.into.held.bytes <= 100


def test_one_large_message_goes_alone() -> None:
    """What is larger than the window goes when nothing is in flight, and nothing with it."""
    client, server = session(), session(InboxLimits(total_bytes=100))
    introduce(client, server)
    queued(client, envelope(payload="x" * 200), envelope())
    server.receive(wired(client.take(0.0)), 0.0)
    assert server.numbered is not None
    assert server.numbered.into.received == 1


def test_what_arrived_before_a_breach_takes_no_room() -> None:
    """In the same read: its program never sees it, so it must not count as lying here."""
    client, server = session(InboxLimits(messages=4)), session()
    introduce(client, server)
    queue = opened(client)
    queued(server, *[envelope() for _ in range(4)])
    (good,) = wired(server.take(0.0))
    with pytest.raises(LinkClosed):
        client.receive([good, "nonsense"], 0.0)
    client.link_down(0.0)
    client.route(final=True)
    queue.take_many(100)
    assert JSON_SYNTAX.hello(client.hello().data.decode()).terms.held == (0, 0)


def test_what_arrived_before_a_cut_is_handed_out() -> None:
    """A full stream was to be given a turn first; the one beside it gets its message all the same."""
    client, server = session(), session()
    introduce(client, server)
    lossy = client.inbox.open(
        None, reader=lambda payload: payload, capacity=1, on_full="drop_newest"
    )
    pausing = opened(client)
    queued(server, *[envelope() for _ in range(3)])
    client.receive(wired(server.take(0.0)), 0.0)
    assert not client.route()
    client.link_down(0.0)
    assert len(pausing.take_many(100)) == 3
    assert len(lossy.take_many(100)) == 2  # one message, and the mark of the loss


def test_room_freed_before_the_welcome_is_told() -> None:
    """A client that only listens has to say that the room that it told of is free."""
    client, old, new = session(InboxLimits(messages=2)), session(), session()
    introduce(client, old)
    queue = opened(client)
    queued(old, envelope(), envelope())
    client.receive(wired(old.take(0.0)), 0.0)
    client.route()
    client.link_down(0.0)
    hello = JSON_SYNTAX.hello(client.hello().data.decode())
    assert hello.terms.held[0] == 2
    welcome = new.welcome(hello, "other", "token").data.decode()
    assert len(queue.take_many(100)) == 2
    client.welcomed(welcome, None)
    for side in (client, new):
        side.link_up(0.0, 0)
    queued(new, envelope())
    assert not new.take(0.0)
    assert client.ready_at(0.0) <= ACK_S, "nobody will ever send anything"
    new.receive(acks(client), 0.0)
    assert len(new.take(0.0)) == 1


def test_a_breach_right_behind_the_welcome() -> None:
    """It ends the session as any other: the next hello begins a new one."""
    client, server = session(), session()
    introduce(client, server)
    client.link_down(0.0)
    hello = JSON_SYNTAX.hello(client.hello().data.decode())
    assert client.welcomed(server.welcome(hello, "id", "token").data.decode(), None)
    with pytest.raises(LinkClosed):
        client.receive(["nonsense"], 0.0)
    assert JSON_SYNTAX.hello(client.hello().data.decode()).session == ""


def test_over_is_lost() -> None:
    """After a bye, or a breach, the link takes the session with it."""
    for last in ('[1,0,0,0,0,0,[]]\n["bye",""]', "nonsense"):
        client, server = session(), session()
        introduce(client, server)
        entry = envelope()
        queued(client, entry)
        client.take(0.0)
        try:
            client.receive([last], 0.0)
        except LinkClosed:
            pass
        client.link_down(0.0)
        assert entry.outcome is INDETERMINATE
        assert JSON_SYNTAX.hello(client.hello().data.decode()).session == ""


def test_malformed_is_taken() -> None:
    """A message that cannot be decoded is no breach: it is shown, counted and consumed."""
    client, server = session(), session()
    introduce(client, server)
    complaints = client.inbox.open_malformed()
    client.receive(['[1,0,0,0,0,0,[]]\n{\n\n{"type":7}'], 0.0)
    client.route()
    assert client.inbox.malformed_count == len(complaints) == 3
    assert client.numbered is not None
    assert client.numbered.into.consumed == 3
    assert client.numbered.into.held == Bounds(0, 0)


def test_malformed_is_acked() -> None:
    """The sender of what cannot be read has it acked: it was taken, as an error."""
    client, server = session(), session()
    introduce(client, server)
    entry = Send(b"{")
    queued(server, entry)
    client.receive(wired(server.take(0.0)), 0.0)
    client.route()
    server.receive(acks(client), 0.0)
    assert entry.outcome is ACKED


def test_unwanted_types_are_dropped() -> None:
    """What no stream wants has its sender told."""
    client, server = session(), session()
    introduce(client, server)
    queue = opened(client, "a")
    entries = [envelope("b"), envelope("a"), envelope("b")]
    queued(server, *entries)
    client.receive(wired(server.take(0.0)), 0.0)
    client.route()
    assert isinstance(queue.take(), Message)
    server.receive(acks(client), 0.0)
    assert [each.outcome for each in entries] == [
        dropped("receiver"),
        ACKED,
        dropped("receiver"),
    ]


def test_window_opens_for_others() -> None:
    """A stream that is not read holds its own messages' room, and no more."""
    client, server = session(InboxLimits(messages=4)), session()
    introduce(client, server)
    opened(client, "slow")
    fast = opened(client, "fast")
    slow = [envelope("slow"), envelope("slow")]
    queued(server, *slow)
    for number in range(20):
        queued(server, envelope("fast", str(number)))
    got = 0
    for _ in range(40):
        client.receive(wired(server.take(0.0)), 0.0)
        client.route()
        got += len(fast.take_many(100))
        server.receive(acks(client), 0.0)
    assert got == 20
    assert [each.outcome for each in slow] == [None, None]


def test_a_resume_that_was_not_asked_for() -> None:
    """Neither where there is no session, nor of another one."""
    client, server = session(), session()
    hello = JSON_SYNTAX.hello(client.hello().data.decode())
    welcome = server.welcome(hello, "id", "token").data.decode()
    with pytest.raises(LinkClosed, match="not asked for"):
        client.welcomed(welcome.replace("false", "true"), None)
    client.welcomed(welcome, None)
    client.link_down(0.0)
    client.hello()
    with pytest.raises(LinkClosed, match="not asked for"):
        client.welcomed(welcome.replace("false", "true").replace('"id"', '"other"'), None)


@pytest.mark.parametrize("position", ['{"received":1}', '{"settled":1}', '{"messages":1}'])
def test_welcome_that_cannot_be(position: str) -> None:
    """A resume from where this side cannot stand ends the session."""
    client, server = session(), session()
    introduce(client, server)
    client.link_down(0.0)
    client.hello()
    terms = '{"window":[9,9],"held":[0,0],"replay":[9,9],"message_bytes":9}'
    with pytest.raises(LinkClosed) as caught:
        client.welcomed(f'["welcome","id","t",true,{terms},{position}]', None)
    assert (caught.value.code, caught.value.by_peer) == (1002, False)
    assert JSON_SYNTAX.hello(client.hello().data.decode()).session == ""


def test_hello_that_cannot_be_disturbs_nobody() -> None:
    """The session of the one who may resume it goes on."""
    client, server = session(), session()
    introduce(client, server)
    queued(server, envelope())
    server.take(0.0)
    client.link_down(0.0)
    server.link_down(0.0)
    hello = JSON_SYNTAX.hello(client.hello().data.decode())
    hello.position.received = 2
    with pytest.raises(LinkClosed):
        server.check_hello(hello)
    introduce(client, server)
    assert server.numbered is not None
    assert len(wired(server.take(0.0))) == 1


def test_a_new_session_starts_from_nothing() -> None:
    """Positions are those of one session; a server that has forgotten begins at 1."""
    client, old, new = session(), session(), session()
    introduce(client, old)
    entry = envelope()
    queued(client, entry)
    client.take(0.0)
    client.link_down(0.0)
    introduce(client, new)
    assert entry.outcome is INDETERMINATE
    queued(client, envelope())
    assert wired(client.take(0.0))[0].startswith("[1,0,0,0,0,0,[]]\n")


# Everything at once

OFFER, DIRECT, WRITE, READ, CONSUME, WITHDRAW, CUT, HALF, TICK = range(9)

steps = st.lists(
    st.tuples(
        st.sampled_from([OFFER, WRITE, READ, CONSUME] * 3 + [DIRECT, WITHDRAW, CUT, HALF, TICK]),
        st.integers(0, 1),
        st.integers(0, 5),
        st.sampled_from(["a", "b", "unwanted", "a", "b", "ephemeral"]),
    ),
    min_size=5,
    max_size=80,
)


class Story:
    """Two sessions, what is on the way between them, and all that was ever sent."""

    def __init__(self, size: int) -> None:
        inboxes = (InboxLimits(messages=3, total_bytes=size), InboxLimits(total_bytes=size))
        self.sides = [session(inbox, replay=5) for inbox in inboxes]
        self.ways: list[list[str]] = [[], []]
        self.queues = [{type: opened(side, type) for type in "ab"} for side in self.sides]
        self.sent: list[list[tuple[str, Send]]] = [[], []]
        self.got: list[list[tuple[str, int]]] = [[], []]
        self.undecided: list[list[Send]] = [[], []]
        self.now = 0.0
        introduce(self.sides[0], self.sides[1])

    def step(self, op: int, number: int, count: int, type: str) -> None:
        side, other = self.sides[number], 1 - number
        match op:
            case _ if op == OFFER:
                self.offer(number, type, direct=False, count=count)
            case _ if op == DIRECT:
                self.offer(number, type, direct=True, count=count)
            case _ if op == WRITE and side.ready_at(self.now) <= self.now:
                self.ways[number] += wired(side.take(self.now))
            case _ if op == READ:
                batches, self.ways[other] = self.ways[other][:count], self.ways[other][count:]
                side.receive(batches, self.now)
                side.route()
            case _ if op == CONSUME:
                self.consume(number, type[0], count)
            case _ if op == WITHDRAW and self.sent[number]:
                side.withdraw(self.sent[number][count % len(self.sent[number])][1])
            case _ if op == CUT:
                self.cut(count)
            case _ if op == HALF:
                # The welcome is lost.
                self.down(count)
                hello = JSON_SYNTAX.hello(self.sides[0].hello().data.decode())
                self.sides[1].check_hello(hello)
                self.sides[1].welcome(hello, "id", "token")
                self.sides[1].link_up(self.now, 0)
                self.ways[1] += wired(self.sides[1].take(self.now))
                self.cut(0)
            case _ if op == TICK:
                self.now += count / 10
        self.check()

    def offer(self, number: int, type: str, *, direct: bool, count: int) -> None:
        side = self.sides[number]
        payload = len(self.sent[number])
        entry = Send(
            msgspec.json.encode({"type": type, "payload": payload}),
            ephemeral=type == "ephemeral",
            expires_at=self.now + 0.3 if count == 5 else math.inf,
        )
        if not direct:
            queued_at = side.offer(entry, self.now)
            assert queued_at
        elif side.may_send_directly(entry, self.now):
            batch = side.try_commit(entry)
            if not count:
                assert side.undo(entry)
                return
            self.ways[number] += wired([batch])
            side.confirm(entry, 0, self.now)
        else:
            return
        self.sent[number].append((type, entry))

    def consume(self, number: int, type: str, count: int) -> None:
        queue = self.queues[number].get(type)
        for item in [] if queue is None else queue.take_many(count):
            assert isinstance(item, Message), "in a session that lives nothing is lost"
            self.got[number].append((item.type, msgspec.json.decode(item.payload)))

    def down(self, count: int) -> None:
        """The link dies; some of what was on the way arrived."""
        for number, side in enumerate(self.sides):
            side.receive(self.ways[1 - number][:count], self.now)
            side.route()
        for side in self.sides:
            side.link_down(self.now)
            side.drop_ephemeral()
        self.ways = [[], []]

    def cut(self, count: int) -> None:
        self.down(count)
        introduce(self.sides[0], self.sides[1])

    def check(self) -> None:
        for side, sent in zip(self.sides, self.sent, strict=True):
            side.lanes.expire(self.now)
            assert side.accepted == side.outcomes.total() + side.unsettled == len(sent)

    def finish(self) -> None:
        for _ in range(200):
            self.now += ACK_S
            for number in range(2):
                self.ways[number] += wired(self.sides[number].take(self.now))
                self.step(READ, 1 - number, 100, "a")
                for type in "ab":
                    self.consume(1 - number, type, 100)
            if not any(side.unsettled for side in self.sides):
                break
        for number in range(2):
            wanted = []
            for payload, (type, entry) in enumerate(self.sent[number]):
                assert entry.outcome is not None
                assert entry.outcome is not INDETERMINATE
                if type in "ab":
                    assert entry.outcome != dropped("receiver")
                if entry.outcome is ACKED:
                    wanted.append((type, payload))
            got = self.got[1 - number]
            for type in "ab":
                assert [each for each in got if each[0] == type] == [
                    each for each in wanted if each[0] == type
                ]


@pytest.mark.parametrize("size", [1 << 20, 80])
def test_a_story(size: int) -> None:
    """Over any number of links each message arrives once and in order, or its sender knows why."""

    @settings(max_examples=300, deadline=None)
    @given(steps)
    def tell(ops: list[tuple[int, int, int, str]]) -> None:
        story = Story(size)
        for op in ops:
            story.step(*op)
        story.finish()

    tell()


FORGET = 9

losses = st.lists(
    st.tuples(
        st.sampled_from([OFFER, WRITE, READ, CONSUME] * 3 + [CUT, FORGET, FORGET]),
        st.integers(0, 1),
        st.integers(0, 5),
        st.sampled_from(["a", "b", "unwanted"]),
    ),
    min_size=5,
    max_size=80,
)


class Losses(Story):
    """The server forgets its sessions; what the client holds of them takes room in the next."""

    def step(self, op: int, number: int, count: int, type: str) -> None:
        if op != FORGET:
            super().step(op, number, count, type)
            return
        self.down(count)
        self.sides[1] = server = session(InboxLimits(), replay=5)
        self.queues[1] = {type: opened(server, type) for type in "ab"}
        self.sent[1] = []
        hello = JSON_SYNTAX.hello(self.sides[0].hello().data.decode())
        if number:
            self.consume(0, "a", count)
        welcome = server.welcome(hello, "id", "token").data.decode()
        assert not self.sides[0].welcomed(welcome, None)
        for side in self.sides:
            side.link_up(self.now, 0)
        self.check()

    def consume(self, number: int, type: str, count: int) -> None:
        queue = self.queues[number].get(type)
        if queue is not None:
            queue.take_many(count)

    def finish(self) -> None:
        for _ in range(100):
            self.now += ACK_S
            for number in range(2):
                super().step(WRITE, number, 0, "a")
                super().step(READ, 1 - number, 100, "a")
                for type in "ab":
                    self.consume(1 - number, type, 100)
        for side in self.sides:
            assert not side.unsettled
            if side.numbered is not None:
                assert side.numbered.out.in_window == (0, 0)
                assert side.numbered.into.held == Bounds(0, 0)


@settings(max_examples=300, deadline=None)
@given(losses)
def test_a_story_of_losses(ops: list[tuple[int, int, int, str]]) -> None:
    """Over any number of sessions the window is kept, and is open again in the end."""
    story = Losses(1 << 20)
    for op in ops:
        story.step(*op)
    story.finish()

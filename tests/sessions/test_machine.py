"""Two `Session`s over pipes that are cut: any order of steps, without a loop or a clock."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, ClassVar, Final

import attrs
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trio_rt import Gap, InboxLimits, LinkClosed, Message, OutboxLimits, Priority, Reset
from trio_rt.outcome import ACKED, INDETERMINATE, WITHDRAWN, dropped
from trio_rt.protocol.codec import Codec, JsonCodec, Meta, MsgpackCodec, payload_reader
from trio_rt.protocol.frames import Header
from trio_rt.protocol.inbox import Queue
from trio_rt.protocol.lanes import Entry
from trio_rt.protocol.ledger import Bounds
from trio_rt.protocol.numbered import Batch
from trio_rt.protocol.outgoing import Outgoing
from trio_rt.protocol.session import Session, syntax_of

LIMITS: Final = InboxLimits(messages=4, total_bytes=600)
OUTBOX: Final = OutboxLimits(messages=12, total_bytes=2_000)
REPLAY: Final = Bounds(6, 900)

#: The last one is wanted by nobody, and the one before also by a stream that loses.
TYPES: Final = ("a", "b", "c")

#: In so many rounds all must have arrived, once nothing is cut any more.
ROUNDS: Final = 500

SIDES: Final = st.sampled_from((0, 1))


@attrs.define(eq=False)
class End:
    """One side: its session, its streams and what was taken from them."""

    session: Session
    whole: Queue
    lossy: Queue
    #: What is on its way to the other side.
    pipe: deque[Batch] = attrs.field(factory=deque)
    written: int = 0
    got: list[Any] = attrs.field(factory=list)
    got_lossy: list[Any] = attrs.field(factory=list)

    @classmethod
    def make(cls, codec: Codec, replay: Bounds | None) -> End:
        session = Session(codec.decode, OUTBOX, LIMITS, syntax_of(codec), replay)
        read = payload_reader(codec, Any)
        whole = session.inbox.open(
            frozenset(TYPES[:2]), reader=read, capacity=None, on_full="pause"
        )
        lossy = session.inbox.open(
            frozenset(TYPES[1:2]), reader=read, capacity=1, on_full="drop_oldest"
        )
        return cls(session, whole, lossy)


@attrs.define(eq=False)
class Sent:
    entry: Entry
    label: int
    side: int
    #: Of how many servers the last was there.
    servers: int
    type: str
    withdrawn: bool = False
    #: It was given up, and if it has not arrived by now it is not to be sent again.
    unwanted: bool = False
    #: So it was found at a resume.
    stale: bool = False


class Machine(RuleBasedStateMachine):
    codec: ClassVar[Codec]

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.client = End.make(self.codec, None)
        self.server: End | None = None
        #: All that there were, in order.
        self.servers: list[End] = []
        #: Sessions that the client knows of.
        self.known = 0
        self.token = 0
        self.up = False
        self.sent: list[Sent] = []
        #: The frames that have arrived in this session, from each side.
        self.arrived: tuple[list[bytes], list[bytes]] = ([], [])
        syntax = syntax_of(self.codec)
        assert syntax is not None
        self.syntax = syntax
        self.dial()

    # The network

    def dial(self, lost: str = "") -> None:
        """A new link; `lost` is the word behind which it is cut."""
        hello = self.client.session.hello()
        if lost == "hello":
            return
        said = self.syntax.hello(_text(hello))
        server = self.server
        fresh = server is None or server.session.numbered is None
        if fresh or not said.session or said.session != self.id_of(server):
            if server is not None:
                server.session.end()
            self.server = server = End.make(self.codec, REPLAY)
            self.servers.append(server)
            self.arrived = ([], [])
        assert server is not None
        if server.session.linked:  # half-open
            self.notice(server)
        if server.session.numbered is not None:
            server.session.check_hello(said)
        server.pipe.clear()
        self.token += 1
        id = self.id_of(server) or f"s{len(self.servers)}"
        welcome = server.session.welcome(said, id, str(self.token))
        server.session.link_up(self.now, 0)
        server.written = 0
        if lost == "welcome":
            return
        before = self.client.session.numbered
        resumed = self.client.session.welcomed(_text(welcome), None)
        assert resumed is (self.client.session.numbered is before)
        if resumed:
            self.mark_stale()
        self.known += not resumed
        self.client.session.link_up(self.now, 0)
        self.client.written = 0
        self.up = True

    def mark_stale(self) -> None:
        for sent in self.sent:
            if sent.entry.outcome is None and sent.entry.number:
                other = self.end(1 - sent.side).session.numbered
                assert other is not None
                gone = sent.unwanted or sent.entry.expires_at <= self.now
                sent.stale = sent.stale or (gone and sent.entry.number > other.into.received)

    def end_of(self, sent: Sent) -> End:
        return self.servers[sent.servers - 1] if sent.side else self.client

    @staticmethod
    def id_of(end: End | None) -> str:
        numbered = None if end is None else end.session.numbered
        return "" if numbered is None else numbered.id

    def end(self, side: int) -> End:
        return self.servers[-1] if side else self.client

    def peers(self, side: int) -> list[End]:
        return self.servers if side else [self.client]

    def cut_now(self, half_open: bool = False) -> None:
        self.up = False
        for end in (self.client, self.server):
            if end is None:
                continue
            end.pipe.clear()
            if end.session.linked and not (half_open and end is self.server):
                self.notice(end)

    def notice(self, end: End) -> None:
        """`end` finds its link dead."""
        end.session.link_down(self.now)
        end.session.drop_ephemeral()
        for sent in self.sent:
            if sent.entry.ephemeral and self.end_of(sent) is end:
                sent.unwanted = True

    def take(self, side: int) -> bool:
        end = self.end(side)
        if not end.session.linked:
            return False
        batches = end.session.take(self.now)
        end.written += len(batches)
        end.session.written(end.written)
        if self.up:
            # Else into the void of a half-open link.
            end.pipe.extend(batch for batch in batches if isinstance(batch, Batch))
        return bool(batches)

    def transfer(self, side: int, count: int, again: int = 0) -> None:
        to = self.end(1 - side)
        pipe = self.end(side).pipe
        for _ in range(min(count, len(pipe))):
            to.session.receive([_text(self.overlap(side, pipe.popleft(), again))], self.now)
            while not to.session.route():
                pass  # a full stream's consumer had its turn

    def overlap(self, side: int, batch: Batch, again: int) -> Batch:
        """The same batch, from some frames earlier on that the other side has already."""
        syntax, arrived = self.syntax, self.arrived[side]
        header, frames = syntax.split(_text(batch))
        known = arrived[len(arrived) - min(again, len(arrived)) :]
        new = [frame.encode() if isinstance(frame, str) else frame for frame in frames]
        arrived += new
        header.first -= len(known)
        return Batch(syntax.join(header, [*known, *new]), batch.binary, batch.last)

    # The rules

    @rule(
        side=SIDES,
        type=st.sampled_from(TYPES),
        priority=st.sampled_from(tuple(Priority)),
        size=st.sampled_from((0, 0, 40, 150, 700)),
        ttl_s=st.sampled_from((math.inf, math.inf, 1.0)),
        ephemeral=st.booleans(),
        direct=st.sampled_from(("", "sent", "undone")),
    )
    def send(
        self,
        side: int,
        type: str,
        priority: Priority,
        size: int,
        ttl_s: float,
        ephemeral: bool,
        direct: str,
    ) -> None:
        if side and self.server is None:
            return
        end, label = self.end(side), len(self.sent)
        data = self.codec.encode(type, [label, "x" * size], Meta(f"m{label}", None, priority, None))
        entry = Entry(
            data,
            self.codec.binary,
            priority,
            expires_at=self.now + ttl_s,
            ephemeral=ephemeral,
        )
        session = end.session
        if direct and self.up and session.may_send_directly(entry, self.now):
            batch = session.try_commit(entry)
            assert isinstance(batch, Batch)
            if direct == "undone":
                assert session.undo(entry)
                return
            end.pipe.append(batch)
            end.written += 1
            session.confirm(entry, end.written, self.now)
        elif ephemeral and not session.linked:
            session.reject(entry, dropped("offline"))
        elif not session.offer(entry, self.now):
            return
        self.sent.append(Sent(entry, label, side, len(self.servers), type))

    @rule(side=SIDES, count=st.integers(1, 3))
    def write(self, side: int, count: int) -> None:
        for _ in range(count):
            self.take(side)

    @precondition(lambda self: self.up)
    @rule(side=SIDES, count=st.integers(1, 4), again=st.sampled_from((0, 0, 1, 2)))
    def arrive(self, side: int, count: int, again: int) -> None:
        self.transfer(side, count, again)

    @rule(side=SIDES, count=st.integers(1, 5))
    def consume(self, side: int, count: int) -> None:
        end = self.end(side)
        end.got += end.whole.take_many(count)

    @rule(side=SIDES)
    def consume_lossy(self, side: int) -> None:
        end = self.end(side)
        end.got_lossy += end.lossy.take_many(5)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.sent))
        end = self.end_of(sent)
        free = sent.entry.outcome is None and not sent.entry.number
        assert end.session.withdraw(sent.entry) is free
        sent.withdrawn = sent.withdrawn or free
        sent.unwanted = True

    @rule(seconds=st.sampled_from((0.05, 0.2, 1.0, 30.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for end in (self.client, self.server):
            if end is not None:
                end.session.lanes.expire(self.now)

    @precondition(lambda self: self.up)
    @rule(half_open=st.booleans())
    def cut(self, half_open: bool) -> None:
        self.cut_now(half_open)

    @precondition(lambda self: not self.up)
    @rule(lost=st.sampled_from(("", "", "hello", "welcome")))
    def resume(self, lost: str) -> None:
        self.dial(lost)

    @precondition(lambda self: self.server is not None)
    @rule()
    def lose_server(self) -> None:
        """A crash, or the session's time is up."""
        self.cut_now()
        assert self.server is not None
        self.server.session.end()
        self.server = None

    @precondition(lambda self: self.up)
    @rule(side=SIDES, more=st.integers(1, 3))
    def hear_lies(self, side: int, more: int) -> None:
        """What cannot be is a breach, and changes nothing."""
        numbered = self.end(side).session.numbered
        assert numbered is not None
        out, into = numbered.out, numbered.into
        window = out.in_window
        told = out.settled, out.in_window
        header = Header(1, 0, out.next - 1, out.settled, *_credit(out), [])
        replaced = msgspec.structs.replace
        for lie in (
            replaced(header, received=out.next - 1 + more),
            replaced(header, received=out.received - more) if out.received >= more else None,
            replaced(header, consumed=out.next - 1 + more),
            replaced(header, messages=header.messages + window[0] + more),
            replaced(header, bytes=header.bytes + window[1] + more),
            replaced(header, received=out.received, drops=[(out.settled + 1, out.next + more)]),
        ):
            if lie is not None:
                with pytest.raises(LinkClosed):
                    out.acknowledged(lie)
        with pytest.raises(LinkClosed):
            into.begin(into.received + 1 + more, 0)
        with pytest.raises(LinkClosed):
            into.begin(1, into.received + more)
        assert told == (out.settled, out.in_window)

    # What holds after every step

    @invariant()
    def books_balance(self) -> None:
        for end in (self.client, *self.servers):
            session = end.session
            assert session.accepted == sum(session.outcomes.values()) + session.unsettled

    @invariant()
    def windows_hold(self) -> None:
        """P5: in flight, kept for a replay, and waiting in a stream."""
        for end, kept in ((self.client, OUTBOX.messages), (self.server, REPLAY.messages)):
            if end is None or end.session.numbered is None:
                continue
            out = end.session.numbered.out
            messages, size = out.in_window
            assert messages <= min(LIMITS.messages, kept)
            assert messages <= 1 or size <= LIMITS.total_bytes
            assert out.unreceived <= kept
        for end in (self.client, *self.servers):
            for queue in (end.whole, end.lossy):
                assert queue.messages <= LIMITS.messages
                assert queue.messages <= 1 or queue.total_bytes <= LIMITS.total_bytes

    @invariant()
    def outcomes_tell_the_truth(self) -> None:
        """P2, P3: acked is taken, by whom it should be; and what was given up never comes."""
        taken = {side: self.labels(side) for side in (0, 1)}
        for sent in self.sent:
            outcome, count = sent.entry.outcome, taken[sent.side].count(sent.label)
            assert count <= 1, "it came twice"
            assert not (count and sent.stale), "nobody wanted it any more"
            if sent.withdrawn:
                assert outcome is WITHDRAWN
            if outcome is ACKED:
                assert count == 1
            elif outcome not in (None, INDETERMINATE):
                assert count == 0
            if outcome is dropped("receiver"):
                assert sent.type == TYPES[2]

    def labels(self, side: int) -> list[int]:
        """What the streams that pause have given of this side's messages."""
        return [
            item.payload[0]
            for end in self.peers(1 - side)
            for item in end.got
            if isinstance(item, Message)
        ]

    @invariant()
    def order_holds(self) -> None:
        """P2: within a lane, over all links of a session."""
        for end in (self.client, *self.servers):
            last: dict[object, int] = {}
            for item in end.got:
                assert not isinstance(item, Gap)
                if isinstance(item, Reset):
                    last.clear()
                else:
                    assert item.payload[0] > last.get(item.priority, -1)
                    last[item.priority] = item.payload[0]

    # The end

    def teardown(self) -> None:
        """Nothing is cut any more: all arrives, and is acked."""
        if not self.up:
            self.cut_now()
            self.dial()
        for _ in range(ROUNDS):
            if not any(self.settle(side) for side in (0, 1)):
                break
        for end in (self.client, self.server):
            assert end is not None
            assert end.session.unsettled == 0, end.session
        for end in self.servers[:-1]:
            assert end.session.unsettled == 0
        self.outcomes_tell_the_truth()
        self.books_balance()
        self.order_holds()
        assert all(sent.entry.outcome is not None for sent in self.sent)
        self.resets_hold()
        for end in (self.client, self.server):
            assert end is not None
            numbered = end.session.numbered
            assert numbered is not None
            assert numbered.out.in_window == (0, 0), "room of the window is lost"

    def settle(self, side: int) -> bool:
        """One round of one side; False if nothing is left to do but to wait for nothing."""
        end = self.end(side)
        ready_at = end.session.ready_at(self.now)
        if self.now < ready_at < math.inf:
            self.now = ready_at
        wrote = ready_at <= self.now and self.take(side)
        arrived = len(end.pipe)
        self.transfer(side, arrived)
        items = len(end.got) + len(end.got_lossy)
        end.got += end.whole.take_many(100)
        end.got_lossy += end.lossy.take_many(100)
        consumed = len(end.got) + len(end.got_lossy) - items
        return wrote or bool(arrived or consumed)

    def resets_hold(self) -> None:
        """P9: one for each session but the first, unless nothing was taken in between."""
        resets = sum(isinstance(item, Reset) for item in self.client.got)
        assert (resets > 0) is (self.known > 1)
        assert resets < self.known
        for end in self.servers:
            assert not any(isinstance(item, Reset) for item in end.got)
        owner = {sent.label: sent.servers for sent in self.sent}
        last: int | None = None
        for item in self.client.got:
            if isinstance(item, Reset):
                last = None
            elif isinstance(item, Message):
                session = owner[item.payload[0]]
                assert last in (None, session), "no reset between two sessions"
                last = session


def _credit(out: Outgoing) -> tuple[int, int]:
    return out._credit_messages, out._credit_bytes


def _text(batch: Batch) -> str | bytes:
    return batch.data if batch.binary else batch.data.decode()


class JsonMachine(Machine):
    codec = JsonCodec()


class MsgpackMachine(Machine):
    codec = MsgpackCodec()


_SETTINGS: Final = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

TestJson = JsonMachine.TestCase
TestJson.settings = _SETTINGS
TestMsgpack = MsgpackMachine.TestCase
TestMsgpack.settings = _SETTINGS

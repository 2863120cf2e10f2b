"""One side of the talk: the same class at both ends.

A `Session` outlives links. It owns the outbox (`lanes`) and the inbox, and
keeps the books: every accepted send ends in one outcome, and the sum of
outcomes is the sum of accepted sends. What is committed to the link of the
moment is in the books of that kind of link: `plain`, where nobody tells what
arrived, or `numbered`, where both sides do.

Nothing here waits. Methods called *by the program* queue things, those *from
the network* and *from time* change the books, and `take` says what is to be
sent. `now` is always seconds on the same monotonic clock.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import LinkClosed
from ..message import (
    ACKED,
    INDETERMINATE,
    WITHDRAWN,
    WRITTEN,
    Message,
    Outcome,
    Reset,
    dropped,
)
from ..options import InboxLimits, OutboxLimits
from .arrivals import Arrivals, Decode
from .calls import Call
from .codec import Codec, JsonCodec, MsgpackCodec
from .frames import (
    JSON_SYNTAX,
    MAX_NUMBER,
    MSGPACK_SYNTAX,
    Control,
    Hello,
    Position,
    Syntax,
    Terms,
    Welcome,
    breach,
)
from .inbox import Inbox
from .incoming import Incoming, Slot
from .lanes import Entry, Lanes
from .ledger import Bounds
from .numbered import Batch, Numbered
from .plain import Arrival, Heartbeat, PlainLink
from .rate import Rate
from .requests import Requests
from .tap import NO_TAP

__all__ = ["Heartbeat", "Session", "bounds", "syntax_of"]

#: Requests and replies that wait before they are written in the midst of a turn.
EARLY: Final = 32

_ANY_RATE: Final = Rate(math.inf)


def _no_reply(message: Message[Any]) -> str | None:
    return None


class Session:
    """`syntax` is how a numbered session would look on the wire; None: never one.

    `replay` is what may be kept for a resume. `correlate` tells which request a
    message answers, where there are no sessions.
    """

    __slots__ = (
        "_arrivals",
        "_began",
        "_correlate",
        "_decode",
        "_former",
        "_is_over",
        "_limits",
        "_link",
        "_loss",
        "_outbox",
        "_plain",
        "_rate",
        "_replay",
        "_requests",
        "_stalled",
        "_token",
        "_told",
        "accepted",
        "flush",
        "inbox",
        "is_shut",
        "lanes",
        "linked",
        "numbered",
        "outcomes",
        "received",
        "syntax",
        "tap",
        "wake",
    )

    def __init__(
        self,
        decode: Decode,
        outbox: OutboxLimits,
        inbox: InboxLimits,
        syntax: Syntax | None = None,
        replay: Bounds | None = None,
        correlate: Callable[[Message[Any]], str | None] = _no_reply,
    ) -> None:
        self.lanes = Lanes(outbox, self._count)
        self.inbox = Inbox(inbox)
        self.outcomes: Counter[Outcome] = Counter()
        self.accepted = 0
        self.received = 0
        self.linked = False
        #: The way past these books, on a quiet plain link.
        self.tap = NO_TAP
        self.syntax = syntax
        #: Called when there is something to send that the program did not queue.
        self.wake: Callable[[], None] = _nothing
        #: Writes what waits, if that needs no waiting; None where it always does.
        self.flush: Callable[[], None] | None = None
        #: The numbered session, from its beginning to its loss.
        self.numbered: Numbered | None = None
        self._plain = PlainLink(self)
        self._link: PlainLink | Numbered = self._plain
        self._limits = inbox
        self._outbox = outbox
        self._replay = replay
        self._token = ""
        self._told: Terms
        #: The books of the session that was lost last: its messages may lie here still.
        self._former: Incoming | None = None
        #: Whether anything may have been missed when the next link begins.
        self._began = False
        #: What the streams are to be told when the next link is up.
        self._loss: Reset | None = None
        self._rate = _ANY_RATE if math.isinf(outbox.rate_per_s) else Rate(outbox.rate_per_s)
        self._stalled = False
        #: Something waits, and none of it may go before the other side has acked some.
        self.is_shut = False
        self._arrivals = Arrivals(decode, self.inbox)
        self._decode = decode
        self._correlate = correlate
        self._requests: Requests | None = None
        self._is_over = False

    @property
    def requests(self) -> Requests:
        """Those of both sides; made when they are first asked for."""
        if self._requests is None:
            self._requests = Requests(self._decode, self.inbox.malformed)
            if self.numbered is not None:
                self._requests.begin(self.numbered)
            if self._is_over:
                self._requests.end()
        return self._requests

    # By the program

    def outside(self, entry: Entry) -> Entry | Batch:
        """A message before the outbox opens, as the wire is to send it."""
        return self._link.outside(entry)

    def offer(self, entry: Entry, now: float) -> bool:
        """Queue `entry` if there is room, or room can be made. False: nothing changed.

        What needs a session and finds none is accepted and withdrawn.
        """
        if entry.needs_session and self.is_plain:
            self.reject(entry, WITHDRAWN)
            return True
        if not self.lanes.offer(entry, now):
            return False
        self.accepted += 1
        self._stalled = self.tap.open = False
        return True

    def reject(self, entry: Entry, outcome: Outcome) -> None:
        """Accept `entry` and settle it in the same step."""
        self.accepted += 1
        self.settle(entry, outcome)

    def drop_ephemeral(self) -> None:
        """Drop what its sender would not have queued offline."""
        self.lanes.clear(dropped("offline"), lambda entry: entry.ephemeral)

    def withdraw(self, entry: Entry) -> bool:
        """Take `entry` back. False if it is committed, or settled already.

        One that is committed to a session is then not sent again.
        """
        if self.lanes.withdraw(entry):
            return True
        if entry.number and entry.outcome is None and self.numbered is not None:
            self.numbered.take_back(entry, WITHDRAWN)
        return False

    @property
    def is_plain(self) -> bool:
        """Whether no acks can come: there is never a session, or none on this link."""
        return self.syntax is None or (self.linked and self._link is self._plain)

    @property
    def unsettled(self) -> int:
        """Accepted sends that have no outcome yet."""
        numbered = self.numbered
        return (
            len(self.lanes)
            + self._plain.unsettled
            + (0 if numbered is None else numbered.unsettled)
        )

    @property
    def is_drained(self) -> bool:
        """Whether every accepted send has its outcome, and every reply has arrived."""
        numbered = self.numbered
        return not self.unsettled and (numbered is None or numbered.is_flushed)

    def expect(self, id: str, call: Call) -> None:
        """The message that the codec correlates with `id` is the reply to `call`."""
        self.requests.expect(id, call)
        self._arrivals.is_reply = self._is_reply

    def _is_reply(self, message: Message[Any]) -> bool:
        return self.requests.correlated(message, self._correlate, self._arrivals.now)

    def hurry(self) -> None:
        """Write now where a good part of a batch waits: many tasks may be about to add to it,
        and the other side has nothing to do meanwhile."""
        numbered, flush = self.numbered, self.flush
        if numbered is None or flush is None:
            return
        if len(self.lanes) + numbered.waiting_notes >= EARLY:
            flush()

    # Out

    def may_send_directly(self, entry: Entry, now: float) -> bool:
        """Whether `entry`, a new message, would be the next to leave, now."""
        return not len(self.lanes) and self._rate.ready_at <= now and self._link.may_go(entry)

    def try_commit(self, entry: Entry) -> Entry | Batch:
        """Commit one message past the lanes: what the wire is to send.

        Then `confirm` that it went to the wire, or `undo` it.
        """
        return self._link.try_commit(entry)

    def confirm(self, entry: Entry, written: int, now: float) -> None:
        """`entry` is sent and accepted; `written` is the wire's count since."""
        self.accepted += 1
        self._rate.spend(now, 1)
        self._link.confirm(entry, written, now)

    def undo(self, entry: Entry) -> bool:
        """It was not sent, and not accepted. False: it was, its outcome says so."""
        if self._link.undo(entry):
            return True
        self.accepted += 1
        return False

    def is_quiet(self) -> bool:
        """Whether nothing waits here, on a plain link: what is in no books may go to the wire."""
        return (
            self.linked
            and self._link is self._plain
            and self._plain.is_idle
            and not len(self.lanes)
            and self._rate.is_free
        )

    def posted_in_part(self, entries: Sequence[Entry], written: int) -> None:
        """These messages went by the tap, and were not wholly taken."""
        self.accepted += len(entries)
        self._plain.finish(entries, 0.0)
        self._plain.written(written)

    def count_posted(self) -> None:
        """Take what went by the tap into the books."""
        count, self.tap.posted = self.tap.posted, 0
        if count:
            self.accepted += count
            self.outcomes[WRITTEN] += count

    def take(self, now: float) -> Sequence[Entry | Batch]:
        """Commit what is to be sent next: about `BATCH_BYTES` at most, or one message."""
        link = self._link
        room = link.prepare(now)
        entries: list[Entry] = []
        self.is_shut = False
        if len(self.lanes):
            most, size = link.room()
            self.is_shut = most < 1
            most = min(most, self._rate.left(now))
            if most >= 1 and room > 0:
                first = self.lanes.pop(now, math.inf if link.takes_any else size)
                self._stalled = first is None
                if first is not None:
                    entries.append(first)
                    room -= len(first.data)
                    size -= len(first.data)
                    entries += self.lanes.pop_batch(now, min(room, size), most - 1)
                    self._rate.spend(now, len(entries))
        return link.finish(entries, now)

    def ready_at(self, now: float) -> float:
        """When `take` has something: -inf for now, `inf` for not before more happens."""
        own = self._link.ready_at(now)
        if len(self.lanes) and not self._stalled and self._link.room()[0] >= 1:
            return min(own, self._rate.ready_at)
        return own

    # The beginning of a link

    def begin_plain(self, cause: Exception | None) -> None:
        """The other side knows of no sessions. `cause` ended the link before."""
        self._lose()
        self._mark_loss(cause)
        self._link = self._plain

    def hello(self) -> Batch:
        """The client's first words: to resume, or to begin anew."""
        assert self.syntax is not None
        if self.numbered is not None and self.numbered.over is not None:
            self._lose()
        self._told = self._terms()
        if self.numbered is None:
            return self._words(Hello("", "", self._told, Position()))
        position = self.numbered.position()
        return self._words(Hello(self.numbered.id, self._token, self._told, position))

    def welcomed(self, data: str | bytes, cause: Exception | None) -> bool:
        """The server's answer. True: the session is resumed. Else it is a new one.

        `cause` ended the link before. Raises the `LinkClosed` that it is if the
        answer cannot be.
        """
        assert self.syntax is not None
        welcome = self.syntax.welcome(data)
        if welcome.resumed:
            try:
                if self.numbered is None or welcome.session != self.numbered.id:
                    raise breach("a resume of what was not asked for")
                self._resume(welcome.position)
            except LinkClosed:
                self._lose()
                raise
        else:
            self._begin(welcome.session, self._told, welcome.terms, cause)
        self._token = welcome.token
        return welcome.resumed

    def check_hello(self, hello: Hello) -> None:
        """Raise the breach that it is if the client cannot stand where it says."""
        assert self.numbered is not None
        self.numbered.check_position(hello.position)

    def welcome(self, hello: Hello, id: str, token: str) -> Batch:
        """The server's answer to `hello`, which resumes this session or begins it."""
        terms = self._terms()
        if self.numbered is not None:
            self._resume(hello.position)
            answer = Welcome(id, token, True, terms, self.numbered.position())
        else:
            self._begin(id, terms, hello.terms, None)
            answer = Welcome(id, token, False, terms, Position())
        return self._words(answer)

    def _words(self, frame: Hello | Welcome) -> Batch:
        assert self.syntax is not None
        return Batch(self.syntax.encode(frame), self.syntax.binary, 0)

    def _terms(self) -> Terms:
        """What this side takes. Of an earlier session something may lie here still."""
        limits, left = self._limits, self._left_over()
        window = bounds(limits.messages, limits.total_bytes)
        replay = self._replay or bounds(self._outbox.messages, self._outbox.total_bytes)
        return Terms(
            (window.messages, window.bytes),
            (left.messages, left.bytes),
            (replay.messages, replay.bytes),
            _whole(limits.message_bytes),
        )

    def _left_over(self) -> Bounds:
        into = self._former if self.numbered is None else self.numbered.into
        return Bounds(0, 0) if into is None else into.held

    def _begin(self, id: str, own: Terms, peer: Terms, cause: Exception | None) -> None:
        assert self.syntax is not None
        self._lose()
        self._mark_loss(cause)
        self.numbered = numbered = Numbered(
            id, self.syntax, own, peer, self._left_over(), self.settle, self._settle_acked
        )
        if self._former is not None:
            self._former.succeed(numbered.into)
        numbered.wake = self._wake
        numbered.opened = self._opened
        numbered.on_control = self._handle
        if self._requests is not None:
            self._requests.begin(numbered)
        self._link = numbered
        numbered.into.announce()
        self._began = True  # the other side may be sending already

    def _handle(self, frame: Control, slot: Slot | None, now: float) -> None:
        """The first frame that belongs to a request; those to come go to `requests` directly."""
        self.requests.handle(frame, slot, now)

    def _resume(self, position: Position) -> None:
        assert self.numbered is not None
        self.numbered.check_position(position)
        self.numbered.resume(position)

    def _lose(self) -> None:
        """The session is lost: nobody will know about what was committed to it."""
        numbered, self.numbered = self.numbered, None
        if numbered is not None:
            self._former = numbered.into
            for entry in numbered.end():
                self.settle(entry, INDETERMINATE)
            if self._requests is not None:
                self._requests.lose()
        self._link = self._plain

    def _mark_loss(self, cause: Exception | None) -> None:
        """Nobody knows what was missed since the last link, if there was one."""
        if self._began:
            self.route(final=True)
            self._began = False
            self._loss = Reset(cause)

    # From the network

    def link_up(self, now: float, written: int) -> None:
        """A link is open; `written` messages that are none of ours went before."""
        self.linked = self._began = True
        self._stalled = self.is_shut = False
        if self._loss is not None:
            self.inbox.reset(self._loss)
            self._loss = None
        self._link.link_up(written, now)
        self.lanes.go_online(now)
        if self.is_plain:
            self.lanes.clear(WITHDRAWN, lambda entry: entry.needs_session)

    def link_down(self, now: float) -> None:
        """The link is gone. On a plain one, what it had not taken wholly may or may
        not arrive; a session keeps it, unless the other side has ended it."""
        self.linked = False
        self.count_posted()
        self.tap = NO_TAP
        self.lanes.go_offline(now)
        self._link.link_down()
        if self._requests is not None:
            self._requests.link_down()
        if self.numbered is not None:
            self.route(final=True)  # it has arrived, and nothing need come behind it
            if self.numbered.over is not None:
                self._lose()

    def written(self, count: int) -> None:
        """The kernel has taken `count` messages of this link wholly."""
        self._link.written(count)

    def receive(self, batch: Sequence[str | bytes], now: float) -> None:
        """Take in what one read brought. `route` then hands it out.

        Raises `LinkClosed` where the other side breaks a session's protocol.
        """
        self.received += len(batch)
        self._link.receive(batch, now, self._arrivals.come(now))

    @property
    def arriving(self) -> deque[Arrival]:
        """What arrived and `route` has not handed out."""
        return self._arrivals.waiting

    def route(self, *, final: bool = False) -> bool:
        """Hand what has arrived to the streams: see `Arrivals.route`."""
        return self._arrivals.route(final=final)

    def pop_arrival(self) -> str | bytes | None:
        """Take the next message that arrived, as it came, past the streams and the books."""
        if not self.arriving:
            return None
        data, _, slot = self.arriving.popleft()
        if self._link is self._plain:
            self.received -= 1
        if slot is not None:
            slot.release(taken=True)
        return data

    def greeting_failed(self) -> None:
        """The link ends before it is up. In a session what has arrived stays."""
        if self._link is self._plain:
            self.received -= len(self.arriving)
            self.arriving.clear()

    def _wake(self) -> None:
        self.wake()

    def _opened(self) -> None:
        if self.is_shut or len(self.lanes):
            self.wake()
        self._stalled = self.is_shut = False

    # From time

    def beat(self, entry: Heartbeat) -> None:
        """Send a heartbeat before anything else; one at a time waits."""
        self.tap.open = False
        self._link.aside(entry)

    def farewell(self, reason: str) -> Sequence[Batch]:
        """The last words in a session, of its end."""
        return () if self._link is not self.numbered else (self.numbered.farewell(reason),)

    def is_unanswered(self, now: float) -> bool:
        """Whether the other side, though alive, has long acked nothing."""
        return self.numbered is not None and self.numbered.is_unanswered(now)

    # The books

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        entry.settle(outcome)
        self._count(entry, outcome)

    def _count(self, entry: Entry, outcome: Outcome) -> None:
        if type(entry) is not Heartbeat:
            self.outcomes[outcome] += 1

    def _settle_acked(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.settle(ACKED)
        self.outcomes[ACKED] += len(entries)

    def count_written(self, count: int) -> None:
        self.outcomes[WRITTEN] += count

    def end(self) -> None:
        """The connection is over: what is queued is dropped, the streams end."""
        self.lanes.clear(dropped("closed"))
        self._lose()
        self._is_over = True
        if self._requests is not None:
            self._requests.end()
        self.route(final=True)
        self.inbox.end()


def syntax_of(codec: Codec) -> Syntax | None:
    """How a session looks with this codec; None: with one of the program's own there is none."""
    if type(codec) is JsonCodec:
        return JSON_SYNTAX
    return MSGPACK_SYNTAX if type(codec) is MsgpackCodec else None


def _whole(limit: float) -> int:
    """A limit as it can be told: `inf` is the largest number there."""
    return int(min(limit, MAX_NUMBER))


def bounds(messages: float, total_bytes: float) -> Bounds:
    """Limits as they can be told."""
    return Bounds(_whole(messages), _whole(total_bytes))


def _nothing() -> None:
    """Nobody sends."""

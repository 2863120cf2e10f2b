"""A session over its links: batches out and in, by the numbers of `ledger`.

It outlives a link. While there is none it keeps what the other side may not
have; on the next one each side says where it stands, and goes on from there.

Acks travel with whatever goes out. Where nothing does, one goes out alone after
`ACK_S`, or at once when a good part of the window waits for it. The timer is
lazy: it is not stopped when an ack has travelled meanwhile, and finds nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ..errors import LinkClosed, PayloadError
from ..message import Outcome, dropped
from .frames import BATCH_FRAMES, Aside, Bye, Control, Position, Req, Syntax, Terms, Void
from .idle import NOTHING
from .incoming import Incoming, Slot
from .lanes import BATCH_BYTES, Entry
from .ledger import ACK_S, Bounds
from .outgoing import Note, Outgoing
from .plain import Arrival, Heartbeat, size_bytes

__all__ = ["UNANSWERED_S", "Batch", "Numbered"]

#: What notes may take of a batch while messages wait too.
NOTE_BYTES: Final = BATCH_BYTES // 2

#: A live peer that has received something and acks nothing for so long is broken.
UNANSWERED_S: Final = 60.0

_OVERSIZE: Final = dropped("oversize")
_OFFLINE: Final = dropped("offline")


class Batch(msgspec.Struct, frozen=True, gc=False):
    """One WebSocket message, as `Wire` wants it, and the last number in it."""

    data: bytes
    binary: bool
    last: int


class Numbered:
    """One session. `wake` is called when there is something of its own to send."""

    __slots__ = (
        "_ack_at",
        "_armed",
        "_asides",
        "_batches",
        "_first",
        "_frames",
        "_header",
        "_is_tentative",
        "_looked_at",
        "_message_bytes",
        "_notes",
        "_progress_at",
        "_settle",
        "_syntax",
        "_taken_to",
        "_urgent",
        "_written",
        "id",
        "into",
        "on_control",
        "opened",
        "out",
        "over",
        "peer_message_bytes",
        "wake",
        "written_to",
    )

    def __init__(
        self,
        id: str,
        syntax: Syntax,
        own: Terms,
        peer: Terms,
        still_held: Bounds,
        settle: Callable[[Entry, Outcome], None],
        settle_acked: Callable[[list[Entry]], None],
    ) -> None:
        self.id = id
        self.wake: Callable[[], None] = _nothing
        #: Called when an ack may have opened the window.
        self.opened: Callable[[], None] = _nothing
        #: Takes the control frames that are not this module's, with their slot.
        self.on_control: Callable[[Control, Slot | None, float], None]
        #: Why it is over: the other side has said `bye`, or broken the protocol.
        self.over: str | None = None
        #: Up to which number the kernel has taken batches.
        self.written_to = 0
        self._syntax = syntax
        self._settle = settle
        self._message_bytes = own.message_bytes
        #: The largest frame that the other side takes.
        self.peer_message_bytes = peer.message_bytes
        out = _least(peer.window, own.replay)
        into = _least(own.window, peer.replay)
        self.out = Outgoing(
            out, Bounds(*peer.held), Bounds(*own.replay), settle, settle_acked, syntax.void
        )
        self.into = Incoming(into, Bounds(*own.held), still_held, Bounds(*peer.replay), self._due)
        self._notes: deque[Note] = NOTHING
        self._asides: list[bytes] = []
        self._frames: list[bytes] = []
        self._first = 1
        self._batches: deque[int] = NOTHING
        self._written = 0
        self._urgent = False
        self._armed = False
        # Whether a committed one may be undone: it is not accepted yet.
        self._is_tentative = False
        self._ack_at = math.inf
        # What the kernel took on this link, now and when it was last looked at.
        self._taken_to = self._looked_at = 0
        self._progress_at = 0.0

    @property
    def unsettled(self) -> int:
        """Accepted sends that were committed and have no outcome."""
        return self.out.unsettled - self._is_tentative

    @property
    def is_flushed(self) -> bool:
        """Whether the other side has all that was to be sent, or wants nothing any more."""
        return self.over is not None or not (self._notes or self.out.unreceived)

    @property
    def waiting_notes(self) -> int:
        """Notes that are not committed."""
        return len(self._notes)

    # By the program

    def note(self, frame: Control) -> Note:
        """Send a frame outside the window, reliably and in order."""
        note = Note(self._syntax.encode(frame))
        if self._notes is NOTHING:
            self._notes = deque()
        self._notes.append(note)
        self.wake()
        return note

    def outside(self, entry: Entry) -> Batch:
        """A message without a number, in a batch of its own. Raises `PayloadError`."""
        frame = self._aside(entry)
        if len(frame) > self.peer_message_bytes:
            rule = f"must be at most {self.peer_message_bytes} bytes as a frame"
            raise PayloadError("data", rule, len(frame))
        if entry.binary is not self._syntax.binary or not self._syntax.is_frame(frame):
            rule = f"must be a message as {self._syntax.subprotocol} has them"
            raise PayloadError("data", rule, entry.data)
        header = self.into.header(self.out.next, self.out.settled)
        self.into.said(header)
        data = self._syntax.join(header, (frame,))
        return Batch(data, self._syntax.binary, self.out.next - 1)

    def aside(self, entry: Heartbeat) -> None:
        """Send a heartbeat; if this link dies first it is lost."""
        self._asides[:] = [self._aside(entry)]

    def _aside(self, entry: Entry) -> bytes:
        return self._syntax.encode(Aside(msgspec.Raw(entry.data)))

    def take_back(self, entry: Entry, outcome: Outcome) -> None:
        """A committed one is not wanted any more: if it has not arrived, it never will."""
        if entry.unwanted is None:
            entry.unwanted = outcome

    # Out

    def room(self) -> tuple[float, float]:
        """How many messages, and bytes, may be committed now."""
        return self.out.room()

    @property
    def takes_any(self) -> bool:
        """Whether the first of them may be of any size."""
        return self.out.is_window_empty

    def may_go(self, entry: Entry) -> bool:
        """Whether `entry` may be committed at once."""
        if self._notes or self._asides:
            return False
        most, room = self.out.room()
        size = len(entry.data)
        fits = size <= room or self.out.is_window_empty
        return most >= 1 and fits and size <= self.peer_message_bytes

    def try_commit(self, entry: Entry) -> Batch:
        """Commit one message: what the wire is to send. Then `confirm` or `undo`."""
        first = self.out.next
        self.out.commit(entry)
        self._is_tentative = True
        self._header = header = self.into.header(first, self.out.settled)
        data = self._syntax.join(header, (entry.data,))
        return Batch(data, self._syntax.binary, entry.number)

    def confirm(self, entry: Entry, written: int, now: float) -> None:
        """It went to the wire; `written` is the wire's count since."""
        self._is_tentative = self._urgent = False
        self.into.said(self._header)
        self._sent(entry.number)
        self.written(written)

    def undo(self, entry: Entry) -> bool:
        """It did not. False: it has its outcome all the same."""
        self._is_tentative = False
        return self.out.roll_back(entry)

    def prepare(self, now: float) -> int:
        """Begin a batch with what is this session's own: the bytes left for messages."""
        self._first = self.out.next
        self._frames, self._asides = self._asides, []
        budget = BATCH_BYTES
        if self.out.replays:
            again = self.out.replay(budget, BATCH_FRAMES - len(self._frames) - 1, now)
            self._frames += again
            return 0
        budget -= self._take_notes(NOTE_BYTES)
        return budget

    def _take_notes(self, room_bytes: int) -> int:
        taken = 0
        notes, out = self._notes, self.out
        while notes and taken < room_bytes and len(self._frames) < BATCH_FRAMES // 2:
            if not out.has_note_room():
                break
            note = notes.popleft()
            out.commit(note)
            self._frames.append(note.data)
            taken += len(note.data)
        return taken

    def finish(self, entries: Sequence[Entry], now: float) -> Sequence[Batch]:
        """The batch, with these messages in it; none if there is nothing to say."""
        frames, self._frames = self._frames, []
        if entries:
            data = [entry.data for entry in entries]
            sizes = list(map(len, data))
            if max(sizes) > self.peer_message_bytes:
                entries = self._without_oversize(entries)
                data = [entry.data for entry in entries]
                sizes = list(map(len, data))
            self.out.commit_all(entries, sum(sizes))
            frames += data
        if self._armed and self._ack_at <= now:
            self._armed, self._ack_at = False, math.inf
            self._urgent = self._urgent or self.into.unacked
        if not frames and not self._urgent:
            return ()
        header = self.into.header(self._first, self.out.settled)
        self._urgent = False
        self.into.said(header)
        last = self.out.next - 1
        self._sent(last)
        return (Batch(self._syntax.join(header, frames), self._syntax.binary, last),)

    def _sent(self, last: int) -> None:
        """A batch goes to the wire."""
        if self._batches is NOTHING:
            self._batches = deque()
        self._batches.append(last)

    def _without_oversize(self, entries: Sequence[Entry]) -> list[Entry]:
        fit = []
        for entry in entries:
            if len(entry.data) > self.peer_message_bytes:
                self._settle(entry, _OVERSIZE)
            else:
                fit.append(entry)
        return fit

    def farewell(self, reason: str) -> Batch:
        """The last batch: the session is over. There may be no link any more to take it."""
        # A batch before it may have been committed and not written. With no numbered
        # frame in this one, any number up to the next that is due will do.
        first = self.out.received + 1
        header = self.into.last_header(first, self.out.settled)
        bye = self._syntax.encode(Bye(reason))
        return Batch(self._syntax.join(header, (bye,)), self._syntax.binary, first - 1)

    def ready_at(self, now: float) -> float:
        """When there is something of its own to send."""
        if self._urgent or self._asides or self.out.replays:
            return -math.inf
        if self._notes and self.out.has_note_room():
            return -math.inf
        if self._armed and self._ack_at == math.inf:
            self._ack_at = now + ACK_S
        return self._ack_at

    def _due(self, urgent: bool) -> None:
        """`into` wants an ack: at once, or soon."""
        if urgent:
            if not self._urgent:
                self._urgent = True
                self.wake()
        elif not self._armed:
            self._armed = True
            self.wake()

    # From the network

    def check_position(self, position: Position) -> None:
        """Raise the breach that it is if the other side cannot stand there."""
        self.out.check_position(position)
        self.into.check_settled(position.settled)

    def resume(self, position: Position) -> None:
        """A link begins; the other side stands there."""
        self.out.resume(position)
        self.into.resume(position.settled)

    def position(self) -> Position:
        """Where this side stands."""
        position = self.into.position(self.out.settled)
        self.into.said(position)
        return position

    def link_up(self, written: int, now: float) -> None:
        self._written = written
        self._taken_to = self._looked_at = 0
        self._progress_at = now

    def link_down(self) -> None:
        self._batches.clear()
        self._asides.clear()
        self._urgent = self._armed = False
        self._ack_at = math.inf
        self.out.forget(lambda entry: entry.ephemeral, _OFFLINE)

    def written(self, count: int) -> None:
        """The kernel has taken `count` batches of this link wholly."""
        while self._written < count and self._batches:
            self._taken_to = self._batches.popleft()
            self.written_to = max(self.written_to, self._taken_to)
            self._written += 1
        if not self._batches:
            self._batches = NOTHING

    def is_unanswered(self, now: float) -> bool:
        """Whether the other side, though alive, has long acked nothing.

        To be asked now and then: what the kernel took since the last time counts anew.
        """
        if self._taken_to != self._looked_at:
            self._looked_at, self._progress_at = self._taken_to, now
        return self._taken_to > self.out.received and now - self._progress_at > UNANSWERED_S

    def receive(self, batch: Sequence[str | bytes], now: float, arrived: deque[Arrival]) -> None:
        """Append what one read brought.

        Raises `LinkClosed` where the other side breaks the protocol; the
        session is then over.
        """
        try:
            for data in batch:
                self._receive(data, now, arrived)
        except LinkClosed as error:
            self.over = str(error)
            raise
        self.into.batch_over()

    def _receive(self, data: str | bytes, now: float, arrived: deque[Arrival]) -> None:
        syntax, into = self._syntax, self.into
        header, frames = syntax.split(data)
        known = into.begin(header.first, header.settled)
        if self.out.acknowledged(header):
            self._progress_at = now
            self.opened()
            if self._notes:
                self.wake()
        if not frames:
            return
        plain = data.__class__ is bytes or data.isascii()
        sizes = list(map(len if plain else size_bytes, frames))
        if max(sizes) > self._message_bytes:
            raise LinkClosed(1009, f"a frame of {max(sizes)} bytes", by_peer=False)
        if not known and not syntax.has_control(frames):
            arrived.extend(zip(frames, sizes, into.messages(sizes), strict=True))
            return
        is_control, message = syntax.is_control, into.message
        for frame, size in zip(frames, sizes, strict=True):
            if is_control(frame):
                known -= self._control(syntax.control(frame), size, known, now, arrived)
            elif known > 0:
                known -= 1
            else:
                arrived.append((frame, size, message(size)))

    def _control(
        self,
        frame: Control,
        size: int,
        known: int,
        now: float,
        arrived: deque[Arrival],
    ) -> int:
        """Take in a control frame. 1 if it is a numbered one that is known already."""
        match frame:
            case Aside(envelope=envelope):
                arrived.append((bytes(envelope), size, None))
                return 0
            case Bye(reason=reason):
                self.over = reason
                return 0
            case _ if known > 0:
                return 1
            case Req():
                self.on_control(frame, self.into.message(size), now)
            case Void():
                self.into.note(size)
            case _:
                self.into.note(size)
                self.on_control(frame, None, now)
        return 0

    # The end

    def end(self) -> list[Entry]:
        """The session is lost: the committed messages that nobody will know about."""
        self.into.end()
        self.wake = self.opened = _nothing
        self._notes.clear()
        return self.out.drain()


def _least(one: tuple[int, int], other: tuple[int, int]) -> Bounds:
    return Bounds(min(one[0], other[0]), min(one[1], other[1]))


def _nothing() -> None:
    """Nobody sends."""

"""One side of the talk: the same class at both ends.

A `Session` outlives links. It owns the outbox (`lanes`) and the inbox, knows
what is committed to the link of the moment, and keeps the books: every
accepted send ends in one outcome, and the sum of outcomes is the sum of
accepted sends.

On a plain link messages carry no numbers. *Committed* then means handed to the
wire; the kernel taking a message's last byte settles it as `written`, and a
link that dies before that leaves it `indeterminate`: it is not sent again,
since it may have arrived.

Nothing here waits. Methods called *by the program* queue things, those *from
the network* and *from time* change the books, and `take` says what is to be
sent. `now` is always seconds on the same monotonic clock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from ..errors import DecodeError
from ..message import INDETERMINATE, WRITTEN, Malformed, Message, Outcome, dropped
from ..options import InboxLimits, OutboxLimits
from .inbox import Inbox
from .lanes import Entry, Lanes

__all__ = ["BATCH_BYTES", "Decode", "Heartbeat", "Session", "size_bytes"]

#: The most that is committed at once. What is committed can no longer be
#: overtaken, so this bounds what an urgent message has to wait for, and it is
#: also where a system call stops getting cheaper by the byte.
BATCH_BYTES: Final = 64 << 10

#: How much of a second's worth of messages may leave at once under `rate_per_s`.
BURST_S: Final = 0.1

Decode = Callable[[str | bytes], Iterable[Message[Any]]]


def size_bytes(data: str | bytes) -> int:
    """What `data` takes on the wire, in bytes: characters are not bytes."""
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode())


class Heartbeat(Entry, eq=False, gc=False):
    """A heartbeat message: it travels as a send does, but is none in the books."""


class Session:
    def __init__(self, decode: Decode, outbox: OutboxLimits, inbox: InboxLimits) -> None:
        self.lanes = Lanes(outbox, self._count)
        self.inbox = Inbox(inbox)
        self.outcomes: Counter[Outcome] = Counter()
        self.accepted = 0
        self.received = 0
        self.linked = False
        self._decode = decode
        self._rate = _Rate(outbox.rate_per_s)
        self._beat: Heartbeat | None = None
        self._flight: list[Entry] = []
        self._written = 0
        self._arriving: Iterator[tuple[Message[Any], int]] = iter(())
        self._refused: tuple[Message[Any], int] | None = None
        self._now = 0.0

    # By the program

    def offer(self, entry: Entry, now: float) -> bool:
        """Queue `entry` if there is room, or room can be made. False: nothing changed."""
        if not self.lanes.offer(entry, now):
            return False
        self.accepted += 1
        return True

    def reject(self, entry: Entry, outcome: Outcome) -> None:
        """Accept `entry` and settle it in the same step."""
        self.accepted += 1
        self._settle(entry, outcome)

    def drop_ephemeral(self) -> None:
        """Drop what its sender would not have queued offline."""
        self.lanes.clear(dropped("offline"), lambda entry: entry.ephemeral)

    def withdraw(self, entry: Entry) -> bool:
        """Take `entry` back. False if it is committed, or settled already."""
        return self.lanes.withdraw(entry)

    @property
    def unsettled(self) -> int:
        """Accepted sends that have no outcome yet."""
        return len(self.lanes) + sum(type(entry) is not Heartbeat for entry in self._flight)

    # Out

    def may_send_directly(self, now: float) -> bool:
        """Whether a new message would be the next to leave, now."""
        return not len(self.lanes) and not self._flight and self._rate.ready_at <= now

    def sent_directly(self, entry: Entry, written: int, now: float) -> None:
        """`entry` went to the wire past the lanes; `written` is the wire's count since."""
        self.accepted += 1
        self._rate.spend(now, 1)
        self._flight.append(entry)
        self.written(written)

    def take(self, now: float) -> list[Entry]:
        """Commit what is to be sent next: at most `BATCH_BYTES`, or one message."""
        batch: list[Entry] = []
        if self._beat is not None:
            batch.append(self._beat)
            self._beat = None
        most = self._rate.left(now)
        first = self.lanes.pop(now) if most >= 1 else None
        if first is not None:
            batch.append(first)
            more = self.lanes.pop_batch(now, BATCH_BYTES - len(first.data), most - 1)
            batch += more
            self._rate.spend(now, 1 + len(more))
        self._flight.extend(batch)
        return batch

    @property
    def ready_at(self) -> float:
        """When `take` has something: -inf for now, `inf` for not before more is queued."""
        if self._beat is not None:
            return -math.inf
        return self._rate.ready_at if len(self.lanes) else math.inf

    # From the network

    def link_up(self, now: float, written: int) -> None:
        """A link is open; `written` messages that are none of ours went before."""
        self.linked = True
        self._written = written
        self.lanes.go_online(now)

    def link_down(self, now: float) -> None:
        """The link is gone; what it had not taken wholly may or may not arrive."""
        self.linked = False
        self._beat = None
        self.lanes.go_offline(now)
        flight, self._flight = self._flight, []
        for entry in flight:
            self._settle(entry, INDETERMINATE)

    def interrupted(self, cause: Exception | None) -> None:
        """A later link to a plain server: nobody knows what was missed."""
        self.route(final=True)
        self.inbox.reset(cause)

    def written(self, count: int) -> None:
        """The kernel has taken `count` messages of this link wholly."""
        new = count - self._written
        if not new:
            return
        sends = new
        for entry in self._flight[:new]:
            entry.settle(WRITTEN)
            if type(entry) is Heartbeat:
                sends -= 1
        del self._flight[:new]
        self._written = count
        if sends:
            self.outcomes[WRITTEN] += sends

    def receive(self, batch: Sequence[str | bytes], now: float) -> None:
        """Take in what one read brought. `route` then hands it out."""
        self.received += len(batch)
        self._now = now
        self._arriving = self._decoded(batch)

    def route(self, *, final: bool = False) -> bool:
        """Hand what has arrived to the streams.

        False: a full stream would lose something, and its consumer has had no
        turn since. Let its consumer run and call again. `final` drops instead.
        """
        receive, now = self.inbox.receive, self._now
        arriving = self._arriving
        if self._refused is not None:
            # It may be refused again, if its consumer took something but not enough.
            arriving, self._refused = chain((self._refused,), arriving), None
        for message, size in arriving:
            if not receive(message, size, now):
                if not final:
                    self._refused = message, size
                    return False
                receive(message, size, now)
        return True

    def _decoded(self, batch: Sequence[str | bytes]) -> Iterator[tuple[Message[Any], int]]:
        decode = self._decode
        for data in batch:
            size = len(data) if data.__class__ is bytes or data.isascii() else size_bytes(data)
            try:
                for message in decode(data):
                    yield message, size
            except DecodeError as error:
                self.inbox.malformed(Malformed(data, error, self._now))
            except Exception as error:
                # A foreign codec's own bug must not end the link.
                wrapped = DecodeError(
                    "message", f"made the codec raise {type(error).__name__}", data
                )
                wrapped.__cause__ = error
                self.inbox.malformed(Malformed(data, wrapped, self._now))

    # From time

    def beat(self, entry: Heartbeat) -> None:
        """Send a heartbeat before anything else; one at a time waits."""
        if self._beat is None:
            self._beat = entry

    # The books

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        entry.settle(outcome)
        self._count(entry, outcome)

    def _count(self, entry: Entry, outcome: Outcome) -> None:
        if type(entry) is not Heartbeat:
            self.outcomes[outcome] += 1

    def end(self) -> None:
        """The connection is over: what is queued is dropped, the streams end."""
        self.lanes.clear(dropped("closed"))
        self.route(final=True)
        self.inbox.end()


class _Rate:
    """A token bucket: `rate_per_s`, and a tenth of a second's worth (at least one) at once."""

    def __init__(self, rate_per_s: float) -> None:
        self._step_s = 0.0 if math.isinf(rate_per_s) else 1.0 / rate_per_s
        self._burst_s = max(0.0, BURST_S - self._step_s)
        #: When one more may leave.
        self.ready_at = -math.inf

    def left(self, now: float) -> float:
        """How many may leave now."""
        if not self._step_s:
            return math.inf
        if self.ready_at > now:
            return 0
        return 1 + (now - max(self.ready_at, now - self._burst_s)) // self._step_s

    def spend(self, now: float, count: int) -> None:
        if self._step_s:
            self.ready_at = max(self.ready_at, now - self._burst_s) + count * self._step_s

"""Which stream takes a message, and when a full one may lose something.

The reader must never wait for a consumer, and every queue has a bound. In a
session the window holds the peer back for streams that pause. Any other full
stream, and on a plain link each one, loses something; what, and how that is
marked, is in `queues`. Two rules here keep that rare and fair:

- **A turn first.** One read may bring more than a stream holds, and its
  consumer had no chance yet. So `receive` refuses once (False), the caller
  lets the other tasks run, and only then is something lost. The refusal is
  remembered (`had_turn`) until the consumer takes an item: one that is stuck
  costs one turn, not one for each message.
- **Nothing is lost before the program listens.** Until the first stream opens
  messages are held, under the bounds of `InboxLimits`. They are handed out
  when the first item is taken, or the next message arrives, so that streams
  opened one after another all get theirs. A stream that may not choose what
  it loses takes them all, even beyond its own capacity: they are bounded
  already, and its consumer is only just coming.

A message finds its streams by one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from ..errors import DecodeError
from ..message import Gap, Malformed, Message, Reset
from ..options import InboxLimits, OnFull
from .incoming import Slot
from .queues import Queue, make_queue

__all__ = ["HEARTBEAT", "Inbox", "Queue"]

#: The type that no stream gets unless it names it.
HEARTBEAT: Final = "heartbeat"

#: Messages that a stream holds, unless its opener says otherwise (or it pauses, in
#: a session): what about a dozen reads of 64 KiB bring of small envelopes.
CAPACITY: Final = 16_384

#: Malformed messages a stream of them holds: people read them, not programs.
MALFORMED_CAPACITY: Final = 256


class Inbox:
    """The streams of one connection, and what arrives for them."""

    __slots__ = (
        "_complaints",
        "_ended",
        "_hold",
        "_past_delivered",
        "_past_lost",
        "_queues",
        "_room_bytes",
        "_routes",
        "_wild",
        "discarded",
        "malformed_count",
    )

    def __init__(self, limits: InboxLimits) -> None:
        #: Messages that no stream wanted.
        self.discarded = 0
        #: What could not be decoded: by the codec, or for one stream.
        self.malformed_count = 0
        self._room_bytes = limits.total_bytes
        self._queues: tuple[Queue, ...] = ()
        self._complaints: tuple[Queue, ...] = ()
        self._wild: tuple[Queue, ...] = ()
        self._routes: dict[str, tuple[Queue, ...]] = {HEARTBEAT: ()}
        self._past_delivered = 0
        self._past_lost = 0
        self._ended = False
        #: What arrived before the first stream; None once that is handed out.
        self._hold: Queue | None = make_queue(
            None, _as_it_is, limits.messages, limits.total_bytes, "pause"
        )

    @property
    def delivered(self) -> int:
        """Messages put into streams; one put into two counts twice."""
        return self._past_delivered + sum(queue.delivered for queue in self._queues)

    @property
    def lost(self) -> int:
        """Messages that streams, or the hold, lost because they were full."""
        held = 0 if self._hold is None else self._hold.lost
        return held + self._past_lost + sum(queue.lost for queue in self._queues)

    # By the program

    def open(
        self,
        types: Collection[str] | None,
        *,
        reader: Callable[[Any], Any],
        capacity: float | None,
        on_full: OnFull,
    ) -> Queue:
        """A queue for messages of these types; None or none: all but heartbeats.

        `reader` makes of a payload what the consumer gets, or raises
        `DecodeError`. `capacity` is in messages. Raises `OptionError`.
        """
        room = CAPACITY if capacity is None else capacity
        queue = make_queue(types or None, reader, room, self._room_bytes, on_full)
        queue.ended = self._ended
        if self._hold is not None:
            queue.refill = self._release
        self._queues += (queue,)
        self._add_route(queue)
        return queue

    def open_malformed(self) -> Queue:
        """A queue for what cannot be decoded from now on. Full, it loses the oldest."""
        queue = make_queue(None, _as_it_is, MALFORMED_CAPACITY, self._room_bytes, "drop_oldest")
        queue.ended = self._ended
        self._complaints += (queue,)
        return queue

    def close(self, queue: Queue) -> None:
        """Take `queue` away, with what it holds. Idempotent."""
        self._complaints = _without(self._complaints, queue)
        if queue in self._queues:
            self._queues = _without(self._queues, queue)
            self._drop_route(queue)
            self._past_delivered += queue.delivered
            self._past_lost += queue.lost
        queue.close()

    # From the network

    def receive(
        self, message: Message[Any], size: int, now: float, slot: Slot | None = None
    ) -> bool:
        """Put `message`, of `size` bytes on the wire, into every stream that wants it.

        In a session it has a `slot`, which is released when the last of them
        has no use for it any more.
        False: nothing was done, since a stream would lose something and its
        consumer had no turn. Give it one and call again: then it loses.
        """
        if self._hold is not None:
            if not self._queues:
                return self._keep(self._hold, message, size, now, slot)
            self._release()
        queues = self._routes.get(message.type, self._wild)
        if len(queues) == 1 and not queues[0].is_full(size, slot):
            self._deliver(queues[0], message, size, now, slot)
            return True
        for queue in queues:
            if queue.is_full(size, slot):
                return self._receive_at_full(queues, message, size, now, slot)
        if slot is not None:
            _share(slot, len(queues))
        if not queues and message.type != HEARTBEAT:
            self.discarded += 1
        for queue in queues:
            self._deliver(queue, message, size, now, slot)
        return True

    def malformed(self, item: Malformed) -> None:
        """Count `item`, and show it to those who listen for it."""
        self.malformed_count += 1
        if self._complaints:
            data = item.data
            size = len(data.encode(errors="replace") if isinstance(data, str) else data)
            for queue in self._complaints:
                queue.make_room(size)
                queue.put(item, size, None)

    def reset(self, mark: Reset) -> None:
        """Something may be missing here, in every stream."""
        if self._hold is not None:
            self._hold.put_reset(mark)
        else:
            self._mark_all(mark)

    def end(self) -> None:
        """Nothing more will arrive: the streams end after their items."""
        self._ended = True
        for queue in (*self._queues, *self._complaints):
            if not queue.ended:
                queue.end()

    # Within

    def _receive_at_full(
        self,
        queues: tuple[Queue, ...],
        message: Message[Any],
        size: int,
        now: float,
        slot: Slot | None,
    ) -> bool:
        waits = False
        for queue in queues:
            if queue.is_full(size, slot) and not queue.had_turn:
                queue.had_turn = waits = True
        if not waits:
            self._hand_out(queues, message, size, now, slot)
        return not waits

    def _hand_out(
        self,
        queues: tuple[Queue, ...],
        message: Message[Any],
        size: int,
        now: float,
        slot: Slot | None,
        *,
        held: bool = False,
    ) -> None:
        if slot is not None:
            _share(slot, len(queues))
        if not queues and message.type != HEARTBEAT:
            self.discarded += 1
        for queue in queues:
            if not queue.is_full(size, slot) or queue.make_room(size, held=held):
                self._deliver(queue, message, size, now, slot)
                continue
            if slot is not None:
                slot.release(taken=False)
            if queue.ended:
                self._drop_route(queue)

    def _deliver(
        self, queue: Queue, message: Message[Any], size: int, now: float, slot: Slot | None
    ) -> None:
        try:
            item = Message(
                message.type,
                queue.reader(message.payload),
                message.id,
                message.timestamp,
                message.priority,
                message.key,
                now,
            )
            queue.put(item, size, slot)
        except DecodeError as error:
            if slot is not None:
                slot.release(taken=True)
            self.malformed(Malformed(_as_data(message.payload), error, now))

    def _keep(
        self, hold: Queue, message: Message[Any], size: int, now: float, slot: Slot | None
    ) -> bool:
        """Hold `message` until there is a stream; not a heartbeat, which only says "now"."""
        if message.type == HEARTBEAT:
            if slot is not None:
                slot.release(taken=False)
            return True
        if hold.is_full(size, slot) and not hold.had_turn:
            hold.had_turn = True
            return False
        self._hand_out((hold,), message, size, now, slot)
        return True

    def _release(self) -> None:
        """Hand out what was held, to the streams that are open now."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        self._past_lost += hold.lost
        for queue in self._queues:
            queue.refill = None
        for item, size, slot in hold.drain():
            if isinstance(item, Message):
                queues = self._routes.get(item.type, self._wild)
                self._hand_out(queues, item, size, item.received_at, slot, held=True)
            else:
                self._mark_all(item)

    def _mark_all(self, mark: Gap | Reset) -> None:
        for queue in self._queues:
            if queue.failure is not None:
                continue
            if isinstance(mark, Gap):
                queue.put_gap(mark.count)
            else:
                queue.put_reset(mark)

    def _add_route(self, queue: Queue) -> None:
        if queue.types is None:
            self._wild += (queue,)
        for type in queue.types or self._routes.keys() - {HEARTBEAT}:
            self._routes[type] = (*self._routes.get(type, self._wild), queue)

    def _drop_route(self, queue: Queue) -> None:
        self._wild = _without(self._wild, queue)
        for type in queue.types or self._routes.keys() - {HEARTBEAT}:
            rest = _without(self._routes.get(type, self._wild), queue)
            if rest == self._wild and type != HEARTBEAT:
                self._routes.pop(type, None)
            else:
                self._routes[type] = rest


def _share(slot: Slot, holders: int) -> None:
    """So many hold it from now on, and not the session; it is dropped if there are none."""
    slot.holders = holders
    if not holders:
        slot.release(taken=False)


def _without(queues: tuple[Queue, ...], queue: Queue) -> tuple[Queue, ...]:
    return tuple(other for other in queues if other is not queue)


def _as_it_is(payload: Any) -> Any:
    return payload


def _as_data(payload: Any) -> str | bytes:
    """A payload that its stream could not read, as near to what came as may be."""
    if isinstance(payload, (str, bytes)):
        return payload
    try:
        return bytes(payload) if isinstance(payload, msgspec.Raw) else msgspec.json.encode(payload)
    except Exception:
        return b""

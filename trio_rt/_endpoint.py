"""What every connection and every peer has: the books, the queue, the link of the moment.

The verbs by which a program sends and subscribes stand on it, in `_verbs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import attrs
import trio

from ._mailbox import Mailbox
from ._pace import Pace
from ._subscription import Stream
from ._tasks import Link
from .delivery import Delivery
from .errors import Offline, OptionError, PayloadError
from .message import Gap, Malformed, Outcome, Priority, dropped
from .options import OnFull, OutboxLimits, check_number
from .protocol.lanes import Entry
from .protocol.session import Session
from .protocol.tap import Tap

__all__ = ["Endpoint", "Statistics", "WhenOffline"]

EntryT = TypeVar("EntryT", bound=Entry)

WhenOffline: TypeAlias = Literal["queue", "fail", "drop"]


@attrs.frozen(kw_only=True)
class Statistics:
    """A snapshot of one connection's or peer's books.

    `accepted` sends, requests included, = the sum of `outcomes` + `queued` + `in_flight`.
    """

    accepted: int
    outcomes: Mapping[Outcome, int]
    #: Messages in the outbox, by the priority of the lane they are in.
    queued: Mapping[Priority, int]
    queued_bytes: int
    #: Committed, and without an outcome: in a session not acked yet, on a plain link
    #: not wholly taken by the kernel.
    in_flight: int
    #: Sends that are parked because the outbox is full.
    waiting: int
    #: WebSocket messages received, on all links; in a session each is a batch.
    received: int
    #: Received when no stream wanted them.
    discarded: int
    malformed: int
    #: Lost to a full stream.
    lost: int
    #: Round trip of the last ping in seconds, or None.
    latency_s: float | None


class Endpoint:
    """What both kinds share: the books, the streams of what could not be read, drain."""

    #: The link of the moment, and what the one before it measured.
    _link: Link | None = None
    _latency_s: float | None = None

    def __init__(self, session: Session, outbox: OutboxLimits) -> None:
        self._session = session
        self._mailbox = Mailbox(session)
        # What is larger than the whole outbox would wait for room for ever.
        self._message_bytes = min(outbox.message_bytes, outbox.total_bytes)
        self._pace = Pace()

    def malformed(self) -> Stream[Malformed | Gap]:
        """A stream of what came in and could not be decoded, with why.

        It keeps the latest 256; each is also counted in `statistics()`.
        """
        inbox = self._session.inbox
        return Stream(inbox.open_malformed(), inbox)

    async def drain(self) -> None:
        """Wait until every accepted send has its outcome.

        In a session also until the other side has received all replies to its requests.
        Cancelling stops the wait and nothing else.
        """
        await self._mailbox.wait_drained()

    def statistics(self) -> Statistics:
        session = self._session
        session.count_posted()
        return Statistics(
            accepted=session.accepted,
            outcomes=dict(session.outcomes),
            queued=session.lanes.depth(),
            queued_bytes=session.lanes.total_bytes,
            in_flight=session.unsettled - len(session.lanes),
            waiting=self._mailbox.waiting,
            received=session.received,
            discarded=session.inbox.discarded,
            malformed=session.inbox.malformed_count,
            lost=session.inbox.lost,
            latency_s=self._latest_latency_s(),
        )

    @property
    def link(self) -> Link | None:
        """For the library alone: the link of the moment."""
        return self._link

    @property
    def tap(self) -> Tap:
        """For the library alone: the way past the books, where it is open."""
        return self._session.tap

    def post(self, entries: Sequence[EntryT]) -> bool:
        """For the library alone: send or queue these. False: no room, from one of them on."""
        mailbox = self._mailbox
        now = mailbox.clock()
        try:
            return all(mailbox.try_put(entry, now) for entry in entries)
        except trio.ClosedResourceError:
            return True

    @property
    def largest_bytes(self) -> float:
        """For the library alone: the largest encoded message that may be sent."""
        return self._message_bytes

    @property
    def has_drained(self) -> bool:
        """For the library alone: whether the outbox is half empty, in messages and in bytes."""
        return self._session.lanes.is_half_empty

    def _latest_latency_s(self) -> float | None:
        now_s = None if self._link is None else self._link.latency_s
        return self._latency_s if now_s is None else now_s

    def _open_stream(
        self,
        types: tuple[str, ...] | None,
        reader: Callable[[Any], Any],
        capacity: int | None,
        on_full: OnFull,
    ) -> Stream[Any]:
        inbox = self._session.inbox
        if capacity is not None:
            check_number("capacity", capacity, least=1, whole=True, finite=True)
        queue = inbox.open(types, reader=reader, capacity=capacity, on_full=on_full)
        return Stream(queue, inbox)

    def _delivery(
        self,
        id: str,
        data: bytes,
        binary: bool,
        priority: Priority,
        key: str | None,
        order: str | None,
        ttl_s: float | None,
        when_offline: WhenOffline,
    ) -> Delivery:
        if len(data) > self._message_bytes:
            self._check_size(data)
        if type(priority) is not Priority:
            raise OptionError("priority", "must be a Priority", priority)
        if key is not None or order is not None:
            _check_names(key, order)
        return Delivery(
            data,
            binary,
            priority,
            key,
            order,
            math.inf if ttl_s is None else _expiry(ttl_s),
            False,
            when_offline != "queue" and _is_ephemeral(when_offline),
            None,
            None,
            0,
            None,
            id,
            self._mailbox,
        )

    def _check_size(self, data: bytes) -> None:
        if len(data) > self._message_bytes:
            raise PayloadError(
                "payload", f"must encode to at most {self._message_bytes} bytes", len(data)
            )

    def _offline(self, delivery: Entry, when_offline: WhenOffline) -> bool:
        """Whether the link is down and `delivery` will not wait for it."""
        if self._session.linked:
            return False
        if self._mailbox.closed:
            raise trio.ClosedResourceError
        if when_offline == "fail":
            raise Offline("no link is up")
        self._session.reject(delivery, dropped("offline"))
        return True

    async def _put(self, delivery: EntryT, when_offline: WhenOffline, now: float) -> EntryT:
        mailbox = self._mailbox
        try:
            if mailbox.soon is None and self._pace.is_due_at(now):
                await self._pace.turn()
                now = mailbox.clock()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
            if (when_offline == "queue" or not self._offline(delivery, when_offline)) and (
                mailbox.soon is not None or not mailbox.try_put(delivery, now)
            ):
                await mailbox.put(delivery)
        except BaseException:
            delivery.disown()
            raise
        return delivery

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await delivery.wait_settled()
        except trio.Cancelled:
            delivery.withdraw()
            raise


def _check_names(key: object, order: object) -> None:
    for field, name in (("key", key), ("order", order)):
        if name is not None and not isinstance(name, str):
            raise OptionError(field, "must be a string or None", name)


def _expiry(ttl_s: float) -> float:
    check_number("ttl_s", ttl_s)
    return trio.current_time() + ttl_s


def _is_ephemeral(when_offline: str) -> bool:
    if when_offline not in ("fail", "drop"):
        raise OptionError("when_offline", 'must be "queue", "fail" or "drop"', when_offline)
    return True

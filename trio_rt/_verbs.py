"""What a client's connection and a server's peer can do alike: send and subscribe.

`EnvelopeVerbs` speaks typed messages; `RawVerbs` is its sibling for
`codec="raw"`, which sends text and bytes as they are. (A subclass of the one
could not have the other's `send`.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, overload

import trio

from ._ambient import ambient
from ._endpoint import Endpoint, WhenOffline
from ._subscription import Stream
from .delivery import Delivery
from .errors import OptionError
from .message import Gap, Message, Priority, Reset
from .options import InboxLimits, OnFull, OutboxLimits
from .protocol.codec import Codec, Meta, decode_raw, encode_raw, packer, payload_reader
from .protocol.frames import Syntax
from .protocol.ledger import Bounds
from .protocol.session import Heartbeat, Session

__all__ = ["EnvelopeVerbs", "RawVerbs", "Sender"]

T = TypeVar("T")

_BITS_OF_ID: Final = 64

#: How long a timestamp, in whole milliseconds, is good for: a look at the wall clock
#: takes 0.13 us.
_STAMP_S: Final = 0.001


class EnvelopeVerbs(Endpoint):
    """Typed messages: an envelope of type, payload, priority and the like, by a codec."""

    def __init__(
        self,
        codec: Codec,
        outbox: OutboxLimits,
        inbox: InboxLimits,
        syntax: Syntax | None,
        replay: Bounds | None = None,
    ) -> None:
        super().__init__(
            Session(codec.decode, outbox, inbox, syntax, replay, codec.correlate), outbox
        )
        self._codec = codec
        self._pack = packer(codec)
        world = ambient()
        self._wall_s = world.wall_s
        self._id_prefix = f"{world.random.getrandbits(_BITS_OF_ID):016x}-"
        self._ids = 0
        self._timestamp = 0
        self._stamp_until = -math.inf

    @property
    def codec(self) -> Codec:
        """For the library alone: how messages are encoded here."""
        return self._codec

    async def send(
        self,
        type: str,
        payload: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        order: str | None = None,
        ttl_s: float | None = None,
        when_offline: WhenOffline = "queue",
    ) -> Delivery:
        """Send a message, or queue it; waits only if the outbox is full.

        - `key`: takes the place of a queued message with the same key, which
          is `dropped("replaced")`.
        - `order`: messages with the same `order` keep their order, whatever
          their priority.
        - `ttl_s`: seconds after which the message, if it has not left, is
          `dropped("expired")`; None for never. In a session also if it has left,
          and the next link shows that it has not arrived.
        - `when_offline`: with no link up, "queue" it, "fail" with `Offline`,
          or "drop" it (`dropped("offline")`). The latter two also drop it if
          the link dies before it has left, or (session) before it has arrived.

        Raises `PayloadError` for what cannot be encoded or is too large,
        `OptionError`, and `trio.ClosedResourceError` after the end. A send
        that raises was not accepted. Cancelling while it waits for room: not
        accepted. While it need not wait, it is a full checkpoint only every
        64th call or every millisecond.
        """
        now = self._mailbox.clock()
        delivery = self._encode(type, payload, priority, key, order, ttl_s, when_offline, now)
        return await self._put(delivery, when_offline, now)

    def send_nowait(
        self,
        type: str,
        payload: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        order: str | None = None,
        ttl_s: float | None = None,
        when_offline: WhenOffline = "queue",
    ) -> Delivery:
        """As `send`, but raises `trio.WouldBlock` (not accepted) where that would wait."""
        mailbox = self._mailbox
        now = mailbox.clock()
        delivery = self._encode(type, payload, priority, key, order, ttl_s, when_offline, now)
        if (when_offline == "queue" or not self._offline(delivery, when_offline)) and (
            not mailbox.try_put(delivery, now)
        ):
            raise trio.WouldBlock
        return delivery

    async def deliver(
        self,
        type: str,
        payload: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        order: str | None = None,
        ttl_s: float | None = None,
        when_offline: WhenOffline = "queue",
    ) -> None:
        """Send, and wait for the best outcome there is: `acked` in a session, else `written`.

        Raises as `send` does, and `Undelivered` if it came to nothing.
        Cancelling withdraws the message: unless it is committed to a link
        already, it is never sent. One that is committed to a session, and turns
        out not to have arrived when that is resumed, is not sent again.
        """
        await self._deliver(
            await self.send(
                type,
                payload,
                priority=priority,
                key=key,
                order=order,
                ttl_s=ttl_s,
                when_offline=when_offline,
            )
        )

    def sender(
        self,
        type: str,
        *,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        order: str | None = None,
        ttl_s: float | None = None,
        when_offline: WhenOffline = "queue",
    ) -> Sender[Any]:
        """A `trio.abc.SendChannel` whose values are the payloads of messages of one type."""
        self._delivery("", b"", False, priority, key, order, ttl_s, when_offline)  # the checks

        async def send(payload: Any) -> None:
            await self.send(
                type,
                payload,
                priority=priority,
                key=key,
                order=order,
                ttl_s=ttl_s,
                when_offline=when_offline,
            )

        return Sender(send)

    @overload
    def subscribe(
        self, *types: str, capacity: int | None = ..., on_full: OnFull = ...
    ) -> Stream[Message[Any] | Gap | Reset]: ...
    @overload
    def subscribe(
        self, *types: str, as_: type[T], capacity: int | None = ..., on_full: OnFull = ...
    ) -> Stream[Message[T] | Gap | Reset]: ...
    @overload
    def subscribe(
        self, *types: str, as_: Any, capacity: int | None = ..., on_full: OnFull = ...
    ) -> Stream[Message[Any] | Gap | Reset]: ...
    def subscribe(
        self,
        *types: str,
        as_: Any = Any,
        capacity: int | None = None,
        on_full: OnFull = "pause",
    ) -> Stream[Any]:
        """Open a stream of the messages of these types; of all but `heartbeat` if none is named.

        `as_` is what payloads are decoded to and validated as (any type that
        msgspec knows); what fails goes to `malformed()`. `capacity` is in
        messages; None is 16,384. The stream is also bounded by
        `InboxLimits.total_bytes`. When it is full, and its consumer has had a
        turn, `on_full` says what is lost; a `Gap` marks the place:

        - "pause": in a session it is never full, since the window (`InboxLimits`)
          holds the sender back; on a plain link the newest is lost;
        - "drop_newest", "drop_oldest";
        - "fail": the stream ends with `StreamOverflow`;
        - `Conflate(...)`: only the newest of each key is kept, without a `Gap`.

        Each stream gets every message of its types once. It closes at the end
        of its `with` block.
        """
        for name in types:
            if not isinstance(name, str):
                raise OptionError("types", "must be strings", name)
        return self._open_stream(
            tuple(dict.fromkeys(types)) or None,
            payload_reader(self._codec, as_),
            capacity,
            on_full,
        )

    def _encode(
        self,
        type: str,
        payload: Any,
        priority: Priority,
        key: str | None,
        order: str | None,
        ttl_s: float | None,
        when_offline: WhenOffline,
        now: float,
    ) -> Delivery:
        if priority.__class__ is not Priority:  # the codec needs one
            raise OptionError("priority", "must be a Priority", priority)
        if now >= self._stamp_until:
            self._stamp(now)
        self._ids += 1
        id = f"{self._id_prefix}{self._ids}"
        data = self._pack(type, payload, id, self._timestamp, priority, key)
        if (
            key is None
            and order is None
            and ttl_s is None
            and when_offline == "queue"
            and len(data) <= self._message_bytes
        ):
            # As `_delivery` would, without a call at every message.
            return Delivery(data, self._codec.binary, priority, id=id, mailbox=self._mailbox)
        return self._delivery(
            id, data, self._codec.binary, priority, key, order, ttl_s, when_offline
        )

    def _meta(self, priority: Priority, key: str | None) -> Meta:
        now = self._mailbox.clock()
        if now >= self._stamp_until:
            self._stamp(now)
        self._ids += 1
        return Meta(f"{self._id_prefix}{self._ids}", self._timestamp, priority, key)

    def _stamp(self, now: float) -> None:
        self._timestamp = int(self._wall_s() * 1000)
        self._stamp_until = now + _STAMP_S

    def _heartbeat(self) -> Heartbeat:
        codec, meta = self._codec, self._meta(Priority.NORMAL, None)
        return Heartbeat(codec.encode("heartbeat", None, meta), binary=codec.binary)


class RawVerbs(Endpoint):
    """Text and bytes as they are: a `str` goes as a text message, bytes as a binary one."""

    def __init__(self, outbox: OutboxLimits, inbox: InboxLimits) -> None:
        super().__init__(Session(decode_raw, outbox, inbox), outbox)

    async def send(
        self,
        data: str | bytes | bytearray | memoryview,
        *,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        order: str | None = None,
        ttl_s: float | None = None,
        when_offline: WhenOffline = "queue",
    ) -> Delivery:
        """Send `data`; everything else as `Connection.send`."""
        encoded, binary = encode_raw(data)
        delivery = self._delivery("", encoded, binary, priority, key, order, ttl_s, when_offline)
        return await self._put(delivery, when_offline, self._mailbox.clock())

    def send_nowait(
        self,
        data: str | bytes | bytearray | memoryview,
        *,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        order: str | None = None,
        ttl_s: float | None = None,
        when_offline: WhenOffline = "queue",
    ) -> Delivery:
        """As `send`, but raises `trio.WouldBlock` (not accepted) where that would wait."""
        encoded, binary = encode_raw(data)
        delivery = self._delivery("", encoded, binary, priority, key, order, ttl_s, when_offline)
        mailbox = self._mailbox
        if (when_offline == "queue" or not self._offline(delivery, when_offline)) and (
            not mailbox.try_put(delivery, mailbox.clock())
        ):
            raise trio.WouldBlock
        return delivery

    async def deliver(
        self,
        data: str | bytes | bytearray | memoryview,
        *,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
        order: str | None = None,
        ttl_s: float | None = None,
        when_offline: WhenOffline = "queue",
    ) -> None:
        """Send and wait until it is written; everything else as `Connection.deliver`."""
        await self._deliver(
            await self.send(
                data,
                priority=priority,
                key=key,
                order=order,
                ttl_s=ttl_s,
                when_offline=when_offline,
            )
        )

    def subscribe(
        self, *, capacity: int | None = None, on_full: OnFull = "pause"
    ) -> Stream[Message[str | bytes] | Gap | Reset]:
        """Open a stream of all messages; the payload is a `str` or `bytes`.

        `capacity` and `on_full` as for `Connection.subscribe`.
        """
        return self._open_stream(None, _as_it_is, capacity, on_full)


class Sender(trio.abc.SendChannel[T], Generic[T]):
    """The sending end for one type of message. Closing it closes nothing else."""

    def __init__(self, send: Callable[[T], Any]) -> None:
        self._send = send
        self._closed = False

    async def send(self, value: T) -> None:
        """Send `value` as a payload. Waits, raises and is cancelled as `Connection.send`."""
        if self._closed:
            raise trio.ClosedResourceError
        await self._send(value)

    def close(self) -> None:
        self._closed = True

    async def aclose(self) -> None:
        self._closed = True
        await trio.lowlevel.checkpoint()


def _as_it_is(payload: Any) -> Any:
    return payload

"""The options, as frozen classes. Units are in the names; `math.inf` is "no limit".

Each class checks its own fields and raises `OptionError` with the field's
full name, so that a bad value is found where it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, Final, Literal, TypeAlias

import attrs

from .errors import LinkError, OptionError
from .message import Message

__all__ = [
    "Conflate",
    "InboxLimits",
    "Liveness",
    "OnFull",
    "OutboxLimits",
    "Reconnect",
    "ServerLimits",
    "SessionLimits",
    "Verdict",
    "WireName",
]

Verdict: TypeAlias = Literal["retry", "refresh", "fatal"]


#: Below the largest float: sums and products with what is smaller are floats still.
TOO_MUCH: Final = 1e300


def check_number(
    name: str,
    value: object,
    *,
    least: float = 0.0,
    above: bool = False,
    whole: bool = False,
    finite: bool = False,
) -> None:
    """Raise `OptionError` unless `value` is a number from (or above) `least`.

    `whole` asks for an int or `math.inf`; `finite` refuses `math.inf`. A number from
    `TOO_MUCH` that is not `math.inf` is refused in any case.
    """
    rule = f"must be a {'whole ' if whole else ''}number {'above' if above else 'from'} {least:g}"
    if finite:
        rule = f"must be a finite {rule.removeprefix('must be a ')}"
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, (int, float)) and TOO_MUCH <= value != math.inf:
        rule, good = f"must be below {TOO_MUCH:g}{'' if finite else ', or math.inf'}", False
    if good:
        assert isinstance(value, (int, float))
        good = value > least if above else value >= least
        if whole and isinstance(value, float) and not math.isinf(value):
            good = False
        if finite and math.isinf(value):
            good = False
    if not good:
        raise OptionError(name, rule, value)


def check_flag(name: str, value: object) -> None:
    """Raise `OptionError` unless `value` is a bool."""
    if not isinstance(value, bool):
        raise OptionError(name, "must be True or False", value)


def check_kind(name: str, value: object, kind: type) -> None:
    """Raise `OptionError` unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise OptionError(name, f"must be a {kind.__name__}", value)


def _number(**rules: Any) -> Callable[[Any, attrs.Attribute[Any], object], None]:
    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_number(f"{type(instance).__name__}.{attribute.name}", value, **rules)

    return check


_seconds: Final = _number()
_positive_seconds: Final = _number(above=True)
_count: Final = _number(least=1, whole=True)


@attrs.frozen(kw_only=True)
class Reconnect:
    """When to dial again, and when to stop.

    The n-th redial since the link last proved itself waits a random time from
    0 to `min(cap_s, first_s * factor**n)` ("full jitter": M. Brooker,
    "Exponential Backoff And Jitter", 2015). A link has proved itself after
    `min_uptime_s` and a welcome, a pong or any message.
    """

    first_s: float = attrs.field(default=0.5, validator=_number(finite=True))
    cap_s: float = attrs.field(default=30.0, validator=_number(above=True, finite=True))
    factor: float = attrs.field(default=2.0, validator=_number(least=1, finite=True))
    #: Dials in a row without a proven link, the first included.
    max_attempts: float = attrs.field(default=math.inf, validator=_count)
    #: Seconds without a proven link.
    give_up_after_s: float = attrs.field(default=math.inf, validator=_positive_seconds)
    min_uptime_s: float = attrs.field(default=5.0, validator=_seconds)
    #: Overrides the built-in judgement of a cause; None leaves it.
    verdict: Callable[[LinkError], Verdict | None] | None = None


@attrs.frozen(kw_only=True)
class Liveness:
    """How a dead link is found.

    After `interval_s` without an inbound byte a ping goes out; after another
    `timeout_s` of silence the link is dead. The default interval is below the
    60 s after which nginx cuts an idle proxied link (`proxy_read_timeout`).
    """

    interval_s: float = attrs.field(default=15.0, validator=_number(above=True, finite=True))
    timeout_s: float = attrs.field(default=10.0, validator=_number(above=True, finite=True))
    #: "both" also sends the envelope `{"type": "heartbeat"}` with each ping,
    #: for servers that watch messages and not frames.
    beat: Literal["ping", "both"] = attrs.field(default="ping")

    @beat.validator
    def _check_beat(self, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in ("ping", "both"):
            raise OptionError("Liveness.beat", 'must be "ping" or "both"', value)


@attrs.frozen(kw_only=True)
class OutboxLimits:
    """The bounds of the queue of messages that wait to be sent.

    A client of a session keeps as much of what it has sent until it has arrived.
    """

    messages: float = attrs.field(default=1000, validator=_count)
    total_bytes: float = attrs.field(default=4 << 20, validator=_count)
    #: The largest encoded message.
    message_bytes: float = attrs.field(default=1 << 20, validator=_count)
    #: Messages a second that leave; up to a tenth of a second's worth at once.
    rate_per_s: float = attrs.field(default=math.inf, validator=_positive_seconds)


@attrs.frozen(kw_only=True)
class InboxLimits:
    """The window: what may have arrived and not been taken by the program.

    In a session the sender is held back by it. On a plain link it bounds what is
    held until the first stream is opened, and `total_bytes` bounds each stream.
    """

    messages: float = attrs.field(default=256, validator=_count)
    total_bytes: float = attrs.field(default=4 << 20, validator=_count)
    #: The largest message accepted, in bytes, after decompression.
    message_bytes: float = attrs.field(default=1 << 20, validator=_count)
    #: Frames that one message may come in: `MAX_FRAGMENTS` of the `websockets`
    #: package. An endless message of empty fragments costs CPU, not bytes.
    fragments: float = attrs.field(default=4096, validator=_count)


@attrs.frozen(kw_only=True)
class ServerLimits:
    """What `serve()` takes from strangers."""

    #: Open connections, handshakes included.
    connections: float = attrs.field(default=10_000, validator=_count)
    connections_per_address: float = attrs.field(default=math.inf, validator=_count)
    #: TCP accept to the end of the handshake, TLS included. Of plain HTTP: to the
    #: end of the first request's head; then for each head from its first byte; and
    #: while a request is served, how long no byte may move.
    handshake_s: float = attrs.field(default=10.0, validator=_positive_seconds)
    #: The request line and headers together.
    header_bytes: int = attrs.field(
        default=16 << 10, validator=_number(least=256, whole=True, finite=True)
    )
    headers: float = attrs.field(default=100, validator=_count)
    # Of plain HTTP, where there is a handler for it:
    #: The largest body of a request.
    body_bytes: float = attrs.field(default=1 << 20, validator=_number(whole=True))
    #: How long a connection is kept between two requests.
    keep_alive_s: float = attrs.field(default=15.0, validator=_positive_seconds)


@attrs.frozen(kw_only=True)
class SessionLimits:
    """What `serve()` keeps of a session whose link is gone, for its client to resume.

    What both sides keep of their own un-received messages is bounded by `messages`
    and `total_bytes` here, and by `OutboxLimits` at the client. The window of a
    session is never wider than that.
    """

    #: How long it is kept.
    keep_s: float = attrs.field(default=120.0, validator=_seconds)
    messages: float = attrs.field(default=1000, validator=_count)
    total_bytes: float = attrs.field(default=1 << 20, validator=_count)
    #: How many are kept without a link. One more, and one of them ends: the oldest of
    #: the identity (without one: the address) that has the most. A session with a link
    #: is never ended for another.
    kept: float = attrs.field(default=1000, validator=_count)


@attrs.frozen
class Conflate:
    """Keep only the newest message of each key; older ones were never worth reading.

    `key=None` goes by the message's type and `key` field.
    """

    key: Callable[[Message[Any]], Hashable] | None = None


OnFull: TypeAlias = Literal["pause", "drop_oldest", "drop_newest", "fail"] | Conflate

#: The package that speaks WebSocket.
WireName: TypeAlias = Literal["websockets", "trio-websocket"]

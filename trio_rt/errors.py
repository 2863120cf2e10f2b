"""Every exception that trio_rt raises, split by whose doing it is.

    TrioRtError
    ├── UsageError                 mend the calling code; nothing was sent
    │   ├── OptionError            an option or argument that cannot be
    │   └── PayloadError           a payload that cannot be encoded, or is too large
    ├── LinkError                  one link failed: the connection redials by itself
    │   ├── DialError              no TCP, TLS or proxy path to the server
    │   ├── HandshakeError         the server answered, but not with a WebSocket
    │   ├── LinkClosed             the link was closed, cleanly or not
    │   ├── LinkDead               nothing was heard for too long
    │   └── HookError              the program's own `credentials` or `greet` failed
    ├── ConnectionFailed           give up: leaves `connect()`, its cause chained
    │   ├── CredentialsRefused     the server will not have these credentials
    │   ├── ServerRefused          the server, its certificate or the proxy will never do
    │   ├── ProtocolBroken         the peer, or something between, breaks the protocol
    │   ├── HookFailed             a bug in `credentials` or `greet`
    │   ├── TakenOver              another connection has taken up this session
    │   └── AttemptsExhausted      `max_attempts` or `give_up_after_s` is used up
    ├── DecodeError                what the peer sent is no message (see `malformed()`)
    ├── Undelivered                a send or request that came to nothing; has the outcome
    ├── Offline                    `when_offline="fail"`, and no link is up
    ├── NoSession                  asks for what only a session can give
    ├── Refused                    a request that the other side did not fulfil
    ├── BrokerError            the store of a hub's rooms cannot be reached, or refuses
    ├── StreamOverflow             a stream opened with `on_full="fail"` was full
    ├── HttpError                  a layer of `trio_rt.http` ended a call
    │   ├── CallTimeout            `timeout_s` was over; has the `stage`
    │   ├── QueueFull              too many calls wait already
    │   ├── CircuitOpen            this origin failed too often; has `retry_after_s`
    │   ├── NotCached              `cache="only-if-cached"`, and there is no such response
    │   ├── BodyTooLarge           a body above its limit, packed or unpacked
    │   └── BodyInvalid            a body that is not what `as_` asks for
    └── Refuse                     raised *by* an accept hook, to refuse a handshake

Closed, busy and full things raise trio's own `ClosedResourceError`,
`BusyResourceError` and `WouldBlock`, as trio's channels do.

A URL in a message is always redacted: no user, no password, no query.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from .outcome import Outcome

__all__ = [
    "AttemptsExhausted",
    "BodyInvalid",
    "BodyTooLarge",
    "BrokerError",
    "CallTimeout",
    "CircuitOpen",
    "ConnectionFailed",
    "CredentialsRefused",
    "DecodeError",
    "DialError",
    "HandshakeError",
    "HookError",
    "HookFailed",
    "HttpError",
    "LinkClosed",
    "LinkDead",
    "LinkError",
    "NoSession",
    "NotCached",
    "Offline",
    "OptionError",
    "PayloadError",
    "ProtocolBroken",
    "QueueFull",
    "Refuse",
    "Refused",
    "ServerRefused",
    "StreamOverflow",
    "TakenOver",
    "TrioRtError",
    "Undelivered",
    "UsageError",
]

#: A value in an error message is cut to this many characters: enough to find
#: it in the program, too few to flood a log.
SHOWN_CHARACTERS = 100


def shown(value: object) -> str:
    """`repr(value)`, cut to what a person reads in a log line."""
    try:
        text = repr(value)
    except Exception:  # a value too deep, too large, or with a broken repr of its own
        return f"<{type(value).__name__} that cannot be shown>"
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


class TrioRtError(Exception):
    """The base of all of them."""


class UsageError(TrioRtError, ValueError):
    """The caller's own doing. Has `field`, `rule` and `value`."""

    def __init__(self, field: str, rule: str, value: object) -> None:
        super().__init__(field, rule, value)
        self.field = field
        self.rule = rule
        self.value = value

    def __str__(self) -> str:
        return f"{self.field} {self.rule}, not {shown(self.value)}"


class OptionError(UsageError):
    """An option or argument that cannot be."""


class PayloadError(UsageError):
    """A payload that cannot be encoded, or whose message is too large."""


class LinkError(TrioRtError):
    """One link failed, or never came to be. `State.cause` shows it."""


class DialError(LinkError):
    """No path to the server.

    `stage` is where it ended: "dns", "tcp", "proxy", "tls", "handshake" (for a
    cut link) or "welcome" (the server took the offer of a session, and gave none);
    or, when `open_timeout_s` was over, "credentials", "dial" or "greet".
    `certificate` is true if it was the server's certificate that failed.
    `status` is the HTTP status of a proxy that did not connect, else None.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        certificate: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.certificate = certificate
        self.status = status


class HandshakeError(LinkError):
    """The server answered, but not with a WebSocket; or (`session="require"`) with a plain one.

    `status` is the HTTP status, 101 for a plain one, or None where the answer was no HTTP.
    `retry_after_s` is the server's advice in seconds, or None. `body` is the
    beginning of the answer's body, at most 1 KiB.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.retry_after_s = retry_after_s
        self.body = body


class LinkClosed(LinkError):
    """The link is closed.

    `code` and `reason` are those of RFC 6455, 7.1.5: 1005 for a close without
    a code, 1006 for a connection that ended without a close. `by_peer` is
    false where this side found a fault and closed (1002, 1007, 1009), or the
    trio-websocket package failed (1011; see `__cause__`).
    """

    def __init__(self, code: int, reason: str = "", *, by_peer: bool = True) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer

    def __str__(self) -> str:
        who = "peer" if self.by_peer else "this side"
        if self.code == 1006:
            return f"the link was cut (1006){': ' + self.reason if self.reason else ''}"
        return f"closed by {who} with {self.code}{': ' + self.reason if self.reason else ''}"


class LinkDead(LinkError):
    """Nothing was heard for `silent_s` seconds, a ping included."""

    def __init__(self, silent_s: float) -> None:
        super().__init__(f"nothing heard for {silent_s:.3g} s")
        self.silent_s = silent_s


class HookError(LinkError):
    """The program's own `credentials` or `greet` raised; see `__cause__`."""

    def __init__(self, hook: str, error: Exception) -> None:
        super().__init__(f"{hook} raised {type(error).__name__}: {error}")
        self.hook = hook


class ConnectionFailed(TrioRtError):
    """Fatal: it cancels the body of `connect()` and leaves it. See `__cause__`."""


class CredentialsRefused(ConnectionFailed):
    """The server refused the credentials, fresh ones too."""


class ServerRefused(ConnectionFailed):
    """The server, its certificate or the proxy will not do however often it is tried."""


class ProtocolBroken(ConnectionFailed):
    """Link after link ended in a breach of the protocol, or one for good."""


class HookFailed(ConnectionFailed):
    """`credentials` or `greet` raised what is surely a bug in them."""


class TakenOver(ConnectionFailed):
    """Another connection has taken up this session, with a copy of its token."""


class AttemptsExhausted(ConnectionFailed):
    """`Reconnect.max_attempts` or `Reconnect.give_up_after_s` is used up."""


class DecodeError(TrioRtError):
    """What came in is no message. Has `field`, `rule` and `value`."""

    def __init__(self, field: str, rule: str, value: object) -> None:
        super().__init__(field, rule, value)
        self.field = field
        self.rule = rule
        self.value = value

    def __str__(self) -> str:
        return f"{self.field} {self.rule}: {shown(self.value)}"


class Undelivered(TrioRtError):
    """A send or a request came to nothing. `outcome` says how."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


class Offline(TrioRtError):
    """No link is up, and the send was not to wait for one. It was not accepted."""


class NoSession(TrioRtError):
    """It needs a session (acks, requests), and this link is a plain one."""


class Refused(TrioRtError):
    """A request was refused: raised by its handler, and at who asked.

    `code` is for programs, `text` for people. Codes of the library itself:
    `unserved`, `malformed`, `error` (the handler failed), `deadline`, `cancelled`,
    `oversize` (the reply is too large), `stopped` (nobody serves any more).
    """

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(code, text)
        for field, value in (("code", code), ("text", text)):
            if not isinstance(value, str):
                raise OptionError(field, "must be a string", value)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.text else self.code


class BrokerError(TrioRtError):
    """The store of a hub's rooms cannot be reached, is full, or answers with an error."""


class StreamOverflow(TrioRtError, trio.BrokenResourceError):
    """The stream was opened with `on_full="fail"`, and its consumer was too slow."""


class HttpError(TrioRtError):
    """A layer of `trio_rt.http` ended a call. What httpx itself raises passes through."""


class CallTimeout(HttpError, TimeoutError):
    """A call was not over within its `timeout_s`.

    `stage` says what it was at: "queue" (waiting for its turn), "backoff" (waiting
    to try again), "answer" (until the response's headers) or "body".
    """

    def __init__(self, timeout_s: float, stage: str) -> None:
        super().__init__(f"not done within {timeout_s:.3g} s, at: {stage}")
        self.timeout_s = timeout_s
        self.stage = stage


class QueueFull(HttpError):
    """As many calls wait for their turn as may. `limit` is how many."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"as many calls wait as may: {limit}")
        self.limit = limit


class CircuitOpen(HttpError):
    """The origin failed too often of late: it was not asked.

    `retry_after_s` is how long until it will be tried again.
    """

    def __init__(self, origin: str, retry_after_s: float) -> None:
        super().__init__(f"{origin} failed too often; it is tried again in {retry_after_s:.3g} s")
        self.origin = origin
        self.retry_after_s = retry_after_s


class NotCached(HttpError):
    """`cache="only-if-cached"`, and no stored response answers the request."""


class BodyTooLarge(HttpError):
    """A response's body has more than `limit_bytes` bytes, or too many codings."""

    def __init__(self, rule: str, limit: int) -> None:
        super().__init__(f"the body {rule} {limit}")
        self.rule = rule
        self.limit = limit


class BodyInvalid(HttpError):
    """The body is not what `as_` asks for. Has the `status` and the body's `beginning`."""

    def __init__(self, why: str, *, status: int, beginning: bytes) -> None:
        super().__init__(f"{why} (status {status}, body {shown(beginning)})")
        self.why = why
        self.status = status
        self.beginning = beginning


class Refuse(TrioRtError):
    """Raise this in an accept hook to refuse a handshake with an HTTP status.

    `status` is 400 to 599; `text` is the body; `headers` are added, for
    instance `{"Retry-After": "5"}`.
    """

    def __init__(
        self,
        status: int,
        text: str = "",
        *,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, text)
        if not 400 <= status <= 599:
            raise OptionError("status", "must be from 400 to 599", status)
        self.status = status
        self.text = text
        self.headers = {name: str(value) for name, value in (headers or {}).items()}

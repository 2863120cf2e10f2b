"""What the end of a link, or of a dial, means: dial again, refresh, or give up.

One table, in the five kinds of causes below. Its rules:

- RETRY: it may pass;
- REFRESH: the credentials may be stale; once with fresh ones, then fatal;
- BREACH: something on the way garbles the protocol; fatal at three links in a row;
- NEW: fatal only for a URL that never connected, for which it is no accident;
- FATAL: it will be the same for ever;
- TAKEN: fatal, or two clients would take one session from each other for ever.
"""

from __future__ import annotations

import enum
import math
import re
from typing import Final, assert_never

from ..errors import (
    AttemptsExhausted,
    ConnectionFailed,
    CredentialsRefused,
    DialError,
    HandshakeError,
    HookError,
    HookFailed,
    LinkClosed,
    LinkError,
    ProtocolBroken,
    ServerRefused,
    TakenOver,
)
from ..options import Verdict

__all__ = ["TAKEN_OVER", "advice_s", "failure", "judge"]


class _Rule(enum.Enum):
    RETRY = enum.auto()
    REFRESH = enum.auto()
    BREACH = enum.auto()
    NEW = enum.auto()
    FATAL = enum.auto()
    TAKEN = enum.auto()


#: The close code of a session that another link has now. 4000 and above are the
#: application's (RFC 6455, 7.4.2); the end is that of HTTP's 409.
TAKEN_OVER: Final = 4409

#: Close codes by range, the first match counts; others are RETRY. RFC 6455,
#: 7.4 and the IANA registry, 3000 is "Unauthorized" there; 4401 is HTTP's 401
#: as many servers spell it; that 3500-3999 and 4500-4999 are not worth a
#: reconnect is Centrifugo's convention.
CLOSE_CODES: Final = (
    (1002, 1002, _Rule.BREACH),
    (1003, 1003, _Rule.FATAL),
    (1007, 1007, _Rule.BREACH),
    (1008, 1008, _Rule.REFRESH),
    (1009, 1010, _Rule.FATAL),
    (3000, 3000, _Rule.REFRESH),
    (4401, 4401, _Rule.REFRESH),
    (TAKEN_OVER, TAKEN_OVER, _Rule.TAKEN),
    (3500, 3999, _Rule.NEW),
    (4500, 4999, _Rule.NEW),
)

#: HTTP statuses of refused handshakes, likewise; others are NEW, such as a
#: redirect that cannot be followed, or the 200 of a page that is no WebSocket.
STATUSES: Final = (
    (401, 401, _Rule.REFRESH),
    (408, 408, _Rule.RETRY),
    (425, 425, _Rule.RETRY),
    (429, 429, _Rule.RETRY),
    (500, 599, _Rule.RETRY),
)

#: HTTP statuses of a proxy that does not connect; others are RETRY.
PROXY_STATUSES: Final = (
    (408, 408, _Rule.RETRY),
    (425, 425, _Rule.RETRY),
    (429, 429, _Rule.RETRY),
    (400, 499, _Rule.NEW),
)

#: What hooks raise when they have a bug, and not when the world has one.
BUGS: Final = (TypeError, AttributeError, NameError)

#: Links in a row that may end in a breach of the protocol.
BREACHES: Final = 3

#: How a server that closes with 1012 or 1013 advises when to come back. More
#: digits than these are no advice.
RETRY_AFTER: Final = re.compile(r"(?<!\S)retry-after=([0-9]{1,9}(?:\.[0-9]{1,9})?)(?![^\s;,])")


def judge(cause: LinkError, *, ever_connected: bool, refreshed: bool, breaches: int) -> Verdict:
    """What to do about `cause`.

    `ever_connected`: this URL had a link before. `refreshed`: `cause` came in
    spite of fresh credentials. `breaches`: links in a row, this one included,
    that ended with 1002 or 1007 before `min_uptime_s`.
    """
    match rule := _rule(cause):
        case _Rule.RETRY:
            return "retry"
        case _Rule.REFRESH:
            return "fatal" if refreshed else "refresh"
        case _Rule.BREACH:
            return "fatal" if breaches >= BREACHES else "retry"
        case _Rule.NEW:
            return "retry" if ever_connected else "fatal"
        case _Rule.FATAL | _Rule.TAKEN:
            return "fatal"
        case _:  # pragma: no cover
            assert_never(rule)


def failure(cause: LinkError, verdict: Verdict) -> ConnectionFailed:
    """The exception to leave `connect()` with when `cause` was the last.

    A verdict other than "fatal" means that only the attempts are used up. The
    caller chains it to `cause`.
    """
    if verdict != "fatal":
        return AttemptsExhausted(f"no attempts are left; the last one: {cause}")
    if isinstance(cause, HookError):
        return HookFailed(f"a bug in the program's own {cause.hook}: {cause}")
    match _rule(cause):
        case _Rule.REFRESH:
            return CredentialsRefused(f"the server refuses the credentials: {cause}")
        case _Rule.BREACH:
            return ProtocolBroken(f"link after link breaks the protocol: {cause}")
        case _Rule.TAKEN:
            return TakenOver("another connection has taken up this session")
        case _Rule.FATAL:
            return ProtocolBroken(f"this would happen again on every link: {cause}")
        case _:
            return ServerRefused(f"not worth another attempt: {cause}")


def advice_s(cause: LinkError) -> float | None:
    """How many seconds the server asks to wait; None if it does not, or asks nonsense."""
    advice = None
    if isinstance(cause, HandshakeError):
        advice = cause.retry_after_s
    elif isinstance(cause, LinkClosed) and cause.code in (1012, 1013):
        found = RETRY_AFTER.search(cause.reason)
        advice = float(found[1]) if found else None
    if advice is None or not 0 <= advice < math.inf:
        return None
    return advice


def _rule(cause: LinkError) -> _Rule:
    match cause:
        case LinkClosed(code=code):
            return _in_ranges(code, CLOSE_CODES, _Rule.RETRY)
        case HandshakeError(status=int(status)):
            return _in_ranges(status, STATUSES, _Rule.NEW)
        case DialError(certificate=True):
            return _Rule.NEW
        case DialError(status=int(status)):
            return _in_ranges(status, PROXY_STATUSES, _Rule.RETRY)
        case HookError(__cause__=error) if isinstance(error, BUGS):
            return _Rule.FATAL
        case _:
            return _Rule.RETRY


def _in_ranges(number: int, table: tuple[tuple[int, int, _Rule], ...], other: _Rule) -> _Rule:
    for first, last, rule in table:
        if first <= number <= last:
            return rule
    return other

"""What the end of a link or dial means."""

from __future__ import annotations

import math

import pytest

from trio_rt.errors import (
    AttemptsExhausted,
    ConnectionFailed,
    CredentialsRefused,
    DialError,
    HandshakeError,
    HookError,
    HookFailed,
    LinkClosed,
    LinkDead,
    LinkError,
    ProtocolBroken,
    ServerRefused,
)
from trio_rt.options import Verdict
from trio_rt.protocol.verdict import advice_s, failure, judge


def verdict(
    cause: LinkError,
    *,
    ever_connected: bool = False,
    refreshed: bool = False,
    breaches: int = 1,
) -> Verdict:
    return judge(cause, ever_connected=ever_connected, refreshed=refreshed, breaches=breaches)


def refused(status: int | None) -> HandshakeError:
    return HandshakeError("refused", status=status)


def hook_error(error: Exception) -> HookError:
    wrapped = HookError("credentials", error)
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    "cause",
    [
        *map(LinkClosed, (1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014)),
        *map(LinkClosed, (3001, 3499, 4000, 4400, 4499)),
        *map(refused, (408, 425, 429, 500, 502, 503, 504, 599, None)),
        *(DialError("no path", stage=stage) for stage in ("dns", "tcp", "proxy", "tls", "greet")),
        *(DialError("proxy", stage="proxy", status=s) for s in (302, 408, 425, 429, 502, 503)),
        LinkDead(25.0),
        hook_error(OSError("no token server")),
        HookError("greet", ValueError("not chained")),
        LinkError("something new"),
    ],
    ids=str,
)
def test_what_may_pass_is_retried(cause: LinkError) -> None:
    """Always, whatever was before."""
    assert verdict(cause) == "retry"
    assert verdict(cause, ever_connected=True, refreshed=True, breaches=99) == "retry"


@pytest.mark.parametrize("cause", [refused(401), *map(LinkClosed, (1008, 3000, 4401))], ids=str)
def test_credentials_are_refreshed_once(cause: LinkError) -> None:
    """Refused again with fresh ones is fatal."""
    assert verdict(cause) == "refresh"
    assert verdict(cause, ever_connected=True) == "refresh"
    assert verdict(cause, refreshed=True) == "fatal"
    assert isinstance(failure(cause, "fatal"), CredentialsRefused)


@pytest.mark.parametrize("code", [1002, 1007])
@pytest.mark.parametrize("by_peer", [True, False])
def test_three_breaches_are_fatal(code: int, by_peer: bool) -> None:
    """A breach may be an accident, three links in a row are none."""
    cause = LinkClosed(code, by_peer=by_peer)
    assert [verdict(cause, ever_connected=True, breaches=n) for n in (1, 2, 3, 4)] == [
        "retry",
        "retry",
        "fatal",
        "fatal",
    ]
    assert isinstance(failure(cause, "fatal"), ProtocolBroken)


@pytest.mark.parametrize("code", [1003, 1009, 1010])
def test_what_stays_as_it_is_is_fatal(code: int) -> None:
    """The next link would end the same way."""
    cause = LinkClosed(code)
    assert verdict(cause, ever_connected=True) == "fatal"
    assert isinstance(failure(cause, "fatal"), ProtocolBroken)


@pytest.mark.parametrize(
    "cause",
    [
        *map(refused, (400, 403, 404, 407, 410, 426, 451)),
        *map(refused, (101, 200, 301, 308)),
        *map(LinkClosed, (3500, 3999, 4500, 4999)),
        DialError("bad certificate", stage="tls", certificate=True),
        *(DialError("proxy", stage="proxy", status=s) for s in (400, 401, 403, 407)),
    ],
    ids=str,
)
def test_what_was_never_right_is_fatal(cause: LinkError) -> None:
    """The same is retried where this URL did connect before."""
    assert verdict(cause) == "fatal"
    assert verdict(cause, ever_connected=True) == "retry"
    assert isinstance(failure(cause, "fatal"), ServerRefused)


@pytest.mark.parametrize(
    "error", [TypeError("x"), AttributeError("x"), NameError("x"), UnboundLocalError("x")]
)
def test_bugs_in_hooks_are_fatal(error: Exception) -> None:
    """At once: they do not mend themselves."""
    cause = hook_error(error)
    assert verdict(cause, ever_connected=True) == "fatal"
    assert isinstance(failure(cause, "fatal"), HookFailed)
    assert "credentials" in str(failure(cause, "fatal"))


@pytest.mark.parametrize("given", ["retry", "refresh"])
def test_failing_without_a_fatal_verdict(given: Verdict) -> None:
    """Then it is the attempts that are used up."""
    assert type(failure(LinkDead(25.0), given)) is AttemptsExhausted


def test_a_verdict_of_the_programs_own() -> None:
    """What only the program calls fatal is a refusal too, and the message has the cause."""
    error: ConnectionFailed = failure(LinkClosed(1001, "moved"), "fatal")
    assert isinstance(error, ServerRefused)
    assert "1001: moved" in str(error)


@pytest.mark.parametrize("code", [1012, 1013])
@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("retry-after=5", 5.0),
        ("retry-after=2.5", 2.5),
        ("retry-after=0", 0.0),
        ("restarting; retry-after=7", 7.0),
        ("retry-after=7, please", 7.0),
        ("", None),
        ("restarting", None),
        ("retry-after=", None),
        ("retry-after=-1", None),
        ("retry-after=nan", None),
        ("retry-after=inf", None),
        ("retry-after=1e9", None),
        ("retry-after=5s", None),
        ("retry-after=5.", None),
        ("retry-after=" + "9" * 100, None),
        ("retry-after=٣", None),
        ("no-retry-after=5", None),
    ],
)
def test_advice_in_a_close(code: int, reason: str, expected: float | None) -> None:
    """A plain number of seconds is advice, everything else is none."""
    assert advice_s(LinkClosed(code, reason)) == expected


def test_no_advice_in_other_closes() -> None:
    """Only 1012 and 1013 say "come back later"."""
    assert advice_s(LinkClosed(1001, "retry-after=5")) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (0.0, 0.0),
        (12.5, 12.5),
        (1e300, 1e300),
        (-1.0, None),
        (math.nan, None),
        (math.inf, None),
    ],
)
def test_advice_in_a_refusal(given: float | None, expected: float | None) -> None:
    """`Retry-After` counts where it is a time that can be waited for."""
    assert advice_s(HandshakeError("busy", status=503, retry_after_s=given)) == expected


def test_no_advice_elsewhere() -> None:
    """A dead link advises nothing."""
    assert advice_s(LinkDead(25.0)) is None

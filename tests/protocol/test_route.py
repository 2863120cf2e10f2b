"""Where to dial next, when, and when to stop."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import (
    AttemptsExhausted,
    ConnectionFailed,
    CredentialsRefused,
    DialError,
    HandshakeError,
    HookError,
    LinkClosed,
    LinkError,
    OptionError,
    ProtocolBroken,
    ServerRefused,
)
from trio_rt.options import Reconnect, Verdict
from trio_rt.protocol.route import Route
from trio_rt.protocol.url import parse_url

REFUSED = DialError("refused", stage="tcp")
STALE = HandshakeError("who are you", status=401)
NOT_FOUND = HandshakeError("nothing here", status=404)
CUT = LinkClosed(1006)
BREACH = LinkClosed(1002)
TOO_BIG = LinkClosed(1009)


class Highest:
    """Draws the upper bound, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float, /) -> float:
        self.asked.append((a, b))
        return b


class Story(Route):
    """A route in the hands of a supervisor, and a clock that follows its delays."""

    def __init__(self, *names: str, **options: Any) -> None:
        self.drawn = Highest()
        self.now = 1000.0
        urls = [parse_url(f"ws://{name}") for name in names or ("a",)]
        super().__init__(urls, Reconnect(**options), self.drawn)

    @property
    def host(self) -> str:
        return self.url.host

    def dial(self, cause: LinkError = REFUSED) -> float | ConnectionFailed:
        """A dial that fails."""
        self.dialling(self.now)
        return self._wait(self.failed(cause, self.now, linked=False))

    def link(
        self, cause: LinkError = CUT, *, proven: bool = False, uptime_s: float = 0.0
    ) -> float | ConnectionFailed:
        """A dial that comes to a link, and the end of that."""
        self.dialling(self.now)
        self.opened()
        self.now += uptime_s
        self.ended(proven=proven, now=self.now)
        return self._wait(self.failed(cause, self.now, linked=True))

    def _wait(self, verdict: float | ConnectionFailed) -> float | ConnectionFailed:
        if not isinstance(verdict, ConnectionFailed):
            self.now += verdict
        return verdict


def failure(verdict: float | ConnectionFailed) -> ConnectionFailed:
    assert isinstance(verdict, ConnectionFailed)
    return verdict


# Which URL


def test_next_on_failure() -> None:
    """A dial that fails moves on to the next URL, round and round."""
    route = Story("a", "b", "c")
    hosts = []
    for _ in range(7):
        hosts.append(route.host)
        route.dial()
    assert hosts == ["a", "b", "c", "a", "b", "c", "a"]


def test_sticky() -> None:
    """A URL that worked is dialled again when its link ends."""
    route = Story("a", "b")
    route.dial()
    for _ in range(3):
        assert route.host == "b"
        route.link(proven=True)
    assert route.host == "b"
    route.dial()
    assert route.host == "a"


def test_struck() -> None:
    """A fatal verdict strikes out that URL alone, for ever."""
    route = Story("a", "b", "c")
    route.dial(NOT_FOUND)
    hosts = []
    for _ in range(4):
        hosts.append(route.host)
        assert isinstance(route.dial(), float)
    assert hosts == ["b", "c", "b", "c"]


def test_struck_in_the_middle() -> None:
    """The struck URL is passed over from wherever the round begins."""
    route = Story("a", "b", "c")
    route.dial()
    route.dial(NOT_FOUND)
    assert route.host == "c"
    route.dial()
    assert route.host == "a"
    route.dial()
    assert route.host == "c"


def test_struck_after_a_link() -> None:
    """A link's fatal end moves on too, though its URL had worked."""
    route = Story("a", "b")
    route.link(TOO_BIG, proven=True)
    assert route.host == "b"


def test_none_left() -> None:
    """When the last URL is struck the connection fails, with the last cause."""
    route = Story("a", "b")
    assert route.dial(TOO_BIG) == 0.5
    error = failure(route.dial(NOT_FOUND))
    assert type(error) is ServerRefused
    assert error.__cause__ is NOT_FOUND


def test_last_url_stays() -> None:
    """With one URL left every failure comes back to it."""
    route = Story("a", "b")
    route.dial(NOT_FOUND)
    for _ in range(3):
        assert route.host == "b"
        route.dial()


# What a cause means


def test_new_url_is_judged_strictly() -> None:
    """A 404 is fatal for a URL that never connected, and passes for one that did."""
    assert type(failure(Story("a").dial(NOT_FOUND))) is ServerRefused
    route = Story("a")
    route.link(proven=True)
    assert isinstance(route.dial(NOT_FOUND), float)


def test_past_belongs_to_the_url() -> None:
    """That another URL connected says nothing about this one."""
    route = Story("a", "b")
    route.link(proven=True)
    route.dial()
    assert route.host == "b"
    route.dial(NOT_FOUND)
    assert [route.host, route.dial() and route.host] == ["a", "a"]


def test_refresh_once() -> None:
    """Refused credentials are fetched anew for the same URL, once; then it is fatal."""
    route = Story("a")
    assert not route.refused
    assert isinstance(route.dial(STALE), float)
    assert route.refused
    error = failure(route.dial(STALE))
    assert type(error) is CredentialsRefused
    assert error.__cause__ is STALE


def test_refreshed_long_ago() -> None:
    """Another failure in between does not win the right to a second refresh."""
    route = Story("a")
    route.dial(STALE)
    route.dial(REFUSED)
    assert type(failure(route.dial(STALE))) is CredentialsRefused


def test_refresh_stays_at_the_url() -> None:
    """Fresh credentials are tried where the stale ones were refused."""
    route = Story("a", "b")
    route.dial(STALE)
    assert route.host == "a"
    route.dial(STALE)
    assert route.host == "b"
    assert not route.refused


def test_refreshed_by_a_proven_link() -> None:
    """A proven link wins the right to another refresh; one that only opened does not."""
    route = Story("a")
    route.dial(STALE)
    route.link(proven=True)
    assert isinstance(route.dial(STALE), float)
    assert type(failure(route.link(LinkClosed(4401)))) is CredentialsRefused


def test_refused_is_about_the_last_attempt() -> None:
    """`refused` is over with the next link, or the next failure of another kind."""
    route = Story("a")
    route.dial(STALE)
    route.dialling(route.now)
    assert route.refused
    route.opened()
    assert not route.refused
    route = Story("a")
    route.dial(STALE)
    route.dial(REFUSED)
    assert not route.refused


@pytest.mark.parametrize(
    "cause",
    [HookError("credentials", OSError("down")), DialError("too late", stage="credentials")],
    ids=["hook", "timeout"],
)
def test_refused_until_credentials_are_given(cause: LinkError) -> None:
    """`refused` outlasts attempts for which the program had no credentials to give."""
    route = Story("a", "b")
    route.dial(STALE)
    route.dial(cause)
    assert route.refused
    assert route.host == "b"
    route.dial(REFUSED)
    assert not route.refused
    route.dial(cause)
    assert not route.refused


def test_a_greeting_that_failed_had_its_credentials() -> None:
    """A failure of `greet` is one of another kind: the credentials were taken."""
    route = Story("a")
    route.dial(STALE)
    route.dial(HookError("greet", OSError("no")))
    assert not route.refused


def test_refused_while_the_hook_fails() -> None:
    """If no fresh credentials could be had, the server's refusal is still the last word."""
    route = Story("a")
    route.dial(STALE)
    route.dial(HookError("credentials", OSError()))
    assert route.refused
    route.dial(HookError("greet", OSError()))
    assert not route.refused


def test_breaches_in_a_row() -> None:
    """The third link in a row that breaks the protocol is fatal."""
    route = Story("a")
    assert isinstance(route.link(BREACH), float)
    assert isinstance(route.link(LinkClosed(1007)), float)
    error = failure(route.link(BREACH))
    assert type(error) is ProtocolBroken
    assert error.__cause__ is BREACH


def test_breaches_not_in_a_row() -> None:
    """Another end in between starts the count anew."""
    route = Story("a")
    for cause in (BREACH, BREACH, CUT, BREACH, BREACH):
        assert isinstance(route.link(cause), float)


def test_breach_of_a_proven_link() -> None:
    """A breach after `min_uptime_s` is none of the three."""
    route = Story("a")
    route.link(BREACH)
    route.link(BREACH)
    for _ in range(5):
        assert isinstance(route.link(BREACH, proven=True), float)
    assert isinstance(route.link(BREACH), float)
    assert isinstance(route.link(BREACH), float)
    assert type(failure(route.link(BREACH))) is ProtocolBroken


def test_breaches_belong_to_the_url() -> None:
    """Each URL's breaches are counted for it, and forgiven for it."""
    route = Story("a", "b")
    route.dial()
    for proven in (False, False, True, False, False):
        assert route.host == "b"
        route.link(BREACH, proven=proven)
    assert route.host == "b"
    assert isinstance(route.link(BREACH), float)
    assert route.host == "a"


@pytest.mark.parametrize(
    ("own", "cause", "failed", "refused"),
    [
        ("fatal", REFUSED, True, False),
        ("retry", NOT_FOUND, False, False),
        ("refresh", REFUSED, False, True),
        (None, REFUSED, False, False),
        (None, NOT_FOUND, True, False),
    ],
)
def test_own_verdict(own: Verdict | None, cause: LinkError, failed: bool, refused: bool) -> None:
    """`Reconnect.verdict` is asked with the cause; None leaves the built-in judgement."""
    asked: list[LinkError] = []

    def verdict(asked_about: LinkError) -> Verdict | None:
        asked.append(asked_about)
        return own

    route = Story("a", verdict=verdict)
    assert isinstance(route.dial(cause), ConnectionFailed) is failed
    assert route.refused is refused
    assert asked == [cause]


@pytest.mark.parametrize("own", ["", "RETRY", True, 1])
def test_bad_own_verdict(own: Any) -> None:
    """What is no verdict is refused, and not taken for one."""
    route = Story("a", verdict=lambda cause: own)
    route.dialling(route.now)
    with pytest.raises(OptionError) as caught:
        route.failed(REFUSED, route.now, linked=False)
    assert (caught.value.field, caught.value.value) == ("Reconnect.verdict", own)


# When


def test_attempt() -> None:
    """Attempts are counted from the last proven link, whatever came between."""
    route = Story("a")
    assert route.attempt == 0
    route.dial()
    route.link()
    assert route.attempt == 2
    route.link(proven=True)
    assert route.attempt == 0
    route.dialling(route.now)
    assert route.attempt == 1


def test_every_redial_is_jittered() -> None:
    """Each delay is drawn from 0 to a bound, the first and a refresh's included."""
    route = Story("a", first_s=0.5, cap_s=3.0, factor=2.0)
    delays = [route.dial(STALE), route.dial(), route.link(), route.dial(), route.dial()]
    assert route.drawn.asked == [(0.0, 0.5), (0.0, 1.0), (0.0, 2.0), (0.0, 3.0), (0.0, 3.0)]
    assert delays == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_delay_resets_after_a_proven_link() -> None:
    """A link that only opened slows down as a failed dial does; a proven one starts anew."""
    route = Story("a", first_s=1.0)
    assert [route.dial(), route.link(), route.link()] == [1.0, 2.0, 4.0]
    assert [route.link(proven=True), route.link()] == [1.0, 2.0]


def test_hurry() -> None:
    """When the program is leaving the delays start anew, and the attempts do not."""
    route = Story("a", first_s=1.0)
    assert [route.dial(), route.dial()] == [1.0, 2.0]
    route.hurry()
    assert [route.dial(), route.dial()] == [1.0, 2.0]
    assert route.attempt == 4


def test_delay_goes_on_across_urls() -> None:
    """Moving on to the next URL is no reason to hurry."""
    route = Story("a", "b", first_s=1.0)
    assert [route.dial(), route.dial(NOT_FOUND), route.dial()] == [1.0, 2.0, 4.0]


def test_advice_is_a_lower_bound() -> None:
    """A server's advice is waited for at least, with a random time on top."""
    route = Story("a", first_s=1.0)
    busy = HandshakeError("busy", status=503, retry_after_s=8.0)
    assert route.dial(busy) == 12.0
    assert (0.0, 4.0) in route.drawn.asked
    assert route.link(LinkClosed(1013, "retry-after=20")) == 30.0
    assert route.dial(HandshakeError("busy", status=503, retry_after_s=0.0)) == 4.0


# When to stop


def test_max_attempts() -> None:
    """The given number of dials is made, and not one more."""
    route = Story("a", max_attempts=3)
    assert isinstance(route.dial(), float)
    assert isinstance(route.link(), float)
    error = failure(route.dial())
    assert type(error) is AttemptsExhausted
    assert error.__cause__ is REFUSED
    assert "3 attempts" in str(error)


def test_one_attempt() -> None:
    """With `max_attempts=1` the first failure is the last."""
    assert type(failure(Story("a", max_attempts=1).dial())) is AttemptsExhausted


def test_max_attempts_since_the_proven_link() -> None:
    """A proven link gives all attempts back."""
    route = Story("a", max_attempts=2)
    route.dial()
    for _ in range(3):
        assert isinstance(route.link(proven=True), float)
    assert isinstance(route.dial(), float)
    assert type(failure(route.dial())) is AttemptsExhausted


def test_give_up_after() -> None:
    """The last dial is made at the deadline, whatever delay was drawn for it."""
    route = Story("a", first_s=4.0, give_up_after_s=10.0)
    assert [route.dial(), route.dial()] == [4.0, 6.0]
    assert route.now == 1010.0
    error = failure(route.dial())
    assert type(error) is AttemptsExhausted
    assert error.__cause__ is REFUSED
    assert "10 s" in str(error)


def test_give_up_counts_from_the_first_dial() -> None:
    """The time a dial takes counts, and so does a link that proved nothing."""
    route = Story("a", give_up_after_s=10.0)
    route.dialling(route.now)
    route.now += 10.0
    assert type(failure(route.failed(REFUSED, route.now, linked=False))) is AttemptsExhausted
    route = Story("a", give_up_after_s=10.0)
    assert type(failure(route.link(uptime_s=10.0))) is AttemptsExhausted


def test_give_up_counts_from_the_end_of_a_proven_link() -> None:
    """However long a proven link lasted, all the time is there when it ends."""
    route = Story("a", first_s=4.0, give_up_after_s=10.0)
    assert route.link(proven=True, uptime_s=3600.0) == 4.0
    assert route.dial() == 6.0
    assert type(failure(route.dial())) is AttemptsExhausted


def test_fatal_beats_exhausted() -> None:
    """If the last attempt ends in a fatal verdict, that is what is told."""
    assert type(failure(Story("a", max_attempts=1).dial(NOT_FOUND))) is ServerRefused


def test_exhausted_with_urls_left() -> None:
    """Attempts are counted over all URLs together."""
    route = Story("a", "b", max_attempts=2)
    route.dial(NOT_FOUND)
    assert type(failure(route.dial())) is AttemptsExhausted


causes = st.sampled_from([REFUSED, STALE, NOT_FOUND, CUT, BREACH, TOO_BIG])


@given(
    count=st.integers(1, 3),
    ends=st.lists(st.tuples(causes, st.booleans(), st.booleans()), max_size=30),
    first_s=st.sampled_from([0.0, 0.5, 1.0]),
    give_up_after_s=st.sampled_from([math.inf, 20.0]),
)
def test_any_story(
    count: int,
    ends: list[tuple[LinkError, bool, bool]],
    first_s: float,
    give_up_after_s: float,
) -> None:
    """Delays are finite, never two zeros in a row, no later than the deadline; ends are chained."""
    route = Story(*"abc"[:count], first_s=first_s, give_up_after_s=give_up_after_s)
    struck: set[str] = set()
    tried: set[str] = set()
    delays = [math.nan]
    since = route.now
    for cause, linked, proven in ends:
        host = route.host
        tried.add(host)
        assert host not in struck
        if linked and proven:
            since = route.now
            delays.append(math.nan)
        verdict = route.link(cause, proven=proven) if linked else route.dial(cause)
        if isinstance(verdict, ConnectionFailed):
            assert verdict.__cause__ is cause
            assert isinstance(verdict, AttemptsExhausted) or len(tried) == count
            break
        if cause is TOO_BIG:
            struck.add(host)
        assert route.now <= since + give_up_after_s
        delays.append(verdict)
    assert math.inf not in delays
    assert all(first or second for first, second in pairwise(delays))

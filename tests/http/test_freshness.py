"""The judgement of RFC 9111: its table, its laws, and what others say of the same."""

from __future__ import annotations

import json
import random
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_rt._ambient import Ambient, replace_ambient
from trio_rt.http._cache import Cache
from trio_rt.http._directives import (
    NO_WISH,
    Directives,
    date_s,
    delta_s,
    directives,
    names,
    variant_of,
    wish_of,
)
from trio_rt.http._freshness import (
    Headers,
    Rules,
    Terms,
    conditions,
    is_confirmed,
    judged,
    kept,
    may_stand_in,
    updated,
    verdict,
)
from trio_rt.http._store import MemoryStore

from ..net.support import tool
from .cache_peers.runner import Broken, run_case
from .cache_table import CASES, NOW, Case, date, outcome, render

PEERS: Final = Path(__file__).parent / "cache_peers"

needs_peers = pytest.mark.skipif(
    tool("node") is None or not (PEERS / "node_modules" / "http-cache-semantics").is_dir(),
    reason="not installed: node, or `npm ci` in tests/http/cache_peers",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section} {case.says}")
def test_table(case: Case) -> None:
    """Each row holds."""
    assert outcome(case) == case.outcome


def test_docs_are_the_table() -> None:
    """`docs/http-cache.md` is what `python -m tests.http.cache_table` prints."""
    page = Path(__file__).parents[2] / "docs" / "http-cache.md"
    assert page.read_text(encoding="utf-8") == render()


def terms_of(control: str = "", *headers: tuple[bytes, bytes], rules: Rules | None = None) -> Terms:
    terms = judged(
        200,
        [(b"cache-control", control.encode()), (b"etag", b'"1"'), *headers],
        NO_WISH,
        rules or Rules(),
        NOW,
        NOW,
    )
    assert terms is not None
    return terms


def wish(*headers: tuple[bytes, bytes], netloc: bytes = b"a.test") -> Any:
    return wish_of(headers, netloc) or NO_WISH


# Parsing


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_three_forms_of_a_date(text: str) -> None:
    """RFC 9110, section 5.6.7: all of them are read."""
    assert date_s(text.encode()) == 784111777.0


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "",
        "Sun, 31 Feb 2021 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Nox 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, x",
    ],
)
def test_no_date(text: str) -> None:
    """Whatever is not exactly a date is none."""
    assert date_s(text.encode()) is None


@given(st.integers(0, 4_000_000_000))
def test_dates_are_read_back(at: int) -> None:
    """Every date that is written is the same number again."""
    assert date_s(date(at - NOW).encode()) == at


def test_two_digit_years_turn() -> None:
    """70 is 1970, and 69 is 2069."""
    assert date_s(b"Thursday, 01-Jan-70 00:00:00 GMT") == 0.0
    assert (date_s(b"Tuesday, 01-Jan-69 00:00:00 GMT") or 0.0) > 3e9


@pytest.mark.parametrize("text", ["", "-1", "1.5", "٣", " 1", "0x1", "1e3"])
def test_no_delta_seconds(text: str) -> None:
    """Only ASCII digits count."""
    assert delta_s(text) is None


def test_delta_seconds_are_bounded() -> None:
    """Large ones are 2^31, however many digits they have."""
    assert delta_s("2147483647") == 2**31 - 1
    assert delta_s("2147483649") == delta_s("9" * 5000) == 2**31


@pytest.mark.parametrize(
    "value",
    [b"no-store", b"No-Store", b", ,no-store", b"max-age=1,no-store", b'a="b,c", no-store', b'no-store="', b"no-store=x", b' no-store ;'],
)  # fmt: skip
def test_restrictions_are_seen(value: bytes) -> None:
    """A directive that only restricts counts in any spelling."""
    assert directives(value).no_store


@given(st.binary(max_size=60))
def test_any_cache_control_can_be_read(value: bytes) -> None:
    """No bytes raise, and no lifetime is negative."""
    assert (directives(value).max_age_s or 0.0) >= 0.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"Cache-Control", b"Expires", b"Date", b"Age", b"Vary", b"ETag", b"Content-Length"]
            ),
            st.one_of(st.binary(max_size=20), st.just(b"max-age=60"), st.just(date(5).encode())),
        ),
        max_size=6,
    ),
    st.integers(200, 599),
    st.booleans(),
)
def test_any_response_can_be_judged(headers: Headers, status: int, shared: bool) -> None:
    """No headers raise; what is stored was received after it was born, and ends some day."""
    terms = judged(status, headers, NO_WISH, Rules(shared=shared, heuristic_s=60.0), NOW, NOW)
    if terms is not None:
        assert terms.born_at <= NOW
        assert terms.fresh_until <= NOW + 2**31 + 1e10


def test_names_are_a_set() -> None:
    """Order, case and repetition do not matter."""
    assert names(b"B, a,,b ") == (b"a", b"b")


# Requests


def test_a_plain_request_wishes_nothing() -> None:
    """The headers that httpx adds ask nothing of a cache."""
    assert wish_of([(b"Host", b"a.test"), (b"Accept", b"*/*")], b"a.test") is None


@pytest.mark.parametrize(
    "name",
    ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
     "Content-Length", "Transfer-Encoding"],
)  # fmt: skip
def test_special_requests(name: str) -> None:
    """Each of the caller's own conditions is seen, and a body."""
    assert wish((name.encode(), b"x")).special


def test_identities_differ() -> None:
    """Requests differ by `Authorization` and a foreign `Host`, and no secret is kept in plain."""
    plain, ann, bob = wish(), wish((b"Authorization", b"ann")), wish((b"Authorization", b"bob"))
    host, both = wish((b"Host", b"b.test")), wish((b"Host", b"b.test"), (b"Authorization", b"ann"))
    owns = [plain.own, ann.own, bob.own, host.own, both.own]
    assert len(set(owns)) == 5
    assert b"ann" not in ann.own
    assert ann.own == wish((b"authorization", b"ann")).own


def test_variants() -> None:
    """Equal but for whitespace and lines is equal; absent, empty and other values differ."""

    def variant(*headers: tuple[bytes, bytes]) -> bytes:
        return variant_of((b"accept", b"x"), headers, b"")

    assert variant((b"Accept", b"a, b")) == variant((b"accept", b"a ,b"))
    assert variant((b"Accept", b"a"), (b"Accept", b"b")) == variant((b"Accept", b"a,b"))
    others = [
        variant(),
        variant((b"Accept", b"")),
        variant((b"x", b"a")),
        variant((b"Accept", b"a")),
    ]
    assert len(set(others)) == 4
    assert variant((b"y", b"1")) == variant()
    assert variant_of((b"a",), [(b"a", b"1")], b"own") != variant_of((b"a",), [(b"a", b"1")], b"")


# Time


def test_slow_answers_are_older() -> None:
    """Section 4.2.3: the time that the answer took is part of its age."""
    terms = judged(200, [(b"Cache-Control", b"max-age=60")], NO_WISH, Rules(), NOW - 20, NOW)
    assert terms is not None
    assert verdict(terms, NO_WISH, Rules(), NOW + 39) == "fresh"
    assert verdict(terms, NO_WISH, Rules(), NOW + 40) == "validate"


def test_a_clock_set_back() -> None:
    """Before the moment of its reception nothing is known of an entry's age."""
    assert verdict(terms_of("max-age=60"), NO_WISH, Rules(), NOW - 1) == "validate"


@given(st.floats(0, 200), st.floats(0, 200))
def test_what_is_stale_stays_stale(first_s: float, more_s: float) -> None:
    """Time alone never makes a response better."""
    order = ["fresh", "refresh", "validate"]
    terms = terms_of("max-age=60, stale-while-revalidate=30")
    before = verdict(terms, NO_WISH, Rules(), NOW + first_s)
    after = verdict(terms, NO_WISH, Rules(), NOW + first_s + more_s)
    assert order.index(before) <= order.index(after)


def test_own_defaults_yield_to_the_server() -> None:
    """`stale_*_s` of the cache apply only where the server said nothing."""
    rules = Rules(stale_while_revalidate_s=30.0, stale_if_error_s=30.0)
    silent, told = (
        terms_of("max-age=60"),
        terms_of("max-age=60, stale-while-revalidate=0, stale-if-error=0"),
    )
    assert verdict(silent, NO_WISH, rules, NOW + 89) == "refresh"
    assert verdict(silent, NO_WISH, rules, NOW + 90) == "validate"
    assert verdict(told, NO_WISH, rules, NOW + 61) == "validate"
    assert may_stand_in(silent, NO_WISH, rules, NOW + 89)
    assert not may_stand_in(silent, NO_WISH, rules, NOW + 90)
    assert not may_stand_in(told, NO_WISH, rules, NOW + 61)


def test_graces_do_not_undo_a_request() -> None:
    """A `max-age` of the request is no leave to answer with something stale."""
    terms = terms_of("max-age=60, stale-while-revalidate=30")
    asked = wish((b"Cache-Control", b"max-age=100"))
    assert verdict(terms, asked, Rules(), NOW + 61) == "validate"


@pytest.mark.parametrize("control", ["no-cache", "must-revalidate"])
def test_no_stand_in(control: str) -> None:
    """RFC 5861 does not lift what forbids staleness."""
    terms = terms_of(f"max-age=60, stale-if-error=600, {control}")
    assert not may_stand_in(terms, NO_WISH, Rules(), NOW + 61)


def test_a_request_asks_for_stand_ins() -> None:
    """`stale-if-error` of the request wins; `no-cache` forbids all."""
    terms = terms_of("max-age=60")
    assert may_stand_in(terms, wish((b"Cache-Control", b"stale-if-error=10")), Rules(), NOW + 69)
    asked = wish((b"Cache-Control", b"stale-if-error=10, no-cache"))
    assert not may_stand_in(terms, asked, Rules(), NOW + 61)


@pytest.mark.parametrize("control", ["stale-while-revalidate=9", "stale-if-error=9"])
def test_graces_make_it_worth_storing(control: str) -> None:
    """What cannot be validated is stored for its grace alone, if it may ever be used."""

    def stored(control: str) -> bool:
        headers = [(b"Cache-Control", control.encode())]
        return judged(200, headers, NO_WISH, Rules(), NOW, NOW) is not None

    assert stored(f"max-age=0, {control}")
    assert not stored(f"max-age=0, must-revalidate, {control}")
    assert not stored(f"max-age=60, no-cache, {control}")
    assert not stored("max-age=0")


# Headers


def test_kept_headers() -> None:
    """Those of the connection, and those that it names, are not stored."""
    headers = [
        (b"Connection", b"X-Hop, close"),
        (b"x-hop", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Age", b"5"),
        (b"Set-Cookie", b"a=b"),
        (b"X-Kept", b"1"),
        (b"X-Kept", b"2"),
    ]
    assert kept(headers) == ((b"X-Kept", b"1"), (b"X-Kept", b"2"))


def test_a_304_updates() -> None:
    """Section 3.2: new fields replace old ones, but for those of the body."""
    stored = (
        (b"Date", b"old"),
        (b"A", b"1"),
        (b"a", b"2"),
        (b"B", b"1"),
        (b"Content-Length", b"4"),
    )
    told = [(b"a", b"3"), (b"Content-Length", b"0"), (b"C", b"1"), (b"Connection", b"close")]
    assert updated(stored, told) == (
        (b"B", b"1"),
        (b"Content-Length", b"4"),
        (b"a", b"3"),
        (b"C", b"1"),
    )


def test_conditions() -> None:
    """Both validators are sent, each if it is there."""
    terms = terms_of("", (b"Last-Modified", b"then"))
    assert conditions(terms) == [(b"If-None-Match", b'"1"'), (b"If-Modified-Since", b"then")]


@pytest.mark.parametrize(
    ("told", "confirms"),
    [
        ([], True),
        ([(b"ETag", b'"1"')], True),
        ([(b"ETag", b'W/"1"')], True),
        ([(b"ETag", b'"2"')], False),
        ([(b"Last-Modified", b"other")], True),
    ],
)
def test_confirmation(told: Headers, confirms: bool) -> None:
    """A 304 about another `ETag` confirms nothing; the date does not matter beside a tag."""
    assert is_confirmed(terms_of(), told) is confirms


def test_confirmation_by_date() -> None:
    """Without an `ETag` the date must be the same."""
    terms = judged(200, [(b"Last-Modified", b"then")], NO_WISH, Rules(), NOW, NOW)
    assert terms is not None
    assert is_confirmed(terms, [(b"Last-Modified", b"then")])
    assert not is_confirmed(terms, [(b"Last-Modified", b"other")])
    assert not is_confirmed(terms, [(b"ETag", b'"1"')])


# Others

CONTROLS: Final = [
    "max-age=60", "max-age=0", "s-maxage=90", "no-cache", "no-store", "public", "private",
    "must-revalidate", "proxy-revalidate", "stale-while-revalidate=30", "immutable", "x=y",
]  # fmt: skip
WISHES: Final = [
    "max-age=30", "max-age=0", "min-fresh=20", "max-stale=10", "max-stale", "no-cache", "x=y",
]  # fmt: skip


def draw_pair(draw: random.Random) -> dict[str, Any]:
    """A response and a request for it, of headers that nobody reads in two ways."""
    # A directive that is given twice has no one meaning: the table has those.
    control = list({text.partition("=")[0]: text for text in draw.sample(CONTROLS, 3)}.values())
    control = control[draw.randint(0, 3) :]
    headers = {"cache-control": ", ".join(control)} if control else {}
    for name, values in {
        "expires": [date(70), date(-5)],
        "age": ["0", "20"],
        "etag": ['"1"'],
        "set-cookie": ["a=b"],
        "vary": ["accept", "*"],
    }.items():
        if draw.random() < 0.3:
            headers[name] = draw.choice(values)
    request = {"accept": "a"}
    if draw.random() < 0.2:
        request["authorization"] = "x"
    again = request | ({"accept": "b"} if draw.random() < 0.1 else {})
    if draw.random() < 0.5:
        again["cache-control"] = draw.choice(WISHES)
    return {
        "request": request,
        "status": draw.choice([200, 200, 200, 203, 204, 301, 302, 404, 410, 500, 503]),
        "headers": headers,
        "shared": draw.random() < 0.5,
        "received": NOW,
        "asked": NOW + draw.choice([0, 10, 25, 35, 65, 75, 100, 200]) + 0.5,
        "again": again,
    }


def raw(headers: dict[str, str]) -> Headers:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def difference(pair: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Where the two disagree, and why; "" for a disagreement without a reason."""
    rules = Rules(shared=pair["shared"])
    asked = wish(*raw(pair["request"]))
    headers = raw(pair["headers"])
    control = directives(pair["headers"].get("cache-control", "").encode())
    terms = judged(pair["status"], headers, asked, rules, NOW, NOW)
    their_answer = theirs["storable"] and theirs["answers"]
    if terms is None:
        if not their_answer:
            return None
        if pair["shared"] and "set-cookie" in pair["headers"]:
            return "Set-Cookie in a shared cache"
        bare = "etag" not in pair["headers"]
        return (
            "of little use, so not stored" if bare and theirs["lifetime"] <= theirs["age"] else ""
        )
    again = wish(*raw(pair["again"]))
    answers = verdict(terms, again, rules, pair["asked"]) != "validate" and variant_of(
        terms.vary, raw(pair["request"]), asked.own
    ) == variant_of(terms.vary, raw(pair["again"]), again.own)
    if answers == their_answer:
        return None
    directive = again.directives
    if their_answer:
        return _stricter(pair, control, directive)
    return _laxer(pair, theirs, control, directive)


def _stricter(pair: dict[str, Any], control: Directives, again: Directives) -> str:
    strict = control.proxy_revalidate or control.s_maxage_s is not None
    if again.max_stale_s is not None and pair["shared"] and strict:
        return "proxy-revalidate and s-maxage forbid stale answers of a shared cache"
    if control.no_cache:
        return "no-cache forbids stale answers"
    if control.stale_while_revalidate_s is not None:
        return "stale-while-revalidate lifts neither s-maxage nor a wish of the request"
    return ""


def _laxer(
    pair: dict[str, Any], theirs: dict[str, Any], control: Directives, again: Directives
) -> str:
    if control.must_revalidate or (pair["shared"] and control.proxy_revalidate):
        return "must-revalidate and proxy-revalidate matter only when stale"
    if pair["status"] in (500, 503):
        return "any final status with explicit freshness"
    if control.immutable and again.max_age_s is not None:
        return "immutable is not reloaded"
    return ""


@needs_peers
def test_http_cache_semantics() -> None:
    """npm's `http-cache-semantics` decides the same, but for the differences named here."""
    draw = random.Random(9111)
    pairs = [draw_pair(draw) for _ in range(4000)]
    done = subprocess.run(
        [str(tool("node")), "semantics.js"],
        cwd=PEERS,
        input="\n".join(map(json.dumps, pairs)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    found = [difference(pair, their) for pair, their in zip(pairs, theirs, strict=True)]
    unexplained = [
        (pair, their) for pair, their, why in zip(pairs, theirs, found, strict=True) if why == ""
    ]
    assert not unexplained[:3]
    assert found.count(None) > 3500


#: Where this cache does not do what a case expects, and why.
DIFFERENCES: Final = {
    "age-parse-": "RFC 9111, section 5.1, has come after: an invalid `Age` is ignored",
    "cc-resp-immutable-fresh": 'the cache mode "no-cache" is the user\'s own force',
    "method-POST": "only GET is stored",
    "vary-normalise-lang": "languages are not parsed",
    "headers-store-Content-Length": "the length of another body is a truncated one",
    "304-etag-update-response-Content-Length": "the same",
    "304-etag-update-response-ETag": "a 304 with another ETag is asked again in full",
    "headers-store-Set-Cookie": "a hit repeats no Set-Cookie",
    "304-etag-update-response-Set-Cookie": "the same",
    "partial-": "parts are neither stored nor made",
}


@cache
def others_cases() -> list[tuple[str, dict[str, Any]]]:
    if tool("node") is None or not (PEERS / "node_modules" / "http-cache-tests").is_dir():
        return []
    done = subprocess.run(
        [str(tool("node")), "--no-warnings", "cases.mjs"],
        cwd=PEERS,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return [
        (case["id"], case)
        for suite in json.loads(done.stdout)
        for case in suite["tests"]
        # A "check" only shows what a cache does; "browser_skip" is for proxies.
        if case.get("kind") != "check" and not case.get("browser_skip")
    ]


class Virtual(Ambient):
    """The wall clock goes with trio's."""

    def wall_s(self) -> float:
        return NOW + trio.current_time()


def run_in_virtual_time(case: dict[str, Any]) -> None:
    async def main() -> None:
        store = MemoryStore()
        await run_case(case, Cache(store, heuristic_s=86400.0))

    old = replace_ambient(Virtual())
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        replace_ambient(old)


@needs_peers
def test_http_cache_tests() -> None:
    """The cases of npm's `http-cache-tests` hold, but for the differences named here."""
    broken: dict[str, str] = {}
    for name, case in others_cases():
        try:
            run_in_virtual_time(case)
        except Broken as error:
            broken[name] = str(error)
    unexplained = {
        name: error for name, error in broken.items() if not name.startswith(tuple(DIFFERENCES))
    }
    assert not unexplained
    assert len(others_cases()) > 200
    assert all(any(name.startswith(known) for name in broken) for known in DIFFERENCES)

"""The rules of RFC 9111 and RFC 5861 as a table: tested by `test_freshness`, shown by the docs.

python -m tests.http.cache_table > docs/http-cache.md
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Final

import attrs

from trio_rt.http._directives import NO_WISH, wish_of
from trio_rt.http._freshness import Rules, judged, verdict

__all__ = ["CASES", "NOW", "Case", "date", "outcome", "render"]

#: When each response is received, in wall seconds.
NOW: Final = 1_764_000_000.0


def date(at_s: float) -> str:
    return formatdate(NOW + at_s, usegmt=True)


@attrs.frozen
class Case:
    """A response received at 0 s and what a request `at_s` later gets of it.

    Outcomes are the verdicts ("fresh", "stale", "refresh", "validate") or "not stored".
    A number in a date field is seconds from 0. `request` made the response, and
    `again` asks for it.
    """

    section: str
    says: str
    response: str
    outcome: str
    at_s: float = 1.0
    status: int = 200
    request: str = ""
    again: str = ""
    shared: bool = False
    heuristic_s: float = 0.0


#: Every response has a validator unless it says "bare".
CASES: Final = [
    Case("3", "`no-store` of the response", "Cache-Control: no-store", "not stored"),
    Case("3", "`no-store` wins over `max-age`", "Cache-Control: max-age=60, no-store", "not stored"),
    Case("3", "`no-store` of the request", "Cache-Control: max-age=60", "not stored", request="Cache-Control: no-store"),
    Case("3", "neither freshness nor validator: no use", "bare", "not stored"),
    Case("3", "206: parts are not joined here", "Cache-Control: max-age=60", "not stored", status=206),
    Case("3", "304: nothing whole", "Cache-Control: max-age=60", "not stored", status=304),
    Case("3", "any final status with explicit freshness", "Cache-Control: max-age=60", "fresh", status=599),
    Case("3", "500 without explicit freshness", "", "not stored", status=500),
    Case("3", "404 with a validator", "", "validate", status=404),
    Case("3", "`private` in a private cache", "Cache-Control: private, max-age=60", "fresh"),
    Case("3", "`private` in a shared cache", "Cache-Control: private, max-age=60", "not stored", shared=True),
    Case("3", "`Set-Cookie` in a private cache", "Cache-Control: max-age=60\nSet-Cookie: a=b", "fresh"),
    Case("3", "`Set-Cookie` in a shared cache (stricter)", "Cache-Control: max-age=60\nSet-Cookie: a=b", "not stored", shared=True),
    Case("3.5", "`Authorization` in a private cache", "Cache-Control: max-age=60", "fresh", request="Authorization: x"),
    Case("3.5", "`Authorization` in a shared cache", "Cache-Control: max-age=60", "not stored", request="Authorization: x", shared=True),
    Case("3.5", "... with `public`", "Cache-Control: public, max-age=60", "fresh", request="Authorization: x", shared=True),
    Case("3.5", "... with `s-maxage`", "Cache-Control: s-maxage=60", "fresh", request="Authorization: x", shared=True),
    Case("3.5", "... with `must-revalidate`", "Cache-Control: max-age=60, must-revalidate", "fresh", request="Authorization: x", shared=True),
    Case("4.1", "`Vary: *`", "Cache-Control: max-age=60\nVary: *", "not stored"),
    Case("4.1", "`Vary` with a star among names", "Cache-Control: max-age=60\nVary: Accept, *", "not stored"),
    Case("4.2", "younger than `max-age`", "Cache-Control: max-age=60", "fresh", at_s=59.0),
    Case("4.2", "as old as `max-age`", "Cache-Control: max-age=60", "validate", at_s=60.0),
    Case("4.2.1", "`max-age=0`", "Cache-Control: max-age=0", "validate", at_s=0.0),
    Case("4.2.1", "`s-maxage` in a private cache", "Cache-Control: s-maxage=60", "validate"),
    Case("4.2.1", "`s-maxage` wins in a shared cache", "Cache-Control: max-age=1, s-maxage=60", "fresh", at_s=30.0, shared=True),
    Case("4.2.1", "`max-age` wins over `Expires`", "Cache-Control: max-age=60\nExpires: -5", "fresh"),
    Case("4.2.1", "`Expires` counts from `Date`", "Date: -100\nExpires: -70", "validate"),
    Case("4.2.1", "`Expires` in the future", "Date: 0\nExpires: 60", "fresh", at_s=59.0),
    Case("4.2.1", "`Expires` without `Date` counts from the reception", "Expires: 60", "fresh", at_s=59.0),
    Case("4.2.1", "... and ends", "Expires: 60", "validate", at_s=60.0),
    Case("5.3", "`Expires: 0` and other garbage is the past", "Date: 0\nExpires: 0x", "validate", at_s=0.0),
    Case("4.2.1", "two `Expires` that differ", "Expires: 60\nExpires: 90", "validate", at_s=0.0),
    Case("4.2.1", "two `max-age` that differ", "Cache-Control: max-age=60\nCache-Control: max-age=90", "validate", at_s=0.0),
    Case("4.2.1", "two `max-age` that agree", "Cache-Control: max-age=60, max-age=60", "fresh"),
    Case("4.2.1", "`max-age` that is no number", "Cache-Control: max-age=6O", "validate", at_s=0.0),
    Case("4.2.1", "`max-age=-1`", "Cache-Control: max-age=-1", "validate", at_s=0.0),
    Case("1.2.2", "a number beyond 2^31", "Cache-Control: max-age=99999999999", "fresh", at_s=1e9),
    Case("5.2", "names in any case, arguments quoted", 'Cache-Control: MAX-Age="60"', "fresh"),
    Case("5.2", "a directive within a quoted string is none", 'Cache-Control: x="no-store, max-age=0", max-age=60', "fresh"),
    Case("5.2.3", "unknown directives are ignored", "Cache-Control: max-age=60, what=ever", "fresh"),
    Case("4.2.2", "no heuristic by default", "Last-Modified: -1000000", "validate", at_s=0.0),
    Case("4.2.2", "a heuristic: a tenth of the time unchanged", "Last-Modified: -1000", "fresh", at_s=99.0, heuristic_s=3600.0),
    Case("4.2.2", "... and ends", "Last-Modified: -1000", "validate", at_s=100.0, heuristic_s=3600.0),
    Case("4.2.2", "... and has a cap", "Last-Modified: -1000000", "validate", at_s=3600.0, heuristic_s=3600.0),
    Case("4.2.2", "not for every status", "Last-Modified: -1000000", "not stored", heuristic_s=3600.0, status=500),
    Case("4.2.3", "`Age` counts", "Cache-Control: max-age=60\nAge: 50", "validate", at_s=10.0),
    Case("4.2.3", "an old `Date` counts", "Cache-Control: max-age=60\nDate: -50", "validate", at_s=10.0),
    Case("5.1", "of several `Age` the first", "Cache-Control: max-age=60\nAge: 10, 100", "fresh"),
    Case("5.1", "an invalid `Age` is ignored", "Cache-Control: max-age=60\nAge: old", "fresh"),
    Case("4.2.3", "without `Date`: not fresh for ever", "Cache-Control: max-age=60", "validate", at_s=61.0),
    Case("4.2.4", "`max-stale` within its bound", "Cache-Control: max-age=60", "stale", at_s=70.0, again="Cache-Control: max-stale=10"),
    Case("4.2.4", "`max-stale` beyond its bound", "Cache-Control: max-age=60", "validate", at_s=71.0, again="Cache-Control: max-stale=10"),
    Case("5.2.1.2", "`max-stale` without a bound", "Cache-Control: max-age=60", "stale", at_s=1e6, again="Cache-Control: max-stale"),
    Case("5.2.2.2", "`must-revalidate` forbids it", "Cache-Control: max-age=60, must-revalidate", "validate", at_s=61.0, again="Cache-Control: max-stale"),
    Case("5.2.2.2", "`must-revalidate` while fresh", "Cache-Control: max-age=60, must-revalidate", "fresh"),
    Case("5.2.2.8", "`proxy-revalidate` in a private cache", "Cache-Control: max-age=60, proxy-revalidate", "stale", at_s=61.0, again="Cache-Control: max-stale"),
    Case("5.2.2.8", "`proxy-revalidate` in a shared cache", "Cache-Control: max-age=60, proxy-revalidate", "validate", at_s=61.0, again="Cache-Control: max-stale", shared=True),
    Case("5.2.2.10", "`s-maxage` is `proxy-revalidate`, too", "Cache-Control: s-maxage=60", "validate", at_s=61.0, again="Cache-Control: max-stale", shared=True),
    Case("5.2.2.4", "`no-cache` of the response", "Cache-Control: max-age=60, no-cache", "validate"),
    Case("5.2.2.4", "`no-cache` that names fields (stricter)", 'Cache-Control: max-age=60, no-cache="a"', "validate"),
    Case("5.2.2.4", "`no-cache` forbids `max-stale`", "Cache-Control: no-cache", "validate", again="Cache-Control: max-stale"),
    Case("5.2.1.4", "`no-cache` of the request", "Cache-Control: max-age=60", "validate", again="Cache-Control: no-cache"),
    Case("5.4", "`Pragma: no-cache` alone", "Cache-Control: max-age=60", "validate", again="Pragma: no-cache"),
    Case("5.4", "`Pragma` beside `Cache-Control`", "Cache-Control: max-age=60", "fresh", again="Pragma: no-cache\nCache-Control: max-age=30"),
    Case("5.2.1.1", "`max-age` of the request: young enough", "Cache-Control: max-age=60", "fresh", at_s=30.0, again="Cache-Control: max-age=30"),
    Case("5.2.1.1", "... too old", "Cache-Control: max-age=60", "validate", at_s=31.0, again="Cache-Control: max-age=30"),
    Case("5.2.1.3", "`min-fresh`: fresh long enough", "Cache-Control: max-age=60", "fresh", at_s=30.0, again="Cache-Control: min-fresh=30"),
    Case("5.2.1.3", "... not long enough", "Cache-Control: max-age=60", "validate", at_s=31.0, again="Cache-Control: min-fresh=30"),
    Case("5.2.2.3", "`must-understand` beside `no-store`", "Cache-Control: max-age=60, must-understand, no-store", "fresh"),
    Case("5.2.2.3", "... with a status that is not understood", "Cache-Control: max-age=60, must-understand, no-store", "not stored", status=299),
    Case("RFC 8246", "`immutable` is not reloaded while fresh", "Cache-Control: max-age=60, immutable", "fresh", again="Cache-Control: max-age=0"),
    Case("RFC 8246", "... unless forced", "Cache-Control: max-age=60, immutable", "validate", again="Cache-Control: no-cache"),
    Case("RFC 8246", "... and not when it is stale", "Cache-Control: max-age=60, immutable", "validate", at_s=61.0, again="Cache-Control: max-age=0"),
    Case("RFC 5861, 3", "within `stale-while-revalidate`", "Cache-Control: max-age=60, stale-while-revalidate=10", "refresh", at_s=69.0),
    Case("RFC 5861, 3", "after it", "Cache-Control: max-age=60, stale-while-revalidate=10", "validate", at_s=70.0),
    Case("RFC 5861, 3", "with `must-revalidate`", "Cache-Control: max-age=60, stale-while-revalidate=10, must-revalidate", "validate", at_s=61.0),
]  # fmt: skip


def _headers(text: str) -> list[tuple[bytes, bytes]]:
    headers = []
    for line in text.splitlines():
        name, _, value = line.partition(": ")
        if name in ("Date", "Expires", "Last-Modified") and value.lstrip("-").isdigit():
            value = date(float(value))
        headers.append((name.encode(), value.encode()))
    return headers


def outcome(case: Case) -> str:
    """What the code says of `case`."""
    if case.response == "bare":
        response = []
    else:
        response = [*_headers(case.response), (b"ETag", b'"1"')]
    rules = Rules(shared=case.shared, heuristic_s=case.heuristic_s)
    wish = wish_of(_headers(case.request), b"a") or NO_WISH
    terms = judged(case.status, response, wish, rules, NOW, NOW)
    if terms is None:
        return "not stored"
    return verdict(terms, wish_of(_headers(case.again), b"a") or NO_WISH, rules, NOW + case.at_s)


_HEAD: Final = """\
# The cache: which rule, and where it is from

This page is made from the table that the tests run (`tests/http/cache_table.py`).
Sections are those of RFC 9111 unless another is named. Each row is a response with
an `ETag`, received at 0 s (numbers in dates are seconds from there), and what a
request for it gets some seconds later:

- *fresh*, *stale*: answered from the store; *refresh*: the same, and fetched anew
  behind the caller's back; *validate*: the origin is asked first;
- *not stored*: the next request goes to the origin.

| section | rule | response | request | after | outcome |
|---|---|---|---|--:|---|
"""

_TAIL: Final = """
Beside the table:

- Only `GET` is stored, and it answers `HEAD`, too (section 4). `Range`, the
  conditional requests of the caller, and a `GET` with a body pass through as they
  are, unstored.
- A method that is not known to be safe drops what is stored under its URL, and under
  `Location` and `Content-Location` of the same origin (section 4.4); a call that
  failed does, too, for it may have had its effect.
- A 304 replaces the stored headers except those that belong to the body (section
  3.2). A 304 with another `ETag` is about something else: it is asked again, in full.
- Headers of one connection are not stored (section 3.1), and a hit repeats no
  `Set-Cookie`: an old cookie would replace a newer one in the client's jar.
- A truncated or failed body is never stored (section 3.3), nor one that is not read
  to its end.
- Requests with another `Authorization`, or a `Host` that is not the URL's, never
  share a stored response, whatever `Vary` says.
- `stale-if-error` (RFC 5861, section 4) answers for 500, 502, 503, 504 and for what
  the transport raises; never where `no-cache` or `must-revalidate` forbids it.

## Compared with others

The tests run the cases of npm's `http-cache-tests`, and compare decisions with npm's
`http-cache-semantics`. Both list the differences, each with its reason
(`tests/http/test_freshness.py`).
"""


def render() -> str:
    rows = []
    for case in CASES:
        asks = [case.request, case.again, "shared cache" if case.shared else ""]
        if case.heuristic_s:
            asks.append(f"heuristic_s={case.heuristic_s:g}")
        status = "" if case.status == 200 else f"{case.status} "
        cells = (
            case.section,
            case.says,
            status + _code(case.response),
            "; ".join(_code(ask) if ":" in ask else ask for ask in asks if ask),
            f"{case.at_s:g} s",
            case.outcome,
        )
        rows.append("| " + " | ".join(cells) + " |\n")
    return _HEAD + "".join(rows) + _TAIL


def _code(headers: str) -> str:
    return ", ".join(f"`{line}`" for line in headers.splitlines())


if __name__ == "__main__":
    print(render(), end="")

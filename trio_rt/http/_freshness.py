"""What a cache may do, by RFC 9111 and RFC 5861. Pure: times come in, decisions go out.

A response is judged once, when its headers arrive. What follows of it, its
`Terms`, is kept with it as two moments of wall time, `born_at` (now minus age)
and `fresh_until`, so that a later hit compares numbers and reads no field again.
Wall time, because an entry may outlive the process. Should the clock be set back
behind `received_at`, ages are unknown, and the entry must be validated.

Never fresh for ever: without explicit freshness there is none, unless
`Rules.heuristic_s` bounds a tenth of the time since `Last-Modified`.

Stricter than the RFC asks: what was asked for with `Authorization`, or with a
`Host` that is not the URL's, answers only the same again; `no-cache` and
`private` that name fields mean the whole response; a hit repeats no
`Set-Cookie`, as no browser takes an old cookie from its cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

from ._directives import Directives, Wish, date_s, delta_s, directives, names

__all__ = [
    "Entry",
    "Headers",
    "Rules",
    "Terms",
    "Verdict",
    "conditions",
    "is_confirmed",
    "judged",
    "kept",
    "may_stand_in",
    "updated",
    "verdict",
]

Headers: TypeAlias = list[tuple[bytes, bytes]]
#: A tuple of tuples of bytes: the garbage collector does not look into those.
StoredHeaders: TypeAlias = tuple[tuple[bytes, bytes], ...]
Verdict: TypeAlias = Literal["fresh", "stale", "refresh", "validate"]

#: RFC 9110, section 15.1: what may be stored without explicit freshness; not 206,
#: for nothing here joins parts.
HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
UNDERSTOOD: Final = HEURISTIC | {302, 303, 307}

#: Not stored: of one connection (RFC 9111, section 3.1), or said anew by each hit.
_NOT_KEPT: Final = frozenset(
    b"connection close keep-alive te trailer transfer-encoding upgrade proxy-connection"
    b" proxy-authenticate proxy-authentication-info proxy-authorization age set-cookie".split()
)
#: What belongs to the stored body, so that no 304 may change it: section 3.2.
_OF_BODY: Final = frozenset(
    b"content-length content-encoding content-range content-md5 content-digest".split()
)

_JUDGED: Final = frozenset(
    b"cache-control expires date age vary etag last-modified set-cookie content-length".split()
)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache was told. Durations in seconds; None: only the server's word counts."""

    shared: bool = False
    heuristic_s: float = 0.0
    stale_while_revalidate_s: float | None = None
    stale_if_error_s: float | None = None


class Terms(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What may be done with a response: moments in wall seconds, durations in seconds."""

    received_at: float
    born_at: float
    fresh_until: float
    no_cache: bool
    must_revalidate: bool
    immutable: bool
    stale_while_revalidate_s: float | None
    stale_if_error_s: float | None
    etag: bytes | None
    last_modified: bytes | None
    vary: tuple[bytes, ...]
    #: `Content-Length`, or -1.
    length: int


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A stored response; `body` as it was received, still encoded."""

    terms: Terms
    #: `variant_of` its request.
    variant: bytes
    status: int
    version: bytes
    reason: bytes
    headers: StoredHeaders
    body: bytes


def judged(
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    wish: Wish,
    rules: Rules,
    requested_at: float,
    received_at: float,
) -> Terms | None:
    """The terms of the answer to a GET with this wish, or None: it is not worth storing, or may not be."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name in _JUDGED:
            found[name] = found[name] + b", " + value if name in found else value
    said = directives(found.get(b"cache-control", b""))
    vary = names(found[b"vary"]) if b"vary" in found else ()
    if not _may_store(status, said, wish, vary, rules.shared, b"set-cookie" in found):
        return None
    date = date_s(found[b"date"]) if b"date" in found else None
    if date is None:
        date = received_at
    age_s = _age_s(found, date, requested_at, received_at)
    lifetime_s = _lifetime_s(status, found, said, rules, date)
    etag, last_modified = found.get(b"etag"), found.get(b"last-modified")
    if etag is None and last_modified is None:
        if lifetime_s is None or not _ever_of_use(lifetime_s, age_s, said, rules):
            return None
    elif lifetime_s is None and status not in HEURISTIC and not said.public:
        return None
    born_at = received_at - age_s
    length = found.get(b"content-length")
    return Terms(
        received_at,
        born_at,
        born_at if said.no_cache else born_at + (lifetime_s or 0.0),
        said.no_cache,
        said.must_revalidate
        or (rules.shared and (said.proxy_revalidate or said.s_maxage_s is not None)),
        said.immutable,
        said.stale_while_revalidate_s,
        said.stale_if_error_s,
        etag,
        last_modified,
        vary,
        -1 if length is None or not length.isdigit() else int(length),
    )


def _may_store(
    status: int,
    said: Directives,
    wish: Wish,
    vary: tuple[bytes, ...],
    shared: bool,
    cookie: bool,
) -> bool:
    """Section 3."""
    if status < 200 or status == 206 or status == 304 or b"*" in vary:
        return False
    if said.must_understand and status not in UNDERSTOOD:
        return False
    if wish.directives.no_store or (said.no_store and not said.must_understand):
        return False
    if not shared:
        return True
    if said.private or cookie:
        return False
    return not wish.authorized or (
        said.public or said.must_revalidate or said.s_maxage_s is not None
    )


def _age_s(
    found: dict[bytes, bytes], date: float, requested_at: float, received_at: float
) -> float:
    """The corrected initial age of section 4.2.3. Of several `Age`s the first counts."""
    told = found.get(b"age")
    age_s = 0.0 if told is None else delta_s(told.partition(b",")[0].strip().decode("latin-1"))
    delay_s = received_at - requested_at
    return max(0.0, received_at - date, (age_s or 0.0) + delay_s)


def _lifetime_s(
    status: int, found: dict[bytes, bytes], said: Directives, rules: Rules, date: float
) -> float | None:
    """Section 4.2.1. None: nothing is said."""
    if rules.shared and said.s_maxage_s is not None:
        return said.s_maxage_s
    if said.max_age_s is not None:
        return said.max_age_s
    if b"expires" in found:
        expires = date_s(found[b"expires"])
        return 0.0 if expires is None else max(0.0, expires - date)
    if rules.heuristic_s and b"last-modified" in found and (status in HEURISTIC or said.public):
        modified = date_s(found[b"last-modified"])
        if modified is not None:
            return max(0.0, min((date - modified) / 10, rules.heuristic_s))
    return None


def _ever_of_use(lifetime_s: float, age_s: float, said: Directives, rules: Rules) -> bool:
    """Whether a response that cannot be validated will answer anything."""
    if said.no_cache:
        return False
    if lifetime_s > age_s:
        return True
    stale = (said.stale_while_revalidate_s, rules.stale_while_revalidate_s)
    error = (said.stale_if_error_s, rules.stale_if_error_s)
    return not said.must_revalidate and any((*stale, *error))


def verdict(terms: Terms, wish: Wish, rules: Rules, now: float) -> Verdict:
    """What to do with a stored response that matches: section 4.2.4, RFC 5861 section 3.

    "fresh" and "stale": answer with it. "refresh": answer with it, and fetch it
    anew behind the caller's back. "validate": ask the origin first.
    """
    asked = wish.directives
    if terms.no_cache or asked.no_cache or now < terms.received_at:
        return "validate"
    over_s = now - terms.fresh_until
    picky = asked.min_fresh_s is not None and -over_s < asked.min_fresh_s
    if asked.max_age_s is not None and now - terms.born_at > asked.max_age_s:
        # RFC 8246: what is immutable is not reloaded while it is fresh.
        picky = picky or not terms.immutable or over_s >= 0
    if picky:
        return "validate"
    if over_s < 0:
        return "fresh"
    if terms.must_revalidate:
        return "validate"
    if asked.max_stale_s is not None and over_s <= asked.max_stale_s:
        return "stale"
    grace_s = _either(terms.stale_while_revalidate_s, rules.stale_while_revalidate_s)
    if over_s < grace_s and asked.max_age_s is None:
        return "refresh"
    return "validate"


def may_stand_in(terms: Terms, wish: Wish, rules: Rules, now: float) -> bool:
    """Whether it may answer where the origin failed: RFC 5861 section 4."""
    if terms.no_cache or terms.must_revalidate or wish.directives.no_cache:
        return False
    told_s = _either(terms.stale_if_error_s, rules.stale_if_error_s)
    return now - terms.fresh_until < _either(wish.directives.stale_if_error_s, told_s)


def _either(told_s: float | None, default_s: float | None) -> float:
    return (default_s or 0.0) if told_s is None else told_s


def conditions(terms: Terms) -> Headers:
    """What makes a request conditional on the stored response: section 4.3.1."""
    headers = []
    if terms.etag is not None:
        headers.append((b"If-None-Match", terms.etag))
    if terms.last_modified is not None:
        headers.append((b"If-Modified-Since", terms.last_modified))
    return headers


def is_confirmed(terms: Terms, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a 304 with these headers is about this response: section 4.3.4."""
    etag = modified = None
    for name, value in headers:
        name = name.lower()
        if name == b"etag":
            etag = value
        elif name == b"last-modified":
            modified = value
    if etag is not None:
        return etag.removeprefix(b"W/") == (terms.etag or b"").removeprefix(b"W/")
    return terms.etag is not None or modified is None or modified == terms.last_modified


def kept(headers: Iterable[tuple[bytes, bytes]]) -> StoredHeaders:
    """The headers that are stored."""
    stored = []
    hops: tuple[bytes, ...] = ()
    for header in headers:
        name = header[0].lower()
        if name not in _NOT_KEPT:
            stored.append(header)
        elif name == b"connection":
            hops += names(header[1])
    if hops and not _NOT_KEPT.issuperset(hops):
        stored = [header for header in stored if header[0].lower() not in hops]
    return tuple(stored)


def updated(stored: StoredHeaders, told: Headers) -> StoredHeaders:
    """The stored headers after a 304 told these: section 3.2."""
    new = [(name, value) for name, value in kept(told) if name.lower() not in _OF_BODY]
    # An old `Date` would be an age of what has just been confirmed.
    replaced = {name.lower() for name, _ in new} | {b"date"}
    return (*(header for header in stored if header[0].lower() not in replaced), *new)

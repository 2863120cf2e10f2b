"""What the fields of RFC 9111 say: Cache-Control, dates, ages, Vary; what a request wishes.

Garbage never makes a response live longer: a lifetime that cannot be read, or
that is given twice and differently, is 0 (RFC 9111, section 4.2.1), while a
directive that only restricts counts wherever its name is seen.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import msgspec

__all__ = [
    "NO_WISH",
    "Directives",
    "Wish",
    "date_s",
    "delta_s",
    "directives",
    "names",
    "variant_of",
    "wish_of",
]

#: Larger numbers of seconds are this many: RFC 9111, section 1.2.2.
MOST_S: Final = 2**31

#: A quoted string, what is in no quotes, and the comma between: every text is a row of
#: these, and none is tried in two ways, so that garbage takes no longer than sense.
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z|\\\Z)|[^",]++|,', re.DOTALL)
#: One directive: a token, and after "=" a token or a quoted string.
_DIRECTIVE: Final = re.compile(r'\s*+([^\s=;"]++)\s*+(?:=\s*+("[^"]*+"?|[^"]*+))?+', re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]+", re.ASCII)

#: Not those of `calendar`, which speak the user's language.
_MONTHS: Final = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
_TIME: Final = r"(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)"
_DATES: Final = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) (?P<month>[A-Z][a-z]{{2}}) (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]+day, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{{2}})-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} (?P<month>[A-Z][a-z]{{2}}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
]
#: RFC 9110, section 5.6.7: a year of two digits is at most 50 years ahead. These
#: dates are of old servers, so a fixed turn of the century does.
_CENTURY_TURNS: Final = 70


class Directives(msgspec.Struct, frozen=True):
    """A Cache-Control. None: it is not there. `math.inf` for a bare `max-stale`."""

    no_store: bool = False
    no_cache: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    public: bool = False
    private: bool = False
    immutable: bool = False
    only_if_cached: bool = False
    max_age_s: float | None = None
    s_maxage_s: float | None = None
    max_stale_s: float | None = None
    min_fresh_s: float | None = None
    stale_while_revalidate_s: float | None = None
    stale_if_error_s: float | None = None


_FLAGS: Final = {
    field.replace("_", "-"): field for field in Directives.__struct_fields__ if field[-2:] != "_s"
}
_SECONDS: Final = {
    field[:-2].replace("_", "-"): field
    for field in Directives.__struct_fields__
    if field[-2:] == "_s"
}


@lru_cache(maxsize=1024)
def directives(value: bytes) -> Directives:
    """What the whole field `value`, its lines joined by commas, says."""
    flags: set[str] = set()
    seconds: dict[str, set[float]] = {}
    for name, argument in _items(value.decode("latin-1")):
        if name in _FLAGS:
            flags.add(_FLAGS[name])
        elif name in _SECONDS:
            seconds.setdefault(_SECONDS[name], set()).add(_argument_s(name, argument))
    # Of two that differ neither is believed.
    given: dict[str, Any] = {
        field: told.pop() if len(told) == 1 else 0.0 for field, told in seconds.items()
    }
    return Directives(**dict.fromkeys(flags, True), **given)


def _items(text: str) -> Iterator[tuple[str, str | None]]:
    """The directives; one with quotes where none may be has the argument ""."""
    item = ""
    for piece in [*_PIECE.findall(text), ","]:
        if piece != ",":
            item += piece
            continue
        match, item = _DIRECTIVE.match(item), ""
        if match is not None:
            stands_alone = '"' not in match.string[match.end() :]
            yield match[1].lower(), match[2] if stands_alone else ""


def _argument_s(name: str, argument: str | None) -> float:
    if argument is None:
        return float("inf") if name == "max-stale" else 0.0
    argument = argument.strip()
    if argument[:1] == '"':
        argument = argument[1:-1]
    return delta_s(argument) or 0.0


def delta_s(text: str) -> float | None:
    """Delta-seconds (RFC 9111, section 1.2.2), or None if that is something else."""
    if _DIGITS.fullmatch(text) is None:
        return None
    return float(MOST_S) if len(text) > 10 else float(min(int(text), MOST_S))


@lru_cache(maxsize=1024)
def date_s(value: bytes) -> float | None:
    """An HTTP-date in seconds since the epoch, or None if that is something else."""
    text = value.decode("latin-1")
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match is not None:
            return _seconds(match)
    return None


def _seconds(match: re.Match[str]) -> float | None:
    month = _MONTHS.find(match["month"]) // 4 + 1
    day, year = int(match["day"]), int(match["year"])
    hour, minute, second = int(match["h"]), int(match["m"]), int(match["s"])
    if len(match["year"]) == 2:
        year += 1900 if year >= _CENTURY_TURNS else 2000
    if month == 0 or year < 1 or not 1 <= day <= calendar.monthrange(max(year, 1), month)[1]:
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second)))


@lru_cache(maxsize=1024)
def names(value: bytes) -> tuple[bytes, ...]:
    """The field names of a list, in lower case, each once, in one order for all lists."""
    return tuple(sorted({name for name in value.lower().replace(b" ", b"").split(b",") if name}))


#: The caller's own conditions, and what announces a body: no two of these are equal.
_SPECIAL: Final = frozenset(
    b"range if-range if-match if-none-match if-modified-since if-unmodified-since"
    b" content-length transfer-encoding".split()
)
_WISHES: Final = _SPECIAL | {b"cache-control", b"pragma", b"authorization", b"host"}


class Wish(msgspec.Struct, frozen=True, gc=False):
    """What a request asks of caches. A `special` one is none of theirs.

    `own` tells it from requests of another identity.
    """

    directives: Directives = Directives()
    special: bool = False
    authorized: bool = False
    own: bytes = b""


NO_WISH: Final = Wish(directives(b""))


def wish_of(headers: Iterable[tuple[bytes, bytes]], netloc: bytes) -> Wish | None:
    """What a request with these headers for this host asks; None: nothing at all."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name in _WISHES and not (name == b"host" and value == netloc):
            found[name] = found[name] + b", " + value if name in found else value
    return _wish(found) if found else None


def _wish(found: dict[bytes, bytes]) -> Wish:
    control = found.get(b"cache-control")
    if control is None and b"no-cache" in found.get(b"pragma", b"").lower():
        control = b"no-cache"
    authorization, host = found.get(b"authorization"), found.get(b"host")
    own = b""
    if authorization is not None or host is not None:
        own = _digest((authorization, host))
    return Wish(
        directives(control or b""),
        not _SPECIAL.isdisjoint(found),
        authorization is not None,
        own,
    )


def variant_of(
    vary: tuple[bytes, ...], headers: Iterable[tuple[bytes, bytes]], own: bytes
) -> bytes:
    """What must be equal for a stored response to answer a request (section 4.1).

    A digest, so that no secret is stored with the response. `own` is the wish's.
    """
    if not vary:
        return own
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name in vary:
            value = b",".join([part.strip() for part in value.split(b",")])
            found[name] = found[name] + b"," + value if name in found else value
    return _digest((own, *vary, *map(found.get, vary)))


def _digest(parts: Iterable[bytes | None]) -> bytes:
    text = [b"-" if part is None else b"%d:%b" % (len(part), part) for part in parts]
    return blake2b(b"".join(text), digest_size=16).digest()

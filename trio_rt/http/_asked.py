"""What a caller asks, checked before anything is sent, and what comes back, decoded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import httpx
import msgspec

from ..errors import BodyInvalid, OptionError, PayloadError

__all__ = [
    "check_name",
    "checked_headers",
    "checked_method",
    "checked_url",
    "decoded",
    "decoder",
    "encoded",
    "reason",
    "redacted",
]

#: RFC 9110, "Tokens".
TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: RFC 9110, "Field Values": any of these may end the field for one reader and not for another.
FORBIDDEN: Final = re.compile(r"[\r\n\0]")
SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: What is no name that a resolver can be asked for.
BAD_LABEL: Final = re.compile(rb"(^|\.)(\.|[^.]{64})")
#: One of those, or one that has to be decoded first.
ODD_LABEL: Final = re.compile(rb"(^|\.)(\.|[^.]{64}|xn--)")
#: What stands in an error in the place of what may be a secret.
HIDDEN: Final = "(hidden)"
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

MAX_PORT: Final = 65535

#: Of a body that is not what was asked for, so much is kept to be shown.
BEGINNING_BYTES: Final = 200


def check_name(field: str, name: object) -> None:
    """`name` may be the name of a header."""
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        raise OptionError(field, "must be a header's name", name)


def checked_method(method: object) -> str:
    """The method in upper case, as httpx sends it."""
    if method in METHODS:
        return method
    if not isinstance(method, str) or not TOKEN.fullmatch(method):
        raise OptionError("method", "must be a token of RFC 9110", method)
    return method.upper()


def checked_headers(given: Any) -> list[tuple[bytes, bytes]]:
    """The headers as bytes; text may have the characters of Latin-1."""
    pairs: Any = given.items() if isinstance(given, Mapping) else given
    if hasattr(given, "multi_items"):
        pairs = given.multi_items()
    if isinstance(given, str | bytes) or not isinstance(pairs, Iterable):
        raise OptionError("headers", "must be a mapping or pairs", HIDDEN)
    try:
        return [(_name(name), _value(name, value)) for name, value in pairs]
    except (TypeError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError("headers", "must be a mapping or pairs", HIDDEN) from None


def _name(name: Any) -> bytes:
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    if not isinstance(text, str) or not TOKEN.fullmatch(text):
        raise OptionError("headers", "must have names that are tokens", HIDDEN)
    return text.encode()


def _value(name: Any, value: Any) -> bytes:
    field = f"headers[{name!r}]"
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not isinstance(text, str) or FORBIDDEN.search(text):
        raise OptionError(field, "must be text without line breaks and NUL", HIDDEN)
    if text != text.strip(" \t"):
        raise OptionError(field, "must not begin or end with a space", HIDDEN)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise OptionError(field, "must be of Latin-1 characters", HIDDEN) from None


def checked_url(module: Any, field: str, given: Any) -> httpx.URL:
    """`given`, parsed: whole, or a path. httpx takes half a URL for a path."""
    if not isinstance(given, str | module.URL):
        raise OptionError(field, "must be a string or a URL of the backend", given)
    try:
        url: httpx.URL = module.URL(given)
    except module.InvalidURL as error:
        raise OptionError(field, f"must be a URL ({reason(error)})", redacted(given)) from None
    except UnicodeError:
        raise OptionError(field, "must be text that UTF-8 can encode", redacted(given)) from None
    scheme = url.scheme
    if scheme not in ("", "http", "https") or bool(scheme) != bool(url.raw_host):
        raise OptionError(field, "must be an http or https URL with a host", redacted(given))
    if (url.port or 1) > MAX_PORT:
        raise OptionError(field, f"must have a port up to {MAX_PORT}", redacted(given))
    if ODD_LABEL.search(url.raw_host) and not _has_good_host(url):
        raise OptionError(field, "must have a host that can be a name", redacted(given))
    return url


def _has_good_host(url: httpx.URL) -> bool:
    try:
        decoded = url.host
    except UnicodeError:
        return False
    return bool(decoded) and not BAD_LABEL.search(url.raw_host)


def reason(error: Exception) -> str:
    """What an `InvalidURL` says, without the part of the URL that it quotes."""
    return re.split(r"[:,]| URL\(", str(error))[0]


def redacted(url: object) -> str:
    """Without user, password, query and fragment; they may have any characters."""
    before, at, rest = str(url).rpartition("@")
    scheme = SCHEME.match(before) if at else None
    shown = re.split("[?#]", rest)[0]
    return f"{scheme[0] if scheme else ''}{HIDDEN}@{shown}" if at else shown


def encoded(value: Any) -> bytes:
    """As JSON. PayloadError for what JSON has nothing for, NaN too."""
    try:
        data = msgspec.json.encode(value)
        if b"null" in data:  # msgspec's word for NaN
            json.dumps(msgspec.to_builtins(value, str_keys=True), allow_nan=False)
    except Exception as error:
        raise PayloadError("json", f"must fit in JSON ({error})", value) from error
    return data


def decoded(response: httpx.Response, type_: Any) -> Any:
    """The body as a `type_`. BodyInvalid where it is none, or the status says so."""
    content = response.content
    if not response.is_success:
        raise _invalid("the status is no success", response, content)
    try:
        return decoder(type_).decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(str(error), response, content) from error


def _invalid(why: str, response: httpx.Response, content: bytes) -> BodyInvalid:
    beginning = content[:BEGINNING_BYTES]
    return BodyInvalid(why, status=response.status_code, beginning=beginning)


def decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    """OptionError for a type that msgspec cannot decode to."""
    try:
        return _decoder(type_)
    except TypeError as error:
        raise OptionError("as_", f"must be a type that msgspec knows ({error})", type_) from error


@cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)

"""The arguments of httpx's own keywords, checked before anything is sent.

httpx finds some of what is wrong when it builds the request, some when it sends it,
by whatever Python raises there, and sends some as the text of an object. No value is
shown in an error: each may be a secret.
"""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterable, Mapping
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from typing import Any, Final
from urllib.request import Request

from ..errors import OptionError
from ._asked import FORBIDDEN, HIDDEN

__all__ = ["check_auth", "check_body", "checked_cookies", "checked_params", "jar_of"]

#: Printable ASCII without the semicolon that ends a cookie; "a[b]" is no token, but common.
COOKIE: Final = re.compile(r"[ -:<-~]*")
COOKIE_NAME: Final = re.compile(r"[!-:<>-~]+")


def checked_params(module: Any, given: Any) -> Any:
    """As `QueryParams` of the backend."""
    if isinstance(given, str | bytes | module.QueryParams):
        pairs: Any = ()
    elif isinstance(given, Mapping):
        pairs = given.items()
    else:
        pairs = _pairs(given)
    if pairs is None or not all(_is_text(key) and _is_field(value) for key, value in pairs):
        raise OptionError("params", "must be text, or a mapping or pairs of texts", HIDDEN)
    try:
        params = module.QueryParams(given)
        str(params)
    except UnicodeError:
        raise OptionError("params", "must be text that UTF-8 can encode", HIDDEN) from None
    return params


def checked_cookies(module: Any, given: Any) -> Any:
    """A jar, or pairs."""
    if isinstance(given, CookieJar | module.Cookies):
        return given
    pairs = list(given.items()) if isinstance(given, Mapping) else _pairs(given)
    if pairs is None or not all(_is_cookie(*pair) for pair in pairs):
        rule = "must be a jar, or names and values in printable ASCII without semicolons"
        raise OptionError("cookies", rule, HIDDEN)
    return list(map(tuple, pairs))


class _Sendable(DefaultCookiePolicy):
    """Takes no cookie that could not be sent back: httpx would fail at each further call."""

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        return _is_cookie(cookie.name, cookie.value or "") and super().set_ok(cookie, request)


def jar_of(module: Any, given: Any) -> CookieJar:
    """The jar of a client. One that is given is shared with whoever gave it."""
    if isinstance(given, CookieJar):
        return given
    jar: CookieJar = module.Cookies(None if given is None else checked_cookies(module, given)).jar
    jar.set_policy(_Sendable())
    return jar


def check_auth(module: Any, given: Any) -> None:
    """User and password, an `Auth` of the backend, or a function of a request."""
    if given is None or callable(given) or isinstance(given, module.Auth):
        return
    if not isinstance(given, tuple) or len(given) != 2 or not all(map(_is_encodable, given)):
        rule = f"must be (user, password), an Auth of {module.__name__}, or a function"
        raise OptionError("auth", rule, HIDDEN)


def check_body(content: Any, data: Any, files: Any) -> None:
    """None is what was not given; httpx would drop `data` and `files` beside `content`."""
    if content is not None:
        if data is not None or files is not None:
            raise OptionError("content", "must not come with data or files", HIDDEN)
        _check_content(content)
    if data is not None:
        _check_data(data, has_files=files is not None)
    if files is not None:
        _check_files(files)


def _check_content(given: Any) -> None:
    if not isinstance(given, AsyncIterable) and not _is_encodable(given):
        raise OptionError("content", "must be bytes, text, or an async iterable", type(given))


def _check_data(given: Any, *, has_files: bool) -> None:
    if not isinstance(given, Mapping):
        raise OptionError("data", "must be a mapping; bytes and text are `content`", type(given))
    for name, value in given.items():
        if not _is_text(name) or not (_is_field(value) or (has_files and isinstance(value, bytes))):
            raise OptionError("data", "must have texts, or lists of texts", HIDDEN)


def _check_files(given: Any) -> None:
    pairs = given.items() if isinstance(given, Mapping) else _pairs(given)
    if pairs is None or not all(_is_file(*pair) for pair in pairs):
        rule = "must have a name, and bytes, text, a binary file or a tuple of httpx for each"
        raise OptionError("files", rule, HIDDEN)


def _pairs(given: Any) -> list[Any] | tuple[Any, ...] | None:
    if not isinstance(given, list | tuple):
        return None
    return (
        given if all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in given) else None
    )


def _is_text(value: Any) -> bool:
    """Whether `str(value)` says what it is: not for bytes, containers and bare objects."""
    if value is None or isinstance(value, str | int | float):
        return True
    kind: Any = type(value)
    return not isinstance(value, bytes | bytearray) and kind.__str__ is not object.__str__


def _is_field(value: Any) -> bool:
    return all(map(_is_text, value)) if isinstance(value, list | tuple) else _is_text(value)


def _is_encodable(value: Any) -> bool:
    if isinstance(value, bytes):
        return True
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is_cookie(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return bool(COOKIE_NAME.fullmatch(name) and COOKIE.fullmatch(value))


def _is_file(name: Any, file: Any) -> bool:
    if not isinstance(name, str):
        return False
    if not isinstance(file, tuple):
        return _is_readable(file)
    if not 2 <= len(file) <= 4:
        return False
    file_name, content, kind, headers = file + (None, {})[len(file) - 2 :]
    lines = [] if kind is None else [kind]
    if not isinstance(headers, Mapping):
        return False
    lines += [*headers, *headers.values()]
    is_named = file_name is None or isinstance(file_name, str)
    return is_named and _is_readable(content) and all(map(_is_line, lines))


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and not FORBIDDEN.search(value)


def _is_readable(file: Any) -> bool:
    if isinstance(file, str | bytes):
        return True
    return hasattr(file, "read") and not isinstance(file, io.TextIOBase)

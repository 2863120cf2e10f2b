"""What may follow a redirect to another origin: next to nothing.

httpx drops `Authorization` there and sends on every other header, an `X-Api-Key`
or `Proxy-Authorization` too. Here only what describes the message itself goes
on, and once a call has left its origin that stays so, back at the first origin
too: the redirect that led back was the other one's wish.

Cookies are chosen anew for each URL by the rules of domains, of those in the client's jar:
so a log-in that goes over several sites finds its own at each. A cookie without a domain
belongs to no site. The caller's own are such, and stay behind with the headers.

httpx follows redirects above all layers and hands the extensions on, so they tell
a request that follows a redirect from a first one.
"""

from __future__ import annotations

from collections.abc import Awaitable
from http.cookiejar import CookieJar
from typing import Any, Final, TypeAlias

import httpx

from ..options import check_flag, check_kind
from ._backend import backend_of
from ._layer import Layer, Next

__all__ = ["Redirects"]

KEY: Final = "trio_rt.origin"

SAFE: Final = frozenset(
    b"host connection user-agent transfer-encoding range if-range if-match if-none-match "
    b"if-modified-since if-unmodified-since cache-control pragma traceparent tracestate".split()
)
SAFE_PREFIXES: Final = (b"accept", b"content-")

#: The URL of the request before, and whether the call has been at another origin.
_Place: TypeAlias = tuple[httpx.URL, bool]


class Redirects(Layer):
    """Strips the caller's headers where a redirect leaves the origin.

    Of the cookies in `jar`, the client's, those that have the new URL's domain are sent;
    without a jar none. A redirect from https to http is `RemoteProtocolError`, unless `insecure`.
    Below an interceptor that adds headers, or they will not be stripped.
    """

    def __init__(self, *, insecure: bool = False, jar: CookieJar | None = None) -> None:
        check_flag("insecure", insecure)
        if jar is not None:
            check_kind("jar", jar, CookieJar)
        self.insecure = insecure
        self._jar = jar

    def intercept(self, request: httpx.Request, call_next: Next) -> Awaitable[httpx.Response]:
        before: _Place | None = request.extensions.get(KEY)
        left = False
        if before is not None:
            left = before[1] or _origin(before[0]) != _origin(request.url)
        request.extensions[KEY] = (request.url, left)
        if left:
            assert before is not None
            if before[0].scheme == "https" and request.url.scheme == "http" and not self.insecure:
                module: Any = backend_of(request)
                raise module.RemoteProtocolError("redirected from https to http", request=request)
            _strip(request)
            if self._jar is not None:
                _add_cookies(request, self._jar)
        return call_next(request)


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


def _add_cookies(request: httpx.Request, jar: CookieJar) -> None:
    module: Any = backend_of(request)
    found = module.Cookies()
    for cookie in jar:
        if cookie.domain:
            found.jar.set_cookie(cookie)
    found.set_cookie_header(request)


def _strip(request: httpx.Request) -> None:
    for name, _ in request.headers.raw:
        lowered = name.lower()
        if lowered not in SAFE and not lowered.startswith(SAFE_PREFIXES):
            request.headers.pop(name.decode("latin-1"), None)

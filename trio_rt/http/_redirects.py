"""What may follow a redirect to another origin: next to nothing.

httpx drops `Authorization` there and sends on every other header, an `X-Api-Key`
or `Proxy-Authorization` too. Here only what describes the message itself goes
on, and once a call has left its origin that stays so, back at the first origin
too: the redirect that led back was the other one's wish.

httpx follows redirects above all layers and hands the extensions on, so they tell
a request that follows a redirect from a first one.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, TypeAlias

import httpx

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

    A redirect from https to http is `RemoteProtocolError`, unless `insecure`.
    Below an interceptor that adds headers, or they will not be stripped.
    """

    def __init__(self, *, insecure: bool = False) -> None:
        self.insecure = insecure

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
        return call_next(request)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _strip(request: httpx.Request) -> None:
    for name, _ in request.headers.raw:
        lowered = name.lower()
        if lowered not in SAFE and not lowered.startswith(SAFE_PREFIXES):
            request.headers.pop(name.decode("latin-1"), None)

"""A bearer token on each call, fetched once for all calls that need it.

A token has a number. A call that gets 401 asks for one with a higher number than it
used: it finds it fetched already, waits for whoever fetches it, or fetches it itself.
The fetch runs in the call of the one that began it; if that one is cancelled, the
next that waits begins again. If the fetch fails, all that waited for it fail with it.

The answer 401 is closed before all that: a fetch through the same client would wait for
the slots that those who wait for the fetch hold.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from copy import copy
from typing import Any, Final

import httpx
import trio

from ..errors import OptionError
from ._asked import checked_url, redacted
from ._attempt import discard, is_replayable
from ._layer import Layer, Next
from ._origins import Origin, origin_of

__all__ = ["Authorize"]

#: Whose token is being fetched by this task or the one that started it.
_fetching: ContextVar[Authorize | None] = ContextVar("trio_rt.fetching", default=None)

HEADER: Final = "Authorization"


class _Fetch:
    __slots__ = ("error", "over")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.error: Exception | None = None


class Authorize(Layer):
    """Send `Authorization: Bearer <token>`; on 401 fetch a new token, and ask once more.

    `await fetch_token()` returns a token; it is called when the first call needs one, and
    whenever the last was refused, once for all calls that are refused meanwhile. What
    it raises, the calls raise. It may use the same client: its own calls are sent
    without a token.

    The token goes to `origins` alone, such as `"https://api.example.com"`; without them, to
    the origin of the first call. A call elsewhere, by a redirect for instance, or one
    with an `Authorization` of its own, passes unchanged. A call with a streamed
    body is not repeated: its 401 is returned, and the next call fetches.

    Cancelled while it fetches: another call that waits fetches instead.
    """

    def __init__(
        self,
        fetch_token: Callable[[], Awaitable[str]],
        *,
        origins: Iterable[str | httpx.URL] | None = None,
    ) -> None:
        if not callable(fetch_token):
            raise OptionError("fetch_token", "must be an async function", type(fetch_token))
        self._fetch_token = fetch_token
        self._origins = None if origins is None else _origins(origins)
        self._value = ""
        #: The number of `_value`: how many were fetched before it, and it. Of 0 there is none.
        self._number = 0
        #: The highest number that was refused.
        self._refused = 0
        self._fetch: _Fetch | None = None

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        if not self._concerns(request):
            return await call_next(request)
        number = await self._renewed()
        response = await self._send(request, call_next)
        if response.status_code != 401:
            return response
        self._refused = max(self._refused, number)
        if not is_replayable(request):
            return response
        await discard(response)
        number = await self._renewed()
        response = await self._send(request, call_next)
        if response.status_code == 401:
            self._refused = max(self._refused, number)
        return response

    def _concerns(self, request: httpx.Request) -> bool:
        if _fetching.get() is self or HEADER in request.headers:
            return False
        origin = origin_of(request.url)
        if self._origins is None:
            self._origins = frozenset({origin})
        return origin in self._origins

    async def _send(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        # The header is there for this try alone: the client would copy it into the
        # request that follows a redirect from http to https, which is another origin.
        request.headers[HEADER] = self._value
        try:
            return await call_next(request)
        finally:
            request.headers.pop(HEADER, None)

    async def _renewed(self) -> int:
        """Have a token that was not refused, and return its number."""
        while self._number == self._refused:
            fetch = self._fetch
            if fetch is None:
                await self._run_fetch()
            else:
                await fetch.over.wait()
                if fetch.error is not None:
                    raise _twin(fetch.error)
        return self._number

    async def _run_fetch(self) -> None:
        fetch = self._fetch = _Fetch()
        mark = _fetching.set(self)
        try:
            token = await self._fetch_token()
            self._value = f"Bearer {_checked(token)}"
            self._number += 1
        except Exception as error:
            fetch.error = error
            raise
        finally:
            _fetching.reset(mark)
            self._fetch = None
            fetch.over.set()


def _twin(error: Exception) -> Exception:
    """The same error for another task: one object in many would gather their tracebacks."""
    try:
        twin = copy(error)
    except Exception:  # its class wants more than its `args`
        return error
    twin.__cause__ = error
    return twin


def _checked(token: object) -> str:
    if isinstance(token, str) and token and token.isascii() and token.isprintable():
        return token
    # Not the token itself: it may be a secret with one character too many.
    raise OptionError("fetch_token", "must return printable ASCII", type(token))


def _origins(given: Any) -> frozenset[Origin]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise OptionError("Authorize.origins", "must be several, as in a list", type(given))
    return frozenset(map(_parsed, given))


def _parsed(origin: Any) -> Origin:
    # A URL of either backend has the same text.
    url = checked_url(
        httpx, "Authorize.origins", origin if isinstance(origin, str) else str(origin)
    )
    if not url.scheme or not url.host or url.path != "/" or url.query or url.userinfo:
        rule = "must be like 'https://api.example.com'"
        raise OptionError("Authorize.origins", rule, redacted(origin))
    return origin_of(url)

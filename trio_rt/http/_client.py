"""`Client`: the verbs, around an `AsyncClient` of the backend.

It holds such a client and is none: httpx2's classes are others, and what httpx
adds to its own later is not to appear here unchecked.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, Protocol, TypedDict, TypeVar, Unpack, cast, overload

import attrs
import httpx
import idna
import trio

from ..errors import OptionError
from ..message import Priority
from ..options import check_flag
from ._asked import (
    HIDDEN,
    checked_headers,
    checked_method,
    checked_url,
    decoded,
    decoder,
    encoded,
    redacted,
)
from ._attempt import shut
from ._breaker import BreakerStatistics
from ._cache import CacheStatistics
from ._call import KEY as CALL
from ._call import CacheMode, Call
from ._gate_books import GateStatistics
from ._given import check_auth, check_body, checked_cookies, checked_params
from ._hedge import HedgeStatistics
from ._layer import Layer
from ._retry import RetryStatistics
from ._stage import KEY as PROGRESS
from ._stage import Progress
from ._timeout import Timeout

__all__ = ["Client", "Options", "Statistics", "Verb"]

T = TypeVar("T")

#: A path that can follow the base as it stands.
_PATH: Final = re.compile(r"/(?!/)[^#]*\Z")

_SET_COOKIE: Final = b"set-cookie"

_JSON: Final = (b"Content-Type", b"application/json")


class Options(TypedDict, total=False):
    """What every verb takes: httpx's own keywords, and those of `Call`.

    `follow_redirects` None is what the client was opened with.
    """

    params: Any
    headers: Any
    json: Any
    data: Any
    files: Any
    content: Any
    cookies: Any
    auth: Any
    follow_redirects: bool | None
    priority: Priority
    cache: CacheMode
    retries: int | None
    timeout_s: float | None
    idempotency_key: str | None


class Verb(Protocol):
    """`await client.get(url, **options)`; see `Client.request`."""

    @overload
    def __call__(
        self, url: str | httpx.URL, *, as_: None = None, **options: Unpack[Options]
    ) -> Awaitable[httpx.Response]: ...
    @overload
    def __call__(
        self, url: str | httpx.URL, *, as_: type[T], **options: Unpack[Options]
    ) -> Awaitable[T]: ...
    @overload
    def __call__(  # unions and the like are no `type`
        self, url: str | httpx.URL, *, as_: Any, **options: Unpack[Options]
    ) -> Awaitable[Any]: ...


@attrs.frozen
class Statistics:
    """A snapshot of each layer's own; None where the client has no such layer."""

    gate: GateStatistics
    cache: CacheStatistics | None = None
    retry: RetryStatistics | None = None
    breaker: BreakerStatistics | None = None
    hedge: HedgeStatistics | None = None


class Client:
    """Opened by `open_client()`. Its tasks and sockets end with that block."""

    def __init__(
        self, module: Any, http: Any, stack: Any, timeout: Timeout, layers: dict[str, Layer]
    ) -> None:
        self._module = module
        self._http = http
        self._stack = stack
        base = http.base_url
        #: What a path follows, with a slash at its end; "" where that is not so simple.
        self._base = ""
        if base.scheme and not (base.query or base.fragment):
            self._base = str(base).removesuffix("/") + "/"
        #: Whether calls may go past httpx's own handling of redirects and auth.
        self._is_plain = http.auth is None and not http.follow_redirects
        self._timeout = timeout
        self._layers = layers
        self._default = module.USE_CLIENT_DEFAULT
        # `trio.current_time`, without looking up the run each time.
        self._clock = trio.lowlevel.current_clock().current_time
        self._closed = False

    @property
    def get(self) -> Verb:
        return cast(Verb, partial(self.request, "GET"))

    @property
    def post(self) -> Verb:
        return cast(Verb, partial(self.request, "POST"))

    @property
    def put(self) -> Verb:
        return cast(Verb, partial(self.request, "PUT"))

    @property
    def patch(self) -> Verb:
        return cast(Verb, partial(self.request, "PATCH"))

    @property
    def delete(self) -> Verb:
        return cast(Verb, partial(self.request, "DELETE"))

    @property
    def head(self) -> Verb:
        return cast(Verb, partial(self.request, "HEAD"))

    @property
    def options(self) -> Verb:
        return cast(Verb, partial(self.request, "OPTIONS"))

    @overload
    async def request(
        self, method: str, url: str | httpx.URL, *, as_: None = None, **options: Unpack[Options]
    ) -> httpx.Response: ...
    @overload
    async def request(
        self, method: str, url: str | httpx.URL, *, as_: type[T], **options: Unpack[Options]
    ) -> T: ...
    @overload
    async def request(
        self, method: str, url: str | httpx.URL, *, as_: Any, **options: Unpack[Options]
    ) -> Any: ...
    async def request(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        as_: Any = None,
        auth: Any = ...,
        follow_redirects: bool | None = None,
        **options: Any,
    ) -> Any:
        """Ask, and read the whole answer: a response of the backend, whatever its status.

        A redirect that is not followed is a response like others; its `next_request` is None.
        With `as_` the JSON of the body as that type, validated by msgspec; then a
        status other than 2xx is `BodyInvalid`, as is a body that is no such thing.

        Raises, before anything is sent: `OptionError`, `PayloadError` (`json`),
        `trio.ClosedResourceError` (the client is closed). Later: an `HttpError` of a
        layer, or what httpx raises. Cancelled: it leaves at once, and the connection
        is closed unless the answer was read; the server may have done its work.
        """
        if as_ is not None:
            decoder(as_)
        request = self._build(method, url, is_bounded=True, **options)
        progress: Progress = request.extensions[PROGRESS]
        with self._timeout.scope(progress, options.get("timeout_s")) as scope:
            response = await self._send(request, auth, follow_redirects)
        self._timeout.check(scope, progress)
        return response if as_ is None else decoded(response, as_)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        auth: Any = ...,
        follow_redirects: bool | None = None,
        **options: Any,
    ) -> AsyncIterator[httpx.Response]:
        """`async with client.stream("GET", url) as response`: the body is yet to be read.

        It takes the same options as `request`, but for `as_`. The call holds its turn
        until the block is left, and its `timeout_s` counts until then.
        """
        request = self._build(method, url, is_bounded=False, **options)
        response = await self._send(request, auth, follow_redirects, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    def statistics(self) -> Statistics:
        layers: dict[str, Any] = self._layers
        return Statistics(**{name: layer.statistics() for name, layer in layers.items()})

    @property
    def cookies(self) -> httpx.Cookies:
        """The jar: what servers have set, and what the client was opened with."""
        return self._http.cookies  # type: ignore[no-any-return]

    def _build(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        is_bounded: bool,
        params: Any = None,
        headers: Any = None,
        json: Any = None,
        data: Any = None,
        files: Any = None,
        content: Any = None,
        cookies: Any = None,
        **call: Any,
    ) -> httpx.Request:
        module = self._module
        if self._base and url.__class__ is str and _PATH.match(url):
            # As httpx joins them, but parsed once and not twice: 8 us less.
            url = self._base + url[1:]
        parsed = checked_url(module, "url", url)
        pairs = None if headers is None else checked_headers(headers)
        if params is not None:
            params = checked_params(module, params)
        if cookies is not None:
            cookies = checked_cookies(module, cookies)
        if json is not None:
            if content is not None or data is not None or files is not None:
                raise OptionError("json", "must not come with content, data or files", json)
            content = encoded(json)
            pairs = _as_json(pairs or [])
        elif content is not None or data is not None or files is not None:
            check_body(content, data, files)
        if not parsed.scheme and not self._http.base_url.scheme:
            raise OptionError("url", "must be a whole URL: there is no base_url", redacted(url))
        try:
            return self._http.build_request(  # type: ignore[no-any-return]
                checked_method(method),
                parsed,
                params=params,
                headers=pairs,
                data=data,
                files=files,
                content=content,
                cookies=cookies,
                extensions=_extensions(call, is_bounded),
            )
        except (TypeError, UnicodeError):
            if data is not None or files is not None:
                rule = "must be what httpx can put into a form"
                raise OptionError("data", rule, HIDDEN) from None
            raise OptionError("cookies", "must be such that httpx can send them", HIDDEN) from None

    def _send(
        self, request: Any, auth: Any, follow: bool | None, *, stream: bool = False
    ) -> Awaitable[Any]:
        if self._closed:
            raise trio.ClosedResourceError("the HTTP client is closed")
        if auth is not ...:
            check_auth(self._module, auth)
        if follow is not None:
            check_flag("follow_redirects", follow)
        if (
            not stream
            and auth is ...
            and (self._is_plain if follow is None else self._http.auth is None and not follow)
            and not request.url.userinfo
        ):
            return self._send_once(request)
        default = self._default
        return self._send_on(
            request,
            stream=stream,
            auth=default if auth is ... else auth,
            follow_redirects=default if follow is None else follow,
        )

    async def _send_on(self, request: Any, **options: Any) -> Any:
        """With what httpx does about redirects and signing."""
        try:
            return await self._http.send(request, **options)
        except idna.IDNAError as error:
            message = "redirected to a host that cannot be"
            raise self._module.RemoteProtocolError(message, request=request) from error

    async def _send_once(self, request: Any) -> Any:
        """What httpx's `send` comes to where there is nothing to follow and to sign.

        Half of the time that takes is for cookies that are not there.
        """
        began = self._clock()
        try:
            response = await self._stack.handle_async_request(request)
        except self._module.RequestError as error:
            error.request = request
            raise
        response.request = request
        for name, _ in response.headers.raw:
            if len(name) == len(_SET_COOKIE) and name.lower() == _SET_COOKIE:
                self._http.cookies.extract_cookies(response)
                break
        try:
            await response.aread()
        except BaseException:
            await shut(response)
            raise
        response.elapsed = timedelta(seconds=self._clock() - began)
        return response


def _extensions(call: dict[str, Any], is_bounded: bool) -> dict[str, Any]:
    extensions: dict[str, Any] = {PROGRESS: Progress(is_whole=True, is_bounded=is_bounded)}
    if call:
        extensions[CALL] = Call(**call)
    return extensions


def _as_json(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    if any(name.lower() == b"content-type" for name, _ in headers):
        return headers
    return [_JSON, *headers]

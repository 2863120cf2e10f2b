"""The innermost transport: httpcore's pool of connections on a network of our own.

It is what `AsyncHTTPTransport` of httpx is, but for the network below it (see
`_network`), which makes cancelling safe, and a third of the overhead less. It never
queues, and speaks HTTP/1.1: with HTTP/2, cancelling one stream hurts the others.
"""

from __future__ import annotations

import importlib
import logging
import ssl
from collections.abc import AsyncIterator
from functools import cache
from inspect import isasyncgen
from typing import Any, Final

import httpx
import trio

from ..errors import OptionError
from ._asked import reason
from ._body import CLOSE_S, body_class
from ._network import Attempt, attempt, network_of

__all__ = ["KEEP_ALIVE_S", "open_pool"]

logger: Final = logging.getLogger("trio_rt.http")

#: httpx's own.
KEEP_ALIVE_S: Final = 5.0


def open_pool(
    module: Any,
    *,
    ssl_context: ssl.SSLContext | None = None,
    proxy: Any = None,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> httpx.AsyncBaseTransport:
    """A transport of `module`, which is httpx or httpx2, that has to be opened.

    An idle connection is closed `keep_alive_s` after its last use, at the next call.
    """
    core = _core_of(module)
    options = {
        "ssl_context": _default_tls(module) if ssl_context is None else ssl_context,
        "max_connections": None,
        "keepalive_expiry": keep_alive_s,
        "network_backend": network_of(core)(),
    }
    return _pool_class(module)(_connections(core, module, proxy, options))  # type: ignore[no-any-return]


def _core_of(module: Any) -> Any:
    return importlib.import_module({"httpx": "httpcore", "httpx2": "httpcore2"}[module.__name__])


def _connections(core: Any, module: Any, given: Any, options: dict[str, Any]) -> Any:
    if given is None:
        return core.AsyncConnectionPool(**options)
    proxy = _proxy(module, given)
    try:
        return _proxied(core, proxy, options)
    except RuntimeError as error:  # no socksio, or a context for a proxy without TLS
        raise OptionError("proxy", f"must be one that can be used ({error})", proxy.url) from error


def _proxied(core: Any, proxy: Any, options: dict[str, Any]) -> Any:
    url = _url(core, proxy.url)
    if proxy.url.scheme in ("socks5", "socks5h"):
        return _noting(core.AsyncSOCKSProxy)(proxy_url=url, proxy_auth=proxy.raw_auth, **options)
    return _noting(core.AsyncHTTPProxy)(
        proxy_url=url,
        proxy_auth=proxy.raw_auth,
        proxy_headers=proxy.headers.raw,
        proxy_ssl_context=proxy.ssl_context,
        **options,
    )


def _proxy(module: Any, given: Any) -> Any:
    try:
        proxy = given if isinstance(given, module.Proxy) else module.Proxy(url=given)
    except TypeError:  # its text has a password in it
        rule = f"must be a str, or a URL or Proxy of {module.__name__}"
        raise OptionError("proxy", rule, type(given)) from None
    except (ValueError, module.InvalidURL) as error:
        rule = f"must be the URL of a proxy ({reason(error)})"
        raise OptionError("proxy", rule, type(given)) from None
    if not proxy.url.host:
        raise OptionError("proxy", "must name a host", proxy.url)
    return proxy


@cache
def _noting(base: Any) -> Any:
    class Noting(base):  # type: ignore[misc]
        def create_connection(self, origin: Any) -> Any:
            """Never queued, so this is for the call that is running."""
            made = super().create_connection(origin)
            own = attempt.get()
            if own is not None:
                own.made = made
            return made

    return Noting


def _url(core: Any, url: httpx.URL) -> Any:
    return core.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


@cache
def _default_tls(module: Any) -> Any:
    """Reading all the certificates takes 20 ms: once for all clients."""
    return module.create_ssl_context(trust_env=False)


class _Parts:
    """The parts of a body, with the errors of httpx."""

    __slots__ = ("inner", "kinds")

    def __init__(self, inner: AsyncIterator[bytes], kinds: Any) -> None:
        self.inner = inner
        self.kinds = kinds

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.inner.__anext__()
        except StopAsyncIteration:
            raise
        except Exception as error:
            known = self.kinds.of(error)
            if known is error:
                raise
            raise known from error


class _Whole:
    """A request's body that is in memory. Not a generator: those need to be closed."""

    __slots__ = ("data", "left")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = b""

    def __aiter__(self) -> _Whole:
        self.left = self.data
        return self

    async def __anext__(self) -> bytes:
        data, self.left = self.left, b""
        if not data:
            raise StopAsyncIteration
        return data


class _Streamed:
    """A request's body in parts. What makes them may stand at a `yield` when the call is over."""

    __slots__ = ("parts", "stream")

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.parts: Any = None

    def __aiter__(self) -> Any:
        self.parts = self.stream.__aiter__()
        return self.parts

    async def aclose(self) -> None:
        """The generator of httpx, and the caller's own inside of it.

        Raises nothing: the call has its end already. What the caller's raises is logged.
        """
        if self.parts is None:
            return
        with trio.CancelScope(  # noqa: ASYNC912
            shield=True, deadline=trio.current_time() + CLOSE_S
        ):
            for each in (self.parts, getattr(self.stream, "_stream", None)):
                if isasyncgen(each):
                    try:
                        await each.aclose()
                    except Exception:
                        logger.exception("a request's body failed when it was closed")


class _Kinds:
    """The classes of a backend's errors, by those of its core: they have the same names."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def of(self, error: Exception) -> Exception:
        for kind in type(error).__mro__:
            found: Any = getattr(self._module, kind.__name__, None)
            if kind.__module__.startswith("httpcore") and found is not None:
                raised: Exception = found(str(error))
                return raised
        return error


@cache
def _pool_class(module: Any) -> Any:
    core, kinds = _core_of(module), _Kinds(module)

    base: Any = body_class(module)

    class Body(base):  # type: ignore[misc]
        def __aiter__(self) -> AsyncIterator[bytes]:
            return _Parts(self.inner.__aiter__(), kinds)

    class Pool(module.AsyncBaseTransport):  # type: ignore[misc]
        def __init__(self, connections: Any) -> None:
            self._connections = connections

        async def __aenter__(self) -> Any:
            await self._connections.__aenter__()
            return self

        async def __aexit__(self, *raised: Any) -> None:
            await self._connections.__aexit__(*raised)

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            """Cancelled: no socket is left, and no connection that the pool cannot use."""
            # A call cancelled before may not enter: a proxied connection would be left.
            await trio.lowlevel.checkpoint_if_cancelled()
            stream: Any = request.stream
            content: Any = (
                _Whole(b"".join(stream))
                if isinstance(stream, module.ByteStream)
                else _Streamed(stream)
            )
            asked = core.Request(
                method=request.method,
                url=_url(core, request.url),
                headers=request.headers.raw,
                content=content,
                extensions=request.extensions,
            )
            own = Attempt()
            mark = attempt.set(own)
            try:
                found = await self._connections.handle_async_request(asked)
            except BaseException as error:
                own.unshield()
                own.failed()
                if not isinstance(error, Exception):
                    raise
                known = kinds.of(error)
                if known is error:
                    raise
                raise known from error
            finally:
                attempt.reset(mark)
                if isinstance(content, _Streamed):
                    await content.aclose()
            response: httpx.Response = module.Response(
                found.status,
                headers=found.headers,
                stream=Body(found.stream),
                extensions=found.extensions,
            )
            return response

    return Pool

"""`open_client()`: the layers in their order, around one pool."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from ..errors import OptionError
from ..options import check_flag, check_kind, check_number
from . import _backend
from ._asked import checked_headers, checked_url, redacted
from ._backend import BackendName
from ._breaker import Breaker
from ._cache import Cache
from ._client import Client
from ._gate import Gate
from ._given import check_auth, checked_params, jar_of
from ._hedge import Hedge
from ._layer import Intercept, Layer, is_layer, transport
from ._limits import MAX_BODY_BYTES, BodyLimit
from ._pool import KEEP_ALIVE_S, open_pool
from ._redirects import Redirects
from ._retry import Retry
from ._timeout import Timeout

__all__ = ["open_client"]

#: As many as browsers open to one host.
SLOTS: Final = 6
#: JSON where the server has the choice.
ACCEPT: Final = (b"Accept", b"application/json, */*;q=0.8")
#: What `BodyLimit` can unpack and bound.
ACCEPT_ENCODING: Final = (b"Accept-Encoding", b"gzip, deflate")


@asynccontextmanager
async def open_client(
    base_url: str | httpx.URL = "",
    *,
    backend: BackendName = "httpx",
    headers: Any = None,
    params: Any = None,
    cookies: Any = None,
    auth: Any = None,
    follow_redirects: bool = False,
    max_redirects: int = 20,
    insecure_redirects: bool = False,
    interceptors: Iterable[Layer | Intercept] = (),
    gate: Gate | None = None,
    max_concurrent: float = SLOTS,
    per_host: float = SLOTS,
    timeout_s: float = 10.0,
    deadline_header: str | None = None,
    connect_timeout_s: float = 5.0,
    read_timeout_s: float = math.inf,
    keep_alive_s: float = KEEP_ALIVE_S,
    max_body_bytes: float = MAX_BODY_BYTES,
    cache: Cache | bool = True,
    retry: Retry | bool = True,
    breaker: Breaker | bool = False,
    hedge: Hedge | bool = False,
    ssl_context: ssl.SSLContext | None = None,
    proxy: Any = None,
    pool: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Client]:
    """`async with open_client("https://api.example.com") as client`.

    The layers, outermost first: redirects (headers stripped), `interceptors`,
    `timeout_s`, `cache`, `retry`, `breaker`, `hedge`, `gate`, the bound of bodies; and
    a pool that is safe to cancel. True is such a layer with its defaults, False is none; give one to
    set its options. A layer belongs to one client.

    At most `max_concurrent` calls run at once, and of them at most `per_host` to one host
    and port: who raises the first for many hosts stays polite to each, and who has
    one host raises both. A `gate` comes in the place of the two.

    `interceptors` are called for each request that goes out, so for each redirect,
    with its own URL; `timeout_s` is for all of a call, them included, unless it is a
    `stream()`. Neither the environment's proxies nor netrc are read.

    A try fails where it takes `connect_timeout_s` to connect, or where no bytes come or
    go for `read_timeout_s`: with a timeout of the backend's, and `retry` tries again
    what may be tried again.

    `pool` is a transport of the backend in the place of the connections, such as a
    `MockTransport` in a test; one of its own that connects needs a `SafeConnect()`.

    An idle connection is closed `keep_alive_s` after its last use, when the next
    call is made. Left: new calls raise `trio.ClosedResourceError`, running ones have the
    gate's `close_grace_s` to end. What the block raises leaves it as it is, in no group.
    """
    module: Any = _backend.backend(backend)
    check_number("connect_timeout_s", connect_timeout_s, above=True)
    check_number("read_timeout_s", read_timeout_s, above=True)
    check_number("keep_alive_s", keep_alive_s)
    check_number("max_redirects", max_redirects, whole=True, finite=True)
    check_flag("follow_redirects", follow_redirects)
    check_flag("insecure_redirects", insecure_redirects)
    check_auth(module, auth)
    if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
        raise OptionError("ssl_context", "must be an ssl.SSLContext", ssl_context)
    tries = _chosen(Retry, "retry", retry)
    if hedge is True and tries is not None:
        hedge = Hedge(budget=tries.budget)
    layers = _present(
        cache=_chosen(Cache, "cache", cache),
        retry=tries,
        breaker=_chosen(Breaker, "breaker", breaker),
        hedge=_chosen(Hedge, "hedge", hedge),
        gate=_gate(gate, max_concurrent, per_host),
    )
    timeout = Timeout(timeout_s, deadline_header=deadline_header)
    jar = jar_of(module, cookies)
    stack = transport(
        Redirects(insecure=insecure_redirects, jar=jar),
        *_interceptors(interceptors),
        timeout,
        *layers.values(),
        BodyLimit(max_body_bytes),
        pool=_pool(module, pool, ssl_context, proxy, keep_alive_s),
        backend=backend,
    )
    silence_s = _or_none(read_timeout_s)
    http = module.AsyncClient(
        transport=stack,
        base_url=_base(module, base_url),
        headers=_defaults(headers),
        params=None if params is None else checked_params(module, params),
        cookies=jar,
        auth=auth,
        follow_redirects=follow_redirects,
        max_redirects=max_redirects,
        timeout=module.Timeout(
            connect=_or_none(connect_timeout_s), read=silence_s, write=silence_s, pool=None
        ),
        trust_env=False,
    )
    async with http:
        client = Client(module, http, stack, timeout, layers)
        try:
            yield client
        finally:
            client._closed = True


def _interceptors(given: Any) -> list[Layer | Intercept]:
    found: list[Any] = list(given) if isinstance(given, Iterable) else [None]
    if not all(map(is_layer, found)):
        raise OptionError("interceptors", "must be layers or async functions", given)
    return found


def _present(**layers: Layer | None) -> dict[str, Layer]:
    return {name: layer for name, layer in layers.items() if layer is not None}


def _chosen(kind: type[Any], name: str, choice: Any) -> Any:
    if isinstance(choice, kind):
        return choice
    if not isinstance(choice, bool):
        raise OptionError(name, f"must be a {kind.__name__}, True or False", choice)
    return kind() if choice else None


def _gate(gate: Gate | None, max_concurrent: float, per_host: float) -> Gate:
    if gate is None:
        return Gate(max_concurrent, per_host=per_host)
    check_kind("gate", gate, Gate)
    if (max_concurrent, per_host) != (SLOTS, SLOTS):
        raise OptionError("gate", "must not come with max_concurrent or per_host", gate)
    return gate


def _pool(
    module: Any,
    given: httpx.AsyncBaseTransport | None,
    ssl_context: ssl.SSLContext | None,
    proxy: Any,
    keep_alive_s: float,
) -> httpx.AsyncBaseTransport:
    if given is None:
        return open_pool(module, ssl_context=ssl_context, proxy=proxy, keep_alive_s=keep_alive_s)
    if ssl_context is not None or proxy is not None:
        raise OptionError("pool", "must not come with ssl_context or proxy", given)
    return given


def _or_none(timeout_s: float) -> float | None:
    """As httpx says that there is no limit."""
    return None if timeout_s == math.inf else timeout_s


def _base(module: Any, given: Any) -> Any:
    url = checked_url(module, "base_url", given)
    if given != "" and not url.scheme:
        raise OptionError("base_url", "must be a whole URL", redacted(given))
    return url


def _defaults(headers: Any) -> list[tuple[bytes, bytes]]:
    given = [] if headers is None else checked_headers(headers)
    names = {name.lower() for name, _ in given}
    ours = [pair for pair in (ACCEPT, ACCEPT_ENCODING) if pair[0].lower() not in names]
    return [*ours, *given]

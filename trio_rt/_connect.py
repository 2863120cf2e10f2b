"""`connect()`: its options, checked before anything is dialled."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, get_args, overload

from ._connection import Connection, RawConnection, Settings, run_connection
from ._dial import DialOptions, OpenStream
from ._hooks import Ask, Credentials, Greeting, Hooks, granted, header_pairs
from ._opening import check_protocols
from .errors import OptionError
from .options import InboxLimits, Liveness, OutboxLimits, Reconnect, WireName, check_number
from .protocol.codec import Codec, resolve_codec
from .protocol.session import syntax_of
from .protocol.url import Url, parse_url

__all__ = ["connect"]

#: Not built yet.
_UNBUILT: Final = "is not available yet"


@overload
def connect(
    url: str | Sequence[str],
    *,
    codec: Literal["raw"],
    open_stream: OpenStream | None = ...,
    protocols: Sequence[str] = ...,
    headers: Mapping[str, str] | None = ...,
    credentials: Ask | Credentials | None = ...,
    greet: Callable[[Greeting], Awaitable[None]] | None = ...,
    reconnect: Reconnect = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    session: Literal["offer", "off"] = ...,
    store: None = ...,
    ssl_context: ssl.SSLContext | None = ...,
    proxy: str | None = ...,
    compression: bool = ...,
    fallback: None = ...,
    wire: WireName = ...,
    open_timeout_s: float = ...,
    close_timeout_s: float = ...,
) -> AbstractAsyncContextManager[RawConnection]: ...
@overload
def connect(
    url: str | Sequence[str],
    *,
    codec: Literal["json", "msgpack"] | Codec = ...,
    open_stream: OpenStream | None = ...,
    protocols: Sequence[str] = ...,
    headers: Mapping[str, str] | None = ...,
    credentials: Ask | Credentials | None = ...,
    greet: Callable[[Greeting], Awaitable[None]] | None = ...,
    reconnect: Reconnect = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    session: Literal["offer", "require", "off"] = ...,
    store: None = ...,
    ssl_context: ssl.SSLContext | None = ...,
    proxy: str | None = ...,
    compression: bool = ...,
    fallback: None = ...,
    wire: WireName = ...,
    open_timeout_s: float = ...,
    close_timeout_s: float = ...,
) -> AbstractAsyncContextManager[Connection]: ...
def connect(
    url: str | Sequence[str],
    *,
    codec: str | Codec = "json",
    open_stream: OpenStream | None = None,
    protocols: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    credentials: Ask | Credentials | None = None,
    greet: Callable[[Greeting], Awaitable[None]] | None = None,
    reconnect: Reconnect = Reconnect(),
    liveness: Liveness | None = Liveness(),
    outbox: OutboxLimits = OutboxLimits(),
    inbox: InboxLimits = InboxLimits(),
    session: Literal["offer", "require", "off"] = "offer",
    store: None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | None = None,
    compression: bool = False,
    fallback: None = None,
    wire: WireName = "websockets",
    open_timeout_s: float = 10.0,
    close_timeout_s: float = 5.0,
) -> AbstractAsyncContextManager[Any]:
    """A connection to a WebSocket server that outlives its sockets.

        async with connect("wss://example.org/feed") as conn:
            ...

    The body starts at once, in `Phase.CONNECTING`. Leaving it is the only way
    to stop: on return, or on an error of its own, the outbox is drained first;
    if the scope around is cancelled, nothing is. Either way nothing of the
    connection is left after `close_timeout_s`.

    - `url`: `ws://` or `wss://`; of several the one that works is used.
    - `open_stream(host, port)`: gives the byte stream below proxy and TLS.
    - `protocols`: subprotocols to offer. `headers`: added to the handshake,
      for the URL's own origin only.
    - `credentials`: what to show, or `credentials(attempt)`, asked anew before every attempt.
    - `greet(greeting)`: may talk on each new link before the outbox opens.
    - `codec`: "json", "msgpack", "raw" (gives a `RawConnection`) or a `Codec`.
    - `session`: "offer" one to the server, "require" one, or "off". With a server
      that knows them nothing is lost or doubled over any number of cut links; with
      others the plain envelope is spoken. "raw" and a `Codec` of one's own have none.
    - `reconnect`, `liveness` (None: off), `outbox`, `inbox`: see their classes.
    - `ssl_context`: None is the default context of the `ssl` module.
    - `proxy`: `http://[user:password@]host:port`.
    - `compression`: offer permessage-deflate.
    - `wire`: the package that speaks WebSocket. "trio-websocket" cannot compress,
      and sends every message in one frame: a ping waits behind a large one.
    - `open_timeout_s`: one attempt, from credentials to greeting.

    Raises `OptionError` for options that cannot be, at once; leaves with a
    `ConnectionFailed` (never in a group) when the trouble is for good.
    """
    _refuse_unbuilt(store, fallback)
    _check_session(session, codec)
    check_number("open_timeout_s", open_timeout_s, above=True)
    check_number("close_timeout_s", close_timeout_s)
    _check_kind("reconnect", reconnect, Reconnect)
    _check_kind("liveness", liveness, Liveness, or_none=True)
    _check_kind("outbox", outbox, OutboxLimits)
    _check_kind("inbox", inbox, InboxLimits)
    _check_kind("ssl_context", ssl_context, ssl.SSLContext, or_none=True)
    _check_kind("compression", compression, bool)
    _check_wire(wire, compression)
    _check_callable("open_stream", open_stream)
    if isinstance(credentials, Credentials):
        granted(credentials)
    else:
        _check_callable("credentials", credentials, "must be Credentials, or an async function")
    _check_callable("greet", greet)
    settings = Settings(
        urls=_urls(url),
        protocols=_protocols(protocols),
        headers=_headers(headers),
        hooks=Hooks(credentials, greet),
        reconnect=reconnect,
        liveness=liveness,
        outbox=outbox,
        inbox=inbox,
        dial=DialOptions(
            ssl_context=ssl_context,
            proxy=proxy,
            compression=compression,
            wire=wire,
            max_message_bytes=inbox.message_bytes,
            fragments=inbox.fragments,
            session_protocol=_session_protocol(session, codec),
            open_stream=open_stream,
        ),
        session=session,
        open_timeout_s=open_timeout_s,
        close_timeout_s=close_timeout_s,
    )
    if codec == "raw":
        if liveness is not None and liveness.beat == "both":
            raise OptionError("liveness.beat", 'must be "ping" under codec="raw"', liveness.beat)
        return run_connection(lambda: RawConnection(settings))
    resolved = resolve_codec(codec)
    return run_connection(lambda: Connection(settings, resolved))


def _refuse_unbuilt(store: object, fallback: object) -> None:
    if store is not None:
        raise OptionError("store", _UNBUILT, store)
    if fallback is not None:
        raise OptionError("fallback", _UNBUILT, fallback)


def _check_session(session: str, codec: str | Codec) -> None:
    if session not in ("offer", "require", "off"):
        raise OptionError("session", 'must be "offer", "require" or "off"', session)
    if session == "require" and _session_protocol(session, codec) is None:
        raise OptionError("session", "must not be required with this codec", session)


def _check_wire(wire: WireName, compression: bool) -> None:
    if wire not in get_args(WireName):
        raise OptionError("wire", 'must be "websockets" or "trio-websocket"', wire)
    if wire == "trio-websocket" and compression:
        raise OptionError("compression", 'must be False with wire="trio-websocket"', compression)


def _session_protocol(session: str, codec: str | Codec) -> str | None:
    if session == "off" or codec == "raw":
        return None
    syntax = syntax_of(resolve_codec(codec))
    return None if syntax is None else syntax.subprotocol


def _check_kind(field: str, value: object, kind: type, *, or_none: bool = False) -> None:
    if not isinstance(value, kind) and not (or_none and value is None):
        raise OptionError(field, f"must be of type {kind.__name__}", value)


def _check_callable(field: str, value: object, rule: str = "must be an async function") -> None:
    if value is not None and not callable(value):
        raise OptionError(field, rule, value)


def _urls(url: str | Sequence[str]) -> tuple[Url, ...]:
    texts = (url,) if isinstance(url, str) else url
    if not isinstance(texts, Sequence) or not texts:
        raise OptionError("url", "must be a string, or at least one", url)
    return tuple(parse_url(text) for text in texts)


def _headers(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    if headers is not None and not isinstance(headers, Mapping):
        raise OptionError("headers", "must be a mapping of strings", type(headers))
    return header_pairs("headers", headers)


def _protocols(protocols: Sequence[str]) -> tuple[str, ...]:
    if isinstance(protocols, str) or not all(isinstance(name, str) for name in protocols):
        raise OptionError("protocols", "must be a sequence of strings", protocols)
    check_protocols(protocols)
    return tuple(protocols)

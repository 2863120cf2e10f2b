"""From a URL to a live wire: TCP, proxy, TLS, handshake.

Each step maps what can go wrong to a `DialError` with its stage, or to a
`HandshakeError` once the server has answered; foreign errors are chained, and
secrets are in none of the messages. Nothing here has a timeout: the caller
bounds the whole. Whatever happens, the stream of a failed attempt is closed.

A redirect is followed for this attempt only, never from wss to ws, and on
another origin without the program's headers and credentials.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Final, TypeAlias

import attrs
import trio

from ._opening import Items, WireOptions, check_headers, check_protocols, open_wire
from ._proxy import open_tunnel, parse_proxy
from ._streams import direct_stream
from ._tls import TlsStream
from .errors import DialError, HandshakeError
from .protocol.url import Url
from .wires import Wire

__all__ = ["DialOptions", "OpenStream", "dial"]

OpenStream: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]

#: Browsers follow about 20; a chain that is longer than this is a loop.
REDIRECTS: Final = 5


def _check_proxy(instance: object, attribute: object, value: str | None) -> None:
    if value is not None:
        parse_proxy(value)


@attrs.frozen(kw_only=True)
class DialOptions(WireOptions):
    """What is the same for every dial of a connection.

    `ssl_context=None` is the `ssl` module's default context. `proxy` is
    `http://[user:password@]host:port`. `open_stream` makes the connection
    below proxy and TLS; None is TCP.
    """

    ssl_context: ssl.SSLContext | None = None
    proxy: str | None = attrs.field(default=None, validator=_check_proxy, repr=False)
    open_stream: OpenStream | None = None


async def dial(
    url: Url,
    options: DialOptions,
    *,
    nursery: trio.Nursery,
    headers: Items = (),
    protocols: Sequence[str] = (),
    protocols_elsewhere: Sequence[str] = (),
) -> Wire:
    """Dial `url` once; redirects are followed.

    What the wire needs to have running runs in `nursery`, and ends with the
    wire. At another origin than the first there are no `headers`, and only
    `protocols_elsewhere` are offered: a subprotocol may be a token.

    Raises `DialError`, `HandshakeError`, or, before any I/O, `OptionError` for
    headers and protocols that cannot be sent. Cancelled: everything is closed.
    """
    check_headers(headers)
    check_protocols(protocols)
    for _ in range(REDIRECTS + 1):
        result = await _attempt(url, options, headers, protocols, nursery)
        if not isinstance(result, Url):
            return result
        if not url.same_origin(result):
            headers, protocols = (), protocols_elsewhere
        url = result
    raise HandshakeError(f"more than {REDIRECTS} redirects, the last to {url}")


async def _attempt(
    url: Url,
    options: DialOptions,
    headers: Items,
    protocols: Sequence[str],
    nursery: trio.Nursery,
) -> Wire | Url:
    """A wire, or where a redirect leads."""
    stream = await _connect(url, options)
    result: Wire | Url | None = None
    try:
        if url.secure:
            stream = await _secure(stream, url, options.ssl_context)
        result = await open_wire(stream, url, options, headers, protocols, nursery)
        return result
    finally:
        if result is None or isinstance(result, Url):
            await trio.aclose_forcefully(stream)


# -- TCP, proxy, TLS --------------------------------------------------------


async def _connect(url: Url, options: DialOptions) -> trio.abc.Stream:
    """A stream to the server, through the proxy if there is one."""
    if options.proxy is None:
        return await _open(url.host, url.port, options.open_stream)
    proxy = parse_proxy(options.proxy)
    try:
        stream = await _open(proxy.host, proxy.port, options.open_stream)
    except DialError as error:
        raise DialError(f"no way to the proxy: {error}", stage="proxy") from error
    try:
        await open_tunnel(stream, proxy, url.host, url.port)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _open(host: str, port: int, open_stream: OpenStream | None) -> trio.abc.Stream:
    try:
        return direct_stream(await (open_stream or trio.open_tcp_stream)(host, port))
    except (socket.gaierror, UnicodeError) as error:
        raise DialError(f"no address for {host!r}: {error}", stage="dns") from error
    except Exception as error:  # the program's own `open_stream` may raise anything
        raise DialError(f"no connection to {host!r}, port {port}: {error}", stage="tcp") from error


@cache
def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _secure(
    lower: trio.abc.Stream, url: Url, context: ssl.SSLContext | None
) -> trio.abc.Stream:
    host = url.host.removesuffix(".")
    try:
        stream = TlsStream(lower, context or _default_context(), server_hostname=host)
        await stream.do_handshake()
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ValueError) as error:
        bad = isinstance(error.__cause__, ssl.SSLCertVerificationError)
        message = f"no TLS with {host!r}: {error}"
        raise DialError(message, stage="tls", certificate=bad) from error
    return stream

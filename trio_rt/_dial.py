"""From a URL to a live wire: TCP, proxy, TLS, handshake.

Each step maps what can go wrong to a `DialError` with its stage, or to a
`HandshakeError` once the server has answered; foreign errors are chained, and
secrets are in none of the messages. Nothing here has a timeout: the caller
bounds the whole. Whatever happens, the stream of a failed attempt is closed.

A redirect is followed for this attempt only, never from wss to ws, and on
another origin without the program's headers and credentials.
"""

from __future__ import annotations

import base64
import http
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Final, NoReturn, TypeAlias

import attrs
import trio
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI
from websockets.utils import accept_key

from ._ambient import ambient
from ._http_reply import BadReply, NoReply, Reply, read_excerpt, read_reply
from ._proxy import open_tunnel, parse_proxy
from ._streams import direct_stream
from ._tls import TlsStream
from .errors import DialError, HandshakeError, OptionError
from .options import WireName
from .protocol.url import Url
from .wires import Wire
from .wires.trio_websocket import TrioWebsocketWire
from .wires.websockets import FRAGMENTS, QUIET, WebSocketsWire, size_limit

__all__ = ["DialOptions", "OpenStream", "dial"]

OpenStream: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]

#: The same as trio-websocket's and browsers' order of magnitude; a chain that
#: is longer is a loop.
REDIRECTS: Final = 5
REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})

#: The encoder's memory, as the `websockets` package chooses it: 64 KiB.
MEMORY_LEVEL: Final = 5

#: What the handshake itself consists of.
RESERVED: Final = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_KEY: Final = re.compile(rb"\r\nSec-WebSocket-Key: ([0-9A-Za-z+/=]+)\r\n", re.IGNORECASE)
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_Items: TypeAlias = Sequence[tuple[str, str]]


def _check_proxy(instance: object, attribute: object, value: str | None) -> None:
    if value is not None:
        parse_proxy(value)


@attrs.frozen(kw_only=True)
class DialOptions:
    """What is the same for every dial of a connection.

    `ssl_context=None` is the `ssl` module's default context. `proxy` is
    `http://[user:password@]host:port`. `compression` offers permessage-deflate.
    `open_stream` makes the connection below proxy and TLS; None is TCP.
    """

    ssl_context: ssl.SSLContext | None = None
    proxy: str | None = attrs.field(default=None, validator=_check_proxy, repr=False)
    compression: bool = False
    wire: WireName = "websockets"
    max_message_bytes: float
    fragments: float = FRAGMENTS
    open_stream: OpenStream | None = None


async def dial(
    url: Url,
    options: DialOptions,
    *,
    nursery: trio.Nursery,
    headers: _Items = (),
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


def check_headers(headers: _Items, field: str = "headers") -> None:
    """Raise `OptionError` for a header that cannot be sent; its value is not shown."""
    for name, value in headers:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name) or name.lower() in RESERVED:
            raise OptionError(field, "must be none of the handshake's own, and named", name)
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            rule = "must be ISO-8859-1 text without control characters"
            raise OptionError(f"{field}[{name!r}]", rule, "what was given")


def check_protocols(protocols: Sequence[str]) -> None:
    """Raise `OptionError` unless they are distinct tokens (RFC 6455, 4.1)."""
    for name in protocols:
        if not _TOKEN.fullmatch(name):
            raise OptionError("protocols", "must be tokens", name)
    if len(set(protocols)) != len(protocols):
        raise OptionError("protocols", "must be distinct", tuple(protocols))


async def _attempt(
    url: Url,
    options: DialOptions,
    headers: _Items,
    protocols: Sequence[str],
    nursery: trio.Nursery,
) -> Wire | Url:
    """A wire, or where a redirect leads."""
    stream = await _connect(url, options)
    result: Wire | Url | None = None
    try:
        if url.secure:
            stream = await _secure(stream, url, options.ssl_context)
        if options.wire == "websockets":
            result = await _shake(stream, url, options, headers, protocols)
        else:
            result = await _shake_by_package(stream, url, options, headers, protocols, nursery)
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


# -- the opening handshake --------------------------------------------------


async def _shake(
    stream: trio.abc.Stream,
    url: Url,
    options: DialOptions,
    headers: _Items,
    protocols: Sequence[str],
) -> Wire | Url:
    protocol = _protocol(url, options, protocols)
    reply = await _ask(stream, url, protocol, _request(protocol, url, headers))
    if isinstance(reply, Url):
        return reply
    return WebSocketsWire(
        stream,
        protocol,
        max_message_bytes=options.max_message_bytes,
        fragments=options.fragments,
        leftover=reply.rest,
    )


async def _shake_by_package(
    stream: trio.abc.Stream,
    url: Url,
    options: DialOptions,
    headers: _Items,
    protocols: Sequence[str],
    nursery: trio.Nursery,
) -> Wire | Url:
    """The package makes the request; the answer is judged here as any other is."""
    protocol = _protocol(url, options, protocols)
    wire = TrioWebsocketWire(
        stream, max_message_bytes=options.max_message_bytes, fragments=options.fragments
    )
    opened = False
    try:
        (_, host), *others = _own_headers(url, headers)
        request: bytes = await nursery.start(wire.run, host, url.resource, protocols, others)
        protocol.key = _key(request)
        reply = await _ask(stream, url, protocol, request)
        if isinstance(reply, Url):
            return reply
        await wire.open(accept_key(protocol.key), protocol.subprotocol, reply.rest)
        opened = True
        return wire
    finally:
        if not opened:
            wire.abort()


async def _ask(
    stream: trio.abc.Stream, url: Url, protocol: ClientProtocol, request: bytes
) -> Reply | Url:
    """The server's consent, or where it redirects to."""
    try:
        await stream.send_all(request)
        reply = await read_reply(stream)
    except BadReply as error:
        raise HandshakeError(f"no WebSocket at {url}: {error}") from error
    except (NoReply, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        message = f"{url} gave no whole answer to the handshake: {error}"
        raise DialError(message, stage="handshake") from error
    if reply.status != 101:
        return _redirect(url, reply) or await _refused(stream, url, reply)
    _check_upgrade(protocol, url, reply)
    return reply


def _protocol(url: Url, options: DialOptions, protocols: Sequence[str]) -> ClientProtocol:
    deflate = ClientPerMessageDeflateFactory(compress_settings={"memLevel": MEMORY_LEVEL})
    # OPEN from the start: the HTTP parser that CONNECTING begins with waits for
    # the whole body of a refusal.
    protocol = ClientProtocol(
        WebSocketURI(url.secure, url.host, url.port, "/", ""),
        extensions=[deflate] if options.compression else None,
        subprotocols=[Subprotocol(name) for name in protocols] or None,
        state=OPEN,
        max_size=size_limit(options.max_message_bytes),
        logger=QUIET,
    )
    protocol.key = base64.b64encode(ambient().random.randbytes(16)).decode()
    return protocol


def _request(protocol: ClientProtocol, url: Url, headers: _Items) -> bytes:
    request = protocol.connect()
    request.path = url.resource
    own = _own_headers(url, headers)
    names = {name.lower() for name, _ in own}
    others = [item for item in request.headers.raw_items() if item[0].lower() not in names]
    request.headers = Headers([*own, *others])
    return request.serialize()


def _own_headers(url: Url, headers: _Items) -> list[tuple[str, str]]:
    """All but the handshake's own: the host first, and the program's win."""
    items = {"Host": url.netloc, "User-Agent": "trio-rt"}
    if url.user_info is not None:
        token = base64.b64encode(":".join(url.user_info).encode()).decode()
        items["Authorization"] = f"Basic {token}"
    given = {name.lower() for name, _ in headers}
    kept = [(name, value) for name, value in items.items() if name.lower() not in given]
    return sorted([*kept, *headers], key=lambda item: item[0].lower() != "host")


def _key(request: bytes) -> str:
    found = _KEY.search(request)
    assert found is not None
    return found[1].decode()


def _check_upgrade(protocol: ClientProtocol, url: Url, reply: Reply) -> None:
    fault: Exception | None = None
    try:
        protocol.process_response(Response(101, "", Headers(reply.headers)))
    except Exception as error:  # whatever the headers do to the parsers below
        fault = error
    if reply.version != "1.1":
        fault = BadReply("the HTTP version must be 1.1")
    if fault is not None:
        message = f"no WebSocket at {url}: {fault}"
        raise HandshakeError(message, status=101, headers=reply.merged()) from fault


def _redirect(url: Url, reply: Reply) -> Url | None:
    location = reply.merged().get("location")
    if reply.status not in REDIRECT_STATUSES or location is None:
        return None
    try:
        return url.join(location)
    except OptionError as error:
        message = f"{url} redirects to where no WebSocket can be: {error}"
        raise HandshakeError(message, status=reply.status, headers=reply.merged()) from error


async def _refused(stream: trio.abc.Stream, url: Url, reply: Reply) -> NoReturn:
    try:
        phrase = f" ({http.HTTPStatus(reply.status).phrase})"
    except ValueError:
        phrase = ""
    raise HandshakeError(
        f"{url} answered {reply.status}{phrase}",
        status=reply.status,
        headers=reply.merged(),
        retry_after_s=reply.retry_after_s,
        body=await read_excerpt(stream, reply),
    )

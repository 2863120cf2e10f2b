"""The client's side of the opening handshake: a byte stream in, a wire out.

The request is made by the package that is to speak WebSocket; the answer is read
and judged here, whichever that is. What the server does wrong becomes a
`HandshakeError`, a stream that ends a `DialError`; foreign errors are chained,
and secrets are in none of the messages. Nothing here has a timeout.
"""

from __future__ import annotations

import base64
import http
import re
from collections.abc import Sequence
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
from .errors import DialError, HandshakeError, OptionError
from .options import WireName
from .protocol.frames import BATCH_MARGIN_BYTES
from .protocol.url import Url
from .wires import Wire
from .wires.trio_websocket import TrioWebsocketWire
from .wires.websockets import FRAGMENTS, QUIET, WebSocketsWire, size_limit

__all__ = ["Items", "WireOptions", "check_headers", "check_protocols", "open_wire"]

#: Those whose `Location` is followed: RFC 9110, 15.4.
REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})

#: The encoder's memory, as the `websockets` package chooses it: at most 144 KiB.
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
#: The host for a package that takes "host:port" for one name, and no label over 63.
STAND_IN: Final = "stand-in"

_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_KEY: Final = re.compile(rb"\r\nSec-WebSocket-Key: ([0-9A-Za-z+/=]+)\r\n", re.IGNORECASE)
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

Items: TypeAlias = Sequence[tuple[str, str]]


@attrs.frozen(kw_only=True)
class WireOptions:
    """What is the same for every wire of a connection.

    `compression` offers permessage-deflate; the limits are on what comes in.
    """

    compression: bool = False
    wire: WireName = "websockets"
    max_message_bytes: float
    fragments: float = FRAGMENTS
    #: The subprotocol of a session, whose batches hold several messages.
    session_protocol: str | None = None

    def size_limit(self, subprotocol: str | None) -> float:
        """What a WebSocket message may have under this subprotocol, in bytes."""
        if subprotocol is None or subprotocol != self.session_protocol:
            return self.max_message_bytes
        return self.max_message_bytes + BATCH_MARGIN_BYTES


async def open_wire(
    stream: trio.abc.Stream,
    url: Url,
    options: WireOptions,
    headers: Items,
    protocols: Sequence[str],
    nursery: trio.Nursery,
) -> Wire | Url:
    """A wire on `stream`, or where the server redirects to.

    What the wire needs to have running runs in `nursery`, and ends with the
    wire. Raises `HandshakeError` and `DialError`. Failing, cancelled or with a
    redirect, `stream` may still be open.
    """
    if options.wire == "websockets":
        return await _shake(stream, url, options, headers, protocols)
    return await _shake_by_package(stream, url, options, headers, protocols, nursery)


async def _shake(
    stream: trio.abc.Stream,
    url: Url,
    options: WireOptions,
    headers: Items,
    protocols: Sequence[str],
) -> Wire | Url:
    protocol = _protocol(url, options, protocols)
    reply = await _ask(stream, url, protocol, _request(protocol, url, headers))
    if isinstance(reply, Url):
        return reply
    return WebSocketsWire(
        stream,
        protocol,
        max_message_bytes=options.size_limit(protocol.subprotocol),
        fragments=options.fragments,
        leftover=reply.rest,
    )


async def _shake_by_package(
    stream: trio.abc.Stream,
    url: Url,
    options: WireOptions,
    headers: Items,
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
        made: bytes = await nursery.start(wire.run, STAND_IN, url.resource, protocols, others)
        request = made.replace(
            b": %s\r\n" % STAND_IN.encode(), b": %s\r\n" % host.encode("iso-8859-1"), 1
        )
        protocol.key = _key(request)
        reply = await _ask(stream, url, protocol, request)
        if isinstance(reply, Url):
            return reply
        wire.limit(options.size_limit(protocol.subprotocol))
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


def _protocol(url: Url, options: WireOptions, protocols: Sequence[str]) -> ClientProtocol:
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


def _request(protocol: ClientProtocol, url: Url, headers: Items) -> bytes:
    request = protocol.connect()
    request.path = url.resource
    own = _own_headers(url, headers)
    names = {name.lower() for name, _ in own}
    others = [item for item in request.headers.raw_items() if item[0].lower() not in names]
    request.headers = Headers([*own, *others])
    return request.serialize()


def _own_headers(url: Url, headers: Items) -> list[tuple[str, str]]:
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


def check_headers(headers: Items, field: str = "headers") -> None:
    """Raise `OptionError` for a header that cannot be sent; its value is not shown."""
    for name, value in headers:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name) or name.lower() in RESERVED:
            raise OptionError(field, "must be none of the handshake's own, and named", name)
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            rule = "must be ISO-8859-1 text without control characters"
            raise OptionError(f"{field}[{name!r}]", rule, "what was given")
    # RFC 9112, 3.2: a server must refuse a second one.
    hosts = [name for name, _ in headers if name.lower() == "host"]
    if len(hosts) > 1:
        raise OptionError(field, "must have one Host at most", hosts)


def check_protocols(protocols: Sequence[str]) -> None:
    """Raise `OptionError` unless they are distinct tokens (RFC 6455, 4.1)."""
    for name in protocols:
        if not _TOKEN.fullmatch(name):
            raise OptionError("protocols", "must be tokens", name)
    if len(set(protocols)) != len(protocols):
        raise OptionError("protocols", "must be distinct", tuple(protocols))

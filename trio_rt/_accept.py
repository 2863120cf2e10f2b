"""The server's side of the opening handshake: a byte stream in, a wire out.

Three judges, each with its own field: `_http_head` says what is a sane HTTP
request, the `websockets` package what is a WebSocket handshake, and the accept
hook who may come in. Whatever a stranger sends, the outcome is a wire, or one
answer and a closed stream, or just a closed stream; within
`limits.handshake_s`, in bounded memory, and never an exception.

What comes behind the request is never taken for HTTP: it is the first frames.

Nothing logged here has a header's value or the query in it: they hold secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import attrs
import trio
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader, InvalidUpgrade
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from ._handshake import Handshake, RequestHeaders
from ._http_head import Items, Unfit, http_date, parse_head, read_head, turn_away
from ._streams import DirectStream
from ._tls import TlsStream
from .errors import Refuse
from .options import ServerLimits
from .protocol.frames import BATCH_MARGIN_BYTES, PLAIN
from .wires import Wire
from .wires.websockets import QUIET, WebSocketsWire, size_limit

__all__ = ["AcceptHook", "Accepted", "accept", "remote_address"]

_log = logging.getLogger("trio_rt.server")

#: The `websockets` package's own defaults for a server: 36 KiB of windows and
#: tables for each connection, where zlib's defaults take 288 (zlib's zconf.h).
#: A client that cannot limit its window makes it 64 KiB.
WINDOW_BITS: Final = 12
MEMORY_LEVEL: Final = 5

AcceptHook: TypeAlias = Callable[[Handshake], Awaitable[object]]


@attrs.frozen
class Accepted:
    """An open link, and what the accept hook returned (None without a hook)."""

    wire: Wire
    handshake: Handshake
    identity: object


async def accept(
    stream: trio.abc.Stream,
    *,
    limits: ServerLimits,
    protocols: Sequence[str],
    session_protocol: str | None,
    hook: AcceptHook | None,
    compression: bool,
    max_message_bytes: float,
    fragments: float,
) -> Accepted | None:
    """Do the opening handshake on `stream`, a fresh connection of a stranger.

    `session_protocol` is taken wherever it is offered; `protocols` are the other
    subprotocols known here, the favourite first. With none in common the link has none. All of it, TLS and the hook included, has
    `limits.handshake_s`.

    Returns None for whoever is refused or gone: answered where possible, and
    logged to `trio_rt.server`. If it does not return a wire then the stream
    is closed. Cancelled: likewise; nothing else is raised.
    """
    remote = remote_address(stream)
    known = (*(() if session_protocol is None else (session_protocol,)), *protocols, PLAIN)
    protocol = _protocol(known, compression, max_message_bytes)

    def make_wire(leftover: bytes) -> WebSocketsWire:
        is_session = protocol.subprotocol == session_protocol is not None
        margin = BATCH_MARGIN_BYTES if is_session else 0
        return WebSocketsWire(
            stream,
            protocol,
            max_message_bytes=max_message_bytes + margin,
            fragments=fragments,
            leftover=leftover,
        )

    accepted = None
    try:
        with trio.move_on_after(limits.handshake_s) as scope:
            accepted = await _shake(stream, remote, protocol, limits, hook, make_wire)
        if scope.cancelled_caught:
            _log.info("%s: no handshake within %g s", remote, limits.handshake_s)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.debug("%s: gone during the handshake (%s)", remote, type(error).__name__)
    finally:
        if accepted is None:
            await trio.aclose_forcefully(stream)
    return accepted


async def _shake(
    stream: trio.abc.Stream,
    remote: str | None,
    protocol: ServerProtocol,
    limits: ServerLimits,
    hook: AcceptHook | None,
    make_wire: Callable[[bytes], WebSocketsWire],
) -> Accepted | None:
    secure = False
    try:
        if isinstance(stream, (trio.SSLStream, TlsStream)):
            secure = True
            await stream.do_handshake()
        head, leftover = await read_head(stream, limits.header_bytes)
        if not head:
            _log.debug("%s: gone without a request", remote)
            return None
        target, items = parse_head(head, limits.headers)
        response = _upgrade(protocol, target, items)
        handshake = _handshake(target, items, remote, secure=secure)
        identity = await _ask(hook, handshake)
    except Refuse as refusal:
        why = refusal.text if isinstance(refusal, Unfit) else "by the accept hook"
        _log.info("%s: refused with %d (%s)", remote, refusal.status, why)
        await turn_away(stream, refusal)
        return None
    await stream.send_all(response)
    return Accepted(make_wire(leftover), handshake, identity)


def _protocol(
    protocols: Sequence[str], compression: bool, max_message_bytes: float
) -> ServerProtocol:
    def select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((Subprotocol(known) for known in protocols if known in offered), None)

    deflate = ServerPerMessageDeflateFactory(
        server_max_window_bits=WINDOW_BITS,
        client_max_window_bits=WINDOW_BITS,
        compress_settings={"memLevel": MEMORY_LEVEL},
    )
    # OPEN from the start: the HTTP parser that CONNECTING begins with would
    # wait for a request where the frames are.
    return ServerProtocol(
        state=State.OPEN,
        extensions=[deflate] if compression else None,
        select_subprotocol=select,
        max_size=size_limit(max_message_bytes),
        logger=QUIET,
    )


def _upgrade(protocol: ServerProtocol, target: str, items: Items) -> bytes:
    """The 101 for this request; extensions and subprotocol are then in `protocol`."""
    response = protocol.accept(Request(target, Headers(items)))
    if response.status_code == 101:
        del response.headers["Date"]
        response.headers["Date"] = http_date()
        return response.serialize()
    fault = protocol.handshake_exc
    if isinstance(fault, InvalidUpgrade):
        raise Unfit(426, "this is a WebSocket server", headers={"Upgrade": "websocket"})
    name = fault.name if isinstance(fault, InvalidHeader) else "WebSocket"
    if name == "Sec-WebSocket-Version":
        headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        raise Unfit(426, "the WebSocket version must be 13", headers=headers)
    raise Unfit(response.status_code, f"bad {name} header")


def _handshake(target: str, items: Items, remote: str | None, *, secure: bool) -> Handshake:
    path, _, query = target.partition("?")
    headers = RequestHeaders(items)
    offers = map(parse_subprotocol, headers.get_all("Sec-WebSocket-Protocol"))
    return Handshake(
        path=path,
        query=query,
        headers=headers,
        origin=headers.get("Origin"),
        protocols=tuple(name for offer in offers for name in offer),
        remote=remote,
        secure=secure,
    )


async def _ask(hook: AcceptHook | None, handshake: Handshake) -> object:
    if hook is None:
        if not handshake.same_origin:
            raise Unfit(403, "a page of another origin")
        return None
    try:
        return await hook(handshake)
    except Refuse:
        raise
    except Exception:
        _log.exception("%s: the accept hook failed", handshake.remote)
        raise Unfit(500, "the server failed") from None


def remote_address(stream: trio.abc.Stream) -> str | None:
    """The peer's IP address; None for a stream without one, as in tests or on Unix sockets."""
    if isinstance(stream, TlsStream):
        return remote_address(stream.lower)
    if isinstance(stream, trio.SSLStream):
        return remote_address(stream.transport_stream)
    if not isinstance(stream, (DirectStream, trio.SocketStream)):
        return None
    try:
        name = stream.socket.getpeername()
    except OSError:
        return None
    return str(name[0]) if isinstance(name, tuple) else None

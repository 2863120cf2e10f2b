"""A server's fresh connection: a byte stream in, a wire out, or plain HTTP to its end.

Three judges, each with its own field: `_http_head` says what is a sane HTTP
request, the `websockets` package what is a WebSocket handshake, and the accept
hook who may come in. Whatever a stranger sends, the outcome is a wire, or one
answer and a closed stream, or just a closed stream; within
`limits.handshake_s`, in bounded memory, and never an exception.

What comes behind the handshake is never taken for HTTP: it is the first frames.

Where there is an HTTP handler, requests before the handshake are its own, and
each head has `limits.handshake_s` again.

Nothing logged here has a header's value or the query in it: they hold secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import attrs
import trio
from websockets.server import ServerProtocol

from ._handshake import Handshake
from ._http_head import Head, Unfit, parse_head, parse_request, read_head, turn_away
from ._http_serve import HttpService
from ._http_upgrade import handshake_of, new_protocol, upgrade
from ._streams import DirectStream
from ._tls import TlsStream
from .errors import Refuse
from .options import ServerLimits
from .protocol.frames import BATCH_MARGIN_BYTES, PLAIN
from .wires import Wire
from .wires.websockets import WebSocketsWire

__all__ = ["AcceptHook", "Accepted", "accept", "remote_address"]

_log = logging.getLogger("trio_rt.server")

AcceptHook: TypeAlias = Callable[[Handshake], Awaitable[object]]


@attrs.frozen
class Accepted:
    """An open link, and what the accept hook returned (None without a hook)."""

    wire: Wire
    handshake: Handshake
    identity: object


@attrs.frozen(kw_only=True)
class _Door:
    """How a stranger is let in, or served."""

    stream: trio.abc.Stream
    remote: str | None
    limits: ServerLimits
    hook: AcceptHook | None
    path: str | None
    http: HttpService | None
    new_protocol: Callable[[], ServerProtocol]
    new_wire: Callable[[ServerProtocol, bytes], WebSocketsWire]

    @property
    def secure(self) -> bool:
        return isinstance(self.stream, (trio.SSLStream, TlsStream))

    async def open(self) -> Accepted | None:
        """The link; None for whoever is refused, served, or gone."""
        found = await self._knock(None)
        while isinstance(found, tuple):
            assert self.http is not None
            held = await self.http.answer(self.stream, *found, self.remote, secure=self.secure)
            if held == b"":
                held = await self.http.wait(self.stream) or None
                if held is None:
                    await self.stream.aclose()
            found = None if held is None else await self._knock(held)
        return found

    async def _knock(self, held: bytes | None) -> Accepted | tuple[Head, bytes] | None:
        """A link, or a request for the HTTP handler; `held` is None on a fresh connection."""
        limits = self.limits
        with trio.move_on_after(limits.handshake_s) as scope:
            try:
                return await self._read(held)
            except Refuse as refusal:
                why = refusal.text if isinstance(refusal, Unfit) else "by the accept hook"
                _log.info("%s: refused with %d (%s)", self.remote, refusal.status, why)
                await turn_away(self.stream, refusal)
        if scope.cancelled_caught:
            _log.info("%s: no handshake within %g s", self.remote, limits.handshake_s)
        return None

    async def _read(self, held: bytes | None) -> Accepted | tuple[Head, bytes] | None:
        stream = self.stream
        if held is None and isinstance(stream, (trio.SSLStream, TlsStream)):
            await stream.do_handshake()
        data, leftover = await read_head(stream, self.limits.header_bytes, held or b"")
        if not data:
            _log.debug("%s: gone without a request", self.remote)
            return None
        if self.http is None:
            return await self._shake(parse_head(data, self.limits.headers), leftover)
        head = parse_request(data, self.limits.headers)
        if not head.upgrades:
            return head, leftover
        return await self._shake(parse_head(data, self.limits.headers), leftover)

    async def _shake(self, head: Head, leftover: bytes) -> Accepted:
        path = head.target.partition("?")[0]
        if self.path is not None and head.upgrades and path != self.path:
            raise Unfit(404, "no WebSocket here")
        protocol = self.new_protocol()
        response = upgrade(protocol, head)
        handshake = handshake_of(head, self.remote, secure=self.secure)
        identity = await _ask(self.hook, handshake)
        await self.stream.send_all(response)
        return Accepted(self.new_wire(protocol, leftover), handshake, identity)


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
    path: str | None = None,
    http: HttpService | None = None,
) -> Accepted | None:
    """Do the opening handshake on `stream`, a fresh connection of a stranger.

    `session_protocol` is taken wherever it is offered; `protocols` are the other
    subprotocols known here, the favourite first. With none in common the link has
    none. All of it, TLS and the hook included, has `limits.handshake_s`. `path`
    is where handshakes are taken (None: anywhere). `http` serves what is no
    handshake, for as long as it takes; None: it is refused.

    Returns None for whoever is refused or gone: answered where possible, and
    logged to `trio_rt.server`. If it does not return a wire then the stream
    is closed. Cancelled: likewise; nothing else is raised.
    """
    remote = remote_address(stream)
    known = (*(() if session_protocol is None else (session_protocol,)), *protocols, PLAIN)

    def new_wire(protocol: ServerProtocol, leftover: bytes) -> WebSocketsWire:
        is_session = protocol.subprotocol == session_protocol is not None
        margin = BATCH_MARGIN_BYTES if is_session else 0
        return WebSocketsWire(
            stream,
            protocol,
            max_message_bytes=max_message_bytes + margin,
            fragments=fragments,
            leftover=leftover,
        )

    door = _Door(
        stream=stream,
        remote=remote,
        limits=limits,
        hook=hook,
        path=path,
        http=http,
        new_protocol=partial(new_protocol, known, compression, max_message_bytes),
        new_wire=new_wire,
    )
    accepted = None
    try:
        accepted = await door.open()
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.debug("%s: gone during the handshake (%s)", remote, type(error).__name__)
    finally:
        if accepted is None:
            await trio.aclose_forcefully(stream)
    return accepted


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

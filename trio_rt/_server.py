"""`serve()`: many peers, each the other end of the same session.

    serve                one nursery
    ├─ listeners         accept; each connection becomes a task
    ├─ beats             one heartbeat task for all peers
    └─ a peer            the connection's own task runs the handler
       └─ link.run       reads; a writer joins it when it is first needed

A peer's trouble is its own: whatever a stranger sends, or a handler raises,
ends that peer and nobody else. A handler outlives its link a little: when the
peer is gone its streams end, so that it can finish, and after
`close_timeout_s` it is cancelled.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, TypeAlias, overload

import attrs
import trio

from ._accept import AcceptHook, accept, remote_address
from ._ambient import ambient
from ._beats import Beats
from ._http_head import turn_away
from ._peer import Peer, RawPeer, Served
from ._streams import TlsStream, direct_stream
from .errors import OptionError, Refuse
from .options import InboxLimits, Liveness, OutboxLimits, ServerLimits, check_number
from .protocol.codec import Codec, resolve_codec
from .protocol.pulse import Pulse

__all__ = ["Server", "serve", "serve_listeners"]

logger: Final = logging.getLogger("trio_rt.server")

#: Seconds over which `Server.drain()` spreads its closes, unless told.
DRAIN_S: Final = 5.0

Handler: TypeAlias = Callable[[Any], Awaitable[object]]


@attrs.frozen(kw_only=True)
class _Settings:
    handler: Handler
    accept: AcceptHook | None
    protocols: tuple[str, ...]
    limits: ServerLimits
    codec: Codec | None  # None: raw
    liveness: Liveness | None
    outbox: OutboxLimits
    inbox: InboxLimits
    compression: bool
    ssl_context: ssl.SSLContext | None
    close_timeout_s: float


class Server:
    """A running server: what `serve()` gives by `task_status.started`."""

    def __init__(self, settings: _Settings, listeners: Sequence[trio.abc.Listener[Any]]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._connections: Counter[str | None] = Counter()
        self._peers: set[Served] = set()
        self._beats = Beats()
        self._listening = trio.CancelScope()
        self._quiet = trio.Event()

    @property
    def port(self) -> int:
        """The first TCP listener's port. `OptionError` if there is none."""
        return int(self._address()[1])

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        host, port = self._address()[:2]
        scheme = "ws" if self._settings.ssl_context is None else "wss"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def connections(self) -> int:
        """Open connections, those in the handshake included."""
        return self._connections.total()

    async def drain(self, over_s: float = DRAIN_S) -> None:
        """Stop: no new connections, and the peers are closed one after another.

        Their closes (1012, with the advice to wait a random part of `over_s`)
        are spread over `over_s`, so that they do not all return at once. Ends
        when the last peer is gone; `serve()` then returns. Cancelling leaves
        the server without listeners, and the other peers connected.
        """
        check_number("over_s", over_s, finite=True)
        self._listening.cancel()
        peers = list(self._peers)
        for peer in peers:
            advice_s = ambient().random.uniform(0.0, over_s)
            peer.close(1012, f"retry-after={advice_s:.1f}")
            await trio.sleep(over_s / len(peers))
        while self._connections:
            await self._quiet.wait()

    async def run(self, task_status: trio.TaskStatus[Server]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beats.run)
            task_status.started(self)
            with self._listening:
                await trio.serve_listeners(
                    self._serve_stream, list(self._listeners), handler_nursery=nursery
                )
            for listener in self._listeners:
                await listener.aclose()
            while self._connections:
                await self._quiet.wait()
            nursery.cancel_scope.cancel()

    async def _serve_stream(self, stream: trio.abc.Stream) -> None:
        """One connection, from TCP accept to its end. Raises nothing."""
        remote = remote_address(stream)
        stream = direct_stream(stream)
        self._connections[remote] += 1
        try:
            if self._is_full(remote):
                await self._turn_away(stream)
            else:
                await self._serve_client(stream)
        except Exception:
            logger.exception("%s: a fault of the server itself", remote)
        finally:
            self._connections[remote] -= 1
            if not self._connections[remote]:
                del self._connections[remote]
            if not self._connections:
                self._quiet.set()
                self._quiet = trio.Event()

    def _is_full(self, remote: str | None) -> bool:
        limits = self._settings.limits
        return self.connections > limits.connections or (
            remote is not None and self._connections[remote] > limits.connections_per_address
        )

    async def _turn_away(self, stream: trio.abc.Stream) -> None:
        logger.info("%s: too many connections", remote_address(stream))
        with trio.move_on_after(1.0):
            if self._settings.ssl_context is None:
                await turn_away(stream, Refuse(503, "full", headers={"Retry-After": 5}))
        await trio.aclose_forcefully(stream)

    async def _serve_client(self, stream: trio.abc.Stream) -> None:
        settings = self._settings
        if settings.ssl_context is not None:
            stream = TlsStream(stream, settings.ssl_context, server_side=True)
        accepted = await accept(
            stream,
            limits=settings.limits,
            protocols=settings.protocols,
            hook=settings.accept,
            compression=settings.compression,
            max_message_bytes=settings.inbox.message_bytes,
        )
        if accepted is None:
            return
        peer: Served
        if settings.codec is None:
            peer = RawPeer(accepted, settings.outbox, settings.inbox)
        else:
            beats = settings.liveness is not None and settings.liveness.beat == "both"
            peer = Peer(accepted, settings.codec, settings.outbox, settings.inbox, beats)
        self._peers.add(peer)
        try:
            await peer.run(settings.handler, self._pulse(), self._beats, settings.close_timeout_s)
        finally:
            self._peers.discard(peer)

    def _pulse(self) -> Pulse | None:
        liveness = self._settings.liveness
        if liveness is None:
            return None
        world = ambient()
        return Pulse(liveness, trio.current_time(), world.wall_s(), world.random.random())

    def _address(self) -> Any:
        for listener in self._listeners:
            if isinstance(listener, trio.SocketListener):
                return listener.socket.getsockname()
        raise OptionError("listeners", "must have a TCP listener for this", self._listeners)


@overload
async def serve(
    handler: Callable[[RawPeer], Awaitable[object]],
    host: str | None,
    port: int,
    *,
    codec: Literal["raw"],
    accept: AcceptHook | None = ...,
    protocols: Sequence[str] = ...,
    limits: ServerLimits = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    compression: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    close_timeout_s: float = ...,
    task_status: trio.TaskStatus[Server] = ...,
) -> None: ...
@overload
async def serve(
    handler: Callable[[Peer], Awaitable[object]],
    host: str | None,
    port: int,
    *,
    codec: Literal["json", "msgpack"] | Codec = ...,
    accept: AcceptHook | None = ...,
    protocols: Sequence[str] = ...,
    limits: ServerLimits = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    compression: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    close_timeout_s: float = ...,
    task_status: trio.TaskStatus[Server] = ...,
) -> None: ...
async def serve(
    handler: Handler,
    host: str | None,
    port: int,
    *,
    codec: str | Codec = "json",
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> None:
    """Listen on `host` (None: every interface) and `port` (0: any), and serve for ever.

    `handler(peer)` runs once for each client, with a connection's verbs; the
    link is closed when it returns. An exception of it is logged, and that peer
    closed with 1011.

    - `accept(handshake)`: returns an identity, or raises `Refuse`. Without it
      browsers are taken from the server's own origin only.
    - `protocols`: subprotocols known here, the favourite first.
    - `limits`, `liveness`, `outbox`, `inbox`: of each client; see their classes.
    - `compression`: agree to permessage-deflate.
    - `close_timeout_s`: for the drain and closing handshake of a peer, and for
      what a handler has to do when its peer is gone.

    Starts with a `Server`. Raises `OSError` if it cannot listen. Cancelling it
    closes every peer (1001) without waiting; `Server.drain()` is the other way.
    """
    settings = _settings(handler, codec, **options)
    listeners = await trio.open_tcp_listeners(port, host=host)
    await Server(settings, listeners).run(task_status)


@overload
async def serve_listeners(
    handler: Callable[[RawPeer], Awaitable[object]],
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    codec: Literal["raw"],
    accept: AcceptHook | None = ...,
    protocols: Sequence[str] = ...,
    limits: ServerLimits = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    compression: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    close_timeout_s: float = ...,
    task_status: trio.TaskStatus[Server] = ...,
) -> None: ...
@overload
async def serve_listeners(
    handler: Callable[[Peer], Awaitable[object]],
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    codec: Literal["json", "msgpack"] | Codec = ...,
    accept: AcceptHook | None = ...,
    protocols: Sequence[str] = ...,
    limits: ServerLimits = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    compression: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    close_timeout_s: float = ...,
    task_status: trio.TaskStatus[Server] = ...,
) -> None: ...
async def serve_listeners(
    handler: Handler,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    codec: str | Codec = "json",
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> None:
    """As `serve()`, on listeners that the caller has opened. They are closed at the end."""
    await Server(_settings(handler, codec, **options), listeners).run(task_status)


def _settings(
    handler: Handler,
    codec: str | Codec,
    *,
    accept: AcceptHook | None = None,
    protocols: Sequence[str] = (),
    limits: ServerLimits = ServerLimits(),
    liveness: Liveness | None = Liveness(),
    outbox: OutboxLimits = OutboxLimits(),
    inbox: InboxLimits = InboxLimits(),
    compression: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    close_timeout_s: float = 5.0,
) -> _Settings:
    check_number("close_timeout_s", close_timeout_s)
    if codec == "raw" and liveness is not None and liveness.beat == "both":
        raise OptionError("liveness.beat", 'must be "ping" under codec="raw"', liveness.beat)
    return _Settings(
        handler=handler,
        accept=accept,
        protocols=tuple(protocols),
        limits=limits,
        codec=None if codec == "raw" else resolve_codec(codec),
        liveness=liveness,
        outbox=outbox,
        inbox=inbox,
        compression=compression,
        ssl_context=ssl_context,
        close_timeout_s=close_timeout_s,
    )

"""`serve()`: many peers, each the other end of the same session.

    serve                one nursery
    ├─ listeners         accept; each connection becomes a task
    ├─ beats             one heartbeat task for all peers
    └─ a peer            the connection's own task reads
       ├─ handle          runs the handler
       └─ write           joins when it is first needed

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
from ._streams import direct_stream
from ._tls import TlsStream
from .errors import OptionError, Refuse
from .options import InboxLimits, Liveness, OutboxLimits, ServerLimits, check_number
from .protocol.codec import Codec, resolve_codec
from .protocol.pulse import Pulse

__all__ = ["Server", "serve", "serve_listeners"]

logger: Final = logging.getLogger("trio_rt.server")

#: Seconds over which `Server.drain()` spreads its closes, unless told.
DRAIN_S: Final = 5.0

#: Connections over the limit that are told so at the same time, each for at
#: most so many seconds. The others are just closed, or refusing would cost more
#: than serving.
REFUSALS: Final = 64
REFUSAL_S: Final = 1.0

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
        self._listeners = list(listeners)
        self._address = _tcp_address(listeners)
        self._open = 0
        self._open_by_address: Counter[str | None] = Counter()
        self._refusals = 0
        self._peers: dict[Served, None] = {}  # a set has no order, and drains in none
        self._beats = Beats()
        self._listening = trio.CancelScope()
        self._drains_over_s: float | None = None
        self._quiet = trio.Event()

    @property
    def port(self) -> int:
        """The first TCP listener's port. `OptionError` if there is none."""
        return self._host_and_port()[1]

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        host, port = self._host_and_port()
        scheme = "ws" if self._settings.ssl_context is None else "wss"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def connections(self) -> int:
        """Open connections, those in the handshake included."""
        return self._open

    async def drain(self, over_s: float = DRAIN_S) -> None:
        """Stop: no new connections, and the peers are closed one after another.

        Their closes (1012, with the advice to wait a random part of `over_s`)
        are spread over `over_s`, so that they do not all return at once; who is
        still in the handshake is closed behind it. Ends when the last peer is
        gone; `serve()` then returns. Cancelling leaves the server without
        listeners, and the other peers connected.
        """
        check_number("over_s", over_s, finite=True)
        self._listening.cancel()
        self._drains_over_s = over_s
        await trio.lowlevel.checkpoint()
        peers = list(self._peers)
        for number, peer in enumerate(peers):
            if number and peer in self._peers:
                await trio.sleep(over_s / len(peers))
            peer.close(1012, _advice(over_s))
        while self._open:
            await self._quiet.wait()

    async def run(self, task_status: trio.TaskStatus[Server]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beats.run)
            task_status.started(self)
            with self._listening:  # it closes the listeners
                await trio.serve_listeners(
                    self._serve_stream, self._listeners, handler_nursery=nursery
                )
            while self._open:
                await self._quiet.wait()
            nursery.cancel_scope.cancel()

    async def _serve_stream(self, stream: trio.abc.Stream) -> None:
        """One connection, from TCP accept to its end. Raises nothing."""
        remote = remote_address(stream)
        try:
            stream = direct_stream(stream)
            if self._is_full(remote):
                await self._turn_away(stream, remote)
                return
            self._count(remote, 1)
            try:
                peer = await self._let_in(stream)
                if peer is not None:
                    await self._run(peer)
            finally:
                self._count(remote, -1)
        except Exception:
            logger.exception("%s: a fault of the server itself", remote)

    def _is_full(self, remote: str | None) -> bool:
        limits = self._settings.limits
        return self._open >= limits.connections or (
            remote is not None and self._open_by_address[remote] >= limits.connections_per_address
        )

    def _count(self, remote: str | None, change: int) -> None:
        self._open += change
        self._open_by_address[remote] += change
        if not self._open_by_address[remote]:
            del self._open_by_address[remote]
        if not self._open:
            self._quiet.set()
            self._quiet = trio.Event()

    async def _turn_away(self, stream: trio.abc.Stream, remote: str | None) -> None:
        # Not counted as open, or those that are refused would keep others out.
        logger.info("%s: too many connections", remote)
        self._refusals += 1
        try:
            if self._refusals <= REFUSALS and self._settings.ssl_context is None:
                with trio.move_on_after(REFUSAL_S):
                    await turn_away(stream, Refuse(503, "full", headers={"Retry-After": 5}))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._refusals -= 1
            await trio.aclose_forcefully(stream)

    async def _let_in(self, stream: trio.abc.Stream) -> Served | None:
        """The peer at the other end of `stream`; None for one that was sent away."""
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
            fragments=settings.inbox.fragments,
        )
        if accepted is None:
            return None
        if self._drains_over_s is not None:
            with trio.move_on_after(settings.close_timeout_s):
                await accepted.wire.close(1012, _advice(self._drains_over_s))
            return None
        if settings.codec is None:
            return RawPeer(accepted, settings.outbox, settings.inbox)
        beats = settings.liveness is not None and settings.liveness.beat == "both"
        return Peer(accepted, settings.codec, settings.outbox, settings.inbox, beats)

    async def _run(self, peer: Served) -> None:
        settings = self._settings
        self._peers[peer] = None
        try:
            await peer.run(settings.handler, self._pulse(), self._beats, settings.close_timeout_s)
        finally:
            del self._peers[peer]

    def _pulse(self) -> Pulse | None:
        liveness = self._settings.liveness
        if liveness is None:
            return None
        world = ambient()
        return Pulse(liveness, trio.current_time(), world.wall_s(), world.random.random())

    def _host_and_port(self) -> tuple[str, int]:
        if self._address is None:
            raise OptionError("listeners", "must have a TCP listener for this", self._listeners)
        return self._address


def _tcp_address(listeners: Sequence[trio.abc.Listener[Any]]) -> tuple[str, int] | None:
    """Where the first TCP listener listens. Looked up early: a closed one could not tell."""
    for listener in listeners:
        if isinstance(listener, trio.SocketListener):
            name = listener.socket.getsockname()
            if isinstance(name, tuple):  # a Unix socket's is a path
                return name[0], name[1]
    return None


def _advice(over_s: float) -> str:
    return f"retry-after={ambient().random.uniform(0.0, over_s):.1f}"


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

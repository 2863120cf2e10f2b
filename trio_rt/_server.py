"""`serve()`: many peers, each the other end of the same session.

    serve                one nursery
    ├─ listeners         accept; each connection becomes a task
    ├─ beats             one heartbeat task for all peers
    ├─ sessions          ends those whose clients did not come back
    ├─ a connection      its own task reads
    │  └─ write          joins when it is first needed
    └─ a peer            runs the handler, from the first link of a session to its end

A peer's trouble is its own: whatever a stranger sends, or a handler raises,
ends that peer and nobody else. A handler outlives its link: in a session until
its client comes back, or does not within `keep_s`. When the client is gone for
good its streams end, so that it can finish, and after `close_timeout_s` it is
cancelled.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, TypeAlias, overload

import attrs
import trio

from ._accept import Accepted, AcceptHook, accept, remote_address
from ._ambient import ambient
from ._beats import Beats
from ._http_head import turn_away
from ._http_serve import HttpHandler, HttpService
from ._listen import accept_all
from ._peer import Peer, RawPeer, Served
from ._sessions import Sessions
from ._streams import direct_stream
from ._tasks import LAST_WORDS_S, Link
from ._tls import TlsStream
from ._welcome import receive_hello
from .errors import LinkClosed, OptionError, Refuse
from .options import (
    InboxLimits,
    Liveness,
    OutboxLimits,
    ServerLimits,
    SessionLimits,
    check_number,
)
from .protocol.codec import Codec, resolve_codec
from .protocol.frames import Hello, Syntax
from .protocol.numbered import Batch
from .protocol.pulse import Pulse
from .protocol.session import bounds, syntax_of

__all__ = ["Server", "serve", "serve_listeners"]

logger: Final = logging.getLogger("trio_rt.server")

#: Seconds over which `Server.drain()` spreads its closes, unless told.
DRAIN_S: Final = 5.0

#: Connections over the limit that are told so at the same time, each for at
#: most so many seconds. The others are just closed, or refusing would cost more
#: than serving.
REFUSALS: Final = 64
REFUSAL_S: Final = 1.0

#: A client that picked a session and says nothing. 4000 and above are the
#: application's (RFC 6455, 7.4.2); the end is that of HTTP's 408.
NO_HELLO: Final = 4408

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
    session: SessionLimits | None
    syntax: Syntax | None
    compression: bool
    ssl_context: ssl.SSLContext | None
    close_timeout_s: float
    path: str | None
    http: HttpHandler | None


class Server:
    """A running server: what `serve()` gives by `task_status.started`."""

    def __init__(self, settings: _Settings, listeners: Sequence[trio.abc.Listener[Any]]) -> None:
        self._settings = settings
        self._listeners = list(listeners)
        self._address = _tcp_address(listeners)
        self._open = 0
        self._open_by_address: Counter[str | None] = Counter()
        self._refusals = 0
        # Whether their handlers were started. A set has no order, and drains in none.
        self._peers: dict[Served, bool] = {}
        self._beats = Beats()
        self._sessions = Sessions(settings.session or SessionLimits())
        self._http = None if settings.http is None else HttpService(settings.http, settings.limits)
        self._nursery: trio.Nursery
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
        still in the handshake is closed behind it. Plain HTTP ends behind the answers
        that are being made. A session without a link ends
        at once. Ends when the last peer is gone; `serve()` then returns. Cancelling leaves the server without
        listeners, and the other peers connected.
        """
        check_number("over_s", over_s, finite=True)
        self._listening.cancel()
        self._drains_over_s = over_s
        if self._http is not None:
            self._http.drain()
        await trio.lowlevel.checkpoint()
        for peer in [peer for peer in self._peers if not peer.linked]:
            self._end(peer)
        peers = list(self._peers)
        for number, peer in enumerate(peers):
            if number and peer in self._peers:
                await trio.sleep(over_s / len(peers))
            peer.close(1012, _advice(over_s))
        while self._is_busy:
            await self._quiet.wait()

    async def run(self, task_status: trio.TaskStatus[Server]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._beats.run)
                if self._settings.syntax is not None:
                    nursery.start_soon(self._sessions.run)
                task_status.started(self)
                with self._listening:  # it closes the listeners
                    await accept_all(self._listeners, nursery, self._serve_stream)
                while self._is_busy:
                    await self._quiet.wait()
                nursery.cancel_scope.cancel()
        finally:
            for peer in list(self._peers):  # those whose handlers never began
                self._end(peer)

    @property
    def _is_busy(self) -> bool:
        return bool(self._open or self._peers)

    async def _serve_stream(self, stream: trio.abc.Stream) -> None:
        """One connection, from TCP accept to its end. Raises nothing."""
        remote = remote_address(stream)
        try:
            stream = direct_stream(stream)
            if self._is_full(remote):
                await self._turn_away(stream, remote)
                return
            self._count(remote, 1)
            entered = None
            try:
                entered = await self._enter(stream)
                if entered is not None:
                    peer, link = entered
                    await link.run_in(self._nursery, self._changed, peer)
            finally:
                if entered is not None:
                    self._leave(*entered)
                self._count(remote, -1)
        except Exception:
            logger.exception("%s: a fault of the server itself", remote)
        finally:
            await trio.aclose_forcefully(stream)

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
        self._settle_down()

    def _settle_down(self) -> None:
        if not self._is_busy:
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

    async def _let_in(self, stream: trio.abc.Stream) -> Accepted | None:
        """The link with who is at the other end of `stream`; None for one sent away."""
        settings = self._settings
        if settings.ssl_context is not None:
            stream = TlsStream(stream, settings.ssl_context, server_side=True)
        accepted = await accept(
            stream,
            limits=settings.limits,
            protocols=settings.protocols,
            session_protocol=None if settings.syntax is None else settings.syntax.subprotocol,
            hook=settings.accept,
            compression=settings.compression,
            max_message_bytes=settings.inbox.message_bytes,
            fragments=settings.inbox.fragments,
            path=settings.path,
            http=self._http,
        )
        if accepted is None:
            return None
        if self._drains_over_s is not None:
            with trio.move_on_after(settings.close_timeout_s):
                await accepted.wire.close(1012, _advice(self._drains_over_s))
            return None
        return accepted

    async def _enter(self, stream: trio.abc.Stream) -> tuple[Served, Link] | None:
        """Whose link this connection is, to be run: of a new peer, or of one that comes back."""
        accepted = await self._let_in(stream)
        if accepted is None:
            return None
        syntax, wire = self._settings.syntax, accepted.wire
        if syntax is None or wire.subprotocol != syntax.subprotocol:
            peer: Served = self._new_peer(accepted, None)
            return peer, peer.take_link(wire, None, self._pulse(), self._beats)
        found = None
        try:
            found = await self._introduce(accepted, syntax)
        finally:
            if found is None:
                wire.abort()
        if found is None:
            return None
        peer, words = found
        return peer, peer.take_link(wire, words, self._pulse(), self._beats)

    def _leave(self, peer: Served, link: Link) -> None:
        """The end of a link. After a fault of the server itself its peer is not met again."""
        peer.drop_link(link)
        if peer.linked:
            return
        is_lost = link.has_parted and link.cause is not None
        if is_lost and peer.is_resumable and self._drains_over_s is None:
            self._sessions.keep(peer)
        else:
            self._end(peer)

    async def _introduce(self, accepted: Accepted, syntax: Syntax) -> tuple[Served, Batch] | None:
        """Whose session it is, and the welcome; None for who does not speak the protocol."""
        remote, wire = accepted.handshake.remote, accepted.wire
        fault = LinkClosed(NO_HELLO, "no hello", by_peer=False)
        try:
            with trio.move_on_after(self._settings.limits.handshake_s):
                hello = await receive_hello(wire, syntax)
                return await self._find(accepted, hello, syntax)
        except LinkClosed as error:
            fault = error
        logger.info("%s: no session (%s)", remote, fault)
        if not fault.by_peer:
            with trio.move_on_after(LAST_WORDS_S):
                await wire.close(fault.code, fault.reason)
        return None

    async def _find(self, accepted: Accepted, hello: Hello, syntax: Syntax) -> tuple[Served, Batch]:
        while True:
            peer = self._sessions.find(hello, accepted.identity)
            if peer is None:
                peer = self._new_peer(accepted, syntax)
                break
            peer.check_hello(hello)
            if not peer.linked:
                break
            # Half-open, or somebody with a copy of the token. Then look again.
            await peer.yield_link()
        # From here to the new link's claim there is no turn for anybody else.
        peer.handshake = accepted.handshake
        id, token = self._sessions.tell(peer, hello)
        return peer, peer.welcome(hello, id, token)

    def _new_peer(self, accepted: Accepted, syntax: Syntax | None) -> Any:
        settings = self._settings
        peer: Served
        if settings.codec is None:
            peer = RawPeer(
                accepted.handshake,
                accepted.identity,
                outbox=settings.outbox,
                inbox=settings.inbox,
                close_timeout_s=settings.close_timeout_s,
            )
        else:
            kept = None if syntax is None else settings.session
            peer = Peer(
                accepted.handshake,
                accepted.identity,
                codec=settings.codec,
                outbox=settings.outbox,
                inbox=settings.inbox,
                syntax=syntax,
                replay=None if kept is None else bounds(kept.messages, kept.total_bytes),
                beat=settings.liveness is not None and settings.liveness.beat == "both",
                close_timeout_s=settings.close_timeout_s,
            )
        self._peers[peer] = False
        return peer

    def _changed(self, peer: Served, up: bool) -> None:
        """A link is open, or no more: the handler runs from the first one on."""
        if peer.on_link is not None:
            peer.on_link(up)
        if not up:
            return
        if not self._peers[peer]:
            self._peers[peer] = True
            self._nursery.start_soon(peer.live, self._settings.handler, self._nursery, self._over)
        if self._drains_over_s is not None:
            peer.close(1012, _advice(self._drains_over_s))

    def _over(self, peer: Served) -> None:
        """The handler has ended, and the client is gone."""
        self._sessions.forget(peer)
        peer.end()
        del self._peers[peer]
        self._settle_down()

    def _end(self, peer: Served) -> None:
        """The client of `peer` is gone for good."""
        self._sessions.forget(peer)
        peer.end()
        if self._peers.get(peer) is False:  # it never had a link
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
    session: SessionLimits | None = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    compression: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    close_timeout_s: float = ...,
    path: str | None = ...,
    http: HttpHandler | None = ...,
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
    session: SessionLimits | None = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    compression: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    close_timeout_s: float = ...,
    path: str | None = ...,
    http: HttpHandler | None = ...,
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

    `handler(peer)` runs once for each session, over all its links (once for each
    link of a client without one), with a connection's verbs; the session ends when
    it returns. An exception of it is logged, and that peer closed with 1011.

    - `accept(handshake)`: returns an identity, or raises `Refuse`. Without it
      browsers are taken from the server's own origin only. It runs on every link;
      a session is resumed only by who has an equal identity.
    - `session`: what is kept of a session without a link. None: there are no
      sessions; nor with "raw" or a `Codec` of one's own.
    - `protocols`: subprotocols known here, the favourite first.
    - `limits`, `liveness`, `outbox`, `inbox`: of each client; see their classes.
    - `compression`: agree to permessage-deflate.
    - `path`: where WebSockets are taken, as sent and without the query. None: everywhere.
    - `http(request)`: answers every request that asks for no WebSocket, with an
      `HttpResponse` or by `Refuse`. None: they are refused. `limits` hold for them too.
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
    session: SessionLimits | None = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    compression: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    close_timeout_s: float = ...,
    path: str | None = ...,
    http: HttpHandler | None = ...,
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
    session: SessionLimits | None = ...,
    liveness: Liveness | None = ...,
    outbox: OutboxLimits = ...,
    inbox: InboxLimits = ...,
    compression: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    close_timeout_s: float = ...,
    path: str | None = ...,
    http: HttpHandler | None = ...,
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
    session: SessionLimits | None = SessionLimits(),
    inbox: InboxLimits = InboxLimits(),
    compression: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    close_timeout_s: float = 5.0,
    path: str | None = None,
    http: HttpHandler | None = None,
) -> _Settings:
    check_number("close_timeout_s", close_timeout_s)
    if path is not None and not (isinstance(path, str) and re.fullmatch(r"/[!-~]*", path)):
        raise OptionError("path", 'must begin with "/" and be as it is sent', path)
    if path is not None and "?" in path:
        raise OptionError("path", "must have no query", path)
    if http is not None and not callable(http):
        raise OptionError("http", "must be a function", http)
    if codec == "raw" and liveness is not None and liveness.beat == "both":
        raise OptionError("liveness.beat", 'must be "ping" under codec="raw"', liveness.beat)
    resolved = None if codec == "raw" else resolve_codec(codec)
    return _Settings(
        handler=handler,
        accept=accept,
        protocols=tuple(protocols),
        limits=limits,
        session=session,
        syntax=None if session is None or resolved is None else syntax_of(resolved),
        codec=resolved,
        liveness=liveness,
        outbox=outbox,
        inbox=inbox,
        compression=compression,
        ssl_context=ssl_context,
        close_timeout_s=close_timeout_s,
        path=path,
        http=http,
    )

"""A cancelled call leaves no half-made connection behind, and leaves at once.

httpcore, below httpx, has two holes when a task is cancelled. Between the end of
a connect and the first byte of the request the new connection belongs to nobody:
it is neither idle nor closed, so the pool keeps it, open, for ever. And a
cancelled TLS handshake forgets its TCP socket.

The rule here, by means of httpcore's `trace` extension alone:

- From the moment a connect or a handshake is done until the next step begins,
  the call is shielded. Nothing waits for the network in between: it is one or
  two turns of the loop, whatever the peer does.
- Everywhere else a cancellation passes at once, and httpcore cleans up, but for
  the socket of a handshake: that was noted when its connect was done, and is
  closed here.

On a connection that is kept alive no such moment exists, and nothing is shielded.

What remains: a connection through a CONNECT or SOCKS proxy that is cancelled in
the making is closed, but the pool keeps its entry, some kilobytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import httpx
import trio

from ._layer import Layer, Next

__all__ = ["SafeConnect"]

#: Closing a socket waits for nothing; this bounds what a foreign stream may do.
CLOSE_S: Final = 1.0

#: A step of connecting is done, and its stream is the `return_value`.
DONE: Final = (
    "connect_tcp.complete",
    "connect_unix_socket.complete",
    "setup_socks5_connection.complete",
    "start_tls.complete",
)

#: The stream is somebody's: what waits from here on closes it when cancelled, or we do.
OWNED: Final = (
    "start_tls.started",
    "setup_socks5_connection.started",
    "send_request_headers.started",
    "send_connection_init.started",
)

Trace: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[None]]


class SafeConnect(Layer):
    """The innermost layer, above a pool of httpx: makes cancelling safe there.

    How long a connect may take is httpx's own `timeout`, "connect". A `trace`
    extension of the caller's is called as ever.
    """

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        """Cancelled: no socket is left, and no connection that the pool cannot use."""
        # A call cancelled before may not enter: a proxied connection would be left.
        await trio.lowlevel.checkpoint_if_cancelled()
        given = request.extensions
        tracer = _Tracer(given.get("trace"))
        # A dictionary of its own: the same request may be under way twice.
        request.extensions = tracer.extensions = {**given, "trace": tracer.trace}
        try:
            return await call_next(request)
        except BaseException:
            tracer.unshield()
            if tracer.stream is not None:  # a connect that was not finished
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                    await tracer.stream.aclose()
            raise
        finally:
            tracer.unshield()
            request.extensions = given


class _Tracer:
    """Follows one call through httpcore."""

    __slots__ = ("extensions", "shield", "stream", "theirs")

    def __init__(self, theirs: Trace | None) -> None:
        known: Any = getattr(theirs, "__self__", None)
        self.theirs: Trace | None = known.theirs if isinstance(known, _Tracer) else theirs
        self.extensions: dict[str, Any]
        #: Entered by one event and left by the next; httpcore has no scope open at either.
        self.shield: trio.CancelScope | None = None
        self.stream: Any = None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        step = event.partition(".")[2]
        if step in OWNED:
            self.unshield()
            if step == "send_request_headers.started" and info["request"].method != b"CONNECT":
                self._sent()
        elif step in DONE:
            self.unshield()
            self.shield = trio.CancelScope(shield=True)
            self.shield.__enter__()
            self.stream = info["return_value"]
        if self.theirs is not None:
            await self.theirs(event, info)

    def unshield(self) -> None:
        if self.shield is not None:
            self.shield.__exit__(None, None, None)
            self.shield = None

    def _sent(self) -> None:
        """What follows is not ours to know, and each event costs half a microsecond."""
        self.stream = None
        if self.theirs is None:
            del self.extensions["trace"]
        else:
            self.extensions["trace"] = self.theirs

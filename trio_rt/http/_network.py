"""The bytes below httpcore: a network backend of its public interface, for trio.

httpcore's own takes two cancel scopes and a turn of the loop for each request that
has no timeouts of httpx, and when a task is cancelled it has two holes. Between the
end of a connect and the first byte of the request the new connection belongs to
nobody: it is neither idle nor closed, so the pool keeps it, open, for ever. And a
cancelled TLS handshake forgets its TCP socket.

The rule here. From the moment a connect or a handshake is done until the next byte
is written, the call is shielded. Nothing waits for the network in between: it is one
or two turns of the loop, whatever the peer does. A handshake that fails or is cancelled
closes its socket itself. What a failed call had connected is closed (`Attempt`), and
struck off the pool, which would keep the entry of a tunnel that did not come about.

A scope that is entered in one function and left in another has to be left by the
same task, and after all that were entered later: httpcore has no scope open at
either point, and the end of the call leaves it in any case.
"""

from __future__ import annotations

import math
import select
import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

import trio

from .._streams import abort_stream, as_direct, direct_stream

__all__ = ["Attempt", "attempt", "network_of"]


class Attempt:
    """One call on its way through httpcore."""

    __slots__ = ("_shield", "_stream", "made")

    def __init__(self) -> None:
        #: The pool's entry for a connection that is this call's, if it is known.
        self.made: Any = None
        self._shield: trio.CancelScope | None = None
        self._stream: trio.abc.Stream | None = None

    def connected(self, stream: trio.abc.Stream) -> None:
        """`stream` is this call's, and nobody else knows it."""
        self._stream = stream
        self._shield = trio.CancelScope(shield=True)
        self._shield.__enter__()

    def unshield(self) -> None:
        shield, self._shield = self._shield, None
        if shield is not None:
            shield.__exit__(None, None, None)

    def failed(self) -> None:
        """Nobody will use what it connected."""
        if self._stream is not None:
            abort_stream(self._stream)
        if self.made is not None:
            self.made.is_closed = lambda: True


#: That of the running task: None where it uses the stream of an upgraded connection.
attempt: Final[ContextVar[Attempt | None]] = ContextVar("trio_rt.http.attempt", default=None)


@cache
def network_of(core: Any) -> Any:
    """The backend for pools of `core`, which is httpcore or httpcore2."""

    class Stream(core.AsyncNetworkStream):  # type: ignore[misc]
        def __init__(self, stream: trio.abc.Stream) -> None:
            self._stream = stream
            self._direct = as_direct(stream)
            self._receive: Any = stream.receive_some

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            """At most `max_bytes`; b"" at the end. Cancelled: nothing is lost."""
            try:
                if timeout is None:
                    return await self._receive(max_bytes)  # type: ignore[no-any-return]
                with trio.fail_after(timeout):
                    return await self._receive(max_bytes)  # type: ignore[no-any-return]
            except trio.TooSlowError as error:
                raise core.ReadTimeout from error
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise core.ReadError(_text(error)) from error

        async def write(self, buffer: bytes, timeout: float | None = None) -> None:
            """All of it. Cancelled part-way, httpcore closes the connection."""
            _unshield()
            if not buffer:
                return
            try:
                if timeout is None:
                    await self._send(buffer)
                else:
                    with trio.fail_after(timeout):
                        await self._send(buffer)
            except trio.TooSlowError as error:
                raise core.WriteTimeout from error
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise core.WriteError(_text(error)) from error

        async def _send(self, data: bytes) -> None:
            rest: bytes | memoryview = data
            if self._direct is not None:
                # No turn of the loop where the kernel takes it: a read comes next.
                await trio.lowlevel.checkpoint_if_cancelled()
                sent = self._direct.try_send(data)
                if sent == len(data):
                    return
                rest = memoryview(data)[sent:]
            await self._stream.send_all(rest)

        async def aclose(self) -> None:
            await self._stream.aclose()

        async def start_tls(
            self,
            ssl_context: ssl.SSLContext,
            server_hostname: str | None = None,
            timeout: float | None = None,
        ) -> Stream:
            """Cancelled or failed: the socket is closed."""
            _unshield()
            stream = trio.SSLStream(
                self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True
            )
            done = False
            try:
                with trio.fail_after(math.inf if timeout is None else timeout):
                    await stream.do_handshake()
                done = True
            except trio.TooSlowError as error:
                raise core.ConnectTimeout from error
            except trio.BrokenResourceError as error:
                raise core.ConnectError(_text(error)) from error
            finally:
                if not done:
                    abort_stream(self._stream)
            _connected(stream)
            return Stream(stream)

        def get_extra_info(self, info: str) -> Any:
            """As httpcore's own, of which `is_readable` tells whether a kept one is over."""
            stream: Any = self._stream
            if info == "ssl_object":
                return stream._ssl_object if isinstance(stream, trio.SSLStream) else None
            while isinstance(stream, trio.SSLStream):
                stream = stream.transport_stream
            if info == "client_addr":
                return stream.socket.getsockname()
            if info == "server_addr":
                return stream.socket.getpeername()
            if info == "socket":
                return stream.socket
            return _is_readable(stream.socket) if info == "is_readable" else None

    class Network(core.AsyncNetworkBackend):  # type: ignore[misc]
        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> Stream:
            try:
                with trio.fail_after(math.inf if timeout is None else timeout):
                    opened = await trio.open_tcp_stream(host, port, local_address=local_address)
            except trio.TooSlowError as error:
                raise core.ConnectTimeout from error
            except (OSError, UnicodeError) as error:  # a name that cannot be
                raise core.ConnectError(_text(error)) from error
            stream = direct_stream(opened)
            _connected(stream)
            return Stream(stream)

        async def sleep(self, seconds: float) -> None:
            await trio.sleep(seconds)

    return Network


def _connected(stream: trio.abc.Stream) -> None:
    own = attempt.get()
    if own is not None:
        own.connected(stream)


def _unshield() -> None:
    own = attempt.get()
    if own is not None:
        own.unshield()


def _text(error: BaseException) -> str:
    """What trio wraps says more than the wrapping."""
    cause = None if isinstance(error, trio.ClosedResourceError) else error.__cause__
    if isinstance(cause, BaseExceptionGroup):  # one for each address
        return f"{cause.message}: {'; '.join(map(str, cause.exceptions))}"
    return str(cause or error) or type(error).__name__


def _is_readable(sock: Any) -> bool:
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))

"""HTTP/1.1 on a connection that has not become a WebSocket: request after request.

**Goal.** A handler's answer to each request, one after the other; a client that
hurries, dawdles, lies or leaves costs its own connection and nothing else.

**What does not work.** One h11 connection for all requests: its limits hold for
what is incomplete only (see `_http_head`, `_http_body`). A time limit for the
whole exchange: large bodies over slow links are legitimate.

**The rule.** Every request has its own head, body and h11 state; what was read
too far is handed on. While a request is served some byte must move, in or out,
every `handshake_s`: that is the client's limit and the handler's. An answer
that has begun and cannot be finished is cut, so that nobody takes it for whole.
Of a body that the handler left unread some is read and thrown away; more, and
the connection ends behind the answer.

**The remaining hole.** A client that is gone is noticed when bytes move, not
while the handler thinks. One that sends a byte in time, and another, holds its
place for as long as `body_bytes` last. Who sends all of a large body before it
reads, to a handler that answers at length and reads nothing, is cut.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, nullcontext
from typing import Any, Final

import h11
import trio

from ._handshake import RequestHeaders
from ._http_head import READ_BYTES, Head, Unfit, linger, turn_away
from ._http_reader import RequestBody
from ._http_values import (
    HttpHandler,
    HttpRequest,
    HttpResponse,
    Unsendable,
    refused,
    response_head,
)
from ._streams import as_direct
from .errors import Refuse
from .options import ServerLimits

__all__ = ["HttpHandler", "HttpRequest", "HttpResponse", "HttpService"]

_log: Final = logging.getLogger("trio_rt.server")

#: Written at a time to a stream that does not tell how far it is.
PIECE_BYTES: Final = 16 << 10

_FAILED: Final = refused(Refuse(500, "the server failed"))


class _Gone(Exception):
    """The client is, or the answer cannot be finished: there is nothing more to say."""


class HttpService:
    """The handler of one server, and its connections that are between two requests."""

    def __init__(self, handler: HttpHandler, limits: ServerLimits) -> None:
        self.handler = handler
        self.limits = limits
        self.draining = False
        self._idle: set[trio.CancelScope] = set()

    def drain(self) -> None:
        """End the idle connections now, and the others behind their answers."""
        self.draining = True
        for scope in self._idle:
            scope.cancel()

    async def wait(self, stream: trio.abc.Stream) -> bytes:
        """The first bytes of the next request; b"" if none comes (in time)."""
        if self.draining:
            return b""
        data = b""
        with trio.move_on_after(self.limits.keep_alive_s) as scope:
            self._idle.add(scope)
            try:
                data = bytes(await stream.receive_some(self.limits.header_bytes))
            finally:
                self._idle.discard(scope)
        return data

    async def answer(
        self, stream: trio.abc.Stream, head: Head, held: bytes, remote: str | None, *, secure: bool
    ) -> bytes | None:
        """Serve one request, whose body begins with `held`.

        Returns what was read behind it, or None: the connection is over. Raises
        nothing of the handler's. Cancelled: the stream is to be closed.
        """
        exchange = _Exchange(self, stream, head)
        with exchange.watch:
            try:
                return await exchange.run(head, held, remote, secure=secure)
            except _Gone:
                _log.debug("%s: gone during a request", remote)
                return None
        _log.info("%s: no byte moved within %g s", remote, self.limits.handshake_s)
        return None


class _Exchange:
    """One request and its answer."""

    def __init__(self, service: HttpService, stream: trio.abc.Stream, head: Head) -> None:
        self._service = service
        self._stream = stream
        self._parser = head.parser
        self._method = head.method
        self.watch = trio.CancelScope()
        self.moved()

    def moved(self) -> None:
        """A byte has moved."""
        self.watch.deadline = trio.current_time() + self._service.limits.handshake_s

    async def run(
        self, head: Head, held: bytes, remote: str | None, *, secure: bool
    ) -> bytes | None:
        try:
            most = self._service.limits.body_bytes
            body = RequestBody(head, held, most, self._receive, self._transmit)
            path, _, query = head.target.partition("?")
            request = HttpRequest(
                method=head.method,
                path=path,
                query=query,
                headers=RequestHeaders(head.items),
                remote=remote,
                secure=secure,
                body=body,
            )
            response = await self._ask(request, body)
        except Unfit as refusal:
            _log.info("%s: refused with %d (%s)", remote, refusal.status, refusal.text)
            await turn_away(self._stream, refusal)
            return None
        return await self._finish(request, response, body)

    async def _finish(
        self, request: HttpRequest, response: HttpResponse, body: RequestBody
    ) -> bytes | None:
        close = self._service.draining or not body.can_be_skipped
        try:
            start = response_head(response, self._method, close=close)
        except Unsendable as error:
            _log.error("%s: the HTTP handler's answer cannot be sent: %s", request.remote, error)
            response = _FAILED
            start = response_head(response, self._method, close=close)
        try:
            await self._send_response(start, response, request.remote)
            whole = await body.skip()
        finally:
            body.close()
        if whole and self._parser.our_state is h11.DONE and not self._service.draining:
            return body.rest
        if not whole or isinstance(self._stream, trio.abc.HalfCloseableStream):
            await linger(self._stream)
        else:
            await self._stream.aclose()
        return None

    async def _ask(self, request: HttpRequest, body: RequestBody) -> HttpResponse:
        """The handler's answer, or what stands for it; `Unfit` where the body is at fault."""
        try:
            return await self._service.handler(request)
        except Exception as error:
            if body.fault is not None:
                raise body.fault from None
            if body.gone:
                raise _Gone from None
            if isinstance(error, Refuse):
                return refused(error)
            _log.exception("%s: the HTTP handler failed", request.remote)
            return _FAILED

    # -- sending ------------------------------------------------------------

    async def _send_response(
        self, start: h11.Response, response: HttpResponse, remote: str | None
    ) -> None:
        head, body = self._parser.send(start), response.body
        bare = self._method == "HEAD" or start.status_code in (204, 304)
        if isinstance(body, bytes):
            data = b"" if bare else self._parser.send(h11.Data(data=body))
            await self._send(head + data + self._parser.send(h11.EndOfMessage()))
            return
        try:
            await self._send(head)
            await self._send_pieces(aiter(body), bare=bare)
        except (_Gone, Unfit):
            raise _Gone from None
        except Exception:
            _log.exception("%s: the HTTP handler failed in the middle of its answer", remote)
            raise _Gone from None

    async def _send_pieces(self, pieces: AsyncIterator[bytes], *, bare: bool) -> None:
        closing: Any = aclosing(pieces) if hasattr(pieces, "aclose") else nullcontext()
        async with closing:
            if not bare:
                async for piece in pieces:
                    await self._send(self._parser.send(h11.Data(data=piece)))
        await self._send(self._parser.send(h11.EndOfMessage()))

    async def _send(self, data: bytes) -> None:
        """Send all of it. Raises `_Gone`; cancelled, nothing more can be sent."""
        try:
            await self._transmit(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Gone from None

    async def _transmit(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        sender, rest = as_direct(self._stream), memoryview(data)
        if sender is None:
            for start in range(0, len(rest), PIECE_BYTES):
                await self._stream.send_all(rest[start : start + PIECE_BYTES])
                self.moved()
            return
        sent, held = 0, self._pending
        while True:
            before = sent - held
            sent += sender.try_send(rest[sent:])
            held = self._pending
            if sent - held > before:
                self.moved()
            if sent == len(rest) and not held:
                return
            await sender.wait_send_all_might_not_block()

    @property
    def _pending(self) -> int:
        """Ciphertext that TLS has still to send."""
        return getattr(self._stream, "pending", 0)

    # -- receiving ----------------------------------------------------------

    async def _receive(self) -> bytes:
        """Some bytes, or b"" at the end."""
        data = bytes(await self._stream.receive_some(READ_BYTES))
        self.moved()
        return data

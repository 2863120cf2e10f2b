"""The body of one request, read from its connection when the handler wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import h11
import trio

from ._http_body import BodyFault, Framing, framing
from ._http_head import LINGER_BYTES, LINGER_S, Head, Unfit

__all__ = ["SKIP_BYTES", "RequestBody"]

#: How much of an unread body is read and thrown away to keep the connection.
SKIP_BYTES: Final = LINGER_BYTES

Receive = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]


class RequestBody(AsyncIterator[bytes]):
    """The body in pieces. Raises `Unfit` (for good) if it is malformed or too large.

    `held` is its beginning and what is behind. `receive` and `send` raise when the
    client is gone; `send` is for "100 Continue". Raises `Unfit` at once for a
    length over `most`.
    """

    def __init__(self, head: Head, held: bytes, most: float, receive: Receive, send: Send) -> None:
        #: What is wrong with it.
        self.fault: Unfit | None = None
        #: The client left in its middle.
        self.gone = False
        self._parser = head.parser
        self._receive = receive
        self._send = send
        self._closed = False
        try:
            self._framing: Framing = framing(head.length, most)
        except BodyFault as fault:
            raise Unfit(fault.status, fault.text) from None
        self._held = held
        if self._framing.done:
            self._framing.rest, self._held = held, b""
        # Who has sent some of it does not wait to be asked.
        self._asks = self._parser.they_are_waiting_for_100_continue and not held

    @property
    def rest(self) -> bytes:
        """What was read behind the body. It must have ended."""
        return self._framing.rest

    @property
    def can_be_skipped(self) -> bool:
        """False if the connection has to end behind the answer."""
        if self._framing.done:
            return True
        left = getattr(self._framing, "left", 0)
        return not (self._asks or self.fault or self.gone) and left <= SKIP_BYTES

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("the request is over")
        if self.fault is not None:
            raise self.fault
        while not self._framing.done:
            if piece := await self._next():
                return piece
        raise StopAsyncIteration

    async def _next(self) -> bytes:
        """What the next read brings of it, maybe nothing."""
        data, self._held = self._held, b""
        if not data:
            data = await self._read()
        try:
            return self._framing.feed(data)
        except BodyFault as fault:
            self.fault = Unfit(fault.status, fault.text)
            raise self.fault from None

    async def _ask(self) -> None:
        """Send "100 Continue" to who waits for it, unless the answer has begun."""
        if self._asks and self._parser.our_state is h11.SEND_RESPONSE:
            self._asks = False
            event = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            await self._send(self._parser.send(event))

    async def _read(self) -> bytes:
        try:
            await self._ask()
            data = await self._receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.gone = True
            raise
        if not data:
            self.gone = True
            raise trio.BrokenResourceError("the client is gone in the middle of the body")
        self._asks = False
        return data

    async def skip(self) -> bool:
        """Throw away what is left of it, within bounds; True if that was all."""
        if not self.can_be_skipped:
            return False
        left = SKIP_BYTES
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(LINGER_S):  # noqa: ASYNC912, there may be nothing to read
            try:
                while left > 0 and not self._framing.done:
                    left -= len(await self._next())
            except (Unfit, trio.BrokenResourceError, trio.ClosedResourceError):
                return False
        return self._framing.done

    def close(self) -> None:
        """The request is over: what comes now is not its body."""
        self._closed = True

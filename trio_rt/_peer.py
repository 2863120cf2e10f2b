"""One client as the server's handler sees it, and the run of its one link."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from ._accept import Accepted
from ._beats import Beats
from ._endpoint import Endpoint
from ._handshake import Handshake
from ._tasks import Link
from ._verbs import EnvelopeVerbs, RawVerbs
from .errors import OptionError, Undelivered
from .options import InboxLimits, OutboxLimits
from .protocol.codec import Codec
from .protocol.pulse import Pulse
from .protocol.session import Heartbeat

__all__ = ["Peer", "RawPeer", "Served"]

logger: Final = logging.getLogger("trio_rt.server")

#: RFC 6455, 5.5: a control frame's payload is at most 125 bytes, two are the code.
REASON_BYTES: Final = 123
#: RFC 6455, 7.4: those that may be sent.
CLOSE_CODES: Final = frozenset(
    {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}
)

#: What the verbs raise when the peer is no more.
_FAREWELLS: Final = (trio.ClosedResourceError, trio.EndOfChannel, Undelivered)


class Served(Endpoint):
    """A client; what both kinds share."""

    _heartbeat_maker: Callable[[], Heartbeat] | None = None

    def _prepare(self, accepted: Accepted) -> None:
        #: What the accept hook returned; None without a hook.
        self.identity: Any = accepted.identity
        self.handshake: Handshake = accepted.handshake
        self._wire = accepted.wire
        self._link: Link
        self._close_timeout_s: float
        self._closing = False
        #: Whether the handler has come to its end, and whether the link has.
        self._handled = False
        self._gone = False

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close: no more sends are taken; what is queued is sent first.

        `code` and `reason` (at most 123 bytes of UTF-8) are those of RFC 6455.
        The streams end when the client is gone, and then the handler has
        `close_timeout_s` to return. Does not wait; idempotent.
        """
        _check_close(code, reason)
        if not self._closing and not self._gone:
            self._closing = True
            self._link.close_with = (code, reason)
            self._link.close_by = trio.current_time() + self._close_timeout_s
            self._mailbox.close()
            self._mailbox.spawn(self._drain_and_close)

    async def run(
        self,
        handler: Callable[[Any], Awaitable[object]],
        pulse: Pulse | None,
        beats: Beats,
        close_timeout_s: float,
    ) -> None:
        """Run the link and the handler to the end of both. For the server alone."""
        self._close_timeout_s = close_timeout_s
        self._link = link = Link(self._wire, self._mailbox, pulse, self._heartbeat_maker)
        async with trio.open_nursery() as nursery:
            self._mailbox.spawn = nursery.start_soon
            # Its first step comes after that of the link, which is then open.
            nursery.start_soon(self._handle, handler, nursery.cancel_scope)
            if pulse is not None:
                beats.add(link)
            try:
                await link.run(_nothing, beats=False)
            finally:
                self._end(nursery.cancel_scope)

    def _end(self, scope: trio.CancelScope) -> None:
        """The link is over; the handler, if it still runs, may outlive it a little."""
        self._gone = True
        self._mailbox.close()
        self._session.end()
        self._mailbox.moved()
        scope.deadline = trio.current_time() + (0 if self._handled else self._close_timeout_s)

    async def _handle(
        self, handler: Callable[[Any], Awaitable[object]], scope: trio.CancelScope
    ) -> None:
        code = 1000
        try:
            await handler(self)
        except* Exception as errors:
            code = 1011
            self._report(errors)
        self._handled = True
        self.close(code)
        if self._gone:
            scope.cancel()

    def _report(self, errors: ExceptionGroup[Exception]) -> None:
        # A handler that finds out by its next call that its client is gone, or
        # is being sent away, has no fault.
        late = self._mailbox.closed and errors.split(_FAREWELLS)[1] is None
        level = logging.DEBUG if late else logging.ERROR
        # `except*` puts a single exception into a group without a message.
        error = errors if errors.message else errors.exceptions[0]
        logger.log(level, "%s: the handler failed", self.handshake.remote, exc_info=error)

    async def _drain_and_close(self) -> None:
        with trio.move_on_at(self._link.close_by):
            await self._mailbox.wait_drained()
        self._link.scope.cancel()


class Peer(EnvelopeVerbs, Served):
    """A client that speaks typed messages, with a `Connection`'s verbs."""

    def __init__(
        self, accepted: Accepted, codec: Codec, outbox: OutboxLimits, inbox: InboxLimits, beat: bool
    ) -> None:
        super().__init__(codec, outbox, inbox)
        self._prepare(accepted)
        if beat:
            self._heartbeat_maker = self._heartbeat


class RawPeer(RawVerbs, Served):
    """A client that is sent bare text and bytes."""

    def __init__(self, accepted: Accepted, outbox: OutboxLimits, inbox: InboxLimits) -> None:
        super().__init__(outbox, inbox)
        self._prepare(accepted)


def _check_close(code: int, reason: str) -> None:
    if not isinstance(code, int) or (code not in CLOSE_CODES and not 3000 <= code <= 4999):
        raise OptionError("code", "must be one that RFC 6455 lets be sent", code)
    try:
        size = len(reason.encode())
    except UnicodeEncodeError:
        raise OptionError("reason", "must be text that UTF-8 can encode", reason) from None
    if size > REASON_BYTES:
        raise OptionError("reason", f"must be at most {REASON_BYTES} bytes", reason)


def _nothing() -> None:
    pass

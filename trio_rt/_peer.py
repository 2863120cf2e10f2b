"""One client as the server's handler sees it: all links of a session, or one plain link."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from ._aide import Aide, Task
from ._beats import Beats
from ._endpoint import Endpoint
from ._handshake import Handshake
from ._requests import RequestVerbs
from ._tasks import Link
from ._verbs import RawVerbs
from .errors import LinkClosed, OptionError, Undelivered
from .options import InboxLimits, OutboxLimits
from .protocol.codec import Codec
from .protocol.frames import Hello, Syntax
from .protocol.ledger import Bounds
from .protocol.numbered import Batch
from .protocol.pulse import Pulse
from .protocol.session import Heartbeat
from .protocol.verdict import TAKEN_OVER
from .wires import Wire

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
    """A client; what both kinds share.

    Its `live` runs the handler, from the first link to the end. Each link is run
    by the task of its own connection, one at a time.
    """

    _heartbeat_maker: Callable[[], Heartbeat] | None = None

    #: Its name in the server's books; "" without a session.
    session_id = ""

    #: For a hub: called with True when a link is up and sends may flow, and with
    #: False when it is down. It must not wait, nor raise. Whoever sets it in the
    #: handler has missed the first True, and finds that link by `linked`.
    on_link: Callable[[bool], None] | None = None

    def _prepare(self, handshake: Handshake, identity: object, close_timeout_s: float) -> None:
        #: What the accept hook returned; None without a hook.
        self.identity: Any = identity
        #: That of the link of the moment, or of the last one.
        self.handshake = handshake
        self._close_timeout_s = close_timeout_s
        self._close_by = math.inf
        self._close_with = (1000, "")
        self._closing = False
        #: The last link is being closed: the session is not to be resumed.
        self.leaving = False
        #: Whether the handler has come to its end, and whether the client is gone.
        self._handled = False
        self.gone = False
        self._scope = trio.CancelScope()
        # What runs beside the handler, and what cannot yet.
        self._nursery: trio.Nursery | None = None
        self._early: tuple[Task, ...] = ()
        self._aides: tuple[Aide, ...] = ()
        # What one of them raised: a bug.
        self._fault: Exception | None = None
        self.on_link = None
        self._mailbox.spawn = self._start

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close: no more sends are taken; what is queued is sent first.

        `code` and `reason` (at most 123 bytes of UTF-8) are those of RFC 6455.
        The streams end when the client is gone, and then the handler has
        `close_timeout_s` to return. Does not wait; idempotent.
        """
        _check_close(code, reason)
        if not self._closing and not self.gone:
            self._closing = True
            self._close_with = (code, reason)
            self._close_by = trio.current_time() + self._close_timeout_s
            self._mailbox.close()
            self._mailbox.spawn(self._drain_and_close)

    # For the server alone

    async def live(
        self,
        handler: Callable[[Any], Awaitable[object]],
        nursery: trio.Nursery,
        ended: Callable[[Served], None],
    ) -> None:
        """A task: runs the handler, until that has ended and the client is gone.

        `nursery` is for the tasks beside it, which end with it. `ended` is called at
        the end. Raises nothing.
        """
        code = 1000
        try:
            with self._scope:
                self._nursery = nursery
                for task in self._early:
                    self._start(task)
                try:
                    await handler(self)
                except* Exception as errors:
                    code = 1011
                    self._report(errors)
                self._handled = True
                self.close(code)
                if not self.gone:
                    await trio.sleep_forever()
        except Exception as error:
            self._failed(error)
        finally:
            for aide in self._aides:
                await aide.end()  # noqa: ASYNC102, shielded, and soon over
            if self._fault is not None:
                complaint = "%s: a fault of the server itself"
                logger.error(complaint, self.handshake.remote, exc_info=self._fault)
            ended(self)

    def _start(self, task: Task) -> None:
        """Run `task` beside the handler, and no longer."""
        if self._nursery is None:
            self._early += (task,)
        else:
            self._aides += (Aide(self._nursery, task, self._failed),)

    def _failed(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self._scope.cancel()

    def take_link(self, wire: Wire, words: Batch | None, pulse: Pulse | None, beats: Beats) -> Link:
        """The link on `wire`, which is to be run, and then to be given to `drop_link`.

        `words` go out before all else.
        """
        self._link = link = Link(wire, self._mailbox, pulse, self._heartbeat_maker, words)
        if pulse is not None:
            beats.add(link)
        return link

    def drop_link(self, link: Link) -> None:
        """It is over."""
        self._latency_s = self._latest_latency_s()
        if self._link is link:
            self._link = None

    def check_hello(self, hello: Hello) -> None:
        """Raise the `LinkClosed` that it is if the client cannot stand where it says."""
        self._session.check_hello(hello)

    def welcome(self, hello: Hello, id: str, token: str) -> Batch:
        """The answer to `hello`, after which a link has to follow."""
        return self._session.welcome(hello, id, token)

    @property
    def received(self) -> int:
        """WebSocket messages received, on all links; in a session each is a batch."""
        return self._session.received

    @property
    def linked(self) -> bool:
        """Whether a link is up."""
        return self._link is not None

    @property
    def is_resumable(self) -> bool:
        """Whether a session outlives the link that has just ended."""
        return not (self.gone or self.leaving) and self._session.numbered is not None

    async def yield_link(self) -> None:
        """Another link wants the session: end this one, and wait until it is free."""
        link = self._link
        if link is not None:
            link.fail(LinkClosed(TAKEN_OVER, "taken over", by_peer=False))
            await link.wait_down()
            if self._link is link:
                self._link = None

    def end(self) -> None:
        """The client is gone; the handler, if it still runs, may outlive it a little."""
        if self.gone:
            return
        self.gone = True
        self._mailbox.close()
        self._session.end()
        self._mailbox.moved()
        left_s = 0 if self._handled else self._close_timeout_s
        self._scope.deadline = trio.current_time() + left_s

    def _report(self, errors: ExceptionGroup[Exception]) -> None:
        # A handler that finds out by its next call that its client is gone, or
        # is being sent away, has no fault.
        late = self._mailbox.closed and errors.split(_FAREWELLS)[1] is None
        level = logging.DEBUG if late else logging.ERROR
        # `except*` puts a single exception into a group without a message.
        error = errors if errors.message else errors.exceptions[0]
        logger.log(level, "%s: the handler failed", self.handshake.remote, exc_info=error)

    async def _drain_and_close(self) -> None:
        with trio.move_on_at(self._close_by):
            await self._mailbox.wait_drained()
        self.leaving = True
        if self._link is None:
            self.end()
        else:
            self._link.close_with = self._close_with
            self._link.close_by = self._close_by
            self._link.scope.cancel()


class Peer(RequestVerbs, Served):
    """A client that speaks typed messages, with a `Connection`'s verbs."""

    def __init__(
        self,
        handshake: Handshake,
        identity: object,
        *,
        codec: Codec,
        outbox: OutboxLimits,
        inbox: InboxLimits,
        syntax: Syntax | None,
        replay: Bounds | None,
        beat: bool,
        close_timeout_s: float,
    ) -> None:
        super().__init__(codec, outbox, inbox, syntax, replay)
        self._prepare(handshake, identity, close_timeout_s)
        if beat:
            self._heartbeat_maker = self._heartbeat


class RawPeer(RawVerbs, Served):
    """A client that is sent bare text and bytes."""

    def __init__(
        self,
        handshake: Handshake,
        identity: object,
        *,
        outbox: OutboxLimits,
        inbox: InboxLimits,
        close_timeout_s: float,
    ) -> None:
        super().__init__(outbox, inbox)
        self._prepare(handshake, identity, close_timeout_s)


def _check_close(code: int, reason: str) -> None:
    if not isinstance(code, int) or (code not in CLOSE_CODES and not 3000 <= code <= 4999):
        raise OptionError("code", "must be one that RFC 6455 lets be sent", code)
    try:
        size = len(reason.encode())
    except UnicodeEncodeError:
        raise OptionError("reason", "must be text that UTF-8 can encode", reason) from None
    if size > REASON_BYTES:
        raise OptionError("reason", f"must be at most {REASON_BYTES} bytes", reason)

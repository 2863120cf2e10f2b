"""The life of a connection: what `connect()` runs.

    run_connection       one outer nursery, never shown to the caller
    ├─ supervise         the reconnect task: dials, drives, waits, dials again
    │  ├─ wire.run       the package's task, on the trio-websocket wire; ends with the attempt
    │  └─ link.run       one nursery per link; dies whole
    │     ├─ read        wire -> session -> streams
    │     ├─ write       outbox -> wire (from the first time it is needed)
    │     └─ beat        pings, and tells a dead link
    └─ expire            drops messages whose time is up (from the first `ttl_s`)

Every way out of an attempt returns to `supervise`, and only it decides what
follows. None of these tasks raises: what is fatal is kept, the body is
cancelled, and the one exception leaves where `connect()` is left.

The body's end decides how the connection ends. On return, or on an error of
the program's own, the outbox is drained within `close_timeout_s`: a sleeping
supervisor is woken, a dial on its way may come to its link. If the scope
around is cancelled, nothing is drained and nobody waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeVar

import attrs
import trio

from ._ambient import ambient
from ._dial import DialOptions, dial
from ._endpoint import Endpoint
from ._hooks import Attempt, Granted, Hooks, hook_failed
from ._requests import RequestVerbs
from ._states import StateBoard, StateStream
from ._tasks import Link
from ._verbs import RawVerbs
from ._waker import Waker
from ._welcome import NoWelcome, ask_welcome
from .errors import ConnectionFailed, DialError, HandshakeError, LinkError, OptionError
from .message import WITHDRAWN
from .options import InboxLimits, Liveness, OutboxLimits, Reconnect
from .protocol.codec import Codec
from .protocol.frames import PLAIN
from .protocol.lifecycle import Phase, State, Trigger, next_phase
from .protocol.pulse import Pulse
from .protocol.route import Route
from .protocol.session import Heartbeat, syntax_of
from .protocol.url import Url
from .wires import Wire

__all__ = ["Connection", "RawConnection", "Settings", "Supervised", "run_connection"]

#: What a server that picked a session may take of `open_timeout_s` to welcome it.
WELCOME_SHARE: Final = 0.5


@attrs.frozen(kw_only=True)
class Settings:
    """`connect()`'s options, checked."""

    urls: tuple[Url, ...]
    protocols: tuple[str, ...]
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    hooks: Hooks
    reconnect: Reconnect
    liveness: Liveness | None
    outbox: OutboxLimits
    inbox: InboxLimits
    dial: DialOptions
    session: Literal["offer", "require", "off"]
    open_timeout_s: float
    close_timeout_s: float


class Supervised(Endpoint):
    """A connection's life and state; both kinds of connection share it."""

    _settings: Settings
    _heartbeat_maker: Callable[[], Heartbeat] | None

    def _prepare(self, settings: Settings) -> None:
        self._settings = settings
        self._route = Route(settings.urls, settings.reconnect, ambient().random)
        self._board = StateBoard(State(Phase.CONNECTING))
        self._changed = trio.Event()
        self._nudge = Waker()
        self._closing = False
        self._limit = trio.CancelScope()
        self._lost: LinkError | None = None
        self.failure: Exception | None = None

    @property
    def state(self) -> State:
        """The state now."""
        return self._board.current

    def watch_states(self) -> StateStream:
        """A stream of states, the current one first; the last 64 unread are kept."""
        return self._board.watch()

    async def wait_connected(self) -> None:
        """Wait until a link is up and the outbox flows.

        Raises `trio.ClosedResourceError` once the connection is over.
        Cancelling only stops the wait.
        """
        await trio.lowlevel.checkpoint()
        while self.state.phase is not Phase.CONNECTED:
            if self.state.phase in (Phase.DISCONNECTED, Phase.FAILED):
                # In the body of a connection that failed this raises `Cancelled`.
                await trio.lowlevel.checkpoint_if_cancelled()
                raise trio.ClosedResourceError
            await self._changed.wait()

    def retry_now(self) -> None:
        """Cut short the wait before the next dial. Without such a wait nothing happens."""
        if self.state.retry_at is not None:
            self._nudge.wake()

    # The reconnect task

    async def _supervise(self, body: trio.CancelScope) -> None:
        try:
            await self._keep_connected()
        except ConnectionFailed as failure:
            self.failure = failure
        except Exception as error:  # a bug of ours must not vanish in a task
            self.failure = error
        if self.failure is not None:
            self._post(Trigger.FAILED, cause=self.failure)
            body.cancel()
        self._limit.cancel()

    async def _keep_connected(self) -> None:
        while True:
            cause, linked = await self._attempt()
            if cause is None or self._is_drained():
                return
            verdict = self._route.failed(cause, trio.current_time(), linked=linked)
            if isinstance(verdict, ConnectionFailed):
                raise verdict
            await self._back_off(cause, trio.current_time() + verdict)
            if self._is_drained():
                return

    def _is_drained(self) -> bool:
        return self._closing and self._session.is_drained

    async def _attempt(self) -> tuple[LinkError | None, bool]:
        """One dial, and its link if it comes to one: what ended it, and which of the two.

        No cause: the connection is being closed, and so is the link.
        """
        self._route.dialling(trio.current_time())
        self._post(Trigger.DIALLING, cause=self.state.cause)
        async with trio.open_nursery() as nursery:
            try:
                result: tuple[LinkError | None, bool] | Exception = await self._link_once(nursery)
            except Exception as error:  # a bug of ours; it is not to leave in a group
                result = error
            nursery.cancel_scope.cancel()
        if isinstance(result, Exception):
            raise result
        return result

    async def _link_once(self, nursery: trio.Nursery) -> tuple[LinkError | None, bool]:
        try:
            wire, resumed = await self._dial(nursery)
        except LinkError as cause:
            return cause, False
        link = Link(wire, self._mailbox, self._new_pulse(), self._heartbeat_maker)
        self._route.opened()
        await self._drive(link, resumed)
        now = trio.current_time()
        uptime_s = now - link.opened_at
        self._route.ended(
            proven=link.proven and uptime_s >= self._settings.reconnect.min_uptime_s, now=now
        )
        return link.cause, True

    async def _dial(self, nursery: trio.Nursery) -> tuple[Wire, bool]:
        """Credentials, dial, welcome and greet within `open_timeout_s`: the wire, and
        whether it resumes the session."""
        settings, route, hooks = self._settings, self._route, self._settings.hooks
        stage = "credentials"
        with trio.move_on_after(settings.open_timeout_s):
            granted = await hooks.fetch(
                Attempt(
                    number=route.attempt,
                    url=str(route.url),
                    cause=self.state.cause,
                    refused=route.refused,
                )
            )
            stage = "dial"
            wire, resumed = await self._introduced(granted, nursery)
            stage = "greet"
            try:
                await hooks.greet_on(wire, self._session, resumed=resumed)
                return wire, resumed
            except BaseException:
                self._give_up(wire)
                raise
        raise DialError(
            f"no link to {route.url} within {settings.open_timeout_s:g} s (at: {stage})",
            stage=stage,
        )

    async def _introduced(self, granted: Granted, nursery: trio.Nursery) -> tuple[Wire, bool]:
        """A wire on which it is settled whether there is a session, and which.

        A server that cannot bear the offer of one is dialled again at once, without.
        """
        offer = self._offer()
        try:
            return await self._open(granted, nursery, offer)
        except (HandshakeError, NoWelcome) as error:
            if not offer or not self._forgoes_session(error):
                raise
        return await self._open(granted, nursery, ())

    async def _open(
        self, granted: Granted, nursery: trio.Nursery, offer: tuple[str, ...]
    ) -> tuple[Wire, bool]:
        wire = await self._dial_with(granted, nursery, offer)
        try:
            return wire, await self._introduce(wire, offer)
        except BaseException:
            self._give_up(wire)
            raise

    def _forgoes_session(self, error: HandshakeError | NoWelcome) -> bool:
        """Whether a dial failed because of the offer, and may do without it."""
        if isinstance(error, HandshakeError) and error.status != 400:
            return False
        return self._settings.session != "require" and self._route.offer_refused()

    def _give_up(self, wire: Wire) -> None:
        """The link ends before it is up; a session that was broken on it is lost."""
        wire.abort()
        self._session.link_down(trio.current_time())

    def _offer(self) -> tuple[str, ...]:
        """The subprotocols that offer a session; none where none is offered."""
        syntax = self._session.syntax
        if syntax is None or not self._route.takes_offers:
            return ()
        return PLAIN, syntax.subprotocol

    async def _introduce(self, wire: Wire, offer: tuple[str, ...]) -> bool:
        """Begin or resume a session where the server has taken the offer. True: resumed."""
        session = self._session
        if not offer or wire.subprotocol != offer[-1]:
            if self._settings.session == "require":
                raise HandshakeError(f"{self._route.url} knows no sessions", status=101)
            session.begin_plain(self._lost)
            return False
        limit_s = self._settings.open_timeout_s * WELCOME_SHARE
        resumed = await ask_welcome(wire, session, self._lost, limit_s)
        self._route.welcomed()
        return resumed

    async def _dial_with(
        self, granted: Granted, nursery: trio.Nursery, offer: tuple[str, ...]
    ) -> Wire:
        settings = self._settings
        renewed = {name.lower() for name, _ in granted.headers}
        kept = [header for header in settings.headers if header[0].lower() not in renewed]
        try:
            return await dial(
                granted.url or self._route.url,
                settings.dial,
                nursery=nursery,
                headers=(*kept, *granted.headers),
                protocols=_with(granted.protocols or settings.protocols, offer),
                protocols_elsewhere=_with(settings.protocols, offer),
            )
        except OptionError as error:
            # `connect()` has checked its own, so these are the credentials', and secret.
            hidden = OptionError(f"Credentials.{error.field}", error.rule, "(hidden)")
            raise hook_failed("credentials", hidden) from hidden

    async def _drive(self, link: Link, resumed: bool) -> None:
        """Run a link until its first trouble, or until its scope is cancelled to close it."""
        self._link = link
        try:
            await link.run(lambda: self._post(Trigger.OPENED, resumed=resumed))
        finally:
            self._latency_s = self._latest_latency_s()
            self._link = None
            self._lost = link.cause

    async def _back_off(self, cause: LinkError, until: float) -> None:
        if not self._closing:
            self._nudge = Waker()  # a nudge left over was meant for an earlier wait
        self._post(Trigger.LOST, retry_at=until, cause=cause)
        await self._nudge.wait(until)

    def _new_pulse(self) -> Pulse | None:
        liveness = self._settings.liveness
        if liveness is None:
            return None
        world = ambient()
        return Pulse(liveness, trio.current_time(), world.wall_s(), world.random.random())

    def _post(
        self,
        trigger: Trigger,
        *,
        retry_at: float | None = None,
        cause: Exception | None = None,
        resumed: bool = False,
    ) -> None:
        phase = next_phase(self.state.phase, trigger)
        self._board.post(State(phase, self._route.attempt, retry_at, cause, resumed))
        self._changed.set()
        self._changed = trio.Event()

    # The end

    async def _finish(self) -> None:
        """Drain, most urgent first, and close, within `close_timeout_s`.

        The end of `supervise` ends this too.
        """
        self._closing = True
        self._route.hurry()
        self._nudge.wake()
        self._limit.deadline = trio.current_time() + self._settings.close_timeout_s
        with self._limit:
            await self._mailbox.wait_drained()
            if self._link is not None:
                self._link.close_by = self._limit.deadline
                self._link.scope.cancel()
                await trio.sleep_forever()

    def _end(self, *, withdraw: bool) -> None:
        """Everything is over; sends that were queued get their outcome."""
        if withdraw:
            self._session.lanes.clear(WITHDRAWN)
        if self.failure is None:
            self._post(Trigger.STOPPED)
        self._board.end()
        self._session.end()
        self._mailbox.moved()


class Connection(RequestVerbs, Supervised):
    """A connection of typed messages. Made by `connect()` alone."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        syntax = None if settings.session == "off" else syntax_of(codec)
        super().__init__(codec, settings.outbox, settings.inbox, syntax)
        self._prepare(settings)
        both = settings.liveness is not None and settings.liveness.beat == "both"
        self._heartbeat_maker = self._heartbeat if both else None


class RawConnection(RawVerbs, Supervised):
    """A connection of bare text and bytes. Made by `connect(codec="raw")` alone."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.outbox, settings.inbox)
        self._prepare(settings)
        self._heartbeat_maker = None


ConnectionT = TypeVar("ConnectionT", bound=Supervised)


@asynccontextmanager
async def run_connection(make: Callable[[], ConnectionT]) -> AsyncIterator[ConnectionT]:
    """Make a connection and run it around the body; P6 and P10 of the design are kept here.

    What the body raises is caught inside the nursery and raised again outside,
    so that it leaves as the object that it is and not in a group.
    """
    conn = make()
    error: BaseException | None = None
    cancelled = False
    try:
        async with trio.open_nursery() as nursery:
            body = trio.CancelScope()
            conn._mailbox.spawn = nursery.start_soon
            nursery.start_soon(conn._supervise, body)
            try:
                with body:
                    yield conn
            except BaseException as caught:  # raised again at the end
                error = caught
            conn._mailbox.close()  # from here on, nothing new can be started
            if error is None or isinstance(error, Exception):
                try:
                    await conn._finish()
                except KeyboardInterrupt as caught:  # not to leave in a group
                    error = caught
            nursery.cancel_scope.cancel()
    except BaseException as caught:  # raised again at the end
        # No task raises, so the scope around was cancelled, in the body or since.
        cancelled = _is_cancellation(caught)
        if error is None or not cancelled:
            error = caught
    # What is no `Exception` (a cancellation, Ctrl-C) does not wait for a drain.
    conn._end(withdraw=cancelled or not (error is None or isinstance(error, Exception)))
    if conn.failure is not None and (error is None or _is_cancellation(error)):
        raise conn.failure
    if error is not None:
        if conn.failure is not None:
            error.add_note(f"meanwhile the connection failed: {conn.failure!r}")
        raise error


def _with(protocols: tuple[str, ...], offer: tuple[str, ...]) -> tuple[str, ...]:
    return (*protocols, *(name for name in offer if name not in protocols))


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)

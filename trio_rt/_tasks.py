"""The tasks of one link: read, write, beat. Short loops around the session.

A link's tasks never raise. Whichever finds the trouble first records it as the
link's `cause` and cancels the link's scope, so no exception groups arise, and
nothing of a link outlives it: its state is in this object, and dies with it.

The reader never waits for anybody but the socket. Where a full stream would
lose a message it gives the loop two turns, so that a consumer that is keeping
up is never the victim of a burst.

The socket is written by one side at a time. A send that finds everything idle
writes directly; the next ones queue until the reader or the writer has run, so
a burst becomes a batch and a lone message leaves without a task switch. On a
wire that takes a turn of the loop to frame a message, it is the sender that
takes it, and the writer stays away meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from ._ambient import ambient
from ._mailbox import Mailbox
from ._waker import Waker
from .errors import LinkClosed, LinkDead, LinkError
from .protocol.lanes import Entry
from .protocol.pulse import Beat, Pulse
from .protocol.session import Heartbeat
from .wires import Frame, Wire

__all__ = ["Link"]

#: How long a link that cannot be written any more may still be read.
LAST_WORDS_S: Final = 0.5


class Link:
    """One live wire under a mailbox's session."""

    def __init__(
        self,
        wire: Wire,
        mailbox: Mailbox,
        pulse: Pulse | None,
        heartbeat: Callable[[], Heartbeat] | None,
    ) -> None:
        self.wire = wire
        self.pulse = pulse
        self.cause: LinkError | None = None
        #: Cancelled to end the link; without a cause, by a closing handshake.
        self.scope: trio.CancelScope
        self.close_with = (1000, "")
        #: When the closing handshake must be over.
        self.close_by = math.inf
        self.over = False
        #: Set when the session is free for another link.
        self.down = trio.Event()
        self.opened_at = trio.current_time()
        #: Whether the peer has shown life above TCP: a pong, or any message.
        #: Where no pong is asked for, that it lasts has to do.
        self.proven = pulse is None
        self._mailbox = mailbox
        self._session = mailbox.session
        self._heartbeat = heartbeat
        self._work = Waker()
        self._writing = False
        # How a sender writes by itself: at once, or in a turn of the loop. In that
        # turn the writer has to stay away.
        self._direct = self._write_directly if wire.sends_at_once else None
        self._soon = None if wire.sends_at_once else self._write_soon
        self._sender_writes = False
        # What was taken for the wire, which was not ready for it after all.
        self._taken: Sequence[Frame] = ()
        self._bytes_in = wire.bytes_in
        self._pongs = 0
        self._spawn: Callable[[Callable[[], Awaitable[None]]], None]

    @property
    def latency_s(self) -> float | None:
        """Round trip of the last ping that was answered."""
        return None if self.pulse is None else self.pulse.latency_s

    async def run(
        self,
        opened: Callable[[], None],
        *,
        words: Frame | None = None,
        beats: bool = True,
    ) -> None:
        """Run the link to its end: its first trouble, or `scope` cancelled.

        `words` go out before all else; `opened` is called once the outbox may
        flow. A server has one beat for all its peers (`beats=False`), and lets
        the calling task read: fewer tasks for an idle peer.
        """
        try:
            await self._run_tasks(opened, words, beats=beats)
            if self.cause is None:
                with trio.move_on_at(self.close_by):
                    await self._say_bye()
                    await self.wire.close(*self.close_with)
            elif isinstance(self.cause, LinkClosed) and not self.cause.by_peer:
                # A plain abort with data unread would reset the connection
                # before the peer has seen the code that tells what was wrong.
                with trio.move_on_after(LAST_WORDS_S):
                    await self.wire.close(self.cause.code, self.cause.reason)
        finally:
            if self.cause is None:
                # Without waiting; where the link is closed already, it is nothing.
                self.wire.close_nowait(1001, last=self._session.farewell(self.close_with[1]))
            self.wire.abort()

    async def _say_bye(self) -> None:
        """Tell the other side of a session that this was no mishap."""
        farewell = self._session.farewell(self.close_with[1])
        if farewell:
            try:
                await self.wire.send(farewell)
            except trio.BrokenResourceError:
                pass  # it will find out

    async def _run_tasks(
        self, opened: Callable[[], None], words: Frame | None, *, beats: bool
    ) -> None:
        mailbox = self._mailbox
        try:
            async with trio.open_nursery() as nursery:
                self.scope = nursery.cancel_scope
                self._spawn = nursery.start_soon
                if words is not None:
                    try:
                        await self.wire.send((words,))
                    except trio.BrokenResourceError as error:
                        self.fail(LinkClosed(1006, str(error)))
                        await trio.lowlevel.checkpoint()
                mailbox.link_up(self._direct, self._soon, self._wake, self.wire.written)
                if self.wire.sends_at_once:
                    self._session.flush = self._flush
                self.wire.on_control = self._attend
                opened()
                if self._session.ready_at(trio.current_time()) < math.inf:
                    self._wake()
                if beats:
                    nursery.start_soon(self.beat)
                    nursery.start_soon(self.read)
                else:
                    await self.read()
        finally:
            self.over = True
            self._session.flush = None
            self._session.written(self.wire.written)
            mailbox.link_down()
            self.down.set()

    def fail(self, cause: LinkError) -> None:
        """Record the first cause and end the link."""
        if self.cause is None:
            self.cause = cause
        self.scope.cancel()

    def _wake(self) -> None:
        """Let the writer run; it is started when there is first something for it."""
        if self.over:
            return
        if not self._writing:
            self._writing = True
            self._spawn(self.write)
        self._work.wake()

    async def read(self) -> None:
        """The reader: wire -> session -> streams."""
        session, wire, mailbox = self._session, self.wire, self._mailbox
        try:
            arriving = session.arriving
            while True:
                if arriving:
                    self.proven = True
                    while not session.route():
                        # Two, since tasks run in any order within a turn: only
                        # then has every task that was ready run once.
                        await trio.lowlevel.checkpoint()
                        await trio.lowlevel.checkpoint()
                mailbox.direct, mailbox.soon = self._direct, self._soon
                if wire.wants_flush:
                    self._wake()
                batch = await wire.receive()
                self.heard()
                if batch:
                    self.proven = True
                    session.receive(batch, trio.current_time())
                    if session.numbered is not None:
                        mailbox.moved()  # there may be acks among it
        except LinkError as cause:
            self.fail(cause)
        finally:
            # The nursery may close now, and take no writer any more.
            self.over = True

    async def write(self) -> None:
        """The writer: what could not be written directly, and every batch."""
        session, wire, mailbox = self._session, self.wire, self._mailbox
        try:
            while True:
                # A shut window opens by an ack, and then the session wakes.
                mailbox.wake = None if session.is_shut else self._wake
                await self._work.wait(session.ready_at(trio.current_time()))
                while not self._sender_writes:
                    if wire.wants_flush:
                        await wire.flush()
                        session.written(wire.written)
                    batch = self._taken or session.take(trio.current_time())
                    self._taken = ()
                    if not batch:
                        break
                    await wire.send(batch)
                    session.written(wire.written)
                    mailbox.moved()
                mailbox.direct, mailbox.soon = self._direct, self._soon
                mailbox.moved()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The reader may still find a close frame, which tells more.
            await trio.sleep(LAST_WORDS_S)
            cause = LinkClosed(1006, str(error))
            cause.__cause__ = error
            self.fail(cause)

    async def beat(self) -> None:
        """The heartbeat: pings when it is silent, and tells a dead link."""
        while self.pulse is not None:
            await trio.sleep_until(self.pulse.due)
            await self.tick()

    async def tick(self) -> None:
        """Do what is due now."""
        pulse = self.pulse
        assert pulse is not None
        now = trio.current_time()
        pulse.heard(self.wire.heard_at)
        if self._session.is_unanswered(now):
            self.fail(LinkClosed(1002, "nothing is acked", by_peer=False))
        match pulse.tick(now, ambient().wall_s()):
            case Beat.PING:
                self._ping()
            case Beat.SUSPECT:
                # The loop polls sockets before it expires deadlines, so one
                # turn from here the reader has found what had arrived, even if
                # the program has just blocked the loop for a minute.
                await trio.lowlevel.checkpoint()
                self.heard()
                pulse.heard(self.wire.heard_at)
                silent_s = pulse.verdict(now)
                if silent_s is not None:
                    self.fail(LinkDead(silent_s))
            case Beat.NOTHING:
                pass

    def heard(self) -> None:
        """Take note of the bytes that have come in since the last look."""
        wire, pulse = self.wire, self.pulse
        if wire.bytes_in != self._bytes_in:
            self._bytes_in = wire.bytes_in
            now = trio.current_time()
            if pulse is not None:
                pulse.heard(now)
            if wire.pongs != self._pongs:
                self._pongs = wire.pongs
                self.proven = True
                if pulse is not None:
                    pulse.pong(now)

    def _ping(self) -> None:
        flush = self.wire.ping()
        if self._heartbeat is not None:
            self._session.beat(self._heartbeat())
            flush = True
        if flush:
            self._wake()

    def _attend(self) -> None:
        """A read brought something that `wire.receive` does not return for."""
        self.heard()
        if self.wire.wants_flush:
            self._wake()

    def _write_directly(self, delivery: Entry, now: float) -> bool:
        session, wire = self._session, self.wire
        if self._taken or not session.may_send_directly(delivery, now):
            self._mailbox.direct = None  # until the reader or the writer has run
            return False
        if not wire.send_nowait((session.try_commit(delivery),)):
            session.undo(delivery)
            return False
        self._mailbox.direct = None
        session.confirm(delivery, wire.written, now)
        if wire.wants_flush:
            self._wake()
        return True

    def _flush(self) -> None:
        """Write what waits, if that needs no waiting: there is a batch of it already.

        The other side can begin on it while the tasks of this turn go on.
        """
        if self._taken or self.over or not self.wire.idle:
            return
        batch = self._session.take(trio.current_time())
        if batch and not self.wire.send_nowait(batch):
            self._taken = batch
            self._wake()
        self._session.written(self.wire.written)
        self._mailbox.moved()

    async def _write_soon(self, delivery: Entry) -> bool:
        """The same in a turn of the loop, in which the writer stays away.

        Cancelled: not accepted, and not sent.
        """
        session, wire, now = self._session, self.wire, self._mailbox.clock()
        # Once only, also where it refuses: those who come now go by their own pace.
        self._mailbox.soon = None
        if (
            self._sender_writes
            or delivery.expires_at <= now
            or not session.may_send_directly(delivery, now)
        ):
            return False
        self._sender_writes = True
        sent = False
        try:
            sent = await wire.send_soon((session.try_commit(delivery),))
        finally:
            self._sender_writes = False
            if sent:
                session.confirm(delivery, wire.written, now)
            else:
                # A session lost in that turn has given it an outcome.
                sent = not session.undo(delivery)
            if wire.wants_flush or (
                session.numbered is not None and session.ready_at(now) < math.inf
            ):
                self._wake()
        return sent

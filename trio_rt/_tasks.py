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
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import trio

from ._aide import Aide, Task
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

OwnerT = TypeVar("OwnerT")


class Link:
    """One live wire under a mailbox's session."""

    __slots__ = (
        "__weakref__",
        "_aides",
        "_bytes_in",
        "_direct",
        "_down",
        "_fault",
        "_heartbeat",
        "_is_down",
        "_mailbox",
        "_nursery",
        "_pongs",
        "_sender_writes",
        "_session",
        "_soon",
        "_taken",
        "_words",
        "_work",
        "cause",
        "close_by",
        "close_with",
        "has_parted",
        "opened_at",
        "over",
        "proven",
        "pulse",
        "scope",
        "wire",
    )

    def __init__(
        self,
        wire: Wire,
        mailbox: Mailbox,
        pulse: Pulse | None,
        heartbeat: Callable[[], Heartbeat] | None,
        words: Frame | None = None,
    ) -> None:
        """`words` go out before all else."""
        self.wire = wire
        self.pulse = pulse
        self.cause: LinkError | None = None
        #: Cancelled to end the link; without a cause, by a closing handshake.
        self.scope = trio.CancelScope()
        self.close_with = (1000, "")
        #: When the closing handshake must be over.
        self.close_by = math.inf
        self.over = False
        #: It has come to its end without a fault of ours, and without being cancelled.
        self.has_parted = False
        self.opened_at = trio.current_time()
        #: Whether the peer has shown life above TCP: a pong, or any message.
        #: Where no pong is asked for, that it lasts has to do.
        self.proven = pulse is None
        self._mailbox = mailbox
        self._session = mailbox.session
        self._heartbeat = heartbeat
        self._words = words
        # The tasks beside the reader, and where they run.
        self._nursery: trio.Nursery
        self._aides: tuple[Aide, ...] = ()
        # What one of them raised: a bug.
        self._fault: Exception | None = None
        # What there is for the writer; None until it is started.
        self._work: Waker | None = None
        # Whether the session is free for another link, and set then for who waits.
        self._is_down = False
        self._down: trio.Event | None = None
        # How a sender writes by itself: at once, or in a turn of the loop. In that
        # turn the writer has to stay away.
        self._direct = self._write_directly if wire.sends_at_once else None
        self._soon = None if wire.sends_at_once else self._write_soon
        self._sender_writes = False
        # What was taken for the wire, which was not ready for it after all.
        self._taken: Sequence[Frame] = ()
        self._bytes_in = wire.bytes_in
        self._pongs = 0

    @property
    def latency_s(self) -> float | None:
        """Round trip of the last ping that was answered."""
        return None if self.pulse is None else self.pulse.latency_s

    async def run(self, opened: Callable[[], None]) -> None:
        """Run the link to its end: its first trouble, or `scope` cancelled.

        `opened` is called once the outbox may flow.
        """
        async with trio.open_nursery() as nursery:
            await self.run_in(nursery, _once_up, opened, beats=True)

    async def run_in(
        self,
        nursery: trio.Nursery,
        changed: Callable[[OwnerT, bool], None],
        owner: OwnerT,
        *,
        beats: bool = False,
    ) -> None:
        """The same in a nursery that others use too: the calling task reads.

        `changed(owner, True)` is called once the outbox may flow, and
        `changed(owner, False)` when it may no more. A server has one beat for all its
        peers (`beats=False`).
        """
        self._nursery = nursery
        is_up = False
        try:
            try:
                with self.scope:
                    if self._words is not None:
                        await self._say_words()
                    self._come_up()
                    is_up = True
                    changed(owner, True)
                    if self._session.ready_at(trio.current_time()) < math.inf:
                        self._wake()
                    if beats:
                        self._start(self.beat)
                    await self.read()
            finally:
                self.over = True
                for aide in self._aides:
                    await aide.end()  # noqa: ASYNC102, shielded, and soon over
                self._go_down()
                if is_up:
                    changed(owner, False)
            if self._fault is not None:
                raise self._fault
            await self._part()
            self.has_parted = True
        finally:
            if self.cause is None:
                # Without waiting; where the link is closed already, it is nothing.
                self.wire.close_nowait(1001, last=self._session.farewell(self.close_with[1]))
            self.wire.abort()

    async def _say_words(self) -> None:
        assert self._words is not None
        words, self._words = self._words, None
        try:
            await self.wire.send((words,))
        except trio.BrokenResourceError as error:
            self.fail(LinkClosed(1006, str(error)))
            await trio.lowlevel.checkpoint()

    def _come_up(self) -> None:
        self._mailbox.link_up(self._direct, self._soon, self._wake, self.wire.written)
        if self.wire.sends_at_once and self._session.numbered is not None:
            self._session.flush = self._flush  # for requests, which go through sessions
        self.wire.on_control = self._attend

    def _go_down(self) -> None:
        """Nothing of this link writes any more: the session is free."""
        self._session.flush = None
        self._session.written(self.wire.written)
        self._mailbox.link_down()
        self._is_down = True
        if self._down is not None:
            self._down.set()

    async def wait_down(self) -> None:
        """Wait until the session is free for another link."""
        if self._is_down:
            await trio.lowlevel.checkpoint()
            return
        if self._down is None:
            self._down = trio.Event()
        await self._down.wait()

    async def _part(self) -> None:
        """The last words: of an end that is wanted, or of what was wrong."""
        if self.cause is None:
            with trio.move_on_at(self.close_by):
                await self._say_bye()
                await self.wire.close(*self.close_with)
        elif isinstance(self.cause, LinkClosed) and not self.cause.by_peer:
            # A plain abort with data unread would reset the connection
            # before the peer has seen the code that tells what was wrong.
            with trio.move_on_after(LAST_WORDS_S):
                await self.wire.close(self.cause.code, self.cause.reason)

    async def _say_bye(self) -> None:
        """Tell the other side of a session that this was no mishap."""
        farewell = self._session.farewell(self.close_with[1])
        if farewell:
            try:
                await self.wire.send(farewell)
            except trio.BrokenResourceError:
                pass  # it will find out

    def _start(self, task: Task) -> None:
        """Run `task` beside the reader, and no longer."""
        self._aides += (Aide(self._nursery, task, self._failed),)

    def _failed(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self.scope.cancel()

    def fail(self, cause: LinkError) -> None:
        """Record the first cause and end the link."""
        if self.cause is None:
            self.cause = cause
        self.scope.cancel()

    def _wake(self) -> None:
        """Let the writer run; it is started when there is first something for it."""
        if self.over:
            return
        if self._work is None:
            self._work = Waker()
            self._start(self.write)
        self._work.wake()

    async def read(self) -> None:
        """The reader: wire -> session -> streams."""
        session, wire, mailbox = self._session, self.wire, self._mailbox
        try:
            while True:
                if session.arriving:
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
            self.over = True  # and no writer is to be started any more

    async def write(self) -> None:
        """The writer: what could not be written directly, and every batch."""
        session, wire, mailbox, work = self._session, self.wire, self._mailbox, self._work
        assert work is not None
        try:
            while True:
                # A shut window opens by an ack, and then the session wakes.
                mailbox.wake = None if session.is_shut else self._wake
                await work.wait(session.ready_at(trio.current_time()))
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

    def open_tap(self) -> bool:
        """Whether all is idle: then the session's tap is open until anything is not."""
        session = self._session
        if self._taken or self._mailbox.closed or not session.is_quiet():
            return False
        tap = self.wire.open_tap()
        if tap.open:  # otherwise what went by the last one is still to be counted there
            session.tap = tap
        return tap.open

    def post_rest(
        self, data: bytes, sent: int, frames: Sequence[bytes], entries: Sequence[Entry]
    ) -> None:
        """Of `data`, these messages' `frames` joined, the tap took `sent` bytes and no more."""
        self.wire.take_rest(data, sent, frames)
        self._session.posted_in_part(entries, self.wire.written)
        self._wake()

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


def _once_up(opened: Callable[[], None], up: bool) -> None:
    if up:
        opened()

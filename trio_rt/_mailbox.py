"""The trio face of the outbox: who waits for room, and who is told that there is work.

A send goes one of these ways, and each ends in one step without an await in
between, so that no cancellation can tear it:

- *direct*: nothing is queued and the socket is idle, so the message is written
  by the sender itself, with no task switch;
- *soon*: the same on a wire that takes a turn of the loop to frame a message.
  The writer stays away in that turn; cancelled in it, the message is neither
  accepted nor sent;
- *queued*: the lanes have room, or can make it; the writer is woken;
- *waiting*: the sender is parked, and admitted when room appears, the most
  urgent first and in order within a priority. Nobody barges past a waiter of
  the same or a higher priority, `send_nowait` least of all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ._waker import Waker
from .delivery import Delivery
from .message import Priority, dropped
from .protocol.lanes import Entry
from .protocol.session import Session

__all__ = ["Mailbox"]

URGENT_FIRST: Final = sorted(Priority, reverse=True)


class _Waiter:
    __slots__ = ("admitted", "delivery", "task")

    def __init__(self, delivery: Entry) -> None:
        self.delivery = delivery
        self.admitted = False
        self.task: trio.lowlevel.Task | None = None


class Mailbox:
    """One for each connection or peer. `direct` and `wake` belong to the link of the moment."""

    __slots__ = (
        "_expiry",
        "_settled_event",
        "_waiters",
        "_waiting",
        "_wake_link",
        "_watched",
        "clock",
        "closed",
        "direct",
        "session",
        "soon",
        "spawn",
        "wake",
    )

    def __init__(self, session: Session) -> None:
        self.session = session
        session.wake = self._wake_writer
        self.closed = False
        #: Writes a message at once if it can; None where it surely cannot.
        self.direct: Callable[[Entry, float], bool] | None = None
        #: The same, where that takes a turn of the loop. True: it is sent.
        self.soon: Callable[[Entry], Awaitable[bool]] | None = None
        #: Wakes the writer for a new message, once; it sets this again before it
        #: sleeps, unless the window is shut.
        self.wake: Callable[[], None] | None = None
        self._wake_link: Callable[[], None] | None = None
        #: Starts a task that lives as long as the connection; set by its owner.
        self.spawn: Callable[[Callable[[], Awaitable[None]]], None]
        self._expiry: Waker | None = None
        # A deque for each priority that ever had to wait.
        self._waiters: dict[Priority, deque[_Waiter]] = {}
        self._waiting = 0
        self._settled_event: trio.Event | None = None
        # Those that somebody waits for until they are written, in a session.
        self._watched: list[Delivery] = []
        #: `trio.current_time`, without looking up the run each time: 0.17 us less.
        self.clock = trio.lowlevel.current_clock().current_time

    @property
    def waiting(self) -> int:
        return self._waiting

    def try_put(self, delivery: Entry, now: float) -> bool:
        """Send or queue. False (not accepted): there is no room."""
        if self.closed:
            raise trio.ClosedResourceError
        direct = self.direct
        if direct is not None and delivery.expires_at > now and direct(delivery, now):
            return True
        if self._waiting and self._barred(delivery.priority):
            return False
        if not self.session.offer(delivery, now):
            return False
        if self.wake is not None or delivery.expires_at != math.inf:
            self._offered(delivery)
        if self._waiting:
            self._admit()  # it may have replaced or evicted a larger one
        return True

    async def put(self, delivery: Entry) -> None:
        """As `try_put`, but wait for room, or a turn for a direct write.

        Cancelled while waiting: the send was not accepted. A message whose
        `ttl_s` runs out meanwhile is accepted and `dropped("expired")`.
        The caller has made a checkpoint already.
        """
        if self.soon is not None and not self.closed:
            if await self.soon(delivery):
                return
            if delivery.ephemeral and not self.session.linked and not self.closed:
                self.session.reject(delivery, dropped("offline"))  # lost in that turn
                return
        if self.try_put(delivery, self.clock()):
            return
        with trio.move_on_at(delivery.expires_at) as ttl:
            await self._wait_for_room(delivery)
        if ttl.cancelled_caught:
            self.session.reject(delivery, dropped("expired"))

    def withdraw(self, entry: Entry) -> bool:
        taken = self.session.withdraw(entry)
        if taken:
            self.moved()
        return taken

    @property
    def is_plain(self) -> bool:
        """Whether there is no session, or none that acks could come from now."""
        return self.session.is_plain

    def is_written(self, delivery: Entry) -> bool:
        """Whether the kernel has taken it wholly, though it is not settled yet."""
        numbered = self.session.numbered
        return numbered is not None and 0 < delivery.number <= numbered.written_to

    def watch(self, delivery: Delivery) -> None:
        """Tell `delivery` when it is written."""
        self._watched.append(delivery)

    def moved(self) -> None:
        """Entries left the outbox: admit waiters, and tell those who wait."""
        if self._waiting:
            self._admit()
        if self._watched:
            watched, self._watched = self._watched, []
            for delivery in watched:
                if delivery.outcome is not None or self.is_written(delivery):
                    delivery.notify()
                else:
                    self._watched.append(delivery)
        if self._settled_event is not None and self.session.is_drained and not self._waiting:
            self._settled_event.set()
            self._settled_event = None

    def link_up(
        self,
        direct: Callable[[Entry, float], bool] | None,
        soon: Callable[[Entry], Awaitable[bool]] | None,
        wake: Callable[[], None],
        written: int,
    ) -> None:
        """The outbox may flow; `written` messages that are none of its own went before."""
        self.direct, self.soon = direct, soon
        self.wake = self._wake_link = wake
        self.session.link_up(trio.current_time(), written)
        self.moved()  # the other side has told what became of some

    def link_down(self) -> None:
        """The link is gone: its batch is settled, and what must not wait is dropped."""
        self.direct = self.soon = self.wake = self._wake_link = None
        self.session.link_down(trio.current_time())
        self.session.drop_ephemeral()
        self._drop_ephemeral_waiters()
        self.moved()

    async def wait_drained(self) -> None:
        """Wait until every accepted send has its outcome, and every reply has arrived.

        Cancelling only stops the wait.
        """
        await trio.lowlevel.checkpoint()
        while not self.session.is_drained or self._waiting:
            if self._settled_event is None:
                self._settled_event = trio.Event()
            await self._settled_event.wait()

    def close(self) -> None:
        """No more sends are taken. Those waiting for room raise `ClosedResourceError`."""
        self.closed = True
        self.session.tap.open = False
        for waiters in self._waiters.values():
            while waiters:
                self._resume(waiters.popleft())

    def _offered(self, delivery: Entry) -> None:
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()
        if delivery.expires_at != math.inf:
            self._watch_expiry()

    def _wake_writer(self) -> None:
        """The session has something to send."""
        if self._wake_link is not None:
            self._wake_link()

    def _barred(self, priority: Priority) -> bool:
        return self._waiting > 0 and any(
            waiters and p >= priority for p, waiters in self._waiters.items()
        )

    def _watch_expiry(self) -> None:
        if self._expiry is None:
            self._expiry = Waker()
            self.spawn(self._expire)
        self._expiry.wake()

    async def _expire(self) -> None:
        """A task: drops messages the moment their time is up, online or not."""
        assert self._expiry is not None
        lanes = self.session.lanes
        while True:
            await self._expiry.wait(lanes.next_expiry)
            lanes.expire(trio.current_time())
            self.moved()

    async def _wait_for_room(self, delivery: Entry) -> None:
        waiter = _Waiter(delivery)
        waiters = self._waiters.setdefault(delivery.priority, deque())
        waiters.append(waiter)
        self._waiting += 1
        waiter.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            waiters.remove(waiter)
            self._waiting -= 1
            # It may have stood in front of a smaller one that fits.
            self.moved()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if not waiter.admitted:
            raise trio.ClosedResourceError

    def _admit(self) -> None:
        now = trio.current_time()
        for priority in URGENT_FIRST:
            waiters = self._waiters.get(priority)
            while waiters:
                if not self.session.offer(waiters[0].delivery, now):
                    return
                waiter = waiters.popleft()
                self._offered(waiter.delivery)
                waiter.admitted = True
                self._resume(waiter)

    def _drop_ephemeral_waiters(self) -> None:
        for waiters in self._waiters.values():
            for waiter in [each for each in waiters if each.delivery.ephemeral]:
                self.session.reject(waiter.delivery, dropped("offline"))
                waiters.remove(waiter)
                waiter.admitted = True
                self._resume(waiter)

    def _resume(self, waiter: _Waiter) -> None:
        self._waiting -= 1
        assert waiter.task is not None
        trio.lowlevel.reschedule(waiter.task)

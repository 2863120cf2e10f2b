"""The priority gate: the only queue of a client, in the order of urgency.

A call has a *slot* from its start until the body of its response is closed, or
until it fails. Who gets the next one is decided in `_turns`; here are the tasks
that wait, and the promise that a slot is given back exactly once:

- A waiting task is parked. Its slot is given to it, and it is rescheduled, in one
  step. Cancelled before that, it leaves the queue. Cancelled after it, it runs on
  into `call_next`, which raises, and the slot goes on to the next.
- `_Slot.done` is told by the body (`when_closed`), or called where `call_next`
  raised; the second time it does nothing.
- There is no await between `call_next` and `when_closed`.

A response opened by `stream()` holds its slot until it is left. So a task that
asks again meanwhile holds two, and as many such tasks as there are slots would
wait for each other for ever: use a `timeout_s`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import attrs
import httpx
import trio

from .._waker import Waker
from ..errors import OptionError, QueueFull
from ..message import Priority
from ..options import check_flag, check_kind, check_number
from ._adaptive import AdaptiveLimit
from ._backend import backend_of
from ._body import when_closed
from ._call import call_of
from ._gate_books import Book, GateStatistics, PriorityStatistics
from ._layer import Crew, Layer, Next
from ._stage import set_stage
from ._turns import Turn, Turns
from ._urgency import KEY, Urgency, urgency_of

__all__ = [
    "Gate",
    "GateStatistics",
    "Patience",
    "PriorityStatistics",
]

#: RFC 9218, "Priority Parameters": 0 is the most urgent, 3 what a server assumes
#: without the header, 7 "background".
URGENCIES: Final = {Priority.CRITICAL: "u=0", Priority.HIGH: "u=2", Priority.LOW: "u=5"}

#: RFC 6585 and RFC 9110: the server, or what stands before it, has too much to do.
OVERLOADED: Final = (429, 503)


@attrs.frozen(kw_only=True)
class Patience:
    """How much later a more urgent call may arrive and still overtake, in seconds.

    Seen from the one that is overtaken, as the difference: a LOW call is overtaken
    by NORMAL ones that arrive up to `low_s - normal_s` later. CRITICAL overtakes
    always. `math.inf` for all is strict priority: then a lower one may starve.
    """

    high_s: float = attrs.field(default=2.0)
    normal_s: float = attrs.field(default=10.0)
    low_s: float = attrs.field(default=30.0)

    def __attrs_post_init__(self) -> None:
        check_number("Patience.high_s", self.high_s)
        check_number("Patience.normal_s", self.normal_s, least=self.high_s)
        check_number("Patience.low_s", self.low_s, least=self.normal_s)


class _Slot(Turn):
    __slots__ = ("error", "gate", "task")

    def __init__(self, gate: Gate, priority: Priority) -> None:
        super().__init__(priority)
        self.gate = gate
        #: Parked; or not (yet).
        self.task: trio.lowlevel.Task | None = None
        #: Why it may not wait any longer.
        self.error: Exception | None = None

    def check(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame

    def done(self) -> None:
        self.gate.leave(self)

    def raise_to(self, priority: Priority) -> None:
        self.gate.raise_to(self, priority)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        self.gate.leave(self)
        return trio.lowlevel.Abort.SUCCEEDED


_PATIENCE: Final = Patience()


class Gate(Layer):
    """Lets `max_concurrent` calls through at once, the most urgent first.

    `per_host` bounds each host and port besides; `open_client()` sets it to 6 unless it
    is given a gate, and a gate of one's own has no such bound by default.
    `reserve` slots of the above are for CRITICAL alone, so that slow calls of
    others cannot hold it up. `patience` is the order of the rest, `rate_per_s` how
    many may start in a second.

    More than `max_waiting` in the queue: the last to come of the lowest priority
    gives way to a more urgent newcomer, else the newcomer is refused; by `QueueFull`.

    `adaptive`: 429, 503 and httpx's timeouts before the response's headers lower
    the limit, other answers below 500 raise it again, up to `max_concurrent`.
    `priority_header` adds `Priority: u=` of RFC 9218 where the request has none.

    One gate is for one transport. When that closes, what waits and what is new
    raises `trio.ClosedResourceError`, and what runs has `close_grace_s` to end.
    """

    def __init__(
        self,
        max_concurrent: float = 6,
        *,
        per_host: float = math.inf,
        reserve: int = 0,
        patience: Patience = _PATIENCE,
        max_waiting: float = 1000,
        rate_per_s: float = math.inf,
        adaptive: bool = False,
        priority_header: bool = False,
        close_grace_s: float = 5.0,
    ) -> None:
        check_kind("patience", patience, Patience)
        check_flag("adaptive", adaptive)
        check_flag("priority_header", priority_header)
        check_number("per_host", per_host, least=1, whole=True)
        check_number("reserve", reserve, whole=True, finite=True)
        check_number("max_waiting", max_waiting, whole=True)
        check_number("rate_per_s", rate_per_s, above=True)
        check_number("close_grace_s", close_grace_s)
        _check_limit(max_concurrent, adaptive)
        if reserve >= min(max_concurrent, per_host):
            raise OptionError("reserve", "must be below max_concurrent and per_host", reserve)
        self._most = max_concurrent
        self._max_waiting = max_waiting
        self._adaptive = AdaptiveLimit(int(max_concurrent)) if adaptive else None
        self._one_host = per_host == math.inf
        self._priority_header = priority_header
        self._close_grace_s = close_grace_s
        self._turns = Turns(
            max_concurrent,
            patience_s={
                Priority.HIGH: patience.high_s,
                Priority.NORMAL: patience.normal_s,
                Priority.LOW: patience.low_s,
            },
            per_host=per_host,
            reserve=reserve,
            max_waiting=max_waiting,
            rate_per_s=rate_per_s,
        )
        self._books = [Book() for _ in Priority]
        self._closed = True
        self._idle: trio.Event | None = None
        self._clock: Callable[[], float] = trio.current_time
        # Only with a rate do calls start by time alone.
        self._pacer = None if rate_per_s == math.inf else Waker()
        self._pacer_wakes_at = -math.inf

    @property
    def max_concurrent(self) -> float:
        """How many calls may be let through at once. It can be set at any time.

        Lowered below what runs, nothing is cut off: the next start once enough have ended.
        """
        return self._most

    @max_concurrent.setter
    def max_concurrent(self, most: float) -> None:
        _check_limit(most, self._adaptive is not None)
        self._most = most
        if self._adaptive is not None:
            self._adaptive.most = int(most)
            most = self._adaptive.limit
        self._set_limit(most)

    def statistics(self) -> GateStatistics:
        turns = self._turns
        return GateStatistics(
            turns.limit,
            turns.waiting,
            turns.running,
            {
                priority: PriorityStatistics(
                    turns.waiting_of[priority],
                    turns.running_of[priority],
                    book.started,
                    book.refused,
                    book.quantile(0.5),
                    book.quantile(0.99),
                )
                for priority, book in zip(Priority, self._books, strict=True)
            },
        )

    def opened(self, crew: Crew) -> None:
        if not self._closed:
            raise OptionError("gate", "must not be open in another client", self)
        self._closed = False
        # Without looking up the run each time.
        self._clock = trio.lowlevel.current_clock().current_time
        if self._pacer is not None:
            crew.start(self._pace, self._pacer)

    async def closing(self) -> None:
        """Cancelled: what still runs is no longer waited for."""
        self._closed = True
        for turn in self._turns.clear():
            self._dismiss(turn, trio.ClosedResourceError("the HTTP client was closed"))
        if self._turns.running:
            self._idle = trio.Event()
            with trio.move_on_after(self._close_grace_s):
                await self._idle.wait()
        else:
            await trio.lowlevel.checkpoint()

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        """Cancelled while it waits, it leaves no trace; later, `call_next` decides."""
        if self._closed:
            raise trio.ClosedResourceError("the HTTP client is not open")
        slot = _Slot(self, call_of(request).priority)
        urgency: Urgency | None = request.extensions.get(KEY)
        if urgency is not None and urgency.priority > slot.priority:
            slot.priority = urgency.priority
        host = b"" if self._one_host else request.url.netloc
        if self._turns.enter(slot, host, self._clock()):
            self._books[slot.priority].started += 1
        else:
            await self._wait(slot, request)
        try:
            if self._priority_header:
                _add_header(request, slot.priority)
            if self._adaptive is None:
                response = await call_next(request)
            else:
                response = await self._watch(self._adaptive, request, call_next)
            when_closed(request, response, slot.done)
        except BaseException:
            slot.done()
            raise
        return response

    async def _wait(self, slot: _Slot, request: httpx.Request) -> None:
        """Return with the slot; raise without."""
        waiting = urgency_of(request).waiting
        waiting.append(slot)
        try:
            set_stage(request, "queue")
            self._serve()
            victim = self._turns.excess(slot)
            if victim is not None:
                self._books[victim.priority].refused += 1
                self._dismiss(victim, QueueFull(int(self._max_waiting)))
            if slot.place is not None:
                slot.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(slot.abort)
            slot.check()
            set_stage(request, "answer")
        finally:
            waiting.remove(slot)

    async def _watch(
        self, adaptive: AdaptiveLimit, request: httpx.Request, call_next: Next
    ) -> httpx.Response:
        """Call on, and learn from what comes of it."""
        epoch = adaptive.epoch
        try:
            response = await call_next(request)
        except backend_of(request).TimeoutException:
            adaptive.overloaded(epoch)
            self._set_limit(adaptive.limit)
            raise
        if response.status_code in OVERLOADED:
            adaptive.overloaded(epoch)
        elif response.status_code < 500:
            adaptive.succeeded()
        if adaptive.limit != self._turns.limit:
            self._set_limit(adaptive.limit)
        return response

    def raise_to(self, slot: _Slot, priority: Priority) -> None:
        """For `_Slot` alone: it waits with that priority."""
        if self._turns.raise_to(slot, priority):
            self._serve()  # a reserved slot may be free

    def leave(self, slot: _Slot) -> None:
        """For `_Slot` alone: it is over, or no longer waits."""
        turns = self._turns
        turns.leave(slot)
        if turns.waiting:
            self._serve()
        if self._idle is not None and not turns.running:
            self._idle.set()

    def _set_limit(self, limit: float) -> None:
        self._turns.limit = limit
        self._serve()

    def _serve(self) -> float:
        """Start whoever may, and return the time at which that was looked at."""
        turns = self._turns
        now = self._clock()
        if not turns.waiting:
            return now
        while (turn := turns.next(now)) is not None:
            book = self._books[turn.priority]
            book.started += 1
            book.add_wait(now - turn.arrived)
            self._dismiss(turn, None)
        if self._pacer is not None and turns.wake_at(now) < self._pacer_wakes_at:
            self._pacer.wake()
        return now

    def _dismiss(self, turn: Turn, error: Exception | None) -> None:
        """It waits no longer."""
        assert isinstance(turn, _Slot)
        turn.error = error
        if turn.task is not None:
            trio.lowlevel.reschedule(turn.task)

    async def _pace(self, pacer: Waker) -> None:
        """A task: starts what only the rate holds up."""
        while True:
            # Of the same moment: what is due an instant later is yet to be waited for.
            self._pacer_wakes_at = self._turns.wake_at(self._serve())
            await pacer.wait(self._pacer_wakes_at)


def _check_limit(most: object, adaptive: bool) -> None:
    check_number("max_concurrent", most, least=1, whole=True, finite=adaptive)


def _add_header(request: httpx.Request, priority: Priority) -> None:
    value: Any = URGENCIES.get(priority)
    if value is not None and "Priority" not in request.headers:
        request.headers["Priority"] = value

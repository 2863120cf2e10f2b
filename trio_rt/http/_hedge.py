"""A second copy of a call that takes unusually long: the first answer wins.

Theory. Most of the time beyond the 95th percentile is bad luck of one connection or
one server of many; a copy sent then costs 5 % more calls and cuts the tail (J. Dean,
L. A. Barroso, "The Tail at Scale", 2013). When everything is slow, copies only add
to it: so they are paid from the budget of the retries.

What is recorded of a call is the time from the start of its first copy to the answer: a
time above the quantile stays above it, hedged or not, so that hedging does not lower
the quantile that it acts on. An answer from 500 is no sample: failing can be fast.

The copies run in a nursery within the call. Each takes its own slot of the gate. What
the call raises is the error of a copy or the caller's cancellation, never a group.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Any, Final

import attrs
import httpx
import trio

from ..errors import OptionError
from ..options import check_kind, check_number
from ._attempt import is_replayable, shut
from ._backend import backend_of
from ._budget import Budget
from ._call import call_of
from ._layer import Layer, Next
from ._origins import Origins, origin_of
from ._policy import may_repeat

__all__ = ["Hedge", "HedgeStatistics", "Latencies"]

#: The last times of an origin that are remembered: one in twenty is five of them.
SAMPLES: Final = 100
#: With fewer the 95th percentile is the slowest of them, which is noise.
LEAST_SAMPLES: Final = 20
#: Origins whose times are kept: 1.5 MB.
ORIGINS: Final = 1000


class Latencies:
    """The last times that calls took."""

    __slots__ = ("_in_order", "_sorted")

    def __init__(self) -> None:
        self._in_order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, took_s: float) -> None:
        if len(self._in_order) == SAMPLES:
            del self._sorted[bisect_left(self._sorted, self._in_order.popleft())]
        self._in_order.append(took_s)
        insort(self._sorted, took_s)

    def quantile(self, part: float) -> float | None:
        """What `part` of them were below; None: there are too few."""
        if len(self._sorted) < LEAST_SAMPLES:
            return None
        return self._sorted[int(part * (len(self._sorted) - 1))]


@attrs.frozen
class HedgeStatistics:
    """Counts since the layer was made."""

    calls: int
    #: Copies beyond the first.
    copies: int
    #: Calls that such a copy answered.
    won: int
    #: Copies that the budget did not pay.
    unaffordable: int


class Hedge(Layer):
    """Send up to `max_copies` more copies of a call that has no answer yet.

    One after each `after_s` seconds, or after the time that the part `quantile` (0.95)
    of the last calls to the origin were faster than. Only one of both may be given. The
    first answer below 500 wins; one from 500 is returned, or an error raised, only when
    no copy is left. The other copies are cancelled and their answers closed, before the
    call returns.

    Only what may happen twice is hedged: idempotent methods and calls with an idempotency key,
    with a body in memory. A copy that lost may still be worked on by the server, at the
    same time as the caller's next call: where that is harm for `PUT` or `DELETE`, use
    no hedging. `Call.retries=0` forbids copies too.

    `budget` is that of the `Retry` outside of it; without one it has a `Budget()` of its
    own, which counts its calls. Cancelled: all copies are cancelled.
    """

    def __init__(
        self,
        after_s: float | None = None,
        *,
        quantile: float | None = None,
        max_copies: int = 1,
        budget: Budget | None = None,
    ) -> None:
        check_number("Hedge.max_copies", max_copies, least=1, whole=True, finite=True)
        if after_s is not None:
            check_number("Hedge.after_s", after_s, finite=True)
            if quantile is not None:
                raise OptionError("Hedge.quantile", "must not be given with after_s", quantile)
        quantile = 0.95 if quantile is None else quantile
        check_number("Hedge.quantile", quantile, above=True)
        if quantile >= 1:
            raise OptionError("Hedge.quantile", "must be below 1", quantile)
        if budget is not None:
            check_kind("Hedge.budget", budget, Budget)
        self._after_s = after_s
        self._quantile = quantile
        self._latencies = Origins(Latencies, ORIGINS)
        self.max_copies = max_copies
        self.budget = Budget() if budget is None else budget
        self._deposits = budget is None
        self._calls = self._copies = self._won = self._unaffordable = 0

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        self._calls += 1
        start = trio.current_time()
        if self._deposits:
            self.budget.deposit(start)
        if not _may_copy(request):
            return await call_next(request)
        if self._after_s is not None:
            return await _Race(self, call_next).run(request, self._after_s)
        latencies = self._latencies.of(origin_of(request.url))
        after_s = latencies.quantile(self._quantile)
        if after_s is None:
            response = await call_next(request)
        else:
            response = await _Race(self, call_next).run(request, after_s)
        if response.status_code < 500:
            latencies.add(trio.current_time() - start)
        return response

    def pay(self) -> bool:
        paid = self.budget.spend(trio.current_time())
        self._copies += paid
        self._unaffordable += not paid
        return paid

    def copy_won(self) -> None:
        self._won += 1

    def statistics(self) -> HedgeStatistics:
        return HedgeStatistics(self._calls, self._copies, self._won, self._unaffordable)


def _may_copy(request: httpx.Request) -> bool:
    call = call_of(request)
    return call.retries != 0 and may_repeat(
        request.method,
        has_key=call.idempotency_key is not None,
        replayable=is_replayable(request),
    )


class _Race:
    """The copies of one call."""

    __slots__ = ("_call_next", "_error", "_hedge", "_response", "_running", "_scope", "_spare")

    def __init__(self, hedge: Hedge, call_next: Next) -> None:
        self._hedge = hedge
        self._call_next = call_next
        self._running = 0
        #: The one that won.
        self._response: httpx.Response | None = None
        #: The first answer from 500, for the case that none wins.
        self._spare: httpx.Response | None = None
        self._error: Exception | None = None
        self._scope: trio.CancelScope

    async def run(self, request: httpx.Request, after_s: float) -> httpx.Response:
        # A layer below puts others in their place for as long as its try lasts.
        given = request.extensions
        try:
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                self._scope = nursery.cancel_scope
                self._start(nursery, request)
                for _ in range(self._hedge.max_copies):
                    await trio.sleep(after_s)
                    if not self._hedge.pay():
                        break
                    self._start(nursery, _copied(request, given), is_copy=True)
        except BaseExceptionGroup as group:
            ended = _one(group)
        else:
            return await self._result()
        for response in (self._response, self._spare):
            if response is not None:
                await shut(response)
        raise ended

    def _start(
        self, nursery: trio.Nursery, request: httpx.Request, *, is_copy: bool = False
    ) -> None:
        self._running += 1
        nursery.start_soon(self._try, request, is_copy)

    async def _try(self, request: httpx.Request, is_copy: bool) -> None:
        unwanted: httpx.Response | None = None
        try:
            response = await self._call_next(request)
        except Exception as error:
            self._error = self._error or error
        else:
            unwanted = self._take(response, is_copy)
        self._running -= 1
        if self._response is not None or not self._running:
            self._scope.cancel()
        if unwanted is not None:
            await shut(unwanted)

    def _take(self, response: httpx.Response, is_copy: bool) -> httpx.Response | None:
        """Keep it, or return it as one to be closed."""
        if response.status_code >= 500:
            if self._spare is not None:
                return response
            self._spare = response
        else:
            if self._response is not None:
                return response
            self._response = response
            if is_copy:
                self._hedge.copy_won()
        return None

    async def _result(self) -> httpx.Response:
        if self._response is not None:
            if self._spare is not None:
                await shut(self._spare)
            return self._response
        if self._spare is not None:
            return self._spare
        assert self._error is not None
        raise self._error


def _copied(request: httpx.Request, extensions: Any) -> httpx.Request:
    """Layers write into headers and extensions: each copy has its own of them."""
    return backend_of(request).Request(  # type: ignore[no-any-return]
        request.method,
        request.url,
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )


def _one(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended the copies: what is not a cancellation (Ctrl-C), else the cancellation."""
    error: BaseException = group.split(trio.Cancelled)[1] or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

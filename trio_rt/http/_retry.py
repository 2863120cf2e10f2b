"""Trying again: the layer. What it does is decided in `_policy` and `_budget`.

stamina and tenacity would bring a loop of this length, but not its budget, its
deadlines or the closing of responses, which are the work here.

A body that is to be read whole is read here, for only here can the call begin again;
above, it looks like one that is yet to come. Its slot is free when it has been read.

It belongs outside of the gate: a call that waits to be tried again holds no slot.
The response that is not wanted is closed before that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import httpx
import trio

from .._ambient import ambient
from ..options import check_kind
from ._attempt import advice_s, discard, failure_of, is_replayable, shut
from ._backend import backend_of
from ._budget import Budget
from ._call import Call, call_of
from ._layer import Crew, Layer, Next
from ._policy import STATUSES, Failure, Policy, may_repeat
from ._stage import KEY, set_stage

__all__ = ["Retry", "RetryStatistics"]


@attrs.frozen
class RetryStatistics:
    """Counts since the layer was made."""

    calls: int
    #: All tries, the first ones included.
    tries: int
    #: Calls that were tried more than once.
    retried: int
    #: Calls that ended with a failure that could have been tried again.
    given_up: int
    #: Those of them that ended for the budget alone.
    unaffordable: int
    #: Tries that the budget would pay at this moment.
    budget_left: float


def _is_repeatable(request: httpx.Request) -> bool:
    has_key = call_of(request).idempotency_key is not None
    return may_repeat(request.method, has_key=has_key, replayable=is_replayable(request))


def _is_whole(request: httpx.Request) -> bool:
    """Whether its body will be read to its end in any case, and is worth another try."""
    progress: Any = request.extensions.get(KEY)
    return progress is not None and progress.is_bounded and _is_repeatable(request)


async def _receive(request: httpx.Request, response: httpx.Response) -> None:
    """Have the body in memory. Failed or cancelled, the response is closed."""
    stream: Any = response.stream
    try:
        parts = []
        async for part in stream:
            parts.append(part)  # noqa: PERF401 - a comprehension has a frame of its own
        await stream.aclose()
    except BaseException:
        await shut(response)  # noqa: ASYNC102
        raise
    response.stream = backend_of(request).ByteStream(b"".join(parts))


class _Trials:
    """A call that has failed at least once."""

    __slots__ = ("count", "delays", "most", "repeatable")

    def __init__(self, policy: Policy, request: httpx.Request, call: Call) -> None:
        self.count = 0
        self.most = 1 + (policy.retries if call.retries is None else call.retries)
        self.repeatable = _is_repeatable(request)
        self.delays: Iterator[float] = policy.delays(ambient().random)


class Retry(Layer):
    """Try calls again that failed in passing.

    A call has at most `retries` more tries (`Call.retries` overrides it). Before the
    n-th of them is a random wait of up to `first_s * 2**(n-1)`, at most `cap_s`, and
    the server's `Retry-After` before that. One of more than `max_retry_after_s`, or past the
    caller's deadline, ends the call at once. So does an empty `budget`, by default
    a `Budget()` of its own.

    What may not happen twice is repeated only where no connection was made.
    `statuses` are the answers that are tried again. So is one whose body breaks off, where
    a `Client` reads it whole: it is read here then. A `stream()` is its reader's, and a
    plain `httpx.AsyncClient` does not say which it is. In the end the last response is
    returned, or the last error raised, with a note of the number of tries.

    Cancelled while it waits: nothing is left over.
    """

    def __init__(
        self,
        retries: int = 2,
        *,
        first_s: float = 0.25,
        cap_s: float = 10.0,
        max_retry_after_s: float = 60.0,
        statuses: Iterable[int] = STATUSES,
        budget: Budget | None = None,
    ) -> None:
        self._policy = Policy(
            retries=retries,
            first_s=first_s,
            cap_s=cap_s,
            max_retry_after_s=max_retry_after_s,
            statuses=statuses,
        )
        if budget is not None:
            check_kind("Retry.budget", budget, Budget)
        self._statuses = self._policy.statuses
        self.budget = Budget() if budget is None else budget
        #: Nothing is tried again any more.
        self._over = trio.Event()
        self._calls = self._tries = self._retried = self._given_up = self._unaffordable = 0

    def opened(self, crew: Crew) -> None:
        self._over = trio.Event()

    async def closing(self) -> None:
        """Wake what waits to be tried again: it raises `trio.ClosedResourceError`."""
        self._over.set()
        await trio.lowlevel.checkpoint()

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        call = call_of(request)
        self._calls += 1
        self.budget.deposit(trio.current_time())
        if call.idempotency_key is not None:
            request.headers["Idempotency-Key"] = call.idempotency_key
        trials: _Trials | None = None
        while True:
            self._tries += 1
            try:
                response = await call_next(request)
                if response.status_code not in self._statuses:
                    if _is_whole(request) and not response.is_closed:
                        await _receive(request, response)
                    return response
            except Exception as error:
                trials = trials or _Trials(self._policy, request, call)
                wait_s = self._wait_s(trials, failure_of(request, error), None)
                if wait_s is None:
                    if trials.count > 1:
                        error.add_note(f"tried {trials.count} times")
                    raise
            else:
                trials = trials or _Trials(self._policy, request, call)
                wait_s = self._wait_s(trials, "broken", advice_s(response))
                if wait_s is None:
                    return response
                await discard(response)
            set_stage(request, "backoff")
            with trio.move_on_after(wait_s):
                await self._over.wait()
                raise trio.ClosedResourceError("the HTTP client was closed")
            set_stage(request, "answer")

    def _wait_s(
        self, trials: _Trials, failure: Failure | None, advice_s: float | None
    ) -> float | None:
        """How long to wait before the next try, which is paid; None: there is none."""
        trials.count += 1
        if failure is None or not (trials.repeatable or failure == "unsent"):
            return None
        wait_s = None
        if trials.count < trials.most:
            now = trio.current_time()
            left_s = trio.current_effective_deadline() - now
            wait_s = self._policy.wait_s(next(trials.delays), advice_s, left_s)
            if wait_s is not None and not self.budget.spend(now):
                self._unaffordable += 1
                wait_s = None
        if wait_s is None:
            self._given_up += 1
        elif trials.count == 1:
            self._retried += 1
        return wait_s

    def statistics(self) -> RetryStatistics:
        return RetryStatistics(
            self._calls,
            self._tries,
            self._retried,
            self._given_up,
            self._unaffordable,
            self.budget.left(trio.current_time()),
        )

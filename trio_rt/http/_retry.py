"""Trying again: the layer. What it does is decided in `_policy` and `_budget`.

stamina and tenacity would bring a loop of this length, but not its budget, its
deadlines or the closing of responses, which are the work here.

It belongs outside of the gate: a call that waits to be tried again holds no slot.
The response that is not wanted is closed before that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
import httpx
import trio

from .._ambient import ambient
from ._attempt import advice_s, discard, failure_of, is_replayable
from ._budget import Budget
from ._call import Call, call_of
from ._layer import Layer, Next
from ._policy import STATUSES, Failure, Policy, may_repeat
from ._stage import set_stage

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


class _Trials:
    """A call that has failed at least once."""

    __slots__ = ("count", "delays", "most", "repeatable")

    def __init__(self, policy: Policy, request: httpx.Request, call: Call) -> None:
        self.count = 0
        self.most = 1 + (policy.retries if call.retries is None else call.retries)
        self.repeatable = may_repeat(
            request.method,
            has_key=call.idempotency_key is not None,
            replayable=is_replayable(request),
        )
        self.delays: Iterator[float] = policy.delays(ambient().random)


class Retry(Layer):
    """Try calls again that failed in passing.

    A call has at most `retries` more tries (`Call.retries` overrides it). Before the
    n-th of them is a random wait of up to `first_s * 2**(n-1)`, at most `cap_s`, and
    the server's `Retry-After` before that. One of more than `max_retry_after_s`, or past the
    caller's deadline, ends the call at once. So does an empty `budget`, by default
    a `Budget()` of its own.

    What may not happen twice is repeated only where no connection was made.
    `statuses` are the answers that are tried again. In the end the last response is
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
        self._statuses = self._policy.statuses
        self.budget = Budget() if budget is None else budget
        self._calls = self._tries = self._retried = self._given_up = self._unaffordable = 0

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
            except Exception as error:
                trials = trials or _Trials(self._policy, request, call)
                wait_s = self._wait_s(trials, failure_of(request, error), None)
                if wait_s is None:
                    if trials.count > 1:
                        error.add_note(f"tried {trials.count} times")
                    raise
            else:
                if response.status_code not in self._statuses:
                    return response
                trials = trials or _Trials(self._policy, request, call)
                wait_s = self._wait_s(trials, "broken", advice_s(response))
                if wait_s is None:
                    return response
                await discard(response)
            set_stage(request, "backoff")
            await trio.sleep(wait_s)
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

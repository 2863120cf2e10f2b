"""Known mistakes of the HTTP client: what each layer was designed against."""

from __future__ import annotations

from typing import Final

from .table import Mutant

__all__ = ["HTTP_MUTANTS"]

GATE: Final = "tests/http/test_gate.py"
TURNS: Final = "tests/http/test_turns.py"
RETRY: Final = "tests/http/test_retry.py"
BUDGET: Final = "tests/http/test_budget.py"
FRESHNESS: Final = "tests/http/test_freshness.py"
CACHE: Final = "tests/http/test_cache.py"
FLIGHTS: Final = "tests/http/test_flights.py"
TIMEOUT: Final = "tests/http/test_timeout.py"
REDIRECTS: Final = "tests/http/test_redirects.py"
NETWORK: Final = "tests/http/test_network.py"
POOL: Final = "tests/http/test_pool.py"
LIMITS: Final = "tests/http/test_limits.py"
HEDGE: Final = "tests/http/test_hedge.py"
CLIENT: Final = "tests/http/test_client.py"

HTTP_MUTANTS: Final = (
    # The queue
    Mutant(
        "http: slot kept by a call that failed",
        "trio_rt/http/_gate.py",
        "        except BaseException:\n            slot.done()\n            raise\n",
        "        except BaseException:\n            raise\n",
        (GATE,),
    ),
    Mutant(
        "http: a cancelled call stays in the queue",
        "trio_rt/http/_gate.py",
        "        self.gate.leave(self)\n        return trio.lowlevel.Abort.SUCCEEDED\n",
        "        self.task = None\n        return trio.lowlevel.Abort.SUCCEEDED\n",
        (GATE,),
    ),
    Mutant(
        "http: slot free before the body is read",
        "trio_rt/http/_gate.py",
        "            when_closed(request, response, slot.done)\n",
        "            slot.done()\n",
        (GATE,),
    ),
    Mutant(
        "http: one call too many",
        "trio_rt/http/_turns.py",
        "        return self.running < self.most and (\n",
        "        return self.running <= self.most and (\n",
        (TURNS,),
    ),
    Mutant(
        "http: CRITICAL waits like others",
        "trio_rt/http/_turns.py",
        "{**patience_s, _CRITICAL: -math.inf}",
        "{**patience_s, _CRITICAL: 0.0}",
        (TURNS,),
    ),
    Mutant(
        "http: a host's slot is lost",
        "trio_rt/http/_turns.py",
        "            host.take(priority, -1)\n",
        "",
        (TURNS,),
    ),
    Mutant(
        "http: the reserve is for all",
        "trio_rt/http/_turns.py",
        "        self.most_others = max(1, most - reserve)\n",
        "        self.most_others = most\n",
        (TURNS,),
    ),
    Mutant(
        "http: twice the rate",
        "trio_rt/http/_turns.py",
        "            self._window_s = burst / rate_per_s\n",
        "            self._window_s = burst / rate_per_s / 2\n",
        (TURNS,),
    ),
    Mutant(
        "http: no bound for one host by default",
        "trio_rt/http/_open.py",
        "        return Gate(max_concurrent, per_host=per_host)\n",
        "        return Gate(max_concurrent)\n",
        (CLIENT,),
    ),
    # Trying again
    Mutant(
        "http: slot held in the backoff",
        "trio_rt/http/_retry.py",
        "                await discard(response)\n",
        "",
        (RETRY,),
    ),
    Mutant(
        "http: a POST is repeated",
        "trio_rt/http/_policy.py",
        "    return replayable and (has_key or method in IDEMPOTENT)\n",
        "    return replayable\n",
        (RETRY,),
    ),
    Mutant(
        "http: any Retry-After is waited for",
        "trio_rt/http/_policy.py",
        "            if advice_s > self.max_retry_after_s:\n",
        "            if advice_s < 0:\n",
        (RETRY,),
    ),
    Mutant(
        "http: a wait past the deadline is begun",
        "trio_rt/http/_policy.py",
        "        return delay_s if delay_s < left_s else None\n",
        "        return delay_s\n",
        (RETRY,),
    ),
    Mutant(
        "http: a stream is read before it is given",
        "trio_rt/http/_retry.py",
        "    return progress is not None and progress.is_bounded and",
        "    return progress is not None and",
        (RETRY,),
    ),
    Mutant(
        "http: a cut body keeps its slot",
        "trio_rt/http/_retry.py",
        "        await shut(response)  # noqa: ASYNC102\n",
        "",
        (RETRY,),
    ),
    Mutant(
        "http: the backoff outlasts the client",
        "trio_rt/http/_retry.py",
        "        self._over.set()\n",
        "",
        (RETRY,),
    ),
    Mutant(
        "http: the floor comes on top of the share",
        "trio_rt/http/_budget.py",
        "        granted = max(self._floor, math.floor(self._share * window.total))\n",
        "        granted = self._floor + math.floor(self._share * window.total)\n",
        (BUDGET,),
    ),
    Mutant(
        "http: what was spent is never forgotten",
        "trio_rt/http/_budget.py",
        "            self.marked -= marked\n",
        "",
        (BUDGET,),
    ),
    Mutant(
        "http: the copy that lost stays open",
        "trio_rt/http/_hedge.py",
        "        if unwanted is not None:\n            await shut(unwanted)\n",
        "",
        (HEDGE,),
    ),
    # The cache
    Mutant(
        "http: fresh a moment too long",
        "trio_rt/http/_freshness.py",
        "    if over_s < 0:\n",
        "    if over_s <= 0:\n",
        (FRESHNESS,),
    ),
    Mutant(
        "http: no-store is stored",
        "trio_rt/http/_freshness.py",
        "    if wish.directives.no_store or (said.no_store and not said.must_understand):\n",
        "    if wish.directives.no_store:\n",
        (FRESHNESS,),
    ),
    Mutant(
        "http: Age does not count",
        "trio_rt/http/_freshness.py",
        "(age_s or 0.0) + delay_s",
        "delay_s",
        (FRESHNESS,),
    ),
    Mutant(
        "http: stale in spite of must-revalidate",
        "trio_rt/http/_freshness.py",
        '    if terms.must_revalidate:\n        return "validate"\n',
        "",
        (FRESHNESS,),
    ),
    Mutant(
        "http: Vary does not count",
        "trio_rt/http/_cache.py",
        "        if entry.terms.vary:\n",
        "        if False:\n",
        (CACHE,),
    ),
    Mutant(
        "http: a 304 about another response is believed",
        "trio_rt/http/_cache.py",
        "            if not confirmed:",
        "            if False:",
        (CACHE,),
    ),
    Mutant(
        "http: a POST leaves what is stored",
        "trio_rt/http/_cache.py",
        "        if response.status_code < 400:\n            self.shelf.forget(key_of(request.url))\n",
        "        if response.status_code < 400:\n",
        (CACHE,),
    ),
    # Single-flight
    Mutant(
        "http: a cancelled leader leaves its followers",
        "trio_rt/http/_flights.py",
        "        if not flight._seats:\n            self._end(flight, None)\n            return\n",
        "        self._end(flight, None)\n        return\n",
        (FLIGHTS,),
    ),
    Mutant(
        "http: who was to lead is cancelled, and the rest wait",
        "trio_rt/http/_flights.py",
        "                self.hand_over(flight)\n            raise\n",
        "                pass\n            raise\n",
        (FLIGHTS,),
    ),
    Mutant(
        "http: a leader is as urgent as it began",
        "trio_rt/http/_flights.py",
        "            raise_priority(self._request, seat.priority)\n",
        "",
        (FLIGHTS,),
    ),
    Mutant(
        "http: those that cannot share wait again and again",
        "trio_rt/http/_flights.py",
        "        self._alone[key] = trio.current_time() + ALONE_S\n",
        "        pass\n",
        (FLIGHTS,),
    ),
    # The limit of a call, and of its body
    Mutant(
        "http: a streamed body has no limit",
        "trio_rt/http/_timeout.py",
        "        with trio.CancelScope(deadline=progress.deadline):\n            return await",
        "        with trio.CancelScope():\n            return await",
        (TIMEOUT,),
    ),
    Mutant(
        "http: the stage is not told",
        "trio_rt/http/_stage.py",
        "        progress.stage = stage\n",
        "        pass\n",
        (RETRY,),
    ),
    Mutant(
        "http: only packed bytes are counted",
        "trio_rt/http/_limits.py",
        "        self.left -= len(piece)\n",
        "",
        (LIMITS,),
    ),
    # Redirects
    Mutant(
        "http: only Authorization stays behind",
        "trio_rt/http/_redirects.py",
        "        if lowered not in SAFE and not lowered.startswith(SAFE_PREFIXES):\n",
        '        if lowered == b"authorization":\n',
        (REDIRECTS,),
    ),
    Mutant(
        "http: a cookie without a domain goes along",
        "trio_rt/http/_redirects.py",
        "        if cookie.domain:\n",
        "        if True:\n",
        (REDIRECTS,),
    ),
    Mutant(
        "http: back at the first origin all is as before",
        "trio_rt/http/_redirects.py",
        "            left = before[1] or _origin(before[0])",
        "            left = _origin(before[0])",
        (REDIRECTS,),
    ),
    # Cancelling
    Mutant(
        "http: a new connection belongs to nobody",
        "trio_rt/http/_network.py",
        "        self._shield = trio.CancelScope(shield=True)\n",
        "        self._shield = trio.CancelScope()\n",
        (NETWORK,),
    ),
    Mutant(
        "http: a cancelled handshake forgets its socket",
        "trio_rt/http/_network.py",
        "                if not done:\n                    abort_stream(self._stream)\n",
        "                pass\n",
        (NETWORK,),
    ),
    Mutant(
        "http: what a failed call connected stays open",
        "trio_rt/http/_network.py",
        "        if self._stream is not None:\n            abort_stream(self._stream)\n",
        "",
        (NETWORK,),
    ),
    Mutant(
        "http: the generator of an upload is left",
        "trio_rt/http/_pool.py",
        "                    await content.aclose()\n",
        "                    pass\n",
        (POOL,),
    ),
    Mutant(
        "http: an interceptor loses a response",
        "trio_rt/http/_layer.py",
        "            for each in got:\n                await shut(each)\n            raise\n",
        "            raise\n",
        (CLIENT,),
    ),
)

"""An HTTP client for trio on httpx or httpx2: priority, cache, retries, deadlines.

    async with trio_rt.http.open_client("https://api.example.com") as client:
        user = await client.get("/users/7", as_=User, priority=Priority.HIGH)

From the bottom up; a module imports only from lower ones:

    _backend, _layer, _body, _call   the onion, and what travels through it
    _stage, _asked, _given, _unpack  where a call is; its arguments; its packed body
    _network, _pool, _connect        connections that are safe to cancel
    _limits                          bounded bodies
    _turns, _adaptive, _urgency,     the queue
    _gate_books, _gate
    _budget, _policy, _attempt,      failures: trying again, not trying, trying twice
    _retry, _circuit, _breaker, _hedge
    _freshness, _store, _shelf,      the cache
    _flights, _tee, _fetch, _cache
    _timeout, _redirects             the limit of a whole call; what a redirect takes along
    _authorize, _otel                interceptors for tokens and for traces
    _client, _open                   `Client` and `open_client()`
"""

from ._authorize import Authorize
from ._backend import BackendName, backend_of
from ._body import when_closed
from ._breaker import Breaker, BreakerStatistics
from ._budget import Budget
from ._cache import Cache, CacheStatistics
from ._call import CacheMode, Call, call_of
from ._client import Client, Options, Statistics, Verb
from ._connect import SafeConnect
from ._gate import Gate, Patience
from ._gate_books import GateStatistics, PriorityStatistics
from ._hedge import Hedge, HedgeStatistics
from ._layer import Crew, Intercept, Layer, Next, transport
from ._limits import BodyLimit
from ._open import open_client
from ._otel import Traced
from ._redirects import Redirects
from ._retry import Retry, RetryStatistics
from ._sqlite import SqliteStore
from ._store import MemoryStore, Store, StoreStatistics
from ._timeout import Timeout
from ._urgency import raise_priority

__all__ = [
    "Authorize",
    "BackendName",
    "BodyLimit",
    "Breaker",
    "BreakerStatistics",
    "Budget",
    "Cache",
    "CacheMode",
    "CacheStatistics",
    "Call",
    "Client",
    "Crew",
    "Gate",
    "GateStatistics",
    "Hedge",
    "HedgeStatistics",
    "Intercept",
    "Layer",
    "MemoryStore",
    "Next",
    "Options",
    "Patience",
    "PriorityStatistics",
    "Redirects",
    "Retry",
    "RetryStatistics",
    "SafeConnect",
    "SqliteStore",
    "Statistics",
    "Store",
    "StoreStatistics",
    "Timeout",
    "Traced",
    "Verb",
    "backend_of",
    "call_of",
    "open_client",
    "raise_priority",
    "transport",
    "when_closed",
]

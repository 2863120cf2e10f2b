"""The cache of a client: RFC 9111, stale-while-revalidate, stale-if-error, single-flight.

It belongs outside of retry and gate: a hit costs no slot. Every response says how
it came, in `response.extensions["trio_rt.cache"]`:

- "hit": stored and fresh; "stale": stored, no longer fresh, and allowed to answer;
- "revalidated": stored, and the origin said just now that it is still right;
- "coalesced": fetched by an equal call that was under way ("Single-flight" in
  `_flights`); "miss": from the origin.

Only what is read to its end is stored, as it is read: a caller that stops early
loses nothing but the entry. Only a call without wishes of its own (no
`Cache-Control`, cache mode "default") waits for another's answer.

A hit is a checkpoint for cancellation every time, and for the scheduler each
sixteenth time: a full one costs as much as the hit itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import attrs
import httpx
import msgspec
import trio

from .._ambient import ambient
from ..errors import HttpError, NotCached, OptionError
from ..options import check_flag, check_number
from ._attempt import discard, shut
from ._backend import backend_of
from ._body import CLOSE_S
from ._call import CacheMode, call_of
from ._directives import NO_WISH, Wish, variant_of, wish_of
from ._fetch import Cargo, Fetch, Parts, conditional, in_background, with_mode
from ._flights import Flight
from ._freshness import Entry, Rules, is_confirmed, may_stand_in, verdict
from ._layer import Crew, Layer, Next
from ._shelf import Shelf, key_of
from ._stage import set_stage
from ._store import MemoryStore, Store

__all__ = ["Cache", "CacheStatistics", "How"]

How: TypeAlias = Literal["hit", "stale", "revalidated", "coalesced", "miss"]

KEY: Final = "trio_rt.cache"

#: RFC 9110 and IANA's registry: what changes nothing.
_SAFE: Final = frozenset(
    ("GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY")
)

#: RFC 5861, section 4.
_ERRORS: Final = frozenset((500, 502, 503, 504))

_HITS_PER_TURN: Final = 16


@attrs.frozen(kw_only=True)
class CacheStatistics:
    """Calls by how they were answered; what is stored; `refreshes` begun behind a caller's back."""

    hits: int
    stale: int
    revalidated: int
    coalesced: int
    misses: int
    #: How often a response was put into the store.
    stored: int
    entries: int
    bytes: int
    refreshes: int
    store_errors: int


class Cache(Layer):
    """Answers from `store` where RFC 9111 allows it. `MemoryStore()` without one.

    How a response came is its `extensions["trio_rt.cache"]`: "hit", "stale",
    "revalidated", "coalesced" or "miss".

    Private by default: for one user. `shared=True` obeys what is said to shared
    caches, and stores neither `Set-Cookie` nor, as a rule, what `Authorization` got.

    `heuristic_s`: without explicit freshness a response with `Last-Modified` is
    fresh for a tenth of its time unchanged, at most this long; 0: not at all.
    `stale_while_revalidate_s` and `stale_if_error_s` apply where the server said
    nothing of it. `follow_s`: how long a call waits for an equal one that is under
    way, headers and body, before it asks the origin itself. At most `max_refreshes`
    run in the background, each at most `refresh_s`.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        shared: bool = False,
        heuristic_s: float = 0.0,
        stale_while_revalidate_s: float | None = None,
        stale_if_error_s: float | None = None,
        follow_s: float = 5.0,
        max_refreshes: int = 8,
        refresh_s: float = 30.0,
    ) -> None:
        for field, value in (
            ("heuristic_s", heuristic_s),
            (
                "stale_while_revalidate_s",
                0 if stale_while_revalidate_s is None else stale_while_revalidate_s,
            ),
            ("stale_if_error_s", 0 if stale_if_error_s is None else stale_if_error_s),
            ("follow_s", follow_s),
            ("refresh_s", refresh_s),
        ):
            check_number(field, value)
        check_number("max_refreshes", max_refreshes, whole=True)
        check_flag("shared", shared)
        if store is not None and not hasattr(store, "peek"):
            raise OptionError("store", "must be a Store", store)
        self.rules = Rules(
            shared=shared,
            heuristic_s=heuristic_s,
            stale_while_revalidate_s=stale_while_revalidate_s,
            stale_if_error_s=stale_if_error_s,
        )
        self.shelf = Shelf(MemoryStore() if store is None else store)
        self._parts = Parts(self.rules, self.shelf)
        self.flights = self._parts.flights
        self._follow_s = follow_s
        self._max_refreshes = max_refreshes
        self._refresh_s = refresh_s
        self._crew: Crew | None = None
        self._refreshing: set[trio.CancelScope] = set()
        self._refreshes = self._hits = self._stale = 0
        self._revalidated = self._coalesced = self._misses = 0

    def opened(self, crew: Crew) -> None:
        if self._crew is not None:
            raise OptionError("cache", "must not be open in another client", self)
        self.shelf.store.opened(crew)
        self._crew = crew

    async def closing(self) -> None:
        """Cancel the refreshes, and let the store write what it has."""
        self._crew = None
        for scope in self._refreshing:
            scope.cancel()
        await self.shelf.store.closing()

    def statistics(self) -> CacheStatistics:
        store = self.shelf.store.statistics()
        return CacheStatistics(
            hits=self._hits,
            stale=self._stale,
            revalidated=self._revalidated,
            coalesced=self._coalesced,
            misses=self._misses,
            stored=self.shelf.stored,
            entries=store.entries,
            bytes=store.bytes,
            refreshes=self._refreshes,
            store_errors=store.errors + self.shelf.errors,
        )

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        """Raises NotCached where only the cache may answer, and cannot.

        Cancelled: the fetch of this call is, too, unless an equal call waits for it;
        that one fetches anew.
        """
        if request.method not in ("GET", "HEAD"):
            return await self._change(request, call_next)
        wish = wish_of(request.headers.raw, request.url.netloc) or NO_WISH
        mode = call_of(request).cache
        if mode != "default":
            wish = _with_mode(wish, mode)
            request = with_mode(request, mode)
        if wish.special or wish.directives.no_store:
            return self._missed(await call_next(request))
        fetch = Fetch(self._parts, request, call_next, key_of(request.url), wish)
        if mode == "reload":
            return await self._fetch(fetch, None)
        return await self._answer(fetch, may_return=True)

    async def _answer(self, fetch: Fetch, *, may_return: bool) -> httpx.Response:
        entries = self.shelf.peek(fetch.key)
        if entries is None:
            entries = await self.shelf.entries(fetch.key)
        wish = fetch.wish
        entry, variant = _chosen(entries, fetch)
        if entry is not None:
            now = ambient().wall_s()
            how = verdict(entry.terms, wish, self.rules, now)
            if how == "fresh":
                return await self._hit(fetch.request, entry, now)
            if how != "validate":
                if how == "refresh":
                    self._refresh(fetch, entry)
                self._stale += 1
                await trio.lowlevel.checkpoint()
                return _made(fetch.request, entry, now, "stale")
        if wish.directives.only_if_cached:
            raise NotCached("nothing stored may answer this call")
        if wish.directives is NO_WISH.directives and fetch.request.method == "GET":
            key = (fetch.key, variant)
            if not self.flights.goes_alone(key):
                flight = self.flights.get(key)
                if flight is not None:
                    return await self._share(fetch, entry, flight, may_return)
                fetch.flight = self.flights.start(key)
        return await self._fetch(fetch, entry)

    async def _hit(self, request: httpx.Request, entry: Entry, now: float) -> httpx.Response:
        self._hits += 1
        if self._hits % _HITS_PER_TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        return _made(request, entry, now, "hit")

    async def _share(
        self, fetch: Fetch, entry: Entry | None, flight: Flight[Cargo], may_return: bool
    ) -> httpx.Response:
        """Wait for an equal call that is under way, and fetch where that does not help."""
        request = fetch.request
        set_stage(request, "queue")
        leads, cargo = await self.flights.follow(flight, call_of(request).priority, self._follow_s)
        set_stage(request, "answer")
        if leads:
            fetch.flight = flight
        elif cargo is not None:
            return await self._follow(fetch, entry, cargo, may_return)
        return await self._fetch(fetch, entry)

    async def _follow(
        self, fetch: Fetch, entry: Entry | None, cargo: Cargo, may_return: bool
    ) -> httpx.Response:
        request, terms = fetch.request, cargo.entry.terms
        now = ambient().wall_s()
        if cargo.entry.variant != variant_of(terms.vary, request.headers.raw, fetch.wish.own):
            # Only now it is known what these vary by: one flight for each variant.
            return await (
                self._answer(fetch, may_return=False) if may_return else self._fetch(fetch, entry)
            )
        if cargo.stale:
            self._stale += 1
            return _made(request, cargo.entry, now, "stale")
        if verdict(terms, fetch.wish, self.rules, now) == "validate":
            return await self._fetch(fetch, entry)
        self._coalesced += 1
        return _made(request, cargo.entry, now, "coalesced")

    async def _fetch(self, fetch: Fetch, entry: Entry | None) -> httpx.Response:
        """From the origin, or from `entry` if the origin says so or fails."""
        response = None
        try:
            if entry is None:
                response = await fetch.send(fetch.request)
            else:
                response = await self._validate(fetch, entry)
                if KEY in response.extensions:
                    return response
            if fetch.request.method == "GET":
                fetch.begin(response, replaces=entry is not None)
        except BaseException as error:
            fetch.cut(failed=isinstance(error, Exception))
            if response is not None:
                await shut(response)
            raise
        return self._missed(response)

    async def _validate(self, fetch: Fetch, entry: Entry) -> httpx.Response:
        request = fetch.request
        asked = conditional(request, entry.terms)
        try:
            response = await fetch.send(asked)
        except (backend_of(request).TransportError, HttpError):
            if not self._may_stand_in(fetch, entry):
                raise
            return self._stand_in(fetch, entry)
        if response.status_code == 304 and asked is not request:
            confirmed = is_confirmed(entry.terms, response.headers.raw)
            await discard(response)
            if not confirmed:  # about a response that is not stored here
                return await fetch.send(request)
            self._revalidated += 1
            entry = fetch.confirmed(entry, response)
            return _made(request, entry, ambient().wall_s(), "revalidated")
        if response.status_code in _ERRORS and self._may_stand_in(fetch, entry):
            await discard(response)
            return self._stand_in(fetch, entry)
        return response

    def _may_stand_in(self, fetch: Fetch, entry: Entry) -> bool:
        return may_stand_in(entry.terms, fetch.wish, self.rules, ambient().wall_s())

    def _stand_in(self, fetch: Fetch, entry: Entry) -> httpx.Response:
        self._stale += 1
        fetch.stand_in(entry)
        return _made(fetch.request, entry, ambient().wall_s(), "stale")

    def _missed(self, response: httpx.Response) -> httpx.Response:
        self._misses += 1
        response.extensions[KEY] = "miss"
        return response

    def _refresh(self, fetch: Fetch, entry: Entry) -> None:
        """Fetch it anew in the background, unless that is under way or too much is."""
        key = (fetch.key, entry.variant)
        if self._crew is None or fetch.request.method != "GET":
            return
        if len(self._refreshing) >= self._max_refreshes or self.flights.get(key) is not None:
            return
        self._refreshes += 1
        fetch.request = in_background(fetch.request)
        fetch.flight = self.flights.start(key)
        scope = trio.CancelScope()
        self._refreshing.add(scope)
        self._crew.start(self._run_refresh, fetch, entry, scope)

    async def _run_refresh(self, fetch: Fetch, entry: Entry, scope: trio.CancelScope) -> None:
        scope.deadline = trio.current_time() + self._refresh_s
        try:
            with scope:
                response = await self._fetch(fetch, entry)
                try:
                    await fetch.read(response)
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                        await response.aclose()
        except Exception:
            pass  # the next hit tries again, and beyond its grace the caller is told
        finally:
            self._refreshing.discard(scope)

    async def _change(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        """A method that may change what is stored: section 4.4. One that failed may have, too."""
        if request.method in _SAFE:
            return await call_next(request)
        try:
            response = await call_next(request)
        except BaseException:
            self.shelf.forget(key_of(request.url))
            raise
        if response.status_code < 400:
            self.shelf.forget(key_of(request.url))
            for name in ("location", "content-location"):
                where = response.headers.get(name)
                if where is not None:
                    self.shelf.forget_beside(request.url, where)
        return response


def _made(request: httpx.Request, entry: Entry, now: float, how: How) -> httpx.Response:
    module = backend_of(request)
    age_s = max(0, int(now - entry.terms.born_at))
    told: dict[str, object] = {"http_version": entry.version, KEY: how}
    if entry.reason:  # HTTP/2 has none, and the backends have their own then
        told["reason_phrase"] = entry.reason
    response: httpx.Response = module.Response(
        entry.status,
        headers=[*entry.headers, (b"Age", b"%d" % age_s)],
        stream=module.ByteStream(entry.body if request.method == "GET" else b""),
        extensions=told,
    )
    return response


def _chosen(entries: Sequence[Entry], fetch: Fetch) -> tuple[Entry | None, bytes]:
    """What is stored for this request, and its variant as far as it is known."""
    own = variant = fetch.wish.own
    for entry in entries:
        variant = own
        if entry.terms.vary:
            variant = variant_of(entry.terms.vary, fetch.request.headers.raw, own)
        if entry.variant == variant:
            return entry, variant
    return None, variant


def _with_mode(wish: Wish, mode: CacheMode) -> Wish:
    """`mode` in the words of `Cache-Control`. "reload" has none: it only skips the store."""
    asked: dict[str, object] = {}
    if mode == "no-store":
        asked["no_store"] = True
    elif mode == "no-cache":
        asked["no_cache"] = True
    elif mode == "only-if-cached":
        asked.update(only_if_cached=True, max_stale_s=math.inf)
    return msgspec.structs.replace(
        wish, directives=msgspec.structs.replace(wish.directives, **asked)
    )

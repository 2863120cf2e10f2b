"""One fetch for the cache: from the request's headers to the stored body, or to nothing.

A fetch that leads a flight ends it, whatever becomes of it; `Fetch` is where the
ways to that end meet. None of them waits, so no cancellation tears one.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

import attrs
import httpx
import msgspec
import trio

from .._ambient import ambient
from ..message import Priority
from ._backend import backend_of
from ._call import KEY as CALL_KEY
from ._call import CacheMode, call_of
from ._directives import NO_WISH, Wish, variant_of
from ._flights import Flight, Flights
from ._freshness import Entry, Headers, Rules, Terms, conditions, judged, kept, updated, verdict
from ._layer import Next
from ._shelf import Shelf
from ._tee import tee

__all__ = ["Cargo", "Fetch", "Parts", "conditional", "in_background", "with_mode"]


class Cargo(msgspec.Struct, frozen=True, gc=False):
    """What a flight brings its followers. `stale`: the origin failed, and it stands in."""

    entry: Entry
    stale: bool


class Parts:
    """What a cache is made of, so far as its fetches need it."""

    __slots__ = ("flights", "rules", "shelf")

    def __init__(self, rules: Rules, shelf: Shelf) -> None:
        self.rules = rules
        self.shelf = shelf
        self.flights: Flights[Cargo] = Flights()


class Fetch:
    """Made before the request is sent; told what comes of it. It is the `Sink` of its body."""

    __slots__ = (
        "_call_next",
        "_headers",
        "_parts",
        "_requested_at",
        "_response",
        "_since",
        "_terms",
        "flight",
        "key",
        "request",
        "wish",
    )  # fmt: skip

    def __init__(
        self, parts: Parts, request: httpx.Request, call_next: Next, key: str, wish: Wish
    ) -> None:
        self._parts = parts
        self._call_next = call_next
        self.request = request
        self.key = key
        self.wish = wish
        #: The flight that this leads.
        self.flight: Flight[Cargo] | None = None

    def send(self, request: httpx.Request) -> Awaitable[httpx.Response]:
        """Ask the origin."""
        if self.flight is not None:
            self.flight.send(request, call_of(request).priority)
        self._since = self._parts.shelf.turn
        self._requested_at = ambient().wall_s()
        return self._call_next(request)

    def begin(self, response: httpx.Response, *, replaces: bool) -> None:
        """A whole response begins: keep its body if it may be stored, in place of an older one."""
        parts = self._parts
        headers = response.headers.raw
        now = ambient().wall_s()
        terms = judged(
            response.status_code, headers, self.wish, parts.rules, self._requested_at, now
        )
        most_bytes = parts.shelf.store.max_body_bytes
        if terms is None or terms.length > most_bytes:
            if replaces and response.status_code < 500:
                parts.shelf.forget(self.key)
            self._go_alone()
            return
        if now >= terms.fresh_until and verdict(terms, NO_WISH, parts.rules, now) == "validate":
            self._go_alone()  # each follower would have to ask the origin all the same
        self._terms = terms
        self._response = response
        self._headers = headers
        tee(self.request, response, most_bytes, self)

    async def read(self, response: httpx.Response) -> None:
        """Read what `begin` has begun, as far as it is to be stored."""
        if response.is_closed or not hasattr(response.stream, "keeps"):
            return
        with trio.CancelScope() as scope:
            async for _ in response.stream:  # type: ignore[union-attr]
                if not response.stream.keeps:
                    # Not `break`: it would leave the pool's generators to the garbage collector.
                    scope.cancel()

    def whole(self, body: bytes) -> None:
        if self._terms.length not in (-1, len(body)):
            self.cut(failed=True)
            return
        response = self._response
        told = response.extensions
        entry = Entry(
            self._terms,
            self._variant(self._terms),
            response.status_code,
            told.get("http_version", b"HTTP/1.1"),
            told.get("reason_phrase", b""),
            kept(self._headers),
            body,
        )
        self.land(entry)

    def too_large(self) -> None:
        self._go_alone()

    def cut(self, *, failed: bool) -> None:
        flight, self.flight = self.flight, None
        if flight is None:
            return
        if failed:
            self._parts.flights.disband(flight)
        else:
            self._parts.flights.hand_over(flight)

    def confirmed(self, entry: Entry, response: httpx.Response) -> Entry:
        """`response` is a 304 about `entry`, which lives on with newer headers."""
        told = response.headers.raw
        headers = updated(entry.headers, told)
        age = [(name, value) for name, value in told if name.lower() == b"age"]
        now = ambient().wall_s()
        terms = judged(
            entry.status, [*headers, *age], self.wish, self._parts.rules, self._requested_at, now
        )
        if terms is None:
            self._parts.shelf.forget(self.key)
            self._go_alone()
            return msgspec.structs.replace(entry, headers=headers)
        entry = msgspec.structs.replace(
            entry, terms=terms, variant=self._variant(terms), headers=headers
        )
        if verdict(terms, NO_WISH, self._parts.rules, now) == "validate":
            self._go_alone()
        self.land(entry)
        return entry

    def land(self, entry: Entry) -> None:
        if not self._parts.shelf.keep(self.key, entry, self._since):
            self.cut(failed=True)  # changed by somebody meanwhile
            return
        self._deliver(Cargo(entry, False))

    def stand_in(self, entry: Entry) -> None:
        self._deliver(Cargo(entry, True))

    def _deliver(self, cargo: Cargo) -> None:
        flight, self.flight = self.flight, None
        if flight is not None:
            self._parts.flights.land(flight, cargo)

    def _variant(self, terms: Terms) -> bytes:
        if not terms.vary:
            return self.wish.own
        return variant_of(terms.vary, self.request.headers.raw, self.wish.own)

    def _go_alone(self) -> None:
        if self.flight is not None:
            self._parts.flights.go_alone(self.flight.key)
            self.cut(failed=True)


def conditional(request: httpx.Request, terms: Terms) -> httpx.Request:
    """`request`, to be answered by a 304 if what is stored is still right."""
    asks = conditions(terms)
    if not asks:
        return request
    return _copy(request, [*request.headers.raw, *asks], request.extensions)


#: As the Fetch standard has it, so that caches on the way obey the mode, too.
_MODE_HEADERS: Final[dict[str, Headers]] = {
    "no-cache": [(b"Cache-Control", b"max-age=0")],
    "no-store": [(b"Cache-Control", b"no-cache"), (b"Pragma", b"no-cache")],
    "reload": [(b"Cache-Control", b"no-cache"), (b"Pragma", b"no-cache")],
}


def with_mode(request: httpx.Request, mode: CacheMode) -> httpx.Request:
    """`request` with what `mode` says to caches on the way, unless it says something itself."""
    headers = request.headers.raw
    if mode not in _MODE_HEADERS or any(name.lower() == b"cache-control" for name, _ in headers):
        return request
    return _copy(request, headers + _MODE_HEADERS[mode], request.extensions)


#: Of one call alone: its deadline and its place in the queue.
_OF_CALL: Final = "trio_rt"


def in_background(request: httpx.Request) -> httpx.Request:
    """`request` as one of low priority that nobody waits for."""
    told = {key: value for key, value in request.extensions.items() if key[:7] != _OF_CALL}
    told[CALL_KEY] = attrs.evolve(call_of(request), priority=Priority.LOW, timeout_s=None)
    return _copy(request, request.headers.raw, told)


def _copy(request: httpx.Request, headers: Headers, extensions: dict[str, Any]) -> httpx.Request:
    new: httpx.Request = backend_of(request).Request(
        request.method, request.url, headers=headers, extensions=extensions, stream=request.stream
    )
    return new

"""Single-flight: of equal calls at the same time one asks the origin, and the rest wait.

The *leader* fetches in its own task, so a lonely miss pays for no task switch. It
ends its flight in one of three ways, none of which waits:

- `land(flight, cargo)`: the response is stored whole; every follower gets `cargo`;
- `disband(flight)`: nothing to share (not storable, or an error). All followers
  go on at once, each by itself: behind one another they would be a convoy;
- `hand_over(flight)`: the leader was cancelled, or left the body unread. The
  follower that waits longest leads now, and the rest go on waiting. With no
  follower left the flight is gone, as its fetch is: nobody wanted it any more.

A follower that is cancelled takes its seat with it. The leader's request waits
in the gate with the highest priority among its followers. Keys found not to be
shareable are remembered for a while (`go_alone`), so that nobody waits for such.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final, Generic, TypeVar

import httpx
import trio

from ..message import Priority
from ._store import Recent
from ._urgency import raise_priority

__all__ = ["Flight", "Flights"]

T = TypeVar("T")

#: Long enough that a busy key waits seldom, short enough that one odd answer
#: (a 500, a maintenance page) does not spoil it for long.
ALONE_S: Final = 10.0

_WAITS: Final = object()
_LEADS: Final = object()


class _Seat:
    __slots__ = ("priority", "told", "woken")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.told: Any = _WAITS
        self.woken = trio.Event()


class Flight(Generic[T]):
    """One fetch that others may wait for."""

    __slots__ = ("_request", "_seats", "key", "priority")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.priority = Priority.LOW
        self._request: httpx.Request | None = None
        self._seats: dict[_Seat, None] | None = None

    @property
    def followers(self) -> int:
        return len(self._seats or ())

    def send(self, request: httpx.Request, priority: Priority) -> None:
        """The leader sends `request` now, made with `priority`."""
        self._request = request
        if self._seats:
            most = max([seat.priority for seat in self._seats])
            if most > priority:
                raise_priority(request, most)
                priority = most
        self.priority = priority

    def _add(self, seat: _Seat) -> None:
        if self._seats is None:
            self._seats = {}
        self._seats[seat] = None
        if self._request is not None and seat.priority > self.priority:
            self.priority = seat.priority
            raise_priority(self._request, seat.priority)


class Flights(Generic[T]):
    """The flights of the moment, at most one for each key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight[T]] = {}
        self._alone: Recent[Hashable] = Recent()

    def __len__(self) -> int:
        return len(self._flights)

    def get(self, key: Hashable) -> Flight[T] | None:
        return self._flights.get(key)

    def start(self, key: Hashable) -> Flight[T]:
        """Lead a new flight. The caller ends it, whatever happens."""
        flight = self._flights[key] = Flight(key)
        return flight

    def land(self, flight: Flight[T], cargo: T) -> None:
        self._end(flight, cargo)

    def disband(self, flight: Flight[T]) -> None:
        self._end(flight, None)

    def hand_over(self, flight: Flight[T]) -> None:
        if not flight._seats:
            self._end(flight, None)
            return
        seat = next(iter(flight._seats))
        del flight._seats[seat]
        flight._request = None
        _tell(seat, _LEADS)

    def go_alone(self, key: Hashable) -> None:
        """For the next 10 s nobody is to wait for this key."""
        self._alone[key] = trio.current_time() + ALONE_S

    def goes_alone(self, key: Hashable) -> bool:
        until = self._alone[key]
        return until != 0.0 and trio.current_time() < until

    async def follow(
        self, flight: Flight[T], priority: Priority, timeout_s: float
    ) -> tuple[bool, T | None]:
        """Wait for the end of `flight`: whether to lead it now, and else the cargo or None.

        None after `timeout_s`, too. Cancelled: the flight goes on without this follower.
        """
        seat = _Seat(priority)
        flight._add(seat)
        try:
            with trio.move_on_after(timeout_s):
                await seat.woken.wait()
        except BaseException:
            if seat.told is _LEADS:  # in the very turn in which it was cancelled
                self.hand_over(flight)
            raise
        finally:
            if seat.told is _WAITS and flight._seats is not None:
                del flight._seats[seat]
        if seat.told is _LEADS:
            return True, None
        return False, None if seat.told is _WAITS else seat.told

    def _end(self, flight: Flight[T], cargo: T | None) -> None:
        del self._flights[flight.key]
        seats, flight._seats = flight._seats, None
        for seat in seats or ():
            _tell(seat, cargo)


def _tell(seat: _Seat, told: Any) -> None:
    seat.told = told
    seat.woken.set()

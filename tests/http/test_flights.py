"""Single-flight: one leads, the rest wait, and nobody is left behind."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rt.http._flights import ALONE_S, Flight, Flights
from trio_rt.http._urgency import urgency_of
from trio_rt.message import Priority

from .scripted import request_of

NORMAL, HIGH = Priority.NORMAL, Priority.HIGH


class Desk:
    """Followers of one flight, and what each was told."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.flights: Flights[str] = Flights()
        self.flight = self.flights.start("key")
        self.told: list[tuple[str, bool, str | None]] = []
        self._nursery = nursery

    async def follow(
        self, name: str, priority: Priority = NORMAL, timeout_s: float = 100.0
    ) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                leads, cargo = await self.flights.follow(self.flight, priority, timeout_s)
                self.told.append((name, leads, cargo))

        self._nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        return scope


async def test_landing(autojump_clock: MockClock) -> None:
    """All followers get the cargo, and the flight is gone."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        await desk.follow("a")
        await desk.follow("b")
        desk.flights.land(desk.flight, "cargo")
        assert desk.flights.get("key") is None
    assert sorted(desk.told) == [("a", False, "cargo"), ("b", False, "cargo")]


async def test_disbanding(autojump_clock: MockClock) -> None:
    """All followers go on at once, with nothing."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        await desk.follow("a")
        await desk.follow("b")
        desk.flights.disband(desk.flight)
        await wait_all_tasks_blocked()
        assert sorted(desk.told) == [("a", False, None), ("b", False, None)]
    assert len(desk.flights) == 0


async def test_handing_over(autojump_clock: MockClock) -> None:
    """The follower that waits longest leads; the rest wait on; at the end nothing is left."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        await desk.follow("a")
        await desk.follow("b")
        desk.flights.hand_over(desk.flight)
        await wait_all_tasks_blocked()
        assert desk.told == [("a", True, None)]
        assert desk.flights.get("key") is desk.flight
        desk.flights.land(desk.flight, "cargo")
    assert desk.told[1:] == [("b", False, "cargo")]
    lonely = desk.flights.start("other")
    desk.flights.hand_over(lonely)
    assert len(desk.flights) == 0


async def test_cancelled_followers(autojump_clock: MockClock) -> None:
    """A follower that leaves is never made the leader."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        scope = await desk.follow("a")
        await desk.follow("b")
        scope.cancel()
        await wait_all_tasks_blocked()
        assert desk.flight.followers == 1
        desk.flights.hand_over(desk.flight)
    assert desk.told == [("b", True, None)]


async def test_cancelled_as_it_is_told(autojump_clock: MockClock) -> None:
    """Told to lead and cancelled in one turn: it learns that it leads, and may hand over."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        scope = await desk.follow("a")
        desk.flights.hand_over(desk.flight)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert desk.told == [("a", True, None)]


async def test_all_cancelled_at_once(autojump_clock: MockClock) -> None:
    """A follower that is told to lead when it is cancelled already hands over, too."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        scopes = [await desk.follow(name) for name in "abc"]
        for scope in scopes[:2]:
            scope.cancel()
        desk.flights.hand_over(desk.flight)
        await wait_all_tasks_blocked()
        assert desk.told == [("c", True, None)]
        desk.flights.hand_over(desk.flight)
        assert len(desk.flights) == 0


async def test_impatient_followers(autojump_clock: MockClock) -> None:
    """After its time a follower goes on with nothing, and its seat is free."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        await desk.follow("a", timeout_s=5.0)
        await trio.sleep(4.9)
        assert not desk.told
        await trio.sleep(0.2)
        assert desk.told == [("a", False, None)]
        assert desk.flight.followers == 0


async def test_alone(autojump_clock: MockClock) -> None:
    """A key that is not shareable is remembered for ten seconds."""
    flights: Flights[str] = Flights()
    flights.go_alone("key")
    assert flights.goes_alone("key")
    assert not flights.goes_alone("other")
    await trio.sleep(ALONE_S)
    assert not flights.goes_alone("key")


async def test_inheritance(autojump_clock: MockClock) -> None:
    """The request under way is as urgent as its most urgent follower, and so is the next leader's."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        first, second = request_of("httpx"), request_of("httpx")
        desk.flight.send(first, NORMAL)
        assert "trio_rt.urgency" not in first.extensions
        await desk.follow("a")
        await desk.follow("b", HIGH)
        assert urgency_of(first).priority is HIGH
        desk.flights.hand_over(desk.flight)
        desk.flight.send(second, NORMAL)
        assert urgency_of(second).priority is HIGH
        desk.flights.disband(desk.flight)


async def test_no_lowering(autojump_clock: MockClock) -> None:
    """A follower of no higher priority changes nothing."""
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        request = request_of("httpx")
        before = dict(request.extensions)
        desk.flight.send(request, HIGH)
        await desk.follow("a", HIGH)
        assert request.extensions == before
        desk.flights.disband(desk.flight)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_events(seed: int) -> None:
    """Leaders that land, fail or hand over, followers that leave: all come to an end, none twice."""
    draw = random.Random(seed)
    flights: Flights[int] = Flights()
    ends: list[str] = []

    async def lead(flight: Flight[int]) -> str:
        try:
            await trio.sleep(draw.random())
        except trio.Cancelled:
            flights.hand_over(flight)
            raise
        if draw.random() < 0.5:
            flights.disband(flight)
        else:
            flights.land(flight, 1)
        return "led"

    async def call() -> None:
        await trio.sleep(draw.random() * 3)
        with trio.move_on_after(draw.random() * 2) as scope:
            flight = flights.get("key")
            if flight is None:
                ends.append(await lead(flights.start("key")))
                return
            leads, cargo = await flights.follow(flight, NORMAL, 1.0)
            ends.append(await lead(flight) if leads else f"got {cargo}")
        if scope.cancelled_caught:
            ends.append("cancelled")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(call)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len(ends) == 40
    assert len(flights) == 0

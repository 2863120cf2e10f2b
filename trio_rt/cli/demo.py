"""The demo: a server, a client, a network that keeps breaking, and the books.

    serve            sends and receives a load of mixed priorities
    relay            between the two, on real sockets; its links are cut
    connect          sends and receives such a load too, and never stops

At the end every message is accounted for, at both ends; see `_books`. Every cut is a
reset that throws away what is in flight. In a session it is sent again: nothing is lost
and nothing comes twice. With `plain` there is none, and the books show what that costs.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import attrs
import trio

from .._connect import connect
from .._connection import Connection
from .._endpoint import WhenOffline
from .._peer import Peer
from .._server import Server, serve_listeners
from .._states import StateStream
from .._subscription import Stream
from ..message import Gap, Message, Priority, Reset
from ..options import OutboxLimits, Reconnect, WireName
from ..protocol.lifecycle import Phase
from ..testing import Relay, serve_relay
from ._books import Books, Note, Report, percentile

__all__ = ["Plan", "Progress", "run_demo"]

#: Sends in a row, before the load looks at its clock.
BURST: Final = 25
#: No message of the load is shorter, so that fewer bytes end inside one.
LEAST_MESSAGE_BYTES: Final = 64
#: The texts of the load are shorter than this.
TEXT_CHARACTERS: Final = 120
#: Fewer than a second's worth of the load, so that a slow redial fills it.
OUTBOX: Final = OutboxLimits(messages=300)
#: Faster than the defaults: a demo has no crowd of clients to spread.
RECONNECT: Final = Reconnect(first_s=0.05, cap_s=0.4, min_uptime_s=0.1)
#: LOW messages that a CRITICAL one has to overtake.
BACKLOG: Final = 250
#: A slow machine may take so much longer than planned, and then something hangs.
PATIENCE: Final = 3.0
PATIENCE_S: Final = 20.0


@attrs.frozen(kw_only=True)
class Plan:
    """What to do. `messages` is the least number each way, spread over `seconds`."""

    messages: int = 10_000
    cuts: int = 20
    seconds: float = 8.0
    seed: int = 0
    plain: bool = False
    wire: WireName = "websockets"


@attrs.frozen(kw_only=True)
class Progress:
    """How far it is, for those who watch."""

    sent: int
    received: int
    cuts: int
    phase: Phase


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of message in the load."""

    type: str
    priority: Priority
    #: How many in a hundred are of this kind.
    share: int
    #: Different `key`s that it is sent with.
    keys: int = 0
    ttl_s: float | None = None
    when_offline: WhenOffline = "queue"


KINDS: Final = (
    Kind(type="alarm", priority=Priority.CRITICAL, share=2),
    Kind(type="order", priority=Priority.HIGH, share=10),
    Kind(type="chat", priority=Priority.NORMAL, share=48),
    Kind(type="typing", priority=Priority.NORMAL, share=5, ttl_s=0.02),
    Kind(type="price", priority=Priority.LOW, share=15, keys=8),
    Kind(type="cursor", priority=Priority.LOW, share=20, when_offline="drop"),
)


class Load:
    """Sends messages of all kinds into one direction, and books them."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.books = Books()
        self._random = random.Random(f"{plan.seed} {name}")
        self._step_s = plan.seconds / plan.messages
        self._started_at = trio.current_time()

    async def send(self, end: Connection | Peer, until: Callable[[], bool]) -> None:
        """Keep sending, at the plan's pace. A peer that is gone ends it too."""
        try:
            while not until():
                await trio.sleep_until(self._started_at + self.books.next_number * self._step_s)
                for _ in range(BURST):
                    await self._send_one(end)
        except trio.ClosedResourceError:
            pass

    def draw(self) -> tuple[Kind, str]:
        """What to send next: a kind, and some text."""
        (kind,) = self._random.choices(KINDS, [kind.share for kind in KINDS])
        return kind, "x" * self._random.randrange(TEXT_CHARACTERS)

    async def _send_one(self, end: Connection | Peer) -> None:
        kind, text = self.draw()
        number = self.books.next_number
        delivery = await end.send(
            kind.type,
            Note(number, text),
            priority=kind.priority,
            key=f"{kind.type}-{number % kind.keys}" if kind.keys else None,
            ttl_s=kind.ttl_s,
            when_offline=kind.when_offline,
        )
        self.books.accepted(delivery)


async def take(stream: Stream[Message[Note] | Gap | Reset], books: Books) -> None:
    """Book what arrives, until the connection is over."""
    with stream:
        async for item in stream:
            books.arrived(item)


class Recoveries:
    """Watches the connection: how often, and how fast, it came back."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.resumed = 0
        self.back = trio.Event()
        self.phase = Phase.CONNECTING
        self._lost_at: float | None = None

    async def watch(self, states: StateStream) -> None:
        async for state in states:
            self.phase = state.phase
            if state.phase is Phase.CONNECTED:
                self.resumed += state.resumed
                self._came_back()
            elif state.phase is Phase.RECONNECTING and self._lost_at is None:
                self._lost_at = trio.current_time()

    def _came_back(self) -> None:
        if self._lost_at is not None:
            self.times_s.append(trio.current_time() - self._lost_at)
            self._lost_at = None
        self.back.set()
        self.back = trio.Event()


class Saboteur:
    """Cuts the link again and again."""

    def __init__(self, plan: Plan, recoveries: Recoveries) -> None:
        self.at_any_moment = 0
        self.torn = 0
        self._plan = plan
        self._recoveries = recoveries
        self._random = random.Random(f"{plan.seed} cuts")
        self._started_at = trio.current_time()

    @property
    def cuts(self) -> int:
        return self.at_any_moment + self.torn

    @property
    def done(self) -> bool:
        return self.cuts >= self._plan.cuts

    async def run(self, conn: Connection, relay: Relay) -> None:
        pause_s = self._plan.seconds / (self._plan.cuts + 1)
        while not self.done:
            await trio.sleep_until(self._started_at + (self.cuts + 1) * pause_s)
            await conn.wait_connected()
            back = self._recoveries.back
            if self.cuts % 2:
                # After a few bytes of one more message, of either end.
                relay.cut_after(self._random.randrange(1, LEAST_MESSAGE_BYTES))
                self.torn += 1
            else:
                relay.rst()
                self.at_any_moment += 1
            await back.wait()


class Demo:
    """Both ends, and the network between them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._up = Load(plan, "client to server")
        self._down = Load(plan, "server to client")
        self._recoveries = Recoveries()
        self._saboteur = Saboteur(plan, self._recoveries)
        self._peers: list[Peer] = []
        self._served = trio.Event()
        self._conn: Connection
        self._relay: Relay

    async def run(self) -> Report:
        started_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            server: Server = await nursery.start(
                partial(serve_listeners, self._serve, listeners, outbox=OUTBOX)
            )
            self._relay = await nursery.start(serve_relay, "127.0.0.1", server.port)
            await self._run_client(f"ws://127.0.0.1:{self._relay.port}")
            await self._served.wait()
            nursery.cancel_scope.cancel()
        return self._report(trio.current_time() - started_at)

    # The server's end

    async def _serve(self, peer: Peer) -> None:
        """The handler: once for a session, or for every plain link."""
        self._peers.append(peer)
        self._served = served = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, peer.subscribe(as_=Note), self._up.books)
            await self._down.send(peer, self._is_done)
        served.set()

    def _is_done(self) -> bool:
        least = min(self._up.books.next_number, self._down.books.next_number)
        return least >= self._plan.messages and self._saboteur.done

    # The client's end

    async def _run_client(self, url: str) -> None:
        connection = connect(
            url,
            session="off" if self._plan.plain else "require",
            reconnect=RECONNECT,
            outbox=OUTBOX,
            wire=self._plan.wire,
        )
        async with trio.open_nursery() as nursery, connection as conn:
            self._conn = conn
            self._listen(conn, nursery.start_soon)
            async with trio.open_nursery() as loads:
                loads.start_soon(self._saboteur.run, conn, self._relay)
                loads.start_soon(self._up.send, conn, self._is_done)
            await self._settle()
            await self._overtake()

    def _listen(self, conn: Connection, start: Callable[..., None]) -> None:
        """Start what ends with the connection, and is given what it still had."""
        start(self._recoveries.watch, conn.watch_states())
        start(take, conn.subscribe(as_=Note), self._down.books)

    async def _settle(self) -> None:
        """Wait until both ends know what became of everything sent."""
        await self._conn.drain()
        await self._peers[-1].drain()

    async def _overtake(self) -> None:
        """Queue a backlog while the server cannot be reached, and an alarm behind it."""
        back = self._recoveries.back
        self._relay.refuse()
        self._relay.rst()
        books = self._up.books
        with self._conn.watch_states() as states:
            while (await states.receive()).phase is Phase.CONNECTED:
                pass
        for _ in range(BACKLOG):
            note = Note(books.next_number)
            books.accepted(await self._conn.send("backlog", note, priority=Priority.LOW))
        note = Note(books.next_number)
        books.accepted(await self._conn.send("alarm", note, priority=Priority.CRITICAL))
        self._relay.accept()
        self._conn.retry_now()
        await back.wait()
        await self._settle()

    # The books

    def progress(self) -> Progress:
        loads = (self._up.books, self._down.books)
        return Progress(
            sent=sum(books.next_number for books in loads),
            received=sum(len(books.arrivals) for books in loads),
            cuts=self._saboteur.cuts,
            phase=self._recoveries.phase,
        )

    def _report(self, seconds: float) -> Report:
        up = self._up.books
        alarm = up.next_number - 1
        arrivals = up.arrivals
        behind = arrivals[arrivals.index(alarm) :] if alarm in arrivals else []
        recoveries = self._recoveries.times_s
        return Report(
            seed=self._plan.seed,
            plain=self._plan.plain,
            seconds=seconds,
            client_to_server=up.close([self._conn.statistics()]),
            server_to_client=self._down.books.close([peer.statistics() for peer in self._peers]),
            cuts_at_any_moment=self._saboteur.at_any_moment,
            cuts_in_mid_frame=self._saboteur.torn,
            reconnects=len(recoveries),
            resumed=self._recoveries.resumed,
            recovery_p50_s=percentile(recoveries, 0.5),
            recovery_p99_s=percentile(recoveries, 0.99),
            backlog=BACKLOG,
            overtaken=sum(alarm - BACKLOG <= number < alarm for number in behind),
        ).judged()


async def run_demo(
    plan: Plan, watch: Callable[[Callable[[], Progress]], Awaitable[None]]
) -> Report:
    """Carry out `plan` and count. `watch(progress)` runs beside it, and is cancelled at the end.

    Cancelling stops everything. Raises `trio.TooSlowError` if it takes much
    longer than planned: then something hangs.
    """
    demo = Demo(plan)
    with trio.fail_after(PATIENCE * plan.seconds + PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, demo.progress)
            report = await demo.run()
            nursery.cancel_scope.cancel()
    return report

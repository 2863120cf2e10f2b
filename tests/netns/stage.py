"""A server and a client that talk both ways, and a scenario that disturbs them."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias, get_args

import attrs
import trio

from trio_rt import Liveness, Phase, RawConnection, RawPeer, Reconnect, Server, connect, serve
from trio_rt.options import WireName

from . import kernel
from .books import LIGHT, Books, Link, Load

__all__ = ["CLOSE_S", "WIRES", "Act", "Late", "Scenario", "Skipped", "Stage", "play"]

#: Those of `connect()`.
WIRES: Final = get_args(WireName)

#: `close_timeout_s` of both ends.
CLOSE_S: Final = 2.0

LIVENESS: Final = Liveness(interval_s=0.6, timeout_s=0.6)
RECONNECT: Final = Reconnect(first_s=0.05, cap_s=0.3, min_uptime_s=0.2)

#: For one attempt. The kernel would send a lost SYN again after a second.
OPEN_S: Final = 0.5

#: Any one thing that a scenario waits for.
PATIENCE_S: Final = 12.0

#: What has to arrive each way before a link counts as talked on.
TALK: Final = 50

STEP_S: Final = 0.01


class Late(Exception):
    """What should have happened has not."""


class Skipped(Exception):
    """This kernel cannot do it."""


Act: TypeAlias = "Callable[[Stage], Awaitable[None]]"


@attrs.frozen(kw_only=True)
class Scenario:
    """`act` is what happens between the first words and the last."""

    act: Act
    #: How many links the client will have had.
    links: int
    liveness: Liveness = LIVENESS
    load: tuple[Load, ...] = LIGHT


class Stage:
    """What a scenario has at hand, and what is noted down for the checks."""

    def __init__(self, scenario: Scenario, world: trio.Nursery) -> None:
        self.scenario: Final = scenario
        self.client: Books
        self.peers: list[Books] = []
        self.links: list[Link] = []
        #: Dials that came to nothing.
        self.failed_dials = 0
        self.port = 0
        #: When the fault began, if it is one that both ends have to notice.
        self.fault_at = math.inf
        #: How many packets it has hit, if it is one of packets.
        self.packets_hit: int | None = None
        self.leave_s = math.inf
        self.tasks_left = 0
        self.sockets_left = 0
        self._world = world
        self._stop = trio.Event()

    # For the scenarios

    async def until(self, what: str, condition: Callable[[], object]) -> None:
        """Wait for it. `Late` if it does not come."""
        with trio.move_on_after(PATIENCE_S):
            while not condition():
                await trio.sleep(STEP_S)
            return
        raise Late(f"not within {PATIENCE_S:g} s: {what}")

    async def talk(self) -> None:
        """Wait until both ends have heard enough on the link of the moment."""
        await self.until("a link", lambda: self.links and self.links[-1].lost_at == math.inf)
        await self.until("its peer", lambda: len(self.peers) >= len(self.links))
        peer = self.peers[-1]
        heard, answered = len(self.client.received), len(peer.received)
        await self.until("client hears", lambda: len(self.client.received) >= heard + TALK)
        await self.until("server hears", lambda: len(peer.received) >= answered + TALK)

    async def both_notice(self) -> None:
        """Wait until the client has lost its link, and the server its peer."""
        link, peer = self.links[-1], self.peers[-1]
        await self.until("client notices", lambda: link.lost_at < math.inf)
        await self.until("server notices", lambda: peer.ended_at < math.inf)

    def noticed(self) -> dict[str, float]:
        """Seconds from the fault until each end had noticed."""
        if self.fault_at == math.inf:
            return {}
        lost_at = next(link.lost_at for link in self.links if link.lost_at >= self.fault_at)
        ended_at = next(peer.ended_at for peer in self.peers if peer.ended_at >= self.fault_at)
        return {"client": lost_at - self.fault_at, "server": ended_at - self.fault_at}

    # The run

    async def run(self, wire: str) -> None:
        scenario = self.scenario
        start = partial(
            serve,
            self._handle,
            "127.0.0.1",
            0,
            codec="raw",
            liveness=scenario.liveness,
            close_timeout_s=CLOSE_S,
        )
        server: Server = await self._world.start(start)
        self.port = server.port
        await self._run_client(server.url, wire)
        await server.drain(0.0)

    async def _handle(self, peer: RawPeer) -> None:
        books = Books(f"p{len(self.peers)}", peer, trio.current_time())
        self.peers.append(books)
        async with trio.open_nursery() as nursery:
            self._start_talk(nursery, books)
            with peer.subscribe() as stream:
                await books.listen(stream)

    def _start_talk(self, nursery: trio.Nursery, books: Books) -> None:
        for number, load in enumerate(self.scenario.load):
            nursery.start_soon(books.talk, load, number, self._stop)

    async def _run_client(self, url: str, wire: str) -> None:
        options: dict[str, Any] = {"wire": wire}
        connecting = connect(
            url,
            codec="raw",
            liveness=self.scenario.liveness,
            reconnect=RECONNECT,
            open_timeout_s=OPEN_S,
            close_timeout_s=CLOSE_S,
            **options,
        )
        async with trio.open_nursery() as readers:
            async with connecting as conn:
                self.client = Books("c", conn, trio.current_time())
                readers.start_soon(self.client.listen, conn.subscribe())
                readers.start_soon(self._watch, conn)
                await self._body()
                left_at = trio.current_time()
            self.leave_s = trio.current_time() - left_at

    async def _body(self) -> None:
        async with trio.open_nursery() as senders:
            self._start_talk(senders, self.client)
            await self.talk()
            await self.scenario.act(self)
            self._stop.set()
        await self.until("all is settled and delivered", self._is_settled)

    def _is_settled(self) -> bool:
        """Nothing is under way any more, in either direction."""
        peer = self.peers[-1]
        return (
            len(self.peers) >= len(self.links)
            and not self.client.unsettled
            and not peer.unsettled
            and {sent.label for sent in peer.sent} <= set(self.client.received)
        )

    async def _watch(self, conn: RawConnection) -> None:
        linked = False
        async for state in conn.watch_states():
            if state.phase is Phase.CONNECTED:
                self.links.append(Link(trio.current_time()))
            elif linked:
                self.links[-1].lost_at = trio.current_time()
                self.links[-1].cause = state.cause
            elif state.retry_at is not None:
                self.failed_dials += 1
            linked = state.phase is Phase.CONNECTED


def _sockets() -> int:
    """How many this process has."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:  # the one that the folder was read by
            pass
    return count


async def play(scenario: Scenario, wire: str) -> Stage:
    """Run it in the namespace of this process.

    Raises `Skipped` or `Late`, or whatever went wrong, in groups.
    """
    await kernel.set_up()
    tasks, sockets = trio.lowlevel.current_statistics().tasks_living, _sockets()
    async with trio.open_nursery() as world:
        stage = Stage(scenario, world)
        await stage.run(wire)
    stage.tasks_left = trio.lowlevel.current_statistics().tasks_living - tasks
    stage.sockets_left = _sockets() - sockets
    return stage

"""A network in memory, on trio's clock, whose faults are drawn by a seed.

Goal: run a whole program, the servers too, in one process, with its real
protocol code down to the byte streams, and see it live through latency, cuts
at any byte, half-open links and servers that die; 60 virtual seconds in
milliseconds; and the same again for the same seed.

The rule: nothing in here runs by itself. There are no tasks; bytes, ends and
resets have times of arrival (see `_pipe`), and whoever waits for them looks
at the clock. Every draw comes from a `random.Random` of its own link and
direction, so that a change in one does not move the others.

Hosts are names. One that has ever listened is known to everybody; a dial
from a host needs no more than `open_stream_from(name)`.

The remaining hole: there is no packet below the stream. Loss and reordering
show as TCP shows them, as latency.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, TypeAlias, TypeVarTuple

import attrs
import trio
import trio.testing

from ._link import VirtualLink
from ._listener import VirtualListener
from ._profile import CutKind, LinkProfile
from ._stream import VirtualStream
from ._trace import Trace

__all__ = ["NetworkStatistics", "VirtualNetwork"]

Ts = TypeVarTuple("Ts")

#: The first port that `listen(host, 0)` gives (IANA's dynamic range).
FIRST_FREE_PORT: Final = 49152

#: What a dial of a host meets.
_Answer: TypeAlias = Literal["accept", "refuse", "silence"]


@attrs.frozen(kw_only=True)
class NetworkStatistics:
    """Counts since the network was made. `connections` are those not closed at both ends."""

    dials: int
    refused: int
    connections: int
    cuts: int
    bytes_to_servers: int
    bytes_to_clients: int


@attrs.define
class _Host:
    """One machine. It exists from the first time that it listens or is named in a fault."""

    listeners: dict[int, VirtualListener] = attrs.field(factory=dict)
    answer: _Answer = "accept"
    down: bool = False
    #: Unparked when its answer changes, or it is up again.
    changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    programs: list[trio.CancelScope] = attrs.field(factory=list)


class VirtualNetwork:
    """Hosts, listeners and connections.

    Use `listen()` for the server and `open_stream` (or `open_stream_from()`)
    for the client; `trio_rt.connect(..., open_stream=network.open_stream)`.
    Make it inside or outside of `trio.run`; it has nothing to close.

    The faults act at once and from any task. Where one takes `where`, it
    means the connections with this host at either end; None means all.
    """

    def __init__(self, seed: int, *, profile: LinkProfile | None = None) -> None:
        self._seed: Final = seed
        self._profile = LinkProfile() if profile is None else profile
        self._hosts: dict[str, _Host] = {}
        self._links: dict[int, VirtualLink] = {}
        self._arrivals: Final = trio.lowlevel.ParkingLot()
        self._trace: Final = Trace()
        self._dials = self._refused = self._opened = self._cuts = 0
        self._past_bytes = {"server": 0, "client": 0}

    # -- for programs

    def listen(self, host: str, port: int) -> VirtualListener:
        """Listen on a port of `host`; 0 takes a free one (`listener.port`).

        Raises OSError (EADDRINUSE) if somebody does already, and OSError
        (ENETDOWN) while the host is crashed.
        """
        machine = self._hosts.setdefault(host, _Host())
        if machine.down:
            raise _os_error(errno.ENETDOWN)
        if port == 0:
            port = next(n for n in range(FIRST_FREE_PORT, 1 << 16) if n not in machine.listeners)
        if port in machine.listeners:
            raise _os_error(errno.EADDRINUSE)
        listener = VirtualListener(host, port, self._unlisten)
        machine.listeners[port] = listener
        self._trace.note(f"listen {host}:{port}")
        return listener

    def _unlisten(self, listener: VirtualListener) -> None:
        self._hosts[listener.host].listeners.pop(listener.port)
        self._trace.note(f"unlisten {listener.host}:{listener.port}")

    async def open_stream(self, host: str, port: int) -> VirtualStream:
        """Dial from the host `"client"`. Takes a round trip.

        Raises socket.gaierror for a host that never listened, and OSError
        (ECONNREFUSED) where nobody listens. A black hole keeps it waiting, for
        ever or until `accept()`. Cancelled, it leaves no connection behind.
        """
        return await self._dial("client", host, port)

    def open_stream_from(self, client: str) -> Callable[[str, int], Awaitable[VirtualStream]]:
        """An `open_stream(host, port)` that dials from the host `client`."""

        async def open_stream(host: str, port: int) -> VirtualStream:
            return await self._dial(client, host, port)

        return open_stream

    async def run_program(
        self, host: str, program: Callable[[*Ts], Awaitable[object]], *args: *Ts
    ) -> None:
        """Run `program(*args)` as a process of `host`; returns when it has returned.

        `crash(host)` cuts its connections and cancels it; after
        `restart(host)` it is called anew. Cancelling this cancels it.
        """
        machine = self._hosts.setdefault(host, _Host())
        while True:
            while machine.down:
                await machine.changed.park()
            with trio.CancelScope() as scope:
                machine.programs.append(scope)
                try:
                    await program(*args)
                finally:
                    machine.programs.remove(scope)
            if not scope.cancelled_caught:
                return

    async def _dial(self, client: str, host: str, port: int) -> VirtualStream:
        self._dials += 1
        self._trace.note(f"{client}->{host}:{port} dial")
        latency_s = self._profile.latency_s
        await trio.sleep(latency_s)
        listener = await self._find_listener(host, port)
        if listener is None or self._is_down(client):
            self._refused += 1
            self._trace.note(f"{client}->{host}:{port} refused")
            await trio.sleep(latency_s)
            raise _os_error(errno.ECONNREFUSED)
        stream = self._open(client, listener).client_stream
        try:
            await trio.sleep(latency_s)
        except BaseException:
            stream.abort()
            raise
        return stream

    async def _find_listener(self, host: str, port: int) -> VirtualListener | None:
        machine = self._hosts.get(host)
        if machine is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        while machine.answer == "silence":
            await machine.changed.park()
        listener = machine.listeners.get(port)
        if machine.answer == "refuse" or listener is None or listener.full:
            return None
        return listener

    def _is_down(self, host: str) -> bool:
        return host in self._hosts and self._hosts[host].down

    def _open(self, client: str, listener: VirtualListener) -> VirtualLink:
        self._opened = number = self._opened + 1
        link = VirtualLink(
            name=f"{client}->{listener.host}:{listener.port}#{number}",
            client=client,
            host=listener.host,
            port=listener.port,
            seed=f"{self._seed} {number}",
            profile=self._profile,
            trace=self._trace,
            gone=lambda link: self._forget(number, link),
        )
        self._links[number] = link
        self._trace.note(f"{link.name} open")
        listener.offer(link.server_stream)
        self._arrivals.unpark_all()
        return link

    def _forget(self, number: int, link: VirtualLink) -> None:
        del self._links[number]
        self._cuts += link.cut_by is not None
        self._past_bytes["server"] += link.sent_bytes("server")
        self._past_bytes["client"] += link.sent_bytes("client")

    # -- to look at

    @property
    def connections(self) -> tuple[VirtualLink, ...]:
        """Those not yet closed at both ends, oldest first. At the end of a test: none."""
        return tuple(self._links.values())

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the hosts that listened or were named in a fault, in that order."""
        return tuple(self._hosts)

    async def wait_connection(self) -> VirtualLink:
        """The newest connection that is alive, waiting for one if need be."""
        await trio.lowlevel.checkpoint()
        while not (alive := [link for link in self._links.values() if link.alive]):
            await self._arrivals.park()
        return alive[-1]

    @property
    def trace(self) -> list[tuple[float, str]]:
        """What happened: (time on trio's clock, event). The last 100,000 events."""
        return self._trace.events()

    def trace_hash(self) -> str:
        """A hash of all events and their times. In `run()`: one seed, one hash."""
        return self._trace.digest()

    def statistics(self) -> NetworkStatistics:
        """A snapshot of the counts."""
        links = self.connections
        return NetworkStatistics(
            dials=self._dials,
            refused=self._refused,
            connections=len(links),
            cuts=self._cuts + sum(link.cut_by is not None for link in links),
            bytes_to_servers=self._past_bytes["server"] + _sent(links, "server"),
            bytes_to_clients=self._past_bytes["client"] + _sent(links, "client"),
        )

    # -- faults

    @property
    def profile(self) -> LinkProfile:
        """How bytes travel on every connection; setting it holds for open ones too."""
        return self._profile

    @profile.setter
    def profile(self, profile: LinkProfile) -> None:
        self._profile = profile
        self._trace.note(f"{profile}")
        for link in self._links.values():
            link.profile = profile

    def cut(self, where: str | None = None, how: CutKind = "rst") -> None:
        """Cut connections now."""
        self._trace.note(f"cut {where or 'all'} {how}")
        for link in self._at(where):
            link.cut(how)

    def stall(self, where: str | None = None) -> None:
        """Hold back what is in flight and what is sent, in both directions.

        Only for the connections there are: later ones go on unhindered.
        """
        self._trace.note(f"stall {where or 'all'}")
        for link in self._at(where):
            link.stall()

    def resume(self, where: str | None = None) -> None:
        """End a stall."""
        self._trace.note(f"resume {where or 'all'}")
        for link in self._at(where):
            link.resume()

    def refuse(self, host: str) -> None:
        """New dials of `host` raise ECONNREFUSED. Open connections stay."""
        self._answer(host, "refuse")

    def black_hole(self, host: str) -> None:
        """New dials of `host` hang. Open connections stay: `cut()` them, too."""
        self._answer(host, "silence")

    def accept(self, host: str) -> None:
        """Dials of `host` meet its listeners again."""
        self._answer(host, "accept")

    def crash(self, host: str, how: CutKind = "rst") -> None:
        """Its programs (see `run_program`) are cancelled, its connections cut, its ports closed.

        `how="vanish"` is a power cut: nobody is told, and dials hang.
        """
        self._trace.note(f"crash {host} {how}")
        machine = self._hosts.setdefault(host, _Host())
        machine.down = True
        machine.answer = "silence" if how == "vanish" else "refuse"
        for scope in machine.programs:
            scope.cancel()
        self.cut(host, how)
        for listener in list(machine.listeners.values()):
            listener.close()

    def restart(self, host: str) -> None:
        """After a crash: its programs run anew, and ports can be listened on."""
        self._trace.note(f"restart {host}")
        self._hosts.setdefault(host, _Host()).down = False
        self._answer(host, "accept")

    def jump_clock(self, seconds: float) -> None:
        """Let time pass while the whole program stands still, as a busy machine does.

        Only under trio's MockClock (as in `run()`); TypeError otherwise.
        """
        clock = trio.lowlevel.current_clock()
        if not isinstance(clock, trio.testing.MockClock):
            raise TypeError("only a trio.testing.MockClock can jump")
        self._trace.note(f"jump {seconds!r}")
        clock.jump(seconds)

    def _answer(self, host: str, answer: _Answer) -> None:
        machine = self._hosts.setdefault(host, _Host())
        self._trace.note(f"{host}: {answer}")
        machine.answer = answer
        machine.changed.unpark_all()

    def _at(self, where: str | None) -> list[VirtualLink]:
        return [
            link
            for link in self._links.values()
            if where is None or where in (link.client, link.host)
        ]


def _sent(links: Iterable[VirtualLink], towards: Literal["server", "client"]) -> int:
    return sum(link.sent_bytes(towards) for link in links)


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))

"""A TCP relay between real sockets that misbehaves on command.

It forwards bytes both ways with as little buffering as the kernel allows, so
that what a sender got rid of is near what the receiver has. A link that it
ends goes through one of two doors: a reset (SO_LINGER 0, then close), or a
FIN (shutdown, then what still comes is read and thrown away: closing with
unread bytes would make a reset of it).
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from typing import Final, Literal, NoReturn, TypeAlias

import attrs
import trio

from ..options import check_number

__all__ = ["Relay", "RelayStatistics", "serve_relay"]

#: SO_RCVBUF and SO_SNDBUF of every socket (Linux doubles them), and the most
#: that is read at once.
BUFFER_BYTES: Final = 32 << 10

#: A limited link is read in portions of this many seconds' worth, so that a
#: new limit takes effect at once.
PORTION_S: Final = 0.05

#: How long a link that was ended by FIN waits for the other side's.
FIN_PATIENCE_S: Final = 5.0

#: A reset after the last allowed byte waits for the kernel to send it, which
#: has no event for that: so often, so long.
SENT_POLLS: Final = 1000
SENT_POLL_S: Final = 0.001

_Towards: TypeAlias = Literal["target", "clients"]

_LINGER_0: Final = struct.pack("ii", 1, 0)


@attrs.frozen(kw_only=True)
class RelayStatistics:
    """Counts since the relay began. `links` are those open now."""

    links: int
    links_opened: int
    bytes_to_target: int
    bytes_to_clients: int


class _Link:
    """A client's socket and the one to the target. Runs until both directions have ended."""

    def __init__(self, relay: Relay, client: trio.SocketStream, target: trio.SocketStream) -> None:
        self._relay = relay
        self._client = client
        self._target = target
        self._scope = trio.CancelScope()
        self._ending = False
        #: Bytes that it may still forward, both ways together.
        self.budget: float = math.inf

    async def run(self) -> None:
        with self._scope:
            async with self._client, self._target, trio.open_nursery() as nursery:
                nursery.start_soon(self._forward, self._client, self._target, "target")
                nursery.start_soon(self._forward, self._target, self._client, "clients")

    async def _forward(
        self, source: trio.SocketStream, sink: trio.SocketStream, towards: _Towards
    ) -> None:
        try:
            while data := await source.receive_some(self._relay.portion_bytes()):
                await self._pass_on(data, sink, towards)
            self._shut(sink)
        except trio.BrokenResourceError:
            self.rst()
        except trio.ClosedResourceError:
            pass

    async def _pass_on(self, data: bytes, sink: trio.SocketStream, towards: _Towards) -> None:
        data = data[: int(min(len(data), self.budget))]
        self.budget -= len(data)
        try:
            if not self._ending:
                await sink.send_all(data)
        except trio.BrokenResourceError:
            if not self._ending:
                raise
        self._relay.count(towards, len(data))
        if self.budget <= 0:
            await _wait_sent(sink)
            self.rst()
        await trio.sleep(len(data) / self._relay.rate_bytes_per_s)

    def rst(self) -> None:
        """Reset both connections."""
        for stream in (self._client, self._target):
            if stream.socket.fileno() >= 0:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                stream.socket.close()
        self._scope.cancel()

    def fin(self) -> None:
        """Send both a FIN, and wait for theirs."""
        self._ending = True
        self._scope.deadline = trio.current_time() + FIN_PATIENCE_S
        for stream in (self._client, self._target):
            self._shut(stream)

    def _shut(self, stream: trio.SocketStream) -> None:
        try:
            stream.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster


async def _wait_sent(stream: trio.SocketStream) -> None:
    """Wait until the kernel has sent what it holds: a reset would throw it away."""
    for _ in range(SENT_POLLS):
        if stream.socket.fileno() < 0 or not _unsent_bytes(stream.socket.fileno()):
            return
        await trio.sleep(SENT_POLL_S)


def _unsent_bytes(fd: int) -> int:
    """What the kernel still holds, 0 where it cannot be asked."""
    if sys.platform == "win32":
        return 0
    import fcntl  # not on Windows
    import termios

    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class Relay:
    """A running relay: connect to its `port` and not to the target's.

    Every method acts at once, and from any task of the same `trio.run`.
    """

    def __init__(self, target: tuple[str, int], host: str, port: int) -> None:
        self._target: Final = target
        self._listener: trio.SocketListener | None = _listen(host, port)
        self.host: Final = host
        self.port: Final[int] = self._listener.socket.getsockname()[1]
        self._rate_bytes_per_s = math.inf
        self._changed: Final = trio.lowlevel.ParkingLot()
        self._links: dict[_Link, None] = {}
        self._links_opened = 0
        self._bytes: dict[_Towards, int] = {"target": 0, "clients": 0}

    @property
    def rate_bytes_per_s(self) -> float:
        """The limit of each link in each direction, `math.inf` for none. May be set."""
        return self._rate_bytes_per_s

    @rate_bytes_per_s.setter
    def rate_bytes_per_s(self, rate: float) -> None:
        check_number("rate_bytes_per_s", rate, above=True)
        self._rate_bytes_per_s = rate

    def rst(self) -> None:
        """Reset every link, on both sides."""
        for link in list(self._links):
            link.rst()

    def fin(self) -> None:
        """End every link by FIN, on both sides; what it had not forwarded is lost."""
        for link in list(self._links):
            link.fin()

    def abort(self, count: int) -> None:
        """Forward `count` more bytes of each open link, both ways together; then reset it."""
        check_number("count", count, whole=True, finite=True)
        for link in list(self._links):
            link.budget = count
            if count == 0:
                link.rst()

    def refuse(self) -> None:
        """Close the port: new connections are refused. Links stay."""
        if self._listener is not None:
            self._listener.socket.close()
            self._listener = None

    def accept(self) -> None:
        """Open the port again. OSError if another process has taken it meanwhile."""
        if self._listener is None:
            self._listener = _listen(self.host, self.port)
            self._changed.unpark_all()

    def statistics(self) -> RelayStatistics:
        """A snapshot of the counts."""
        return RelayStatistics(
            links=len(self._links),
            links_opened=self._links_opened,
            bytes_to_target=self._bytes["target"],
            bytes_to_clients=self._bytes["clients"],
        )

    # -- for its links and `serve_relay`

    def portion_bytes(self) -> int:
        return int(max(1, min(BUFFER_BYTES, self._rate_bytes_per_s * PORTION_S)))

    def count(self, towards: _Towards, size: int) -> None:
        self._bytes[towards] += size

    async def serve(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    client = await self._next_client()
                    nursery.start_soon(self._handle, client)
        finally:
            self.refuse()

    async def _next_client(self) -> trio.SocketStream:
        while True:
            if self._listener is None:
                await self._changed.park()
                continue
            try:
                return await self._listener.accept()
            except trio.ClosedResourceError:
                continue

    async def _handle(self, client: trio.SocketStream) -> None:
        async with client:
            try:
                target = await _connect(*self._target)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                return
            link = _Link(self, client, target)
            self._links[link] = None
            self._links_opened += 1
            try:
                await link.run()
            finally:
                del self._links[link]


async def serve_relay(
    target_host: str,
    target_port: int,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    rate_bytes_per_s: float = math.inf,
    task_status: trio.TaskStatus[Relay] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Forward TCP connections of `host`:`port` to the target, until cancelled.

        relay = await nursery.start(trio_rt.testing.serve_relay, "127.0.0.1", 8765)

    Raises OSError if the port cannot be had. A target that does not answer
    resets the client's connection. Cancelled, it closes all of them.
    """
    relay = Relay((target_host, target_port), host, port)
    relay.rate_bytes_per_s = rate_bytes_per_s
    task_status.started(relay)
    await relay.serve()
    raise AssertionError("unreachable")


def _listen(host: str, port: int) -> trio.SocketListener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _limit_buffers(listening)
        listening.bind((host, port))
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


async def _connect(host: str, port: int) -> trio.SocketStream:
    """As `trio.open_tcp_stream`, to the first address, with small buffers from the start."""
    (family, *_, address), *_ = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    connecting = socket.socket(family, socket.SOCK_STREAM)
    _limit_buffers(connecting)
    connected = trio.socket.from_stdlib_socket(connecting)
    try:
        await connected.connect(address)
    except BaseException:
        connected.close()
        raise
    return trio.SocketStream(connected)


def _limit_buffers(unconnected: socket.socket) -> None:
    # Before connect and listen: the TCP window scale is settled there.
    unconnected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    unconnected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)

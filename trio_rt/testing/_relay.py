"""A TCP relay between real sockets that misbehaves on command.

It forwards bytes both ways with as little buffering as the kernel and a delay
allow, so that what a sender got rid of is near what the receiver has.
"""

from __future__ import annotations

import errno
from typing import Final, NoReturn, get_args

import attrs
import trio

from ..errors import OptionError
from ..options import check_number
from ._conditions import Conditions, Way
from ._flow import EndKind
from ._profile import Towards
from ._relay_link import RelayLink
from ._sockets import listen, open_small, reset_on_close

__all__ = ["Relay", "RelayStatistics", "serve_relay"]

#: No file descriptors or memory: it goes on once there are some, as trio's servers do.
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
ROOM_WAIT_S: Final = 0.1

_DIRECTIONS: Final[tuple[Towards, ...]] = get_args(Towards)


@attrs.frozen(kw_only=True)
class RelayStatistics:
    """Counts since the relay began. `links` are those open now."""

    links: int
    links_opened: int
    bytes_to_server: int
    bytes_to_client: int


class Relay:
    """A running relay, made by `serve_relay()`: connect to its `port`, not to the target's.

    Every method acts at once, on all links, and from any task of the same
    `trio.run`. `towards` says in which direction: `"server"` is the target,
    None both.
    """

    def __init__(self, target: tuple[str, int], host: str, port: int, seed: int) -> None:
        self._target: Final = target
        self._listener: trio.SocketListener | None = listen(host, port)
        self.host: Final = host
        self.port: Final[int] = self._listener.socket.getsockname()[1]
        self._seed: Final = seed
        self._ways: Final[dict[Towards, Way]] = {towards: Way() for towards in _DIRECTIONS}
        self._opened: Final = trio.lowlevel.ParkingLot()
        self._links: Final[dict[RelayLink, None]] = {}
        self._links_opened = 0

    @property
    def conditions(self) -> dict[Towards, Conditions]:
        """Those in force, by direction: a copy, see `impose()`."""
        return {towards: way.conditions for towards, way in self._ways.items()}

    def impose(self, conditions: Conditions, *, towards: Towards | None = None) -> None:
        """Set the conditions, of links to come too; `Conditions()` clears them.

        They hold for what is under way, too: when a delay or a blackhole is
        lifted, what it held back goes on at once.
        """
        if not isinstance(conditions, Conditions):
            raise OptionError("conditions", "must be a Conditions()", conditions)
        for each in _directions(towards):
            self._ways[each].conditions = conditions

    def rst(self) -> None:
        """Reset every link, on both sides."""
        for link in self._links:
            link.end("rst")

    def fin(self) -> None:
        """End every link by FIN, on both sides; what it had not forwarded is lost."""
        for link in self._links:
            link.end("fin")

    def cut_after(
        self, count: int, *, towards: Towards | None = None, how: EndKind = "rst"
    ) -> None:
        """Forward `count` more bytes of each open link; then end it, as `rst()` or `fin()` do.

        Without `towards` the bytes of both directions count together.
        """
        check_number("count", count, whole=True, finite=True)
        if how not in get_args(EndKind):
            raise OptionError("how", 'must be "rst" or "fin"', how)
        directions = _directions(towards)
        for link in self._links:
            link.cut_after(count, directions, how)

    def refuse(self) -> None:
        """Close the port: new connections are refused. Links stay."""
        if self._listener is not None:
            self._listener.socket.close()
            self._listener = None

    def accept(self) -> None:
        """Open the port again. OSError if another process has taken it meanwhile."""
        if self._listener is None:
            self._listener = listen(self.host, self.port)
            self._opened.unpark_all()

    def statistics(self) -> RelayStatistics:
        """A snapshot of the counts."""
        return RelayStatistics(
            links=len(self._links),
            links_opened=self._links_opened,
            bytes_to_server=self._ways["server"].passed_bytes,
            bytes_to_client=self._ways["client"].passed_bytes,
        )

    # -- for `serve_relay`

    async def serve(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    # In a blackhole the kernel makes connections, and bounds their number.
                    await self._wait_passable()
                    client = await self._next_client()
                    nursery.start_soon(self._handle, client)
        finally:
            self.refuse()

    async def _wait_passable(self) -> None:
        while any(way.conditions.blackhole for way in self._ways.values()):
            for way in self._ways.values():
                await way.wait_passable()

    async def _next_client(self) -> trio.SocketStream:
        while True:
            if self._listener is None:
                await self._opened.park()
                continue
            try:
                return await self._listener.accept()
            except trio.ClosedResourceError:
                continue
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                await trio.sleep(ROOM_WAIT_S)

    async def _handle(self, client: trio.SocketStream) -> None:
        async with client:
            await self._wait_passable()
            try:
                server = await open_small(*self._target)
            except OSError:
                reset_on_close(client)
                return
            self._links_opened += 1
            link = RelayLink(client, server, self._ways, f"{self._seed} {self._links_opened}")
            self._links[link] = None
            try:
                await link.run()
            finally:
                del self._links[link]


def _directions(towards: Towards | None) -> tuple[Towards, ...]:
    if towards is None:
        return _DIRECTIONS
    if towards not in _DIRECTIONS:
        raise OptionError("towards", 'must be "server", "client" or None', towards)
    return (towards,)


async def serve_relay(
    target_host: str,
    target_port: int,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    seed: int = 0,
    task_status: trio.TaskStatus[Relay] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Forward TCP connections of `host`:`port` to the target, until cancelled.

        relay = await nursery.start(trio_rt.testing.serve_relay, "127.0.0.1", 8765)

    What is random is drawn from `seed`, the number of the link (the first one
    is 1) and the direction. Raises OSError if the port cannot be had. A target
    that does not answer resets the client's connection. Cancelled, it closes
    all of them.
    """
    relay = Relay((target_host, target_port), host, port, seed)
    task_status.started(relay)
    await relay.serve()
    raise AssertionError("unreachable")

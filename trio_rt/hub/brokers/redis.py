"""Rooms in Redis (from 6.2) or Valkey, for any number of nodes.

A node has two links to the store. By one it *writes*: what has come up goes as one script
call, in order, and while that is under way the next gathers. By the other it *reads* the
bus, a stream that has everything that happens in all rooms (`_redis_lua` says what lies
where). A lost link is dialled again; the reader goes on behind the last entry it has
seen, the writer sends again what was not confirmed, with the same keys. So nothing that
was confirmed is lost, nothing is doubled, and the order is kept.

What can go wrong, and what is done:

- *A late command.* A batch that was given up may still lie in a socket of a store that was
  stopped. Each link has a number, which is in the node's lease: a batch of a former one is
  refused by the store.
- *A restart.* A store that writes its file now and then comes back without the last second,
  and gives the same offsets to other messages. Its run id is another one then: before
  anything else is written, each node has the last positions checked that it has told
  (`_redis_ear`), and where one is not true any more the room gets a new epoch. With
  `appendfsync always` nothing changes. The remaining hole is a position that only clients
  know, whose nodes have gone with the store.
- *A node that dies* has a lease on its devices. When it is over they count no more, and the
  other nodes clear them away, a third of a lease later at most. A node that was only
  stopped finds its lease gone and enters all its devices again.
- *A full store* refuses, and so do its users learn; leases and pages go on.

The store must not evict keys (`maxmemory-policy noeviction`). Redis Cluster is not
supported. Rooms that nobody has written in for two times `keep_s` expire.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from ..._ambient import ambient
from ...errors import OptionError
from ...options import Reconnect, check_kind, check_number
from ...protocol.backoff import delays
from .._broker import (
    Broker,
    BrokerError,
    Draft,
    Head,
    LogLimits,
    Page,
    Position,
    Present,
    Sink,
    Snapshot,
    Way,
)
from ._redis_ear import Ear
from ._redis_link import Link, LinkLost, StoreRefused, open_link, parse_address
from ._redis_lua import CLEAR, PAGE, WATCH
from ._redis_node import Node, Settings
from ._redis_queue import Queue
from ._redis_reader import Reader
from ._redis_wire import contiguous, read_log, read_marks, to_bytes
from ._redis_writer import Writer

__all__ = ["RedisBroker"]

logger = logging.getLogger("trio_rt.hub")

#: Between attempts to dial.
RECONNECT: Final = Reconnect(first_s=0.05, cap_s=2.0, min_uptime_s=1.0)

#: How long the end of a run may take to say goodbye.
GOODBYE_S: Final = 1.0

#: Beyond what a log can hold, and exact in Lua.
MOST_OFFSET: Final = 2**53

#: Reasons that are logged of one outage.
MOST_WHYS: Final = 10

#: Of the keys of one room: as other stores.
MOST_KEYS: Final = 100_000


class RedisBroker(Broker):
    """A node on the store at `url`, which is `redis://` or, for TLS, `rediss://`.

    All keys begin with `prefix` and a colon; nodes of one hub have the same prefix and
    `limits`. A link that gives no answer for `timeout_s` is lost; dialling takes no longer.
    A draft that the store has not confirmed after `wait_s` ends with a `BrokerError`; it may
    be stored all the same. At most `messages` drafts, of `total_bytes`, wait. The devices of
    a node that died are gone after `lease_s` and at most a third of it. A node that was
    away while `bus_messages` entries, or `bus_bytes`, came is told that it has lost some.
    """

    def __init__(
        self,
        url: str = "redis://127.0.0.1:6379/0",
        *,
        prefix: str = "trio_rt",
        limits: LogLimits = LogLimits(),
        ssl_context: ssl.SSLContext | None = None,
        timeout_s: float = 4.0,
        wait_s: float = 10.0,
        lease_s: float = 15.0,
        messages: float = 20_000,
        total_bytes: float = 32 << 20,
        bus_messages: int = 50_000,
        bus_bytes: int = 64 << 20,
    ) -> None:
        import coredis.connection  # noqa: F401  (some 1 s: here, where no loop waits for it)

        self.address: Final = parse_address(url)
        if not isinstance(prefix, str) or not prefix or set(prefix) - _PREFIX:
            raise OptionError("prefix", "must be of ASCII letters, digits and ._-", prefix)
        check_kind("limits", limits, LogLimits)
        if ssl_context is not None:
            check_kind("ssl_context", ssl_context, ssl.SSLContext)
            if not self.address.secure:
                raise OptionError("ssl_context", "is for rediss:// URLs", ssl_context)
        check_number("timeout_s", timeout_s, above=True, finite=True)
        check_number("wait_s", wait_s, above=True, finite=True)
        check_number("lease_s", lease_s, least=0.1, finite=True)
        check_number("messages", messages, least=1, whole=True)
        check_number("total_bytes", total_bytes, least=1, whole=True)
        check_number("bus_messages", bus_messages, least=1, whole=True, finite=True)
        check_number("bus_bytes", bus_bytes, least=1, whole=True, finite=True)
        self._settings: Final = Settings(
            prefix=prefix,
            limits=limits,
            timeout_s=timeout_s,
            lease_s=lease_s,
            bus_messages=bus_messages,
            bus_bytes=bus_bytes,
            most_keys=MOST_KEYS,
        )
        self._context: Final = ssl_context
        self._wait_s: Final = wait_s
        self._most: Final = (messages, total_bytes)
        self._node: Node | None = None
        # Why it cannot be reached: what was logged since it could.
        self._whys: set[str] = set()
        self._writer: Writer
        self._reader: Reader

    async def run(
        self, sink: Sink, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        if self._node is not None:
            raise trio.BusyResourceError("this broker runs already")
        node = self._node = Node(self._settings, Queue(*self._most), Ear(sink))
        self._writer, self._reader = Writer(node), Reader(node)
        self.up = True
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_link, self._writer.use, self._writer.wake)
                nursery.start_soon(self._keep_link, self._reader.use, _nothing)
                nursery.start_soon(self._writer.expire)
        finally:
            reached = self.up
            self._node = None
            node.close(BrokerError("the hub does not run"))
            if node.link_number and reached:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_S):
                    await self._say_goodbye(node)

    def append(self, draft: Draft, done: Callable[[Position | BrokerError], None]) -> None:
        if self._node is None:
            done(BrokerError("the hub does not run"))
        elif self._node.refusal is not None and not self.up:
            done(self._node.refusal)
        elif not self._writer.put(draft, done, trio.current_time() + self._wait_s):
            done(BrokerError("too much waits for the store"))

    def post(self, draft: Draft) -> None:
        if self._node is None:
            raise BrokerError("the hub does not run")
        if not self.up:
            raise BrokerError("the store cannot be reached")
        if not self._writer.put(draft, None, 0.0):
            raise BrokerError("too much waits for the store")

    async def page(self, room: str, way: Way, offset: int, *, limit: int, max_bytes: int) -> Page:
        await trio.lowlevel.checkpoint()
        node = self._runs()
        link = await node.wait_linked()
        place = max(-1, min(offset, MOST_OFFSET))
        reply = await link.script(
            PAGE,
            *node.arguments(),
            *(to_bytes(room), way.encode(), place),
            *(max(0, min(limit, MOST_OFFSET)), max(0, min(max_bytes, MOST_OFFSET))),
        )
        epoch, first, last, entries, healed = reply
        items = [read_log(room, epoch, entry) for entry in entries]
        node.ear.garbage += healed + items.count(None)
        found = [item for item in items if item is not None]
        return Page(Head(epoch.decode(), int(first), int(last)), contiguous(found, way == "after"))

    async def watch(self, room: str) -> Snapshot:
        await trio.lowlevel.checkpoint()
        node = self._runs()
        ear = node.ear
        watched = ear.begin_watch(room)
        try:
            await node.wait_placed()
            while True:
                losses = ear.losses
                await self._writer.wait_confirmed()
                link = await node.wait_linked()
                reply = await link.script(WATCH, *node.arguments(), to_bytes(room))
                if ear.losses == losses:
                    break
            epoch, first, last, at_ms, roster, alive, marks, generation, number, healed = reply
            ear.garbage += healed
            ear.snapshot(watched, generation, int(number), epoch.decode(), int(last), int(at_ms))
            return Snapshot(
                Head(epoch.decode(), int(first), int(last)),
                node.living(roster, set(alive)),
                read_marks(marks),
            )
        finally:
            ear.end_watch(watched)

    def unwatch(self, room: str) -> None:
        if self._node is not None:
            self._node.ear.unwatch(room)

    def enter(self, room: str, who: Present) -> None:
        if self._node is not None:
            self._writer.enter(room, who)

    def leave(self, room: str, device: str, *, for_good: bool = False) -> None:
        if self._node is not None:
            self._writer.leave(room, device, for_good)

    def mark(self, room: str, user: str, offset: int) -> None:
        if self._node is not None and 0 < offset <= MOST_OFFSET:
            self._writer.mark(room, user, offset)

    def statistics(self) -> Mapping[str, Any]:
        """Of this run: `appends`, `batches` and `batch_p50_s`, `batch_p99_s` of the last of
        them, `entries` read from the bus, `garbage`, `losses`, `links` that were dialled,
        `waiting` drafts and `waiting_bytes`, `dropped_marks`, `devices`.
        """
        return {} if self._node is None else self._node.statistics()

    def _runs(self) -> Node:
        if self._node is None:
            raise BrokerError("the hub does not run")
        return self._node

    async def _keep_link(
        self, use: Callable[[Link, Callable[[], None]], Any], ended: Callable[[], None]
    ) -> None:
        """A task: dial, use, and again, with full jitter."""
        node = self._runs()
        waits = delays(RECONNECT, ambient().random)
        since = math.inf

        def proven() -> None:
            nonlocal since
            since = trio.current_time()
            if not self.up and node.is_up:
                self.up = True
                self._whys.clear()

        async def serve(link: Link) -> None:
            await use(link, proven)

        while True:
            node.links += 1
            since = math.inf
            try:
                await open_link(self.address, self._context, node.settings.timeout_s, serve, ended)
            except (LinkLost, StoreRefused) as error:
                node.failed(error)
                self._log_why(str(error))
            except Exception as error:
                # A reply that this module does not expect: no store, or a bug here.
                logger.exception("a link to the store ended by an unexpected error")
                node.failed(LinkLost(f"the store gave nonsense: {type(error).__name__}"))
            self.up = False
            if trio.current_time() - since >= RECONNECT.min_uptime_s:
                waits = delays(RECONNECT, ambient().random)
            await trio.sleep(next(waits))

    def _log_why(self, why: str) -> None:
        if why not in self._whys and len(self._whys) < MOST_WHYS:
            self._whys.add(why)
            logger.warning("the store cannot be used: %s", why)

    async def _say_goodbye(self, node: Node) -> None:
        """The node's devices leave at once, if the store can be told so."""

        async def clear(link: Link) -> None:
            while await link.script(CLEAR, *node.arguments(), node.name, node.link_number):
                pass

        try:
            await open_link(self.address, self._context, GOODBYE_S, clear, _nothing)
        except BrokerError:
            pass


_PREFIX: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def _nothing() -> None:
    pass

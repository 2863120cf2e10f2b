"""What the tests of stores share: the stores there are, nodes on them, an ear at each node.

A store is opened by a factory of `FACTORIES`, empty, with limits, in an empty directory:

    async with FACTORIES["memory"](tmp_path, LogLimits()) as nodes, running(nodes.open()) as node:
        position = await node.append("room", b"{}")

A module `redis_store` beside this one may have more `FACTORIES`; a store whose
component is absent skips the test, with the reason.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from trio_rt._ambient import Ambient, replace_ambient
from trio_rt.hub._broker import (
    Broker,
    BrokerError,
    Draft,
    Head,
    Item,
    LogLimits,
    Position,
    Present,
    Snapshot,
    Way,
)
from trio_rt.hub.brokers.memory import MemoryBroker
from trio_rt.hub.brokers.sqlite import SqliteBroker

__all__ = ["FACTORIES", "Ear", "Factory", "Node", "Nodes", "Outcome", "ahead", "running"]

#: Real seconds after which a test has hung.
LIMIT_S = 10.0

Outcome = Position | BrokerError


class Nodes(abc.ABC):
    """One store, and a way to use it."""

    #: Whether several nodes may run at once.

    @abc.abstractmethod
    def open(self) -> Broker:
        """A node, which does not run yet. Of an embedded store, after the last has ended."""

    @abc.abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass, as the store sees it. Tests that call it have few to spare."""


Factory = Callable[[Path, LogLimits], AbstractAsyncContextManager[Nodes]]


class Ear:
    """A sink that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        #: ("present", room, who), ("absent", room, device), or ("gone", room, device) for good,
        #: ("marked", room, user, offset), ("lost", room) and ("item", room, offset, body).
        self.heard: list[tuple[object, ...]] = []
        self._news = trio.Event()

    def item(self, item: Item) -> None:
        self.items.append(item)
        self._hear("item", item.room, item.offset, item.body)

    def present(self, room: str, who: Present) -> None:
        self._hear("present", room, who)

    def absent(self, room: str, device: str, for_good: bool) -> None:
        self._hear("gone" if for_good else "absent", room, device)

    def marked(self, room: str, user: str, offset: int) -> None:
        self._hear("marked", room, user, offset)

    def lost(self, room: str | None) -> None:
        self._hear("lost", room)

    def _hear(self, *what: object) -> None:
        self.heard.append(what)
        self._news.set()
        self._news = trio.Event()

    def of(self, room: str) -> list[Item]:
        return [item for item in self.items if item.room == room]

    def stored(self, room: str) -> list[int]:
        """The offsets heard of what is stored."""
        return [item.offset for item in self.of(room) if item.offset]

    def bodies(self, room: str) -> list[bytes]:
        return [item.body for item in self.of(room)]

    def forget(self) -> None:
        self.items.clear()
        self.heard.clear()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until what was heard makes it true."""
        with trio.fail_after(LIMIT_S):
            await trio.lowlevel.checkpoint()
            while not condition():
                await self._news.wait()

    async def hears(self, *what: object) -> None:
        await self.until(lambda: what in self.heard)


class Node:
    """A broker that runs, with its ear. `scope` ends it."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.ear = Ear()
        self.scope = trio.CancelScope()
        self._keys = 0

    def draft(
        self, room: str, body: bytes = b"{}", *, key: str = "", only: str = "", but: str = ""
    ) -> Draft:
        """One with a key of its own, unless there is a `key`."""
        self._keys += 1
        return Draft(room, key or f"{id(self)}-{self._keys}", body, only, but)

    def put(self, draft: Draft) -> Pending:
        """Append, without waiting for the outcome."""
        pending = Pending()
        self.broker.append(draft, pending.done)
        return pending

    async def append(self, room: str, body: bytes = b"{}", *, key: str = "") -> Position:
        """Append, and wait for the position. Raises what there is instead."""
        return await self.put(self.draft(room, body, key=key)).position()

    async def offsets(
        self, room: str, way: Way = "after", offset: int = 0, *, limit: int = 10_000
    ) -> list[int]:
        """The offsets on a page."""
        page = await self.broker.page(room, way, offset, limit=limit, max_bytes=1 << 30)
        return [item.offset for item in page.items]

    async def head(self, room: str) -> Head:
        return (await self.broker.page(room, "after", 0, limit=1, max_bytes=1)).head

    async def watch(self, room: str) -> Snapshot:
        with trio.fail_after(LIMIT_S):
            return await self.broker.watch(room)

    async def settled(self, room: str) -> None:
        """Until all that this node has done in a watched room has come back to it."""
        body = f'"settled {self._keys}"'.encode()
        await self.append(room, body)
        await self.ear.until(lambda: body in self.ear.bodies(room))


class Pending:
    """An append under way. `outcomes` has one in the end."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._event = trio.Event()

    def done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._event.set()

    async def position(self) -> Position:
        with trio.fail_after(LIMIT_S):
            await self._event.wait()
        (outcome,) = self.outcomes
        if isinstance(outcome, BrokerError):
            raise outcome
        return outcome


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[Node]:
    """Run it within the block."""
    node = Node(broker)

    async def run(task_status: trio.TaskStatus[None]) -> None:
        with node.scope:
            await broker.run(node.ear, task_status=task_status)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(LIMIT_S):
            await nursery.start(run)
        yield node
        node.scope.cancel()


class _Ahead(Ambient):
    """The wall clock, `by` seconds ahead."""

    by = 0.0

    def __init__(self) -> None:
        super().__init__()
        real = self.wall_s
        self.wall_s = lambda: real() + self.by


@contextlib.contextmanager
def ahead() -> Iterator[_Ahead]:
    """A wall clock that can be put ahead, in force within the block."""
    clock = _Ahead()
    old = replace_ambient(clock)
    try:
        yield clock
    finally:
        replace_ambient(old)


class MemoryNodes(Nodes):
    """The store is the broker, and lives longer than its runs."""

    def __init__(self, limits: LogLimits) -> None:
        self._broker = MemoryBroker(limits)

    def open(self) -> Broker:
        return self._broker

    async def pass_time(self, seconds: float) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock), "a test that lets time pass has the fixture mock_clock"
        clock.jump(seconds)
        await trio.lowlevel.checkpoint()


class SqliteNodes(Nodes):
    """A file, by a new broker each time."""

    def __init__(self, path: Path, limits: LogLimits, clock: _Ahead) -> None:
        self._path = path
        self._limits = limits
        self._clock = clock

    def open(self) -> Broker:
        return SqliteBroker(self._path, self._limits)

    async def pass_time(self, seconds: float) -> None:
        self._clock.by += seconds
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_memory(directory: Path, limits: LogLimits) -> AsyncIterator[Nodes]:
    yield MemoryNodes(limits)


@asynccontextmanager
async def open_sqlite(directory: Path, limits: LogLimits) -> AsyncIterator[Nodes]:
    with ahead() as clock:
        yield SqliteNodes(directory / "rooms", limits, clock)


FACTORIES: dict[str, Factory] = {"memory": open_memory, "sqlite": open_sqlite}

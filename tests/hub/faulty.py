"""A store that can be made to fail, to hang, and to answer late."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_rt.hub import Broker, BrokerError, Draft, MemoryBroker, Page, Position, Present, Snapshot
from trio_rt.hub._broker import Way

__all__ = ["FaultyBroker"]

Done = Callable[[Position | BrokerError], None]


class FaultyBroker(MemoryBroker):
    """A `MemoryBroker`, with troubles by the names of its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()
        self.hanging: set[str] = set()
        self.broken: set[str] = set()
        #: Seconds that a snapshot or a page is old when it arrives.
        self.delay_s = 0.0
        #: Answers that are kept back; None to give them at once.
        self.late: list[Callable[[], None]] | None = None
        self.asked: list[str] = []
        #: Snapshots on their way, and the most there ever were.
        self.looking = self.most_looking = 0

    def fail(self) -> None:
        """Everything raises."""
        self.failing = {"append", "post", "page", "watch", "enter", "leave", "mark", "unwatch"}

    def _check(self, name: str) -> None:
        self.asked.append(name)
        if name in self.failing:
            raise BrokerError("the store is down")

    async def _hang(self, name: str) -> None:
        self._check(name)
        if name in self.broken:
            raise ZeroDivisionError("a fault")
        if name in self.hanging:
            await trio.sleep_forever()

    def append(self, draft: Draft, done: Done) -> None:
        self._check("append")
        if "done" in self.failing:
            done(BrokerError("the store is full"))
            return
        late = self.late
        if late is None:
            super().append(draft, done)
        else:
            super().append(draft, lambda result: late.append(lambda: done(result)))

    def post(self, draft: Draft) -> None:
        self._check("post")
        super().post(draft)

    async def page(self, room: str, way: Way, offset: int, *, limit: int, max_bytes: int) -> Page:
        await self._hang("page")
        page = await super().page(room, way, offset, limit=limit, max_bytes=max_bytes)
        if self.delay_s:
            await trio.sleep(self.delay_s)
        return page

    async def watch(self, room: str) -> Snapshot:
        await self._hang("watch")
        self.looking += 1
        self.most_looking = max(self.looking, self.most_looking)
        try:
            snapshot = await super().watch(room)
            if self.delay_s:
                await trio.sleep(self.delay_s)
            return snapshot
        finally:
            self.looking -= 1

    def unwatch(self, room: str) -> None:
        self._check("unwatch")
        super().unwatch(room)

    def enter(self, room: str, who: Present) -> None:
        self._check("enter")
        super().enter(room, who)

    def leave(self, room: str, device: str, *, for_good: bool = False) -> None:
        self._check("leave")
        super().leave(room, device, for_good=for_good)

    def mark(self, room: str, user: str, offset: int) -> None:
        self._check("mark")
        super().mark(room, user, offset)


assert issubclass(FaultyBroker, Broker)

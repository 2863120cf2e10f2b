"""The task that writes: batches, the lease, and what is to be checked after a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio

from ..._waker import Waker
from .._broker import BrokerError, Draft, Position, Present
from ._redis_link import DEMOTED, Link, LinkLost, StoreRefused
from ._redis_lua import APPLY, CLEAR, RENEW
from ._redis_node import Node
from ._redis_queue import Batch, Done, Entry
from ._redis_wire import key_digest, present_value, to_bytes

__all__ = ["Writer"]

#: Of each kind in a batch; the store works some 3 ms on as many.
BATCH: Final = 256
BATCH_BYTES: Final = 1 << 20

#: Errors of a store that is full, in which all else goes on.
FULL: Final = ("OOM", "MISCONF")


class Writer:
    def __init__(self, node: Node) -> None:
        self._node: Final = node
        self._queue: Final = node.queue
        self._waker: Final = Waker()
        self._expiry: Final = Waker()
        self._expiry_idle = False
        self._run_id: str | None = None
        self._tries = 0
        self._renew_at = 0.0
        self._batch: Batch | None = None

    # From the program.

    def wake(self) -> None:
        self._waker.wake()

    def put(self, draft: Draft, done: Done | None, deadline: float) -> bool:
        """False: there is no room."""
        if not self._queue.put(draft, done, deadline):
            return False
        self._waker.wake()
        if self._expiry_idle and done is not None:
            self._expiry_idle = False
            self._expiry.wake()
        return True

    def enter(self, room: str, who: Present) -> None:
        self._queue.enter(room, who)
        self._waker.wake()

    def leave(self, room: str, device: str, for_good: bool) -> None:
        self._queue.leave(room, device, for_good)
        self._waker.wake()

    def mark(self, room: str, user: str, offset: int) -> None:
        self._queue.mark(room, user, offset)
        self._waker.wake()

    async def wait_confirmed(self) -> None:
        """Until the store has all that was asked before. Raises `LinkLost`."""
        queue = self._queue
        asked = queue.asked
        while queue.confirmed < asked and not queue.quiet:
            await self._node.wait_changed()

    # Tasks.

    async def expire(self) -> None:
        """A task: drafts that wait too long come to nothing, whatever the link does."""
        while True:
            deadline = self._queue.deadline
            self._expiry_idle = deadline is None
            if deadline is None:
                await self._expiry.wait()
            else:
                await self._expiry.wait(deadline)
                self._queue.expire(trio.current_time())

    async def use(self, link: Link, proven: Callable[[], None]) -> None:
        """Write, until the link is lost. Raises why."""
        node = self._node
        try:
            restarted = not link.run_id or link.run_id != self._run_id
            if not await self._take_lease(link) or restarted:
                self._queue.enter_all()
            if restarted and self._run_id is not None:
                await self._check_positions(link)
            self._run_id = link.run_id
            node.linked(link)
            proven()
            while True:
                await self._turn(link)
        except Exception:
            batch, self._batch = self._batch, None
            self._queue.lost(batch)
            raise
        finally:
            node.unlinked()

    async def _turn(self, link: Link) -> None:
        if self._queue.empty:
            await self._waker.wait(self._renew_at)
        if not link.usable:
            raise LinkLost("the link to the store was lost")
        if trio.current_time() >= self._renew_at:
            await self._renew(link)
        if self._queue.empty:
            return
        self._batch = batch = self._queue.take(BATCH, BATCH_BYTES)
        if len(batch):
            started = trio.current_time()
            replies = await self._apply(link, *self._operations(batch))
            self._node.count(len(batch.entries), trio.current_time() - started)
        else:
            replies = []
        self._batch = None
        self._settle(batch, replies)

    async def _apply(self, link: Link, count: int, words: list[Any]) -> list[Any]:
        """The replies to so many operations. A refusal of all is a refusal of each."""
        node = self._node
        try:
            reply = await link.script(APPLY, *node.arguments(), node.name, node.link_number, *words)
        except StoreRefused as error:
            if "SUPERSEDED" in str(error):
                raise LinkLost("a newer link has taken over") from None
            if DEMOTED in str(error):
                raise
            return [error] * count
        node.ear.garbage += reply[0]
        return list(reply[1:])

    def _operations(self, batch: Batch) -> tuple[int, list[Any]]:
        words: list[Any] = []
        for (room, device), who in batch.devices.items():
            words += (b"l" if who is None else b"e", to_bytes(room), to_bytes(device))
            if who is not None:
                words.append(present_value(self._node.name, who))
            else:
                words.append(int((room, device) in batch.for_good))
        for (room, user), offset in batch.marks.items():
            words += (b"m", to_bytes(room), to_bytes(user), offset)
        for entry in batch.entries:
            draft = entry.draft
            words += (b"a" if entry.stored else b"p", to_bytes(draft.room))
            if entry.stored:
                words.append(key_digest(draft))
            words += (draft.body, to_bytes(draft.only), to_bytes(draft.but))
        return len(batch), words

    def _settle(self, batch: Batch, replies: list[Any]) -> None:
        devices, entries = len(batch.devices), len(batch) - len(batch.entries)
        failed = [
            key for key, reply in zip(batch.devices, replies[:devices], strict=True) if reply != 1
        ]
        outcomes = [
            self._outcome(entry, reply)
            for entry, reply in zip(batch.entries, replies[entries:], strict=True)
        ]
        self._queue.settle(batch, outcomes, failed)
        self._node.changed()
        for each in outcomes:
            if isinstance(each, StoreRefused) and DEMOTED in str(each):
                raise each

    def _outcome(self, entry: Entry, reply: Any) -> Position | BrokerError | None:
        if type(reply) is list:
            epoch, offset = reply[0].decode(), int(reply[1])
            self._node.ear.note(entry.draft.room, epoch, offset, int(reply[2]))
            return Position(epoch, offset)
        if isinstance(reply, BrokerError):
            return reply
        if type(reply) is bytes:
            return StoreRefused(f"the store refuses: {reply[:100].decode('utf-8', 'replace')}")
        return None

    async def _check_positions(self, link: Link) -> None:
        """The store was restarted: rooms whose positions are not true get a new epoch."""
        known = list(self._node.ear.positions())
        for start in range(0, len(known), BATCH):
            words: list[Any] = []
            some = known[start : start + BATCH]
            for room, epoch, offset, at_ms in some:
                words += (b"v", to_bytes(room), epoch, offset, at_ms)
            await self._apply(link, len(some), words)

    async def _take_lease(self, link: Link) -> bool:
        """Whether the store had it still. The link's number goes with it."""
        node, settings = self._node, self._node.settings
        self._renew_at = trio.current_time() + settings.lease_s / 3
        self._tries += 1
        lease = f"{settings.prefix}:n:".encode() + node.name
        try:
            try:
                await link.command(b"STRLEN", lease)
            except StoreRefused as error:
                if "WRONGTYPE" not in str(error):
                    raise
                await link.command(b"DEL", lease)
            lasts_ms = round(settings.lease_s * 1000)
            old = await link.command(b"SET", lease, self._tries, b"PX", lasts_ms, b"GET")
        except StoreRefused as error:
            if any(word in str(error) for word in FULL):
                return True
            raise
        node.link_number = self._tries
        await self._renew(link)
        return old is not None

    async def _renew(self, link: Link) -> None:
        """Hold on to the lease, and clear away nodes that did not."""
        node, settings = self._node, self._node.settings
        self._renew_at = trio.current_time() + settings.lease_s / 3
        self._queue.retry()
        try:
            held, over = await link.script(
                RENEW, *node.arguments(), node.name, round(settings.lease_s * 1000)
            )
            for name in over:
                while await link.script(CLEAR, *node.arguments(), name, b""):
                    pass
        except StoreRefused as error:
            if any(word in str(error) for word in FULL):
                return
            raise
        if not held and not await self._take_lease(link):
            self._queue.enter_all()

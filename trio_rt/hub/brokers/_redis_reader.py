"""The task that reads the bus, and finds its place again after trouble.

It reads behind the id of the last entry that it has seen, never "from now on". Ids are
the store's time, and the store's clock may go back when it is restarted elsewhere: so,
whenever nothing came for a while, the number of the bus is compared as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ._redis_link import Link, StoreRefused
from ._redis_lua import TAIL
from ._redis_node import Node
from ._redis_wire import entries_of

__all__ = ["Reader"]

#: At most so many entries at once: some milliseconds of work.
ENTRIES: Final = 256

#: How long the store holds a read that finds nothing.
BLOCK_S: Final = 1.0


class Reader:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._run_id: str | None = None
        self._key: Final = f"{node.settings.prefix}:b".encode()

    async def use(self, link: Link, proven: Callable[[], None]) -> None:
        """Read, until the link is lost."""
        node = self._node
        # The sink, told that something is lost, will want snapshots; and the writer checks
        # positions first.
        await node.writes.wait()
        await self._find_place(link, restarted=not link.run_id or link.run_id != self._run_id)
        self._run_id = link.run_id
        try:
            node.reading()
            proven()
            while True:
                await self._read(link)
        finally:
            node.reads = False

    async def _read(self, link: Link) -> None:
        try:
            if not await self._take(link, BLOCK_S):
                await self._find_place(link, restarted=False)
        except StoreRefused as error:
            if "WRONGTYPE" not in str(error):
                raise
            await self._find_place(link, restarted=True)

    async def _take(self, link: Link, block_s: float) -> int:
        ear = self._node.ear
        block = (b"BLOCK", round(block_s * 1000)) if block_s else ()
        reply = await link.command(
            *(b"XREAD", b"COUNT", ENTRIES, *block, b"STREAMS", self._key, ear.id),
            timeout_s=block_s + self._node.settings.timeout_s,
        )
        entries = entries_of(reply)
        for entry in entries:
            ear.hear(entry)
        return len(entries)

    async def _find_place(self, link: Link, *, restarted: bool) -> None:
        """Compare with the end of the bus. At the first time: begin there.

        `restarted`: the store may have lost the end of the bus, and with it the entry
        that was read last; then what is behind it may be numbered as it was before.
        """
        ear = self._node.ear
        generation, number, newest, there, healed = await link.script(
            TAIL, *self._node.arguments(), ear.id
        )
        ear.garbage += healed
        if not ear.placed:
            ear.place(generation, int(number), newest)
            return
        if generation == ear.generation and int(number) == ear.number:
            missed = restarted and not there and ear.id != b"0-0"
        else:
            missed = generation != ear.generation or int(number) < ear.number
            missed = missed or (restarted and not there and ear.id != b"0-0")
            missed = missed or not await self._take(link, 0.0)
        if missed:
            if generation == ear.generation:
                ear.place(generation, int(number), newest)
            else:
                ear.place(generation, 0, b"0-0")
            ear.lost()

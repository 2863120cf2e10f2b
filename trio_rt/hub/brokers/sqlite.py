"""Rooms in a SQLite file, for one process, which they outlive.

One task writes: what gathers while it commits goes into its next commit, so that the
disk is waited for once for many. Nothing is told before it is committed: neither `done`
nor the sink. All work with the file is done in one thread at a time, readers in turns with
the writer. The roster is in memory alone.

A file that fails (a full disk, another process that has it, no directory) is closed, what
is under way and what comes gets a `BrokerError`, and the writer tries again after a
growing delay until it can write; passing messages, rosters and marks go on meanwhile, and so
does reading, if the file can be opened. After that the hub is told to look at its
rooms anew: they may have new epochs.

A cancelled call waits for its thread, which has one look-up or one commit to do: no thread
is left with a file that is closed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from ..._ambient import ambient
from ..._waker import Waker
from ...errors import OptionError
from ...options import Reconnect, check_kind
from ...protocol.backoff import delays
from .._broker import (
    Broker,
    BrokerError,
    Draft,
    Item,
    LogLimits,
    Page,
    Position,
    Present,
    Sink,
    Snapshot,
    Way,
)
from ._sqlite_file import File, Place
from ._sqlite_open import Foreign, is_broken, is_locked
from ._sqlite_queue import Done, Queue, is_text

__all__ = ["SqliteBroker"]

logger: Final = logging.getLogger("trio_rt.hub")

#: Between two looks for what is too old, if there is none left.
SWEEP_S: Final = 60.0
#: Marks that wait to be written; more are lost.
MOST_MARKS_WAITING: Final = 10_000
#: When a file that failed is tried again.
RETRY: Final = Reconnect(first_s=0.1, cap_s=5.0)

_FOREIGN: Final = "must be new, or a file of this store and version"
_LOCKED: Final = "another process has it open"

T = TypeVar("T")


class _Room:
    """A room that is watched, about to be (`watching` calls), or has somebody in it."""

    __slots__ = ("epoch", "present", "watched", "watching")

    def __init__(self) -> None:
        self.epoch = ""
        self.watched = False
        self.watching = 0
        self.present: dict[str, Present] = {}

    @property
    def is_told(self) -> bool:
        return self.watched or self.watching > 0


class SqliteBroker(Broker):
    """Keeps rooms in the file `path`, in `limits`; one process at a time can have it.

    `run` raises `OptionError` if the file is of another program or version. A file that is
    broken is set aside as `<path>.set-aside`, and all rooms begin anew. The file holds what
    was said, in plain, and is made readable by its owner alone. Marks beyond the end of a
    log are ignored.
    """

    def __init__(self, path: str | os.PathLike[str], limits: LogLimits = LogLimits()) -> None:
        if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
            raise OptionError("path", "must be a path", path)
        check_kind("limits", limits, LogLimits)
        self.path: Final = Path(path)
        self.limits: Final = limits
        self.up = False
        self._why = "it is not open"
        self._sink: Sink | None = None
        self._file: File | None = None
        self._thread: Final = trio.CapacityLimiter(1)
        self._rooms: dict[str, _Room] = {}
        self._queue: Final = Queue()
        self._marks: dict[tuple[str, str], int] = {}
        self._work = Waker()
        self._delays = delays(RETRY, ambient().random)
        self._commits = self._stored = 0

    async def run(
        self, sink: Sink, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        if self._sink is not None:
            raise trio.BusyResourceError("this broker runs already")
        self._sink = sink
        try:
            try:
                await self._in_thread(self._reopen)
                self.up = True
            except Foreign as error:
                raise OptionError("path", _FOREIGN, str(self.path)) from error
            except (sqlite3.Error, OSError) as error:
                self._went_down(error)
            task_status.started()
            await self._keep_writing()
        finally:
            self._sink = None
            self.up = False
            self._why = "the hub does not run"
            self._rooms.clear()
            self._marks.clear()
            self._queue.refuse_under_way(self._error())
            self._queue.refuse_waiting(self._error())
            with trio.CancelScope(shield=True):  # a thread, which has to end in any case
                await self._in_thread(self._close_last)

    def append(self, draft: Draft, done: Callable[[Position | BrokerError], None]) -> None:
        error = self._put(draft, done)
        if error is not None:
            done(error)

    def post(self, draft: Draft) -> None:
        sink, room = self._sink, self._rooms.get(draft.room)
        if sink is None:
            raise BrokerError("the hub does not run")
        if room is None or not room.is_told:
            return
        if room.watched and not len(self._queue):
            sink.item(Item(draft.room, room.epoch, 0, draft.body, draft.only, draft.but))
            return
        error = self._put(draft, None)
        if error is not None:
            raise error

    async def page(self, room: str, way: Way, offset: int, *, limit: int, max_bytes: int) -> Page:
        now = ambient().wall_s()
        return await self._ask(lambda file: file.page(room, way, offset, limit, max_bytes, now))

    async def watch(self, room: str) -> Snapshot:
        if self._sink is None:
            await trio.lowlevel.checkpoint()
            raise BrokerError("the hub does not run")
        now = ambient().wall_s()
        there = self._rooms.setdefault(room, _Room())
        there.watching += 1
        try:
            head, marks = await self._ask(lambda file: file.look(room, now))
            there.watched, there.epoch = True, head.epoch
        finally:
            there.watching -= 1
            self._release(room)
        return Snapshot(head, tuple(there.present.values()), marks)

    def unwatch(self, room: str) -> None:
        there = self._rooms.get(room)
        if there is not None:
            there.watched = False
            self._release(room)

    def enter(self, room: str, who: Present) -> None:
        if self._sink is None:
            return
        there = self._rooms.setdefault(room, _Room())
        if there.present.get(who.device) != who:
            there.present[who.device] = who
            if there.is_told:
                self._sink.present(room, who)

    def leave(self, room: str, device: str, *, for_good: bool = False) -> None:
        there = self._rooms.get(room)
        if self._sink is None or there is None or there.present.pop(device, None) is None:
            return
        if there.is_told:
            self._sink.absent(room, device, for_good)
        self._release(room)

    def mark(self, room: str, user: str, offset: int) -> None:
        """As `Broker.mark`. It is told when it is written, which is tried until it is."""
        mark = (room, user)
        if self._sink is None or not 0 < offset < 1 << 63 or not is_text(*mark):
            return
        if mark in self._marks or len(self._marks) < MOST_MARKS_WAITING:
            self._marks[mark] = max(offset, self._marks.get(mark, 0))
            self._work.wake()

    def statistics(self) -> Mapping[str, Any]:
        """`waiting` and `waiting_bytes`: drafts not yet committed; `commits`, and what they
        `stored`; `rooms`: how many are watched or have somebody in them."""
        return {
            "waiting": len(self._queue),
            "waiting_bytes": self._queue.waiting_bytes,
            "commits": self._commits,
            "stored": self._stored,
            "rooms": len(self._rooms),
        }

    def _release(self, name: str) -> None:
        room = self._rooms.get(name)
        if room is not None and not room.is_told and not room.present:
            del self._rooms[name]

    def _put(self, draft: Draft, done: Done | None) -> BrokerError | None:
        error = self._queue.put(draft, done) if self.up else self._error()
        self._work.wake()
        return error

    def _error(self) -> BrokerError:
        return BrokerError(f"the file of the rooms cannot be used: {self._why}")

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._thread)

    async def _ask(self, question: Callable[[File], T]) -> T:
        try:
            return await self._in_thread(lambda: self._answer(question))
        except UnicodeError as error:
            raise BrokerError("a name is no text that can be stored") from error
        except (sqlite3.Error, OSError) as error:
            self._went_down(error)
            raise self._error() from error

    def _answer(self, question: Callable[[File], T]) -> T:
        """In the thread. Which file it is that is broken is known only here."""
        file = self._file
        if file is None:
            raise self._error()
        try:
            return question(file)
        except sqlite3.Error as error:
            file.broken = file.broken or is_broken(error)
            raise

    async def _keep_writing(self) -> None:
        sweep_at = trio.current_time()
        while True:
            await self._work.wait(sweep_at)
            if not self.up:
                await self._mend()
            elif self._queue.waits or self._marks:
                await self._commit()
            if self.up and trio.current_time() >= sweep_at:
                more = await self._sweep()
                sweep_at = trio.current_time() + (0 if more else SWEEP_S)
            if self._queue.waits or self._marks or not self.up:
                self._work.wake()

    async def _commit(self) -> None:
        drafts = [(draft, done is not None) for draft, done in self._queue.take()]
        marks, self._marks = self._marks, {}
        now = ambient().wall_s()
        try:
            places, moved = await self._ask(lambda file: file.write(drafts, marks, now))
        except BrokerError:
            for mark, offset in marks.items():
                self._marks[mark] = max(offset, self._marks.get(mark, 0))
            self._queue.refuse_under_way(self._error())
        else:
            self._commits += 1
            self._delays = delays(RETRY, ambient().random)
            self._tell(places, moved)

    def _tell(self, places: list[Place], moved: list[tuple[str, str, int]]) -> None:
        """The batch is under way until all of it is told, so that no post comes between."""
        assert self._sink is not None
        tell, batch = self._sink.item, self._queue.under_way
        for (draft, done), (epoch, offset, new) in zip(batch, places, strict=True):
            room = self._rooms.get(draft.room)
            if new and room is not None and room.is_told:
                tell(Item(draft.room, epoch, offset, draft.body, draft.only, draft.but))
            if done is not None:
                self._stored += new
                done(Position(epoch, offset))
        self._queue.settled()
        for name, user, offset in moved:
            room = self._rooms.get(name)
            if room is not None and room.is_told:
                self._sink.marked(name, user, offset)

    async def _sweep(self) -> bool:
        held, now = set(self._rooms), ambient().wall_s()
        try:
            return await self._ask(lambda file: file.sweep(held, now))
        except BrokerError:
            return True

    async def _mend(self) -> None:
        await trio.sleep(next(self._delays))
        try:
            await self._in_thread(self._reopen)
        except (sqlite3.Error, OSError, Foreign) as error:
            self._went_down(error)
            return
        self.up = True
        logger.info("the file of the rooms is open again")
        if self._sink is not None:
            self._sink.lost(None)

    def _reopen(self) -> None:
        """In the thread: afterwards the file is open, or it is None."""
        self._close()
        self._file = File(self.path, self.limits, f"{ambient().random.getrandbits(64):016x}")
        self._answer(File.probe)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _close_last(self) -> None:
        try:
            self._close()
        except (sqlite3.Error, OSError) as error:
            logger.warning("the file of the rooms could not be closed: %s", error)

    def _went_down(self, error: Exception) -> None:
        why = _why(error)
        if self.up or why != self._why:
            logger.warning("the file of the rooms cannot be used: %s", why)
        self.up, self._why = False, why
        self._queue.refuse_waiting(self._error())
        self._work.wake()


def _why(error: Exception) -> str:
    if isinstance(error, Foreign):
        return _FOREIGN
    return _LOCKED if is_locked(error) else str(error)

"""What a user may do in a room, as its owners have decided: roles, mutes, bans.

**Goal.** What was decided holds on every node, and after a restart.

**The rule.** Where it cannot be known, nobody is let in: `get` raises `BrokerError` then,
and the client is told to try again. Nothing is forgotten to make room, since that would
lift bans: `set` fails instead. A file that is broken stays as it is, for a person to look at.
"""

from __future__ import annotations

import abc
import logging
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar, get_args

import attrs
import trio

from ..._ambient import ambient
from ...errors import BrokerError, OptionError
from ...options import check_number
from .._words import Role
from ._standing_file import banned, open_file, read, sweep, write

__all__ = ["MemoryStandings", "SqliteStandings", "Standing", "Standings", "now_ms", "until_text"]

_log: Final = logging.getLogger("trio_rt.chat")

#: How long what another process has written may be unknown to this one.
CACHE_S: Final = 2.0
#: The year 10000.
END_MS: Final = 253_402_300_800_000
#: Standings that are known without a look into the file.
CACHED: Final = 10_000

T = TypeVar("T")


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(ambient().wall_s() * 1000)


def until_text(until: int) -> str:
    """`until` for people: ms since the epoch, 0 for ever."""
    if not until:
        return "for good"
    return f"until {datetime.fromtimestamp(until / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


@attrs.frozen
class Standing:
    """Of one user in one room. Times are ms since the epoch; None: not at all, 0: for ever."""

    role: Role = "member"
    muted_until: int | None = None
    banned_until: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise OptionError("Standing.role", f"must be one of {get_args(Role)}", self.role)
        for name in ("muted_until", "banned_until"):
            until = getattr(self, name)
            if until is not None:
                check_number(f"Standing.{name}", until, whole=True, finite=True)
                if until >= END_MS:
                    raise OptionError(f"Standing.{name}", f"must be below {END_MS}", until)

    def is_muted(self, now: int) -> bool:
        """Whether the user may not speak, `now` in ms since the epoch."""
        return _holds(self.muted_until, now)

    def is_banned(self, now: int) -> bool:
        """Whether the user may not be there, `now` in ms since the epoch."""
        return _holds(self.banned_until, now)

    def at(self, now: int) -> Standing:
        """Without what is over."""
        muted = self.muted_until if self.is_muted(now) else None
        banned = self.banned_until if self.is_banned(now) else None
        return Standing(self.role, muted, banned)


def _holds(until: int | None, now: int) -> bool:
    return until is not None and (until == 0 or now < until)


#: Of whom nothing was decided.
USUAL: Final = Standing()


class Standings(abc.ABC):
    """Where they are kept. Derive from it for a store of one's own."""

    async def open(self) -> None:
        """Called before anything else, by each service. Raises `OptionError` for a store that
        is somebody else's."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Called when a service ends, also if that is cancelled. It may be used again."""
        await trio.lowlevel.checkpoint()

    @abc.abstractmethod
    async def get(self, room: str, user: str) -> Standing:
        """`Standing()` of whom nothing was decided. Raises `BrokerError`."""

    @abc.abstractmethod
    async def set(self, room: str, user: str, standing: Standing) -> None:
        """Decide. Raises `BrokerError`, and cancelled: it may be so or as before."""

    @abc.abstractmethod
    async def banned(self, room: str) -> Collection[str]:
        """The users who are banned from `room` now. Raises `BrokerError`."""

    def changed(self, room: str, user: str) -> None:  # noqa: B027 (a store may cache nothing)
        """Another process has called `set`: what is cached of that is old. Does not wait."""


class MemoryStandings(Standings):
    """In this process alone, at most `most` of them."""

    def __init__(self, most: float = 100_000) -> None:
        check_number("most", most, least=1, whole=True)
        self._most: Final = most
        self._count = 0
        self._rooms: dict[str, dict[str, Standing]] = {}

    async def get(self, room: str, user: str) -> Standing:
        await trio.lowlevel.checkpoint()
        return self._rooms.get(room, {}).get(user, USUAL)

    async def set(self, room: str, user: str, standing: Standing) -> None:
        await trio.lowlevel.checkpoint()
        self._forget(room, user)
        if standing == USUAL:
            return
        if self._count >= self._most:
            self._sweep()
        if self._count >= self._most:
            raise BrokerError(f"there are {self._most:g} standings already")
        self._rooms.setdefault(room, {})[user] = standing
        self._count += 1

    async def banned(self, room: str) -> Collection[str]:
        await trio.lowlevel.checkpoint()
        now = now_ms()
        return [user for user, each in self._rooms.get(room, {}).items() if each.is_banned(now)]

    def _forget(self, room: str, user: str) -> None:
        users = self._rooms.get(room, {})
        if users.pop(user, None) is not None:
            self._count -= 1
            if not users:
                del self._rooms[room]

    def _sweep(self) -> None:
        now = now_ms()
        for room, users in list(self._rooms.items()):
            for user, standing in list(users.items()):
                if standing.at(now) == USUAL:
                    self._forget(room, user)


class SqliteStandings(Standings):
    """In the file `path`, which several processes of one machine may share.

    What another process decides is known here within 2 s, and at once where the service
    hears of it. The file is made readable by its owner alone. It is opened when it is
    needed. A cancelled call waits for its thread.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
            raise OptionError("path", "must be a path", path)
        self.path: Final = Path(path)
        self._thread: Final = trio.CapacityLimiter(1)
        self._file: sqlite3.Connection | None = None
        #: With the time until which each is believed, the one used last at the end.
        self._cache: OrderedDict[tuple[str, str], tuple[Standing, float]] = OrderedDict()
        #: Look-ups under way, each with what has changed since it began.
        self._looks: dict[object, set[tuple[str, str]]] = {}

    async def open(self) -> None:
        now = now_ms()
        try:
            await self._do(lambda file: sweep(file, now))
        except BrokerError as error:  # it may come; until then nobody is let in
            _log.warning("%s", error)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # a thread, which has to end in any case
            await trio.to_thread.run_sync(self._close, limiter=self._thread)

    async def get(self, room: str, user: str) -> Standing:
        key = (room, user)
        found = self._cache.get(key)
        if found is not None and trio.current_time() < found[1]:
            self._cache.move_to_end(key)
            await trio.lowlevel.checkpoint()
            return found[0]
        look, until = object(), trio.current_time() + CACHE_S
        changed = self._looks[look] = set()
        try:
            row = await self._do(lambda file: read(file, room, user))
        finally:
            del self._looks[look]
        standing = USUAL if row is None else Standing(*row)
        if key not in changed:
            self._keep(key, standing, until)
        return standing

    async def set(self, room: str, user: str, standing: Standing) -> None:
        fields = None if standing == USUAL else attrs.astuple(standing)
        try:
            await self._do(lambda file: write(file, room, user, fields))
        finally:
            self.changed(room, user)

    async def banned(self, room: str) -> Collection[str]:
        now = now_ms()
        return await self._do(lambda file: banned(file, room, now))

    def changed(self, room: str, user: str) -> None:
        self._cache.pop((room, user), None)
        for changed in self._looks.values():
            changed.add((room, user))

    def _keep(self, key: tuple[str, str], standing: Standing, until: float) -> None:
        self._cache[key] = (standing, until)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def in_thread() -> T:
            if self._file is None:
                self._file = open_file(self.path)
            return work(self._file)

        try:
            return await trio.to_thread.run_sync(in_thread, limiter=self._thread)
        except (sqlite3.Error, OSError, UnicodeError) as error:
            raise BrokerError(f"the file of the standings cannot be used: {error}") from error

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

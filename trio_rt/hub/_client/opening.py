"""`open_room()`: membership of one room, as a scope."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar, overload

import trio

from ..._connection import Connection
from ...errors import OptionError
from ...options import check_kind, check_number
from ...protocol.codec import payload_reader
from .._broker import Position
from .._names import check_name
from .._words import JOIN, LEAVE
from .channel import Channel
from .desk import Desk, clear_desk, desk_of
from .follow import Follow, Since
from .member import Member
from .membership import Membership

__all__ = ["open_room"]

#: When the hub is told again of a room that was left while the outbox was full.
LATER_S: Final = 0.1

T = TypeVar("T")


@overload
def open_room(
    conn: Connection, name: str, *, since: Since = ..., capacity: int = ...
) -> AbstractAsyncContextManager[Membership[Any]]: ...
@overload
def open_room(
    conn: Connection, name: str, *, as_: type[T], since: Since = ..., capacity: int = ...
) -> AbstractAsyncContextManager[Membership[T]]: ...
@overload
def open_room(
    conn: Connection, name: str, *, as_: Any, since: Since = ..., capacity: int = ...
) -> AbstractAsyncContextManager[Membership[Any]]: ...
def open_room(
    conn: Connection, name: str, *, as_: Any = Any, since: Since = None, capacity: int = 1000
) -> AbstractAsyncContextManager[Membership[Any]]:
    """Be in a room for as long as the block lasts: `async with open_room(conn, "lobby") as room:`.

    - `since`: None for what is said from now on; a `Position` for what came after it, before
      that; "start" for the whole log that there is, or a number for the last so many of it.
      What of it is gone is a `Gap`; if the log began anew, a `Reset` and all of the new one.
    - `as_`: what payloads are to be; those that are not are in `conn.malformed()`.
    - `capacity`: items that lie here until they are received. More, and the oldest go: a
      `Gap` is in the place of messages. What is paged in waits for room.

    Entering waits for the hub's answer, as long as the connection takes. Raises `Refused` if
    the hub will not have this member, and `OptionError`, and then nothing was sent.
    Several may hold a room over one connection: each has all from its own
    beginning on, and the hub is told at the end of the last one. Cancelled, nothing is left.
    """
    check_kind("conn", conn, Connection)
    check_name("name", name)
    _check_since(since)
    check_number("capacity", capacity, least=1, whole=True, finite=True)
    payload_reader(conn.codec, as_)  # raises `OptionError`
    return _open(conn, name, since, as_, capacity)


def _check_since(since: object) -> None:
    if since is None or since == "start":
        return
    if isinstance(since, Position):
        check_number("since.offset", since.offset, whole=True, finite=True)
    elif isinstance(since, bool) or not isinstance(since, int) or since < 0:
        raise OptionError("since", 'must be a Position, "start", a number from 0, or None', since)


@asynccontextmanager
async def _open(
    conn: Connection, name: str, since: Since, as_: Any, capacity: int
) -> AsyncIterator[Membership[Any]]:
    desk = desk_of(conn)
    member = Member(conn, name, Follow(since), Channel(capacity), desk, as_)
    desk.hold(name)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.read)
            nursery.start_soon(member.keep_up)
            try:
                await member.until_joined()
                yield Membership(member)
            except BaseException as caught:  # noqa: ASYNC103 - raised outside, in no group
                error = caught
            nursery.cancel_scope.cancel()
    except BaseException as caught:  # noqa: ASYNC103 - the same
        # No task raises: it is a cancellation from around, or Ctrl-C.
        if error is None or not _is_cancellation(caught):
            error = caught
    finally:
        _leave(conn, member)
    if error is not None:
        raise error


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _leave(conn: Connection, member: Member) -> None:
    """The tasks of `member` have ended. Waits for nothing."""
    member.close()
    name, desk = member.room, member.desk
    if JOIN in member.calls.loose:
        desk.note(name, entered=True)
    if desk.let_go(name) and not _say_leave(conn, name):
        is_first = not desk.unsaid
        desk.unsaid.add(name)
        if is_first:
            conn._mailbox.spawn(partial(_leave_later, conn, desk))
    clear_desk(conn)


def _say_leave(conn: Connection, name: str) -> bool:
    """False: the outbox has no room for it."""
    # A new plain link is no member; a session that is taken up again still is.
    in_session = conn._session.numbered is not None
    try:
        conn.send_nowait(LEAVE, {"room": name}, when_offline="queue" if in_session else "drop")
    except trio.WouldBlock:
        return False
    except trio.ClosedResourceError:
        pass
    return True


async def _leave_later(conn: Connection, desk: Desk) -> None:
    """A task: tell the hub of the rooms that are left, unless somebody holds them again."""
    try:
        while desk.unsaid:
            await trio.sleep(LATER_S)
            for name in tuple(desk.unsaid):
                if _say_leave(conn, name):
                    desk.unsaid.remove(name)
    finally:
        desk.unsaid.clear()
        clear_desk(conn)

"""`open_chat()`: a chat over one connection, as a scope."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Literal

import trio

from ..._connect import connect
from ..._connection import Connection
from ..._hooks import Ask, Credentials
from ...errors import OptionError
from ...hub._client.opening import open_room
from ...hub._names import check_name
from ...options import check_number
from .._words import AVATAR_BYTES
from .beside import beside
from .holder import Holder
from .profile import ProfileTeller
from .room import ChatRoom

__all__ = ["Chat", "open_chat"]


class Chat:
    """This user's place in a chat: made by `open_chat()` alone."""

    def __init__(self, conn: Connection, teller: ProfileTeller) -> None:
        self._conn: Final = conn
        self._teller: Final = teller
        self._rooms: Final[list[ChatRoom]] = []

    @property
    def conn(self) -> Connection:
        """Over which it goes: its state, and whatever else the program says by it."""
        return self._conn

    @property
    def rooms(self) -> tuple[ChatRoom, ...]:
        """Those that are held now, in the order in which they were entered."""
        return tuple(self._rooms)

    def room(self, name: str, history: int = 50) -> AbstractAsyncContextManager[ChatRoom]:
        """Be in a room for as long as the block lasts: `async with chat.room("lobby") as room:`.

        `history`: how many entries of the log its `messages` begin with; edits and reactions
        are some, too. Entering waits until they are here, as long as the connection takes.
        Raises `Refused` if the service does not let this user in, and `OptionError`.

        When the block returns or raises, what is queued is said first, as long as there is a
        link and for at most 5 s. When it is cancelled nothing is waited for. What is still
        queued is withdrawn then; what was sent may be stored.
        Several may hold one room: each has all of it, and messages of its own to say.
        """
        check_name("name", name)
        check_number("history", history, whole=True, finite=True)
        return self._hold(name, history)

    @asynccontextmanager
    async def _hold(self, name: str, history: int) -> AsyncIterator[ChatRoom]:
        async with open_room(self._conn, name, since=history) as membership:
            holder = Holder(self._conn, membership)
            room = ChatRoom(holder)
            try:
                await holder.begin()
                self._rooms.append(room)
                async with beside(*holder.tasks, at_end=holder.drain):
                    yield room
            finally:
                if room in self._rooms:
                    self._rooms.remove(room)
                holder.close()

    async def set_status(self, status: Literal["online", "away"]) -> None:
        """How this user is shown in all rooms.

        As `set_profile`: the service is told when there is a link, and again whenever a
        session was lost; this waits for none of it. What the service refuses for good is
        logged. Cancelled, nothing is changed. Raises `OptionError`.
        """
        if status not in ("online", "away"):
            raise OptionError("status", 'must be "online" or "away"', status)
        await trio.lowlevel.checkpoint()
        self._teller.change(status=status)

    async def set_profile(self, *, name: str | None = None, avatar: str | None = None) -> None:
        """How this user is called, and its picture (where it is, or an emoji); None leaves it as it was."""
        changes = {}
        if name is not None:
            check_name("name", name)
            changes["name"] = name
        if avatar is not None:
            check_name("avatar", avatar, AVATAR_BYTES)
            changes["avatar"] = avatar
        await trio.lowlevel.checkpoint()
        if changes:
            self._teller.change(**changes)


def open_chat(
    where: Connection | str | Sequence[str],
    *,
    credentials: Ask | Credentials | None = None,
) -> AbstractAsyncContextManager[Chat]:
    """A chat for as long as the block lasts: `async with open_chat("wss://example.org") as chat:`.

    `where`: a `Connection`, which is used and left open, or URLs as for `connect()`. Then
    the connection is the chat's own, with `credentials` as for `connect()`.

    Raises `OptionError`; leaves with `ConnectionFailed` when the connection's trouble is for
    good. It leaves as `connect()` does: what the block raises, never in a group.
    """
    if isinstance(where, Connection):
        if credentials is not None:
            raise OptionError("credentials", "must be None for an open connection", credentials)
        return _over(where)
    if not isinstance(where, (str, Sequence)):
        raise OptionError("where", "must be a Connection, a URL or several", where)
    return _connected(connect(where, credentials=credentials))


@asynccontextmanager
async def _connected(connection: AbstractAsyncContextManager[Connection]) -> AsyncIterator[Chat]:
    async with connection as conn, _over(conn) as chat:
        yield chat


@asynccontextmanager
async def _over(conn: Connection) -> AsyncIterator[Chat]:
    teller = ProfileTeller(conn)
    try:
        async with beside(teller.tell, teller.listen):
            yield Chat(conn, teller)
    finally:
        teller.close()

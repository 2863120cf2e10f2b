"""One holder of a chat's room: what it knows, and the tasks by which it knows it.

    open_room            the hub's membership, with tasks of its own
    └─ one nursery       never shown to the caller
       ├─ listen         takes what the hub says, in order: log, typists, then the streams
       ├─ run (speaker)  says what is queued, one message at a time
       ├─ typing.run     says that this user types, and forgets who has stopped
       └─ typing.watch   forgets who types when the link is lost

Only `listen` waits for the hub, and nobody waits for a consumer. What others are told of
typing waits for nothing at all: it is sent at once, or dropped.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import trio

from ..._connection import Connection
from ...errors import Refused
from ...hub._broker import Position
from ...hub._client.items import RoomItem, RoomMessage
from ...hub._client.membership import Membership
from ...message import Gap, Reset
from ...protocol.lifecycle import Phase
from .._words import SaidBody
from ..models import ChatMessage, RoomEvent, Spoken, TypingChanged, User
from .events import Events
from .log import RoomLog
from .marker import Marker
from .speaker import Speaker
from .typing import RoomTyping

__all__ = ["Holder"]

#: Seconds for what is queued when the room is left.
LEAVE_S: Final = 5.0

#: The code of a refusal: the service knows this user by another name.
FORGED_NAME: Final = "forged_name"

#: Items that are taken without a turn of the loop.
AT_A_TIME: Final = 64


class Holder:
    """Of `membership`, which it alone receives from."""

    def __init__(self, conn: Connection, membership: Membership[Any]) -> None:
        self.conn: Final = conn
        self.membership: Final = membership
        self.log: Final = RoomLog()
        self.events: Final = Events()
        self.typing: Final = RoomTyping(conn, membership, self._typing_changed)
        self.speaker: Final = Speaker(
            self.log, self._publish, conn.wait_connected, self._placed_late
        )
        self.marker: Final = Marker(membership.mark)
        self.closed = False

    @property
    def typing_users(self) -> tuple[User, ...]:
        """Who is typing now, this user's own devices left out."""
        return tuple(self.log.user(id) for id in self.typing.users)

    # Of the scope

    @property
    def tasks(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """Those that run beside the block."""
        return self.listen, self.speaker.run, self.typing.run, self.typing.watch

    async def begin(self) -> None:
        """Take what the room begins with: who is there, and the last messages.

        Waits until that is here. Raises `Refused`, or `trio.ClosedResourceError`.
        """
        membership = self.membership
        self._note_me()
        self.log.begin(membership.position)
        self.log.meet(membership.members, membership.marks)
        try:
            while membership.is_behind:
                self._take(await membership.receive())
            self._take_ready(math.inf)
        except trio.EndOfChannel:
            raise trio.ClosedResourceError from None

    async def drain(self) -> None:
        """Wait until what is queued is said: as long as there is a link, and for `LEAVE_S`."""
        if self.speaker.is_idle:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(LEAVE_S) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_without_link, patience)
                await self.speaker.wait_idle()
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """The tasks have ended. Waits for nothing."""
        self.typing.stop()
        self.closed = True
        self.speaker.close()
        self.events.end(trio.EndOfChannel())

    def check(self) -> None:
        """Raise `trio.ClosedResourceError` when the room is left."""
        if self.closed:
            raise trio.ClosedResourceError

    async def _end_without_link(self, patience: trio.CancelScope) -> None:
        with self.conn.watch_states() as states:
            async for state in states:
                if state.phase is not Phase.CONNECTED:
                    break
        patience.cancel()

    # The task that listens

    async def listen(self) -> None:
        """Take what happens, until nothing will."""
        try:
            while True:
                self._take(await self.membership.receive())
                self._take_ready(AT_A_TIME)
        except Refused as refusal:
            self.events.end(Refused(refusal.code, refusal.text))
        except trio.EndOfChannel:
            self.events.end(trio.EndOfChannel())

    def _take_ready(self, most: float) -> None:
        try:
            while most > 0:
                self._take(self.membership.receive_nowait())
                most -= 1
        except trio.WouldBlock:
            pass

    def _take(self, item: RoomItem[Any]) -> None:
        self._note_me()
        if isinstance(item, RoomMessage) and item.position is None:
            self.typing.heard(item)
            return
        events = self.log.take(item, until=self.membership.reached)
        self.speaker.heard(events)
        if isinstance(item, (Gap, Reset)):
            events += self._after_loss(item)
        self.events.put(events)
        self.typing.happened(item)

    def _after_loss(self, item: Gap | Reset) -> list[RoomEvent]:
        if isinstance(item, Reset):
            self.marker.forget()
        return self.log.meet(self.membership.members, self.membership.marks)

    def _typing_changed(self) -> None:
        self.events.put((TypingChanged(self.typing_users),))

    def _placed_late(self, message: ChatMessage) -> None:
        self.events.put((Spoken(message),))

    def _note_me(self) -> None:
        if self.log.me != self.membership.user:
            self.log.me = self.membership.user
            self.typing.know(self.log.me)

    # One's own messages

    async def _publish(self, message: ChatMessage) -> Position:
        me = self.log.user(self.log.me)
        name = "" if me.name == me.id else me.name
        try:
            return await self._publish_as(name, message)
        except Refused as refusal:
            if not name or refusal.code != FORGED_NAME:
                raise
        return await self._publish_as("", message)  # another device has changed it

    async def _publish_as(self, name: str, message: ChatMessage) -> Position:
        body = SaidBody(message.content, name, message.reply, dict(message.metadata))
        position = await self.membership.publish(
            msgspec.to_builtins(body), type=message.kind, id=message.id
        )
        assert position is not None  # it is stored
        return position

    # What was said before

    async def history(self, before: int | None, limit: int) -> tuple[ChatMessage, ...]:
        """A page of the log that has any message; none at its beginning only."""
        while True:
            page = await self.membership.history(before=before, limit=limit)
            found = self.log.page(page)
            first = page.messages[0].position if page.messages else None
            if found or first is None or first.offset <= page.first:
                return found
            before = first.offset

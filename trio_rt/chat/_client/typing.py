"""Who types in a room: the others, and what they are told of this user.

Words of typing pass: they have no place in the log, and one that is lost is lost. So each
holds for some seconds only, and a lost link ends them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import msgspec
import trio

from ..._connection import Connection
from ..._waker import Waker
from ...hub._client.items import Left, RoomItem, RoomMessage
from ...hub._client.membership import Membership
from ...hub._words import PUBLISH
from ...message import Gap, Reset
from ...protocol.lifecycle import Phase
from .._words import KINDS, TYPING, Typing
from .ids import new_id
from .keyboard import Keyboard
from .typists import Typists

__all__ = ["RoomTyping"]


class RoomTyping:
    """Of one holder of a room. `changed` is called when `users` are others."""

    def __init__(
        self, conn: Connection, membership: Membership[Any], changed: Callable[[], None]
    ) -> None:
        self._conn: Final = conn
        self._membership: Final = membership
        self._tell_changed: Final = changed
        self._typists: Final = Typists()
        self._keyboard: Final = Keyboard(self._say)
        self._timer: Final = Waker()

    @property
    def users(self) -> tuple[str, ...]:
        """Who is typing, one's own user left out."""
        return self._typists.users

    # What the hub tells

    def know(self, me: str) -> None:
        """Which user is this one."""
        self._typists.me = me

    def heard(self, message: RoomMessage[Any]) -> None:
        """A message that passes."""
        if message.type != TYPING:
            return
        try:
            word = msgspec.convert(message.payload, Typing)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            return
        now = trio.current_time()
        self._note(self._typists.heard(message.user, message.device, word.on, now))
        self._timer.wake()

    def happened(self, item: RoomItem[Any]) -> None:
        """Anything else, which may end somebody's typing."""
        if isinstance(item, RoomMessage):
            self._note(item.type in KINDS and self._typists.said(item.user, item.device))
        elif isinstance(item, Left):
            self._note(self._typists.left(item.user))
        elif isinstance(item, (Gap, Reset)):
            self._note(self._typists.clear())

    def _note(self, changed: bool) -> None:
        if changed:
            self._tell_changed()

    # The tasks

    async def run(self) -> None:
        """Say that this user types, and forget who has stopped."""
        while True:
            now = trio.current_time()
            look_at = self._keyboard.look(now)
            self._note(self._typists.expire(now))
            expire_at = self._typists.next_at
            await self._timer.wait(min(look_at, math.inf if expire_at is None else expire_at))

    async def watch(self) -> None:
        """Forget who types when the link is lost."""
        with self._conn.watch_states() as states:
            async for state in states:
                if state.phase is not Phase.CONNECTED:
                    self._note(self._typists.clear())

    # This user

    def press(self) -> None:
        """A key."""
        self._keyboard.press(trio.current_time())
        self._timer.wake()

    def hold(self, block: object) -> None:
        """It goes on until `block` is released."""
        self._keyboard.hold(block, trio.current_time())
        self._timer.wake()

    def release(self, block: object) -> None:
        """Idempotent."""
        self._keyboard.release(block, trio.current_time())

    def stop(self) -> None:
        """It is over, whoever holds it."""
        self._keyboard.stop(trio.current_time())

    def _say(self, on: bool) -> None:
        """Sent at once, or never; a newer word takes the place of one that has not left."""
        if not self._membership.joined:
            return
        room = self._membership.name
        body = {"room": room, "type": TYPING, "payload": msgspec.to_builtins(Typing(on))}
        body |= {"id": new_id(), "to": "others", "store": False}
        try:
            self._conn.send_nowait(PUBLISH, body, key=f"{TYPING}:{room}", when_offline="drop")
        except (trio.WouldBlock, trio.ClosedResourceError):
            pass

"""The tasks of the rooms that are open, one for each, and what happens there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio

from ..._waker import Waker
from ...chat import Chat, ChatRoom, Said, Spoken
from ...errors import OptionError, Refused, UsageError
from ...protocol.lifecycle import Phase
from .desk import Desk
from .tab import Speech, Tab
from .text import fit_line

__all__ = ["Rooms", "reason"]

#: Entries of the log that a room begins with, and that are fetched at a time.
HISTORY: Final = 100
#: Seconds between two words about what was read.
MARK_S: Final = 0.5
#: Seconds for what is queued at the end.
LEAVE_S: Final = 2.0


def reason(refusal: Refused) -> str:
    """Why something was refused, for people."""
    return fit_line(refusal.text or refusal.code)


class Rooms:
    """Of one chat; they run in `nursery`. `changed` is called when there is something to draw."""

    def __init__(
        self, chat: Chat, desk: Desk, nursery: trio.Nursery, changed: Callable[[], None]
    ) -> None:
        self._chat: Final = chat
        self._desk: Final = desk
        self._nursery: Final = nursery
        self._changed: Final = changed
        # Woken when a message is further, or a room left.
        self._moved: Final = Waker()
        # Rooms that are held, or being left.
        self._open = 0
        self._closing = False

    def join(self, name: str) -> None:
        """Go into a room, or to it. Raises `OptionError` for what is no name."""
        tab = self._desk.find(name)
        if tab is not None and tab.over:
            self._desk.remove(tab)
            tab = None
        if tab is None:
            self._chat.room(name)  # it checks the name
            tab = self._desk.add(name)
            self._open += 1
            self._nursery.start_soon(self._hold, tab)
        self._desk.show(self._desk.tabs.index(tab))

    def leave(self, tab: Tab) -> None:
        """Leave a room; what is queued there is said first, if there is a link.

        It is shown no more, if there is another one to show.
        """
        tab.leave.set()
        tab.over = "You have left."
        if len(self._desk.tabs) > 1:
            self._desk.remove(tab)

    async def close(self) -> int:
        """Leave all rooms: how many messages are not said.

        What is queued is waited for a little, if there is a link.
        """
        with trio.move_on_after(LEAVE_S):
            await self._until(lambda: not self._desk.work.queued or not self._is_online())
        unsaid = self._desk.work.queued
        self._closing = True
        for tab in self._desk.tabs:
            tab.leave.set()
        with trio.move_on_after(LEAVE_S):
            await self._until(lambda: not self._open)
        return unsaid

    def older(self, tab: Tab) -> None:
        """Fetch older messages, unless that is done already, or there are none."""
        timeline = tab.timeline
        if tab.room is None or tab.loading or timeline.complete or not timeline.has_room:
            return
        if timeline.first_offset:
            tab.loading = True
            self._nursery.start_soon(self._fetch, tab, tab.room)

    def retry(self, tab: Tab) -> int:
        """Say once more what has failed: how many messages."""
        again = [said for said in tab.failed.values() if said.retry()]
        tab.failed.clear()
        for said in again:
            self._nursery.start_soon(self._follow, tab, said)
        return len(again)

    # Within

    async def _until(self, done: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not done():
            await self._moved.wait()

    def _is_online(self) -> bool:
        return self._chat.conn.state.phase is Phase.CONNECTED

    # One room

    async def _hold(self, tab: Tab) -> None:
        try:
            async with self._chat.room(tab.name, HISTORY) as room:
                tab.enter(room)
                self._changed()
                await self._attend(tab, room)
            if not self._closing:
                tab.end(f"You have left {fit_line(tab.name)}. /join goes in again.")
        except Refused as refusal:
            tab.end(f"You cannot be in {fit_line(tab.name)}: {reason(refusal)}")
        except trio.ClosedResourceError:
            pass  # the connection is over: that is said where it is known why
        finally:
            self._open -= 1
            self._moved.wake()
            self._changed()

    async def _attend(self, tab: Tab, room: ChatRoom) -> None:
        """Until the room is left. Raises `Refused` if the service removes this user."""
        refusal: Refused | None = None
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                nonlocal refusal
                try:
                    await self._listen(tab, room)
                except Refused as caught:
                    refusal = caught
                tab.leave.set()

            nursery.start_soon(listen)
            nursery.start_soon(self._speak, tab, room, nursery)
            nursery.start_soon(self._mark, tab, room)
            await tab.leave.wait()
            nursery.cancel_scope.cancel()
        if refusal is not None:
            raise refusal

    async def _listen(self, tab: Tab, room: ChatRoom) -> None:
        with room.events() as events:
            tab.fill()
            async for event in events:
                tab.take(event)
                is_news = isinstance(event, Spoken) and not event.message.mine
                if is_news and not self._desk.is_seen(tab):
                    tab.timeline.mark_last()
                self._changed()

    async def _speak(self, tab: Tab, room: ChatRoom, nursery: trio.Nursery) -> None:
        while True:
            while tab.speeches:
                said = await self._say(tab, room, tab.speeches[0])
                tab.speeches.popleft()
                if said is not None:
                    nursery.start_soon(self._follow, tab, said)
                self._changed()
            await tab.speaking.wait()

    async def _say(self, tab: Tab, room: ChatRoom, speech: Speech) -> Said | None:
        """None if it cannot be said."""
        shown = speech.shown
        how: dict[str, Any] = {"metadata": shown.metadata, "reply_to": speech.reply_to}
        try:
            return await room.say(shown.content, kind=shown.kind, **how)
        except UsageError as error:
            tab.timeline.note(f"Not sent: the {error.field} {error.rule}.", "error")
        except trio.ClosedResourceError:
            tab.timeline.note("Not sent: you are not in the room any more.", "error")
        return None

    async def _follow(self, tab: Tab, said: Said) -> None:
        async for state in said.states():
            if state == "failed":
                tab.failed[said.id] = said
            self._moved.wake()
            self._changed()

    async def _mark(self, tab: Tab, room: ChatRoom) -> None:
        while True:
            await tab.marking.wait()
            try:
                await room.mark_read(tab.seen)
            except (Refused, OptionError, trio.ClosedResourceError):
                pass  # it is told again with the next one
            await trio.sleep(MARK_S)

    async def _fetch(self, tab: Tab, room: ChatRoom) -> None:
        try:
            page = await room.history(tab.timeline.first_offset, HISTORY)
            tab.timeline.complete = not page
            tab.timeline.prepend(page)
        except Refused as refusal:
            tab.timeline.note(f"Older messages cannot be had: {reason(refusal)}", "error")
        except (OptionError, trio.ClosedResourceError):
            pass
        finally:
            tab.loading = False
            self._changed()

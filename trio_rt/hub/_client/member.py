"""A member of a room: what it knows, and the two tasks by which it knows it.

    open_room           one nursery for each holder, never shown to the caller
    ├─ read             takes what the hub says of the room, in order; never waits for anything
    └─ keep_up          joins, and asks for what was missed, one question at a time

Everything of a room comes in one stream: answers, messages, who comes and goes. So the
reading task alone changes what is known, in the order in which the hub said it. What the
consumer has not taken lies on a bounded shelf. The other task sends: it is woken when there
is something to ask for.

A mark of loss in the stream (a new session, a new plain link, a stream that was full)
starts all anew: join, upon which the hub tells what there is; then ask for what is behind the
cursor. What was under way is asked again by who waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import trio

from ..._connection import Connection
from ..._waker import Waker
from ...errors import Refused
from ...message import Gap, Message, Reset
from .._broker import Position
from .._words import DONE, HISTORY, JOIN, REFUSED, Event, room_type
from .calls import FOR_NOW, PATIENCE_S, Calls, Then, pauses
from .channel import Channel
from .company import Company
from .desk import Desk
from .follow import Follow, News
from .items import RoomItem, RoomMessage
from .letters import Letters

__all__ = ["PAGE", "Member"]

_log: Final = logging.getLogger("trio_rt.hub")

#: Messages to ask for at a time; the hub may give fewer.
PAGE: Final = 100

#: Items of the stream that are looked at without a turn of the loop.
AT_A_TIME: Final = 256


class Member:
    """One holder of one room. `as_` is the type of payloads."""

    def __init__(
        self, conn: Connection, room: str, follow: Follow, channel: Channel, desk: Desk, as_: Any
    ) -> None:
        self.room: Final = room
        self.desk: Final = desk
        self.follow: Final = follow
        self.channel: Final = channel
        self.company: Final = Company()
        self.calls: Final = Calls(conn)
        #: Whether the hub has this member, as far as is known.
        self.joined = False
        #: As whom the hub has it; a guest is another user in each session.
        self.user = ""
        #: Of what the consumer took last.
        self.position = Position("", 0)
        self.letters: Final = Letters(conn, as_)
        self._stream: Final = conn.subscribe(room_type(room), REFUSED, DONE, as_=Event)
        self._work: Final = Waker()
        self._active = desk.tick()
        self._entered = False
        self._page = PAGE
        # Why it is not let in, as far as that was logged.
        self._trouble = ""

    def note_activity(self) -> None:
        """Something happens in this room."""
        self._active = self.desk.tick()

    def taken(self, item: RoomItem[Any]) -> None:
        """The consumer has taken an item."""
        if isinstance(item, RoomMessage) and item.position is not None:
            self.position = item.position
        if self.follow.behind:
            self._work.wake()  # there may be room for another page

    async def until_joined(self) -> None:
        """Raises why that will never be. Cancelling only stops the wait."""
        self.channel.check()
        while not self.joined:
            await self.channel.wait_change()
            self.channel.check()

    def close(self) -> None:
        """Its tasks have ended."""
        self._stream.close()
        self._end(trio.ClosedResourceError())
        self.channel.close()

    def _end(self, reason: Exception) -> None:
        self.joined = False
        self.channel.end(reason)
        self._lose_answers()

    # The task that reads

    async def read(self) -> None:
        """Take what the hub says, until it says no more."""
        try:
            while True:
                for item in await self._stream.receive_many(AT_A_TIME):
                    self._hear(item)
        except trio.EndOfChannel:
            self._end(trio.EndOfChannel())

    def _hear(self, item: Message[Event] | Gap | Reset) -> None:
        if not isinstance(item, Message):
            self.joined = False
            self._lose_answers()
            return
        event = item.payload
        if event.kind in ("done", "refused"):
            if not self.calls.answered(event):
                self._overhear(event)
        elif self._entered:  # before that it is for another holder
            self._happened(event)

    def _happened(self, event: Event) -> None:
        match event.kind:
            case "message" | "own":
                self.note_activity()
                self._tell(self.follow.live(event))
            case "presence":
                self.channel.put(self.company.presence(event))
            case "mark":
                self.channel.put(self.company.mark(event.user, event.offset))
            case "room":
                self._look(event)
                self._work.wake()
            case "removed":
                self.desk.note(self.room, entered=False)
                self._end(Refused(event.code, event.text))

    def _overhear(self, event: Event) -> None:
        """An answer to another holder, or a late one: after a join the hub tells no more what
        was before."""
        if event.kind == "refused" and not event.re:
            self._lose_answers()  # the hub lost commands
        elif event.first and self._entered:
            self.follow.look(event.epoch, event.first, event.last)
            if event.count:
                self.channel.put(self.company.snapshot(event))
            self._work.wake()

    def _lose_answers(self) -> None:
        self.calls.lose()
        self._work.wake()

    def _look(self, event: Event) -> None:
        self.follow.look(event.epoch, event.first, event.last)
        self.channel.put(self.company.snapshot(event))

    def _tell(self, news: Iterable[News]) -> None:
        for each in news:
            if isinstance(each, Event):
                self._tell_message(each)
            else:
                self.channel.put((each,))
        if self.follow.behind:
            self._work.wake()

    def _tell_message(self, event: Event) -> None:
        if event.kind == "own":
            if event.offset and not self.channel.has_places:
                self.position = Position(event.epoch, event.offset)
        elif not event.type:  # the hub could not read it
            self.channel.put((Gap(1),))
        elif (message := self.letters.read(event)) is not None:
            self.channel.put((message,))

    # The task that keeps up

    async def keep_up(self) -> None:
        """Join, and ask for what was missed, whenever there is need to."""
        waits = pauses()
        try:
            while not self.channel.ended:
                if not self.joined:
                    went_well = await self._ask(JOIN, self._named, self._on_join)
                elif self.follow.behind and self.channel.has_drained:
                    went_well = await self._ask(HISTORY, self._missing, self._on_page)
                else:
                    await self._work.wait()
                    continue
                if went_well:
                    waits = pauses()
                else:
                    await trio.sleep(next(waits))
        except trio.ClosedResourceError:
            self._end(trio.EndOfChannel())
        except Exception as error:  # a command that the outbox can never take
            self._end(error)

    async def _ask(self, type: str, body: Callable[[], dict[str, Any]], then: Then) -> bool:
        """False: it was refused, or of no use, and is to be tried again later."""
        async with self.desk.gate.turn(self._active):
            if self.joined == (type == JOIN) or self.channel.ended:
                return True  # no question any more
            before, began = self.follow.position, trio.current_time()
            event = await self.calls.ask(type, body(), then=then)
        if type == JOIN:
            self._note_trouble(event, trio.current_time() - began)
        if event is None or type == JOIN:
            return event is None or event.kind == "done"
        return self.follow.position != before or not self.follow.behind

    def _note_trouble(self, event: Event | None, took_s: float) -> None:
        """Who waits for a room that does not come can read why in the log, once."""
        why = event.code if event is not None and event.code in FOR_NOW else ""
        if event is None and took_s >= PATIENCE_S and self.calls.online:
            why = "no answer: is there a hub?"
        if why and why != self._trouble:
            _log.warning("%s cannot be joined yet: %s", room_type(self.room), why)
            self._trouble = why

    def _named(self) -> dict[str, Any]:
        return {"room": self.room}

    def _missing(self) -> dict[str, Any]:
        limit = max(1, min(self._page, self.channel.free))
        return {"room": self.room, "after": self.follow.cursor, "limit": limit}

    def _on_join(self, event: Event) -> None:
        if event.kind == "done":
            self._on_joined(event)
        elif event.code not in FOR_NOW and not (event.code == "error" and self._entered):
            self.desk.note(self.room, entered=False)
            self._end(Refused(event.code, event.text))

    def _on_joined(self, event: Event) -> None:
        self.desk.note(self.room, entered=True)
        if event.user:
            self.user = event.user
            self.letters.mine.add(event.user)
        self._look(event)
        if not self._entered:
            self.position = self.follow.position
        self.joined = self._entered = True
        self._trouble = ""
        self.channel.notify()

    def _on_page(self, event: Event) -> None:
        if event.kind == "done":
            self._tell(self.follow.page(event.epoch, event.first, event.last, event.items))
        elif event.code == "too_large" and self._page > 1:
            self._page //= 2
        elif event.code not in FOR_NOW and event.code != "error":
            self._tell(self.follow.denied())

"""One room on the screen: what is known of it here, whether this user is in it or not yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

import attrs
import trio

from ..._waker import Waker
from ...chat import (
    ChatMessage,
    ChatRoom,
    Deleted,
    Edited,
    Moderated,
    Reacted,
    RoomEvent,
    Said,
    Spoken,
    User,
    UserChanged,
    UserJoined,
    UserLeft,
)
from ...message import Gap, Reset
from .status import decision_text
from .text import fit_line
from .timeline import Timeline
from .view import View

__all__ = ["CROWD", "Speech", "Tab"]

#: In a room with more members it is not said who comes and goes.
CROWD: Final = 50
#: When a message was edited that only this screen has: at some time.
EDITED: Final = 1


@attrs.frozen
class Speech:
    """What this user says, with how it is shown until the room has it."""

    shown: ChatMessage
    reply_to: int | None = None


class Tab:
    """Of the room `name`. All of it is changed by the one task that shows it."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.timeline: Final = Timeline()
        self.view: Final = View(self.timeline)
        #: None before this user is in it, and after.
        self.room: ChatRoom | None = None
        #: Set when this user is to leave.
        self.leave: Final = trio.Event()
        #: Why this user is not in it, if that is for good.
        self.over = ""
        #: What is to be said and is not in the room's own queue yet, in its order.
        self.speeches: Final[deque[Speech]] = deque()
        self.speaking: Final = Waker()
        #: Whether older messages are being fetched.
        self.loading = False
        #: One's own messages that the service would not have.
        self.failed: Final[dict[str, Said]] = {}
        #: Wakes who tells how far is read, which is up to `seen`.
        self.marking: Final = Waker()
        self.seen = 0

    # What there is

    @property
    def me(self) -> User | None:
        """This user, as it is known in this room."""
        return None if self.room is None else self.room.me

    @property
    def unread(self) -> int:
        """Messages of others that were not on the screen."""
        return 0 if self.room is None else self.room.unread

    @property
    def members(self) -> Sequence[User]:
        """Those who are here, who are not away first."""
        found = () if self.room is None else self.room.members.values()
        return sorted(found, key=lambda user: (user.status == "away", user.name.casefold()))

    @property
    def typing(self) -> Sequence[User]:
        return () if self.room is None else self.room.typing_users

    @property
    def queued(self) -> int:
        """One's own messages that are on their way."""
        states = [message.state for message in self._pending()]
        return states.count("queued") + states.count("sent")

    # What happens

    def enter(self, room: ChatRoom) -> None:
        """This user is in it."""
        self.room, self.over = room, ""
        self.fill()
        mark = room.marks.get(room.me.id, 0)
        if mark and room.unread:
            self.timeline.mark_new(mark)

    def end(self, why: str) -> None:
        """This user is not in it any more."""
        self.room, self.over = None, why
        self.speeches.clear()
        self.timeline.set_pending(())
        self.timeline.note(why, "error")

    def say(self, speech: Speech) -> None:
        """Say it in its turn, when this user is in the room."""
        self.speeches.append(speech)
        self.speaking.wake()
        self.timeline.new_at = None
        self.view.to_end()
        self.view.unselect()

    def drop(self) -> int:
        """Show no more what has failed: how many messages."""
        failed = list(self.failed.values())
        self.failed.clear()
        return 0 if self.room is None else sum(map(self.room.dismiss, failed))

    def look_at(self, message: ChatMessage) -> None:
        """This message is on the screen, and those before it."""
        if message.offset > self.seen:
            self.seen = message.offset
            self.marking.wake()

    def sync(self) -> None:
        """Take over what is on its way."""
        self.timeline.set_pending(self._pending())

    def take(self, event: RoomEvent) -> None:
        """Something has happened in the room."""
        timeline = self.timeline
        match event:
            case Spoken(message):
                timeline.put(message)
                self.failed.pop(message.id, None)
            case Edited() | Deleted() | Reacted() if event.message is not None:
                timeline.put(event.message)
            case Edited(offset, content):
                timeline.change(offset, content=content, edited_at=EDITED)
            case Deleted(offset):
                timeline.change(offset, content="", deleted=True, reactions={})
            case Reacted():
                self._react(event)
            case UserJoined() | UserLeft() | UserChanged():
                self._meet(event)
            case Moderated():
                timeline.note(decision_text(event))
            case Gap():
                self.fill()
            case Reset():
                self._begin_anew()
            case _:
                pass

    def fill(self) -> None:
        """Take what the room has kept of what was not heard."""
        kept, last = _stored(self.room), self.timeline.last_offset
        if last and kept and kept[0].offset > last:
            self.timeline.note("Some messages did not arrive here.", "error")
        self.timeline.merge(kept)

    # Within

    def _pending(self) -> list[ChatMessage]:
        messages = () if self.room is None else reversed(self.room.messages)
        own = takewhile(lambda message: message.state != "echoed", messages)
        return [*list(own)[::-1], *(speech.shown for speech in self.speeches)]

    def _begin_anew(self) -> None:
        self.timeline.clear()
        self.timeline.note("The service has begun anew: what was said here before is gone.")
        self.view.to_end()
        self.view.unselect()
        self.seen = 0
        self.fill()

    def _react(self, event: Reacted) -> None:
        message = self.timeline.get(event.offset)
        if message is not None:
            users = message.reactions.get(event.reaction, frozenset())
            users = users | {event.by.id} if event.on else users - {event.by.id}
            found = {**message.reactions, event.reaction: users}
            kept = {reaction: users for reaction, users in found.items() if users}
            self.timeline.change(event.offset, reactions=kept)

    def _meet(self, event: UserJoined | UserLeft | UserChanged) -> None:
        room = self.room
        if room is None or event.user.id == room.me.id or len(room.members) > CROWD:
            return
        name = fit_line(event.user.name)
        if isinstance(event, UserChanged):  # a guest has a name only after it has joined
            self.timeline.renote(f"{event.user.id} joined", f"{name} joined")
        else:
            verb = "joined" if isinstance(event, UserJoined) else "left"
            self.timeline.note(f"{name} {verb}", "presence")


def _stored(room: ChatRoom | None) -> list[ChatMessage]:
    """The messages of a room that are in their place."""
    return [message for message in room.messages if message.state == "echoed"] if room else []

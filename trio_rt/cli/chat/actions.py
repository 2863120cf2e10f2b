"""What the user does: lines of input, and keys that are more than editing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

import trio

from ..._ambient import ambient
from ...chat import Chat, ChatMessage, ChatRoom, User
from ...errors import Refused, UsageError
from ...protocol.lifecycle import Phase
from .commands import HELP, KEYS, Mistake, Order, read_input
from .desk import Desk
from .rooms import Rooms, reason
from .rows import ACTION
from .sending import Sender
from .tab import Speech, Tab
from .text import fit_line
from .words import count_text

__all__ = ["Actions"]

#: Members that `/who` names.
NAMED: Final = 200

NO_OTHERS: Final = "Nobody else has said anything yet."
NO_OWN: Final = "You have said nothing yet."
NONE_FAILED: Final = "Nothing has failed."


class Actions:
    """The `Hands` of one chat. What waits for the service is a task of `nursery`."""

    def __init__(
        self,
        chat: Chat,
        desk: Desk,
        rooms: Rooms,
        sender: Sender,
        nursery: trio.Nursery,
        *,
        changed: Callable[[], None],
        put: Callable[[str], None],
        quit: Callable[[], None],
    ) -> None:
        self._chat: Final = chat
        self._desk: Final = desk
        self._rooms: Final = rooms
        self._sender: Final = sender
        self._nursery: Final = nursery
        self._changed: Final = changed
        # Lets something stand in the input line.
        self._put: Final = put
        self._quit: Final = quit
        self._orders: Final[Mapping[str, Callable[[Tab, str], None]]] = {
            "away": lambda tab, _: self._start(tab, self._chat.set_status, "away"),
            "back": lambda tab, _: self._start(tab, self._chat.set_status, "online"),
            "delete": self._delete,
            "drop": self._drop,
            "edit": self._edit,
            "file": self._file,
            "help": self._help,
            "join": self._join,
            "leave": lambda tab, _: self._rooms.leave(tab),
            "me": lambda tab, text: self._say(tab, text, {ACTION: True}),
            "quit": lambda tab, _: self.quit(),
            "react": self._react,
            "reply": self._reply,
            "retry": self._retry,
            "say": self._say,
            "who": self._who,
        }

    # The hands

    def enter(self, text: str) -> None:
        """A line, or several, are sent off."""
        meant, tab = read_input(text), self._desk.tab
        if meant is None or tab is None:
            return
        if isinstance(meant, Mistake):
            tab.timeline.note(fit_line(meant.text), "error")
            tab.view.to_end()
            self._put(text)
        else:
            self._do(tab, meant)

    def keystroke(self) -> None:
        """Something was typed that is going to be said."""
        tab = self._desk.tab
        if tab is not None and tab.room is not None:
            try:
                tab.room.keystroke()
            except trio.ClosedResourceError:
                pass

    def older(self, tab: Tab) -> None:
        """Older messages are wanted."""
        self._rooms.older(tab)

    def quit(self) -> None:
        """Leave the chat."""
        self._quit()

    # Orders

    def _do(self, tab: Tab, order: Order) -> None:
        needs_room = order.name not in ("away", "back", "help", "join", "leave", "quit")
        if needs_room and tab.over:
            tab.timeline.note("You are not in this room. /join goes into one.", "error")
            tab.view.to_end()
            return
        self._orders[order.name](tab, order.argument)

    def _say(
        self, tab: Tab, text: str, metadata: Mapping[str, Any] | None = None, reply: int = 0
    ) -> None:
        tab.say(self._speech(tab, text.rstrip("\n"), "text", metadata or {}, reply))

    def _speech(
        self,
        tab: Tab,
        content: str,
        kind: Literal["text", "image", "file"],
        metadata: Mapping[str, Any],
        reply: int = 0,
    ) -> Speech:
        shown = ChatMessage(
            id=f"{id(tab)}.{len(tab.speeches)}",
            user=tab.me or User("", "you"),
            kind=kind,
            content=content,
            at=int(ambient().wall_s() * 1000),
            reply=reply,
            metadata=metadata,
            mine=True,
            state="queued",
        )
        return Speech(shown, reply or None)

    def _file(self, tab: Tab, path: str) -> None:
        self._nursery.start_soon(
            self._sender.send,
            tab,
            path,
            lambda stored: self._speech(tab, **stored.to_say()),
        )

    def _reply(self, tab: Tab, text: str) -> None:
        if message := self._about(tab, lambda message: not message.mine, NO_OTHERS):
            self._say(tab, text, reply=message.offset)

    def _edit(self, tab: Tab, text: str) -> None:
        message = self._about(tab, lambda message: message.mine, NO_OWN)
        if message is None:
            return
        if not text:
            self._put(f"/edit {message.content}")
        else:
            tab.view.unselect()
            self._amend(tab, lambda room: room.edit(message, text))

    def _delete(self, tab: Tab, _: str) -> None:
        message = self._about(tab, lambda message: message.mine, NO_OWN)
        if message is not None:
            tab.view.unselect()
            self._amend(tab, lambda room: room.delete(message))

    def _react(self, tab: Tab, reaction: str) -> None:
        message = self._about(tab, lambda message: not message.mine, NO_OTHERS)
        if message is None:
            return
        me = "" if tab.me is None else tab.me.id
        on = me not in message.reactions.get(reaction, frozenset())
        self._amend(tab, lambda room: room.react(message, reaction, on=on))

    def _about(
        self, tab: Tab, fits: Callable[[ChatMessage], bool], otherwise: str
    ) -> ChatMessage | None:
        """The selected message, or the last that fits."""
        selected = tab.view.selected
        if selected is not None and (message := tab.timeline.message_at(selected)):
            return message
        found = tab.timeline.last(lambda message: fits(message) and not message.deleted)
        if found is None:
            tab.timeline.note(otherwise, "error")
        return found

    def _join(self, tab: Tab, name: str) -> None:
        try:
            self._rooms.join(name)
        except UsageError as error:
            tab.timeline.note(f"That is no room: the name {error.rule}.", "error")

    def _who(self, tab: Tab, _: str) -> None:
        names = [
            f"{fit_line(user.name)}{' (away)' if user.status == 'away' else ''}"
            for user in tab.members[:NAMED]
        ]
        more = f" and {len(tab.members) - NAMED} more" if len(tab.members) > NAMED else ""
        tab.timeline.note(f"{len(tab.members)} here: {', '.join(names)}{more}")
        tab.view.to_end()

    def _help(self, tab: Tab, about: str) -> None:
        tab.timeline.note("\n".join(KEYS if about else HELP), "help")
        tab.view.to_end()

    def _retry(self, tab: Tab, _: str) -> None:
        count = self._rooms.retry(tab)
        tab.timeline.note(f"{count_text(count, 'message')} once more" if count else NONE_FAILED)

    def _drop(self, tab: Tab, _: str) -> None:
        count = tab.drop()
        tab.timeline.note(f"{count_text(count, 'message')} dropped" if count else NONE_FAILED)

    # What waits

    def _amend(self, tab: Tab, change: Callable[[ChatRoom], Awaitable[None]]) -> None:
        if tab.room is None:
            tab.timeline.note("You are not in this room yet.", "error")
            return
        self._start(tab, change, tab.room)

    def _start(self, tab: Tab, change: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        if self._chat.conn.state.phase is not Phase.CONNECTED:
            tab.timeline.note("That is done when there is a link.")
        self._nursery.start_soon(self._try, tab, change, *arguments)

    async def _try(self, tab: Tab, change: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        try:
            await change(*arguments)
        except Refused as refusal:
            tab.timeline.note(f"That is refused: {reason(refusal)}", "error")
        except UsageError as error:
            tab.timeline.note(f"That cannot be: {error.field} {error.rule}", "error")
        except trio.ClosedResourceError:
            tab.timeline.note("That was not done: you are not in the room any more.", "error")
        self._changed()

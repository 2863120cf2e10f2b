"""What the user does: lines of input, and keys that are more than editing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

import trio

from ..._ambient import ambient
from ...chat import Chat, ChatMessage, ChatRoom, Kind, User
from ...errors import OptionError, Refused, UsageError
from .commands import HELP, KEYS, Mistake, Order, read_input
from .desk import Desk
from .rooms import Rooms, reason
from .rows import ACTION, attachment_text
from .sending import Sender
from .tab import Speech, Tab
from .text import fit_line
from .words import count_text

__all__ = ["Actions"]


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
        name: str,
        put: Callable[[str], None],
        quit: Callable[[], None],
    ) -> None:
        self._chat: Final = chat
        self._desk: Final = desk
        self._rooms: Final = rooms
        self._sender: Final = sender
        self._nursery: Final = nursery
        self._name: Final = name
        #: Lets something stand in the input line.
        self._put: Final = put
        self.quit: Final = quit
        self._orders: Final[Mapping[str, Callable[[Tab, str], None]]] = {
            name: getattr(self, f"_do_{name}")
            for name in ("say", "me", "reply", "edit", "delete", "react", "file")
        } | {name: getattr(self, f"_do_{name}") for name in ("leave", "who", "retry", "drop")}

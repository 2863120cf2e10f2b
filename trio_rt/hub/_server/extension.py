"""What a program adds to a hub: commands of its own, an ear in the rooms, other dialects.

Commands of its own are read, counted, ordered, answered and refused as the hub's are. A
*dialect* is for clients that do not speak the hub's words: it makes commands of what they
say, and says in their words what the hub has to tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import msgspec

from ...errors import OptionError
from ...protocol.inbox import HEARTBEAT
from .._broker import Item
from .._names import is_name
from .._words import COMMANDS, DONE, REFUSED, Event
from .room import Guest, Room

__all__ = ["DialectOf", "ExtensionOf", "Shapes", "check_extension"]

HubT = TypeVar("HubT")

#: What payloads are to be, by the types of their messages.
Shapes: TypeAlias = Mapping[str, type[msgspec.Struct]]


class DialectOf(Generic[HubT]):
    """Other words than the hub's own: derive from it.

    A peer speaks it from its first message of one of the types in `commands` on. What the hub
    tells the peer from then on, answers and refusals included, goes through `say`.
    """

    #: By the type of the message, what its payload is to be: as `ExtensionOf.commands`.
    commands: ClassVar[Shapes] = {}

    async def take(self, hub: HubT, guest: Guest, command: Any, re: str) -> None:
        """Do what `guest` asks for, by `Hub.perform` for instance. `re` is the message's id, or "".

        It is not answered here. What it raises refuses, as in `ExtensionOf.take`.
        """
        raise NotImplementedError

    def say(self, room: str, event: Event) -> Iterable[tuple[str, Any]]:
        """Types and payloads of what is told instead of `event`: any number, the same for all.

        `room` is "" where it is not known. Must not wait; what it raises is logged, and
        nothing is told.
        """
        raise NotImplementedError


class ExtensionOf(Generic[HubT]):
    """What is added to a hub: derive from it. All of it may be left as it is here."""

    #: By the type of the message, what its payload is to be. The answer to one with a
    #: field `room`, which must be a room's name, is told as of that room.
    commands: ClassVar[Shapes] = {}

    #: For clients of other words.
    dialects: Sequence[DialectOf[HubT]] = ()

    async def take(self, hub: HubT, guest: Guest, command: Any) -> Any:
        """Do a command: what is returned is the `payload` of its answer, `done`.

        It may wait, and holds up no other peer's commands. `Refused` refuses with that code and
        text, `BrokerError` with `unavailable`; anything else is logged, and refuses with `error`.
        Who asks may ask again when an answer is lost: doing it twice is to be as doing it once.
        """
        raise NotImplementedError

    def heard(self, hub: HubT, room: Room, item: Item) -> None:
        """Something was said in a room with members on this node, and they have been told.

        It comes in the room's order, and may have holes, as everything that a node hears. Must
        not wait; what it raises is logged. `message_event(item)` has what it says.
        """


def check_extension(extension: ExtensionOf[Any]) -> None:
    """Raise `OptionError` for types that cannot be, or are somebody else's, and for shapes."""
    taken = {*COMMANDS, HEARTBEAT, REFUSED, DONE}
    for shapes in (extension.commands, *(dialect.commands for dialect in extension.dialects)):
        for type, shape in shapes.items():
            if not is_name(type) or type in taken:
                raise OptionError("extension.commands", "must be names of nothing else", type)
            if not _is_struct(shape):
                raise OptionError("extension.commands", "must be for msgspec.Struct", shape)
            taken.add(type)


def _is_struct(shape: object) -> bool:
    return isinstance(shape, type) and issubclass(shape, msgspec.Struct)

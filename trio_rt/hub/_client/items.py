"""What a member of a room finds in its channel, and what it may ask for."""

from __future__ import annotations

from typing import Any, Generic, TypeAlias, TypeVar

import attrs
import msgspec

from ...message import Gap, Reset
from .._broker import Position

__all__ = ["HistoryPage", "Joined", "Left", "Marked", "RoomItem", "RoomMessage"]

T_co = TypeVar("T_co", covariant=True)


# A msgspec struct and not an attrs class, as `Message`: one is made for every message.
class RoomMessage(msgspec.Struct, Generic[T_co], frozen=True):
    """One message of a room."""

    #: Its place in the log; None for one that passes, and is in no log.
    position: Position | None
    #: The name that its sender gave it.
    id: str
    user: str
    #: Tells the devices of a user apart; "" for the hub's own.
    device: str
    type: str
    payload: T_co
    #: When the hub took it: milliseconds since the epoch.
    at: int
    #: Whether this connection's user sent it, here or on another device.
    mine: bool


@attrs.frozen
class Joined:
    """A user is there now, or has new `info`."""

    user: str
    info: Any = attrs.field(default=None, hash=False)


@attrs.frozen
class Left:
    """A user is not there any more."""

    user: str


@attrs.frozen
class Marked:
    """A user has read up to `offset` of the log."""

    user: str
    offset: int


@attrs.frozen
class HistoryPage(Generic[T_co]):
    """A piece of the log: `messages` in its order. The whole log is `first` to `last`."""

    messages: tuple[RoomMessage[T_co], ...]
    first: int
    last: int
    epoch: str


RoomItem: TypeAlias = RoomMessage[T_co] | Joined | Left | Marked | Gap | Reset

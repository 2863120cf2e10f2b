"""A peer as the hub knows it, and what waits for it while it does not keep up.

Rooms know their guests and guests their rooms; what a room is, is said in `room`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Generic, TypeVar

import msgspec
import trio

from ..._peer import Peer
from ...protocol.rate import Rate
from .._broker import Present
from .._words import Event
from .rules import HubLimits, Who
from .tongue import Tongue

__all__ = ["GuestOf", "LagOf"]

RoomT = TypeVar("RoomT")

_write: Final = msgspec.json.encode


class LagOf(Generic[RoomT]):
    """Of a peer whose outbox is full, until there is room in it again."""

    __slots__ = ("held", "missed", "over")

    def __init__(self) -> None:
        #: Answers, with their types: to the commands that it gave before. No more are taken.
        self.held: deque[tuple[str, Event]] = deque()
        #: Rooms of which it was not sent something.
        self.missed: dict[RoomT, None] = {}
        #: Set when it keeps up again, or never will.
        self.over: Final = trio.Event()


class GuestOf(Generic[RoomT]):
    """One peer, from its first link to its end."""

    __slots__ = (
        "_rate",
        "beat_due",
        "device",
        "is_identified",
        "lag",
        "linked",
        "peer",
        "present",
        "rooms",
        "tongue",
        "who",
    )

    def __init__(
        self, peer: Peer, who: Who, device: str, limits: HubLimits, tongue: Tongue
    ) -> None:
        self.peer: Final = peer
        self.tongue = tongue
        self.become(who, device)
        #: Whether it is somebody else than it came as.
        self.is_identified = False
        self.rooms: dict[str, RoomT] = {}
        #: Whether a link is up: only then it is present.
        self.linked = peer.link is not None and not peer.link.over
        #: None while it keeps up.
        self.lag: LagOf[RoomT] | None = None
        #: When its heartbeat may be answered again.
        self.beat_due = -math.inf
        self._rate = Rate(limits.rate_per_s, limits.burst / limits.rate_per_s)

    def become(self, who: Who, device: str) -> None:
        """From now on it is `who`. Its rooms are not told here."""
        self.present = Present(who.user, device, _write(who.info))
        self.who = who
        #: Unlike that of `who` it is one of its own among all peers of all nodes.
        self.device = device

    @property
    def shown_device(self) -> str:
        """How others know the device."""
        return self.who.device or self.device

    def spend(self, now: float) -> bool:
        """Whether one more command is within its rate; it is counted then."""
        if self._rate.left(now) < 1:
            return False
        self._rate.spend(now, 1)
        return True

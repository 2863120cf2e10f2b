"""Who may do what in a hub, and how much of it: hooks and limits."""

from __future__ import annotations

from typing import Any

import attrs

from ..._ambient import ambient
from ..._peer import Peer
from ...options import check_number
from .._names import NAME_BYTES, check_name
from .._words import Publish

__all__ = ["HubLimits", "Rules", "Who"]


@attrs.frozen
class Who:
    """A peer as a hub knows it: from who let it in, never from what it says.

    `user` is a name as rooms have them. `device` tells the devices of a user apart; "" for
    a new one at each session. `info` is what others may see: anything that JSON can have.
    """

    user: str
    device: str = ""
    info: Any = None

    def __attrs_post_init__(self) -> None:
        check_name("Who.user", self.user)
        if self.device:
            check_name("Who.device", self.device)


class Rules:
    """Who may do what. Everybody may do everything here: derive from it.

    Each is asked at each command, and may wait: it holds up that peer's commands, and no
    other's. Anything but True refuses: to publish as `forbidden`, all else as `no_room`, so
    that nobody learns which rooms there are. `trio_rt.Refused` raised from a hook refuses
    with that code and text; any other exception is logged, and refuses with `error`.
    """

    async def who(self, peer: Peer) -> Who:
        """Who is at the other end: by the identity that serve's accept hook gave.

        That is a `Who`, or the user's name; with any other the peer is a guest, with a new
        name in each session. `trio_rt.Refused` closes the peer (1008).
        """
        identity = peer.identity
        if isinstance(identity, Who):
            return identity
        if isinstance(identity, str):
            return Who(identity)
        return Who(f"guest-{ambient().random.getrandbits(64):016x}")

    async def may_join(self, who: Who, room: str) -> bool:
        """Whether `who` may be a member of `room`."""
        return True

    async def may_publish(self, who: Who, message: Publish) -> bool:
        """Whether a member may say this in the `room` of the message, and to whom it wants."""
        return True

    async def may_read(self, who: Who, room: str) -> bool:
        """Whether `who` may read the history, as a member or not."""
        return True

    async def may_see(self, who: Who, room: str) -> bool:
        """Whether `who` may know who is there, as a member or not."""
        return True


@attrs.frozen(kw_only=True)
class HubLimits:
    """What a hub takes from its peers."""

    rooms_per_peer: float = 100
    members_per_room: float = 10_000
    #: Of a room's name, in UTF-8.
    name_bytes: float = NAME_BYTES
    #: The largest message, as JSON with who said it.
    message_bytes: float = 64 << 10
    #: Commands of a peer, in the mean and at once.
    rate_per_s: float = 100.0
    burst: float = 200
    #: Messages, and bytes of them, in one answer about history.
    page: int = 100
    page_bytes: int = 256 << 10
    #: Rooms with more users do not tell who comes and goes, and give a count for a list: what
    #: everybody is told of everybody grows by the square.
    presence_users: float = 500
    #: How long a user is still present whose last device was lost: not of who leaves.
    grace_s: float = 10.0

    def __attrs_post_init__(self) -> None:
        for name in ("rooms_per_peer", "members_per_room", "message_bytes", "burst"):
            check_number(f"HubLimits.{name}", getattr(self, name), least=1, whole=True)
        for name in ("page", "page_bytes"):
            check_number(f"HubLimits.{name}", getattr(self, name), least=1, whole=True, finite=True)
        check_number("HubLimits.name_bytes", self.name_bytes, least=1, whole=True)
        check_number("HubLimits.presence_users", self.presence_users, whole=True)
        check_number("HubLimits.rate_per_s", self.rate_per_s, above=True)
        check_number("HubLimits.grace_s", self.grace_s, finite=True)

"""Who a plain client is: what it says about that is compared, or claimed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from ...errors import Refused
from ...hub._names import is_name
from ...hub._server.hub import Guest, Hub
from .plain_users import shown_name
from .tokens import GUEST, SERVICE, ChatWho, profile

__all__ = ["Claims", "MayClaim"]

#: Whether somebody may be that user without having shown anything.
MayClaim: TypeAlias = Callable[[str], Awaitable[bool]]

#: As whom programs speak.
_PROGRAMS: Final = (SERVICE, "hub")


class Claims:
    """What is checked where a message says who it is from."""

    def __init__(self, may_claim: MayClaim | None) -> None:
        self._may_claim: Final = may_claim

    async def check(
        self, hub: Hub, guest: Guest, field: str, user: str, username: str = ""
    ) -> None:
        """Let `guest` be the `user` that it says it is, or raise `Refused`. "" is oneself.

        Cancelled: it may be that user then.
        """
        if user in ("", guest.who.user):
            _name_once(hub, guest, username)
        elif self._may_claim is None or not _is_unbound(guest):
            raise Refused("forged_user", f"{field} must be your own")
        else:
            await self._claim(self._may_claim, hub, guest, field, user, username)

    async def _claim(
        self,
        may_claim: MayClaim,
        hub: Hub,
        guest: Guest,
        field: str,
        user: str,
        username: str,
    ) -> None:
        if not is_name(user):
            raise Refused("malformed", f"{field} must be a name")
        _check_username(username)
        who = ChatWho(user, info=profile(username), guest=True)
        if user in _PROGRAMS or user.startswith(GUEST) or await may_claim(user) is not True:
            raise _taken()
        for room in list(guest.rooms):
            if await hub.rules.may_join(who, room) is not True:
                raise Refused("forbidden", "that user may not be in your rooms")
        if _is_held(hub, guest, user):
            raise _taken()
        hub.identify(guest, who)


def _is_unbound(guest: Guest) -> bool:
    return guest.peer.identity is None and not guest.is_identified


def _name_once(hub: Hub, guest: Guest, username: str) -> None:
    """Who was claimed without a name to be shown is shown by the first one that comes."""
    if guest.is_identified and username and not shown_name(guest.who.info):
        _check_username(username)
        hub.describe(guest.who.user, {**guest.who.info, "name": username})


def _check_username(username: str) -> None:
    if username and not is_name(username):
        raise Refused("malformed", "payload.message.username must be a name")


def _is_held(hub: Hub, guest: Guest, user: str) -> bool:
    """Whether somebody else is that user, as far as this node knows."""
    rooms = guest.rooms.values()
    return bool(hub.devices(user)) or any(room.roster.has_device(user) for room in rooms)


def _taken() -> Refused:
    return Refused("name_taken", "somebody else has that userId")

"""Who is in a room, and who was: users as the roster and the messages know them."""

from __future__ import annotations

from collections import ChainMap, OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from ...hub._names import is_name
from .._words import Status
from ..models import User, UserChanged, UserJoined, UserLeft

__all__ = ["SEEN", "People"]

#: Users that are remembered though they are not there.
SEEN: Final = 10_000

#: The longest address of a picture, in UTF-8.
_AVATAR_BYTES: Final = 2048


class People:
    """Of one room.

    A user who is there is as the roster says. One who is not is as they were when they left,
    under the name of what they said last; one who never was there has that name, or the id.
    """

    def __init__(self) -> None:
        self._members: dict[str, User] = {}
        # Those last spoken of at the end.
        self._seen: OrderedDict[str, User] = OrderedDict()
        self.members: Final = MappingProxyType(self._members)
        self.users: Final[Mapping[str, User]] = MappingProxyType(
            ChainMap(self._members, self._seen)
        )

    def user(self, id: str) -> User:
        """As they are known."""
        return self._members.get(id) or self._seen.get(id) or User(id, id, "offline")

    def speaks(self, id: str, name: str) -> User:
        """Who says something now under a name, "" for none."""
        user = self._members.get(id)
        if user is not None and (user.name != id or not name):
            return user
        if user is not None:  # nameless in the roster
            return user if name == id else self._rename_member(user, name)
        user = self._named(self.user(id), name)
        self._remember(user)
        return user

    def spoke(self, id: str, name: str) -> User:
        """Who said something long ago: what is known since then is not changed."""
        if id in self._members:
            return self._members[id]
        user = self._named(self.user(id), name)
        if id not in self._seen:
            self._remember(user)
        return user

    def joined(self, id: str, info: Any) -> UserJoined | UserChanged | None:
        """A user is there, with what the roster says. None if that is known, or no user."""
        if not is_name(id):
            return None
        before = self._members.get(id)
        known = self._seen.pop(id, None) or before
        user = _read_info(id, info, known.name if known is not None else id)
        self._members[id] = user
        if before is None:
            return UserJoined(user)
        return UserChanged(user) if user != before else None

    def left(self, id: str) -> UserLeft | None:
        """A user is not there any more. None for one who was not."""
        user = self._members.pop(id, None)
        if user is None:
            return None
        user = attrs.evolve(user, status="offline")
        self._remember(user)
        return UserLeft(user)

    def _rename_member(self, user: User, name: str) -> User:
        renamed = self._members[user.id] = self._named(user, name)
        return renamed

    def _named(self, user: User, name: str) -> User:
        if name in ("", user.name) or not is_name(name):
            return user
        return attrs.evolve(user, name=name)

    def _remember(self, user: User) -> None:
        self._seen[user.id] = user
        self._seen.move_to_end(user.id)
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)


def _read_info(id: str, info: Any, name: str) -> User:
    """What of `info` fits; `name` if it has none."""
    if not isinstance(info, Mapping):
        return User(id, name)
    given, avatar, shown = info.get("name"), info.get("avatar"), info.get("status")
    status: Status = "away" if shown == "away" else "online"
    return User(
        id,
        given if is_name(given) else name,
        status,
        avatar if is_name(avatar, _AVATAR_BYTES) else "",
    )

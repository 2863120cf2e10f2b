"""Who is in a room, who was, and how far they have read."""

from __future__ import annotations

from collections import ChainMap, OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from ...hub._names import NAME_BYTES, is_name
from .._words import AVATAR_BYTES
from ..models import ReadMoved, RoomEvent, User, UserChanged, UserJoined, UserLeft

__all__ = ["SEEN", "People"]

#: Users that are remembered though they are not there.
SEEN: Final = 10_000


class People:
    """Of one room.

    A user who is there is as the roster says. One who is not is as they were when they left,
    under the name of what they said last; one who never was there has that name, or the id.
    """

    def __init__(self) -> None:
        self._members: dict[str, User] = {}
        # Those last spoken of at the end.
        self._seen: OrderedDict[str, User] = OrderedDict()
        self._marks: dict[str, int] = {}
        self.members: Final = MappingProxyType(self._members)
        self.marks: Final = MappingProxyType(self._marks)
        self.users: Final[Mapping[str, User]] = MappingProxyType(
            ChainMap(self._members, self._seen)
        )

    def user(self, id: str) -> User:
        """As they are known."""
        return self._members.get(id) or self._seen.get(id) or User(id, id, "offline")

    def speaks(self, id: str, name: str) -> User:
        """Who says something now under a name, "" for none."""
        user = self._under(id, name)
        if id not in self._members:
            self._remember(user)
        return user

    def spoke(self, id: str, name: str) -> User:
        """Who said something long ago: what is known since then is not changed."""
        user = self._under(id, name)
        if id not in self.users:
            self._remember(user)
        return user

    def meet(self, members: Mapping[str, Any], marks: Mapping[str, int]) -> list[RoomEvent]:
        """How it is now: what is new. No members: the room is too large to name them."""
        events: list[RoomEvent] = []
        for user in [user for user in self._members if user not in members]:
            events += self.left(user)
        if not members:
            events.clear()
        for user, info in members.items():
            events += self.joined(user, info)
        for user, offset in marks.items():
            if offset != self._marks.get(user):
                events += self.marked(user, offset)
        return events

    def joined(self, id: str, info: Any) -> list[RoomEvent]:
        """A user is there, with what the roster says. No news if that is known."""
        if not is_name(id):
            return []
        before = self._members.get(id)
        known = before or self._seen.pop(id, None)
        user = _read_info(id, info, id if known is None else known.name)
        self._members[id] = user
        if before is None:
            return [UserJoined(user)]
        return [] if user == before else [UserChanged(user)]

    def left(self, id: str) -> list[RoomEvent]:
        """A user is not there any more. No news for one who was not."""
        user = self._members.pop(id, None)
        if user is None:
            return []
        user = attrs.evolve(user, status="offline")
        self._remember(user)
        return [UserLeft(user)]

    def marked(self, id: str, offset: int) -> list[RoomEvent]:
        """A user has read up to `offset`."""
        if not is_name(id):
            return []
        self._marks[id] = offset
        return [ReadMoved(self.user(id), offset)]

    def clear_marks(self) -> None:
        """Of another log nobody has read anything."""
        self._marks.clear()

    def _under(self, id: str, name: str) -> User:
        user = self.user(id)
        is_named = id in self._members and user.name != id
        if is_named or name in ("", user.name) or not is_name(name):
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
    return User(
        id,
        _text(info, "name", NAME_BYTES) or name,
        "away" if info.get("status") == "away" else "online",
        _text(info, "avatar", AVATAR_BYTES),
    )


def _text(info: Mapping[str, Any], field: str, most_bytes: int) -> str:
    """ "" if it cannot be shown."""
    text = info.get(field)
    return text if isinstance(text, str) and is_name(text, most_bytes) else ""

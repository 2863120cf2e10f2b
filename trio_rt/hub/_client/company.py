"""Who is in a room and how far they have read, as a member knows it.

Snapshots are compared with what was known, so that only what has really changed is news.
The first one is no news: it is what there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._words import Event
from .items import Joined, Left, Marked

__all__ = ["Company"]


class Company:
    """`count` may be more than there are `members`: of a large room the hub names none."""

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.marks: dict[str, int] = {}
        self._unnamed = 0
        self._known = False
        self._epoch = ""

    @property
    def count(self) -> int:
        """Users who are present."""
        return self._unnamed or len(self.members)

    def snapshot(self, event: Event) -> list[Joined | Left | Marked]:
        """How it is: what has changed."""
        named = dict(_users(event.members))
        is_first = not self._epoch
        if event.epoch != self._epoch:  # another log: nobody has read any of it
            self._epoch, self.marks = event.epoch, {}
        news: list[Joined | Left | Marked] = []
        if self._known and (named or not event.count):
            news += [Left(user) for user in self.members if user not in named]
            news += [Joined(u, info) for u, info in named.items() if self._is_new(u, info)]
        self._known = bool(named) or not event.count
        self.members = named
        self._unnamed = 0 if named else event.count
        for user, offset in event.marks.items():
            news += self.mark(user, offset)
        return [] if is_first else news

    def presence(self, event: Event) -> list[Joined | Left | Marked]:
        """Some came or went: what has changed."""
        gone = [user for user in event.left if self.members.pop(user, self) is not self]
        news: list[Joined | Left | Marked] = [Left(user) for user in gone]
        for user, info in _users(event.joined):
            if self._is_new(user, info):
                self.members[user] = info
                news.append(Joined(user, info))
        return news

    def mark(self, user: str, offset: int) -> list[Joined | Left | Marked]:
        """A user has read so far: what has changed."""
        if offset <= self.marks.get(user, 0):
            return []
        self.marks[user] = offset
        return [Marked(user, offset)]

    def _is_new(self, user: str, info: Any) -> bool:
        return user not in self.members or self.members[user] != info


def _users(members: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    for member in members:
        user = member.get("user")
        if isinstance(user, str):
            yield user, member.get("info")

"""Who is present in a room: users by their devices, with a grace.

A user joins with the first device and has left after the last one and `grace_s`
without another. So a link that is cut and dialled again, or a page that is loaded
again, is no news. There is no grace where the last one left as it wished. The same roster can be told the truth anew (`replace`), after
which only what really differs is news.

Until the first `replace` nothing is known, and the last word on each device is kept: it
may be newer than the snapshot that comes, or in it already, and is said again after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from .._broker import Present

__all__ = ["News", "Roster"]


class News:
    """What is to be told: who joined or has new info, and who left."""

    __slots__ = ("joined", "left")

    def __init__(self) -> None:
        self.joined: dict[str, bytes] = {}
        self.left: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self.joined or self.left)

    def join(self, user: str, info: bytes) -> None:
        self.left.pop(user, None)
        self.joined[user] = info

    def leave(self, user: str) -> None:
        self.joined.pop(user, None)
        self.left[user] = None


class Roster:
    """Of one room. What is to be told gathers in `news`; who tells it puts a new one there."""

    __slots__ = ("_devices", "_early", "_grace_s", "_info", "_leaving", "_user_of", "news")

    def __init__(self, grace_s: float) -> None:
        self.news = News()
        self._grace_s: Final = grace_s
        self._user_of: dict[str, str] = {}
        self._devices: dict[str, set[str]] = {}
        self._info: dict[str, bytes] = {}
        #: When users without a device will have left, the first one first.
        self._leaving: dict[str, float] = {}
        #: The last word on each device: None if it is gone.
        self._early: dict[str, Present | None] | None = {}

    @property
    def due(self) -> float:
        """When `tick` has something; `inf` for never, and while nothing is known for sure."""
        if self._early is not None:
            return math.inf
        return next(iter(self._leaving.values()), math.inf)

    @property
    def count(self) -> int:
        """Users who are present."""
        return len(self._info)

    def users(self) -> dict[str, bytes]:
        """Who is present, with info."""
        return dict(self._info)

    def has_device(self, user: str) -> bool:
        """Whether a device of that user is there: not only a grace left."""
        return user in self._devices

    def enter(self, who: Present, now: float) -> None:
        """A device is there, or has new info. One that was another user's is not any more."""
        if self._early is not None:
            self._early[who.device] = who
            return
        user, device = who.user, who.device
        if self._user_of.get(device, user) != user:
            self._drop(device, now)
        self._user_of[device] = user
        self._devices.setdefault(user, set()).add(device)
        self._leaving.pop(user, None)
        if self._info.get(user) != who.info:
            self._info[user] = who.info
            self.news.join(user, who.info)

    def absent(self, device: str, now: float, *, for_good: bool = False) -> None:
        """A device is gone; it may not have been there."""
        if self._early is not None:
            self._early[device] = None
            return
        self._drop(device, now, for_good=for_good)

    def tick(self, now: float) -> None:
        """Users whose grace is over have left."""
        while self.due <= now:
            user = next(iter(self._leaving))
            del self._leaving[user], self._info[user]
            self.news.leave(user)

    def replace(self, present: Iterable[Present], now: float) -> None:
        """All who are there, by a snapshot that was taken after the last `doubt`."""
        early, self._early = self._early or {}, None
        entered = {who.device: who for who in present}
        for device, word in early.items():
            if word is None:
                entered.pop(device, None)
            else:
                entered[device] = word
        for device in [device for device in self._user_of if device not in entered]:
            self._drop(device, now)
        for who in entered.values():
            self.enter(who, now)

    def doubt(self) -> None:
        """Something was missed: keep what is told until the next `replace`, from now on.

        What was kept before is older than the loss: it may not be the last word any more.
        """
        self._early = {}

    def _drop(self, device: str, now: float, *, for_good: bool = False) -> None:
        user = self._user_of.pop(device, None)
        if user is None:
            return
        devices = self._devices[user]
        devices.discard(device)
        if devices:
            return
        del self._devices[user]
        if for_good:
            del self._info[user]
            self.news.leave(user)
        else:
            self._leaving[user] = now + self._grace_s

"""Who is typing in a room, by what their devices say.

A device says that its user types, again while that lasts, and when it has stopped. The last
word may be lost: a word holds for `HOLDS_S`. A message ends the typing of the device that
it comes from, for nobody types what is said already.
"""

from __future__ import annotations

from typing import Final

from ...hub._names import is_name

__all__ = ["HOLDS_S", "MOST", "Typists"]

#: How long a word holds: twice the time between two of them.
HOLDS_S: Final = 6.0

#: Devices that are known to be typing. More, and the one that spoke longest ago is forgotten.
MOST: Final = 1000


class Typists:
    """Of one room. Each method returns whether `users` has changed; times are in seconds."""

    def __init__(self, me: str = "") -> None:
        #: One's own user, who is never among them; "" while that is not known.
        self.me = me
        # When each device's word is over, in this order.
        self._until: dict[tuple[str, str], float] = {}
        # Typing devices of each user.
        self._devices: dict[str, int] = {}

    @property
    def users(self) -> tuple[str, ...]:
        """Who is typing, the one that began first in front."""
        return tuple(user for user in self._devices if user != self.me)

    @property
    def next_at(self) -> float | None:
        """When `expire` has something to do; None for never."""
        return next(iter(self._until.values()), None)

    def heard(self, user: str, device: str, on: bool, now: float) -> bool:
        """A device says that its user types, or has stopped."""
        if not on:
            return self.said(user, device)
        if user == self.me or not is_name(user):
            return False
        key = (user, device)
        is_new = self._until.pop(key, None) is None
        self._until[key] = now + HOLDS_S
        if not is_new:
            return False
        changed = user not in self._devices
        self._devices[user] = self._devices.get(user, 0) + 1
        if len(self._until) > MOST:
            changed |= self._drop(next(iter(self._until)))
        return changed

    def said(self, user: str, device: str) -> bool:
        """A message comes from a device."""
        key = (user, device)
        return key in self._until and self._drop(key)

    def left(self, user: str) -> bool:
        """A user is not there any more."""
        if user not in self._devices:
            return False
        for key in [key for key in self._until if key[0] == user]:
            self._drop(key)
        return user != self.me

    def clear(self) -> bool:
        """What devices say was lost: nothing is known."""
        had_any = bool(self.users)
        self._until.clear()
        self._devices.clear()
        return had_any

    def expire(self, now: float) -> bool:
        """Forget words that are over."""
        changed = False
        while (at := self.next_at) is not None and at <= now:
            changed |= self._drop(next(iter(self._until)))
        return changed

    def _drop(self, key: tuple[str, str]) -> bool:
        user = key[0]
        del self._until[key]
        self._devices[user] -= 1
        if self._devices[user]:
            return False
        del self._devices[user]
        return user != self.me

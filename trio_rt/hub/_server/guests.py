"""Who is there on this node, and what the store is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import attrs
import msgspec

from ...errors import PayloadError
from .._broker import Broker, BrokerError
from .room import Guest
from .rules import Who

__all__ = ["Guests"]


class Guests:
    """Those of one hub. `new_id` names a device as no other is."""

    def __init__(self, broker: Broker, new_id: Callable[[], str]) -> None:
        self._broker: Final = broker
        self._new_id: Final = new_id
        self._guests: dict[Guest, None] = {}

    def __len__(self) -> int:
        return len(self._guests)

    def __iter__(self) -> Iterator[Guest]:
        return iter(self._guests)

    def add(self, guest: Guest) -> None:
        """It is there, from now on with its link of the moment."""
        self._guests[guest] = None
        guest.peer.on_link = lambda up: self._linked(guest, up=up)

    def remove(self, guest: Guest) -> None:
        """It is gone."""
        del self._guests[guest]

    def of(self, user: str) -> list[Guest]:
        """A user's devices."""
        return [guest for guest in self._guests if guest.who.user == user]

    def absent(self, guest: Guest, room: str, *, for_good: bool) -> None:
        """It is in that room no more."""
        with suppress(BrokerError):  # it expires there
            self._broker.leave(room, guest.device, for_good=for_good)

    def describe(self, user: str, info: Any) -> int:
        """As `Hub.describe`."""
        try:
            msgspec.json.encode(info)
        except Exception as error:
            raise PayloadError("info", f"must fit in JSON ({error})", info) from error
        found = self.of(user)
        for guest in found:
            guest.become(attrs.evolve(guest.who, info=info), guest.device)
            self._show(guest)
        return len(found)

    def identify(self, guest: Guest, who: Who) -> None:
        """As `Hub.identify`."""
        for room in guest.rooms:
            self.absent(guest, room, for_good=True)
        guest.become(who, self._new_id())
        guest.is_identified = True
        self._show(guest)

    def _show(self, guest: Guest) -> None:
        """In all its rooms, as it is now."""
        if guest.linked:
            for room in guest.rooms:
                with suppress(BrokerError):
                    self._broker.enter(room, guest.present)

    def _linked(self, guest: Guest, *, up: bool) -> None:
        """A session's link is gone, or there again: so is the device."""
        guest.linked = up
        if up:
            self._show(guest)
        else:
            for room in guest.rooms:
                self.absent(guest, room, for_good=False)

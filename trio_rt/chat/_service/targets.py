"""Which messages there are, and whose: what an edit, a deletion or a reaction may be about."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs
import msgspec

from ...hub._broker import Item
from ...hub._server.hub import Hub
from .._words import DELETE, KINDS, Delete

__all__ = ["Target", "Targets"]

#: Messages that are known without a look into the store.
KNOWN: Final = 10_000


@attrs.frozen
class Target:
    """A message, by its author."""

    user: str
    #: Whether it is known to be.
    deleted: bool = False


class _Glance(msgspec.Struct):
    """What of a stored message is looked at."""

    user: str
    type: str
    payload: msgspec.Raw


_glance: Final = msgspec.json.Decoder(_Glance).decode
_deletion: Final = msgspec.json.Decoder(Delete).decode


class Targets:
    """Those of all rooms: the last ones that were heard or asked for, and the store's."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, int], Target | None] = OrderedDict()

    def heard(self, item: Item) -> None:
        """A message is in its room."""
        if not item.offset:
            return
        glance = _read(item)
        place = (item.room, item.epoch, item.offset)
        if glance is None or glance.type not in KINDS:
            self._keep(place, None)
        else:
            self._keep(place, Target(glance.user))
        if glance is not None and glance.type == DELETE:
            self._deleted(item, glance)

    async def find(self, hub: Hub, room: str, offset: int) -> Target | None:
        """The message there, if there is one. Raises `BrokerError`."""
        async with hub.look(room) as found:
            epoch = found.head.epoch
        place = (room, epoch, offset)
        if place not in self._known:
            page = await hub.history(room, after=offset - 1, limit=1)
            if not page.items or page.items[0].offset != offset:
                return None
            item = page.items[0]
            place = (room, item.epoch, offset)
            if place not in self._known:  # or it was deleted in the meantime
                self.heard(item)
        return self._known[place]

    def _deleted(self, item: Item, glance: _Glance) -> None:
        try:
            place = (item.room, item.epoch, _deletion(glance.payload).target)
        except msgspec.MsgspecError:
            return
        target = self._known.get(place)
        if target is not None:
            self._known[place] = attrs.evolve(target, deleted=True)

    def _keep(self, place: tuple[str, str, int], target: Target | None) -> None:
        self._known[place] = target
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)


def _read(item: Item) -> _Glance | None:
    try:
        return _glance(item.body)
    except (ValueError, RecursionError):
        return None

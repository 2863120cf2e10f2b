"""Users as plain clients are told of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["PlainUsers", "shown_name"]

#: Users whose names are known; the one that was seen longest ago goes.
USERS: Final = 10_000


class PlainUsers:
    """Those who were seen, so that their names can be told when all there is is an id."""

    def __init__(self) -> None:
        self._seen: Final[OrderedDict[str, dict[str, Any]]] = OrderedDict()

    def seen(self, id: str, info: Any) -> dict[str, Any]:
        """A user is there. `info` is that of the hub's `Who`, of any shape."""
        given = info if isinstance(info, Mapping) else {}
        user = self._seen[id] = {
            "id": id,
            "name": shown_name(info) or id,
            "status": _text(given, "status") or "online",
            "avatar": _text(given, "avatar"),
        }
        self._seen.move_to_end(id)
        if len(self._seen) > USERS:
            self._seen.popitem(last=False)
        return user

    def gone(self, id: str) -> dict[str, Any]:
        """A user is not there any more."""
        return {"id": id, "name": id, "avatar": "", **self._seen.get(id, {}), "status": "offline"}

    def name(self, id: str) -> str:
        """What is shown of a user: the id, if there is nothing better."""
        user = self._seen.get(id)
        return id if user is None else str(user["name"])


def shown_name(info: Any) -> str:
    """That in a `Who.info`, of any shape; "" for none."""
    return _text(info, "name") if isinstance(info, Mapping) else ""


def _text(info: Mapping[str, Any], field: str) -> str:
    value = info.get(field)
    return value if isinstance(value, str) else ""

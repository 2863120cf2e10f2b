"""Messages of a room as their consumer gets them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import trio

from ..._connection import Connection
from ...errors import DecodeError
from ...message import Malformed
from .._broker import Position
from .._words import Event
from .items import RoomMessage

__all__ = ["Letters"]


class Letters:
    """Reads events, with payloads of the type `as_`."""

    def __init__(self, conn: Connection, as_: Any) -> None:
        self._conn: Final = conn
        self._as: Final = as_
        #: Users that this side is, or was: a guest is another one in each session.
        self.mine: Final[set[str]] = set()

    def read(self, event: Event) -> RoomMessage[Any] | None:
        """None for a payload that is not of the type: that is in `conn.malformed()`."""
        payload = event.payload
        if self._as is not Any:
            try:
                payload = msgspec.convert(payload, self._as)
            except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
                self._complain(payload, error)
                return None
        return RoomMessage(
            Position(event.epoch, event.offset) if event.offset else None,
            event.id,
            event.user,
            event.device,
            event.type,
            payload,
            event.at,
            event.user in self.mine,
        )

    def _complain(self, payload: Any, error: Exception) -> None:
        wrong = DecodeError("payload", str(error), payload)
        complaint = Malformed(_as_json(payload), wrong, trio.current_time())
        self._conn._session.inbox.malformed(complaint)


def _as_json(payload: Any) -> bytes:
    try:
        return msgspec.json.encode(payload)
    except Exception:  # of a hub that is none of ours
        return b""

"""What a message of the hub says here, if it is one that a chat can have.

A service checks what is said, and may be another one, or wrong. So nothing reaches the
program that was not checked here, too: shapes, lengths, and that no text has control
characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

import msgspec

from ...hub._client.items import RoomMessage
from ...hub._names import is_name
from .._words import (
    MODERATION,
    SHAPES,
    TYPING,
    Delete,
    Edit,
    Moderation,
    React,
    SaidBody,
    check_content,
    check_metadata,
    check_reaction,
)

__all__ = ["Amendment", "Body", "read", "time_of"]

Amendment: TypeAlias = Edit | Delete | React
Body: TypeAlias = SaidBody | Amendment | Moderation

#: Of what the log has.
_SHAPES: Final[Mapping[str, type]] = {
    **{kind: shape for kind, shape in SHAPES.items() if kind != TYPING},
    MODERATION: Moderation,
}

#: The year 10000, which no `datetime` can have.
_TOO_LATE_MS: Final = 253_402_300_800_000


def read(message: RoomMessage[Any]) -> Body | None:
    """Its payload; None for a foreign kind, or for what no service should have let through."""
    position, shape = message.position, _SHAPES.get(message.type)
    if position is None or shape is None or not (is_name(message.id) and is_name(message.user)):
        return None
    try:
        body = cast(Body, msgspec.convert(message.payload, shape))
        fits = _fits(body, message, position.offset)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None
    return body if fits else None


def _fits(body: Body, message: RoomMessage[Any], offset: int) -> bool:
    """May raise `ValueError`."""
    if isinstance(body, SaidBody):
        check_content(body.content)
        if body.metadata:
            check_metadata(body.metadata)
        return True
    if isinstance(body, Moderation):  # of the service, which has no device
        return not message.device and is_name(body.user) and is_name(body.by) and body.until >= 0
    if isinstance(body, Edit):
        check_content(body.content)
    elif isinstance(body, React):
        check_reaction(body.reaction)
    return 0 < body.target < offset


def time_of(message: RoomMessage[Any]) -> int:
    """When the service took it, in ms since the epoch; 0 if that is no time."""
    return message.at if 0 < message.at < _TOO_LATE_MS else 0

"""What peers and the program say, as a store takes it."""

from __future__ import annotations

from typing import Any

import msgspec

from ..._ambient import ambient
from ...errors import OptionError, PayloadError, Refused
from .._broker import EVERYBODY, Draft
from .._names import check_name, is_name
from .._words import Publish, event_body
from .room import Guest
from .rules import HubLimits

__all__ = ["check_publish", "peer_draft", "program_draft"]


def check_publish(command: Publish) -> None:
    """Raise `Refused` for fields that do not fit."""
    if not is_name(command.type):
        raise Refused("malformed", "payload.type must be a name")
    if command.id and not is_name(command.id):
        raise Refused("malformed", "payload.id must be a name")
    if command.user and not is_name(command.user):
        raise Refused("malformed", "payload.user must be a name")
    if command.to not in ("all", "others", "user") or bool(command.user) != (command.to == "user"):
        raise Refused("malformed", 'payload.to must be "all", "others", or "user" with a user')
    if command.to == "user" and command.store:
        raise Refused("malformed", "payload.store must be false for one user")


def peer_draft(guest: Guest, id: str, command: Publish, limits: HubLimits) -> Draft:
    """Of a command whose fields fit. Raises `Refused`."""
    user = guest.who.user
    try:
        body = event_body(id, user, guest.shown_device, command.type, command.payload, _now_ms())
    except ValueError as error:
        text = f"payload.payload must fit in JSON and MessagePack ({error})"
        raise Refused("malformed", text) from error
    if len(body) > limits.message_bytes:
        raise Refused("too_large", f"a message has at most {limits.message_bytes:g} bytes")
    spared = guest.device if command.to == "others" else ""
    return Draft(command.room, f"{user}\n{id}", body, command.user, spared)


def program_draft(
    room: str,
    payload: Any,
    *,
    type: str,
    user: str,
    id: str,
    only: str | None,
    store: bool,
    limits: HubLimits,
) -> Draft:
    """Raises `OptionError` and `PayloadError`."""
    check_name("room", room, limits.name_bytes)
    for field, value in (("type", type), ("user", user), ("id", id)):
        check_name(field, value)
    if only is not None:
        check_name("only", only)
        if store:
            raise OptionError("store", "must be False for one user only", store)
    body = _program_body(id, user, type, payload)
    if len(body) > limits.message_bytes:
        rule = f"must encode to at most {limits.message_bytes:g} bytes"
        raise PayloadError("payload", rule, len(body))
    return Draft(room, f"{user}\n{id}", body, only or EVERYBODY)


def _program_body(id: str, user: str, type: str, payload: Any) -> bytes:
    """A `msgspec.Raw` in it may be anything, of several lines, too."""
    try:
        msgspec.json.decode(msgspec.json.encode(payload))
        body = event_body(id, user, "", type, payload, _now_ms())
    except Exception as error:
        rule = f"must fit in JSON and MessagePack ({error})"
        raise PayloadError("payload", rule, payload) from error
    return msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body


def _now_ms() -> int:
    return int(ambient().wall_s() * 1000)

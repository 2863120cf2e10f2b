"""What is told of a room at once, encoded for each tongue when it is first needed.

Most members are told the same. Those of whom a message speaks (it is for that user only,
or its device is to be spared) are told what is theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ..._broadcast import Broadcast
from ...message import Priority
from ...protocol.codec import Codec, JsonCodec, Meta
from .._broker import Item
from .._words import Event, message_event, message_json, own_event, room_of
from .room import Guest
from .tongue import Speech, Tongue

__all__ = ["Told", "speak"]

_log: Final = logging.getLogger("trio_rt.hub")

_JSON: Final = msgspec.json.Encoder()
_read: Final = msgspec.json.decode
_META: Final = Meta("", None, Priority.NORMAL, None)


class Told:
    """`events` of a room whose messages have the type `type`."""

    def __init__(self, type: str, events: Sequence[Item | Event]) -> None:
        self._type: Final = type
        self._events: Final = events
        items = [event for event in events if isinstance(event, Item)]
        self._users: Final = {item.only for item in items if item.only}
        self._devices: Final = {item.but for item in items if item.but}
        #: Whether all members of one tongue are told the same.
        self.is_common: Final = not (self._users or self._devices)
        self._common: dict[Tongue, Broadcast | None] = {}

    def to(self, guest: Guest) -> Broadcast | None:
        """What `guest` is told; None for nothing."""
        tongue = guest.tongue
        if not self.is_common and (guest.device in self._devices or guest.who.user in self._users):
            return self._broadcast(tongue, guest.who.user, guest.device)
        try:
            return self._common[tongue]
        except KeyError:
            found = self._common[tongue] = self._broadcast(tongue, "", "")
            return found

    def _broadcast(self, tongue: Tongue, user: str, device: str) -> Broadcast | None:
        mine = [_mine(event, user, device) for event in self._events]
        said = [
            data for event in mine if event is not None for data in speak(tongue, self._type, event)
        ]
        return Broadcast(said, binary=tongue.codec.binary) if said else None


def speak(tongue: Tongue, type: str, event: Item | Event) -> list[bytes]:
    """What is told of an event whose message has the type `type`. Raises nothing."""
    if tongue.speech is None:
        data = _encode(tongue.codec, type, event)
        return [data] if data else []
    try:
        return [tongue.encode(*said) for said in _say(tongue.speech, type, event)]
    except Exception:
        _log.exception("%s: the dialect cannot say what is to be told", type)
        return []


def _say(speech: Speech, type: str, event: Item | Event) -> Iterable[tuple[str, Any]]:
    """In other words. They need not know that some of an event may be JSON already."""
    if isinstance(event, Item):
        return speech.say(room_of(type), message_event(event))
    return speech.say(room_of(type), _read(_JSON.encode(event), type=Event))


def _encode(codec: Codec, type: str, event: Item | Event) -> bytes:
    """An event in the envelope of `codec`: empty if that can say nothing. Raises nothing.

    What a codec of the program's own cannot say is logged, and is told without what it is
    about: an answer as a refusal, anything else by its place in the log.
    """
    try:
        return _envelope(codec, type, event)
    except Exception:
        _log.exception("%s: the codec cannot say what is to be told", type)
    try:
        return _envelope(codec, type, _unsaid(event))
    except Exception:
        return b""


def _mine(event: Item | Event, user: str, device: str) -> Item | Event | None:
    """What of it is for this one."""
    if isinstance(event, Event) or (not event.only and event.but != device):
        return event
    if event.only and event.only != user:
        return None
    if event.but and event.but == device:
        return own_event(event) if event.offset else None
    return event


def _envelope(codec: Codec, type: str, event: Item | Event) -> bytes:
    if isinstance(event, Item):
        payload = message_json(event.epoch, event.offset, event.body)
    else:
        payload = _JSON.encode(event)
    if codec.__class__ is JsonCodec:
        return b'{"type":%b,"payload":%b}' % (_JSON.encode(type), payload)
    value: Any = _read(payload)
    return codec.encode(type, value, _META)


def _unsaid(event: Item | Event) -> Event:
    text = "the codec of this side cannot say it"
    if isinstance(event, Item):
        return Event("message", "", event.epoch, event.offset, code="unsaid", text=text)
    kind = "refused" if event.kind == "done" else event.kind
    return Event(kind, event.re, event.epoch, event.offset, code="unsaid", text=text)

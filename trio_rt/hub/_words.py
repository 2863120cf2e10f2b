"""What a hub and its clients say to each other: commands one way, events the other.

Both are the payloads of ordinary messages, so that they travel in sessions, on plain
links and from foreign clients alike. A command's type is one of `COMMANDS`. Whatever a
hub has to say about a room, answers included, has the type `room:<name>`, so that one
stream has all of it, in order. An answer has the id of the command's message as `re`. A
command that names no room that could be is refused with the type `hub.refused`, and one
that is about no room is done with the type `hub.done`: only a program's own are.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..message import Priority
from ..protocol.codec import JsonCodec, Meta
from ._broker import Item

__all__ = [
    "COMMANDS",
    "DONE",
    "HISTORY",
    "JOIN",
    "LEAVE",
    "MARK",
    "MEMBERS",
    "PUBLISH",
    "REFUSED",
    "Event",
    "History",
    "Join",
    "Leave",
    "Mark",
    "Members",
    "Publish",
    "event_body",
    "is_body",
    "message_event",
    "message_json",
    "own_event",
    "room_of",
    "room_type",
    "void",
]

JOIN: Final = "hub.join"
LEAVE: Final = "hub.leave"
PUBLISH: Final = "hub.publish"
HISTORY: Final = "hub.history"
MEMBERS: Final = "hub.members"
MARK: Final = "hub.mark"
COMMANDS: Final = (JOIN, LEAVE, PUBLISH, HISTORY, MEMBERS, MARK)

#: The type of the answer to a command whose room cannot be told.
REFUSED: Final = "hub.refused"
#: The type of the answer to a command that is about no room.
DONE: Final = "hub.done"

_ROOM: Final = "room:"


def room_type(room: str) -> str:
    """The type of all events of a room."""
    return f"{_ROOM}{room}"


def room_of(type: str) -> str:
    """The room whose events have this type; "" for none."""
    return type.removeprefix(_ROOM) if type.startswith(_ROOM) else ""


class Join(msgspec.Struct):
    """Be a member. Answered by `done` with the room as it is.

    So it is for who is a member already: what was on its way to it is in that answer.
    """

    room: str


class Leave(msgspec.Struct):
    """Be no member any more."""

    room: str


class Publish(msgspec.Struct):
    """Say something in a room that one is in.

    `id` names it for who says it: the same one again is not said again. `to` is "all",
    "others" (who says it gets `own` instead), or "user" with the name in `user`. What is
    not to be `store`d reaches who is there, and has no place in the log.
    """

    room: str
    payload: Any = None
    type: str = "message"
    id: str = ""
    to: str = "all"
    user: str = ""
    store: bool = True


class History(msgspec.Struct):
    """A page of the log: up to `limit` messages after an offset, or before one.

    With neither, the last ones. An `epoch` that is not the log's is refused.
    """

    room: str
    after: int | None = None
    before: int | None = None
    epoch: str = ""
    limit: int = 100


class Members(msgspec.Struct):
    """Who is in a room."""

    room: str


class Mark(msgspec.Struct):
    """One has read up to `offset`."""

    room: str
    offset: int
    epoch: str = ""


class Event(msgspec.Struct, omit_defaults=True):
    """Everything that a hub says, by `kind`; the other fields have what the kind needs.

    - `done`: the command `re` is done. Of a join: `epoch first last members count marks`,
      and the `user` and `device` by which one is known; of a publish: `epoch offset id`;
      of history: `epoch first last items`; of members: `members count`; of a program's
      own: `payload`.
    - `refused`: it is not: `code`, `text`.
    - `message`: `epoch offset id user device type payload at` (ms, the hub's clock). The
      offset is 0 for one that is not stored. One without a type has nothing that could be
      read.
    - `own`: in the place of one's own message to others: `epoch offset id`.
    - `presence`: `joined` (members, or with new `info`) and `left` (users). Some of it may
      be known already.
    - `mark`: `user` has read up to `offset`.
    - `room`: as after a join: something may have been missed, and this is how it is.
    - `removed`: one is no member any more: `code`, `text`.

    Of a room `members` is empty, and `count` is not, where there are too many to name them.
    `first` is where the log began when the hub looked; history tells where it does now.
    """

    kind: str
    re: str = ""
    epoch: str = ""
    offset: int = 0
    id: str = ""
    user: str = ""
    device: str = ""
    type: str = ""
    payload: Any = None
    at: int = 0
    first: int = 0
    last: int = 0
    items: list[Event] = []
    members: list[dict[str, Any]] = []
    count: int = 0
    marks: dict[str, int] = {}
    joined: list[dict[str, Any]] = []
    left: list[str] = []
    code: str = ""
    text: str = ""


class Body(msgspec.Struct):
    """What a store keeps of a message, as JSON."""

    id: str
    user: str
    device: str
    type: str
    payload: Any
    at: int


class _Shell(msgspec.Struct, forbid_unknown_fields=True):
    """A `Body` whose payload is left as it is."""

    id: str
    user: str
    device: str
    type: str
    payload: msgspec.Raw
    at: int


_encode: Final = msgspec.json.Encoder().encode
_pack: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.json.Decoder(Body).decode
_open: Final = msgspec.json.Decoder(_Shell).decode

_JSON: Final = JsonCodec()
_META: Final = Meta("", None, Priority.NORMAL, None)

#: In the place of what a store has and no hub has written.
_VOID: Final = _encode(Body("", "", "", "", None, 0))


def event_body(id: str, user: str, device: str, type: str, payload: Any, at: int) -> bytes:
    """What a store keeps of a message: JSON, in one line.

    Raises ValueError for a payload that JSON and MessagePack cannot both say: members
    have codecs of their own.
    """
    try:
        _pack(payload)
        body = _encode(Body(id, user, device, type, payload, at))
        if b"null" in body and payload is not None:
            _JSON.encode(type, payload, _META)  # it finds what JSON only seems to say: NaN
    except Exception as error:
        raise ValueError(str(error)) from error
    return body


def is_body(body: bytes) -> bool:
    """Whether it is as `event_body` makes them: a store may have been written by others."""
    try:
        body.decode()
        _open(body)
    except (ValueError, RecursionError):
        return False
    return True


def void(item: Item) -> Item:
    """The same, with nothing in it."""
    return Item(item.room, item.epoch, item.offset, _VOID, item.only, item.but)


def message_json(epoch: str, offset: int, body: bytes) -> bytes:
    """The event `message` of that body. An epoch is ASCII without quotes."""
    return b'{"kind":"message","epoch":"%b","offset":%d,%b' % (epoch.encode(), offset, body[1:])


def own_event(item: Item) -> Event:
    """What the device that is to be spared is told in the place of the message."""
    return Event("own", epoch=item.epoch, offset=item.offset, id=_open(item.body).id)


def message_event(item: Item) -> Event:
    """The event `message`. Of a body that is none there is nothing but its place."""
    try:
        body = _decode(item.body)
    except (ValueError, RecursionError):
        body = _decode(_VOID)
    return Event(
        "message",
        epoch=item.epoch,
        offset=item.offset,
        id=body.id,
        user=body.user,
        device=body.device,
        type=body.type,
        payload=body.payload,
        at=body.at,
    )

"""What is written into the store, and read from it: pure, and safe with any bytes.

Whoever can write to the store can put anything there. What is not of the form that this
module writes is None here, to be counted and passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from .._broker import Draft, Item, Present

__all__ = [
    "NODE_CHARACTERS",
    "Told",
    "bus_number",
    "bus_room",
    "contiguous",
    "entries_of",
    "key_digest",
    "present_value",
    "read_bus",
    "read_log",
    "read_marks",
    "read_present",
    "to_bytes",
    "to_text",
]

#: Of the name of a node, which begins the value of each of its devices.
NODE_CHARACTERS: Final = 16

_decode_value: Final = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode


def to_bytes(text: str) -> bytes:
    """Any str, lone surrogates as well."""
    return text.encode("utf-8", "surrogatepass")


def to_text(data: object) -> str | None:
    """The inverse; None where `data` is no such bytes."""
    if type(data) is not bytes:
        return None
    try:
        return data.decode("utf-8", "surrogatepass")
    except ValueError:
        return None


def key_digest(draft: Draft) -> bytes:
    """A draft's key as the store keeps it: short, whatever the key is."""
    return hashlib.blake2b(to_bytes(draft.key), digest_size=16).digest()


def present_value(node: bytes, who: Present) -> bytes:
    """A device in a roster."""
    return node + msgspec.msgpack.encode((to_bytes(who.user), who.info))


def read_present(device: object, value: object) -> tuple[bytes, Present] | None:
    """A node and its device."""
    name = to_text(device)
    if name is None or type(value) is not bytes:
        return None
    try:
        user, info = _decode_value(value[NODE_CHARACTERS:])
    except msgspec.DecodeError:
        return None
    user_name = to_text(user)
    if user_name is None:
        return None
    return value[:NODE_CHARACTERS], Present(user_name, name, info)


class Told(msgspec.Struct, frozen=True, gc=False):
    """One entry of the bus. `what` is an item, or what the sink is to be told of the room."""

    kind: bytes
    generation: bytes
    number: int
    item: Item | None = None
    #: Milliseconds of the store's clock; it tells an item from another one in its place.
    at_ms: int = 0
    who: Present | None = None
    device: str = ""
    for_good: bool = False
    user: str = ""
    offset: int = 0


def bus_room(fields: object) -> bytes | None:
    """Which room an entry is about, before anything else of it is looked at."""
    if type(fields) is list and len(fields) >= 4 and fields[0] == b"r" and fields[2] == b"h":
        room = fields[1]
        return room if type(room) is bytes else None
    return None


def bus_number(fields: list[Any]) -> tuple[bytes, int, list[bytes]] | None:
    """Generation and number of an entry that has a room, and the words of its header."""
    try:
        words = fields[3].split(b" ")
        return words[1], _whole(words[2]), words
    except (AttributeError, ValueError, IndexError):
        return None


def read_bus(room: str, fields: list[Any], words: list[bytes]) -> Told | None:
    """An entry of a room that is watched."""
    try:
        kind, generation, number = words[0], words[1], _whole(words[2])
        if kind == b"i":
            return _read_item(room, fields, words)
        if kind == b"m" and fields[4] == b"u":
            user = to_text(fields[5])
            offset = _whole(words[4])
            return (
                None if user is None else Told(kind, generation, number, user=user, offset=offset)
            )
        if kind == b"e" and fields[4] == b"d" and fields[6] == b"v":
            found = read_present(fields[5], fields[7])
            return found and Told(kind, generation, number, who=found[1])
        if kind == b"a" and fields[4] == b"d":
            device, for_good = to_text(fields[5]), words[4] == b"1"
            if device is None:
                return None
            return Told(kind, generation, number, device=device, for_good=for_good)
        return Told(kind, generation, number) if kind == b"z" else None
    except (ValueError, IndexError):
        return None


def _read_item(room: str, fields: list[Any], words: list[bytes]) -> Told | None:
    item = _item(room, words[4], _whole(words[5]), fields[4:])
    if item is None:
        return None
    return Told(words[0], words[1], _whole(words[2]), item, _whole(words[6]))


def _item(room: str, epoch: bytes, offset: int, fields: Sequence[Any]) -> Item | None:
    body = fields[1]
    if fields[0] != b"b" or type(body) is not bytes or not epoch:
        return None
    only = but = ""
    if len(fields) > 2:
        more = dict(zip(fields[2::2], map(to_text, fields[3::2]), strict=False))
        only, but = more.get(b"u", "") or "", more.get(b"x", "") or ""
        if None in more.values():
            return None
    return Item(room, epoch.decode("ascii"), offset, body, only, but)


def read_log(room: str, epoch: bytes, entry: Any) -> Item | None:
    """An entry of a room's log."""
    try:
        place, _, zero = entry[0].partition(b"-")
        if zero != b"0" or entry[1][0] != b"h":
            return None
        return _item(room, epoch, _whole(place), entry[1][2:])
    except (AttributeError, ValueError, IndexError, TypeError):
        return None


def contiguous(items: list[Item], forwards: bool) -> list[Item]:
    """Those of a page, in the order of their offsets, up to the first hole."""
    step = 1 if forwards else -1
    end = 1
    while end < len(items) and items[end].offset == items[end - 1].offset + step:
        end += 1
    return items[:end] if forwards else items[:end][::-1]


def pairs_of(reply: Any) -> dict[bytes, bytes]:
    """A hash as it comes out of a script: flat."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def read_marks(reply: Any) -> dict[str, int]:
    marks = {}
    for user, offset in pairs_of(reply).items():
        name = to_text(user)
        try:
            if name is not None:
                marks[name] = _whole(offset)
        except ValueError:
            pass
    return marks


def entries_of(reply: Any) -> list[Any]:
    """The entries that an XREAD of one stream found."""
    if not reply:
        return []
    (streams,) = reply.values() if isinstance(reply, dict) else [reply[0][1]]
    return list(streams)


def _whole(digits: bytes) -> int:
    if len(digits) > 20 or not digits.isdigit():
        raise ValueError("no number")
    return int(digits)

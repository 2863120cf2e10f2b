"""The messages that every client sends and receives: about 128 bytes each."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any, Final

from .frames import BINARY, TEXT, frame

RAW: Final = bytes(range(128))
EVENT: Final = "chat_message"
PRIORITIES: Final = ("low", "normal", "high", "critical")
#: With trio_rt's id, time and priority around it the envelope has about 128 bytes.
PAYLOAD: Final[dict[str, Any]] = {"text": "hello, all"}
#: What a socket.io emit carries to have as many bytes and fields.
EMITTED: Final[dict[str, Any]] = {
    "id": "b7Qx2LkPzR9w-100001",
    "payload": PAYLOAD,
    "timestamp": 1732310000000,
    "priority": "normal",
}

_DISTINCT: Final = 1000


def envelope(number: int) -> str:
    """The envelope that trio_rt would have made of `PAYLOAD`."""
    return json.dumps(
        {
            "id": f"b7Qx2LkPzR9w-{100000 + number}",
            "type": EVENT,
            "payload": PAYLOAD,
            "timestamp": 1732310000000 + number,
            "priority": PRIORITIES[number % 4],
        },
        separators=(",", ":"),
    )


def event(number: int) -> str:
    """The same as a socket.io event."""
    content = EMITTED | {"id": f"b7Qx2LkPzR9w-{100000 + number}"}
    return "42" + json.dumps([EVENT, content], separators=(",", ":"))


@functools.cache
def frames(kind: str, *, masked: bool) -> list[bytes]:
    """Frames of one kind ("raw", "envelope" or "event"), to be sent in turn."""
    if kind == "raw":
        return [frame(RAW, BINARY, masked=masked)] * _DISTINCT
    text = {"envelope": envelope, "event": event}[kind]
    return [frame(text(number).encode(), TEXT, masked=masked) for number in range(_DISTINCT)]


def chunks(kind: str, messages: int, *, masked: bool) -> Iterator[bytes]:
    """`messages` frames of one kind, in chunks of about 128 KiB."""
    distinct = frames(kind, masked=masked)
    full = b"".join(distinct)
    for _ in range(messages // _DISTINCT):
        yield full
    yield b"".join(distinct[: messages % _DISTINCT])

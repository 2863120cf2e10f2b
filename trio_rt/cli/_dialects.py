"""How a line becomes a message, and a message a line."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from .._connect import connect
from ..message import Message, Priority

__all__ = ["BadLine", "Dialect", "Envelope", "Raw"]


class BadLine(Exception):
    """A line that cannot be sent; the message says why."""


class Dialect(Protocol):
    """What differs between bare text and typed messages."""

    def connect(self, url: str, **options: Any) -> AbstractAsyncContextManager[Any]:
        """`trio_rt.connect` with these options and the codec."""

    async def send(self, conn: Any, line: str) -> None:
        """Send a line. Raises `BadLine`, and what `conn.send` does."""

    def show(self, message: Message[Any]) -> str:
        """A message as one line or more."""


class Raw:
    """A line is a text message. A binary message is shown as hexadecimal digits."""

    def connect(self, url: str, **options: Any) -> AbstractAsyncContextManager[Any]:
        return connect(url, codec="raw", **options)

    async def send(self, conn: Any, line: str) -> None:
        await conn.send(line)

    def show(self, message: Message[Any]) -> str:
        payload = message.payload
        return payload if isinstance(payload, str) else f"0x{payload.hex()}"


class _Line(msgspec.Struct):
    type: str
    payload: Any = None
    priority: str = "normal"
    key: str | None = None


class Envelope:
    """JSON both ways.

    With a `type` a line is the payload: JSON, or else plain text. Without one
    a line is an object of `type` and maybe `payload`, `priority`, `key`.
    """

    def __init__(self, type: str | None = None) -> None:
        self._type = type

    def connect(self, url: str, **options: Any) -> AbstractAsyncContextManager[Any]:
        return connect(url, codec="json", **options)

    async def send(self, conn: Any, line: str) -> None:
        message = self._parse(line)
        try:
            priority = Priority[message.priority.upper()]
        except KeyError:
            raise BadLine(f"no such priority: {message.priority!r}") from None
        await conn.send(message.type, message.payload, priority=priority, key=message.key)

    def _parse(self, line: str) -> _Line:
        if self._type is not None:
            return _Line(self._type, _json_or_text(line))
        try:
            return msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            raise BadLine(f'no object like {{"type": ..., "payload": ...}}: {error}') from None

    def show(self, message: Message[Any]) -> str:
        fields = {
            "type": message.type,
            "payload": message.payload,
            "id": message.id,
            "timestamp": message.timestamp,
            "priority": message.priority.name.lower(),
        }
        if message.key is not None:
            fields["key"] = message.key
        return msgspec.json.encode(fields).decode()


def _json_or_text(line: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:
        return line

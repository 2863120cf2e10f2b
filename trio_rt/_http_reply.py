"""The head of an HTTP/1.x answer, from a server or a proxy that may be hostile.

Bounded in bytes and headers, and judged as soon as it can be: what cannot
become HTTP any more is not waited for. Interim answers (1xx other than 101)
are skipped within the same bound. Bodies are never waited for as a whole.
"""

from __future__ import annotations

import email.utils
import re
from datetime import UTC
from typing import Final

import attrs
import trio

from ._ambient import ambient

__all__ = ["EXCERPT_BYTES", "BadReply", "NoReply", "Reply", "read_excerpt", "read_reply"]

#: Node.js, which speaks to the same servers, stops at 16 KiB; nginx sends at
#: most 32 KiB of an upstream's headers by default settings.
HEAD_BYTES: Final = 32_768
#: The same as the `websockets` package.
HEADERS: Final = 128

#: The beginning of a refusal's body that is kept, for error messages.
EXCERPT_BYTES: Final = 1024
#: Head and body often come in two segments; the second is worth this long.
EXCERPT_WAIT_S: Final = 0.1

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_HEADER: Final = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_START: Final = b"HTTP/1."
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]{0,100}\r\n")


class BadReply(Exception):
    """The answer is no HTTP, or too much of it."""


class NoReply(Exception):
    """The connection ended before the answer did."""


@attrs.frozen
class Reply:
    """An answer without its body. Names in lower case, values in ISO-8859-1."""

    version: str
    status: int
    headers: tuple[tuple[str, str], ...]
    #: What was read behind the blank line.
    rest: bytes

    def merged(self) -> dict[str, str]:
        """The headers by name, repeated ones joined with a comma."""
        merged: dict[str, str] = {}
        for name, value in self.headers:
            merged[name] = f"{merged[name]}, {value}" if name in merged else value
        return merged

    @property
    def retry_after_s(self) -> float | None:
        """`Retry-After` in seconds from now, given as a number or a date, or None."""
        value = self.merged().get("retry-after", "")
        if re.fullmatch(r"[0-9]{1,9}", value):
            return float(value)
        try:
            date = email.utils.parsedate_to_datetime(value)
            if date.tzinfo is None:  # "-0000"; HTTP dates are in GMT
                date = date.replace(tzinfo=UTC)
            return max(0.0, date.timestamp() - ambient().wall_s())
        except (ValueError, OverflowError, TypeError):
            return None


async def read_reply(stream: trio.abc.Stream) -> Reply:
    """The first answer that is not interim.

    Raises `BadReply`, `NoReply`, and what the stream raises. Cancelled: what
    was read is lost.
    """
    buffer = bytearray()
    room = HEAD_BYTES
    while True:
        head = await _read_head(stream, buffer, room)
        room -= len(head)
        version, status, headers = _parse(head)
        if status == 101 or status >= 200:
            return Reply(version, status, headers, bytes(buffer))


async def _read_head(stream: trio.abc.Stream, buffer: bytearray, room: int) -> bytes:
    """Cut a head off the front of `buffer`, reading on as long as it is not whole."""
    fresh = 0
    while True:
        blank = _BLANK_LINE.search(buffer, fresh, room)
        if not _START.startswith(buffer[: len(_START)]):
            raise BadReply("the answer is not HTTP/1.x")
        if blank:
            head = bytes(buffer[: blank.end()])
            del buffer[: blank.end()]
            return head
        if len(buffer) >= room:
            raise BadReply(f"the answer has a head of more than {HEAD_BYTES} bytes")
        fresh = max(0, len(buffer) - 2)
        chunk = await stream.receive_some(room)
        if not chunk:
            raise NoReply(f"the connection ended after {len(buffer)} bytes of the answer")
        buffer += chunk


def _parse(head: bytes) -> tuple[str, int, tuple[tuple[str, str], ...]]:
    first, *lines = [line.removesuffix(b"\r") for line in head.split(b"\n")]
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        raise BadReply("the answer has a bad status line")
    if len(lines) - 2 > HEADERS:
        raise BadReply(f"the answer has more than {HEADERS} headers")
    headers = []
    for line in lines[:-2]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise BadReply("the answer has a bad header")
        headers.append((header[1].decode().lower(), header[2].strip(b" \t").decode("iso-8859-1")))
    return status[1].decode(), int(status[2]), tuple(headers)


async def read_excerpt(stream: trio.abc.Stream, reply: Reply) -> bytes:
    """The beginning of the answer's body, as far as it is there in a moment."""
    headers = reply.merged()
    length = headers.get("content-length", "")
    wanted = (
        min(int(length), EXCERPT_BYTES) if re.fullmatch("[0-9]{1,18}", length) else EXCERPT_BYTES
    )
    body = bytearray(reply.rest)
    with trio.move_on_after(EXCERPT_WAIT_S):
        try:
            while len(body) < wanted and (chunk := await stream.receive_some(EXCERPT_BYTES)):
                body += chunk
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _unchunked(bytes(body))[:EXCERPT_BYTES]
    return bytes(body[:wanted])


def _unchunked(body: bytes) -> bytes:
    """What is there of a chunked body; it stops at whatever is not in order."""
    pieces = []
    at = 0
    while (size := _CHUNK_SIZE.match(body, at)) and (count := int(size[1], 16)):
        pieces.append(body[size.end() : size.end() + count])
        at = size.end() + count + 2
    return b"".join(pieces)

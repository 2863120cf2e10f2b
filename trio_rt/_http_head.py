"""Heads of HTTP/1.1 requests, and answers that end a connection.

**Goal.** Whatever a stranger sends, bounded memory and CPU, and either one
clean request, or an answer that the client can read. Two readers of the same
bytes, a proxy in front and this one, must not see two different requests
("request smuggling").

**What does not work.** To feed the socket to h11 and let it decide: h11 checks
its size limit only while a head is incomplete, and one line of spaces before a
control character costs it 0.7 s of CPU per 16 KiB (measured, h11 0.16: its
header pattern is quadratic there). To close after a refusal: bytes that the
client is still sending turn the close into a reset, which destroys the answer
before it is read.

**The rule.** Each head is cut out here: at most `header_bytes` are read, up to
the blank line, and no control character, bare line feed or folded line gets
past. Then h11 judges it, and what it is lenient about is refused: lengths
given twice, or beside a transfer coding. Behind the head of a WebSocket
handshake nothing is HTTP. A refusal is written, the sending side is shut where
the stream can do that, and what still comes in is thrown away for a moment
(`LINGER_S`).

**The remaining hole.** A client that is still sending after the lingering may
lose the answer. HTTP/1.0, `OPTIONS *` and an absolute-form request target
(`GET http://host/path`), which only a proxy is sent, are refused.
"""

from __future__ import annotations

import email.utils
import http
import logging
import re
from typing import Final, TypeAlias

import attrs
import h11
import trio

from ._ambient import ambient
from .errors import Refuse

__all__ = [
    "Head",
    "Items",
    "Unfit",
    "http_date",
    "linger",
    "parse_head",
    "parse_request",
    "read_head",
    "render",
    "turn_away",
]

#: After a refusal, how long and how much of what the client still sends is
#: read and thrown away. A second is several round trips to anywhere; nginx
#: gives its own lingering close 5 s between two reads.
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 16

_BLANK_LINE: Final = b"\r\n\r\n"
# A carriage return at the very end may still get its line feed.
_UNSOUND: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n|\n[ \t]")
# h11 makes one of several equal ones.
_LENGTH: Final = re.compile(rb"\ncontent-length:([^\r]*)", re.IGNORECASE)
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
# RFC 3986, 3.2.2: a bracketed address or a registered name; then a port.
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[-\w.~!$&'()*+,;=%]+)(?::\d*)?", re.ASCII)
_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}

Items: TypeAlias = list[tuple[str, str]]

_log = logging.getLogger("trio_rt.server")


class Unfit(Refuse):
    """Refused here, not by the program: `text` holds no secret and may be logged."""


@attrs.frozen(eq=False)
class Head:
    """A clean request without its body. Names in lower case, values in ISO-8859-1."""

    method: str
    #: The path, as sent, and what follows the first "?".
    target: str
    items: Items
    #: The length of its body; None if that comes in chunks.
    length: int | None
    #: With which to answer.
    parser: h11.Connection

    @property
    def upgrades(self) -> bool:
        """True if it asks for a WebSocket."""
        wanted = (value for name, value in self.items if name == "upgrade")
        return any(
            token.strip(" \t").lower() == "websocket"
            for value in wanted
            for token in value.split(",")
        )


async def read_head(stream: trio.abc.Stream, most: int, held: bytes = b"") -> tuple[bytes, bytes]:
    """The request up to its blank line, and what came behind; `held` was read before.

    Raises `Unfit`, also for an end in the middle; an end before the first byte
    gives an empty head. Cancelled: what was read is lost. No checkpoint if all
    of it is in `held`.
    """
    buffer = bytearray(held)
    fresh = 0
    while True:
        at = buffer.find(_BLANK_LINE, fresh, most)
        end = min(len(buffer), most) if at < 0 else at + len(_BLANK_LINE)
        if _UNSOUND.search(buffer, fresh, end):
            raise Unfit(400, "a control character or a folded line in the request")
        if at >= 0:
            return bytes(buffer[:end]), bytes(buffer[end:])
        if len(buffer) >= most:
            raise Unfit(431, f"the request has more than {most} bytes")
        fresh = max(0, len(buffer) - 3)
        chunk = await stream.receive_some(most - len(buffer))
        if not chunk:
            if not buffer:
                return b"", b""
            raise Unfit(400, "the request ends in its middle")
        buffer += chunk


def parse_request(head: bytes, most_headers: float) -> Head:
    """A request that is clean, else `Unfit`."""
    request, parser = _parse(head)
    _check_start(request, most_headers)
    return _checked(head, request, parser)


def parse_head(head: bytes, most_headers: float) -> Head:
    """A request that could be an upgrade, else `Unfit`."""
    request, parser = _parse(head)
    if request.method != b"GET":
        # The answer to HEAD has no body.
        text = "" if request.method == b"HEAD" else "the method must be GET"
        raise Unfit(405, text, headers={"Allow": "GET"})
    _check_start(request, most_headers)
    found = _checked(head, request, parser)
    if found.length != 0:
        raise Unfit(400, "the request has a body")
    return found


def _parse(head: bytes) -> tuple[h11.Request, h11.Connection]:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    parser.receive_data(head)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise Unfit(error.error_status_hint, "not a valid HTTP/1.1 request") from None
    assert isinstance(request, h11.Request)
    return request, parser


def _check_start(request: h11.Request, most_headers: float) -> None:
    if request.http_version != b"1.1":
        raise Unfit(505, "the HTTP version must be 1.1")
    if len(request.headers) > most_headers:
        raise Unfit(431, f"the request has more than {most_headers:g} headers")
    if not request.target.startswith(b"/"):
        raise Unfit(400, 'the request target must begin with "/"')


def _checked(head: bytes, request: h11.Request, parser: h11.Connection) -> Head:
    items = [(name.decode(), value.decode("iso-8859-1")) for name, value in request.headers]
    for name, value in items:
        if name == "host" and not _HOST.fullmatch(value):
            raise Unfit(400, "bad Host header")
    lengths = _LENGTH.findall(head)
    chunked = any(name == "transfer-encoding" for name, _ in items)
    if len(lengths) + chunked > 1:
        raise Unfit(400, "the length of the request's body is given twice")
    if lengths and not _DIGITS.fullmatch(lengths[0].strip(b" \t")):
        raise Unfit(400, "bad Content-Length header")
    length = None if chunked else int(lengths[0]) if lengths else 0
    return Head(request.method.decode(), request.target.decode(), items, length, parser)


async def turn_away(stream: trio.abc.Stream, refusal: Refuse) -> None:
    """Answer, and close so that the client can read it. Cancelled: not yet closed."""
    await stream.send_all(render(refusal))
    await linger(stream)


async def linger(stream: trio.abc.Stream) -> None:
    """Close so that the client can read what was sent. Cancelled: not yet closed."""
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    left = LINGER_BYTES
    with trio.move_on_after(LINGER_S):
        while left > 0 and (data := await stream.receive_some(READ_BYTES)):
            left -= len(data)
    await stream.aclose()


def render(refusal: Refuse) -> bytes:
    """The whole answer; a plain 500 if the program's headers cannot be sent."""
    body = refusal.text.encode(errors="replace")
    headers = {"content-type": "text/plain; charset=utf-8"}
    headers |= {name.lower(): value for name, value in refusal.headers.items()}
    headers |= {"connection": "close", "content-length": str(len(body)), "date": http_date()}
    headers.pop("transfer-encoding", None)
    if "upgrade" in headers:
        headers["connection"] = "close, upgrade"
    try:
        head = h11.Response(
            status_code=refusal.status,
            reason=_PHRASES.get(refusal.status, ""),
            headers=list(headers.items()),
        )
    except (h11.LocalProtocolError, UnicodeEncodeError):
        _log.error("a handler or hook refused with a header that HTTP cannot have: 500 instead")
        return render(Unfit(500, "the server failed"))
    return (h11.Connection(h11.SERVER).send(head) or b"") + body


def http_date() -> str:
    """Now, as a `Date` header has it."""
    return email.utils.formatdate(ambient().wall_s(), usegmt=True)

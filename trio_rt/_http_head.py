"""As much HTTP/1.1 as a WebSocket server needs: one request in, at most one answer out.

**Goal.** Whatever a stranger sends, bounded memory and CPU, and either the
target and headers of one clean request, or an answer that the client can read.

**What does not work.** To feed the socket to h11 and let it decide: h11 checks
its size limit only while a head is incomplete, and one line of spaces before a
control character costs it 0.7 s of CPU per 16 KiB (measured, h11 0.16: its
header pattern is quadratic there). To close after a refusal: bytes that the
client is still sending turn the close into a reset, which destroys the answer
before it is read.

**The rule.** The head is cut out here: at most `header_bytes` are read, up to
the blank line, and no control character gets past. Then h11 judges it. Behind
the blank line nothing is HTTP. A refusal is written, the sending side is shut
where the stream can do that, and what still comes in is thrown away for a
moment (`LINGER_S`).

**The remaining hole.** A client that is still sending after the lingering may
lose the answer. An absolute-form request target (`GET http://host/path`),
which no WebSocket client uses, is refused.
"""

from __future__ import annotations

import email.utils
import http
import logging
import re
from typing import Final, TypeAlias

import h11
import trio

from ._ambient import ambient
from .errors import Refuse

__all__ = ["Items", "Unfit", "http_date", "parse_head", "read_head", "render", "turn_away"]

#: After a refusal, how long and how much of what the client still sends is
#: read and thrown away. A second is several round trips to anywhere; nginx
#: gives its own lingering close 5 s between two reads.
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 16

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
# A carriage return at the very end may still get its line feed.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)")
# RFC 3986, 3.2.2: a bracketed address or a registered name; then a port.
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[-\w.~!$&'()*+,;=%]+)(?::\d*)?", re.ASCII)
_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}

Items: TypeAlias = list[tuple[str, str]]

_log = logging.getLogger("trio_rt.server")


class Unfit(Refuse):
    """Refused here, not by the program: `text` holds no secret and may be logged."""


async def read_head(stream: trio.abc.Stream, most: int) -> tuple[bytes, bytes]:
    """The request up to its blank line, and what came behind.

    Raises `Unfit`, also for an end in the middle; an end before the first byte
    gives an empty head. Cancelled: what was read is lost.
    """
    buffer = bytearray()
    while room := most - len(buffer):
        chunk = await stream.receive_some(room)
        if not chunk:
            if not buffer:
                return b"", b""
            raise Unfit(400, "the request ends in its middle")
        fresh = max(0, len(buffer) - 2)
        buffer += chunk
        blank = _BLANK_LINE.search(buffer, fresh)
        end = blank.end() if blank else len(buffer)
        if _CONTROL.search(buffer, fresh, end):
            raise Unfit(400, "a control character in the request")
        if blank:
            return bytes(buffer[:end]), bytes(buffer[end:])
    raise Unfit(431, f"the request has more than {most} bytes")


def parse_head(head: bytes, most_headers: float) -> tuple[str, Items]:
    """The target and headers of a request that could be an upgrade, else `Unfit`.

    Names come in lower case, values in ISO-8859-1, in the order received.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    parser.receive_data(head)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise Unfit(error.error_status_hint, "not a valid HTTP/1.1 request") from None
    assert isinstance(request, h11.Request)
    if request.method != b"GET":
        # The answer to HEAD has no body.
        text = "" if request.method == b"HEAD" else "the method must be GET"
        raise Unfit(405, text, headers={"Allow": "GET"})
    if request.http_version != b"1.1":
        raise Unfit(505, "the HTTP version must be 1.1")
    if len(request.headers) > most_headers:
        raise Unfit(431, f"the request has more than {most_headers:g} headers")
    if not request.target.startswith(b"/"):
        raise Unfit(400, 'the request target must begin with "/"')
    items = [(name.decode(), value.decode("iso-8859-1")) for name, value in request.headers]
    for name, value in items:
        _check_header(name, value)
    return request.target.decode(), items


def _check_header(name: str, value: str) -> None:
    if name == "host" and not _HOST.fullmatch(value):
        raise Unfit(400, "bad Host header")
    if name == "transfer-encoding" or (name == "content-length" and int(value)):
        raise Unfit(400, "the request has a body")


async def turn_away(stream: trio.abc.Stream, refusal: Refuse) -> None:
    """Answer, and close so that the client can read it. Cancelled: not yet closed."""
    await stream.send_all(render(refusal))
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
        _log.error("the accept hook refused with a header that HTTP cannot have: 500 instead")
        return render(Unfit(500, "the server failed"))
    return (h11.Connection(h11.SERVER).send(head) or b"") + body


def http_date() -> str:
    """Now, as a `Date` header has it."""
    return email.utils.formatdate(ambient().wall_s(), usegmt=True)

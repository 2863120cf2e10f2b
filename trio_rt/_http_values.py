"""What an HTTP handler is given and gives back, and how the answer's head is made.

What a handler puts into headers may come from anywhere. A line break in a value
would begin a header, or an answer, of somebody else's choice ("response
splitting"), and a second word on the length would let a proxy cut the answers
elsewhere: such an answer is `Unsendable`, and nothing of it is sent.
"""

from __future__ import annotations

import http
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs
import h11
import trio

from ._handshake import RequestHeaders
from ._http_head import http_date
from .errors import Refuse

__all__ = [
    "HttpHandler",
    "HttpRequest",
    "HttpResponse",
    "Unsendable",
    "refused",
    "response_head",
]

_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}
_NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
#: Statuses whose answers have no body (RFC 9110, 6.4.1).
_BODILESS: Final = (204, 304)
#: About this connection alone, and so not the handler's to say.
_OURS: Final = frozenset({"transfer-encoding", "upgrade", "keep-alive", "trailer", "te"})


class _NoBody(AsyncIterator[bytes]):
    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration


@attrs.frozen(kw_only=True, eq=False)
class HttpRequest:
    """A request that is no WebSocket handshake, as the HTTP handler sees it."""

    method: str
    #: As sent, percent-encoding included; begins with "/".
    path: str
    #: What follows the first "?"; "" if there is none.
    query: str = attrs.field(default="", repr=False)
    headers: RequestHeaders = attrs.field(factory=lambda: RequestHeaders([]))
    #: The peer's IP address, without port; None where the stream has none.
    #: Behind a proxy it is the proxy's.
    remote: str | None = None
    #: TLS ends in this process.
    secure: bool = False
    #: The body in pieces, to be read once, by one task, before the answer's end.
    #: A body that is malformed or larger than `ServerLimits.body_bytes` raises
    #: `Refuse`; a client that is gone raises `trio.BrokenResourceError`; after
    #: the answer's end it is `trio.ClosedResourceError`. Each piece is a
    #: checkpoint, and a cancelled one loses nothing.
    body: AsyncIterator[bytes] = attrs.field(factory=_NoBody, repr=False)

    async def read(self) -> bytes:
        """The whole rest of the body. Cancelled: what was read is lost."""
        return b"".join([piece async for piece in self.body])


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in headers.items()}


@attrs.frozen(eq=False)
class HttpResponse:
    """An answer.

    `status` is 200 to 599. A body of `bytes` is sent with its length, another in
    chunks, or as it comes if `headers` has a `Content-Length`. The answer to HEAD
    is that to GET, and its body is not sent. An async generator is closed at the
    end, whatever happens. `Connection: close` ends the connection; an answer that
    HTTP cannot have becomes a bare 500.
    """

    status: int = 200
    headers: dict[str, str] = attrs.field(factory=dict, converter=_texts, repr=False)
    body: bytes | AsyncIterable[bytes] = attrs.field(default=b"", repr=False)


HttpHandler: TypeAlias = Callable[[HttpRequest], Awaitable[HttpResponse]]


class Unsendable(Exception):
    """HTTP cannot have this answer. The text holds nothing of it but its status."""


def refused(refusal: Refuse) -> HttpResponse:
    """The answer that `refusal` stands for."""
    content = {"Content-Type": "text/plain; charset=utf-8"}
    given = {name.lower() for name in refusal.headers}
    if "content-type" in given:
        content = {}
    body = refusal.text.encode(errors="replace")
    return HttpResponse(refusal.status, {**content, **refusal.headers}, body)


def response_head(response: object, method: str, *, close: bool) -> h11.Response:
    """The head of `response` to a `method` request. Raises `Unsendable`."""
    if not isinstance(response, HttpResponse):
        raise Unsendable(f"an HttpResponse is wanted, not a {type(response).__name__}")
    status, body = response.status, response.body
    if type(status) is not int or not 200 <= status <= 599:
        raise Unsendable("the status must be from 200 to 599")
    if not isinstance(body, (bytes, AsyncIterable)):
        raise Unsendable("the body must be bytes or an async iterable of bytes")
    headers = _headers(response.headers)
    if status in _BODILESS:
        if body != b"" or headers.get("content-length", "0") != "0":
            raise Unsendable(f"an answer with status {status} has no body")
        headers.pop("content-length", None)
    elif isinstance(body, bytes):
        given = headers.setdefault("content-length", str(len(body)))
        if given != str(len(body)) and not (method == "HEAD" and not body):
            raise Unsendable("the Content-Length is not the body's")
    headers.setdefault("date", http_date())
    if close:
        headers["connection"] = "close"
    reason = _PHRASES.get(status, "")
    return h11.Response(status_code=status, reason=reason, headers=list(headers.items()))


def _headers(given: Mapping[str, str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in given.items():
        key = name.lower()
        if key in headers:
            raise Unsendable("a header is given twice")
        if key in _OURS or (key == "connection" and value.lower() != "close"):
            raise Unsendable("a header about the connection")
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise Unsendable("a header with a character that HTTP cannot have")
        headers[key] = value.strip(" \t")
    if not _DIGITS.fullmatch(headers.get("content-length", "0")):
        raise Unsendable("the Content-Length is no number")
    return headers

"""What is a WebSocket handshake, as the `websockets` package judges it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader, InvalidUpgrade
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from ._handshake import Handshake, RequestHeaders
from ._http_head import Head, Unfit, http_date
from .wires.websockets import QUIET, size_limit

__all__ = ["handshake_of", "new_protocol", "upgrade"]

#: The `websockets` package's own defaults for a server: 36 KiB of windows and
#: tables for each connection, where zlib's defaults take 288 (zlib's zconf.h).
#: A client that cannot limit its window makes it 64 KiB.
WINDOW_BITS: Final = 12
MEMORY_LEVEL: Final = 5


def new_protocol(
    protocols: Sequence[str], compression: bool, max_message_bytes: float
) -> ServerProtocol:
    """For one link, which is open; `protocols` are those known here, the favourite first."""

    def select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((Subprotocol(known) for known in protocols if known in offered), None)

    deflate = ServerPerMessageDeflateFactory(
        server_max_window_bits=WINDOW_BITS,
        client_max_window_bits=WINDOW_BITS,
        compress_settings={"memLevel": MEMORY_LEVEL},
    )
    # OPEN from the start: the HTTP parser that CONNECTING begins with would
    # wait for a request where the frames are.
    return ServerProtocol(
        state=State.OPEN,
        extensions=[deflate] if compression else None,
        select_subprotocol=select,
        max_size=size_limit(max_message_bytes),
        logger=QUIET,
    )


def upgrade(protocol: ServerProtocol, head: Head) -> bytes:
    """The 101 for this request, or `Unfit`; extensions and subprotocol are then in `protocol`."""
    response = protocol.accept(Request(head.target, Headers(head.items)))
    if response.status_code == 101:
        del response.headers["Date"]
        response.headers["Date"] = http_date()
        return response.serialize()
    fault = protocol.handshake_exc
    if isinstance(fault, InvalidUpgrade):
        raise Unfit(426, "this is a WebSocket server", headers={"Upgrade": "websocket"})
    name = fault.name if isinstance(fault, InvalidHeader) else "WebSocket"
    if name == "Sec-WebSocket-Version":
        headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        raise Unfit(426, "the WebSocket version must be 13", headers=headers)
    raise Unfit(response.status_code, f"bad {name} header")


def handshake_of(head: Head, remote: str | None, *, secure: bool) -> Handshake:
    """The request, as the accept hook sees it."""
    path, _, query = head.target.partition("?")
    headers = RequestHeaders(head.items)
    offers = map(parse_subprotocol, headers.get_all("Sec-WebSocket-Protocol"))
    return Handshake(
        path=path,
        query=query,
        headers=headers,
        origin=headers.get("Origin"),
        protocols=tuple(name for offer in offers for name in offer),
        remote=remote,
        secure=secure,
    )

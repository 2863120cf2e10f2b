"""Both ends as the suites want them: whatever comes is sent back."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, get_args

import trio

from trio_rt import (
    ConnectionFailed,
    InboxLimits,
    LinkClosed,
    Message,
    OutboxLimits,
    RawConnection,
    RawPeer,
    Reconnect,
    Server,
    connect,
    serve,
)
from trio_rt.options import WireName

__all__ = ["WIRES", "ask", "echo_to", "echoing"]

#: Those of `connect()`.
WIRES: Final = get_args(WireName)

#: That of cases 9.1.6 and 9.2.6.
LARGEST_BYTES: Final = 16 << 20

_INBOX: Final = InboxLimits(
    message_bytes=LARGEST_BYTES, total_bytes=4 * LARGEST_BYTES, fragments=math.inf
)
_OUTBOX: Final = OutboxLimits(message_bytes=LARGEST_BYTES, total_bytes=4 * LARGEST_BYTES)

#: No case takes so long: the longest wait of one for its answer is 100 s.
CASE_S: Final = 120.0


async def ask(url: str, wire: str) -> str:
    """What the server says before it closes."""
    said: list[str | bytes] = []

    async def note(_: RawConnection, data: str | bytes) -> None:
        said.append(data)

    await _talk(url, wire, note, compression=False)
    [answer] = said
    return str(answer)


async def echo_to(url: str, wire: str, *, compression: bool) -> None:
    """Dial once, and send back whatever comes till the server closes."""

    async def send_back(conn: RawConnection, data: str | bytes) -> None:
        await conn.send(data)

    await _talk(url, wire, send_back, compression=compression)


async def _talk(url: str, wire: str, answer: Callable[..., Any], *, compression: bool) -> None:
    options: dict[str, Any] = {"wire": wire}
    try:
        with trio.fail_after(CASE_S):
            async with connect(
                url,
                codec="raw",
                reconnect=Reconnect(verdict=lambda cause: "fatal"),
                liveness=None,
                inbox=_INBOX,
                outbox=_OUTBOX,
                compression=compression,
                **options,
            ) as conn:
                with conn.subscribe() as stream:
                    async for item in stream:
                        assert isinstance(item, Message)
                        await answer(conn, item.payload)
    except ConnectionFailed as failure:
        if not isinstance(failure.__cause__, LinkClosed):
            raise


async def _send_back(peer: RawPeer) -> None:
    with peer.subscribe() as stream:
        async for item in stream:
            assert isinstance(item, Message)
            await peer.send(item.payload)


@asynccontextmanager
async def echoing(*, compression: bool) -> AsyncIterator[Server]:
    """A server that does it."""
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(
                serve,
                _send_back,
                "127.0.0.1",
                0,
                codec="raw",
                liveness=None,
                inbox=_INBOX,
                outbox=_OUTBOX,
                compression=compression,
            )
        )
        yield server
        nursery.cancel_scope.cancel()

"""picows on uvloop, with the least that a program adds to its callbacks.

Its listener is called per frame. A program that awaits its messages puts them
in a queue, and one that does not want an endless write buffer waits while the
transport asks it to; both are here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from ..content import RAW, envelope
from . import Job, Stopwatch, Target, check
from ._uvloop import on_uvloop


class _Listener(WSListener):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | str] = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            self.inbox.put_nowait(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            self.inbox.put_nowait(frame.get_payload_as_utf8_text())

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


@asynccontextmanager
async def _connect(
    target: Target, path: str, **query: object
) -> AsyncIterator[tuple[WSTransport, _Listener]]:
    url, context = target.url(path, **query), target.context()
    transport, listener = await ws_connect(_Listener, url, ssl_context=context)
    assert isinstance(listener, _Listener)
    try:
        yield transport, listener
    finally:
        # Over TLS, aiofastnet (which picows prefers) may wait for ever for a graceful end.
        transport.disconnect(graceful=False)
        await transport.wait_disconnected()


async def _send(kind: str, target: Target, messages: int) -> Stopwatch:
    opcode: Any = WSMsgType.BINARY if kind == "raw" else WSMsgType.TEXT
    data = RAW if kind == "raw" else envelope(0).encode()
    async with _connect(target, "sink", n=messages) as (transport, listener):
        watch = Stopwatch()
        for _ in range(messages):
            transport.send(opcode, data)
            if not listener.writable.is_set():
                await listener.writable.wait()
        check(await listener.inbox.get(), messages, len(data))
        return watch.stop()


async def _receive(kind: str, target: Target, messages: int) -> Stopwatch:
    async with _connect(target, "flood", n=messages, kind=kind) as (transport, listener):
        watch = Stopwatch()
        transport.send(WSMsgType.TEXT, b"go")
        for _ in range(messages):
            await listener.inbox.get()
        return watch.stop()


async def _echo(target: Target, messages: int) -> Stopwatch:
    async with _connect(target, "echo") as (transport, listener):
        watch = Stopwatch()
        for _ in range(messages):
            transport.send(WSMsgType.BINARY, RAW)
            await listener.inbox.get()
        return watch.stop()


JOBS: Final[dict[str, Job]] = {
    "send raw": partial(on_uvloop(_send), "raw"),
    "send text": partial(on_uvloop(_send), "envelope"),
    "receive raw": partial(on_uvloop(_receive), "raw"),
    "receive text": partial(on_uvloop(_receive), "envelope"),
    "echo": on_uvloop(_echo),
}

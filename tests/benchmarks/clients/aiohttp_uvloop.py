"""aiohttp's WebSocket client, on uvloop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import aiohttp

from ..content import RAW, envelope
from . import Job, Stopwatch, Target, check
from ._uvloop import on_uvloop


@asynccontextmanager
async def _connect(
    target: Target, path: str, **query: object
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    context = target.context() or True
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(target.url(path, **query), ssl=context) as ws,
    ):
        yield ws


async def _send(kind: str, target: Target, messages: int) -> Stopwatch:
    async with _connect(target, "sink", n=messages) as ws:
        text = envelope(0)
        watch = Stopwatch()
        if kind == "raw":
            for _ in range(messages):
                await ws.send_bytes(RAW)
        else:
            for _ in range(messages):
                await ws.send_str(text)
        check(await ws.receive_str(), messages, len(RAW if kind == "raw" else text))
        return watch.stop()


async def _receive(kind: str, target: Target, messages: int) -> Stopwatch:
    async with _connect(target, "flood", n=messages, kind=kind) as ws:
        watch = Stopwatch()
        await ws.send_str("go")
        for _ in range(messages):
            await ws.receive()
        return watch.stop()


async def _echo(target: Target, messages: int) -> Stopwatch:
    async with _connect(target, "echo") as ws:
        watch = Stopwatch()
        for _ in range(messages):
            await ws.send_bytes(RAW)
            await ws.receive_bytes()
        return watch.stop()


JOBS: Final[dict[str, Job]] = {
    "send raw": partial(on_uvloop(_send), "raw"),
    "send text": partial(on_uvloop(_send), "envelope"),
    "receive raw": partial(on_uvloop(_receive), "raw"),
    "receive text": partial(on_uvloop(_receive), "envelope"),
    "echo": on_uvloop(_echo),
}

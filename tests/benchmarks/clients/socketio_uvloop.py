"""python-socketio's client, on uvloop; WebSocket from the start, no polling first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import socketio

from ..content import EMITTED, EVENT
from . import Job, Stopwatch, Target, check
from ._uvloop import on_uvloop


@asynccontextmanager
async def _connect(target: Target, **query: object) -> AsyncIterator[Any]:
    client = socketio.AsyncClient()
    url = target.url("", **query).replace("ws://", "http://")
    await client.connect(url, transports=["websocket"])
    try:
        yield client
    finally:
        await client.disconnect()


async def _send(target: Target, messages: int) -> Stopwatch:
    async with _connect(target, job="sink", n=messages) as client:
        confirmed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        client.on("confirmed", confirmed.set_result)
        watch = Stopwatch()
        for _ in range(messages):
            await client.emit(EVENT, EMITTED)
        check(await confirmed, messages)
        return watch.stop()


async def _receive(target: Target, messages: int) -> Stopwatch:
    async with _connect(target, job="flood", n=messages, kind="event") as client:
        done = asyncio.Event()
        count = 0

        async def on_event(data: object) -> None:
            nonlocal count
            count += 1
            if count == messages:
                done.set()

        client.on(EVENT, on_event)
        watch = Stopwatch()
        await client.emit("go")
        await done.wait()
        return watch.stop()


async def _echo(target: Target, messages: int) -> Stopwatch:
    async with _connect(target, job="echo") as client:
        inbox: asyncio.Queue[object] = asyncio.Queue()
        client.on(EVENT, inbox.put)
        watch = Stopwatch()
        for _ in range(messages):
            await client.emit(EVENT, EMITTED)
            await inbox.get()
        return watch.stop()


JOBS: Final[dict[str, Job]] = {
    "send event": on_uvloop(_send),
    "receive event": on_uvloop(_receive),
    "echo": on_uvloop(_echo),
}

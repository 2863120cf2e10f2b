"""The asyncio client of the websockets package, on uvloop."""

from __future__ import annotations

from functools import partial
from typing import Final

from websockets.asyncio.client import connect

from ..content import RAW, envelope
from . import Job, Stopwatch, Target, check
from ._uvloop import on_uvloop


async def _send(kind: str, target: Target, messages: int) -> Stopwatch:
    data = RAW if kind == "raw" else envelope(0)
    async with connect(target.url("sink", n=messages), ssl=target.context()) as ws:
        watch = Stopwatch()
        for _ in range(messages):
            await ws.send(data)
        check(await ws.recv(), messages, len(data))
        return watch.stop()


async def _receive(kind: str, target: Target, messages: int) -> Stopwatch:
    async with connect(target.url("flood", n=messages, kind=kind), ssl=target.context()) as ws:
        watch = Stopwatch()
        await ws.send("go")
        for _ in range(messages):
            await ws.recv()
        return watch.stop()


async def _echo(target: Target, messages: int) -> Stopwatch:
    async with connect(target.url("echo"), ssl=target.context()) as ws:
        watch = Stopwatch()
        for _ in range(messages):
            await ws.send(RAW)
            await ws.recv()
        return watch.stop()


JOBS: Final[dict[str, Job]] = {
    "send raw": partial(on_uvloop(_send), "raw"),
    "send text": partial(on_uvloop(_send), "envelope"),
    "receive raw": partial(on_uvloop(_receive), "raw"),
    "receive text": partial(on_uvloop(_receive), "envelope"),
    "echo": on_uvloop(_echo),
}

"""The trio client of the websockets package."""

from __future__ import annotations

from functools import partial
from typing import Final

from websockets.trio.client import connect

from ..content import RAW, envelope
from . import Job, Stopwatch, Target, check
from ._trio import on_trio


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
    "send raw": partial(on_trio(_send), "raw"),
    "send text": partial(on_trio(_send), "envelope"),
    "receive raw": partial(on_trio(_receive), "raw"),
    "receive text": partial(on_trio(_receive), "envelope"),
    "echo": on_trio(_echo),
}

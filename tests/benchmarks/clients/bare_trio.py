"""trio-websocket, used as its README shows."""

from __future__ import annotations

from functools import partial
from typing import Final

from trio_websocket import open_websocket_url

from ..content import RAW, envelope
from . import Job, Stopwatch, Target, check
from ._trio import on_trio


async def _send(kind: str, target: Target, messages: int) -> Stopwatch:
    data = RAW if kind == "raw" else envelope(0)
    url = target.url("sink", n=messages)
    async with open_websocket_url(url, ssl_context=target.context()) as ws:
        watch = Stopwatch()
        for _ in range(messages):
            await ws.send_message(data)
        check(await ws.get_message(), messages, len(data))
        return watch.stop()


async def _receive(kind: str, target: Target, messages: int) -> Stopwatch:
    url = target.url("flood", n=messages, kind=kind)
    async with open_websocket_url(url, ssl_context=target.context()) as ws:
        watch = Stopwatch()
        await ws.send_message("go")
        for _ in range(messages):
            await ws.get_message()
        return watch.stop()


async def _echo(target: Target, messages: int) -> Stopwatch:
    async with open_websocket_url(target.url("echo"), ssl_context=target.context()) as ws:
        watch = Stopwatch()
        for _ in range(messages):
            await ws.send_message(RAW)
            await ws.get_message()
        return watch.stop()


JOBS: Final[dict[str, Job]] = {
    "send raw": partial(on_trio(_send), "raw"),
    "send text": partial(on_trio(_send), "envelope"),
    "receive raw": partial(on_trio(_receive), "raw"),
    "receive text": partial(on_trio(_receive), "envelope"),
    "echo": on_trio(_echo),
}

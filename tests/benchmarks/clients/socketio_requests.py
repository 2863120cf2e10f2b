"""python-socketio's `call` to its own server: events that are acknowledged with data."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import attrs
import socketio
from aiohttp import web

from ..content import EMITTED, EVENT
from ..pinning import SERVER_CORE, pin
from . import Job, Stopwatch, Target
from ._uvloop import on_uvloop

IN_FLIGHT: Final = 64


@contextmanager
def _server() -> Iterator[int]:
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def _call(target: Target, messages: int) -> Stopwatch:
    client: Any = socketio.AsyncClient()
    url = target.url("").replace("ws://", "http://")
    await client.connect(url, transports=["websocket"])
    left = iter(range(messages))

    async def ask() -> None:
        for _ in left:
            reply = await client.call(EVENT, EMITTED)
            if reply != EMITTED:
                raise AssertionError(f"another reply: {reply}")

    watch = Stopwatch()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(ask())
    watch.stop()
    await client.disconnect()
    return watch


def _request(target: Target, messages: int) -> Stopwatch:
    with _server() as port:
        return on_uvloop(_call)(attrs.evolve(target, ports={"ws": port}), messages)


JOBS: Final[dict[str, Job]] = {"request": _request}


async def _serve() -> None:
    server = socketio.AsyncServer(async_mode="aiohttp")

    async def answer(sid: str, data: object) -> object:
        return data

    server.on(EVENT, answer)
    application = web.Application()
    server.attach(application)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    pin(SERVER_CORE)
    on_uvloop(_serve)()

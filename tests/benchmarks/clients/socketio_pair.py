"""python-socketio with its own server at the other end, not the fixed one.

That server is then what is measured: it takes fewer messages than the client
can send. Stated beside the client's own figure, because it is what its users
see.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qsl

import attrs
import socketio
from aiohttp import web

from ..content import EVENT
from ..pinning import SERVER_CORE, pin
from . import Job, Stopwatch, Target, socketio_uvloop
from ._uvloop import on_uvloop


@contextmanager
def _server() -> Iterator[int]:
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def _send(target: Target, messages: int) -> Stopwatch:
    with _server() as port:
        target = attrs.evolve(target, ports={"ws": port})
        return socketio_uvloop.JOBS["send event"](target, messages)


JOBS: Final[dict[str, Job]] = {"send event": _send}


async def _serve() -> None:
    server = socketio.AsyncServer(async_mode="aiohttp")
    missing: dict[str, int] = {}
    wanted: dict[str, int] = {}

    async def connect(sid: str, environ: dict[str, str], auth: object) -> None:
        wanted[sid] = missing[sid] = int(dict(parse_qsl(environ["QUERY_STRING"]))["n"])

    async def take(sid: str, data: object) -> None:
        missing[sid] -= 1
        if not missing[sid]:
            await server.emit("confirmed", f"{wanted[sid]} 0", to=sid)

    server.on("connect", connect)
    server.on(EVENT, take)
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

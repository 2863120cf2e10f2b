"""The same of websockets on asyncio (its default loop), and of trio-websocket's client.

websockets has no queue of its own. Two ways to have one: a task per `send`,
which can be asked what became of it, or an `asyncio.Queue` of payloads before
one sending task, which cannot.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any, Final

import trio
from trio_websocket import open_websocket_url
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from . import Figure, Run, Target
from ._memory import (
    CONNECTIONS,
    MESSAGES,
    WARM_UP,
    idle_url,
    payloads,
    resident_bytes,
    strangers,
)
from ._trio import on_trio


def _on_asyncio(job: Any) -> Figure:
    def run(target: Target) -> Run:
        figure: Run = asyncio.run(job(target))
        return figure

    return run


async def _client(target: Target) -> Run:
    kept = [await connect(idle_url(target)) for _ in range(WARM_UP)]
    before = resident_bytes()
    kept += [await connect(idle_url(target)) for _ in range(CONNECTIONS)]
    after = resident_bytes()
    for ws in kept:
        ws.transport.abort()
    return Run((after - before) / CONNECTIONS)


async def _bare_trio_client(target: Target) -> Run:
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as stack:

            async def open_some(count: int) -> int:
                for _ in range(count):
                    await stack.enter_async_context(open_websocket_url(idle_url(target)))
                return resident_bytes()

            before = await open_some(WARM_UP)
            after = await open_some(CONNECTIONS)
            scope.cancel()
    return Run((after - before) / CONNECTIONS)


async def _server(target: Target) -> Run:
    async def handler(ws: ServerConnection) -> None:
        async for _ in ws:
            pass

    async with serve(handler, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with strangers(port) as others:
            await asyncio.to_thread(others.open, WARM_UP)
            before = resident_bytes()
            await asyncio.to_thread(others.open, CONNECTIONS)
            after = resident_bytes()
    return Run((after - before) / CONNECTIONS)


async def _queued_in_tasks(target: Target) -> Run:
    # The slow server takes so little of it that nearly all of it stays here.
    url = f"ws://127.0.0.1:{target.ports['slow']}/slow?rate=1000"
    ws = await connect(url)
    ws.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    before = resident_bytes()
    tasks = [asyncio.create_task(ws.send(payload)) for payload in payloads()]
    await asyncio.sleep(0.5)
    waiting = sum(not task.done() for task in tasks)
    after = resident_bytes()
    ws.transport.abort()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Run((after - before) / waiting, notes={"waiting": waiting})


async def _queued_before(target: Target) -> Run:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    before = resident_bytes()
    for payload in payloads():
        queue.put_nowait(payload)
    return Run((resident_bytes() - before) / MESSAGES)


FIGURES: Final[dict[str, Figure]] = {
    "client": _on_asyncio(_client),
    "client of trio-websocket": on_trio(_bare_trio_client),
    "server": _on_asyncio(_server),
    "queued in tasks": _on_asyncio(_queued_in_tasks),
    "queued before it": _on_asyncio(_queued_before),
}

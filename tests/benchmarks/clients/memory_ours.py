"""What a connection and a queued message of trio_rt hold in memory."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import trio

import trio_rt
from trio_rt import OutboxLimits

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


async def _client(target: Target) -> Run:
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as stack:

            async def open_some(count: int) -> int:
                for _ in range(count):
                    link = trio_rt.connect(idle_url(target), codec="raw")
                    conn = await stack.enter_async_context(link)
                    stack.enter_context(conn.subscribe())
                    await conn.wait_connected()
                return resident_bytes()

            before = await open_some(WARM_UP)
            after = await open_some(CONNECTIONS)
            scope.cancel()
    return Run((after - before) / CONNECTIONS)


async def _server(target: Target) -> Run:
    async def handler(peer: trio_rt.RawPeer) -> None:
        with peer.subscribe() as stream:
            async for _ in stream:
                pass

    async with trio.open_nursery() as nursery:
        server: trio_rt.Server = await nursery.start(
            partial(trio_rt.serve, handler, "127.0.0.1", 0, codec="raw")
        )
        with strangers(server.port) as others:
            await trio.to_thread.run_sync(others.open, WARM_UP)
            before = resident_bytes()
            await trio.to_thread.run_sync(others.open, CONNECTIONS)
            after = resident_bytes()
        nursery.cancel_scope.cancel()
    return Run((after - before) / CONNECTIONS)


async def _queued(target: Target) -> Run:
    limits = OutboxLimits(messages=2 * MESSAGES, total_bytes=1 << 30)
    with trio.CancelScope() as scope:
        # Nobody answers there, so everything stays queued.
        async with trio_rt.connect("ws://127.0.0.1:9", codec="raw", outbox=limits) as conn:
            before = resident_bytes()
            for payload in payloads():
                conn.send_nowait(payload)
            after = resident_bytes()
            scope.cancel()
    return Run((after - before) / MESSAGES)


FIGURES: Final[dict[str, Figure]] = {
    "client": on_trio(_client),
    "server": on_trio(_server),
    "queued": on_trio(_queued),
}

"""What a chat costs: `python -m tests.benchmarks.chat`.

- 200 clients in one room, 20 messages a second: the CPU of the service and of all clients
  together, and the time from `say` to each of the others' events;
- a room of 100,000 messages: the time to join, and to page;
- a client in 50 rooms, with 1,000 messages of each: its memory.

The service and the clients are a process each, on a core each.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import trio

from trio_rt.chat import ChatRoom, Spoken, open_chat

from .hub.running import Server, running
from .pinning import CLIENT_CORE, pin
from .report import machine

CLIENTS: Final = 200
PER_S: Final = 20
LOAD_S: Final = 20.0
ROOMS: Final = 50
PAGES: Final = 200
CAP_S: Final = 120.0


def _percentile(times: list[float], share: float) -> str:
    times.sort()
    return f"{times[int(len(times) * share)] * 1e3:.1f} ms"


async def _enter(stack: AsyncExitStack, url: str, room: str, history: int = 0) -> ChatRoom:
    chat = await stack.enter_async_context(open_chat(url))
    return await stack.enter_async_context(chat.room(room, history=history))


async def talk(server: Server) -> None:
    """Many in one room."""
    took: list[float] = []

    async def listen(room: ChatRoom) -> None:
        with room.events() as events:
            while True:
                event = await events.receive()
                if isinstance(event, Spoken) and not event.message.mine:
                    took.append(time.perf_counter() - float(event.message.content))

    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{server.port}"
        rooms = [await _enter(stack, url, "r") for _ in range(CLIENTS)]
        for room in rooms:
            nursery.start_soon(listen, room)
        await trio.sleep(2)
        begin, own = server.cpu_s(), time.process_time()
        for _ in range(int(PER_S * LOAD_S)):
            await random.choice(rooms).say(f"{time.perf_counter()}")
            await trio.sleep(1 / PER_S)
        await trio.sleep(1)
        used, own = server.cpu_s() - begin, time.process_time() - own
        nursery.cancel_scope.cancel()
    expected = int(PER_S * LOAD_S) * (CLIENTS - 1)
    print(f"{CLIENTS} clients, {PER_S} messages a second: {len(took)} of {expected} events")
    print(f"  service {used / LOAD_S:.1%} of a core, all clients {own / LOAD_S:.1%}")
    print(f"  from say to another's event p50 {_percentile(took, 0.5)}", end="")
    print(f", p99 {_percentile(took, 0.99)}")


async def page(server: Server) -> None:
    """A long history."""
    url = f"ws://127.0.0.1:{server.port}"
    async with open_chat(url) as chat:
        await chat.conn.wait_connected()
        for history in (50, 1000):
            began = time.perf_counter()
            async with chat.room("r0", history=history) as room:
                took = time.perf_counter() - began
                assert len(room.messages) == history
            print(f"  to join, with {history} messages: {took * 1e3:.1f} ms")
        async with chat.room("r0") as room:
            times = []
            oldest = room.messages[0].offset
            for _ in range(PAGES):
                began = time.perf_counter()
                oldest = (await room.history(before=oldest, limit=50))[0].offset
                times.append(time.perf_counter() - began)
            began = time.perf_counter()
            first = await room.history(before=51, limit=50)
            assert [first[0].offset, first[-1].offset] == [1, 50]
            far = time.perf_counter() - began
    print(f"  a page of 50: p50 {_percentile(times, 0.5)}, p99 {_percentile(times, 0.99)}", end="")
    print(f"; the first 50 of all: {far * 1e3:.1f} ms")


def _resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def hold(server: Server) -> None:
    """Many rooms."""
    async with open_chat(f"ws://127.0.0.1:{server.port}") as chat, AsyncExitStack() as stack:
        await chat.conn.wait_connected()
        before, began = _resident(), time.perf_counter()
        rooms = [
            await stack.enter_async_context(chat.room(f"r{number}", history=1000))
            for number in range(ROOMS)
        ]
        took = time.perf_counter() - began
        kept = sum(len(room.messages) for room in rooms)
        grown = _resident() - before
    print(f"a client in {ROOMS} rooms with {kept} messages: {grown / 1e6:.1f} MB", end="")
    print(f" ({grown / kept:.0f} bytes a message), all there after {took:.1f} s")


def main() -> int:
    pin(CLIENT_CORE)
    scenes: tuple[tuple[str, str, Callable[[Server], Awaitable[None]]], ...] = (
        ("chat, 50 rooms", "", hold),  # first: later the heap has room
        ("chat", "", talk),
        ("chat, 100,000 messages", "a room of 100,000 messages", page),
    )
    for kind, title, scene in scenes:
        with running(kind) as server:
            if title:
                print(title)

            async def run(scene: Callable[[Server], Awaitable[None]] = scene) -> None:
                with trio.fail_after(CAP_S):
                    await scene(server)

            trio.run(run)
    print(f"\n{machine()}, {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a chat costs: `python -m tests.benchmarks.chat`.

- 200 clients in one room, 20 messages a second: the CPU of the service and of all clients
  together, and the time from `say` to the other's event between two of them that are a
  process of their own, as clients are;
- a room of 100,000 messages: the time to join, and to page;
- a client in 50 rooms, with 1,000 messages of each: its memory.

The service and the clients are a process each, on a core each; the two are on any.
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
from functools import partial
from pathlib import Path
from typing import Final

import trio

from trio_rt.chat import ChatRoom, RoomEvent, Spoken, open_chat

from .hub.running import Server, running
from .percentiles import spread
from .pinning import CLIENT_CORE, pin
from .report import machine

CLIENTS: Final = 200
PER_S: Final = 20
PAIR_PER_S: Final = 5  # of those: what the two say
LOAD_S: Final = 40.0
ROOMS: Final = 50
PAGES: Final = 200
CAP_S: Final = 120.0


async def _enter(stack: AsyncExitStack, url: str, room: str, history: int = 0) -> ChatRoom:
    chat = await stack.enter_async_context(open_chat(url))
    return await stack.enter_async_context(chat.room(room, history=history))


async def talk(server: Server) -> None:
    """Many in one room."""
    count = 0

    async def listen(room: ChatRoom) -> None:
        nonlocal count
        with room.events() as events:
            while True:
                event = await events.receive()
                count += isinstance(event, Spoken) and not event.message.mine

    said = int((PER_S - PAIR_PER_S) * LOAD_S)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{server.port}"
        rooms = [await _enter(stack, url, "r") for _ in range(CLIENTS - 2)]
        for room in rooms:
            nursery.start_soon(listen, room)
        await trio.sleep(2)
        begin, own = server.cpu_s(), time.process_time()
        command = [sys.executable, "-m", "tests.benchmarks.chat", "--pair", url]
        nursery.start_soon(partial(trio.run_process, command))
        for _ in range(said):
            await random.choice(rooms).say("-" * 20)
            await trio.sleep(LOAD_S / said)
        await trio.sleep(3)
        used, own = server.cpu_s() - begin, time.process_time() - own
        nursery.cancel_scope.cancel()
    expected = said * (CLIENTS - 3) + int(PAIR_PER_S * LOAD_S) * (CLIENTS - 2)
    print(
        f"{CLIENTS} clients, {PER_S} messages a second: {count} of {expected} events in all but two"
    )
    print(f"  service {used / LOAD_S:.1%} of a core, those clients {own / LOAD_S:.1%}")


async def pair(url: str) -> None:
    """Two of them."""
    took_ms: list[float] = []
    async with AsyncExitStack() as stack:
        ada, bob = [await _enter(stack, url, "r") for _ in range(2)]
        with bob.events() as events:
            for _ in range(int(PAIR_PER_S * LOAD_S)):
                began = time.perf_counter()
                said = await ada.say("-" * 20)
                while not _is(await events.receive(), said.id):
                    pass
                took_ms.append((time.perf_counter() - began) * 1e3)
                await trio.sleep(1 / PAIR_PER_S)
    print(f"  from say to the event of a client in another process: {spread(took_ms)}", flush=True)


def _is(event: RoomEvent, id: str) -> bool:
    return isinstance(event, Spoken) and event.message.id == id


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
            times_ms = []
            oldest = room.messages[0].offset
            for _ in range(PAGES):
                began = time.perf_counter()
                oldest = (await room.history(before=oldest, limit=50))[0].offset
                times_ms.append((time.perf_counter() - began) * 1e3)
            began = time.perf_counter()
            first = await room.history(before=51, limit=50)
            assert [first[0].offset, first[-1].offset] == [1, 50]
            far = time.perf_counter() - began
    print(f"  a page of 50: {spread(times_ms)}", end="")
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
    if sys.argv[1:2] == ["--pair"]:
        trio.run(pair, sys.argv[2])
        return 0
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

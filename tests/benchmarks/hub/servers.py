"""The servers under test: `python -m tests.benchmarks.hub.servers KIND`.

Each runs on a core of its own, prints its port, and answers each line on stdin with the
seconds of CPU that it has used and its resident bytes. Whatever a member says to the room `r` is
told to all members, the sayer included. None of them pings: the crowd answers no pings.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..pinning import SERVER_CORE, pin

__all__ = ["KINDS"]

TEXT: Final = 0x81


def _answer() -> None:
    for _ in sys.stdin:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        print(time.process_time(), pages * resource.getpagesize(), flush=True)


def _started(port: int) -> None:
    print(port, flush=True)
    threading.Thread(target=_answer, daemon=True).start()


def ours() -> None:
    """trio_rt's hub, memory broker."""
    import trio

    import trio_rt
    from trio_rt import hub

    limits = trio_rt.ServerLimits(connections=20_000)
    free = hub.HubLimits(rate_per_s=1e6)

    async def main() -> None:
        async with hub.open_hub(limits=free) as rooms, trio.open_nursery() as nursery:
            server = await nursery.start(_serve, rooms, limits)
            _started(server.port)
            await trio.sleep_forever()

    async def _serve(rooms: Any, limits: Any, *, task_status: Any) -> None:
        await trio_rt.serve(
            rooms, "127.0.0.1", 0, limits=limits, liveness=None, task_status=task_status
        )

    trio.run(main)


def chat(*, rooms: int = 0, messages: int = 0) -> None:
    """trio_rt's chat, memory broker; `messages` are in each of `rooms` rooms at the start."""
    import trio

    import trio_rt
    from trio_rt.chat import open_chat_service
    from trio_rt.hub import Draft, HubLimits, LogLimits, MemoryBroker
    from trio_rt.hub._words import event_body

    keep = LogLimits(messages=200_000, total_bytes=1 << 30)

    async def main() -> None:
        broker = MemoryBroker(keep)
        async with (
            open_chat_service(broker, anonymous=True, limits=HubLimits(rate_per_s=1e6)) as service,
            trio.open_nursery() as nursery,
        ):
            for number in range(rooms * messages):
                payload = {"content": "-" * 100, "name": "Ada"}
                body = event_body(f"{number}", "ada", "d", "text", payload, number)
                draft = Draft(f"r{number % rooms}", f"{number}", body)
                broker.append(draft, lambda result: None)
            server = await nursery.start(_serve, service)
            _started(server.port)
            await trio.sleep_forever()

    async def _serve(service: Any, *, task_status: Any) -> None:
        await trio_rt.serve(service, "127.0.0.1", 0, accept=service.accept, task_status=task_status)

    trio.run(main)


def bare() -> None:
    """Non-blocking sends of a frame made once, in a selector loop: what the kernel costs."""
    import selectors
    import socket

    from ..server import _handshake  # the same opening handshake as the fixed server's

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    members: list[socket.socket] = []
    _started(listener.getsockname()[1])
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                sock, _ = listener.accept()
                _handshake(sock)
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(sock, selectors.EVENT_READ)
                members.append(sock)
                continue
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(65536)
            if not data:
                selector.unregister(key.fileobj)
                continue
            for payload in _unmasked(data):
                frame = bytes((TEXT, len(payload))) + payload
                for member in members:
                    try:
                        member.send(frame)
                    except BlockingIOError:  # a crowd that is behind: rare, and it waits
                        member.setblocking(True)
                        member.sendall(frame)
                        member.setblocking(False)


def _unmasked(data: bytes) -> list[bytes]:
    """The payloads of short masked frames; the crowd's come whole."""
    found = []
    at = 0
    while at < len(data):
        size = data[at + 1] & 0x7F
        mask, start = data[at + 2 : at + 6], at + 6
        payload = data[start : start + size]
        found.append(bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))
        at = start + size
    return found


def websockets() -> None:
    """`websockets.broadcast` on uvloop."""
    import uvloop
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    members: set[ServerConnection] = set()

    async def handler(member: ServerConnection) -> None:
        members.add(member)
        try:
            async for message in member:
                broadcast(members, message)
        finally:
            members.discard(member)

    async def main() -> None:
        options: dict[str, Any] = {"compression": None, "backlog": 4096, "ping_interval": None}
        async with serve(handler, "127.0.0.1", 0, **options) as server:
            _started(next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().create_future()

    uvloop.run(main())


def socketio() -> None:
    """python-socketio's room emit, under uvicorn on uvloop."""
    import logging

    import socketio as package
    import uvicorn

    server = package.AsyncServer(async_mode="asgi", cors_allowed_origins="*", ping_interval=3600)

    async def connect(sid: str, environ: Any) -> None:
        await server.enter_room(sid, "r")

    async def say(sid: str, text: str) -> None:
        await server.emit("say", text, room="r")

    server.on("connect", connect)
    server.on("say", say)
    app = package.ASGIApp(server)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_level=logging.CRITICAL,
        loop="uvloop",
        backlog=4096,
        ws_ping_interval=None,
    )

    async def main() -> None:
        running = uvicorn.Server(config)
        task = asyncio.create_task(running.serve())
        while not running.started:
            await asyncio.sleep(0.01)
        _started(running.servers[0].sockets[0].getsockname()[1])
        await task

    import uvloop

    uvloop.run(main())


KINDS: Final[dict[str, Callable[[], None]]] = {
    "ours": ours,
    "chat": chat,
    "chat, 100,000 messages": partial(chat, rooms=1, messages=100_000),
    "chat, 50 rooms": partial(chat, rooms=50, messages=1000),
    "bare": bare,
    "websockets": websockets,
    "socketio": socketio,
}

if __name__ == "__main__":
    pin(SERVER_CORE)
    KINDS[sys.argv[1]]()

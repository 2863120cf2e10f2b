"""trio_rt's own server in its own process on the server's core: only it speaks sessions.

a message of the type `EVENT`    is counted
"ask"                            answered by "confirmed": how many were counted
"ping"                           answered by "pong" with the same payload
a request                        its reply has the same payload
a request for parts              as many of them as its payload says
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import trio

import trio_rt
from trio_rt import InboxLimits, Message, Peer, Request

from ..content import EVENT, PAYLOAD
from ..pinning import SERVER_CORE, pin
from ._trio import on_trio

__all__ = ["session_server"]


@contextmanager
def session_server(window: int | None = None) -> Iterator[str]:
    """The server in a new process, with a window of so many messages or the default one; its URL."""
    command = [sys.executable, "-m", __name__]
    if window is not None:
        command += ["--window", str(window)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def _answer(request: Request[Any]) -> Any:
    if not request.takes_parts:
        return request.payload
    for _ in range(request.payload):
        await request.send(PAYLOAD)
    return None


async def _take(peer: Peer) -> None:
    count = 0
    with peer.subscribe() as stream, suppress(trio.EndOfChannel):
        while True:
            for item in await stream.receive_many():
                assert isinstance(item, Message), f"lost messages: {item!r}"
                if item.type == EVENT:
                    count += 1
                elif item.type == "ask":
                    await peer.send("confirmed", count)
                else:
                    await peer.send("pong", item.payload)


async def _handle(peer: Peer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve_requests, _answer)
        await _take(peer)


async def _serve(inbox: InboxLimits) -> None:
    async with trio.open_nursery() as nursery:
        start = partial(trio_rt.serve, _handle, "127.0.0.1", 0, inbox=inbox)
        server: trio_rt.Server = await nursery.start(start)
        print(server.url, flush=True)


def main() -> None:
    """Serve until killed; the URL is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, help="the messages of the inbox")
    options = parser.parse_args()
    pin(SERVER_CORE)
    on_trio(_serve)(InboxLimits(messages=options.window) if options.window else InboxLimits())


if __name__ == "__main__":
    main()

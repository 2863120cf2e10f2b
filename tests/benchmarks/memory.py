"""`python -m tests.benchmarks.memory`: what an idle connected peer costs a server.

Each server is a fresh process, and its clients are another, which connect and then say
nothing more. A handler waits for messages: of trio_rt on one stream, of websockets in
`async for`. The figure is the growth of the server's resident set over so many peers, after
50 that pay what is paid once. The kernel's buffers are not in it. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from typing import IO, Final

import trio
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

import trio_rt
from trio_rt.protocol.codec import JsonCodec
from trio_rt.protocol.frames import JSON_SYNTAX, PLAIN
from trio_rt.protocol.session import Session
from trio_rt.wires._framing import TEXT, encode_frame

from .clients._memory import WARM_UP, resident_bytes

#: What is measured, by the name of the server: the label, and whether its clients want a session.
SERVERS: Final = {
    "plain": ("trio_rt, plain", False),
    "session": ("trio_rt, with a session", True),
    "websockets": ("websockets, asyncio", False),
}

#: How long a server may take for anything that it is asked.
PATIENCE_S: Final = 60

#: Until what came with the last connections is done.
SETTLE_S: Final = 0.5

_REQUEST: Final = (
    "GET /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
_WORDS: Final = b'{"type":"chat","payload":"hello"}'


# The servers: each prints its port, and then at each line that it is sent its resident set


async def _serve_ours() -> None:
    async def handler(peer: trio_rt.Peer) -> None:
        with peer.subscribe("chat", "typing") as stream:
            async for _ in stream:
                pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_rt.serve, handler, "127.0.0.1", 0))
        print(server.port, flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            await trio.sleep(SETTLE_S)
            print(resident_bytes(), flush=True)
        nursery.cancel_scope.cancel()


async def _serve_websockets() -> None:
    async def handler(ws: ServerConnection) -> None:
        async for _ in ws:
            pass

    async with serve_websockets(handler, "127.0.0.1", 0, compression=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            await asyncio.sleep(SETTLE_S)
            print(resident_bytes(), flush=True)


# The clients: at each line, a number, so many more are connected


def _connected(port: int, hello: bytes, *, speak: bool) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    offer = f"Sec-WebSocket-Protocol: {PLAIN}, {JSON_SYNTAX.subprotocol}\r\n" if hello else ""
    sock.sendall(f"{_REQUEST}{offer}\r\n".encode())
    assert b" 101 " in sock.recv(4096)
    if hello:
        sock.sendall(encode_frame(TEXT, hello, masked=True))
        assert b"welcome" in sock.recv(4096)
    if speak:
        words = b"[1,0,0,0,0,0,[]]\n" + _WORDS if hello else _WORDS
        sock.sendall(encode_frame(TEXT, words, masked=True))
    return sock


def _connect(port: int, *, session: bool, speak: bool) -> None:
    hello = b""
    if session:
        limits = trio_rt.OutboxLimits(), trio_rt.InboxLimits()
        hello = Session(JsonCodec().decode, *limits, JSON_SYNTAX).hello().data
    kept = []
    for line in sys.stdin:
        kept += [_connected(port, hello, speak=speak) for _ in range(int(line))]
        print("done", flush=True)


# The measurement


@contextmanager
def _process(*arguments: str) -> Iterator[Callable[[str], str]]:
    """This module in a process of its own: a function to send it a line and read one."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        said: IO[str] | None = process.stdin
        heard: IO[str] | None = process.stdout
        assert said is not None
        assert heard is not None

        def ask(line: str) -> str:
            if line:
                said.write(f"{line}\n")
                said.flush()
            answer = heard.readline()
            if not answer:
                raise RuntimeError(f"{' '.join(arguments)}: it ended")
            return answer.strip()

        try:
            yield ask
        finally:
            process.kill()


def measure(server: str, peers: int, *, speak: bool = False) -> float:
    """Bytes per peer."""
    with _process("--server", server) as ask_server:
        port = ask_server("")
        clients = ["--clients", server, "--port", port, *(["--spoken"] if speak else [])]
        with _process(*clients) as ask_clients:
            ask_clients(f"{WARM_UP}")
            before = int(ask_server("measure"))
            ask_clients(f"{peers}")
            return (int(ask_server("measure")) - before) / peers


def _table(peers: int, *, speak: bool) -> str:
    found = {server: measure(server, peers, speak=speak) for server in SERVERS}
    theirs = found["websockets"]
    lines = [
        f"{SERVERS[server][0]:<28}{size:>10,.0f} bytes a peer{size / theirs:>8.2f} x"
        for server, size in found.items()
    ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("trio-rt", "trio"))
    python = sys.version.partition(" ")[0]
    state = "having said one message" if speak else "having said nothing"
    return "\n".join(
        [
            *lines,
            f"{peers} peers, {state}; nothing compressed",
            f"Python {python}, {versions}, websockets {metadata.version('websockets')}",
        ]
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory",
        description="What an idle connected peer costs a server, beside websockets' on asyncio.",
    )
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument(
        "--spoken", action="store_true", help="each client has sent a message before it is idle"
    )
    parser.add_argument("--server", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--clients", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run what was asked for: all, or one of the processes of it."""
    options = _options()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.clients is not None:
        _connect(options.port, session=SERVERS[options.clients][1], speak=options.spoken)
    elif options.server == "websockets":
        asyncio.run(_serve_websockets())
    elif options.server is not None:
        trio.run(_serve_ours)
    else:
        print(_table(options.peers, speak=options.spoken))


if __name__ == "__main__":
    main()

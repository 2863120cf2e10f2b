"""No library at all: what the fixed server can do, to show that it is not the limit.

A blocking socket that writes frames made beforehand, and reads without looking.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from ..content import RAW, chunks
from ..frames import BINARY, CLOSE, TEXT, FrameReader, frame
from . import Job, Stopwatch, Target, check

_READ_BYTES: Final = 128 << 10


def connect(target: Target, path: str, **query: object) -> socket.socket:
    """A socket past the opening handshake; the server is silent until spoken to."""
    url = urlsplit(target.url(path, **query))
    sock = socket.create_connection(("127.0.0.1", url.port or 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = target.context()
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
    sock.sendall(
        f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    return sock


def _message(sock: socket.socket, reader: FrameReader) -> bytes:
    while True:
        for _, payload in reader.feed(sock.recv(_READ_BYTES)):
            return payload


def _close(sock: socket.socket) -> None:
    sock.sendall(frame((1000).to_bytes(2), CLOSE, masked=True))
    while sock.recv(_READ_BYTES):
        pass
    sock.close()


def send(kind: str, target: Target, messages: int) -> Stopwatch:
    """Write frames made beforehand."""
    sock = connect(target, "sink", n=messages)
    ready = list(chunks(kind, messages, masked=True))
    watch = Stopwatch()
    for chunk in ready:
        sock.sendall(chunk)
    answer = _message(sock, FrameReader())
    watch.stop()
    check(answer, messages, len(RAW) if kind == "raw" else None)
    _close(sock)
    return watch


def receive(kind: str, target: Target, messages: int) -> Stopwatch:
    """Count the bytes that come; how many there will be is known."""
    sock = connect(target, "flood", n=messages, kind=kind)
    missing = sum(map(len, chunks(kind, messages, masked=False)))
    buffer = bytearray(_READ_BYTES)
    watch = Stopwatch()
    sock.sendall(frame(b"go", TEXT, masked=True))
    while missing:
        missing -= sock.recv_into(buffer)
    watch.stop()
    _close(sock)
    return watch


def echo(target: Target, messages: int) -> Stopwatch:
    """One message there and back at a time."""
    sock = connect(target, "echo")
    reader, data = FrameReader(), frame(os.urandom(len(RAW)), BINARY, masked=True)
    watch = Stopwatch()
    for _ in range(messages):
        sock.sendall(data)
        _message(sock, reader)
    watch.stop()
    _close(sock)
    return watch


JOBS: Final[dict[str, Job]] = {
    "send raw": partial(send, "raw"),
    "send text": partial(send, "envelope"),
    "receive raw": partial(receive, "raw"),
    "receive text": partial(receive, "envelope"),
    "echo": echo,
}

"""The one server that every client talks to, in its own process on its own core.

A thread per connection and blocking sockets: only one connection is busy at a
time, and nothing answers sooner than a thread that waits in `recv`. What is
asked for stands in the URL:

    /sink?n=N            answer "N <payload bytes>" when N messages have come
    /sink?answer=F       the same when asked, by a message of `ASK_BYTES` or more
    /flood?n=N&kind=K    at the first message write N messages of kind K
    /echo                send each message back
    /slow?rate=R         read R bytes a second; see `slow`
    /socket.io/?job=J    the same for a socket.io client; J is sink, flood or echo

Nothing is compressed and no subprotocol is picked.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import contextlib
import hashlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from .content import chunks
from .frames import CLOSE, TEXT, FrameCounter, FrameReader, frame
from .pinning import pin

Query: TypeAlias = dict[str, str]

_READ_BYTES: Final = 128 << 10
#: The receive buffer of the slow listener, as in a small router.
_SLOW_BUFFER_BYTES: Final = 32 << 10
#: Between two reads of the slow mode.
_SLOW_STEP_S: Final = 0.01
#: The forms of the sink's answer.
_ANSWERS: Final = {
    "plain": "%s",
    "envelope": '{"type":"confirmed","payload":"%s"}',
    "event": '42["confirmed","%s"]',
}
#: How long an echo waits awake for the next message.
_SPIN_S: Final = 0.02
_KEY_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


def _handshake(sock: socket.socket) -> tuple[str, Query, bytes]:
    """Answer the opening handshake: path, query, and what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(_READ_BYTES)
        if not more:
            raise ConnectionError("gone before the handshake")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    request, *lines = head.split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in _pairs(lines)}
    digest = hashlib.sha1(fields[b"sec-websocket-key"] + _KEY_SUFFIX).digest()
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )
    url = urlsplit(request.split()[1].decode())
    return url.path, dict(parse_qsl(url.query)), rest


def _pairs(lines: list[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    return (line.partition(b":") for line in lines)


def _text(sock: socket.socket, text: str) -> None:
    sock.sendall(frame(text.encode(), TEXT))


def _count(sock: socket.socket, counter: FrameCounter, wanted: float, first: bytes = b"") -> None:
    """Read until `wanted` messages have come, or one that asks how many."""
    counter.feed(first)
    while counter.messages < wanted and not counter.asked:
        data = sock.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("gone before its last message")
        counter.feed(data)


def _goodbye(sock: socket.socket, counter: FrameCounter) -> None:
    """Wait for the client to close; answer that."""
    while not counter.closed:
        data = sock.recv(_READ_BYTES)
        if not data:
            return
        counter.feed(data)
    sock.sendall(frame((1000).to_bytes(2), CLOSE))


def _discard(sock: socket.socket) -> None:
    while sock.recv(_READ_BYTES):
        pass


def sink(sock: socket.socket, query: Query, first: bytes) -> None:
    """Count messages and tell when all have come."""
    counter = FrameCounter()
    _count(sock, counter, float(query.get("n", "inf")), first)
    found = f"{counter.messages} {counter.payload_bytes}"
    _text(sock, _ANSWERS[query.get("answer", "plain")] % found)
    _goodbye(sock, counter)


def flood(sock: socket.socket, query: Query, first: bytes) -> None:
    """Write as fast as the socket takes it; the client closes when it has all."""
    ready = list(chunks(query["kind"], int(query["n"]), masked=False))
    counter = FrameCounter()
    _count(sock, counter, 1, first)
    for chunk in ready:
        sock.sendall(chunk)
    _goodbye(sock, counter)


def _spin(sock: socket.socket) -> bytes:
    """Receive without going to sleep for the first `_SPIN_S`.

    A sleeping core takes tens of microseconds to wake, as long as the slowest
    library takes for its part of a round trip.
    """
    until = time.monotonic() + _SPIN_S
    sock.settimeout(0)
    try:
        while time.monotonic() < until:
            try:
                return sock.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
    finally:
        sock.settimeout(None)
    return sock.recv(_READ_BYTES)


def echo(sock: socket.socket, query: Query, first: bytes) -> None:
    """Send each message back, until the client closes."""
    reader, data = FrameReader(), first
    while True:
        for opcode, payload in reader.feed(data):
            if opcode == CLOSE:
                sock.sendall(frame(payload, CLOSE))
                return
            if not opcode & 8:
                sock.sendall(frame(payload, opcode))
        data = _spin(sock)
        if not data:
            return


def slow(sock: socket.socket, query: Query, first: bytes) -> None:
    """Read at a fixed rate until the first message with an "@<time>" in it.

    The time is when that message was sent, on the monotonic clock that the
    processes of one machine share. The answer: how many bytes were read
    between then and the message's last byte.
    """
    pause = int(float(query["rate"]) * _SLOW_STEP_S)
    reader, total = FrameReader(), len(first)
    times, totals = [time.monotonic()], [total]
    data, due = first, time.monotonic()
    while True:
        for opcode, payload in reader.feed(data):
            if not opcode & 8 and b'"@' in payload:
                sent = float(payload.split(b'"@')[1].split(b'"')[0])
                before = totals[bisect.bisect(times, sent) - 1]
                _text(sock, json.dumps({"type": "arrived", "payload": total - before}))
                _discard(sock)
                return
        due += _SLOW_STEP_S
        time.sleep(max(0.0, due - time.monotonic()))
        data = sock.recv(pause)
        if not data:
            return
        total += len(data)
        times.append(time.monotonic())
        totals.append(total)


def socket_io(sock: socket.socket, query: Query, first: bytes) -> None:
    """Enough of Engine.IO 4 and Socket.IO 5 for one client that never polls."""
    opening = {
        "sid": "a",
        "upgrades": [],
        "pingInterval": 25000,
        "pingTimeout": 20000,
        "maxPayload": 1 << 20,
    }
    _text(sock, "0" + json.dumps(opening))
    _count(sock, FrameCounter(), 1, first)
    _text(sock, '40{"sid":"b"}')
    if query["job"] == "sink":
        sink(sock, query | {"answer": "event"}, b"")
    else:
        {"flood": flood, "echo": echo}[query["job"]](sock, query, b"")


MODES: Final[dict[str, Callable[[socket.socket, Query, bytes], None]]] = {
    "/sink": sink,
    "/flood": flood,
    "/echo": echo,
    "/slow": slow,
    "/socket.io/": socket_io,
}


def _websocket(sock: socket.socket) -> None:
    path, query, first = _handshake(sock)
    MODES[path](sock, query, first)


def _tcp_echo(sock: socket.socket) -> None:
    while data := _spin(sock):
        sock.sendall(data)


def _serve_one(
    sock: socket.socket, tls: ssl.SSLContext | None, handle: Callable[[socket.socket], None]
) -> None:
    with contextlib.suppress(OSError, KeyError), sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            handle(sock)
        else:
            with tls.wrap_socket(sock, server_side=True) as wrapped:
                handle(wrapped)


def _listen(
    handle: Callable[[socket.socket], None],
    *,
    tls: ssl.SSLContext | None = None,
    buffer_bytes: int | None = None,
) -> int:
    """Serve on a free port, in threads; the port."""
    listener = socket.socket()
    if buffer_bytes is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)

    def run() -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=_serve_one, args=(sock, tls, handle), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    return int(listener.getsockname()[1])


def main() -> None:
    """Serve until the standard input ends; the ports are printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    options = parser.parse_args()
    pin(options.core)
    threading.stack_size(256 << 10)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.certificate)
    ports = {
        "ws": _listen(_websocket),
        "wss": _listen(_websocket, tls=tls),
        "slow": _listen(_websocket, buffer_bytes=_SLOW_BUFFER_BYTES),
        "tcp": _listen(_tcp_echo),
        "tcps": _listen(_tcp_echo, tls=tls),
    }
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

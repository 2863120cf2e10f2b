"""Many members on blocking-free sockets in one process: they cost little, and read all they can."""

from __future__ import annotations

import base64
import math
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from ..frames import TEXT, frame

__all__ = ["DIALECTS", "Crowd", "Dialect"]

READ_BYTES: Final = 1 << 18
#: A crowd that hears nothing for so long has lost something.
PATIENCE_S: Final = 40.0


@attrs.frozen
class Dialect:
    """How a server is joined and spoken to; `mark` is in each message that it tells the room."""

    path: str
    join: str
    joined: bytes
    say: str
    mark: bytes


DIALECTS: Final = {
    "ours": Dialect(
        "/",
        '{"type":"hub.join","id":"1","payload":{"room":"%s"}}',
        b'"done"',
        '{"type":"hub.publish","payload":{"room":"%s","payload":"%s"}}',
        b'"x:',
    ),
    "bare": Dialect("/", "", b"", "%.0s%s", b"x:"),
    "websockets": Dialect("/", "", b"", "%.0s%s", b"x:"),
    "socketio": Dialect(
        "/socket.io/?EIO=4&transport=websocket", "40", b"40{", '42["say","%.0s%s"]', b"x:"
    ),
}


class Member:
    """One socket of the crowd."""

    __slots__ = ("heard", "joined", "rooms", "sock", "state", "tail")

    def __init__(self, sock: socket.socket, rooms: Sequence[str]) -> None:
        self.sock = sock
        self.rooms: Final = rooms
        self.state = 0  # 0 connecting, 1 asked, 2 open, 3 joined
        self.heard = 0
        self.joined = 0.0
        self.tail = b""


class Crowd:
    """`count` members, the n-th of the rooms `rooms(n)`."""

    def __init__(
        self,
        port: int,
        dialect: Dialect,
        count: int,
        rooms: Callable[[int], Sequence[str]] = lambda number: ("r",),
    ) -> None:
        self._dialect: Final = dialect
        self._port: Final = port
        self._selector: Final = selectors.DefaultSelector()
        self.members: list[Member] = []
        self.heard = 0
        self.began = time.monotonic()
        for number in range(count):
            self._open(rooms(number))

    def _open(self, rooms: Sequence[str]) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex(("127.0.0.1", self._port))
        member = Member(sock, rooms)
        self.members.append(member)
        self._selector.register(sock, selectors.EVENT_WRITE, member)

    def join(self) -> None:
        """Wait until all are members; when each was is in its `joined`."""
        waiting = {id(member): member for member in self.members}
        until = time.monotonic() + PATIENCE_S * 3
        while waiting:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(waiting)} members never joined")
            for key, _ in self._selector.select(1):
                member = key.data
                self._advance(member)
                if member.state == 3 and waiting.pop(id(member), None):
                    member.joined = time.monotonic()

    def _advance(self, member: Member) -> None:
        dialect, sock = self._dialect, member.sock
        if member.state == 0:
            sock.send(_request(dialect, self._port))
            member.state = 1
            self._selector.modify(sock, selectors.EVENT_READ, member)
            return
        data = sock.recv(READ_BYTES)
        if not data:
            raise ConnectionError("a member was sent away")
        member.tail += data
        if member.state == 1 and b"\r\n\r\n" in member.tail:
            if not member.tail.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(member.tail[:200].decode())
            member.tail = member.tail.partition(b"\r\n\r\n")[2]
            member.state = 2
            if dialect.join:
                texts = [
                    dialect.join % room if "%s" in dialect.join else dialect.join
                    for room in member.rooms
                ]
                sock.send(b"".join(map(_masked, texts)))
        if member.state == 2 and member.tail.count(dialect.joined) >= len(member.rooms):
            member.state = 3
            member.tail = b""

    def say(self, text: str, times: int = 1, *, member: int = 0, room: str = "r") -> None:
        """A member says something, some times."""
        self.members[member].sock.send(_masked(self._dialect.say % (room, text)) * times)

    def hear(self, total: int) -> None:
        """Read until all have heard `total` messages in sum."""
        mark = self._dialect.mark
        until = time.monotonic() + PATIENCE_S
        while self.heard < total:
            for key, _ in self._selector.select(0.5):
                data = key.fileobj.recv(READ_BYTES)  # type: ignore[union-attr]
                member = key.data
                data = member.tail + data
                found = data.count(mark)
                member.tail = data[1 - len(mark) :]  # a mark may be cut in two
                member.heard += found
                self.heard += found
            if time.monotonic() > until:
                raise TimeoutError(f"heard {self.heard} of {total}")

    def times(self, until: float, count: float = math.inf) -> list[float]:
        """Read until then, or until `count` messages; how long each of the form "x:<time>;" took."""
        took: list[float] = []
        while (left := until - time.monotonic()) > 0 and len(took) < count:
            for key, _ in self._selector.select(left):
                data = key.fileobj.recv(READ_BYTES)  # type: ignore[union-attr]
                now = time.monotonic()
                member = key.data
                pieces = (member.tail + data).split(b'"x:')
                # The last one may be cut off, or its beginning.
                is_cut = len(pieces) > 1 and b";" not in pieces[-1]
                member.tail = b'"x:' + pieces[-1] if is_cut else pieces[-1][-2:]
                took += [now - float(p[: p.index(b";")]) for p in pieces[1:] if b";" in p]
        return took

    def neglect(self, number: int) -> None:
        """Read nothing more of one member."""
        self._selector.unregister(self.members[number].sock)

    def attend(self, number: int) -> None:
        """Read it again."""
        member = self.members[number]
        self._selector.register(member.sock, selectors.EVENT_READ, member)

    def settle(self) -> None:
        """Read what is still coming, until it is quiet, and forget it."""
        while events := self._selector.select(0.3):
            for key, _ in events:
                key.fileobj.recv(READ_BYTES)  # type: ignore[union-attr]
        self.heard = 0
        for member in self.members:
            member.heard, member.tail = 0, b""

    def close(self) -> None:
        for member in self.members:
            member.sock.close()
        self._selector.close()


def _request(dialect: Dialect, port: int) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {dialect.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def _masked(text: str) -> bytes:
    return frame(text.encode(), TEXT, masked=True)

"""No client, whatever it sends, harms the server or another client. On real sockets.

Each hostile input is sent to a running echo server, to which an innocent
client is connected already. Afterwards that one and a new one, of another
implementation, must both be echoed, and nothing may have been logged as an
error.
"""

from __future__ import annotations

import logging
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect as foreign_connect

from trio_rt import InboxLimits, Message, RawPeer, Server, serve

#: The server's largest message.
LARGEST = 100_000

#: A text that makes the handler close its peer.
CLOSE_ME = b"close me"

REQUEST = (
    b"GET / HTTP/1.1\r\n"
    b"Host: a.example\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"\r\n"
)


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def deflated(data: bytes) -> bytes:
    """A frame that says it is compressed."""
    plain = frame(Opcode.BINARY, data)
    return bytes([plain[0] | 0x40]) + plain[1:]


def close_frame(code: int) -> bytes:
    # not by `websockets`, which would refuse to make a bad one
    return b"\x88\x82" + bytes(4) + struct.pack("!H", code)


def with_header(line: bytes) -> bytes:
    name = line.partition(b":")[0] + b":"
    lines = [kept for kept in REQUEST.split(b"\r\n") if not kept.startswith(name)]
    return b"\r\n".join([lines[0], line, *lines[1:]])


# -- The server, the innocent and the attacker


async def echo(peer: RawPeer) -> None:
    with peer.subscribe() as stream:
        async for message in stream:
            if not isinstance(message, Message):
                continue
            if message.payload == CLOSE_ME.decode():
                peer.close(1000)
            else:
                await peer.send(message.payload)


@attrs.frozen
class Client:
    """A raw socket to the server."""

    stream: trio.SocketStream

    async def send(self, data: bytes) -> None:
        """Send it, or as much as a server that cuts the link takes."""
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    async def read(self, marker: bytes) -> bytes:
        """What comes, up to the marker or the end."""
        data = b""
        while marker not in data and (chunk := await self._receive()):
            data += chunk
        return data

    async def read_all(self) -> bytes:
        """What comes, to the end."""
        data = b""
        while chunk := await self._receive():
            data += chunk
        return data

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            return b""

    async def shake(self, request: bytes = REQUEST) -> None:
        await self.send(request)
        assert (await self.read(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")

    async def is_echoed(self) -> bool:
        await self.send(frame(Opcode.TEXT, b"innocent"))
        return b"innocent" in await self.read(b"innocent")

    async def end(self) -> None:
        try:
            await self.stream.send_eof()
        except trio.BrokenResourceError:
            pass

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stream.socket.close()


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        yield Client(stream)


def foreign_echo(port: int) -> str | bytes:
    """What a client of another implementation gets back."""
    with foreign_connect(f"ws://127.0.0.1:{port}", open_timeout=10) as client:
        client.send("hello")
        return client.recv(timeout=10)


@asynccontextmanager
async def unharmed(**options: Any) -> AsyncIterator[Server]:
    """A server that must be as good after the block as before."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(
                lambda **task: serve(
                    echo,
                    "127.0.0.1",
                    0,
                    codec="raw",
                    compression=True,
                    inbox=InboxLimits(message_bytes=LARGEST),
                    close_timeout_s=0.5,
                    **options,
                    **task,
                )
            )
            async with connected(server) as innocent:
                await innocent.shake()
                yield server
                assert await innocent.is_echoed()
                assert await trio.to_thread.run_sync(foreign_echo, server.port) == "hello"
            nursery.cancel_scope.cancel()


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of each of a server's frames; what is cut off is left out."""
    found = []
    while len(data) >= 2:
        opcode, length, start = data[0] & 15, data[1], 2
        if length == 126:
            length, start = struct.unpack("!H", data[2:4])[0], 4
        elif length == 127:
            length, start = struct.unpack("!Q", data[2:10])[0], 10
        found.append((opcode, data[start : start + length]))
        data = data[start + length :]
    return found


def close_codes(data: bytes) -> list[int]:
    """The codes of the close frames among these."""
    return [
        struct.unpack("!H", payload[:2])[0]
        for opcode, payload in frames(data)
        if opcode == Opcode.CLOSE and payload
    ]


# -- Instead of a handshake


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (with_header(b"Connection: Upgrade, \xff"), 400),
        (with_header(b"Sec-WebSocket-Protocol: \xff"), 400),
        (with_header(b"Sec-WebSocket-Extensions: \xff"), 400),
        (with_header(b"Host: \xff"), 400),
        (with_header(b"Host: xn--\xff"), 400),
        (with_header(b"Host: a..b"), 101),
        (with_header(b"Host: " + b"x" * 70 + b".example"), 101),
        (with_header(b"Sec-WebSocket-Key: bad"), 400),
        (REQUEST.replace(b"GET", b"POST"), 405),
        (REQUEST.replace(b"GET", b"POST") + bytes(300_000), 405),
        (b"\xde\xad\xbe\xef" * 1000 + b"\r\n\r\n", 400),
        (b"garbage without an end " * 1000, 431),
        (with_header(b"X: " + b" " * 16_000 + b"\0"), 400),
    ],
    ids=lambda value: None if isinstance(value, int) else repr(bytes(value[:30] + value[-20:])),
)
async def test_hostile_request(
    request_: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A hostile request gets its answer, and the server lives."""
    async with unharmed() as server, connected(server) as attacker:
        await attacker.send(request_)
        answer = await attacker.read(b"\r\n\r\n")
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert_no_errors(caplog)


@pytest.mark.parametrize("data", [b"", b"GET", with_header(b"Host: \xff"), REQUEST])
async def test_reset_instead_of_a_handshake(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A reset before, in and right behind the handshake: the server lives."""
    async with unharmed() as server, connected(server) as attacker:
        await attacker.send(data)
        attacker.reset()
    assert_no_errors(caplog)


# -- On an open link

#: Returns what it has read.
Attack: TypeAlias = Callable[[Client], Awaitable[bytes]]


def sends(*pieces: bytes) -> Attack:
    """An attack of nothing but bytes, each piece a write of its own."""

    async def attack(client: Client) -> bytes:
        for piece in pieces:
            await client.send(piece)
        return b""

    return attack


def while_closing(data: bytes) -> Attack:
    """Make the server close, and send this where the answer to its close should be."""

    async def attack(client: Client) -> bytes:
        await client.send(frame(Opcode.TEXT, CLOSE_ME))
        # the first byte of the server's close frame
        read = await client.read(b"\x88")
        await client.send(data)
        await client.send(close_frame(1000))
        return read

    return attack


def deflated_bomb() -> bytes:
    squeeze = zlib.compressobj(9, wbits=-15)
    data = squeeze.compress(bytes(64 << 20)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    assert len(data) < LARGEST
    return deflated(data[:-4])


OVERSIZE = frame(Opcode.BINARY, bytes(LARGEST + 1))
PING = frame(Opcode.PING, b"ping")
TEXT = frame(Opcode.TEXT, b"text")
PART = frame(Opcode.BINARY, bytes(LARGEST - 1), fin=False)
REST = frame(Opcode.CONT, bytes(2), fin=False)

#: The attack, and the one close code that it must be answered with.
ATTACKS: dict[str, tuple[Attack, int]] = {
    "fragments over the limit and a ping in one write": (sends(PART + REST + PING), 1009),
    "message over the limit": (sends(OVERSIZE), 1009),
    "header of 2^63-1 bytes": (sends(b"\x82\xff" + struct.pack("!Q", 2**63 - 1) + bytes(4)), 1009),
    "header of 2^64-1 bytes": (sends(b"\x82\xff" + b"\xff" * 8 + bytes(4)), 1009),
    "ping while the server is closing": (while_closing(PING), 1000),
    "long message while the server is closing": (while_closing(OVERSIZE), 1000),
    "broken frame while the server is closing": (while_closing(b"\xff\xff\xff"), 1000),
    "a second request behind the first": (sends(REQUEST), 1002),
    "close 1006": (sends(close_frame(1006)), 1002),
    "close 0": (sends(close_frame(0)), 1002),
    "close of one byte": (sends(b"\x88\x81\0\0\0\0\0"), 1002),
    "close with a reason that is no text": (sends(b"\x88\x83\0\0\0\0\x03\xe8\xff"), 1007),
    "close, ping and text": (sends(close_frame(1000) + PING + TEXT), 1000),
    "close twice": (sends(close_frame(1000) + close_frame(1000)), 1000),
    "long ping": (sends(b"\x89\xfe\0\x7e" + bytes(4) + bytes(126)), 1002),
    "ping in fragments": (sends(b"\x09\x80" + bytes(4)), 1002),
    "frame without a mask": (sends(b"\x81\x01a"), 1002),
    "reserved bits": (sends(b"\xb1\x80" + bytes(4)), 1002),
    "unknown opcode": (sends(b"\x83\x80" + bytes(4)), 1002),
    "continuation of nothing": (sends(frame(Opcode.CONT, b"a")), 1002),
    "message inside a message": (sends(frame(Opcode.TEXT, b"a", fin=False) + TEXT), 1002),
    "text that is no text": (sends(frame(Opcode.TEXT, b"\xff\xfe")), 1007),
    "text that breaks off in a character": (sends(frame(Opcode.TEXT, b"\xc3")), 1007),
    "200,000 empty fragments": (
        sends(frame(Opcode.TEXT, fin=False) + frame(Opcode.CONT, fin=False) * 200_000),
        1009,
    ),
    "deflated bomb": (sends(deflated_bomb()), 1009),
    "deflated nonsense": (sends(deflated(b"\xff" * 50)), 1002),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_attack(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The attacker's link is closed with the right code, and nobody else's."""
    attack, code = ATTACKS[name]
    async with unharmed() as server, connected(server) as attacker:
        await attacker.shake(with_header(b"Sec-WebSocket-Extensions: permessage-deflate"))
        read = await attack(attacker)
        assert close_codes(read + await attacker.read_all()) == [code]
    assert_no_errors(caplog)


@pytest.mark.parametrize(
    "data",
    [PING[:3], TEXT[:-1], PART[:5000], PART + PING],
    ids=["ping", "text", "part", "part and ping"],
)
async def test_reset_on_an_open_link(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A reset in a frame's middle or between frames: the server lives."""
    async with unharmed() as server, connected(server) as attacker:
        await attacker.shake()
        await attacker.send(data)
        attacker.reset()
    assert_no_errors(caplog)


@pytest.mark.parametrize("data", [TEXT * 100, TEXT * 100 + close_frame(1000)])
async def test_peer_that_leaves_while_it_is_echoed(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that just sends to a peer that has left is no failure worth an error."""
    async with unharmed() as server:
        for _ in range(10):
            async with connected(server) as attacker:
                await attacker.shake()
                await attacker.send(data)
                attacker.reset()
    assert_no_errors(caplog)


async def test_pings_from_a_client_that_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    """Pongs that nobody reads do not pile up: all the pings are still taken in."""
    async with unharmed() as server, connected(server) as attacker:
        await attacker.shake()
        pings = frame(Opcode.PING, bytes(125)) * 1000
        for _ in range(100):
            await attacker.send(pings)
        await attacker.send(frame(Opcode.TEXT, b"innocent"))
        answers = await attacker.read(b"innocent")
        assert answers.endswith(b"innocent")
        # a pong for each of 100,000 pings would take 12.7 MB
        assert len(answers) < 6_000_000
    assert_no_errors(caplog)


async def test_clients_that_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred connections that never begin keep nobody out."""
    async with unharmed() as server, trio.open_nursery() as nursery:
        ready = trio.Event()
        silent: list[Client] = []

        async def be_silent() -> None:
            async with connected(server) as client:
                silent.append(client)
                if len(silent) == 100:
                    ready.set()
                await trio.sleep_forever()

        for _ in range(100):
            nursery.start_soon(be_silent)
        await ready.wait()
        assert await trio.to_thread.run_sync(foreign_echo, server.port) == "hello"
        nursery.cancel_scope.cancel()
    assert_no_errors(caplog)


PIECES = {
    "ping": PING,
    "text": TEXT,
    "part": PART,
    "rest": REST,
    "close": close_frame(1000),
    "half": TEXT[:3],
    "request": REQUEST,
}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(sorted(PIECES)) | st.binary(min_size=1, max_size=50), min_size=1))
def test_any_bytes_on_an_open_link(pieces: list[str | bytes]) -> None:
    """Any bytes behind the handshake leave the server and its other client unharmed."""

    async def main() -> None:
        async with unharmed() as server, connected(server) as attacker:
            await attacker.shake()
            for piece in pieces:
                await attacker.send(PIECES[piece] if isinstance(piece, str) else piece)
            await attacker.end()
            await attacker.read_all()

    trio.run(main)


def assert_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in errors] == []

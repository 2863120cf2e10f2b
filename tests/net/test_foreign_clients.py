"""A server of ours and clients of others, plain and over TLS, on real sockets."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest
import trio
import trustme
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

import trio_rt
from tests.strangers import Stranger, complaints
from trio_rt import Message, RawPeer, Server, ServerLimits, serve


async def handler(peer: RawPeer) -> None:
    """Echo; "close" closes, "fail" fails, and "return" returns."""
    with peer.subscribe() as stream:
        async for item in stream:
            assert isinstance(item, Message)
            match item.payload:
                case "close":
                    peer.close(4001, "as told")
                case "fail":
                    raise ValueError("as told")
                case "return":
                    return
                case payload:
                    await peer.send(payload)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Server]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            start = partial(serve, handler, "127.0.0.1", 0, codec="raw", **options)
            server: Server = await nursery.start(start)
            yield server
            while server.connections:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


#: What was echoed, and the close code.
Talk = tuple[list[Any], int | None]


async def by_websockets(url: str, said: list[Any], **options: Any) -> Talk:
    heard: list[Any] = []
    async with websockets.asyncio.client.connect(url, proxy=None, **options) as client:
        try:
            for words in said:
                await client.send(words)
                heard.append(await client.recv())
        except ConnectionClosed:
            pass
        else:
            await client.close(4002)
    return heard, client.close_code


async def by_aiohttp(url: str, said: list[Any], **options: Any) -> Talk:
    heard: list[Any] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(url, **options) as client:
        for words in said:
            if isinstance(words, str):
                await client.send_str(words)
            else:
                await client.send_bytes(words)
            message = await client.receive()
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                break
            heard.append(message.data)
        else:
            await client.close(code=4002)
        return heard, client.close_code


CLIENTS = [by_websockets, by_aiohttp]
Client = Callable[..., Any]


async def talk(client: Client, url: str, said: list[Any], **options: Any) -> Talk:
    """Let an asyncio client talk, in a thread of its own."""
    told: Talk = await trio.to_thread.run_sync(
        lambda: asyncio.run(client(url, said, **options)), abandon_on_cancel=True
    )
    return told


@pytest.mark.parametrize("client", CLIENTS)
async def test_echo(client: Client) -> None:
    """Text, bytes, nothing at all and a long message come back, and the client's close too."""
    said = ["hello", "", b"", b"\x00\xff", "é" * 1000, b"x" * 500_000]
    async with serving() as server:
        assert await talk(client, server.url, said) == (said, 4002)


@pytest.mark.parametrize(("words", "code"), [("close", 4001), ("fail", 1011), ("return", 1000)])
@pytest.mark.parametrize("client", CLIENTS)
async def test_close_codes(client: Client, words: str, code: int) -> None:
    """They see the code of `close()`, 1011 of a failure and 1000 of a return."""
    async with serving() as server:
        assert await talk(client, server.url, ["hello", words]) == (["hello"], code)


@pytest.mark.parametrize("client", CLIENTS)
async def test_compression(client: Client) -> None:
    """They agree on compression and are echoed."""
    options: dict[str, Any] = {"compress": 15} if client is by_aiohttp else {}
    said = ["hello" * 1000, "x", b"y" * 100_000]
    async with serving(compression=True) as server:
        assert await talk(client, server.url, said, **options) == (said, 4002)


@pytest.mark.parametrize("client", CLIENTS)
async def test_drain(client: Client) -> None:
    """They see 1012 when the server drains."""
    async with serving() as server, trio.open_nursery() as nursery:
        codes: list[int | None] = []

        async def stay() -> None:
            # a word that is never answered
            _, code = await talk(client, server.url, ["hello", *["again"] * 1_000_000])
            codes.append(code)

        for _ in range(3):
            nursery.start_soon(stay)
        while server.connections < 3:
            await trio.sleep(0.01)
        await trio.sleep(0.1)
        await server.drain(0.2)
    assert codes == [1012] * 3


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """With `ssl_context` the URL is wss, and others can talk to it."""
    said = ["hello", b"x" * 500_000]
    async with serving(ssl_context=server_tls) as server:
        assert server.url.startswith("wss://127.0.0.1:")
        assert await talk(by_websockets, server.url, said, ssl=client_tls) == (said, 4002)


async def test_tls_with_a_client_of_ours(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Ours as well; and the handshake knows that TLS ends here."""
    shakes: list[trio_rt.Handshake] = []

    async def accept(handshake: trio_rt.Handshake) -> None:
        shakes.append(handshake)

    async with serving(ssl_context=server_tls, accept=accept) as server:
        connecting = trio_rt.connect(server.url, codec="raw", ssl_context=client_tls)
        async with connecting as conn:
            with conn.subscribe() as stream:
                await conn.send("hello")
                item = await stream.receive()
                assert isinstance(item, Message)
                assert item.payload == "hello"
    assert [(shake.secure, shake.remote) for shake in shakes] == [(True, "127.0.0.1")]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b"\0" * 9000])
async def test_garbage_on_the_tls_port(
    data: bytes,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is no TLS is cut off, at the latest at the deadline; others are served."""
    limits = ServerLimits(handshake_s=0.5)
    async with serving(ssl_context=server_tls, limits=limits) as server:
        stranger = Stranger(await trio.open_tcp_stream("127.0.0.1", server.port))
        await stranger.send_raw(data)
        try:
            while await stranger.stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        await stranger.aclose()
        assert await talk(by_websockets, server.url, ["hello"], ssl=client_tls) == (["hello"], 4002)
    assert complaints(caplog) == []


async def test_too_many_on_the_tls_port(
    server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """They are just closed: an answer would cost a handshake."""
    caplog.set_level(logging.INFO)
    limits = ServerLimits(connections=1)
    async with serving(ssl_context=server_tls, limits=limits) as server:
        first = await trio.open_tcp_stream("127.0.0.1", server.port)
        while not server.connections:
            await trio.sleep(0.01)
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as second:
            assert await second.receive_some() == b""
        await first.aclose()
    assert "127.0.0.1: too many connections" in caplog.messages
    assert complaints(caplog) == []

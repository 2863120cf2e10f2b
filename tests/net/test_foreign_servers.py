"""A client of ours and echo servers of others, in processes; what they do is in `peers.words`."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import Any, Final

import pytest
import trio

import trio_rt
from trio_rt import HandshakeError, LinkClosed, Liveness, RawConnection, Reset
from trio_rt.message import INDETERMINATE

from .support import COMPRESSING, LIMIT_S, SERVERS, WIRES, Command, Tls, python, running
from .talk import QUICK, talking

Server = Callable[..., Command]

TEXTS: Final = [f"{number} é\U0001f600" for number in range(200)]
BINARY: Final = bytes(range(256)) * 400

#: Found within a second, so that a test can wait for it.
WATCHFUL: Final = Liveness(interval_s=0.3, timeout_s=0.3)


async def ask(conn: RawConnection, stream: Any, *words: str | bytes) -> list[object]:
    """Send all of it, and receive as many messages."""
    for each in words:
        await conn.send(each)
    return [(await stream.receive()).payload for _ in words]


class Overheard(trio.abc.Stream):
    """A stream that keeps what comes in."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.heard = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._stream.receive_some(max_bytes)
        self.heard += data
        return bytes(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def cause_of_loss(states: trio_rt.StateStream) -> Exception | None:
    """Why the link was lost; waits until it is."""
    async for state in states:
        if state.retry_at is not None:
            return state.cause
    raise AssertionError("the connection is over")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("server", SERVERS)
async def test_echo(server: Server, wire: Any, secure: bool, tls: Tls) -> None:
    """Texts in order, a long binary message, and both sides' closes with their codes."""
    command = server(str(tls.certificate)) if secure else server()
    context: ssl.SSLContext | None = tls.for_client if secure else None
    with trio.fail_after(LIMIT_S):
        async with running(command) as program:
            url = program.url("wss" if secure else "ws")
            connecting = trio_rt.connect(
                url, codec="raw", wire=wire, ssl_context=context, reconnect=QUICK
            )
            async with connecting as conn:
                with conn.subscribe() as stream, conn.watch_states() as states:
                    assert await ask(conn, stream, *TEXTS, BINARY, "") == [*TEXTS, BINARY, ""]
                    await conn.send("close 4001")
                    cause = await cause_of_loss(states)
                    assert isinstance(cause, LinkClosed)
                    assert (cause.code, cause.reason, cause.by_peer) == (4001, "as told", True)
                    assert isinstance(await stream.receive(), Reset)
                    assert await ask(conn, stream, "again") == ["again"]
            await program.wait_line("closed 1000")


@pytest.mark.parametrize("wire", COMPRESSING)
@pytest.mark.parametrize("server", SERVERS)
async def test_compression(server: Server, wire: Any) -> None:
    """They agree on permessage-deflate, and are echoed."""
    streams: list[Overheard] = []

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        streams.append(Overheard(await trio.open_tcp_stream(host, port)))
        return streams[-1]

    with trio.fail_after(LIMIT_S):
        async with running(server()) as program:
            connecting = trio_rt.connect(
                program.url(), codec="raw", wire=wire, compression=True, open_stream=open_stream
            )
            async with connecting as conn:
                with conn.subscribe() as stream:
                    assert await ask(conn, stream, *TEXTS, BINARY) == [*TEXTS, BINARY]
    assert re.search(rb"sec-websocket-extensions: *permessage-deflate", streams[0].heard.lower())
    assert len(streams[0].heard) < len(BINARY) / 2


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("server", SERVERS)
async def test_refusals_and_a_message_over_the_limit(server: Server, wire: Any) -> None:
    """Each is for good, and leaves `connect()` as the one exception that says so."""
    with trio.fail_after(LIMIT_S):
        async with running(server()) as program:
            url = program.url()

            async def stay(path: str, words: str = "") -> None:
                async with trio_rt.connect(
                    url + path, codec="raw", wire=wire, reconnect=QUICK
                ) as conn:
                    await conn.send(words)
                    await trio.sleep_forever()

            async def failure(path: str, words: str = "") -> BaseException | None:
                with pytest.raises(trio_rt.ConnectionFailed) as caught:
                    await stay(path, words)
                failures.append(type(caught.value))
                return caught.value.__cause__

            failures: list[type] = []
            for status in (403, 401):
                cause = await failure(f"/status/{status}")
                assert isinstance(cause, HandshakeError)
                assert (cause.status, cause.body) == (status, b"as told\n")
            cause = await failure("/", "big 2000000")
            assert isinstance(cause, LinkClosed)
            assert (cause.code, cause.by_peer) == (1009, False)
            assert failures == [
                trio_rt.ServerRefused,
                trio_rt.CredentialsRefused,
                trio_rt.ProtocolBroken,
            ]
            await program.wait_line("closed 1009")


# Under load


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("server", SERVERS)
async def test_kill(server: Server, wire: Any) -> None:
    """The server is killed, and started again: the client is back, and nothing is doubled."""
    async with running(server()) as program:
        async with talking(program.url(), wire=wire) as talk:
            await talk.more()
            await program.kill()
            await talk.wait_cause(trio_rt.DialError)
            await program.start()
            await talk.wait_links(2)
            await talk.more()
        assert isinstance(talk.causes[0], LinkClosed)
        assert talk.causes[0].code == 1006
        assert (talk.links, talk.resets) == (2, 1)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("server", SERVERS)
async def test_graceful_restart(server: Server, wire: Any, request: pytest.FixtureRequest) -> None:
    """The server says that it goes away: the client is back when the server is."""
    async with running(server()) as program:
        async with talking(program.url(), wire=wire) as talk:
            await talk.more()
            await program.terminate()
            await talk.wait_cause(trio_rt.DialError)
            await program.start()
            await talk.wait_links(2)
            await talk.more()
        assert isinstance(talk.causes[0], LinkClosed)
        codes = {1001, 1012}
        if request.node.callspec.id.startswith("uvicorn"):
            # It closes TCP at once, with what we send unread: the kernel makes a
            # reset of it, and that may overtake the close frame.
            codes.add(1006)
        assert talk.causes[0].code in codes
        assert talk.links == 2


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("server", SERVERS)
async def test_halt(server: Server, wire: Any) -> None:
    """A halted server, whose kernel still answers, is found dead; then it goes on."""
    options = {"wire": wire, "liveness": WATCHFUL, "open_timeout_s": LIMIT_S}
    async with running(server()) as program, talking(program.url(), **options) as talk:
        await talk.more()
        program.stop()
        await talk.wait_cause(trio_rt.LinkDead)
        links = talk.links
        program.resume()
        await talk.wait_links(links + 1)
        await talk.more()


@pytest.mark.parametrize("wire", WIRES)
async def test_halt_with_a_send_stuck(wire: Any) -> None:
    """Found dead, too, when the kernel takes no more; what was cut off is not sent again."""
    options = {"wire": wire, "liveness": WATCHFUL, "open_timeout_s": LIMIT_S}
    async with running(python("by_aiohttp")) as program:
        async with talking(program.url(), padding=1_000_000, **options) as talk:
            await talk.more()
            program.stop()
            await talk.wait_cause(trio_rt.LinkDead)
            links = talk.links
            program.resume()
            await talk.wait_links(links + 1)
            await talk.more()
        assert talk.conn.statistics().outcomes[INDETERMINATE] >= 1


@pytest.mark.parametrize("wire", WIRES)
async def test_faults_over_tls(wire: Any, tls: Tls) -> None:
    """Halted, killed while halted, started again, and ended gently: the same over TLS."""
    options = {
        "wire": wire,
        "liveness": WATCHFUL,
        "open_timeout_s": LIMIT_S,
        "ssl_context": tls.for_client,
    }
    async with running(python("by_aiohttp", str(tls.certificate))) as program:
        async with talking(program.url("wss"), **options) as talk:
            await talk.more()
            program.stop()
            await talk.wait_cause(trio_rt.LinkDead)
            links = talk.links
            await program.kill()
            await program.start()
            await talk.wait_links(links + 1)
            await talk.more()
            links = talk.links
            await program.terminate()
            await program.start()
            await talk.wait_links(links + 1)
            await talk.more()
        assert any(getattr(cause, "code", None) == 1001 for cause in talk.causes)

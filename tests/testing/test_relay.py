from __future__ import annotations

import contextlib
import errno
import math
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from trio_rt.errors import OptionError
from trio_rt.testing import Relay, serve_relay
from trio_rt.testing._relay import BUFFER_BYTES
from trio_rt.testing.relay import obey

LIMIT_S = 20.0
ROOT = Path(__file__).parents[2]


async def _until(condition: Callable[[], bool]) -> None:
    while True:
        await trio.lowlevel.checkpoint()
        if condition():
            return


@asynccontextmanager
async def _relayed(
    rate_bytes_per_s: float = math.inf, receive_buffer_bytes: int = BUFFER_BYTES
) -> AsyncIterator[tuple[Relay, trio.SocketStream, trio.SocketStream]]:
    """A relay, and the two ends of one connection through it."""
    with trio.fail_after(LIMIT_S):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener, trio.open_nursery() as nursery:
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            port = listener.socket.getsockname()[1]
            start = partial(serve_relay, rate_bytes_per_s=rate_bytes_per_s)
            relay: Relay = await nursery.start(start, "127.0.0.1", port)
            client = await trio.open_tcp_stream("127.0.0.1", relay.port)
            async with client, await listener.accept() as server:
                await _until(lambda: relay.statistics().links == 1)
                yield relay, client, server
            nursery.cancel_scope.cancel()


async def _read_to_the_end(stream: trio.SocketStream) -> tuple[bytes, str]:
    data = b""
    try:
        async for chunk in stream:
            data += chunk
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        return data, errno.errorcode[getattr(cause, "errno", 0)]
    return data, "EOF"


async def test_forwards_both_ways_and_half_closes() -> None:
    """Bytes and the end of file go through, one direction at a time, and are counted."""
    async with _relayed() as (relay, client, server):
        await client.send_all(b"question")
        await client.send_eof()
        assert await _read_to_the_end(server) == (b"question", "EOF")
        await server.send_all(b"an answer")
        await server.send_eof()
        assert await _read_to_the_end(client) == (b"an answer", "EOF")
        counts = relay.statistics()
        assert (counts.bytes_to_target, counts.bytes_to_clients) == (8, 9)
        assert counts.links_opened == 1


async def test_rst_resets_both_sides() -> None:
    """`rst()` resets the client and the target, though nothing was in flight."""
    async with _relayed() as (relay, client, server):
        relay.rst()
        assert await _read_to_the_end(client) == (b"", "ECONNRESET")
        assert await _read_to_the_end(server) == (b"", "ECONNRESET")
        await _until(lambda: relay.statistics().links == 0)


async def test_fin_ends_both_sides() -> None:
    """`fin()` brings an end of file to both, though both are sending, and then the link is gone."""
    async with _relayed() as (relay, client, server), trio.open_nursery() as nursery:

        async def flood(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await stream.send_all(bytes(1000))

        nursery.start_soon(flood, client)
        nursery.start_soon(flood, server)
        await client.receive_some()
        relay.fin()
        for stream in (client, server):
            assert (await _read_to_the_end(stream))[1] == "EOF"
        await client.aclose()
        await server.aclose()
        await _until(lambda: relay.statistics().links == 0)


@pytest.mark.parametrize("count", [0, 1, 5000])
async def test_abort_forwards_so_many_bytes_and_resets(count: int) -> None:
    """`abort(n)` lets exactly n more bytes through, and then both sides are reset."""
    async with _relayed() as (relay, client, server):
        await client.send_all(b"before")
        assert await server.receive_some() == b"before"
        relay.abort(count)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    while True:
                        await client.send_all(bytes(3000))

            nursery.start_soon(send)
            data, how = await _read_to_the_end(server)
        assert (len(data), how) == (count, "ECONNRESET")


async def test_abort_waits_for_what_the_kernel_holds() -> None:
    """The allowed bytes arrive before the reset, though the reader was late."""
    async with _relayed(receive_buffer_bytes=4096) as (relay, client, server):
        relay.abort(20_000)
        await client.send_all(bytes(30_000))
        await _until(lambda: relay.statistics().bytes_to_target == 20_000)
        data, how = await _read_to_the_end(server)
        assert (len(data), how) == (20_000, "ECONNRESET")


async def test_refuse_and_accept() -> None:
    """`refuse()` refuses new connections and leaves old ones; `accept()` ends it."""
    async with _relayed() as (relay, client, server):
        relay.refuse()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", relay.port)
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
        relay.accept()
        async with await trio.open_tcp_stream("127.0.0.1", relay.port):
            await _until(lambda: relay.statistics().links_opened == 2)


async def test_rate_limits_a_link() -> None:
    """At 100,000 bytes/s 20,000 bytes take about a fifth of a second, and never less."""
    async with _relayed(rate_bytes_per_s=100_000) as (_, client, server):
        began = trio.current_time()
        await client.send_all(bytes(20_000))
        await _receive_exactly(server, 20_000)
        # The last portion, 0.05 s' worth, is paid for after it has arrived.
        assert trio.current_time() - began > 0.14


async def test_rate_may_change_at_any_time() -> None:
    """A limit lifted in the middle of what it would hold up for half an hour lets it through."""
    async with _relayed(rate_bytes_per_s=10) as (relay, client, server):
        await client.send_all(bytes(20_000))
        await _receive_exactly(server, 1)
        assert relay.statistics().bytes_to_target < 100
        relay.rate_bytes_per_s = math.inf
        await _receive_exactly(server, 19_999)
        await _until(lambda: relay.statistics().bytes_to_target == 20_000)


async def _receive_exactly(stream: trio.SocketStream, size: int) -> None:
    while size > 0:
        size -= len(await stream.receive_some(size))


async def test_rate_must_be_positive() -> None:
    """A rate of nothing is refused where it is set."""
    async with _relayed() as (relay, _, _):
        with pytest.raises(OptionError, match="rate_bytes_per_s"):
            relay.rate_bytes_per_s = 0


async def test_buffers_are_small() -> None:
    """With a reader that does not read, a sender gets rid of little more than the buffers."""
    async with _relayed() as (_, client, server):
        for end, option in ((client, socket.SO_SNDBUF), (server, socket.SO_RCVBUF)):
            end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        taken = 0
        with trio.move_on_after(0.2):
            while True:
                await client.send_all(bytes(1000))
                taken += 1000
        # Six buffers (two ends, two sockets of the relay with two each), which
        # Linux doubles, and the portion in the relay's hand.
        assert taken < 13 * BUFFER_BYTES


async def test_target_that_refuses_resets_the_client() -> None:
    """Where nobody listens behind the relay, the client finds a reset."""
    with trio.fail_after(LIMIT_S), socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and nobody listens
        async with trio.open_nursery() as nursery:
            relay: Relay = await nursery.start(serve_relay, *bound.getsockname())
            async with await trio.open_tcp_stream("127.0.0.1", relay.port) as client:
                assert await _read_to_the_end(client) == (b"", "ECONNRESET")
            nursery.cancel_scope.cancel()


async def test_a_reset_is_passed_on() -> None:
    """A peer that resets makes the relay reset the other side, not end it."""
    async with _relayed() as (_, client, server):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await server.aclose()
        assert await _read_to_the_end(client) == (b"", "ECONNRESET")


async def test_cancel_closes_everything() -> None:
    """A relay that is cancelled leaves no connection and no port."""
    async with _relayed() as (relay, _, _):
        pass
    with trio.fail_after(LIMIT_S), pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", relay.port)


async def test_unknown_command() -> None:
    """A line that is no command says so and does nothing."""
    async with _relayed() as (relay, _, _):
        with pytest.raises(ValueError, match="no such command: explode"):
            obey(relay, "explode\n")
        assert obey(relay, "rate 0\n") == "ok"
        assert relay.rate_bytes_per_s == math.inf


class _Process:
    """The relay's process, and the lines that it answers."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._read = bytearray()

    async def ask(self, line: str) -> str:
        await self._stdin.send_all(line.encode() + b"\n")
        return await self.line()

    async def line(self) -> str:
        while b"\n" not in self._read:
            self._read += await self._stdout.receive_some()
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    async def quit(self) -> bytes:
        await self._stdin.send_all(b"quit\n")
        return b"".join([chunk async for chunk in self._stdout])


async def test_as_a_process() -> None:
    """The process prints its port, obeys line by line, and ends with `quit`."""
    with trio.fail_after(LIMIT_S):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        target = str(listener.socket.getsockname()[1])
        command = [sys.executable, "-m", "trio_rt.testing.relay", "127.0.0.1", target]
        start = partial(
            trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        async with listener, trio.open_nursery() as nursery:
            process = _Process(await nursery.start(start))
            port = int(await process.line())
            client = await trio.open_tcp_stream("127.0.0.1", port)
            async with client, await listener.accept() as server:
                assert await process.ask("rate 1000000") == "ok"
                assert (await process.ask("rate much")).startswith("error: ")
                assert (await process.ask("explode")).startswith("error: no such command")
                assert await process.ask("refuse") == "ok"
                with pytest.raises(OSError, match="all attempts to connect"):
                    await trio.open_tcp_stream("127.0.0.1", port)
                assert await process.ask("accept") == "ok"
                assert await process.ask("abort 3") == "ok"
                await client.send_all(b"12345")
                assert await _read_to_the_end(server) == (b"123", "ECONNRESET")
            assert await process.quit() == b""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from trio_rt.errors import OptionError
from trio_rt.testing import Conditions, Relay, serve_relay
from trio_rt.testing._sockets import BUFFER_BYTES

from .relayed import LIMIT_S, read_exactly, read_to_the_end, relayed, until

HOLE = Conditions(blackhole=True)


async def test_conditions_of_each_direction() -> None:
    """What is imposed holds in its direction, or in both, until something else is."""
    async with relayed() as (relay, _, _):
        assert relay.conditions == {"server": Conditions(), "client": Conditions()}
        slow, rough = Conditions(delay_s=1), Conditions(split_bytes=2)
        relay.impose(slow)
        relay.impose(rough, towards="client")
        assert relay.conditions == {"server": slow, "client": rough}
        relay.impose(Conditions())
        assert relay.conditions == {"server": Conditions(), "client": Conditions()}


async def test_corrupts_in_its_direction() -> None:
    """Of what goes to the server every byte is changed, of what comes from it none."""
    async with relayed() as (relay, client, server):
        relay.impose(Conditions(corrupt=1.0), towards="server")
        await client.send_all(bytes(100))
        assert 0 not in await read_exactly(server, 100)
        await server.send_all(bytes(100))
        assert await read_exactly(client, 100) == bytes(100)


async def _corrupted(seed: int) -> list[bytes]:
    """The same zeros both ways."""
    async with relayed(seed=seed) as (relay, client, server):
        relay.impose(Conditions(corrupt=0.5))
        await client.send_all(bytes(100))
        await server.send_all(bytes(100))
        return [await read_exactly(stream, 100) for stream in (client, server)]


async def test_the_seed_decides() -> None:
    """The same seed does the same to the same bytes; each direction has draws of its own."""
    first = await _corrupted(1)
    assert first == await _corrupted(1)
    assert first[0] != first[1]
    assert first[0] != (await _corrupted(2))[0]


async def _echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def test_each_link_has_draws_of_its_own() -> None:
    """The same bytes through two links are not corrupted alike."""
    echoed: list[bytes] = []
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            start = partial(trio.serve_tcp, _echo, 0, host="127.0.0.1")
            (listener,) = await nursery.start(start)
            port = listener.socket.getsockname()[1]
            relay: Relay = await nursery.start(serve_relay, "127.0.0.1", port)
            relay.impose(Conditions(corrupt=0.5), towards="server")
            for _ in range(2):
                async with await trio.open_tcp_stream("127.0.0.1", relay.port) as client:
                    await client.send_all(bytes(100))
                    echoed.append(await read_exactly(client, 100))
            nursery.cancel_scope.cancel()
    assert echoed[0] != echoed[1]


async def test_splits() -> None:
    """What was sent in one piece arrives in many."""
    async with relayed() as (relay, client, server):
        relay.impose(Conditions(split_bytes=3))
        await client.send_all(bytes(range(200)))
        reads: list[bytes] = []
        while sum(map(len, reads)) < 200:
            reads.append(await server.receive_some())
        assert b"".join(reads) == bytes(range(200))
        assert len(reads) > 20


async def test_delays() -> None:
    """What is delayed has not arrived, and does when the delay is lifted."""
    async with relayed() as (relay, client, server):
        relay.impose(Conditions(delay_s=1000))
        await client.send_all(b"one")
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"two")
        await trio.testing.wait_all_tasks_blocked()
        assert relay.statistics().bytes_to_server == 0
        relay.impose(Conditions())
        assert await read_exactly(server, 6) == b"onetwo"


async def test_a_rate_may_change_at_any_time() -> None:
    """A limit lifted in the middle of what it would hold up for half an hour lets it through."""
    async with relayed() as (relay, client, server):
        relay.impose(Conditions(rate_bytes_per_s=10))
        await client.send_all(bytes(20_000))
        await read_exactly(server, 1)
        assert relay.statistics().bytes_to_server < 100
        relay.impose(Conditions())
        await read_exactly(server, 19_999)
        await until(lambda: relay.statistics().bytes_to_server == 20_000)


async def test_a_blackhole_holds_bytes_and_ends() -> None:
    """Neither passes while it lasts, and both do afterwards; the other direction is open."""
    async with relayed() as (relay, client, server):
        relay.impose(HOLE, towards="server")
        await client.send_all(b"lost?")
        await client.send_eof()
        await server.send_all(b"hello?")
        assert await read_exactly(client, 6) == b"hello?"
        await trio.testing.wait_all_tasks_blocked()
        assert relay.statistics().bytes_to_server == 0
        relay.impose(Conditions())
        assert await read_to_the_end(server) == (b"lost?", "EOF")


@pytest.mark.parametrize("towards", ["server", "client", None])
async def test_new_connections_in_a_blackhole(towards: Any) -> None:
    """They are made, and for all but one by the kernel alone, until it is over."""
    async with relayed() as (relay, _, _):
        tasks = trio.lowlevel.current_statistics().tasks_living
        relay.impose(HOLE, towards=towards)
        first = await trio.open_tcp_stream("127.0.0.1", relay.port)
        second = await trio.open_tcp_stream("127.0.0.1", relay.port)
        async with first, second:
            await first.send_all(b"a")
            await second.send_all(b"bc")
            await trio.testing.wait_all_tasks_blocked()
            assert relay.statistics().links_opened == 1
            assert trio.lowlevel.current_statistics().tasks_living == tasks + 1
            relay.impose(Conditions())
            await until(lambda: relay.statistics().bytes_to_server == 3)
            assert relay.statistics().links_opened == 3


async def test_refuse_and_accept() -> None:
    """`refuse()` refuses new connections and leaves old ones; `accept()` ends it."""
    async with relayed() as (relay, client, server):
        relay.refuse()
        relay.refuse()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", relay.port)
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
        relay.accept()
        relay.accept()
        async with await trio.open_tcp_stream("127.0.0.1", relay.port):
            await until(lambda: relay.statistics().links_opened == 2)


async def test_bad_arguments_are_refused() -> None:
    """What cannot be is named, and changes nothing."""
    async with relayed() as (relay, client, server):
        nonsense: Any = "target"
        with pytest.raises(OptionError, match="towards"):
            relay.impose(HOLE, towards=nonsense)
        with pytest.raises(OptionError, match="conditions"):
            relay.impose(nonsense)
        with pytest.raises(OptionError, match="towards"):
            relay.cut_after(0, towards=nonsense)
        with pytest.raises(OptionError, match="how"):
            relay.cut_after(0, how=nonsense)
        for count in (-1, 1.5, float("inf")):
            with pytest.raises(OptionError, match="count"):
                relay.cut_after(count)  # type: ignore[arg-type]
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"


async def test_buffers_are_small() -> None:
    """With a reader that does not read, a sender gets rid of little more than the buffers."""
    async with relayed() as (_, client, server):
        for end, option in ((client, socket.SO_SNDBUF), (server, socket.SO_RCVBUF)):
            end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        taken = 0
        with trio.move_on_after(0.2):
            while True:
                await client.send_all(bytes(1000))
                taken += 1000
        # Six buffers (two ends, two sockets of the relay with two each), which
        # Linux doubles, and the read in the relay's hand.
        assert taken < 13 * BUFFER_BYTES


async def test_target_that_refuses_resets_the_client() -> None:
    """Where nobody listens behind the relay, the client finds a reset."""
    with trio.fail_after(LIMIT_S), socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and nobody listens
        async with trio.open_nursery() as nursery:
            relay: Relay = await nursery.start(serve_relay, *bound.getsockname())
            async with await trio.open_tcp_stream("127.0.0.1", relay.port) as client:
                assert await read_to_the_end(client) == (b"", "ECONNRESET")
            nursery.cancel_scope.cancel()


async def test_a_port_of_ones_own() -> None:
    """The relay listens where it is told to, and says so if it cannot."""
    async with relayed() as (relay, _, _):
        with pytest.raises(OSError, match="in use"):
            await serve_relay("127.0.0.1", 1, host=relay.host, port=relay.port)


@pytest.mark.parametrize("conditions", [Conditions(), HOLE, Conditions(delay_s=1000)])
async def test_cancel_closes_everything(conditions: Conditions) -> None:
    """A relay that is cancelled leaves no connection and no port, whatever it was waiting for."""
    async with AsyncExitStack() as connections:
        async with relayed() as (relay, client, _):
            relay.impose(conditions)
            new = await trio.open_tcp_stream("127.0.0.1", relay.port)
            await connections.enter_async_context(new)
            await client.send_all(b"x")
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(LIMIT_S):
            await read_to_the_end(new)
    with trio.fail_after(LIMIT_S), pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", relay.port)


@contextmanager
def _no_descriptors() -> Iterator[None]:
    """Nothing can be opened in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_it_waits_for_some() -> None:
    """Its links live on, and the new connection is taken later."""
    async with relayed() as (relay, client, server):
        with socket.create_connection(("127.0.0.1", relay.port)):
            with _no_descriptors():
                await trio.testing.wait_all_tasks_blocked()
                await client.send_all(b"x")
                assert await server.receive_some() == b"x"
                assert relay.statistics().links_opened == 1
            await until(lambda: relay.statistics().links_opened == 2)

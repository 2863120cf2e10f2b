from __future__ import annotations

import contextlib
import math
import socket
import struct
from typing import Literal

import pytest
import trio
import trio.testing

from trio_rt.testing import Conditions, Towards, _relay_link

from .relayed import read_exactly, read_to_the_end, relayed, until

HOLE = Conditions(blackhole=True)

#: What the reader finds after the last byte.
FOUND = {"rst": "ECONNRESET", "fin": "EOF"}


async def _flood(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await stream.send_all(bytes(1000))


async def _reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def test_forwards_both_ways_and_half_closes() -> None:
    """Bytes and the end of file go through, one direction at a time, and are counted."""
    async with relayed() as (relay, client, server):
        await client.send_all(b"question")
        await client.send_eof()
        assert await read_to_the_end(server) == (b"question", "EOF")
        await server.send_all(b"an answer")
        await server.send_eof()
        assert await read_to_the_end(client) == (b"an answer", "EOF")
        counts = relay.statistics()
        assert (counts.bytes_to_server, counts.bytes_to_client) == (8, 9)
        assert counts.links_opened == 1
        await until(lambda: relay.statistics().links == 0)


async def test_rst_resets_both_sides() -> None:
    """`rst()` resets the client and the target, though nothing was in flight."""
    async with relayed() as (relay, client, server):
        relay.rst()
        assert await read_to_the_end(client) == (b"", "ECONNRESET")
        assert await read_to_the_end(server) == (b"", "ECONNRESET")
        await until(lambda: relay.statistics().links == 0)


async def test_fin_ends_both_sides() -> None:
    """`fin()` brings an end of file to both, though both are sending, and then the link is gone."""
    async with relayed() as (relay, client, server), trio.open_nursery() as nursery:
        nursery.start_soon(_flood, client)
        nursery.start_soon(_flood, server)
        await client.receive_some()
        relay.fin()
        for stream in (client, server):
            assert (await read_to_the_end(stream))[1] == "EOF"
        await client.aclose()
        await server.aclose()
        await until(lambda: relay.statistics().links == 0)


async def test_fin_loses_what_was_not_forwarded() -> None:
    """What a delay holds back when the link is ended never arrives."""
    async with relayed() as (relay, client, server):
        relay.impose(Conditions(delay_s=1000))
        await client.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        relay.fin()
        assert await read_to_the_end(server) == (b"", "EOF")


async def test_fin_ends_with_a_peer_that_resets() -> None:
    """Where the other side answers the end of file by a reset, the link is gone as well."""
    async with relayed() as (relay, client, server):
        relay.fin()
        await read_to_the_end(client)
        await _reset(client)
        await server.aclose()
        await until(lambda: relay.statistics().links == 0)


async def test_fin_is_patient_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link whose sides do not end is given up."""
    monkeypatch.setattr(_relay_link, "FIN_PATIENCE_S", 0)
    async with relayed() as (relay, _, _):
        relay.fin()
        await until(lambda: relay.statistics().links == 0)


async def test_rst_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that waits for the other sides to end is reset, and one that is reset stays so."""
    monkeypatch.setattr(_relay_link, "FIN_PATIENCE_S", math.inf)
    async with relayed() as (relay, client, server):
        relay.fin()
        assert await read_to_the_end(client) == (b"", "EOF")
        relay.rst()
        relay.fin()
        await until(lambda: relay.statistics().links == 0)
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"x")


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("count", [0, 1, 5000])
async def test_cut_after_so_many_bytes(count: int, how: Literal["rst", "fin"]) -> None:
    """Exactly n more bytes get through, and then both sides are ended in the way asked for."""
    async with relayed() as (relay, client, server):
        await client.send_all(b"before")
        assert await server.receive_some() == b"before"
        relay.impose(Conditions(split_bytes=700))
        relay.cut_after(count, how=how)
        if count:
            await client.send_all(bytes(count + 3000))
        data, found = await read_to_the_end(server)
        assert (len(data), found) == (count, FOUND[how])
        assert await read_to_the_end(client) == (b"", FOUND[how])


async def test_a_cut_waits_for_what_the_kernel_holds() -> None:
    """The allowed bytes arrive before the reset, though the reader was late."""
    async with relayed(receive_buffer_bytes=4096) as (relay, client, server):
        relay.cut_after(20_000)
        await client.send_all(bytes(30_000))
        await until(lambda: relay.statistics().bytes_to_server == 20_000)
        await trio.testing.wait_all_tasks_blocked()
        data, how = await read_to_the_end(server)
        assert (len(data), how) == (20_000, "ECONNRESET")


async def test_a_cut_counts_both_directions_together() -> None:
    """Without a direction, what went one way is missing the other way."""
    async with relayed() as (relay, client, server):
        relay.cut_after(10)
        await server.send_all(b"123456")
        assert await read_exactly(client, 6) == b"123456"
        await client.send_all(b"123456")
        assert await read_to_the_end(server) == (b"1234", "ECONNRESET")


async def test_a_cut_of_one_direction() -> None:
    """With a direction, only its bytes count, and both sides are ended."""
    async with relayed() as (relay, client, server):
        relay.cut_after(4, towards="server")
        await server.send_all(b"123456")
        assert await read_exactly(client, 6) == b"123456"
        await client.send_all(b"123456")
        assert await read_to_the_end(server) == (b"1234", "ECONNRESET")
        assert await read_to_the_end(client) == (b"", "ECONNRESET")


async def test_a_reset_is_passed_on() -> None:
    """A peer that resets makes the relay reset the other side, not end it."""
    async with relayed() as (_, client, server):
        await _reset(server)
        assert await read_to_the_end(client) == (b"", "ECONNRESET")


@pytest.mark.parametrize("hole", ["server", "client"])
async def test_a_blackhole_tells_of_no_reset(hole: Towards) -> None:
    """Who sends to a peer that has gone learns it when the way back is open again."""
    async with relayed() as (relay, client, server):
        gone, left = (client, server) if hole == "server" else (server, client)
        relay.impose(HOLE, towards=hole)
        await _reset(gone)
        await trio.testing.wait_all_tasks_blocked()
        await left.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        await left.send_all(b"x")
        assert relay.statistics().links == 1
        relay.impose(Conditions())
        assert await read_to_the_end(left) == (b"", "ECONNRESET")

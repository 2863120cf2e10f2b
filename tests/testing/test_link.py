from __future__ import annotations

import pytest
import trio

from trio_rt.testing import CutKind, LinkProfile, Towards, VirtualNetwork, VirtualStream
from trio_rt.testing._pipe import BUFFER_BYTES

from .support import new_network, open_pair, virtual

TOWARDS: tuple[Towards, Towards] = ("server", "client")


async def _read_to_the_end(stream: VirtualStream) -> tuple[bytes, str]:
    """All that came, and how it ended."""
    data = b""
    with trio.move_on_after(100):
        try:
            while chunk := await stream.receive_some():
                data += chunk
        except trio.BrokenResourceError:
            return data, "rst"
        return data, "fin"
    return data, "vanish"


@pytest.mark.parametrize("how", ["rst", "fin", "vanish"])
@virtual
async def test_cut_loses_what_is_in_flight(how: CutKind) -> None:
    """After a cut both ends read what had arrived, lose what had not, and end as told."""
    network = new_network()
    ends = await open_pair(network)
    (link,) = network.connections
    for stream in ends:
        await stream.send_all(b"arrived")
    await trio.sleep(1)
    for stream in ends:
        await stream.send_all(b"in flight")
    link.cut(how)
    for stream in ends:
        assert await _read_to_the_end(stream) == (b"arrived", how)
    assert link.cut_by == how
    assert not link.alive


@pytest.mark.parametrize("towards", TOWARDS)
@pytest.mark.parametrize("how", ["rst", "fin", "vanish"])
@pytest.mark.parametrize("count", [0, 1, 7, 10])
@virtual
async def test_cut_after_a_byte(towards: Towards, how: CutKind, count: int) -> None:
    """Exactly so many bytes arrive, and then both ends find the link cut."""
    network = new_network()
    client, server = await open_pair(network)
    sender, reader = (client, server) if towards == "server" else (server, client)
    (link,) = network.connections
    link.cut_after(count, towards=towards, how=how)
    await sender.send_all(b"0123456789")
    await sender.send_all(b"more")
    assert await _read_to_the_end(reader) == (b"0123456789"[:count], how)
    assert await _read_to_the_end(sender) == (b"", how)


@virtual
async def test_cut_after_waits_for_the_byte() -> None:
    """A link lives until the byte after the last allowed one is sent."""
    network = new_network()
    client, server = await open_pair(network)
    (link,) = network.connections
    link.cut_after(5)
    await client.send_all(b"12345")
    assert await server.receive_some() == b"12345"
    assert link.alive
    client.try_send(b"6")
    assert not link.alive


@virtual
async def test_reset_is_known_at_once_after_a_cut() -> None:
    """A cut by reset wakes a reader now, and makes every write raise."""
    network = new_network()
    client, _ = await open_pair(network)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
            assert trio.current_time() - began == 5.0

        nursery.start_soon(read)
        await trio.sleep(5)
        network.cut()
    with pytest.raises(trio.BrokenResourceError):
        client.try_send(b"x")


@virtual
async def test_writes_after_a_fin_cut_are_answered_by_reset() -> None:
    """A write after the end of file goes well, and the next round trip brings a reset."""
    network = new_network()
    client, _ = await open_pair(network)
    network.cut(how="fin")
    assert client.try_send(b"x") == 1
    await trio.sleep(2)
    with pytest.raises(trio.BrokenResourceError):
        client.try_send(b"x")


@virtual
async def test_half_open_link_fills_up_and_stays_silent() -> None:
    """Into a half-open link 64 KiB vanish; then the sender waits, for ever."""
    network = new_network()
    client, server = await open_pair(network)
    network.cut(how="vanish")
    assert client.try_send(bytes(BUFFER_BYTES + 1)) == BUFFER_BYTES
    with trio.move_on_after(100) as scope:
        await client.wait_send_all_might_not_block()
    assert scope.cancelled_caught
    server.abort()
    assert await _read_to_the_end(client) == (b"", "vanish")


@virtual
async def test_half_open_link_swallows_a_reset() -> None:
    """A process that dies with unread bytes behind a half-open link cannot tell its peer."""
    network = new_network()
    client, server = await open_pair(network)
    await client.send_all(b"unread")
    await trio.sleep(1)
    network.cut(how="vanish")
    server.abort()
    assert await _read_to_the_end(client) == (b"", "vanish")


@virtual
async def test_a_half_open_link_can_be_reset() -> None:
    """A later reset ends the silence for both."""
    network = new_network()
    ends = await open_pair(network)
    network.cut(how="vanish")
    network.cut(how="rst")
    for stream in ends:
        assert await _read_to_the_end(stream) == (b"", "rst")


@virtual
async def test_stall_holds_back_and_loses_nothing() -> None:
    """During a stall only what had arrived can be read; afterwards all the rest."""
    network = new_network()
    client, server = await open_pair(network)
    (link,) = network.connections
    await client.send_all(b"before")
    await trio.sleep(1)
    await client.send_all(b"in flight ")
    link.stall()
    assert await server.receive_some() == b"before"
    await client.send_all(b"during")
    await client.aclose()
    with trio.move_on_after(100) as scope:
        await server.receive_some()
    assert scope.cancelled_caught
    link.resume()
    began = trio.current_time()
    assert await _read_to_the_end(server) == (b"in flight during", "fin")
    assert trio.current_time() - began == 1.0


@virtual
async def test_stall_of_one_direction() -> None:
    """A stall towards the server leaves the other direction alone."""
    network = new_network()
    client, server = await open_pair(network)
    (link,) = network.connections
    link.stall("server")
    await client.send_all(b"x")
    await server.send_all(b"y")
    assert await client.receive_some() == b"y"
    with trio.move_on_after(100) as scope:
        await server.receive_some()
    assert scope.cancelled_caught


@virtual
async def test_a_stalled_reader_wakes_on_resume() -> None:
    """A reader that fell asleep during the stall finds the bytes when it ends."""
    network = new_network()
    client, server = await open_pair(network)
    network.stall()
    await client.send_all(b"x")
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            assert await server.receive_some() == b"x"
            assert trio.current_time() - began == 51.0

        began = trio.current_time()
        nursery.start_soon(read)
        await trio.sleep(50)
        network.resume()


@virtual
async def test_bandwidth_paces_the_bytes() -> None:
    """At 1000 bytes/s the last of 10,000 bytes arrives after 10 s and the latency, in pieces."""
    network = new_network(LinkProfile(latency_s=1.0, bandwidth_bytes_per_s=1000))
    client, server = await open_pair(network)
    began = trio.current_time()
    await client.send_all(bytes(10_000))
    sizes: list[int] = []
    while sum(sizes) < 10_000:
        sizes.append(len(await server.receive_some()))
    assert trio.current_time() - began == pytest.approx(11)
    assert max(sizes) == 1460


@virtual
async def test_jitter_keeps_the_order() -> None:
    """With jitter bytes come between one latency and that and the jitter later, in order."""
    network = new_network(LinkProfile(latency_s=1.0, jitter_s=2.0))
    client, server = await open_pair(network)
    delays = []
    for number in range(50):
        began = trio.current_time()
        await client.send_all(bytes([number]))
        assert await server.receive_some() == bytes([number])
        delays.append(trio.current_time() - began)
    assert 1.0 <= min(delays) < 1.2
    assert 2.8 < max(delays) <= 3.0
    for number in range(50):
        await client.send_all(bytes([number]))
        await trio.sleep(0.01)
    received = b""
    while len(received) < 50:
        received += await server.receive_some()
    assert received == bytes(range(50))


@virtual
async def test_profile_may_change_on_a_live_link() -> None:
    """A new profile holds for the bytes sent from then on."""
    network = new_network()
    client, server = await open_pair(network)
    (link,) = network.connections
    link.profile = LinkProfile(latency_s=7.0)
    began = trio.current_time()
    await client.send_all(b"x")
    await server.receive_some()
    assert trio.current_time() - began == 7.0


@virtual
async def test_counts_of_a_link() -> None:
    """A link counts what was sent and what was read, by direction."""
    network = new_network()
    client, server = await open_pair(network)
    (link,) = network.connections
    await client.send_all(b"12345")
    await server.receive_some(2)
    assert (link.sent_bytes("server"), link.read_bytes("server")) == (5, 2)
    assert (link.sent_bytes("client"), link.read_bytes("client")) == (0, 0)


@virtual
async def test_wait_ended_sees_a_close() -> None:
    """A link has ended when one end is closed, and is gone when both are."""
    network = VirtualNetwork(1)
    client, server = await open_pair(network)
    (link,) = network.connections
    client.abort()
    await link.wait_ended()
    assert list(network.connections) == [link]
    server.abort()
    assert list(network.connections) == []

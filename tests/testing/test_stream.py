from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_rt.testing import LinkProfile, VirtualStream
from trio_rt.testing._pipe import BUFFER_BYTES, WRITABLE_BYTES

from .support import SECOND, new_network, open_pair, read_all, virtual

ROUGH = LinkProfile(
    latency_s=0.05, jitter_s=0.1, rechunk=0.2, short_writes=0.7, bandwidth_bytes_per_s=1e7
)


@pytest.mark.parametrize("profile", [SECOND, ROUGH], ids=["smooth", "rough"])
@virtual
async def test_keeps_trios_contract_of_streams(profile: LinkProfile) -> None:
    """trio's own checks of a half-closeable stream pass, over a rough link too."""

    async def make() -> tuple[VirtualStream, VirtualStream]:
        return await open_pair(new_network(profile))

    async def make_clogged() -> tuple[VirtualStream, VirtualStream]:
        ends = await make()
        for stream in ends:
            while stream.try_send(bytes(BUFFER_BYTES)):
                pass
        return ends

    await trio.testing.check_half_closeable_stream(make, make_clogged)
    assert trio.current_time() > 1


@virtual
async def test_bytes_take_the_latency() -> None:
    """What is sent is read one latency later, without anything else running."""
    client, server = await open_pair(new_network())
    await client.send_all(b"hello")
    began = trio.current_time()
    assert await server.receive_some() == b"hello"
    assert trio.current_time() - began == 1.0


@virtual
async def test_a_jump_of_the_clock_brings_the_bytes() -> None:
    """After a jump past the arrival one checkpoint is enough to read."""
    network = new_network()
    client, server = await open_pair(network)
    await client.send_all(b"hello")
    network.jump_clock(60)
    began = trio.current_time()
    assert await server.receive_some() == b"hello"
    assert trio.current_time() == began


@virtual
async def test_cancelled_receive_loses_nothing() -> None:
    """A receive that is cancelled leaves the bytes for the next one."""
    client, server = await open_pair(new_network())
    await client.send_all(b"hello")
    with trio.move_on_after(0.5) as scope:
        await server.receive_some()
    assert scope.cancelled_caught
    assert await server.receive_some() == b"hello"


@virtual
async def test_receive_some_obeys_its_limit() -> None:
    """`max_bytes` is a bound, and the rest stays in order."""
    client, server = await open_pair(new_network())
    await client.send_all(b"abc")
    await client.send_all(b"def")
    assert [await server.receive_some(2) for _ in range(3)] == [b"ab", b"cd", b"ef"]


@virtual
async def test_buffer_is_64_kib_each_way() -> None:
    """A sender gets rid of 64 KiB and no more until the reader has read."""
    client, server = await open_pair(new_network())
    assert client.try_send(bytes(BUFFER_BYTES + 1)) == BUFFER_BYTES
    assert client.try_send(b"x") == 0
    assert server.try_send(bytes(BUFFER_BYTES + 1)) == BUFFER_BYTES
    assert len(await server.receive_some(10)) == 10
    assert client.try_send(bytes(11)) == 10


@virtual
async def test_a_full_link_is_writable_when_a_third_is_free() -> None:
    """A reader of few bytes does not wake a writer for each of them."""
    client, server = await open_pair(new_network())
    client.try_send(bytes(BUFFER_BYTES))
    writable = trio.Event()

    async def wait() -> None:
        await client.wait_send_all_might_not_block()
        writable.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await server.receive_some(WRITABLE_BYTES - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert not writable.is_set()
        await server.receive_some(1)
        await writable.wait()


@virtual
async def test_send_all_waits_for_room() -> None:
    """More than the buffer goes through as the reader reads."""
    client, server = await open_pair(new_network())
    data = bytes(range(256)) * 1024
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await client.send_all(data)
            await client.aclose()

        nursery.start_soon(send)
        assert await read_all(server) == data


@virtual
async def test_short_writes_take_a_part() -> None:
    """With `short_writes` a write takes less than there is room for, in many sizes."""
    client, _ = await open_pair(new_network(LinkProfile(short_writes=1.0)))
    sizes = {client.try_send(bytes(100)) for _ in range(50)}
    assert min(sizes) == 1
    assert max(sizes) > 10
    assert len(sizes) > 10


@virtual
async def test_rechunk_cuts_reads() -> None:
    """With `rechunk` what was one write is read in many parts, and is the same."""
    client, server = await open_pair(new_network(LinkProfile(rechunk=1.0)))
    data = bytes(range(256)) * 4
    await client.send_all(data)
    await client.aclose()
    parts = [chunk async for chunk in server]
    assert len(parts) > 3
    assert b"".join(parts) == data


@virtual
async def test_try_send_inside_send_all_is_busy() -> None:
    """Bytes of two tasks are never mixed."""
    client, _ = await open_pair(new_network())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(BUFFER_BYTES + 1))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            client.try_send(b"x")
        nursery.cancel_scope.cancel()


@virtual
async def test_try_send_on_a_closed_stream() -> None:
    """After `abort()` sending raises ClosedResourceError, at once and without a checkpoint."""
    client, server = await open_pair(new_network())
    with trio.testing.assert_no_checkpoints():
        client.abort()
        client.abort()
        with pytest.raises(trio.ClosedResourceError):
            client.try_send(b"x")
    assert await server.receive_some() == b""


@virtual
async def test_closing_with_unread_bytes_resets() -> None:
    """Closing while bytes are unread makes a reset of the FIN, after what was sent."""
    client, server = await open_pair(new_network())
    await client.send_all(b"unread")
    await server.send_all(b"last words")
    await trio.sleep(2)
    server.abort()
    assert await client.receive_some() == b"last words"
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


@virtual
async def test_bytes_that_meet_a_closed_end_reset() -> None:
    """The peer reads the FIN, and a round trip after it sent something, a reset."""
    client, server = await open_pair(new_network())
    server.abort()
    assert await client.receive_some() == b""
    assert client.try_send(b"anybody there?") == 14
    await trio.sleep(1.9)
    assert client.try_send(b"hello?") == 6
    await trio.sleep(0.2)
    with pytest.raises(trio.BrokenResourceError):
        client.try_send(b"hello?")


@virtual
async def test_bytes_in_flight_to_a_closed_end_reset() -> None:
    """Bytes on their way when the other end closes bring a reset back."""
    client, server = await open_pair(new_network())
    await client.send_all(b"in flight")
    server.abort()
    await trio.sleep(1.5)
    assert client.try_send(b"x") == 1
    await trio.sleep(1)
    with pytest.raises(trio.BrokenResourceError):
        client.try_send(b"x")


@virtual
async def test_a_reset_wakes_a_blocked_sender() -> None:
    """A sender that waits for room learns of the reset one latency after it began."""
    client, server = await open_pair(new_network())
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await client.send_all(bytes(BUFFER_BYTES + 1))

        nursery.start_soon(send)
        await trio.sleep(2)
        server.abort()
    assert trio.current_time() - began == 3.0

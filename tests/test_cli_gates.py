from __future__ import annotations

import socket

import pytest
import trio

from trio_rt.cli._gates import Gate, GatedListener, Gates

CAP_S = 10


def gate_pair() -> tuple[Gate, Gate]:
    one, other = socket.socketpair()
    moved = trio.lowlevel.ParkingLot()
    return Gate(one, moved), Gate(other, moved)


async def test_open_gate() -> None:
    """An open gate is a socket that counts."""
    one, other = gate_pair()
    async with one, other:
        with trio.fail_after(CAP_S):
            await one.send_all(b"hello")
            assert one.try_send(b" world") == 6
            await one.wait_send_all_might_not_block()
            assert await other.receive_some() == b"hello world"
        assert (one.sent, other.received, one.received, other.sent) == (11, 11, 0, 0)
        assert not one.torn.is_set()


async def test_closing_gate() -> None:
    """A closing gate takes the bytes it has room for, and tells when a write was cut short."""
    one, other = gate_pair()
    async with one, other:
        one.room = 3
        assert one.try_send(b"ab") == 2
        assert not one.torn.is_set()
        assert one.try_send(b"cd") == 1
        assert one.torn.is_set()
        assert one.try_send(b"d") == 0
        with trio.fail_after(CAP_S):
            assert await other.receive_some() == b"abc"


async def test_closed_gate_never_becomes_writable() -> None:
    """A closed gate looks like a full send buffer."""
    one, other = gate_pair()
    async with one, other:
        one.room = 1
        with trio.fail_after(CAP_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send_all, b"ab")
                await trio.testing.wait_all_tasks_blocked()
                assert await other.receive_some() == b"a"
                assert len(nursery.child_tasks) == 1
                nursery.cancel_scope.cancel()


async def test_aborted_gate() -> None:
    """Whoever waits for a closed gate to cut a write short is woken by its end."""
    one, other = gate_pair()
    async with other:
        assert not one.over
        one.abort()
        assert one.torn.is_set()
        assert one.over


async def test_quiet() -> None:
    """It is quiet once each end has read what the other's kernel took, or is over."""
    gates = Gates()
    (lower,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener = GatedListener(gates, lower)
    with trio.fail_after(CAP_S):
        async with listener, await gates.open_stream("127.0.0.1", listener.port) as client:
            server = await listener.accept()
            async with server:
                assert gates.pair() == (client, server)
                await server.send_all(b"x")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(gates.quiet)
                    await trio.testing.wait_all_tasks_blocked()
                    assert len(nursery.child_tasks) == 1
                    await client.receive_some()
                await client.send_all(b"y")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(gates.quiet)
                    await trio.testing.wait_all_tasks_blocked()
                    assert len(nursery.child_tasks) == 1
                    server.abort()


async def test_listener_closes() -> None:
    """Closing the listener closes the one below."""
    (lower,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener = GatedListener(Gates(), lower)
    await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()

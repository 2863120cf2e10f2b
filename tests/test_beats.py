"""One heartbeat task for all the peers of a server."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
import trio
from websockets.frames import Frame, Opcode

from tests.strangers import Stranger, complaints, open_site
from tests.testing.support import virtual
from trio_rt import JsonCodec, Liveness, Message, Meta
from trio_rt.testing import VirtualNetwork, jump_wall_clock

BRISK = Liveness(interval_s=3, timeout_s=2)

#: A server's ping on the wire: it has no mask and no payload.
PING_BYTES = 2

#: Both ways, from the server's last byte in to the moment that a test can see it.
LATENCY_S = 0.02


def until_gone(ends: dict[str, float]) -> Callable[[Any], Awaitable[None]]:
    """A handler that notes when its streams end, under the path of its client."""

    async def handler(peer: Any) -> None:
        with peer.subscribe() as stream:
            async for _ in stream:
                pass
        ends[peer.handshake.path] = trio.current_time()

    return handler


async def answer(stranger: Stranger) -> None:
    """Read, and so answer pings, to the end."""
    await stranger.read_all()


@virtual
async def test_a_half_open_link_is_dropped() -> None:
    """A client that vanished is dropped `interval_s + timeout_s` after its last byte."""
    ends: dict[str, float] = {}
    async with open_site(until_gone(ends), codec="raw", liveness=BRISK) as site:
        stranger = await site.enter("/a")
        site.nursery.start_soon(answer, stranger)
        await trio.sleep(20)
        assert not ends
        await stranger.send("a last byte")
        last = trio.current_time()
        await trio.sleep(2 * LATENCY_S)
        site.network.cut(how="vanish")
        await trio.sleep(20)
        assert ends["/a"] == pytest.approx(last + LATENCY_S + 5)
        assert site.server.connections == 0


@virtual
async def test_a_client_that_does_not_answer_is_dropped() -> None:
    """So is one whose TCP is alive, and that answers no ping."""
    ends: dict[str, float] = {}
    async with open_site(until_gone(ends), codec="raw", liveness=BRISK) as site:
        stranger = await site.enter("/a")
        entered = trio.current_time()
        await stranger.read(answers=False)
        assert stranger.pings == 1
        await trio.sleep(1)
        assert 2 <= ends["/a"] - entered <= 5 + LATENCY_S


@virtual
async def test_any_byte_is_life() -> None:
    """A client that answers no ping but sends something, if only a part of a frame, stays."""
    ends: dict[str, float] = {}
    async with open_site(until_gone(ends), codec="raw", liveness=BRISK) as site:
        stranger = await site.enter("/a")
        for byte in Frame(Opcode.TEXT, b"x" * 20).serialize(mask=True):
            await stranger.send_raw(bytes([byte]))
            await trio.sleep(2)
        assert not ends


@virtual
async def test_a_hundred_peers_each_at_its_time() -> None:
    """Each is dropped at its own time, and those that answer stay."""
    ends: dict[str, float] = {}
    last: dict[str, float] = {}

    async def client(site: Any, number: int) -> None:
        stranger = await site.enter(f"/{number}")
        with trio.move_on_after(number * 0.37 if number % 2 else 90):
            await answer(stranger)
        await stranger.send("a last byte")
        last[f"/{number}"] = trio.current_time() + LATENCY_S

    async with open_site(until_gone(ends), codec="raw", liveness=BRISK) as site:
        for number in range(100):
            site.nursery.start_soon(client, site, number)
        await trio.sleep(60)
        assert len(ends) == 50
        for path, end in ends.items():
            assert int(path[1:]) % 2
            assert end == pytest.approx(last[path] + 5)
        assert len({round(end, 3) for end in ends.values()}) == 50
        await trio.sleep(60)
        assert len(ends) == 100
        assert site.server.connections == 0


@virtual
async def test_first_pings_are_spread() -> None:
    """Clients that came together get their first ping at different times of an interval."""
    times: list[float] = []

    async def client(site: Any) -> None:
        stranger = await site.enter()
        while not stranger.pings:
            stranger._note(await first_frame(stranger))
        times.append(trio.current_time() - began)

    async def first_frame(stranger: Stranger) -> Frame:
        assert await stranger.stream.receive_some()
        return Frame(Opcode.PING, b"")

    async with open_site(until_gone({}), codec="raw", liveness=Liveness(interval_s=10)) as site:
        began = trio.current_time() + 5 * LATENCY_S
        for _ in range(50):
            site.nursery.start_soon(client, site)
        await trio.sleep(11)
    assert len(times) == 50
    assert len({round(time, 2) for time in times}) > 40
    assert min(times) < 1.5
    assert 8.5 < max(times) <= 10


@virtual
async def test_a_later_peer_may_be_due_first() -> None:
    """A new peer is looked after in time though an older one has a turn before its own."""
    ends: dict[str, float] = {}
    liveness = Liveness(interval_s=0.5, timeout_s=0.5)
    async with open_site(until_gone(ends), codec="raw", liveness=liveness) as site:
        first = await site.enter("/first")
        site.nursery.start_soon(answer, first)
        for number in range(20):
            await site.enter(f"/{number}")
            await trio.sleep(0.123)
        await trio.sleep(1)
        assert len(ends) == 20


@virtual
async def test_without_liveness_nobody_is_dropped() -> None:
    """`liveness=None`: no ping, and a half-open link stays for ever."""
    ends: dict[str, float] = {}
    async with open_site(until_gone(ends), codec="raw", liveness=None) as site:
        stranger = await site.enter("/a")
        with trio.move_on_after(100):
            await stranger.read()
        assert stranger.pings == 0
        site.network.cut(how="vanish")
        await trio.sleep(400)
        assert not ends
        assert site.server.connections == 1


def heartbeats(messages: Iterable[str | bytes]) -> list[Message[Any]]:
    codec = JsonCodec()
    return [message for data in messages for message in codec.decode(data)]


@virtual
async def test_heartbeat_messages() -> None:
    """`beat="both"`: with each ping goes a message of the type `heartbeat`."""
    liveness = Liveness(interval_s=3, timeout_s=2, beat="both")
    async with open_site(until_gone({}), liveness=liveness) as site:
        stranger = await site.enter()
        seen: list[str | bytes] = []
        with trio.move_on_after(30):
            while (frame := await stranger.read()) is not None:
                seen.append(bytes(frame.data))
        assert {message.type for message in heartbeats(seen)} == {"heartbeat"}
        assert stranger.pings == len(seen)
        assert 9 <= len(seen) <= 11


@virtual
async def test_no_heartbeat_messages_unless_asked_for() -> None:
    """`beat="ping"`: nothing but pings."""
    async with open_site(until_gone({}), liveness=BRISK) as site:
        stranger = await site.enter()
        with trio.move_on_after(30):
            assert await stranger.read() is None
        assert 9 <= stranger.pings <= 11


class BrokenHeartbeats(JsonCodec):
    """A foreign codec with a bug."""

    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        if type == "heartbeat":
            raise RuntimeError("oops")
        return super().encode(type, payload, meta)


@virtual
async def test_a_heartbeat_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A codec that cannot encode a heartbeat ends the links that need it, not the server."""
    ends: dict[str, float] = {}
    liveness = Liveness(interval_s=3, timeout_s=2, beat="both")
    async with open_site(until_gone(ends), codec=BrokenHeartbeats(), liveness=liveness) as site:
        stranger = await site.enter("/a")
        assert await stranger.read() is None
        assert stranger.code == 1011
        await trio.sleep(1)
        assert list(ends) == ["/a"]
        assert await site.enter("/b")
    assert complaints(caplog) == ["the heartbeat failed; that link ends"]


@virtual
async def test_a_machine_that_slept() -> None:
    """A wall clock that ran ahead means sleep: all peers are pinged at once, and die early."""
    ends: dict[str, float] = {}
    liveness = Liveness(interval_s=300, timeout_s=2)
    async with open_site(until_gone(ends), codec="raw", liveness=liveness) as site:
        stranger = await site.enter("/a")
        site.nursery.start_soon(answer, stranger)
        await site.enter("/gone")
        jump_wall_clock(3600)
        await trio.sleep(20)
        assert stranger.pings >= 1
        assert list(ends) == ["/gone"]


@virtual
async def test_peers_that_have_left_are_forgotten() -> None:
    """The heartbeat task keeps nothing of a peer that has left for longer than an interval."""
    left: list[weakref.ref[Any]] = []

    async def handler(peer: Any) -> None:
        left.append(weakref.ref(peer._link))
        await until_gone({})(peer)

    async with open_site(handler, codec="raw", liveness=BRISK) as site:
        for _ in range(20):
            stranger = await site.enter()
            await stranger.close()
        assert len(left) == 20
        await trio.sleep(6)
        gc.collect()
        assert [reference() for reference in left] == [None] * 20


@virtual
async def test_a_program_that_blocks_kills_nobody() -> None:
    """After the loop stood still for a minute all healthy peers are still there."""
    ends: dict[str, float] = {}
    async with open_site(until_gone(ends), codec="raw", liveness=BRISK) as site:
        for number in range(20):
            site.nursery.start_soon(answer, await site.enter(f"/{number}"))
        for _ in range(5):
            await trio.sleep(3.3)
            site.network.jump_clock(60)
        await trio.sleep(10)
        assert not ends
        assert site.server.connections == 20


class Steps(trio.abc.Instrument):
    """The most bytes that the heartbeat task sent in one step."""

    def __init__(self, network: VirtualNetwork) -> None:
        self.most = 0
        self._network = network

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self._network.statistics().bytes_to_clients

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("Beats.run"):
            sent = self._network.statistics().bytes_to_clients - self._before
            self.most = max(self.most, sent)


@virtual
async def test_many_beats_at_once_leave_room_for_others() -> None:
    """When 150 peers are due at once, the other tasks get their turns in between."""
    async with open_site(until_gone({}), codec="raw", liveness=BRISK) as site:
        strangers = [await site.dial() for _ in range(150)]
        for stranger in strangers:
            await stranger.shake()
            site.nursery.start_soon(answer, stranger)
        await trio.sleep(10)
        steps = Steps(site.network)
        trio.lowlevel.add_instrument(steps)
        jump_wall_clock(3600)
        site.network.jump_clock(2.9)
        await trio.sleep(10)
        trio.lowlevel.remove_instrument(steps)
        assert {stranger.pings >= 3 for stranger in strangers} == {True}
        assert 32 * PING_BYTES < steps.most <= 64 * PING_BYTES

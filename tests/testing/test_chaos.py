from __future__ import annotations

import collections
import math

import pytest
import trio
import trio.testing

from trio_rt.errors import OptionError
from trio_rt.testing import Chaos, Fault, FaultKind, LinkProfile, VirtualNetwork, run

from .support import open_pair, virtual

CUTS = {"rst", "fin", "vanish"}


def test_plan_is_the_seeds() -> None:
    """One seed has one plan and profile; another has others."""
    assert (Chaos(1).plan, Chaos(1).profile) == (Chaos(1).plan, Chaos(1).profile)
    assert Chaos(1).plan != Chaos(2).plan
    assert Chaos(1).profile != Chaos(2).profile


def test_every_plan_has_three_cuts() -> None:
    """Each of 200 plans has at least three cuts, at bytes and at times, in both directions."""
    plans = [Chaos(seed).plan for seed in range(200)]
    cuts = [[fault for fault in plan if fault.kind in CUTS] for plan in plans]
    assert min(len(faults) for faults in cuts) == 3
    flat = [fault for faults in cuts for fault in faults]
    assert {fault.at_byte is None for fault in flat} == {True, False}
    assert {fault.towards for fault in flat} == {"server", "client"}


def test_each_seed_draws_its_own_mix() -> None:
    """Every kind of fault is in some plans and in others not at all; so are the profile's."""
    chaos = [Chaos(seed) for seed in range(200)]
    seen = collections.Counter(kind for one in chaos for kind in {fault.kind for fault in one.plan})
    assert set(seen) == CUTS | {"stall", "refuse", "black_hole", "jump"}
    assert all(20 < count < 180 for count in seen.values())
    for quiet in ("jitter_s", "rechunk", "short_writes"):
        assert 60 < sum(getattr(one.profile, quiet) == 0 for one in chaos) < 140
    assert 60 < sum(math.isinf(one.profile.bandwidth_bytes_per_s) for one in chaos) < 140


def test_kinds_restrict_the_plan() -> None:
    """Only the kinds that are asked for are drawn, and one of them must be a cut."""
    kinds = {fault.kind for seed in range(50) for fault in Chaos(seed, kinds=["fin", "jump"]).plan}
    assert kinds == {"fin", "jump"}
    with pytest.raises(OptionError, match="kinds"):
        Chaos(1, kinds=["stall"])


def test_pause_bounds_the_waits() -> None:
    """No fault waits longer than `pause_s` after the one before it."""
    waits = [fault.wait_s for seed in range(50) for fault in Chaos(seed, pause_s=2.0).plan]
    assert 1.5 < max(waits) <= 2.0


async def _keep_dialling(network: VirtualNetwork) -> None:
    while True:
        with trio.move_on_after(20):
            try:
                async with await network.open_stream("server", 80) as stream:
                    while True:
                        await stream.send_all(bytes(100))
                        await stream.receive_some()
                        await trio.sleep(0.3)
            except (trio.BrokenResourceError, OSError):
                await trio.sleep(0.1)


async def _carry_out(seed: int) -> None:
    network = VirtualNetwork(seed)
    chaos = Chaos(seed)

    async def echo(stream: trio.abc.Stream) -> None:
        async with stream:
            try:
                async for chunk in stream:
                    await stream.send_all(chunk)
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, [network.listen("server", 80)])
        nursery.start_soon(_keep_dialling, network)
        await chaos.run(network)
        nursery.cancel_scope.cancel()
    assert network.statistics().cuts == sum(fault.kind in CUTS for fault in chaos.plan)
    events = [event for _, event in network.trace]
    for kind in {fault.kind for fault in chaos.plan} - CUTS:
        word = {"black_hole": "server: silence", "refuse": "server: refuse"}.get(kind, kind)
        assert any(word in event for event in events)
    assert network.profile == chaos.profile


@pytest.mark.parametrize("seed", range(10))
def test_run_carries_out_the_plan(seed: int) -> None:
    """Every fault of the plan strikes, cuts as often as planned, and the profile is set."""
    run(_carry_out, seed, seed=seed)


def _one(fault: Fault) -> Chaos:
    chaos = Chaos(1)
    vars(chaos)["plan"] = (fault,)
    return chaos


@pytest.mark.parametrize("kind", ["refuse", "black_hole"])
@virtual
async def test_a_bar_is_lifted_when_cancelled(kind: FaultKind) -> None:
    """Chaos that is cancelled amid a refusal leaves hosts that accept."""
    network = VirtualNetwork(1)
    network.listen("server", 80)
    with trio.move_on_after(5):
        await _one(Fault(kind=kind, wait_s=0, lasts_s=100)).run(network)
    await network.open_stream("server", 80)
    assert len(network.connections) == 1


@virtual
async def test_a_stall_ends_when_cancelled() -> None:
    """Chaos that is cancelled amid a stall lets the bytes go on."""
    network = VirtualNetwork(1)
    client, server = await open_pair(network)
    await client.send_all(b"x")
    with trio.move_on_after(5):
        await _one(Fault(kind="stall", wait_s=0, lasts_s=100)).run(network)
    assert await server.receive_some() == b"x"


@virtual
async def test_a_connection_that_closes_first_does_not_count() -> None:
    """A cut whose connection is closed by its program befalls the next one."""
    network = VirtualNetwork(1)
    client, _ = await open_pair(network)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_one(Fault(kind="rst", wait_s=0, at_byte=100)).run, network)
        await trio.sleep(1)
        client.abort()
        await trio.sleep(1)
        client, _ = await open_pair(network, port=81)
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


@virtual
async def test_cut_gives_up_without_a_connection() -> None:
    """A cut waits a minute for a connection, and then lets it be."""
    began = trio.current_time()
    await _one(Fault(kind="rst", wait_s=1)).run(VirtualNetwork(1))
    assert trio.current_time() - began == 61


@virtual
async def test_cut_at_a_byte_that_never_comes() -> None:
    """An idle connection is cut after ten seconds all the same."""
    network = VirtualNetwork(1, profile=LinkProfile())
    network.listen("server", 80)
    stream = await network.open_stream("server", 80)
    began = trio.current_time()
    await _one(Fault(kind="rst", wait_s=0, at_byte=1000)).run(network)
    assert trio.current_time() - began == 10
    with pytest.raises(trio.BrokenResourceError):
        stream.try_send(b"x")


async def _steps_before_cancel(seed: int, most_steps: int) -> int:
    steps = 0
    with Chaos(seed).cancel_somewhere(most_steps) as scope:
        for _ in range(2 * most_steps):
            await trio.lowlevel.checkpoint()
            steps += 1
    assert scope.cancelled_caught
    await trio.lowlevel.checkpoint()
    return steps


def test_cancel_somewhere_cancels_at_any_step() -> None:
    """The moment is the seed's, and from the first step to the last."""
    counts = [run(_steps_before_cancel, seed, 30, seed=seed) for seed in range(100)]
    assert counts == [run(_steps_before_cancel, seed, 30, seed=seed) for seed in range(100)]
    assert set(counts) <= set(range(30))
    assert {0, 1, 2} <= set(counts)
    assert max(counts) > 20


@virtual
async def test_cancel_somewhere_counts_all_tasks() -> None:
    """A block that only waits is cancelled by the steps of others."""

    async def busy() -> None:
        for _ in range(5000):
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        with Chaos(1).cancel_somewhere() as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


@virtual
async def test_cancel_somewhere_ends_with_its_block() -> None:
    """A block that is over is not cancelled, and nothing of it stays in the run."""
    with Chaos(1).cancel_somewhere(1) as scope:
        pass
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    assert not scope.cancel_called

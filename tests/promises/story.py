"""A seeded story in the virtual network: a real server, one client, faults, and an end."""

from __future__ import annotations

from typing import Final, get_args

import trio

from trio_rt.options import WireName
from trio_rt.testing import Chaos, FaultKind, VirtualNetwork, jump_wall_clock, run

from .carriers import HOST, url
from .logs import listening_to_logs
from .plans import Plan, draw_plan
from .records import Story
from .scene import Scene, serve_scene

__all__ = ["DRAIN_S", "tell"]

#: Virtual seconds after which a story hangs. The longest take about 300.
LIMIT_S: Final = 1500.0

#: About the longest time between two faults.
PAUSE_S: Final = 1.5

#: Over which a server that drains spreads its closes.
DRAIN_S: Final = 1.0

#: How long a server that restarts is away.
RESTART_S: Final = 0.5

#: A machine that sleeps does so for an hour.
ASLEEP_S: Final = 3600.0

#: The jumps of a story are its own, at chosen moments.
KINDS: Final = tuple(kind for kind in get_args(FaultKind) if kind != "jump")


async def _disturb(scene: Scene, chaos: Chaos, network: VirtualNetwork) -> None:
    try:
        await chaos.run(network)
    finally:
        scene.faults_over.set()


async def _restart(scene: Scene, network: VirtualNetwork, port: int) -> None:
    await trio.sleep(scene.plan.restarts_at_s)
    scene.story.restarted_at = trio.current_time()
    scene.server_scope.cancel()
    await trio.sleep(RESTART_S)
    await scene.world.start(serve_scene, scene, [network.listen(HOST, port)])


async def _fall_asleep(plan: Plan) -> None:
    await trio.sleep(plan.sleeps_at_s)
    jump_wall_clock(ASLEEP_S)


async def _tell(plan: Plan) -> Story:
    tasks = trio.lowlevel.current_statistics().tasks_living
    network = VirtualNetwork(plan.seed)
    chaos = Chaos(plan.seed, kinds=KINDS, pause_s=PAUSE_S)
    port = 443 if plan.carrier == "tls" else 80
    async with trio.open_nursery() as world:
        scene = Scene(plan, world, network)
        await world.start(serve_scene, scene, [network.listen(HOST, port)])
        async with trio.open_nursery() as faults:
            faults.start_soon(_disturb, scene, chaos, network)
            faults.start_soon(_restart, scene, network, port)
            faults.start_soon(_fall_asleep, plan)
            await scene.run_client(url(plan), chaos)
            faults.cancel_scope.cancel()
        if plan.server_drains and not scene.server_scope.cancel_called:
            scene.story.drained_at = trio.current_time()
            await scene.server.drain(DRAIN_S)
            scene.story.drain_s = trio.current_time() - scene.story.drained_at
        scene.server_scope.cancel()
    scene.finish()
    story = scene.story
    story.debris += [f"a connection: {link}" for link in network.connections]
    left = trio.lowlevel.current_statistics().tasks_living - tasks
    if left:
        story.debris.append(f"{left} tasks")
    story.trace_hash = network.trace_hash()
    return story


def tell(seed: int, wire: WireName = "websockets") -> Story:
    """Run the story of `seed` in virtual time, and return what was observed."""
    found: list[str] = []
    with listening_to_logs(found):
        story = run(_tell, draw_plan(seed, wire=wire), seed=seed, limit_s=LIMIT_S)
    story.logged = found
    return story

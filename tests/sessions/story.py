"""A seeded story in the virtual network: a real server, one client, faults, and an end."""

from __future__ import annotations

from typing import Any, Final, get_args

import trio

from trio_rt import Message
from trio_rt.options import WireName
from trio_rt.protocol.codec import payload_reader, resolve_codec
from trio_rt.protocol.inbox import HEARTBEAT
from trio_rt.testing import Chaos, FaultKind, VirtualNetwork, run

from ..promises.logs import listening_to_logs
from .plans import CodecName, SessionPlan, draw_session_plan
from .scene import Scene, SessionStory, serve_scene

__all__ = ["tell"]

#: Virtual seconds after which a story hangs.
LIMIT_S: Final = 1500.0

#: About the longest time between two faults.
PAUSE_S: Final = 1.5

#: Over which a server that drains spreads its closes.
DRAIN_S: Final = 1.0

#: How long a server that restarts is away.
RESTART_S: Final = 0.5

#: How long readers may take for what is left in their streams.
LEFTOVERS_S: Final = 1.0

PORT: Final = 80
KINDS: Final = tuple(kind for kind in get_args(FaultKind) if kind != "jump")


async def _disturb(scene: Scene, chaos: Chaos, network: VirtualNetwork) -> None:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chaos.run, network)
            nursery.start_soon(_restart, scene, network)
    finally:
        scene.faults_over.set()


async def _restart(scene: Scene, network: VirtualNetwork) -> None:
    """A crash: all sessions are lost."""
    if scene.plan.restarts_at_s < LIMIT_S:
        await trio.sleep(scene.plan.restarts_at_s)
        scene.story.restarted_at = trio.current_time()
        scene.server_scope.cancel()
        await trio.sleep(RESTART_S)
        await scene.world.start(serve_scene, scene, [network.listen("server", PORT)])


async def _tell(plan: SessionPlan) -> SessionStory:
    tasks = trio.lowlevel.current_statistics().tasks_living
    network = VirtualNetwork(plan.seed)
    chaos = Chaos(plan.seed, kinds=KINDS, pause_s=PAUSE_S)
    async with trio.open_nursery() as world:
        scene = Scene(plan, world, network)
        with scene.story.spy.watching():
            await world.start(serve_scene, scene, [network.listen("server", PORT)])
            async with trio.open_nursery() as faults:
                faults.start_soon(_disturb, scene, chaos, network)
                await scene.run_client(chaos)
                faults.cancel_scope.cancel()
            await _end_server(scene)
            await _wait_ends(scene)
    scene.finish()
    story = scene.story
    story.debris += [f"a connection: {link}" for link in network.connections]
    left = trio.lowlevel.current_statistics().tasks_living - tasks
    if left:
        story.debris.append(f"{left} tasks")
    story.trace_hash = network.trace_hash()
    return story


async def _end_server(scene: Scene) -> None:
    if scene.plan.server_drains and not scene.server_scope.cancel_called:
        scene.story.drained_at = trio.current_time()
        await scene.servers[-1].drain(DRAIN_S)
        scene.story.drain_s = trio.current_time() - scene.story.drained_at
    scene.server_scope.cancel()


async def _wait_ends(scene: Scene) -> None:
    """Every session has ended, once its server and its client are over, and its streams end."""
    with trio.move_on_after(LEFTOVERS_S) as patience:
        for life in scene.story.lives.values():
            await life.ended.wait()
    if patience.cancelled_caught:
        late = [name for name, life in scene.story.lives.items() if not life.ended.is_set()]
        scene.story.debris.append(f"the sessions of {late} have not ended")
        scene.world.cancel_scope.cancel()


def _show_arrivals(story: SessionStory) -> None:
    """The taps: what came in, with payloads as streams have them."""
    read: Any = payload_reader(resolve_codec(story.plan.codec), Any)
    sides = [*([story.client] if hasattr(story, "client") else []), *story.peers]
    for side in sides:
        for item in story.lives[side.name].items:
            if isinstance(item, Message):
                if item.type == HEARTBEAT:
                    continue
                item = Message(
                    item.type, read(item.payload), item.id, item.timestamp, item.priority, item.key
                )
            side.tap.items.append(item)


def tell(seed: int, codec: CodecName | None = None, wire: WireName | None = None) -> SessionStory:
    """Run the story of `seed` in virtual time, and return what was observed."""
    found: list[str] = []
    with listening_to_logs(found):
        plan = draw_session_plan(seed, codec, wire)
        story = run(_tell, plan, seed=seed, limit_s=LIMIT_S)
    _show_arrivals(story)
    story.logged = found
    return story

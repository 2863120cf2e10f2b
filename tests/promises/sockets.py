"""A story over real sockets: client and server in this process, a relay in another between them."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from trio_rt import Liveness, Reconnect
from trio_rt.options import WireName

from .carriers import HOST
from .logs import listening_to_logs
from .plans import Plan, draw_plan
from .records import Story
from .scene import Scene, serve_scene
from .story import DRAIN_S

__all__ = ["LIMIT_S", "RelayProcess", "draw_talk", "tell_over_sockets"]

ROOT: Final = Path(__file__).parents[2]

#: For all of one story, the start of the relay's process included.
LIMIT_S: Final = 60.0


class RelayProcess:
    """`python -m trio_rt.testing.relay`, in a process of its own."""

    def __init__(self, process: trio.Process, port: int, read: bytes) -> None:
        self._process = process
        self._read = read
        self.port = port

    async def ask(self, command: str) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send_all(command.encode() + b"\n")
        while b"\n" not in self._read:
            self._read += await process.stdout.receive_some()
        answer, _, self._read = self._read.partition(b"\n")
        assert answer == b"ok", answer


@asynccontextmanager
async def _relay_to(port: int) -> AsyncIterator[RelayProcess]:
    command = [sys.executable, "-m", "trio_rt.testing.relay", "127.0.0.1", str(port)]
    start = partial(
        trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    async with trio.open_nursery() as nursery:
        process = await nursery.start(start)
        read = b""
        while b"\n" not in read:
            read += await process.stdout.receive_some()
        line, _, read = read.partition(b"\n")
        yield RelayProcess(process, int(line), read)
        nursery.cancel_scope.cancel()


def draw_talk(wire: WireName, *, seeds: range, pace: float) -> Plan:
    """A plan with much talk, quick redials, and no link lost for another reason than a fault."""
    plan = draw_plan(0, pace=pace, wire=wire)
    talk = [sender for seed in seeds for sender in draw_plan(seed, pace=pace).senders]
    return attrs.evolve(
        plan,
        carrier="direct",
        senders=tuple(attrs.evolve(sender, lasts_s=math.inf) for sender in talk),
        peers=tuple(attrs.evolve(peer, lasts_s=math.inf) for peer in plan.peers),
        reconnect=Reconnect(first_s=0.02, cap_s=0.1, min_uptime_s=LIMIT_S),
        liveness=Liveness(interval_s=1.0, timeout_s=5.0),
        server_liveness=Liveness(interval_s=1.0, timeout_s=5.0),
        open_timeout_s=10.0,
        close_timeout_s=10.0,
        server_close_timeout_s=10.0,
        ending="return",
        jumps=False,
        greets=False,
        restarts_at_s=math.inf,
        sleeps_at_s=math.inf,
    )


async def tell_over_sockets(
    plan: Plan, disturb: Callable[[Scene, RelayProcess], Awaitable[None]]
) -> Story:
    """Run the story of `plan` while `disturb` commands the relay; it ends `faults_over`."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    found: list[str] = []
    tls = plan.carrier == "tls"
    with trio.fail_after(LIMIT_S), listening_to_logs(found):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with _relay_to(port) as relay, trio.open_nursery() as world:
            scene = Scene(plan, world, None, relay.port)
            await world.start(serve_scene, scene, listeners)
            world.start_soon(disturb, scene, relay)
            await scene.run_client(f"{'wss' if tls else 'ws'}://{HOST if tls else '127.0.0.1'}/")
            await scene.server.drain(DRAIN_S)
        scene.finish()
    story = scene.story
    story.logged = found
    left = trio.lowlevel.current_statistics().tasks_living - tasks
    if left:
        story.debris.append(f"{left} tasks")
    return story

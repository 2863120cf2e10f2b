from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args

import attrs
import pytest
import trio

from trio_rt import Liveness, Reconnect
from trio_rt._dial import WireName

from .checks import breaches
from .checks_sends import sides
from .logs import listening_to_logs
from .plans import Plan, draw_plan
from .scene import Scene, serve_scene
from .story import DRAIN_S

ROOT: Final = Path(__file__).parents[2]

#: For all of one test, the start of the relay's process included.
LIMIT_S: Final = 60.0

#: Of the durations that a plan draws.
PACE: Final = 0.02

#: The plans whose senders all talk at once, so that there is something to cut.
TALK: Final = range(5)

#: What the relay does to one link after another, and under which conditions
#: the next of them travel. Not corrupted: without TLS nobody would notice.
FAULTS: Final = (
    *("rst", "cut 700", "rate 300000", "cut 5000 fin", "fin", "rate 0", "delay 0.01 0.02"),
    *("cut 9000 client", "split 100 server", "cut 9000 server", "pass", "cut 40000"),
)

#: Those that end a link.
ENDS: Final = [fault for fault in FAULTS if fault.startswith(("rst", "fin", "cut"))]

#: A `cut` that finds too few bytes is made a reset.
PATIENCE_S: Final = 1.0


class _Relay:
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
        assert answer == b"ok"


@asynccontextmanager
async def _relay_to(port: int) -> AsyncIterator[_Relay]:
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
        yield _Relay(process, int(line), read)
        nursery.cancel_scope.cancel()


def _plan(codec: Literal["raw", "json", "msgpack"], wire: WireName) -> Plan:
    """Much talk, quick redials, and no link that is lost for another reason than a fault."""
    plan = draw_plan(0, pace=PACE, wire=wire)
    talk = tuple(sender for seed in TALK for sender in draw_plan(seed, pace=PACE).senders)
    peers = tuple(attrs.evolve(peer, lasts_s=math.inf) for peer in plan.peers)
    return attrs.evolve(
        plan,
        codec=codec,
        carrier="direct",
        senders=tuple(attrs.evolve(sender, lasts_s=math.inf) for sender in talk),
        # One link is closed by the server's handler.
        peers=(*peers[:2], attrs.evolve(peers[2], lasts_s=0.1, ends="return"), *peers[3:]),
        reconnect=Reconnect(first_s=0.02, cap_s=0.1, min_uptime_s=LIMIT_S),
        liveness=Liveness(interval_s=1.0, timeout_s=5.0),
        server_liveness=Liveness(interval_s=1.0, timeout_s=5.0),
        open_timeout_s=10.0,
        close_timeout_s=10.0,
        server_close_timeout_s=10.0,
        ending="return",
        jumps=False,
    )


async def _disturb(scene: Scene, relay: _Relay) -> None:
    """Every fault when the client has a link, and the last link is left alone."""
    links = 1
    for fault in FAULTS:
        await scene.wait_links(links)
        links = len(scene.story.links)
        await relay.ask(fault)
        if fault not in ENDS:
            continue
        links += 1
        with trio.move_on_after(PATIENCE_S if fault.startswith("cut") else math.inf) as patience:
            await scene.wait_links(links)
        if patience.cancelled_caught:
            await relay.ask("rst")
    await scene.wait_links(links)
    scene.faults_over.set()


@pytest.mark.parametrize("wire", get_args(WireName))
@pytest.mark.parametrize("codec", ["raw", "json", "msgpack"])
async def test_every_promise_holds_over_real_sockets(
    codec: Literal["raw", "json", "msgpack"], wire: WireName
) -> None:
    """The same story and checks over TCP: resets, ends and cuts in mid-frame by another process."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    found: list[str] = []
    with trio.fail_after(LIMIT_S), listening_to_logs(found):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with _relay_to(port) as relay, trio.open_nursery() as world:
            scene = Scene(_plan(codec, wire), world, None)
            await world.start(serve_scene, scene, listeners)
            world.start_soon(_disturb, scene, relay)
            await scene.run_client(f"ws://127.0.0.1:{relay.port}/")
            await scene.server.drain(DRAIN_S)
        scene.finish()
    story = scene.story
    story.logged = found
    assert breaches(story) == []
    assert len(story.links) >= len(ENDS) + 1
    assert story.left_at - story.body_ended_at < story.plan.close_timeout_s
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    outcomes = {str(sent.outcome) for side in sides(story) for sent in side.sent}
    assert {"written", "withdrawn", "None"} <= outcomes

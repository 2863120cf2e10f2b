from __future__ import annotations

import math
from typing import Final, Literal, get_args

import attrs
import pytest
import trio

from trio_rt.options import WireName

from .checks import breaches
from .checks_sends import sides
from .plans import Plan
from .scene import Scene
from .sockets import RelayProcess, draw_talk, tell_over_sockets

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


def _plan(codec: Literal["raw", "json", "msgpack"], wire: WireName) -> Plan:
    plan = draw_talk(wire, seeds=TALK, pace=PACE)
    peers = plan.peers
    return attrs.evolve(
        plan,
        codec=codec,
        # One link is closed by the server's handler.
        peers=(*peers[:2], attrs.evolve(peers[2], lasts_s=0.1, ends="return"), *peers[3:]),
    )


async def _disturb(scene: Scene, relay: RelayProcess) -> None:
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
    story = await tell_over_sockets(_plan(codec, wire), _disturb)
    assert breaches(story) == []
    assert len(story.links) >= len(ENDS) + 1
    assert story.left_at - story.body_ended_at < story.plan.close_timeout_s
    outcomes = {str(sent.outcome) for side in sides(story) for sent in side.sent}
    assert {"written", "withdrawn", "None"} <= outcomes

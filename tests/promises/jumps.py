"""A program that blocks its loop for longer than any silence may last."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs
import trio

from trio_rt import Liveness
from trio_rt.testing import VirtualNetwork

from .records import Jump, LinkRecord

__all__ = ["jump"]

#: A jump is this much longer than any silence is allowed to be.
JUMP_EXTRA_S: Final = 5.0

#: The clock jumps in idle seconds of a link this slow, to meet its pongs on the way.
JUMP_LATENCY_S: Final = 0.2

#: An empty ping of the client, with its mask, and the pong for it.
PING_BYTES: Final = 6
PONG_BYTES: Final = 2


async def jump(
    network: VirtualNetwork,
    liveness: Liveness,
    current: Callable[[], LinkRecord | None],
    jumps: list[Jump],
) -> None:
    """Let the clock jump over every deadline while a pong is on its way to the client.

    It is noted in `jumps`. Maybe there is no such moment, and no jump.
    """
    network.profile = attrs.evolve(
        network.profile,
        latency_s=JUMP_LATENCY_S,
        jitter_s=0.0,
        bandwidth_bytes_per_s=math.inf,
    )
    sent, pinged = 0, False
    for _ in range(int(4 * liveness.interval_s / JUMP_LATENCY_S)):
        await trio.sleep(JUMP_LATENCY_S / 2)
        link = current()
        if link is None or link.carrier is None or not link.carrier.alive:
            continue
        before, sent = sent, link.carrier.sent_bytes("server")
        if sent != before:
            pinged = sent - before == PING_BYTES
        under_way = link.carrier.sent_bytes("client") - link.carrier.read_bytes("client")
        if pinged and 0 < under_way <= PONG_BYTES:
            network.jump_clock(liveness.interval_s + liveness.timeout_s + JUMP_EXTRA_S)
            jumps.append(Jump(at=trio.current_time(), dial=link.dial))
            await trio.sleep(2 * JUMP_LATENCY_S)
            return

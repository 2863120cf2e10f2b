"""The scenarios: each disturbs a talk, and waits until it is one again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from trio_rt import Liveness, Priority

from . import kernel
from .books import HEAVY, LIGHT, Load
from .stage import Scenario, Skipped, Stage

__all__ = ["SCENARIOS"]

#: How long what can be lived with goes on.
WHILE_S: Final = 1.5

#: Dials that have to fail before a network that refuses them is mended.
DIALS: Final = 2


async def _narrow(stage: Stage) -> None:
    await kernel.limit_rate("2mbit")
    await trio.sleep(WHILE_S)
    stage.packets_hit = await kernel.held_back()


async def _lossy(stage: Stage) -> None:
    await kernel.lose(stage.port, 0.2)
    await trio.sleep(WHILE_S)
    stage.packets_hit = await kernel.heal()


async def _black_hole(stage: Stage) -> None:
    stage.fault_at = trio.current_time()
    await kernel.black_hole(stage.port)
    await stage.both_notice()
    stage.packets_hit = await kernel.heal()
    await stage.talk()


async def _reset(stage: Stage) -> None:
    stage.fault_at = trio.current_time()
    await kernel.reject(stage.port)
    await stage.both_notice()
    await stage.until("dials fail", lambda: stage.failed_dials >= DIALS)
    stage.packets_hit = await kernel.heal()
    await stage.talk()


async def _down(stage: Stage) -> None:
    stage.fault_at = trio.current_time()
    await kernel.link_down()
    await stage.both_notice()
    await stage.until("dials fail", lambda: stage.failed_dials >= DIALS)
    await kernel.link_up()
    await stage.talk()


async def _killed(stage: Stage) -> None:
    stage.fault_at = trio.current_time()
    if not await kernel.kill_sockets(stage.port):
        raise Skipped("this kernel kills no sockets (CONFIG_INET_DIAG_DESTROY)")
    await stage.both_notice()
    await stage.talk()


SCENARIOS: Final[Mapping[str, Scenario]] = {
    # Both ends together say nearly twice what gets through.
    "narrow": Scenario(
        act=_narrow,
        links=1,
        liveness=Liveness(interval_s=1.0, timeout_s=4.0),
        load=(*LIGHT, Load(Priority.LOW, 7_000, 0.05)),
    ),
    # Of TCP's retries one after the other may be lost; each waits twice as long.
    "lossy": Scenario(act=_lossy, links=1, liveness=Liveness(interval_s=1.0, timeout_s=8.0)),
    "black hole": Scenario(act=_black_hole, links=2, load=HEAVY),
    "reset": Scenario(act=_reset, links=2),
    "down": Scenario(act=_down, links=2),
    "killed": Scenario(act=_killed, links=2),
}

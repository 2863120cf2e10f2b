"""One fault on one wire: a story over real sockets, and what came of it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import attrs
import trio

from tests.promises.checks import breaches
from tests.promises.checks_sends import sides
from tests.promises.records import Story
from tests.promises.scene import Scene
from tests.promises.sockets import RelayProcess, draw_talk, tell_over_sockets
from trio_rt.options import WireName

from .table import Fault

__all__ = ["Result", "run"]

#: Of the durations that the plans draw, and the plans whose senders talk.
PACE: Final = 0.04
TALK: Final = range(40)

#: A `cut` that finds too few bytes is made a reset, and the story is no good.
PATIENCE_S: Final = 1.0

#: What a busy machine may be late by.
MARGIN_S: Final = 0.8


@attrs.frozen(kw_only=True)
class Result:
    """What one story came to. `noticed_s`: from a silent fault to the loss of its link."""

    fault: Fault
    wire: WireName
    links: int
    outcomes: Counter[str]
    delivered: int
    noticed_s: list[float]
    breaches: list[str]


class _Saboteur:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.noticed_s: list[float] = []
        #: Cuts that found too few bytes.
        self.replaced = 0

    async def run(self, scene: Scene, relay: RelayProcess) -> None:
        await scene.wait_links(1)
        if self.fault.loses:
            for number in range(1, self.fault.times + 1):
                await self._strike(scene, relay, number)
        else:
            await self._say(relay, self.fault.impose)
        scene.faults_over.set()

    async def _strike(self, scene: Scene, relay: RelayProcess, number: int) -> None:
        began = trio.current_time()
        await self._say(relay, self.fault.impose)
        cut = self.fault.impose[0].startswith("cut")
        with trio.move_on_after(PATIENCE_S if cut else math.inf) as patience:
            await scene.wait_lost(number)
        if patience.cancelled_caught:
            self.replaced += 1
            await relay.ask("rst")
            await scene.wait_lost(number)
        if self.fault.silent:
            self.noticed_s.append(trio.current_time() - began)
        await self._say(relay, self.fault.heal)
        await scene.wait_links(number + 1)

    async def _say(self, relay: RelayProcess, commands: tuple[str, ...]) -> None:
        for command in commands:
            await relay.ask(command)


async def run(fault: Fault, wire: WireName) -> Result:
    """Tell the story, and judge it."""
    saboteur = _Saboteur(fault)
    plan = attrs.evolve(
        draw_talk(wire, seeds=TALK, pace=PACE),
        codec="json",
        carrier="tls" if fault.tls else "direct",
        liveness=fault.liveness,
        server_liveness=fault.liveness,
    )
    story = await tell_over_sockets(plan, saboteur.run)
    return Result(
        fault=fault,
        wire=wire,
        links=len(story.links),
        outcomes=Counter(
            str(sent.outcome)
            for side in sides(story)
            for sent in side.sent
            if sent.outcome is not None
        ),
        delivered=sum(1 for side in sides(story) for _ in side.received()),
        noticed_s=saboteur.noticed_s,
        breaches=[*breaches(story), *_judge(story, saboteur)],
    )


def _judge(story: Story, saboteur: _Saboteur) -> list[str]:
    """What the checks of the promises cannot know of a real network."""
    found = []
    fault, noticed_s = saboteur.fault, saboteur.noticed_s
    if not any(True for _ in story.client.received()):
        found.append("nothing arrived at the client")
    if saboteur.replaced:
        found.append(f"{saboteur.replaced} cuts found too few bytes")
    expected = 1 + (fault.times if fault.loses else 0)
    if len(story.links) != expected:
        causes = [repr(link.cause) for link in story.links]
        found.append(f"{len(story.links)} links, not {expected}: {causes}")
    limit_s = fault.liveness.interval_s + fault.liveness.timeout_s + MARGIN_S
    if fault.silent and max(noticed_s) > limit_s:
        found.append(f"P7: noticed after {max(noticed_s):.2f} s, of {limit_s:.2f}")
    took_s = story.left_at - story.body_ended_at
    if took_s > story.plan.close_timeout_s:
        found.append(f"P6: connect() took {took_s:.2f} s to leave")
    return found

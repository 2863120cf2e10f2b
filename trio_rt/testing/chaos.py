"""A plan of faults, drawn by a seed.

Swarm style (Groce et al., "Swarm Testing", 2012): a seed draws not only when
each fault strikes but also which kinds it uses at all. Many bugs show only
where something is *absent*: with a reset in every run, no half-open link
lives long enough to matter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias, TypeVar, get_args

import attrs
import trio

from ..errors import OptionError
from ._profile import CutKind, LinkProfile, Towards, log_uniform
from .network import VirtualNetwork

T = TypeVar("T")

__all__ = ["Chaos", "Fault", "FaultKind"]

#: The cuts of `CutKind`, and: a stall of all connections, all hosts refusing
#: or swallowing dials for a while, and a jump of the clock.
FaultKind: TypeAlias = Literal["rst", "fin", "vanish", "stall", "refuse", "black_hole", "jump"]

_CUTS: Final[tuple[CutKind, ...]] = get_args(CutKind)

#: Each plan has this many cuts, or up to two more.
CUTS: Final = 3

#: How long a cut waits for a connection to cut.
PATIENCE_S: Final = 60.0

#: How long it waits for the byte at which to cut. Then it cuts at once.
BYTE_PATIENCE_S: Final = 10.0

#: A cut comes at a byte up to this one: the handshake is about 500 bytes, and
#: a batch of small messages a few thousand.
LAST_BYTE: Final = 8192


@attrs.frozen(kw_only=True)
class Fault:
    """One step of a plan."""

    kind: FaultKind
    #: Seconds after the step before it.
    wait_s: float
    #: A cut: after so many bytes of the connection, or at once.
    at_byte: int | None = None
    towards: Towards = "server"
    #: How long a stall, a refusal or a black hole lasts, or how far the clock jumps.
    lasts_s: float = 0.0


class Chaos:
    """The faults of one seed: `profile` and `plan`, to look at, and `run()`.

    `kinds` are those that the seed may choose from; at least one cut must be
    among them. `pause_s` is about the longest time between two faults.

        network = VirtualNetwork(seed)
        chaos = Chaos(seed)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_my_program, network)
            nursery.start_soon(chaos.run, network)
            async with connect(url, open_stream=network.open_stream) as conn:
                with chaos.cancel_somewhere():
                    await conn.deliver("order", {"id": 1})
    """

    def __init__(
        self,
        seed: int,
        *,
        kinds: Sequence[FaultKind] = get_args(FaultKind),
        pause_s: float = 5.0,
    ) -> None:
        self._random: Final = random.Random(f"{seed} chaos")
        self.profile: Final = _draw_profile(self._random)
        self.plan: Final = _draw_plan(self._random, kinds, pause_s)

    def __repr__(self) -> str:
        return f"<Chaos {self.profile} {self.plan}>"

    async def run(
        self,
        network: VirtualNetwork,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give the network the profile, then carry out the plan; returns after its last step.

        A cut befalls the newest connection, waiting for one up to a minute.
        Cancelled, it ends the stall or refusal that is in force.
        """
        network.profile = self.profile
        task_status.started()
        for fault in self.plan:
            await trio.sleep(fault.wait_s)
            await _STRIKES[fault.kind](network, fault)

    @contextmanager
    def cancel_somewhere(self, most_steps: int = 1000) -> Iterator[trio.CancelScope]:
        """Cancel the block at a random moment: after so many steps of any tasks.

        The number is drawn from 1 to `most_steps`, all magnitudes alike. A
        block that ends before it is not cancelled.
        """
        with trio.CancelScope() as scope:
            instrument = _CancelAfter(scope, log_uniform(self._random, most_steps))
            trio.lowlevel.add_instrument(instrument)
            try:
                yield scope
            finally:
                trio.lowlevel.remove_instrument(instrument)


class _CancelAfter(trio.abc.Instrument):
    """Cancels a scope before the n-th task step from now."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope = scope
        self._left = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def _cut(network: VirtualNetwork, fault: Fault) -> None:
    assert fault.kind in ("rst", "fin", "vanish")
    with trio.move_on_after(PATIENCE_S):
        while True:
            link = await network.wait_connection()
            if fault.at_byte is not None:
                link.cut_after(fault.at_byte, towards=fault.towards, how=fault.kind)
                with trio.move_on_after(BYTE_PATIENCE_S):
                    await link.wait_ended()
            if link.alive:
                link.cut(fault.kind)
            if link.cut_by:
                return


async def _stall(network: VirtualNetwork, fault: Fault) -> None:
    network.stall()
    try:
        await trio.sleep(fault.lasts_s)
    finally:
        network.resume()


async def _bar(network: VirtualNetwork, fault: Fault) -> None:
    bar = network.refuse if fault.kind == "refuse" else network.black_hole
    for host in network.hosts:
        bar(host)
    try:
        await trio.sleep(fault.lasts_s)
    finally:
        for host in network.hosts:
            network.accept(host)


async def _jump(network: VirtualNetwork, fault: Fault) -> None:
    await trio.lowlevel.checkpoint()
    network.jump_clock(fault.lasts_s)


_STRIKES: Final[dict[FaultKind, Callable[[VirtualNetwork, Fault], Awaitable[None]]]] = {
    "rst": _cut,
    "fin": _cut,
    "vanish": _cut,
    "stall": _stall,
    "refuse": _bar,
    "black_hole": _bar,
    "jump": _jump,
}


def _draw_profile(randomness: random.Random) -> LinkProfile:
    latency_s = math.exp(randomness.uniform(math.log(0.001), math.log(0.2)))
    bandwidth = math.exp(randomness.uniform(math.log(10_000), math.log(10_000_000)))
    return LinkProfile(
        latency_s=latency_s,
        jitter_s=_sometimes(randomness, randomness.uniform(0, latency_s), 0.0),
        rechunk=_sometimes(randomness, randomness.random(), 0.0),
        short_writes=_sometimes(randomness, randomness.random(), 0.0),
        bandwidth_bytes_per_s=_sometimes(randomness, bandwidth, math.inf),
    )


def _sometimes(randomness: random.Random, value: T, otherwise: T) -> T:
    return value if randomness.random() < 0.5 else otherwise


def _draw_plan(
    randomness: random.Random, kinds: Sequence[FaultKind], pause_s: float
) -> tuple[Fault, ...]:
    cuts = [kind for kind in kinds if kind in _CUTS]
    if not cuts:
        raise OptionError("kinds", f"must have one of {', '.join(_CUTS)}", kinds)
    cuts = randomness.sample(cuts, randomness.randint(1, len(cuts)))
    steps: list[FaultKind] = []
    steps += randomness.choices(cuts, k=CUTS + randomness.randrange(3))
    others = [kind for kind in kinds if kind not in _CUTS and randomness.random() < 0.5]
    if others:
        steps += randomness.choices(others, k=randomness.randrange(4))
    randomness.shuffle(steps)
    return tuple(_draw_fault(randomness, kind, pause_s) for kind in steps)


def _draw_fault(randomness: random.Random, kind: FaultKind, pause_s: float) -> Fault:
    # Half of them in quick succession: the second hits the recovery from the first.
    wait_s = randomness.uniform(0, _sometimes(randomness, pause_s, pause_s / 50))
    if kind not in _CUTS:
        return Fault(kind=kind, wait_s=wait_s, lasts_s=randomness.uniform(0, 6 * pause_s))
    return Fault(
        kind=kind,
        wait_s=wait_s,
        at_byte=_sometimes(randomness, log_uniform(randomness, LAST_BYTE), None),
        towards=randomness.choice(("server", "client")),
    )

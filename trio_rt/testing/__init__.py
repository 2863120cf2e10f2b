"""Run a real-time program through a bad network, in memory and in virtual time.

    from trio_rt.testing import Chaos, VirtualNetwork, run

    async def story(seed):
        network = VirtualNetwork(seed)
        async with trio.open_nursery() as nursery:
            listener = network.listen("server", 80)
            nursery.start_soon(trio.serve_listeners, handler, [listener])
            nursery.start_soon(Chaos(seed).run, network)
            stream = await network.open_stream("server", 80)
            ...
            nursery.cancel_scope.cancel()

    def test_story():
        for seed in range(500):
            run(story, seed, seed=seed)

- `run()`: as `trio.run`, with virtual time and the same order of events for
  the same seed;
- `VirtualNetwork`: hosts, listeners, byte streams; `LinkProfile` says how the
  bytes travel, and its methods cut, stall, refuse and crash;
- `Chaos`: a drawn plan of such faults, and cancellation at a random moment;
- `serve_relay()`: faults for *real* sockets. A `Relay` ends links on command,
  and its `Conditions` delay, slow down, split, corrupt and swallow what it
  passes on. Also as a process of its own:
  `python -m trio_rt.testing.relay HOST PORT`.

Without `run()` a virtual network works under any clock of trio, only not
twice alike; with pytest-trio use its `autojump_clock` fixture. Give every
test a virtual limit (`run()` has one, or `trio.fail_after`).
"""

from __future__ import annotations

from ._conditions import Conditions
from ._determinism import jump_wall_clock, run
from ._link import VirtualLink
from ._listener import VirtualListener
from ._profile import CutKind, LinkProfile, Towards
from ._relay import Relay, RelayStatistics, serve_relay
from ._stream import VirtualStream
from .chaos import Chaos, Fault, FaultKind
from .network import NetworkStatistics, VirtualNetwork

__all__ = [
    "Chaos",
    "Conditions",
    "CutKind",
    "Fault",
    "FaultKind",
    "LinkProfile",
    "NetworkStatistics",
    "Relay",
    "RelayStatistics",
    "Towards",
    "VirtualLink",
    "VirtualListener",
    "VirtualNetwork",
    "VirtualStream",
    "jump_wall_clock",
    "run",
    "serve_relay",
]

"""Your own program in a network that breaks: what does it lose?

    python examples/virtual_network.py

`careless` and `careful` are two ways to write one program, which brings 160
readings to a collector, one a second. `story` runs the program, the collector
and the network between them in one process and in virtual time, so that 160
seconds take a fraction of one; `Chaos` draws from a seed what befalls them.
The same seed is the same story again: run the one that failed in a debugger.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

import trio_rt
from trio_rt import Connection, Message, Reset
from trio_rt.testing import Chaos, VirtualNetwork, run

READINGS = range(160)
SEEDS = range(3)


async def careless(conn: Connection) -> None:
    """Broken: what was written when the link died may never have arrived."""
    for number in READINGS:
        await conn.send("reading", number)
        await trio.sleep(1)
    await conn.drain()


async def careful(conn: Connection) -> None:
    """Fixed: each reading is sent on every new link, until the collector says it has it."""
    with conn.subscribe("kept", as_=int) as answers:
        for number in READINGS:
            await conn.send("reading", number)
            async for answer in answers:
                match answer:
                    case Message(payload=kept) if kept == number:
                        break
                    case Reset():
                        await conn.send("reading", number)
            await trio.sleep(1)


class Collector:
    """The server: it keeps readings, each once, and says so."""

    def __init__(self) -> None:
        self.readings: set[int] = set()

    async def collect(self, peer: trio_rt.Peer) -> None:
        with peer.subscribe("reading", as_=int) as stream:
            async for item in stream:
                if isinstance(item, Message):
                    self.readings.add(item.payload)
                    await peer.send("kept", item.payload)


async def story(seed: int, program: Callable[[Connection], Awaitable[None]]) -> list[int]:
    """The readings that `program` loses under this seed."""
    network, collector = VirtualNetwork(seed), Collector()
    # Like most servers it knows no sessions; with one, neither would lose anything.
    serve = partial(trio_rt.serve_listeners, session=None)
    async with trio.open_nursery() as nursery:
        listener = network.listen("collector", 80)
        server: trio_rt.Server = await nursery.start(serve, collector.collect, [listener])
        nursery.start_soon(Chaos(seed, pause_s=40).run, network)
        async with trio_rt.connect("ws://collector", open_stream=network.open_stream) as conn:
            await program(conn)
        await server.drain()
        nursery.cancel_scope.cancel()
    return sorted(set(READINGS) - collector.readings)


def main() -> None:
    started_at = time.perf_counter()
    for program in (careless, careful):
        for seed in SEEDS:
            lost = run(story, seed, program, seed=seed)
            print(f"{program.__name__}, seed {seed}: lost {len(lost)} of {len(READINGS)}")
    took_s = (time.perf_counter() - started_at) / (2 * len(SEEDS))
    print(f"{len(READINGS)} virtual seconds took {took_s:.2f} real ones")


if __name__ == "__main__":
    main()

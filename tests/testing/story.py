"""One story for the tests of determinism; as a program: prints the hashes of its traces.

`python -m tests.testing.story virtual 1 2 3` takes seeds and runs each in
`run()`; with `plain` each is run by `trio.run`, in virtual time all the same.
"""

from __future__ import annotations

import sys

import trio
import trio.testing

from trio_rt._ambient import ambient
from trio_rt.testing import Chaos, VirtualNetwork, VirtualStream, run

CLIENTS = 5
MESSAGES = 10


async def echo(stream: VirtualStream) -> None:
    """Send back what comes, after a random while."""
    async with stream:
        try:
            async for chunk in stream:
                await trio.sleep(ambient().random.random())
                await stream.send_all(chunk)
        except trio.BrokenResourceError:
            pass


async def talk(network: VirtualNetwork, name: str) -> None:
    """Send messages and redial whenever the link or the server's patience ends."""
    open_stream = network.open_stream_from(name)
    for number in range(MESSAGES):
        with trio.move_on_after(3):
            try:
                async with await open_stream("server", 80) as stream:
                    await stream.send_all(f"{name} {number}".encode())
                    await stream.receive_some()
            except (trio.BrokenResourceError, OSError):
                await trio.sleep(0.5)


async def story(seed: int) -> str:
    """Several clients, an echo server and chaos. Returns the hash of the trace."""
    network = VirtualNetwork(seed)
    chaos = Chaos(seed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, [network.listen("server", 80)])
        nursery.start_soon(chaos.run, network)
        async with trio.open_nursery() as clients:
            with chaos.cancel_somewhere(100):
                await talk(network, "canceller")
            for number in range(CLIENTS):
                clients.start_soon(talk, network, f"client{number}")
        nursery.cancel_scope.cancel()
    return network.trace_hash()


def plainly(seed: int) -> str:
    """The story without `run()`: trio's own, random, order of tasks."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(story, seed, clock=clock)


def virtually(seed: int) -> str:
    """The story in `run()`."""
    return run(story, seed, seed=seed)


if __name__ == "__main__":
    tell = {"plain": plainly, "virtual": virtually}[sys.argv[1]]
    for argument in sys.argv[2:]:
        print(tell(int(argument)))

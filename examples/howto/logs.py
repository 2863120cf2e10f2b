"""What a connection does, in the log.

    python examples/howto/logs.py

The library itself logs only what the program has to hear about: to `trio_rt`
an error in `credentials` or `greet`, to `trio_rt.server` who is refused or
gone and what a handler or hook raised. A program that wants its link in its
log watches the states.

Prints:

    INFO my_program: connecting
    INFO my_program: connecting
    INFO my_program: connected
    WARNING my_program: reconnecting in 0.* s: the link was cut (1006): connection reset
    INFO my_program: reconnecting
    INFO my_program: connected
    INFO my_program: disconnected
"""

from __future__ import annotations

import logging
import sys

import trio

import trio_rt
from trio_rt.testing import VirtualNetwork, run

log = logging.getLogger("my_program")


async def log_states(states: trio_rt.StateStream) -> None:
    async for state in states:
        if state.retry_at is None:
            log.info("%s", state.phase.value)
        else:
            wait_s = state.retry_at - trio.current_time()
            log.warning("%s in %.3f s: %s", state.phase.value, wait_s, state.cause)


async def handler(peer: trio_rt.Peer) -> None:
    with peer.subscribe() as stream:
        async for _ in stream:  # ends when the peer is gone
            pass


async def main() -> None:
    network = VirtualNetwork(seed=1)
    async with trio.open_nursery() as nursery:
        listener = network.listen("server", 80)
        server: trio_rt.Server = await nursery.start(trio_rt.serve_listeners, handler, [listener])
        async with trio_rt.connect("ws://server", open_stream=network.open_stream) as conn:
            states = conn.watch_states()
            nursery.start_soon(log_states, states)  # ends with the connection
            await conn.wait_connected()
            network.cut()
            await trio.sleep(2)
        await server.drain()


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s"
    )
    run(main, seed=1)

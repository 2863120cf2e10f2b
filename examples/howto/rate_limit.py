"""A server that allows so many messages a second.

    python examples/howto/rate_limit.py

The outbox holds back what is too much, most urgent first; a tenth of a
second's worth may leave at once.

Prints:

    21 messages at 10 a second: the last left after 2.0 s
"""

from __future__ import annotations

import trio

import trio_rt
from trio_rt import OutboxLimits
from trio_rt.testing import VirtualNetwork, run

OUTBOX = OutboxLimits(rate_per_s=10)


async def main() -> None:
    network = VirtualNetwork(seed=1)
    async with trio.open_nursery() as nursery:
        listener = network.listen("server", 80)
        await nursery.start(trio_rt.serve_listeners, listen, [listener])
        async with trio_rt.connect(
            "ws://server", outbox=OUTBOX, open_stream=network.open_stream
        ) as conn:
            await conn.wait_connected()
            began = trio.current_time()
            for number in range(21):
                last = await conn.send("number", number)
            await last.wait_written()
            spent_s = trio.current_time() - began
            print(f"21 messages at 10 a second: the last left after {spent_s:.1f} s")
        nursery.cancel_scope.cancel()


async def listen(peer: trio_rt.Peer) -> None:
    with peer.subscribe() as stream:
        async for _ in stream:
            pass


if __name__ == "__main__":
    run(main, seed=1)

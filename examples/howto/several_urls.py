"""Several URLs: the next one when a dial fails, and the one that works is kept.

    python examples/howto/several_urls.py

Prints:

    trying ws://blue/
    trying ws://green/
    connected to green
"""

from __future__ import annotations

import trio

import trio_rt
from trio_rt import Attempt, Credentials, Message
from trio_rt.testing import VirtualNetwork, run

URLS = ("ws://blue", "ws://green")


async def tell(attempt: Attempt) -> Credentials:
    print("trying", attempt.url)
    return Credentials()


async def name_itself(peer: trio_rt.Peer) -> None:
    await peer.send("name", "green")


async def main() -> None:
    network = VirtualNetwork(seed=1)
    network.listen("blue", 80)
    network.refuse("blue")
    async with trio.open_nursery() as nursery:
        listener = network.listen("green", 80)
        await nursery.start(trio_rt.serve_listeners, name_itself, [listener])
        async with trio_rt.connect(URLS, credentials=tell, open_stream=network.open_stream) as conn:
            with conn.subscribe("name") as names:
                name = await names.receive()
                assert isinstance(name, Message)
                print("connected to", name.payload)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(main, seed=1)

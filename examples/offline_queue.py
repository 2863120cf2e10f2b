"""Send while there is no link, and see what becomes of each message.

    python examples/offline_queue.py

The outbox keeps what is sent offline, and lets the most urgent out first.
What would be worth nothing by then never leaves: that is said at `send`, and
what became of it is in the `Delivery`.
"""

from __future__ import annotations

import trio

import trio_rt
from trio_rt import Connection, Delivery, Message, Phase, Priority
from trio_rt.testing import VirtualNetwork, run

OUTAGE_S = 60.0


async def send_all(conn: Connection) -> dict[str, Delivery]:
    """What a program may have to say. None of it waits for the network."""
    deliveries = {
        "a log line": await conn.send("log", "disk 90 % full", priority=Priority.LOW),
        "a chat line": await conn.send("chat", "anybody there?"),
        "an alarm": await conn.send("alarm", "smoke!", priority=Priority.CRITICAL),
        # Of one key only the newest is kept; it takes the place of the one before.
        "old position": await conn.send("position", [1, 1], key="position"),
        "new position": await conn.send("position", [1, 2], key="position"),
        # Worth nothing when it is late.
        "a bid": await conn.send("bid", 120, priority=Priority.HIGH, ttl_s=10.0),
        # Worth nothing unless it is now.
        "typing": await conn.send("typing", when_offline="drop"),
        "a mistake": await conn.send("chat", "don't tell anybody, but"),
    }
    deliveries["a mistake"].withdraw()
    return deliveries


async def wait_offline(conn: Connection) -> None:
    with conn.watch_states() as states:
        async for state in states:
            if state.phase is not Phase.CONNECTED:
                print(f"offline: {state.cause}")
                return


async def show(peer: trio_rt.Peer) -> None:
    """The server's side."""
    with peer.subscribe() as stream:
        async for item in stream:
            if isinstance(item, Message):
                print(f"the server gets {item.type}: {item.payload}")


async def main() -> None:
    network = VirtualNetwork(seed=1)
    async with trio.open_nursery() as nursery:
        listener = network.listen("server", 80)
        server: trio_rt.Server = await nursery.start(trio_rt.serve_listeners, show, [listener])
        async with trio_rt.connect("ws://server", open_stream=network.open_stream) as conn:
            await conn.wait_connected()
            network.refuse("server")
            network.cut()
            await wait_offline(conn)
            deliveries = await send_all(conn)
            await trio.sleep(OUTAGE_S)
            network.accept("server")
            conn.retry_now()
            await conn.drain()
        await server.drain()
    for name, delivery in deliveries.items():
        print(f"{name:12} {delivery.outcome}")


if __name__ == "__main__":
    run(main, seed=1)

"""Faults on real sockets: a relay between client and server that misbehaves on command.

    python examples/howto/real_faults.py

Prints:

    slow, and in crumbs: hello
    cut in mid-frame: the link was cut (1006)*
    a dead path: nothing heard for 0.* s
    mended: hello
"""

from __future__ import annotations

import trio

import trio_rt
from trio_rt import Connection, Liveness, Message, Phase, Reconnect
from trio_rt.testing import Conditions, Relay, serve_relay

#: Only a heartbeat finds a dead path, here within half a second.
LIVENESS = Liveness(interval_s=0.2, timeout_s=0.3)


async def spoil(relay: Relay, conn: Connection) -> None:
    relay.impose(Conditions(delay_s=0.01, jitter_s=0.01, split_bytes=3))
    print("slow, and in crumbs:", await echoed(conn, "hello"))

    relay.cut_after(5, towards="server")
    await conn.send("say", "hello")
    print("cut in mid-frame:", await loss(conn))

    await conn.wait_connected()
    relay.impose(Conditions(blackhole=True))
    print("a dead path:", await loss(conn))

    relay.impose(Conditions())
    print("mended:", await echoed(conn, "hello"))


async def echoed(conn: Connection, text: str) -> str:
    """What comes back when `text` is sent on a link that lives."""
    await conn.wait_connected()
    with conn.subscribe("say", as_=str) as stream:
        await conn.send("say", text)
        async for item in stream:
            if isinstance(item, Message):
                return item.payload
    raise AssertionError("the stream ended")


async def loss(conn: Connection) -> object:
    """Why the link is lost that is up now."""
    with conn.watch_states() as states:
        async for state in states:
            if state.phase is Phase.RECONNECTING:
                return state.cause
    raise AssertionError("the connection ended")


async def echo(peer: trio_rt.Peer) -> None:
    with peer.subscribe("say") as stream:
        async for item in stream:
            if isinstance(item, Message):
                await peer.send("say", item.payload)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server: trio_rt.Server = await nursery.start(trio_rt.serve, echo, "127.0.0.1", 0)
        relay: Relay = await nursery.start(serve_relay, "127.0.0.1", server.port)
        url = f"ws://127.0.0.1:{relay.port}"
        reconnect = Reconnect(first_s=0.1)
        async with trio_rt.connect(url, liveness=LIVENESS, reconnect=reconnect) as conn:
            await spoil(relay, conn)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

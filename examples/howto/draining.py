"""Stop a server so that its clients come back gently: drain it at SIGTERM.

    python examples/howto/draining.py

Prints:

    the client: connected
    the server: SIGTERM
    the client: closed by peer with 1012: retry-after=0.*
    the server: gone
"""

from __future__ import annotations

import signal

import trio

import trio_rt
from trio_rt import Phase

DRAIN_S = 0.1


async def drain_at_sigterm(
    server: trio_rt.Server, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            print("the server: SIGTERM")
            await server.drain(over_s=DRAIN_S)
            return


async def handler(peer: trio_rt.Peer) -> None:
    with peer.subscribe() as stream:
        async for _ in stream:  # ends when the peer is gone
            pass


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server: trio_rt.Server = await nursery.start(trio_rt.serve, handler, "127.0.0.1", 0)
        await nursery.start(drain_at_sigterm, server)
        async with trio_rt.connect(server.url) as conn:
            with conn.watch_states() as states:
                async for state in states:
                    if state.phase is Phase.CONNECTED:
                        print("the client: connected")
                        signal.raise_signal(signal.SIGTERM)
                    elif state.phase is Phase.RECONNECTING:
                        print("the client:", state.cause)
                        break
    print("the server: gone")


if __name__ == "__main__":
    trio.run(main)

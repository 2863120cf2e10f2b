"""A consumer that is too slow: the five things a full stream can do.

    python examples/howto/full_streams.py

The server sends the numbers 0 to 9 at once. Each stream has room for three,
and is read only when all is over. The one that pauses loses nothing: in a session
the window holds the sender back.

Prints:

    pause         0 1 2 3 4 5 6 7 8 9
    drop_newest   0 1 2 Gap(count=7)
    drop_oldest   Gap(count=7) 7 8 9
    Conflate      8 9
    fail          0 1 2 StreamOverflow
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import trio

import trio_rt
from trio_rt import Conflate, Gap, Message, Reset, StreamOverflow
from trio_rt.options import OnFull
from trio_rt.testing import VirtualNetwork, run


def is_odd(message: Message[Any]) -> bool:
    return bool(message.payload % 2)


POLICIES: dict[str, OnFull] = {
    "pause": "pause",
    "drop_newest": "drop_newest",
    "drop_oldest": "drop_oldest",
    "Conflate": Conflate(is_odd),  # the newest even and the newest odd one
    "fail": "fail",
}


async def count(peer: trio_rt.Peer) -> None:
    for number in range(10):
        await peer.send("number", number)


async def read_all(stream: trio_rt.Stream[Message[Any] | Gap | Reset]) -> list[str]:
    found = []
    try:
        async for item in stream:
            if isinstance(item, Message):
                found.append(str(item.payload))
            else:
                found.append(str(item))
    except StreamOverflow:
        found.append("StreamOverflow")
    return found


async def main() -> None:
    network = VirtualNetwork(seed=1)
    async with trio.open_nursery() as nursery:
        listener = network.listen("server", 80)
        await nursery.start(trio_rt.serve_listeners, count, [listener])
        with ExitStack() as stack:
            async with trio_rt.connect("ws://server", open_stream=network.open_stream) as conn:
                streams = {
                    name: stack.enter_context(conn.subscribe("number", capacity=3, on_full=policy))
                    for name, policy in POLICIES.items()
                }
                await trio.sleep(0.2)
            for name, stream in streams.items():
                print(f"{name:13} {' '.join(await read_all(stream))}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(main, seed=1)

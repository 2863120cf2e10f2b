"""Requests, and replies in parts: a server that does sums and tells stories.

    python examples/howto/asking.py

The link is cut while the story is told; no word is lost or told twice.

Prints:

    1 + 2 = 3
    refused: undefined (division by zero)
    too slow: the sum was given up at both ends
    Whan that Aprille (the link is cut) with his shoures soote
    the first words: Whan that
    traced: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
"""

from __future__ import annotations

from typing import Any

import attrs
import trio

import trio_rt
from trio_rt import Refused, Request
from trio_rt.testing import VirtualNetwork, run

STORY = ["Whan", "that", "Aprille", "with", "his", "shoures", "soote"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@attrs.frozen
class Sum:
    """What the server answers with."""

    value: float
    trace: str | None


async def calculate(request: Request[Any]) -> Sum:
    left, operator, right = request.payload
    if operator == "/" and right == 0:
        raise Refused("undefined", "division by zero")
    if operator == "**":
        await trio.sleep(3600)  # cancelled long before
    return Sum(left + right, trio_rt.traceparent.get())


async def tell(request: Request[Any]) -> None:
    for word in STORY:
        await request.send(word)
        await trio.sleep(0.1)


async def serve(peer: trio_rt.Peer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve_requests, calculate, "sum")
        nursery.start_soon(peer.serve_requests, tell, "story")


async def ask(conn: trio_rt.Connection) -> None:
    reply = await conn.request("sum", [1, "+", 2], as_=Sum)
    print(f"1 + 2 = {reply.payload.value:g}")

    try:
        await conn.request("sum", [1, "/", 0])
    except Refused as error:
        print(f"refused: {error.code} ({error.text})")

    with trio.move_on_after(2) as scope:
        await conn.request("sum", [2, "**", 1000])
    if scope.cancelled_caught:
        print("too slow: the sum was given up at both ends")


async def listen(conn: trio_rt.Connection, network: VirtualNetwork) -> None:
    words: list[str] = []
    async with conn.open_exchange("story", as_=str) as parts:
        async for part in parts:
            words.append(part.payload)
            if part.payload == "Aprille":
                network.cut()
                words.append("(the link is cut)")
    print(*words)


async def listen_a_little(conn: trio_rt.Connection) -> None:
    async with conn.open_exchange("story", as_=str) as parts:
        words = [(await parts.receive()).payload for _ in range(2)]
    print("the first words:", *words)


async def trace(conn: trio_rt.Connection) -> None:
    trio_rt.traceparent.set(TRACE)
    reply = await conn.request("sum", [1, "+", 2], as_=Sum)
    print("traced:", reply.payload.trace)


async def main() -> None:
    network = VirtualNetwork(seed=1)
    async with trio.open_nursery() as nursery:
        listener = network.listen("server", 80)
        await nursery.start(trio_rt.serve_listeners, serve, [listener])
        async with trio_rt.connect("ws://server", open_stream=network.open_stream) as conn:
            await ask(conn)
            await listen(conn, network)
            await listen_a_little(conn)
            await trace(conn)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(main, seed=1)

"""Payloads of a known type: checked and built as they are taken.

    python examples/howto/typed_streams.py

Prints:

    BTC costs 100.0
    not a price: payload.price expected `float`, got `str`: 'cheap'
    BTC costs 101.5
"""

from __future__ import annotations

import attrs
import trio

import trio_rt
from trio_rt import Malformed, Message
from trio_rt.testing import VirtualNetwork, run


@attrs.frozen
class Price:
    symbol: str
    price: float


async def quote(peer: trio_rt.Peer) -> None:
    """The server's side; it has a bug."""
    await peer.send("price", Price("BTC", 100.0))
    await peer.send("price", {"symbol": "BTC", "price": "cheap"})
    await peer.send("price", Price("BTC", 101.5))


async def show(conn: trio_rt.Connection) -> None:
    with conn.subscribe("price", as_=Price) as prices, conn.malformed() as malformed:
        for _ in range(2):
            item = await prices.receive()
            if isinstance(item, Message):
                price = item.payload  # a Price; a type checker knows it
                print(f"{price.symbol} costs {price.price}")
                show_malformed(malformed)


def show_malformed(malformed: trio_rt.Stream[Malformed | trio_rt.Gap]) -> None:
    try:
        item = malformed.receive_nowait()
    except trio.WouldBlock:
        return
    if isinstance(item, Malformed):
        print("not a price:", item.error)


async def main() -> None:
    network = VirtualNetwork(seed=1)
    async with trio.open_nursery() as nursery:
        listener = network.listen("server", 80)
        await nursery.start(trio_rt.serve_listeners, quote, [listener])
        async with trio_rt.connect("ws://server", open_stream=network.open_stream) as conn:
            await show(conn)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(main, seed=1)

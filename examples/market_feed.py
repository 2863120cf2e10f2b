"""Prices from an exchange that speaks a dialect of its own, on a slow screen.

    python examples/market_feed.py

`Dialect` translates, so that types, `as_` and the rest work as ever. `greet`
subscribes on every new link; a subscription sent once, by `conn.send`, would
end with the first. The screen takes a second to draw a price; `Conflate` keeps
the newest of each symbol for it, so that it is never late. After a `Reset`
prices may be missing, and those on the screen are old.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import trio

import trio_rt
from trio_rt import Conflate, DecodeError, Greeting, Message, Meta, PayloadError, Reset
from trio_rt.testing import VirtualNetwork, run

SYMBOLS = ("BTC", "ETH")


class Quote(msgspec.Struct, frozen=True):
    symbol: str
    price: float


class Frame(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class Dialect:
    """Sends {"op": type, ...}, and receives {"channel": type, "data": payload}."""

    binary = False

    def encode(self, type: str, payload: Any, meta: Meta) -> bytes:
        try:
            return msgspec.json.encode({"op": type, "args": payload})
        except (TypeError, ValueError) as error:
            raise PayloadError("payload", f"must fit in JSON ({error})", payload) from error

    def decode(self, data: str | bytes) -> Iterable[Message[Any]]:
        try:
            frame = msgspec.json.decode(data, type=Frame)
        except msgspec.MsgspecError as error:
            raise DecodeError("frame", str(error), data) from error
        return [Message(frame.channel, frame.data)]

    def correlate(self, message: Message[Any]) -> str | None:
        return None  # it has no requests with answers


async def subscribe(greeting: Greeting) -> None:
    await greeting.send(json.dumps({"op": "subscribe", "args": SYMBOLS}))


def by_symbol(message: Message[Quote]) -> str:
    return message.payload.symbol


async def show_prices(conn: trio_rt.Connection) -> None:
    screen: dict[str, float] = {}
    with conn.subscribe("ticker", as_=Quote, on_full=Conflate(by_symbol)) as quotes:
        async for item in quotes:
            match item:
                case Message(payload=quote):
                    screen[quote.symbol] = quote.price
                    print("  ".join(f"{symbol} {price:.2f}" for symbol, price in screen.items()))
                    await trio.sleep(1)  # drawing
                case Reset(cause=cause):
                    print(f"-- all of this is old: {cause}")
                    screen.clear()


async def exchange(peer: trio_rt.RawPeer) -> None:
    """The server's side: ten prices a second for each symbol."""
    with peer.subscribe() as requests:
        request = await requests.receive()
    assert isinstance(request, Message)
    symbols = json.loads(request.payload)["args"]
    while True:
        for symbol in symbols:
            quote = {"symbol": symbol, "price": round(100 + trio.current_time(), 2)}
            await peer.send(json.dumps({"channel": "ticker", "data": quote}))
        await trio.sleep(0.1)


async def cut_twice(network: VirtualNetwork) -> None:
    for _ in range(2):
        await trio.sleep(3.5)
        network.cut()


async def main() -> None:
    network = VirtualNetwork(seed=1)
    serve = partial(trio_rt.serve_listeners, codec="raw")
    async with trio.open_nursery() as nursery:
        listener = network.listen("exchange", 80)
        server: trio_rt.Server = await nursery.start(serve, exchange, [listener])
        nursery.start_soon(cut_twice, network)
        connection = trio_rt.connect(
            "ws://exchange", codec=Dialect(), greet=subscribe, open_stream=network.open_stream
        )
        async with connection as conn:
            with trio.move_on_after(10):
                await show_prices(conn)
        await server.drain()


if __name__ == "__main__":
    run(main, seed=1)

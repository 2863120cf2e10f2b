"""Through an HTTP proxy, which is asked to CONNECT.

    python examples/howto/proxy.py

Prints:

    the proxy: CONNECT server:80 HTTP/1.1
    the server: hello
"""

from __future__ import annotations

import trio

import trio_rt
from trio_rt import Message
from trio_rt.testing import VirtualNetwork, run

PROXY = "http://user:secret@proxy:3128"


async def listen(peer: trio_rt.Peer) -> None:
    with peer.subscribe("greeting") as stream:
        async for item in stream:
            if isinstance(item, Message):
                print("the server:", item.payload)


class ToyProxy:
    """Knows one request, and believes every password."""

    def __init__(self, network: VirtualNetwork) -> None:
        self._open = network.open_stream_from("proxy")

    async def handle(self, client: trio.abc.Stream) -> None:
        request = (await client.receive_some()).decode().splitlines()
        print("the proxy:", request[0])
        host, _, port = request[0].split()[1].rpartition(":")
        server = await self._open(host, int(port))
        await client.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(forward, server, client)
            await forward(client, server)
            nursery.cancel_scope.cancel()


async def forward(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
    async for data in source:
        await sink.send_all(data)


async def main() -> None:
    network = VirtualNetwork(seed=1)
    async with trio.open_nursery() as nursery:
        listener = network.listen("server", 80)
        server: trio_rt.Server = await nursery.start(trio_rt.serve_listeners, listen, [listener])
        toy = ToyProxy(network)
        nursery.start_soon(trio.serve_listeners, toy.handle, [network.listen("proxy", 3128)])
        async with trio_rt.connect(
            "ws://server", proxy=PROXY, open_stream=network.open_stream
        ) as conn:
            await conn.deliver("greeting", "hello")
        await server.drain()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(main, seed=1)

"""Talk to a server over a link that is cut, and go on talking.

    python examples/quickstart.py

The server is in the same program, so that there is something to talk to.
"""

from __future__ import annotations

import trio

import trio_rt
from trio_rt import Gap, Message, Priority, Reset


async def echo(peer: trio_rt.Peer) -> None:
    """The server's side: one call for each client."""
    with peer.subscribe("chat_message") as stream:
        async for item in stream:
            if isinstance(item, Message):
                await peer.send("chat_message", {"content": item.payload["content"].upper()})


async def talk(url: str) -> None:
    async with trio_rt.connect(url) as conn:
        with conn.subscribe("chat_message") as stream:
            await conn.send("join_room", {"roomId": "lobby"}, priority=Priority.HIGH)
            await conn.send("chat_message", {"content": "hello"})
            async for item in stream:
                match item:
                    case Message(payload=payload):
                        print(payload["content"])
                        break
                    case Gap() | Reset():
                        print("missed something:", item)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server: trio_rt.Server = await nursery.start(trio_rt.serve, echo, "127.0.0.1", 0)
        await talk(server.url)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

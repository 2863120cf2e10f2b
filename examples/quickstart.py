"""Talk to a server that hangs up, and go on talking.

    python examples/quickstart.py

The server is in the same program, so that there is something to talk to. Its
handler ends after two lines, and the session with it: the next one knows nothing
of the one before, so the client says where it stopped.
"""

from __future__ import annotations

import trio

import trio_rt
from trio_rt import Gap, Message, Priority, Reset

LINES = ("Whan that Aprille", "with his shoures soote", "the droghte of March", "THE END")


async def lobby(peer: trio_rt.Peer) -> None:
    """The server's side, once for each session: two lines, and it ends."""
    with peer.subscribe("join_room") as joins:
        async for join in joins:
            if isinstance(join, Message):
                after = join.payload["after"]
                for line in LINES[after : after + 2]:
                    await peer.send("chat_message", {"content": line})
                return


async def listen(conn: trio_rt.Connection) -> None:
    """The client's side, once for all links."""
    seen = 0
    with conn.subscribe("chat_message") as stream:
        await conn.send("join_room", {"after": seen}, priority=Priority.HIGH)
        async for item in stream:
            match item:
                case Message(payload=payload):
                    print(payload["content"])
                    seen += 1
                    if payload["content"] == LINES[-1]:
                        return
                case Gap() | Reset():
                    print("missed something:", item)
                    await conn.send("join_room", {"after": seen}, priority=Priority.HIGH)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server: trio_rt.Server = await nursery.start(trio_rt.serve, lobby, "127.0.0.1", 0)
        async with trio_rt.connect(server.url) as conn:
            await listen(conn)
        await server.drain()


if __name__ == "__main__":
    trio.run(main)

"""A hub in a program of one's own, with the pages by which it is watched.

Prints:

    ok
    trio_rt_peers 1
    trio_rt_rooms 1
"""

from __future__ import annotations

import secrets
from functools import partial

import trio

import trio_rt
from trio_rt.http import open_client
from trio_rt.hub import Monitor, Site, open_hub, open_room

METRICS_TOKEN = secrets.token_urlsafe(24)


async def look(url: str) -> None:
    """Ask as Prometheus would."""
    headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    async with open_client(url, headers=headers) as client:
        print((await client.get("/readyz")).text, end="")
        for line in (await client.get("/metrics")).text.splitlines():
            if line.startswith(("trio_rt_peers ", "trio_rt_rooms ")):
                print(line)


async def main() -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        monitor = Monitor(hub, token=METRICS_TOKEN)
        site = Site(monitor.routes)
        serve = partial(trio_rt.serve, hub, "127.0.0.1", 0, path="/ws", http=site)
        monitor.server = server = await nursery.start(serve)
        async with trio_rt.connect(f"{server.url}/ws") as conn, open_room(conn, "lobby"):
            await look(server.url.replace("ws:", "http:"))
        await server.drain(over_s=0)


if __name__ == "__main__":
    trio.run(main)

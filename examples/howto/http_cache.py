"""The cache of an HTTP client, in a file.

    python examples/howto/http_cache.py

Prints:

    the server: /fresh
    /fresh: miss
    /fresh: hit
    the server: /checked
    /checked: miss
    the server: /checked, if it is no longer "1"
    /checked: revalidated
    the server: /fresh
    /fresh, five at once: miss coalesced coalesced coalesced coalesced
    not in the cache: /other
    another client: /fresh: hit
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from trio_rt import NotCached, http


async def how(client: http.Client, path: str, mode: http.CacheMode = "default") -> str:
    response = await client.get(path, cache=mode)
    return str(response.extensions["trio_rt.cache"])


async def ask(client: http.Client) -> None:
    for path in ("/fresh", "/fresh", "/checked", "/checked"):
        print(f"{path}: {await how(client, path)}")

    await client.delete("/fresh")  # what is stored of it is dropped
    answers: list[str] = []

    async def add_one() -> None:
        answers.append(await how(client, "/fresh"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(add_one)
    print("/fresh, five at once:", *sorted(answers, reverse=True))

    try:
        await how(client, "/other", "only-if-cached")
    except NotCached:
        print("not in the cache: /other")


async def serve(stream: trio.SocketStream) -> None:
    """As much of HTTP as this needs."""
    while request := (await stream.receive_some()).decode():
        method, path, _ = request.split(" ", 2)
        if_changed = 'if-none-match: "1"' in request.lower()
        if method == "GET":
            print(f"the server: {path}" + (', if it is no longer "1"' if if_changed else ""))
        status = "304 Not Modified" if if_changed else "200 OK"
        rule = 'max-age=0\r\nETag: "1"' if path == "/checked" else "max-age=60"
        head = f"HTTP/1.1 {status}\r\nCache-Control: {rule}"
        await stream.send_all(f"{head}\r\nContent-Length: 0\r\n\r\n".encode())


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        with TemporaryDirectory() as folder:
            path = Path(folder) / "cache.sqlite"
            cache = http.Cache(http.SqliteStore(path), stale_if_error_s=3600)
            async with http.open_client(url, cache=cache) as client:
                await ask(client)
            cache = http.Cache(http.SqliteStore(path))
            async with http.open_client(url, cache=cache) as client:
                print("another client: /fresh:", await how(client, "/fresh"))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

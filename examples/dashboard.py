"""A dashboard that survives its back end.

    python examples/dashboard.py

A price may be old: it is used for a second, as the server says, for half a second more
while a new one is fetched, and for a minute if that fails. A balance must be right, or
else there is a question mark. A retry mends a hiccup unseen; while the back end is
dead the breaker seldom asks it.

The back end is in the same program. It hiccups, dies, and is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import httpx
import trio

from trio_rt import HttpError, http


async def price(client: http.Client) -> str:
    """It may be old, and then says so."""
    response = await client.get("/price")
    return f"price {response.text} ({response.extensions['trio_rt.cache']})"


async def balance(client: http.Client) -> str:
    """It is right, or it is not shown."""
    try:
        response = await client.get("/balance", timeout_s=0.5)
        return f"balance {response.raise_for_status().text}"
    except (HttpError, httpx.HTTPError) as error:
        return f"balance ? ({type(error).__name__})"


async def show(client: http.Client) -> None:
    """A line for each change on the screen."""
    shown = ""
    while True:
        line = f"{await price(client)}, {await balance(client)}"
        if line != shown:
            print(line)
        shown = line
        await trio.sleep(0.1)


class BackEnd:
    """Each answer of a price is another one."""

    def __init__(self, prices: Iterator[int]) -> None:
        self.life = trio.CancelScope()
        self.prices = prices
        self.hiccups = 1

    async def serve(self, stream: trio.SocketStream) -> None:
        """As much of HTTP as this needs."""
        while request := await stream.receive_some():
            status, rule, body = "200 OK", "no-store", "100"
            if request.startswith(b"GET /price "):
                rule = "max-age=1"
                body = str(next(self.prices))
            elif self.hiccups:
                self.hiccups -= 1
                status = "503 Hiccup"
            head = f"HTTP/1.1 {status}\r\nCache-Control: {rule}\r\nContent-Length: {len(body)}"
            await stream.send_all(f"{head}\r\n\r\n{body}".encode())

    async def live(self, listeners: list[trio.SocketListener]) -> None:
        with self.life:
            await trio.serve_listeners(self.serve, listeners)


async def main() -> None:
    prices = count(1)
    first, second = BackEnd(prices), BackEnd(prices)
    cache = http.Cache(stale_while_revalidate_s=0.5, stale_if_error_s=60)
    retry = http.Retry(1, first_s=0.01)
    breaker = http.Breaker(4, share=0.3, window_s=1.0, open_s=0.4)
    async with trio.open_nursery() as servers:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        servers.start_soon(first.live, listeners)
        async with (
            http.open_client(url, cache=cache, retry=retry, breaker=breaker) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(show, client)
            await trio.sleep(1.2)
            first.life.cancel()
            print("-- the back end is dead")
            await trio.sleep(1.5)
            print("-- there is a new one")
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            servers.start_soon(second.live, listeners)
            await trio.sleep(0.8)
            second.life.cancel()
            nursery.cancel_scope.cancel()
    statistics = breaker.statistics()
    print(f"of {statistics.calls} tries {statistics.refused} were spared")


if __name__ == "__main__":
    trio.run(main)

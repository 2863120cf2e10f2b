"""Interceptors, and single layers in somebody else's client.

    python examples/howto/http_layers.py

Prints:

    the server: GET / with id 1
    200 after 0.* s
    the server: GET / with id 2
    200 after 0.* s
    / is forbidden here: 403
    the server: GET / with id none
    200 by a client of httpx
"""

from __future__ import annotations

from functools import partial
from itertools import count

import httpx
import trio

from trio_rt import Priority, http


class Numbered(http.Layer):
    """Gives each call a number."""

    def __init__(self) -> None:
        self._numbers = count(1)

    async def intercept(self, request: httpx.Request, call_next: http.Next) -> httpx.Response:
        request.headers["X-Request-Id"] = str(next(self._numbers))
        return await call_next(request)


async def timed(request: httpx.Request, call_next: http.Next) -> httpx.Response:
    began = trio.current_time()
    response = await call_next(request)
    print(f"{response.status_code} after {trio.current_time() - began:.3f} s")
    return response


async def forbid(request: httpx.Request, call_next: http.Next) -> httpx.Response:
    module = http.backend_of(request)  # httpx or httpx2
    return module.Response(403, text="not from here")  # type: ignore[no-any-return]


async def ask(url: str) -> None:
    async with http.open_client(url, interceptors=[timed, Numbered()]) as client:
        await client.get("/")
        await client.get("/")
    async with http.open_client(url, interceptors=[forbid]) as client:
        response = await client.get("/")
        print("/ is forbidden here:", response.status_code)


async def ask_by_httpx(url: str) -> None:
    layers = (http.Retry(3), http.Gate(2, per_host=1))
    async with httpx.AsyncClient(transport=http.transport(*layers)) as client:
        call = http.Call(priority=Priority.HIGH, retries=1)
        response = await client.get(url, extensions={"trio_rt": call})
    print(response.status_code, "by a client of httpx")


async def serve(stream: trio.SocketStream) -> None:
    """As much of HTTP as this needs."""
    while request := (await stream.receive_some()).decode():
        number = request.partition("X-Request-Id: ")[2].partition("\r\n")[0] or "none"
        print(" ".join(["the server:", *request.split()[:2], "with id", number]))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        await ask(url)
        await ask_by_httpx(url)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

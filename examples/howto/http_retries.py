"""What is tried again, and what is not.

    python examples/howto/http_retries.py

Prints:

    server: GET /flaky: 503
    server: GET /flaky: 200
    server: POST /orders: 503
    not tried again: 503
    server: POST /orders: 503, key order-7
    server: POST /orders: 200, key order-7
    server: GET /busy: 429
    given up at once: 429, Retry-After: 3600
    10 calls to a dead server: 16 tries
"""

from __future__ import annotations

from functools import partial

import httpx
import trio

from trio_rt import http


async def ask(client: http.Client) -> None:
    await client.get("/flaky")
    response = await client.post("/orders")
    print("not tried again:", response.status_code)
    await client.post("/orders", idempotency_key="order-7")
    response = await client.get("/busy")
    print(
        f"given up at once: {response.status_code}, Retry-After: {response.headers['Retry-After']}"
    )


async def ask_in_vain(url: str) -> None:
    retry = http.Retry(2, first_s=0.05, cap_s=1, budget=http.Budget(share=0.2, floor=6))
    async with http.open_client(url, retry=retry) as client:
        for _ in range(10):
            try:
                await client.get("/")
            except httpx.ConnectError:
                pass
    statistics = retry.statistics()
    print(f"{statistics.calls} calls to a dead server: {statistics.tries} tries")


def answer(seen: set[str], method: str, path: str, key: str) -> str:
    """The server fails on what it sees for the first time."""
    if path == "/busy":
        return "429 Too Many\r\nRetry-After: 3600"
    is_new = path + key not in seen
    seen.add(path + key)
    return "503 Not Now" if is_new else "200 OK"


async def serve(seen: set[str], stream: trio.SocketStream) -> None:
    """As much of HTTP as this needs."""
    while request := (await stream.receive_some()).decode():
        method, path, _ = request.split(" ", 2)
        key = request.partition("Idempotency-Key: ")[2].partition("\r\n")[0]
        status = answer(seen, method, path, key)
        print(f"server: {method} {path}: {status[:3]}" + (f", key {key}" if key else ""))
        await stream.send_all(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())


async def main() -> None:
    async with trio.open_nursery() as nursery:
        serve_tcp = partial(trio.serve_tcp, partial(serve, set()), 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve_tcp)
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with http.open_client(url, retry=http.Retry(2, first_s=0.05)) as client:
            await ask(client)
        nursery.cancel_scope.cancel()
    await ask_in_vain(url)


if __name__ == "__main__":
    trio.run(main)

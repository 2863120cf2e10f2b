"""Which call goes first, and what waited how long.

    python examples/howto/http_priorities.py

Prints:

    /first
    /urgent
    /soon
    /usual
    /some-time
    LOW waited 0.* s
    NORMAL waited 0.* s
    HIGH waited 0.* s
    CRITICAL waited 0.* s
    full: as many calls wait as may: 1
"""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

from trio_rt import Priority, QueueFull, http

PRIORITIES = {
    "/some-time": Priority.LOW,
    "/usual": Priority.NORMAL,
    "/soon": Priority.HIGH,
    "/urgent": Priority.CRITICAL,
}


async def ask(url: str) -> None:
    gate = http.Gate(1)  # one call at a time, so that the others wait
    async with http.open_client(url, gate=gate) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.get, "/first")
        await wait_all_tasks_blocked()
        for path, priority in PRIORITIES.items():
            nursery.start_soon(partial(client.get, path, priority=priority))
    for priority, each in gate.statistics().priorities.items():
        print(f"{priority.name} waited {each.waited_p99_s:.1f} s")


async def overfill(url: str) -> None:
    gate = http.Gate(1, max_waiting=1)
    async with http.open_client(url, gate=gate) as client, trio.open_nursery() as nursery:
        for path in ("/quiet/first", "/quiet/second"):
            nursery.start_soon(client.get, path)
        await wait_all_tasks_blocked()
        try:
            await client.get("/quiet/third")
        except QueueFull as error:
            print("full:", error)


async def serve(stream: trio.SocketStream) -> None:
    """As much of HTTP as this needs."""
    while request := await stream.receive_some():
        path = request.split()[1].decode()
        if not path.startswith("/quiet"):
            print(path)
        await trio.sleep(0.1)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        await ask(url)
        await overfill(url)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

"""Calls of an HTTP client: bodies as types, limits, and what may go wrong.

    python examples/howto/http_calls.py

Prints:

    User(name='ada', age=36)
    User(name='bo', age=31)
    500 is a response like any other
    the status is no success (status 404, body b'no such user')
    Expected `object`, got `array` (status 200, body b'[]')
    not done within 0.2 s, at: answer
"""

from __future__ import annotations

import re
from functools import partial

import msgspec
import trio

from trio_rt import BodyInvalid, CallTimeout, http


class User(msgspec.Struct):
    name: str
    age: int


async def ask(url: str) -> None:
    async with http.open_client(url, timeout_s=5, headers={"User-Agent": "howto"}) as client:
        user = await client.get("/users/7", as_=User)
        print(user)
        print(await client.post("/birthday", json=User("bo", 30), as_=User))

        response = await client.get("/broken", retries=0)
        print(response.status_code, "is a response like any other")

        for path in ("/users/8", "/users"):
            try:
                await client.get(path, as_=User)
            except BodyInvalid as error:
                print(error)

        try:
            await client.get("/slow", timeout_s=0.2)
        except CallTimeout as error:
            print(error)


def answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
    if method == "POST":
        user = msgspec.json.decode(body, type=User)
        return 200, msgspec.json.encode(User(user.name, user.age + 1))
    known = {"/users/7": b'{"name": "ada", "age": 36}', "/users": b"[]", "/slow": b""}
    if path == "/broken":
        return 500, b""
    return (200, known[path]) if path in known else (404, b"no such user")


async def serve(stream: trio.SocketStream) -> None:
    """As much of HTTP as this needs."""
    data = b""
    while more := await stream.receive_some():
        data += more
        head, end, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and len(body) >= int(length[1] if length else 0):
            data = b""
            method, path, _ = head.decode().split(" ", 2)
            if path == "/slow":
                await trio.sleep(5)
            status, body = answer(method, path, body)
            head = b"HTTP/1.1 %d Here\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
            await stream.send_all(head + body)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        await ask(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

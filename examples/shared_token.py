"""Many tasks, one token: it is fetched once, for all of them.

    python examples/shared_token.py [httpx2]

Ten tasks ask at once, and there is no token yet: one of them fetches it, the others
wait. The token is then revoked, while all ten ask again: each of them is refused, and
again one fetches. No task sees the 401.

The server is in the same program.
"""

from __future__ import annotations

import sys
from functools import partial

import msgspec
import trio

from trio_rt import http


class Token(msgspec.Struct):
    access_token: str


async def use(client: http.Client, name: str) -> None:
    """What a task does: it knows of no tokens."""
    response = await client.get(f"/documents/{name}")
    assert response.text == f"{name}, for you", response


async def use_all(client: http.Client) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(use, client, f"document {number}")


class Server:
    """The token that it issued last is good, until it is revoked."""

    def __init__(self) -> None:
        self.issued = 0
        self.good = ""
        self.refused = 0

    def answer(self, method: str, path: str, authorization: str) -> tuple[str, str]:
        if method == "POST":
            self.issued += 1
            self.good = f"Bearer token-{self.issued}"
            return "200 OK", f'{{"access_token": "token-{self.issued}"}}'
        if authorization != self.good:
            self.refused += 1
            return "401 Unauthorized", ""
        return "200 OK", path.removeprefix("/documents/").replace("%20", " ") + ", for you"

    async def serve(self, stream: trio.SocketStream) -> None:
        """As much of HTTP as this needs."""
        while request := (await stream.receive_some()).decode():
            method, path, _ = request.split(" ", 2)
            authorization = request.partition("Authorization: ")[2].partition("\r\n")[0]
            status, body = self.answer(method, path, authorization)
            await trio.sleep(0.05)
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}"
            await stream.send_all(f"{head}\r\n\r\n{body}".encode())


async def main(backend: http.BackendName) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"

        async def fetch_token() -> str:
            print("a task fetches a token")
            token = await client.post("/token", as_=Token, auth=("ada", "secret"))
            return token.access_token

        authorize = http.Authorize(fetch_token)
        async with http.open_client(url, interceptors=[authorize], backend=backend) as client:
            await use_all(client)
            print(f"ten tasks: {server.issued} token, {server.refused} refusals")
            server.good = "none"
            await use_all(client)
            print(f"and again: {server.issued} tokens, {server.refused} refusals")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, "httpx2" if "httpx2" in sys.argv else "httpx")

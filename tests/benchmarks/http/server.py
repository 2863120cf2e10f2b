"""The server of the HTTP benchmark: answers that were made beforehand, on one core.

    /no-store               200 bytes of JSON that may not be stored
    /fresh/...              the same, fresh for an hour
    /wait/MS/...            as /no-store, after so many milliseconds; "at" is when
                            the request came, on the clock that all processes share
    /shared/MS/...          as /fresh, after so many milliseconds
    /dead/...               503
    /hang-up/...            the connection is closed without an answer
    /stall/...              headers, and never a body
    /hits/PATH              how often PATH, one of the last five, was asked for

It reads requests without a body.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Final, TypeAlias, cast

from ..pinning import pin

BODY_BYTES: Final = 200
HOUR: Final = b"max-age=3600"
NO_STORE: Final = b"no-store"

#: Answers a path on a connection: at once, later or not at all.
Route: TypeAlias = Callable[["Connection", bytes], None]


def padded(found: dict[str, float]) -> bytes:
    """`found` as JSON of `BODY_BYTES`."""
    text = json.dumps({**found, "text": ""})
    return text.replace('""', f'"{"x" * (BODY_BYTES - len(text))}"').encode()


def answer(body: bytes, cache_control: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole response."""
    return b"\r\n".join(
        (
            b"HTTP/1.1 " + status,
            b"Date: " + formatdate(usegmt=True).encode(),
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(body),
            b"Cache-Control: " + cache_control,
            b"",
            body,
        )
    )


def paths(data: bytes) -> Iterator[bytes]:
    """The target of each whole request in `data`."""
    *heads, _ = data.split(b"\r\n\r\n")
    for head in heads:
        yield head.split(b" ", 2)[1]


class Connection(asyncio.Protocol):
    """One client's."""

    hits: Final[Counter[bytes]] = Counter()
    routes: Final[dict[bytes, Route]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.data = b""

    def data_received(self, data: bytes) -> None:
        data = self.data + data
        for path in paths(data):
            self.routes[path.split(b"/", 2)[1]](self, path)
        self.data = data[data.rfind(b"\r\n\r\n") + 4 :] if b"\r\n\r\n" in data else data

    def later(self, path: bytes, cache_control: bytes) -> None:
        """Answer after as many milliseconds as `path` says."""
        self.hits[path] += 1
        body = padded({"at": time.perf_counter()})
        wait_s = int(path.split(b"/", 3)[2]) / 1000
        asyncio.get_running_loop().call_later(wait_s, self.write, answer(body, cache_control))

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def count(self, path: bytes) -> None:
        hits = self.hits[path.removeprefix(b"/hits")]
        self.write(answer(padded({"hits": hits}), NO_STORE))


def _fixed(response: bytes) -> Route:
    def route(connection: Connection, path: bytes) -> None:
        connection.transport.write(response)

    return route


def _counted(act: Callable[[Connection], None]) -> Route:
    def route(connection: Connection, path: bytes) -> None:
        connection.hits[path] += 1
        act(connection)

    return route


def _routes() -> dict[bytes, Route]:
    body = padded({})
    dead = answer(body, NO_STORE, b"503 Service Unavailable")
    head = answer(body, NO_STORE).removesuffix(body)
    return {
        b"no-store": _fixed(answer(body, NO_STORE)),
        b"fresh": _fixed(answer(body, HOUR)),
        b"wait": lambda connection, path: connection.later(path, NO_STORE),
        b"shared": lambda connection, path: connection.later(path, HOUR),
        b"dead": _counted(lambda connection: connection.write(dead)),
        b"hang-up": _counted(lambda connection: connection.transport.close()),
        b"stall": _counted(lambda connection: connection.write(head)),
        b"hits": lambda connection, path: connection.count(path),
    }


async def _serve() -> None:
    Connection.routes.update(_routes())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Print the port, and serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, required=True)
    pin(parser.parse_args().core)
    import uvloop  # of the extra `bench`; the tests need the rest of this module

    uvloop.run(_serve())


if __name__ == "__main__":
    main()

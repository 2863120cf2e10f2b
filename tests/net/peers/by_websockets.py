"""An echo server on the `websockets` package (asyncio); see `words`."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from .words import REASON, arguments, number_after, say, terminated, tls_context

#: It pings all the time.
PING_S = 0.2


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    status = number_after(request.path, "/status/")
    return None if status is None else connection.respond(status, "as told\n")


async def echo(connection: ServerConnection) -> None:
    try:
        async for words in connection:
            if (code := number_after(words, "close ")) is not None:
                await connection.close(code, REASON)
            elif (count := number_after(words, "big ")) is not None:
                await connection.send(bytes(count))
            else:
                await connection.send(words)
    except ConnectionClosed:
        pass
    say("closed", connection.close_code)


async def main() -> None:
    told = arguments()
    async with serve(
        echo,
        "127.0.0.1",
        told.port,
        ssl=tls_context(told.certificate),
        process_request=refuse,
        ping_interval=PING_S,
        # With a full queue (16) it stops reading, and so finds no answer to its close.
        max_queue=None,
    ):
        say("port", told.port)
        await terminated()


asyncio.run(main())

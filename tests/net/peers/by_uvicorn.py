"""An echo server as an ASGI application on uvicorn, its WebSockets by wsproto; see `words`."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from .words import REASON, arguments, number_after, say


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return
    assert (await receive())["type"] == "websocket.connect"
    status = number_after(scope["path"], "/status/")
    if status is not None:
        await refuse(status, send)
        return
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        words = event.get("text")
        if (code := number_after(words, "close ")) is not None:
            await send({"type": "websocket.close", "code": code, "reason": REASON})
            say("closed", code)
            return
        elif (count := number_after(words, "big ")) is not None:
            await send({"type": "websocket.send", "bytes": bytes(count)})
        elif words is not None:
            await send({"type": "websocket.send", "text": words})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})
    say("closed", event["code"])


async def refuse(status: int, send: Any) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"as told\n"})


def main() -> None:
    told = arguments()
    with socket.create_server(("127.0.0.1", told.port)) as listener:
        say("port", told.port)
        config = uvicorn.Config(
            app,
            ws="wsproto",
            lifespan="off",
            log_level="warning",
            ssl_certfile=told.certificate,
            ssl_keyfile=told.certificate,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listener])


main()

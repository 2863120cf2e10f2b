"""An echo server on aiohttp; see `words`."""

from __future__ import annotations

import asyncio

from aiohttp import WSCloseCode, web

from .words import REASON, arguments, number_after, say, terminated, tls_context

OPEN: set[web.WebSocketResponse] = set()


async def echo(request: web.Request) -> web.StreamResponse:
    status = number_after(request.path, "/status/")
    if status is not None:
        return web.Response(status=status, text="as told\n")
    link = web.WebSocketResponse()
    await link.prepare(request)
    OPEN.add(link)
    try:
        async for message in link:
            words = message.data
            if (code := number_after(words, "close ")) is not None:
                await link.close(code=code, message=REASON.encode())
            elif (count := number_after(words, "big ")) is not None:
                await link.send_bytes(bytes(count))
            elif isinstance(words, str):
                await link.send_str(words)
            else:
                await link.send_bytes(words)
    except ConnectionError:
        pass
    finally:
        OPEN.discard(link)
    say("closed", link.close_code)
    return link


async def close_all(_: web.Application) -> None:
    await asyncio.gather(*(link.close(code=WSCloseCode.GOING_AWAY) for link in set(OPEN)))


async def main() -> None:
    told = arguments()
    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    app.on_shutdown.append(close_all)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(
        runner, "127.0.0.1", told.port, ssl_context=tls_context(told.certificate)
    ).start()
    say("port", told.port)
    await terminated()
    await runner.cleanup()


asyncio.run(main())

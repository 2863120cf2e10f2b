"""A chat with its page on a real port, behind a relay, and what a user does in it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

import trio_rt
from trio_rt import HttpRequest, SessionLimits
from trio_rt.chat import PAGE, PAGE_POLICY, ChatService, open_chat_service
from trio_rt.chat._service.file_routes import authorize_by, file_routes
from trio_rt.chat._service.files import FileStore
from trio_rt.hub import LogLimits, MemoryBroker, Site
from trio_rt.testing import Relay, serve_relay

from .browser import DESK, Browser, Page

__all__ = [
    "PAGE",
    "PHONE",
    "SECRET",
    "Chat",
    "contents",
    "open_chat_world",
    "png",
    "say",
    "sign_in",
]

PHONE: Final = (390, 844)
SECRET: Final = "a secret of the tests, of 32 bytes"

#: What of each message is to be seen.
_CONTENTS: Final = """[...document.querySelectorAll('.msg .body')].map((body) => body.innerText)"""


@attrs.frozen
class Chat:
    """A running chat. Pages are opened through its relay."""

    browser: Browser
    service: ChatService
    relay: Relay

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.relay.port}/"

    async def enter(self, name: str, *, size: tuple[int, int] = DESK, dark: bool = False) -> Page:
        """A page of a user that is in the room `lobby`."""
        page = await self.browser.open(f"{self.url}#lobby", size, dark=dark)
        await sign_in(page, name)
        return page


async def sign_in(page: Page, name: str, token: str = "") -> None:
    await page.wait("document.querySelector('#sign').open")
    await page.type(name, "#sign-name")
    if token:
        await page.eval("document.querySelector('#sign-more').open = true")
        await page.type(token, "#sign-token")
    await page.press("Enter")
    await page.wait("document.querySelector('#about').innerText.includes('member')")


async def say(page: Page, *texts: str) -> None:
    """As a user does: into the field, and Enter."""
    for text in texts:
        await page.type(text)
        await page.press("Enter")


async def contents(page: Page) -> list[str]:
    """The texts of the messages on the page, from the oldest on."""
    found: list[str] = await page.eval(_CONTENTS)
    return found


def png(file: Path, width: int = 64, height: int = 48) -> Path:
    """A picture."""
    pixels = b"".join(b"\0" + bytes((40, 90, 210)) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return file


@asynccontextmanager
async def open_chat_world(
    browser: Browser, folder: Path, *, keep_s: float = 120.0, guests_upload: bool = True
) -> AsyncIterator[Chat]:
    """The chat; `keep_s` is how long it knows a session without a link."""
    broker = MemoryBroker(LogLimits(messages=20_000, total_bytes=64 << 20))
    async with (
        open_chat_service(broker, anonymous=True, secret=SECRET) as service,
        trio.open_nursery() as nursery,
    ):
        known = authorize_by(service.accept)

        async def authorize(request: HttpRequest) -> str | None:
            return await known(request) or ("guests" if guests_upload else None)

        routes = file_routes(FileStore(folder / "files"), authorize)
        site = Site(routes, PAGE, policy=PAGE_POLICY)
        more: dict[str, Any] = {
            "path": "/ws",
            "http": site,
            "session": SessionLimits(keep_s=keep_s),
        }
        start = partial(trio_rt.serve, service, "127.0.0.1", 0, accept=service.accept, **more)
        server = await nursery.start(start)
        relay = await nursery.start(partial(serve_relay, "127.0.0.1", server.port))
        yield Chat(browser, service, relay)
        nursery.cancel_scope.cancel()

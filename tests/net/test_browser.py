"""A page in Chromium as the client of a server of ours; see `peers/page.html`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest
import trio

import trio_rt
from tests.strangers import complaints
from trio_rt import Refuse

from .reverse_proxies import NGINX
from .support import LIMIT_S, Command, Program, python, requires, running, tool
from .talk import Echo, serving

pytestmark = requires("chromium")

PAGES: Final = python("pages")

#: As root it needs the first one; the others keep it from talking to anybody.
FLAGS: Final = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

ECHOED: Final = {
    "opened": True,
    "texts": 200,
    "binary": 100_000,
    "deflated": False,
    "code": 1000,
    "clean": True,
}
REFUSED: Final = {
    "opened": False,
    "texts": 0,
    "binary": 0,
    "deflated": False,
    "code": 1006,
    "clean": False,
}


def chromium(folder: Path, origin: str, *urls: str) -> Command:
    """A browser that opens the page, which talks with each of the URLs."""
    page = f"{origin}/page.html?{urlencode([('url', url) for url in urls])}"
    return lambda _: [str(tool("chromium")), *FLAGS, f"--user-data-dir={folder}/profile", page]


async def results(pages: Program, browser: Command) -> list[dict[str, Any]]:
    """What the page saw."""
    async with running(browser, ready=None):
        found: list[dict[str, Any]] = json.loads(
            (await pages.wait_line("result ")).removeprefix("result ")
        )
    return found


async def test_echo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Texts, a long binary message and a clean close, also deflated."""
    origins = []

    async def accept(handshake: trio_rt.Handshake) -> None:
        origins.append(handshake.origin)

    with trio.fail_after(LIMIT_S):
        async with (
            serving(Echo(), accept=accept) as plain,
            serving(Echo(), accept=accept, compression=True) as deflating,
            running(PAGES) as pages,
        ):
            origin = pages.url("http")
            browser = chromium(tmp_path, origin, plain.url, deflating.url)
            assert await results(pages, browser) == [
                ECHOED,
                {**ECHOED, "deflated": True},
            ]
            assert origins == [origin] * 2
    assert complaints(caplog) == []


async def test_other_origins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By default none is let in; by a hook those that it knows, exactly: not `localhost`."""
    caplog.set_level(logging.INFO, "trio_rt")

    with trio.fail_after(LIMIT_S):
        async with running(PAGES) as pages:
            known = f"http://localhost:{pages.port}"

            async def accept(handshake: trio_rt.Handshake) -> None:
                if handshake.origin != known:
                    raise Refuse(403)

            async with serving(Echo()) as strict, serving(Echo(), accept=accept) as open_:
                refused = chromium(tmp_path, pages.url("http"), strict.url, open_.url)
                assert await results(pages, refused) == [REFUSED, REFUSED]
                assert caplog.messages == [
                    "127.0.0.1: refused with 403 (a page of another origin)",
                    "127.0.0.1: refused with 403 (by the accept hook)",
                ]
                pages.lines.clear()
                accepted = chromium(tmp_path, known, open_.url, strict.url)
                assert await results(pages, accepted) == [ECHOED, REFUSED]


@requires("nginx")
async def test_own_origin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A page that comes through the same nginx as the server is let in by default."""
    with trio.fail_after(LIMIT_S):
        async with serving(Echo()) as server, running(PAGES) as pages:
            site = {"folder": tmp_path, "upstream": server.port, "pages": pages.port}
            async with running(NGINX.command(**site), ready=NGINX.ready) as nginx:
                browser = chromium(tmp_path, nginx.url("http"), nginx.url())
                assert await results(pages, browser) == [ECHOED]
    assert complaints(caplog) == []

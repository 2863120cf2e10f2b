"""`trio-rt top`: a running hub's numbers, once a second.

A server that is away is no end: what was known stays, dimmed, and the minute has a gap.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import attrs
import httpx
import trio
from rich.console import Console
from rich.live import Live

from ..errors import HttpError
from ..http import Client, open_client
from ._samples import History, Sample, read_sample
from ._text import printable
from ._top_view import View, as_line

__all__ = ["Source", "Unavailable", "metrics_url", "open_source", "show_top"]

#: Between two looks.
LOOK_S: Final = 1.0
#: A look that takes longer has failed.
PATIENCE_S: Final = 3.0
#: The numbers are some kilobytes.
MOST_BYTES: Final = 1 << 20

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Unavailable(Exception):
    """The numbers cannot be had now; the text says why, in one line."""


def metrics_url(text: str) -> str:
    """Where the numbers of the hub at `text` are. Raises `ValueError`, without its secrets."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("the URL cannot be one") from None
    if parts.scheme not in _SCHEMES or not parts.hostname or not text.isprintable():
        raise ValueError("the URL must begin with http://, https://, ws:// or wss://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must have no user: see --token")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = host if port is None else f"{host}:{port}"
    path = "/metrics" if parts.scheme in ("ws", "wss") or parts.path in ("", "/") else parts.path
    return urlunsplit((_SCHEMES[parts.scheme], place, path, "", ""))


@attrs.frozen
class Source:
    """Where the numbers come from."""

    url: str
    client: Client
    token: str = attrs.field(default="", repr=False)

    async def look(self) -> Sample:
        """The numbers of now. Raises `Unavailable`."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = await self.client.get(self.url, headers=headers)
            if answer.status_code != 200:
                hint = ": not for you? see --token" if answer.status_code == 404 else ""
                raise Unavailable(f"status {answer.status_code}{hint}")
            return read_sample(answer.content.decode(errors="replace"), trio.current_time())
        except (HttpError, httpx.HTTPError, OSError, ValueError) as error:
            raise Unavailable(_why(error)) from error


def _why(error: BaseException | None) -> str:
    """The first of an error and its causes that says something."""
    name = type(error).__name__
    while error is not None and not str(error):
        error = error.__cause__ or error.__context__
    return str(error or name)


@asynccontextmanager
async def open_source(
    url: str,
    *,
    token: str = "",
    context: ssl.SSLContext | None = None,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[Source]:
    """A source at `url`; certificates are checked by `context`, or as the system does."""
    async with open_client(
        timeout_s=patience_s,
        max_body_bytes=MOST_BYTES,
        cache=False,
        retry=False,
        ssl_context=context or ssl.create_default_context(),
    ) as client:
        yield Source(url, client, token)


async def show_top(url: str, *, token: str, once: bool) -> int:
    """Show the hub's numbers until cancelled; or `once`. The exit status."""
    console = Console()
    async with open_source(url, token=token) as source:
        if once:
            return await _show_once(source, console)
        if console.is_terminal and not console.is_dumb_terminal:
            await _show_live(source, console)
        else:
            await _show_lines(source, console)
        return 0


async def _show_once(source: Source, console: Console) -> int:
    history = History()
    try:
        history.add(await source.look())
        await trio.sleep(LOOK_S)
        history.add(await source.look())
    except Unavailable as error:
        Console(stderr=True).print(
            f"trio-rt: {printable(str(error))}", markup=False, highlight=False, soft_wrap=True
        )
        return 1
    console.print(View(source.url, history))
    return 0


async def _view(source: Source, history: History) -> View:
    try:
        history.add(await source.look())
    except Unavailable as error:
        history.miss()
        return View(source.url, history, str(error))
    return View(source.url, history)


async def _show_live(source: Source, console: Console) -> None:
    history = History()
    with Live(View(source.url, history), console=console, screen=True, auto_refresh=False) as live:
        while True:
            next_at = trio.current_time() + LOOK_S
            live.update(await _view(source, history), refresh=True)
            await trio.sleep_until(next_at)


async def _show_lines(source: Source, console: Console) -> None:
    history = History()
    try:
        while True:
            next_at = trio.current_time() + LOOK_S
            print(as_line(await _view(source, history)), flush=True)
            await trio.sleep_until(next_at)
    except BrokenPipeError:  # nobody reads it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

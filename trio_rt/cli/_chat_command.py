"""The options of `trio-rt chat`."""

from __future__ import annotations

import os
import sys
from functools import partial
from urllib.parse import urlsplit, urlunsplit

import click

from ._signals import run_until_signal

__all__ = ["chat", "chat_urls"]

_WEB = {"ws": "http", "wss": "https"}
_SOCKETS = {web: sockets for sockets, web in _WEB.items()}


def chat_urls(text: str) -> tuple[str, str]:
    """The URL of the WebSocket, and the server's own. Raises `ValueError`, without secrets."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises
    except ValueError:
        raise ValueError("The URL cannot be one.") from None
    scheme = _SOCKETS.get(parts.scheme, parts.scheme)
    if scheme not in _WEB or not parts.hostname or not text.isprintable():
        raise ValueError("The URL must begin with ws://, wss://, http:// or https://.")
    if parts.username is not None or parts.password is not None:
        raise ValueError("The URL must have no user: see --token.")
    path = parts.path if parts.path not in ("", "/") else "/ws"
    sockets = urlunsplit((scheme, parts.netloc, path, parts.query, ""))
    return sockets, urlunsplit((_WEB[scheme], parts.netloc, "/", "", ""))


@click.command(context_settings={"auto_envvar_prefix": "TRIO_RT_CHAT"})
@click.argument("url")
@click.option(
    "--room",
    "rooms",
    multiple=True,
    default=("lobby",),
    show_default=True,
    metavar="ROOM",
    help="Go into this room; may be repeated.",
)
@click.option("--name", metavar="NAME", help="What others see, where the service lets you choose.")
@click.option(
    "--token",
    metavar="TOKEN",
    help="Who you are; better from the environment: TRIO_RT_CHAT_TOKEN.",
)
@click.option(
    "--no-colour", "--no-color", "plain", is_flag=True, help="As with NO_COLOR in the environment."
)
@click.pass_context
def chat(
    ctx: click.Context,
    url: str,
    rooms: tuple[str, ...],
    name: str | None,
    token: str | None,
    plain: bool,
) -> None:
    """Talk in the rooms of the chat at URL (ws:// or wss://).

    What you say while there is no link is kept, shown as queued, and said when
    there is one. /help, inside, lists the commands and the keys.

    \b
    Exit status:
      0    you left: /quit or Ctrl-D
      1    the service does not want you, or the connection failed for good
      2    the command line is wrong, or there is no terminal
      130  SIGINT; 143  SIGTERM

    \b
    Example:
      trio-rt chat ws://127.0.0.1:8765/ws --room lobby --name Ada
    """
    from ..hub._names import is_name

    try:
        sockets, base = chat_urls(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise click.UsageError("The token cannot be one.")
    for field, text in (*(("room", room) for room in rooms), ("name", name)):
        if text is not None and not is_name(text):
            raise click.UsageError(f"The {field} must be printable text of 1 to 128 bytes.")
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        click.echo("trio-rt: chat needs a terminal", err=True)
        ctx.exit(2)
    try:
        from .chat.app import ChatOptions, run_chat
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "urwid":
            raise
        sys.exit("trio-rt: urwid is missing; install it with: pip install 'trio-rt[tui]'")
    options = ChatOptions(
        url=sockets,
        base=base,
        rooms=tuple(dict.fromkeys(rooms)),
        name=name or "",
        token=token or "",
        colours=not (plain or os.environ.get("NO_COLOR")),
    )
    ctx.exit(run_until_signal(partial(run_chat, options)))

"""The options of `trio-rt top`."""

from __future__ import annotations

from functools import partial

import click

from ._signals import run_until_signal

__all__ = ["top"]


@click.command(context_settings={"auto_envvar_prefix": "TRIO_RT_TOP"})
@click.argument("url")
@click.option(
    "--token",
    metavar="TOKEN",
    help="What opens /metrics there; better from the environment: TRIO_RT_TOP_TOKEN.",
)
@click.option("--once", is_flag=True, help="Print what happens in one second, and stop.")
@click.pass_context
def top(ctx: click.Context, url: str, token: str | None, once: bool) -> None:
    """Watch the hub at URL, once a second.

    URL is what `trio-rt serve` prints, or http(s)://HOST:PORT. The numbers are
    those of its /metrics; publish times are those of its last 1024. A server
    that is away is waited for. Without a terminal it prints a line each second.

    \b
    Exit status:
      0    fine
      1    with --once: the numbers cannot be had
      2    the command line is wrong
      130  SIGINT; 143  SIGTERM
    """
    from .top import metrics_url, show_top

    try:
        place = metrics_url(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise click.UsageError("The token cannot be one.")
    ctx.exit(run_until_signal(partial(show_top, place, token=token or "", once=once)))

"""The command line: options in, exit status out.

Each command imports what it needs when it runs: the demo's network takes longer
to import than `connect` takes to connect.
"""

from __future__ import annotations

from functools import partial
from typing import NoReturn, get_args

import click
from click.core import ParameterSource

from ..options import WireName
from ._chat_command import chat
from ._serve_command import serve
from ._signals import run_until_signal
from ._top_command import top
from ._types import Seconds

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trio-rt", message="%(prog)s %(version)s")
def command() -> None:
    """Real-time connections that outlive their sockets.

    Begin with `trio-rt demo`. To talk to a server: `trio-rt connect URL`. To run
    one with rooms: `trio-rt serve`; to watch it: `trio-rt top URL`. To chat in
    rooms: `trio-rt chat URL`.
    """


command.add_command(chat)
command.add_command(serve)
command.add_command(top)


@command.command()
@click.option(
    "--seconds",
    type=Seconds(min=0.1, max=3600.0),
    default=8.0,
    show_default=True,
    help="Spread the load and the cuts over so long.",
)
@click.option(
    "--messages",
    type=click.IntRange(1, 10_000_000),
    default=10_000,
    show_default=True,
    help="Messages each way, at least.",
)
@click.option(
    "--cuts",
    type=click.IntRange(0, 10_000),
    default=20,
    show_default=True,
    help="How often the link is cut: at any moment and in mid-frame by turns.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the load and the cuts.")
@click.option(
    "--plain",
    is_flag=True,
    help="Without a session, as to any WebSocket server: what is in flight is lost.",
)
@click.option(
    "--wire",
    type=click.Choice(get_args(WireName)),
    default="websockets",
    show_default=True,
    help="The package that speaks WebSocket for the client.",
)
@click.option("--json", "to_json", is_flag=True, help="Print the report as JSON, and no progress.")
@click.option(
    "--chat", "is_chat", is_flag=True, help="Run a chat to look at instead, until Ctrl-C."
)
@click.option("--cut", is_flag=True, help="With --chat: cut the links of those who talk.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="With --chat: where it is.  [default: one that is free]",
)
@click.pass_context
def demo(
    ctx: click.Context,
    is_chat: bool,
    cut: bool,
    port: int,
    seconds: float,
    messages: int,
    cuts: int,
    seed: int,
    plain: bool,
    wire: WireName,
    to_json: bool,
) -> None:
    """Cut a link again and again under load, and account for every message.

    Runs a server, a client, and between them a relay whose links are cut by
    resets, half of them in the middle of a frame. Nothing leaves this machine.

    With --chat: a server with a page, and a few users who talk; of the other
    options --seed goes with it, and --seconds for an end.

    Exit status: 0 if every promise was kept, else 1.
    """
    if is_chat:
        _demo_chat(ctx, cut=cut, port=port)
    for name in ("cut", "port"):
        if _is_given(ctx, name):
            raise click.UsageError(f"--{name} needs --chat.")
    from ._show import show_demo
    from .demo import Plan

    plan = Plan(seconds=seconds, messages=messages, cuts=cuts, seed=seed, plain=plain, wire=wire)
    ctx.exit(run_until_signal(partial(show_demo, plan, to_json=to_json)))


def _demo_chat(ctx: click.Context, *, cut: bool, port: int) -> NoReturn:
    for name in ("messages", "cuts", "plain", "wire", "to_json"):
        if _is_given(ctx, name):
            raise click.UsageError(f"--{name.replace('to_', '')} does not go with --chat.")
    from .demo_chat import ChatPlan, run_chat_demo

    seconds = ctx.params["seconds"] if _is_given(ctx, "seconds") else 0.0
    plan = ChatPlan(port=port, cut=cut, seconds=seconds, seed=ctx.params["seed"])
    ctx.exit(run_until_signal(partial(run_chat_demo, plan)))


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def _headers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for value in values:
        name, colon, content = value.partition(":")
        if not colon:
            raise click.BadParameter("must look like 'Name: value'.", ctx, param)
        headers[name.strip()] = content.strip()
    return headers


@command.command()
@click.argument("url")
@click.option(
    "--type",
    "type_",
    metavar="TYPE",
    help="Send each line as the payload (JSON, or else text) of a message of this type.",
)
@click.option(
    "--envelope", is_flag=True, help='Send each line as a message: {"type": ..., "payload": ...}.'
)
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    callback=_headers,
    metavar="'NAME: VALUE'",
    help="Add a header to the handshake; may be repeated.",
)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME",
    help="Offer a subprotocol; may be repeated.",
)
@click.option(
    "--wait",
    "wait_s",
    type=Seconds(min=0.0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to listen after the end of the input; inf for ever.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(min=0.0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up after so long without a link; inf never.",
)
@click.option("--insecure", is_flag=True, help="Accept any certificate.")
@click.option("-q", "--quiet", is_flag=True, help="Do not tell what the connection does.")
@click.pass_context
def connect(
    ctx: click.Context,
    url: str,
    type_: str | None,
    envelope: bool,
    headers: dict[str, str],
    protocols: tuple[str, ...],
    wait_s: float,
    timeout_s: float,
    insecure: bool,
    quiet: bool,
) -> None:
    """Talk to the WebSocket server at URL (ws:// or wss://), line by line.

    Each line of input is sent as a text message, and each message printed as
    a line. With --type or --envelope messages are typed JSON envelopes, and
    printed as lines of JSON. A lost link is dialled again; what happens to it
    is told on standard error. At the end of the input everything is sent
    before it stops.

    \b
    Exit status:
      0    fine, also when nobody reads the output any more
      1    the connection failed, or not every line was surely sent
      2    the command line is wrong
      130  SIGINT; 143  SIGTERM

    \b
    Examples:
      echo hello | trio-rt connect ws://127.0.0.1:8765
      trio-rt connect --type chat_message wss://example.org/feed
    """
    from ._dialects import Envelope, Raw
    from .line_client import LineOptions, run_line_client

    options = LineOptions(
        url=url,
        dialect=Envelope(type_) if envelope or type_ is not None else Raw(),
        headers=headers,
        protocols=protocols,
        insecure=insecure,
        wait_s=wait_s,
        timeout_s=timeout_s,
        quiet=quiet,
    )
    ctx.exit(run_until_signal(partial(run_line_client, options)))

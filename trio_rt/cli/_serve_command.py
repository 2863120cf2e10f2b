"""The options of `trio-rt serve`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import OptionError
from ..options import ServerLimits
from ._types import Seconds

if TYPE_CHECKING:
    from ._chat_rooms import ChatOptions
    from .serve import ServeOptions

__all__ = ["serve"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_COUNT = click.IntRange(min=1)

#: A client's commands of so many seconds may come at once, as by default.
BURST_S: Final = 2.0


@click.command(context_settings={"auto_envvar_prefix": "TRIO_RT_SERVE"})
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="0 for one that is free.",
)
@click.option("--path", default="/ws", show_default=True, help="Where WebSockets are taken.")
@click.option("--cert", type=_FILE, help="Serve TLS with this certificate chain (PEM).")
@click.option("--key", type=_FILE, help="Its key, if that is in a file of its own.")
@click.option(
    "--broker",
    default="memory",
    metavar="memory|sqlite:PATH|redis://...|rediss://...",
    help="Where the rooms live.  [default: memory]",
)
@click.option(
    "--history", type=_COUNT, metavar="N", help="Messages kept of a room.  [default: 1000]"
)
@click.option(
    "--history-bytes", type=_COUNT, metavar="N", help="Bytes kept of a room.  [default: 1048576]"
)
@click.option(
    "--keep",
    type=Seconds(min=0.0, min_open=True),
    metavar="SECONDS",
    help="How long a message is kept; inf for ever.  [default: 86400]",
)
@click.option(
    "--origin",
    multiple=True,
    metavar="ORIGIN",
    help="Take pages of this origin too, as https://www.example.com; may be repeated.",
)
@click.option(
    "--max-connections", type=_COUNT, metavar="N", help="Of all clients together.  [default: 10000]"
)
@click.option(
    "--max-connections-per-address",
    type=_COUNT,
    metavar="N",
    help="Of one address.  [default: no limit]",
)
@click.option(
    "--rooms-per-peer",
    type=_COUNT,
    metavar="N",
    help="Rooms that a client may be in.  [default: 100]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=1.0),
    metavar="N",
    help="Commands a second that a client may send; inf for any.  [default: 100]",
)
@click.option("--token-file", type=_FILE, help="Lines of: token user [device]")
@click.option("--anonymous", is_flag=True, help="Take clients that show no token, as guests.")
@click.option("--metrics-token-file", type=_FILE, help="One line: what opens /metrics.")
@click.option(
    "--log",
    type=click.Choice(["json", "text"]),
    help="The log's form.  [default: text on a terminal, else json]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--drain",
    type=Seconds(min=0.0, max=3600.0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a stop may take.",
)
@click.option(
    "--static",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Serve the files below it, too.",
)
@click.option("--chat", is_flag=True, help="The rooms are a chat's, and its page is at /.")
@click.option(
    "--secret-file",
    type=_FILE,
    help="With --chat: one line, with which tokens (JWT, HS256) are signed.",
)
@click.option(
    "--owner",
    multiple=True,
    metavar="ROOM=USER",
    help="With --chat: who moderates a room; may be repeated.",
)
@click.option(
    "--standings",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --chat: where roles, mutes and bans are kept.  [default: in memory]",
)
@click.option(
    "--files",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="With --chat: take uploads, and keep them here.",
)
@click.pass_context
def serve(ctx: click.Context, /, log: str | None, log_level: str, **values: Any) -> None:
    """Run a hub: rooms with members, history and presence; or, with --chat, a chat.

    A client shows its token as "Authorization: Bearer TOKEN", or, in a browser,
    as a subprotocol "trio-rt.token.TOKEN" beside a real one. Without tokens, and
    without --anonymous, it serves programs on this machine only.

    On the same port: /healthz, /readyz, and /metrics (for programs on this
    machine; with --metrics-token-file only for who shows that token).

    SIGTERM or SIGINT stops it gently within --drain; a second one at once.

    Each option can come from the environment, as TRIO_RT_SERVE_MAX_CONNECTIONS
    for --max-connections. A broker's password should: all users of a machine
    can see command lines.

    \b
    Exit status:
      0    stopped by a signal
      1    it cannot listen, or has failed
      2    the command line is wrong
      130  a second SIGINT; 143  a second SIGTERM
    """
    from ._logs import Redactor, open_logs
    from .serve import run_serve

    options = _options(**values)
    secrets = (*options.store.secrets, options.metrics_token)
    redact = Redactor(secrets if options.chat is None else (*secrets, options.chat.secret))
    as_json = log == "json" or (log is None and not sys.stderr.isatty())
    with open_logs(log_level, redact, as_json=as_json):
        status = run_serve(options)
    ctx.exit(status)


def _options(
    *,
    cert: Path | None,
    key: Path | None,
    broker: str,
    token_file: Path | None,
    metrics_token_file: Path | None,
    drain: float,
    origin: tuple[str, ...],
    **values: Any,
) -> ServeOptions:
    from ._door import BadFile, read_token, read_tokens
    from ._stores import store_of
    from .serve import ServeOptions

    if key is not None and cert is None:
        raise click.UsageError("--key needs --cert.")
    if values["secret_file"] is not None and token_file is not None:
        raise click.UsageError("--secret-file and --token-file are two ways: take one.")
    try:
        limits = _limits(values)
        return ServeOptions(
            certificate=cert,
            key=key,
            store=store_of(broker),
            users={} if token_file is None else read_tokens(token_file),
            metrics_token="" if metrics_token_file is None else read_token(metrics_token_file),
            drain_s=drain,
            origins=origin,
            chat=_chat(values),
            **values,
            **limits,
        )
    except (OptionError, BadFile) as error:
        raise click.UsageError(str(error)) from None


def _chat(values: dict[str, Any]) -> ChatOptions | None:
    """What is said of a chat; None for none. Takes it out."""
    names = ("secret_file", "owner", "standings", "files")
    given = {name: values.pop(name) for name in names}
    if not values.pop("chat"):
        for name, value in given.items():
            if value:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --chat.")
        return None
    from ._chat_rooms import ChatOptions
    from ._door import read_secret

    owners: dict[str, list[str]] = {}
    for each in given["owner"]:
        room, equals, user = each.rpartition("=")
        if not (room and equals and user):
            raise click.UsageError(f"--owner must be ROOM=USER, not {each!r}.")
        owners.setdefault(room, []).append(user)
    secret = "" if given["secret_file"] is None else read_secret(given["secret_file"])
    return ChatOptions(
        secret=secret, owners=owners, standings=given["standings"], files=given["files"]
    )


def _limits(values: dict[str, Any]) -> dict[str, Any]:
    """The limits, of which those that are not given have their defaults. Takes them out."""
    from ..hub import HubLimits, LogLimits

    def given(**names: str) -> dict[str, Any]:
        found = {field: values.pop(name) for field, name in names.items()}
        return {field: value for field, value in found.items() if value is not None}

    hub = given(rooms_per_peer="rooms_per_peer", rate_per_s="rate")
    if "rate_per_s" in hub:
        burst = BURST_S * hub["rate_per_s"]
        hub["burst"] = math.ceil(burst) if math.isfinite(burst) else math.inf
    return {
        "history": LogLimits(
            **given(messages="history", total_bytes="history_bytes", keep_s="keep")
        ),
        "server": ServerLimits(
            **given(
                connections="max_connections",
                connections_per_address="max_connections_per_address",
            )
        ),
        "hub": HubLimits(**hub),
    }

"""`trio-rt serve`: a hub as a process of its own.

    run                  signals
    └─ open_hub          the rooms
       ├─ serve          peers, and HTTP on the same port
       ├─ watch          says in the log what happens
       └─ the body       waits for a signal, and drains

The first signal stops it gently: what asks for `/readyz` is told, nobody is let in any more,
and the peers are closed one after another (1012), each with the advice to wait a random
time. What is left when the budget is over is cut. A second signal ends it at once, and a
third as signals do.

A store that cannot be reached is no reason not to start: it may come later, or be on its
way back, and a hub that exits would be started again and again to no avail. `/readyz` says so,
and whoever sends clients here waits for that.
"""

from __future__ import annotations

import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from .._accept import AcceptHook
from .._server import Server, serve_listeners
from ..chat import PAGE, PAGE_POLICY, accept_tokens
from ..errors import OptionError
from ..hub import HubLimits, LogLimits, Who, open_hub
from ..hub._server.metrics import Monitor
from ..hub._server.site import Site, allow_origins
from ..options import ServerLimits
from ._chat_rooms import ChatOptions, chat_routes, open_chat_rooms, with_files
from ._door import door
from ._listening import (
    EXIT_FAILED,
    EXIT_USAGE,
    CannotServe,
    allow_files,
    close_listeners,
    leaves,
    open_listeners,
    tls_context,
)
from ._stores import Store
from ._watch import Attendant, log, watch

__all__ = ["EXIT_FAILED", "EXIT_USAGE", "ServeOptions", "run_serve"]

#: The peers of a small server are closed at this pace, those of a large one within half of
#: the budget: the other half is for their closing handshakes.
CLOSES_PER_S: Final = 50


@attrs.frozen(kw_only=True)
class ServeOptions:
    """What the command line says."""

    host: str
    port: int
    path: str
    certificate: Path | None = None
    key: Path | None = None
    store: Store
    history: LogLimits
    origins: Sequence[str] = ()
    server: ServerLimits
    hub: HubLimits
    users: dict[bytes, Who] = attrs.field(factory=dict, repr=False)
    anonymous: bool = False
    metrics_token: str = attrs.field(default="", repr=False)
    drain_s: float = 10.0
    static: Path | None = None
    #: None: rooms of no kind.
    chat: ChatOptions | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether there are clients that show one."""
        return bool(self.users or (self.chat is not None and self.chat.secret))


def run_serve(options: ServeOptions) -> int:
    """Serve until a signal says to stop: the exit status. What goes wrong is in the log."""
    try:
        return trio.run(_run, options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    causes = list(leaves(error))
    if all(isinstance(cause, (CannotServe, OptionError)) for cause in causes):
        log(logging.CRITICAL, str(causes[0]), event="failed")
        return getattr(causes[0], "status", EXIT_USAGE)
    logging.getLogger("trio_rt.serve").critical("the server failed", exc_info=error)
    return EXIT_FAILED


async def _run(options: ServeOptions) -> int:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        context = tls_context(options.certificate, options.key)
        allow_files(options.server.connections)
        async with _open_rooms(options) as attendant:
            return await _serve(options, attendant, context, signals)


@asynccontextmanager
async def _open_rooms(options: ServeOptions) -> AsyncIterator[Attendant]:
    broker = options.store.open(options.history)
    if options.chat is None:
        attendant = Attendant()
        async with open_hub(broker, rules=attendant, limits=options.hub) as attendant.hub:
            yield attendant
        return
    async with open_chat_rooms(
        broker, options.chat, options.hub, has_tokens=options.has_tokens
    ) as attendant:
        yield attendant


def _accept(options: ServeOptions) -> AcceptHook:
    if options.chat is not None and options.chat.secret:
        then = accept_tokens(options.chat.secret, anonymous=options.anonymous)
    else:
        then = door(options.users, anonymous=options.anonymous)
    return allow_origins(*options.origins, then=then)


def _site(options: ServeOptions, monitor: Monitor, accept: AcceptHook) -> Site:
    if options.chat is None:
        return Site(monitor.routes, options.static)
    routes = {**chat_routes(options.chat, accept), **monitor.routes}
    if options.static is not None:
        return Site(routes, options.static)
    return Site(routes, PAGE, policy=PAGE_POLICY)


async def _serve(
    options: ServeOptions,
    attendant: Attendant,
    context: ssl.SSLContext | None,
    signals: AsyncIterator[int],
) -> int:
    hub = attendant.hub
    monitor = Monitor(hub, token=options.metrics_token)
    accept = _accept(options)
    limits = options.server
    if options.chat is not None and options.chat.files is not None:
        limits = with_files(limits)
    serving: Any = partial(
        serve_listeners,
        accept=accept,
        path=options.path,
        http=_site(options, monitor, accept),
        limits=limits,
        ssl_context=context,
    )
    everybody = not (options.has_tokens or options.anonymous)
    listeners = await open_listeners(options.host, options.port, loopback_only=everybody)
    try:
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(serving, attendant, listeners)
            monitor.server = server
            nursery.start_soon(watch, hub)
            _announce(options, server)
            number = await anext(signals)
            monitor.draining = True
            why = signal.Signals(number).name
            status = await _drain(server, options.drain_s, why, signals)
            nursery.cancel_scope.cancel()
    finally:  # where an option was found bad they are open still
        close_listeners(listeners)
    log(logging.INFO, "stopped", event="stopped")
    return status


async def _drain(server: Server, budget_s: float, why: str, signals: AsyncIterator[int]) -> int:
    """Close the peers. The exit status: that of a second signal, if there is one."""
    status = 0
    log(
        logging.INFO,
        f"draining at {why}",
        event="draining",
        connections=server.connections,
        budget_s=budget_s,
    )

    async def stop_at_signal() -> None:
        nonlocal status
        number = await anext(signals)
        status = 128 + number
        log(logging.WARNING, "a second signal", event="cut", left=server.connections)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_signal)
        with trio.move_on_after(budget_s) as budget:
            await server.drain(min(budget_s / 2, server.connections / CLOSES_PER_S))
        if budget.cancelled_caught:
            log(logging.WARNING, "the budget is over", event="cut", left=server.connections)
        nursery.cancel_scope.cancel()
    return status


def _announce(options: ServeOptions, server: Server) -> None:
    url = f"{server.url}{options.path}"
    lines = [f"trio-rt: listening on {url}"]
    if options.chat is not None and options.static is None:
        lines.append(f"trio-rt: the page is http{server.url.removeprefix('ws')}/")
    try:
        os.write(1, "".join(f"{line}\n" for line in lines).encode())
    except OSError:  # nobody reads it
        pass
    who = "tokens" if options.has_tokens else "programs on this machine"
    if options.anonymous:
        who = "tokens and guests" if options.has_tokens else "guests"
    log(logging.INFO, "listening", event="started", url=url, broker=str(options.store), who=who)

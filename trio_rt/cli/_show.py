"""How the demo looks: progress while it runs, and a table at the end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import attrs
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from ._books import Report, Way
from .demo import Plan, Progress, run_demo

__all__ = ["as_json", "print_report", "show_demo", "watcher"]

BARS_EVERY_S: Final = 0.1
LINES_EVERY_S: Final = 0.5

#: Shown even if there were none. `acked` needs a session, `written` is for plain links.
OUTCOMES: Final = (
    "acked",
    "written",
    "indeterminate",
    "dropped (expired)",
    "dropped (replaced)",
    "dropped (evicted)",
    "dropped (offline)",
    "dropped (closed)",
    "withdrawn",
)

SESSION_NOTE: Final = (
    "Every cut was a reset that threw away what was in flight. What had not arrived was sent again "
    "on the next link, under the same number; so nothing is lost, and nothing comes twice. What was "
    "dropped was never sent: its sender said that it may be. Without a session: try --plain."
)
PLAIN_NOTE: Final = (
    "These were plain links, without a session, as to any WebSocket server: what a cut threw away is "
    "lost, and messages that are written and yet missing are more than such a link can know of."
)

Watch = Callable[[Callable[[], Progress]], Awaitable[None]]


def watcher(console: Console, plan: Plan) -> Watch:
    """Live bars on a terminal; plain lines elsewhere, and where NO_COLOR is set."""
    lively = console.is_terminal and "NO_COLOR" not in os.environ
    return _bars(console, plan) if lively else _lines(console)


def _bars(console: Console, plan: Plan) -> Watch:
    async def watch(look: Callable[[], Progress]) -> None:
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[phase]}"),
        )
        with Bars(*columns, console=console, auto_refresh=False, transient=True) as bars:
            messages = bars.add_task("delivered", total=2 * plan.messages, phase="")
            cuts = bars.add_task("cuts", total=plan.cuts, phase="")
            while True:
                now = look()
                bars.update(messages, completed=now.received, phase=now.phase.value)
                bars.update(cuts, completed=now.cuts)
                bars.refresh()
                await trio.sleep(BARS_EVERY_S)

    return watch


def _lines(console: Console) -> Watch:
    async def watch(look: Callable[[], Progress]) -> None:
        while True:
            await trio.sleep(LINES_EVERY_S)
            now = look()
            console.print(
                f"sent {now.sent}, delivered {now.received}, cuts {now.cuts}, {now.phase.value}",
                highlight=False,
            )

    return watch


def print_report(console: Console, report: Report) -> None:
    """The table, what it means, and the verdict."""
    console.print(_table(report))
    for line in _findings(report):
        console.print(line, highlight=False, soft_wrap=True)
    console.print()
    console.print(PLAIN_NOTE if report.plain else SESSION_NOTE, highlight=False)
    console.print()
    for promise in report.broken_promises:
        console.print(f"BROKEN  {promise}", style="bold red", highlight=False)
    if not report.broken_promises:
        console.print("OK  every promise was kept", style="bold green", highlight=False)


def _table(report: Report) -> Table:
    ways = (report.client_to_server, report.server_to_client)
    table = Table(title="messages", title_justify="left")
    table.add_column("")
    table.add_column("client to server", justify="right")
    table.add_column("server to client", justify="right")
    for section in _sections(ways):
        for name, value in section:
            table.add_row(name, *(str(value(way)) for way in ways))
        table.add_section()
    return table


_Row = tuple[str, Callable[[Way], int]]


def _sections(ways: tuple[Way, Way]) -> Iterator[list[_Row]]:
    yield [("accepted sends", lambda way: way.accepted)]
    seen = {outcome for way in ways for outcome in way.outcomes}
    outcomes = (*OUTCOMES, *sorted(seen.difference(OUTCOMES)))
    rows: list[_Row] = [(f"  {name}", _reader("outcomes", name)) for name in outcomes]
    yield [*rows, ("sum of outcomes", lambda way: sum(way.outcomes.values()))]
    yield [
        ("delivered", lambda way: way.delivered),
        ("lost", lambda way: way.lost),
        ("doubled", lambda way: way.doubled),
        ("out of order", lambda way: way.out_of_order),
    ]
    yield [
        ("not delivered: dropped", lambda way: _count(way.undelivered, "dropped")),
        ("delivered, though dropped", lambda way: way.ghosts),
        ("lost to a full stream (Gap)", lambda way: way.gaps),
        ("something may be missing (Reset)", lambda way: way.resets),
    ]


def _reader(field: str, name: str) -> Callable[[Way], int]:
    return lambda way: getattr(way, field).get(name, 0)


def _count(outcomes: dict[str, int], kind: str) -> int:
    return sum(count for outcome, count in outcomes.items() if outcome.startswith(kind))


def _findings(report: Report) -> Iterator[str]:
    yield (
        f"cuts            {report.cuts_at_any_moment} at any moment, "
        f"{report.cuts_in_mid_frame} in mid-frame"
    )
    yield (
        f"reconnects      {report.reconnects}, {report.resumed} resumed; time to recover: "
        f"p50 {_ms(report.recovery_p50_s)}, p99 {_ms(report.recovery_p99_s)}"
    )
    yield (
        f"critical        passed {report.overtaken} of {report.backlog} LOW messages "
        f"queued before it ({report.overtaken_share:.0%})"
    )
    yield f"time            {report.seconds:.1f} s, seed {report.seed}"


def _ms(seconds: float) -> str:
    return f"{math.ceil(seconds * 1000)} ms"


async def show_demo(plan: Plan, *, to_json: bool) -> int:
    """Run the demo, and show it or print it as JSON. The exit status."""
    console = Console()
    try:
        report = await run_demo(plan, _nothing if to_json else watcher(console, plan))
    except trio.TooSlowError:
        Console(stderr=True).print("trio-rt: the demo hangs, or this machine is too slow for it")
        return 1
    if to_json:
        print(json.dumps(as_json(report), indent=2))
    else:
        print_report(console, report)
    return 1 if report.broken_promises else 0


async def _nothing(look: object) -> None:
    await trio.lowlevel.checkpoint()


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "ok": not report.broken_promises,
        "overtaken_share": report.overtaken_share,
        **attrs.asdict(report),
    }

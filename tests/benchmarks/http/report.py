"""The table, and what it must be read with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Final

import attrs

from .. import report
from ..clients import Run
from ..report import Judged
from ..rounds import MOST_DISTURBED
from .rounds import Round
from .rows import Row

PACKAGES: Final = ("trio", "httpx", "httpcore", "httpx2", "httpcore2", "h11", "aiohttp", "uvloop")

NOTES: Final = """\
The client in a fresh process on one core, the server in another on a second core, plain HTTP/1.1
over loopback, 200 bytes of JSON. A figure is the median of the rounds; in brackets: the rounds
that keep the bound.
"Default layers" is `open_client(url, backend=...)` with nothing else: redirects, a timeout of
10 s, the cache in memory, retries with their budget, a gate of 6, the bound of bodies, safe
connects. Breaker and hedge are off. "Bare" is the backend's own AsyncClient on trio,
`max_connections=None`, `trust_env=False`.
What is not the same work:
- Speeds are those of six workers, in blocks of 60 requests by ours and by the bare client in turn,
  in one process; the figure is the median of the ratios of neighbours.
- "no-store" may not be stored; "stored" has a URL that is new each time, and keeps what it gets.
- Ours does without what the backend's `send` does for cookies, redirects and log-ins where a call
  has none of them; so `Client` may cost less than nothing in the stages. The layers in somebody
  else's AsyncClient pay for it.
- Ours sends fewer bytes of headers. It has six workers for its six slots: nobody waits.
- A hit makes a response of the backend's without leaving the process; the request beside it goes to
  another process and back.
- The gate is measured over a layer that does nothing. The watched body is a part of its cost.
- 50 uncacheable calls are timed by the same client with and without a cache; the figure is what
  they take longer with it. One answer is awaited until it is known that none can be shared: 50 ms.
  "again" is when that is known.
- The critical call is timed from its making to its arrival at the server, at random moments within
  a slot's 100 ms; the figure is the longest of nine.
- The storm has 20 callers and its server in one loop, so a cancelled call waits for the turns of
  the others before it can leave; beside it stands how late a timer of the same loop was. "leaving"
  is one call in an idle loop, the longest of 20 at each stage.
- Requests of equal calls and tries at the dead server are counted by the server.
- aiohttp parses in C and has none of these layers. The server's limit must be twice its rate, as
  it is the fastest client here.
- The stages are CPU time, each above the one before it; a single figure is right to some us."""


def figures(row: Row, rounds: Sequence[Round], *, cpu: bool = False) -> list[float]:
    """The figure of each round that came to one."""
    return [found for one in rounds if (found := _figure(row, one, cpu=cpu)) is not None]


def _figure(row: Row, one: Round, *, cpu: bool) -> float | None:
    run = one.get(row.measured)
    if not isinstance(run, Run):
        return None
    if row.note:
        return run.notes[row.note]
    if row.beside is not None:
        other = one.get(row.beside)
        return run.value / other.value if isinstance(other, Run) else None
    return run.cpu_value if cpu and run.cpu_value is not None else run.value


def judge(row: Row, rounds: Sequence[Round], *, cpu: bool = False) -> Judged:
    """The median, and in how many rounds the bound was kept; failed ones did not."""
    found = figures(row, rounds, cpu=cpu)
    asked = sum(row.measured in one for one in rounds)
    return Judged(
        statistics.median(found) if found else math.nan, sum(map(row.holds, found)), asked
    )


def _number(figure: float, unit: str) -> str:
    if math.isnan(figure):
        return "-"
    return f"{figure:,.3f}" if unit == "x" else f"{figure:,.1f}" if unit else f"{figure:,.0f}"


def _noted(row: Row, rounds: Sequence[Round]) -> dict[str, str]:
    """The medians of what was noted."""
    runs = [run for one in rounds if isinstance(run := one.get(row.measured), Run)]
    names = runs[0].notes if runs else {}
    medians = {name: statistics.median(run.notes[name] for run in runs) for name in names}
    return {
        name: f"{found:,.0f}" if found == int(found) or abs(found) >= 100 else f"{found:,.2f}"
        for name, found in medians.items()
    }


def _verdict(row: Row, judged: Judged) -> str:
    if row.must is None:
        return ""
    sign = ">=" if row.is_floor else "<="
    verdict = "yes" if judged.good else "NO"
    return f"must {sign} {row.must:g}: {verdict} ({judged.held}/{judged.rounds})"


def _lines(row: Row, rounds: Sequence[Round], *, cpu: bool) -> Iterator[str]:
    judged = judge(row, rounds, cpu=cpu)
    figure = _number(judged.ratio, row.unit)
    yield f"{row.name:<44}{figure:>10} {row.unit:<11}{_verdict(row, judged)}".rstrip()
    failed = [why for one in rounds if isinstance(why := one.get(row.measured), str)]
    for why in sorted(set(failed)):
        yield f"    failed in {failed.count(why)}: {why}"
    noted = _noted(row, rounds)
    if row.is_table:
        yield from (f"    {name:<40}{found:>10}" for name, found in noted.items())
    elif noted and row.beside is None and not row.note:
        yield "    " + "; ".join(f"{name} {found}" for name, found in noted.items())


def table(rows: Sequence[Row], rounds: Sequence[Round], *, cpu: bool = False) -> str:
    """The whole table, as text."""
    return "\n".join(line for row in rows for line in _lines(row, rounds, cpu=cpu))


def broken(rows: Sequence[Row], rounds: Sequence[Round], *, cpu: bool = False) -> list[str]:
    """The musts that do not hold."""
    found = []
    for row in rows:
        judged = judge(row, rounds, cpu=cpu)
        if row.must is not None and not judged.good:
            found.append(f"{row.name}: {_number(judged.ratio, row.unit)}, {_verdict(row, judged)}")
    return found


def disturbance(rounds: Sequence[Round]) -> str:
    """What the rest of the machine did meanwhile."""
    others = [run.others for one in rounds for run in one.values() if isinstance(run, Run)]
    if not others:
        return "nothing was measured"
    busy = sum(part > MOST_DISTURBED for part in others)
    return (
        f"the rest of the machine took {statistics.median(others):.0%} of a core (median), and"
        f" more than {MOST_DISTURBED:.0%} in {busy} of {len(others)} measurements"
    )


def machine() -> str:
    """Where and with what this ran."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return report.described(report.machine() | {"versions": versions})


def as_figures(rounds: Sequence[Round]) -> list[list[dict[str, object]]]:
    """Everything that was measured, for JSON."""
    return [
        [
            attrs.asdict(measured)
            | {"result": result if isinstance(result, str) else attrs.asdict(result)}
            for measured, result in one.items()
        ]
        for one in rounds
    ]

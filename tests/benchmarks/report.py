"""The table, and what the machine was."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import attrs

from .clients import Run
from .rounds import MOST_DISTURBED, Round
from .rows import Measurement, Peer, Row

PACKAGES: Final = (
    "trio-rt",
    "trio",
    "websockets",
    "trio-websocket",
    "aiohttp",
    "picows",
    "python-socketio",
    "uvloop",
    "msgspec",
)
#: The share of the rounds in which a bound must be kept: 6 of 7.
MOST: Final = 6 / 7

NOTES: Final = """\
Each client with its default options, nothing compressed, in a fresh process on one core; the
server in another on a second core. A figure is the median of the rounds, those of the peers
in the unit of ours; a ratio is the median of the ratios within the rounds; in brackets: the rounds
that keep the bound.
What is not the same work:
- A send of trio_rt keeps an outcome for every message, and the envelope rows encode each message
  to JSON and sort it by priority. All other peers but python-socketio send text made beforehand.
- A full outbox evicts lower priorities: only what the sink confirmed is counted.
- Awaiting a send means different things: in trio-websocket and websockets that the kernel or its
  buffer has the message, in aiohttp and trio_rt that it is queued. picows never waits; here it
  does while its transport asks for it. All are timed until the sink confirms the last message.
- picows calls back; an asyncio.Queue between makes it awaited, like the others.
- python-socketio talks to the fixed server, which speaks just enough of its protocol: its own
  server is slower than its client. The pair is stated as well.
- The fixed server waits awake in an echo, so that the time its core needs to wake up is not measured.
- Raw trio TCP moves the same 128 bytes without frames.
- A critical message's bytes are counted where a reader takes 125,000 bytes a second from a socket
  with a receive buffer of 32 KiB: what already waited in that buffer counts as arriving after it.
- A measurement during which the rest of the machine took over 15 % of a core is repeated once,
  whatever it came to.
- Memory is the growth of the resident set over 500 connections, or 20,000 messages of 128 bytes,
  payload included; measured in the first round only. The buffers of the kernel are not in it.
- A session is between trio_rt's client and its server, which acks what its program took; its
  frames travel in batches, aiohttp's and trio-websocket's go one by one to the fixed server, which
  only counts them: not the same work. Timed until the server's program confirms the last message.
- A request is answered by the server's program with its payload, as python-socketio's `call` is by
  an acknowledgement.
- A cut ends the client's socket under it, 200 times in one connection that redials at once
  (`first_s=0, min_uptime_s=0`). The time is from there to the answer of the server's program to a
  message that was sent right after it: their 99th percentile.
- A resume is timed from the new link's TCP connection, handshakes included, to the word of the
  server's program that it has 1,000 messages which the link before had swallowed: the median of 11.
  The server's window is `InboxLimits(messages=1000)` there; by default it is 256.
- The server's own limit is a blocking socket that writes frames made beforehand, or reads without
  looking; it must be twice as fast as the fastest client, or the server was part of the result."""


@attrs.frozen
class Judged:
    """One ratio of one row."""

    ratio: float
    held: int
    rounds: int

    @property
    def good(self) -> bool:
        """Whether the bound was kept in enough rounds."""
        return self.rounds > 0 and self.held >= math.ceil(self.rounds * MOST - 1e-9)


def figures(rounds: Sequence[Round], measured: Measurement) -> list[float]:
    """The figure of each round that came to one."""
    found = (one.get(measured) for one in rounds)
    return [run.value for run in found if isinstance(run, Run)]


def failures(rounds: Sequence[Round], measured: Measurement) -> list[str]:
    """Why rounds came to none."""
    found = (one.get(measured) for one in rounds)
    return [why for why in found if isinstance(why, str)]


def judge(rounds: Sequence[Round], row: Row, peer: Peer, bound: float | None) -> Judged:
    """The median of the ratios, and in how many rounds the bound was kept; failed ones did not."""
    pairs = [(one[row.ours], one[peer.measured]) for one in rounds if row.ours in one]
    ratios = [
        ours.value / theirs.value
        for ours, theirs in pairs
        if isinstance(ours, Run) and isinstance(theirs, Run)
    ]
    held = sum(bound is not None and row.holds(ratio, bound) for ratio in ratios)
    return Judged(statistics.median(ratios) if ratios else math.nan, held, len(pairs))


def _limit(rounds: Sequence[Round], row: Row) -> Judged:
    assert row.limit is not None
    found = figures(rounds, row.ours)
    count = sum(row.ours in one for one in rounds)
    ratio = statistics.median(found) / row.limit if found else math.nan
    return Judged(ratio, sum(row.holds(figure, row.limit) for figure in found), count)


def _number(figure: float, row: Row) -> str:
    if math.isnan(figure):
        return "-"
    return f"{figure:,.1f}" if row.unit == "ms" else f"{figure:,.0f}"


def _sign(row: Row) -> str:
    return ">=" if row.is_rate else "<="


def _median(rounds: Sequence[Round], measured: Measurement) -> float:
    found = figures(rounds, measured)
    return statistics.median(found) if found else math.nan


def _bounds(row: Row, peer: Peer, rounds: Sequence[Round]) -> Iterator[str]:
    for word, bound in (("must", peer.must), ("aim", peer.aim)):
        if bound is not None:
            result = judge(rounds, row, peer, bound)
            yield (
                f"{word} {_sign(row)} {bound:g}: {'yes' if result.good else 'NO'}"
                f" ({result.held}/{result.rounds})"
            )


def _lines(row: Row, rounds: Sequence[Round]) -> Iterator[str]:
    """A row: our figure, then a line for each peer."""
    line = f"{row.name:<42}{_number(_median(rounds, row.ours), row):>12} {row.unit}"
    if row.limit is not None:
        result = _limit(rounds, row)
        verdict = "yes" if result.good else "NO"
        line += f"   must {_sign(row)} {row.limit:,.0f}: {verdict} ({result.held}/{result.rounds})"
    yield line + _notes(row, rounds)
    for why in sorted(set(failures(rounds, row.ours))):
        yield f"    failed in {failures(rounds, row.ours).count(why)}: {why}"
    for peer in _shown(row, rounds):
        ratio = judge(rounds, row, peer, None).ratio
        times = "-" if math.isnan(ratio) else f"{ratio:.2f} x"
        name = f"    {peer.label}"
        theirs = _number(_median(rounds, peer.measured), row)
        bounds = "   ".join(_bounds(row, peer, rounds))
        yield f"{name:<42}{theirs:>12} {times:>11}   {bounds}".rstrip()
        for why in sorted(set(failures(rounds, peer.measured))):
            yield f"        failed: {why}"


def _shown(row: Row, rounds: Sequence[Round]) -> tuple[Peer, ...]:
    """All peers; of a server's limit the fastest only, because the bound is on that one."""
    if not row.ceiling:
        return row.peers
    known = [peer for peer in row.peers if figures(rounds, peer.measured)]
    return tuple(sorted(known, key=lambda peer: -_median(rounds, peer.measured))[:1])


def _notes(row: Row, rounds: Sequence[Round]) -> str:
    """Medians of what a client noted."""
    runs = [one.get(row.ours) for one in rounds]
    notes = [run.notes for run in runs if isinstance(run, Run)]
    names = sorted({name for note in notes for name in note})
    return "".join(
        f"   {name}: {_number(statistics.median(note.get(name, 0) for note in notes), row)}"
        for name in names
    )


def table(rows: Sequence[Row], rounds: Sequence[Round]) -> str:
    """The whole table, as text."""
    lines = [line for row in rows for line in (*_lines(row, rounds), "")]
    return "\n".join(lines)


def broken(rows: Sequence[Row], rounds: Sequence[Round]) -> list[str]:
    """The musts that do not hold."""
    found = []
    for row in rows:
        if row.limit is not None and not _limit(rounds, row).good:
            side = "at least" if row.is_rate else "at most"
            found.append(f"{row.name}: {side} {row.limit:,.0f} {row.unit}")
        found += [
            f"{row.name}: {peer.must:g} x {peer.label}"
            for peer in _shown(row, rounds)
            if peer.must is not None and not judge(rounds, row, peer, peer.must).good
        ]
    return found


def machine() -> dict[str, Any]:
    """Where and with what this ran."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions,
    }


def by_cpu(rounds: Sequence[Round]) -> list[Round]:
    """The same rounds with every rate taken by the client's CPU time."""
    return [
        {
            measured: attrs.evolve(run, value=run.cpu_value)
            if isinstance(run, Run) and run.cpu_value is not None
            else run
            for measured, run in one.items()
        }
        for one in rounds
    ]


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


def described(found: dict[str, Any]) -> str:
    """`machine()` as text."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['system']}, {found['python']}\n{versions}"
    )

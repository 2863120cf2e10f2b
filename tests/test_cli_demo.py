from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import attrs
import pytest
import trio
from rich.console import Console

from trio_rt.cli._books import Report, Way, percentile
from trio_rt.cli._show import as_json, print_report, watcher
from trio_rt.cli.demo import BACKLOG, Load, Plan, Progress, run_demo
from trio_rt.options import WireName
from trio_rt.protocol.lifecycle import Phase

CAP_S = 60
SMALL = Plan(messages=400, cuts=6, seconds=1.0, seed=7)

WAY = Way(
    accepted=5,
    outcomes={"acked": 3, "dropped (expired)": 1, "withdrawn": 1},
    delivered=3,
    doubled=0,
    out_of_order=0,
    undelivered={"dropped (expired)": 1, "withdrawn": 1},
    ghosts=0,
    gaps=0,
    resets=0,
    told_accepted=5,
    told_outcomes={"acked": 3, "dropped (expired)": 1, "withdrawn": 1},
)
REPORT = Report(
    seed=7,
    plain=False,
    seconds=1.0,
    client_to_server=WAY,
    server_to_client=WAY,
    cuts_at_any_moment=1,
    cuts_in_mid_frame=1,
    reconnects=3,
    resumed=3,
    recovery_p50_s=0.0101,
    recovery_p99_s=0.0201,
    backlog=10,
    overtaken=9,
)


async def demo(plan: Plan) -> Report:
    """Run it with nobody watching."""

    async def watch(look: Callable[[], Progress]) -> None:
        await trio.sleep_forever()

    with trio.fail_after(CAP_S):
        return await run_demo(plan, watch)


async def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `trio-rt` to its end."""
    with trio.fail_after(CAP_S):
        done = await trio.run_process(
            [sys.executable, "-m", "trio_rt.cli", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.mark.parametrize("wire", get_args(WireName))
async def test_every_promise_is_kept(wire: WireName) -> None:
    """Cut again and again, nothing is lost and nothing comes twice."""
    report = await demo(attrs.evolve(SMALL, wire=wire))
    assert report.broken_promises == ()
    assert (report.cuts_at_any_moment, report.cuts_in_mid_frame) == (3, 3)
    assert report.reconnects == report.resumed == 7
    assert 0 < report.recovery_p50_s <= report.recovery_p99_s
    assert (report.overtaken, report.backlog) == (BACKLOG, BACKLOG)
    for way in (report.client_to_server, report.server_to_client):
        assert way.accepted >= SMALL.messages
        assert way.delivered == way.outcomes["acked"] > 0
        assert (way.lost, way.doubled, way.resets) == (0, 0, 0)


async def test_cuts_hit_messages() -> None:
    """Without a session what was in flight is lost, and the next link is a `Reset`."""
    report = await demo(attrs.evolve(SMALL, cuts=10, plain=True))
    assert report.broken_promises == ()
    assert report.client_to_server.lost + report.server_to_client.lost > 0
    assert (report.resumed, report.server_to_client.resets) == (0, 11)


async def test_no_cuts() -> None:
    """Without cuts everything is delivered but what its sender let go."""
    report = await demo(Plan(messages=100, cuts=0, seconds=0.2))
    assert report.broken_promises == ()
    assert (report.cuts_at_any_moment, report.cuts_in_mid_frame, report.reconnects) == (0, 0, 1)


async def test_seed() -> None:
    """The same seed gives the same load, another one another; the two directions differ."""

    def load(seed: int, name: str = "up") -> list[object]:
        loaded = Load(Plan(seed=seed), name)
        return [loaded.draw() for _ in range(100)]

    await trio.lowlevel.checkpoint()
    assert load(1) == load(1)
    assert load(1) != load(2)
    assert load(1) != load(1, "down")


async def test_messages_are_spread_over_the_seconds() -> None:
    """`seconds` is how long the load lasts."""
    started_at = trio.current_time()
    report = await demo(Plan(messages=100, cuts=0, seconds=0.6))
    assert trio.current_time() - started_at >= report.seconds >= 0.4


def test_kept_promises() -> None:
    """Of a good report nothing is broken."""
    assert REPORT.judged().broken_promises == ()


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"accepted": 6}, "the outcomes do not sum up to the accepted sends"),
        ({"told_accepted": 4}, "the outcomes do not sum up to the accepted sends"),
        ({"told_outcomes": {"acked": 5}}, "the outcomes are not those of statistics()"),
        ({"doubled": 1}, "1 messages came twice"),
        ({"out_of_order": 2}, "2 messages came out of order"),
        ({"ghosts": 3}, "3 messages came that were said to be never sent"),
        ({"undelivered": {"acked": 4}}, "4 messages are lost whose outcome is acked"),
        ({"undelivered": {"written": 4}}, "4 messages are lost whose outcome is written"),
        ({"undelivered": {"None": 1}}, "1 messages are lost whose outcome is None"),
        ({"resets": 2}, "the session was lost 2 times"),
    ],
)
def test_broken_promises(changes: dict[str, Any], promise: str) -> None:
    """Each promise that is broken, in either direction, is told."""
    bad = attrs.evolve(WAY, **changes)
    up = attrs.evolve(REPORT, client_to_server=bad).judged()
    down = attrs.evolve(REPORT, server_to_client=bad).judged()
    assert up.broken_promises == (f"client to server: {promise}",)
    assert down.broken_promises == (f"server to client: {promise}",)


def test_plain_links_may_lose() -> None:
    """What was written, or may have been, is lost on plain links; nothing else is."""
    lost = {"written": 4, "indeterminate": 2, "acked": 1, "dropped (expired)": 3}
    bad = attrs.evolve(WAY, undelivered=lost, resets=2)
    report = attrs.evolve(REPORT, plain=True, client_to_server=bad).judged()
    assert report.broken_promises == (
        "client to server: 1 messages are lost whose outcome is acked",
    )
    assert bad.lost == 7


def test_too_little_overtaken() -> None:
    """A critical message must pass nine tenths of a backlog."""
    assert attrs.evolve(REPORT, overtaken=8).judged().broken_promises == (
        "a critical message passed only 80% of a backlog",
    )


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 3.0), (0.99, 5.0), (0.0, 1.0), (1.0, 5.0), (0.2, 1.0), (0.21, 2.0)]
)
def test_percentile(share: float, value: float) -> None:
    """The smallest value that so many do not exceed."""
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == value


def test_percentile_of_nothing() -> None:
    """Of no values it is 0."""
    assert percentile([], 0.5) == 0.0


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_report(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table() -> None:
    """The table has every outcome, also those that did not occur, and the verdict."""
    text = shown(REPORT)
    rows = {
        name.strip(): (up.strip(), down.strip())
        for name, up, down in (line.split("│")[1:4] for line in text.splitlines() if "│" in line)
    }
    assert rows["accepted sends"] == rows["sum of outcomes"] == ("5", "5")
    assert rows["dropped (expired)"] == rows["not delivered: dropped"] == ("1", "1")
    assert rows["dropped (evicted)"] == rows["doubled"] == rows["lost"] == ("0", "0")
    assert rows["acked"] == rows["delivered"] == ("3", "3")
    assert rows["something may be missing (Reset)"] == ("0", "0")
    assert "p50 11 ms, p99 21 ms" in text
    assert "passed 9 of 10 LOW messages queued before it (90%)" in text
    assert "OK  every promise was kept" in text


def test_table_of_broken_promises() -> None:
    """Broken promises stand at the end, and an outcome that nobody expects has its row."""
    bad = attrs.evolve(WAY, outcomes={"kept": 5}, doubled=1)
    text = shown(attrs.evolve(REPORT, client_to_server=bad).judged())
    assert "BROKEN  client to server: 1 messages came twice" in text
    assert "│   kept" in text
    assert "\nOK" not in text


def test_notes() -> None:
    """The report says what the cuts did, and what a session is for."""
    assert "nothing is lost, and nothing comes twice" in shown(REPORT).replace("\n", " ")
    plain = shown(attrs.evolve(REPORT, plain=True))
    assert "more than such a link can know of" in plain.replace("\n", " ")


def test_json() -> None:
    """The report for programs has the verdict, and can be written as JSON."""
    fields = json.loads(json.dumps(as_json(REPORT)))
    assert fields["ok"] is True
    assert fields["overtaken_share"] == 0.9
    assert fields["client_to_server"]["outcomes"]["acked"] == 3
    assert as_json(attrs.evolve(REPORT, overtaken=0).judged())["ok"] is False


async def watched(console: Console) -> str:
    """What a watcher shows of one moment."""
    now = Progress(sent=3, received=2, cuts=1, phase=Phase.RECONNECTING)
    looks = 0

    def look() -> Progress:
        nonlocal looks
        looks += 1
        if looks == 2:
            scope.cancel()
        return now

    with trio.CancelScope() as scope:
        await watcher(console, Plan(messages=5, cuts=4))(look)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_plain_progress(autojump_clock: trio.testing.MockClock) -> None:
    """Where there is no terminal, progress is plain lines."""
    text = await watched(Console(file=io.StringIO(), width=100))
    assert text.splitlines()[0] == "sent 3, delivered 2, cuts 1, reconnecting"


async def test_live_progress(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, progress is drawn in place."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = await watched(Console(file=io.StringIO(), width=100, force_terminal=True))
    assert "\x1b[" in text
    assert "2/10" in text
    assert "1/4" in text


async def test_no_color(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With NO_COLOR, progress is plain lines on a terminal too."""
    monkeypatch.setenv("NO_COLOR", "1")
    text = await watched(Console(file=io.StringIO(), width=100, force_terminal=True))
    assert text.splitlines()[0] == "sent 3, delivered 2, cuts 1, reconnecting"


@pytest.mark.parametrize("wire", get_args(WireName))
async def test_command(wire: WireName) -> None:
    """`trio-rt demo` shows progress, the table and the verdict, and exits with 0."""
    small = ("--seconds", "1.2", "--messages", "300", "--cuts", "3", "--seed", "5")
    done = await command("demo", *small, "--wire", wire)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sent ")
    assert "2 at any moment, 1 in mid-frame" in done.stdout
    assert "seed 5" in done.stdout
    assert done.stdout.rstrip().endswith("OK  every promise was kept")


async def test_command_json() -> None:
    """With `--json` there is the report and nothing else."""
    done = await command(
        "demo", "--seconds", "0.5", "--messages", "200", "--cuts", "2", "--json", "--plain"
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["plain"]) == (0, True, True)
    assert report["client_to_server"]["accepted"] >= 200


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
async def test_interrupt() -> None:
    """SIGINT ends the demo with 130 and without a traceback."""
    with trio.fail_after(CAP_S):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_rt.cli", "demo"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert b"Traceback" not in await process.stderr.receive_some()
        await process.stdout.aclose()
        await process.stderr.aclose()


async def test_version_and_help() -> None:
    """`--version` and `--help` say what there is."""
    version = await command("--version")
    overview = await command("--help")
    assert version.stdout.startswith("trio-rt 0.")
    assert "demo" in overview.stdout
    assert "connect" in overview.stdout


@pytest.mark.parametrize("missing", ["click", "rich"])
async def test_missing_extra(missing: str) -> None:
    """Without click or rich, one line says how to install them."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['trio-rt', 'demo']\n"
        "from trio_rt.cli import main; main()"
    )
    with trio.fail_after(CAP_S):
        done = await trio.run_process(
            [sys.executable, "-c", program], capture_stderr=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"trio-rt: {missing} is missing; install it with: pip install 'trio-rt[cli]'\n"
    )

from __future__ import annotations

import io
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
import trustme
from rich.console import Console
from websockets.trio.client import connect

from trio_rt import serve
from trio_rt._handshake import RequestHeaders
from trio_rt._http_values import HttpRequest, HttpResponse
from trio_rt.cli._samples import NOTHING, WINDOW, History, Sample, read_sample
from trio_rt.cli._top_view import View, as_line, sparkline
from trio_rt.cli.top import MOST_BYTES, Unavailable, metrics_url, open_source
from trio_rt.hub import open_hub
from trio_rt.hub._server.metrics import Monitor

from .test_cli_serve import say, serving

CAP_S: Final = 30
COMMAND: Final = [sys.executable, "-m", "trio_rt.cli", "top"]
TOKEN: Final = "a-token-for-metrics"

TEXT: Final = """\
# HELP trio_rt_peers Clients.
# TYPE trio_rt_peers gauge
trio_rt_peers 3
trio_rt_connections 4
trio_rt_rooms 2
trio_rt_members 5
trio_rt_published_total 70
trio_rt_deliveries_total 140
trio_rt_refusals_total{code="too_fast"} 4
trio_rt_refusals_total{code="no\\"room"} 1
trio_rt_lagging 0
trio_rt_publish_seconds{quantile="0.5"} 0.0004
trio_rt_publish_seconds{quantile="0.99"} 1.25
trio_rt_broker_up 1
trio_rt_broker_waiting_bytes 7
trio_rt_broker_stored_total 12
trio_rt_process_cpu_seconds_total 1.5
trio_rt_process_resident_bytes 41500000
trio_rt_process_start_time_seconds 1700000000.5
trio_rt_info{version="1.2.3"} 1
other_total 9
"""


def sample(at: float, **changes: float) -> Sample:
    """What a server says, with some numbers changed."""
    read = read_sample(TEXT, at)
    return attrs.evolve(read, numbers={**read.numbers, **{(n, ""): v for n, v in changes.items()}})


def history(*samples: Sample) -> History:
    made = History()
    for each in samples:
        made.add(each)
    return made


def test_reading() -> None:
    """Numbers are found by name and label; foreign lines, and broken ones, are none."""
    read = read_sample(TEXT + "trio_rt_x y\ntrio_rt_y\n{}\ntrio_rt_nan NaN\n", 1.0)
    assert read.get("peers") == 3
    assert read.get("refusals_total", 'no"room') == 1
    assert math.isnan(read.get("x"))
    assert math.isnan(read.get("nan"))
    assert ("other_total", "") not in read.numbers
    with pytest.raises(ValueError, match="no numbers of a hub"):
        read_sample("other_total 9\n", 1.0)


async def test_reading_what_a_hub_writes() -> None:
    """What a hub's `/metrics` says is understood to the last number."""
    async with open_hub() as hub:
        await hub.publish("lobby", "hi")
        shown = RequestHeaders([("Authorization", f"Bearer {TOKEN}")])
        request = HttpRequest(method="GET", path="/metrics", headers=shown)
        answer = await Monitor(hub, token=TOKEN).metrics(request)
    assert isinstance(answer.body, bytes)
    text = answer.body.decode()
    read = read_sample(text, 1.0)
    assert len(read.numbers) == sum(not line.startswith("#") for line in text.splitlines())
    moment = history(read).latest
    unknown = {name for name, value in attrs.asdict(moment).items() if value != value}
    assert unknown == {"connections", "published", "deliveries", "refusals", "cpu"}


def test_rates() -> None:
    """What counts upwards is shown by the second, over the time that has passed."""
    made = history(sample(10.0), sample(12.0, published_total=75, process_cpu_seconds_total=2.0))
    assert made.moments[0].published != made.moments[0].published
    assert (made.latest.published, made.latest.deliveries, made.latest.cpu) == (2.5, 0, 0.25)
    assert made.latest.broker == [("waiting_bytes", 7), ("stored/s", 0)]
    assert (made.latest.publish_p99_s, made.latest.version) == (1.25, "1.2.3")


def test_refusals() -> None:
    """Refusals are shown by their codes, the most first; a code that is new began at 0."""
    later = sample(2.0)
    numbers = {**later.numbers, ("refusals_total", "new"): 3, ("refusals_total", "too_fast"): 5}
    made = history(sample(1.0), attrs.evolve(later, numbers=numbers))
    assert made.latest.refusals == 4
    assert made.latest.refusals_by_code == [("new", 3), ("too_fast", 1)]


@pytest.mark.parametrize(
    "later",
    [
        sample(2.0, process_start_time_seconds=1_700_000_009, published_total=900),
        sample(2.0, published_total=1, deliveries_total=1),
        sample(1.0),
    ],
)
def test_no_rates_over_a_restart(later: Sample) -> None:
    """Counters that began anew, or no time between, give no rate."""
    latest = history(sample(1.0), later).latest
    assert math.isnan(latest.published)


def test_absence() -> None:
    """While the server is away the last numbers stay, and the minute has a gap."""
    made = history(sample(1.0), sample(2.0, peers=9))
    made.miss()
    assert made.latest.peers == 9
    assert made.moments[-1] is NOTHING
    made.add(sample(4.0, published_total=99))
    assert math.isnan(made.latest.published)
    for second in range(2 * WINDOW):
        made.add(sample(5.0 + second))
    assert len(made.moments) == WINDOW


@pytest.mark.parametrize(
    ("values", "width", "shown"),
    [
        ([0, 1, 2, 7], 4, "▁▂▃█"),
        ([0, 1, 2, 7], 6, "  ▁▂▃█"),
        ([9, 0, 4], 2, "▁█"),
        ([0, 0], 2, "▁▁"),
        ([1, math.nan, 1], 3, "█ █"),
        ([-1, 1, math.inf], 3, "▁█ "),
        ([], 3, "   "),
        ([1, 2], 0, ""),
    ],
)
def test_sparkline(values: list[float], width: int, shown: str) -> None:
    """From 0 to the largest value shown; what is not known is a gap."""
    assert sparkline(values, width) == shown


def test_sparkline_in_ascii() -> None:
    """Where the terminal has no such characters there are others."""
    assert sparkline([0, 7], 2, ascii_only=True) == "_#"


def shown(view: View, width: int, **how: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width, **how)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def rows(lines: list[str]) -> dict[str, str]:
    return {line[:13].strip(): line[13:].strip() for line in lines}


def test_view() -> None:
    """At 80 columns each number has its row, and the minute beside it."""
    later = sample(2.0, published_total=72, lagging=1)
    numbers = {**later.numbers, ("refusals_total", "too_fast"): 9}
    view = View("http://host/metrics", history(sample(1.0), attrs.evolve(later, numbers=numbers)))
    lines = shown(view, 80)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[0] == "trio-rt 1.2.3  http://host/metrics"
    found = rows(lines)
    assert found["peers"].split() == ["3", "██"]
    assert found["published/s"].split() == ["2.0", "█"]
    assert found["publish p50"].split()[:2] == ["0.40", "ms"]
    assert found["publish p99"].split()[:2] == ["1.25", "s"]
    assert found["memory"].split()[:2] == ["41.5", "MB"]
    assert found["broker"] == "up  waiting_bytes 7, stored/s 0"
    assert "  too_fast 5.0" in lines


@pytest.mark.parametrize("width", [1, 5, 20, 24, 34, 40, 79])
def test_narrow(width: int) -> None:
    """A narrow terminal costs the minute, and then the ends of the rows; never a second line."""
    view = View("http://host/metrics", history(sample(1.0), sample(2.0)), "it is away")
    lines = shown(view, width)
    assert len(lines) == 15
    assert max(map(len, lines)) <= width


def test_unknown() -> None:
    """Before the first numbers there are none, and as for a broker nothing is said."""
    found = rows(shown(View("http://host", History(), "connection refused"), 80))
    assert found["peers"] == found["broker"] == "-"


def test_colours() -> None:
    """Only a terminal is sent colours."""
    view = View("http://host", history(sample(1.0, broker_up=0)))
    assert "\x1b" not in "".join(shown(view, 80))
    assert "\x1b[" in "".join(shown(view, 80, force_terminal=True))
    assert "DOWN" in "".join(shown(view, 80))


def test_hostile_server() -> None:
    """What a server says cannot move the cursor, nor add lines."""
    text = TEXT.replace("1.2.3", "\x1b[2J").replace("too_fast", "a\x07[red]b\x9b")
    view = View("http://host", history(read_sample(text, 1.0), read_sample(text, 2.0)), "\x1b]0;x")
    lines = shown(view, 80)
    assert "\x1b" not in "".join(lines) + as_line(view)
    assert "\\x1b[2J" in lines[0]
    assert as_line(view) == "away: \\x1b]0;x"


def test_line() -> None:
    """Where there is no terminal a second is one line."""
    line = as_line(View("http://host", history(sample(1.0), sample(2.0, published_total=71))))
    assert "peers 3, rooms 2, members 5, published/s 1.0, " in line
    assert line.endswith(", broker up")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://host:1", "http://host:1/metrics"),
        ("https://host/", "https://host/metrics"),
        ("ws://127.0.0.1:8765/ws", "http://127.0.0.1:8765/metrics"),
        ("wss://[::1]:8765/ws?x=y", "https://[::1]:8765/metrics"),
        ("http://host/a/metrics?x#y", "http://host/a/metrics"),
    ],
)
def test_urls(url: str, place: str) -> None:
    """The URL that `serve` prints will do, and any of the metrics themselves."""
    assert metrics_url(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:1",
        "ftp://host",
        "http://",
        "http://u:canary@host",
        "http://host:99999",
        "http://[x",
        "http://host/\x1b",
    ],
)
async def test_bad_urls(url: str) -> None:
    """A URL that cannot be ends with status 2, and shows nothing that it holds."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        metrics_url(url)
    assert "canary" not in str(caught.value)
    await trio.lowlevel.checkpoint()


# Against servers


async def top(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    with trio.fail_after(CAP_S):
        return await trio.run_process(
            [*COMMAND, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={"PATH": "", **environment},
        )


async def test_once(tmp_path: Path) -> None:
    """`--once` prints one table, of a second; with the token if one is needed."""
    (tmp_path / "token").write_text(TOKEN)
    async with (
        serving("--metrics-token-file", str(tmp_path / "token")) as served,
        connect(served.url) as client,
    ):
        await say(client, "hub.join", room="lobby")
        refused = await top(served.url, "--once")
        done = await top(served.url, "--once", TRIO_RT_TOP_TOKEN=TOKEN)
        assert TOKEN.encode() not in served.errors
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert refused.stderr == b"trio-rt: status 404: not for you? see --token\n"
    assert (done.returncode, done.stderr) == (0, b"")
    found = rows(done.stdout.decode().splitlines())
    assert [found[name].split()[0] for name in ("peers", "rooms", "members")] == ["1", "1", "1"]
    assert found["broker"].startswith("up  ")
    assert "\x1b" not in done.stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--once", "http://127.0.0.1:1"), 1),
        (("--once",), 2),
        (("http://u:canary@127.0.0.1:1",), 2),
        (("--token", "canary\n", "http://127.0.0.1:1"), 2),
        (("--token", "canary\u00e9", "http://127.0.0.1:1"), 2),
    ],
)
async def test_exit_status(arguments: tuple[str, ...], status: int) -> None:
    """Numbers that cannot be had are 1, and what cannot be asked for is 2."""
    done = await top(*arguments, PYTHONUTF8="1")
    assert done.returncode == status
    assert b"Traceback" not in done.stderr
    assert b"canary" not in done.stderr


async def answering(handler: Any) -> Sample | str:
    """What a source makes of a server that answers with `handler`."""
    found: Sample | str = ""
    with trio.fail_after(CAP_S):
        async with open_hub() as hub, trio.open_nursery() as nursery:
            serving: Any = partial(serve, hub, "127.0.0.1", 0, http=handler)
            server: Any = await nursery.start(serving)
            async with open_source(f"http://127.0.0.1:{server.port}/metrics") as source:
                try:
                    found = await source.look()
                except Unavailable as error:
                    found = str(error)
            nursery.cancel_scope.cancel()
    return found


async def test_foreign_servers() -> None:
    """A server that answers something else is one line of why."""

    def always(status: int, body: bytes, **headers: str) -> Any:
        async def handler(request: HttpRequest) -> HttpResponse:
            return HttpResponse(status, headers, body)

        return handler

    assert await answering(always(500, b"no")) == "status 500"
    assert await answering(always(302, b"", Location="/x")) == "status 302"
    assert await answering(always(200, b"<html>")) == "there are no numbers of a hub"
    assert await answering(always(200, b"\xff")) == "there are no numbers of a hub"
    large = await answering(always(200, b"x" * (MOST_BYTES + 1)))
    assert isinstance(large, str)
    assert large.startswith("the body has more bytes than")
    good = await answering(always(200, b"trio_rt_peers 1\n"))
    assert isinstance(good, Sample)
    assert good.get("peers") == 1


async def test_slow_server() -> None:
    """A server that does not answer in time is given up."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/metrics"
        async with open_source(url, patience_s=0.05) as source:
            with pytest.raises(Unavailable, match=r"not done within 0.05 s"):
                await source.look()


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are checked; an authority of one's own comes by SSL_CERT_FILE."""
    authority = trustme.CA()
    chain, trusted = tmp_path / "chain", tmp_path / "ca"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(chain))
    authority.cert_pem.write_to_path(str(trusted))
    async with serving("--cert", str(chain)) as served:
        place = metrics_url(served.url)
        async with open_source(place) as source:
            with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await source.look()
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        async with open_source(place) as source:
            assert (await source.look()).get("peers") == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def test_without_a_terminal() -> None:
    """Without a terminal it is a line each second, whether the server is there; SIGINT is 130."""
    port = free_port()
    with trio.fail_after(CAP_S):
        process = await trio.lowlevel.open_process(
            [*COMMAND, f"http://127.0.0.1:{port}"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        seen = b""

        async def until(text: bytes) -> None:
            nonlocal seen
            while text not in seen:
                assert process.stdout is not None
                data = await process.stdout.receive_some()
                assert data, seen
                seen += data
            seen = seen.partition(text)[2]

        try:
            await until(b"away: ")
            async with serving("--port", str(port)):
                await until(b"published/s 0, ")
            await until(b"away: ")
            process.send_signal(2)
            assert await process.wait() == 130
            assert b"\x1b" not in seen
        finally:
            process.kill()
            await process.stdout.aclose()


async def test_reader_that_leaves() -> None:
    """When nobody reads its lines any more it ends, and well."""
    with trio.fail_after(CAP_S):
        process = await trio.lowlevel.open_process(
            [*COMMAND, "http://127.0.0.1:1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.receive_some()
        await process.stdout.aclose()
        assert await process.wait() == 0
        assert await process.stderr.receive_some() == b""
        await process.stderr.aclose()


@attrs.frozen
class Terminal:
    """A real terminal, with `trio-rt top` in it."""

    tmux: tuple[str, ...]

    async def do(self, *words: str) -> str:
        # The size is to be the terminal's: pytest's readline sets that of another one.
        environment = {k: v for k, v in os.environ.items() if k not in ("LINES", "COLUMNS")}
        done = await trio.run_process([*self.tmux, *words], capture_stdout=True, env=environment)
        return done.stdout.decode()

    async def shows(self, *texts: str) -> list[str]:
        """The screen, when all of `texts` are on it."""
        screen = ""
        try:
            while not all(text in screen for text in texts):
                await trio.sleep(0.05)
                screen = await self.do("capture-pane", "-p", "-t", "top")
        except trio.Cancelled:
            print(f"{texts} are not all on:\n{screen}")
            raise
        return screen.splitlines()

    async def ends(self) -> int:
        """The exit status of what ran in it, when it has ended."""
        words = "display-message", "-p", "-t", "top", "#{pane_dead} #{pane_dead_status}"
        while len(state := (await self.do(*words)).split()) < 2:
            await self.do("run-shell", "-b", "true")  # tmux looks for its dead then
            await trio.sleep(0.05)
        return int(state[1])


@asynccontextmanager
async def terminal(directory: Path, url: str, width: int, height: int) -> AsyncIterator[Terminal]:
    found = shutil.which("tmux")
    if found is None:
        pytest.skip("no tmux on this machine")
    made = Terminal((found, "-S", str(directory / "tmux"), "-f", "/dev/null"))
    size = ("-x", str(width), "-y", str(height))
    with trio.fail_after(CAP_S):
        await made.do("-u", "new-session", "-d", "-s", "top", *size, "cat")
        await made.do("set", "-g", "remain-on-exit", "on")
        await made.do("respawn-pane", "-k", "-t", "top", *COMMAND, url)
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made.do("kill-server")


async def test_in_a_terminal(tmp_path: Path) -> None:
    """At 80x24 all of it fits; a restart of the server is seen, and so is a narrower terminal."""
    port = free_port()
    async with terminal(tmp_path, f"http://127.0.0.1:{port}", 80, 24) as screen:
        async with serving("--port", str(port)) as served, connect(served.url) as client:
            await say(client, "hub.join", room="lobby")
            lines = await screen.shows("peers                  1", "memory", "broker ")
            assert len(lines) <= 24
            assert lines[0].startswith("trio-rt 0.")
            await screen.shows("██")
        lines = await screen.shows("away: ", "peers                  1")
        async with serving("--port", str(port)) as served:
            lines = await screen.shows("peers                  0", "broker                up")
            assert re.search("█ +▁", next(line for line in lines if line.startswith("peers")))
            await screen.do("resize-window", "-t", "top", "-x", "30", "-y", "10")
            lines = await screen.shows("peers                  0")
            while len(lines) > 10 or any("▁▁▁" in line for line in lines):
                lines = await screen.shows("peers                  0")
            assert max(map(len, lines)) <= 30
            await screen.do("send-keys", "-t", "top", "C-c")
            assert await screen.ends() == 130

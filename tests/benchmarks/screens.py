"""What people see of a chat: `python -m tests.benchmarks.screens`.

- From Enter to the other's screen, between two pages in Chromium and between two terminals;
- from the navigation of a page to the first message of a room with a history;
- what a page weighs;
- the CPU of a terminal in a busy room.

The server is `trio-rt serve --chat`, a process of its own as everybody else; none is kept on a
core. A pair of pages share the system's clock, but each adds it up for itself: that they speak
in turn keeps a difference out of the median. It needs Chromium, and Linux.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio

from tests.net.support import running
from tests.page.browser import Browser, Page, open_browser
from trio_rt.chat import PAGE, ChatRoom, open_chat

from .percentiles import percentile, spread
from .report import machine

MESSAGES: Final = 200
HISTORY: Final = 50
LOADS: Final = 20
PER_S: Final = 50
LOAD_S: Final = 20.0
COLUMNS, ROWS = 100, 30
CAP_S: Final = 170.0

#: Between two keys of somebody who writes, at least and at most.
PAUSE_S: Final = (0.05, 0.1)

#: What a terminal wrote last, in bytes: more than a whole screen.
KEPT: Final = 1 << 16

CLIENT: Final = "trio-rt"

#: A page without an origin, for what is to be there before the first script of the chat's.
BLANK: Final = "data:text/html,"

#: Enter sends the time at which it was pressed; whoever sees it notes how long ago that was.
TALK: Final = """{
  const now = () => performance.timeOrigin + performance.now();
  const known = new Set();
  window.took = { element: [], frame: [] };
  addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const pressed = String(performance.timeOrigin + event.timeStamp);
    known.add(pressed);
    document.querySelector("#text").value = pressed;
  }, true);
  const see = (node) => {
    const pressed = node.matches?.(".msg") && node.querySelector(".body").textContent;
    if (!pressed || known.has(pressed)) return;
    known.add(pressed);
    took.element.push(now() - pressed);
    requestAnimationFrame(() => took.frame.push(now() - pressed));
  };
  new MutationObserver((changes) => changes.forEach(({ addedNodes }) => addedNodes.forEach(see)))
    .observe(document, { childList: true, subtree: true });
}"""

#: Notes when there is a message.
FIRST: Final = """new MutationObserver((_, observer) => {
  if (!document.querySelector("#messages .msg")) return;
  window.first = performance.now();
  observer.disconnect();
}).observe(document, { childList: true, subtree: true })"""

#: How many requests the page made, its own included, and the bytes of what came, without heads.
LOADED: Final = """(() => {
  const all = ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind));
  const made = all.filter(({ transferSize }) => transferSize > 0);  // others are from its cache
  return [made.length, made.reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0)];
})()"""


def _tell(text: str) -> None:
    """Print a result: standard output is closed to what the programs say."""
    print(text, file=sys.__stdout__, flush=True)


async def _pause() -> None:
    """For a while, so that no two messages meet a screen in the same phase of its frames."""
    await trio.sleep(random.uniform(*PAUSE_S))


# Pages


async def _enter(browser: Browser, port: int, room: str, name: str, script: str) -> Page:
    """The page of a user who was here before; `script` runs in it before its own."""
    page = await browser.open(BLANK)
    named = f"localStorage.setItem('trio-rt.name', {json.dumps(name)})"
    for source in (named, script):
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=source)
    await page.load(f"http://127.0.0.1:{port}/#{room}")
    return page


async def pages_talk(browser: Browser, port: int) -> None:
    """From Enter in one page to the other."""
    pages = [await _enter(browser, port, "pages", name, TALK) for name in ("Ada", "Bob")]
    for page in pages:
        await page.wait("document.querySelector('#about').innerText.includes('2 members')")
    for number in range(MESSAGES):
        await pages[number % 2].type("-")
        await _pause()
        await pages[number % 2].press("Enter")
        await _pause()
    for kind, what in (("element", "an element of the list"), ("frame", "the frame behind that")):
        _tell(f"  Chromium, to {what}: {spread(await _noted(pages, kind))}")
    for page in pages:
        await page.call("Page.close")


async def _noted(pages: Iterable[Page], kind: str) -> list[float]:
    """What both have noted, when it is all there."""
    times_ms: list[float] = []
    for page in pages:
        await page.wait(f"took.{kind}.length === {MESSAGES // 2}")
        times_ms += await page.eval(f"took.{kind}")
    return times_ms


async def pages_load(browser: Browser, port: int) -> None:
    """From the navigation to the first message, with nothing in the cache."""
    async with open_chat(f"ws://127.0.0.1:{port}/ws") as chat, chat.room("history") as room:
        for number in range(HISTORY):
            await (await room.say(f"message {number}")).wait_acked()
    times_ms, loaded = [], [0, 0]
    for _ in range(LOADS):
        page = await _enter(browser, port, "history", "Ada", FIRST)
        times_ms.append(await page.wait("window.first"))
        loaded = await page.eval(LOADED)
        await page.call("Page.close")
    _tell(f"a page of a room with {HISTORY} messages, {LOADS} times with an empty cache")
    _tell(
        f"  to the first message: p50 {percentile(times_ms, 0.5):.1f} ms, max {max(times_ms):.1f} ms"
    )
    _tell(f"  {loaded[0]} requests with {loaded[1]:,} bytes, and a WebSocket")


def weigh() -> None:
    """The files of the page."""
    files = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.is_file()}
    client = [files.pop(name) for name in sorted(files) if name.startswith(CLIENT)]
    _tell("what a page weighs")
    parts_of = {
        f"the client, {len(client)} files": client,
        f"{len(files)} others": [*files.values()],
    }
    for name, parts in parts_of.items():
        small = sum(len(gzip.compress(part, 9)) for part in parts)
        _tell(f"  {name}: {sum(map(len, parts)):,} bytes, {small:,} by gzip -9")


# Terminals


class Terminal:
    """A `trio-rt chat`, by what it reads and writes."""

    def __init__(self, pid: int, stream: trio.lowlevel.FdStream) -> None:
        self._pid: Final = pid
        self._stream: Final = stream
        self._last: Final = bytearray()
        self._at = 0.0
        self._more = trio.Event()
        #: Bytes that it has written.
        self.written = 0

    async def read(self) -> None:
        """Take what it writes, until cancelled."""
        while True:
            data = await self._stream.receive_some(KEPT)
            self._at = time.perf_counter()
            self.written += len(data)
            self._last.extend(data)
            del self._last[:-KEPT]
            self._more.set()
            self._more = trio.Event()

    async def press(self, keys: str) -> None:
        await self._stream.send_all(keys.encode())

    async def shows(self, text: str) -> float:
        """Wait until it has written this: when that was."""
        while text.encode() not in self._last:
            await self._more.wait()
        return self._at

    def cpu_s(self) -> float:
        """Seconds of CPU that it has used."""
        values = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def _open_terminal(port: int, room: str, name: str) -> AsyncIterator[Terminal]:
    """The chat in a terminal of its own, which ends it when this process ends."""
    command = ["setsid", "--ctty", sys.executable, "-m", "trio_rt.cli", "chat"]
    command += [f"ws://127.0.0.1:{port}/ws", "--room", room, "--name", name]
    ours, theirs = os.openpty()
    async with trio.lowlevel.FdStream(ours) as stream, trio.open_nursery() as nursery:
        try:
            termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
            ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
            run = partial(trio.run_process, command, env=_environment(), check=False, **ends)
            process: trio.Process = await nursery.start(run)
        finally:
            os.close(theirs)
        terminal = Terminal(process.pid, stream)
        nursery.start_soon(terminal.read)
        await terminal.shows(room)
        yield terminal
        nursery.cancel_scope.cancel()


def _environment() -> dict[str, str]:
    """Ours, but for what tells of our own terminal."""
    kept = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
    return kept | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}


async def terminals_talk(port: int) -> None:
    """From Enter in one terminal to the other."""
    async with (
        _open_terminal(port, "terminals", "Ada") as ada,
        _open_terminal(port, "terminals", "Bob") as bob,
    ):
        await _says(bob, ada, "hello Ada")
        await _says(ada, bob, "hello Bob")
        texts = [f"message {number:04}" for number in range(MESSAGES)]
        times_ms = [await _says(ada, bob, text) for text in texts]
    _tell(f"  terminals, to the text in what is written: {spread(times_ms)}")


async def _says(speaker: Terminal, other: Terminal, text: str) -> float:
    """Milliseconds from Enter until the other shows it."""
    await speaker.press(text)
    await speaker.shows(text)
    await _pause()
    began = time.perf_counter()
    await speaker.press("\r")
    took_s = await other.shows(text) - began
    await _pause()
    return took_s * 1e3


async def terminal_works(port: int) -> None:
    """What a busy room costs who looks at it."""
    async with (
        _open_terminal(port, "busy", "Ada") as terminal,
        open_chat(f"ws://127.0.0.1:{port}/ws") as chat,
        chat.room("busy", history=0) as room,
    ):
        await room.say("hello Ada")
        await terminal.shows("hello Ada")
        cpu_s, written, began = terminal.cpu_s(), terminal.written, time.perf_counter()
        await _chatter(room)
        await terminal.shows(f"message {int(PER_S * LOAD_S) - 1:04}")
        took_s = time.perf_counter() - began
        cpu_s, written = terminal.cpu_s() - cpu_s, terminal.written - written
    _tell(f"a terminal of {COLUMNS}x{ROWS}, {PER_S} messages a second for {LOAD_S:.0f} s")
    _tell(f"  {cpu_s / took_s:.1%} of a core, {written / took_s / 1e3:.0f} kB/s written")


async def _chatter(room: ChatRoom) -> None:
    began = trio.current_time()
    for number in range(int(PER_S * LOAD_S)):
        await trio.sleep_until(began + number / PER_S)
        await room.say(f"message {number:04}")


# All of it


def _server(port: int) -> list[str]:
    command = [sys.executable, "-m", "trio_rt.cli", "serve", "--chat", "--log-level", "error"]
    return [*command, "--port", str(port)]


async def measure(folder: Path) -> None:
    """Everything, one after the other."""
    with trio.fail_after(CAP_S):
        async with running(_server, ready="listening on") as server:
            _tell(f"from Enter to the other's screen, {MESSAGES} messages")
            async with open_browser(folder) as browser:
                await pages_talk(browser, server.port)
                await terminals_talk(server.port)
                await pages_load(browser, server.port)
                chromium = (await browser.call("Browser.getVersion"))["product"]
            weigh()
            await terminal_works(server.port)
    _tell(f"\n{machine()}, {os.cpu_count()} cores, {chromium}")


def main() -> int:
    said = io.StringIO()
    try:
        with TemporaryDirectory() as folder, redirect_stdout(said):
            os.environ["TMPDIR"] = folder  # where a browser that is killed leaves things
            trio.run(measure, Path(folder))
    except Exception:
        print(said.getvalue()[-4000:], file=sys.stderr)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())

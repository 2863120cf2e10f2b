"""Peers that nobody here wrote, each in a process of its own: started, killed, started again.

Every process leads a group of its own, and the group is killed at the end of
`running()`, whatever happens: no child of a program that is killed outlives
its test. Should the tests themselves be killed, a guard of each group does it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, get_args

import attrs
import pytest
import trio

from trio_rt.options import WireName

__all__ = [
    "COMPRESSING",
    "LIMIT_S",
    "NODE",
    "ROOT",
    "SERVERS",
    "WIRES",
    "Program",
    "Tls",
    "client",
    "node",
    "python",
    "requires",
    "running",
    "tool",
]

ROOT: Final = Path(__file__).parents[2]
NODE: Final = Path(__file__).parent / "peers" / "node"

#: Every wire of `connect()`. Those that can compress are `COMPRESSING`.
WIRES: Final = get_args(WireName)
COMPRESSING: Final = ["websockets"]

#: For all of one test, the start of its processes included.
LIMIT_S: Final = 60.0

#: Kills the group that it is given when its input ends, as it does with the tests.
_GUARD: Final = ("sh", "-c", 'read -r _; kill -s KILL -- "-$0"')

#: For the children of a killed program to end, too.
CHILDREN_S: Final = 5.0

#: Where Debian has what is not for users, and is not on the path of all.
_SBIN: Final = ":/usr/local/sbin:/usr/sbin:/sbin"

#: How to start a program that is to listen on this port.
Command = Callable[[int], list[str]]


def tool(name: str) -> str | None:
    """The path of a program of the system, or None."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + _SBIN)


def requires(*components: str) -> pytest.MarkDecorator:
    """Skip where one of these is missing. In CI they are all there: `.ci/components`."""
    missing = [name for name in components if not _is_there(name)]
    reason = f"not installed: {', '.join(missing)}; .ci/components installs all"
    return pytest.mark.skipif(bool(missing), reason=reason)


def _is_there(name: str) -> bool:
    if name == "node":
        return tool("node") is not None and (NODE / "node_modules" / "ws").is_dir()
    return tool(name) is not None


def python(module: str, *arguments: str) -> Command:
    """A program among the Python peers."""
    return lambda port: [sys.executable, "-m", f"tests.net.peers.{module}", str(port), *arguments]


def client(script: str, *arguments: str) -> Command:
    """A Node peer that listens nowhere."""
    return lambda _: [str(tool("node")), str(NODE / script), *arguments]


def node(script: str, *arguments: str) -> Command:
    """A program among the Node peers."""
    return lambda port: [str(tool("node")), str(NODE / script), str(port), *arguments]


#: Echo servers that others have written, by what makes their commands.
SERVERS: Final = [
    pytest.param(partial(python, "by_websockets"), id="websockets"),
    pytest.param(partial(python, "by_aiohttp"), id="aiohttp"),
    pytest.param(partial(python, "by_uvicorn"), id="uvicorn"),
    pytest.param(partial(node, "echo.js"), id="npm-ws", marks=requires("node")),
]


@attrs.frozen
class Tls:
    """A certificate for 127.0.0.1 and localhost, and what trusts it."""

    #: The private key and the chain, in one file.
    certificate: Path
    #: The authority's own certificate.
    authority: Path
    for_server: ssl.SSLContext
    for_client: ssl.SSLContext


class Program:
    """A program with a port that stays its own while it is down. `running()` makes one."""

    def __init__(
        self,
        command: list[str],
        port: int,
        ready: str | None,
        nursery: trio.Nursery,
        scratch: str,
    ) -> None:
        self.port = port
        #: What it has printed since it was started last.
        self.lines: list[str] = []
        self._command = command
        self._ready = ready
        self._nursery = nursery
        self._scratch = scratch
        self._printed = trio.Event()
        self._process: trio.Process | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._silent = True

    def url(self, scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, anew if it has ended; returns when it is ready."""
        # The peers are no part of the project's coverage.
        self._dismiss_guard()
        env = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}
        self.lines = []
        self._silent = False
        self._process = None
        self._process = await trio.lowlevel.open_process(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
            env={**env, "TMPDIR": self._scratch},
        )
        self._set_guard(self._process.pid)
        self._nursery.start_soon(self._read, self._process)
        if self._ready is not None:
            await self.wait_line(self._ready)

    async def wait_line(self, words: str, number: int = 1) -> str:
        """The line that is the `number`-th with these words in it; waits for it."""
        while len(found := [line for line in self.lines if words in line]) < number:
            assert not self._silent, f"no {words!r} of {self._command}: {self.lines}"
            await self._printed.wait()
        return found[number - 1]

    def send_signal(self, number: signal.Signals) -> None:
        """To the program itself, and not to its children."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """Halt it, and its children: its kernel still answers for it."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_group(signal.SIGCONT)

    async def kill(self) -> None:
        """End it, and its children, without a word; returns when it is no more."""
        self._dismiss_guard()
        self._signal_group(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()
            # Its children are gone when nobody holds its output open any more.
            with trio.move_on_after(CHILDREN_S):
                while not self._silent:
                    await self._printed.wait()

    async def terminate(self) -> None:
        """Ask it to end; returns when it has."""
        self.send_signal(signal.SIGTERM)
        await self.wait_ended()

    async def wait_ended(self) -> None:
        assert self._process is not None
        await self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                pass

    def _set_guard(self, group: int) -> None:
        self._guard = subprocess.Popen(
            [*_GUARD, str(group)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            with guard:  # closes its input, and waits for its end
                guard.kill()

    async def _read(self, process: trio.Process) -> None:
        assert process.stdout is not None
        rest = b""
        try:
            async with process.stdout as output:
                async for data in output:
                    *whole, rest = (rest + data).split(b"\n")
                    self._note([line.decode(errors="replace") for line in whole])
        finally:
            if process is self._process:
                self._silent = True
                self._note([])

    def _note(self, lines: list[str]) -> None:
        for line in lines:
            print(f"[{Path(self._command[0]).name} {self.port}] {line}")
        self.lines += lines
        self._printed.set()
        self._printed = trio.Event()


@asynccontextmanager
async def running(command: Command, *, ready: str | None = "port ") -> AsyncIterator[Program]:
    """Start a program on a free port, and end it behind the block, with all its children."""
    with (
        _reserved_port() as port,
        # What a killed program leaves in the folder for temporary files goes with it.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
    ):
        async with trio.open_nursery() as nursery:
            program = Program(command(port), port, ready, nursery, scratch)
            try:
                await program.start()
                yield program
            finally:
                with trio.CancelScope(shield=True):
                    await program.kill()
            nursery.cancel_scope.cancel()


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A port that nobody else is given, and on which nothing listens.

    A program that sets SO_REUSEADDR, as all here do, can listen on it all the
    same, as often as it is started.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]

"""The two runners of Autobahn's cases, each a process of its own.

A suite is a fuzzing server, for a client under test, or a fuzzing client, for a
server under test. Either leaves its report in a folder. Cancelled, or at an
error, the process is ended.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import trio

from .report import ReportError
from .selections import Selection

__all__ = ["Kosoku", "Original", "Suite"]

#: From its start until it listens.
START_S: Final = 20.0

#: From the client's `updateReports` to the end of the process.
END_S: Final = 60.0

_LISTENS: Final = re.compile(rb"listening on (ws://\S+)")


class Suite(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def parallel(self) -> int:
        """Cases that a client may do at the same time."""

    @property
    def exempt(self) -> tuple[str, ...]:
        """How the numbers of the cases begin that no client need implement."""

    def serving(self, selection: Selection, folder: Path) -> AbstractAsyncContextManager[str]:
        """A fuzzing server: its URL. The report is there when the block is left."""

    async def fuzz(self, port: int, selection: Selection, folder: Path) -> None:
        """Run the fuzzing client against 127.0.0.1."""


def _process(command: Sequence[str | Path], **options: Any) -> partial[Any]:
    # The suites are not what coverage is measured of.
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    return partial(trio.run_process, command, env=env, check=False, **options)


@attrs.frozen
class Kosoku:
    """`kosoku`: Autobahn's case files under a runner in Rust."""

    name: str = "kosoku"
    parallel: int = 8
    #: In these kosoku wants `client_no_context_takeover`, and declines an offer
    #: that does not mention it. RFC 7692, 7.1.1.2 lets a server ask for it all
    #: the same; so does the original, where clients pass them.
    exempt: tuple[str, ...] = ("13.2.", "13.5.", "13.6.")
    program: Path = attrs.field(factory=lambda: Path(sys.executable).with_name("kosoku"))

    @staticmethod
    def is_installed() -> bool:
        return importlib.util.find_spec("kosoku") is not None

    @asynccontextmanager
    async def serving(self, selection: Selection, folder: Path) -> AsyncIterator[str]:
        command = self._command("fuzzingserver", "127.0.0.1:0", selection, folder)
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                _process(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
            assert process.stderr is not None
            said = b""
            with trio.fail_after(START_S):
                while (listens := _LISTENS.search(said)) is None:
                    said += await _some(process.stderr, said)
            nursery.start_soon(_discard, process.stderr)
            yield listens[1].decode()
            with trio.fail_after(END_S):  # it ends when it has been asked for the report
                await process.wait()

    async def fuzz(self, port: int, selection: Selection, folder: Path) -> None:
        command = self._command("fuzzingclient", f"127.0.0.1:{port}", selection, folder)
        await _finish(_process([*command, "-p", str(self.parallel)], **_QUIET), folder)

    def _command(
        self, mode: str, address: str, selection: Selection, folder: Path
    ) -> list[str | Path]:
        include = [word for case in selection.include for word in ("-i", case)]
        return [self.program, "-m", mode, address, *include, "-o", folder]


_QUIET: Final[dict[str, Any]] = {"capture_stdout": True, "capture_stderr": True}


async def _finish(process: partial[Any], folder: Path) -> None:
    # Its exit status tells no more than the report does, if there is one.
    completed: subprocess.CompletedProcess[bytes] = await process()
    if not (folder / "index.json").exists():
        raise ReportError(f"no report: {completed.stderr.decode(errors='replace')}")


async def _some(stream: trio.abc.ReceiveStream, so_far: bytes) -> bytes:
    data = bytes(await stream.receive_some())
    if not data:
        raise ReportError(f"the suite has ended: {so_far.decode(errors='replace')}")
    return data


async def _discard(stream: trio.abc.ReceiveStream) -> None:
    while await stream.receive_some():
        pass


@attrs.frozen
class Original:
    """`wstest` of `autobahntestsuite`, which needs Python 2.7."""

    program: Path
    name: str = "original"
    parallel: int = 1
    exempt: tuple[str, ...] = ()

    @asynccontextmanager
    async def serving(self, selection: Selection, folder: Path) -> AsyncIterator[str]:
        port = _free_port()
        url = f"ws://127.0.0.1:{port}"
        spec = {"url": url, "outdir": str(folder), **_cases(selection)}
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                self._process("fuzzingserver", spec, folder)
            )
            await _wait_listening(port, process)
            yield url
            process.terminate()  # it has written its report when the client asked for it

    async def fuzz(self, port: int, selection: Selection, folder: Path) -> None:
        server = {"agent": "trio-rt", "url": f"ws://127.0.0.1:{port}"}
        spec = {"outdir": str(folder), "servers": [server], **_cases(selection)}
        await _finish(self._process("fuzzingclient", spec, folder), folder)

    def _process(self, mode: str, spec: dict[str, Any], folder: Path) -> partial[Any]:
        file = folder / "spec.json"
        file.write_text(json.dumps(spec))
        command: list[str | Path] = [self.program, "-m", mode, "-s", file, "-u", "0"]  # no web port
        return _process(command, **_QUIET)


def _cases(selection: Selection) -> dict[str, Any]:
    return {"cases": selection.include, "exclude-cases": [], "exclude-agent-cases": {}}


def _free_port() -> int:
    """One that nobody has at the moment: `wstest` cannot tell which it was given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _wait_listening(port: int, process: trio.Process) -> None:
    with trio.fail_after(START_S):
        while process.poll() is None:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                return
            except OSError:
                await trio.sleep(0.1)
    raise ReportError(f"wstest has ended with {process.returncode}")

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from trio_rt.errors import OptionError
from trio_rt.testing import Conditions
from trio_rt.testing import relay as module
from trio_rt.testing.relay import obey

from .relayed import LIMIT_S, read_exactly, read_to_the_end, relayed

ROOT = Path(__file__).parents[2]

#: What is in force before each command: all of it has to stay or go as it is told.
BEFORE = Conditions(
    delay_s=1, jitter_s=2, rate_bytes_per_s=3, split_bytes=4, corrupt=0.5, blackhole=True
)


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        ("delay 0.25", {"delay_s": 0.25, "jitter_s": 0}),
        ("delay 0.25 0.5", {"delay_s": 0.25, "jitter_s": 0.5}),
        ("rate 1e6", {"rate_bytes_per_s": 1e6}),
        ("rate 0", {"rate_bytes_per_s": math.inf}),
        ("split 30", {"split_bytes": 30}),
        ("split 0", {"split_bytes": math.inf}),
        ("corrupt 0.01", {"corrupt": 0.01}),
        ("blackhole off", {"blackhole": False}),
        ("pass", attrs.asdict(Conditions())),
    ],
)
async def test_conditions(command: str, changes: dict[str, Any]) -> None:
    """A command changes its own condition, in both directions or in one."""
    after = attrs.evolve(BEFORE, **changes)
    async with relayed() as (relay, _, _):
        for towards, expected in (
            ("", {"server": after, "client": after}),
            (" server", {"server": after, "client": BEFORE}),
            (" client", {"server": BEFORE, "client": after}),
        ):
            relay.impose(BEFORE)
            assert obey(relay, f"{command}{towards}\n") == "ok"
            assert relay.conditions == expected


async def test_blackhole_on() -> None:
    """It can be switched on, too."""
    async with relayed() as (relay, _, _):
        assert obey(relay, "blackhole on\n") == "ok"
        assert relay.conditions["client"].blackhole


@pytest.mark.parametrize(
    ("command", "sent", "found"),
    [
        ("rst", b"", "ECONNRESET"),
        ("fin", b"", "EOF"),
        ("cut 3", b"123", "ECONNRESET"),
        ("cut 3 rst", b"123", "ECONNRESET"),
        ("cut 3 fin server", b"123", "EOF"),
        ("cut 3 server", b"123", "ECONNRESET"),
    ],
)
async def test_ends(command: str, sent: bytes, found: str) -> None:
    """Each command ends the link in its own way."""
    async with relayed() as (relay, client, server):
        assert obey(relay, f"{command}\n") == "ok"
        if sent:
            await client.send_all(b"12345")
        assert await read_to_the_end(server) == (sent, found)


async def test_a_cut_of_the_other_direction() -> None:
    """`cut N client` counts what goes to the client."""
    async with relayed() as (relay, client, server):
        assert obey(relay, "cut 3 client\n") == "ok"
        await client.send_all(b"12345")
        assert await read_exactly(server, 5) == b"12345"
        await server.send_all(b"12345")
        assert await read_to_the_end(client) == (b"123", "ECONNRESET")


async def test_refuse_and_accept() -> None:
    """The port is closed and opened again."""
    async with relayed() as (relay, _, _):
        assert obey(relay, "refuse\n") == "ok"
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", relay.port)
        assert obey(relay, "accept\n") == "ok"
        await (await trio.open_tcp_stream("127.0.0.1", relay.port)).aclose()


@pytest.mark.parametrize(
    "line",
    [
        *("explode", "", "server", "rst server", "pass 1", "cut", "cut 1 vanish", "delay"),
        *("delay 1 2 3", "rate", "blackhole", "blackhole maybe"),
    ],
)
async def test_unknown_commands(line: str) -> None:
    """A line that is no command says so and does nothing."""
    async with relayed() as (relay, client, server):
        with pytest.raises(ValueError, match=f"no such command: {line}"):
            obey(relay, f"{line}\n")
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"


@pytest.mark.parametrize("line", ["delay -1", "rate -1", "split -1", "corrupt 2", "cut -1"])
async def test_impossible_numbers(line: str) -> None:
    """They are what the options refuse."""
    async with relayed() as (relay, _, _):
        with pytest.raises(OptionError):
            obey(relay, f"{line}\n")
        assert relay.conditions == {"server": Conditions(), "client": Conditions()}


class _Process:
    """The relay's process, and the lines that it answers."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._read = bytearray()

    async def ask(self, line: str) -> str:
        await self._stdin.send_all(line.encode() + b"\n")
        return await self.line()

    async def line(self) -> str:
        while b"\n" not in self._read:
            self._read += await self._stdout.receive_some()
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    async def quit(self) -> bytes:
        await self._stdin.send_all(b"quit\n")
        return await self.rest()

    async def end_of_input(self) -> bytes:
        await self._stdin.aclose()
        return await self.rest()

    async def rest(self) -> bytes:
        return b"".join([chunk async for chunk in self._stdout])


@asynccontextmanager
async def _process(
    *options: str,
) -> AsyncIterator[tuple[_Process, trio.SocketStream, trio.SocketStream]]:
    """The process, and the ends of a connection through it."""
    with trio.fail_after(LIMIT_S):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        target = str(listener.socket.getsockname()[1])
        command = [sys.executable, "-m", "trio_rt.testing.relay", "127.0.0.1", target, *options]
        start = partial(
            trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        async with listener, trio.open_nursery() as nursery:
            process = _Process(await nursery.start(start))
            client = await trio.open_tcp_stream("127.0.0.1", int(await process.line()))
            async with client, await listener.accept() as server:
                yield process, client, server


async def test_as_a_process() -> None:
    """The process prints its port, obeys line by line, and ends with `quit`."""
    async with _process("--seed", "1") as (process, client, server):
        assert await process.ask("rate much") == (
            "error: could not convert string to float: 'much'"
        )
        assert await process.ask("explode") == "error: no such command: explode"
        assert await process.ask("corrupt 2") == (
            "error: Conditions.corrupt must be at most 1, not 2.0"
        )
        assert await process.ask("corrupt 0.5 server") == "ok"
        await client.send_all(bytes(100))
        corrupted = await read_exactly(server, 100)
        assert await process.quit() == b""
    async with relayed(seed=1) as (relay, client, server):
        relay.impose(Conditions(corrupt=0.5))
        await client.send_all(bytes(100))
        assert await read_exactly(server, 100) == corrupted


async def test_the_end_of_input() -> None:
    """It ends the process, as `quit` does."""
    async with _process() as (process, _, _):
        assert await process.end_of_input() == b""


def test_help_has_all_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` tells what can be typed."""
    monkeypatch.setattr(sys, "argv", ["relay", "--help"])
    with pytest.raises(SystemExit):
        module.main()
    shown = capsys.readouterr().out
    for command in ("delay", "rate", "split", "corrupt", "blackhole", "pass", "rst", "fin"):
        assert f"\n    {command} " in shown
    for command in ("cut N", "refuse", "accept", "quit", "--seed"):
        assert command in shown

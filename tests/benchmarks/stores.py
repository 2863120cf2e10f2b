"""What a hub's stores take: `python -m tests.benchmarks.stores [seconds]`.

Redis and Valkey: the store, node A and node B are processes of their own. A appends, B listens. For each
store: the time from `append` at A to `item` at B, one at a time; and messages a second
with 8, 64 and any number of appends in flight at A, B hearing all of them, and the CPU
time that each of the three takes for a message: on a machine with other work, that is what
can be compared. SQLite: messages a second that are on the disk, with as many in flight.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen

import trio

from trio_rt.hub._broker import Broker, BrokerError, Draft, Item, LogLimits, Position, Present
from trio_rt.hub.brokers.redis import RedisBroker
from trio_rt.hub.brokers.sqlite import SqliteBroker

from ..hub.redis_server import KINDS, Server
from .percentiles import percentile

#: Appends in flight.
FLIGHTS = (8, 64)

BODY = b'{"kind":"message","id":"%d","payload":"' + b"x" * 90 + b'"}'

#: In flight, for "any number": below what the queue takes.
MANY = 5000


class Ear:
    """Calls `heard` for each item."""

    def __init__(self, heard: Callable[[Item], None]) -> None:
        self.item = heard

    def present(self, room: str, who: Present) -> None: ...
    def absent(self, room: str, device: str, for_good: bool) -> None: ...
    def marked(self, room: str, user: str, offset: int) -> None: ...
    def lost(self, room: str | None) -> None:
        print("lost", room, file=sys.stderr)


def broker(url: str) -> RedisBroker:
    return RedisBroker(url, limits=LogLimits(messages=1000, repeat_s=30.0))


async def listen(url: str) -> None:
    """Node B: writes the time at which each item of "ping" came, and counts the others."""
    counted = 0

    def heard(item: Item) -> None:
        nonlocal counted
        counted += 1
        if item.room == "ping":
            print(time.perf_counter(), flush=True)
        elif b'"last"' in item.body:
            print(counted, time.perf_counter(), flush=True)
            counted = 0

    async with trio.open_nursery() as nursery:
        node = broker(url)
        await nursery.start(node.run, Ear(heard))
        await node.watch("ping")
        await node.watch("load")
        print("ready", flush=True)


class Load:
    """Appends with at most `flight` under way."""

    def __init__(self, node: Broker, flight: int) -> None:
        self.node = node
        self.free = flight
        self.sent = self.done = 0
        self.more = trio.Event()

    def settled(self, outcome: Position | BrokerError) -> None:
        assert isinstance(outcome, Position), outcome
        self.done += 1
        self.free += 1
        self.more.set()

    async def run(self, seconds: float) -> float:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            while self.free:
                self.free -= 1
                self.sent += 1
                draft = Draft("load", f"{id(self)}-{self.sent}", BODY % self.sent)
                self.node.append(draft, self.settled)
            self.more = trio.Event()
            await self.more.wait()
        while self.done < self.sent:
            self.more = trio.Event()
            await self.more.wait()
        return self.done / (time.perf_counter() - started)


def cpu_s(*pids: int) -> list[float]:
    """The CPU time of processes."""
    times = []
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        times.append((int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"))
    return times


async def measure(server: Server, seconds: float, other: Popen[str]) -> None:
    assert server.process is not None
    url, pids = server.url, (os.getpid(), other.pid, server.process.pid)
    assert other.stdout is not None
    async with trio.open_nursery() as nursery:
        node = broker(url)
        await nursery.start(node.run, Ear(lambda item: None))
        await node.watch("load")
        times = []
        for n in range(int(300 * seconds)):
            started = time.perf_counter()
            node.append(Draft("ping", f"{started}", BODY % n), lambda outcome: None)
            line = await trio.to_thread.run_sync(other.stdout.readline)
            times.append(float(line) - started)
        p50, p99 = (percentile(times, share) * 1e3 for share in (0.5, 0.99))
        print(f"  append to the other node's sink: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        for flight in (*FLIGHTS, MANY):
            load = Load(node, flight)
            started, before = time.perf_counter(), cpu_s(*pids)
            rate = await load.run(seconds)
            node.append(Draft("load", f"last{flight}", b'{"id":"last"}'), lambda outcome: None)
            line = await trio.to_thread.run_sync(other.stdout.readline)
            count, ended = line.split()
            heard = int(count) / (float(ended) - started)
            used = [(b - a) / load.done * 1e6 for a, b in zip(before, cpu_s(*pids), strict=True)]
            print(
                f"  {flight:5} in flight: {rate:8.0f} appends/s, {heard:8.0f}/s heard by the other;"
                " us of CPU a message: A {:.0f}, B {:.0f}, store {:.0f}".format(*used)
            )
        print("  batch p50", f"{node.statistics()['batch_p50_s'] * 1e3:.2f} ms")
        nursery.cancel_scope.cancel()


async def measure_sqlite(path: Path, seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        node = SqliteBroker(path, limits=LogLimits(messages=1000, repeat_s=30.0))
        await nursery.start(node.run, Ear(lambda item: None))
        await node.watch("load")
        for flight in (*FLIGHTS, MANY):
            rate = await Load(node, flight).run(seconds)
            print(f"  {flight:5} in flight: {rate:8.0f} appends/s")
        nursery.cancel_scope.cancel()


def main() -> None:
    if sys.argv[1:2] == ["--listen"]:
        trio.run(listen, sys.argv[2])
        return
    seconds = float(sys.argv[1]) if sys.argv[1:] else 3.0
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as directory:
            server = Server(kind, Path(directory))
            server.start()
            command = [sys.executable, "-m", __spec__.name, "--listen", server.url]
            other = Popen(command, stdout=PIPE, text=True)
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == "ready\n"
                print(kind)
                trio.run(measure, server, seconds, other)
            finally:
                other.kill()
                other.wait()
                server.kill()
    with tempfile.TemporaryDirectory() as directory:
        print("SQLite")
        trio.run(measure_sqlite, Path(directory, "hub.db"), seconds)


if __name__ == "__main__":
    main()

"""Figures of the hub alone: a stuck member, many rooms, everybody back at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import pairwise

from ..percentiles import percentile
from .crowd import DIALECTS, Crowd
from .running import running

__all__ = ["memory", "returning", "rooms", "stuck"]

OURS = DIALECTS["ours"]


def stuck(members: int = 1000, turns: int = 5, says: int = 40) -> Iterator[str]:
    """p99 in a room with a member that reads nothing, by turns with one of the same without it."""
    last = members - 1
    memberships = {0: ("with", "without", "flood"), last: ("with", "flood", "flood")}
    found: dict[str, list[float]] = {"with": [], "without": []}
    ratios = []
    with running("ours") as server:
        crowd = Crowd(
            server.port, OURS, members, lambda n: memberships.get(n, ("with", "without", "with"))
        )
        crowd.join()
        crowd.settle()
        crowd.neglect(last)
        for _ in range(400):  # more than its outbox and the kernel hold
            crowd.say("-" * 8000, 10, room="flood")
            crowd.times(time.monotonic() + 0.005)
        crowd.settle()
        for _ in range(turns):
            turn = {room: _spaced(crowd, room, last, says) for room in found}
            for room, took in turn.items():
                found[room] += took
            ratios.append(percentile(turn["with"], 0.99) / percentile(turn["without"], 0.99))
        crowd.close()
    p99 = {room: percentile(took, 0.99) * 1e3 for room, took in found.items()}
    yield (
        f"one stuck socket among {members:,}: p99 of the others {p99['with']:.1f} ms, "
        f"{p99['without']:.1f} without it: {statistics.median(ratios):.2f} x (must 1.2 at most)"
    )


def _spaced(crowd: Crowd, room: str, hearers: int, says: int) -> list[float]:
    took: list[float] = []
    for _ in range(says):
        crowd.say(f"x:{time.monotonic():.6f};" + "-" * 90, room=room)
        took += crowd.times(time.monotonic() + 5, hearers)
    return took


def rooms(count: int = 1000, of: int = 10, seconds: int = 8) -> Iterator[str]:
    """So many rooms of so many members, a message a second in each."""
    with running("ours") as server:
        crowd = Crowd(
            server.port, OURS, count, lambda n: [f"room {(n + k) % count}" for k in range(of)]
        )
        crowd.join()
        crowd.settle()
        took: list[float] = []
        begin, cpu = time.monotonic(), server.cpu_s()
        for number in range(count * seconds):
            due = begin + number / count
            took += crowd.times(due)
            room = number % count
            crowd.say(f"x:{time.monotonic():.6f};", member=room, room=f"room {room}")
        took += crowd.times(time.monotonic() + 1, count * of * seconds - len(took))
        share = (server.cpu_s() - cpu) / (time.monotonic() - begin)
        crowd.close()
    yield (
        f"{count:,} rooms of {of}, a message a second in each: {share:.0%} of a core, "
        f"p50 {percentile(took, 0.5) * 1e3:.1f} ms, p99 {percentile(took, 0.99) * 1e3:.1f} ms, "
        f"{len(took):,} of {count * of * seconds:,} deliveries"
    )


def returning(members: int = 5000) -> Iterator[str]:
    """From the first SYN of all at once to everybody's membership, on a server just started."""
    with running("ours") as server:
        begin = time.monotonic()
        crowd = Crowd(server.port, OURS, members, lambda n: [f"room {n % 50}"])
        crowd.join()
        waits = [member.joined - begin for member in crowd.members]
        crowd.close()
    yield (
        f"{members:,} back at once: none refused, joined after p50 {percentile(waits, 0.5):.1f} s, "
        f"the last after {max(waits):.1f} s (must 10)"
    )


def memory(members: int = 1000) -> Iterator[str]:
    """What idle peers take of the server's memory, in no room and in one."""
    with running("ours") as server:
        Crowd(server.port, OURS, 50, lambda n: ["warm"]).join()
        sizes = [server.resident_bytes()]
        for rooms in (lambda n: [], lambda n: [f"room {n // 10}"]):
            crowd = Crowd(server.port, OURS, members, rooms)
            crowd.join()
            crowd.settle()
            sizes.append(server.resident_bytes())
    idle, member = (b - a for a, b in pairwise(sizes))
    yield (
        f"an idle peer {idle / members / 1e3:.1f} kB; one in a room of 10, the room included, "
        f"{member / members / 1e3:.1f} kB"
    )

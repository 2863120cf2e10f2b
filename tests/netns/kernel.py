"""What is done to the packets of the namespace that this process is in."""

from __future__ import annotations

import re
from typing import Final

import trio

__all__ = [
    "black_hole",
    "heal",
    "held_back",
    "kill_sockets",
    "limit_rate",
    "link_down",
    "link_up",
    "lose",
    "reject",
    "set_up",
]

#: That of Ethernet. Loopback's own 64 KiB is more than `tbf` ever lets through.
MTU: Final = "1500"

COMMAND_S: Final = 10.0

_OVERLIMITS: Final = re.compile(r"overlimits (\d+)")


async def _run(*command: str) -> str:
    """What the command printed. Raises `subprocess.CalledProcessError` if it failed."""
    with trio.fail_after(COMMAND_S):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    return done.stdout.decode()


async def set_up() -> None:
    """Make the loopback interface one to work on."""
    await _run("ip", "link", "set", "lo", "up", "mtu", MTU)


async def limit_rate(rate: str) -> None:
    """Let so much through, both directions together; queue 0.4 s of it, and drop the rest."""
    words = ("tbf", "rate", rate, "burst", "32kb", "latency", "400ms")
    await _run("tc", "qdisc", "add", "dev", "lo", "root", *words)


async def held_back() -> int:
    """How many times a packet had to wait for the rate."""
    found = _OVERLIMITS.search(await _run("tc", "-s", "qdisc", "show", "dev", "lo"))
    return 0 if found is None else int(found[1])


async def _filter(port: int, *target: str, both: bool = True) -> None:
    for side in ("--dport", "--sport") if both else ("--dport",):
        await _run("iptables", "-w", "-A", "INPUT", "-p", "tcp", side, str(port), *target)


async def lose(port: int, share: float) -> None:
    """Lose this share of the packets, at random."""
    dice = ("-m", "statistic", "--mode", "random", "--probability", str(share))
    await _filter(port, *dice, "-j", "DROP")


async def black_hole(port: int) -> None:
    """Lose all of them."""
    await _filter(port, "-j", "DROP")


async def reject(port: int) -> None:
    """Answer those to the server with a reset, which the server never hears of."""
    await _filter(port, "-j", "REJECT", "--reject-with", "tcp-reset", both=False)


async def heal() -> int:
    """No packet filter any more; how many packets met its rules."""
    table = await _run("iptables", "-w", "-nvxL", "INPUT")
    await _run("iptables", "-w", "-F", "INPUT")
    return sum(int(row.split()[0]) for row in table.splitlines()[2:])


async def link_down() -> None:
    await _run("ip", "link", "set", "lo", "down")


async def link_up() -> None:
    await _run("ip", "link", "set", "lo", "up")


async def kill_sockets(port: int) -> bool:
    """Abort all sockets of clients of this server. False: this kernel cannot."""
    killed = await _run("ss", "-H", "-K", "dst", "127.0.0.1", "dport", "=", str(port))
    return bool(killed.strip())

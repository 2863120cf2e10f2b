"""`python -m trio_rt.testing.relay HOST PORT`: the relay as a process.

Prints the port that it listens on. Then it takes commands from the standard
input, one a line, and answers each but `quit` with `ok` or `error: ...`.

Conditions, which hold until they are changed:

    delay S [JITTER]    S seconds more, and from 0 to JITTER more at random
    rate N              N bytes/s a link; 0: no limit
    split N             writes of 1 to N bytes; 0: as they come
    corrupt P           a share P of the bytes with one bit flipped, from 0 to 1
    blackhole on|off    nothing passes, and nobody is told
    pass                none of these

Ends, for the links that are open, and the port:

    rst                 reset them
    fin                 end them by FIN
    cut N [rst|fin]     N more bytes of each, then that (rst)
    refuse              refuse new connections
    accept              take new connections again
    quit                end, as the end of input does

The conditions and `cut` are for both directions. With `server` (the target) or
`client` behind them they are for that one: `delay 0.2 client`. A `cut` without
it counts both together.
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from typing import Any, Final

import attrs
import trio

from ..errors import OptionError
from ._conditions import Conditions
from ._profile import Towards
from ._relay import Relay, serve_relay

__all__ = ["main"]

_DIRECTIONS: Final[dict[str, Towards]] = {"server": "server", "client": "client"}


def obey(relay: Relay, line: str) -> str:
    """Carry out one command, and return the answer to it."""
    words = line.split()
    towards = _DIRECTIONS.get(words[-1]) if words else None
    if towards:
        words.pop()
    match words:
        case [("rst" | "fin" | "refuse" | "accept") as verb] if not towards:
            getattr(relay, verb)()
        case ["cut", count] | ["cut", count, "rst"]:
            relay.cut_after(int(count), towards=towards)
        case ["cut", count, "fin"]:
            relay.cut_after(int(count), towards=towards, how="fin")
        case ["pass"]:
            relay.impose(Conditions(), towards=towards)
        case _:
            _change(relay, towards, _changes(words, line))
    return "ok"


def _changes(words: list[str], line: str) -> dict[str, Any]:
    """The fields of `Conditions` that a command changes."""
    match words:
        case ["delay", delay_s, *jitter_s] if len(jitter_s) < 2:
            return {"delay_s": float(delay_s), "jitter_s": sum(map(float, jitter_s))}
        case ["rate", rate]:
            return {"rate_bytes_per_s": float(rate) or math.inf}
        case ["split", size]:
            return {"split_bytes": int(size) or math.inf}
        case ["corrupt", share]:
            return {"corrupt": float(share)}
        case ["blackhole", ("on" | "off") as state]:
            return {"blackhole": state == "on"}
    raise ValueError(f"no such command: {line.strip()}")


def _change(relay: Relay, towards: Towards | None, changes: dict[str, Any]) -> None:
    """Change these in one direction or both, and leave the other conditions."""
    for each, conditions in relay.conditions.items():
        if towards in (None, each):
            relay.impose(attrs.evolve(conditions, **changes), towards=each)


def _answer(relay: Relay, line: str) -> str:
    try:
        return obey(relay, line)
    except (OptionError, OSError, ValueError) as error:
        return f"error: {error}"


async def _main(arguments: argparse.Namespace) -> None:
    async with trio.open_nursery() as nursery:
        relay = await nursery.start(
            partial(
                serve_relay,
                arguments.target_host,
                arguments.target_port,
                host=arguments.host,
                port=arguments.port,
                seed=arguments.seed,
            )
        )
        print(relay.port, flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            if line.strip() == "quit":
                break
            print(_answer(relay, line), flush=True)
        nursery.cancel_scope.cancel()


def main() -> None:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m trio_rt.testing.relay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target_host")
    parser.add_argument("target_port", type=int)
    parser.add_argument("--host", default="127.0.0.1", help="listen here (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="listen here (a free one)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (%(default)s)")
    trio.run(_main, parser.parse_args())


if __name__ == "__main__":
    main()

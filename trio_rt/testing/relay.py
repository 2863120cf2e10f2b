"""`python -m trio_rt.testing.relay HOST PORT`: the relay as a process.

Prints the port that it listens on. Then it takes commands from the standard
input, one a line, and answers each with `ok` or `error: ...`:

    rst        reset all links            rate N     N bytes/s a link and direction; 0: no limit
    fin        end all links by FIN       refuse     refuse new connections
    abort N    N more bytes, then reset   accept     take new connections again
    quit       end, as the end of input does
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial

import trio

from ..errors import OptionError
from ._relay import Relay, serve_relay

__all__ = ["main"]


def obey(relay: Relay, line: str) -> str:
    """Carry out one command, and return the answer to it."""
    match line.split():
        case [("rst" | "fin" | "refuse" | "accept") as command]:
            getattr(relay, command)()
        case ["abort", number]:
            relay.abort(int(number))
        case ["rate", number]:
            relay.rate_bytes_per_s = float(number) or math.inf
        case _:
            raise ValueError(f"no such command: {line.strip()}")
    return "ok"


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
                rate_bytes_per_s=arguments.rate or math.inf,
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
    parser.add_argument("--rate", type=float, default=0, help="bytes/s, 0: no limit")
    trio.run(_main, parser.parse_args())


if __name__ == "__main__":
    main()

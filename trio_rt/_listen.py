"""Accepting connections, each into a task of its own with nothing around its handler.

`trio.serve_listeners` does the same, and keeps for each connection a coroutine and the
stream as it was accepted, 0.6 kB, for as long as it lives.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import trio

__all__ = ["accept_all"]

logger: Final = logging.getLogger("trio_rt.server")

#: What `accept` fails with when the process or the machine has no more to give; and
#: for how many seconds to leave it alone then. Both as in `trio.serve_listeners`.
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
EXHAUSTED_S: Final = 0.1

Serve: TypeAlias = Callable[[trio.abc.Stream], Awaitable[None]]


async def accept_all(
    listeners: Sequence[trio.abc.Listener[Any]], nursery: trio.Nursery, serve: Serve
) -> None:
    """Run `serve(stream)` in `nursery` for each connection, until cancelled.

    `serve` raises nothing, and closes its stream. The listeners are closed at the end.
    """
    async with trio.open_nursery() as listening:
        for listener in listeners:
            listening.start_soon(_accept_from, listener, nursery, serve)


async def _accept_from(
    listener: trio.abc.Listener[Any], nursery: trio.Nursery, serve: Serve
) -> None:
    async with listener:
        while True:
            try:
                nursery.start_soon(serve, await listener.accept())
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                logger.exception("no connection can be accepted; again in %g s", EXHAUSTED_S)
                await trio.sleep(EXHAUSTED_S)

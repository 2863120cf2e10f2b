"""The first words of a session's link: `hello` from the client, `welcome` from the server.

Before them nothing else goes out; behind the welcome messages may follow at once.
"""

from __future__ import annotations

import trio

from .errors import DialError, LinkClosed
from .protocol.frames import Hello, Syntax
from .protocol.numbered import Batch
from .protocol.session import Session
from .wires import Wire

__all__ = ["NoWelcome", "ask_welcome", "receive_hello"]


class NoWelcome(DialError):
    """The server picked the subprotocol, and does not speak it."""


async def ask_welcome(
    wire: Wire, session: Session, cause: Exception | None, limit_s: float
) -> bool:
    """Say hello and hear the welcome, within `limit_s`. True: the session is resumed.

    `cause` ended the link before. Raises `NoWelcome`, or the `LinkClosed` that ended
    the link. Cancelled: the server may have welcomed us; the session goes on from
    there with the next hello.
    """
    with trio.move_on_after(limit_s):
        await _send(wire, session.hello())
        first, *behind = await _receive(wire)
        try:
            resumed = session.welcomed(first, cause)
        except LinkClosed as error:
            raise NoWelcome(f"no welcome: {error.reason}", stage="welcome") from error
        session.receive(behind, trio.current_time())
        return resumed
    raise NoWelcome(f"no welcome within {limit_s:g} s", stage="welcome")


async def receive_hello(wire: Wire, syntax: Syntax) -> Hello:
    """What the client says first; anything behind it is a breach until it is welcomed.

    Raises `LinkClosed`.
    """
    first, *behind = await _receive(wire)
    hello = syntax.hello(first)
    if behind:
        raise LinkClosed(1002, "more than a hello before the welcome", by_peer=False)
    return hello


async def _send(wire: Wire, words: Batch) -> None:
    """Send `words`. Raises the `LinkClosed` that tells why the link is gone, if it is."""
    try:
        await wire.send((words,))
    except trio.BrokenResourceError:
        while True:
            await _receive(wire)


async def _receive(wire: Wire) -> list[str | bytes]:
    while True:
        if wire.wants_flush:
            await wire.flush()
        if batch := await wire.receive():
            return batch

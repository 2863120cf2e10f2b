"""The life of a connection, as one table.

A connection is CONNECTING until its first link is open, then CONNECTED while
it has a link and RECONNECTING while it has none. It never goes back to
CONNECTING: a program that waits for its first link and one that lost a link
have different things to tell their users.

One task, the supervisor, pulls the triggers. A dial that fails and a link that
ends are the same to it: LOST, with a time for the next dial. What a cause
means is no question for this table but for `verdict`; when it means "give up",
that is FAILED.

Two phases are ends. DISCONNECTED: the program left the `connect()` block.
FAILED: the connection gave up, and leaves the block as an exception. From every
other phase both can be reached at any time, so nothing here can get stuck.

A trigger that the table does not have for a phase is a bug in this library: it
raises, and nothing has changed.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

__all__ = ["TABLE", "Phase", "State", "Trigger", "next_phase"]


class Phase(enum.Enum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    DISCONNECTED = "disconnected"
    FAILED = "failed"


class Trigger(enum.Enum):
    DIALLING = "a dial starts"
    OPENED = "a link is open"
    LOST = "the dial failed, or the link ended"
    STOPPED = "the program left the block"
    FAILED = "the connection gave up"


TABLE: Final = {
    Phase.CONNECTING: {
        Trigger.DIALLING: Phase.CONNECTING,
        Trigger.LOST: Phase.CONNECTING,
        Trigger.OPENED: Phase.CONNECTED,
        Trigger.STOPPED: Phase.DISCONNECTED,
        Trigger.FAILED: Phase.FAILED,
    },
    Phase.CONNECTED: {
        Trigger.LOST: Phase.RECONNECTING,
        Trigger.STOPPED: Phase.DISCONNECTED,
        Trigger.FAILED: Phase.FAILED,
    },
    Phase.RECONNECTING: {
        Trigger.DIALLING: Phase.RECONNECTING,
        Trigger.LOST: Phase.RECONNECTING,
        Trigger.OPENED: Phase.CONNECTED,
        Trigger.STOPPED: Phase.DISCONNECTED,
        Trigger.FAILED: Phase.FAILED,
    },
    Phase.DISCONNECTED: {},
    Phase.FAILED: {},
}


def next_phase(phase: Phase, trigger: Trigger) -> Phase:
    """Where `trigger` leads from `phase`. Raises `RuntimeError` if it cannot happen there."""
    try:
        return TABLE[phase][trigger]
    except KeyError:
        raise RuntimeError(f"{trigger.name} cannot happen while {phase.name}") from None


@attrs.frozen
class State:
    """What a connection is doing."""

    phase: Phase
    #: Dials since the last link that proved itself, the current one included.
    attempt: int = 0
    #: When it dials next, on trio's clock; None unless it waits to dial.
    retry_at: float | None = None
    #: What ended the last link or dial, or made the connection fail.
    cause: Exception | None = None
    #: Whether this link took up the session of the link before.
    resumed: bool = False

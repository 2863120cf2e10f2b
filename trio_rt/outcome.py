"""What became of a send."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

__all__ = [
    "ACKED",
    "INDETERMINATE",
    "KEPT",
    "WITHDRAWN",
    "WRITTEN",
    "DropReason",
    "Outcome",
    "dropped",
]

DropReason: TypeAlias = Literal[
    "evicted", "expired", "replaced", "offline", "receiver", "closed", "oversize"
]


# One object for each, compared by identity: they are counted at every message.
@attrs.frozen(eq=False)
class Outcome:
    """What became of an accepted send. Every one gets exactly one of these.

    - `acked`: the peer's program took it (sessions only);
    - `written`: the kernel took its last byte, and nobody will ever know more;
    - `dropped`: never sent, never arrived, or not taken; `reason` says why;
    - `withdrawn`: never taken: the sender took it back, or was cancelled;
    - `indeterminate`: it may or may not have arrived: its plain link died before it
      was wholly written, or its session was lost before an ack;
    - `kept`: a durable store has it, for a later run.
    """

    kind: Literal["acked", "written", "dropped", "withdrawn", "indeterminate", "kept"]
    reason: DropReason | None = None

    def __str__(self) -> str:
        return self.kind if self.reason is None else f"{self.kind} ({self.reason})"

    def __reduce__(self) -> tuple[object, ...]:
        # A copy, or what comes out of a pickle, is the one object again.
        return _the_one, (self.kind, self.reason)


ACKED: Final = Outcome("acked")
WRITTEN: Final = Outcome("written")
WITHDRAWN: Final = Outcome("withdrawn")
INDETERMINATE: Final = Outcome("indeterminate")
KEPT: Final = Outcome("kept")

_DROPPED: Final[dict[DropReason, Outcome]] = {
    reason: Outcome("dropped", reason)
    for reason in (
        "evicted",
        "expired",
        "replaced",
        "offline",
        "receiver",
        "closed",
        "oversize",
    )
}


_ALL: Final = (ACKED, WRITTEN, WITHDRAWN, INDETERMINATE, KEPT, *_DROPPED.values())


def _the_one(kind: str, reason: str | None) -> Outcome:
    return next(each for each in _ALL if (each.kind, each.reason) == (kind, reason))


def dropped(reason: DropReason) -> Outcome:
    """The outcome `dropped` with this reason."""
    return _DROPPED[reason]

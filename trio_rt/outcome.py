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


@attrs.frozen
class Outcome:
    """What became of an accepted send. Every one gets exactly one.

    - `acked`: the peer's program took it (sessions only);
    - `written`: the kernel took its last byte, and nobody will ever know more;
    - `dropped`: never sent, or not taken; `reason` says why;
    - `withdrawn`: never sent, because the sender took it back;
    - `indeterminate`: it may or may not have arrived;
    - `kept`: a durable store has it, for a later run.
    """

    kind: Literal["acked", "written", "dropped", "withdrawn", "indeterminate", "kept"]
    reason: DropReason | None = None

    def __str__(self) -> str:
        return self.kind if self.reason is None else f"{self.kind} ({self.reason})"


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


def dropped(reason: DropReason) -> Outcome:
    """The outcome `dropped` with this reason."""
    return _DROPPED[reason]

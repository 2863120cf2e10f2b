"""Questions to the virtual network's own account of what happened."""

from __future__ import annotations

import math
from typing import Final

from .records import LinkRecord, Story

__all__ = ["Trace"]

#: What lasts: how its beginning and its end are noted.
_TROUBLES: Final = {
    "refused": ("server: refuse", "server: accept"),
    "swallowed": ("server: silence", "server: accept"),
    "stalled": ("stall all", "resume all"),
    "down": ("unlisten ", "listen "),
}


class Trace:
    """The network's own account of what happened, by time."""

    def __init__(self, story: Story) -> None:
        assert story.network is not None
        self.events = story.network.trace

    def last_read(self, link: LinkRecord, arrow: str, until: float) -> float:
        """When bytes of this direction were last read, up to `until`; -inf: never."""
        assert link.carrier is not None
        beginning = f"{link.carrier.name} {arrow} read"
        times = [at for at, event in self.events if at <= until and event.startswith(beginning)]
        return max(times, default=-math.inf)

    def first(self, event: str) -> float:
        """When this happened first; inf: never."""
        return min((at for at, found in self.events if found == event), default=math.inf)

    def troubled(self, start: float, end: float) -> bool:
        """Whether the network did anything to anybody in this time, or still from before."""
        active: set[str] = set()
        for at, event in self.events:
            if at > end:
                break
            for trouble, (beginning, _) in _TROUBLES.items():
                if event.startswith(beginning):
                    active.add(trouble)
            struck = active or " cut " in event or event.startswith("jump")
            if struck and at >= start:
                return True
            for trouble, (_, ending) in _TROUBLES.items():
                if event.startswith(ending):
                    active.discard(trouble)
        return bool(active)

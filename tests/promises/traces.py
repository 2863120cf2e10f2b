"""Questions to the virtual network's own account of what happened."""

from __future__ import annotations

import math
from typing import Final

from .records import LinkRecord, Story

__all__ = ["Trace"]

_BARS: Final = ("server: refuse", "server: silence")


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
        """Whether the network did anything to anybody in this time, a bar or stall from before
        included."""
        barred = False
        for at, event in self.events:
            if at > end:
                break
            if event in _BARS or " stall" in event:
                barred = True
            elif event == "server: accept" or " resume" in event:
                barred = False
                if at >= start:
                    return True
            struck = barred or " cut " in event or event.startswith("jump")
            if struck and at >= start:
                return True
        return barred

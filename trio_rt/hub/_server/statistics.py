"""What a hub has done, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["HubStatistics"]


@attrs.frozen(kw_only=True)
class HubStatistics:
    """A snapshot of what a hub has done, on this node."""

    peers: int
    rooms: int
    #: Peers in rooms, each counted in each room.
    members: int
    published: int
    #: Messages to members.
    deliveries: int
    refusals: Mapping[str, int]
    #: Peers that do not keep up now, and how often one began not to.
    lagging: int
    lags: int
    #: Seconds from a publish to the store's answer, of the last ones.
    publish_s: tuple[float, ...] = attrs.field(repr=False)
    broker_up: bool
    broker: Mapping[str, Any]

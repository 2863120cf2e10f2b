"""How a peer is told what there is to tell: by which codec, and in whose words.

All peers who are told the same have the same tongue, so that it is encoded once for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from ..._ambient import ambient
from ...message import Priority
from ...protocol.codec import Codec, Meta
from .._words import Event

__all__ = ["Speech", "Tongue", "Tongues"]


class Speech(Protocol):
    """Other words than the hub's own."""

    def say(self, room: str, event: Event) -> Iterable[tuple[str, Any]]:
        """Types and payloads of what is told instead of the event."""


class Tongue:
    """A codec, and other words than the hub's own, or None. Compare it by its identity."""

    __slots__ = ("_ids", "_prefix", "codec", "speech")

    def __init__(self, codec: Codec, speech: Speech | None) -> None:
        self.codec: Final = codec
        self.speech: Final = speech
        self._prefix: Final = f"{ambient().random.getrandbits(64):016x}-"
        self._ids = 0

    def encode(self, type: str, payload: Any) -> bytes:
        """A whole envelope: whose words these are may look at all of it."""
        self._ids += 1
        now_ms = int(ambient().wall_s() * 1000)
        meta = Meta(f"{self._prefix}{self._ids}", now_ms, Priority.NORMAL, None)
        return self.codec.encode(type, payload, meta)


class Tongues:
    """Those of one hub, each made when it is needed first."""

    def __init__(self) -> None:
        # By identity: a program's codec need not be hashable. A tongue keeps it alive.
        self._known: Final[dict[tuple[int, int], Tongue]] = {}

    def of(self, codec: Codec, speech: Speech | None = None) -> Tongue:
        key = id(codec), id(speech)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Tongue(codec, speech)
        return found

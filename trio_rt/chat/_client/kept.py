"""The last messages of a room's log that are kept at a client, in its order."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from typing import Final

from ..models import ChatMessage

__all__ = ["Kept"]


class Kept:
    """Up to `most` messages by their offsets. One more, and the one with the lowest goes."""

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._messages: dict[int, ChatMessage] = {}
        self._offsets: deque[int] = deque()

    def __iter__(self) -> Iterator[ChatMessage]:
        return map(self._messages.__getitem__, self._offsets)

    def __reversed__(self) -> Iterator[ChatMessage]:
        return map(self._messages.__getitem__, reversed(self._offsets))

    def get(self, offset: int) -> ChatMessage | None:
        return self._messages.get(offset)

    def put(self, message: ChatMessage) -> None:
        """In its place, and instead of what is there."""
        offset, offsets = message.offset, self._offsets
        if offset not in self._messages:
            if not offsets or offset > offsets[-1]:
                offsets.append(offset)
            else:
                offsets.insert(bisect.bisect(offsets, offset), offset)
        self._messages[offset] = message
        if len(offsets) > self._most:
            del self._messages[offsets.popleft()]

    def clear(self) -> None:
        self._messages.clear()
        self._offsets.clear()

"""The same messages to many peers: encoded once, and written at once where that can be.

Goal: what a message costs for each peer is near its system call. So where a plain link is
idle the frames go to the socket as they are (`protocol.tap`), and a counter says that so
many sends were accepted and written. Everywhere else (a session, whose batches have numbers;
a link that is busy, compressed or down; a short write; a message that has to be fragmented)
each message becomes an entry of that peer's books as any other send, and waits in its outbox.

Nothing here waits: a peer whose outbox has no room is not sent the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from ._peer import Peer
from .message import Priority
from .protocol.lanes import Entry
from .wires._framing import encode_messages
from .wires.websockets import FRAGMENT_BYTES

__all__ = ["Broadcast"]


class _Text(msgspec.Struct, gc=False):
    data: bytes
    binary: bool


class Broadcast:
    """Messages, encoded for peers of one codec. `data` is what `Codec.encode` gives."""

    __slots__ = ("_binary", "_bytes", "_data", "_frames", "_is_small", "_size", "count")

    def __init__(self, data: Sequence[bytes], *, binary: bool) -> None:
        self._data: Final = data
        #: How many messages.
        self.count: Final = len(data)
        self._binary: Final = binary
        self._frames: Final = encode_messages([_Text(each, binary) for each in data], masked=False)
        self._bytes: Final = b"".join(self._frames)
        self._size: Final = len(self._bytes)
        self._is_small: Final = max(map(len, data), default=0) <= FRAGMENT_BYTES

    def post(self, peer: Peer) -> bool:
        """Send them to `peer`. False: its outbox is full, and the last of them are not sent.

        To a peer that is closed it does nothing. Raises nothing.
        """
        tap = peer.tap
        if tap.open or self._opens(peer):
            tap = peer.tap
            try:
                sent = tap.send(self._bytes) if self._is_small else 0
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                sent = 0
            if sent == self._size:
                tap.posted += self.count
                return True
            tap.open = False
            link = peer.link
            if sent and link is not None:
                link.post_rest(self._bytes, sent, self._frames, self._entries())
                return True
        return peer.post(self._entries())

    def _opens(self, peer: Peer) -> bool:
        link = peer.link
        return link is not None and link.open_tap()

    def _entries(self) -> list[Entry]:
        return [Entry(data, self._binary, Priority.NORMAL) for data in self._data]

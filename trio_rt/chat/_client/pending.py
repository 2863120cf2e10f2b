"""Messages of one's own that are not in their place in the room's log yet.

What the service says of one comes in two ways, in any order: the answer to the command
(`acked`), and the message in the room (its echo). Either may be missing: the answer with a
link, the echo in a gap. So a message leaves here by its echo; or, acked, when all that
is before its offset was taken, and no echo can come any more.

An answer may be of a log that was not heard of yet, or that is gone. So an offset counts only
with its epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ..models import ChatMessage, MessageState

__all__ = ["Pending"]


class Pending:
    """Of one room, in the order in which they are to be said."""

    def __init__(self) -> None:
        self._messages: dict[str, ChatMessage] = {}
        # Of those that are acked: of which log the offset is.
        self._epochs: dict[str, str] = {}
        # The log that is gone, as far as is known.
        self._gone = ""

    def __iter__(self) -> Iterator[ChatMessage]:
        return iter(self._messages.values())

    def queue(self, message: ChatMessage) -> None:
        """One more, behind all others."""
        self._messages.pop(message.id, None)
        self._messages[message.id] = attrs.evolve(
            message, state="queued", mine=True, offset=0, failure=""
        )

    def moved(
        self, id: str, state: MessageState, offset: int, at: int, failure: str, epoch: str
    ) -> ChatMessage | None:
        """None if it is not here. Queued again, it is behind all others."""
        before = self._messages.get(id)
        if before is None:
            return None
        if state == "queued":
            del self._messages[id]
        if epoch and epoch == self._gone:
            offset = 0
        message = attrs.evolve(
            before, state=state, offset=offset, at=at or before.at, failure=failure
        )
        self._messages[id] = message
        if state == "acked":
            self._epochs[id] = epoch
        else:
            self._epochs.pop(id, None)
        return message

    def pop(self, id: str) -> ChatMessage | None:
        self._epochs.pop(id, None)
        return self._messages.pop(id, None)

    def due(self, epoch: str, until: int) -> list[ChatMessage]:
        """Those whose place in the log of `epoch` is at or before `until`, in its order."""
        if not self._epochs:
            return []
        acked = [self._messages[id] for id, known in self._epochs.items() if known == epoch]
        found = [message for message in acked if 0 < message.offset <= until]
        return sorted(found, key=lambda message: message.offset)

    def lose_log(self, epoch: str) -> None:
        """The log of `epoch` is gone: what is acked in it has no place any more."""
        self._gone = epoch or self._gone
        for id, known in self._epochs.items():
            if known == epoch:
                self._messages[id] = attrs.evolve(self._messages[id], offset=0)

    @property
    def stranded(self) -> tuple[str, ...]:
        """What was acked in a log that is gone: nobody will see it but by another try."""
        return tuple(id for id in self._epochs if not self._messages[id].offset)

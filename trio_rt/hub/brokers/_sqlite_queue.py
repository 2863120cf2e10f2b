"""Drafts that wait for the disk: some under way, in a commit, and the rest for the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from .._broker import BrokerError, Draft, Position

__all__ = ["Done", "Queue", "Waiting", "is_text"]

#: Drafts beyond these are refused: the disk is too slow for them.
MOST_WAITING: Final = 10_000
MOST_WAITING_BYTES: Final = 16 << 20
#: One commit has at most so much: 50 ms.
MOST_AT_ONCE: Final = 1000

Done: TypeAlias = Callable[[Position | BrokerError], None]
#: Without `done`: passing.
Waiting: TypeAlias = tuple[Draft, Done | None]


class Queue:
    """In order, bounded in drafts and in bytes of those that wait."""

    def __init__(self) -> None:
        self.under_way: Sequence[Waiting] = ()
        self.waiting_bytes = 0
        self._waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self.under_way)

    @property
    def waits(self) -> bool:
        """Whether there is something for another commit."""
        return bool(self._waiting)

    def put(self, draft: Draft, done: Done | None) -> BrokerError | None:
        """Let it wait, or tell why not. One alone may be of any size."""
        size = _size(draft)
        if len(self._waiting) >= MOST_WAITING or (
            self._waiting and self.waiting_bytes + size > MOST_WAITING_BYTES
        ):
            return BrokerError("too many messages wait for the disk")
        if not is_text(draft.room, draft.key, draft.only, draft.but):
            return BrokerError("a name or key is no text that can be stored")
        self._waiting.append((draft, done))
        self.waiting_bytes += size
        return None

    def take(self) -> Sequence[Waiting]:
        """The next are under way, until `settled`."""
        waiting = self._waiting
        batch = [waiting.popleft() for _ in range(min(len(waiting), MOST_AT_ONCE))]
        self.waiting_bytes -= sum(_size(draft) for draft, _ in batch)
        self.under_way = batch
        return batch

    def settled(self) -> None:
        """What was under way has its outcomes."""
        self.under_way = ()

    def refuse_under_way(self, error: BrokerError) -> None:
        batch, self.under_way = self.under_way, ()
        _refuse(batch, error)

    def refuse_waiting(self, error: BrokerError) -> None:
        batch, self._waiting = self._waiting, deque()
        self.waiting_bytes = 0
        _refuse(batch, error)


def is_text(*parts: str) -> bool:
    """Whether it can be written as UTF-8."""
    try:
        "".join(parts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(batch: Sequence[Waiting], error: BrokerError) -> None:
    for _, done in batch:
        if done is not None:
            done(error)


def _size(draft: Draft) -> int:
    return len(draft.body) + len(draft.key)

"""What arrived and is not handed out: read, sorted into replies and messages, and routed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeAlias

from ..errors import DecodeError
from ..message import Malformed, Message
from .idle import NOTHING
from .inbox import Inbox
from .incoming import Slot
from .plain import Arrival

__all__ = ["Arrivals", "Decode"]

#: A message, its size in bytes, and its slot in a session.
_Found: TypeAlias = tuple[Message[Any], int, Slot | None]

Decode: TypeAlias = Callable[[str | bytes], Iterable[Message[Any]]]


class Arrivals:
    """What `is_reply` says is the reply to a call does not go to the streams."""

    __slots__ = ("_decode", "_inbox", "_refused", "_rest", "is_reply", "now", "waiting")

    def __init__(self, decode: Decode, inbox: Inbox) -> None:
        #: What `route` has not handed out.
        self.waiting: deque[Arrival] = NOTHING
        #: When the last of it came.
        self.now = 0.0
        #: None while there are no calls that a message could answer.
        self.is_reply: Callable[[Message[Any]], bool] | None = None
        self._decode = decode
        self._inbox = inbox
        # What a full stream has refused, and what follows it.
        self._refused: _Found | None = None
        self._rest: Iterator[_Found] | None = None

    def come(self, now: float) -> deque[Arrival]:
        """Something comes: where to put it."""
        self.now = now
        if self.waiting is NOTHING:
            self.waiting = deque()
        return self.waiting

    def route(self, *, final: bool = False) -> bool:
        """Hand what has arrived to the streams.

        False: a full stream would lose something, and its consumer has had no
        turn since. Let its consumer run and call again. `final` drops instead.
        """
        receive, now = self._inbox.receive, self.now
        rest = self._rest or self._decoded()
        messages: Iterable[_Found] = rest
        if self._refused is not None:
            # It may be refused again, if its consumer took something but not enough.
            messages, self._refused = chain((self._refused,), rest), None
        for message, size, slot in messages:
            if not receive(message, size, now, slot):
                if not final:
                    self._refused, self._rest = (message, size, slot), rest
                    return False
                receive(message, size, now, slot)
        self._rest = None
        self.waiting = NOTHING
        return True

    def _decoded(self) -> Iterator[_Found]:
        """What arrived, message by message."""
        decode, arriving, is_reply = self._decode, self.waiting, self.is_reply
        while arriving:
            data, size, slot = arriving.popleft()
            try:
                for message in decode(data):
                    if is_reply is not None and is_reply(message):
                        continue
                    yield message, size, slot
            except DecodeError as error:
                self._malformed(data, slot, error)
            except Exception as error:
                # A foreign codec's own bug must not end the link.
                wrapped = DecodeError(
                    "message", f"made the codec raise {type(error).__name__}", data
                )
                wrapped.__cause__ = error
                self._malformed(data, slot, wrapped)

    def _malformed(self, data: str | bytes, slot: Slot | None, error: DecodeError) -> None:
        if slot is not None:
            slot.release(taken=True)
        self._inbox.malformed(Malformed(data, error, self.now))

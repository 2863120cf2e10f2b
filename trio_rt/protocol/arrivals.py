"""What arrived and is not handed out: read, sorted into replies and messages, and routed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeAlias

from ..errors import DecodeError
from ..message import Malformed, Message
from .inbox import Inbox
from .incoming import Slot
from .plain import Arrival
from .requests import Requests

__all__ = ["Arrivals", "Decode"]

#: A message, its size in bytes, and its slot in a session.
_Found: TypeAlias = tuple[Message[Any], int, Slot | None]

Decode: TypeAlias = Callable[[str | bytes], Iterable[Message[Any]]]


class Arrivals:
    """`correlate` tells which request a message answers, where there are no sessions."""

    def __init__(
        self,
        decode: Decode,
        inbox: Inbox,
        requests: Requests,
        correlate: Callable[[Message[Any]], str | None],
    ) -> None:
        #: What `route` has not handed out.
        self.waiting: deque[Arrival] = deque()
        #: When the last of it came.
        self.now = 0.0
        self._decode = decode
        self._inbox = inbox
        self._requests = requests
        self._correlate = correlate
        self._messages = self._decoded()
        self._refused: _Found | None = None

    def route(self, *, final: bool = False) -> bool:
        """Hand what has arrived to the streams.

        False: a full stream would lose something, and its consumer has had no
        turn since. Let its consumer run and call again. `final` drops instead.
        """
        receive, now = self._inbox.receive, self.now
        messages: Iterable[_Found | None] = self._messages
        if self._refused is not None:
            # It may be refused again, if its consumer took something but not enough.
            messages, self._refused = chain((self._refused,), messages), None
        for found in messages:
            if found is None:
                break
            message, size, slot = found
            if not receive(message, size, now, slot):
                if not final:
                    self._refused = message, size, slot
                    return False
                receive(message, size, now, slot)
        return True

    def _decoded(self) -> Iterator[_Found | None]:
        """What arrived, message by message, and None where there is no more now."""
        decode, arriving, foreign = self._decode, self.waiting, self._requests.foreign
        while True:
            if not arriving:
                yield None
                continue
            data, size, slot = arriving.popleft()
            try:
                for message in decode(data):
                    if foreign and self._is_reply(message):
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

    def _is_reply(self, message: Message[Any]) -> bool:
        return self._requests.correlated(message, self._correlate(message), self.now)

    def _malformed(self, data: str | bytes, slot: Slot | None, error: DecodeError) -> None:
        if slot is not None:
            slot.release(taken=True)
        self._inbox.malformed(Malformed(data, error, self.now))

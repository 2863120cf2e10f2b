"""How this user is to be seen, as it is told to each service that does not know it yet.

A user's presence lasts as long as a session. So what the program has set is told again
behind each loss of one, and while the service refuses it for now: what was set last holds
in the end, however often it was changed. Each telling is the whole of it, and a newer one
takes the place of one that has not left.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec
import trio

from ..._connection import Connection
from ..._subscription import Stream
from ..._waker import Waker
from ...hub._client.calls import FOR_NOW, pauses
from ...hub._words import DONE, REFUSED, Event
from ...message import Gap, Message, Reset
from .._words import PROFILE, Profile

__all__ = ["ProfileTeller"]

_log: Final = logging.getLogger("trio_rt.chat")


class ProfileTeller:
    """That of one connection. Nothing is sent, and no stream opened, before the first change."""

    def __init__(self, conn: Connection) -> None:
        self._conn: Final = conn
        self._profile = Profile()
        self._due: Final = Waker()
        self._begun: Final = trio.Event()
        self._answers: Stream[Message[Event] | Gap | Reset]
        # The id of what was told last.
        self._told = ""
        self._closed = False

    def change(self, **changes: str) -> None:
        """Raises `trio.ClosedResourceError` at the end."""
        if self._closed:
            raise trio.ClosedResourceError
        self._profile = msgspec.structs.replace(self._profile, **changes)
        if not self._begun.is_set():
            self._answers = self._conn.subscribe(DONE, REFUSED, as_=Event, on_full="drop_oldest")
            self._begun.set()
        self._due.wake()

    def close(self) -> None:
        """Its tasks have ended."""
        self._closed = True
        if self._begun.is_set():
            self._answers.close()

    async def tell(self) -> None:
        """The task that tells, whenever there is need to."""
        try:
            while True:
                await self._due.wait()
                profile = msgspec.to_builtins(self._profile)
                self._told = (await self._conn.send(PROFILE, profile, key=PROFILE)).id
        except trio.ClosedResourceError:
            pass

    async def listen(self) -> None:
        """The task that finds out that there is need to."""
        await self._begun.wait()
        waits = pauses()
        async for item in self._answers:
            if isinstance(item, Reset):
                self._due.wake()
            elif isinstance(item, Message) and item.payload.re == self._told:
                answer = item.payload
                if answer.kind == "refused" and answer.code in FOR_NOW:
                    await trio.sleep(next(waits))
                    self._due.wake()
                    continue
                waits = pauses()
                if answer.kind == "refused":
                    _log.warning("the profile was refused: %s: %s", answer.code, answer.text)

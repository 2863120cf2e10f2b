"""Says what is queued in a room: in order, each message once, whatever is lost on the way.

**Goal.** A user's messages are in the room in the order in which they were said, each once,
over any number of cut links, lost sessions and hubs that were started anew; and each
handle, and the room's list of messages, tell the same about each of them at any time.

**What does not work.** To have several under way: of two that the hub refuses for now, or
whose answers are lost, the second one may be stored first.

**The rule.** One at a time. The next one leaves the queue when there is a link, in the same
step in which its state says so; it is published by its id until there is an answer. A
refusal is about that one message, and the next one is said. So one room takes one message
in a round trip from this client; that is fast enough for people, and for a program that is
not, several rooms do not wait for each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import trio

from ...errors import Refused, UsageError
from ...hub._broker import Position
from ...message import Reset
from ..models import ChatMessage, MessageState, RoomEvent, Spoken
from .log import RoomLog
from .said import Said

__all__ = ["FAILED", "PENDING", "Speaker"]

#: Messages that wait or are on their way, at most.
PENDING: Final = 1000
#: Failed messages that are kept to be shown and tried again; of more, the oldest go.
FAILED: Final = 1000


class Speaker:
    """That of one holder of a room.

    `publish` returns where the message is when it is stored, or raises `Refused`;
    `wait_online` returns when there is a link; `placed` is told of a message that was found
    to be in its place when its answer came.
    """

    def __init__(
        self,
        log: RoomLog,
        publish: Callable[[ChatMessage], Awaitable[Position]],
        wait_online: Callable[[], Awaitable[None]],
        placed: Callable[[ChatMessage], None],
    ) -> None:
        self._log: Final = log
        self._publish: Final = publish
        self._wait_online: Final = wait_online
        self._tell_placed: Final = placed
        self._slots: Final = trio.Semaphore(PENDING)
        self._slotted: Final[set[str]] = set()
        self._queue: Final[OrderedDict[str, Said]] = OrderedDict()
        self._speaking: Said | None = None
        # All that may still change, but for the failed.
        self._open: Final[dict[str, Said]] = {}
        self._failed: Final[OrderedDict[str, Said]] = OrderedDict()
        self._closed = False
        self._changed = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or on its way."""
        return self._speaking is None and not self._queue

    # Of the program

    async def wait_room(self) -> None:
        """Wait until there is room for one more, and take it: `queue` is to follow at once.

        Cancelled, it has taken nothing. Raises `trio.ClosedResourceError` at the end.
        """
        await self._slots.acquire()
        if self._closed:
            self._slots.release()  # to the next one who waits in vain
            raise trio.ClosedResourceError

    def queue(self, message: ChatMessage) -> Said:
        """Say it when its turn comes; its room is taken."""
        self._log.queue(message)
        self._slotted.add(message.id)
        said = self._open[message.id] = self._queue[message.id] = Said(message, self)
        self._notify()
        return said

    def withdraw(self, said: Said) -> bool:
        """As `Said.withdraw`."""
        if self._queue.pop(said.id, None) is None:
            return False
        self._withdrawn(said)
        self._notify()
        return True

    def retry(self, said: Said) -> bool:
        """As `Said.retry`."""
        if self._closed or said.id not in self._failed:
            return False
        message = self._log.moved(said.id, "queued")
        if message is None:
            return False
        del self._failed[said.id]
        said.moved(message)
        self._open[said.id] = self._queue[said.id] = said
        self._notify()
        return True

    def dismiss(self, said: Said) -> bool:
        """Show one that failed no more. False: it has not failed, or is gone already."""
        if self._failed.pop(said.id, None) is None:
            return False
        return self._log.dismiss(said.id)

    # Of the room

    async def run(self) -> None:
        """The task: ends with the connection."""
        try:
            while True:
                while not self._queue:
                    await self._changed.wait()
                await self._wait_online()
                if self._queue:  # not withdrawn meanwhile
                    _, said = self._queue.popitem(last=False)
                    await self._say(said)
        except trio.ClosedResourceError:
            self.close()

    async def wait_idle(self) -> None:
        """Wait until nothing is queued or on its way. Cancelling only stops the wait."""
        await trio.lowlevel.checkpoint()
        while not self.is_idle:
            await self._changed.wait()

    def heard(self, events: Iterable[RoomEvent]) -> None:
        """The log says that this has happened in the room."""
        for event in events:
            if isinstance(event, Spoken) and event.message.mine:
                self._placed(event.message)
            elif isinstance(event, Reset):
                self._strand()

    def close(self) -> None:
        """The room is left, or the connection over: what is queued is withdrawn. Idempotent."""
        self._closed = True
        while self._queue:
            _, said = self._queue.popitem(last=False)
            self._withdrawn(said)
        for said in (*self._open.values(), *self._failed.values()):
            self._release(said.id)
            said.end()
        self._open.clear()
        self._failed.clear()
        self._notify()

    # Within

    async def _say(self, said: Said) -> None:
        self._speaking = said
        try:
            self._move(said, "sent")
            position = await self._publish(said.message)
        except Refused as refusal:
            self._fail(said, refusal)
        except UsageError as error:  # larger than the connection sends
            self._fail(said, Refused("malformed", str(error)))
        else:
            self._move(said, "acked", offset=position.offset, epoch=position.epoch)
        finally:
            self._speaking = None
            self._notify()

    def _move(self, said: Said, state: MessageState, **known: Any) -> None:
        """The echo may be here before the answer: then there is nothing to move."""
        message = self._log.moved(said.id, state, **known)
        if message is None:
            return
        if message.state == "echoed":
            self._placed(message)
            self._tell_placed(message)
        else:
            said.moved(message)

    def _placed(self, message: ChatMessage) -> None:
        """One's own user has said this, here or elsewhere, and it is in its place."""
        said = self._open.pop(message.id, None)
        if said is not None:
            self._release(said.id)
            said.moved(message)

    def _strand(self) -> None:
        """The log began anew: what is acked in the old one is lost, and may be tried again."""
        for id in self._log.stranded:
            if id in self._open:
                self._fail(self._open[id], Refused("lost", "the room's log was lost with it"))

    def _fail(self, said: Said, refusal: Refused) -> None:
        if self._open.pop(said.id, None) is None:
            return
        self._release(said.id)
        message = self._log.moved(said.id, "failed", failure=refusal.text or refusal.code)
        if message is None:
            said.end()
            return
        said.moved(message, refusal)
        self._failed[said.id] = said
        if len(self._failed) > FAILED:
            self.dismiss(next(iter(self._failed.values())))

    def _withdrawn(self, said: Said) -> None:
        self._open.pop(said.id, None)
        self._release(said.id)
        refusal = Refused("withdrawn", "it was taken back")
        message = self._log.moved(said.id, "failed", failure=refusal.text)
        self._log.dismiss(said.id)
        if message is not None:
            said.moved(message, refusal)
        said.end()

    def _release(self, id: str) -> None:
        if id in self._slotted:
            self._slotted.remove(id)
            self._slots.release()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

"""What each end sent, and what became of it: facts, and no judgement of them."""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

import attrs
import trio

from trio_rt import Delivery, Gap, Message, Priority, Reset, Statistics
from trio_rt._subscription import Stream

__all__ = ["Books", "Link", "Load", "Sent", "Talker"]


class Talker(Protocol):
    """A `RawConnection` or a `RawPeer`."""

    async def send(self, data: str, *, priority: Priority) -> Delivery: ...
    def subscribe(self) -> Stream[Any]: ...
    def statistics(self) -> Statistics: ...


@attrs.frozen
class Load:
    """What one task sends: in its lane, a message of `size` bytes every `pause_s`."""

    priority: Priority
    size: int
    pause_s: float


@attrs.frozen
class Sent:
    """An accepted send."""

    label: str
    task: str
    at: float
    delivery: Delivery


@attrs.define
class Link:
    """One time that the client was CONNECTED."""

    opened_at: float
    lost_at: float = math.inf
    cause: Exception | None = None


@attrs.define(eq=False)
class Books:
    """One end: the client with all its links, or the server's peer of one."""

    name: str
    talker: Talker
    opened_at: float
    sent: list[Sent] = attrs.field(factory=list)
    #: The labels of the messages that came, in order.
    received: list[str] = attrs.field(factory=list)
    gaps: int = 0
    resets: int = 0
    #: When its stream ended.
    ended_at: float = math.inf

    async def talk(self, load: Load, number: int, stop: trio.Event) -> None:
        """Send until `stop`, or until nothing is taken any more."""
        task = f"{self.name}.{number}"
        count = 0
        try:
            while not stop.is_set():
                label = f"{task}.{count}"
                at = trio.current_time()
                text = f"{label} ".ljust(load.size, ".")
                delivery = await self.talker.send(text, priority=load.priority)
                self.sent.append(Sent(label, task, at, delivery))
                count += 1
                await trio.sleep(load.pause_s)
        except trio.ClosedResourceError:
            pass

    async def listen(self, stream: Stream[Any]) -> None:
        """Take whatever comes, to the end."""
        async for item in stream:
            match item:
                case Message(payload=payload):
                    self.received.append(str(payload).partition(" ")[0])
                case Gap(count=count):
                    self.gaps += count
                case Reset():
                    self.resets += 1
        self.ended_at = trio.current_time()

    @property
    def unsettled(self) -> int:
        """Accepted sends without an outcome."""
        books = self.talker.statistics()
        return books.accepted - sum(books.outcomes.values())


#: Something in every lane; 60 KB a second in all.
LIGHT: Final = (
    Load(Priority.CRITICAL, 50, 0.05),
    Load(Priority.HIGH, 100, 0.01),
    Load(Priority.NORMAL, 500, 0.01),
    Load(Priority.LOW, 100, 0.005),
)

#: The same, and so much that a link on which nothing moves is soon full.
HEAVY: Final = (*LIGHT, Load(Priority.LOW, 100_000, 0.02))

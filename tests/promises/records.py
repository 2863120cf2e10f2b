"""What is observed while a story runs: facts, and no judgement of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, Protocol

import attrs

from trio_rt import Delivery, Gap, Message, Outcome, Reset, State, Statistics
from trio_rt._subscription import Stream
from trio_rt.testing import LinkProfile, VirtualLink, VirtualNetwork

from .plans import Plan, Reading, Send

__all__ = ["Dial", "Jump", "LinkRecord", "Lost", "Reader", "Sent", "Side", "Story", "Talker"]


#: Over real sockets states are noted down so much too late, at most.
LATE_S: Final = 0.5


class Talker(Protocol):
    """A connection or a peer of any codec, as the story uses it."""

    async def send(self, *args: Any, **options: Any) -> Delivery: ...
    def send_nowait(self, *args: Any, **options: Any) -> Delivery: ...
    async def deliver(self, *args: Any, **options: Any) -> None: ...
    def subscribe(self, *types: str, **options: Any) -> Stream[Any]: ...
    def statistics(self) -> Statistics: ...


@attrs.define(eq=False, kw_only=True)
class Sent:
    """One call of a sending verb, and all that its caller learned of it."""

    send: Send
    #: Begins the payload: the side, the task, the number of the call in its task.
    label: str
    task: str
    payload: str | bytes
    began_at: float
    ended_at: float = math.inf
    #: The call was cancelled: nobody knows whether it was accepted.
    cancelled: bool = False
    #: What it raised, if it did.
    raised: str | None = None
    delivery: Delivery | None = None
    #: What `deliver` told.
    told: Outcome | None = None
    #: What `withdraw()` returned, and the outcome right before it.
    withdrawn: bool | None = None
    before_withdraw: Outcome | None = None

    @property
    def accepted(self) -> bool:
        """For certain."""
        return self.delivery is not None or self.told is not None

    @property
    def outcome(self) -> Outcome | None:
        return self.told if self.delivery is None else self.delivery.outcome


@attrs.define(eq=False, kw_only=True)
class Reader:
    """One stream, and what its consumer took from it."""

    plan: Reading
    stream: Stream[Any]
    items: list[Message[Any] | Gap | Reset] = attrs.field(factory=list)
    #: The largest list that it gave at once: messages, and of two or more their payloads' bytes.
    most: int = 0
    most_bytes: int = 0
    ended_by: str | None = None
    ended_at: float = math.inf


@attrs.define(eq=False, kw_only=True)
class Side:
    """One end: the client with all its links, or a peer of the server with its one."""

    name: str
    talker: Talker
    opened_at: float
    #: The dial that a peer belongs to.
    dial: int = 0
    sent: list[Sent] = attrs.field(factory=list)
    #: The first one is the tap.
    readers: list[Reader] = attrs.field(factory=list)
    #: Breaches that show only in passing.
    faults: list[str] = attrs.field(factory=list)
    over: bool = False
    final: Statistics | None = None
    #: A peer whose handler ended of itself.
    left_at: float = math.inf

    @property
    def tap(self) -> Reader:
        return self.readers[0]

    def received(self) -> Iterator[Message[Any]]:
        """All messages that arrived, in order."""
        return (item for item in self.tap.items if isinstance(item, Message))


@attrs.frozen(kw_only=True)
class Dial:
    number: int
    at: float


@attrs.define(eq=False, kw_only=True)
class LinkRecord:
    """One time that the client was CONNECTED."""

    dial: int
    opened_at: float
    lost_at: float = math.inf
    #: None: the client closed it.
    cause: BaseException | None = None
    #: Only in the virtual network.
    carrier: VirtualLink | None
    #: How its bytes travelled when it opened; it may have become faster.
    profile: LinkProfile = attrs.field(factory=LinkProfile)
    #: The client's sends without an outcome when it opened.
    unsettled: frozenset[str]
    received_before: int
    received_after: int = 0


@attrs.frozen(kw_only=True)
class Lost:
    """A state with the time of the next dial: a link or dial was lost."""

    at: float
    state: State
    #: The link that was lost; None if it was a dial.
    link: LinkRecord | None
    dial: Dial


@attrs.frozen(kw_only=True)
class Jump:
    """The clock jumped to `at` while bytes were on their way to the client."""

    at: float
    dial: int


@attrs.define(eq=False, kw_only=True)
class Story:
    plan: Plan
    #: None over real sockets.
    network: VirtualNetwork | None = None
    #: Set as soon as there is a connection.
    client: Side = attrs.field(init=False)
    peers: list[Side] = attrs.field(factory=list)
    dials: list[Dial] = attrs.field(factory=list)
    links: list[LinkRecord] = attrs.field(factory=list)
    losses: list[Lost] = attrs.field(factory=list)
    jumps: list[Jump] = attrs.field(factory=list)
    #: What the body raised, what left `connect()`, and when.
    raised: BaseException | None = None
    left: BaseException | None = None
    body_ended_at: float = math.inf
    left_at: float = math.inf
    #: When the scope around `connect()` was cancelled.
    cancelled_at: float = math.inf
    #: What is there and should not be, once all is over.
    debris: list[str] = attrs.field(factory=list)
    #: What the library logged as an error of its own.
    logged: list[str] = attrs.field(factory=list)
    #: When `Server.drain()` was called, and how long it took.
    drained_at: float = math.inf
    drain_s: float = 0.0
    trace_hash: str = ""
    #: What `greet` received, so that no stream got it.
    greeted: set[str] = attrs.field(factory=set)
    #: When the server was cancelled to begin anew.
    restarted_at: float = math.inf

    def peer_of(self, link: LinkRecord) -> Side | None:
        return next((peer for peer in self.peers if peer.dial == link.dial), None)

    def linked_within(self, start: float, end: float) -> bool:
        """Whether the client had a link at any moment from `start` to `end`."""
        late_s = 0.0 if self.network is not None else LATE_S
        return any(
            link.opened_at - late_s <= end and start <= link.lost_at + late_s for link in self.links
        )

"""Where rooms live: the interface between a hub and its store.

A room is a *log*, a *roster* and *marks*. The log gives each stored message the
next offset in the room's epoch; it is bounded, so that its beginning may be
gone. The epoch changes when the store has lost the log, or part of its end:
positions of the old one mean nothing then. The roster has who is present, by
user and device. A mark is how far a user has read.

A hub is one *node*; several may share a store. Each runs the broker's `run` beside its
peers, appends and posts, and hears by its `Sink` what happens in the rooms that it
watches, its own doings included. What a peer's command does never waits for the store;
where there is an answer it comes by a call, in order, so that a node needs no task for a
message on its way. What the sink is told of a room comes in the order of
its offsets. It may miss something (`lost`), but never without being told or without a
hole in the offsets.

Operations raise `BrokerError` when the store cannot be reached, or refuses: nothing is
known then about an append, which may be tried again with the same `key`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import attrs
import msgspec
import trio

from ..errors import BrokerError
from ..options import check_number

__all__ = [
    "EVERYBODY",
    "Broker",
    "BrokerError",
    "Draft",
    "Head",
    "Item",
    "LogLimits",
    "Page",
    "Position",
    "Present",
    "Sink",
    "Snapshot",
    "Way",
]


@attrs.frozen(order=False)
class Position:
    """A place in a room's log: the message at `offset`, from 1 on; 0 is before the first."""

    epoch: str
    offset: int


@attrs.frozen
class Head:
    """How far a log goes: its stored messages are `first` to `last`.

    `first` is `last + 1` where none is stored.
    """

    epoch: str
    first: int
    last: int


#: Everybody in the room.
EVERYBODY: Final = ""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message on its way into a room.

    `key` tells a repetition from a new message: an append with a key that the room has
    seen in the last `LogLimits.repeat_s` gives the position of the first. `body` is the
    message as JSON: an object, opaque to brokers. `only` is the user that it is for, or
    `EVERYBODY`; `but` is the device (of `Present`) that is to be spared, or "".
    """

    room: str
    key: str
    body: bytes
    only: str = EVERYBODY
    but: str = ""


class Item(msgspec.Struct, frozen=True, gc=False):
    """A message in a room: as its draft, with its place. Offset 0: passing, not stored."""

    room: str
    epoch: str
    offset: int
    body: bytes
    only: str = EVERYBODY
    but: str = ""


class Page(msgspec.Struct, frozen=True, gc=False):
    """A piece of a room's log: `items` in the order of their offsets, without holes."""

    head: Head
    items: Sequence[Item]


class Present(msgspec.Struct, frozen=True, gc=False):
    """A device of a user in a room. `device` names it among all devices of all nodes.

    `info` is what others may see of the user: JSON.
    """

    user: str
    device: str
    info: bytes = b"null"


@attrs.frozen
class Snapshot:
    """A room as it is: what `Broker.watch` begins with."""

    head: Head
    present: Sequence[Present]
    marks: Mapping[str, int]


class Sink(Protocol):
    """What a broker tells its hub. None of it waits; none of it raises."""

    def item(self, item: Item) -> None:
        """A message in a watched room, stored or passing."""

    def present(self, room: str, who: Present) -> None:
        """A device has entered, or has new `info`."""

    def absent(self, room: str, device: str, for_good: bool) -> None:
        """A device has left, or its node has died. It may not have been there.

        `for_good`: it has said so, and is not expected back.
        """

    def marked(self, room: str, user: str, offset: int) -> None:
        """A user has read up to `offset`."""

    def lost(self, room: str | None) -> None:
        """Something of `room` (None: of any) was missed: its snapshot is to be taken anew."""


@attrs.frozen(kw_only=True)
class LogLimits:
    """The bounds of each room's log; what is beyond them is gone, the oldest first."""

    messages: int = 1000
    total_bytes: int = 1 << 20
    #: Seconds after which a message is gone; a day.
    keep_s: float = 86_400.0
    #: Seconds in which a repeated `Draft.key` is known.
    repeat_s: float = 300.0

    def __attrs_post_init__(self) -> None:
        check_number("LogLimits.messages", self.messages, least=1, whole=True, finite=True)
        check_number("LogLimits.total_bytes", self.total_bytes, least=1, whole=True, finite=True)
        check_number("LogLimits.keep_s", self.keep_s, above=True)
        check_number("LogLimits.repeat_s", self.repeat_s, above=True, finite=True)


#: Which way to page.
Way = Literal["after", "before"]


class Broker(abc.ABC):
    """A store of rooms, as one node uses it. One object is for one hub at a time."""

    #: Whether the store could be reached when it was last asked.
    up: bool = True

    @abc.abstractmethod
    async def run(
        self, sink: Sink, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Tell `sink` what happens, until cancelled; mends its own connection by itself.

        Starts at once, whether the store can be reached or not; the other methods may be
        used from then on. Raises `OptionError` for a store that is somebody else's.
        Cancelled: this node's devices are gone from the rosters (at once or when they
        expire), and what is under way ends with a `BrokerError`.
        """

    @abc.abstractmethod
    def append(self, draft: Draft, done: Callable[[Position | BrokerError], None]) -> None:
        """Store a message, and tell the nodes that watch the room. Does not wait.

        Drafts are stored in the order of these calls. `done` is called once, perhaps at
        once, with the position, or with why it may not be stored; it does not raise. Where
        too much waits already it is a `BrokerError` at once, and not stored.
        """

    @abc.abstractmethod
    def post(self, draft: Draft) -> None:
        """Pass a message to the nodes that watch the room, and store nothing. Does not wait.

        In order with this node's appends. Where the store is needed for it and cannot be
        reached it is lost: raises `BrokerError` if that is known already.
        """

    @abc.abstractmethod
    async def page(self, room: str, way: Way, offset: int, *, limit: int, max_bytes: int) -> Page:
        """Up to `limit` stored messages next to `offset`, and not it: those after it, or before it.

        Of `max_bytes` in all, but one at least, if there is one. An offset out of the log
        is none's fault: what there is on that side is given. `Page.head` tells the epoch.
        """

    @abc.abstractmethod
    async def watch(self, room: str) -> Snapshot:
        """Begin to tell the sink of a room, and give it as it is.

        What happens behind the snapshot reaches the sink; some of what is in it may, too.
        Watching what is watched gives a new snapshot. The epoch of an empty room is that of its
        first message. Of many marks the farthest are given. Cancelled or failing: not watched, if
        it was not before.
        """

    @abc.abstractmethod
    def unwatch(self, room: str) -> None:
        """Tell no more of a room. Its devices of this node are to have left before."""

    @abc.abstractmethod
    def enter(self, room: str, who: Present) -> None:
        """A device of this node is in the room, or has new `info`. Does not wait.

        It stays so, over every trouble of the store, until `leave` or the end of `run`.
        """

    @abc.abstractmethod
    def leave(self, room: str, device: str, *, for_good: bool = False) -> None:
        """A device of this node is not in the room any more. Does not wait.

        `for_good`: as it wished. Who hears of it by a new snapshot does not hear that.
        """

    @abc.abstractmethod
    def mark(self, room: str, user: str, offset: int) -> None:
        """A user has read up to `offset`. Does not wait.

        A mark never goes back within an epoch; what is behind it is ignored, and what is
        beyond the end of the log.
        """

    def statistics(self) -> Mapping[str, Any]:
        """Numbers for the metrics, by name."""
        return {}

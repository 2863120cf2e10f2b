"""`open_hub()`: rooms for the peers of `serve()`.

    open_hub             one nursery
    ├─ rooms.run
    │  ├─ broker.run     the store: tells what happens in the rooms that are watched
    │  ├─ graces         users whose last device is gone, and whose grace is over, have left
    │  └─ look           takes a room's snapshot: at its first member, and after a loss
    └─ teller.run        tells members what gathered in their rooms
    serve()
    └─ a peer            its handler, `Hub.__call__`: reads its commands

A room is there on a node while it has members there. Its log, roster and marks are the
store's; here is what the node knows of them, in the order of the log's offsets. Where that
has a hole, the store has missed something or begun anew: then the room's snapshot is taken
again, and its members are told to look at what they missed.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias

import trio

from ..._ambient import ambient
from ..._peer import Peer
from ...errors import OptionError, Refused
from ...message import Message
from ...options import check_kind, check_number
from .._broker import Broker, BrokerError, Draft, Item, Page, Position
from .._names import check_name
from .._words import Event
from ..brokers.memory import MemoryBroker
from .commands import END, Commands
from .drafts import program_draft
from .extension import DialectOf, ExtensionOf, check_extension
from .guests import Guests
from .intake import Intake
from .room import Guest, Room
from .rooms import STORE_S, Rooms
from .rules import HubLimits, Rules, Who
from .statistics import HubStatistics
from .tell import Lagging, Teller
from .tongue import Tongues

__all__ = ["Dialect", "Extension", "Guest", "Hub", "HubStatistics", "Room", "open_hub"]

#: RFC 6455's registry: "service restart"; the peers of a hub that ends come back.
RESTART: Final = 1012

#: RFC 6455, 7.4.1: "policy violation"; of a peer that is nobody.
NOBODY: Final = 1008

#: Of so many publishes the time to the store's answer is kept.
SAMPLE: Final = 1024


class Hub:
    """Rooms. It is the handler of `serve()`: `await serve(hub, host, port)`."""

    def __init__(
        self,
        broker: Broker,
        rules: Rules,
        limits: HubLimits,
        lagging: Lagging,
        extension: ExtensionOf[Any] | None,
    ) -> None:
        self.broker = broker
        self.rules = rules
        self.limits = limits
        self.extension: Final = extension or ExtensionOf()
        self.teller = Teller(lagging, None if extension is None else self._hear)
        self.refusals: Counter[str] = Counter()
        self._rooms: Final = Rooms(broker, limits, self.teller.touched)
        self._tongues: Final = Tongues()
        self._commands: Final = Commands(self)
        self._intake: Final = Intake(self, self._commands, self._tongues, self.extension)
        self._guests: Final = Guests(broker, self.new_id)
        self._closed = False
        self._prefix: Final = f"{ambient().random.getrandbits(64):016x}-"
        self._ids = 0
        self._published = 0
        self._took_s: deque[float] = deque(maxlen=SAMPLE)

    # For peers

    async def __call__(self, peer: Peer) -> None:
        """Attend to a peer until it is gone: the handler for `serve()`."""
        try:
            who = await self.rules.who(peer)
        except Refused:
            peer.close(NOBODY)
            return
        check_kind("who", who, Who)
        if self._closed:
            peer.close(RESTART)
            return
        tongue = self._tongues.of(peer.codec)
        guest = Guest(peer, who, self.new_id(), self.limits, tongue)
        self._guests.add(guest)
        try:
            await self._attend(guest)
        finally:
            for room in list(guest.rooms.values()):
                self.leave(guest, room, for_good=False)
            self.teller.forget(guest)
            self._guests.remove(guest)

    async def _attend(self, guest: Guest) -> None:
        # As they come: what is malformed in a command is told to who gave it.
        with guest.peer._open_stream(self._intake.types, _as_it_is, None, "pause") as stream:
            async for item in stream:
                if isinstance(item, Message):
                    await self._intake.take(guest, item)
                else:
                    self._intake.missed(guest)

    async def enter(self, guest: Guest, name: str) -> Room:
        """Make `guest` a member. Raises `Refused` for a full room, and `BrokerError`."""
        async with self._rooms.open(name) as room:
            if room.size >= self.limits.members_per_room:
                raise Refused("full", "there is no room for one more")
            if guest.linked:
                self.broker.enter(name, guest.present)
            room.join(guest)
            guest.rooms[name] = room
        return room

    def leave(self, guest: Guest, room: Room, *, for_good: bool = True) -> None:
        """Make `guest` no member any more: for good unless it is only gone."""
        del guest.rooms[room.name]
        room.leave(guest)
        self._guests.absent(guest, room.name, for_good=for_good)
        self._rooms.release(room)

    def look(self, name: str) -> AbstractAsyncContextManager[Room]:
        """A room as it is, for who is no member. Raises `BrokerError`."""
        return self._rooms.open(name)

    async def page(
        self, room: str, after: int | None, before: int | None, limit: float = math.inf
    ) -> Page:
        """Of a room's log; with neither `after` nor `before` the last of it."""
        limits = self.limits
        most = int(min(limit, limits.page))
        with trio.move_on_after(STORE_S):
            if after is not None:
                return await self.broker.page(
                    room, "after", after, limit=most, max_bytes=limits.page_bytes
                )
            end = END if before is None else before
            return await self.broker.page(
                room, "before", end, limit=most, max_bytes=limits.page_bytes
            )
        raise BrokerError("the store does not answer")

    def append(self, draft: Draft, done: Callable[[Position | BrokerError], None]) -> None:
        """Store a message. `done` is called as `Broker.append` says."""
        began = trio.current_time()

        def noted(result: Position | BrokerError) -> None:
            self._took_s.append(trio.current_time() - began)
            done(result)

        self._published += 1
        self.broker.append(draft, noted)

    def new_id(self) -> str:
        """A name that nothing else has, on any node."""
        self._ids += 1
        return f"{self._prefix}{self._ids}"

    # For the program

    async def publish(
        self,
        room: str,
        payload: Any = None,
        *,
        type: str = "message",
        user: str = "hub",
        id: str | None = None,
        only: str | None = None,
        store: bool = True,
    ) -> Position | None:
        """Say something in a room, whether it has members or not.

        - `user`: who says it, as the members see it.
        - `id`: names it among those of `user`: the same one again is not said again, and
          gives the position of the first.
        - `only`: the one user it is for; it cannot be stored then.
        - `store`: whether it gets a place in the log. If not, None is returned.

        Returns when the store has it. Raises `OptionError`, `PayloadError`, and `BrokerError`
        if the store cannot be reached. Cancelled: it may be said or not.
        """
        draft = program_draft(
            room,
            payload,
            type=type,
            user=user,
            id=self.new_id() if id is None else id,
            only=only,
            store=store,
            limits=self.limits,
        )
        if not store:
            await trio.lowlevel.checkpoint()
            self.broker.post(draft)
            return None
        return await self._append(draft)

    async def history(
        self, room: str, *, after: int | None = None, before: int | None = None, limit: int = 100
    ) -> Page:
        """A page of a room's log: what comes `after` an offset, or `before`, or the last of it.

        It has at most `HubLimits.page` items. The `body` of each is JSON, with `id`, `user`,
        `device`, `type`, `payload` and `at`. Raises `OptionError`, and `BrokerError`.
        """
        check_name("room", room, self.limits.name_bytes)
        for name, offset in (("after", after), ("before", before), ("limit", limit)):
            if offset is not None:
                check_number(name, offset, whole=True, finite=True)
        if after is not None and before is not None:
            raise OptionError("after", "must not be there with before", after)
        return await self.page(room, after, before, limit)

    def users(self, room: str) -> list[str]:
        """Who is present in a room that has members on this node; else nobody is known."""
        found = self._rooms.get(room)
        return [] if found is None else list(found.roster.users())

    def remove(self, user: str, room: str, text: str = "") -> int:
        """Make `user` no member of `room`, with all devices on this node. How many there were.

        They may join again, unless the rules say no.
        """
        found = self._rooms.get(room)
        if found is None:
            return 0
        guests = found.members_of(user)
        for guest in guests:
            self.leave(guest, found)
            self.teller.answer(guest, found.type, Event("removed", code="removed", text=text))
        return len(guests)

    def devices(self, user: str) -> list[Guest]:
        """Those of a user on this node."""
        return self._guests.of(user)

    def describe(self, user: str, info: Any) -> int:
        """Let others see another `Who.info` of `user`, of all devices on this node: how many.

        It holds for as long as they are here; who comes later has what `Rules.who` gives.
        Raises `OptionError`, and `PayloadError` for what JSON cannot have.
        """
        check_name("user", user)
        return self._guests.describe(user, info)

    def identify(self, guest: Guest, who: Who) -> None:
        """Let a guest be somebody else from now on: what it says next is said by `who`.

        In its rooms the one that it was leaves, and the other one enters: whether that one may
        be there is the caller's to ask. Raises `OptionError`.
        """
        check_kind("who", who, Who)
        self._guests.identify(guest, who)

    async def perform(self, guest: Guest, command: Any, re: str = "") -> None:
        """Do one of the hub's own commands, as if `guest` had given it with the id `re`.

        Its room's name is not checked any more. Raises `Refused` and `BrokerError`: the
        guest is told what comes behind that, and the answer, if there is a `re`.
        """
        await self._commands.do(guest, re, command)

    def statistics(self) -> HubStatistics:
        """What it has done so far."""
        return HubStatistics(
            peers=len(self._guests),
            rooms=len(self._rooms),
            members=self._rooms.members,
            published=self._published,
            deliveries=self.teller.deliveries,
            refusals=dict(self.refusals),
            lagging=self.teller.lagging,
            lags=self.teller.lags,
            publish_s=tuple(self._took_s),
            broker_up=self.broker.up,
            broker=self.broker.statistics(),
        )

    # Within

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """The hub's own tasks, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._rooms.run)
            nursery.start_soon(self.teller.run)
            task_status.started()

    def close(self) -> None:
        """It ends: who is here is sent away, to come back elsewhere or later."""
        self._closed = True
        self._rooms.close()
        for guest in self._guests:
            guest.peer.close(RESTART)
            self.teller.forget(guest)

    def _hear(self, room: Room, item: Item) -> None:
        self.extension.heard(self, room, item)

    async def _append(self, draft: Draft) -> Position:
        answered = trio.Event()
        answers: list[Position | BrokerError] = []

        def done(result: Position | BrokerError) -> None:
            answers.append(result)
            answered.set()

        await trio.lowlevel.checkpoint_if_cancelled()
        self.append(draft, done)
        await answered.wait()
        if isinstance(answers[0], BrokerError):
            raise answers[0]
        return answers[0]


#: What a program derives from to add to a hub.
Extension: TypeAlias = ExtensionOf[Hub]
Dialect: TypeAlias = DialectOf[Hub]


@asynccontextmanager
async def open_hub(
    broker: Broker | None = None,
    *,
    rules: Rules | None = None,
    limits: HubLimits = HubLimits(),
    lagging: Lagging = "gap",
    extension: Extension | None = None,
) -> AsyncIterator[Hub]:
    """Rooms, for as long as the block lasts: `async with open_hub() as hub: await serve(hub, ...)`.

    - `broker`: where the rooms live; in this process's memory, unless told.
    - `rules`: who may do what; everybody everything, unless told.
    - `limits`: see `HubLimits`.
    - `lagging`: a peer whose outbox is full is told, when there is room again, of which rooms
      it missed something ("gap"), or is closed with 1013 ("close").
    - `extension`: commands of the program's own, and what else it adds.

    Leaving the block sends the peers that are still there away (1012); `serve()` is to end
    before it. Raises `OptionError` for a store that is somebody else's.
    """
    if broker is not None:
        check_kind("broker", broker, Broker)
    if rules is not None:
        check_kind("rules", rules, Rules)
    check_kind("limits", limits, HubLimits)
    if lagging not in ("gap", "close"):
        raise OptionError("lagging", 'must be "gap" or "close"', lagging)
    if extension is not None:
        check_kind("extension", extension, ExtensionOf)
        check_extension(extension)
    hub = Hub(broker or MemoryBroker(), rules or Rules(), limits, lagging, extension)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            try:
                yield hub
            except BaseException as caught:  # noqa: ASYNC103, raised at the end, in no group
                error = caught
            hub.close()
            nursery.cancel_scope.cancel()
    except BaseException as caught:  # noqa: ASYNC103, the same
        # A cancellation from around, or of the tasks: a store that cannot be, or a bug.
        if error is None or not _is_cancellation(caught):
            error = _alone(caught)
    if error is not None:
        raise error


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _alone(error: BaseException) -> BaseException:
    """What is in a group of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _as_it_is(payload: Any) -> Any:
    return payload

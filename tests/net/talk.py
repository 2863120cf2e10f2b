"""A client of ours that talks with an echo server, and whose books are checked at the end.

The load is steady and paces itself: some labels are on their way all the time,
and the next one leaves when an echo has come, or when a `Reset` tells that the
others may never. Nothing here looks at a clock: tests wait for what the talk
has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any, Final

import trio

import trio_rt
from trio_rt import Delivery, LinkError, Message, Phase, RawPeer, Reconnect, Reset, Server, State

from .support import LIMIT_S

__all__ = ["QUICK", "Echo", "Talk", "check_books", "serving", "talking"]

#: Labels that are not answered yet, at most.
WINDOW: Final = 32

#: Redials that do not keep a test waiting.
QUICK: Final = Reconnect(first_s=0.02, cap_s=0.1, min_uptime_s=60.0)


def check_books(books: trio_rt.Statistics) -> None:
    """Of a connection that is over: every accepted send has its outcome, and nothing was lost."""
    assert books.accepted == sum(books.outcomes.values())
    assert sum(books.queued.values()) == books.in_flight == books.waiting == 0
    assert books.lost == books.malformed == 0


class Talk:
    """What one client said, heard and went through. `talking()` makes one."""

    def __init__(self, conn: trio_rt.RawConnection, padding: int) -> None:
        self.conn = conn
        self.sent: dict[str, Delivery] = {}
        self.heard: list[str] = []
        #: Labels on their way, as far as known: those of lost links are not.
        self.unanswered: set[str] = set()
        self.resets = 0
        self.states: list[State] = []
        self._padding = padding
        self._changed = trio.Event()
        self._silent = False
        self.speaking = trio.CancelScope()
        self._stream = conn.subscribe()
        self._states = conn.watch_states()

    # What tests wait for

    async def wait(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()` holds, looking at it whenever something has happened."""
        while not condition():
            await self._changed.wait()

    async def more(self, count: int = 100) -> None:
        """Wait for so many echoes more."""
        heard = len(self.heard) + count
        await self.wait(lambda: len(self.heard) >= heard)

    async def wait_links(self, count: int) -> None:
        """Wait until the client has had so many links, and an echo over the last."""
        await self.wait(lambda: self.links >= count)
        await self.more(1)

    async def wait_cause(self, kind: type[LinkError]) -> None:
        """Wait until a link or a dial ends with such a cause, from now on."""
        seen = len(self.causes)
        await self.wait(lambda: any(isinstance(cause, kind) for cause in self.causes[seen:]))

    # What it has seen

    @property
    def links(self) -> int:
        return sum(state.phase is Phase.CONNECTED for state in self.states)

    @property
    def causes(self) -> list[LinkError]:
        """Why links and dials ended, in order."""
        return [
            state.cause
            for state in self.states
            if state.retry_at is not None and isinstance(state.cause, LinkError)
        ]

    def check(self) -> None:
        """The books balance, and nothing came twice, out of order or from nowhere."""
        books = self.conn.statistics()
        check_books(books)
        outcomes = Counter(delivery.outcome for delivery in self.sent.values())
        assert books.accepted == len(self.sent)
        assert dict(books.outcomes) == dict(outcomes)
        assert books.discarded == 0
        assert books.received == len(self.heard)
        assert self.resets == self.links - 1
        if self.links == 1:
            assert self.heard == list(self.sent)
        self.check_arrived(self.heard)

    def check_arrived(self, labels: list[str]) -> None:
        """Of these, none is double, out of order or withdrawn."""
        numbers = [int(label) for label in labels]
        assert all(one < next_ for one, next_ in pairwise(numbers))
        outcomes = [self.sent[label].outcome for label in labels]
        assert {str(outcome) for outcome in outcomes} <= {"written", "indeterminate"}

    # Its tasks

    async def listen(self) -> None:
        """Take what comes, to the end of the connection."""
        with self._stream:
            async for item in self._stream:
                match item:
                    case Message(payload=str(text)):
                        label = text.rstrip()
                        self.heard.append(label)
                        self.unanswered.discard(label)
                    case Reset():
                        self.resets += 1
                        self.unanswered.clear()
                    case _:
                        raise AssertionError(item)
                self._happened()

    async def watch(self) -> None:
        """Note the states, to the last one."""
        with self._states:
            async for state in self._states:
                self.states.append(state)
                self._happened()

    async def speak(self) -> None:
        """Send label after label, until `fall_silent()`."""
        with self.speaking:
            while True:
                await self.wait(lambda: self._silent or len(self.unanswered) < WINDOW)
                if self._silent:
                    return
                label = str(len(self.sent))
                self.unanswered.add(label)
                self.sent[label] = await self.conn.send(label.ljust(self._padding))

    async def fall_silent(self) -> None:
        """Say nothing more, and wait until all that was said on the last link has come back."""
        self._silent = True
        self._happened()
        await self.wait(lambda: not self.unanswered)

    def _happened(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def talking(
    url: str, *, speaks: bool = True, padding: int = 0, **options: Any
) -> AsyncIterator[Talk]:
    """Connect, and talk until the end of the block; then the books are checked.

    `padding`: what each message is made long with, in characters.
    """
    options.setdefault("reconnect", QUICK)
    with trio.fail_after(LIMIT_S):
        connecting = trio_rt.connect(url, codec="raw", **options)
        async with trio.open_nursery() as nursery, connecting as conn:
            talk = Talk(conn, padding)
            nursery.start_soon(talk.listen)
            nursery.start_soon(talk.watch)
            if speaks:
                nursery.start_soon(talk.speak)
            try:
                yield talk
                await talk.fall_silent()
            finally:
                talk.speaking.cancel()
    talk.check()


class Echo:
    """A handler that echoes, and notes what it received on each link."""

    def __init__(self) -> None:
        self.links: list[list[Any]] = []
        self._ended = 0
        self._changed = trio.Event()

    async def __call__(self, peer: RawPeer) -> None:
        received: list[Any] = []
        self.links.append(received)
        try:
            with peer.subscribe() as stream:
                async for item in stream:
                    assert isinstance(item, Message)
                    received.append(item.payload)
                    await peer.send(item.payload)
        finally:
            self._ended += 1
            self._changed.set()
            self._changed = trio.Event()

    async def wait_ended(self, count: int) -> None:
        """Wait until so many links have ended."""
        while self._ended < count:
            await self._changed.wait()

    def check(self, talk: Talk) -> None:
        """Nothing of the talk came twice, out of order or from nowhere."""
        for received in self.links:
            talk.check_arrived(received)
        received = [label for link in self.links for label in link]
        assert len(received) == len(set(received))
        assert set(talk.heard) <= set(received)


@asynccontextmanager
async def serving(handler: Any, **options: Any) -> AsyncIterator[Server]:
    """A server of ours, to the end of the block."""
    options.setdefault("codec", "raw")
    start = partial(trio_rt.serve, handler, "127.0.0.1", 0, **options)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(start)
        nursery.cancel_scope.cancel()

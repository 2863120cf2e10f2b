"""What a story cannot see from outside: arrivals, commits, and the lives of sessions.

It looks on from within the library's own calls, changes nothing, and has no
opinion: `checks` compares what it saw with what the plan allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final
from unittest.mock import patch

import attrs
import trio

from trio_rt import LinkError, Message, Reset
from trio_rt._tasks import Link
from trio_rt.protocol.frames import Position, Terms
from trio_rt.protocol.inbox import Inbox
from trio_rt.protocol.lanes import Entry
from trio_rt.protocol.outgoing import Note, Outgoing
from trio_rt.protocol.session import Session

__all__ = ["Begun", "Books", "Life", "Spy"]


@attrs.define(eq=False, kw_only=True)
class Begun:
    """One session, as one side began it."""

    id: str
    at: float


@attrs.define(eq=False, kw_only=True)
class Books:
    """One side's sending in one session: the most that there ever was of each."""

    begun: Begun
    in_window: int = 0
    #: Bytes of two or more messages.
    window_bytes: int = 0
    unreceived: int = 0
    #: The same, voids and other notes excepted.
    unreceived_bytes: int = 0


@attrs.define(eq=False, kw_only=True)
class Life:
    """What one `Session` object went through."""

    begun: list[Begun] = attrs.field(factory=list)
    #: What came in, in order: messages with their payloads as they came, and resets.
    items: list[Message[Any] | Reset] = attrs.field(factory=list)
    #: Links: when each was up and down.
    ups: list[float] = attrs.field(factory=list)
    downs: list[float] = attrs.field(factory=list)
    #: The most messages in one of its streams at once, and bytes of two or more.
    most: int = 0
    most_bytes: int = 0
    ended_at: float = math.inf
    ended: trio.Event = attrs.field(factory=trio.Event)
    #: Links that were up at the same time.
    overlaps: int = 0


class Spy:
    def __init__(self) -> None:
        self._lives: Final[dict[Session, Life]] = {}
        self._of_inbox: Final[dict[Inbox, Life]] = {}
        self.books: Final[dict[Outgoing, Books]] = {}
        #: In which session a send was committed last.
        self.committed: Final[dict[Entry, Begun]] = {}
        #: Given up, and found out at a resume not to have arrived.
        self.stale: Final[set[Entry]] = set()
        self.causes: Final[list[LinkError]] = []

    def life(self, session: Session) -> Life:
        if session not in self._lives:
            self._lives[session] = self._of_inbox[session.inbox] = Life()
        return self._lives[session]

    def begun_at(self, id: str) -> float:
        """When the first of the two sides began this session."""
        lives = self._lives.values()
        return min(begun.at for life in lives for begun in life.begun if begun.id == id)

    @contextmanager
    def watching(self) -> Iterator[None]:
        with (
            _before(Link, "fail", self._fail),
            _before(Session, "link_up", self._up),
            _after(Session, "link_down", self._down),
            _after(Session, "_begin", self._begin),
            _after(Session, "end", self._end),
            _after(Inbox, "receive", self._receive),
            _after(Inbox, "reset", self._reset),
            _after(Outgoing, "commit", self._commit),
            _after(Outgoing, "commit_all", self._commit_all),
            _after(Outgoing, "roll_back", self._roll_back),
            _after(Outgoing, "resume", self._resume),
        ):
            yield

    def _fail(self, link: Link, cause: LinkError) -> None:
        self.causes.append(cause)

    def _begin(self, _: None, session: Session, id: str, own: Terms, *rest: object) -> None:
        assert session.numbered is not None
        begun = Begun(id=id, at=trio.current_time())
        self.life(session).begun.append(begun)
        self.books[session.numbered.out] = Books(begun=begun)

    def _up(self, session: Session, now: float, written: int) -> None:
        life = self.life(session)
        life.overlaps += len(life.ups) != len(life.downs)
        life.ups.append(now)

    def _down(self, _: None, session: Session, now: float) -> None:
        life = self.life(session)
        if len(life.downs) < len(life.ups):  # it may end before it was ever up
            life.downs.append(now)

    def _end(self, _: None, session: Session) -> None:
        life = self.life(session)
        life.ended_at = min(life.ended_at, trio.current_time())
        life.ended.set()

    def _receive(self, done: bool, inbox: Inbox, message: Message[Any], *rest: object) -> None:
        life = self._of_inbox.get(inbox)
        if life is None or not done:
            return
        life.items.append(message)
        queues = [*inbox._queues, *([] if inbox._hold is None else [inbox._hold])]
        for queue in queues:
            life.most = max(life.most, queue.messages)
            if queue.messages > 1:
                life.most_bytes = max(life.most_bytes, queue.total_bytes)

    def _reset(self, _: None, inbox: Inbox, mark: Reset) -> None:
        self._of_inbox[inbox].items.append(mark)

    def _commit(self, _: None, out: Outgoing, entry: Entry) -> None:
        books = self.books[out]
        if type(entry) is not Note:
            self.committed[entry] = books.begun
        messages, size = out.in_window
        books.in_window = max(books.in_window, messages)
        if messages > 1:
            books.window_bytes = max(books.window_bytes, size)
        books.unreceived = max(books.unreceived, out.unreceived)
        kept = [len(each.data) for each in out._unreceived if type(each) is not Note]
        if len(kept) > 1:
            books.unreceived_bytes = max(books.unreceived_bytes, sum(kept))

    def _commit_all(self, _: None, out: Outgoing, entries: Sequence[Entry], size: int) -> None:
        for entry in entries:
            self._commit(None, out, entry)

    def _roll_back(self, done: bool, _: Outgoing, entry: Entry) -> None:
        if done:
            del self.committed[entry]

    def _resume(self, _: None, out: Outgoing, position: Position) -> None:
        now = trio.current_time()
        for entry in out._unreceived:
            if entry.unwanted is not None or entry.expires_at <= now:
                self.stale.add(entry)


@contextmanager
def _before(owner: type, name: str, tell: Callable[..., None]) -> Iterator[None]:
    method = getattr(owner, name)

    @wraps(method)
    def told(*args: Any, **options: Any) -> Any:
        tell(*args)
        return method(*args, **options)

    with patch.object(owner, name, told):
        yield


@contextmanager
def _after(owner: type, name: str, tell: Callable[..., None]) -> Iterator[None]:
    """`tell` gets what the method returned, and its arguments by position."""
    method = getattr(owner, name)

    @wraps(method)
    def told(*args: Any, **options: Any) -> Any:
        result = method(*args, **options)
        tell(result, *args)
        return result

    with patch.object(owner, name, told):
        yield

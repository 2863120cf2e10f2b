"""The uploads that are not finished: whose they are, how far, and how many may be.

**Goal.** An upload can be gone on with for a day, and nobody fills the disk by beginning
many: neither one user, nor all together.

**What does not work.** To refuse whoever comes last. An answer that is lost on its way
leaves an upload that its client knows nothing of; some of these, and an honest user is shut
out until they expire. To drop the oldest whatever it does: two clients that go on with
more than there is room for would take turns in losing all.

**The rule.** Room is reserved for the whole length at the beginning. Where there is none,
an upload that has been quiet for `QUIET_S` goes: of the user, if it is the user's own
bound, else of whoever has most. If none is quiet, the new one is refused.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from ...errors import Refuse

__all__ = ["FINISHED", "QUIET_S", "Known", "Stored", "Upload", "Uploads"]

#: An upload without a byte for so long is worth less than a new one.
QUIET_S: Final = 60.0
#: Finished uploads that are remembered, for a client that has not heard of it.
FINISHED: Final = 1000
#: The advice to who is refused.
_RETRY: Final = {"Retry-After": "30"}


@attrs.frozen
class Known:
    """The bytes of a file, or of what is to be one."""

    sha256: str
    size: int
    #: How it begins.
    head: bytes


@attrs.frozen(kw_only=True)
class Stored:
    """A file that is kept."""

    sha256: str
    size: int
    name: str
    type: str


@attrs.define(kw_only=True, eq=False)
class Upload:
    """One upload. At most one request writes to it at a time."""

    id: str
    user: str
    name: str
    type: str
    #: None as long as the client does not know it.
    length: int | None
    #: Where the next byte goes.
    offset: int = 0
    #: When the last byte came, in seconds since the epoch.
    touched_at: float = 0.0
    #: What it has when all of it is there. A large one is not read twice.
    known: Known | None = None
    #: What has become of it.
    stored: Stored | None = None
    gone: bool = False
    _scope: trio.CancelScope | None = None
    _free: trio.Event | None = None

    @property
    def busy(self) -> bool:
        return self._free is not None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the one request that writes. Raises `Refuse` (423, or 404) if one cannot be."""
        if self.gone:
            raise Refuse(404, "no such upload")
        if self._free is not None:
            raise Refuse(423, "another request writes to this upload", headers={"Retry-After": "1"})
        self._free = free = trio.Event()
        try:
            yield
        finally:
            self._free = None
            free.set()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within it the request waits for its client. Raises `Refuse` (409) if interrupted."""
        with trio.CancelScope() as scope:
            self._scope = scope
            try:
                yield
            finally:
                self._scope = None
        if scope.cancelled_caught:
            raise Refuse(409, "another request has taken the upload up")

    async def interrupt(self) -> None:
        """End the request that waits for bytes, if there is one; returns when nobody writes."""
        await trio.lowlevel.checkpoint()
        while self._free is not None:
            if self._scope is not None:
                self._scope.cancel()
            await self._free.wait()


class Uploads:
    """All of them. Decides and remembers; what is dropped is to be deleted by the caller."""

    def __init__(self, *, most: float, per_user: float, most_bytes: int, keep_s: float) -> None:
        self._most = most
        self._per_user = per_user
        #: Of an upload whose length is not known yet.
        self._most_bytes = most_bytes
        self._keep_s = keep_s
        self._open: dict[str, Upload] = {}
        self._finished: OrderedDict[str, Upload] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def reserved_bytes(self) -> int:
        return self._reserved(self._open.values())

    def get(self, id: str, user: str) -> Upload | None:
        """The user's upload of that id, finished or not."""
        found = self._open.get(id) or self._finished.get(id)
        return found if found is not None and found.user == user else None

    def add(self, upload: Upload) -> None:
        self._open[upload.id] = upload

    def finish(self, upload: Upload, stored: Stored) -> None:
        """It is a file now."""
        upload.stored = stored
        self._open.pop(upload.id, None)
        self._finished[upload.id] = upload
        while len(self._finished) > FINISHED:
            self._finished.popitem(last=False)

    def drop(self, upload: Upload) -> None:
        """Nobody will go on with it."""
        upload.gone = True
        self._open.pop(upload.id, None)
        self._finished.pop(upload.id, None)

    def expires_at(self, upload: Upload) -> float:
        return upload.touched_at + self._keep_s

    def expired(self, now: float) -> list[Upload]:
        """Those that are over and nobody writes to; they are dropped."""
        every = [*self._open.values(), *self._finished.values()]
        over = [each for each in every if not each.busy and self.expires_at(each) <= now]
        for upload in over:
            self.drop(upload)
        return [upload for upload in over if upload.stored is None]

    def make_room(
        self, user: str, length: int | None, left_bytes: float, now: float
    ) -> list[Upload]:
        """Have room for one more of this length, of `left_bytes` for all: what was dropped for it.

        Raises `Refuse` (429, 503, 507), and drops nothing then.
        """
        kept, victims = dict(self._open), list[Upload]()
        while (refusal := self._refusal(user, length, left_bytes, kept)) is not None:
            own = refusal.status == 429
            victim = self._quietest([u for u in kept.values() if not own or u.user == user], now)
            if victim is None:
                raise refusal
            victims.append(kept.pop(victim.id))
        for victim in victims:
            self.drop(victim)
        return victims

    def _refusal(
        self, user: str, length: int | None, left_bytes: float, kept: dict[str, Upload]
    ) -> Refuse | None:
        if sum(upload.user == user for upload in kept.values()) >= self._per_user:
            return Refuse(429, "too many unfinished uploads of this user", headers=_RETRY)
        if len(kept) >= self._most:
            return Refuse(503, "too many unfinished uploads", headers=_RETRY)
        if self._held(length) + self._reserved(kept.values()) > left_bytes:
            return Refuse(507, "no room for the file")
        return None

    def _quietest(self, uploads: list[Upload], now: float) -> Upload | None:
        counts = Counter(upload.user for upload in uploads)
        quiet = [u for u in uploads if not u.busy and u.touched_at + QUIET_S <= now]
        return min(quiet, key=lambda u: (-counts[u.user], u.touched_at), default=None)

    def _reserved(self, uploads: Iterable[Upload]) -> int:
        return sum(self._held(upload.length) for upload in uploads)

    def _held(self, length: int | None) -> int:
        return self._most_bytes if length is None else length

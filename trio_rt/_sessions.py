"""The sessions that a server keeps: which client may take up which, and for how long.

A session is found by its id and opened by its token, which only its client was
told, and which changes with every resume. It is bound to the identity that the
accept hook gave: the hook is asked anew on each link, so a client that lost its
right is refused before it comes here, and one that is somebody else finds nothing.
Whoever cannot resume gets a session of their own, whatever the reason; so nothing
is learned from trying, and nobody's session is disturbed.

While a welcome is on its way nobody knows whether its token has arrived. So the
token before holds too, until something comes in on the link of the new one.
"""

from __future__ import annotations

import hmac
import logging
import math
from collections import Counter
from typing import Final

import attrs
import trio

from ._ambient import ambient
from ._peer import Served
from ._waker import Waker
from .options import SessionLimits
from .protocol.frames import Hello

__all__ = ["Sessions"]

logger: Final = logging.getLogger("trio_rt.server")

#: Guessing is out of the question: as many as of an AES key.
_BITS_OF_TOKEN: Final = 256
_BITS_OF_ID: Final = 128


@attrs.define(eq=False)
class _Kept:
    """A session with what opens it."""

    id: str
    peer: Served
    #: Whose it is: the identity, or where there is none the address.
    owner: str
    token: str = attrs.field(default="", repr=False)
    before: str = attrs.field(default="", repr=False)
    #: How many messages had come in when `token` was told.
    told_at: int = 0
    #: When it ends, while it has no link.
    until: float = 0.0

    def opens(self, token: str) -> bool:
        """Whether `token` is the one told last, or before that and it may not have arrived."""
        told = hmac.compare_digest(token.encode(), self.token.encode())
        held = hmac.compare_digest(token.encode(), self.before.encode())
        return told or (held and self.peer.received == self.told_at)


class Sessions:
    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._by_id: dict[str, _Kept] = {}
        # Those without a link, the one first that ends first.
        self._waiting: dict[str, _Kept] = {}
        self._work = Waker()

    def find(self, hello: Hello, identity: object) -> Served | None:
        """Whose session `hello` may resume; None where there is none."""
        kept = self._by_id.get(hello.session)
        if kept is None or not hello.token or not kept.opens(hello.token):
            return None
        if not kept.peer.is_resumable:
            return None
        if not _is_same(kept.peer.identity, identity):
            logger.info("a resume by somebody else, who gets a new session")
            return None
        return kept.peer

    def tell(self, peer: Served, hello: Hello) -> tuple[str, str]:
        """The id, and the token that resumes `peer` the next time."""
        random = ambient().random
        kept = self._by_id.get(hello.session)
        if kept is None or kept.peer is not peer:
            id = f"{random.getrandbits(_BITS_OF_ID):032x}"
            kept = _Kept(id, peer, _owner(peer))
            self._by_id[kept.id] = kept
        else:
            kept.before = hello.token
        kept.token = f"{random.getrandbits(_BITS_OF_TOKEN):064x}"
        kept.told_at = peer.received
        self._waiting.pop(kept.id, None)
        peer.session_id = kept.id
        return kept.id, kept.token

    def keep(self, peer: Served) -> None:
        """The link of `peer` is gone; it may come back."""
        kept = self._by_id.get(peer.session_id)
        if kept is None:
            return
        kept.until = trio.current_time() + self._limits.keep_s
        self._waiting[kept.id] = kept
        self._work.wake()
        if len(self._waiting) > self._limits.kept:
            self._end(self._one_too_many())

    def _one_too_many(self) -> _Kept:
        """The oldest of whoever has the most: nobody's are pushed out by another's many."""
        owners = Counter(kept.owner for kept in self._waiting.values())
        most = max(owners.values())
        return next(kept for kept in self._waiting.values() if owners[kept.owner] == most)

    def forget(self, peer: Served) -> None:
        """`peer` is gone for good."""
        self._by_id.pop(peer.session_id, None)
        self._waiting.pop(peer.session_id, None)

    async def run(self) -> None:
        """The task that ends what was kept long enough."""
        while True:
            first = next(iter(self._waiting.values()), None)
            await self._work.wait(math.inf if first is None else first.until)
            now = trio.current_time()
            for kept in [kept for kept in self._waiting.values() if kept.until <= now]:
                self._end(kept)

    def _end(self, kept: _Kept) -> None:
        kept.peer.end()
        self.forget(kept.peer)


def _owner(peer: Served) -> str:
    try:
        return repr(peer.handshake.remote if peer.identity is None else peer.identity)
    except Exception:  # a repr of the program's own
        logger.exception("the identity of %s cannot be shown", peer.handshake.remote)
        return repr(peer.handshake.remote)


def _is_same(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # an equality of the program's own
        logger.exception("two identities cannot be compared")
        return False

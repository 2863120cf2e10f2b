"""`open_chat_service()`: a chat's server, as a hub with rules, moderation and profiles.

open_chat_service
├─ open_hub          the rooms, by `ChatRules`
└─ moderator.run     looks for banned users who are still there
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final, get_args

import attrs
import trio

from ..._accept import AcceptHook
from ..._peer import Peer
from ...errors import OptionError, Refused
from ...hub._broker import Broker, Item
from ...hub._names import is_name
from ...hub._server.extension import Shapes
from ...hub._server.hub import Extension, Guest, Hub, HubStatistics, Room, open_hub
from ...hub._server.rules import HubLimits
from ...hub._server.site import allow_origins
from ...hub._server.tell import Lagging
from ...options import check_kind
from .._words import MODERATE, PROFILE, Action, Moderate, Moderation, Profile, Role
from .claims import MayClaim
from .moderation import Moderator
from .plain import PlainDialect
from .rules import ChatRules, Throttle
from .standing import MemoryStandings, Standings
from .tokens import GUEST, SERVICE, accept_tokens, is_avatar, seen

__all__ = ["ChatService", "ChatStatistics", "open_chat_service"]

#: Changes of a user's profile, each of which everybody is told: in the mean, and at once.
PROFILES_PER_S: Final = 0.5
PROFILES_BURST: Final = 10


@attrs.frozen(kw_only=True)
class ChatStatistics:
    """A snapshot of what a chat's service has done, on this node."""

    hub: HubStatistics
    #: Decisions about users, by action.
    decisions: Mapping[str, int]
    #: Changes of profiles.
    profiles: int


class ChatExtension(Extension):
    """What the chat adds to its hub."""

    commands: ClassVar[Shapes] = {MODERATE: Moderate, PROFILE: Profile}

    def __init__(self, rules: ChatRules, may_claim: MayClaim | None) -> None:
        self.dialects = (PlainDialect(may_claim=may_claim),)
        self.moderator: Final = Moderator(rules)
        self.profiles = 0
        self._rules: Final = rules
        self._pace: Final = Throttle(PROFILES_PER_S, PROFILES_BURST)

    async def take(self, hub: Hub, guest: Guest, command: Any) -> Any:
        if isinstance(command, Moderate):
            return await self._moderate(guest, command)
        await trio.lowlevel.checkpoint()
        return self._describe(hub, guest, command)

    def heard(self, hub: Hub, room: Room, item: Item) -> None:
        self._rules.targets.heard(item)
        self.moderator.heard(room.name, item)

    async def _moderate(self, guest: Guest, order: Moderate) -> Moderation:
        who, rules = guest.who, self._rules
        standing = await rules.standing(who, order.room)
        if standing.role != "owner" or standing.banned_until is not None:
            raise Refused("forbidden", "only owners of the room do that")
        if rules.is_above(order.user, order.room):
            raise Refused("forbidden", "that user stands above what owners decide")
        if order.user.startswith(GUEST) and (order.action, order.role) == ("role", "owner"):
            raise Refused("forbidden", "a guest cannot be an owner")
        try:
            return await self.moderator.decide(order, who.user)
        except OptionError as error:
            raise Refused("malformed", f"payload.{error.field} {error.rule}") from error

    def _describe(self, hub: Hub, guest: Guest, change: Profile) -> Any:
        user, info = guest.who.user, seen(guest.who.info)
        if change.name and not is_name(change.name):
            raise Refused("malformed", "payload.name must be as the name of a user")
        if change.avatar and not is_avatar(change.avatar):
            raise Refused("malformed", "payload.avatar must be printable, of at most 512 bytes")
        given = {"name": change.name, "status": change.status, "avatar": change.avatar}
        info.update((field, value) for field, value in given.items() if value)
        if info != guest.who.info:
            self._pace.take(user)
            hub.describe(user, info)
            self.profiles += 1
        return info


class ChatService:
    """A chat's server: made by `open_chat_service()`. It is a handler for `serve()`:

    await serve(service, host, port, accept=service.accept)
    """

    def __init__(self, hub: Hub, extension: ChatExtension, accept: AcceptHook | None) -> None:
        #: Its rooms, for all that is no chat.
        self.hub: Final = hub
        self._extension: Final = extension
        self._accept: Final = accept

    async def __call__(self, peer: Peer) -> None:
        """Attend to a peer until it is gone."""
        await self.hub(peer)

    @property
    def accept(self) -> AcceptHook:
        """For `serve()`: by tokens, and for pages of this server and of `origins` only.

        `OptionError` where there is neither a `secret` nor `anonymous`: then the program has
        a hook of its own, which returns `hub.Who`s.
        """
        if self._accept is None:
            raise OptionError("secret", "must be there, or anonymous=True", None)
        return self._accept

    async def moderate(
        self, room: str, action: Action, user: str, *, for_s: float = 0.0, role: Role = "member"
    ) -> Moderation:
        """Decide about a user in a room, as the program: there or not, used or not.

        - `for_s`: seconds of a mute or a ban; 0 for ever.
        - `role`: what `user` is from now on, with the action "role".

        Returns what everybody in the room is told. Raises `OptionError`, and `BrokerError`
        if a store cannot be reached: it may hold then, and is to be done again. Cancelled:
        likewise.
        """
        for field, value, known in (("action", action, Action), ("role", role, Role)):
            if value not in get_args(known):
                raise OptionError(field, f"must be one of {get_args(known)}", value)
        order = Moderate(room, action, user, for_s, role)
        return await self._extension.moderator.decide(order, SERVICE)

    def statistics(self) -> ChatStatistics:
        """What it has done so far."""
        return ChatStatistics(
            hub=self.hub.statistics(),
            decisions=dict(self._extension.moderator.decisions),
            profiles=self._extension.profiles,
        )


@asynccontextmanager
async def open_chat_service(
    broker: Broker | None = None,
    *,
    secret: str | bytes | None = None,
    anonymous: bool = False,
    origins: Collection[str] = (),
    may_claim: MayClaim | None = None,
    standings: Standings | None = None,
    owners: Mapping[str, Collection[str]] | None = None,
    rules: Callable[[Standings, Mapping[str, Collection[str]] | None], ChatRules] = ChatRules,
    limits: HubLimits = HubLimits(),
    lagging: Lagging = "gap",
) -> AsyncIterator[ChatService]:
    """A chat's server, for as long as the block lasts.

    - `broker`: where the rooms live; in this process's memory, unless told.
    - `secret`: what `sign_token()` signs with, at least 32 random bytes, the same on all nodes.
    - `anonymous`: whether who shows no token may be a member, under a name of the hub's.
    - `may_claim`: whether a plain client without a token may be the user that it says it is, and
      that nobody else is. Nothing proves it: such a user has a member's rights at most.
      Unless told: where `anonymous`, and no token is ever signed.
    - `origins`: whose pages may use it, besides this server's own: see `hub.allow_origins`.
    - `standings`: where roles, mutes and bans are kept; in memory, unless told.
    - `owners`: of rooms, by their names: what is decided about users does not hold for them.
    - `rules`: `ChatRules`, or one's own class that is derived from it, to decide more.
    - `limits`, `lagging`: see `hub.open_hub`.

    Raises `OptionError`, and ImportError for a `secret` without the extra `chat`. Leaving the
    block sends the peers that are still there away (1012); `serve()` is to end before it.
    """
    kept = MemoryStandings() if standings is None else standings
    check_kind("standings", kept, Standings)
    made = rules(kept, owners)
    check_kind("rules", made, ChatRules)
    if may_claim is None and anonymous and secret is None:
        may_claim = _anybody
    extension = ChatExtension(made, may_claim)
    accept = None
    if secret is not None or anonymous:
        accept = allow_origins(*origins, then=accept_tokens(secret, anonymous=anonymous))
    await kept.open()
    error: BaseException | None = None
    try:
        async with (
            open_hub(
                broker, rules=made, limits=limits, lagging=lagging, extension=extension
            ) as made.hub,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(extension.moderator.run)  # noqa: ASYNC113, it begins with a sleep
            try:
                yield ChatService(made.hub, extension, accept)
            except BaseException as caught:  # noqa: ASYNC103, raised at the end, in no group
                error = caught
            nursery.cancel_scope.cancel()
    finally:
        await kept.aclose()
    if error is not None:
        raise error


async def _anybody(user: str) -> bool:
    await trio.lowlevel.checkpoint()
    return True

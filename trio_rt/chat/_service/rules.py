"""Who may say what in a chat's rooms, and what can be said at all.

What a client sends may be anything: each payload is checked here as if no client had. Who
is banned from a room is told what everybody is told of rooms that there are not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import trio

from ..._peer import Peer
from ...errors import DecodeError, PayloadError, Refused
from ...hub._names import check_name
from ...hub._server.commands import END
from ...hub._server.hub import Hub
from ...hub._server.rules import Rules, Who
from ...hub._words import Publish
from ...protocol.payloads import Reader, reader
from ...protocol.rate import Rate
from .._words import (
    MODERATION,
    SHAPES,
    Delete,
    Edit,
    React,
    SaidBody,
    Typing,
    check_content,
    check_metadata,
    check_reaction,
)
from .standing import Standing, Standings, now_ms, until_text
from .targets import Targets
from .tokens import GUEST, SERVICE, ChatWho, seen

__all__ = ["ChatRules", "Throttle"]

#: What is said of typing, by a user in a room: in the mean, and at once.
TYPING_PER_S: Final = 2.0
TYPING_BURST: Final = 4
#: Users of whom the pace is known.
PACES: Final = 10_000

_READERS: Final[Mapping[str, Reader]] = {
    kind: reader(False, shape) for kind, shape in SHAPES.items()
}
_NO_ROOM: Final = ("no_room", "there is no such room, or it is not for you")
_NO_MESSAGE: Final = ("no_message", "there is no such message, or it is deleted")


class Throttle:
    """So much of something per key: `per_s` in the mean, `burst` at once."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s: Final = per_s
        self._burst: Final = burst
        self._paces: OrderedDict[tuple[str, ...], Rate] = OrderedDict()

    def take(self, *key: str) -> None:
        """One more. Raises `Refused` if that is too much."""
        pace, now = self._paces.get(key), trio.current_time()
        if pace is None:
            pace = self._paces[key] = Rate(self._per_s, self._burst / self._per_s)
        self._paces.move_to_end(key)
        if len(self._paces) > PACES:
            self._paces.popitem(last=False)
        if pace.left(now) < 1:
            raise Refused("too_fast", "more of that than is taken in a second")
        pace.spend(now, 1)


class ChatRules(Rules):
    """Those of a chat: `standings` has what was decided about users.

    `owners` of a room, and admins, may do everything in it, whatever was decided. `hub` is to
    be set before anybody comes.
    """

    hub: Hub

    def __init__(
        self, standings: Standings, owners: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self.standings: Final = standings
        self.owners: Final[Mapping[str, frozenset[str]]] = {
            room: frozenset(users) for room, users in (owners or {}).items()
        }
        for room, users in self.owners.items():
            check_name("owners", room)
            for user in users:
                check_name("owners", user)
        self.targets: Final = Targets()
        #: Rooms that somebody was let into, and when last.
        self.entered: dict[str, float] = {}
        self._typing: Final = Throttle(TYPING_PER_S, TYPING_BURST)

    async def standing(self, who: Who, room: str) -> Standing:
        """What holds for `who` there now. Raises `BrokerError`."""
        is_guest = isinstance(who, ChatWho) and who.guest
        if _is_admin(who) or (who.user in self.owners.get(room, ()) and not is_guest):
            await trio.lowlevel.checkpoint()
            return Standing("owner")
        standing = (await self.standings.get(room, who.user)).at(now_ms())
        if standing.role == "owner" and is_guest:
            return Standing("member", standing.muted_until, standing.banned_until)
        return standing

    def is_above(self, user: str, room: str) -> bool:
        """Whether nothing that is decided about `user` holds there: as far as it is known here."""
        devices = self.hub.devices(user)
        return user in self.owners.get(room, ()) or any(_is_admin(each.who) for each in devices)

    # The hub's questions

    async def who(self, peer: Peer) -> Who:
        who = await super().who(peer)
        if who.user == SERVICE:
            raise Refused("forbidden", "that user is the service itself")
        if isinstance(who, ChatWho):
            return who
        is_guest = who.user.startswith(GUEST)
        return ChatWho(who.user, who.device, seen(who.info), guest=is_guest)

    async def may_join(self, who: Who, room: str) -> bool:
        allowed = await self._is_let_in(who, room)
        if allowed:
            self.entered[room] = trio.current_time()
        return allowed

    async def may_read(self, who: Who, room: str) -> bool:
        return await self._is_let_in(who, room)

    async def may_see(self, who: Who, room: str) -> bool:
        return await self._is_let_in(who, room)

    async def may_publish(self, who: Who, message: Publish) -> bool:
        room = message.room
        await self._check_standing(who, room)
        if message.type == MODERATION:
            raise Refused("forbidden", "only the service says that")
        body = _read(message.type, message.payload)
        if message.store == isinstance(body, Typing):
            raise Refused("malformed", "payload.store must be false for typing, and only there")
        if isinstance(body, Typing):
            self._typing.take(who.user, room)
        elif isinstance(body, SaidBody):
            _check_said(who, body)
        else:
            _check_about(body)
            await self._check_target(who, room, body)
        return True

    # Within

    async def _is_let_in(self, who: Who, room: str) -> bool:
        return (await self.standing(who, room)).banned_until is None

    async def _check_standing(self, who: Who, room: str) -> None:
        standing = await self.standing(who, room)
        if standing.banned_until is not None:
            raise Refused(*_NO_ROOM)
        if standing.role == "reader":
            raise Refused("read_only", "you may read here, and no more")
        if standing.muted_until is not None:
            raise Refused("muted", f"you are muted {until_text(standing.muted_until)}")

    async def _check_target(self, who: Who, room: str, body: Edit | Delete | React) -> None:
        target = await self.targets.find(self.hub, room, body.target)
        if target is None or (target.deleted and not isinstance(body, Delete)):
            raise Refused(*_NO_MESSAGE)
        if isinstance(body, React) or target.user == who.user:
            return
        if isinstance(body, Edit) or (await self.standing(who, room)).role != "owner":
            raise Refused("not_yours", "somebody else has said that")


def _is_admin(who: Who) -> bool:
    return isinstance(who, ChatWho) and who.admin


def _read(kind: str, payload: Any) -> Any:
    """In the kind's shape. Raises `Refused`."""
    if kind not in _READERS:
        raise Refused("malformed", f"payload.type must be one of {', '.join(_READERS)}")
    try:
        return _READERS[kind](payload)
    except DecodeError as error:
        raise Refused("malformed", f"payload.{error.field} {error.rule}") from error


def _check_said(who: Who, body: SaidBody) -> None:
    _check(check_content, body.content)
    _check(check_metadata, body.metadata)
    if not 0 <= body.reply < END:
        raise Refused("malformed", "payload.payload.reply must be an offset, or 0")
    if body.name not in ("", who.user, seen(who.info)["name"]):
        raise Refused("forged_name", "payload.payload.name must be your own, or empty")


def _check_about(body: Edit | Delete | React) -> None:
    if not 0 < body.target < END:
        raise Refused("malformed", "payload.payload.target must be the offset of a message")
    if isinstance(body, Edit):
        _check(check_content, body.content)
    elif isinstance(body, React):
        _check(check_reaction, body.reaction)


def _check(check: Callable[[object], None], value: object) -> None:
    try:
        check(value)
    except PayloadError as error:
        code = "too_large" if error.rule.startswith("must have at most") else "malformed"
        raise Refused(code, f"payload.payload.{error.field} {error.rule}") from error

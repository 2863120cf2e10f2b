"""What owners decide about users: checked, kept, and told to everybody in the room.

    a decision    1. the standing is changed         whatever happens now, it holds
                  2. a message is in the room's log   each node that has members there hears it
    a ban         3. each node removes the user's devices from the room

A node can miss the message, and a user can be on the way in while it is said. So each
looks every few seconds who is banned from its rooms.

A client whose answer was lost asks again. The same decision at once again is the same
message, if nothing else was decided in between, so that the store knows it.

Owners by the program's word, and admins, stand above that: nothing holds for them.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from typing import Final

import attrs
import msgspec
import trio

from ...errors import BrokerError, OptionError
from ...hub._broker import Item
from ...hub._names import check_name
from ...hub._words import message_event
from ...options import check_number
from .._words import MODERATION, Moderate, Moderation
from .rules import ChatRules
from .standing import Standing, now_ms, until_text
from .tokens import SERVICE

__all__ = ["Moderator"]

_log: Final = logging.getLogger("trio_rt.chat")

#: How often it is looked for banned users who are still there.
LOOK_S: Final = 15.0
#: The longest time but for ever: a hundred years.
MOST_S: Final = 100 * 366 * 86_400.0
#: How many decisions are known again, and for how long.
REPEATS: Final = 1000
REPEAT_S: Final = 10.0


#: Part of the body of each decision.
_MARK: Final = f'"{MODERATION}"'.encode()


@attrs.frozen
class _Decided:
    """The last decision about a user in a room, and what it has come to."""

    order: Moderate
    by: str
    standing: Standing
    message: Moderation
    id: str
    #: When, by trio's clock.
    at: float


class Moderator:
    """Of one node. `hub` is that of the rules."""

    def __init__(self, rules: ChatRules) -> None:
        self._rules: Final = rules
        self._decided: OrderedDict[tuple[str, str], _Decided] = OrderedDict()
        self._turns: Final = trio.Lock()
        #: What was decided here, by action.
        self.decisions: Counter[str] = Counter()

    async def decide(self, order: Moderate, by: str) -> Moderation:
        """Do what `by` wants: who may want it is the caller's to know.

        Raises `OptionError`, and `BrokerError`: it may hold then, and is to be asked for
        again. Cancelled: likewise.
        """
        check_name("room", order.room, self._rules.hub.limits.name_bytes)
        check_name("user", order.user)
        check_number("for_s", order.for_s, finite=True)
        if order.for_s > MOST_S:
            raise OptionError(
                "for_s", "must be 0, for ever, or at most a hundred years", order.for_s
            )
        async with self._turns:
            decided = await self._settle(order, by)
        try:
            await self._rules.hub.publish(
                order.room, decided.message, type=MODERATION, user=SERVICE, id=decided.id
            )
        except BrokerError:
            self._put_out(order.room, decided.message)
            raise
        return decided.message

    def heard(self, room: str, item: Item) -> None:
        """A message is in the room: if it is a decision, it holds here, too."""
        if _MARK not in item.body:
            return
        event = message_event(item)
        if (event.user, event.type) != (SERVICE, MODERATION):
            return
        decision = msgspec.convert(event.payload, Moderation)
        self._rules.standings.changed(room, decision.user)
        self._put_out(room, decision)

    async def run(self) -> None:
        """Look for banned users who are still there, until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            for room in list(self._rules.entered):
                try:
                    await self._look(room)
                except BrokerError as error:
                    _log.warning("nobody knows who is banned: %s", error)
                    break

    async def _look(self, room: str) -> None:
        entered, hub = self._rules.entered, self._rules.hub
        users = hub.users(room)
        if not users and entered[room] < trio.current_time() - LOOK_S:
            del entered[room]
            await trio.lowlevel.checkpoint()
            return
        for user in set(users).intersection(await self._rules.standings.banned(room)):
            self._remove(room, user, "you are banned")

    async def _settle(self, order: Moderate, by: str) -> _Decided:
        standings, key = self._rules.standings, (order.room, order.user)
        standings.changed(*key)  # what another node has decided just now counts, too
        before = await standings.get(*key)
        last, now = self._decided.get(key), trio.current_time()
        if (
            last is not None
            and now < last.at + REPEAT_S
            and (last.order, last.by, last.standing) == (order, by, before)
        ):
            return last
        decision = _decision(order, by)
        standing = _after(before.at(now_ms()), decision)
        await standings.set(*key, standing)
        decided = _Decided(order, by, standing, decision, self._rules.hub.new_id(), now)
        self._decided[key] = decided
        self._decided.move_to_end(key)
        if len(self._decided) > REPEATS:
            self._decided.popitem(last=False)
        self.decisions[order.action] += 1
        return decided

    def _put_out(self, room: str, decision: Moderation) -> None:
        if decision.action == "ban" and Standing(banned_until=decision.until).is_banned(now_ms()):
            text = f"you are banned {until_text(decision.until)}"
            self._remove(room, decision.user, text)

    def _remove(self, room: str, user: str, text: str) -> None:
        if not self._rules.is_above(user, room):
            self._rules.hub.remove(user, room, text)


def _decision(order: Moderate, by: str) -> Moderation:
    is_timed = order.for_s > 0 and order.action in ("mute", "ban")
    until = now_ms() + max(1, int(order.for_s * 1000)) if is_timed else 0
    role = order.role if order.action == "role" else "member"
    return Moderation(order.action, order.user, by, until, role)


def _after(before: Standing, decision: Moderation) -> Standing:
    match decision.action:
        case "mute":
            return attrs.evolve(before, muted_until=decision.until)
        case "unmute":
            return attrs.evolve(before, muted_until=None)
        case "ban":
            return attrs.evolve(before, banned_until=decision.until)
        case "unban":
            return attrs.evolve(before, banned_until=None)
        case "role":
            return attrs.evolve(before, role=decision.role)

"""What was said about messages since: edits, deletions, reactions, by the message's offset.

**Goal.** A message shows the same whatever was known first: itself, or what was said about it.

**What does not work.** To change messages in the order in which things become known: who
pages backwards finds the last edit first, and a reaction before the message.

**The rule.** The log's order alone decides. Of two edits the one with the higher offset
counts, of what a user says about one reaction the last; a deletion is for ever. So each of
them is kept with its offset, and whether it counts is a comparison.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Final

import attrs

from .._words import Delete, Edit, React
from ..models import EMPTY, ChatMessage
from .reading import Amendment

__all__ = ["ALL_BYTES", "ONE_REACTIONS", "Amendments", "amend"]

#: What all that is known may take, roughly: enough for ten thousand messages. More, and that
#: about a message is forgotten of which was spoken longest ago.
ALL_BYTES: Final = 4 << 20

#: Reactions of users to one message. More are not taken.
ONE_REACTIONS: Final = 2000

_ONE_BYTES: Final = 300
_REACTION_BYTES: Final = 200


class _About:
    """What is known about one message."""

    __slots__ = ("at", "content", "deleted", "edit", "reactions")

    def __init__(self) -> None:
        #: The offset of the last edit, 0 for none.
        self.edit = 0
        self.content = ""
        self.at = 0
        self.deleted = False
        #: The offset of the last word of a user about a reaction: negative if it is "no more".
        self.reactions: dict[tuple[str, str], int] = {}

    @property
    def bytes(self) -> int:
        return _ONE_BYTES + sys.getsizeof(self.content) + _REACTION_BYTES * len(self.reactions)

    def delete(self) -> bool:
        if self.deleted:
            return False
        self.deleted, self.content = True, ""
        self.reactions.clear()
        return True

    def change(self, content: str, offset: int, at: int) -> bool:
        if self.deleted or offset <= self.edit:
            return False
        self.edit, self.content, self.at = offset, content, at
        return True

    def react(self, user: str, reaction: str, offset: int, on: bool) -> bool:
        key, known = (user, reaction), self.reactions
        before = known.get(key, 0)
        is_too_many = not before and len(known) >= ONE_REACTIONS
        if self.deleted or is_too_many or offset <= abs(before):
            return False
        known[key] = offset if on else -offset
        return True

    def onto(self, message: ChatMessage) -> ChatMessage:
        """A message as it was said, with all of this."""
        if self.deleted:
            return _blank(message)
        reactions: dict[str, frozenset[str]] = {}
        for (user, reaction), offset in sorted(self.reactions.items(), key=_order):
            if offset > 0:
                reactions[reaction] = reactions.get(reaction, frozenset()) | {user}
        return attrs.evolve(
            message,
            content=self.content or message.content,
            edited_at=self.at,
            reactions=reactions or EMPTY,
        )


class Amendments:
    """Of one room's log, or of what is known of it."""

    def __init__(self) -> None:
        self._epoch = ""
        self._bytes = 0
        # Those last spoken of at the end.
        self._about: OrderedDict[int, _About] = OrderedDict()

    def begin(self, epoch: str) -> None:
        """From now on of the log of `epoch`; what is known of another one is forgotten."""
        if epoch != self._epoch:
            self._epoch, self._bytes = epoch, 0
            self._about.clear()

    def learn(self, body: Amendment, offset: int, user: str, at: int) -> bool:
        """What `user` said at `offset`. False if it does not count: something else does."""
        about = self._about.pop(body.target, None)
        if about is None:
            about = _About()
        else:
            self._bytes -= about.bytes
        counts = _learn(about, body, offset, user, at)
        self._about[body.target] = about
        self._bytes += about.bytes
        while self._bytes > ALL_BYTES:
            _, oldest = self._about.popitem(last=False)
            self._bytes -= oldest.bytes
        return counts

    def onto(self, message: ChatMessage) -> ChatMessage:
        """A message as it was said, with all that is known about it."""
        about = self._about.get(message.offset)
        return message if about is None else about.onto(message)


def amend(message: ChatMessage, body: Amendment, user: str, at: int) -> ChatMessage:
    """A message with one amendment more, the last so far; itself if that changes nothing."""
    if message.deleted:
        return message
    match body:
        case Delete():
            return _blank(message)
        case Edit(content=content):
            return attrs.evolve(message, content=content, edited_at=at)
        case React(reaction=reaction, on=on):
            return _reacted(message, reaction, user, on)


def _learn(about: _About, body: Amendment, offset: int, user: str, at: int) -> bool:
    match body:
        case Delete():
            return about.delete()
        case Edit(content=content):
            return about.change(content, offset, at)
        case React(reaction=reaction, on=on):
            return about.react(user, reaction, offset, on)


def _order(item: tuple[tuple[str, str], int]) -> int:
    return abs(item[1])


def _blank(message: ChatMessage) -> ChatMessage:
    return attrs.evolve(
        message, content="", metadata=EMPTY, edited_at=0, deleted=True, reactions=EMPTY
    )


def _reacted(message: ChatMessage, reaction: str, user: str, on: bool) -> ChatMessage:
    users = message.reactions.get(reaction, frozenset())
    if (user in users) == on:
        return message
    reactions = {**message.reactions, reaction: users | {user} if on else users - {user}}
    if not reactions[reaction]:
        del reactions[reaction]
    return attrs.evolve(message, reactions=reactions or EMPTY)

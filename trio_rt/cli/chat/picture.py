"""The whole screen but for the input line, as lines.

lobby  dev 2                     3 here     the rooms
09:15          Ada  Hello                   the past of one of them; who is in it
Bob is typing…                 ↓ 2 new
● online  12 ms   1 queued                  the connection
> ...                                       the input line: `Entry`
"""

from __future__ import annotations

from typing import Final

import attrs

from ...chat import User
from ...protocol.lifecycle import Phase, State
from .desk import Desk
from .lines import Line, Segment, cut, line_width, padded, spread
from .rows import Look, name_colours, summary
from .status import Work, connection, status_line
from .tab import Tab
from .text import fit_line, shortened
from .view import MOST
from .words import typing_text

__all__ = ["SIDE_FROM", "Layout", "Picture", "look_of"]

#: From so many columns on, who is there has a column of its own, of this width.
SIDE_FROM: Final = 100
SIDE: Final = 22
#: So many queued messages are not worth a word while there is a link.
FEW: Final = 3

_EMPTY: Final = (
    "Nothing has been said here yet.",
    "",
    "Type a message, and press Enter.",
    "/help shows what else there is.",
)


@attrs.frozen
class Layout:
    """Which lines a screen has, from its size and the lines of the input."""

    width: int
    past: int
    bar: bool
    typing: bool
    status: bool

    @classmethod
    def of(cls, width: int, height: int, entry: int) -> Layout:
        """What is least needed goes first, where there are too few lines."""
        rest = height - entry
        status, bar, typing = rest >= 2, rest >= 4, rest >= 5
        return cls(width, max(rest - status - bar - typing, 0), bar, typing, status)

    @property
    def has_side(self) -> bool:
        return self.width >= SIDE_FROM

    @property
    def past_width(self) -> int:
        return self.width - SIDE - 1 if self.has_side else self.width


def look_of(tab: Tab, base: str, layout: Layout) -> Look:
    """How rows of a tab look."""
    me = tab.me
    timeline = tab.timeline
    return Look(
        layout.past_width, timeline.version, base, "" if me is None else me.id, timeline.get
    )


@attrs.frozen
class Picture:
    """What is shown at one moment; `now` is on trio's clock."""

    desk: Desk
    state: State
    latency_s: float | None
    now: float

    def above(self, layout: Layout) -> list[Line]:
        """What is above the input line: as many lines as the layout has."""
        lines = [self._bar(layout.width)] if layout.bar else []
        lines += self._middle(layout)
        if layout.typing:
            lines.append(self._typing(layout.width))
        if layout.status:
            lines.append(self._status(layout.width))
        return lines

    @property
    def _is_online(self) -> bool:
        return self.state.phase is Phase.CONNECTED

    # The rooms

    def _bar(self, width: int) -> Line:
        desk = self.desk
        right: Line = ()
        if self._is_online and desk.tab is not None and desk.tab.room is not None:
            right = (("bar", f" {len(desk.tab.room.members)} here "),)
        names = [segment for number in self._shown_tabs(width) for segment in self._name(number)]
        return spread(tuple(names), right, width, "bar")

    def _shown_tabs(self, width: int) -> range:
        """Those before the one that is shown go first, if there is no room."""
        first = 0
        while first < self.desk.at and self._tabs_width(first) > width - 10:
            first += 1
        return range(first, len(self.desk.tabs))

    def _tabs_width(self, first: int) -> int:
        numbers = range(first, self.desk.at + 1)
        return sum(line_width(self._name(number)) for number in numbers)

    def _name(self, number: int) -> Line:
        tab = self.desk.tabs[number]
        name = shortened(fit_line(tab.name), 20)
        if number == self.desk.at:
            return (("bar.on", f" {name} "),)
        colours = "bar.news" if tab.unread else "bar"
        unread = f" {tab.unread}" if tab.unread else ""
        return ((colours, f" {name}{unread} "),)

    # What was said

    def _middle(self, layout: Layout) -> list[Line]:
        width, tab = layout.past_width, self.desk.tab
        lines = [] if tab is None else self._past(tab, layout)
        lines = [()] * (layout.past - len(lines)) + lines
        if not layout.has_side:
            return lines
        side = self._side(tab, layout.past)
        return [
            (*padded(line, width), ("side", "│"), *beside)
            for line, beside in zip(lines, side, strict=True)
        ]

    def _past(self, tab: Tab, layout: Layout) -> list[Line]:
        lines = tab.view.lines(look_of(tab, self.desk.base, layout), layout.past)
        if lines or tab.over:
            return lines
        texts = _EMPTY if tab.room is not None else (f"Joining {fit_line(tab.name)}…",)
        shown: list[Line] = [_centred(text, layout.past_width) for text in texts]
        return [*shown, *[()] * ((layout.past - len(shown)) // 2)][: layout.past]

    # Who is there

    def _side(self, tab: Tab | None, height: int) -> list[Line]:
        members = [] if tab is None else list(tab.members)
        me = None if tab is None else tab.me
        most = height if len(members) <= height else height - 1
        lines = [self._member(user, user == me) for user in members[:most]]
        if len(members) > most:
            lines.append((("away", f" and {len(members) - most} more"),))
        return [*lines, *[()] * (height - len(lines))][:height]

    def _member(self, user: User, is_me: bool) -> Line:
        """Without a link it is not known whether they still are here."""
        name = shortened(fit_line(user.name), SIDE - 8)
        mark = " (you)" if is_me else " (away)" if user.status == "away" else ""
        colours = "me" if is_me else name_colours(user.id)
        if user.status == "away" or not self._is_online:
            colours = "away"
        return cut((("", " "), (colours, name), ("away", mark)), SIDE)

    # What is under way

    def _typing(self, width: int) -> Line:
        tab = self.desk.tab
        if tab is None:
            return ()
        right: Line = ()
        if not tab.view.follows:
            below = tab.view.below
            count = f"{below}+" if below == MOST else f"{below}"
            right = (("below", f" ↓ {count} new below " if below else " ↓ more below "),)
        return spread((("typing", f" {self._hint(tab)}"),), right, width)

    def _hint(self, tab: Tab) -> str:
        message = None if tab.view.selected is None else tab.timeline.message_at(tab.view.selected)
        if message is not None:
            about = shortened(summary(message), 24)
            return f"[{about}] /reply /react /edit /delete, Esc"
        if tab.loading:
            return "fetching older messages…"
        return typing_text([shortened(fit_line(user.name), 16) for user in tab.typing])

    def _status(self, width: int) -> Line:
        parts = connection(self.state, self.latency_s, self.now)
        left = status_line(parts, self._work(), self.desk.why, width)
        me = None if self.desk.tab is None else self.desk.tab.me
        right: Segment = ("bar", "" if me is None else f" {shortened(fit_line(me.name), 16)} ")
        if line_width(left) + line_width((right,)) > width:
            return padded(left, width, "bar")
        return spread(left, (right,), width, "bar")

    def _work(self) -> Work:
        """With a link, a message or two are said before one can read that they are queued."""
        work = self.desk.work
        is_brief = self._is_online and work.queued <= FEW
        return attrs.evolve(work, queued=0) if is_brief else work


def _centred(text: str, width: int) -> Line:
    return cut((("hint", f"{' ' * max((width - len(text)) // 2, 0)}{text}"),), width)

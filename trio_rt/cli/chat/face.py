"""The whole screen as one widget, and what its keys mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Protocol

import urwid

from .commands import completed
from .desk import Desk
from .entry import Entry
from .lines import Line
from .picture import Layout, Picture, look_of
from .rows import Look
from .tab import Tab
from .text import fit_line

__all__ = ["Face", "Hands"]

#: Lines that the input may take.
ENTRY_LINES: Final = 6
PROMPT: Final = "> "
#: Lines that stay when a page is turned.
OVERLAP: Final = 2


class Hands(Protocol):
    """What is done at the user's word. Nothing here waits."""

    def enter(self, text: str) -> None:
        """A line, or several, are sent off."""

    def keystroke(self) -> None:
        """Something was typed that is going to be said."""

    def older(self, tab: Tab) -> None:
        """Older messages are wanted."""

    def quit(self) -> None:
        """Leave the chat."""


class Face(urwid.Widget):
    """Draws `picture()`, and the input line below it."""

    _sizing = frozenset([urwid.BOX])
    _selectable = True
    no_cache: ClassVar[list[str]] = ["render"]

    def __init__(self, desk: Desk, hands: Hands, picture: Callable[[], Picture]) -> None:
        super().__init__()
        self.entry: Final = Entry()
        self._desk: Final = desk
        self._hands: Final = hands
        self._picture: Final = picture
        prompt = urwid.Text(("prompt", PROMPT))
        self._box: Final[Any] = urwid.Columns([(len(PROMPT), prompt), self.entry], focus_column=1)
        self._keys: Final[dict[str, Callable[[tuple[int, int]], None]]] = self._bindings()

    # Drawing

    def render(self, size: tuple[int, int], focus: bool = False) -> urwid.Canvas:  # type: ignore[override]
        """Draw it in (columns, rows)."""
        layout, entry = self._layout(size), self._entry(size)
        above = self._picture().above(layout)
        if not above:
            return entry
        parts = [(_canvas(above, size[0]), None, False), (entry, None, True)]
        return urwid.CanvasCombine(parts)

    def _layout(self, size: tuple[int, int]) -> Layout:
        return Layout.of(*size, self._entry_lines(size))

    def _entry_lines(self, size: tuple[int, int]) -> int:
        width, height = size
        most = max(1, min(ENTRY_LINES, height // 3))
        return min(int(self._box.rows((max(width, 3),), True)), most)

    def _entry(self, size: tuple[int, int]) -> urwid.Canvas:
        """The part of the input in which the cursor is."""
        lines = self._entry_lines(size)
        whole = urwid.CompositeCanvas(self._box.render((max(size[0], 3),), True))
        at = 0 if whole.cursor is None else whole.cursor[1]
        first = max(min(at - lines + 1, whole.rows() - lines), 0)
        whole.trim(first, lines)
        if whole.cols() > size[0]:
            whole.pad_trim_left_right(0, size[0] - whole.cols())
        return whole

    # Keys

    def keypress(self, size: tuple[int, int], key: str) -> str | None:  # type: ignore[override]
        """Every key is taken."""
        before = self.entry.text_now
        if key == "begin paste" or not self._is_bound(key):
            self._box.keypress((max(size[0], 3),), key)
        else:
            self._keys[key](size)
        after = self.entry.text_now
        if after != before and after and not (after.startswith("/") and after[1:2] != "/"):
            self._hands.keystroke()
        return None

    def _is_bound(self, key: str) -> bool:
        if key not in self._keys or self.entry.pastes:
            return False
        return key not in ("end", "home", "ctrl d") or not self.entry.text_now

    def _bindings(self) -> dict[str, Callable[[tuple[int, int]], None]]:
        rooms = {f"meta {number}": self._shower(number - 1) for number in range(1, 10)}
        return rooms | {
            "enter": self._enter,
            "tab": self._complete,
            "esc": self._escape,
            "ctrl d": lambda size: self._hands.quit(),
            "ctrl n": lambda size: self._desk.step(1),
            "ctrl p": lambda size: self._desk.step(-1),
            "page up": lambda size: self._scroll(size, self._page(size)),
            "page down": lambda size: self._scroll(size, -self._page(size)),
            "shift up": lambda size: self._scroll(size, 1),
            "shift down": lambda size: self._scroll(size, -1),
            "home": self._to_top,
            "end": self._to_end,
            "meta up": lambda size: self._select(size, 1),
            "meta down": lambda size: self._select(size, -1),
        }

    def _shower(self, number: int) -> Callable[[tuple[int, int]], None]:
        return lambda size: self._desk.show(number)

    def _enter(self, size: tuple[int, int]) -> None:
        self._hands.enter(self.entry.take())

    def _complete(self, size: tuple[int, int]) -> None:
        tab = self._desk.tab
        names = [] if tab is None else [fit_line(user.name) for user in tab.members]
        self.entry.put(completed(self.entry.text_now, names))

    def _escape(self, size: tuple[int, int]) -> None:
        tab = self._desk.tab
        if tab is not None and tab.view.selected is not None:
            tab.view.unselect()
        elif tab is not None:
            tab.view.to_end()

    # The past

    def _page(self, size: tuple[int, int]) -> int:
        return max(self._layout(size).past - OVERLAP, 1)

    def _where(self, size: tuple[int, int]) -> tuple[Tab, Look, int] | None:
        tab, layout = self._desk.tab, self._layout(size)
        return None if tab is None else (tab, look_of(tab, self._desk.base, layout), layout.past)

    def _scroll(self, size: tuple[int, int], count: int) -> None:
        if where := self._where(size):
            tab, look, height = where
            if not tab.view.scroll(look, height, count) and count > 0:
                self._hands.older(tab)

    def _select(self, size: tuple[int, int], count: int) -> None:
        if where := self._where(size):
            tab, look, height = where
            tab.view.select(look, height, count)

    def _to_top(self, size: tuple[int, int]) -> None:
        if where := self._where(size):
            tab, look, height = where
            tab.view.to_top(look, height)
            self._hands.older(tab)

    def _to_end(self, size: tuple[int, int]) -> None:
        if self._desk.tab is not None:
            self._desk.tab.view.to_end()


def _canvas(lines: Sequence[Line], width: int) -> urwid.Canvas:
    markup: list[tuple[str, str] | str] = []
    for number, line in enumerate(lines):
        markup += ["\n"] if number else []
        markup += [segment for segment in line if segment[1]]
    return urwid.Text(markup or "", wrap="clip").render((width,))

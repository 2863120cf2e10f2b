"""The rooms that are open, and which of them is shown."""

from __future__ import annotations

from typing import Final

import attrs

from .status import Work
from .tab import Tab

__all__ = ["Desk"]


@attrs.define(eq=False)
class Desk:
    """All that is shown but for the input line and the connection."""

    #: The server's URL for links, "" if it has none.
    base: str = ""
    tabs: Final[list[Tab]] = attrs.field(factory=list)
    #: The number of the tab that is shown.
    at: int = 0
    #: Files on their way, with how much of each has arrived, in percent.
    uploads: Final[dict[str, int]] = attrs.field(factory=dict)
    #: Why there was no link last; "" while there is one.
    why: str = ""
    #: Whether somebody looks at the terminal, as far as it says.
    focused: bool = True

    @property
    def tab(self) -> Tab | None:
        """The one that is shown."""
        return self.tabs[self.at] if self.tabs else None

    @property
    def work(self) -> Work:
        """What is under way, in all rooms."""
        queued = sum(tab.queued for tab in self.tabs)
        return Work(queued, tuple(self.uploads.items()))

    def find(self, name: str) -> Tab | None:
        return next((tab for tab in self.tabs if tab.name == name), None)

    def add(self, name: str) -> Tab:
        """One more, behind the others."""
        tab = Tab(name)
        self.tabs.append(tab)
        return tab

    def remove(self, tab: Tab) -> None:
        """Idempotent."""
        if tab in self.tabs:
            at = self.tabs.index(tab)
            self.tabs.remove(tab)
            self.at = max(self.at - (at <= self.at), 0)

    def show(self, number: int) -> None:
        """Show the tab with this number, if there is one."""
        if 0 <= number < len(self.tabs):
            if number != self.at and self.tab is not None:
                self.tab.timeline.new_at = None
            self.at = number

    def step(self, count: int) -> None:
        """Show the next one, round about."""
        if self.tabs:
            self.show((self.at + count) % len(self.tabs))

    def is_seen(self, tab: Tab) -> bool:
        """Whether what comes there now is on the screen."""
        return tab is self.tab and tab.view.follows and self.focused

    def note(self, text: str, *, error: bool = False) -> None:
        """Say something where it is seen."""
        if self.tab is not None:
            self.tab.timeline.note(text, "error" if error else "note")

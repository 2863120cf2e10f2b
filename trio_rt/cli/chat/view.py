"""Which part of a room's past is on the screen.

The view follows the end, or is held by a line of a row: its last. What is added at either
end does not move it then.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from .lines import Line
from .rows import Look
from .timeline import Timeline

__all__ = ["MOST", "View"]

#: Rows below the view that are counted.
MOST: Final = 1000


class View:
    """Of one timeline. Sizes are in lines."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline: Final = timeline
        #: The last line that is shown: a position, and the number of the line in that row.
        self.anchor: tuple[int, int] | None = None
        #: The end when it was left.
        self.left_at = 0
        #: The message that commands are about.
        self.selected: int | None = None

    @property
    def follows(self) -> bool:
        """Whether what comes is shown."""
        return self.anchor is None

    @property
    def bottom(self) -> int:
        """The position of the last row of which something is shown."""
        return self.timeline.end - 1 if self.anchor is None else self.anchor[0]

    @property
    def below(self) -> int:
        """Messages of others that came since the end was left, and are below: up to `MOST`."""
        if self.anchor is None:
            return 0
        since = max(self.left_at, self.anchor[0] + 1, self.timeline.first)
        found = map(self.timeline.message_at, range(since, min(self.timeline.end, since + MOST)))
        return sum(message is not None and not message.mine for message in found)

    def lines(self, look: Look, height: int) -> list[Line]:
        """What is shown: `height` lines, or fewer if there are no more."""
        self._clamp(look)
        shown = self._lines_up(look, height)
        if len(shown) < height and self.anchor is not None:  # the window has grown
            self._hold(look, self._top_anchor(look, height))
            shown = self._lines_up(look, height)
        return shown

    def scroll(self, look: Look, height: int, count: int) -> bool:
        """Go up by `count` lines, or down if it is negative. False: it cannot go further up."""
        self._clamp(look)
        at = self._bottom_line(look)
        if at is None or height < 1:
            return False
        wanted = self._above(look, at, count) if count > 0 else self._under(look, at, -count)
        highest = self._top_anchor(look, height)
        self._hold(look, max(wanted, highest))
        return wanted > highest

    def to_end(self) -> None:
        """Follow what comes."""
        self.anchor = None

    def to_top(self, look: Look, height: int) -> None:
        """Show the first row."""
        if self.timeline.end > self.timeline.first:
            self._hold(look, self._top_anchor(look, height))

    # The message that commands are about

    def select(self, look: Look, height: int, count: int) -> None:
        """Choose the next message above, or below if `count` is negative; none below the last."""
        position = self.timeline.end if self.selected is None else self.selected
        step = -1 if count > 0 else 1
        position += step
        while self.timeline.first <= position < self.timeline.end:
            message = self.timeline.message_at(position)
            if message is not None and message.offset and not message.deleted:
                self.selected = position
                self._show(look, height, position)
                return
            position += step
        if step > 0:
            self.unselect()

    def unselect(self) -> None:
        self.selected = None

    # Within

    def _rows_lines(self, look: Look, position: int) -> list[Line]:
        timeline = self.timeline
        return timeline[position].lines(
            look, is_new=position == timeline.new_at, selected=position == self.selected
        )

    def _bottom_line(self, look: Look) -> tuple[int, int] | None:
        if self.anchor is not None:
            return self.anchor
        last = self.timeline.end - 1
        if last < self.timeline.first:
            return None
        return last, len(self._rows_lines(look, last)) - 1

    def _upwards(
        self, look: Look, at: tuple[int, int] | None
    ) -> Iterator[tuple[tuple[int, int], Line]]:
        """From a line on, all that are above."""
        if at is None:
            return
        position, number = at
        while position >= self.timeline.first:
            lines = self._rows_lines(look, position)
            for index in range(min(number, len(lines) - 1), -1, -1):
                yield (position, index), lines[index]
            position, number = position - 1, 1 << 30

    def _downwards(self, look: Look, at: tuple[int, int]) -> Iterator[tuple[int, int]]:
        position, number = at
        while position < self.timeline.end:
            for index in range(number, len(self._rows_lines(look, position))):
                yield position, index
            position, number = position + 1, 0

    def _lines_up(self, look: Look, height: int) -> list[Line]:
        upwards = self._upwards(look, self._bottom_line(look))
        return [line for _, line in islice(upwards, height)][::-1]

    def _above(self, look: Look, at: tuple[int, int], count: int) -> tuple[int, int]:
        """`count` lines above, or the first of all."""
        for found, _ in self._upwards(look, at):
            at = found
            if count == 0:
                break
            count -= 1
        return at

    def _under(self, look: Look, at: tuple[int, int], count: int) -> tuple[int, int]:
        """`count` lines below, or the last of all."""
        for found in self._downwards(look, at):
            at = found
            if count == 0:
                break
            count -= 1
        return at

    def _top_anchor(self, look: Look, height: int) -> tuple[int, int]:
        """The last line that is shown when the first is."""
        return self._under(look, (self.timeline.first, 0), height - 1)

    def _hold(self, look: Look, at: tuple[int, int]) -> None:
        """Show lines up to this one; follow, if it is the last."""
        last = self.timeline.end - 1
        if at >= (last, len(self._rows_lines(look, last)) - 1):
            self.anchor = None
            return
        if self.anchor is None:
            self.left_at = self.timeline.end
        self.anchor = at

    def _show(self, look: Look, height: int, position: int) -> None:
        """Bring a row into the view, if it is not there."""
        at = self._bottom_line(look)
        shown = {found[0] for found, _ in islice(self._upwards(look, at), height)}
        whole = len(self._rows_lines(look, position)) - 1
        if at is not None and position >= at[0]:
            self._hold(look, max((position, whole), self._top_anchor(look, height)))
        elif position not in shown or position == min(shown):
            self._hold(look, self._under(look, (position, 0), height - 1))

    def _clamp(self, look: Look) -> None:
        """Rows may be gone, or have become shorter."""
        if self.selected is not None and self.timeline.message_at(self.selected) is None:
            self.selected = None
        if self.anchor is None:
            return
        position, number = self.anchor
        if not self.timeline.first <= position < self.timeline.end:
            self.anchor = None if position >= self.timeline.end else (self.timeline.first, 0)
            return
        self.anchor = position, min(number, len(self._rows_lines(look, position)) - 1)

"""Lines of the screen: pieces of text, each with the name of its colours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from .text import shortened, width_of

__all__ = ["Line", "Segment", "cut", "line_width", "padded", "plain", "rule", "spread"]

Segment: TypeAlias = tuple[str, str]
Line: TypeAlias = tuple[Segment, ...]

RULE: Final = "─"


def line_width(line: Iterable[Segment]) -> int:
    """In columns."""
    return sum(width_of(text) for _, text in line)


def plain(line: Iterable[Segment]) -> str:
    """Its text alone."""
    return "".join(text for _, text in line)


def cut(line: Line, width: int) -> Line:
    """The line in at most `width` columns."""
    if line_width(line) <= width:
        return line
    kept: list[Segment] = []
    for colours, text in line:
        own = width_of(text)
        if own > width:
            kept.append((colours, shortened(text, width)))
            break
        kept.append((colours, text))
        width -= own
    return tuple(kept)


def padded(line: Line, width: int, colours: str = "") -> Line:
    """The line in exactly `width` columns, of which those that are added have `colours`."""
    line = cut(line, width)
    missing = width - line_width(line)
    return (*line, (colours, " " * missing)) if missing else line


def spread(left: Line, right: Line, width: int, colours: str = "") -> Line:
    """Two texts at the ends of one line; the left one is cut where they do not fit."""
    right = cut(right, width)
    room = width - line_width(right)
    return (*padded(left, room, colours), *right)


def rule(text: str, width: int, colours: str) -> Line:
    """A line across, with a text in it."""
    shown = f" {shortened(text, max(width - 4, 1))} "
    left = max((width - width_of(shown)) // 2, 0)
    right = max(width - width_of(shown) - left, 0)
    return cut(((colours, f"{RULE * left}{shown}{RULE * right}"),), width)

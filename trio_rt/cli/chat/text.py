"""Texts of strangers, made fit for a terminal, and what they measure there.

**Goal.** No text moves the cursor, turns the reading direction, or is wider than it was
measured to be; and what people write is still what is read.

**What does not work.** To escape all that is not printable, as for a log: emoji, and spaces
that French has, would be escapes. To trust widths of sequences: terminals differ about
emoji that are joined or coloured.

**The rule.** Controls and marks that turn the direction are shown as escapes. What only
joins or varies characters is left out, so that each has a width of its own; flags become
their letters. No character carries more than four marks.

**The remaining hole.** A terminal that measures single characters by another Unicode than
`wcwidth`: what is right of them in that line is off by a column.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import urwid

__all__ = ["fit_line", "fit_text", "shortened", "typeable", "width_of", "wrapped"]

#: Marks that one character may carry.
MARKS: Final = 4
TAB: Final = "    "
MORE: Final = "…"

#: They turn the direction of what follows: embeddings, overrides and isolates.
_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_FLAG_A: Final = 0x1F1E6


def fit_text(text: str) -> str:
    """`text` as it may go to the terminal; it may have several lines."""
    if text.isascii() and text.isprintable():
        return text
    lines = text.replace("\r\n", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return "\n".join(map(_fit, lines.split("\n")))


def fit_line(text: str) -> str:
    """The same as one line."""
    return " ".join(filter(None, map(str.strip, fit_text(text).split("\n"))))


def typeable(text: str) -> str:
    """What of a text may stand in the input line: all but controls, and what turns the direction."""
    kept = (c for c in text if c == "\n" or not (c in _TURNING or unicodedata.category(c) == "Cc"))
    return "".join(kept)


def _fit(line: str) -> str:
    if line.isascii() and line.isprintable():
        return line
    return "".join(_with_few_marks(line))


def _with_few_marks(line: str) -> Iterator[str]:
    marks = 0
    for character in line:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= MARKS:
            yield _shown(character)


@lru_cache(4096)
def _shown(character: str) -> str:
    code, category = ord(character), unicodedata.category(character)
    if character == "\t":
        return TAB
    if _FLAG_A <= code < _FLAG_A + 26:
        return chr(ord("A") + code - _FLAG_A)
    if _only_varies(code) or (category == "Cf" and character not in _TURNING):
        return ""
    if category == "Zs":
        return " "
    if category == "Cn" and _width(character) == 2:  # emoji that are newer than this Python
        return character
    if not character.isprintable():
        return character.encode("unicode_escape").decode("ascii")
    return character


def _only_varies(code: int) -> bool:
    """Variation selectors, and colours of skin."""
    return 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or 0x1F3FB <= code <= 0x1F3FF


@lru_cache(4096)
def _width(character: str) -> int:
    return urwid.calc_width(character, 0, len(character))


def width_of(text: str) -> int:
    """In columns."""
    return len(text) if text.isascii() else sum(map(_width, text))


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` columns, with a sign if something is left out."""
    if width_of(text) <= width:
        return text
    room, kept = width - 1, ""
    for character in text:
        room -= _width(character)
        if room < 0:
            break
        kept += character
    return f"{kept}{MORE}"[: max(width, 0)]


def wrapped(text: str, width: int) -> list[str]:
    """Its lines in at most `width` columns, broken at spaces where that is possible."""
    width = max(width, 2)  # the widest character
    return [piece for line in text.split("\n") for piece in _wrapped_line(line, width)]


def _wrapped_line(line: str, width: int) -> Iterator[str]:
    if line.isascii() and len(line) <= width:
        yield line
        return
    start = break_at = used = used_at_break = 0
    for index, character in enumerate(line):
        own = _width(character)
        if used + own > width and character != " ":
            if break_at <= start:
                break_at, used_at_break = index, used
            yield line[start:break_at].rstrip(" ")
            start, used = break_at, used - used_at_break
            used_at_break = 0
        used += own
        if character == " " or own == 2:
            break_at, used_at_break = index + 1, used
    rest = line[start:]
    yield rest if width_of(rest) <= width else rest.rstrip(" ")

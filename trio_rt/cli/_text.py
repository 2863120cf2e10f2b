"""Text from strangers on its way to a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text` with everything that is no printable character escaped as in a Python literal.

    Escape sequences that move the cursor, change a title or turn the reading
    direction then come to nothing, and one text stays one line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

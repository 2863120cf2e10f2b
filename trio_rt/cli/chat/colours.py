"""The palette: names of colours, and what a terminal of 16 or 256 colours, or of none, shows.

Nobody knows whether a terminal is dark or light. So of 256 colours those
without a ground of their own have a contrast of 3 at least (WCAG 2) to black and to white.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from .rows import NAME_COLOURS

__all__ = ["PALETTE"]

#: A name; for 16 colours text and ground; without colours; for 256 text and ground.
Entry: TypeAlias = tuple[str, str, str, str, str, str]

_NAMES: Final = (
    ("light blue", "#68d"),
    ("light green", "#080"),
    ("brown", "#d60"),
    ("light magenta", "#b6d"),
    ("light cyan", "#088"),
    ("light red", "#d66"),
    ("dark green", "#880"),
    ("dark cyan", "#f08"),
)

_BAR: Final = "g19"

PALETTE: Final[tuple[Entry, ...]] = (
    ("time", "dark gray", "default", "", "g46", "default"),
    ("rule", "dark gray", "default", "", "g46", "default"),
    ("new", "light red", "default", "bold", "#d66", "default"),
    ("note", "dark gray", "default", "", "g54", "default"),
    ("error", "light red", "default", "bold", "#d66", "default"),
    ("quote", "dark gray", "default", "", "g54", "default"),
    ("gone", "dark gray", "default", "", "g46", "default"),
    ("pending", "dark gray", "default", "", "g46", "default"),
    ("state", "dark gray", "default", "", "g46", "default"),
    ("link", "light cyan", "default", "underline", "#08d", "default"),
    ("action", "light magenta", "default", "", "#a6f", "default"),
    ("reaction", "brown", "default", "", "#a80", "default"),
    ("reacted", "yellow", "default", "bold", "#a80,bold", "default"),
    ("selected", "black", "light gray", "standout", "g93", "#058"),
    ("typing", "dark gray", "default", "", "g54", "default"),
    ("below", "black", "brown", "standout", "g7", "#ca6"),
    ("hint", "dark gray", "default", "", "g54", "default"),
    ("prompt", "light blue", "default", "bold", "#68d,bold", "default"),
    ("side", "dark gray", "default", "", "g46", "default"),
    ("away", "dark gray", "default", "", "g46", "default"),
    ("me", "default,bold", "default", "bold", "default,bold", "default"),
    ("bar", "light gray", "black", "standout", "g70", _BAR),
    ("bar.on", "white", "dark blue", "bold", "g100,bold", "#058"),
    ("bar.news", "yellow", "black", "standout,bold", "#fd6,bold", _BAR),
    ("bar.good", "light green", "black", "standout", "#6d6", _BAR),
    ("bar.busy", "yellow", "black", "standout", "#fd6", _BAR),
    ("bar.bad", "light red", "black", "standout,bold", "#f66,bold", _BAR),
    *(
        (f"name{number}", few, "default", "bold", f"{many},bold", "default")
        for number, (few, many) in enumerate(_NAMES[:NAME_COLOURS])
    ),
)

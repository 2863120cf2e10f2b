"""Which of Autobahn's 517 cases are run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

__all__ = [
    "ALL_DEFLATE",
    "PLAIN",
    "QUICK_DEFLATE",
    "QUICK_PLAIN",
    "SOME_DEFLATE",
    "Selection",
]


@attrs.frozen
class Selection:
    """Cases by number; a `*` stands for any. `cases` is how many they are."""

    name: str
    include: tuple[str, ...]
    cases: int
    compression: bool = False

    def only(self, cases: Iterable[str]) -> Selection:
        """These of them."""
        include = tuple(cases)
        return attrs.evolve(self, include=include, cases=len(include))


#: All but those of compression.
PLAIN: Final = Selection("plain", tuple(f"{group}.*" for group in (*range(1, 8), 9, 10)), 301)

#: All of compression: 12 and 13 differ in what they send, 12.* among themselves
#: in the content, 13.* in what they negotiate. Each case is 1,000 messages.
ALL_DEFLATE: Final = Selection("all deflate", ("12.*", "13.*"), 216, compression=True)

#: One group of each kind, and of the other groups the first, which are short.
SOME_DEFLATE: Final = Selection(
    "deflate",
    (
        "12.1.*",
        "13.1.*",
        *(f"12.{group}.{case}" for group in range(2, 6) for case in range(1, 4)),
        *(f"13.{group}.{case}" for group in range(2, 8) for case in range(1, 4)),
    ),
    66,
    compression=True,
)

#: Of the long groups 6 (UTF-8) and 9 (large messages) some, of the others all:
#: 9.3.1 has 65,536 fragments, 9.1.6 and 9.2.6 have 16 MiB.
QUICK_PLAIN: Final = Selection(
    "plain",
    (
        *(f"{group}.*" for group in (1, 2, 3, 4, 5, 7, 10)),
        *("6.1.*", "6.2.*", "6.3.*", "6.4.*", "6.12.*", "6.22.*"),
        *("9.1.6", "9.2.6", "9.3.1", "9.3.9", "9.4.1", "9.5.1", "9.6.1", "9.7.1", "9.8.1"),
    ),
    166,
)

QUICK_DEFLATE: Final = Selection(
    "deflate", ("12.1.1", *(f"13.{group}.1" for group in range(1, 8))), 8, compression=True
)

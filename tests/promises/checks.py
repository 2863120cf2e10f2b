"""Every promise that a plain link can keep, checked from what was observed.

`breaches(story)` gives one line for each fact that contradicts a promise of
the design. A check may say less than the promise where nobody can know more
(what a cut link had on it), but never more: each names its exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from .checks_links import LINK_CHECKS
from .checks_sends import SEND_CHECKS
from .checks_streams import STREAM_CHECKS
from .records import Story

__all__ = ["breaches"]

CHECKS: Final[tuple[Callable[[Story], Iterator[str]], ...]] = (
    *SEND_CHECKS,
    *STREAM_CHECKS,
    *LINK_CHECKS,
)


def breaches(story: Story) -> list[str]:
    """What is wrong with this story; nothing, hopefully."""
    return [f"{check.__name__}: {fault}" for check in CHECKS for fault in check(story)]

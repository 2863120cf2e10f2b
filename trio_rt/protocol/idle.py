"""What a queue is while it has nothing: one empty deque that all of them share.

A deque of its own takes 760 bytes, a connection has ten of them, and most of many
connections are idle. Nothing can be added to this one (it would be lost, silently):
who has something to add looks whether it is `NOTHING`, and then makes a deque first.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

__all__ = ["NOTHING"]

NOTHING: Final[deque[Any]] = deque(maxlen=0)

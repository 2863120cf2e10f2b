"""The books of one session: what was sent and what was taken, by number.

Each direction has numbers of its own, 1, 2, 3 and so on, and three marks:

- *received*: up to here the other side has it, in its memory. Its copy here is
  no longer needed for a replay.
- *consumed*: up to here its program has taken it, which settles a send as
  `acked`. It is the low-water mark: one message that nobody takes holds it up.
- *credit*: how many messages, and bytes, were taken in all. It opens the window,
  so that what is not taken costs its own room and nobody else's.

What does not work. To ack what was received: then the window bounds nothing. To
open the window by the low-water mark: then one slow stream stops all. To number
a message anew when it is sent again: then the other side cannot tell that it has it.

Messages and requests are *windowed*. Notes (replies, parts, cancels, voids) are
not, or two sides with full windows would wait for each other; they have bounds
of their own, in `requests`.

`outgoing` is the sender's side, `incoming` the receiver's. A message committed
and then taken back stays under its number; if the other side turns out at a
resume not to have it, a `void` goes in its place.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["ACK_S", "ACK_SHARE", "WINDOWS_BEHIND", "Bounds"]

#: How long an ack may wait for a batch to travel with.
ACK_S: Final = 0.2

#: An ack goes at once when so much of the window, or of the other side's replay
#: memory, waits for it.
ACK_SHARE: Final = 4

#: So many windows may be under way behind one message that nobody takes. All of
#: them are credited, and none settled: what is kept of them has to have a bound.
WINDOWS_BEHIND: Final = 16


class Bounds(msgspec.Struct, frozen=True):
    """Messages (or frames) and bytes."""

    messages: int
    bytes: int

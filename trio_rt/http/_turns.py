"""Whose turn it is: slots for all and for each host, and who waits for one.

Goal: urgent calls overtake, nothing starves, a busy host holds up no other,
and all of it stays cheap with 20,000 waiting.

Why this does not stand on `protocol.lanes`: the lanes count bytes, keys and
evictions, which a call has not. The gate needs a queue for each host and a
change of priority while waiting, for which a heap serves and a deque does not.

The rule. CRITICAL first, strictly. Among the others the smallest
due = arrival + patience, the more urgent of equals, then whoever came first. So
a call is never overtaken by one that arrived more than its patience later:
ageing, but as a key that never changes. (How long it waits is another matter:
that is up to the slots, and to how much comes that is CRITICAL.)

- A *place* is a tuple (due, rank, number, turn) in the heap of its host. It is
  alive while its turn points back at it: a turn that leaves, starts or is
  raised lets go of it, and the dead are dropped at the top of the heap, or all
  at once when they are the most.
- A host is *listed* in the heap of heads by the place at its top, if it has a
  slot for that. A full host is not listed, so nobody walks past it. An entry
  is stale unless it is what the host is listed by.
- Nobody queues who could start: after any change the owner calls `next()` until
  it gives None.
- `reserve` slots, of all and of each host's, are for CRITICAL alone; one at
  least is left to the others.
- The rate is a window that slides: at most n starts in any n / `rate_per_s`
  seconds, n being its whole part, from 1 to 10,000. CRITICAL ones too: it is a rule of the
  server's, and urgency is no excuse.
- Too many wait: the last to come of the lowest priority goes. That is the
  newcomer, unless it is more urgent than some.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush
from typing import Any, Final, TypeAlias

from ..message import Priority

__all__ = ["Turn", "Turns"]

#: Fewer dead items than this are not worth a compaction.
FEW: Final = 16

#: So many starts are remembered at most.
MOST_STARTS: Final = 10_000

_CRITICAL: Final = Priority.CRITICAL

#: due, rank (the more urgent is the smaller), number, and whose it is.
_Place: TypeAlias = "tuple[float, int, int, Turn]"


class Turn:
    """One call: it waits, has a slot, and is over; or only some of these.

    `place` is set while it waits, `running` while it has a slot.
    """

    __slots__ = ("arrived", "host", "number", "place", "priority", "running")

    arrived: float
    host: Any
    number: int

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.place: _Place | None = None
        self.running = False


class _Slots:
    """So many may run, and so many of them that are not CRITICAL."""

    __slots__ = ("most", "most_others", "others", "running")

    def __init__(self, most: float, reserve: int) -> None:
        self.running = self.others = 0
        self.resize(most, reserve)

    def resize(self, most: float, reserve: int) -> None:
        self.most = most
        self.most_others = max(1, most - reserve)

    def has_room(self, priority: Priority) -> bool:
        return self.running < self.most and (
            priority is _CRITICAL or self.others < self.most_others
        )

    def take(self, priority: Priority, by: int) -> None:
        self.running += by
        if priority is not _CRITICAL:
            self.others += by


class _Host(_Slots):
    __slots__ = ("heap", "listed", "waiting")

    def __init__(self, most: float, reserve: int) -> None:
        super().__init__(most, reserve)
        self.heap: list[_Place] = []
        self.waiting = 0
        self.listed: _Place | None = None


class Turns:
    """The slots, and the queue for them. Times are of any clock that never goes back."""

    def __init__(
        self,
        limit: float,
        *,
        patience_s: dict[Priority, float],
        per_host: float = math.inf,
        reserve: int = 0,
        max_waiting: float = math.inf,
        rate_per_s: float = math.inf,
    ) -> None:
        self._all = _Slots(limit, reserve)
        self._reserve = reserve
        self._per_host = per_host
        self._max_waiting = max_waiting
        self._patience_s = {**patience_s, _CRITICAL: -math.inf}
        self._hosts: dict[object, _Host] = {}
        self._many_hosts = FEW
        self._heads: list[_Place] = []
        # Who came to wait at each priority, the dead included, in that order.
        self._levels: list[list[Turn]] = [[] for _ in Priority]
        self._number = 0
        #: How many wait, and how many of each priority wait or run.
        self.waiting = 0
        self.waiting_of = [0 for _ in Priority]
        self.running_of = [0 for _ in Priority]
        self._starts: deque[float] | None = None
        if rate_per_s != math.inf:
            burst = max(1, int(min(rate_per_s, MOST_STARTS)))
            self._starts = deque(maxlen=burst)
            self._window_s = burst / rate_per_s

    @property
    def limit(self) -> float:
        """How many may run. Lowered below what runs: nobody starts until that is over."""
        return self._all.most

    @limit.setter
    def limit(self, limit: float) -> None:
        self._all.resize(limit, self._reserve)

    @property
    def running(self) -> int:
        return self._all.running

    def enter(self, turn: Turn, host_name: object, now: float) -> bool:
        """A new `turn`. True: it has its slot. False: it waits, and `next` is to be called."""
        turn.host = host = self._hosts.get(host_name) or self._new_host(host_name)
        turn.arrived = now
        priority = turn.priority
        if (
            not self.waiting
            and self._starts is None
            and self._all.has_room(priority)
            and host.has_room(priority)
        ):
            self._start(turn)
            return True
        self._number = turn.number = self._number + 1
        self._queue(turn)
        return False

    def next(self, now: float) -> Turn | None:
        """Start the most urgent turn that may start now; None if none may."""
        heads = self._heads
        while heads:
            turn = heads[0][3]
            host = turn.host
            if host.listed is not heads[0]:
                heappop(heads)
            elif not self._all.has_room(turn.priority) or now < self._rate_allows_at():
                return None
            else:
                heappop(heads)
                heappop(host.heap)
                self._unqueue(turn)
                self._start(turn)
                if self._starts is not None:
                    self._starts.append(now)
                self._list(host)
                return turn
        return None

    def wake_at(self, now: float) -> float:
        """When to call `next` though nothing happened; `math.inf` if never."""
        at = self._rate_allows_at()
        return at if self.waiting and at > now else math.inf

    def excess(self, newcomer: Turn) -> Turn | None:
        """If too many wait with `newcomer`, who is the last to come: who goes; it has left."""
        if newcomer.place is None or self.waiting <= self._max_waiting:
            return None
        victim = self._last()
        self.leave(victim)
        return victim

    def leave(self, turn: Turn) -> None:
        """Its slot is free, or its place in the queue. A turn that is over stays so."""
        if turn.place is not None:
            self._unqueue(turn)
            self._list(turn.host)
        elif turn.running:
            turn.running = False
            priority = turn.priority
            host: _Host = turn.host
            self.running_of[priority] -= 1
            self._all.take(priority, -1)
            host.take(priority, -1)
            if host.waiting:
                self._list(host)

    def raise_to(self, turn: Turn, priority: Priority) -> bool:
        """From now on `turn` waits as if it had come with `priority`.

        False, and nothing changed, if it does not wait or is as urgent already.
        """
        if turn.place is None or priority <= turn.priority:
            return False
        self._unqueue(turn)
        turn.priority = priority
        self._queue(turn)
        return True

    def clear(self) -> list[Turn]:
        """All who wait leave; these were they."""
        waiting = [turn for priority in Priority for turn in self._alive(priority)]
        for turn in waiting:
            self.leave(turn)
        return waiting

    def _start(self, turn: Turn) -> None:
        turn.running = True
        priority = turn.priority
        self.running_of[priority] += 1
        self._all.take(priority, 1)
        turn.host.take(priority, 1)

    def _queue(self, turn: Turn) -> None:
        host: _Host = turn.host
        priority = turn.priority
        due = turn.arrived + self._patience_s[priority]
        turn.place = (due, _CRITICAL - priority, turn.number, turn)
        heappush(host.heap, turn.place)
        self._levels[priority].append(turn)
        self.waiting += 1
        self.waiting_of[priority] += 1
        host.waiting += 1
        self._list(host)

    def _unqueue(self, turn: Turn) -> None:
        """Let go of its place. The caller lists the host anew."""
        turn.place = None
        priority = turn.priority
        turn.host.waiting -= 1
        self.waiting -= 1
        if not self.waiting:
            self._heads.clear()
        self.waiting_of[priority] = count = self.waiting_of[priority] - 1
        if len(self._levels[priority]) > (2 * count + FEW if count else 0):
            self._levels[priority] = self._alive(priority)

    def _alive(self, priority: Priority) -> list[Turn]:
        return [
            turn
            for turn in self._levels[priority]
            if turn.place is not None and turn.priority is priority
        ]

    def _last(self) -> Turn:
        """The last to come of the lowest priority that waits."""
        lowest = next(priority for priority in Priority if self.waiting_of[priority])
        level = self._levels[lowest]
        while level[-1].place is None or level[-1].priority is not lowest:
            level.pop()
        return level[-1]

    def _list(self, host: _Host) -> None:
        """Drop the dead from the top of its heap, and list it by who is there, if it may start."""
        heap = host.heap
        if len(heap) > 2 * host.waiting + FEW:
            host.heap = heap = [place for place in heap if place[3].place is place]
            heapify(heap)
        while heap and heap[0][3].place is not heap[0]:
            heappop(heap)
        head = heap[0] if heap and host.has_room(heap[0][3].priority) else None
        if host.listed is not head:
            host.listed = head
            if head is not None:
                heappush(self._heads, head)
                if len(self._heads) > 2 * len(self._hosts) + FEW:
                    self._relist()

    def _relist(self) -> None:
        """Rid the heads of what is stale."""
        self._heads[:] = [host.listed for host in self._hosts.values() if host.listed is not None]
        heapify(self._heads)

    def _new_host(self, name: object) -> _Host:
        if len(self._hosts) > self._many_hosts:
            busy = {key: host for key, host in self._hosts.items() if host.running or host.waiting}
            self._hosts = busy
            self._many_hosts = 2 * len(busy) + FEW
        host = self._hosts[name] = _Host(self._per_host, self._reserve)
        return host

    def _rate_allows_at(self) -> float:
        starts = self._starts
        if starts is None or len(starts) != starts.maxlen:
            return -math.inf
        return starts[0] + self._window_s

"""The demo's books: every message that was accepted, every one that arrived."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import attrs
import msgspec

from .._endpoint import Statistics
from ..message import Gap, Message, Outcome, Priority, Reset

__all__ = ["Books", "Note", "Report", "Way", "percentile"]

#: Outcomes that say that it was never sent.
NEVER_SENT: Final = ("dropped", "withdrawn")
#: What a critical message has to pass, of all that was queued before it.
OVERTAKE_GOAL: Final = 0.9


class Note(msgspec.Struct):
    """The payload of every message: its number in one direction, and some text."""

    number: int
    text: str = ""


@attrs.frozen(kw_only=True)
class Way:
    """One direction, counted."""

    accepted: int
    #: By outcome, as text.
    outcomes: dict[str, int]
    #: Different messages that arrived.
    delivered: int
    #: Arrivals of a message that had arrived before.
    doubled: int
    #: Arrivals behind a later message of the same priority.
    out_of_order: int
    #: Messages that never arrived, by outcome.
    undelivered: dict[str, int]
    #: Messages that arrived although their outcome says that they were never sent.
    ghosts: int
    #: Lost to a full stream, and announced there.
    gaps: int
    #: Announcements that something may be missing: one for each new link without a session.
    resets: int
    #: What `statistics()` told.
    told_accepted: int
    told_outcomes: dict[str, int]

    @property
    def lost(self) -> int:
        """Messages that never arrived, though they were sent."""
        return sum(
            count for name, count in self.undelivered.items() if not name.startswith(NEVER_SENT)
        )

    def broken_promises(self, *, plain: bool) -> Iterator[str]:
        """What was promised and is not so. A plain link cannot promise that nothing is lost."""
        if not sum(self.outcomes.values()) == self.accepted == self.told_accepted:
            yield "the outcomes do not sum up to the accepted sends"
        if self.outcomes != self.told_outcomes:
            yield "the outcomes are not those of statistics()"
        if self.doubled:
            yield f"{self.doubled} messages came twice"
        if self.out_of_order:
            yield f"{self.out_of_order} messages came out of order"
        if self.ghosts:
            yield f"{self.ghosts} messages came that were said to be never sent"
        for outcome, count in self.undelivered.items():
            forgiven = ("written", "indeterminate") if plain else ()
            if not outcome.startswith((*NEVER_SENT, *forgiven)):
                yield f"{count} messages are lost whose outcome is {outcome}"
        if self.resets and not plain:
            yield f"the session was lost {self.resets} times"


@attrs.frozen(kw_only=True)
class Report:
    """What the demo has found."""

    seed: int
    plain: bool
    seconds: float
    client_to_server: Way
    server_to_client: Way
    cuts_at_any_moment: int
    cuts_in_mid_frame: int
    reconnects: int
    #: Of these, how many took up the session of the link before.
    resumed: int
    recovery_p50_s: float
    recovery_p99_s: float
    #: LOW messages that waited when a CRITICAL one was sent, and how many it passed.
    backlog: int
    overtaken: int
    broken_promises: tuple[str, ...] = ()

    @property
    def overtaken_share(self) -> float:
        return self.overtaken / self.backlog

    def judged(self) -> Report:
        """This report with its broken promises."""
        broken = [
            f"{name}: {promise}"
            for name, way in (
                ("client to server", self.client_to_server),
                ("server to client", self.server_to_client),
            )
            for promise in way.broken_promises(plain=self.plain)
        ]
        if self.overtaken_share < OVERTAKE_GOAL:
            broken.append(f"a critical message passed only {self.overtaken_share:.0%} of a backlog")
        return attrs.evolve(self, broken_promises=tuple(broken))


class Sent(Protocol):
    """An accepted send; a `Delivery` is one."""

    @property
    def outcome(self) -> Outcome | None: ...


class Books:
    """One direction, while it runs."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        #: Numbers in the order of arrival.
        self.arrivals: list[int] = []
        self.gaps = 0
        self.resets = 0
        self._out_of_order = 0
        self._latest: dict[Priority, int] = {}

    @property
    def next_number(self) -> int:
        return len(self.sent)

    def accepted(self, sent: Sent) -> None:
        """The send with `next_number` was accepted."""
        self.sent.append(sent)

    def arrived(self, item: Message[Note] | Gap | Reset) -> None:
        match item:
            case Message():
                self._arrived(item)
            case Gap():
                self.gaps += item.count
            case Reset():
                self.resets += 1

    def _arrived(self, message: Message[Note]) -> None:
        number = message.payload.number
        self.arrivals.append(number)
        if message.key is None:  # one with a key takes the place of an older one
            self._out_of_order += number < self._latest.get(message.priority, -1)
            self._latest[message.priority] = number

    def close(self, statistics: Sequence[Statistics]) -> Way:
        """Count everything, and put what `statistics()` told beside it."""
        times = Counter(self.arrivals)
        outcomes = [sent.outcome for sent in self.sent]
        missing = Counter(
            str(outcome) for number, outcome in enumerate(outcomes) if number not in times
        )
        told: Counter[str] = Counter()
        for one in statistics:
            told.update({str(outcome): count for outcome, count in one.outcomes.items()})
        return Way(
            accepted=len(outcomes),
            outcomes=dict(Counter(str(o) for o in outcomes if o is not None)),
            delivered=len(times),
            doubled=times.total() - len(times),
            out_of_order=self._out_of_order,
            undelivered=dict(missing),
            ghosts=sum(
                o is not None and o.kind in NEVER_SENT and number in times
                for number, o in enumerate(outcomes)
            ),
            gaps=self.gaps,
            resets=self.resets,
            told_accepted=sum(one.accepted for one in statistics),
            told_outcomes=dict(told),
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; 0 of none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0

"""What a plain link promises, checked from what was noted down."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from trio_rt.outcome import INDETERMINATE, WRITTEN

from .books import Books
from .stage import CLOSE_S, Stage

__all__ = ["MARGIN_S", "breaches"]

#: What a busy machine may be late by.
MARGIN_S: Final = 2.0


def _ends(stage: Stage) -> list[Books]:
    return [stage.client, *stage.peers]


def _hearers(stage: Stage, books: Books) -> list[Books]:
    return stage.peers if books is stage.client else [stage.client]


def each_send_has_one_outcome(stage: Stage) -> Iterator[str]:
    """P1, by the sends themselves and by the books."""
    for books in _ends(stage):
        final = books.talker.statistics()
        if sum(final.queued.values()) or final.in_flight or final.queued_bytes:
            yield f"{books.name}: something is left in the outbox: {final}"
        if final.accepted != sum(final.outcomes.values()) or final.accepted != len(books.sent):
            yield f"{books.name}: {len(books.sent)} sends, and the books: {final}"
        if Counter(sent.delivery.outcome for sent in books.sent) != Counter(final.outcomes):
            yield f"{books.name}: the sends have other outcomes than the books: {final}"


def what_arrived_was_sent(stage: Stage) -> Iterator[str]:
    """P1 and P3: once, and not if it was dropped or withdrawn."""
    for books in _ends(stage):
        outcomes = {sent.label: sent.delivery.outcome for sent in books.sent}
        arrived = Counter(label for hearer in _hearers(stage, books) for label in hearer.received)
        for label, times in arrived.items():
            if not label.startswith(f"{books.name}."):
                continue
            if times > 1:
                yield f"{label} arrived {times} times"
            if outcomes.get(label) not in (WRITTEN, INDETERMINATE):
                yield f"{label} arrived, and its outcome is {outcomes.get(label)}"


def what_was_written_arrived(stage: Stage) -> Iterator[str]:
    """P1: on the last link, which was closed in order."""
    last = stage.links[-1]
    for books in (stage.client, stage.peers[-1]):
        arrived = {label for hearer in _hearers(stage, books) for label in hearer.received}
        for sent in books.sent:
            written = sent.delivery.outcome is WRITTEN and sent.at >= last.opened_at
            if written and sent.label not in arrived:
                yield f"{sent.label} is written, its link was closed in order, and it is lost"


def in_order_on_a_link(stage: Stage) -> Iterator[str]:
    """P2, as far as it goes: within a lane, which here is a task."""
    for hearer in _ends(stage):
        latest: dict[str, int] = {}
        for label in hearer.received:
            task, _, number = label.rpartition(".")
            if int(number) <= latest.get(task, -1):
                yield f"{hearer.name} heard {label} after number {latest[task]}"
            latest[task] = int(number)


def losses_are_items(stage: Stage) -> Iterator[str]:
    """P9: a `Reset` for each later link, and no `Gap`, for nobody was slow."""
    for books in _ends(stage):
        resets = len(stage.links) - 1 if books is stage.client else 0
        if books.resets != resets:
            yield f"{books.name}: {books.resets} resets instead of {resets}"
        if books.gaps:
            yield f"{books.name}: gaps of {books.gaps} messages"


def links_are_as_they_should(stage: Stage) -> Iterator[str]:
    """P7: no link is lost that need not be, and none is left for dead."""
    if len(stage.links) != stage.scenario.links or len(stage.peers) < stage.scenario.links:
        causes = [link.cause for link in stage.links]
        yield f"{len(stage.links)} links, {len(stage.peers)} peers; lost by {causes}"


def dead_links_are_noticed(stage: Stage) -> Iterator[str]:
    """P7: within `interval_s + timeout_s`, at both ends."""
    liveness = stage.scenario.liveness
    for end, seconds in stage.noticed().items():
        if seconds > liveness.interval_s + liveness.timeout_s + MARGIN_S:
            yield f"the {end} noticed after {seconds:.2f} s ({liveness})"


def the_fault_was_one(stage: Stage) -> Iterator[str]:
    """Of the scenario itself: its rules have hit something."""
    if stage.packets_hit == 0:
        yield "no packet was hit"


def nothing_is_left(stage: Stage) -> Iterator[str]:
    """P6: `connect()` leaves in time; no task and no socket survives it all."""
    if not stage.leave_s < CLOSE_S:
        yield f"connect() took {stage.leave_s:.2f} s to leave, of {CLOSE_S}"
    if any(books.ended_at == math.inf for books in _ends(stage)):
        yield "a stream has not ended"
    if stage.tasks_left or stage.sockets_left:
        yield f"{stage.tasks_left} tasks and {stage.sockets_left} sockets are left"


CHECKS: Final[tuple[Callable[[Stage], Iterator[str]], ...]] = (
    each_send_has_one_outcome,
    what_arrived_was_sent,
    what_was_written_arrived,
    in_order_on_a_link,
    losses_are_items,
    links_are_as_they_should,
    dead_links_are_noticed,
    the_fault_was_one,
    nothing_is_left,
)


def breaches(stage: Stage) -> list[str]:
    """What is wrong; nothing, hopefully."""
    return [f"{check.__name__}: {fault}" for check in CHECKS for fault in check(stage)]

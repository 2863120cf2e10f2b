from __future__ import annotations

import attrs
import pytest

from trio_rt import Gap, Message, Outcome, Priority, Reset, Statistics
from trio_rt.cli._books import Books, Note
from trio_rt.message import ACKED, INDETERMINATE, WITHDRAWN, WRITTEN, dropped

STATISTICS = Statistics(
    accepted=0,
    outcomes={},
    queued={},
    queued_bytes=0,
    in_flight=0,
    waiting=0,
    received=0,
    discarded=0,
    malformed=0,
    lost=0,
    latency_s=None,
)


@attrs.frozen
class Sent:
    outcome: Outcome | None


def books(*outcomes: Outcome | None) -> Books:
    """Books of sends with these outcomes; nothing has arrived."""
    found = Books()
    for outcome in outcomes:
        found.accepted(Sent(outcome))
    return found


def arrive(
    found: Books, *numbers: int, priority: Priority = Priority.LOW, key: str | None = None
) -> None:
    for number in numbers:
        found.arrived(Message("note", Note(number), priority=priority, key=key))


def test_delivered() -> None:
    """What arrived is delivered; of the rest the outcome tells."""
    found = books(WRITTEN, INDETERMINATE, INDETERMINATE, dropped("expired"), None)
    assert found.next_number == 5
    arrive(found, 0, 1)
    way = found.close([])
    assert (way.accepted, way.delivered, way.doubled, way.ghosts) == (5, 2, 0, 0)
    assert way.outcomes == {"written": 1, "indeterminate": 2, "dropped (expired)": 1}
    assert way.undelivered == {"indeterminate": 1, "dropped (expired)": 1, "None": 1}


def test_doubled() -> None:
    """Arrivals beyond the first are counted, each of them."""
    found = books(WRITTEN, WRITTEN)
    arrive(found, 0, 0, 0, 1)
    way = found.close([])
    assert (way.delivered, way.doubled) == (2, 2)


@pytest.mark.parametrize("outcome", [dropped("closed"), WITHDRAWN])
def test_ghosts(outcome: Outcome) -> None:
    """What arrives and was never sent is a ghost."""
    found = books(outcome)
    arrive(found, 0)
    assert found.close([]).ghosts == 1


def test_lost() -> None:
    """What was sent and not delivered is lost; what was never sent is not."""
    assert books(ACKED, WRITTEN, INDETERMINATE, None).close([]).lost == 4
    assert books(dropped("expired"), WITHDRAWN).close([]).lost == 0


def test_order() -> None:
    """Within one priority the order is that of the sends, but for messages with a key."""
    found = books(*[WRITTEN] * 6)
    arrive(found, 2, priority=Priority.HIGH)
    arrive(found, 1, 3)
    arrive(found, 0, key="k")
    assert found.close([]).out_of_order == 0
    arrive(found, 2, 4)
    assert found.close([]).out_of_order == 1


def test_marks_of_loss() -> None:
    """Gaps are counted by their messages, resets one by one."""
    found = books()
    for item in (Gap(3), Reset(), Gap(2), Reset(ValueError())):
        found.arrived(item)
    way = found.close([])
    assert (way.gaps, way.resets) == (5, 2)


def test_told_counts() -> None:
    """The statistics of several peers are summed."""
    one = attrs.evolve(STATISTICS, accepted=2, outcomes={WRITTEN: 2})
    two = attrs.evolve(STATISTICS, accepted=3, outcomes={WRITTEN: 1, dropped("closed"): 2})
    way = books().close([one, two])
    assert way.told_accepted == 5
    assert way.told_outcomes == {"written": 3, "dropped (closed)": 2}

"""trio_rt._endpoint: the snapshot of the books. (The rest is told through the verbs.)"""

from __future__ import annotations

import attrs
import pytest
import trio

from trio_rt import OutboxLimits, Priority
from trio_rt._endpoint import Endpoint
from trio_rt.message import WITHDRAWN, dropped
from trio_rt.options import InboxLimits
from trio_rt.protocol.codec import decode_raw
from trio_rt.protocol.session import Session

from .clocked import clocked


def new_endpoint(**limits: int) -> Endpoint:
    outbox = OutboxLimits(**limits)
    return Endpoint(Session(decode_raw, outbox, InboxLimits()), outbox)


@clocked
async def test_books_of_a_new_endpoint() -> None:
    """Everything is zero, every lane is named, and there is no latency yet."""
    statistics = new_endpoint().statistics()
    assert statistics.queued == dict.fromkeys(Priority, 0)
    assert statistics.outcomes == {}
    assert statistics.latency_s is None
    numbers = [value for value in attrs.astuple(statistics) if isinstance(value, int)]
    assert numbers == [0] * 8


@clocked
async def test_a_snapshot_stays_as_it_was() -> None:
    """What is sent and settled later does not change it."""
    endpoint = new_endpoint()
    delivery = endpoint._delivery("1", b"x", False, Priority.HIGH, None, None, None, "queue")
    assert endpoint._mailbox.try_put(delivery, trio.current_time())
    before = endpoint.statistics()
    assert delivery.withdraw()
    assert (before.accepted, before.queued[Priority.HIGH], before.queued_bytes) == (1, 1, 1)
    assert before.outcomes == {}
    after = endpoint.statistics()
    assert (after.queued[Priority.HIGH], after.outcomes) == (0, {WITHDRAWN: 1})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        before.accepted = 2  # type: ignore[misc]


@clocked
async def test_dropped_offline_is_in_the_books() -> None:
    """A send that will not wait for a link is accepted and has its outcome at once."""
    endpoint = new_endpoint()
    delivery = endpoint._delivery("1", b"x", False, Priority.LOW, None, None, None, "drop")
    assert endpoint._offline(delivery, "drop")
    assert delivery.outcome is dropped("offline")
    assert endpoint.statistics().outcomes == {dropped("offline"): 1}

"""What `send` returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.clocked import clocked
from trio_rt.delivery import Delivery
from trio_rt.errors import NoSession, Undelivered
from trio_rt.message import (
    ACKED,
    INDETERMINATE,
    KEPT,
    WITHDRAWN,
    WRITTEN,
    Outcome,
    Priority,
    dropped,
)
from trio_rt.protocol.lanes import Entry

GOOD = [WRITTEN, ACKED, KEPT]
BAD = [WITHDRAWN, INDETERMINATE, dropped("expired"), dropped("evicted")]


def delivery(withdraw: Callable[[Entry], bool] = lambda entry: False) -> Delivery:
    return Delivery(b"secret", id="7-1", key="secret", take_back=withdraw)


def test_fields() -> None:
    """A delivery is the queued message itself, and new it is unsettled."""
    one = delivery()
    assert isinstance(one, Entry)
    assert (one.id, one.data, one.priority) == ("7-1", b"secret", Priority.NORMAL)
    assert one.outcome is None


def test_identity() -> None:
    """Two deliveries of the same message are two, and can be told apart in a set."""
    assert len({delivery(), delivery()}) == 2
    assert delivery() != delivery()


def test_repr() -> None:
    """The repr tells the id and the outcome, and nothing of the message."""
    one = delivery()
    assert repr(one) == "<Delivery '7-1': pending>"
    one.settle(dropped("expired"))
    assert repr(one) == "<Delivery '7-1': dropped (expired)>"


def test_withdraw() -> None:
    """`withdraw` asks the outbox about this very message, and passes its answer on."""
    asked: list[Entry] = []

    def withdraw(entry: Entry) -> bool:
        asked.append(entry)
        return len(asked) == 1

    one = delivery(withdraw)
    assert one.withdraw()
    assert not one.withdraw()
    assert asked == [one, one]


@clocked
async def test_first_outcome_stays() -> None:
    """An outcome is set once for all."""
    one = delivery()
    one.settle(WRITTEN)
    one.settle(INDETERMINATE)
    assert one.outcome is WRITTEN
    await one.wait_written()


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("outcome", GOOD, ids=str)
@clocked
async def test_wait_written(outcome: Outcome, early: bool) -> None:
    """It returns when the message is written, acknowledged or kept, at once if it was before."""
    one = delivery()
    async with trio.open_nursery() as nursery:
        if early:
            one.settle(outcome)
        for _ in range(3):
            nursery.start_soon(one.wait_written)
        await wait_all_tasks_blocked()
        assert bool(nursery.child_tasks) is not early
        one.settle(outcome)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("outcome", BAD, ids=str)
@clocked
async def test_wait_written_in_vain(outcome: Outcome, early: bool) -> None:
    """It raises `Undelivered` with the outcome if the message came to nothing."""
    one = delivery()

    async def wait() -> None:
        with pytest.raises(Undelivered) as caught:
            await one.wait_written()
        assert caught.value.outcome is outcome

    async with trio.open_nursery() as nursery:
        if early:
            one.settle(outcome)
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        one.settle(outcome)


@clocked
async def test_cancelling_the_wait() -> None:
    """Cancelling `wait_written` leaves the message alone, and a later wait works."""
    asked: list[Entry] = []

    def withdraw(entry: Entry) -> bool:
        asked.append(entry)
        return True

    one = delivery(withdraw)
    with trio.move_on_after(1):
        await one.wait_written()
    assert one.outcome is None
    assert not asked
    one.settle(WRITTEN)
    await one.wait_written()


@clocked
async def test_wait_acked() -> None:
    """Without a session nobody can tell, whatever became of it."""
    one = delivery()
    with pytest.raises(NoSession):
        await one.wait_acked()
    one.settle(WRITTEN)
    with pytest.raises(NoSession):
        await one.wait_acked()


@clocked
async def test_checkpoints() -> None:
    """Both waits are checkpoints, even if nothing is to be waited for."""
    one = delivery()
    one.settle(WRITTEN)
    with assert_checkpoints():
        await one.wait_written()
    with assert_checkpoints(), pytest.raises(NoSession):
        await one.wait_acked()
    waits: list[Callable[[], Awaitable[None]]] = [one.wait_written, one.wait_acked]
    for wait in waits:
        with trio.CancelScope() as scope:
            scope.cancel()
            await wait()
        assert scope.cancelled_caught

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


class Box:
    """What a delivery asks of its mailbox: of a plain link, or of a session."""

    def __init__(
        self, withdraw: Callable[[Entry], bool] = lambda entry: False, *, is_plain: bool = True
    ) -> None:
        self.withdraw = withdraw
        self.is_plain = is_plain
        self.written: set[Entry] = set()
        self.watched: list[Entry] = []

    def is_written(self, one: Delivery) -> bool:
        return one in self.written

    def watch(self, one: Delivery) -> None:
        self.watched.append(one)


def delivery(box: Box | None = None) -> Delivery:
    return Delivery(b"secret", id="7-1", key="secret", mailbox=box or Box())


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

    one = delivery(Box(withdraw))
    assert one.withdraw()
    assert not one.withdraw()
    assert asked == [one, one]


def test_a_settled_one_has_forgotten_its_mailbox() -> None:
    """There is nothing to withdraw any more, and nothing to keep alive."""
    one = delivery(Box(lambda entry: True))
    one.settle(WRITTEN)
    assert one.mailbox is None
    assert not one.withdraw()


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

    one = delivery(Box(withdraw))
    with trio.move_on_after(1):
        await one.wait_written()
    assert one.outcome is None
    assert not asked
    one.settle(WRITTEN)
    await one.wait_written()


@clocked
async def test_written_and_not_settled() -> None:
    """In a session what the kernel has taken waits for its ack, and `wait_written` does not."""
    box = Box(is_plain=False)
    one = delivery(box)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.wait_written)
        await wait_all_tasks_blocked()
        one.notify()
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        assert box.watched == [one]
        box.written.add(one)
        one.notify()
    assert one.outcome is None
    await one.wait_written()
    assert box.watched == [one]


@pytest.mark.parametrize("outcome", [ACKED, KEPT, *BAD], ids=str)
@clocked
async def test_wait_acked_in_a_session(outcome: Outcome) -> None:
    """It waits for the outcome, and raises `Undelivered` if the message came to nothing."""
    one = delivery(Box(is_plain=False))

    async def wait() -> None:
        if outcome in GOOD:
            await one.wait_acked()
        else:
            with pytest.raises(Undelivered) as caught:
                await one.wait_acked()
            assert caught.value.outcome is outcome

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        one.settle(outcome)
    await wait()


@clocked
async def test_written_while_an_ack_was_waited_for() -> None:
    """The session may turn out to be a plain link, where nobody can tell."""
    one = delivery(Box(is_plain=False))

    async def wait() -> None:
        with pytest.raises(NoSession):
            await one.wait_acked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        one.settle(WRITTEN)


@pytest.mark.parametrize("outcome", [*GOOD, *BAD], ids=str)
@clocked
async def test_wait_settled(outcome: Outcome) -> None:
    """Any outcome ends it, on any link; a bad one is raised."""
    one = delivery(Box(is_plain=outcome is WRITTEN))

    async def wait() -> None:
        if outcome in GOOD:
            await one.wait_settled()
        else:
            with pytest.raises(Undelivered) as caught:
                await one.wait_settled()
            assert caught.value.outcome is outcome

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        one.settle(outcome)
    await wait()


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
    """All waits are checkpoints, even if nothing is to be waited for."""
    one = delivery()
    one.settle(WRITTEN)
    with assert_checkpoints():
        await one.wait_written()
    with assert_checkpoints():
        await one.wait_settled()
    with assert_checkpoints(), pytest.raises(NoSession):
        await one.wait_acked()
    waits: list[Callable[[], Awaitable[None]]] = [
        one.wait_written,
        one.wait_acked,
        one.wait_settled,
    ]
    for wait in waits:
        with trio.CancelScope() as scope:
            scope.cancel()
            await wait()
        assert scope.cancelled_caught

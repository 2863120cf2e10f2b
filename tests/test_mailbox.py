"""Who waits for room in the outbox, who is let in, and who is told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.clocked import clocked, run_clocked
from trio_rt._mailbox import Mailbox
from trio_rt.delivery import Delivery
from trio_rt.errors import Undelivered
from trio_rt.message import INDETERMINATE, WITHDRAWN, WRITTEN, Priority, dropped
from trio_rt.options import InboxLimits, OutboxLimits
from trio_rt.protocol.codec import decode_raw
from trio_rt.protocol.lanes import Entry
from trio_rt.protocol.session import Heartbeat, Session

LOW, NORMAL, HIGH, CRITICAL = Priority


class Desk:
    """A mailbox over a real session, in the hands of a link that does as it is told."""

    def __init__(self, nursery: trio.Nursery, **limits: Any) -> None:
        self.session = Session(decode_raw, OutboxLimits(**limits), InboxLimits())
        self.mailbox = Mailbox(self.session)
        self.mailbox.spawn = self._spawn
        self.spawned = 0
        self.wakes = 0
        self.given = 0
        #: What became of each `put`, in the order in which they ended.
        self.ends: list[str] = []
        self._nursery = nursery

    def delivery(
        self,
        data: str | bytes,
        priority: Priority = NORMAL,
        *,
        key: str | None = None,
        ttl_s: float = math.inf,
        ephemeral: bool = False,
    ) -> Delivery:
        data = data.encode() if isinstance(data, str) else data
        until = trio.current_time() + ttl_s
        return Delivery(
            data,
            priority=priority,
            key=key,
            expires_at=until,
            ephemeral=ephemeral,
            mailbox=self.mailbox,
        )

    def put_nowait(self, data: str | bytes, priority: Priority = NORMAL, **more: Any) -> Delivery:
        one = self.delivery(data, priority, **more)
        if not self.mailbox.try_put(one, trio.current_time()):
            raise trio.WouldBlock
        return one

    async def put(
        self, data: str | bytes, priority: Priority = NORMAL, **more: Any
    ) -> tuple[Delivery, trio.CancelScope]:
        """Start a task that puts, and return once it is through, or waits."""
        one, scope = self.delivery(data, priority, **more), trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    await self.mailbox.put(one)
                    self.ends.append(f"{one.data.decode()} accepted")
                if scope.cancelled_caught:
                    self.ends.append(f"{one.data.decode()} cancelled")
            except trio.ClosedResourceError:
                self.ends.append(f"{one.data.decode()} closed")

        self._nursery.start_soon(run)
        await wait_all_tasks_blocked()
        return one, scope

    def link_up(self) -> None:
        self.given = 0
        self.mailbox.link_up(self._direct, None, self._wake, 0)

    def take(self) -> list[Entry]:
        """The link commits a batch."""
        batch = self.session.take(trio.current_time())
        self.given += len(batch)
        return [entry for entry in batch if isinstance(entry, Entry)]

    def write(self) -> str:
        """The link commits a batch, and the kernel takes it."""
        batch = self.take()
        self.session.written(self.given)
        self.mailbox.moved()
        if not batch:
            self.sleep()
        return " ".join(entry.data.decode() for entry in batch)

    def sleep(self) -> None:
        """The writer is going to sleep, and wants to be woken."""
        self.mailbox.wake = self._wake

    async def write_all(self) -> str:
        written = []
        while more := self.write():
            written.append(more)
            await wait_all_tasks_blocked()
        return " ".join(written)

    def books(self) -> tuple[int, int, int]:
        """Accepted, unsettled, waiting."""
        return self.session.accepted, self.session.unsettled, self.mailbox.waiting

    def _direct(self, entry: Entry, now: float) -> bool:
        if not self.session.may_send_directly(entry, now):
            return False
        self.sent_directly(entry, now)
        return True

    def sent_directly(self, entry: Entry, now: float) -> None:
        self.session.try_commit(entry)
        self.given += 1
        self.session.confirm(entry, self.given, now)

    def _wake(self) -> None:
        self.wakes += 1

    def _spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        self.spawned += 1
        self._nursery.start_soon(task)


@asynccontextmanager
async def open_desk(**limits: Any) -> AsyncIterator[Desk]:
    async with trio.open_nursery() as nursery:
        yield Desk(nursery, **limits)
        nursery.cancel_scope.cancel()


# Direct, queued, refused


@clocked
async def test_direct() -> None:
    """With an idle link a message is written by its sender, and nobody is woken."""
    async with open_desk() as desk:
        desk.link_up()
        one = desk.put_nowait("a")
        assert one.outcome is WRITTEN
        assert desk.wakes == 0
        assert desk.books() == (1, 0, 0)


@clocked
async def test_soon() -> None:
    """A `put` writes by itself in a turn of the loop if it can; else it queues, as others do."""
    async with open_desk() as desk:
        answers = [True, False]

        async def soon(entry: Entry) -> bool:
            await trio.lowlevel.checkpoint()
            sent = answers.pop(0)
            if sent:
                desk.sent_directly(entry, trio.current_time())
            return sent

        desk.given = 0
        desk.mailbox.link_up(None, soon, desk._wake, 0)
        first, _ = await desk.put("a")
        second, _ = await desk.put("b")
        assert (first.outcome, second.outcome) == (WRITTEN, None)
        assert desk.wakes == 1
        desk.mailbox.close()
        await desk.put("c")
        assert desk.ends == ["a accepted", "b accepted", "c closed"]
        assert desk.write() == "b"


@clocked
async def test_a_link_that_dies_in_the_turn_of_a_direct_write() -> None:
    """What would not wait offline does not wait then either; anything else does."""
    async with open_desk() as desk:

        async def soon(entry: Entry) -> bool:
            desk.mailbox.link_down()
            await trio.lowlevel.checkpoint()
            return False

        desk.mailbox.link_up(None, soon, desk._wake, 0)
        gone, _ = await desk.put("a", ephemeral=True)
        assert gone.outcome == dropped("offline")
        desk.mailbox.link_up(None, soon, desk._wake, 0)
        kept, _ = await desk.put("b")
        assert kept.outcome is None
        assert desk.books() == (2, 1, 0)


@clocked
async def test_not_direct_past_what_is_queued() -> None:
    """While something is queued or in flight, a message queues behind it."""
    async with open_desk() as desk:
        desk.put_nowait("a")
        desk.link_up()
        second = desk.put_nowait("b")
        assert second.outcome is None
        assert desk.wakes == 1
        desk.take()
        third = desk.put_nowait("c")
        assert third.outcome is None
        assert desk.write() == "c"


@clocked
async def test_queued_offline() -> None:
    """Without a link a message is queued, and there is nobody to wake."""
    async with open_desk() as desk:
        desk.put_nowait("a")
        desk.link_up()
        desk.mailbox.link_down()
        desk.put_nowait("b")
        assert desk.wakes == 0
        assert desk.books() == (2, 2, 0)
        desk.link_up()
        assert desk.write() == "a b"


@clocked
async def test_put_goes_the_same_ways() -> None:
    """`put` sends directly, or queues, without a wait."""
    async with open_desk() as desk:
        queued, _ = await desk.put("a")
        assert desk.ends == ["a accepted"]
        desk.link_up()
        desk.write()
        direct, _ = await desk.put("b")
        assert (queued.outcome, direct.outcome) == (WRITTEN, WRITTEN)
        assert desk.ends == ["a accepted", "b accepted"]


@clocked
async def test_full() -> None:
    """A full outbox refuses `put_nowait`, which then was not accepted."""
    async with open_desk(messages=1) as desk:
        desk.put_nowait("a")
        with pytest.raises(trio.WouldBlock):
            desk.put_nowait("b")
        assert desk.books() == (1, 1, 0)


@clocked
async def test_expired_is_not_sent_directly() -> None:
    """A message whose time is up already is accepted and expired, however idle the link is."""
    async with open_desk() as desk:
        desk.link_up()
        one = desk.put_nowait("a", ttl_s=0)
        assert one.outcome is dropped("expired")
        assert desk.given == 0
        assert desk.books() == (1, 0, 0)


# Waiting


@clocked
async def test_waiters_get_in_as_room_appears() -> None:
    """Waiters get in the most urgent first, and in order within a priority."""
    async with open_desk(messages=1) as desk:
        desk.put_nowait("first", CRITICAL)
        for name, priority in [
            ("low", LOW),
            ("n1", NORMAL),
            ("h1", HIGH),
            ("n2", NORMAL),
            ("now", CRITICAL),
            ("h2", HIGH),
        ]:
            await desk.put(name, priority)
        assert desk.books() == (1, 1, 6)
        assert not desk.ends
        desk.link_up()
        assert await desk.write_all() == "first now h1 h2 n1 n2 low"
        assert [end.split()[0] for end in desk.ends] == ["now", "h1", "h2", "n1", "n2", "low"]
        assert desk.books() == (7, 0, 0)


@clocked
async def test_admitted_one_by_one() -> None:
    """Room for one lets one in, and wakes the writer for it."""
    async with open_desk(messages=2) as desk:
        desk.link_up()
        desk.put_nowait("direct")
        desk.session.beat(Heartbeat(b"beat"))
        desk.take()
        a = desk.put_nowait("a")
        desk.put_nowait("b")
        await desk.put("c")
        await desk.put("d")
        desk.sleep()
        wakes = desk.wakes
        assert a.withdraw()
        await wait_all_tasks_blocked()
        assert desk.ends == ["c accepted"]
        assert desk.wakes == wakes + 1
        assert desk.mailbox.waiting == 1


@clocked
async def test_woken_once() -> None:
    """The writer is woken by the first message, and again only after it has gone to sleep."""
    async with open_desk() as desk:
        desk.link_up()
        desk.session.beat(Heartbeat(b"beat"))
        desk.take()
        for _ in range(3):
            desk.put_nowait("a")
        assert desk.wakes == 1
        assert desk.write() == "a a a"
        desk.session.beat(Heartbeat(b"beat"))
        desk.take()
        desk.sleep()
        desk.put_nowait("b")
        desk.put_nowait("c")
        assert desk.wakes == 2


@pytest.mark.parametrize("priority", [LOW, NORMAL])
@clocked
async def test_nowait_does_not_barge(priority: Priority) -> None:
    """`put_nowait` is refused while one as urgent waits, even if it would fit."""
    async with open_desk(total_bytes=4) as desk:
        desk.put_nowait("aaa")
        await desk.put("bb")
        with pytest.raises(trio.WouldBlock):
            desk.put_nowait("c", priority)
        assert desk.books() == (1, 1, 1)


@clocked
async def test_put_does_not_barge() -> None:
    """A `put` that would fit waits behind one as urgent that does not."""
    async with open_desk(total_bytes=4) as desk:
        desk.put_nowait("aaa")
        await desk.put("bb")
        await desk.put("c")
        assert desk.books() == (1, 1, 2)
        desk.link_up()
        assert await desk.write_all() == "aaa bb c"


@clocked
async def test_more_urgent_passes_waiters() -> None:
    """One that is more urgent than all who wait gets in if it fits."""
    async with open_desk(total_bytes=4) as desk:
        desk.put_nowait("aaa", CRITICAL)
        await desk.put("bb", LOW)
        desk.put_nowait("c", NORMAL)
        assert desk.books() == (2, 2, 1)


@clocked
async def test_larger_one_in_front_bars_the_others() -> None:
    """A more urgent waiter that does not fit lets nobody past."""
    async with open_desk(total_bytes=4) as desk:
        desk.put_nowait("aa")
        small = desk.put_nowait("b")
        await desk.put("cccc", NORMAL)
        await desk.put("d", LOW)
        assert small.withdraw()
        await wait_all_tasks_blocked()
        assert desk.mailbox.waiting == 2
        desk.link_up()
        assert await desk.write_all() == "aa cccc d"


@clocked
async def test_cancelled_waiter() -> None:
    """A cancelled waiter was not accepted, and lets in the smaller one behind it."""
    async with open_desk(total_bytes=4) as desk:
        desk.put_nowait("aaa", HIGH)
        big, scope = await desk.put("bb", HIGH)
        await desk.put("c", NORMAL)
        await desk.put("d", NORMAL)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert sorted(desk.ends) == ["bb cancelled", "c accepted"]
        assert big.outcome is None
        assert desk.books() == (2, 2, 1)
        desk.link_up()
        assert await desk.write_all() == "aaa c d"


@pytest.mark.parametrize("room_first", [True, False])
@clocked
async def test_cancelled_as_room_appears(room_first: bool) -> None:
    """Of room and a cancellation in one step the first decides, and nothing is torn."""
    async with open_desk(messages=1) as desk:
        first = desk.put_nowait("a")
        second, scope = await desk.put("b")
        if room_first:
            assert first.withdraw()
            scope.cancel()
        else:
            scope.cancel()
            assert first.withdraw()
        await wait_all_tasks_blocked()
        assert desk.ends == ["b accepted" if room_first else "b cancelled"]
        assert desk.books() == ((2, 1, 0) if room_first else (1, 0, 0))
        assert second.withdraw() is room_first


@clocked
async def test_time_to_live_runs_out_while_waiting() -> None:
    """Then the message is accepted and expired, at that time, and the next may get in."""
    async with open_desk(total_bytes=4) as desk:
        start = trio.current_time()
        desk.put_nowait("aaa")
        late, _ = await desk.put("bb", ttl_s=5)
        await desk.put("c")
        await trio.sleep_until(start + 4.999)
        assert not desk.ends
        await trio.sleep_until(start + 5)
        await wait_all_tasks_blocked()
        assert late.outcome is dropped("expired")
        assert sorted(desk.ends) == ["bb accepted", "c accepted"]
        assert desk.books() == (3, 2, 0)
        assert desk.session.outcomes == {dropped("expired"): 1}


@clocked
async def test_waiter_keeps_its_time_to_live() -> None:
    """Once it got in, the rest of its time runs in the outbox."""
    async with open_desk(messages=1) as desk:
        start = trio.current_time()
        first = desk.put_nowait("a")
        late, _ = await desk.put("b", ttl_s=5)
        await trio.sleep(3)
        first.withdraw()
        await wait_all_tasks_blocked()
        assert desk.ends == ["b accepted"]
        with pytest.raises(Undelivered):
            await late.wait_written()
        assert trio.current_time() == start + 5


@clocked
async def test_withdrawal_frees_room() -> None:
    """A message that is taken back makes room for one that waits."""
    async with open_desk(messages=1) as desk:
        first = desk.put_nowait("a")
        await desk.put("b")
        assert first.withdraw()
        assert first.outcome is WITHDRAWN
        await wait_all_tasks_blocked()
        assert desk.ends == ["b accepted"]
        assert not first.withdraw()


@clocked
async def test_eviction_may_free_more_than_it_needs() -> None:
    """What an urgent newcomer leaves of the room it made is for those who wait."""
    async with open_desk(total_bytes=8) as desk:
        evicted = desk.put_nowait("aaaaaa", LOW)
        desk.put_nowait("bb", LOW)
        await desk.put("ccc", LOW)
        desk.put_nowait("d", HIGH)
        assert evicted.outcome is dropped("evicted")
        await wait_all_tasks_blocked()
        assert desk.ends == ["ccc accepted"]


@clocked
async def test_replacement_may_free_room() -> None:
    """So is what a smaller message of the same key leaves."""
    async with open_desk(total_bytes=8) as desk:
        old = desk.put_nowait("aaaaaaaa", HIGH, key="k")
        await desk.put("bbb", NORMAL)
        desk.put_nowait("c", HIGH, key="k")
        assert old.outcome is dropped("replaced")
        await wait_all_tasks_blocked()
        assert desk.ends == ["bbb accepted"]


# The end of a link, and of everything


@clocked
async def test_link_down() -> None:
    """What was in flight is `indeterminate`; what was queued stays; nothing goes directly."""
    async with open_desk(messages=2) as desk:
        desk.link_up()
        desk.session.beat(Heartbeat(b"beat"))
        desk.take()
        flying, _ = await desk.put("a")
        desk.take()
        queued, _ = await desk.put("b")
        desk.mailbox.link_down()
        assert flying.outcome is INDETERMINATE
        assert queued.outcome is None
        desk.link_up()
        assert desk.write() == "b"
        desk.mailbox.link_down()
        assert desk.put_nowait("c").outcome is None


@clocked
async def test_ephemeral_is_dropped_with_the_link() -> None:
    """What would not be queued offline is dropped when the link dies, and leaves its room."""
    async with open_desk(messages=2) as desk:
        desk.link_up()
        desk.session.beat(Heartbeat(b"beat"))
        desk.take()
        typing = desk.put_nowait("typing", ephemeral=True)
        kept = desk.put_nowait("kept")
        await desk.put("next")
        desk.mailbox.link_down()
        await wait_all_tasks_blocked()
        assert (typing.outcome, kept.outcome) == (dropped("offline"), None)
        assert desk.ends == ["next accepted"]


@clocked
async def test_ephemeral_waiter_is_dropped_with_the_link() -> None:
    """One that still waits for room when the link dies is dropped too, whoever is before it."""
    async with open_desk(total_bytes=4) as desk:
        desk.link_up()
        desk.session.beat(Heartbeat(b"beat"))
        desk.take()
        desk.put_nowait("aaa")
        await desk.put("bb")
        typing, _ = await desk.put("c", ephemeral=True)
        await desk.put("d")
        desk.mailbox.link_down()
        await wait_all_tasks_blocked()
        assert typing.outcome is dropped("offline")
        assert desk.ends == ["c accepted"]
        assert desk.books() == (2, 1, 2)
        desk.link_up()
        assert await desk.write_all() == "aaa bb d"


@clocked
async def test_close() -> None:
    """After `close` nothing is accepted, and those who wait learn it."""
    async with open_desk(messages=1) as desk:
        desk.put_nowait("a", CRITICAL)
        waiting, _ = await desk.put("b", CRITICAL)
        await desk.put("c", LOW)
        desk.mailbox.close()
        await wait_all_tasks_blocked()
        assert sorted(desk.ends) == ["b closed", "c closed"]
        assert waiting.outcome is None
        assert desk.books() == (1, 1, 0)
        with pytest.raises(trio.ClosedResourceError):
            desk.put_nowait("d", CRITICAL)
        await desk.put("e")
        assert desk.ends[-1] == "e closed"
        desk.mailbox.close()
        assert desk.books() == (1, 1, 0)


@clocked
async def test_close_bars_the_direct_way() -> None:
    """After `close` an idle link takes nothing either."""
    async with open_desk() as desk:
        desk.link_up()
        desk.mailbox.close()
        with pytest.raises(trio.ClosedResourceError):
            desk.put_nowait("a")
        assert desk.books() == (0, 0, 0)


# Draining


async def watch_drained(desk: Desk) -> None:
    await desk.mailbox.wait_drained()
    desk.ends.append("drained")


@clocked
async def test_drained_at_once() -> None:
    """With nothing pending `wait_drained` is a checkpoint and no more."""
    async with open_desk() as desk:
        with assert_checkpoints():
            await desk.mailbox.wait_drained()
        assert trio.current_time() == 0.0


@clocked
async def test_drained() -> None:
    """It waits for what is queued, in flight and waiting, for every task that asks."""
    async with open_desk(messages=1) as desk:
        desk.put_nowait("a")
        await desk.put("b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_drained, desk)
            nursery.start_soon(watch_drained, desk)
            await wait_all_tasks_blocked()
            desk.link_up()
            assert desk.write() == "a"
            await wait_all_tasks_blocked()
            assert desk.ends == ["b accepted"]
            assert [entry.data for entry in desk.take()] == [b"b"]
            desk.mailbox.moved()
            await wait_all_tasks_blocked()
            assert desk.ends == ["b accepted"]
            desk.write()
        assert desk.ends == ["b accepted", "drained", "drained"]


@clocked
async def test_drained_of_what_is_in_flight() -> None:
    """What was handed to the link and not written yet is waited for."""
    async with open_desk() as desk:
        desk.put_nowait("a")
        desk.link_up()
        desk.take()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_drained, desk)
            await wait_all_tasks_blocked()
            assert not desk.ends
            desk.write()
        assert desk.ends == ["drained"]


@pytest.mark.parametrize("how", ["withdraw", "expire", "link down", "waiter cancelled"])
@clocked
async def test_drained_without_sending(how: str) -> None:
    """Any outcome will do."""
    async with open_desk(messages=1) as desk:
        if how == "link down":
            desk.link_up()
            desk.session.beat(Heartbeat(b"beat"))
            desk.take()
        one = desk.put_nowait("a", ttl_s=5 if how == "expire" else math.inf)
        scope = trio.CancelScope()
        if how == "waiter cancelled":
            scope = (await desk.put("b"))[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_drained, desk)
            await wait_all_tasks_blocked()
            assert "drained" not in desk.ends
            match how:
                case "withdraw":
                    one.withdraw()
                case "link down":
                    desk.take()
                    desk.mailbox.link_down()
                case "waiter cancelled":
                    scope.cancel()
                    one.withdraw()
        assert "drained" in desk.ends


@clocked
async def test_cancelling_the_drain() -> None:
    """Cancelling `wait_drained` stops the wait and nothing else."""
    async with open_desk() as desk:
        one = desk.put_nowait("a")
        with trio.move_on_after(1) as scope:
            await desk.mailbox.wait_drained()
        assert scope.cancelled_caught
        assert one.outcome is None
        desk.link_up()
        desk.write()
        await desk.mailbox.wait_drained()
        assert one.outcome is WRITTEN


# Expiry


@clocked
async def test_expiry_task_is_lazy() -> None:
    """The task that watches times is started by the first message that has one, and only once."""
    async with open_desk() as desk:
        desk.put_nowait("a")
        assert desk.spawned == 0
        desk.put_nowait("b", ttl_s=5)
        desk.put_nowait("c", ttl_s=6)
        assert desk.spawned == 1


@clocked
async def test_expiry_is_exact() -> None:
    """Each message expires at its own time, whichever was queued first."""
    async with open_desk() as desk:
        start = trio.current_time()
        ttls = [7.0, 3.0, 5.0]
        ends: list[float] = []

        async def watch(one: Delivery) -> None:
            with pytest.raises(Undelivered) as caught:
                await one.wait_written()
            assert caught.value.outcome is dropped("expired")
            ends.append(trio.current_time() - start)

        async with trio.open_nursery() as nursery:
            for ttl_s in ttls:
                nursery.start_soon(watch, desk.put_nowait("x", ttl_s=ttl_s))
                await wait_all_tasks_blocked()
        assert ends == [3.0, 5.0, 7.0]
        late = desk.put_nowait("late", ttl_s=1.0)
        await watch(late)
        assert ends[-1] == 8.0
        assert desk.spawned == 1


@clocked
async def test_expiry_frees_room() -> None:
    """A message that expires makes room for one that waits."""
    async with open_desk(messages=1) as desk:
        desk.put_nowait("a", ttl_s=5)
        await desk.put("b")
        await trio.sleep(4.9)
        assert not desk.ends
        await trio.sleep(0.2)
        assert desk.ends == ["b accepted"]
        assert desk.books() == (2, 1, 0)


# Everything at once

PUT, NOWAIT, CANCEL, WITHDRAW, WRITE, LINK, SLEEP = range(7)

MESSAGES, BYTES = 3, 8

operations = st.lists(
    st.tuples(
        st.sampled_from(
            [PUT] * 8 + [NOWAIT] * 3 + [WRITE] * 3 + [SLEEP] * 2 + [CANCEL, WITHDRAW, LINK]
        ),
        st.integers(0, 9),
        st.sampled_from([LOW, NORMAL, NORMAL, CRITICAL]),
        st.sampled_from([math.inf, math.inf, math.inf, 1.0, 2.0]),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=10,
    max_size=50,
)


class Story:
    """Random events, and after each of them the rules."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        #: In the order in which they were called; each with its place in it.
        self.puts: list[tuple[Delivery, trio.CancelScope]] = []
        self.places: dict[Delivery, int] = {}
        self.over: dict[Delivery, str] = {}
        self.sent: list[Entry] = []

    async def step(
        self, op: int, number: int, priority: Priority, ttl_s: float, ephemeral: bool
    ) -> None:
        desk = self.desk
        linked = desk.session.linked
        match op:
            case _ if op in (PUT, NOWAIT) and (linked or not ephemeral):
                data = bytes(1 + number // 2)
                one = desk.delivery(data, priority, ttl_s=ttl_s, ephemeral=ephemeral)
                self.places[one] = len(self.places)
                scope = trio.CancelScope()
                self.puts.append((one, scope))
                if op == PUT:
                    desk._nursery.start_soon(self._put, one, scope)
                else:
                    self._put_nowait(one)
            case _ if op == CANCEL and self.puts:
                self.puts[-1 - number % len(self.puts)][1].cancel()
            case _ if op == WITHDRAW and self.puts:
                one = self.puts[-1 - number % len(self.puts)][0]
                if self.over.get(one) == "accepted":
                    one.withdraw()
            case _ if op == WRITE and linked:
                self.sent += desk.take()
                desk.session.written(desk.given)
                desk.mailbox.moved()
            case _ if op == LINK and linked:
                self.sent += desk.take()
                desk.mailbox.link_down()
            case _ if op == LINK:
                # A link without the direct way, so that more is queued.
                desk.given = 0
                desk.mailbox.link_up(lambda delivery, now: False, None, desk._wake, 0)
            case _ if op == SLEEP:
                await trio.sleep(number / 3)
        await wait_all_tasks_blocked()
        self.check()

    async def _put(self, one: Delivery, scope: trio.CancelScope) -> None:
        self.over[one] = "waiting"
        with scope:
            await self.desk.mailbox.put(one)
            self.over[one] = "accepted"
        if scope.cancelled_caught:
            self.over[one] = "cancelled"

    def _put_nowait(self, one: Delivery) -> None:
        barred = any(
            other.priority >= one.priority for other, how in self.over.items() if how == "waiting"
        )
        if self.desk.mailbox.try_put(one, trio.current_time()):
            assert not barred
            self.over[one] = "accepted"
        else:
            self.over[one] = "refused"

    def check(self) -> None:
        session = self.desk.session
        which: dict[str, list[Delivery]] = {}
        for one, how in self.over.items():
            which.setdefault(how, []).append(one)
        accepted, waiting = which.get("accepted", []), which.get("waiting", [])
        outcomes = Counter(one.outcome for one in accepted)
        assert outcomes.pop(None, 0) == session.unsettled
        assert outcomes == session.outcomes
        assert session.accepted == len(accepted)
        assert self.desk.mailbox.waiting == len(waiting)
        assert not any(one.outcome for one in self.over if one not in accepted)
        now = trio.current_time()
        pending = [one for one in accepted if one.outcome is None]
        assert all(one.expires_at > now for one in (*pending, *waiting))
        assert session.linked or not any(one.ephemeral for one in (*pending, *waiting))
        if waiting:
            self.check_first(waiting, pending)
        for priority in Priority:
            sent = [self.places[e] for e in self.sent if e.priority == priority]  # type: ignore[index]
            assert sent == sorted(sent)

    def check_first(self, waiting: list[Delivery], queued: list[Delivery]) -> None:
        """Whoever is the first to get in really does not fit."""
        first = max(waiting, key=lambda one: (one.priority, -self.places[one]))
        below = [one for one in queued if one.priority < first.priority]
        excess = sum(len(one.data) for one in queued) + len(first.data) - BYTES
        assert len(queued) + 1 - MESSAGES > len(below) or excess > sum(
            len(one.data) for one in below
        )


@settings(max_examples=200, deadline=None)
@given(operations)
def test_rules(ops: list[tuple[int, int, Priority, float, bool]]) -> None:
    """Whatever happens: the books add up, nobody barges, and nobody waits who would fit."""

    async def scenario() -> None:
        async with open_desk(messages=MESSAGES, total_bytes=BYTES) as desk:
            story = Story(desk)
            await story.step(LINK, 0, NORMAL, 0.0, False)
            for op in ops:
                await story.step(*op)

    run_clocked(scenario)

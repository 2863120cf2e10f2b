"""The receiving end of a subscription."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.clocked import Steps, clocked, sleep
from trio_rt._subscription import Stream
from trio_rt.errors import DecodeError, OptionError, StreamOverflow
from trio_rt.message import Gap, Malformed, Message, Reset
from trio_rt.options import InboxLimits, OnFull
from trio_rt.protocol.inbox import Inbox

Numbers = Stream[Message[int] | Gap | Reset]


class Source:
    """An inbox with one stream, and numbers that arrive."""

    def __init__(self, *, capacity: float | None = None, on_full: OnFull = "pause") -> None:
        self.inbox = Inbox(InboxLimits())
        queue = self.inbox.open(
            None, reader=lambda payload: payload, capacity=capacity, on_full=on_full
        )
        self.stream: Numbers = Stream(queue, self.inbox)
        self.count = 0

    def arrive(self, count: int = 1) -> None:
        for _ in range(count):
            message = Message("number", self.count)
            self.count += 1
            if not self.inbox.receive(message, 1, 0.0):
                self.inbox.receive(message, 1, 0.0)


def shown(items: list[Any]) -> list[Any]:
    return [item.payload if isinstance(item, Message) else item for item in items]


RECEIVERS = ["receive", "receive_many"]


def receiver(stream: Numbers, name: str) -> Callable[[], Awaitable[list[Any]]]:
    """`receive` and `receive_many`, alike."""

    async def receive() -> list[Any]:
        return [await stream.receive()]

    return stream.receive_many if name == "receive_many" else receive


# Items


@clocked
async def test_receive() -> None:
    """Items come one at a time in order, loss among them."""
    source = Source(capacity=2)
    source.arrive(4)
    source.inbox.reset(Reset())
    assert shown([await source.stream.receive() for _ in range(3)]) == [0, 1, Reset()]
    source.arrive(3)
    assert shown([await source.stream.receive() for _ in range(3)]) == [4, 5, Gap(1)]


@clocked
async def test_receive_many() -> None:
    """All items that are ready come at once, up to the limit."""
    source = Source()
    source.arrive(5)
    assert shown(await source.stream.receive_many(3)) == [0, 1, 2]
    assert shown(await source.stream.receive_many()) == [3, 4]


@clocked
async def test_receive_nowait() -> None:
    """It gives an item that is ready, or raises `WouldBlock`."""
    source = Source()
    with pytest.raises(trio.WouldBlock):
        source.stream.receive_nowait()
    source.arrive()
    assert shown([source.stream.receive_nowait()]) == [0]
    with pytest.raises(trio.WouldBlock):
        source.stream.receive_nowait()


@pytest.mark.parametrize("limit", [0, -1])
@clocked
async def test_limit(limit: int) -> None:
    """A limit that lets nothing through is refused, and does not hang."""
    source = Source()
    source.arrive()
    with pytest.raises(OptionError) as caught:
        await source.stream.receive_many(limit)
    assert caught.value.field == "limit"
    assert shown(await source.stream.receive_many(1)) == [0]


@pytest.mark.parametrize("name", RECEIVERS)
@clocked
async def test_waits(name: str) -> None:
    """With nothing ready both wait for the first item."""
    source = Source()
    found = []

    async def receive() -> None:
        found.extend(await receiver(source.stream, name)())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert not found
        source.arrive()
    assert shown(found) == [0]


@clocked
async def test_waits_for_what_is_held() -> None:
    """What arrived before the stream opened is handed out with the first item asked for."""
    inbox = Inbox(InboxLimits())
    inbox.receive(Message("number", 1), 1, 0.0)
    queue = inbox.open(None, reader=lambda payload: payload, capacity=None, on_full="pause")
    stream: Numbers = Stream(queue, inbox)
    assert shown(await stream.receive_many()) == [1]


@clocked
async def test_malformed() -> None:
    """A stream of malformed items works alike."""
    inbox = Inbox(InboxLimits())
    stream: Stream[Malformed | Gap] = Stream(inbox.open_malformed(), inbox)
    item = Malformed("x", DecodeError("type", "is missing", {}), 0.0)
    inbox.malformed(item)
    with stream:
        assert await stream.receive() is item
    assert inbox.malformed_count == 1


# Ends


@pytest.mark.parametrize("name", RECEIVERS)
@clocked
async def test_end(name: str) -> None:
    """After the last item both raise `EndOfChannel`, again and again."""
    source = Source()
    source.arrive(2)
    source.inbox.end()
    receive = receiver(source.stream, name)
    found = await receive()
    if name == "receive":
        found += await receive()
    assert shown(found) == [0, 1]
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel):
            await receive()
    with pytest.raises(trio.EndOfChannel):
        source.stream.receive_nowait()


@clocked
async def test_iteration() -> None:
    """A loop over the stream ends with the connection, after what is left."""
    source = Source()
    source.arrive(3)
    source.inbox.end()
    with source.stream as stream:
        assert shown([item async for item in stream]) == [0, 1, 2]


@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize(
    ("event", "error"), [("end", trio.EndOfChannel), ("close", trio.ClosedResourceError)]
)
@clocked
async def test_ends_while_waited_for(name: str, event: str, error: type[Exception]) -> None:
    """A task that waits learns of the end, and of the closing by another task."""
    source = Source()

    async def receive() -> None:
        with pytest.raises(error):
            await receiver(source.stream, name)()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        if event == "end":
            source.inbox.end()
        else:
            source.stream.close()


@clocked
async def test_closed_by_its_holder() -> None:
    """A closed stream raises `ClosedResourceError` whatever it held, and takes nothing more."""
    source = Source()
    source.arrive(3)
    with source.stream as stream:
        pass
    source.arrive()
    for name in RECEIVERS:
        with pytest.raises(trio.ClosedResourceError):
            await receiver(stream, name)()
    with pytest.raises(trio.ClosedResourceError):
        stream.receive_nowait()
    assert source.inbox.discarded == 1
    stream.close()


@clocked
async def test_closed_after_the_end() -> None:
    """Closed and ended is closed."""
    source = Source()
    source.inbox.end()
    await source.stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await source.stream.receive()


@clocked
async def test_aclose() -> None:
    """`aclose` closes, and is a checkpoint; cancelled, it has closed all the same."""
    stream = Source().stream
    with assert_checkpoints():
        await stream.aclose()
    stream = Source().stream
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        stream.receive_nowait()


@pytest.mark.parametrize("name", RECEIVERS)
@clocked
async def test_overflow(name: str) -> None:
    """A stream that may not lose anything raises `StreamOverflow`, after what it held."""
    source = Source(capacity=2, on_full="fail")
    source.arrive(3)
    receive = receiver(source.stream, name)
    found = await receive()
    if name == "receive":
        found += await receive()
    assert shown(found) == [0, 1]
    source.inbox.end()
    for _ in range(2):
        with pytest.raises(StreamOverflow):
            await receive()
    with pytest.raises(StreamOverflow):
        source.stream.receive_nowait()


# Two tasks


@pytest.mark.parametrize("first", RECEIVERS)
@clocked
async def test_two_tasks(first: str) -> None:
    """While one task waits, every way to receive in another is refused, and it gets its item."""
    source = Source()
    found = []

    async def receive() -> None:
        found.extend(await receiver(source.stream, first)())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        for second in RECEIVERS:
            with pytest.raises(trio.BusyResourceError):
                await receiver(source.stream, second)()
        with pytest.raises(trio.BusyResourceError):
            source.stream.receive_nowait()
        source.arrive()
        for second in RECEIVERS:
            with pytest.raises(trio.BusyResourceError):
                await receiver(source.stream, second)()
        with pytest.raises(trio.BusyResourceError):
            source.stream.receive_nowait()
    assert shown(found) == [0]
    source.arrive()
    assert shown([source.stream.receive_nowait()]) == [1]


@pytest.mark.parametrize("how", ["cancel", "end"])
@clocked
async def test_no_longer_busy(how: str) -> None:
    """However a receive ends, the next one may begin."""
    source = Source()
    if how == "cancel":
        with trio.move_on_after(1):
            await source.stream.receive()
        with trio.move_on_after(1):
            await source.stream.receive_many()
        source.arrive()
        assert shown(await source.stream.receive_many()) == [0]
    else:
        source.inbox.end()
        for name in (*RECEIVERS, *RECEIVERS):
            with pytest.raises(trio.EndOfChannel):
                await receiver(source.stream, name)()


@clocked
async def test_in_turns() -> None:
    """Several tasks may receive, one after another."""
    source = Source()
    source.arrive(2)
    found = []

    async def receive() -> None:
        found.append(await source.stream.receive())

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
    assert shown(found) == [0, 1]


# Cancellation


@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize("arrive_first", [True, False])
@clocked
async def test_cancelled_as_an_item_arrives(name: str, arrive_first: bool) -> None:
    """Of an item and a cancellation in one step neither is lost."""
    source = Source()
    found = []

    async def receive() -> None:
        found.extend(await receiver(source.stream, name)())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        if arrive_first:
            source.arrive()
            nursery.cancel_scope.cancel()
        else:
            nursery.cancel_scope.cancel()
            source.arrive()
    assert shown(found) == ([0] if arrive_first else [])
    source.inbox.end()
    found += [item async for item in source.stream]
    assert shown(found) == [0]


@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize("turns", range(12))
@clocked
async def test_cancelled_at_any_step(name: str, turns: int) -> None:
    """Whenever a consumer is cancelled, what it has not got is still there, in order."""
    source = Source()
    found = []

    async def consume() -> None:
        while True:
            found.extend(await receiver(source.stream, name)())

    async def produce() -> None:
        while source.count < 10:
            source.arrive(1 + source.count % 3)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel)
            await consume()
    source.inbox.end()
    found += [item async for item in source.stream]
    assert shown(found) == list(range(source.count))


# Checkpoints


@clocked
async def test_receive_yields_now_and_then() -> None:
    """While items are ready every 64th call is a full checkpoint, and the others none."""
    source = Source()
    source.arrive(640)
    full = []
    for call in range(640):
        with Steps() as steps:
            await source.stream.receive()
        if steps.count:
            full.append(call)
    assert full == list(range(0, 640, 64))


@clocked
async def test_receive_yields_every_millisecond() -> None:
    """A consumer that takes its time is suspended at the next call."""
    source = Source()
    source.arrive(10)
    for _ in range(10):
        sleep(0.002)
        with assert_checkpoints():
            await source.stream.receive()


@pytest.mark.parametrize("call", [0, 1, 2, 40, 63, 64, 65])
@clocked
async def test_receive_notices_cancellation(call: int) -> None:
    """Whichever call it is, in a cancelled scope `receive` raises, and takes nothing."""
    source = Source()
    source.arrive(100)
    for _ in range(call):
        await source.stream.receive()
    with trio.CancelScope() as scope:
        scope.cancel()
        await source.stream.receive()
    assert scope.cancelled_caught
    assert shown([await source.stream.receive()]) == [call]


@clocked
async def test_receive_many_yields_once() -> None:
    """`receive_many` is one full checkpoint for each list."""
    source = Source()
    for _ in range(100):
        source.arrive(2)
        with Steps() as steps, assert_checkpoints():
            await source.stream.receive_many()
        assert steps.count == 1
    source.arrive()
    with trio.CancelScope() as scope:
        scope.cancel()
        await source.stream.receive_many()
    assert scope.cancelled_caught
    assert shown(await source.stream.receive_many()) == [200]


@clocked
async def test_one_wake_up_for_a_burst() -> None:
    """A consumer that waits is woken once, however many items arrive at once."""
    source = Source()
    found: list[Any] = []

    async def receive() -> None:
        with Steps() as steps:
            found.extend(await source.stream.receive_many())
        found.append(steps.count)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        source.arrive(3)
    assert shown(found) == [0, 1, 2, 2]

"""The store in memory: at once, and bounded. The contract is in test_brokers.py."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_rt.errors import OptionError
from trio_rt.hub import _log
from trio_rt.hub._broker import LogLimits, Present
from trio_rt.hub.brokers import memory
from trio_rt.hub.brokers.memory import SWEEP_S, MemoryBroker

from .brokers import running

ANN = Present("ann", "ann/1")


async def test_it_is_told_in_the_same_step() -> None:
    """The sink first, and then `done`."""
    async with running(MemoryBroker()) as node:
        await node.watch("r")
        heard: list[int] = []
        node.broker.append(node.draft("r"), lambda _: heard.append(len(node.ear.items)))
        assert heard == [1]
        node.broker.post(node.draft("r"))
        node.broker.enter("r", ANN)
        node.broker.leave("r", ANN.device)
        node.broker.mark("r", "ann", 1)
        assert [what[0] for what in node.ear.heard] == [
            *("item", "item", "present", "absent", "marked")
        ]


async def test_news_that_is_none() -> None:
    """The same device with the same info, a leave of nobody, and a mark that does not move."""
    async with running(MemoryBroker()) as node:
        await node.watch("r")
        await node.append("r")
        for _ in range(2):
            node.broker.enter("r", ANN)
            node.broker.mark("r", "ann", 1)
        node.broker.leave("r", "nobody")
        assert len(node.ear.heard) == 3


async def test_idle_rooms_are_bounded() -> None:
    """Those used longest ago are forgotten; a page is a use, and so is an append."""
    broker = MemoryBroker(rooms=3)
    async with running(broker) as node:
        for room in "abc":
            await node.append(room)
        await node.offsets("a")
        await node.append("b")
        await node.append("d")
        assert broker.statistics() == {"rooms": 3, "idle": 3}
        assert [(await node.head(room)).last for room in "abcd"] == [1, 2, 0, 1]


async def test_a_forgotten_room_has_a_new_epoch() -> None:
    """Each time; others keep theirs."""
    async with running(MemoryBroker(rooms=1)) as node:
        await node.watch("kept")
        kept = (await node.append("kept")).epoch
        epochs = []
        for _ in range(3):
            position = await node.append("a")
            assert position.offset == 1
            epochs.append(position.epoch)
            assert (await node.append("b")).offset == 1
        assert len({*epochs, kept}) == 3
        assert epochs[0] == kept
        assert (await node.append("kept")).epoch == kept


async def test_no_idle_rooms_at_all() -> None:
    """With `rooms=0` a log lives as long as somebody watches, and is not begun twice."""
    async with running(MemoryBroker(rooms=0)) as node:
        first, second = await node.append("r"), await node.append("r")
        assert first.offset == second.offset == 1
        assert first.epoch != second.epoch
        epoch = (await node.watch("r")).head.epoch
        assert [(await node.append("r")).offset for _ in range(3)] == [1, 2, 3]
        node.broker.unwatch("r")
        assert (await node.head("r")).epoch != epoch


async def test_held_rooms_are_not_forgotten() -> None:
    """Those that are watched or have somebody in them do not count."""
    broker = MemoryBroker(rooms=1)
    async with running(broker) as node:
        for n in range(5):
            await node.watch(f"watched {n}")
            node.broker.enter(f"entered {n}", ANN)
            await node.append(f"watched {n}")
            await node.append(f"entered {n}")
        assert broker.statistics() == {"rooms": 10, "idle": 0}
        node.broker.unwatch("watched 1")
        node.broker.leave("entered 1", ANN.device)
        assert broker.statistics() == {"rooms": 9, "idle": 1}
        heads = [await node.head(f"{how} 1") for how in ("watched", "entered")]
        assert [head.last for head in heads] == [0, 1]


async def test_a_room_that_is_watched_again() -> None:
    """It is idle no more, whatever is used beside it."""
    async with running(MemoryBroker(rooms=1)) as node:
        epoch = (await node.append("r")).epoch
        await node.watch("r")
        for n in range(3):
            await node.append(f"other {n}")
        position = await node.append("r")
        assert (position.epoch, position.offset) == (epoch, 2)


async def test_rooms_without_a_log_are_not_kept() -> None:
    """Whoever joins, asks and leaves uses up nothing, and the epoch stays."""
    broker = MemoryBroker()
    async with running(broker) as node:
        epochs = set()
        for n in range(50):
            epochs.add((await node.watch(f"r{n}")).head.epoch)
            node.broker.enter(f"r{n}", ANN)
            node.broker.mark(f"r{n}", "ann", 5)
            node.broker.unwatch(f"r{n}")
            node.broker.leave(f"r{n}", ANN.device)
            epochs.add((await node.head(f"s{n}")).epoch)
        assert broker.statistics() == {"rooms": 0, "idle": 0}
        assert len(epochs) == 1


async def test_old_rooms_are_swept(autojump_clock: MockClock) -> None:
    """An idle room goes when its messages and its keys are old; not one that is held."""
    limits = LogLimits(keep_s=100.0, repeat_s=200.0)
    broker = MemoryBroker(limits)
    async with running(broker) as node:
        await node.append("idle")
        await node.watch("held")
        await node.append("held")
        await trio.sleep(200.0 - SWEEP_S)
        await node.append("younger")
        assert broker.statistics()["rooms"] == 3
        await trio.sleep(2 * SWEEP_S)
        assert broker.statistics() == {"rooms": 2, "idle": 1}
        await trio.sleep(200.0)
        assert broker.statistics() == {"rooms": 1, "idle": 0}
        head = await node.head("held")
        assert (head.first, head.last) == (2, 1)


async def test_marks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a room with too many those who have read farthest are known."""
    monkeypatch.setattr(memory, "MOST_MARKS", 5)
    monkeypatch.setattr(_log, "MOST_MARKS", 5)
    async with running(MemoryBroker()) as node:
        await node.watch("r")
        for n in range(1, 31):
            await node.append("r")
            node.broker.mark("r", f"u{n}", n)
        marks = (await node.watch("r")).marks
        assert marks == {f"u{n}": n for n in range(26, 31)}


async def test_a_mark_beyond_the_end() -> None:
    """It is of no message, and ignored."""
    async with running(MemoryBroker()) as node:
        await node.watch("r")
        await node.append("r")
        node.broker.mark("r", "ann", 2)
        assert (await node.watch("r")).marks == {}
        node.broker.mark("r", "ann", 1)
        assert (await node.watch("r")).marks == {"ann": 1}


async def test_it_runs_once_at_a_time() -> None:
    """A second hub is refused, and the first goes on."""
    async with running(MemoryBroker()) as node:
        with pytest.raises(trio.BusyResourceError):
            await node.broker.run(node.ear)
        assert (await node.append("r")).offset == 1


def test_another_run_of_trio() -> None:
    """Its clock is another one: rooms begin anew, with a new epoch."""
    broker = MemoryBroker()

    async def main() -> tuple[str, int]:
        async with running(broker) as node:
            position = await node.append("r", key="k")
            return position.epoch, position.offset

    (a, first), (b, second) = trio.run(main), trio.run(main)
    assert (first, second) == (1, 1)
    assert a != b


@pytest.mark.parametrize("rooms", [-1, 1.5, True, "many"])
def test_bad_options(rooms: object) -> None:
    """They are refused where they are written."""
    with pytest.raises(OptionError):
        MemoryBroker(rooms=rooms)  # type: ignore[arg-type]
    with pytest.raises(OptionError):
        MemoryBroker(limits=5)  # type: ignore[arg-type]

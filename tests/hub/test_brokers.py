"""The contract of `Broker`, sentence by sentence, for every store there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_rt.hub._broker import BrokerError, Head, LogLimits, Position, Present, Way

from . import redis_store
from .brokers import FACTORIES, LIMIT_S, Factory, Node, Nodes, Pending, running

#: Opens a store with limits.
Store = Callable[..., AbstractAsyncContextManager[Nodes]]

#: Those that several nodes can use at once.
SHARED = redis_store.FACTORIES

ODD_NAMES = [
    *("*", "a:b", "a b", "{x}", "%00", "[a-z]", "?", "\\", "'; --", '"', "a/b", "..", "NULL", "0"),
    *("\N{FAMILY}" * 2, "e\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LETTER E WITH ACUTE}"),
    *("x" * 128, "x" * 127 + "y", "\N{PILE OF POO}" * 32, "a", "A", "$a", "{a}:{b}", "log", "#"),
]


def _store(factory: Factory, tmp_path: Path) -> Store:
    numbers = itertools.count()

    def open_store(**limits: Any) -> AbstractAsyncContextManager[Nodes]:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        return factory(directory, LogLimits(**limits))

    return open_store


@pytest.fixture(params=[*FACTORIES, *SHARED])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return _store({**FACTORIES, **SHARED}[request.param], tmp_path)


@pytest.fixture(params=list(SHARED))
def shared_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """One that several nodes can use at once."""
    return _store(SHARED[request.param], tmp_path)


@asynccontextmanager
async def one_node(opened: AbstractAsyncContextManager[Nodes]) -> AsyncIterator[Node]:
    async with opened as nodes, running(nodes.open()) as node:
        yield node


@asynccontextmanager
async def two_nodes(opened: AbstractAsyncContextManager[Nodes]) -> AsyncIterator[tuple[Node, Node]]:
    async with opened as nodes, running(nodes.open()) as a, running(nodes.open()) as b:
        yield a, b


async def fill(node: Node, room: str, count: int) -> Position:
    """Append messages with the bodies 1 to `count`; returns the last position."""
    pending = [node.put(node.draft(room, b"%d" % (n + 1))) for n in range(count)]
    positions = [await each.position() for each in pending]
    return positions[-1]


async def bodies(node: Node, room: str) -> list[bytes]:
    page = await node.broker.page(room, "after", 0, limit=10_000, max_bytes=1 << 30)
    return [item.body for item in page.items]


# The log.


async def test_offsets_count_from_one(store: Store) -> None:
    """In one epoch, without holes, and each is told to its sender."""
    async with one_node(store()) as node:
        positions = [await node.append("r") for _ in range(5)]
        assert [each.offset for each in positions] == [1, 2, 3, 4, 5]
        assert len({each.epoch for each in positions}) == 1
        assert await node.head("r") == Head(positions[0].epoch, 1, 5)


async def test_drafts_are_stored_in_the_order_of_the_calls(store: Store) -> None:
    """Also those that nobody waited for; each has one outcome."""
    async with one_node(store()) as node:
        pending = [node.put(node.draft(f"r{n % 3}", b"%d" % n)) for n in range(600)]
        for each in pending:
            await each.position()
        for room in range(3):
            expected = [b"%d" % n for n in range(room, 600, 3)]
            assert await bodies(node, f"r{room}") == expected
        assert [each.outcomes[0].offset for each in pending[::3]] == [*range(1, 201)]  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert all(len(each.outcomes) == 1 for each in pending)


async def test_an_item_is_as_its_draft(store: Store) -> None:
    """With its place: in the log, in the ear, and passing ones too."""
    async with one_node(store()) as node:
        epoch = (await node.watch("r")).head.epoch
        body = '{"text": "\N{SNOWMAN} \\u0000"}'.encode()
        await node.put(node.draft("r", body, only="u\N{SNOWMAN}", but="d:1")).position()
        node.broker.post(node.draft("r", b"[]", only="b", but="*"))
        await node.ear.until(lambda: len(node.ear.items) == 2)
        stored, passing = node.ear.items
        page = await node.broker.page("r", "after", 0, limit=9, max_bytes=99)
        assert list(page.items) == [stored]
        found = (stored.room, stored.epoch, stored.offset, stored.body, stored.only, stored.but)
        assert found == ("r", epoch, 1, body, "u\N{SNOWMAN}", "d:1")
        assert (passing.room, passing.offset, passing.body) == ("r", 0, b"[]")
        assert (passing.only, passing.but) == ("b", "*")


async def test_a_repetition_gives_the_first_position(store: Store) -> None:
    """It is not stored, not told again, and does not use up an offset."""
    async with one_node(store()) as node:
        await node.watch("r")
        first = await node.append("r", b"1", key="k")
        await node.append("r", b"2", key="l")
        assert await node.append("r", b"3", key="k") == first
        assert (await node.append("r", b"4", key="K")).offset == 3
        assert (await node.append("other", b"5", key="k")).offset == 1
        await node.ear.until(lambda: len(node.ear.items) == 3)
        assert node.ear.bodies("r") == [b"1", b"2", b"4"] == await bodies(node, "r")


async def test_repetitions_on_the_way(store: Store) -> None:
    """A draft that follows its first at once is known, too."""
    async with one_node(store()) as node:
        await node.watch("r")
        pending = [node.put(node.draft("r", b"%d" % n, key=f"k{n // 3}")) for n in range(30)]
        offsets = [(await each.position()).offset for each in pending]
        assert offsets == [n // 3 + 1 for n in range(30)]
        await node.ear.until(lambda: len(node.ear.items) == 10)
        await node.append("r", b"end")
        await node.ear.until(lambda: b"end" in node.ear.bodies("r"))
        assert node.ear.stored("r") == [*range(1, 12)]


async def test_a_key_outlives_its_message(store: Store) -> None:
    """A repetition is known though the first is gone from the log."""
    async with one_node(store(messages=2)) as node:
        await node.append("r", key="k")
        await fill(node, "r", 10)
        assert (await node.append("r", key="k")).offset == 1
        assert await node.offsets("r") == [10, 11]


async def test_keys_expire(store: Store, mock_clock: MockClock) -> None:
    """After `repeat_s` the same key is a new message, and then known again."""
    async with store(repeat_s=0.1) as nodes, running(nodes.open()) as node:
        assert (await node.append("r", key="k")).offset == 1
        await nodes.pass_time(0.11)
        pending = [node.put(node.draft("r", key="k")) for _ in range(2)]
        assert [(await each.position()).offset for each in pending] == [2, 2]
        assert await node.offsets("r") == [1, 2]


async def test_keys_are_known_for_their_time(store: Store, mock_clock: MockClock) -> None:
    """A repetition does not make it longer, nor shorter."""
    async with store(repeat_s=100.0) as nodes, running(nodes.open()) as node:
        await node.append("r", key="k")
        await nodes.pass_time(0.01)
        await node.append("r", key="k")
        await node.append("r", key="l")
        assert (await node.append("r", key="k")).offset == 1
        assert (await node.append("r", key="l")).offset == 2


async def test_the_log_is_bounded_in_messages(store: Store) -> None:
    """The oldest go; offsets go on."""
    async with one_node(store(messages=3)) as node:
        for n in range(1, 9):
            await node.append("r")
            expected = [*range(max(1, n - 2), n + 1)]
            assert await node.offsets("r") == expected
            head = await node.head("r")
            assert (head.first, head.last) == (expected[0], n)
        await fill(node, "many", 1000)
        assert await node.offsets("many") == [998, 999, 1000]


async def test_the_log_is_bounded_in_bytes(store: Store) -> None:
    """The bodies of what is stored are within `total_bytes`; one that is larger is gone at once."""
    async with one_node(store(total_bytes=10)) as node:
        await node.watch("r")
        for size in (4, 4, 2):
            await node.append("r", b"x" * size)
        assert await node.offsets("r") == [1, 2, 3]
        await node.append("r", b"1")
        assert await node.offsets("r") == [2, 3, 4]
        await node.append("r", b"x" * 10)
        assert await node.offsets("r") == [5]
        assert (await node.append("r", b"x" * 11)).offset == 6
        head = await node.head("r")
        assert (head.first, head.last) == (7, 6)
        assert await node.offsets("r") == []
        await node.append("r", b"1")
        assert await node.offsets("r") == [7]
        await node.ear.until(lambda: node.ear.stored("r") == [*range(1, 8)])


async def test_messages_grow_old(store: Store, mock_clock: MockClock) -> None:
    """After `keep_s` they are gone, for pages and heads, without another message."""
    async with store(keep_s=0.2, repeat_s=10.0) as nodes, running(nodes.open()) as node:
        epoch = (await node.watch("r")).head.epoch
        await fill(node, "r", 7)
        await nodes.pass_time(0.21)
        assert await node.offsets("r") == []
        assert (await node.watch("r")).head == Head(epoch, 8, 7)
        await node.append("r", b"8")
        await nodes.pass_time(0.01)
        page = await node.broker.page("r", "before", 9, limit=9, max_bytes=9)
        assert [item.offset for item in page.items] in ([8], [])
        assert page.head.last == 8


async def test_an_empty_room(store: Store) -> None:
    """It has a head with nothing in it, and the epoch that its first message will have."""
    async with one_node(store()) as node:
        snapshot = await node.watch("r")
        assert snapshot.head == Head(snapshot.head.epoch, 1, 0)
        assert list(snapshot.present) == []
        assert dict(snapshot.marks) == {}
        page = await node.broker.page("r", "before", 5, limit=5, max_bytes=5)
        assert (page.head, list(page.items)) == (snapshot.head, [])
        assert await node.append("r") == Position(snapshot.head.epoch, 1)


@pytest.mark.parametrize(
    ("way", "offset", "limit", "expected"),
    [
        ("after", 0, 3, [6, 7, 8]),
        ("after", 5, 3, [6, 7, 8]),
        ("after", 6, 3, [7, 8, 9]),
        ("after", 7, 1, [8]),
        ("after", 13, 9, [14, 15]),
        ("after", 14, 9, [15]),
        ("after", 15, 9, []),
        ("after", 10**30, 9, []),
        ("after", -(10**30), 2, [6, 7]),
        ("after", 0, 10**9, [*range(6, 16)]),
        ("after", 0, 0, []),
        ("before", 16, 3, [13, 14, 15]),
        ("before", 17, 3, [13, 14, 15]),
        ("before", 10**30, 3, [13, 14, 15]),
        ("before", 15, 3, [12, 13, 14]),
        ("before", 8, 9, [6, 7]),
        ("before", 7, 9, [6]),
        ("before", 6, 9, []),
        ("before", 5, 9, []),
        ("before", 0, 9, []),
        ("before", -1, 9, []),
    ],
)
async def test_paging(store: Store, way: Way, offset: int, limit: int, expected: list[int]) -> None:
    """Both ways, of a log whose messages are 6 to 15: what is next to `offset`, and not it."""
    async with one_node(store(messages=10)) as node:
        epoch = (await fill(node, "r", 15)).epoch
        page = await node.broker.page("r", way, offset, limit=limit, max_bytes=1 << 20)
        assert [item.offset for item in page.items] == expected
        assert [item.body for item in page.items] == [b"%d" % n for n in expected]
        assert page.head == Head(epoch, 6, 15)


@pytest.mark.parametrize(
    ("way", "max_bytes", "expected"),
    [
        ("after", 12, [3, 4, 5]),
        ("after", 11, [3, 4]),
        ("after", 4, [3]),
        ("after", 1, [3]),
        ("after", 0, [3]),
        ("before", 12, [3, 4, 5]),
        ("before", 8, [4, 5]),
        ("before", 7, [5]),
        ("before", 0, [5]),
    ],
)
async def test_pages_are_bounded_in_bytes(
    store: Store, way: Way, max_bytes: int, expected: list[int]
) -> None:
    """One at least, and those next to the offset."""
    async with one_node(store()) as node:
        for _ in range(7):
            await node.append("r", b"1234")
        offset = 2 if way == "after" else 6
        page = await node.broker.page("r", way, offset, limit=9, max_bytes=max_bytes)
        assert [item.offset for item in page.items] == expected


async def test_walking_a_log_page_by_page(store: Store) -> None:
    """Both ways, each message comes once."""
    async with one_node(store()) as node:
        await fill(node, "r", 100)
        forth: list[int] = []
        while page := await node.offsets("r", "after", forth[-1] if forth else 0, limit=7):
            forth += page
        back: list[int] = []
        while page := await node.offsets("r", "before", back[0] if back else 101, limit=7):
            back[:0] = page
        assert forth == back == [*range(1, 101)]


async def test_odd_names(store: Store) -> None:
    """Every name is its own room, user, device and key."""
    async with one_node(store()) as node:
        for name in ODD_NAMES:
            await node.watch(name)
        for name in ODD_NAMES:
            node.broker.enter(name, Present(name, name, b'{"a": 1}'))
            draft = node.draft(name, b'"%d"' % len(name), key=name, only=name, but=name)
            assert (await node.put(draft).position()).offset == 1
            assert (await node.put(draft).position()).offset == 1
            node.broker.mark(name, name, 1)
        await node.ear.until(lambda: len(node.ear.heard) == 3 * len(ODD_NAMES))
        for name in ODD_NAMES:
            snapshot = await node.watch(name)
            assert list(snapshot.present) == [Present(name, name, b'{"a": 1}')]
            assert dict(snapshot.marks) == {name: 1}
            (item,) = (await node.broker.page(name, "after", 0, limit=9, max_bytes=9)).items
            assert (item.room, item.only, item.but) == (name, name, name)


async def test_odd_keys_and_bodies(store: Store) -> None:
    """A key is any text, a body any bytes."""
    async with one_node(store()) as node:
        keys = ["", "\0", "a\0b", "a\0c", "\x1f", "\n", "\N{SNOWMAN}", "x" * 1000, "x" * 999]
        body = bytes(range(256))
        for n, key in enumerate(keys):
            draft = node.draft("r", body)
            draft = type(draft)("r", key, body)
            assert (await node.put(draft).position()).offset == n + 1
            assert (await node.put(draft).position()).offset == n + 1
        assert await bodies(node, "r") == [body] * len(keys)
        big = bytes(300_000)
        await node.append("big", big)
        assert await bodies(node, "big") == [big]


async def test_ten_thousand_rooms(store: Store) -> None:
    """Each has its own log."""
    async with one_node(store()) as node:
        for start in range(0, 10_000, 1000):
            pending = [node.put(node.draft(f"r{n}", b"%d" % n)) for n in range(start, start + 1000)]
            assert {(await each.position()).offset for each in pending} == {1}
        for n in range(0, 10_000, 97):
            assert await bodies(node, f"r{n}") == [b"%d" % n]


# The sink.


async def test_what_is_watched_is_told_in_order(store: Store) -> None:
    """Each message once, one's own included; of what is not watched nothing."""
    async with one_node(store()) as node:
        await node.watch("a")
        await node.watch("b")
        pending = [node.put(node.draft("abc"[n % 3], b"%d" % n)) for n in range(90)]
        for each in pending:
            await each.position()
        await node.ear.until(lambda: len(node.ear.items) == 60)
        for start, room in enumerate("ab"):
            assert node.ear.stored(room) == [*range(1, 31)]
            assert node.ear.bodies(room) == [b"%d" % n for n in range(start, 90, 3)]
        assert node.ear.of("c") == []


async def test_a_snapshot_and_what_follows(store: Store) -> None:
    """While somebody writes: no hole between the snapshot and what is told, and no disorder."""
    async with one_node(store()) as node, trio.open_nursery() as nursery:
        written = [0] * 20
        stop = trio.Event()

        async def write() -> None:
            last_round = False
            while not last_round:
                last_round = stop.is_set()
                pending = []
                for room in range(20):
                    written[room] += 1
                    pending.append(node.put(node.draft(f"r{room}", b"%d" % written[room])))
                    if room % 7 == 0:
                        await trio.lowlevel.checkpoint()
                await pending[-1].position()

        nursery.start_soon(write)
        heads = {}
        for room in range(20):
            await node.append("elsewhere")
            heads[room] = (await node.watch(f"r{room}")).head
        await node.append("elsewhere")
        stop.set()
        await node.ear.until(
            lambda: all(node.ear.stored(f"r{room}")[-1:] == [written[room]] for room in range(20))
        )
        for room, head in heads.items():
            told = node.ear.stored(f"r{room}")
            assert told == [*range(told[0], written[room] + 1)]
            assert told[0] <= head.last + 1
        assert any(head.last for head in heads.values())


async def test_a_snapshot_has_what_was_before(store: Store) -> None:
    """A watch after an append has it in its head."""
    async with one_node(store()) as node:
        for n in range(1, 20):
            position = await node.append("r")
            node.broker.unwatch("r")
            head = (await node.watch("r")).head
            assert head == Head(position.epoch, 1, n)


async def test_unwatch(store: Store) -> None:
    """Nothing more is told of the room, until it is watched again."""
    async with one_node(store()) as node:
        await node.watch("r")
        await node.watch("other")
        await node.append("r", b"1")
        await node.ear.until(lambda: node.ear.bodies("r") == [b"1"])
        node.broker.unwatch("r")
        node.broker.unwatch("never watched")
        await node.append("r", b"2")
        node.broker.post(node.draft("r", b"3"))
        node.broker.mark("r", "u", 2)
        node.broker.enter("r", Present("u", "d"))
        node.broker.leave("r", "d")
        await node.settled("other")
        assert node.ear.bodies("r") == [b"1"]
        assert {what[1] for what in node.ear.heard if what[0] != "item"} == set()
        assert (await node.watch("r")).head.last == 2
        await node.append("r", b"4")
        await node.ear.until(lambda: b"4" in node.ear.bodies("r"))
        assert b"3" not in node.ear.bodies("r")


async def test_watching_what_is_watched(store: Store) -> None:
    """A new snapshot, and each message is told once."""
    async with one_node(store()) as node:
        for n in range(3):
            assert (await node.watch("r")).head.last == n
            await node.append("r")
        await node.ear.until(lambda: len(node.ear.items) == 3)
        await node.settled("r")
        assert node.ear.stored("r") == [1, 2, 3, 4]
        node.broker.unwatch("r")
        node.ear.forget()
        await node.watch("other")
        await node.append("r")
        await node.settled("other")
        assert node.ear.of("r") == []


async def test_passing_messages(store: Store) -> None:
    """They are told in order with appends, and stored nowhere."""
    async with one_node(store()) as node:
        await node.watch("r")
        for n in range(0, 60, 3):
            node.put(node.draft("r", b"%d" % n))
            node.broker.post(node.draft("r", b"%d" % (n + 1)))
            node.broker.post(node.draft("r", b"%d" % (n + 2)))
            if n % 4 == 0:
                await trio.lowlevel.checkpoint()
        await node.ear.until(lambda: len(node.ear.items) == 60)
        assert node.ear.bodies("r") == [b"%d" % n for n in range(60)]
        assert [item.offset for item in node.ear.items if item.offset] == [*range(1, 21)]
        assert await bodies(node, "r") == [b"%d" % n for n in range(0, 60, 3)]
        node.broker.post(node.draft("nobody watches", b"{}"))
        assert (await node.head("nobody watches")).last == 0


async def test_passing_messages_have_no_keys(store: Store) -> None:
    """The same key passes again, and an append with it is new."""
    async with one_node(store()) as node:
        await node.watch("r")
        node.broker.post(node.draft("r", key="k"))
        node.broker.post(node.draft("r", key="k"))
        assert (await node.append("r", key="k")).offset == 1
        await node.ear.until(lambda: len(node.ear.items) == 3)
        assert [item.offset for item in node.ear.items] == [0, 0, 1]


# Presence.

ANN = Present("ann", "ann/1", b'{"name": "Ann"}')


async def test_devices_enter_and_leave(store: Store) -> None:
    """It is told, and the snapshot has who is there."""
    async with one_node(store()) as node:
        broker, ear = node.broker, node.ear
        await node.watch("r")
        renamed = Present("ann", "ann/1", b'{"name": "Anne"}')
        other = Present("ann", "ann/2", b"null")
        broker.enter("r", ANN)
        await ear.hears("present", "r", ANN)
        assert list((await node.watch("r")).present) == [ANN]
        broker.enter("r", renamed)
        await ear.hears("present", "r", renamed)
        broker.enter("r", other)
        await ear.hears("present", "r", other)
        found = (await node.watch("r")).present
        assert sorted(found, key=lambda who: who.device) == [renamed, other]
        broker.leave("r", "ann/1")
        await ear.hears("absent", "r", "ann/1")
        assert list((await node.watch("r")).present) == [other]
        assert ("absent", "r", "ann/2") not in ear.heard
        broker.leave("r", "unknown")
        broker.leave("unknown", "ann/2")
        broker.leave("r", "ann/2", for_good=True)
        await ear.hears("gone", "r", "ann/2")
        assert list((await node.watch("r")).present) == []


async def test_who_entered_before_the_watch(store: Store) -> None:
    """A snapshot has them; who has left again is not in it. Rooms are apart."""
    async with one_node(store()) as node:
        node.broker.enter("r", ANN)
        node.broker.enter("r", Present("bob", "bob/1"))
        node.broker.leave("r", "bob/1")
        node.broker.enter("s", Present("bob", "bob/1"))
        assert list((await node.watch("r")).present) == [ANN]
        assert list((await node.watch("s")).present) == [Present("bob", "bob/1")]
        assert (await node.watch("t")).head.last == 0


async def test_entering_and_leaving_in_one_step(store: Store) -> None:
    """The last word holds, in the snapshot and in what is told."""
    async with one_node(store()) as node:
        await node.watch("r")
        for _ in range(5):
            node.broker.enter("r", ANN)
            node.broker.leave("r", ANN.device)
        node.broker.enter("r", ANN)
        node.broker.enter("r", Present("end", "end"))
        await node.ear.hears("present", "r", Present("end", "end"))
        about = [what for what in node.ear.heard if what[-1] in (ANN, ANN.device)]
        assert about[-1] == ("present", "r", ANN)
        assert ANN in (await node.watch("r")).present


async def test_a_run_that_ends_takes_its_devices(store: Store) -> None:
    """The roster is of those who are there; logs, marks and epochs are kept."""
    async with store() as nodes:
        async with running(nodes.open()) as node:
            await node.watch("r")
            node.broker.enter("r", ANN)
            position = await node.append("r", b"1", key="k")
            node.broker.mark("r", "ann", 1)
            await node.ear.hears("marked", "r", "ann", 1)
            await node.ear.hears("present", "r", ANN)
        async with running(nodes.open()) as node:
            snapshot = await node.watch("r")
            assert list(snapshot.present) == []
            assert snapshot.head == Head(position.epoch, 1, 1)
            assert dict(snapshot.marks) == {"ann": 1}
            assert await node.append("r", b"2", key="k") == position
            assert await node.append("r", b"2") == Position(position.epoch, 2)
            assert await bodies(node, "r") == [b"1", b"2"]


# Marks.


async def test_marks_never_go_back(store: Store) -> None:
    """What is not ahead is ignored; each user has an own mark in each room."""
    async with one_node(store()) as node:
        await fill(node, "r", 10)
        await fill(node, "s", 10)
        await node.watch("r")
        for user, offset in [("a", 3), ("b", 9), ("a", 7), ("a", 5), ("a", 7), ("a", 0), ("b", -1)]:
            node.broker.mark("r", user, offset)
        node.broker.mark("s", "a", 2)
        node.broker.mark("r", "end", 1)
        await node.ear.hears("marked", "r", "end", 1)
        await node.ear.hears("marked", "r", "a", 7)
        assert dict((await node.watch("r")).marks) == {"a": 7, "b": 9, "end": 1}
        assert dict((await node.watch("s")).marks) == {"a": 2}
        told = [what[3] for what in node.ear.heard if what[:3] == ("marked", "r", "a")]
        assert told in ([3, 7], [7])
        node.broker.mark("r", "a", 6)
        node.broker.mark("r", "a", 8)
        await node.ear.hears("marked", "r", "a", 8)
        assert ("marked", "r", "a", 6) not in node.ear.heard
        assert (await node.watch("r")).marks["a"] == 8


async def test_a_mark_on_what_is_gone(store: Store) -> None:
    """A mark stays where it is though its message is pruned."""
    async with one_node(store(messages=2)) as node:
        await node.watch("r")
        await fill(node, "r", 3)
        node.broker.mark("r", "a", 2)
        await node.ear.hears("marked", "r", "a", 2)
        await fill(node, "r", 10)
        assert dict((await node.watch("r")).marks) == {"a": 2}


# Cancelling, and not running.


async def test_a_cancelled_page(store: Store) -> None:
    """It leaves nothing behind."""
    async with one_node(store()) as node:
        await fill(node, "r", 3)
        for turns in range(4):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(node.offsets, "r")
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert scope.cancelled_caught or turns
        assert await node.offsets("r") == [1, 2, 3]


async def test_a_cancelled_watch(store: Store) -> None:
    """Not watched, if it was not before; else as before."""
    async with one_node(store()) as node:
        await node.watch("old")
        for room in ("new", "old"):
            with trio.CancelScope() as scope:
                scope.cancel()
                await node.broker.watch(room)
            assert scope.cancelled_caught
            await node.append(room, b"1")
        await node.settled("old")
        assert node.ear.of("new") == []
        assert node.ear.bodies("old")[:-1] == [b"1"]


async def test_a_watch_cancelled_at_any_time(store: Store) -> None:
    """Either there is a snapshot and it is watched, or neither."""
    async with one_node(store()) as node:
        await node.watch("other")
        for turns in range(6):
            room = f"r{turns}"
            got: list[Any] = []

            async def watch(room: str = room, got: list[Any] = got) -> None:
                got.append(await node.broker.watch(room))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await node.append(room)
            await node.settled("other")
            assert len(node.ear.of(room)) == len(got)


async def test_a_cancelled_watch_beside_another(store: Store) -> None:
    """It does not end the watch of another task."""
    async with one_node(store()) as node:
        for turns in range(4):
            room = f"r{turns}"
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()

                async def doomed(room: str = room, scope: trio.CancelScope = scope) -> None:
                    with scope:
                        await node.broker.watch(room)

                nursery.start_soon(doomed)
                nursery.start_soon(node.watch, room)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
            await node.append(room)
            await node.ear.until(lambda room=room: node.ear.stored(room) == [1])  # type: ignore[misc]


async def test_a_run_that_is_cancelled_with_work_under_way(store: Store) -> None:
    """Each append has one outcome, and what was told as stored is stored, once, in order."""
    async with store(messages=100_000) as nodes:
        known: dict[int, bytes] = {}
        for attempt in range(4):
            async with running(nodes.open()) as node:
                pending: list[tuple[bytes, Pending]] = []
                for n in range(500):
                    body = b"%d-%d" % (attempt, n)
                    pending.append((body, node.put(node.draft("r", body))))
                    if n % 100 == 99:
                        for _ in range(attempt * 2):
                            await trio.lowlevel.checkpoint()
                node.scope.cancel()
            for body, each in pending:
                (outcome,) = each.outcomes
                if isinstance(outcome, Position):
                    known[outcome.offset] = body
                else:
                    assert isinstance(outcome, BrokerError)
        async with running(nodes.open()) as node:
            found = await bodies(node, "r")
            assert [found[offset - 1] for offset in known] == list(known.values())
            assert len(set(found)) == len(found)


async def test_a_broker_that_does_not_run(store: Store) -> None:
    """Before and after: everything that can tell says so by `BrokerError`."""
    async with store() as nodes:
        broker = nodes.open()
        for _ in range(2):
            node = Node(broker)
            pending = node.put(node.draft("r"))
            with pytest.raises(BrokerError):
                await pending.position()
            with pytest.raises(BrokerError):
                broker.post(node.draft("r"))
            with pytest.raises(BrokerError):
                await node.offsets("r")
            with pytest.raises(BrokerError):
                await node.watch("r")
            broker.enter("r", ANN)
            broker.leave("r", ANN.device)
            broker.mark("r", "ann", 1)
            broker.unwatch("r")
            async with running(broker) as runs:
                snapshot = await runs.watch("r")
                assert (snapshot.head.last, list(snapshot.present)) == (0, [])


async def test_checkpoints(store: Store) -> None:
    """What is async is a checkpoint."""
    async with one_node(store()) as node:
        with assert_checkpoints():
            await node.broker.watch("r")
        with assert_checkpoints():
            await node.broker.page("r", "after", 0, limit=1, max_bytes=1)


async def test_numbers(store: Store) -> None:
    """`statistics` has numbers by name, and `up` is true of a store that works."""
    async with one_node(store()) as node:
        await node.append("r")
        assert node.broker.up is True
        numbers = node.broker.statistics()
        assert all(isinstance(name, str) for name in numbers)
        assert all(isinstance(value, int | float) for value in numbers.values())


# Several nodes.


async def test_two_nodes_hear_each_other(shared_store: Store) -> None:
    """Messages of both, in one order, and passing ones in order with those of their node."""
    async with two_nodes(shared_store()) as (a, b):
        for node in (a, b):
            await node.watch("r")
        for n in range(50):
            for name, node in ((b"a", a), (b"b", b)):
                node.put(node.draft("r", name + b"%d" % n))
                node.broker.post(node.draft("r", name + b"-%d" % n))
        for node in (a, b):
            await node.ear.until(lambda node=node: len(node.ear.items) == 200)  # type: ignore[misc]
            assert node.ear.stored("r") == [*range(1, 101)]
            for name in (b"a", b"b"):
                own = [each for each in node.ear.bodies("r") if each.startswith(name)]
                expected = [name + dash + b"%d" % n for n in range(50) for dash in (b"", b"-")]
                assert own == expected
        stored = [[item.body for item in node.ear.items if item.offset] for node in (a, b)]
        assert stored[0] == stored[1] == await bodies(a, "r") == await bodies(b, "r")


async def test_two_nodes_know_the_same_keys(shared_store: Store) -> None:
    """A repetition by another node is one."""
    async with two_nodes(shared_store()) as (a, b):
        await b.watch("r")
        first = await a.append("r", b"1", key="k")
        assert await b.append("r", b"2", key="k") == first
        await b.settled("r")
        assert b.ear.stored("r") == [1, 2]


async def test_two_nodes_have_one_roster(shared_store: Store) -> None:
    """Who enters, leaves, or was at a node that has ended is told to the other."""
    async with two_nodes(shared_store()) as (a, b):
        await b.watch("r")
        a.broker.enter("r", ANN)
        await b.ear.hears("present", "r", ANN)
        bob, carl = Present("bob", "bob/1"), Present("carl", "carl/1")
        b.broker.enter("r", bob)
        a.broker.enter("r", carl)
        await b.ear.hears("present", "r", carl)
        found = (await b.watch("r")).present
        assert sorted(who.user for who in found) == ["ann", "bob", "carl"]
        a.broker.leave("r", "carl/1")
        await b.ear.hears("absent", "r", "carl/1")
        a.scope.cancel()
        await b.ear.hears("absent", "r", "ann/1")
        assert list((await b.watch("r")).present) == [bob]


async def test_two_nodes_have_one_mark_for_a_user(shared_store: Store) -> None:
    """The farthest of both."""
    async with two_nodes(shared_store()) as (a, b):
        await fill(a, "r", 9)
        for node in (a, b):
            await node.watch("r")
        a.broker.mark("r", "ann", 5)
        await b.ear.hears("marked", "r", "ann", 5)
        b.broker.mark("r", "ann", 4)
        b.broker.mark("r", "ann", 6)
        await a.ear.hears("marked", "r", "ann", 6)
        assert ("marked", "r", "ann", 4) not in a.ear.heard
        assert dict((await a.watch("r")).marks) == {"ann": 6}


# Anything, against a model.

ROOMS = st.sampled_from(["r", "s"])
USERS = st.sampled_from(["u", "v"])
PLACES = st.integers(-1, 12)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), ROOMS, st.integers(0, 7), st.integers(0, 9)),
        st.tuples(st.just("append"), ROOMS, st.integers(0, 7), st.integers(0, 9)),
        st.tuples(st.just("post"), ROOMS, st.integers(0, 9)),
        st.tuples(st.just("watch"), ROOMS),
        st.tuples(st.just("unwatch"), ROOMS),
        st.tuples(st.just("enter"), ROOMS, USERS, st.integers(0, 2)),
        st.tuples(st.just("leave"), ROOMS, USERS),
        st.tuples(st.just("mark"), ROOMS, USERS, PLACES),
        st.tuples(
            st.just("page"),
            *(ROOMS, st.sampled_from(["after", "before"]), PLACES),
            *(st.integers(1, 4), st.integers(0, 20)),
        ),
        st.tuples(st.just("restart")),
    ),
    max_size=40,
)


@attrs.define
class ModelRoom:
    """A room, written down as simply as can be."""

    log: list[bytes] = attrs.Factory(list)
    first: int = 1
    keys: dict[str, int] = attrs.Factory(dict)
    devices: dict[str, Present] = attrs.Factory(dict)
    marks: dict[str, int] = attrs.Factory(dict)
    watched: bool = False
    #: What is told: (offset, body).
    told: list[tuple[int, bytes]] = attrs.Factory(list)

    def append(self, key: str, body: bytes, limits: LogLimits) -> int:
        if key not in self.keys:
            self.log.append(body)
            self.keys[key] = len(self.log)
            if self.watched:
                self.told.append((len(self.log), body))
            while self._beyond(limits):
                self.first += 1
        return self.keys[key]

    def _beyond(self, limits: LogLimits) -> bool:
        kept = self.log[self.first - 1 :]
        return len(kept) > limits.messages or sum(map(len, kept)) > limits.total_bytes

    def page(self, way: str, offset: int, limit: int, max_bytes: int) -> list[int]:
        stored = range(self.first, len(self.log) + 1)
        side = [n for n in stored if (n > offset if way == "after" else n < offset)]
        if way == "before":
            side.reverse()
        taken: list[int] = []
        for n in side[:limit]:
            max_bytes -= len(self.log[n - 1])
            if taken and max_bytes < 0:
                break
            taken.append(n)
        return sorted(taken)


class Model:
    def __init__(self, node: Node, limits: LogLimits) -> None:
        self.node = node
        self.limits = limits
        self.rooms = {"r": ModelRoom(), "s": ModelRoom()}

    async def do(self, name: str, room: str, *rest: Any) -> None:
        await getattr(self, name)(room, self.rooms[room], *rest)

    async def append(self, room: str, model: ModelRoom, key: int, size: int) -> None:
        body = b"x" * size
        position = await self.node.append(room, body, key=f"k{key}")
        assert position.offset == model.append(f"k{key}", body, self.limits)

    async def post(self, room: str, model: ModelRoom, size: int) -> None:
        if model.watched:  # else it may still be on its way when the room is
            self.node.broker.post(self.node.draft(room, b"p" * size))
            model.told.append((0, b"p" * size))

    async def watch(self, room: str, model: ModelRoom) -> None:
        await self.told(room)
        snapshot = await self.node.watch(room)
        assert (snapshot.head.first, snapshot.head.last) == (model.first, len(model.log))
        assert {who.device: who for who in snapshot.present} == model.devices
        model.watched = True

    async def unwatch(self, room: str, model: ModelRoom) -> None:
        if model.watched:
            await self.told(room)
        for device in list(model.devices):
            self.node.broker.leave(room, device)
        model.devices.clear()
        self.node.broker.unwatch(room)
        model.watched = False

    async def enter(self, room: str, model: ModelRoom, user: str, info: int) -> None:
        who = Present(user, f"{user}/1", b"%d" % info)
        self.node.broker.enter(room, who)
        model.devices[who.device] = who

    async def leave(self, room: str, model: ModelRoom, user: str) -> None:
        self.node.broker.leave(room, f"{user}/1")
        model.devices.pop(f"{user}/1", None)

    async def mark(self, room: str, model: ModelRoom, user: str, offset: int) -> None:
        if not model.watched or offset > len(model.log):
            return
        self.node.broker.mark(room, user, offset)
        if offset > model.marks.get(user, 0):
            model.marks[user] = offset
            await self.node.ear.hears("marked", room, user, offset)

    async def page(self, room: str, model: ModelRoom, *query: Any) -> None:
        way, offset, limit, max_bytes = query
        page = await self.node.broker.page(room, way, offset, limit=limit, max_bytes=max_bytes)
        expected = model.page(*query)
        assert [item.offset for item in page.items] == expected
        assert [item.body for item in page.items] == [model.log[n - 1] for n in expected]
        assert (page.head.first, page.head.last) == (model.first, len(model.log))

    async def told(self, room: str) -> None:
        """All that was to be told was told, and nothing else."""
        ear, model = self.node.ear, self.rooms[room]
        await ear.until(lambda: len(ear.of(room)) >= len(model.told))
        assert [(item.offset, item.body) for item in ear.of(room)] == model.told

    async def end(self) -> None:
        for room, model in self.rooms.items():
            await self.told(room)
            await self.watch(room, model)
            assert dict((await self.node.watch(room)).marks) == model.marks

    def started_again(self, node: Node) -> None:
        self.node = node
        for model in self.rooms.values():
            model.watched = False
            model.told.clear()
            model.devices.clear()


async def play(nodes: Nodes, limits: LogLimits, operations: Sequence[tuple[Any, ...]]) -> None:
    """Run operations in lives of a node that end at each `restart`."""
    lives: list[list[tuple[Any, ...]]] = [[]]
    for each in operations:
        if each == ("restart",):
            lives.append([])
        else:
            lives[-1].append(each)
    model: Model | None = None
    for life in lives:
        async with running(nodes.open()) as node:
            if model is None:
                model = Model(node, limits)
            model.started_again(node)
            for operation in life:
                await model.do(*operation)
            if life is lives[-1]:
                await model.end()
            for room in model.rooms:
                await model.told(room)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations=OPERATIONS)
def test_any_operations(store: Store, operations: list[tuple[Any, ...]]) -> None:
    """What a simple model says, over any operations of one node, and over restarts."""
    limits = {"messages": 4, "total_bytes": 20, "repeat_s": 1000.0, "keep_s": math.inf}

    async def main() -> None:
        with trio.fail_after(3 * LIMIT_S):
            async with store(**limits) as nodes:
                await play(nodes, LogLimits(**limits), operations)  # type: ignore[arg-type]

    trio.run(main)

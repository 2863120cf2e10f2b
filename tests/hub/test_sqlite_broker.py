"""The store in a file: what survives, and what it does when the file does not do.

The contract is in test_brokers.py.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import outlast
from trio_rt.errors import OptionError
from trio_rt.hub._broker import BrokerError, Draft, Head, LogLimits, Present
from trio_rt.hub.brokers import _sqlite_file, _sqlite_open, _sqlite_queue, sqlite
from trio_rt.hub.brokers._sqlite_file import File, Place
from trio_rt.hub.brokers._sqlite_open import Foreign
from trio_rt.hub.brokers.sqlite import SqliteBroker

from .brokers import LIMIT_S, Node, ahead, running

ANN = Present("ann", "ann/1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rooms"


async def bodies(node: Node, room: str = "r") -> list[bytes]:
    page = await node.broker.page(room, "after", 0, limit=100_000, max_bytes=1 << 30)
    return [item.body for item in page.items]


async def goes_up(node: Node) -> None:
    """Until the file is open again, which its hub is told."""
    with trio.fail_after(LIMIT_S):
        await outlast(lambda: not node.broker.up)
    await node.ear.hears("lost", None)


async def put(node: Node, *rooms: str) -> str:
    """Append to each room; returns the last epoch."""
    for room in rooms:
        position = await node.append(room)
    return position.epoch


# What survives.


async def test_a_restart(path: Path) -> None:
    """Log, offsets, epochs, marks and keys are as they were; nobody is there."""
    async with running(SqliteBroker(path)) as node:
        await node.watch("r")
        first = await node.append("r", b"1", key="k")
        await node.append("r", b"2")
        node.broker.mark("r", "ann", 2)
        node.broker.enter("r", ANN)
        await node.ear.hears("marked", "r", "ann", 2)
    async with running(SqliteBroker(path)) as node:
        snapshot = await node.watch("r")
        assert snapshot.head == Head(first.epoch, 1, 2)
        assert (list(snapshot.present), snapshot.marks) == ([], {"ann": 2})
        assert await node.append("r", b"3", key="k") == first
        assert (await node.append("r", b"3")).offset == 3
        assert await bodies(node) == [b"1", b"2", b"3"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_time_passes_between_runs(path: Path) -> None:
    """Keys expire and messages grow old by the wall clock."""
    limits = LogLimits(keep_s=1000.0, repeat_s=100.0)
    with ahead() as clock:
        async with running(SqliteBroker(path, limits)) as node:
            await node.append("r", key="k")
        clock.by += 101
        async with running(SqliteBroker(path, limits)) as node:
            assert (await node.append("r", key="k")).offset == 2
        clock.by += 950
        async with running(SqliteBroker(path, limits)) as node:
            assert await node.offsets("r") == [2]


async def test_smaller_limits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold at once for who asks; the file follows piece by piece."""
    monkeypatch.setattr(_sqlite_file, "_CHUNK", 10)
    async with running(SqliteBroker(path)) as node:
        for _ in range(50):
            await node.append("r", b"1234")
    async with running(SqliteBroker(path, LogLimits(messages=20))) as node:
        assert await node.offsets("r") == [*range(31, 51)]
        assert (await node.head("r")).first == 31
        for _ in range(5):
            await node.append("r")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (20,)
        assert connection.execute("SELECT first, bytes FROM rooms").fetchone() == (36, 70)


WRITER = """
import sys, trio
from trio_rt.hub._broker import Draft, LogLimits, Position
from trio_rt.hub.brokers.sqlite import SqliteBroker

class Deaf:
    def item(self, *what): pass
    present = absent = marked = lost = item

async def main(path, start):
    broker = SqliteBroker(path, LogLimits(messages=1_000_000, total_bytes=1 << 30))
    window = trio.Semaphore(500)
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run, Deaf())
        for n in range(start, 10**9):
            await window.acquire()
            def done(outcome, n=n):
                assert isinstance(outcome, Position), outcome
                sys.stdout.write(f"{outcome.epoch} {outcome.offset} {n}\\n")
                sys.stdout.flush()
                window.release()
            broker.append(Draft("r", f"k{n}", b"%d" % n), done)

trio.run(main, sys.argv[1], int(sys.argv[2]))
"""


def write_and_kill(path: Path, start: int, lines: int) -> list[list[str]]:
    """What a process had told when it was killed, after so many lines at least."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(start)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.readlines()
    return [line.split() for line in told if line.endswith("\n")]


async def test_a_killed_process(path: Path) -> None:
    """What it had told is there, in order and once; what it had not can be repeated."""
    limits = LogLimits(messages=1_000_000, total_bytes=1 << 30)
    epochs = set()
    count = 0
    for lines in (1, 700, 3000):
        told = await trio.to_thread.run_sync(write_and_kill, path, count, lines)
        assert len(told) >= lines
        epochs |= {epoch for epoch, _, _ in told}
        async with running(SqliteBroker(path, limits)) as node:
            found = await bodies(node)
            assert found == [b"%d" % n for n in range(len(found))]
            assert [int(n) for _, _, n in told] == [*range(count, count + len(told))]
            assert all(int(offset) == int(n) + 1 for _, offset, n in told)
            assert len(found) >= count + len(told)
            pending = [
                node.put(node.draft("r", b"%d" % n, key=f"k{n}"))
                for n in range(count + len(told) - 1, len(found) + 3)
            ]
            count = len(found) + 3
            await pending[-1].position()
            assert await bodies(node) == [b"%d" % n for n in range(count)]
            assert epochs == {(await node.head("r")).epoch}


# Files that do not do.


def make_foreign(path: Path, application: int = 0, version: int = 0) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE precious (value)")
        connection.execute("INSERT INTO precious VALUES ('gold')")
        connection.execute(f"PRAGMA application_id = {application}")
        connection.execute(f"PRAGMA user_version = {version}")


def make_text(path: Path) -> None:
    path.write_text("precious text, longer than a header of a database would be " * 20)


def make_short(path: Path) -> None:
    path.write_text("gold")


def make_newer(path: Path) -> None:
    make_foreign(path, _sqlite_open._APPLICATION, _sqlite_open._VERSION + 1)


@pytest.mark.parametrize(
    "make",
    [
        make_foreign,
        lambda path: make_foreign(path, 5, 7),
        lambda path: make_foreign(path, 0, _sqlite_open._VERSION),
        make_newer,
        make_text,
        make_short,
    ],
    ids=["tables", "application", "version", "newer", "text", "short"],
)
async def test_a_file_of_somebody_else(path: Path, make: Callable[[Path], None]) -> None:
    """`run` refuses it clearly, and leaves it as it is."""
    make(path)
    before = path.read_bytes()
    broker = SqliteBroker(path)
    with pytest.raises(OptionError, match="new, or a file of this store"):
        await broker.run(Node(broker).ear)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["rooms"]
    assert broker.up is False


async def test_an_empty_file(path: Path) -> None:
    """It is a new one."""
    path.touch()
    async with running(SqliteBroker(path)) as node:
        assert (await node.append("r")).offset == 1


def damage_leaves(path: Path) -> None:
    """Overwrite all that is not seen when the file is opened."""
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT max(rootpage) FROM sqlite_master").fetchone()
    content = path.read_bytes()
    path.write_bytes(content[: root * 4096].ljust(len(content), b"\xa5"))


@pytest.mark.parametrize("start", [100, 20], ids=["schema", "header"])
async def test_a_broken_file(path: Path, start: int) -> None:
    """It is set aside, whole, and rooms begin anew with new epochs."""
    async with running(SqliteBroker(path)) as node:
        epoch = await put(node, "r", "r", "s")
    content = path.read_bytes()
    if start == 20:
        content = content[:20] + b"\xff" * 4 + content[24:]
    else:
        content = content[:100] + b"\xa5" * (len(content) - 100)
    path.write_bytes(content)
    Path(f"{path}-shm").touch()
    async with running(SqliteBroker(path)) as node:
        position = await node.append("r")
        assert position.offset == 1
        assert position.epoch != epoch
        assert (await node.head("never used")).epoch == position.epoch
    assert Path(f"{path}.set-aside").read_bytes() == content
    assert sorted(os.listdir(path.parent)) == ["rooms", "rooms.set-aside"]


@pytest.mark.parametrize("by", ["append", "page"])
async def test_a_file_that_breaks_while_it_is_used(
    path: Path, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is under way fails; the next file is new, and the hub is told to look again."""
    caplog.set_level(logging.INFO)
    async with running(SqliteBroker(path)) as node:
        pending = [node.put(node.draft("r", bytes(500))) for _ in range(200)]
        epoch = (await pending[-1].position()).epoch
    damage_leaves(path)
    async with running(SqliteBroker(path)) as node:
        node.broker.enter("r", ANN)
        with pytest.raises(BrokerError, match=r"cannot be used: .*malformed"):
            await (node.append("r") if by == "append" else node.offsets("r"))
        assert node.broker.up is False
        await goes_up(node)
        snapshot = await node.watch("r")
        assert snapshot.head == Head(snapshot.head.epoch, 1, 0)
        assert snapshot.head.epoch != epoch
        assert list(snapshot.present) == [ANN]
        assert (await node.append("r")).offset == 1
    assert Path(f"{path}.set-aside").exists()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_many_find_that_it_is_broken(path: Path) -> None:
    """It is set aside once; the new one is not blamed for it."""
    async with running(SqliteBroker(path)) as node:
        pending = [node.put(node.draft("r", bytes(500))) for _ in range(200)]
        await pending[-1].position()
    damage_leaves(path)
    size = path.stat().st_size
    failed = 0

    async def ask(node: Node) -> None:
        nonlocal failed
        try:
            await node.offsets("r")
        except BrokerError:
            failed += 1

    async with running(SqliteBroker(path)) as node:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask, node)
        assert failed
        await goes_up(node)
        with trio.fail_after(LIMIT_S):
            while True:
                try:
                    position = await node.append("r")
                    break
                except BrokerError:
                    await goes_up(node)
    async with running(SqliteBroker(path)) as node:
        assert await node.head("r") == Head(position.epoch, 1, 1)
    assert Path(f"{path}.set-aside").stat().st_size == size


async def test_an_end_that_cannot_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the run ends as it should."""
    async with running(SqliteBroker(path)) as node:
        pending = [node.put(node.draft("r", bytes(500))) for _ in range(200)]
        await pending[-1].position()
    damage_leaves(path)
    async with running(SqliteBroker(path)) as node:
        with pytest.raises(BrokerError):
            await node.offsets("r")
        path.unlink()
        node.scope.cancel()
    assert [record.msg for record in caplog.records] == [
        "the file of the rooms cannot be used: %s",
        "the file of the rooms could not be closed: %s",
    ]


async def test_a_directory_that_is_missing(path: Path) -> None:
    """The hub runs without its store, which is there as soon as the directory is."""
    path = path / "deep" / "rooms"
    async with running(SqliteBroker(path)) as node:
        assert node.broker.up is False
        with pytest.raises(BrokerError):
            await node.append("r")
        with pytest.raises(BrokerError):
            await node.offsets("r")
        with pytest.raises(BrokerError):
            await node.watch("r")
        assert node.broker.statistics()["rooms"] == 0
        path.parent.mkdir(parents=True)
        await goes_up(node)
        assert (await node.watch("r")).head.last == 0
        assert (await node.append("r")).offset == 1


async def test_a_directory_in_its_place(path: Path) -> None:
    """It is no file, and is left alone."""
    path.mkdir()
    async with running(SqliteBroker(path)) as node:
        with pytest.raises(BrokerError):
            await node.append("r")
        assert path.is_dir()


async def test_a_foreign_file_that_comes_later(path: Path) -> None:
    """It does not end the run, and is not touched."""
    path = path / "rooms"
    async with running(SqliteBroker(path)) as node:
        assert node.broker.up is False
        path.parent.mkdir()
        make_text(path)
        with trio.fail_after(LIMIT_S):
            while True:
                await trio.lowlevel.checkpoint()
                with pytest.raises(BrokerError) as caught:
                    await node.append("r")
                if "must be new" in str(caught.value):
                    break
        assert path.read_text().startswith("precious")
        path.unlink()
        await goes_up(node)
        assert (await node.append("r")).offset == 1


async def test_two_brokers_with_one_file(path: Path) -> None:
    """The second is refused clearly, and takes over when the first has ended."""
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(running(SqliteBroker(path)))
        async with running(SqliteBroker(path)) as late:
            assert late.broker.up is False
            epoch = await put(second, "r", "r")
            for act in (late.append, late.watch, late.offsets):
                with pytest.raises(BrokerError, match="another process has it open"):
                    await act("r")
            await put(second, "r")
            second.scope.cancel()
            await goes_up(late)
            position = await late.append("r")
            assert (position.epoch, position.offset) == (epoch, 4)


async def test_a_process_with_the_file_of_another(path: Path) -> None:
    """The same between processes; a look at it by hand is refused, too."""
    script = f"""if True:
        import sqlite3, sys
        try:
            print(sqlite3.connect({str(path)!r}, timeout=0).execute("SELECT * FROM rooms"))
        except sqlite3.OperationalError as error:
            print(error)
    """
    async with running(SqliteBroker(path)) as node:
        await put(node, "r")
        ran = await trio.run_process([sys.executable, "-c", script], capture_stdout=True)
        assert b"locked" in ran.stdout
        assert (await node.append("r")).offset == 2


DISK = """
import json, resource, sys, trio
from tests.hub.brokers import running
from tests.helpers import outlast
from trio_rt.hub._broker import BrokerError, Position
from trio_rt.hub.brokers import sqlite
from trio_rt.hub.brokers.sqlite import SqliteBroker

opened = 0

class Counted(sqlite.File):
    def __init__(self, *options):
        global opened
        super().__init__(*options)
        opened += 1

sqlite.File = Counted

def limit(size):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

async def main(path):
    async with running(SqliteBroker(path)) as node:
        await node.watch("r")
        limit(400_000)
        stored, refused = [], []
        for n in range(100):
            try:
                position = await node.append("r", b"%d" % n + bytes(10_000), key=f"k{n}")
                stored.append(position.offset)
            except BrokerError as error:
                refused.append(str(error))
            if len(refused) > 5:
                break
        down = not node.broker.up
        limit(4096)
        node.ear.forget()
        node.put(node.draft("r"))
        before = opened
        with trio.fail_after(10):
            await outlast(lambda: opened < before + 3)
        down &= not node.broker.up and ("lost", None) not in node.ear.heard
        limit(-1)
        with trio.fail_after(10):
            await outlast(lambda: not node.broker.up)
        await node.ear.hears("lost", None)
        last = len(stored) + len(refused)
        again = [(await node.append("r", b"%d" % n, key=f"k{n}")).offset for n in range(last)]
        page = await node.broker.page("r", "after", 0, limit=1000, max_bytes=1 << 30)
        found = [item.offset for item in page.items]
        heard = node.ear.stored("r")
        print(json.dumps([stored, refused, down, again, found, heard]))

trio.run(main, sys.argv[1])
"""


async def test_a_full_disk(path: Path) -> None:
    """Nothing is told that is not there, nor that the store is up as long as it cannot be
    written; when there is room again the same keys are stored."""
    ran = await trio.run_process([sys.executable, "-c", DISK, str(path)], capture_stdout=True)
    stored, refused, down, again, found, heard = json.loads(ran.stdout)
    assert len(stored) >= 2
    assert len(refused) == 6
    assert down
    assert stored == [*range(1, len(stored) + 1)]
    assert again == found == [*range(1, len(stored) + 7)]
    assert heard == found[len(stored) :]


async def test_reading_goes_on_when_the_disk_is_full(path: Path) -> None:
    """Only what is written fails; presence and passing messages need no disk, and marks wait."""
    async with running(SqliteBroker(path)) as node:
        await node.watch("r")
        await node.append("r", b"1")
        file = node.broker._file  # type: ignore[attr-defined]
        file._connection.execute("PRAGMA max_page_count = 20")
        node.broker.mark("r", "ann", 1)
        with pytest.raises(BrokerError, match="full"):
            await node.append("r", bytes(200_000))
        assert not node.broker.up
        assert await bodies(node) == [b"1"]
        node.broker.post(node.draft("r", b"typing"))
        node.broker.enter("r", ANN)
        assert node.ear.bodies("r") == [b"1", b"typing"]
        assert ("present", "r", ANN) in node.ear.heard
        with pytest.raises(BrokerError):
            await node.append("r")
        await goes_up(node)
        await node.ear.hears("marked", "r", "ann", 1)
        assert (await node.append("r")).offset == 2


# What waits.


async def test_too_much_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond the bounds is refused at once; the rest is stored."""
    monkeypatch.setattr(_sqlite_queue, "MOST_WAITING", 10)
    async with running(SqliteBroker(path)) as node:
        await node.watch("r")
        pending = [node.put(node.draft("r")) for _ in range(12)]
        assert [len(each.outcomes) for each in pending] == [0] * 10 + [1, 1]
        with pytest.raises(BrokerError):
            node.broker.post(node.draft("r"))
        assert node.broker.statistics()["waiting"] == 10
        with pytest.raises(BrokerError, match="too many messages wait"):
            await pending[-1].position()
        assert [(await each.position()).offset for each in pending[:10]] == [*range(1, 11)]
        assert (await node.append("r")).offset == 11


async def test_too_many_bytes_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One alone may be of any size; what is committed makes room."""
    monkeypatch.setattr(_sqlite_queue, "MOST_WAITING_BYTES", 1000)
    async with running(SqliteBroker(path)) as node:
        for _ in range(3):
            pending = [node.put(node.draft("r", bytes(5000))), node.put(node.draft("r"))]
            await pending[0].position()
            with pytest.raises(BrokerError):
                await pending[1].position()
        assert node.broker.statistics()["waiting_bytes"] == 0
        assert await node.offsets("r") == [1, 2, 3]


async def test_what_gathers_is_one_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that waits, up to a bound, goes together."""
    monkeypatch.setattr(_sqlite_queue, "MOST_AT_ONCE", 100)
    async with running(SqliteBroker(path)) as node:
        pending = [node.put(node.draft("r")) for _ in range(250)]
        assert [(await each.position()).offset for each in pending] == [*range(1, 251)]
        numbers = node.broker.statistics()
        assert (numbers["commits"], numbers["stored"], numbers["waiting"]) == (3, 250, 0)


async def test_the_end_of_a_run(path: Path) -> None:
    """No thread is at work, the file is whole, closed and nobody's, and nothing waits."""
    broker = SqliteBroker(path)
    for _ in range(2):
        async with running(broker) as node:
            await node.watch("r")
            pending = [node.put(node.draft("r", bytes(1000))) for _ in range(3000)]
            await pending[0].position()
        assert all(len(each.outcomes) == 1 for each in pending)
        assert broker._thread.borrowed_tokens == 0
        assert broker.statistics()["waiting"] == broker.statistics()["waiting_bytes"] == 0
        assert os.listdir(path.parent) == ["rooms"]
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_an_end_while_a_commit_waits_for_its_thread(path: Path) -> None:
    """What was to go into it has its outcome, and so has what waited for the next."""
    broker = SqliteBroker(path)
    async with running(broker) as node:
        await node.append("r")
        async with broker._thread:
            pending = [node.put(node.draft("r"))]
            await wait_all_tasks_blocked()
            pending.append(node.put(node.draft("r")))
            node.scope.cancel()
            await wait_all_tasks_blocked()
        for each in pending:
            with pytest.raises(BrokerError, match="does not run"):
                await each.position()


async def test_a_callback_that_goes_on(path: Path) -> None:
    """What `done` and the sink do comes after what waits already."""
    async with running(SqliteBroker(path)) as node:
        await node.watch("r")
        broker = node.broker
        broker.append(node.draft("r", b"1"), lambda _: broker.post(node.draft("r", b"4")))
        for body in (b"2", b"3"):
            await trio.lowlevel.checkpoint()
            node.put(node.draft("r", body))
        await node.ear.until(lambda: len(node.ear.items) == 4)
        assert node.ear.bodies("r").index(b"4") > 0
        pending = [node.put(node.draft("r", b"5")), node.put(node.draft("r", b"6"))]
        broker.append(node.draft("r", b"7"), lambda _: broker.post(node.draft("r", b"9")))
        pending.append(node.put(node.draft("r", b"8")))
        await node.ear.until(lambda: len(node.ear.items) == 9)
        assert node.ear.bodies("r")[4:] == [b"5", b"6", b"7", b"8", b"9"]


async def test_what_is_no_text(path: Path) -> None:
    """It is refused alone, and the store goes on."""
    async with running(SqliteBroker(path)) as node:
        good = node.put(node.draft("r"))
        bad = node.put(node.draft("r", key="\ud800"))
        with pytest.raises(BrokerError, match="no text"):
            await bad.position()
        with pytest.raises(BrokerError, match="no text"):
            await node.offsets("\ud800")
        node.broker.mark("\ud800", "u", 1)
        node.broker.mark("r", "\ud800", 1)
        node.broker.mark("r", "u", 1 << 63)
        assert (await good.position()).offset == 1
        assert node.broker.up


async def test_marks_that_wait_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each user, and not more than so many."""
    monkeypatch.setattr(sqlite, "MOST_MARKS_WAITING", 3)
    async with running(SqliteBroker(path)) as node:
        await node.watch("r")
        await put(node, "r", "r")
        for offset in (2, 1):
            for user in "abcde":
                node.broker.mark("r", user, offset)
        await node.ear.hears("marked", "r", "c", 2)
        assert (await node.watch("r")).marks == {"a": 2, "b": 2, "c": 2}


async def test_a_mark_that_does_not_move(path: Path) -> None:
    """It is no news, and neither is a device that is there with the same info."""
    async with running(SqliteBroker(path)) as node:
        await node.watch("r")
        await put(node, "r")
        for user in ("ann", "bob"):
            node.broker.mark("r", "ann", 1)
            node.broker.mark("r", user, 1)
            node.broker.enter("r", ANN)
            await node.ear.hears("marked", "r", user, 1)
        assert node.ear.heard[1:] == [
            ("present", "r", ANN),
            ("marked", "r", "ann", 1),
            ("marked", "r", "bob", 1),
        ]


async def test_it_runs_once_at_a_time(path: Path) -> None:
    """A second hub is refused, and the first goes on."""
    async with running(SqliteBroker(path)) as node:
        with pytest.raises(trio.BusyResourceError):
            await node.broker.run(node.ear)
        assert (await node.append("r")).offset == 1


@pytest.mark.parametrize("bad", [5, "a\0b", None])
def test_bad_options(bad: Any) -> None:
    """They are refused where they are written."""
    with pytest.raises(OptionError):
        SqliteBroker(bad)
    with pytest.raises(OptionError):
        SqliteBroker("rooms", bad)


# The file itself, in any time.


class Rows:
    """A file, with numbers that tell what is in it."""

    def __init__(self, path: Path, **limits: Any) -> None:
        self.file = File(path, LogLimits(**limits), "e")
        self._keys = 0

    def put(self, now: float, *rooms: str, body: bytes = b"{}") -> list[Place]:
        drafts = []
        for room in rooms:
            self._keys += 1
            drafts.append((Draft(room, f"k{self._keys}", body), True))
        return self.file.write(drafts, {}, now)[0]

    def count(self, table: str) -> int:
        row = self.file._execute(f"SELECT count(*) FROM {table}").fetchone()
        count: int = row[0]
        return count


def test_old_rows_are_swept(path: Path) -> None:
    """Messages and keys in their times; bytes and beginnings agree."""
    rows = Rows(path, keep_s=100.0, repeat_s=10.0)
    rows.put(0.0, "r", "s", "r")
    rows.put(50.0, "r")
    assert not rows.file.sweep((), 60.0)
    assert (rows.count("items"), rows.count("keys")) == (4, 0)
    rows.put(61.0, "r")
    rows.file.sweep((), 101.0)
    assert (rows.count("items"), rows.count("keys")) == (2, 0)
    found = rows.file._execute("SELECT name, first, last, bytes FROM rooms").fetchall()
    assert found == [("r", 3, 4, 4)]
    rows.file.close()


def test_sweeping_is_done_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None takes long; it is told whether there may be more."""
    monkeypatch.setattr(_sqlite_file, "_CHUNK", 10)
    rows = Rows(path, keep_s=100.0, repeat_s=10.0)
    rows.put(0.0, *["r"] * 25)
    assert rows.file.sweep((), 20.0)
    assert (rows.count("items"), rows.count("keys")) == (25, 15)
    assert rows.file.sweep((), 101.0)
    assert (rows.count("items"), rows.count("keys")) == (15, 5)
    assert rows.file.sweep((), 101.0)
    assert not rows.file.sweep((), 101.0)
    assert (rows.count("items"), rows.count("keys")) == (0, 0)
    rows.file.close()


def test_empty_rooms_are_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their marks, if they are not held; the next epoch is another one, others stay."""
    monkeypatch.setattr(_sqlite_file, "_CHUNK", 2)
    rows = Rows(path, keep_s=100.0)
    names = ["a", "b", "c", "d", "e"]
    (place, *_) = rows.put(0.0, *names)
    rows.file.write([], {(name, "u"): 1 for name in names}, 0.0)
    rows.put(350.0, "d")
    for _ in range(8):
        rows.file.sweep({"b"}, 350.0)
    found = rows.file._execute("SELECT name FROM rooms ORDER BY id").fetchall()
    assert (found, rows.count("marks")) == ([("b",), ("d",)], 2)
    assert rows.file.look("b", 350.0) == (Head(place.epoch, 2, 1), {"u": 1})
    assert rows.file.look("d", 350.0) == (Head(place.epoch, 2, 2), {"u": 1})
    head, marks = rows.file.look("a", 350.0)
    assert (head.first, head.last, marks) == (1, 0, {})
    assert head.epoch != place.epoch
    assert rows.put(350.0, "a") == [Place(head.epoch, 1, True)]
    rows.file.close()


def test_known_keys_keep_a_room(path: Path) -> None:
    """A repetition is known as long as it should be, though no message is left."""
    rows = Rows(path, keep_s=10.0, repeat_s=100.0)
    (first,) = rows.put(0.0, "r")
    for now in (50.0, 99.0):
        rows.file.sweep((), now)
        again, _ = rows.file.write([(Draft("r", "k1", b"{}"), True)], {}, now)
        assert again == [Place(first.epoch, 1, False)]
    rows.file.sweep((), 100.0)
    assert (rows.count("rooms"), rows.count("keys")) == (0, 0)
    rows.file.close()


def test_a_key_expires_to_the_moment(path: Path) -> None:
    """Swept or not: at `repeat_s` it is a new message, which is known then."""
    rows = Rows(path, repeat_s=100.0)
    draft = (Draft("r", "k", b"{}"), True)
    found = [rows.file.write([draft], {}, now)[0][0].offset for now in (0.0, 99.0, 100.0, 199.0)]
    assert found == [1, 1, 2, 2]
    assert rows.count("keys") == 1
    rows.file.close()


def test_the_beginning_is_found_at_any_age(path: Path) -> None:
    """Of a log nobody has pruned: to the moment, wherever it is."""
    rows = Rows(path, keep_s=10.0)
    for now in range(20):
        rows.file._limits = LogLimits()
        rows.put(float(now), "r")
    rows.file._limits = LogLimits(keep_s=10.0)
    for now in range(35):
        head, _ = rows.file.look("r", float(now))
        expected = max(1, min(now - 10 + 2, 21))
        assert head.first == expected
        page = rows.file.page("r", "after", 0, 99, 999, float(now))
        assert [item.offset for item in page.items] == [*range(expected, 21)]
    assert rows.file.page("r", "after", 0, -1, 999, 0.0).items == []
    rows.file.close()


def test_a_commit_is_all_or_nothing(path: Path) -> None:
    """What fails in it takes back the rest."""
    rows = Rows(path)
    rows.put(0.0, "r")
    with pytest.raises(sqlite3.Error):
        rows.file.write(
            [(Draft("r", "a", b"1"), True), (Draft("r", "b", {}), True)],  # type: ignore[arg-type]
            {("r", "u"): 1},
            1.0,
        )
    assert (rows.count("items"), rows.count("keys"), rows.count("marks")) == (1, 1, 0)
    assert rows.put(2.0, "r")[0].offset == 2
    rows.file.close()


def test_commits_are_synchronized(path: Path) -> None:
    """A power failure takes nothing back: else offsets would be given twice in an epoch."""
    rows = Rows(path)
    settings = [
        rows.file._execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "journal_mode", "locking_mode")
    ]
    assert settings == [2, "wal", "exclusive"]
    rows.file.close()


def test_a_copy_that_is_half_made(path: Path) -> None:
    """A process that died while it made the file leaves one that can be used."""
    rows = Rows(path)
    rows.file._execute("DELETE FROM store")
    rows.file.close()
    rows = Rows(path)
    assert rows.put(0.0, "r") == [Place("e-0", 1, True)]
    rows.file.close()
    make_text(path)
    with pytest.raises(Foreign):
        Rows(path)

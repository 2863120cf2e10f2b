"""The store in a file: bounded, shared by processes, and never a reason to fail."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from trio_rt.errors import OptionError
from trio_rt.http._backend import BackendName
from trio_rt.http._cache import Cache
from trio_rt.http._layer import Crew, transport
from trio_rt.http._sqlite import SqliteStore
from trio_rt.http._store import size_bytes

from .peers import answer, both, open_peer
from .test_cache import client_of
from .test_store import SIZE, entry_of


@asynccontextmanager
async def opened(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    crew = Crew()
    await crew.open()
    store.opened(crew)
    try:
        yield store
    finally:
        with trio.move_on_after(10, shield=True):
            await store.closing()
        await crew.aclose()  # noqa: ASYNC102  # it shields itself


async def written(store: SqliteStore) -> None:
    """Until all that was put is in the file."""
    with trio.fail_after(10):
        while store._unwritten or store._being_written:
            await trio.sleep(0.001)


async def bodies(store: SqliteStore, key: str) -> set[bytes]:
    return {entry.body for entry in await store.get(key)}


async def test_it_outlives_its_process(tmp_path: Path) -> None:
    """What was put is there, equal, when the file is opened again."""
    path = tmp_path / "cache"
    entry = entry_of(b"\x00\xff")
    async with opened(SqliteStore(path)) as store:
        store.put("a", entry)
    async with opened(SqliteStore(path)) as store:
        assert await store.get("a") == [entry]
        assert store.statistics().entries == 1
        assert store.statistics().bytes == size_bytes("a", entry)


async def test_what_is_put_counts_at_once(tmp_path: Path) -> None:
    """Before, while and after it is written; and so does a deletion."""
    async with opened(SqliteStore(tmp_path / "cache")) as store:
        store.put("a", entry_of(b"one", b"1"))
        assert await bodies(store, "a") == {b"one"}
        await written(store)
        store.put("a", entry_of(b"two", b"2"))
        store.put("a", entry_of(b"new", b"1"))
        assert await bodies(store, "a") == {b"two", b"new"}
        await written(store)
        assert await bodies(store, "a") == {b"two", b"new"}
        store.delete("a")
        assert await bodies(store, "a") == set()
        store.put("a", entry_of(b"again", b"2"))
        assert await bodies(store, "a") == {b"again"}
        await written(store)
        assert await bodies(store, "a") == {b"again"}


async def test_what_is_being_written_counts(tmp_path: Path) -> None:
    """In the time of its writing, too, under what was put since."""
    async with opened(SqliteStore(tmp_path / "cache")) as store:
        store.put("a", entry_of(b"old", b"0"))
        await written(store)
        store.delete("a")
        store.put("a", entry_of(b"one", b"1"))
        while not store._being_written:
            await trio.lowlevel.checkpoint()
        store.put("a", entry_of(b"two", b"2"))
        assert await bodies(store, "a") == {b"one", b"two"}
        store.put("a", entry_of(b"new", b"1"))
        assert await bodies(store, "a") == {b"new", b"two"}


async def test_it_is_bounded(tmp_path: Path) -> None:
    """What was used longest ago goes; a read is a use."""
    store = SqliteStore(tmp_path / "cache", max_bytes=3 * SIZE, max_body_bytes=SIZE)
    async with opened(store):
        for key in "abc":
            store.put(key, entry_of())
            await written(store)
        await store.get("a")
        store.put("d", entry_of())
        await written(store)
        assert [bool(await store.get(key)) for key in "abcd"] == [True, False, True, True]
        assert store.statistics().bytes == 3 * SIZE
        assert store.statistics().entries == 3


async def test_uses_are_written_without_puts(tmp_path: Path) -> None:
    """A thousand keys that are only read do not pile up in memory."""
    async with opened(SqliteStore(tmp_path / "cache")) as store:
        for number in range(1025):
            store.put(str(number), entry_of())
        await written(store)
        for number in range(1025):
            await store.get(str(number))
        while len(store._used) > 1:
            await trio.sleep(0.001)
        assert store.statistics().errors == 0


async def test_too_much_at_once_is_dropped(tmp_path: Path) -> None:
    """More than the disk takes is counted, and the older version goes with it."""
    async with opened(SqliteStore(tmp_path / "cache", max_body_bytes=12 << 20)) as store:
        big = bytes(12 << 20)
        for key in "abc":
            store.put(key, entry_of(big))
        assert [len(await store.get(key)) for key in "abc"] == [1, 1, 0]
        await written(store)
        for key in "cd":
            store.put(key, entry_of(big))
        assert [len(await store.get(key)) for key in "abcd"] == [1, 1, 1, 1]
        assert store.statistics().errors == 1


async def test_a_full_disk(tmp_path: Path) -> None:
    """A batch that does not fit is lost as a whole, and the next one is written."""
    async with opened(SqliteStore(tmp_path / "cache")) as store:
        assert store._file is not None
        store._file._writer.execute("PRAGMA max_page_count = 30")
        store.put("small", entry_of())
        store.put("large", entry_of(bytes(1 << 20)))
        await written(store)
        assert store.statistics().errors == 1
        assert await store.get("small") == []
        store.put("small", entry_of())
        await written(store)
        assert await bodies(store, "small") == {b"body"}
        assert store.statistics().errors == 1


async def test_two_at_once(tmp_path: Path) -> None:
    """Two stores on one file see each other's entries."""
    path = tmp_path / "cache"
    async with opened(SqliteStore(path)) as one, opened(SqliteStore(path)) as two:
        for number in range(20):
            one.put(f"one {number}", entry_of())
            two.put(f"two {number}", entry_of())
        await written(one)
        await written(two)
        assert await bodies(one, "two 7") == await bodies(two, "one 7") == {b"body"}
        assert one.statistics().errors == two.statistics().errors == 0


_OTHER = """
import sys, trio
from tests.http.test_sqlite import SqliteStore, entry_of, opened, written

async def main():
    async with opened(SqliteStore(sys.argv[1])) as store:
        for number in range(50):
            store.put(f"{sys.argv[2]} {number}", entry_of())
            await trio.sleep(0.001)
        await written(store)
        assert store.statistics().errors == 0

trio.run(main)
"""


async def test_processes_at_once(tmp_path: Path) -> None:
    """Two processes that open and write at the same time lose nothing."""
    path = tmp_path / "cache"
    root = Path(__file__).parents[2]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                command = [sys.executable, "-c", _OTHER, str(path), name]
                nursery.start_soon(partial(trio.run_process, command, cwd=root))
    async with opened(SqliteStore(path)) as store:
        assert store.statistics().entries == 100


async def test_cancelled_reads(tmp_path: Path) -> None:
    """They leave no thread behind, and the file is closed in peace."""
    async with opened(SqliteStore(tmp_path / "cache")) as store:
        store.put("a", entry_of())
        await written(store)
        for delay_s in (0.0, 0.0001, 0.0005, 0.001) * 5:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(store.get, "a")
                await trio.sleep(delay_s)
                nursery.cancel_scope.cancel()
        assert store._reading.borrowed_tokens == 0
        assert await bodies(store, "a") == {b"body"}
    assert store.statistics().errors == 0


async def test_closed_it_is_empty(tmp_path: Path) -> None:
    """Before it is opened and after it is closed it has nothing, and takes nothing."""
    store = SqliteStore(tmp_path / "cache")
    store.put("a", entry_of())
    store.delete("a")
    assert await store.get("a") == []
    async with opened(store):
        store.put("b", entry_of())
    store.put("a", entry_of())
    assert await store.get("b") == []
    async with opened(store):
        assert await bodies(store, "b") == {b"body"}
        assert await store.get("a") == []


async def test_a_broken_file_is_set_aside(tmp_path: Path) -> None:
    """A file of ours that is damaged is renamed, and a new one begun."""
    path = tmp_path / "cache"
    async with opened(SqliteStore(path)) as store:
        for number in range(100):
            store.put(str(number), entry_of(bytes(1000)))
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xff" * 3996
    path.write_bytes(data)
    async with opened(SqliteStore(path)) as store:
        assert await store.get("1") == []
        store.put("1", entry_of())
        await written(store)
        assert await bodies(store, "1") == {b"body"}
    assert (tmp_path / "cache.set-aside").read_bytes() == data


async def test_damage_found_later(tmp_path: Path) -> None:
    """It reads as nothing, is counted, and the next time there is a new file."""
    path = tmp_path / "cache"
    async with opened(SqliteStore(path)) as store:
        store.put("a", entry_of())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET entry = x'ff'")
    connection.close()
    async with opened(SqliteStore(path)) as store:
        assert await store.get("a") == []
        store.put("a", entry_of())
        await written(store)
        assert await store.get("a") == []
        assert store.statistics().errors == 1
    assert (tmp_path / "cache.set-aside").exists()
    async with opened(SqliteStore(path)) as store:
        store.put("1", entry_of())
        await written(store)
        assert await bodies(store, "1") == {b"body"}


async def test_an_entry_that_cannot_be_written(tmp_path: Path) -> None:
    """One that a layer below made of other types is lost with its batch, and nothing else is."""
    async with opened(SqliteStore(tmp_path / "cache")) as store:
        odd: Any = object()
        store.put("a", entry_of())
        store.put("b", msgspec.structs.replace(entry_of(), reason=odd))
        await written(store)
        store.put("a", entry_of(b"new"))
        await written(store)
        assert await bodies(store, "a") == {b"new"}
        assert store.statistics().errors == 1
    assert not (tmp_path / "cache.set-aside").exists()


async def test_another_version_is_set_aside(tmp_path: Path) -> None:
    """A file that another release wrote is not read."""
    path = tmp_path / "cache"
    async with opened(SqliteStore(path)) as store:
        store.put("a", entry_of())
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    async with opened(SqliteStore(path)) as store:
        assert await store.get("a") == []
        assert store.statistics().errors == 0
    assert (tmp_path / "cache.set-aside").exists()


@pytest.mark.parametrize("kind", ["text", "sqlite"])
def test_files_of_others_are_refused(kind: str, tmp_path: Path) -> None:
    """They are left as they are."""
    path = tmp_path / "other"
    if kind == "text":
        path.write_text("precious " * 20)
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA application_id = 7")
        connection.execute("CREATE TABLE precious (a)")
        connection.close()
    before = path.read_bytes()
    with pytest.raises(OptionError, match="path"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """What cannot be read is refused."""
    with pytest.raises(OptionError, match="path"):
        SqliteStore(tmp_path)


async def test_no_place_for_it(tmp_path: Path) -> None:
    """A path that cannot be made is a store that has nothing."""
    async with opened(SqliteStore(tmp_path / "none" / "cache")) as store:
        store.put("a", entry_of())
        assert await store.get("a") == []
        assert store.statistics().errors == 1


async def test_it_is_private(tmp_path: Path) -> None:
    """The file is readable by its owner alone."""
    path = tmp_path / "cache"
    async with opened(SqliteStore(path)) as store:
        store.put("a", entry_of())
        await written(store)
        modes = {stat.S_IMODE(os.stat(file).st_mode) for file in tmp_path.iterdir()}
        assert modes == {0o600}


async def test_a_locked_file(tmp_path: Path) -> None:
    """A lock that another process keeps costs entries, and is no damage."""
    path = tmp_path / "cache"
    async with opened(SqliteStore(path)) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.put("a", entry_of())
        await written(store)
        assert await store.get("a") == []
        assert store.statistics().errors == 1
        other.execute("ROLLBACK")
        other.close()
        store.put("a", entry_of())
        await written(store)
        assert await bodies(store, "a") == {b"body"}


@pytest.mark.parametrize("frees", [True, False])
async def test_locked_when_it_is_opened(tmp_path: Path, frees: bool) -> None:
    """Nobody waits for the lock: what is put is kept until it is free, or the store gives up."""
    path = tmp_path / "cache"
    async with opened(SqliteStore(path)) as store:
        store.put("a", entry_of())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with opened(SqliteStore(path)) as store:
        assert await store.get("a") == []
        store.put("b", entry_of())
        assert await bodies(store, "b") == {b"body"}
        if frees:
            other.execute("ROLLBACK")
        with trio.fail_after(10):
            while store._file is None and not store.statistics().errors:
                await trio.sleep(0.001)
        assert store.statistics().errors == (not frees)
        await written(store)
        for key in "ab":
            assert await bodies(store, key) == ({b"body"} if frees else set())
    other.close()


async def test_closed_while_it_is_locked(tmp_path: Path) -> None:
    """Closing waits for the thread, and leaves no database open."""
    path = tmp_path / "cache"
    async with opened(SqliteStore(path)):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with opened(SqliteStore(path)) as store:
        await trio.lowlevel.checkpoint()
        other.execute("ROLLBACK")
    other.close()
    assert store._file is None
    assert store._closed.is_set()


@both
async def test_through_a_client(backend: BackendName, tmp_path: Path) -> None:
    """A second client answers from what the first one fetched; many at once are one fetch."""
    path = tmp_path / "cache"
    how = []
    with trio.fail_after(10):
        async with open_peer({"*": answer(b"text", Cache_Control="max-age=60")}) as peer:
            for _ in range(2):
                async with client_of(backend, Cache(SqliteStore(path))) as client:
                    response = await client.get(peer.url)
                    assert response.text == "text"
                    how.append(response.extensions["trio_rt.cache"])
            async with (
                client_of(backend, Cache(SqliteStore(path))) as client,
                trio.open_nursery() as nursery,
            ):
                for _ in range(50):
                    nursery.start_soon(client.get, peer.url + "/b")
            assert [visit.path for visit in peer.visits] == ["/", "/b"]
    assert how == ["miss", "hit"]


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """Also one without an application's number: as most have none."""
    path = tmp_path / "theirs.db"
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE precious (x)")
    theirs.execute("PRAGMA user_version = 7")
    theirs.commit()
    before = path.read_bytes()
    with pytest.raises(OptionError, match="path"):
        async with transport(Cache(SqliteStore(path))):
            pytest.fail("opened")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["theirs.db"]
    theirs.close()

"""Standings: what was decided holds, in both stores, and is never forgotten to make room."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rt import BrokerError, OptionError
from trio_rt.chat import MemoryStandings, SqliteStandings, Standing, Standings
from trio_rt.chat._service import standing as module
from trio_rt.chat._service.standing import END_MS, now_ms, until_text

LIMIT_S = 10

MUTED = Standing(muted_until=0)
BANNED = Standing(banned_until=0)


def both(tmp_path: Path) -> list[Standings]:
    return [MemoryStandings(), SqliteStandings(tmp_path / "standings")]


# One


@pytest.mark.parametrize(
    ("until", "now", "holds"),
    [(None, 0, False), (0, 0, True), (0, 1 << 60, True), (5, 4, True), (5, 5, False)],
)
def test_times(until: int | None, now: int, holds: bool) -> None:
    """None is not at all, 0 for ever, and else it is over at that very time."""
    assert Standing(muted_until=until).is_muted(now) is holds
    assert Standing(banned_until=until).is_banned(now) is holds
    assert (Standing(muted_until=until, banned_until=until).at(now) == Standing()) is not holds


def test_times_for_people() -> None:
    """As a date of UTC."""
    assert until_text(0) == "for good"
    assert until_text(1_893_456_000_999) == "until 2030-01-01 00:00:00 UTC"
    assert until_text(END_MS - 1) == "until 9999-12-31 23:59:59 UTC"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("role", "king"),
        ("role", None),
        ("muted_until", -1),
        ("muted_until", 1.5),
        ("banned_until", END_MS),
        ("banned_until", float("inf")),
        ("banned_until", "1"),
    ],
)
def test_bad_standings(field: str, value: Any) -> None:
    """They are found where they are made."""
    with pytest.raises(OptionError, match=f"Standing.{field}"):
        Standing(**{field: value})


# Both stores


async def test_set_and_get(tmp_path: Path) -> None:
    """Each user in each room has a standing of their own."""
    for standings in both(tmp_path):
        await standings.open()
        assert await standings.get("r", "anna") == Standing()
        await standings.set("r", "anna", MUTED)
        await standings.set("r", "bob", Standing("owner", 7, 8))
        assert await standings.get("r", "anna") == MUTED
        assert await standings.get("r", "bob") == Standing("owner", 7, 8)
        assert await standings.get("s", "anna") == Standing()
        await standings.set("r", "anna", Standing())
        assert await standings.get("r", "anna") == Standing()
        await standings.aclose()


async def test_banned(tmp_path: Path) -> None:
    """Who is banned from a room now."""
    now = now_ms()
    for standings in both(tmp_path):
        await standings.set("r", "for ever", BANNED)
        await standings.set("r", "still", Standing(banned_until=now + 60_000))
        await standings.set("r", "not any more", Standing(banned_until=now - 1))
        await standings.set("r", "muted", MUTED)
        await standings.set("s", "elsewhere", BANNED)
        assert sorted(await standings.banned("r")) == ["for ever", "still"]
        assert list(await standings.banned("nobody")) == []
        await standings.aclose()


@settings(deadline=None, max_examples=30)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from("rs"),
            st.sampled_from("ab"),
            st.builds(
                Standing,
                st.sampled_from(["owner", "member", "reader"]),
                st.sampled_from([None, 0, 5]),
                st.sampled_from([None, 0, 5]),
            ),
        ),
        max_size=12,
    )
)
def test_as_a_dictionary(steps: list[tuple[str, str, Standing]], tmp_path_factory: Any) -> None:
    """Whatever is set is what is there, in both stores."""
    path = tmp_path_factory.mktemp("model")

    async def main() -> None:
        for standings in both(path):
            known: dict[tuple[str, str], Standing] = {}
            for room, user, standing in steps:
                await standings.set(room, user, standing)
                known[room, user] = standing
                for key, expected in known.items():
                    assert await standings.get(*key) == expected
            await standings.aclose()

    trio.run(main)


async def test_memory_is_bounded() -> None:
    """What is over makes room, and then nothing does: no ban is lost."""
    standings = MemoryStandings(2)
    await standings.set("r", "over", Standing(banned_until=1))
    await standings.set("r", "anna", BANNED)
    await standings.set("r", "bob", BANNED)
    assert await standings.get("r", "over") == Standing()
    with pytest.raises(BrokerError, match="2 standings"):
        await standings.set("s", "carl", BANNED)
    await standings.set("r", "anna", MUTED)
    assert await standings.get("r", "anna") == MUTED
    await standings.set("r", "bob", Standing())
    await standings.set("s", "carl", BANNED)
    assert list(await standings.banned("s")) == ["carl"]
    with pytest.raises(OptionError, match="most"):
        MemoryStandings(0)


# The file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "standings"


async def test_a_restart(path: Path) -> None:
    """What was decided is there afterwards, but for what is over; nobody else may read it."""
    first = SqliteStandings(path)
    await first.open()
    await first.set("r", "anna", BANNED)
    await first.set("r", "over", Standing("member", 1, 2))
    await first.set("r", "reader", Standing("reader", 1, 2))
    await first.aclose()
    second = SqliteStandings(path)
    await second.open()
    assert await second.get("r", "anna") == BANNED
    assert await second.get("r", "over") == Standing()
    assert await second.get("r", "reader") == Standing("reader", 1, 2)
    await second.aclose()
    await second.aclose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_it_is_opened_again(path: Path) -> None:
    """After the end of a service it may be used by another one."""
    standings = SqliteStandings(path)
    await standings.set("r", "anna", BANNED)
    await standings.aclose()
    assert list(await standings.banned("r")) == ["anna"]
    await standings.aclose()


_OTHER = """
import sys, trio
from trio_rt.chat import SqliteStandings, Standing

async def main():
    standings = SqliteStandings(sys.argv[1])
    for number in range(100):
        await standings.set("r", f"{sys.argv[2]}{number}", Standing(banned_until=0))
    await standings.aclose()

trio.run(main)
"""


async def test_several_processes(path: Path) -> None:
    """All of them may write at the same time, into a file that none had before."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for name in "abc":
                command = [sys.executable, "-c", _OTHER, str(path), name]
                nursery.start_soon(trio.run_process, command)
    standings = SqliteStandings(path)
    assert len(await standings.banned("r")) == 300
    await standings.aclose()


async def test_what_another_process_decides(path: Path) -> None:
    """It is known at once where one hears of it, or after a while; its own at once."""
    one, other = SqliteStandings(path), SqliteStandings(path)
    assert await one.get("r", "anna") == Standing()
    await other.set("r", "anna", BANNED)
    assert await other.get("r", "anna") == BANNED
    assert await one.get("r", "anna") == Standing()
    one.changed("r", "anna")
    assert await one.get("r", "anna") == BANNED
    await other.set("r", "anna", MUTED)
    assert list(await one.banned("r")) == []
    await one.aclose()
    await other.aclose()


async def test_the_cache_ends(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """What was read is believed for a while, and no longer."""
    one, other = SqliteStandings(path), SqliteStandings(path)
    assert await one.get("r", "anna") == Standing()
    await other.set("r", "anna", BANNED)
    await trio.sleep(module.CACHE_S)
    assert await one.get("r", "anna") == BANNED
    await one.aclose()
    await other.aclose()


async def test_the_cache_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ones that are used last stay."""
    monkeypatch.setattr(module, "CACHED", 2)
    standings = SqliteStandings(path)
    for user in ("anna", "bob", "anna", "carl"):
        await standings.get("r", user)
    assert [user for _, user in standings._cache] == ["anna", "carl"]
    await standings.aclose()


async def test_a_look_that_is_overtaken_is_not_kept(path: Path) -> None:
    """A standing that was read before it changed is not believed afterwards."""
    standings, other = SqliteStandings(path), SqliteStandings(path)
    await other.set("r", "anna", Standing())

    async def look() -> None:
        await standings.get("r", "anna")

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery, standings._thread:
            nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            standings.changed("r", "anna")
    assert not standings._cache
    assert not standings._looks
    await other.aclose()
    await standings.aclose()


async def test_cancelled(path: Path) -> None:
    """A call that is cancelled leaves no thread with the file, and nothing half done."""
    standings = SqliteStandings(path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await standings.set("r", "anna", BANNED)
    with trio.CancelScope() as scope:
        scope.cancel()
        await standings.get("r", "anna")
    assert not standings._looks
    await standings.banned("r")
    assert standings._file is not None
    with trio.CancelScope() as scope:
        scope.cancel()
        await standings.aclose()
    assert standings._file is None
    assert await standings.get("r", "anna") in (Standing(), BANNED)
    await standings.aclose()


def _no_sqlite(path: Path) -> None:
    path.write_bytes(b"this is no file of a database" * 100)


def _broken(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE standings (x)")
        file.execute("PRAGMA application_id = 1953657716")
        file.execute("PRAGMA user_version = 1")


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [_no_sqlite, _broken, _directory])
async def test_a_file_that_cannot_be_used(
    path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in the log, nothing is known, and the file stays as it is."""
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    standings = SqliteStandings(path)
    await standings.open()
    assert "cannot be used" in caplog.text
    for call in (
        lambda: standings.get("r", "anna"),
        lambda: standings.set("r", "anna", BANNED),
        lambda: standings.banned("r"),
    ):
        with pytest.raises(BrokerError):
            await call()
    await standings.aclose()
    if spoil is _no_sqlite:
        assert path.read_bytes() == before


async def test_a_file_of_another_program(path: Path) -> None:
    """It is an error at once, and is not touched."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE birds (name)")
    before = path.read_bytes()
    with pytest.raises(OptionError, match="path"):
        await SqliteStandings(path).open()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["standings"]


async def test_a_file_that_comes_back(path: Path) -> None:
    """It is used as soon as it can be."""
    path.mkdir()
    standings = SqliteStandings(path)
    with pytest.raises(BrokerError):
        await standings.get("r", "anna")
    path.rmdir()
    await standings.set("r", "anna", BANNED)
    assert await standings.get("r", "anna") == BANNED
    await standings.aclose()


@pytest.mark.parametrize("path", [None, 7, "a\0b", b"x"])
def test_bad_paths(path: Any) -> None:
    """They are found where they are written."""
    with pytest.raises(OptionError, match="path"):
        SqliteStandings(path)


async def test_names_that_cannot_be_stored(tmp_path: Path) -> None:
    """Half a character is no name, and breaks nothing."""
    standings = SqliteStandings(tmp_path / "s")
    with pytest.raises(BrokerError):
        await standings.get("r", "\ud800")
    assert await standings.get("r", "anna") == Standing()
    await standings.aclose()


def test_it_needs_no_extra() -> None:
    """A service without tokens does without their package."""
    code = "import sys; sys.modules['jwt'] = None; import trio_rt.chat"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

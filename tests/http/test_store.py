"""The store in memory: bounded, and forgets what was used longest ago."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import OptionError
from trio_rt.http._freshness import Entry, Terms
from trio_rt.http._store import MOST_RECENT, MOST_VARIANTS, MemoryStore, Recent, size_bytes

__all__ = ["entry_of"]


def entry_of(body: bytes = b"body", variant: bytes = b"", at: float = 1e9) -> Entry:
    terms = Terms(at, at, at + 60, False, False, False, None, 5.0, b'"1"', None, (b"a",), len(body))
    return Entry(terms, variant, 200, b"HTTP/1.1", b"OK", ((b"A", b"1"), (b"A", b"2")), body)


SIZE = size_bytes("a", entry_of())


async def bodies(store: MemoryStore, key: str) -> list[bytes]:
    return [entry.body for entry in await store.get(key)]


async def test_variants_are_kept_side_by_side() -> None:
    """Another variant is added in front, and the same one replaced."""
    store = MemoryStore()
    store.put("a", entry_of(b"one", b"1"))
    store.put("a", entry_of(b"two", b"2"))
    assert await bodies(store, "a") == [b"two", b"one"]
    store.put("a", entry_of(b"new", b"1"))
    assert await bodies(store, "a") == [b"new", b"two"]
    assert store.statistics().entries == 2
    store.delete("a")
    assert await bodies(store, "a") == []
    assert (store.statistics().entries, store.statistics().bytes) == (0, 0)


async def test_variants_are_bounded() -> None:
    """Of one URL the latest sixteen remain."""
    store = MemoryStore()
    for number in range(MOST_VARIANTS + 1):
        store.put("a", entry_of(variant=b"%d" % number))
    variants = [entry.variant for entry in await store.get("a")]
    assert variants == [b"%d" % number for number in range(MOST_VARIANTS, 0, -1)]


async def test_what_was_used_longest_ago_goes_first() -> None:
    """Reading and writing are uses; as much as fits exactly stays."""
    store = MemoryStore(max_bytes=3 * SIZE, max_body_bytes=SIZE)
    for key in "abc":
        store.put(key, entry_of())
    assert store.statistics().bytes == 3 * SIZE
    await store.get("a")
    store.put("b", entry_of())
    store.put("d", entry_of())
    assert [bool(await store.get(key)) for key in "abcd"] == [True, True, False, True]


async def test_what_never_fits_is_not_kept() -> None:
    """An entry above the whole bound leaves nothing, and makes no books go wrong."""
    store = MemoryStore(max_bytes=SIZE, max_body_bytes=SIZE)
    store.put("a", entry_of(b"x" * 1000))
    assert await store.get("a") == ()
    assert store.statistics().bytes == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from([b"1", b"2", None]), st.integers(0, 3000)
        ),
        max_size=30,
    )
)
def test_books(steps: list[tuple[str, bytes | None, int]]) -> None:
    """The bound holds after each step, and the numbers are those of the entries."""
    store = MemoryStore(max_bytes=6000, max_body_bytes=3000)
    for key, variant, size in steps:
        if variant is None:
            store.delete(key)
        else:
            store.put(key, entry_of(bytes(size), variant))
        kept = [(key, entry) for key, entries in store._entries.items() for entry in entries]
        told = store.statistics()
        assert told.entries == len(kept)
        assert told.bytes == sum(size_bytes(key, entry) for key, entry in kept) <= 6000


@pytest.mark.parametrize("sizes", [(0, 1), (10, 0), (10, 11), (True, 1), (1.5, 1)])
def test_bad_sizes(sizes: tuple[int, int]) -> None:
    """Sizes are whole numbers from 1, and a body is not larger than the store."""
    with pytest.raises(OptionError):
        MemoryStore(*sizes)


def test_entries_are_encoded_whole() -> None:
    """What msgspec writes of an entry it reads back equal."""
    entry = entry_of(b"\x00\xff")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(entry), type=Entry) == entry


def test_recent_forgets_the_oldest() -> None:
    """1024 keys are remembered; setting one again makes it young."""
    recent: Recent[int] = Recent()
    for key in range(MOST_RECENT):
        recent[key] = 1.0
    recent[0] = 2.0
    recent[MOST_RECENT] = 1.0
    assert (recent[0], recent[1], recent[2]) == (2.0, 0.0, 1.0)

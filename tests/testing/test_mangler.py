from __future__ import annotations

import math
from collections.abc import Iterator

from trio_rt.testing._mangler import Mangler

STREAM = bytes(range(256)) * 40


def _flipped(seed: str, share: float, chunk_bytes: int) -> bytes:
    mangler = Mangler(seed)
    chunks = (STREAM[at : at + chunk_bytes] for at in range(0, len(STREAM), chunk_bytes))
    return b"".join(mangler.flip(chunk, share) for chunk in chunks)


def _cuts(mangler: Mangler, chunk_bytes: int, most: float) -> Iterator[int]:
    """Where in the stream its writes end, the ends of chunks left out."""
    for chunk in range(0, len(STREAM), chunk_bytes):
        done = 0
        while done < chunk_bytes:
            size = mangler.cut(chunk_bytes - done, most)
            assert 1 <= size <= most
            done += size
            if done < chunk_bytes:
                yield chunk + done


def test_flips_one_bit_in_this_share_of_bytes() -> None:
    """A tenth of the bytes differ, each by one bit, and any bit may be it."""
    changes = [a ^ b for a, b in zip(_flipped("a", 0.1, 1000), STREAM, strict=True)]
    assert set(changes) == {0, 1, 2, 4, 8, 16, 32, 64, 128}
    assert 0.08 < 1 - changes.count(0) / len(changes) < 0.12


def test_shares_of_none_and_all() -> None:
    """Nothing is flipped by a share of 0, and no byte is spared by one of 1."""
    assert _flipped("a", 0.0, 1000) == STREAM
    assert all(a != b for a, b in zip(_flipped("a", 1.0, 1000), STREAM, strict=True))


def test_flips_do_not_depend_on_the_chunks() -> None:
    """The same seed flips the same bits of the stream, another one others."""
    assert _flipped("a", 0.1, 7) == _flipped("a", 0.1, 1000) != _flipped("b", 0.1, 1000)


def test_cuts_do_not_depend_on_the_chunks() -> None:
    """The same seed cuts the stream at the same places, and at the ends of chunks besides."""
    whole = set(_cuts(Mangler("a"), len(STREAM), 20))
    ends = set(range(0, len(STREAM), 512))
    assert set(_cuts(Mangler("a"), 512, 20)) == whole - ends
    assert set(_cuts(Mangler("b"), len(STREAM), 20)) != whole


def test_cuts_of_all_sizes_up_to_the_most() -> None:
    """Writes have from 1 to `most` bytes."""
    mangler = Mangler("a")
    assert {mangler.cut(1000, 5) for _ in range(200)} == {1, 2, 3, 4, 5}
    assert {mangler.cut(1000, 1) for _ in range(200)} == {1}


def test_no_cuts() -> None:
    """Without a bound a write has all bytes, also after one that was bounded."""
    mangler = Mangler("a")
    assert mangler.cut(1000, math.inf) == 1000
    mangler.cut(1, 1000)
    assert mangler.cut(1000, math.inf) == 1000


def test_a_smaller_bound_holds_at_once() -> None:
    """A cut drawn under a larger bound is drawn again."""
    mangler = Mangler("a")
    mangler.cut(1, 10**9)
    assert mangler.cut(1000, 3) <= 3

"""The bounded log of one room."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.hub import _log
from trio_rt.hub._broker import Draft, Head, LogLimits
from trio_rt.hub._log import MOST_MARKS, Log, farthest


def log_of(**limits: Any) -> Log:
    return Log("r", "e", LogLimits(**limits))


def put(log: Log, key: str, now: float = 0.0, body: bytes = b"{}") -> int:
    return log.append(Draft("r", key, body), now).offset


def stored(log: Log) -> list[int]:
    return [item.offset for item in log.page("after", 0, 10**9, 10**9)]


def test_a_new_log_is_empty() -> None:
    """Its head is before its first message."""
    log = log_of()
    assert log.head == Head("e", 1, 0)
    assert log.known("k", 0.0) == 0
    assert stored(log) == []
    assert log.page("before", 9, 9, 9) == []


def test_an_item_is_its_draft_with_its_place() -> None:
    """It is kept as it was given out."""
    log = log_of()
    item = log.append(Draft("r", "k", b"[]", "user", "device"), 0.0)
    assert (item.room, item.epoch, item.offset) == ("r", "e", 1)
    assert (item.body, item.only, item.but) == (b"[]", "user", "device")
    assert log.page("after", 0, 1, 1)[0] is item


def test_keys_are_known_for_repeat_s() -> None:
    """To the moment, each from its own message on."""
    log = log_of(repeat_s=10.0)
    put(log, "a", 0.0)
    put(log, "b", 5.0)
    assert [log.known(key, 9.9) for key in "abc"] == [1, 2, 0]
    assert [log.known(key, 10.0) for key in "ab"] == [0, 2]
    assert put(log, "a", 12.0) == 3
    assert [log.known(key, 15.0) for key in "ab"] == [3, 0]
    assert log.key_count == 1


def test_keys_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten; the table and its order agree."""
    monkeypatch.setattr(_log, "MOST_KEYS", 3)
    log = log_of()
    for key in "abcde":
        put(log, key)
    assert [log.known(key, 0.0) for key in "abcde"] == [0, 0, 3, 4, 5]
    assert log.key_count == 3
    put(log, "a")
    assert [log.known(key, 0.0) for key in "acd"] == [6, 0, 4]


def test_messages_grow_old() -> None:
    """At `keep_s` to the moment, when a message comes or when it is asked for."""
    log = log_of(keep_s=10.0)
    for n in range(4):
        put(log, str(n), float(n))
    log.prune(10.9)
    assert (stored(log), log.total_bytes) == ([2, 3, 4], 6)
    put(log, "4", 12.0)
    assert (log.head, log.total_bytes) == (Head("e", 4, 5), 4)
    log.prune(99.0)
    assert (log.head, log.total_bytes) == (Head("e", 6, 5), 0)


def test_no_age_limit() -> None:
    """`math.inf` keeps messages for ever."""
    log = log_of(keep_s=math.inf)
    put(log, "a")
    log.prune(1e12)
    assert stored(log) == [1]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.floats(0, 5)), max_size=60),
    st.integers(1, 8),
    st.integers(1, 30),
    st.floats(1, 20),
)
def test_what_is_kept(
    steps: list[tuple[int, float]], messages: int, total_bytes: int, keep_s: float
) -> None:
    """The longest end of what came that is within all three limits."""
    log = log_of(messages=messages, total_bytes=total_bytes, keep_s=keep_s)
    came: list[tuple[float, int]] = []
    now = 0.0
    for n, (size, pause) in enumerate(steps):
        now += pause
        put(log, str(n), now, b"x" * size)
        came.append((now, size))
        kept = 0
        for at, size in reversed(came):
            sizes = sum(size for _, size in came[len(came) - kept - 1 :])
            if kept == messages or sizes > total_bytes or at <= now - keep_s:
                break
            kept += 1
        assert stored(log) == [*range(n + 2 - kept, n + 2)]
        assert log.total_bytes == sum(len(item.body) for item in log.page("after", 0, 99, 999))


def test_the_farthest_marks() -> None:
    """Few are all there; of many those who have read least are not."""
    few = {"a": 1, "b": 3}
    assert farthest(few) == few
    assert farthest(few) is not few
    many = farthest({str(n): n for n in range(MOST_MARKS + 5)})
    assert len(many) == MOST_MARKS
    assert min(many.values()) == 5

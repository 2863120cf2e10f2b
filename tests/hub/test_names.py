"""What may be a name, and what may not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt import OptionError
from trio_rt.hub._names import NAME_BYTES, check_name, is_name

GOOD = ["a", "lobby", "a b", "a:b/c#d", "*", "日本語", "é", "\U0001f600", "a" * 128, "é" * 64]

BAD = [
    "",
    " ",
    " a",
    "a ",
    "\u00a0a",
    "a\u3000",
    "a" * 129,
    "é" * 65,
    "日" * 43,
    "x" * 10_000,
    "a\x00b",
    "a\nb",
    "a\r\nFLUSHALL",
    "a\tb",
    "\x7f",
    "\x85b",
    "a\u200bb",
    "a\u200db",
    "a\u202eb",
    "a\u2066b",
    "\ufeffa",
    "a\u00adb",
    "a\u2028b",
    "a\u2029b",
    "\ud800",
    "a\udfffb",
    "\U000e0041",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_name(name: str) -> None:
    """Printable text of 1 to 128 bytes, with spaces within."""
    assert is_name(name)
    check_name("room", name)


@pytest.mark.parametrize("name", BAD)
def test_no_name(name: str) -> None:
    """Nothing invisible, nothing at its ends, nothing that UTF-8 cannot say, not too long."""
    assert not is_name(name)
    with pytest.raises(OptionError, match="room"):
        check_name("room", name)


@pytest.mark.parametrize("name", [None, 1, b"a", ["a"], True])
def test_what_is_no_text(name: object) -> None:
    """It is no name, and the error shows it as it is."""
    assert not is_name(name)
    with pytest.raises(OptionError) as caught:
        check_name("room", name)
    assert caught.value.value is name


def test_the_error_is_short() -> None:
    """A long name is cut in its error, which goes into logs."""
    with pytest.raises(OptionError) as caught:
        check_name("room", "x" * 10_000)
    assert len(str(caught.value)) < 200


def test_another_limit() -> None:
    """The limit is in bytes of UTF-8, both sides of it."""
    assert is_name("é" * 5, 10)
    assert not is_name("é" * 5, 9)
    assert is_name("a" * 1000, 1000)
    assert not is_name("a" * 1001, 1000)


@given(st.text(st.characters(), max_size=140))
def test_any_text(name: str) -> None:
    """A name survives UTF-8, a log line and strip() as it is."""
    if is_name(name):
        assert name.encode().decode() == name.strip() == name
        assert len(name.encode()) <= NAME_BYTES
        assert not any(
            unicodedata.category(c).startswith(("Cc", "Cf", "Z")) and c != " "
            for c in name
            if unicodedata.category(c) != "Zs"
        )
        assert len(f"[{name}]".splitlines()) == 1

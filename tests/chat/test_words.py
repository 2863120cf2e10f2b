"""What may be said: the checks that both ends have."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt import PayloadError
from trio_rt.chat._words import (
    CONTENT_BYTES,
    METADATA_BYTES,
    REACTION_BYTES,
    check_content,
    check_metadata,
    check_reaction,
)

ANY = st.text(st.characters(), max_size=20)


def is_refused(check: Any, value: object) -> bool:
    try:
        check(value)
    except PayloadError:
        return True
    return False


@given(ANY)
def test_content_has_no_controls_but_layout(text: str) -> None:
    """Of Unicode's categories `Cc` and `Cs` only lines and tabs, and not blank alone."""
    unsayable = [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert is_refused(check_content, text) == (bool(unsayable) or not text.strip())


@given(ANY)
def test_reaction_has_no_controls(text: str) -> None:
    """Not even layout."""
    unsayable = any(unicodedata.category(c) in ("Cc", "Cs") for c in text)
    too_long = not unsayable and len(text.encode()) > REACTION_BYTES
    assert is_refused(check_reaction, text) == (unsayable or not text.strip() or too_long)


@pytest.mark.parametrize("letter", ["x", "é", "👍"])
def test_sizes_are_in_utf8(letter: str) -> None:
    """As many as fit, and not one more."""
    for check, most in ((check_content, CONTENT_BYTES), (check_reaction, REACTION_BYTES)):
        fits = letter * (most // len(letter.encode()))
        assert not is_refused(check, fits)
        assert is_refused(check, fits + letter)


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"]])
def test_only_text_is_content(value: object) -> None:
    """The error names the field and the value."""
    with pytest.raises(PayloadError, match="content must be text"):
        check_content(value)


def test_the_error_shows_what_is_wrong() -> None:
    """The first character that may not be, not the whole text."""
    with pytest.raises(PayloadError) as caught:
        check_content("a\nb\x1b[0m")
    assert (caught.value.field, caught.value.value) == ("content", "\x1b")


def test_metadata_is_an_object_that_json_can_have() -> None:
    """Of a bounded size."""
    most = METADATA_BYTES - len('{"a":""}')
    assert not is_refused(check_metadata, {})
    assert not is_refused(check_metadata, {"a": "x" * most})
    for wrong in ("x" * (most + 1), object(), "\ud800"):
        assert is_refused(check_metadata, {"a": wrong})
    assert is_refused(check_metadata, [])
    assert is_refused(check_metadata, None)
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert is_refused(check_metadata, deep)

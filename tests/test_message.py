"""The values that travel."""

from __future__ import annotations

from typing import get_args

import attrs
import pytest

from trio_rt import message as module
from trio_rt.errors import DecodeError
from trio_rt.message import Gap, Item, Malformed, Message, Priority, Reset


def seen(item: Item) -> object:
    match item:
        case Message(type="chat", payload={"text": str(text)}):
            return text
        case Message(payload=payload):
            return ("other", payload)
        case Gap(count):
            return count
        case Reset(cause):
            return ("reset", cause)


def test_matching() -> None:
    """Items are told apart by `match`, by keyword and by place."""
    cause = OSError()
    assert seen(Message("chat", {"text": "hi"})) == "hi"
    assert seen(Message("note", 1)) == ("other", 1)
    assert seen(Gap(3)) == 3
    assert seen(Reset(cause)) == ("reset", cause)


def test_message_defaults() -> None:
    """Only a type and a payload are needed."""
    one = Message("chat", None)
    assert (one.id, one.timestamp, one.priority) == ("", None, Priority.NORMAL)
    assert (one.key, one.received_at) == (None, 0.0)


def test_message_is_a_value() -> None:
    """A message is equal to another of the same fields, and cannot be changed."""
    assert Message("a", [1], key="k") == Message("a", [1], key="k")
    assert Message("a", [1]) != Message("a", [2])
    with pytest.raises(AttributeError):
        Message("a", 1).payload = 2  # type: ignore[misc]


def test_message_is_generic() -> None:
    """`Message[T]` may be written in annotations."""
    assert get_args(Message[int]) == (int,)


def test_priorities() -> None:
    """Four priorities, from the least to the most urgent."""
    assert [each.name for each in sorted(Priority)] == ["LOW", "NORMAL", "HIGH", "CRITICAL"]


def test_reset_equality() -> None:
    """Two resets are equal whatever their causes, which cannot be compared."""
    assert Reset(OSError()) == Reset(ValueError()) == Reset()
    assert Reset().cause is None


@pytest.mark.parametrize("value", [Gap(1), Reset()], ids=str)
def test_frozen(value: attrs.AttrsInstance) -> None:
    """Marks cannot be changed, nor carry more."""
    for name in (*(field.name for field in attrs.fields(type(value))), "other"):
        with pytest.raises(AttributeError):
            setattr(value, name, None)


def test_malformed() -> None:
    """What is no message keeps the data as it came, the error and the time."""
    error = DecodeError("type", "is missing", {})
    item = Malformed(b"{}", error, 5.0)
    assert (item.data, item.error, item.received_at) == (b"{}", error, 5.0)


def test_public() -> None:
    """All that `__all__` promises is there."""
    assert all(hasattr(module, name) for name in module.__all__)

"""Payloads read as the type that a stream asked for."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import DecodeError, OptionError
from trio_rt.protocol.payloads import is_foreign, reader


@attrs.frozen
class Price:
    amount: float = attrs.field(validator=attrs.validators.ge(0))
    tags: list[int] = attrs.field(factory=list)


@dataclasses.dataclass
class Room:
    name: str
    prices: list[Price]
    by_id: dict[str, Price] = dataclasses.field(default_factory=dict)


class Options(TypedDict):
    a: int
    b: NotRequired[str]


def json(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def refusal(payload: object, as_: Any, *, binary: bool = False) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        reader(binary, as_)(payload)
    return caught.value


READABLE: list[tuple[object, Any, object]] = [
    ({"a": [1, None]}, Any, {"a": [1, None]}),
    ({"amount": 1}, Price, Price(1.0)),
    ({"name": "x", "prices": [{"amount": 2.5}]}, Room, Room("x", [Price(2.5)])),
    ({"a": 1, "c": 2}, Options, {"a": 1}),
    (5, int | str, 5),
    ("5", int | str, "5"),
    (None, int | None, None),
    ("b", Literal["a", "b"], "b"),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, 1], set[int], {1}),
    ("2020-01-02", datetime.date, datetime.date(2020, 1, 2)),
    (1, float, 1.0),
    ({"x": 1}, object, {"x": 1}),
]


@pytest.mark.parametrize(
    ("payload", "as_", "expected"), READABLE, ids=lambda value: repr(value)[:40]
)
def test_a_payload_becomes_the_type_asked_for(payload: object, as_: Any, expected: object) -> None:
    """From JSON, from MessagePack, and from what a codec has decoded already."""
    packed = msgspec.Raw(msgspec.msgpack.encode(payload))
    for found in (
        reader(False, as_)(json(payload)),
        reader(True, as_)(packed),
        reader(False, as_)(payload),
    ):
        assert found == expected
        assert type(found) is type(expected)


def test_any_leaves_a_decoded_payload_as_it_is() -> None:
    """The very object."""
    for payload in (object(), {"a": [1]}):
        assert reader(False, Any)(payload) is payload


def test_an_object_of_the_type_passes() -> None:
    """A codec of one's own may build them."""

    class Alien:
        pass

    alien = Alien()
    assert reader(False, Alien)(alien) is alien
    assert reader(False, Price)(price := Price(1.0)) == price


@pytest.mark.parametrize(
    ("payload", "as_", "field", "value"),
    [
        ("x", int, "payload", "x"),
        ({"amount": "x"}, Price, "payload.amount", "x"),
        ({"amount": -1}, Price, "payload", {"amount": -1}),
        ({}, Price, "payload", {}),
        ({"amount": 1, "tags": [1, "b"]}, Price, "payload.tags[1]", "b"),
        ({"name": "x", "prices": [{}]}, Room, "payload.prices[0]", {}),
        ([1, True], list[int], "payload[1]", True),
        ({"a": {"b": "x"}}, dict[str, dict[str, int]], "payload[...][...]", {"a": {"b": "x"}}),
        ({"x": 1}, dict[int, int], "payload", {"x": 1}),
        ("c", Literal["a", "b"], "payload", "c"),
        (True, int | str, "payload", True),
        ({"a": 1, "b": 2}, Options, "payload.b", 2),
        (5, Annotated[int, msgspec.Meta(lt=5)], "payload", 5),
    ],
)
def test_what_does_not_fit_is_named(payload: object, as_: Any, field: str, value: object) -> None:
    """The path, a rule in words, and what stands there; decoded already or not."""
    for error in (
        refusal(json(payload), as_),
        refusal(msgspec.Raw(msgspec.msgpack.encode(payload)), as_, binary=True),
    ):
        assert error.field == field
        assert error.value == value
        assert not error.rule[0].isupper()
        assert error.__cause__ is not None
    converted = refusal(payload, as_)
    assert (converted.field, converted.value) == (field, value)


def test_the_rule_is_in_words() -> None:
    """As a person would look for it."""
    assert refusal(json("x"), int).rule == "expected `int`, got `str`"
    assert refusal(json({"x": 1}), dict[int, int]).rule.startswith("has a wrong key: ")


def test_a_value_that_looks_like_a_path_does_not_confuse() -> None:
    """The place is what msgspec says last."""
    error = refusal(json({"k": ["` - at `$.x"]}), dict[str, list[Literal["a"]]])
    assert error.field == "payload[...][0]"
    assert " - at " in error.rule


@pytest.mark.parametrize(
    ("raw", "as_"),
    [
        (b"", Any),
        (b"{", Any),
        (b"[" * 100_000, Any),
        (b"[" * 100_000 + b"]" * 100_000, Any),
        (b"[" * 100_000 + b"]" * 100_000, int),
        (b'"\xff"', Any),
        (b'"\xff"', str),
        (b'{"\xff":1}', Any),
        (b'"\\ud800"', Any),
        (b"9" * 5000, Any),
        (b"9" * 5000, int),
        (b"-1e999", float),
        (b"NaN", float),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_every_failure_is_a_decode_error(raw: bytes, as_: Any) -> None:
    """Half values, deep nesting, invalid text, numbers beyond reason."""
    assert refusal(msgspec.Raw(raw), as_).field == "payload"


def test_duplicate_keys_take_the_last() -> None:
    """As in the envelope."""
    assert reader(False, Any)(msgspec.Raw(b'{"a":1,"a":2}')) == {"a": 2}


def test_a_class_that_raises_anything_gives_a_decode_error() -> None:
    """The program's own bug in a class must not end the link."""

    @dataclasses.dataclass
    class Broken:
        a: int

        def __post_init__(self) -> None:
            raise KeyError("oops")

    error = refusal(json({"a": 1}), Broken)
    assert error.field == "payload"
    assert "KeyError" in error.rule
    assert isinstance(error.__cause__, KeyError)


@pytest.mark.parametrize("as_", [5, "int", list[int] | tuple[int], Literal[1.5], [int]])
def test_a_type_that_cannot_be_is_an_option_error(as_: Any) -> None:
    """When the stream is opened, not with its first message."""
    with pytest.raises(OptionError) as caught:
        reader(False, as_)
    assert caught.value.field == "as_"


def test_a_type_whose_annotations_cannot_be_resolved_is_an_option_error() -> None:
    """A name that does not exist is the caller's error too."""

    @dataclasses.dataclass
    class Unknown:
        a: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(OptionError):
        reader(False, Unknown)


def test_readers_are_kept() -> None:
    """A request for the same type makes none again; the syntax tells them apart."""
    assert reader(False, list[int]) is reader(False, list[int])
    assert reader(True, list[int])(msgspec.Raw(b"\x91\x01")) == [1]
    assert reader(False, list[int])(msgspec.Raw(b"[1]")) == [1]


def test_a_type_that_cannot_be_hashed_can_be_read() -> None:
    """Then its reader is made anew."""
    as_ = Annotated[int, {"unit": "s"}]
    with pytest.raises(TypeError):
        hash(as_)
    assert reader(False, as_)(msgspec.Raw(b"5")) == 5


def test_foreign_types_are_told_apart() -> None:
    """A class that msgspec can only recognise is foreign."""

    class Alien:
        pass

    assert is_foreign(Alien)
    assert not any(map(is_foreign, [Price, Room, Options, int, object, Any, list[int], None]))


@given(raw=st.binary(), binary=st.booleans())
def test_any_bytes_give_a_value_or_a_decode_error(raw: bytes, binary: bool) -> None:
    """Nothing else leaves a reader, whatever it was asked for."""
    for as_ in (Any, Room, list[int], int | str | None):
        read = reader(binary, as_)
        try:
            read(msgspec.Raw(raw))
        except DecodeError:
            continue
        assert raw

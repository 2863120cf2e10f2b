"""The exceptions: whose doing, what they carry, what they show."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import trio

import trio_rt
from trio_rt import errors
from trio_rt.errors import (
    SHOWN_CHARACTERS,
    DecodeError,
    DialError,
    HandshakeError,
    HookError,
    LinkClosed,
    LinkDead,
    OptionError,
    PayloadError,
    Refuse,
    StreamOverflow,
    TrioRtError,
    Undelivered,
    UsageError,
    shown,
)
from trio_rt.message import dropped

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type)
    and issubclass(value, BaseException)
    and value.__module__ == errors.__name__
}


def test_tree() -> None:
    """The tree in the module's docstring is the tree of classes."""
    drawn: dict[str, str] = {}
    path: list[str] = []
    for indent, name in re.findall(r"^ {4}([ │├└─]*)(\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 4
        path[depth:] = [name]
        if depth:
            drawn[name] = path[depth - 1]
    real = {
        name: value.__mro__[1].__name__ for name, value in CLASSES.items() if name != "TrioRtError"
    }
    assert drawn == real


def test_public() -> None:
    """Every class is public, here and in the package."""
    assert sorted(CLASSES) == sorted(errors.__all__)
    assert set(CLASSES) <= set(trio_rt.__all__)


def test_one_base() -> None:
    """`except TrioRtError` catches them all."""
    assert all(issubclass(value, TrioRtError) for value in CLASSES.values())


def test_standard_bases() -> None:
    """What trio or Python has a class for is also of that class."""
    assert issubclass(UsageError, ValueError)
    assert issubclass(StreamOverflow, trio.BrokenResourceError)


@pytest.mark.parametrize("kind", [OptionError, PayloadError])
def test_usage_error(kind: type[UsageError]) -> None:
    """A usage error tells the field, the rule and the value, and has all three."""
    error = kind("Reconnect.cap_s", "must be a number", "soon")
    assert str(error) == "Reconnect.cap_s must be a number, not 'soon'"
    assert (error.field, error.rule, error.value) == ("Reconnect.cap_s", "must be a number", "soon")


def test_decode_error() -> None:
    """A decode error likewise."""
    error = DecodeError("type", "is missing", {})
    assert str(error) == "type is missing: {}"
    assert (error.field, error.rule, error.value) == ("type", "is missing", {})


def test_shown() -> None:
    """A value is shown up to a hundred characters, then with its length."""
    assert shown("x" * 98) == repr("x" * 98)
    long = shown("x" * 99)
    assert long == f"'{'x' * 99}... (101 characters)"
    assert SHOWN_CHARACTERS == 100
    assert len(str(DecodeError("payload", "is bad", "x" * 10**6))) < 200


def test_shown_with_a_broken_repr() -> None:
    """A value that cannot be shown does not hide the error it is in."""

    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    assert (
        str(OptionError("x", "is bad", Broken())) == "x is bad, not <Broken that cannot be shown>"
    )


def test_dial_error() -> None:
    """A dial error tells where it ended."""
    error = DialError("no route", stage="tcp")
    assert (str(error), error.stage, error.certificate) == ("no route", "tcp", False)
    assert DialError("expired", stage="tls", certificate=True).certificate


def test_handshake_error() -> None:
    """A handshake error has the answer; without one it has defaults."""
    error = HandshakeError("busy", status=503, headers={"a": "b"}, retry_after_s=2.0, body=b"later")
    assert (error.status, error.headers, error.retry_after_s) == (503, {"a": "b"}, 2.0)
    assert (str(error), error.body) == ("busy", b"later")
    bare = HandshakeError("no HTTP")
    assert (bare.status, bare.headers, bare.retry_after_s, bare.body) == (None, {}, None, b"")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LinkClosed(1000), "closed by peer with 1000"),
        (LinkClosed(1001, "bye"), "closed by peer with 1001: bye"),
        (LinkClosed(1009, "too big", by_peer=False), "closed by this side with 1009: too big"),
        (LinkClosed(1006), "the link was cut (1006)"),
        (LinkClosed(1006, "reset"), "the link was cut (1006): reset"),
    ],
)
def test_link_closed(error: LinkClosed, text: str) -> None:
    """A close tells who closed, and with what."""
    assert str(error) == text


def test_link_closed_fields() -> None:
    """A close has its code, its reason and whose it was."""
    error = LinkClosed(1002, "masked", by_peer=False)
    assert (error.code, error.reason, error.by_peer) == (1002, "masked", False)
    assert LinkClosed(1000).by_peer


def test_link_dead() -> None:
    """A dead link tells how long it was silent."""
    error = LinkDead(25.04)
    assert error.silent_s == 25.04
    assert str(error) == "nothing heard for 25 s"


def test_hook_error() -> None:
    """A hook's error tells which hook raised what."""
    error = HookError("greet", KeyError("token"))
    assert error.hook == "greet"
    assert str(error) == "greet raised KeyError: 'token'"


def test_undelivered() -> None:
    """An undelivered send has its outcome and tells it."""
    error = Undelivered(dropped("expired"))
    assert error.outcome is dropped("expired")
    assert str(error) == "dropped (expired)"


def test_refuse() -> None:
    """A refusal has status, text and headers, whose values become text."""
    error = Refuse(503, "later", headers={"Retry-After": 5})
    assert (error.status, error.text, error.headers) == (503, "later", {"Retry-After": "5"})
    assert (Refuse(400).text, Refuse(599).headers) == ("", {})


@pytest.mark.parametrize("status", [399, 600, 200, 101, -1, math.nan])
def test_refuse_status(status: int) -> None:
    """Only a status of failure refuses."""
    with pytest.raises(OptionError) as caught:
        Refuse(status)
    assert caught.value.field == "status"


def test_docstrings() -> None:
    """Every class says what it is."""
    assert all(inspect.cleandoc(value.__doc__ or "") for value in CLASSES.values())

"""The values of the opening handshake."""

from __future__ import annotations

import pytest

from trio_rt._handshake import Handshake, RequestHeaders


def test_names_in_any_case() -> None:
    """A header is found under any spelling of its name, and only under its name."""
    headers = RequestHeaders([("X-Token", "a")])
    assert headers["x-token"] == headers["X-TOKEN"] == "a"
    assert "X-tOKEN" in headers
    assert "X-Tokens" not in headers
    assert not headers.__contains__(None)
    assert headers.get("other") is None


def test_repeated_name() -> None:
    """Several values of one name are joined by index and single by `get_all`."""
    headers = RequestHeaders([("A", "1"), ("b", "2"), ("a", "3")])
    assert headers["a"] == "1, 3"
    assert headers.get_all("A") == ("1", "3")
    assert headers.get_all("none") == ()
    assert list(headers) == ["a", "b"]
    assert len(headers) == 2


def test_odd_values() -> None:
    """Colons, blanks and nothing at all are values like others; no headers are none."""
    headers = RequestHeaders([("Host", "[::1]:80"), ("X-Empty", ""), ("X-Blank", " a : b ")])
    assert dict(headers) == {"host": "[::1]:80", "x-empty": "", "x-blank": " a : b "}
    assert "x-empty" in headers
    none = RequestHeaders([])
    assert (len(none), list(none), "" in none) == (0, [], False)
    with pytest.raises(KeyError, match="Host"):
        none["Host"]


def test_no_secret_in_repr() -> None:
    """Neither a header's value nor the query is in the repr of a handshake."""
    headers = RequestHeaders([("Authorization", "canary")])
    shown = repr(Handshake(path="/chat", query="token=canary", headers=headers))
    assert "canary" not in shown
    assert "authorization" in shown
    assert "/chat" in shown


def same_origin(origin: str | None, host: str | None, *, secure: bool = False) -> bool:
    headers = RequestHeaders([] if host is None else [("Host", host)])
    return Handshake(path="/", headers=headers, origin=origin, secure=secure).same_origin


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "good.example"),
        ("http://good.example", "good.example"),
        ("http://good.example:80", "good.example"),
        ("http://good.example", "good.example:80"),
        ("HTTP://Good.Example", "gOOD.example"),
        ("http://good.example:8080", "good.example:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        # TLS ended at a proxy, which passes Host as it came
        ("https://good.example", "good.example"),
        ("https://good.example:443", "good.example"),
    ],
)
def test_same_origin(origin: str | None, host: str) -> None:
    """The page's scheme, host and port are the server's, or there is no page."""
    assert same_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("null", "good.example"),
        ("", "good.example"),
        ("file://", "good.example"),
        ("http://", ""),
        ("http://good.example", None),
        ("good.example", "good.example"),
        ("ws://good.example", "good.example"),
        ("http://good.example.evil.example", "good.example"),
        ("http://evil.example/good.example", "good.example"),
        ("http://good.example@evil.example", "good.example"),
        ("http://evil-good.example", "good.example"),
        ("http://good.example/", "good.example"),
        ("http://good.example:81", "good.example"),
        ("http://good.example", "good.example:81"),
        ("http://good.example:443", "good.example"),
        ("https://good.example", "good.example:80"),
        ("http://127.0.0.1:8000", "localhost:8000"),
        ("http://good.example, http://evil.example", "good.example"),
    ],
)
def test_other_origin(origin: str, host: str | None) -> None:
    """Anything but an equal origin is another: no suffix, no prefix, no other port."""
    assert not same_origin(origin, host)


def test_secure_origin() -> None:
    """Where TLS ends in the process, an http page of the same host is another origin."""
    assert same_origin("https://good.example", "good.example", secure=True)
    assert not same_origin("http://good.example", "good.example", secure=True)

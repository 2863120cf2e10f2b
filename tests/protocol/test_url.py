"""WebSocket URLs."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_rt.errors import OptionError
from trio_rt.protocol.url import Url, parse_url


def test_parts() -> None:
    """Everything a dial needs is there."""
    url = parse_url("wss://example.com:8443/chat/room?a=1&b=2")
    assert (url.secure, url.host, url.port) == (True, "example.com", 8443)
    assert url.resource == "/chat/room?a=1&b=2"
    assert url.user_info is None


@pytest.mark.parametrize(
    ("text", "secure", "port"),
    [
        ("ws://h", False, 80),
        ("wss://h", True, 443),
        ("WSS://h:", True, 443),
        ("ws://h:9", False, 9),
    ],
)
def test_scheme_and_port(text: str, secure: bool, port: int) -> None:
    """The default port is that of the scheme."""
    url = parse_url(text)
    assert (url.secure, url.port, url.resource) == (secure, port, "/")


@pytest.mark.parametrize(
    ("text", "host", "netloc"),
    [
        ("ws://EXAMPLE.com/", "example.com", "example.com"),
        ("ws://example.com.:80/", "example.com.", "example.com."),
        ("wss://example.com:80/", "example.com", "example.com:80"),
        ("ws://my_service:8000/", "my_service", "my_service:8000"),
        ("ws://127.0.0.1/", "127.0.0.1", "127.0.0.1"),
        ("ws://[::1]:81/", "::1", "[::1]:81"),
        ("ws://[0:0::0001]/", "::1", "[::1]"),
        ("ws://bücher.example/", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("ws://faß.de/", "xn--fa-hia.de", "xn--fa-hia.de"),
        ("ws://\uff25x.com/", "ex.com", "ex.com"),
        (f"ws://{'a' * 63}.x/", "a" * 63 + ".x", "a" * 63 + ".x"),
    ],
)
def test_host(text: str, host: str, netloc: str) -> None:
    """Hosts are lower-case ASCII; an address of IPv6 gets its brackets back in netloc."""
    url = parse_url(text)
    assert (url.host, url.netloc) == (host, netloc)


@pytest.mark.parametrize(
    ("text", "resource"),
    [
        ("ws://h/", "/"),
        ("ws://h?q", "/?q"),
        ("ws://h/a%20b/%C3%A9", "/a%20b/%C3%A9"),
        ("ws://h/é/日", "/%C3%A9/%E6%97%A5"),
        ("ws://h/a;b=c,d?x=[1]&y=a/b?c", "/a;b=c,d?x=%5B1%5D&y=a/b?c"),
        ('ws://h/"<>^`{|}\\', "/%22%3C%3E%5E%60%7B%7C%7D%5C"),
        ("ws://h/?token=a+b%2Bc=", "/?token=a+b%2Bc="),
        ("ws://h//double//", "//double//"),
    ],
)
def test_resource(text: str, resource: str) -> None:
    """Path and query are ASCII; what is encoded already is left alone."""
    assert parse_url(text).resource == resource


@pytest.mark.parametrize(
    ("text", "user_info"),
    [
        ("ws://user:pass@h/", ("user", "pass")),
        ("ws://us%40er:p%3Aa%2Fss@h/", ("us@er", "p:a/ss")),
        ("ws://user@h/", ("user", "")),
        ("ws://:token@h/", ("", "token")),
    ],
)
def test_user_info(text: str, user_info: tuple[str, str]) -> None:
    """User and password are decoded; either may be missing."""
    assert parse_url(text).user_info == user_info


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("http://h/", "ws:// or wss://"),
        ("h/path", "ws:// or wss://"),
        ("", "ws:// or wss://"),
        ("//h/", "ws:// or wss://"),
        ("ws:", "have a host"),
        ("ws:///path", "have a host"),
        ("ws:h", "have a host"),
        ("ws://:80/", "have a host"),
        ("ws://user@/", "have a host"),
        ("ws://h/#frag", "no fragment"),
        ("ws://h/#", "no fragment"),
        ("ws://h:0/", "port"),
        ("ws://h:65536/", "port"),
        ("ws://h:-1/", "port"),
        ("ws://h:http/", "port"),
        ("ws://h:٣/", "port"),
        ("ws://[::1/", "valid host"),
        ("ws://[]/", "host"),
        ("ws://[1.2.3.4]/", "host|IPv6"),
        ("ws://[v1.x]/", "host|IPv6"),
        ("ws://[fe80::1%eth0]/", "zone"),
        ("ws://a..b/", "valid host"),
        ("ws://-a.b/", "valid host"),
        ("ws://a\\@b/", "valid host"),
        ("ws://a%20b/", "valid host"),
        ("ws://a,b/", "valid host"),
        (f"ws://{'a' * 64}.x/", "valid host"),
        (f"ws://{'ab.' * 85}/", "valid host"),
        ("ws://\u2100.com/", "valid host"),
        ("ws://xn--ü.com/", "valid host"),
        ("ws://us%3Aer:p@h/", "user"),
        ("ws://us%0Aer:p@h/", "user"),
        ("ws://user:p%00@h/", "password"),
    ],
)
def test_refused(text: str, rule: str) -> None:
    """Each thing that cannot be is refused, with the rule that it breaks."""
    with pytest.raises(OptionError, match=rule) as caught:
        parse_url(text)
    assert caught.value.field == "url"


@pytest.mark.parametrize(
    "bad", ["\r", "\n", "\t", "\0", " ", "\x7f", "\x85", "\xa0", "\u2028", "\ud800"]
)
@pytest.mark.parametrize(
    "text", ["{}ws://h/", "w{}s://h/", "ws://h{}/", "ws://h/a{}b", "ws://h/?a{}", "ws://h/{}"]
)
def test_no_spaces_and_controls(text: str, bad: str) -> None:
    """Nothing that could end a line gets in, at no place; urllib would strip some silently."""
    with pytest.raises(OptionError, match="spaces or unprintable"):
        parse_url(text.format(bad))


@pytest.mark.parametrize("value", [None, b"ws://user:secret@h/", 5])
def test_only_text(value: object) -> None:
    """Anything but a str is refused, and not shown."""
    with pytest.raises(OptionError, match="must be a str") as caught:
        parse_url(value)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_shown_without_secrets() -> None:
    """Neither str nor repr has user, password or query."""
    url = parse_url("wss://canary:canary@h:444/path?token=canary")
    assert str(url) == "wss://h:444/path?..."
    assert repr(url) == "<Url wss://h:444/path?...>"
    assert str(parse_url("ws://[::1]/path")) == "ws://[::1]/path"


@pytest.mark.parametrize(
    "text",
    [
        "http://canary:canary@h/?canary",
        "ws://canary:canary@h:port/?canary",
        "ws://user:can/ary@h/",
        "ws://user:canary?x@h/",
        "ws://canary@[::1/",
        "canary:canary@h",
        "?canary://x",
        "ws://h/#canary",
        "ws://h/?canary\n",
        "ws://u%3A:canary@h/",
        "ws://canary@h\u2100/",
    ],
)
def test_errors_are_redacted(text: str) -> None:
    """What is no URL may have secrets all the same: they are in no part of the traceback."""
    with pytest.raises(OptionError) as caught:
        parse_url(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert "canary" not in str(error)
        assert "canary" not in repr(error)
        error = error.__context__
    assert "canary" not in "".join(traceback.format_exception_only(caught.value))


def test_same_origin() -> None:
    """Scheme, host and port make an origin; path and user do not."""
    url = parse_url("wss://h/a")
    assert url.same_origin(parse_url("wss://u:p@H:443/b"))
    for other in ("ws://h:443/a", "wss://h:444/a", "wss://h.x/a"):
        assert not url.same_origin(parse_url(other))


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/other", "ws://h:81/other"),
        ("next?x=1", "ws://h:81/a/next?..."),
        ("?x=1", "ws://h:81/a/b?..."),
        ("//other/x", "ws://other/x"),
        ("ws://other/x", "ws://other/x"),
        ("wss://other/x", "wss://other/x"),
        ("http://other/x", "ws://other/x"),
        ("HTTPS://other/x", "wss://other/x"),
        ("/x#fragment", "ws://h:81/x"),
        ("../../x", "ws://h:81/x"),
    ],
)
def test_join(location: str, expected: str) -> None:
    """A redirect may be relative, and may speak of http where a WebSocket is meant."""
    assert str(parse_url("ws://h:81/a/b").join(location)) == expected


def test_join_keeps_the_query_it_is_given() -> None:
    """The query of the location replaces the old one."""
    assert parse_url("ws://h/a?old=1").join("b?new=2").resource == "/b?new=2"


def test_join_keeps_credentials_at_home() -> None:
    """User and password go on to the same origin and to no other; a location has none to give."""
    url = parse_url("ws://u:p@h/a")
    assert url.join("/b").user_info == ("u", "p")
    assert url.join("ws://evil:x@h/b").user_info == ("u", "p")
    assert url.join("ws://other/b").user_info is None
    assert url.join("ws://evil:x@other/b").user_info is None
    assert url.join("wss://h/b").user_info is None


@pytest.mark.parametrize("location", ["ws://h/", "http://other/", "HTTP://h/"])
def test_join_never_leaves_tls(location: str) -> None:
    """From wss there is no way to ws."""
    with pytest.raises(OptionError, match="from wss to ws") as caught:
        parse_url("wss://h/").join(location)
    assert caught.value.field == "redirect"


@pytest.mark.parametrize(
    "location",
    [
        "ftp://canary:canary@h/?canary",
        "ftp://h/",
        "javascript:x",
        "http://[::1/",
        "/a b",
        "/a\r\nb",
        "ws://h:0/",
        "http://",
    ],
)
def test_join_refuses(location: str) -> None:
    """A location that is no WebSocket URL is an error, shown without its secrets."""
    with pytest.raises(OptionError) as caught:
        parse_url("wss://h/").join(location)
    assert caught.value.field == "redirect"
    assert "canary" not in str(caught.value)


@given(st.text() | st.text().map("ws://".__add__) | st.from_regex(r"wss?://[\S]*", fullmatch=True))
@example("ws://[")
@example("ws://a@b@c/")
def test_any_text(text: str) -> None:
    """Any text is a safe URL, or one kind of error."""
    try:
        url = parse_url(text)
    except OptionError:
        return
    assert url.resource.isascii()
    assert url.resource.isprintable()
    assert " " not in url.resource
    assert url.resource.startswith("/")
    assert url.host.isascii()
    assert set("/?#@\\ ").isdisjoint(url.host)
    again = parse_url(f"{'wss' if url.secure else 'ws'}://{url.netloc}{url.resource}")
    assert again == Url(url.secure, url.host, url.port, url.resource)


@given(st.text())
@example("http:/h")
@example("https:h")
def test_any_location(location: str) -> None:
    """Any location leads to a safe URL, or is one kind of error."""
    url = parse_url("wss://u:p@h/a/b?c")
    try:
        target = url.join(location)
    except OptionError:
        return
    assert target.secure
    assert (target.user_info is None) == (not url.same_origin(target))

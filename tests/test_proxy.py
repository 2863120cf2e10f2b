"""trio_rt._proxy"""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_rt._proxy import Proxy, open_tunnel, parse_proxy
from trio_rt.errors import DialError, OptionError

OK = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"


async def tunnel(
    proxy: Proxy, answer: bytes, *, host: str = "example.org", end: bool = False
) -> tuple[bytes, trio.abc.Stream]:
    """What the proxy was asked, and the stream through it."""
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(answer)
    if end:
        await theirs.send_stream.aclose()
    with trio.fail_after(5):
        await open_tunnel(ours, proxy, host, 443)
    return bytes(await theirs.receive_some()), ours


async def test_the_proxy_is_asked_to_connect() -> None:
    """With host and port of the server, for both names and addresses."""
    asked, stream = await tunnel(Proxy("proxy", 3128), OK)
    assert asked == b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"
    assert isinstance(stream, trio.StapledStream)
    asked, _ = await tunnel(Proxy("proxy", 3128), OK, host="::1")
    assert asked.startswith(b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n")


async def test_credentials_go_to_the_proxy() -> None:
    """As Basic authentication, in UTF-8."""
    asked, _ = await tunnel(Proxy("proxy", 3128, ("Aladdin", "open sesame")), OK)
    assert b"\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n" in asked


@pytest.mark.parametrize("line", [b"HTTP/1.0 200 OK", b"HTTP/1.1 204", b"HTTP/1.1 299 Fine"])
async def test_any_success_will_do(line: bytes) -> None:
    """Some proxies still speak HTTP/1.0."""
    _, stream = await tunnel(Proxy("proxy", 3128), line + b"\r\n\r\n")
    assert stream is not None


BAD_ANSWERS = {
    "407": (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "credentials with 407"),
    "401": (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "credentials with 401"),
    "403": (b"HTTP/1.1 403 Forbidden\r\n\r\n", "403"),
    "302": (b"HTTP/1.1 302 Found\r\nLocation: http://evil/\r\n\r\n", "302"),
    "502": (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 99999\r\n\r\n", "502"),
    "101": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101"),
    "garbage": (b"\x05\xff", "HTTP"),
    "endless": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "bytes"),
    "own data": (OK + b"x", "data of its own"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_proxy_that_does_not_connect(name: str) -> None:
    """Is a DialError of its stage, which names the proxy without its password."""
    answer, words = BAD_ANSWERS[name]
    with pytest.raises(DialError, match=words) as caught:
        await tunnel(Proxy("proxy", 3128, ("user", "canary")), answer)
    assert caught.value.stage == "proxy"
    assert caught.value.status == (int(name) if name.isdigit() else None)
    assert "http://proxy:3128" in str(caught.value)
    assert "canary" not in repr(caught.value)


@pytest.mark.parametrize("answer", [b"", OK[:20]])
async def test_a_proxy_that_hangs_up(answer: bytes) -> None:
    """Before or in the middle of its answer."""
    with pytest.raises(DialError, match="ended") as caught:
        await tunnel(Proxy("proxy", 3128), answer, end=True)
    assert caught.value.stage == "proxy"


async def test_a_proxy_that_is_gone() -> None:
    """A broken stream is the proxy's fault as well."""
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(DialError) as caught:
        await open_tunnel(ours, Proxy("proxy", 3128), "example.org", 443)
    assert caught.value.stage == "proxy"
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


def test_proxy_urls() -> None:
    """Port 80 is the default; user and password are percent-decoded and not shown."""
    assert parse_proxy("http://Proxy") == Proxy("proxy", 80)
    assert parse_proxy("http://[::1]:3128/") == Proxy("::1", 3128)
    proxy = parse_proxy("http://us%40er:pa%3Ass@proxy:3128")
    assert proxy == Proxy("proxy", 3128, ("us@er", "pa:ss"))
    assert str(proxy) == "http://proxy:3128"
    assert repr(proxy) == "<Proxy http://proxy:3128>"
    assert str(parse_proxy("http://[::1]:3128")) == "http://[::1]:3128"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy:3128",
        "https://canary@proxy",
        "socks5://canary@proxy",
        "http://",
        "http://canary@",
        "http://canary@proxy:0",
        "http://canary@proxy:99999",
        "http://canary@proxy:x",
        "http://canary@proxy/path",
        "http://proxy/?canary",
        "http://proxy/#canary",
        "http://canary@pro xy",
        "http://canary@proxy\r\nx: y",
        "http://can%0Aary:canary@proxy",
        "http://can%3Aary:canary@proxy",
        "http://canary@prö",
        "http://[canary",
        3128,
        None,
    ],
)
def test_bad_proxy_urls(text: str) -> None:
    """They are refused, and nothing of them is shown."""
    with pytest.raises(OptionError, match="proxy must be") as caught:
        parse_proxy(text)
    assert "canary" not in repr(caught.value)

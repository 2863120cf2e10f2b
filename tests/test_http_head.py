"""One request in, at most one answer out."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence

import h11
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_rt._http_head import (
    LINGER_BYTES,
    LINGER_S,
    Unfit,
    parse_head,
    parse_request,
    read_head,
    render,
    turn_away,
)
from trio_rt.errors import Refuse

HEAD = b"GET /chat HTTP/1.1\r\nHost: a.example\r\nX-One: 1\r\n\r\n"


def stream_of(chunks: Sequence[bytes]) -> trio.abc.Stream:
    """A stream whose every read finds one more of these chunks, then the end."""
    feeder, receiving = trio.testing.memory_stream_one_way_pair()
    sending, _ = trio.testing.memory_stream_one_way_pair()
    pending = filter(None, chunks)

    async def feed() -> None:
        for chunk in pending:
            await feeder.send_all(chunk)
            return
        await feeder.aclose()

    receiving.receive_some_hook = feed
    return trio.StapledStream(sending, receiving)


def read(chunks: Sequence[bytes], most: int = 16384) -> tuple[bytes, bytes]:
    async def main() -> tuple[bytes, bytes]:
        with trio.fail_after(100):
            return await read_head(stream_of(chunks), most)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    return [part for part in parts if part]


def refusal(head: bytes, most_headers: float = math.inf) -> Unfit:
    with pytest.raises(Unfit) as caught:
        parse_head(head, most_headers)
    return caught.value


@given(cuts=st.lists(st.integers(0, len(HEAD))), tail=st.binary(max_size=20))
def test_read_head_in_any_pieces(cuts: list[int], tail: bytes) -> None:
    """However the bytes are cut, the head ends at its blank line; the rest is kept or unread."""
    found, leftover = read(split(HEAD + tail, cuts))
    assert found == HEAD
    assert tail.startswith(leftover)


def test_leftover_is_of_the_last_read() -> None:
    """What one read brought behind the head is handed on, control characters and all."""
    assert read([HEAD[:10], HEAD[10:] + b"\x81\x00\r\n\r\n"]) == (HEAD, b"\x81\x00\r\n\r\n")


def test_head_of_exactly_the_limit() -> None:
    """A head may have all the bytes that the limit allows."""
    assert read([HEAD], most=len(HEAD)) == (HEAD, b"")


def test_head_over_the_limit() -> None:
    """One byte more than the limit is refused, though it came in one read."""
    with pytest.raises(Unfit) as caught:
        read([HEAD], most=len(HEAD) - 1)
    assert caught.value.status == 431


def test_nothing_is_read_beyond_the_limit() -> None:
    """An endless line is read up to the limit, in reads no larger than that."""

    async def main() -> int:
        stream = stream_of([b"x" * 700] * 10)
        with pytest.raises(Unfit):
            await read_head(stream, 1000)
        return len(await stream.receive_some())

    assert trio.run(main) == 1100


def test_end_before_the_first_byte() -> None:
    """A connection that only opens and closes has no head and is no fault."""
    assert read([]) == (b"", b"")


def test_end_in_the_middle() -> None:
    """A head that breaks off is refused with 400."""
    with pytest.raises(Unfit, match="middle"):
        read([HEAD[:-1]])


@pytest.mark.parametrize("control", [b"\x00", b"\x0b", b"\x1f", b"\x7f", b"\r", b"\x16\x03\x01"])
@pytest.mark.parametrize("place", [0, 5, 25, 45])
def test_control_character(control: bytes, place: int) -> None:
    """A control character in the head is refused at once, however the bytes are cut.

    In front of h11, for which a line of spaces before one is costly.
    """
    data = HEAD[:place] + control + HEAD[place:]
    for chunks in ([data], [data[: place + 1], data[place + 1 :]]):
        with pytest.raises(Unfit, match="control character"):
            read(chunks)


@pytest.mark.parametrize("cut", range(3, len(HEAD)))
@pytest.mark.parametrize("odd", [b"\n", b"\r\n ", b"\r\n\t"])
def test_lines_that_readers_see_differently(cut: int, odd: bytes) -> None:
    """A bare line feed and a folded line are refused, however the bytes are cut."""
    data = HEAD.replace(b"\r\nX", odd + b"X")
    with pytest.raises(Unfit, match="folded"):
        read([data[:cut], data[cut:]])


def test_what_was_read_before() -> None:
    """`held` is the beginning; a whole head in it needs no read, and its limits hold."""

    async def main() -> None:
        assert await read_head(stream_of([]), 100, HEAD + HEAD) == (HEAD, HEAD)
        assert await read_head(stream_of([HEAD[9:]]), 100, HEAD[:9]) == (HEAD, b"")
        for held, status in ((HEAD + HEAD, 431), (b"\0", 400), (b"x" * 99, 431), (b"x", 400)):
            with pytest.raises(Unfit) as caught:
                await read_head(stream_of([]), len(HEAD) - 1, held)
            assert caught.value.status == status

    trio.run(main)


def test_parse() -> None:
    """A good head gives its target as sent and its headers in lower case and order."""
    head = b"GET /a%20b?q=1 HTTP/1.1\r\nHost: [::1]:80\r\nX: \xe9\r\nY:\r\nx: 2\r\n\r\n"
    found = parse_head(head, 4)
    assert found.target == "/a%20b?q=1"
    assert found.items == [("host", "[::1]:80"), ("x", "\xe9"), ("y", ""), ("x", "2")]
    assert (found.method, found.length, found.upgrades) == ("GET", 0, False)


def test_too_many_headers() -> None:
    """One header over the limit is refused with 431."""
    assert refusal(HEAD, 1).status == 431
    assert len(parse_head(HEAD, 2).items) == 2


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"\r\n" + HEAD, 400),
        (b"hello\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX y: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\xff: x\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.0\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: xn--\xff\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
def test_refused_head(head: bytes, status: int) -> None:
    """What is not one clean request without a body has its own status."""
    found = refusal(head)
    assert found.status == status
    assert ("Allow" in found.headers) == (status == 405)


def request(*lines: str, start: str = "POST /a?b HTTP/1.1") -> bytes:
    return "\r\n".join([start, "Host: a", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ([], 0),
        (["Content-Length: 0"], 0),
        (["content-length:\t123 "], 123),
        (["Transfer-Encoding: Chunked"], None),
        (["X-Content-Length: 5"], 0),
    ],
)
def test_the_length_of_a_body(lines: list[str], length: int | None) -> None:
    """A request may have any method, and a body of a known length or in chunks."""
    found = parse_request(request(*lines), 100)
    assert (found.method, found.target, found.length) == ("POST", "/a?b", length)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", "content-length: 0"], 400),
        (["Content-Length: 5", "Content-Length: 5"], 400),
        (["Content-Length: 5", "Content-Length: 6"], 400),
        (["Content-Length: 5, 5"], 400),
        (["Content-Length: 5" + " " * 9000 + ", 5"], 400),
        (["Content-Length: +5"], 400),
        (["Content-Length: 0x5"], 400),
        (["Content-Length: -5"], 400),
        (["Content-Length: "], 400),
        (["Content-Length: " + "9" * 19], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 501),
        (["Transfer-Encoding: chunked, identity"], 501),
        (["Transfer-Encoding: xchunked"], 501),
        (["Transfer-Encoding : chunked"], 400),
    ],
)
def test_lengths_that_readers_see_differently(lines: list[str], status: int) -> None:
    """More than one word on the length of the body, or an odd one, is refused."""
    with pytest.raises(Unfit) as caught:
        parse_request(request(*lines), 100)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("start", "status"),
    [
        ("GET http://a/ HTTP/1.1", 400),
        ("CONNECT a:1 HTTP/1.1", 400),
        ("OPTIONS * HTTP/1.1", 400),
        ("GET a HTTP/1.1", 400),
        ("GET / HTTP/1.0", 505),
        ("GET / HTTP/2.0", 505),
        ("GET  / HTTP/1.1", 400),
        ("GET /\t HTTP/1.1", 400),
    ],
)
def test_start_lines_of_any_request(start: str, status: int) -> None:
    """Only HTTP/1.1 and a path are taken."""
    with pytest.raises(Unfit) as caught:
        parse_request(request(start=start), 100)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("value", "upgrades"),
    [("websocket", True), ("h2c, WebSocket", True), ("h2c", False), ("xwebsocket", False)],
)
def test_what_asks_for_a_websocket(value: str, upgrades: bool) -> None:
    """One of the tokens of `Upgrade` is websocket, in any case."""
    assert parse_request(request(f"Upgrade: {value}"), 100).upgrades is upgrades


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "a:80", "1.2.3.4", "a_b", "a:"])
def test_odd_hosts(host: str) -> None:
    """A Host that is strange but made of a host's characters is no reason to refuse."""
    head = f"GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode()
    assert parse_head(head, 2).items[0] == ("host", host)


@given(st.binary(max_size=200).map(lambda data: data + b"\r\n\r\n") | st.binary(max_size=200))
def test_any_head_is_parsed_or_refused(head: bytes) -> None:
    """No bytes make the parser raise anything but a refusal, be they a head or not."""
    try:
        found, _ = read([head])
        if found:
            parse_head(found, math.inf)
    except Unfit as error:
        assert error.status in {400, 405, 501, 505}  # noqa: PT017, any of them may come


def parsed(answer: bytes) -> tuple[h11.Response, bytes]:
    """The answer as a client reads it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return response, body


def test_render() -> None:
    """An answer has the status, the text, what the program adds, and ends the connection."""
    response, body = parsed(render(Refuse(429, "später", headers={"Retry-After": 5})))
    headers = dict(response.headers)
    assert (response.status_code, response.reason, body) == (
        429,
        b"Too Many Requests",
        "später".encode(),
    )
    assert headers[b"retry-after"] == b"5"
    assert headers[b"connection"] == b"close"
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"content-length"] == b"7"
    assert b"date" in headers


def test_render_keeps_the_framing() -> None:
    """The program may choose the content's type, but not how the answer ends."""
    theirs = {
        "Content-Type": "application/json",
        "Content-Length": "5000",
        "CONNECTION": "keep-alive",
        "Transfer-Encoding": "chunked",
    }
    response, body = parsed(render(Refuse(403, "{}", headers=theirs)))
    names = [name for name, _ in response.headers]
    assert body == b"{}"
    assert dict(response.headers)[b"content-type"] == b"application/json"
    assert dict(response.headers)[b"connection"] == b"close"
    assert len(names) == len(set(names))
    assert b"transfer-encoding" not in names
    assert dict(response.headers)[b"content-length"] == b"2"


def test_render_upgrade() -> None:
    """An answer with `Upgrade` says so in `Connection`, as HTTP wants it."""
    response, _ = parsed(render(Refuse(426, headers={"Upgrade": "websocket"})))
    assert dict(response.headers)[b"connection"] == b"close, upgrade"


def test_render_unknown_status_and_text() -> None:
    """A status without a name and a text that UTF-8 cannot have are sent all the same."""
    response, body = parsed(render(Refuse(499, "\ud800")))
    assert (response.status_code, body) == (499, b"?")


@pytest.mark.parametrize(
    "header", [("X", "a\r\nSet-Cookie: b"), ("X", "ä"), ("X y", "a"), ("", "")]
)
def test_render_impossible_header(
    header: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A header of the program that cannot be sent is not: it is logged, and 500 instead."""
    response, _ = parsed(render(Refuse(403, "secret", headers=dict([header]))))
    assert response.status_code == 500
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Set-Cookie" not in caplog.text


async def test_turn_away_reads_on(autojump_clock: trio.testing.MockClock) -> None:
    """After the answer the sending side is shut, and the client's last bytes are read."""
    client, server = trio.testing.memory_stream_pair()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn_away, server, Refuse(403, "no"))
            answer = b"".join([chunk async for chunk in client])
            await trio.testing.wait_all_tasks_blocked()
            assert answer.endswith(b"\r\n\r\nno")
            await client.send_all(b"still sending")
            await client.send_eof()
    assert trio.current_time() < LINGER_S
    with pytest.raises(trio.ClosedResourceError):
        await server.receive_some()


async def test_turn_away_waits_no_longer_than_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A client that never ends its side is left after `LINGER_S`."""
    _client, server = trio.testing.memory_stream_pair()
    began = trio.current_time()
    with trio.fail_after(100):
        await turn_away(server, Refuse(403))
    assert trio.current_time() - began == LINGER_S


async def test_turn_away_reads_no_more_than_that() -> None:
    """A client that floods is left after `LINGER_BYTES`."""
    chunk = bytes(1 << 16)
    chunks = [chunk] * (2 * LINGER_BYTES // len(chunk))
    flood = stream_of(chunks)
    taken = 0
    inner = flood.receive_some

    async def counted(max_bytes: int | None = None) -> bytes | bytearray:
        nonlocal taken
        data = await inner(max_bytes)
        taken += len(data)
        return data

    flood.receive_some = counted  # type: ignore[method-assign]
    with trio.fail_after(100):
        await turn_away(flood, Refuse(403))
    assert taken == LINGER_BYTES

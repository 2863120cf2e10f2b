"""trio_rt._http_reply"""

from __future__ import annotations

import email.utils

import pytest
import trio
import trio.testing

from trio_rt._ambient import Ambient, replace_ambient
from trio_rt._http_reply import (
    EXCERPT_BYTES,
    HEAD_BYTES,
    HEADERS,
    BadReply,
    NoReply,
    Reply,
    read_excerpt,
    read_reply,
)


async def reading(*pieces: bytes, end: bool = True) -> Reply:
    """What is read of an answer that comes in these pieces."""
    ours, theirs = trio.testing.lockstep_stream_pair()

    async def send() -> None:
        try:
            for piece in pieces:
                await theirs.send_all(piece)
            if end:
                await theirs.aclose()
        except trio.BrokenResourceError:
            pass

    result = None
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                result = await read_reply(ours)
            except (BadReply, NoReply) as error:
                failure = error
            await trio.aclose_forcefully(ours)
    if result is None:
        raise failure
    return result


ANSWER = b"HTTP/1.1 403 Go away\r\nA: one\r\nb:\t two \r\na: three\r\nC:\r\n\r\nbody"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_an_answer_is_read_however_it_is_cut(size: int) -> None:
    """Names in lower case, values without the space around them."""
    reply = await reading(*[ANSWER[at : at + size] for at in range(0, len(ANSWER), size)])
    assert (reply.version, reply.status) == ("1.1", 403)
    assert reply.headers == (("a", "one"), ("b", "two"), ("a", "three"), ("c", ""))
    assert reply.merged() == {"a": "one, three", "b": "two", "c": ""}
    assert b"body".startswith(reply.rest)


@pytest.mark.parametrize("line", [b"HTTP/1.0 200", b"HTTP/1.1 200 ", b"HTTP/1.1 200 \xfcber"])
async def test_odd_status_lines_that_are_allowed(line: bytes) -> None:
    """No phrase, an empty one, and one of ISO-8859-1; lines may end in LF alone."""
    assert (await reading(line + b"\r\n\r\n")).status == 200
    assert (await reading(line + b"\n\n")).status == 200


async def test_interim_answers_are_skipped() -> None:
    """1xx other than 101, which is the end of HTTP."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    reply = await reading(interim + b"HTTP/1.1 101 Switching\r\n\r\n\x81\x00")
    assert (reply.status, reply.headers, reply.rest) == (101, (), b"\x81\x00")


async def test_interim_answers_without_end_are_bounded() -> None:
    """They share one bound."""
    with pytest.raises(BadReply, match="head"):
        await reading(*[b"HTTP/1.1 102 Processing\r\n\r\n" * 100] * 100)


@pytest.mark.parametrize(
    "start",
    [b"SSH-2.0-OpenSSH", b"\x15\x03\x01\x00\x02", b"HTTP/2.0 200", b"\r\nHTTP/1.1 200", b"h"],
)
async def test_what_is_no_http_is_not_waited_for(start: bytes) -> None:
    """It fails at the first byte that is wrong."""
    with pytest.raises(BadReply, match="HTTP"):
        await reading(start, end=False)


BAD_HEADS = {
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\n\r\n",
    "status +10": b"HTTP/1.1 +10 OK\r\n\r\n",
    "version 1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "control character in phrase": b"HTTP/1.1 200 \x00\r\n\r\n",
    "header without colon": b"HTTP/1.1 200 OK\r\nnope\r\n\r\n",
    "header without name": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\na : x\r\n\r\n",
    "folded header": b"HTTP/1.1 200 OK\r\na: x\r\n y\r\n\r\n",
    "NUL in value": b"HTTP/1.1 200 OK\r\na: \x00\r\n\r\n",
    "CR in value": b"HTTP/1.1 200 OK\r\na: x\ry\r\n\r\n",
    "name not ASCII": "HTTP/1.1 200 OK\r\nä: x\r\n\r\n".encode(),
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"a: x\r\n" * (HEADERS + 1) + b"\r\n",
}


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_a_bad_head_is_refused(name: str) -> None:
    """Whole as it is."""
    with pytest.raises(BadReply):
        await reading(BAD_HEADS[name], end=False)


async def test_as_many_headers_as_allowed() -> None:
    """One fewer than too many."""
    reply = await reading(b"HTTP/1.1 200 OK\r\n" + b"a: x\r\n" * HEADERS + b"\r\n")
    assert len(reply.headers) == HEADERS


async def test_an_endless_head_is_bounded() -> None:
    """One endless line, and endless lines."""
    with pytest.raises(BadReply, match=str(HEAD_BYTES)):
        await reading(b"HTTP/1.1 200 OK\r\nx: ", *[b"y" * 1000] * 100)
    with pytest.raises(BadReply, match=str(HEAD_BYTES)):
        await reading(b"HTTP/1.1 200 OK\r\n", *[b"x: y\r\n" * 100] * 100)


@pytest.mark.parametrize("size", [0, 4, 30])
async def test_an_end_in_the_middle(size: int) -> None:
    """Is told from a bad answer."""
    with pytest.raises(NoReply, match=str(size)):
        await reading(ANSWER[:size])


# -- Retry-After ------------------------------------------------------------

NOW = 1_000_000_000.0


class At(Ambient):
    def wall_s(self) -> float:
        return NOW


def date(offset_s: float) -> str:
    return email.utils.formatdate(NOW + offset_s, usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (date(90), 90.0),
        (date(-90), 0.0),
        (email.utils.formatdate(NOW + 7), 7.0),
        ("-5", None),
        ("1e3", None),
        ("1" * 10, None),
        ("soon", None),
        ("", None),
        ("Fri, 99 Foo 2020 99:99:99 GMT", None),
        ("Mon, 01 Jan 9999 00:00:00 +9999", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    """By the wall clock of the ambient; nonsense is no advice."""
    old = replace_ambient(At())
    try:
        assert Reply("1.1", 503, (("retry-after", value),), b"").retry_after_s == seconds
    finally:
        replace_ambient(old)


# -- excerpts ---------------------------------------------------------------


async def excerpt(reply: Reply, *pieces: bytes, end: bool) -> bytes:
    ours, theirs = trio.testing.memory_stream_pair()
    for piece in pieces:
        await theirs.send_all(piece)
    if end:
        await theirs.aclose()
    return await read_excerpt(ours, reply)


async def test_the_beginning_of_a_body_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """At most 1 KiB, and at most a moment's wait for it."""
    plain = Reply("1.1", 403, (), b"begun ")
    assert await excerpt(plain, b"and ended", end=True) == b"begun and ended"
    assert trio.current_time() == 0
    assert await excerpt(plain, b"x" * 5000, end=False) == (b"begun " + b"x" * 5000)[:EXCERPT_BYTES]
    assert trio.current_time() == 0
    assert await excerpt(plain, b"and hung", end=False) == b"begun and hung"
    assert 0 < trio.current_time() < 0.5


async def test_a_body_of_known_length_is_not_waited_beyond(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Content-Length tells when all is there; what follows is not of it."""
    reply = Reply("1.1", 403, (("content-length", "5"),), b"he")
    assert await excerpt(reply, b"lloGET", end=False) == b"hello"
    assert await excerpt(Reply("1.1", 403, (("content-length", "0"),), b""), end=False) == b""
    assert trio.current_time() == 0


async def test_a_chunked_body_is_joined_as_far_as_it_is_in_order() -> None:
    """Sizes and extensions are no part of it."""
    reply = Reply("1.1", 403, (("transfer-encoding", "Chunked"),), b"5\r\nhel")
    assert await excerpt(reply, b"lo\r\n1;x=y\r\n!\r\n0\r\n\r\n", end=True) == b"hello!"
    assert await excerpt(reply, b"lo\r\nzzz\r\n", end=True) == b"hello"
    assert await excerpt(reply, b"lo\r\nffffffff\r\nrest", end=True) == b"hellorest"


async def test_a_broken_connection_ends_the_excerpt() -> None:
    """What came before it stands."""
    ours, _ = trio.testing.memory_stream_pair()
    await ours.aclose()
    assert await read_excerpt(ours, Reply("1.1", 403, (), b"begun")) == b"begun"

"""Plain HTTP on a server's port, by clients that others wrote and by hostile bytes."""

from __future__ import annotations

import gc
import http.client
import math
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import h11
import httpx
import pytest
import trio
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

import trio_rt
from tests.net.support import requires, running, tool
from tests.strangers import Site, Stranger, complaints, open_site, records
from tests.testing.support import virtual
from trio_rt import Handshake, Message, OptionError, RawPeer, Refuse, ServerLimits
from trio_rt._accept import _Door
from trio_rt._http_body import FRAMING_BYTES, BodyFault, Chunked
from trio_rt._http_reader import RequestBody
from trio_rt._http_serve import _FAILED, HttpRequest, HttpResponse, _Exchange
from trio_rt.testing import run


async def raw_echo(peer: RawPeer) -> None:
    with peer.subscribe() as stream:
        async for item in stream:
            assert isinstance(item, Message)
            await peer.send(item.payload)


async def counted() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
    """A body of unknown length."""
    for number in range(3):
        await trio.lowlevel.checkpoint()
        yield f"{number};".encode()


async def answer(request: HttpRequest) -> HttpResponse:
    """The handler of most tests."""
    match request.path:
        case "/echo":
            return HttpResponse(200, {"Content-Type": "x/y"}, await request.read())
        case "/pieces":
            return HttpResponse(body=counted())
        case "/refuse":
            raise Refuse(429, "slowly", headers={"Retry-After": 7})
        case "/fail":
            raise ValueError("secret")
        case "/big":
            return HttpResponse(body=bytes(5_000_000))
    return HttpResponse(body=f"{request.method} {request.path} {request.query}".encode())


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """h11's client on a stream. Requests go out when they are asked for, one at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)
        self.interim: list[int] = []

    async def ask(
        self, target: str = "/", method: str = "GET", body: bytes = b"", **headers: str
    ) -> Answer:
        await self.begin(target, method, body, **headers)
        await self.stream.send_all(self.end(body))
        return await self.hear()

    async def begin(
        self, target: str = "/", method: str = "GET", body: bytes = b"", **headers: str
    ) -> None:
        """Send the head alone."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        named = [("Host", "server"), *((k.replace("_", "-"), v) for k, v in headers.items())]
        if body and "Transfer_Encoding" not in headers:
            named.append(("Content-Length", str(len(body))))
        head = self._h11.send(h11.Request(method=method, target=target, headers=named))
        assert head is not None
        await self.stream.send_all(head)

    def end(self, body: bytes) -> bytes:
        """What is behind the head."""
        data = self._h11.send(h11.Data(data=body)) if body else b""
        return (data or b"") + (self._h11.send(h11.EndOfMessage()) or b"")

    async def hear(self) -> Answer:
        """The next answer."""
        response: h11.Response | None = None
        body = b""
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(bytes(await self.stream.receive_some()))
            elif isinstance(event, h11.InformationalResponse):
                self.interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                assert response is not None
                headers = {k.decode(): v.decode() for k, v in response.headers}
                return Answer(response.status_code, headers, body)

    async def read_end(self) -> None:
        """The server ends the connection, and says no more."""
        try:
            assert await self.stream.receive_some() == b""
        except trio.BrokenResourceError:
            pass


def open_web(handler: Any = answer, **options: Any) -> Any:
    return open_site(raw_echo, codec="raw", http=handler, **options)


async def dial(site: Site) -> Client:
    return Client(await site.network.open_stream("server", 80))


async def send_raw(site: Site, *pieces: bytes) -> bytes:
    """All that is answered to these bytes, each piece a moment behind the last."""
    stream = await site.network.open_stream("server", 80)
    heard = b""

    async def listen() -> None:
        nonlocal heard
        try:
            async for chunk in stream:
                heard += chunk
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        try:
            for piece in pieces:
                await stream.send_all(piece)
                await trio.sleep(0.2)
            await stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
    await stream.aclose()
    return heard


def statuses(data: bytes) -> list[int]:
    """The statuses of whole answers; the bytes are nothing else."""
    found = []
    while data:
        head, blank, data = data.partition(b"\r\n\r\n")
        assert blank
        start = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert start is not None
        found.append(int(start[1]))
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        count = int(length[1]) if length else 0
        assert len(data) >= count
        data = data[count:]
    return found


REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


# Requests and answers


@virtual
async def test_a_kept_alive_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Many requests, bodies of both kinds and answers of both kinds go over one connection."""
    async with open_web() as site:
        client = await dial(site)
        assert (await client.ask("/a%20b?c=d?e")).body == b"GET /a%20b c=d?e"
        sent = await client.ask("/echo", "POST", b"x" * 100_000)
        assert (sent.body, sent.headers["content-length"]) == (b"x" * 100_000, "100000")
        chunked = await client.ask("/echo", "PUT", b"abc", Transfer_Encoding="chunked")
        assert (chunked.body, chunked.headers["content-type"]) == (b"abc", "x/y")
        pieces = await client.ask("/pieces")
        assert (pieces.body, pieces.headers["transfer-encoding"]) == (b"0;1;2;", "chunked")
        assert "date" in pieces.headers
        big = await client.ask("/big")
        assert len(big.body) == 5_000_000
        await client.stream.aclose()
        await trio.sleep(1)
        assert site.server._http is not None
        assert not site.server._http._idle
        client = await dial(site)
        assert (await client.ask()).status == 200
        assert site.server.connections == 1
    assert complaints(caplog) == []


@virtual
async def test_what_the_handler_sees() -> None:
    """Method, path, query, headers, address and TLS are the request's."""
    seen: list[HttpRequest] = []

    async def handler(request: HttpRequest) -> HttpResponse:
        seen.append(request)
        return HttpResponse(204)

    async with open_web(handler) as site:
        client = await dial(site)
        got = await client.ask("/%41?q", "DELETE", X_Name="1")
        assert (got.status, "content-length" in got.headers) == (204, False)
    (request,) = seen
    assert (request.method, request.path, request.query) == ("DELETE", "/%41", "q")
    assert (request.headers["x-name"], request.remote, request.secure) == ("1", None, False)
    with pytest.raises(trio.ClosedResourceError):
        await request.read()
    assert await HttpRequest(method="GET", path="/").read() == b""
    assert "secret" not in repr(HttpRequest(method="GET", path="/", query="secret"))


@virtual
async def test_head_and_options() -> None:
    """HEAD has the headers of GET and no body; OPTIONS is the handler's."""
    async with open_web() as site:
        client = await dial(site)
        for path in ("/some", "/pieces"):
            get, head = await client.ask(path), await client.ask(path, "HEAD")
            assert head.body == b""
            assert get.headers.keys() == head.headers.keys()
        assert (await client.ask("/some", "HEAD")).headers["content-length"] == "11"
        assert (await client.ask("/o", "OPTIONS")).body == b"OPTIONS /o "
        assert len(site.network.connections) == 1


@virtual
async def test_pipelined_requests() -> None:
    """They are answered one after the other, in order, however they are cut."""
    running = 0

    async def handler(request: HttpRequest) -> HttpResponse:
        nonlocal running
        running += 1
        assert running == 1
        await trio.sleep(0.5)
        running -= 1
        return HttpResponse(body=request.path.encode() + await request.read())

    data = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab" % number
        if number % 3
        else b"PUT /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\na\r\n1;x\r\nb\r\n0\r\nT: 1\r\n\r\n" % number
        for number in range(9)
    )
    async with open_web(handler, limits=ServerLimits(handshake_s=60)) as site:
        for pieces in (
            [data],
            [data[:70], data[70:150], data[150:]],
            [data[at : at + 1] for at in range(len(data))],
        ):
            heard = await send_raw(site, *pieces)
            assert re.findall(rb"/\dab", heard) == [b"/%dab" % number for number in range(9)]


@virtual
async def test_refuse_and_fail(caplog: pytest.LogCaptureFixture) -> None:
    """`Refuse` is its answer, an exception is logged and a bare 500; the connection lives on."""
    async with open_web() as site:
        client = await dial(site)
        got = await client.ask("/refuse")
        assert (got.status, got.body, got.headers["retry-after"]) == (429, b"slowly", "7")
        assert complaints(caplog) == []
        got = await client.ask("/fail?q=hidden")
        assert (got.status, got.body) == (500, b"the server failed")
        (record,) = records(caplog)
        assert record.name == "trio_rt.server"
        assert record.exc_info is not None
        assert "hidden" not in record.getMessage()
        assert (await client.ask("/echo", "POST", b"x")).body == b"x"


BAD: list[Any] = [
    None,
    HttpResponse(101),
    HttpResponse(600),
    HttpResponse(200, {"X": "a\r\nSet-Cookie: b"}),
    HttpResponse(200, {"X": "a\nb"}),
    HttpResponse(200, {"X": "a\0"}),
    HttpResponse(200, {"X": "a\x01"}),
    HttpResponse(200, {"X": "a\x0b"}),
    HttpResponse(200, {"X": "\xe4"}),
    HttpResponse(200, {"X\r\nY": "a"}),
    HttpResponse(200, {"X y": "a"}),
    HttpResponse(200, {"": "a"}),
    HttpResponse(200, {"X": "1", "x": "2"}),
    HttpResponse(200, {"Transfer-Encoding": "chunked"}),
    HttpResponse(200, {"Connection": "keep-alive"}),
    HttpResponse(200, {"Upgrade": "h2c"}),
    HttpResponse(200, {"Content-Length": "5"}, b"abc"),
    HttpResponse(200, {"Content-Length": "5, 5"}, counted()),
    HttpResponse(200, {"Content-Length": "-1"}, counted()),
    HttpResponse(204, {}, b"abc"),
    HttpResponse(304, {}, counted()),
    HttpResponse(200, {}, "text"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(BAD)))
@virtual
async def test_answers_that_http_cannot_have(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each is logged and becomes a bare 500, and nothing of it is sent."""

    async def handler(request: HttpRequest) -> HttpResponse:
        return BAD[number]  # type: ignore[no-any-return]

    async with open_web(handler) as site:
        client = await dial(site)
        for _ in range(2):
            got = await client.ask()
            assert (got.status, got.body) == (500, b"the server failed")
            assert got.headers.keys() == {"content-type", "content-length", "date"}
    assert len(complaints(caplog)) == 2
    assert "Cookie" not in caplog.text


@pytest.mark.parametrize("kind", ["raises", "text", "short", "long"])
@virtual
async def test_an_answer_that_breaks_off(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and cut: no client takes it for whole. The generator is closed."""
    closed = 0

    async def body() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        nonlocal closed
        try:
            yield b"abc"  # noqa: ASYNC911
            if kind == "raises":
                raise ValueError
            if kind == "text":
                yield "d"  # type: ignore[misc]  # noqa: ASYNC911
            if kind == "long":
                yield b"de"  # noqa: ASYNC911
        finally:
            closed += 1

    async def handler(request: HttpRequest) -> HttpResponse:
        sized = kind in ("short", "long")
        return HttpResponse(200, {"Content-Length": "4"} if sized else {}, body())

    async with open_web(handler) as site:
        with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
            await (await dial(site)).ask()
        head = await (await dial(site)).ask("/", "HEAD")
        assert head.status == 200
    assert closed == 1
    assert len(complaints(caplog)) == 1


@virtual
async def test_a_stream_of_known_length() -> None:
    """With a Content-Length a stream is sent as it comes, and the connection is kept."""

    async def handler(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {"Content-Length": "6"}, counted())

    async with open_web(handler) as site:
        client = await dial(site)
        for method, body in (("GET", b"0;1;2;"), ("HEAD", b""), ("GET", b"0;1;2;")):
            got = await client.ask("/", method)
            assert (got.body, got.headers["content-length"]) == (body, "6")
            assert "transfer-encoding" not in got.headers


# The body of a request


@virtual
async def test_a_body_as_it_comes() -> None:
    """The handler sees pieces as they arrive, and may answer meanwhile."""

    async def handler(request: HttpRequest) -> HttpResponse:
        async def echoed() -> AsyncIterator[bytes]:  # noqa: ASYNC900
            async for piece in request.body:
                yield piece.upper()

        return HttpResponse(body=echoed())

    async with open_web(handler) as site:
        client = await dial(site)
        await client.begin("/", "POST", b"", Transfer_Encoding="chunked")
        for text in (b"one", b"two"):
            await client.stream.send_all(b"3\r\n%s\r\n" % text)
            heard = b""
            while text.upper() not in heard:
                heard += await client.stream.receive_some()
        await client.stream.send_all(b"0\r\n\r\n")
        while not heard.endswith(b"0\r\n\r\n"):
            heard += await client.stream.receive_some()
        assert heard.startswith(b"3\r\nTWO")


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("framing", ["sized", "chunked"])
@virtual
async def test_the_limit_on_bodies(over: int, framing: str) -> None:
    """A body of `body_bytes` is taken; one byte more is 413, and the connection ends."""
    headers = {"Transfer_Encoding": "chunked"} if framing == "chunked" else {}
    async with open_web(limits=ServerLimits(body_bytes=1000)) as site:
        client = await dial(site)
        got = await client.ask("/echo", "POST", bytes(1000 + over), **headers)
        assert got.status == (413 if over else 200)
        if over:
            assert "close" in got.headers["connection"]
            await client.read_end()
        else:
            assert (await client.ask()).status == 200


@virtual
async def test_a_fault_of_the_body_is_not_the_handlers(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the handler makes of it, the answer is the fault's own and nothing is logged."""

    async def handler(request: HttpRequest) -> HttpResponse:
        if request.path == "/group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(request.read)
        try:
            await request.read()
        except Refuse:
            if request.path == "/wrapped":
                raise ValueError("no body") from None
        with pytest.raises(Refuse):  # for good
            await request.read()
        return HttpResponse(body=b"mine")

    async with open_web(handler, limits=ServerLimits(body_bytes=10)) as site:
        for path, status in (("/group", 413), ("/wrapped", 413), ("/swallowed", 200)):
            client = await dial(site)
            got = await client.ask(path, "POST", bytes(11), Transfer_Encoding="chunked")
            assert (got.status, got.headers["connection"]) == (status, "close")
            await client.read_end()
    assert complaints(caplog) == []


@virtual
async def test_expect_continue() -> None:
    """100 comes when the handler reads; never if it does not, and then the connection ends."""
    async with open_web(limits=ServerLimits(body_bytes=1000)) as site:
        client = await dial(site)
        await client.begin("/echo", "POST", b"abc", Expect="100-continue")
        await trio.sleep(1)
        await client.stream.send_all(client.end(b"abc"))
        got = await client.hear()
        assert (client.interim, got.status, got.body) == ([100], 200, b"abc")
        await client.begin("/else", "POST", b"abc", Expect="100-continue")
        got = await client.hear()
        assert (client.interim, got.status, got.headers["connection"]) == ([100], 200, "close")
        await client.read_end()
        client = await dial(site)
        await client.begin("/echo", "POST", bytes(1001), Expect="100-continue")
        assert ((await client.hear()).status, client.interim) == (413, [])


@virtual
async def test_a_body_that_is_not_read() -> None:
    """It is thrown away, and the next request is found behind it; too much ends the connection."""
    async with open_web(limits=ServerLimits(body_bytes=8 << 20)) as site:
        client = await dial(site)
        for headers in ({}, {"Transfer_Encoding": "chunked"}):
            got = await client.ask("/else", "POST", bytes(500_000), **headers)
            assert (got.status, got.body) == (200, b"POST /else ")
        assert (await client.ask("/refuse", "POST", b"x")).status == 429
        assert len(site.network.connections) == 1
        client = await dial(site)
        await client.begin("/else", "POST", bytes(2 << 20))
        got = await client.hear()
        assert (got.status, got.headers["connection"]) == (200, "close")


@virtual
async def test_an_unread_body_that_never_comes() -> None:
    """The answer is sent, and the connection ends soon behind it."""
    async with open_web() as site:
        client = await dial(site)
        await client.begin("/else", "POST", b"abc")
        assert (await client.hear()).status == 200
        began = trio.current_time()
        await client.read_end()
        assert 0.9 < trio.current_time() - began < 2.2


@virtual
async def test_a_request_that_is_over_has_no_body() -> None:
    """Who kept a request cannot read the next one's bytes."""
    kept: list[HttpRequest] = []

    async def handler(request: HttpRequest) -> HttpResponse:
        kept.append(request)
        return HttpResponse()

    async with open_web(handler) as site:
        client = await dial(site)
        await client.ask("/", "POST", b"abc")
        with pytest.raises(trio.ClosedResourceError):
            await anext(kept[0].body)
        assert (await client.ask()).status == 200


BROKEN_BODIES = [
    b"x\r\n",
    b"-1\r\n",
    b"+1\r\na\r\n0\r\n\r\n",
    b"0x1\r\na\r\n0\r\n\r\n",
    b"1 \r\na\r\n0\r\n\r\n",
    b" 1\r\na\r\n0\r\n\r\n",
    b"1\na\n0\n\n",
    b"1\r\nab\r\n0\r\n\r\n",
    b"1\r\na\n0\r\n\r\n\r\n",
    b"1;a\0\r\na\r\n0\r\n\r\n",
    b"1;a\nb\r\na\r\n0\r\n\r\n",
    b"\r\n",
    b"11111111111111111\r\n",
    b"0\r\nbad trailer\r\n\r\n",
    b"0\r\n X: folded\r\n\r\n",
    b"0\r\nX: \x0b\r\n\r\n",
    b"1;" + b"x" * 20_000 + b"\r\na\r\n0\r\n\r\n",
    b"1;xxxxxxxx\r\na\r\n" * 2000 + b"0\r\n\r\n",
    b"0\r\n" + b"X: y\r\n" * 4000 + b"\r\n",
    b"0\r\nX:" + b" " * 60_000 + b"\x0b\r\n\r\n",
]


@pytest.mark.parametrize("body", BROKEN_BODIES)
@virtual
async def test_broken_chunks(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Chunks that readers could see differently, or that are mostly framing: 400 and the end."""
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with open_web() as site:
        assert statuses(await send_raw(site, head + body + REQUEST)) == [400]
        assert (await (await dial(site)).ask()).status == 200
    assert complaints(caplog) == []


# Hostile requests

HOSTILE = {
    b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\nHost: a\n\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n": 400,
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n": 505,
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n": 501,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n": 431,
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 200 + b"\r\n": 431,
    b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b" " * 15_000 + b"\x0b\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00": 400,
    b"GET /": 400,
}


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("data", HOSTILE)
@virtual
async def test_hostile_requests(data: bytes, before: int, caplog: pytest.LogCaptureFixture) -> None:
    """As the first request and as a later one each has its one answer, and the connection ends."""
    async with open_web() as site:
        for pieces in ([REQUEST * before + data + REQUEST], [REQUEST * before, data, REQUEST]):
            if data != b"GET /":
                heard = await send_raw(site, *filter(None, pieces))
                assert statuses(heard) == [200] * before + [HOSTILE[data]]
        assert statuses(await send_raw(site, REQUEST * before + data))[-1] == HOSTILE[data]
    assert complaints(caplog) == []


@given(
    parts=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    cuts=st.lists(st.integers(0, 500)),
    extension=st.sampled_from([b"", b";a", b';a="b c"']),
    trailer=st.sampled_from([b"", b"X: y\r\n"]),
)
def test_chunks_in_any_pieces(
    parts: list[bytes], cuts: list[int], extension: bytes, trailer: bytes
) -> None:
    """However the bytes are cut, the body is what was sent, and what is behind it is left."""
    lines = [b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts]
    data = b"".join(lines) + b"0\r\n" + trailer + b"\r\nGET /"
    chunked = Chunked(sum(map(len, parts)))
    edges = [0, *sorted(cuts), len(data)]
    body = b""
    for start, end in pairwise(edges):
        if chunked.done:
            assert b"GET /".startswith(chunked.rest)
            break
        body += chunked.feed(data[start:end])
    assert body == b"".join(parts)
    assert chunked.done


def test_framing_is_bounded() -> None:
    """Beside the body there may be 16 KiB and twice the body, and not a byte more."""
    for over in (0, 1):
        chunked = Chunked(math.inf)
        assert chunked.feed(b"64\r\n" + bytes(100) + b"\r\n") == bytes(100)
        room = FRAMING_BYTES + 200 - 6
        line = b"1;" + b"x" * (room + over - 4) + b"\r\n"
        if over:
            with pytest.raises(BodyFault, match="framing"):
                chunked.feed(line)
        else:
            chunked.feed(line)


PIECES = st.lists(
    st.binary(max_size=60)
    | st.sampled_from([REQUEST, *HOSTILE, *BROKEN_BODIES])
    | st.sampled_from([b"\r\n", b"POST ", b"/echo", b" HTTP/1.1\r\n", b"Host: a\r\n", b"0\r\n\r\n"])
    | st.sampled_from([b"Content-Length: 3\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
    | st.just(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    max_size=6,
)


@settings(max_examples=120, deadline=None)
@given(pieces=PIECES, cuts=st.booleans())
def test_any_bytes(pieces: list[bytes], cuts: bool) -> None:
    """Every answer is a whole one, and the server stays up."""

    async def main() -> None:
        async with open_web(limits=ServerLimits(keep_alive_s=2, handshake_s=3)) as site:
            data = pieces if cuts else [b"".join(pieces)]
            for status in statuses(await send_raw(site, *filter(None, data))):
                assert status in {200, 400, 413, 431, 501, 505}
            assert (await (await dial(site)).ask()).status == 200

    run(main, seed=1, limit_s=600)


# Time


@virtual
async def test_slowloris() -> None:
    """200 that send a byte a second, as first and as later heads, end; others are served."""
    gone: list[float] = []

    async def drip(client: Client) -> None:
        async def write() -> None:
            for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 1000:
                try:
                    await client.stream.send_all(bytes([byte]))
                except trio.BrokenResourceError:
                    return
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await client.read_end()
            gone.append(trio.current_time())
            nursery.cancel_scope.cancel()

    async with open_web(limits=ServerLimits(handshake_s=7, keep_alive_s=5)) as site:
        clients: list[Client] = []

        async def arrive(asks: bool) -> None:
            client = await dial(site)
            if asks:
                assert (await client.ask()).status == 200
            clients.append(client)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(arrive, number % 2 == 0)
                await trio.sleep(0.01)
        began = trio.current_time()
        for client in clients:
            site.nursery.start_soon(drip, client)
        other = await dial(site)
        for _ in range(4):
            await trio.sleep(1)
            assert (await other.ask()).status == 200
        await trio.sleep(4)
        assert len(gone) == 200
        assert max(gone) <= began + 7.2
        assert site.server.connections == 1


@virtual
async def test_an_idle_connection_ends() -> None:
    """After `keep_alive_s` without a byte, and not before; each answer begins it anew."""
    async with open_web(limits=ServerLimits(keep_alive_s=5)) as site:
        client = await dial(site)
        for _ in range(3):
            assert (await client.ask()).status == 200
            await trio.sleep(4.5)
        assert (await client.ask()).status == 200
        began = trio.current_time()
        await client.read_end()
        assert trio.current_time() - began == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("kind", ["body", "handler", "generator", "reader"])
@virtual
async def test_an_exchange_that_stalls(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """No byte for `handshake_s`, in or out, ends it; a byte in time keeps it."""
    ended = 0

    async def slowly() -> AsyncIterator[bytes]:  # noqa: ASYNC900
        for _ in range(4):
            yield b"x"  # noqa: ASYNC911
            await trio.sleep(2.5)
        await trio.sleep_forever()

    async def handler(request: HttpRequest) -> HttpResponse:
        nonlocal ended
        try:
            if kind == "body":
                await request.read()
            if kind == "handler":
                await trio.sleep_forever()
        finally:
            ended += 1
        return HttpResponse(body=slowly() if kind == "generator" else bytes(50_000_000))

    async with open_web(handler, limits=ServerLimits(handshake_s=3)) as site:
        client = await dial(site)
        began = trio.current_time()
        await client.begin("/", "POST", b"" if kind != "body" else b"abcd")
        if kind == "body":
            for byte in (b"a", b"b", b"c"):
                await trio.sleep(2.5)
                await client.stream.send_all(byte)
        elif kind != "handler":
            await client.stream.receive_some(1)
        while site.server.connections:
            await trio.sleep(0.05)
        took = trio.current_time() - began
        await client.stream.aclose()
        expected = {"body": 10.5, "handler": 3, "generator": 10.5, "reader": 3}[kind]
        assert took == pytest.approx(expected, abs=0.3)
    assert ended == 1
    assert complaints(caplog) == []


@virtual
async def test_a_slow_reader_is_served() -> None:
    """Who takes a little in time gets all of a large answer."""
    async with open_web(limits=ServerLimits(handshake_s=3)) as site:
        stream = await site.network.open_stream("server", 80)
        await stream.send_all(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        count = 0
        while chunk := await stream.receive_some(65536):
            count += len(chunk)
            await trio.sleep(1)
        assert count > 5_000_000
        await stream.aclose()


# The connection's end


@pytest.mark.parametrize("stage", ["head", "body", "handler", "answer", "idle"])
@virtual
async def test_a_client_that_is_gone(stage: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its connection ends without a complaint, and others are served."""
    closed = trio.Event()

    async def handler(request: HttpRequest) -> HttpResponse:
        async def endless() -> AsyncIterator[bytes]:  # noqa: ASYNC900
            try:
                while True:
                    yield bytes(10_000)  # noqa: ASYNC911
            finally:
                closed.set()

        await request.read()
        await trio.sleep(1)
        return HttpResponse(body=endless() if request.path == "/endless" else b"x")

    async with open_web(handler) as site:
        client = await dial(site)
        if stage == "head":
            await client.stream.send_all(b"GET / HT")
        elif stage == "idle":
            await client.ask()
        else:
            body = b"abc" if stage == "body" else b""
            await client.begin("/endless" if stage == "answer" else "/", "POST", body)
            if stage == "answer":
                await client.stream.receive_some()
        await trio.sleep(0.1)
        client.stream.abort()  # type: ignore[attr-defined]
        await trio.sleep(3)
        assert site.server.connections == 0
        assert closed.is_set() == (stage == "answer")
        assert (await (await dial(site)).ask()).status == 200
    assert complaints(caplog) == []


@virtual
async def test_connection_close() -> None:
    """Either side may ask for it."""

    async def handler(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {"Connection": "Close"} if request.path == "/bye" else {})

    async with open_web(handler) as site:
        for target, value in (("/", "close"), ("/bye", "x")):
            client = await dial(site)
            got = await client.ask(target, Connection=value)
            assert got.headers["connection"].lower() == "close"
            began = trio.current_time()
            await client.read_end()
            assert trio.current_time() - began < 0.5


@virtual
async def test_the_limit_on_connections() -> None:
    """Kept connections count; one more gets 503."""
    async with open_web(limits=ServerLimits(connections=2)) as site:
        clients = [await dial(site), await dial(site)]
        for client in clients:
            assert (await client.ask()).status == 200
        assert (await (await dial(site)).ask()).status == 503
        await clients[0].stream.aclose()
        await trio.sleep(0.1)
        assert (await (await dial(site)).ask()).status == 200


@virtual
async def test_draining() -> None:
    """Idle connections end at once; a running request is finished, and is the last."""

    async def handler(request: HttpRequest) -> HttpResponse:
        await trio.sleep(3)
        return HttpResponse(body=b"done")

    async with open_web(handler) as site:
        idle, busy = await dial(site), await dial(site)
        await idle.ask()
        await busy.begin()
        await trio.sleep(1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.server.drain, 1)
            await idle.read_end()
            assert trio.current_time() - began < 0.1
            got = await busy.hear()
            assert (got.body, got.headers["connection"]) == (b"done", "close")
            await busy.read_end()
            await busy.stream.aclose()
        assert trio.current_time() - began < 3
        await site.ended.wait()


@virtual
async def test_cancelling() -> None:
    """Cancelling the server cancels handlers and closes everything."""
    cancelled = False

    async def handler(request: HttpRequest) -> HttpResponse:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled = True
        raise AssertionError

    async with open_web(handler) as site:
        client = await dial(site)
        await client.begin()
        await trio.sleep(1)
        site.scope.cancel()
        await client.read_end()
        assert cancelled


# WebSockets beside it


@virtual
async def test_a_websocket_behind_requests() -> None:
    """A handshake may come on a connection that has served requests; then it is a link."""
    async with open_web(liveness=None) as site:
        for before in range(3):
            client = await dial(site)
            for _ in range(before):
                assert (await client.ask()).status == 200
            stranger = Stranger(client.stream)
            assert await stranger.shake() == 101
            assert await stranger.ask("hello") == "hello"
            await trio.sleep(40)
            assert await stranger.ask("hello") == "hello"
            await stranger.close()


@virtual
async def test_a_link_keeps_nothing_of_http() -> None:
    """Once a connection is a WebSocket, what parsed its requests is gone."""
    async with open_web() as site:
        client = await dial(site)
        assert (await client.ask("/echo", "POST", b"x")).status == 200
        stranger = Stranger(client.stream)
        assert await stranger.shake() == 101
        assert await stranger.ask("hello") == "hello"
        gc.collect()
        kinds = (_Door, _Exchange, RequestBody, HttpRequest, HttpResponse)
        left = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
        assert [thing for thing in left if thing is not _FAILED and thing not in BAD] == []
        parsers = [one for one in gc.get_objects() if isinstance(one, h11.Connection)]
        assert [one for one in parsers if one.our_role is h11.SERVER] == []
        await stranger.close()


@virtual
async def test_first_frames_behind_a_pipelined_handshake() -> None:
    """A request, a handshake and a message in one packet: an answer, 101 and an echo."""
    shake = (
        b"GET / HTTP/1.1\r\nHost: server\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    message = Frame(Opcode.TEXT, b"first").serialize(mask=True)
    async with open_web() as site:
        heard = await send_raw(site, REQUEST + shake + message)
        assert heard.count(b"HTTP/1.1 200") == heard.count(b"HTTP/1.1 101") == 1
        assert b"\x81\x05first" in heard


@pytest.mark.parametrize("http", [None, answer])
@virtual
async def test_the_path_of_websockets(http: Any) -> None:
    """An upgrade elsewhere gets 404, whatever the query; plain requests are not concerned."""
    async with open_site(raw_echo, codec="raw", http=http, path="/ws") as site:
        assert await (await site.dial()).shake("/ws?token=1") == 101
        for path in ("/", "/ws/", "/WS", "/w%73", "/wss"):
            assert await (await site.dial()).shake(path) == 404
        assert (await (await dial(site)).ask("/ws")).status == (200 if http else 426)


@virtual
async def test_a_handshake_is_judged_as_ever() -> None:
    """With an HTTP handler, too, the hook decides and a bad handshake has its own status."""

    async def accept(handshake: Handshake) -> None:
        raise Refuse(401)

    async with open_web(accept=accept) as site:
        assert await (await site.dial()).shake() == 401
        client = await dial(site)
        assert (await client.ask(Upgrade="websocket", Connection="upgrade")).status == 400
        client = await dial(site)
        assert (await client.ask(Upgrade="websocket")).status == 426
        client = await dial(site)
        assert (await client.ask("/", "POST", Upgrade="websocket")).status == 405
        client = await dial(site)
        for _ in range(2):  # another protocol may be ignored
            assert (await client.ask(Upgrade="h2c", Connection="upgrade")).status == 200


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"path": "ws"}, "path"),
        ({"path": "/ws?a"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": 5}, "path"),
        ({"http": "x"}, "http"),
    ],
)
async def test_options_that_cannot_be(options: dict[str, Any], field: str) -> None:
    """They raise `OptionError` before anything listens."""
    with trio.fail_after(10), pytest.raises(OptionError) as caught:
        await trio_rt.serve(raw_echo, "127.0.0.1", 0, codec="raw", **options)
    assert caught.value.field == field


# Real sockets and clients


@asynccontextmanager
async def serving(handler: Any = answer, **options: Any) -> AsyncIterator[trio_rt.Server]:
    """A server on a real port, to the end of the block."""
    start = partial(trio_rt.serve, raw_echo, "127.0.0.1", 0, codec="raw", http=handler, **options)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(start)
            nursery.cancel_scope.cancel()


def base(server: trio_rt.Server) -> str:
    return server.url.replace("ws", "http", 1)


async def test_httpx() -> None:
    """httpx: kept connection, bodies both ways, many at a time."""
    async with serving() as server, httpx.AsyncClient(base_url=base(server)) as client:
        assert (await client.get("/a?b")).text == "GET /a b"
        assert (await client.post("/echo", content=b"x" * 300_000)).content == b"x" * 300_000
        assert (await client.post("/echo", content=counted())).text == "0;1;2;"
        assert (await client.get("/pieces")).text == "0;1;2;"
        assert len((await client.get("/big")).content) == 5_000_000
        assert (await client.get("/fail")).status_code == 500
        assert server.connections == 1
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.get, "/pieces")
        assert server.connections <= 20


async def test_the_standard_library() -> None:
    """`http.client`: it sends all of a body before it reads, and gets the answer to a large one."""

    def talk(port: int) -> list[tuple[int, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        found = []
        for method, path, body in (
            ("GET", "/", None),
            ("POST", "/echo", b"x" * 100_000),
            ("HEAD", "/some", None),
            ("POST", "/unread", b"x" * 500_000),
            ("POST", "/echo", iter([b"a", b"b"])),
            ("POST", "/echo", bytes(700_000)),
        ):
            connection.request(method, path, body, encode_chunked=not isinstance(body, bytes))
            response = connection.getresponse()
            found.append((response.status, response.read()[:10]))
        connection.close()
        return found

    async with serving(limits=ServerLimits(body_bytes=600_000)) as server:
        found = await trio.to_thread.run_sync(talk, server.port)
    assert found == [
        (200, b"GET / "),
        (200, b"x" * 10),
        (200, b""),
        (200, b"POST /unre"),
        (200, b"ab"),
        (413, b"the body h"),
    ]


@requires("curl")
async def test_curl(tmp_path: Path) -> None:
    """curl: a kept connection, HEAD, Expect and a large upload."""
    upload = tmp_path / "upload"
    upload.write_bytes(b"y" * 500_000)
    async with serving() as server:
        url = base(server)
        curl = [str(tool("curl")), "-sS", "--noproxy", "*", "--max-time", "20"]

        async def output(*arguments: str) -> bytes:
            done = await trio.run_process([*curl, *arguments], capture_stdout=True)
            return bytes(done.stdout)

        assert await output(f"{url}/a", f"{url}/b", "-w", "%{num_connects};") == (
            b"GET /a 1;GET /b 0;"
        )
        assert (await output("-I", f"{url}/some")).startswith(b"HTTP/1.1 200 OK\r\n")
        sent = ["--data-binary", f"@{upload}", "-H", "Expect: 100-continue"]
        assert await output(*sent, f"{url}/echo") == b"y" * 500_000
        assert await output(*sent, f"{url}/else", "-w", " %{http_code}") == b"POST /else  200"


def certificates(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's context."""
    authority = trustme.CA()
    inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(inside)
    outside = ssl.create_default_context()
    authority.configure_trust(outside)
    return inside, outside


@pytest.mark.parametrize("size", [10_000, 65_430, 500_000])
@virtual
async def test_a_slow_reader_over_tls(size: int) -> None:
    """What TLS holds back is sent as well, before the next request and before the end."""

    async def handler(request: HttpRequest) -> HttpResponse:
        return HttpResponse(body=bytes(size))

    inside, outside = certificates("server")
    limits = ServerLimits(handshake_s=3, keep_alive_s=100)
    async with open_web(handler, ssl_context=inside, limits=limits, latency_s=0.5) as site:
        lower = await site.network.open_stream("server", 80)
        stream = trio.SSLStream(lower, outside, server_hostname="server", https_compatible=True)
        await stream.do_handshake()
        client = Client(stream)
        for how in ("keep-alive", "close"):
            await client.begin("/", "GET", Connection=how)
            client.end(b"")
            await trio.sleep(2)
            began = trio.current_time()
            assert len((await client.hear()).body) == size
            assert trio.current_time() - began < 60
        await trio.aclose_forcefully(stream)


async def test_tls() -> None:
    """Over TLS requests, a large answer, a refusal and the end of an idle connection work."""
    inside, outside = certificates("127.0.0.1")
    seen: list[HttpRequest] = []

    async def handler(request: HttpRequest) -> HttpResponse:
        seen.append(request)
        return await answer(request)

    limits = ServerLimits(body_bytes=100_000)
    async with (
        serving(handler, ssl_context=inside, limits=limits) as server,
        httpx.AsyncClient(base_url=base(server), verify=outside) as client,
    ):
        assert len((await client.get("/big")).content) == 5_000_000
        assert (await client.post("/echo", content=counted())).text == "0;1;2;"
        closing = await client.get("/", headers={"Connection": "close"})
        assert closing.status_code == 200
        assert (await client.post("/echo", content=bytes(500_000))).status_code == 413
    limits = ServerLimits(keep_alive_s=0.1)
    async with serving(handler, ssl_context=inside, limits=limits) as server:
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=outside)
        assert (await Client(stream).ask()).status == 200
        assert await stream.receive_some() == b""  # a close_notify
        await trio.aclose_forcefully(stream)
    assert {(request.secure, request.remote) for request in seen} == {(True, "127.0.0.1")}


async def test_a_reset_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that reset their connections are no fault of the server's."""
    async with serving() as server:
        for data in (
            b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\n",
        ):
            for _ in range(10):
                stream = await trio.open_tcp_stream("127.0.0.1", server.port)
                await stream.send_all(data)
                await trio.lowlevel.checkpoint()
                stream.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
                stream.socket.close()
        while server.connections:
            await trio.sleep(0.01)
        async with httpx.AsyncClient(base_url=base(server)) as client:
            assert (await client.get("/")).status_code == 200
    assert complaints(caplog) == []


def nginx(folder: Path, upstream: int) -> Callable[[int], list[str]]:
    """nginx with connections to its upstream that it keeps."""

    def command(port: int) -> list[str]:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        file = folder / "nginx.conf"
        file.write_text(f"""
            daemon off; pid {folder}/nginx.pid; error_log stderr notice; worker_processes 1;
            {"user root;" if os.geteuid() == 0 else ""}
            events {{ }}
            http {{
                access_log off;
                {" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)}
                upstream site {{ server 127.0.0.1:{upstream}; keepalive 4; }}
                map $http_upgrade $link {{ default upgrade; "" ""; }}
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_pass http://site; proxy_http_version 1.1;
                        proxy_set_header Upgrade $http_upgrade;
                        proxy_set_header Connection $link;
                        proxy_set_header Host $http_host;
                    }}
                }}
            }}
        """)
        return [str(tool("nginx")), "-e", "stderr", "-p", str(folder), "-c", str(file)]

    return command


@requires("nginx")
async def test_behind_nginx(tmp_path: Path) -> None:
    """Requests of many clients share a kept connection, and a WebSocket goes through as well."""
    async with (
        serving() as server,
        running(nginx(tmp_path, server.port), ready="start worker process ") as proxy,
    ):
        for _ in range(5):
            async with httpx.AsyncClient(base_url=proxy.url("http")) as client:
                assert (await client.get("/a?b")).text == "GET /a b"
                assert (await client.post("/echo", content=b"x" * 200_000)).text == "x" * 200_000
                assert (await client.get("/pieces")).text == "0;1;2;"
                assert (await client.post("/else", content=b"x" * 200_000)).status_code == 200
        assert server.connections == 1
        async with trio_rt.connect(proxy.url("ws"), codec="raw") as conn:
            with conn.subscribe() as stream:
                await conn.send("hello")
                item = await stream.receive()
                assert isinstance(item, Message)
                assert item.payload == "hello"
        async with httpx.AsyncClient(base_url=proxy.url("http")) as client:
            assert (await client.get("/fail")).status_code == 500

"""Bodies: their bound, and how they are unpacked."""

from __future__ import annotations

import gzip
import math
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_rt.errors import BodyTooLarge, OptionError
from trio_rt.http._backend import BackendName
from trio_rt.http._backend import backend as module_of
from trio_rt.http._layer import transport
from trio_rt.http._limits import BodyLimit
from trio_rt.http._unpack import PIECE_BYTES, Unpacker

from .peers import Behaviour, Exchange, answer, both, head_of, open_peer, raw

TEXT = b"some text that repeats " * 1000
MIB = 2**20


def deflated(data: bytes, wbits: int = -15) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "Deflate": deflated(TEXT),
    "deflate, gzip": gzip.compress(zlib.compress(TEXT)),
    "gzip,gzip": gzip.compress(gzip.compress(TEXT)),
    "identity, gzip": gzip.compress(TEXT),
}


def unpacked(codings: list[str], data: bytes, size: int = 10**9) -> bytes:
    unpacker = Unpacker(codings)
    pieces = [
        piece
        for start in range(0, len(data), size)
        for piece in unpacker.feed(data[start : start + size])
    ]
    unpacker.finish()
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


# Unpacking


@given(
    st.binary(max_size=3000), st.integers(1, 50), st.sampled_from(["zlib", "raw", "gzip", "two"])
)
def test_any_body_in_any_parts(data: bytes, size: int, how: str) -> None:
    """What was packed comes out, however it is cut."""
    packed = {
        "zlib": lambda: (["deflate"], zlib.compress(data)),
        "raw": lambda: (["deflate"], deflated(data)),
        "gzip": lambda: (["gzip"], gzip.compress(data)),
        "two": lambda: (["deflate", "gzip"], gzip.compress(zlib.compress(data))),
    }[how]()
    assert unpacked(*packed, size) == data


@pytest.mark.parametrize("size", [1, 7, 10**9])
def test_members(size: int) -> None:
    """A gzip file of several members is all of them, and may be padded with zeros."""
    data = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    assert unpacked(["gzip"], data, size) == b"one two"
    assert unpacked(["gzip"], data + b"\0" * 9, size) == b"one two"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [1, 10**9])
def test_more_behind(coding: str, size: int) -> None:
    """What follows the end is an error."""
    data = gzip.compress(TEXT) if coding == "gzip" else zlib.compress(TEXT)
    with pytest.raises(ValueError):  # noqa: PT011
        unpacked([coding], data + b"more", size)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_cut(coding: str) -> None:
    """A body that is cut anywhere is an error; an empty one is empty."""
    data = gzip.compress(b"some text") if coding == "gzip" else zlib.compress(b"some text")
    for length in range(1, len(data)):
        with pytest.raises(ValueError):  # noqa: PT011
            unpacked([coding], data[:length])
    assert unpacked([coding], b"") == b""


# The layer


@asynccontextmanager
async def open_limited(
    name: BackendName, behaviour: Behaviour, limit: float = MIB
) -> AsyncIterator[Any]:
    module = module_of(name)
    stack = transport(BodyLimit(limit), backend=name)
    with trio.fail_after(20):
        async with (
            open_peer({"*": behaviour}) as peer,
            module.AsyncClient(transport=stack, base_url=peer.url) as client,
        ):
            yield client


@cache
def made_bomb() -> bytes:
    return gzip.compress(bytes(200 * MIB))


async def read(client: Any, streamed: bool) -> None:
    if streamed:
        async with client.stream("GET", "/") as response:
            async for _ in response.aiter_bytes():
                pass
    else:
        await client.get("/")


@both
@pytest.mark.parametrize("coding", PACKED)
async def test_codings(backend: BackendName, coding: str) -> None:
    """Packed bodies arrive unpacked, whole or streamed."""
    async with open_limited(backend, answer(PACKED[coding], Content_Encoding=coding)) as client:
        response = await client.get("/")
        assert response.content == TEXT
        assert "content-encoding" not in response.headers
        assert "content-length" not in response.headers
        async with client.stream("GET", "/") as response:
            assert b"".join([part async for part in response.aiter_bytes()]) == TEXT


@both
async def test_two_headers(backend: BackendName) -> None:
    """Codings in two headers are those of both, in their order."""
    body = PACKED["deflate, gzip"]
    data = head_of(200, {"Content-Encoding": "deflate", "content-encoding": "gzip"})
    data = data[:-2] + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with open_limited(backend, raw(data)) as client:
        assert (await client.get("/")).content == TEXT


@both
async def test_plain_body(backend: BackendName) -> None:
    """A plain body and its headers are untouched, at the limit to the byte."""
    async with open_limited(backend, answer(TEXT), len(TEXT)) as client:
        response = await client.get("/")
        assert response.content == TEXT
        assert response.headers["content-length"] == str(len(TEXT))
    packed = answer(PACKED["gzip"], Content_Encoding="gzip")
    async with open_limited(backend, packed, len(TEXT)) as client:
        assert (await client.get("/")).content == TEXT
    async with open_limited(backend, packed, len(TEXT) - 1) as client:
        with pytest.raises(BodyTooLarge):
            await client.get("/")


@both
async def test_length_says_so(backend: BackendName) -> None:
    """A Content-Length above the limit is refused before the body is read."""
    async with open_limited(backend, answer(b"x" * 100), 99) as client:
        with pytest.raises(BodyTooLarge, match="99"):
            async with client.stream("GET", "/"):
                pass


def chunked(parts: list[bytes], *, closes: bool = False, **headers: str) -> Behaviour:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def behave(exchange: Exchange) -> bool:
        head = {"Connection": "close"} if closes else {"Transfer-Encoding": "chunked"}
        await exchange.stream.send_all(head_of(200, head | named))
        for part in parts:
            size = b"" if closes else b"%x\r\n" % len(part)
            await exchange.stream.send_all(size + part + (b"" if closes else b"\r\n"))
        if not closes:
            await exchange.stream.send_all(b"0\r\n\r\n")
        return not closes

    return behave


@both
@pytest.mark.parametrize("streamed", [False, True])
async def test_without_a_length(backend: BackendName, streamed: bool) -> None:
    """Without one it is counted; the read past the limit raises."""
    parts = [b"x" * 1000] * 10
    async with open_limited(backend, chunked(parts), 10_000) as client:
        assert len((await client.get("/")).content) == 10_000
    async with open_limited(backend, chunked(parts), 9_999) as client:
        with pytest.raises(BodyTooLarge, match="more bytes than 9999"):
            await read(client, streamed)


@both
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("codings", ["gzip", "gzip, gzip"])
async def test_bomb(backend: BackendName, codings: str, streamed: bool) -> None:
    """200 MiB in 204 kB never take more memory than the limit and a mebibyte."""
    bomb = made_bomb()
    if codings == "gzip, gzip":
        bomb = gzip.compress(bomb)
    limit = 4 * MIB
    async with open_limited(backend, answer(bomb, Content_Encoding=codings), limit) as client:
        tracemalloc.start()
        try:
            with pytest.raises(BodyTooLarge, match="unpacks to more bytes"):
                await read(client, streamed)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < (2 * MIB if streamed else limit + MIB + MIB // 2)


@both
async def test_too_many_codings(backend: BackendName) -> None:
    """More than two codings are an attack."""
    behaviour = answer(b"x", Content_Encoding=", ".join(["gzip"] * 3))
    async with open_limited(backend, behaviour) as client:
        with pytest.raises(BodyTooLarge, match="codings"):
            await client.get("/")


@both
@pytest.mark.parametrize("coding", ["none", "utf-8", "identity", "", "aws-chunked", "utf-8, none"])
async def test_no_coding(backend: BackendName, coding: str) -> None:
    """What is no coding leaves the body as it is, as in httpx."""
    async with open_limited(backend, answer(TEXT, Content_Encoding=coding)) as client:
        assert (await client.get("/")).content == TEXT


@both
@pytest.mark.parametrize("coding", ["utf-8, gzip", "gzip, none", "identity, GZIP, , utf-8, x, y"])
async def test_a_coding_beside_none(backend: BackendName, coding: str) -> None:
    """Beside such a one a real coding is taken off, and is bounded."""
    packed = answer(PACKED["gzip"], Content_Encoding=coding)
    async with open_limited(backend, packed) as client:
        assert (await client.get("/")).content == TEXT
    async with open_limited(backend, answer(b"no gzip", Content_Encoding=coding)) as client:
        with pytest.raises(module_of(backend).DecodingError):
            await client.get("/")


@both
async def test_foreign_coding(backend: BackendName) -> None:
    """A coding that nobody asked for is an error; asked for, it goes through, counted."""
    behaviour = answer(b"x" * 100, Content_Encoding="br")
    async with open_limited(backend, behaviour, 100) as client:
        headers = {"Accept-Encoding": "gzip"}
        with pytest.raises(module_of(backend).DecodingError, match="br"):
            await client.get("/", headers=headers)
        asked = {"Accept-Encoding": "gzip, BR;q=0.5"}
        async with client.stream("GET", "/", headers=asked) as response:
            raw = b"".join([part async for part in response.aiter_raw()])
        assert raw == b"x" * 100
        assert response.headers["content-encoding"] == "br"
    async with open_limited(backend, chunked([b"x" * 100], Content_Encoding="br"), 99) as client:
        with pytest.raises(BodyTooLarge):
            async with client.stream("GET", "/", headers=asked) as response:
                [part async for part in response.aiter_raw()]


@both
@pytest.mark.parametrize("body", [b"no gzip at all", PACKED["gzip"][:-5], PACKED["gzip"] + b"x"])
async def test_broken(backend: BackendName, body: bytes) -> None:
    """A packed body that is broken, cut or too long is the backend's DecodingError."""
    async with open_limited(backend, answer(body, Content_Encoding="gzip")) as client:
        with pytest.raises(module_of(backend).DecodingError):
            await client.get("/")


@both
async def test_cut_on_the_wire(backend: BackendName) -> None:
    """A body shorter than its length is the backend's RemoteProtocolError."""

    async def cut(exchange: Exchange) -> bool:
        await answer(b"x" * 10, Content_Length="20")(exchange)
        return False

    async with open_limited(backend, cut) as client:
        with pytest.raises(module_of(backend).RemoteProtocolError):
            await client.get("/")


@both
@pytest.mark.parametrize("closes", [False, True])
async def test_nothing_packed(backend: BackendName, closes: bool) -> None:
    """An empty body is empty, whatever its coding says; HEAD and 304 have none."""
    behaviour = chunked([], closes=closes, Content_Encoding="gzip")
    async with open_limited(backend, behaviour) as client:
        assert (await client.get("/")).content == b""
    async with open_limited(backend, answer(b"x" * 99, Content_Encoding="gzip"), 9) as client:
        response = await client.head("/")
        assert response.headers["content-length"] == "99"
        assert response.headers["content-encoding"] == "gzip"


@both
async def test_not_modified(backend: BackendName) -> None:
    """A 304 says nothing of codings: what a cache has stored is unpacked."""
    async with open_limited(backend, answer(b"", 304, Content_Encoding="gzip")) as client:
        response = await client.get("/")
        assert (response.status_code, response.content) == (304, b"")
        assert "content-encoding" not in response.headers


@both
async def test_no_limit(backend: BackendName) -> None:
    """inf is none."""
    async with open_limited(
        backend, answer(PACKED["gzip"], Content_Encoding="gzip"), math.inf
    ) as c:
        assert (await c.get("/")).content == TEXT


@both
async def test_connection_is_kept(backend: BackendName) -> None:
    """A body read to its end leaves the connection to the next call; a refused one does not."""
    module = module_of(backend)
    with trio.fail_after(10):
        async with (
            open_peer({"/big": answer(b"x" * 1000), "/": answer(b"x" * 10)}) as peer,
            module.AsyncClient(transport=transport(BodyLimit(100), backend=backend)) as client,
        ):
            for _ in range(3):
                await client.get(peer.url + "/")
            assert peer.accepted == 1
            with pytest.raises(BodyTooLarge):
                await client.get(peer.url + "/big")
            await peer.wait_live(0)


@pytest.mark.parametrize("wrong", [-1, 1.5, math.nan, True, "5", None])
def test_wrong_limits(wrong: Any) -> None:
    """A limit is a whole number from 0, or inf."""
    with pytest.raises(OptionError, match="max_body_bytes"):
        BodyLimit(wrong)


def test_random_rubbish() -> None:
    """Whatever comes in is a body or a ValueError."""
    rng = random.Random(3)
    ends = set()
    for _ in range(500):
        data = bytearray(gzip.compress(TEXT[:200]))
        data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            ends.add(len(unpacked(["gzip"], bytes(data))) == 200)
        except ValueError:
            ends.add(False)
    assert ends == {True, False}

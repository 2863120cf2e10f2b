"""Files of a chat: what is served of them, and the client that takes them there and back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_rt
from trio_rt import HttpRequest, HttpResponse, OptionError, PayloadError, RawPeer
from trio_rt.chat import FileCorrupted, FileRefused, Progress, StoredFile, download, open_upload
from trio_rt.chat._client.files import _is_cancellation
from trio_rt.chat._client.pieces import Pace, Pieces
from trio_rt.chat._client.sources import guessed_type, open_source
from trio_rt.chat._client.transfers import sha256_in
from trio_rt.chat._service.file_routes import file_routes
from trio_rt.chat._service.files import FileStore
from trio_rt.chat._words import check_content, check_metadata
from trio_rt.errors import AttemptsExhausted
from trio_rt.http import open_client
from trio_rt.hub import Site
from trio_rt.options import Reconnect
from trio_rt.testing import Relay, VirtualNetwork, run, serve_relay

from .file_world import (
    GIF,
    JPEG,
    PNG,
    QUICK,
    WEBP,
    InlineStore,
    by_token,
    serving,
    stored_files,
    virtual_pool,
    virtual_world,
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(directory: Path, content: bytes) -> str:
    """Have a file with this content; its address."""
    (directory / "files").mkdir(parents=True, exist_ok=True)
    (directory / "files" / sha256(content)).write_bytes(content)
    return f"/files/{sha256(content)}/x"


@asynccontextmanager
async def pages(store: FileStore) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(store) as server,
        httpx.AsyncClient(base_url=server.url.replace("ws", "http", 1)) as client,
    ):
        yield client


# Routes of a site


def route(name: str) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
    async def answer(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        return HttpResponse(body=name.encode())

    return answer


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/a", "/a"),
        ("/a/", "/a/*"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/*"),
        ("/a/bc", "/a/*"),
        ("/a/b/c/d", "/a/b/*"),
        ("/a/*", "/a/*"),
        ("/ab", None),
        ("/%61/b", None),
        ("/", None),
    ],
)
async def test_routes_with_a_star(path: str, found: str | None) -> None:
    """The exact path comes first, then the longest that is the beginning."""
    site = Site({name: route(name) for name in ("/a/*", "/a/b/*", "/a", "/a/b")})
    answer = await site(HttpRequest(method="GET", path=path))
    if found is None:
        assert answer.status == 404
    else:
        assert (answer.status, answer.body) == (200, found.encode())


async def test_a_star_alone_has_all() -> None:
    """What no other route has."""
    site = Site({"/*": route("all"), "/a": route("a")})
    assert (await site(HttpRequest(method="GET", path="/x/y"))).body == b"all"
    assert (await site(HttpRequest(method="GET", path="/a"))).body == b"a"


# Downloads


@pytest.mark.parametrize(
    ("content", "kind"),
    [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")],
)
async def test_images_are_shown(tmp_path: Path, content: bytes, kind: str) -> None:
    """As what they are, whatever the address calls them, and in a sandbox."""
    path = put(tmp_path, content)
    async with pages(FileStore(tmp_path)) as client:
        got = await client.get(path[:-1] + "x.html")
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["Content-Type"] == kind
    assert got.headers["Content-Disposition"].startswith('inline; filename="x.html"')
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert got.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "immutable" in got.headers["Cache-Control"]
    assert got.headers["ETag"] == f'"{sha256(content)}"'
    assert "access-control-allow-origin" not in got.headers


async def test_a_download_is_safe_without_a_site(tmp_path: Path) -> None:
    """Whoever has the routes: nothing guesses what a file is, or runs it."""
    path = put(tmp_path, b"<html><script>alert(1)</script>")
    route = file_routes(FileStore(tmp_path), by_token)["/files/*"]
    got = await route(HttpRequest(method="HEAD", path=path))
    assert got.status == 200
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert got.headers["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.html", b"<html><script>alert(1)</script>"),
        ("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("x.js", b"alert(1)"),
        ("x.pdf", b"%PDF-1.7"),
        ("x.png", b"<html>"),
        ("x.png", b"\n" + PNG),
        ("", b""),
    ],
)
async def test_all_else_is_a_download(tmp_path: Path, name: str, content: bytes) -> None:
    """Nothing that a browser would run has a type to be run."""
    path = put(tmp_path, content)[:-1] + name
    async with pages(FileStore(tmp_path)) as client:
        got = await client.get(path)
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["Content-Disposition"].startswith("attachment;")
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Security-Policy"].startswith("sandbox")


@pytest.mark.parametrize(
    "polyglot",
    [
        GIF[:13] + b"/*" + bytes(20) + b"*/=1;alert(1)",
        PNG + b"<html><script>alert(1)</script>",
        JPEG + b"PK\x05\x06" + bytes(18),
        JPEG + b"\n%PDF-1.7",
    ],
)
async def test_a_polyglot_is_an_image_and_nothing_else(tmp_path: Path, polyglot: bytes) -> None:
    """What is an image and a script is served as the image, and may not be sniffed."""
    path = put(tmp_path, polyglot)
    async with pages(FileStore(tmp_path)) as client:
        got = await client.get(path)
    assert got.headers["Content-Type"] in ("image/gif", "image/png", "image/jpeg")
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Security-Policy"].startswith("sandbox")


async def test_parts_of_a_file(tmp_path: Path) -> None:
    """Ranges, conditions and HEAD are as HTTP has them."""
    path, tag = put(tmp_path, PNG), f'"{sha256(PNG)}"'
    size = len(PNG)
    async with pages(FileStore(tmp_path)) as client:
        got = await client.get(path, headers={"Range": "bytes=10-19"})
        assert (got.status_code, got.content) == (206, PNG[10:20])
        assert got.headers["Content-Range"] == f"bytes 10-19/{size}"
        got = await client.get(path, headers={"Range": "bytes=-5", "If-Range": tag})
        assert (got.status_code, got.content) == (206, PNG[-5:])
        got = await client.get(path, headers={"Range": "bytes=1-", "If-Range": '"other"'})
        assert (got.status_code, got.content) == (200, PNG)
        got = await client.get(path, headers={"Range": f"bytes={size}-"})
        assert (got.status_code, got.headers["Content-Range"]) == (416, f"bytes */{size}")
        got = await client.get(path, headers={"Range": f"bytes={2**63}-"})
        assert got.status_code == 200
        got = await client.get(path, headers={"If-None-Match": tag})
        assert (got.status_code, got.content) == (304, b"")
        assert "immutable" in got.headers["Cache-Control"]
        got = await client.head(path)
        assert (got.status_code, got.content) == (200, b"")
        assert got.headers["Content-Length"] == str(size)
        assert (await client.get(path.removesuffix("/x"))).content == PNG


async def test_a_file_that_is_deleted(tmp_path: Path) -> None:
    """It is not found, and neither is what never was there or is no file."""
    path = put(tmp_path, PNG)
    store = FileStore(tmp_path)
    (tmp_path / "files" / ("0" * 64)).mkdir()
    (tmp_path / "files" / ("1" * 64)).symlink_to("/etc/passwd")
    async with pages(store) as client:
        assert await store.delete(sha256(PNG))
        assert (await client.get(path)).status_code == 404
        assert (await client.get(f"/files/{'0' * 64}/x")).status_code in (404, 500)
        assert (await client.get(f"/files/{'1' * 64}/x")).status_code in (404, 500)
        assert (await client.get(f"/files/{'2' * 64}/x")).status_code == 404


async def test_a_name_in_an_address_is_only_shown(tmp_path: Path) -> None:
    """It is one segment, decoded, made safe, and cannot leave its header."""
    path = put(tmp_path, b"x").removesuffix("/x")
    async with pages(FileStore(tmp_path)) as client:
        got = await client.get(path + "/..%2F..%2Fa%0d%0ab%22%e2%82%ac.txt")
    shown = got.headers["Content-Disposition"]
    assert shown == "attachment; filename=\"ab__.txt\"; filename*=UTF-8''ab%22%E2%82%AC.txt"


# The client's parts


def test_addresses_say_their_hash() -> None:
    """Wherever they are, and nothing else does."""
    assert sha256_in(f"/files/{'a' * 64}/x.png") == "a" * 64
    assert sha256_in(f"https://x.example/f/{'0' * 64}?x") == "0" * 64
    assert sha256_in(f"/files/x?{'a' * 64}") is None
    assert sha256_in("/files/" + "a" * 65) is None


def test_types_are_guessed_by_names() -> None:
    """But for images, which the service sees by itself."""
    assert guessed_type("x.pdf") == "application/pdf"
    assert guessed_type("x.png") == guessed_type("x") == ""


def test_the_pace_of_pieces() -> None:
    """Larger while they are quick, smaller while they are slow or lost, within bounds."""
    pace = Pace(200_000)
    assert pace.piece_bytes == 65_536
    for seconds, size in [(0.1, 131_072), (0.1, 200_000), (1.0, 200_000), (3.0, 100_000)]:
        pace.took(seconds)
        assert pace.piece_bytes == size
    for _ in range(10):
        pace.failed()
    assert pace.piece_bytes == 16 << 10
    small = Pace(5)
    small.failed()
    assert small.piece_bytes == 5


@given(
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=40),
    st.booleans(),
)
def test_pieces_of_a_source(
    content: bytes, steps: list[tuple[int, float]], from_memory: bool
) -> None:
    """However much of each piece arrives, what is sent next is what follows, and all is hashed."""

    async def some() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        for start in range(0, len(content), 7):
            await trio.lowlevel.checkpoint()
            yield content[start : start + 7]

    async def story() -> None:
        source = await open_source(content if from_memory else some(), None)
        pieces, has = Pieces(source), b""
        rounds = iter([*steps, *[(50, 1.0)] * (len(content) + 1)])
        while len(has) != pieces.size:
            count, share = next(rounds)
            piece = await pieces.next(count)
            assert len(piece) <= count
            has += piece[: round(len(piece) * share)]
            assert await pieces.go_to(len(has))
            if from_memory and count == 1:
                has = b""
                assert await pieces.go_to(0)
        assert has == content
        assert pieces.sha256 == sha256(content)
        await source.aclose()

    run(story, seed=1)


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3000)])
async def test_a_source_of_known_size(content: bytes) -> None:
    """An iterable that has more, or less, than was said is found out."""

    async def some() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        await trio.lowlevel.checkpoint()
        yield content

    for size, good in [(len(content), True), (len(content) + 1, False), (len(content) - 1, False)]:
        if size >= 0:
            source = await open_source(some(), size)
            pieces = Pieces(source)
            if good:
                assert await pieces.next(5000) == content
            else:
                with pytest.raises(PayloadError, match="source"):
                    await pieces.next(5000)
            await source.aclose()


async def test_a_source_that_has_more_behind_its_end() -> None:
    """It is found out with the last piece, before that is sent."""

    async def some() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        for piece in (b"abc", b"def", b"g"):
            await trio.lowlevel.checkpoint()
            yield piece

    source = await open_source(some(), 6)
    pieces = Pieces(source)
    assert await pieces.next(3) == b"abc"
    await pieces.go_to(3)
    with pytest.raises(PayloadError, match="must have 6 bytes"):
        await pieces.next(3)
    await source.aclose()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("source", {"source": 7}),
        ("size", {"size": 7}),
        ("size", {"size": -1}),
        ("name", {"name": "\ud800"}),
        ("name", {"name": 7}),
        ("type", {"type": 7}),
        ("token", {"token": "a\r\nb"}),
        ("token", {"token": ""}),
        ("endpoint", {"endpoint": 7}),
        ("reconnect", {"reconnect": 7}),
        ("piece_bytes", {"piece_bytes": 0}),
    ],
)
async def test_options_that_cannot_be(field: str, options: dict[str, Any]) -> None:
    """Each is named; a token is not shown."""
    source = options.pop("source", b"abc")
    with pytest.raises(OptionError) as refused:
        async with open_upload("http://127.0.0.1:9", source, **options):
            pass
    assert refused.value.field == field
    assert "a\r\nb" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "path", "options"),
    [
        ("sha256", "/files/x", {}),
        ("sha256", "/files/x", {"sha256": "x"}),
        ("path", 7, {}),
        ("size", "/" + "a" * 64, {"size": -1}),
        ("reconnect", "/" + "a" * 64, {"reconnect": 7}),
    ],
)
async def test_downloads_that_cannot_be(field: str, path: Any, options: dict[str, Any]) -> None:
    """Each is named."""
    with pytest.raises(OptionError) as refused:
        async with download("http://127.0.0.1:9", path, **options):
            pass
    assert refused.value.field == field


# There and back


@asynccontextmanager
async def chat_server(store: FileStore, **limits: Any) -> AsyncIterator[str]:
    async with serving(store, **limits) as server:
        yield server.url.replace("ws", "http", 1)


async def there_and_back(url: str, source: Any, content: bytes, **options: Any) -> StoredFile:
    async with open_upload(url, source, token="ann", **options) as upload:
        stored = await upload.file()
        assert await upload.file() == stored
        assert upload.progress == Progress(len(content), len(content))
    assert (stored.sha256, stored.size) == (sha256(content), len(content))
    async with download(url, stored.path, size=len(content)) as file:
        assert await file.read() == content
        assert (file.size, file.received) == (len(content), len(content))
    return stored


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_bytes_paths_and_iterables(tmp_path: Path, size: int) -> None:
    """Of any size, known or not: what comes back is what went."""
    content = os.urandom(size)
    (tmp_path / "a b.txt").write_bytes(content)

    async def some() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        for start in range(0, size, 10_000):
            await trio.lowlevel.checkpoint()
            yield content[start : start + 10_000]

    store = FileStore(tmp_path / "store")
    async with chat_server(store, body_bytes=1 << 20) as url:
        assert (await there_and_back(url, content, content)).name == "file"
        stored = await there_and_back(url, tmp_path / "a b.txt", content)
        assert (stored.name, stored.type) == ("a b.txt", "text/plain")
        stored = await there_and_back(url, some(), content, name="../y", type="audio/ogg")
        assert (stored.name, stored.type) == ("y", "audio/ogg")
        await there_and_back(url, some(), content, size=size)
        async with open_client(url) as client:
            await there_and_back(client, content, content, piece_bytes=100_000)  # type: ignore[arg-type]
    assert store.statistics().files == 1
    assert store.statistics().unfinished == 0


async def test_what_is_said_of_a_file(tmp_path: Path) -> None:
    """An image by its content, in a message that the chat takes."""
    async with chat_server(FileStore(tmp_path)) as url:
        stored = await there_and_back(url, PNG, PNG, name="\u20ac.jpg")
        other = await there_and_back(url, b"<svg>", b"<svg>", name="x.svg")
    said = stored.to_say()
    assert said["kind"] == "image"
    assert said["content"] == f"/files/{sha256(PNG)}/%E2%82%AC.jpg"
    facts = {"name": "\u20ac.jpg", "size": len(PNG), "type": "image/png", "sha256": sha256(PNG)}
    assert said["metadata"] == facts
    check_content(said["content"])
    check_metadata(said["metadata"])
    assert other.to_say()["kind"] == "file"


def test_progress(tmp_path: Path) -> None:
    """It only grows, ends at the end, and a slow watcher gets the newest: the upload waits not."""
    content = os.urandom(1_000_000)
    seen: list[Progress] = []

    async def story() -> None:
        async with virtual_world(InlineStore(tmp_path)) as (_, client):
            async with open_upload(client, content, token="ann", piece_bytes=10_000) as upload:
                async for progress in upload:
                    seen.append(progress)
                    await trio.sleep(0.9)
                took = trio.current_time()
                await upload.file()
            assert trio.current_time() == took

    run(story, seed=1)
    assert 3 < len(seen) < 20
    assert [each.sent for each in seen] == sorted({each.sent for each in seen})
    assert seen[-1] == Progress(len(content), len(content))


@pytest.mark.parametrize(
    ("status", "options"),
    [
        (401, {"token": None}),
        (413, {"source": bytes(2000)}),
        (415, {"type": "image/gif"}),
        (415, {"type": "text/html"}),
        (400, {"type": "nothing"}),
        (404, {"endpoint": "/elsewhere"}),
        (405, {"endpoint": f"/files/{'0' * 64}"}),
    ],
)
async def test_uploads_that_are_refused(
    tmp_path: Path, status: int, options: dict[str, Any]
) -> None:
    """At once, with the status and the words of the service; and nothing is left there."""
    store = FileStore(tmp_path, file_bytes=1000, types=("image/*",))
    given: dict[str, Any] = {"token": "ann", "source": PNG[:900], **options}
    async with chat_server(store) as url, open_upload(url, **given) as upload:
        with pytest.raises(FileRefused) as refused:
            await upload.file()
        seen = [progress async for progress in upload]
    assert refused.value.status == status
    assert str(refused.value).startswith(f"{status}")
    assert len(seen) == 1
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_a_download_that_is_refused(tmp_path: Path) -> None:
    """There is no such file."""
    path = f"/files/{'0' * 64}/x"
    async with chat_server(FileStore(tmp_path)) as url, download(url, path) as file:
        with pytest.raises(FileRefused) as refused:
            await file.read()
    assert refused.value.status == 404


# Links that break


@pytest.mark.parametrize("towards", ["server", "client"])
def test_an_upload_over_links_that_are_cut(tmp_path: Path, towards: Any) -> None:
    """Wherever each link is cut, the file arrives whole and once, and soon."""
    content = os.urandom(40_000)
    step = 997 if towards == "server" else 41

    async def story() -> None:
        store = InlineStore(tmp_path, unfinished_per_user=10_000, unfinished=10_000)
        async with virtual_world(store) as (network, client):
            for count in range(0, 44_000 if towards == "server" else 1300, step):
                began = trio.current_time()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cut_links, network, count)
                    options: Any = {"token": "ann", "reconnect": QUICK, "piece_bytes": 9000}
                    async with open_upload(client, content, **options) as upload:
                        stored = await upload.file()
                    nursery.cancel_scope.cancel()
                assert stored.sha256 == sha256(content)
                assert trio.current_time() - began < 30

    async def cut_links(network: VirtualNetwork, count: int) -> None:
        """Three links in a row, and the ones that are there."""
        for link in network.connections:
            link.cut_after(count, towards=towards)
        for number in range(3):
            link = await network.wait_connection()
            link.cut_after(count + number * 5000, towards=towards)

    run(story, seed=1)
    assert list(stored_files(tmp_path).values()) == [content]


def test_a_link_that_is_dead_silent(tmp_path: Path) -> None:
    """What hangs on a link that nobody hears is given up, and goes on over another."""
    content = os.urandom(300_000)

    async def story() -> None:
        async with virtual_world(InlineStore(tmp_path)) as (network, client):
            async with open_upload(client, content, token="ann", reconnect=QUICK) as upload:
                async for progress in upload:
                    if progress.sent:
                        break
                network.stall()
                stored = await upload.file()
            assert stored.sha256 == sha256(content)
            assert trio.current_time() < 100

    run(story, seed=1)


def test_a_download_on_a_link_that_is_dead_silent(tmp_path: Path) -> None:
    """Stalled before or in the midst of it: it goes on over another link, half a minute later."""
    content = os.urandom(300_000)
    path = put(tmp_path, content)

    async def story() -> None:
        async with virtual_world(InlineStore(tmp_path), latency_s=0.1) as (network, client):
            for wait_s in (0.15, 0.25, 0.35, 0.45):
                began = trio.current_time()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stall_after, network, wait_s)
                    async with download(client, path, reconnect=QUICK) as file:
                        assert await file.read() == content
                assert 30 < trio.current_time() - began < 40
                network.cut()
                await trio.sleep(1)

    async def stall_after(network: VirtualNetwork, seconds: float) -> None:
        await trio.sleep(seconds)
        network.stall()
        await network.wait_connection()

    run(story, seed=1)


def test_a_service_that_forgets(tmp_path: Path) -> None:
    """What can be read again begins anew; what cannot is refused with the service's word."""
    content = os.urandom(300_000)

    async def some() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        for start in range(0, len(content), 1000):
            await trio.lowlevel.checkpoint()
            yield content[start : start + 1000]

    async def upload_and_forget(store: FileStore, client: Any, source: Any) -> StoredFile:
        options: Any = {"token": "ann", "reconnect": QUICK, "piece_bytes": 10_000}
        async with open_upload(client, source, **options) as upload:
            async for progress in upload:
                if progress.sent > 50_000:
                    break
            for each in list(store._uploads._open.values()):
                await store.terminate(each)
            return await upload.file()

    async def story() -> None:
        store = InlineStore(tmp_path)
        async with virtual_world(store) as (_, client):
            stored = await upload_and_forget(store, client, content)
            assert stored.sha256 == sha256(content)
            with pytest.raises(FileRefused) as refused:
                await upload_and_forget(store, client, some())
            assert refused.value.status == 410

    run(story, seed=1)


def test_no_link_for_too_long(tmp_path: Path) -> None:
    """The bound of tries, or of time, ends it; the cause is told."""

    async def story() -> None:
        async with virtual_world(InlineStore(tmp_path)) as (network, client):
            network.refuse("server")
            few = Reconnect(max_attempts=4)
            async with open_upload(client, PNG, token="ann", reconnect=few) as upload:
                with pytest.raises(AttemptsExhausted, match="tried 4 times") as given_up:
                    await upload.file()
            assert isinstance(given_up.value.__cause__, httpx.ConnectError)
            began = trio.current_time()
            short = Reconnect(give_up_after_s=60.0)
            async with download(client, f"/{'0' * 64}", reconnect=short) as file:
                with pytest.raises(AttemptsExhausted):
                    await file.read()
            assert trio.current_time() - began <= 61

    run(story, seed=1)


async def test_a_download_goes_on_where_it_was(tmp_path: Path) -> None:
    """Over links that are cut in its midst, by ranges: each byte once."""
    content = os.urandom(3_000_000)
    path = put(tmp_path, content)
    async with serving(FileStore(tmp_path)) as server, trio.open_nursery() as nursery:
        relay: Relay = await nursery.start(serve_relay, "127.0.0.1", server.port)
        url = f"http://127.0.0.1:{relay.port}"
        for count in (0, 10, 100_000, 1_000_000):
            async with download(url, path, reconnect=QUICK) as file:
                got = await anext(file)
                relay.cut_after(count, towards="client")
                async for piece in file:
                    got += piece
                assert got == content
        assert relay.statistics().links_opened == 8
        nursery.cancel_scope.cancel()


# A service that is not what it should be


@asynccontextmanager
async def false_service(
    answer: Callable[[HttpRequest], Awaitable[HttpResponse]],
) -> AsyncIterator[str]:
    async def nobody(peer: RawPeer) -> None:
        await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            start = partial(trio_rt.serve, nobody, "127.0.0.1", 0, codec="raw", http=answer)
            server: trio_rt.Server = await nursery.start(start)
            yield server.url.replace("ws", "http", 1)
            nursery.cancel_scope.cancel()


THERE = {"Location": "/up", "Upload-Offset": "3"}


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Content-Location": f"/files/{'0' * 64}/x"}, FileCorrupted),
        ({"Content-Location": "/files/x"}, FileCorrupted),
        ({"Upload-Offset": "4"}, FileCorrupted),
        ({"Upload-Offset": "-1"}, FileRefused),
        ({"Upload-Offset": "9" * 400}, FileRefused),
        ({"Location": "http://evil.example/up"}, FileRefused),
        ({"Location": "//evil.example/up"}, FileRefused),
        ({"Location": "https://127.0.0.1/up"}, FileRefused),
    ],
)
async def test_false_words_about_an_upload(headers: dict[str, str], error: type[Exception]) -> None:
    """Another content, more than was sent, or another server: it is an error, and no token goes."""
    asked = []

    async def answer(request: HttpRequest) -> HttpResponse:
        asked.append(request.method)
        await request.read()
        return HttpResponse(201, {**THERE, **headers})

    async with false_service(answer) as url, open_upload(url, b"abc", token="secret") as upload:
        with pytest.raises(error):
            await upload.file()
    assert asked == ["POST"]


def test_a_service_that_is_busy() -> None:
    """Its advice is heeded: it is not asked again before."""
    asked: list[float] = []

    async def answer(request: HttpRequest) -> HttpResponse:
        asked.append(trio.current_time())
        await request.read()
        if len(asked) < 3:
            return HttpResponse(503, {"Retry-After": " 20"}, b"later")
        place = {"Content-Location": f"/f/{sha256(b'abc')}", "Upload-Metadata": "filename !,x"}
        return HttpResponse(201, {**THERE, **place})

    async def nobody(peer: RawPeer) -> None:
        await trio.lowlevel.checkpoint()

    async def story() -> None:
        network = VirtualNetwork(1)
        async with trio.open_nursery() as nursery:
            start = partial(
                trio_rt.serve_listeners, nobody, [network.listen("server", 80)], codec="raw"
            )
            await nursery.start(partial(start, http=answer))
            pool = virtual_pool(network)
            async with (
                open_client(pool=pool, cache=False, retry=False) as client,
                open_upload(client, b"abc", name="x", endpoint="http://server/up") as upload,
            ):
                stored = await upload.file()
            nursery.cancel_scope.cancel()
        assert (stored.path, stored.name) == (f"/f/{sha256(b'abc')}", "x")
        assert all(20 <= later - sooner < 60 for sooner, later in pairwise(asked))

    run(story, seed=1)


async def test_an_endpoint_that_is_a_whole_url(tmp_path: Path) -> None:
    """The upload goes on at the server that it was begun at."""
    content = os.urandom(200_000)
    async with chat_server(FileStore(tmp_path)) as url, open_client() as client:
        options: Any = {"token": "ann", "endpoint": f"{url}/files"}
        async with open_upload(client, content, **options) as upload:
            stored = await upload.file()
        async with download(client, url + stored.path) as file:
            assert await file.read() == content


async def test_pieces_that_are_too_large_for_the_link(tmp_path: Path) -> None:
    """They become smaller until they get through."""
    content, got, failed = os.urandom(200_000), bytearray(), []

    async def answer(request: HttpRequest) -> HttpResponse:
        piece = await request.read()
        if len(piece) > 20_000:
            failed.append(len(piece))
            return HttpResponse(503)
        if request.method != "HEAD":
            got.extend(piece)
        place = {"Location": "/up", "Upload-Offset": str(len(got))}
        if len(got) == len(content):
            place["Content-Location"] = f"/{sha256(bytes(got))}"
        return HttpResponse({"POST": 201, "HEAD": 200}.get(request.method, 204), place)

    async with (
        false_service(answer) as url,
        open_upload(url, content, reconnect=QUICK) as upload,
    ):
        assert (await upload.file()).sha256 == sha256(content)
    assert failed[:2] == [65_536, 32_768]


async def test_a_service_that_takes_nothing() -> None:
    """It is tried again, and not for ever."""
    asked = []

    async def answer(request: HttpRequest) -> HttpResponse:
        asked.append(request.method)
        await request.read()
        status = {"POST": 201, "HEAD": 200}.get(request.method, 204)
        return HttpResponse(status, {**THERE, "Upload-Offset": "0"})

    few = Reconnect(first_s=0.01, cap_s=0.01, max_attempts=3)
    async with false_service(answer) as url, open_upload(url, b"abc", reconnect=few) as upload:
        with pytest.raises(FileRefused, match="nothing of a piece"):
            await upload.file()
    assert asked == ["POST", "PATCH", "HEAD", "PATCH", "HEAD", "PATCH"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"abd"),
        ({}, b"ab"),
        ({}, b"abcd"),
        ({"Content-Length": "3"}, b"abd"),
    ],
)
@pytest.mark.parametrize("size", [None, 3])
async def test_false_content(headers: dict[str, str], body: bytes, size: int | None) -> None:
    """It is not what the address says: found out behind the last byte, or before."""

    async def answer(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        return HttpResponse(200, headers, body)

    path = f"/files/{sha256(b'abc')}/x"
    async with false_service(answer) as url, download(url, path, size=size) as file:
        with pytest.raises(FileCorrupted):
            await file.read()


async def test_a_file_that_ends_early() -> None:
    """It is asked for again, from there; and not for ever."""

    async def some() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        await trio.lowlevel.checkpoint()
        yield b"a"

    asked = []

    async def answer(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        asked.append(request.headers.get("Range"))
        return HttpResponse(200, {}, some())

    path, few = f"/files/{sha256(b'abc')}/x", Reconnect(first_s=0.01, cap_s=0.01, max_attempts=3)
    async with (
        false_service(answer) as url,
        download(url, path, size=3, reconnect=few) as file,
    ):
        with pytest.raises(AttemptsExhausted, match="ends after 1 bytes"):
            await file.read()
    assert asked == [None, "bytes=1-", "bytes=1-"]


async def test_an_endless_file() -> None:
    """No more is taken than the file has, if that is known."""

    async def endless() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        while True:
            await trio.lowlevel.checkpoint()
            yield bytes(1000)

    async def answer(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        return HttpResponse(200, {}, endless())

    path = f"/files/{'0' * 64}/x"
    async with false_service(answer) as url, download(url, path, size=5000) as file:
        with pytest.raises(FileCorrupted):
            await file.read()
        assert file.received <= 5000 + 65_536


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("bytes 0-2/3", FileRefused),
        ("bytes 2-2/4", FileCorrupted),
        ("3", FileRefused),
        ("", FileRefused),
    ],
)
async def test_a_range_that_is_another(part: str, error: type[Exception]) -> None:
    """Bytes from elsewhere in the file, or of another file, are not taken."""
    asked = []

    async def answer(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        asked.append(request.headers.get("Range"))
        if len(asked) == 1:
            return HttpResponse(200, {"Content-Length": "3"}, some())
        return HttpResponse(206, {"Content-Range": part}, b"x")

    async def some() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        await trio.lowlevel.checkpoint()
        yield b"ab"
        raise ConnectionError

    path = f"/files/{sha256(b'abc')}/x"
    async with false_service(answer) as url, download(url, path, reconnect=QUICK) as file:
        with pytest.raises(error):
            await file.read()
    assert asked == [None, "bytes=2-"]


async def test_ranges_that_a_server_has_not() -> None:
    """It sends all again: what is here already is left out."""
    asked = []

    async def answer(request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        asked.append(request.headers.get("Range"))
        assert request.headers["Accept-Encoding"] == "identity"
        return HttpResponse(200, {"Content-Length": "6"}, some(len(asked) == 1))

    async def some(fails: bool) -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        for piece in (b"ab", b"cd"):
            await trio.lowlevel.checkpoint()
            yield piece
        if fails:
            raise ConnectionError
        yield b"ef"  # noqa: ASYNC911

    async with false_service(answer) as url:
        path = f"/files/{sha256(b'abcdef')}/x"
        async with download(url, path, reconnect=QUICK) as file:
            assert await file.read() == b"abcdef"
    assert asked == [None, "bytes=4-"]


# Leaving early


def test_leaving_early(tmp_path: Path) -> None:
    """The transfer ends, and what the service has stays there until it expires."""

    async def story() -> None:
        store = InlineStore(tmp_path)
        async with virtual_world(store) as (_, client):
            async with open_upload(client, bytes(900_000), token="ann") as upload:
                async for progress in upload:
                    if progress.sent:
                        break
            await trio.sleep(5)
            assert store.statistics().unfinished == 1
            for seconds in range(0, 40, 3):
                with trio.move_on_after(seconds / 100):
                    async with open_upload(client, os.urandom(50_000), token="bob") as upload:
                        await upload.file()
            await trio.sleep(5)
            assert not any(each.busy for each in store._uploads._open.values())

    run(story, seed=1)


def test_errors_of_the_block_are_in_no_group(tmp_path: Path) -> None:
    """They leave as they are; so does what the source raises, by `file()`."""

    async def bad() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        await trio.lowlevel.checkpoint()
        yield bytes(100)
        raise ZeroDivisionError

    async def odd() -> AsyncIterator[Any]:  # noqa: ASYNC900, ASYNC911
        await trio.lowlevel.checkpoint()
        yield "text"

    async def story() -> None:
        async with virtual_world(InlineStore(tmp_path)) as (_, client):
            with pytest.raises(KeyError):
                async with open_upload(client, PNG, token="ann"):
                    raise KeyError
            with pytest.raises(ZeroDivisionError):
                async with open_upload(client, bad(), token="ann") as upload:
                    await upload.file()
            with pytest.raises(PayloadError):
                async with open_upload(client, odd(), token="ann") as upload:
                    await upload.file()

    run(story, seed=1)


async def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    """It is the system's error, before anything is sent."""
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(OSError, match=str(path)):
            async with open_upload("http://127.0.0.1:9", path):
                pass


def test_a_cancellation_from_around_is_one(tmp_path: Path) -> None:
    """It is caught by its own scope, and does not hide what the block raises."""

    async def story() -> None:
        async with virtual_world(InlineStore(tmp_path)) as (_, client):
            with trio.CancelScope() as scope:
                async with open_upload(client, bytes(900_000), token="ann") as upload:
                    scope.cancel()
                    await upload.file()
            assert scope.cancelled_caught
            with trio.CancelScope() as scope:
                async with open_upload(client, bytes(900_000), token="ann"):
                    scope.cancel()
            assert scope.cancelled_caught
            with trio.CancelScope() as scope, pytest.raises(KeyError):
                async with open_upload(client, bytes(900_000), token="ann"):
                    raise await cancelled(scope)

    async def cancelled(scope: trio.CancelScope) -> Exception:
        await trio.lowlevel.checkpoint()
        scope.cancel()
        return KeyError()

    run(story, seed=1)


async def test_a_cancellation_hides_nothing(tmp_path: Path) -> None:
    """Neither does one that is met on the way out, where the client is closed, too."""
    async with chat_server(FileStore(tmp_path)) as url:
        for _ in range(3):
            with trio.CancelScope() as scope, pytest.raises(KeyError):
                await begin_and_fail(url, scope)


async def begin_and_fail(url: str, scope: trio.CancelScope) -> None:
    async with open_upload(url, bytes(900_000), token="ann") as upload:
        await anext(aiter(upload))
        scope.cancel()
        raise KeyError


def test_what_is_a_cancellation() -> None:
    """Nothing beside it."""
    assert not _is_cancellation(KeyError())
    assert not _is_cancellation(ExceptionGroup("", [KeyError()]))


def test_cancelled_downloads(tmp_path: Path) -> None:
    """Whenever one is left, the next finds a client that works."""
    content = os.urandom(200_000)
    path = put(tmp_path, content)

    async def story() -> None:
        async with virtual_world(InlineStore(tmp_path)) as (_, client):
            for number in range(1, 30):
                with trio.move_on_after(number / 100):
                    async with download(client, path, reconnect=QUICK) as file:
                        async for _ in file:
                            pass
            async with download(client, path, reconnect=QUICK) as file:
                async for _ in file:
                    break

    run(story, seed=1)


async def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """A path that has fewer bytes than at the beginning is no upload; more are left out."""
    (tmp_path / "x").write_bytes(bytes(200_000))
    source = await open_source(tmp_path / "x", None)
    pieces = Pieces(source)
    assert len(await pieces.next(100_000)) == 100_000
    await pieces.go_to(100_000)
    (tmp_path / "x").write_bytes(bytes(200_000) + b"more")
    assert len(await pieces.next(200_000)) == 100_000
    await pieces.go_to(100_000)
    assert await source.seek(0)
    os.truncate(tmp_path / "x", 50_000)
    again = Pieces(source)
    with pytest.raises(PayloadError, match="must have 200000 bytes"):
        await again.next(100_000)
    await source.aclose()

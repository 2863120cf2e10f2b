"""Routes, static files, and whose pages may open a WebSocket."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

import trio_rt
from tests.net.support import requires, tool
from trio_rt import Handshake, OptionError, RawPeer, Refuse
from trio_rt._handshake import RequestHeaders
from trio_rt._http_serve import HttpRequest, HttpResponse
from trio_rt.hub._server.files import PIECE_BYTES, Directory, Pieces
from trio_rt.hub._server.site import CONTENT_SECURITY_POLICY, Site, allow_origins

BIG = bytes(range(256)) * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site's directory, and beside it what is none of it."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "index.html").write_text("secret")
    root = tmp_path / "www"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "bare").mkdir()
    (root / "index.html").write_text("<p>home")
    (root / "sub" / "index.html").write_text("<p>sub")
    (root / "a b%.txt").write_text("odd")
    (root / "app.JS").write_text("1")
    (root / "data.exe").write_text("MZ")
    (root / "no_suffix").write_text("<script>")
    (root / "empty.css").write_text("")
    (root / "big.png").write_bytes(BIG)
    (root / "\xe9.txt").write_text("e")
    (root / ".hidden").write_text("secret")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("secret")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "up").symlink_to(tmp_path)
    (root / "outside").symlink_to("../outside")
    (root / "alias.txt").symlink_to(".hidden")
    (root / "loop").symlink_to("loop")
    (root / "zero").symlink_to("/dev/zero")
    (root / "inner.txt").symlink_to("a b%.txt")
    os.mkfifo(root / "fifo.txt")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "sock.txt"))
    return root


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(site: Site, path: str, method: str = "GET", **headers: str) -> Answer:
    """The site's answer, its body read to the end."""
    items = [(name.replace("_", "-"), value) for name, value in headers.items()]
    path, _, query = path.partition("?")
    request = HttpRequest(method=method, path=path, query=query, headers=RequestHeaders(items))
    response = await site(request)
    body = response.body
    if not isinstance(body, bytes):
        body = b"".join([piece async for piece in body])
    return Answer(response.status, response.headers, body)


@asynccontextmanager
async def serving(site: Site, **options: Any) -> AsyncIterator[str]:
    """The site on a real port: where it is."""

    async def handler(peer: RawPeer) -> None:
        await trio.lowlevel.checkpoint()

    start = partial(trio_rt.serve, handler, "127.0.0.1", 0, codec="raw", http=site, **options)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            server: trio_rt.Server = await nursery.start(start)
            yield server.url.replace("ws", "http", 1)
            nursery.cancel_scope.cancel()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Files


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/", b"<p>home", "text/html; charset=utf-8"),
        ("/index.html", b"<p>home", "text/html; charset=utf-8"),
        ("/sub/", b"<p>sub", "text/html; charset=utf-8"),
        ("/a%20b%25.txt", b"odd", "text/plain; charset=utf-8"),
        ("/inner.txt?x=..", b"odd", "text/plain; charset=utf-8"),
        ("/app.JS", b"1", "text/javascript; charset=utf-8"),
        ("/%69ndex.html", b"<p>home", "text/html; charset=utf-8"),
        ("/%C3%A9.txt", b"e", "text/plain; charset=utf-8"),
        ("/empty.css", b"", "text/css; charset=utf-8"),
        ("/big.png", BIG, "image/png"),
    ],
)
async def test_files(folder: Path, path: str, body: bytes, kind: str) -> None:
    """Files have their content, length, and the type of their suffix."""
    got = await ask(Site(files=folder), path)
    assert (got.status, got.body) == (200, body)
    assert got.headers["Content-Type"] == kind
    assert got.headers["Content-Length"] == str(len(body))
    assert "Content-Disposition" not in got.headers


@pytest.mark.parametrize("path", ["/data.exe", "/no_suffix"])
async def test_unknown_types_are_downloads(folder: Path, path: str) -> None:
    """What is not in the table is never shown, whatever its content looks like."""
    got = await ask(Site(files=folder), path)
    assert got.status == 200
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["Content-Disposition"] == "attachment"


HIDDEN = [
    "/absent",
    "/absent/",
    "/../secret.txt",
    "/sub/../../secret.txt",
    "/sub/../index.html",
    "/./index.html",
    "/%2e%2e/secret.txt",
    "/%2E%2e/secret.txt",
    "/.%2e/secret.txt",
    "/%252e%252e/secret.txt",
    "/..%2fsecret.txt",
    "/sub%2findex.html",
    "/%2fetc/passwd",
    "//etc/passwd",
    "//sub/",
    "/sub//index.html",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/sub\\index.html",
    "/index.html%00",
    "/index.html%00.png",
    "/%00",
    "/index.html%0a",
    "/index.html/",
    "/index.html/index.html",
    "/%",
    "/%zz",
    "/index.html%2",
    "/%ff.txt",
    "/%c0%ae%c0%ae/secret.txt",
    "/%ed%a0%80",
    "/.hidden",
    "/%2ehidden",
    "/.git/config",
    "/.git/",
    "/.git",
    "/out.txt",
    "/up/secret.txt",
    "/up",
    "/up/",
    "/outside/",
    "/outside",
    "/alias.txt",
    "/loop",
    "/loop/",
    "/zero",
    "/fifo.txt",
    "/sock.txt",
    "/bare/",
    "/bare",
    "/sub/deep",
    "/" + "x" * 300,
    "/" + "x/" * 3000,
    "/index.html;x",
    "/INDEX.html",
]


@pytest.mark.parametrize("path", HIDDEN)
async def test_whatever_is_no_file_is_the_same_404(folder: Path, path: str) -> None:
    """Ways out of the directory, hidden files, devices and pipes are as an absent file."""
    site = Site(files=folder)
    absent = await ask(site, "/absent")
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        got = await ask(site, path, method)
        assert got == absent
    assert (absent.status, absent.body) == (404, b"not found")


async def test_hidden_paths_over_a_socket(folder: Path) -> None:
    """The same through a whole server: no answer has a secret in it, and each is whole."""

    def talk(port: int) -> list[tuple[str, int, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        found = []
        for path in HIDDEN:
            connection.putrequest("GET", path)
            connection.endheaders()
            response = connection.getresponse()
            found.append((path, response.status, response.read()))
        connection.close()
        return found

    before = descriptors()
    async with serving(Site(files=folder)) as url:
        for _, status, body in await trio.to_thread.run_sync(talk, int(url.rpartition(":")[2])):
            assert (status, body) == (404, b"not found")
    assert descriptors() <= before


async def test_folders(folder: Path) -> None:
    """Without its slash a folder with an index is redirected, the query kept; by HEAD as well."""
    site = Site(files=folder)
    for method in ("GET", "HEAD"):
        got = await ask(site, "/s%75b?a=b&c", method)
        assert (got.status, got.headers["Location"]) == (301, "/s%75b/?a=b&c")
    assert (await ask(site, "/sub")).headers["Location"] == "/sub/"


async def test_other_methods(folder: Path) -> None:
    """Files are read only: 405 with `Allow`."""
    for path in ("/index.html", "/", "/sub", "/big.png"):
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "get"):
            got = await ask(Site(files=folder), path, method)
            assert (got.status, got.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("name", ["index.html", "big.png"])
async def test_conditions(folder: Path, name: str) -> None:
    """What the client has already is 304; a changed file is sent."""
    site = Site(files=folder)
    first = await ask(site, f"/{name}")
    tag, modified = first.headers["ETag"], first.headers["Last-Modified"]
    assert tag.startswith('"')
    for headers, status in (
        ({"If_None_Match": tag}, 304),
        ({"If_None_Match": f"W/{tag}"}, 304),
        ({"If_None_Match": f'"x", {tag}'}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"x"'}, 200),
        ({"If_None_Match": ""}, 200),
        ({"If_None_Match": tag.strip('"')}, 200),
        ({"If_Modified_Since": modified}, 304),
        ({"If_Modified_Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304),
        ({"If_Modified_Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 200),
        ({"If_Modified_Since": "yesterday"}, 200),
        ({"If_Modified_Since": "Mon, 01 Jan 99999 00:00:00 GMT"}, 200),
        ({"If_None_Match": '"x"', "If_Modified_Since": modified}, 200),
        ({"If_None_Match": tag, "Range": "bytes=0-1"}, 304),
    ):
        for method in ("GET", "HEAD"):
            got = await ask(site, f"/{name}", method, **headers)
            assert got.status == status
            assert got.headers["ETag"] == tag
            assert (got.body == b"") == (status == 304)
            assert ("Content-Length" in got.headers) == (status == 200)
    os.utime(folder / name, ns=(1, 2_000_000_000))
    changed = await ask(site, f"/{name}", If_None_Match=tag)
    assert changed.status == 200
    assert changed.headers["ETag"] != tag
    assert changed.headers["Last-Modified"] == "Thu, 01 Jan 1970 00:00:02 GMT"


@pytest.mark.parametrize("name", ["small.txt", "big.png"])
@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-5", 2, 6),
        ("Bytes=3-", 3, None),
        ("bytes=-4", -4, None),
        ("bytes=0-999999999", 0, None),
        ("bytes=-999999999", 0, None),
        ("bytes=9-9", 9, 10),
    ],
)
async def test_ranges(folder: Path, name: str, wanted: str, start: int, end: int | None) -> None:
    """One range is sent as 206 with what it is of."""
    (folder / "small.txt").write_text("0123456789")
    data = (folder / name).read_bytes()
    part = data[start:end]
    got = await ask(Site(files=folder), f"/{name}", Range=wanted)
    begin = start % len(data)
    assert (got.status, got.body) == (206, part)
    assert got.headers["Content-Range"] == f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"
    assert got.headers["Content-Length"] == str(len(part))
    head = await ask(Site(files=folder), f"/{name}", "HEAD", Range=wanted)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ("bytes=10-", 416),
        ("bytes=10-12", 416),
        ("bytes=-0", 416),
        ("bytes=999999999999999999-", 416),
        ("bytes=5-2", 200),
        ("bytes=-", 200),
        ("bytes=0-1,3-4", 200),
        ("bytes=a-b", 200),
        ("bytes=0-9" + "9" * 30, 200),
        ("items=0-1", 200),
        ("bytes 0-1", 200),
        ("", 200),
    ],
)
async def test_ranges_that_are_not_there(folder: Path, wanted: str, status: int) -> None:
    """One outside the file is 416; what is no single range is as none."""
    (folder / "small.txt").write_text("0123456789")
    got = await ask(Site(files=folder), "/small.txt", Range=wanted)
    assert got.status == status
    assert got.headers.get("Content-Range") == ("bytes */10" if status == 416 else None)
    empty = await ask(Site(files=folder), "/empty.css", Range="bytes=0-")
    assert empty.status == 416


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("gzip", True),
        ("br, GZIP ; q=0.5, *;q=0", True),
        ("gzip;q=0.001", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("identity, gzip; q=0.00", False),
        ("x-gzip-not", False),
    ],
)
async def test_texts_are_compressed_for_who_takes_it(
    folder: Path, accepted: str, taken: bool
) -> None:
    code = b"let a = 1;\n" * 200
    (folder / "long.js").write_bytes(code)
    answer = await ask(Site(files=folder), "/long.js", Accept_Encoding=accepted)
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers.get("Content-Encoding") == ("gzip" if taken else None)
    assert (gzip.decompress(answer.body) if taken else answer.body) == code
    assert (len(answer.body) < len(code) / 10) is taken


@pytest.mark.parametrize("path", ["/big.png", "/a%20b%25.txt", "/data.exe", "/huge.txt"])
async def test_what_is_not_compressed(folder: Path, path: str) -> None:
    """Images, short texts, unknown types, large files."""
    (folder / "huge.txt").write_bytes(b"x" * (PIECE_BYTES + 1))
    site = Site(files=folder)
    plain, answer = await ask(site, path), await ask(site, path, Accept_Encoding="gzip")
    assert "Content-Encoding" not in answer.headers
    assert answer == plain


async def test_what_is_compressed_is_another_file(folder: Path) -> None:
    """With a tag of its own, by which it is asked for again, and in parts."""
    (folder / "long.css").write_bytes(b"a{}\n" * 500)
    site = Site(files=folder)
    plain = await ask(site, "/long.css")
    squeezed = await ask(site, "/long.css", Accept_Encoding="gzip")
    tag = squeezed.headers["ETag"]
    assert tag != plain.headers["ETag"]
    for accepted, known, status in (("gzip", tag, 304), ("", tag, 200)):
        again = await ask(site, "/long.css", Accept_Encoding=accepted, If_None_Match=known)
        assert (again.status, again.headers["Vary"]) == (status, "Accept-Encoding")
    part = await ask(site, "/long.css", Accept_Encoding="gzip", Range="bytes=5-", If_Range=tag)
    assert (part.status, part.body) == (206, squeezed.body[5:])
    assert part.headers["Content-Encoding"] == "gzip"


async def test_a_range_of_a_changed_file(folder: Path) -> None:
    """`If-Range` with another version's tag or date gives the whole."""
    site = Site(files=folder)
    first = await ask(site, "/big.png")
    for condition, status in (
        (first.headers["ETag"], 206),
        (first.headers["Last-Modified"], 206),
        (f"W/{first.headers['ETag']}", 200),
        ('"x"', 200),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 200),
    ):
        got = await ask(site, "/big.png", Range="bytes=5-6", If_Range=condition)
        assert got.status == status


async def test_a_large_file_is_read_in_pieces(folder: Path) -> None:
    """Nothing is open before the first piece, nor after the last, an end, or a cancellation."""
    found = Directory(folder).find(["big.png"])
    assert found is not None
    before = descriptors()
    pieces = Pieces(found, 10, len(BIG))
    first = await anext(pieces)
    assert first == BIG[10 : 10 + PIECE_BYTES]
    assert descriptors() == before + 1
    await pieces.aclose()
    assert descriptors() == before
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)
    pieces = Pieces(found, 0, len(BIG))
    with trio.CancelScope() as scope:
        async for _ in pieces:
            scope.cancel()
    with trio.CancelScope() as scope:
        scope.cancel()
        await pieces.aclose()
    assert descriptors() == before


async def test_a_file_that_changes_while_it_is_sent(folder: Path) -> None:
    """It is not mixed with what it was: `OSError`, on which the answer is cut."""
    site = Site(files=folder)
    request = HttpRequest(method="GET", path="/big.png")
    response = await site(request)
    assert isinstance(response.body, Pieces)
    (folder / "big.png").write_bytes(BIG[::-1] + b"x")
    with pytest.raises(OSError, match="changed"):
        await anext(response.body)
    response = await site(request)
    assert isinstance(response.body, Pieces)
    await anext(response.body)
    os.truncate(folder / "big.png", PIECE_BYTES)
    with pytest.raises(OSError, match="shorter"):
        await anext(response.body)
    await response.body.aclose()
    await response.body.aclose()


async def test_safety_headers(folder: Path) -> None:
    """All answers have them, but for what the handler has set itself."""

    async def page(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {"content-security-policy": "mine"}, b"page")

    for policy in (CONTENT_SECURITY_POLICY, "default-src 'none'", None):
        site = Site({"/page": page}, folder, policy=policy)
        for path in ("/", "/big.png", "/absent", "/sub"):
            headers = (await ask(site, path)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers.get("Content-Security-Policy") == policy
        headers = (await ask(site, "/page")).headers
        assert headers["content-security-policy"] == "mine"
        assert "Content-Security-Policy" not in headers
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'self'; ")


async def test_resources(folder: Path, tmp_path: Path) -> None:
    """A package in an archive is served as a directory is; its parts are found by name only."""
    with zipfile.ZipFile(tmp_path / "site.zip", "w") as archive:
        archive.writestr("www/index.html", "<p>zipped")
        archive.writestr("www/sub/index.html", "<p>sub")
        archive.writestr("www/big.png", BIG)
        archive.writestr("www/.hidden", "secret")
        archive.writestr("secret.txt", "secret")
    site = Site(files=zipfile.Path(tmp_path / "site.zip", "www/"))
    got = await ask(site, "/")
    assert (got.status, got.body) == (200, b"<p>zipped")
    assert "Last-Modified" not in got.headers
    assert (await ask(site, "/", If_None_Match=got.headers["ETag"])).status == 304
    assert (await ask(site, "/sub")).headers["Location"] == "/sub/"
    assert (await ask(site, "/sub/")).body == b"<p>sub"
    assert (await ask(site, "/big.png", Range="bytes=3-9")).body == BIG[3:10]
    for path in HIDDEN:
        if path not in ("/bare", "/bare/"):
            assert (await ask(site, path)).status == 404
    with pytest.raises(OptionError, match="files"):
        Site(files=zipfile.Path(tmp_path / "site.zip", "www/big.png"))


async def test_a_directory_that_is_replaced(folder: Path, tmp_path: Path) -> None:
    """`files` may be a link, and be set to another directory meanwhile."""
    link = tmp_path / "current"
    link.symlink_to("www")
    site = Site(files=link)
    assert (await ask(site, "/")).body == b"<p>home"
    link.unlink()
    assert (await ask(site, "/")).status == 404
    link.symlink_to("outside")
    assert (await ask(site, "/")).body == b"secret"


# Routes


async def test_routes(folder: Path) -> None:
    """A route has the very path, any method, and goes before files."""
    seen: list[str] = []

    async def page(request: HttpRequest) -> HttpResponse:
        seen.append(f"{request.method} {request.query}")
        return HttpResponse(body=b"page")

    site = Site({"/page": page, "/index.html": page}, folder)
    assert (await ask(site, "/page?q", "POST")).body == b"page"
    assert (await ask(site, "/index.html")).body == b"page"
    assert (await ask(site, "/")).body == b"<p>home"
    for path in ("/page/", "/Page", "/p%61ge", "//page"):
        assert (await ask(site, path)).status == 404
    assert seen == ["POST q", "GET "]
    assert (await ask(Site({"/page": page}), "/")).status == 404


async def test_what_a_route_raises() -> None:
    """`Refuse`, and what is no answer, are the server's to deal with."""

    async def refuse(request: HttpRequest) -> HttpResponse:
        raise Refuse(403, "no")

    async def nothing(request: HttpRequest) -> Any:
        return None

    async with (
        serving(Site({"/refuse": refuse, "/nothing": nothing})) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        assert (await client.get("/refuse")).status_code == 403
        assert (await client.get("/nothing")).status_code == 500


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Site({"page": print}), "routes"),  # type: ignore[dict-item]
        (lambda: Site({"/a?b": print}), "routes"),  # type: ignore[dict-item]
        (lambda: Site({"/\xe9": print}), "routes"),  # type: ignore[dict-item]
        (lambda: Site(files="/absent"), "files"),
        (lambda: Site(files=__file__), "files"),
    ],
)
def test_sites_that_cannot_be(make: Callable[[], Site], field: str) -> None:
    """They raise `OptionError`."""
    with pytest.raises(OptionError) as caught:
        make()
    assert caught.value.field == field


# With clients that others wrote


async def test_httpx(folder: Path) -> None:
    """A browser's visit: redirect, page, file in pieces, revalidation, resumption."""
    before = descriptors()
    async with (
        serving(Site(files=folder)) as url,
        httpx.AsyncClient(base_url=url, follow_redirects=True) as client,
    ):
        got = await client.get("/sub")
        assert (got.text, got.url.path) == ("<p>sub", "/sub/")
        big = await client.get("/big.png")
        assert big.content == BIG
        head = await client.head("/big.png")
        assert head.headers["content-length"] == str(len(BIG))
        assert head.headers.keys() == big.headers.keys()
        again = await client.get("/big.png", headers={"If-None-Match": big.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        part = await client.get("/big.png", headers={"Range": "bytes=100000-"})
        assert (part.status_code, part.content) == (206, BIG[100_000:])
        assert (await client.post("/", content=b"x")).status_code == 405
        async with client.stream("GET", "/big.png") as response:
            assert response.status_code == 200  # and leaves in the middle
    assert descriptors() <= before + 1


@requires("curl")
async def test_curl_resumes(folder: Path, tmp_path: Path) -> None:
    """`curl -C -` goes on where a download broke off, and asks for paths as they are."""
    target = tmp_path / "part"
    target.write_bytes(BIG[:77_777])
    async with serving(Site(files=folder)) as url:
        curl = [str(tool("curl")), "-sS", "--noproxy", "*", "--max-time", "20"]
        await trio.run_process([*curl, "-C", "-", "-o", str(target), f"{url}/big.png"])
        assert target.read_bytes() == BIG
        sneaky = [*curl, "--path-as-is", "-w", "%{http_code}", f"{url}/sub/../../secret.txt"]
        done = await trio.run_process(sneaky, capture_stdout=True)
        assert done.stdout == b"not found404"


# Origins


def shake(origin: str | None, host: str = "good.example", *, secure: bool = False) -> Handshake:
    return Handshake(
        path="/", headers=RequestHeaders([("Host", host)]), origin=origin, secure=secure
    )


LISTED = ("https://www.example.com", "http://dev.example:8080", "app://local")


@pytest.mark.parametrize(
    ("origin", "taken"),
    [
        (None, True),
        ("https://www.example.com", True),
        ("http://dev.example:8080", True),
        ("app://local", True),
        ("http://good.example", True),
        ("https://good.example", True),
        ("null", False),
        ("", False),
        ("http://www.example.com", False),
        ("https://www.example.com:443", False),
        ("https://www.example.com:8443", False),
        ("https://www.example.com/", False),
        ("https://www.example.com.evil.example", False),
        ("https://evilwww.example.com", False),
        ("https://evil.example/https://www.example.com", False),
        ("https://www.example.com@evil.example", False),
        ("https://example.com", False),
        ("HTTPS://www.example.com", False),
        ("https://WWW.example.com", False),
        ("https://www.example.com ", False),
        ("https://www.example.com, https://www.example.com", False),
        ("http://dev.example", False),
        ("http://dev.example:80801", False),
        ("http://GOOD.example", False),
        ("http://good.example:80", False),
        ("http://good.example:81", False),
        ("http://good.example.", False),
        ("ftp://good.example", False),
        ("good.example", False),
        ("file://", False),
    ],
)
async def test_origins(origin: str | None, taken: bool) -> None:
    """The server's own and the listed origins are taken, to the letter; no page is, too."""
    hook = allow_origins(*LISTED)
    if taken:
        assert await hook(shake(origin)) is None
    else:
        with pytest.raises(Refuse) as caught:
            await hook(shake(origin))
        assert caught.value.status == 403


@pytest.mark.parametrize(
    ("origin", "host", "secure", "taken"),
    [
        ("http://good.example", "good.example", True, False),
        ("https://good.example", "good.example:443", True, True),
        ("http://good.example", "good.example:80", False, True),
        ("https://good.example", "good.example:80", False, False),
        ("http://good.example:8080", "GOOD.example:8080", False, True),
        ("http://good.example", "good.example:8080", False, False),
        ("http://[::1]:8080", "[::1]:8080", False, True),
        ("http://", "", False, False),
        ("null", "null", False, False),
    ],
)
async def test_own_origins(origin: str, host: str, secure: bool, taken: bool) -> None:
    """A page is the server's own by scheme, host and port; where TLS ends here it is https."""
    hook = allow_origins()
    if taken:
        assert await hook(shake(origin, host, secure=secure)) is None
    else:
        with pytest.raises(Refuse):
            await hook(shake(origin, host, secure=secure))


async def test_another_hook_behind_it() -> None:
    """`then` is asked about who may come from there, and gives the identity."""
    asked: list[Handshake] = []

    async def then(handshake: Handshake) -> str:
        asked.append(handshake)
        return "ann"

    hook = allow_origins("https://www.example.com", then=then)
    for origin in (None, "https://www.example.com"):
        assert await hook(shake(origin)) == "ann"
    with pytest.raises(Refuse):
        await hook(shake("null"))
    assert [handshake.origin for handshake in asked] == [None, "https://www.example.com"]


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "*",
        "",
        "www.example.com",
        "https://www.example.com/",
        "https://www.example.com:443",
        "http://www.example.com:80",
        "https://WWW.example.com",
        "https://*.example.com",
        "https://www.example.com:",
        "https://www.example.com:080",
        "https://a@b",
        "https://b\xfccher.example",
        "https://a\n",
    ],
)
def test_origins_that_no_browser_sends(origin: str) -> None:
    """They would never match, or match too much: `OptionError`."""
    with pytest.raises(OptionError, match="origins"):
        allow_origins(origin)


async def test_origins_over_a_socket() -> None:
    """The `websockets` package's handshake from a listed page gets 101, from another 403."""
    from websockets.client import ClientProtocol
    from websockets.typing import Origin
    from websockets.uri import parse_uri

    async with serving(Site(), accept=allow_origins("https://www.example.com")) as url:
        port = int(url.rpartition(":")[2])
        for origin, status in (("https://www.example.com", b"101"), ("https://x.example", b"403")):
            uri = parse_uri(url.replace("http", "ws", 1))
            client = ClientProtocol(uri, origin=Origin(origin))
            client.send_request(client.connect())
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"".join(client.data_to_send()))
                assert (await stream.receive_some(12))[-3:] == status

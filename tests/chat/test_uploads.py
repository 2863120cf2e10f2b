"""Uploads as tus has them: at the service, by honest clients and by hostile ones."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import outlast
from tests.net.support import ROOT, tool
from trio_rt import HttpRequest, OptionError, Refuse
from trio_rt._handshake import RequestHeaders
from trio_rt.chat import accept_tokens, sign_token
from trio_rt.chat._service.file_names import NAME_BYTES, disposition, name_in, safe_name
from trio_rt.chat._service.file_routes import authorize_by, file_routes
from trio_rt.chat._service.files import FileStore
from trio_rt.chat._service.sniff import UNKNOWN, judged, may_be, sniffed
from trio_rt.chat._service.tus import VERSION, Wanted, wanted
from trio_rt.chat._service.uploads import FINISHED, QUIET_S, Known, Stored, Upload, Uploads
from trio_rt.http import Client, open_client
from trio_rt.testing import VirtualNetwork, run

from .file_world import (
    GIF,
    JPEG,
    PNG,
    WEBP,
    InlineStore,
    by_token,
    serving,
    stored_files,
    virtual_world,
)

T = TypeVar("T")

PEER = Path(__file__).parent / "peers"

OCTETS = {"Content-Type": "application/offset+octet-stream"}


def told(**pairs: str) -> str:
    """An `Upload-Metadata`."""
    return ",".join(f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in pairs.items())


class Tus:
    """A client that does what its test says."""

    def __init__(self, http: Client, user: str | None = "ann") -> None:
        self._http = http
        self._user = user

    async def ask(
        self, method: str, path: str, content: Any = None, **headers: str
    ) -> httpx.Response:
        sent = {"Tus-Resumable": VERSION}
        if self._user is not None:
            sent["Authorization"] = f"Bearer {self._user}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._http.request(method, path, headers=sent, content=content)

    async def begin(self, length: int, **headers: str) -> str:
        response = await self.ask("POST", "/files", Upload_Length=str(length), **headers)
        assert response.status_code == 201, response.text
        return str(response.headers["Location"])

    async def patch(self, place: str, offset: int, content: Any, **headers: str) -> httpx.Response:
        return await self.ask(
            "PATCH", place, content, Upload_Offset=str(offset), **OCTETS, **headers
        )

    async def offset(self, place: str) -> int:
        response = await self.ask("HEAD", place)
        assert response.status_code == 200
        return int(response.headers["Upload-Offset"])

    async def upload(self, content: bytes, **pairs: str) -> httpx.Response:
        """In one request."""
        return await self.ask(
            "POST",
            "/files",
            content,
            Upload_Length=str(len(content)),
            Upload_Metadata=told(**pairs),
            **OCTETS,
        )


@asynccontextmanager
async def tus(store: FileStore, user: str | None = "ann", **limits: Any) -> AsyncIterator[Tus]:
    """A client of the store on a real port."""
    async with serving(store, **limits) as server, plain_client(server.port) as http:
        yield Tus(http, user)


def plain_client(port: int) -> AbstractAsyncContextManager[Client]:
    """Each call once; httpx's own would leave bodies half sent to the garbage collector."""
    return open_client(f"http://127.0.0.1:{port}", cache=False, retry=False)


def address(content: bytes, name: str = "file") -> str:
    return f"/files/{hashlib.sha256(content).hexdigest()}/{name}"


# Names and types


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a.png", "a.png"),
        ("../x", "x"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ann\\x.png", "x.png"),
        ("/", "file"),
        ("..", "file"),
        ("", "file"),
        (" . .hidden", "hidden"),
        ("a\0b\r\nc", "abc"),
        ("\u202egnp.exe", "gnp.exe"),
        ("..\u200b/..\u200b/x", "x"),
        ("x. . ", "x"),
        ("\udc80x", "x"),
        ("e\u0301.txt", "\xe9.txt"),
        ("%2e%2e%2fx", "%2e%2e%2fx"),
        ("a" * 300 + ".png", "a" * 124 + ".png"),
        ("\u20ac" * 100, "\u20ac" * 42),
        ("." + "a" * 300, "a" * 128),
        ("a." + "b" * 300, "a." + "b" * 126),
    ],
)
def test_names_are_made_safe(given: str, shown: str) -> None:
    """Directories, dots in front and what cannot be seen go; a long one keeps its suffix."""
    assert safe_name(given) == shown


@given(st.text())
def test_any_name_can_be_shown(name: str) -> None:
    """Whatever is given: one segment that is visible, short, and no hidden file; made once."""
    shown = safe_name(name)
    assert shown
    assert not shown.startswith((".", " "))
    assert not set(shown) & set("/\\")
    assert len(shown.encode()) <= NAME_BYTES
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in shown)
    assert safe_name(shown) == shown
    assert disposition("inline", shown).isascii()


def test_names_in_addresses_are_decoded_once() -> None:
    """What is encoded twice stays encoded, and what is no UTF-8 is shown as such."""
    assert name_in("a%20b%2Fc.png") == "c.png"
    assert name_in("%252e%252e") == "%2e%2e"
    assert name_in("%ff") == "\ufffd"


def test_a_name_cannot_leave_its_header() -> None:
    """Quotes and percent signs are not what they would be in a header."""
    assert disposition("attachment", 'a"; filename="b%41\\') == (
        'attachment; filename="a_; filename=_b_41_"; '
        "filename*=UTF-8''a%22%3B%20filename%3D%22b%2541%5C"
    )


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (GIF, "image/gif"),
        (WEBP, "image/webp"),
        (b"", None),
        (PNG[:15], None),
        (b"GIF89a", None),
        (b"RIFF\0\0\0\0WEBPXXXX", None),
        (b"\xff\xd8\xff\0", None),
        (b" " + PNG, None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", None),
        (b"%PDF-1.7", None),
    ],
)
def test_images_are_known_by_their_bytes(content: bytes, kind: str | None) -> None:
    """Four formats, from their first byte on."""
    assert sniffed(content[:32]) == kind


@pytest.mark.parametrize(
    ("declared", "content", "kind"),
    [
        ("image/png", PNG, "image/png"),
        (UNKNOWN, PNG, "image/png"),
        ("image/png", b"<html>", None),
        ("image/png", GIF, None),
        ("text/html", PNG, None),
        ("text/html", b"<html>", "text/html"),
        ("image/svg+xml", b"<svg>", "image/svg+xml"),
        (UNKNOWN, b"", UNKNOWN),
    ],
)
def test_a_type_is_what_the_content_is(declared: str, content: bytes, kind: str | None) -> None:
    """An image is not declared to be something else, nor something else to be an image."""
    assert judged(declared, content[:32]) == kind


def test_types_are_given_by_patterns() -> None:
    """One, all of a kind, or all."""
    assert may_be("image/png", {"image/png"})
    assert may_be("image/png", {"image/*"})
    assert may_be("image/png", {"*/*"})
    assert not may_be("image/png", {"image/gif", "text/*"})


# What is asked for


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Length": "1", "Upload-Defer-Length": "1"},
        {"Upload-Defer-Length": "2"},
        {"Upload-Length": "-1"},
        {"Upload-Length": "+1"},
        {"Upload-Length": "1.0"},
        {"Upload-Length": "0x1"},
        {"Upload-Length": "\u0661"},
        {"Upload-Length": "9" * 19},
        {"Upload-Length": str(2**64 + 1)},
        {"Upload-Length": "1", "Upload-Metadata": "filename !"},
        {"Upload-Length": "1", "Upload-Metadata": "filename YQ="},
        {"Upload-Length": "1", "Upload-Metadata": "filename /w=="},
        {"Upload-Length": "1", "Upload-Metadata": "filename YQ==,filename YQ=="},
        {"Upload-Length": "1", "Upload-Metadata": "filename YQ==,,"},
        {"Upload-Length": "1", "Upload-Metadata": told(filetype="image")},
        {"Upload-Length": "1", "Upload-Metadata": told(filetype="a/b\r\nc: d")},
        {"Upload-Length": "1", "Upload-Metadata": told(filetype="a/" + "b" * 64)},
    ],
)
def test_bad_requests_for_an_upload(headers: dict[str, str]) -> None:
    """Each is refused with 400."""
    with pytest.raises(Refuse) as refused:
        wanted(headers)
    assert refused.value.status == 400


def test_a_request_for_an_upload() -> None:
    """Name and type are those of the metadata, made safe; other keys do not matter."""
    metadata = told(filename="../\xe9.png", filetype="Image/PNG; x=y", more="z") + ",flag"
    headers = {"Upload-Length": "7", "Upload-Metadata": metadata}
    assert wanted(headers) == Wanted(length=7, name="\xe9.png", type="image/png")
    assert wanted({"Upload-Defer-Length": "1"}) == Wanted(length=None, name="file", type=UNKNOWN)


# How many there may be


def uploads(**options: Any) -> Uploads:
    return Uploads(**{"most": 10, "per_user": 3, "most_bytes": 100, "keep_s": 1000.0, **options})


def an_upload(number: int, user: str = "ann", length: int | None = 10, at: float = 0.0) -> Upload:
    return Upload(id=str(number), user=user, name="", type="", length=length, touched_at=at)


def test_a_user_has_a_bound() -> None:
    """Beyond it an upload is refused as long as none of the user's is quiet; others are not hurt."""
    table = uploads()
    table.add(an_upload(9, "bob", at=-1000.0))
    for number in range(3):
        table.add(an_upload(number, at=float(number)))
    with pytest.raises(Refuse) as refused:
        table.make_room("ann", 10, 1000, QUIET_S - 1)
    assert refused.value.status == 429
    assert [each.id for each in table.make_room("ann", 10, 1000, QUIET_S + 5)] == ["0"]
    assert table.get("0", "ann") is None
    assert table.get("9", "bob") is not None


def test_what_is_written_to_is_not_dropped() -> None:
    """The quiet one that a request holds stays."""
    table = uploads(per_user=1)
    busy = an_upload(1)
    table.add(busy)
    with busy.turn(), pytest.raises(Refuse):
        table.make_room("ann", 10, 1000, 1e6)
    with busy.turn():
        assert table.expired(1e6) == []
    assert table.make_room("ann", 10, 1000, 1e6) == [busy]


def test_all_have_a_bound() -> None:
    """Whoever has most loses a quiet one; nothing is dropped where that is not enough."""
    table = uploads(most=4)
    table.add(an_upload(1, "ann", at=0.0))
    for number in (2, 3, 4):
        table.add(an_upload(number, "bob", at=float(number)))
    assert [each.id for each in table.make_room("eve", 10, 1000, 1000.0)] == ["2"]
    with pytest.raises(Refuse) as refused:
        table.make_room("eve", 10, 9, 1000.0)
    assert refused.value.status == 507
    assert len(table) == 3


def test_room_is_reserved_for_the_whole_length() -> None:
    """An unknown length counts as the largest."""
    table = uploads()
    table.add(an_upload(1, length=30))
    table.add(an_upload(2, length=None))
    assert table.reserved_bytes == 130
    with pytest.raises(Refuse) as refused:
        table.make_room("bob", 71, 200, 0.0)
    assert refused.value.status == 507
    assert table.make_room("bob", 70, 200, 0.0) == []


def test_finished_uploads_are_remembered_for_a_while() -> None:
    """The last thousand, and no longer than others."""
    table = uploads()
    for number in range(FINISHED + 1):
        upload = an_upload(number)
        table.add(upload)
        table.finish(upload, Stored(sha256="", size=0, name="", type=""))
    assert len(table) == 0
    assert table.get("0", "ann") is None
    assert table.get("1", "ann") is not None
    assert table.expired(1001.0) == []
    assert table.get("1", "ann") is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.integers(0, 100))))
def test_the_bounds_hold(steps: list[tuple[str, int, int]]) -> None:
    """However uploads come: never more than there may be, of a user, in all, and in bytes."""
    table, now = uploads(most=5, per_user=2), 0.0
    for number, (user, length, wait) in enumerate(steps):
        now += wait
        try:
            table.make_room(user, length, 90, now)
        except Refuse:
            continue
        table.add(an_upload(number, user, length, now))
        held = [each for each in table._open.values() if each.user == user]
        assert len(table) <= 5
        assert len(held) <= 2
        assert table.reserved_bytes <= 90


# The life of an upload


async def test_options(tmp_path: Path) -> None:
    """Anybody may ask what there is."""
    async with tus(FileStore(tmp_path, file_bytes=1000), user=None) as client:
        got = await client.ask("OPTIONS", "/files")
    assert (got.status_code, got.headers["Tus-Version"]) == (204, "1.0.0")
    assert got.headers["Tus-Max-Size"] == "1000"
    assert "creation" in got.headers["Tus-Extension"].split(",")
    assert "access-control-allow-origin" not in got.headers


async def test_an_upload_in_parts(tmp_path: Path) -> None:
    """It is a file with its last byte, not before, and its address is in that answer."""
    store = FileStore(tmp_path)
    async with tus(store) as client:
        metadata = told(filename="a b.png", filetype="image/png")
        place = await client.begin(len(PNG), Upload_Metadata=metadata)
        assert await client.offset(place) == 0
        got = await client.patch(place, 0, PNG[:1000])
        assert (got.status_code, got.headers["Upload-Offset"]) == (204, "1000")
        assert "Content-Location" not in got.headers
        assert "Upload-Expires" in got.headers
        assert stored_files(tmp_path) == {}
        assert await client.offset(place) == 1000
        got = await client.patch(place, 1000, PNG[1000:])
        assert got.headers["Content-Location"] == address(PNG, "a%20b.png")
        assert got.headers["Upload-Metadata"] == metadata
        again = await client.ask("HEAD", place)
        assert again.headers["Content-Location"] == address(PNG, "a%20b.png")
        assert again.headers["Upload-Offset"] == again.headers["Upload-Length"] == str(len(PNG))
    assert stored_files(tmp_path) == {hashlib.sha256(PNG).hexdigest(): PNG}
    assert list((tmp_path / "uploads").iterdir()) == []
    assert store.statistics().total_bytes == len(PNG)


async def test_the_same_content_is_one_file(tmp_path: Path) -> None:
    """Under two names, by two users, it lies there once."""
    store = FileStore(tmp_path)
    async with tus(store) as ann, tus(store, "bob") as bob:
        first = await ann.upload(PNG, filename="a.png")
        second = await bob.upload(PNG, filename="b.png")
    assert first.headers["Content-Location"] == address(PNG, "a.png")
    assert second.headers["Content-Location"] == address(PNG, "b.png")
    assert (store.statistics().files, store.statistics().total_bytes) == (1, len(PNG))


async def test_an_empty_file(tmp_path: Path) -> None:
    """It is there when it was asked for."""
    async with tus(FileStore(tmp_path)) as client:
        got = await client.ask("POST", "/files", Upload_Length="0")
        assert (got.status_code, got.headers["Content-Location"]) == (201, address(b""))
        assert (await client.ask("GET", address(b""))).content == b""


async def test_a_length_that_comes_later(tmp_path: Path) -> None:
    """It may be told with any part, once; the file is bounded meanwhile."""
    async with tus(FileStore(tmp_path, file_bytes=100)) as client:
        got = await client.ask("POST", "/files", Upload_Defer_Length="1")
        place = got.headers["Location"]
        assert (await client.patch(place, 0, b"abc")).headers["Upload-Offset"] == "3"
        assert (await client.ask("HEAD", place)).headers["Upload-Defer-Length"] == "1"
        assert (await client.patch(place, 3, b"x" * 98)).status_code == 413
        at = await client.offset(place)
        assert (await client.patch(place, at, b"", Upload_Length="101")).status_code == 413
        assert (await client.patch(place, at, b"", Upload_Length="2")).status_code == 400
        assert (await client.patch(place, at, b"", Upload_Length=str(at + 1))).status_code == 204
        assert (await client.patch(place, at, b"", Upload_Length=str(at + 2))).status_code == 400
        got = await client.patch(place, at, b"d", Upload_Length=str(at + 1))
        assert got.headers["Content-Location"] == address(b"abcd")


async def test_checksums(tmp_path: Path) -> None:
    """Bytes that do not add up are as if they had not come."""
    async with tus(FileStore(tmp_path)) as client:
        place = await client.begin(300_003)
        await client.patch(place, 0, b"abc")
        wrong = base64.b64encode(hashlib.sha1(b"other").digest()).decode()
        right = base64.b64encode(hashlib.sha256(bytes(300_000)).digest()).decode()
        got = await client.patch(place, 3, bytes(300_000), Upload_Checksum=f"sha1 {wrong}")
        assert got.status_code == 460
        assert await client.offset(place) == 3
        got = await client.patch(place, 3, b"x", Upload_Checksum="md5 AAAA")
        assert got.status_code == 400
        got = await client.patch(place, 3, b"x", Upload_Checksum="sha1 ?")
        assert got.status_code == 400
        got = await client.patch(place, 3, bytes(300_000), Upload_Checksum=f"sha256 {right}")
        assert got.headers["Content-Location"] == address(b"abc" + bytes(300_000))


async def test_an_upload_is_given_up(tmp_path: Path) -> None:
    """Nothing of it is left; a file that it became stays."""
    store = FileStore(tmp_path)
    async with tus(store) as client:
        place = await client.begin(10)
        await client.patch(place, 0, b"abc")
        assert (await client.ask("DELETE", place)).status_code == 204
        assert (await client.ask("HEAD", place)).status_code == 404
        assert list((tmp_path / "uploads").iterdir()) == []
        place = (await client.upload(b"abc")).headers["Location"]
        assert (await client.ask("POST", place, X_HTTP_Method_Override="DELETE")).status_code == 204
        assert (await client.ask("PATCH", place)).status_code == 404
    assert list(stored_files(tmp_path).values()) == [b"abc"]
    assert store.statistics().unfinished == 0


# What is refused


async def test_who_may_upload(tmp_path: Path) -> None:
    """A user, from a page of the server's own; and to an upload of the user's own."""
    store = FileStore(tmp_path)
    async with tus(store) as ann, tus(store, "bob") as bob, tus(store, None) as nobody:
        got = await nobody.ask("POST", "/files", Upload_Length="1")
        assert (got.status_code, got.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert got.headers["Tus-Resumable"] == "1.0.0"
        place = await ann.begin(1)
        for method in ("HEAD", "PATCH", "DELETE"):
            assert (await bob.ask(method, place)).status_code == 404
        for origin in ("https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1.evil"):
            got = await ann.ask("POST", "/files", Upload_Length="1", Origin=origin)
            assert got.status_code == 403
        own = str((await ann.ask("OPTIONS", "/files")).url).removesuffix("/files")
        assert (await ann.ask("HEAD", place, Origin=own)).status_code == 200
        got = await ann.ask("HEAD", place, Tus_Resumable="0.2.2")
        assert (got.status_code, got.headers["Tus-Version"]) == (412, "1.0.0")


async def test_an_accept_hook_says_who_uploads() -> None:
    """That of the chat: who shows a good token, and no guest without one."""

    def request(**headers: str) -> HttpRequest:
        given = RequestHeaders(list(headers.items()))
        return HttpRequest(method="POST", path="/files", headers=given)

    secret = "0123456789abcdef" * 4
    authorize = authorize_by(accept_tokens(secret, anonymous=True))
    token = sign_token(secret, "ann")
    assert await authorize(request(Authorization=f"Bearer {token}")) == "ann"
    assert await authorize(request()) is None
    with pytest.raises(Refuse):
        await authorize(request(Authorization="Bearer x"))


@pytest.mark.parametrize("number", ["16777217", "999999999999999999"])
async def test_too_large(tmp_path: Path, number: str) -> None:
    """A length above the bound is refused before a byte has come."""
    async with tus(FileStore(tmp_path)) as client:
        got = await client.ask("POST", "/files", Upload_Length=number)
        assert got.status_code == 413
        got = await client.ask("POST", "/files", b"x", Upload_Length=number, **OCTETS)
        assert got.status_code == 413
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_a_length_that_is_a_lie(tmp_path: Path) -> None:
    """More bytes than were announced are refused, said or unsaid; what fits may still come."""

    async def pieces() -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            yield bytes(50)

    async with tus(FileStore(tmp_path)) as client:
        place = await client.begin(100)
        assert (await client.patch(place, 0, bytes(101))).status_code == 413
        assert (await client.patch(place, 0, pieces())).status_code == 413
        at = await client.offset(place)
        assert at <= 100
        got = await client.patch(place, at, bytes(100 - at))
        assert got.headers["Content-Location"] == address(bytes(100))
        assert (await client.patch(place, 100, b"")).status_code == 204
        assert (await client.patch(place, 100, b"x")).status_code == 409


@pytest.mark.parametrize(
    ("offset", "status"),
    [("1", 409), ("4", 409), ("-1", 400), ("", 400), (str(2**63), 400), ("9" * 18, 413)],
)
async def test_wrong_offsets(tmp_path: Path, offset: str, status: int) -> None:
    """The next byte is the only one that is taken."""
    async with tus(FileStore(tmp_path)) as client:
        place = await client.begin(10)
        await client.patch(place, 0, b"abc")
        got = await client.ask("PATCH", place, b"x", Upload_Offset=offset, **OCTETS)
        assert got.status_code == status
        got = await client.ask("PATCH", place, b"x", **OCTETS)
        assert got.status_code == 400
        assert await client.offset(place) == 3


async def test_types_that_are_not_taken(tmp_path: Path) -> None:
    """By what is said at the beginning, by what it is at the end; and nothing is left then."""
    store = FileStore(tmp_path, types=("image/png", "text/*"))
    async with tus(store) as client:
        assert (await client.upload(b"<html>", filetype="text/html")).status_code == 201
        assert (await client.upload(PNG, filename="x.exe")).status_code == 201
        for content, kind in [
            (GIF, "image/gif"),
            (GIF, "image/png"),
            (b"<html>", "image/png"),
            (PNG, "text/html"),
            (GIF, "application/octet-stream"),
            (b"MZ", "application/octet-stream"),
        ]:
            assert (await client.upload(content, filetype=kind)).status_code == 415
        place = await client.begin(3)
        got = await client.ask("PATCH", place, b"abc", Upload_Offset="0", Content_Type="text/plain")
        assert got.status_code == 415
        got = await client.patch(place, 0, b"abc")
        assert got.status_code == 415
        assert (await client.ask("HEAD", place)).status_code == 404
    assert store.statistics().files == 2
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        "/files/",
        "/files/uploads",
        "/files/uploads/",
        "/files/uploads/..",
        "/files/uploads/" + "0" * 32,
        "/files/uploads/" + "0" * 31 + "%30",
        "/files/uploads/../../etc/passwd",
        "/files/" + "0" * 64,
        "/files/" + "0" * 64 + "/x",
        "/files/" + "0" * 63 + "/x",
        "/files/" + "0" * 64 + "/x/y",
        "/files/" + "A" * 64 + "/x",
        "/files/..%2f..%2fuploads/x",
        "/files/%2e%2e/uploads",
        "/filesx",
    ],
)
async def test_paths_that_are_nothing(tmp_path: Path, path: str) -> None:
    """No path is looked for on the disk but what is an address; the rest is refused."""
    store = FileStore(tmp_path)
    async with serving(store) as server:
        for method in ("GET", "HEAD", "PATCH", "DELETE", "POST"):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
                head += "Authorization: Bearer ann\r\nContent-Length: 0\r\n\r\n"
                await stream.send_all(head.encode())
                answer = await stream.receive_some(10_000)
            assert answer.split()[1] in (b"404", b"405", b"400"), answer
    assert store.statistics().unfinished == 0


async def test_methods_that_are_not_there(tmp_path: Path) -> None:
    """They are told which are."""
    async with tus(FileStore(tmp_path)) as client:
        place = await client.begin(3)
        got = await client.ask("PUT", "/files")
        assert (got.status_code, got.headers["Allow"]) == (405, "OPTIONS, POST")
        got = await client.ask("GET", place)
        assert (got.status_code, got.headers["Allow"]) == (405, "OPTIONS, HEAD, PATCH, DELETE")
        got = await client.ask("DELETE", address(b""))
        assert (got.status_code, got.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("file_bytes", {"file_bytes": 0}),
        ("total_bytes", {"total_bytes": "1"}),
        ("unfinished", {"unfinished": 0}),
        ("unfinished_per_user", {"unfinished_per_user": 1.5}),
        ("unfinished_s", {"unfinished_s": 0}),
        ("types", {"types": "image/png"}),
        ("types", {"types": ["png"]}),
        ("types", {"types": ["image/PNG"]}),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, field: str, options: dict[str, Any]) -> None:
    """Each is named."""
    with pytest.raises(OptionError) as refused:
        FileStore(tmp_path, **options)
    assert refused.value.field == field


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    """A file is none; and routes need a store, a hook, and a path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="directory"):
        FileStore(tmp_path / "file")
    store: Any = FileStore(tmp_path / "files")
    for bad in ("files", "/files/", "/a b", "/", ""):
        with pytest.raises(OptionError, match="path"):
            file_routes(store, by_token, path=bad)
    nothing: Any = None
    with pytest.raises(OptionError, match="authorize"):
        file_routes(store, nothing)
    with pytest.raises(OptionError, match="store"):
        file_routes(nothing, by_token)


# Several requests at once, and none that ends well


class Slow:
    """A body that stops in its midst."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.begun = trio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
        yield self.content  # noqa: ASYNC911
        self.begun.set()
        await trio.sleep_forever()


async def test_two_writers(tmp_path: Path) -> None:
    """One waits for its client; another is turned away; who asks how far it is takes over."""
    store = FileStore(tmp_path)
    async with tus(store) as client, tus(store) as other, trio.open_nursery() as nursery:
        place = await client.begin(1000)
        slow = Slow(bytes(300))
        nursery.start_soon(partial(client.patch, place, 0, slow, Content_Length="600"))
        await slow.begun.wait()
        upload = next(iter(store._uploads._open.values()))
        await outlast(lambda: not upload.busy)
        got = await other.patch(place, 0, b"x")
        assert (got.status_code, got.headers["Retry-After"]) == (423, "1")
        at = await other.offset(place)
        assert at <= 300
        got = await other.patch(place, at, bytes(1000 - at))
        assert got.headers["Content-Location"] == address(bytes(1000))
        nursery.cancel_scope.cancel()
    assert list(stored_files(tmp_path).values()) == [bytes(1000)]


async def test_an_upload_that_is_given_up_meanwhile(tmp_path: Path) -> None:
    """A request that waits for it finds that it is no more."""
    store = FileStore(tmp_path)
    upload = await store.begin("ann", Wanted(length=3, name="x", type=UNKNOWN))
    await store.terminate(upload)
    with pytest.raises(Refuse) as refused:
        await store.ask(upload)
    assert refused.value.status == 404


def test_a_body_that_stops(tmp_path: Path) -> None:
    """The server gives up a client that sends nothing more; what came is kept."""

    async def story() -> None:
        store = InlineStore(tmp_path)
        async with virtual_world(store) as (network, http):
            client = Tus(http)
            place = await client.begin(1000)
            stream = await network.open_stream("server", 80)
            head = f"PATCH {place} HTTP/1.1\r\nHost: server\r\nTus-Resumable: 1.0.0\r\n"
            head += "Authorization: Bearer ann\r\nContent-Length: 500\r\nUpload-Offset: 0\r\n"
            head += "Content-Type: application/offset+octet-stream\r\n\r\n"
            await stream.send_all(head.encode() + bytes(99))
            began = trio.current_time()
            assert await stream.receive_some() == b""
            assert 9 < trio.current_time() - began < 12
            assert await client.offset(place) == 99

    run(story, seed=1)


def test_a_link_that_is_cut(tmp_path: Path) -> None:
    """However many bytes of a PATCH came through: those are there, and none that is not right."""
    content = os.urandom(3000)

    async def story() -> None:
        store = InlineStore(tmp_path, unfinished_per_user=100)
        async with virtual_world(store) as (network, http):
            client = Tus(http)
            for count in range(0, 3400, 97):
                place = await client.begin(len(content))
                await cut(network, client, place, count)
                at = await client.offset(place)
                assert at <= count
                got = await client.patch(place, at, content[at:])
                assert got.headers["Content-Location"] == address(content)

    async def cut(network: VirtualNetwork, client: Tus, place: str, count: int) -> None:
        for link in network.connections:
            link.cut_after(count)
        try:
            await client.patch(place, 0, content)
        except httpx.TransportError:
            pass
        network.cut()
        await trio.sleep(1)

    run(story, seed=1)
    assert list(stored_files(tmp_path).values()) == [content]


def test_a_flood_of_unfinished_uploads(tmp_path: Path) -> None:
    """One user has its own bound, all have theirs; quiet ones make room, and expire."""

    async def story() -> None:
        store = InlineStore(tmp_path, unfinished_per_user=5, unfinished=12, unfinished_s=1800.0)
        async with virtual_world(store) as (_, http):
            eve, bob, ann = Tus(http, "eve"), Tus(http, "bob"), Tus(http, "ann")
            mine = await ann.begin(100)
            for _ in range(5):
                await eve.begin(1000)
                await bob.begin(1000)
            got = await eve.ask("POST", "/files", Upload_Length="1")
            assert (got.status_code, got.headers["Retry-After"]) == (429, "30")
            await ann.begin(1)
            assert (await ann.ask("POST", "/files", Upload_Length="1")).status_code == 503
            await trio.sleep(QUIET_S + 1)
            for _ in range(20):
                await eve.ask("POST", "/files", Upload_Length="1")
            assert store.statistics().unfinished == 12
            assert len(list((tmp_path / "uploads").iterdir())) == 24
            assert await ann.offset(mine) == 0
            await trio.sleep(1800)
            assert (await ann.ask("HEAD", mine)).status_code == 404
            await ann.begin(1)
            assert store.statistics().unfinished == 1
            assert len(list((tmp_path / "uploads").iterdir())) == 2

    run(story, seed=1)


def test_an_upload_that_is_slow(tmp_path: Path) -> None:
    """It lives as long as bytes come, and is no quiet one."""

    async def story() -> None:
        store = InlineStore(tmp_path, unfinished_s=1000.0, unfinished_per_user=1)
        async with virtual_world(store) as (_, http):
            client = Tus(http)
            place = await client.begin(6)
            for at in range(5):
                assert (await client.patch(place, at, b"x")).status_code == 204
                assert (await client.ask("POST", "/files", Upload_Length="1")).status_code == 429
                await trio.sleep(600)
            got = await client.patch(place, 5, b"x")
            assert got.headers["Content-Location"] == address(b"xxxxxx")

    run(story, seed=1)


async def test_the_total_is_bounded(tmp_path: Path) -> None:
    """What is there and what may come, together; a deleted file makes room."""
    store = FileStore(tmp_path, total_bytes=1000)
    async with tus(store) as client:
        assert (await client.upload(bytes(600))).status_code == 201
        place = await client.begin(300)
        assert (await client.upload(bytes(101))).status_code == 507
        assert (await client.ask("DELETE", place)).status_code == 204
        assert (await client.upload(bytes(101))).status_code == 201
        assert await store.delete(hashlib.sha256(bytes(600)).hexdigest())
        assert not await store.delete(hashlib.sha256(bytes(600)).hexdigest())
        assert (await client.upload(bytes(700))).status_code == 201
    assert FileStore(tmp_path).statistics() == store.statistics()


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file may become larger than this."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


async def test_a_disk_that_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told, and goes on when there is room again."""
    async with tus(FileStore(tmp_path)) as client:
        place = await client.begin(2_000_000)
        with full_disk(500_000):
            assert (await client.patch(place, 0, bytes(2_000_000))).status_code == 507
        at = await client.offset(place)
        assert at <= 500_000
        got = await client.patch(place, at, bytes(2_000_000 - at))
        assert got.headers["Content-Location"] == address(bytes(2_000_000))
        with full_disk(0):
            assert (await client.upload(b"abc")).status_code == 507
    assert list((tmp_path / "uploads").iterdir()) == []
    assert "could not be written" in caplog.text


async def test_a_directory_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told, and the server lives: it is there again, and so is the service."""
    async with tus(FileStore(tmp_path / "store")) as client:
        place = await client.begin(10)
        shutil.rmtree(tmp_path / "store")
        assert (await client.patch(place, 0, b"abc")).status_code == 500
        assert (await client.upload(b"abc")).status_code == 500
        assert (await client.ask("GET", address(b"abc"))).status_code == 404
        FileStore(tmp_path / "store")
        assert (await client.upload(b"abc")).status_code == 201
    assert "could not be written" in caplog.text


# Restarts


async def test_a_service_that_starts_anew(tmp_path: Path) -> None:
    """Uploads go on where they were, with their name, type and owner; what is broken goes."""
    async with tus(FileStore(tmp_path)) as client:
        metadata = told(filename="x.png", filetype="image/png")
        place = await client.begin(len(PNG), Upload_Metadata=metadata)
        await client.patch(place, 0, PNG[:700])
        whole = await client.begin(len(GIF))
        await client.patch(whole, 0, GIF[:-1])
        got = await client.ask("POST", "/files", Upload_Defer_Length="1")
        later = got.headers["Location"]
        await client.patch(later, 0, b"abc", Upload_Length="5")
    (tmp_path / "uploads" / whole[-32:]).write_bytes(GIF)
    for name, text in (("1" * 32, "x"), ("2" * 32 + ".json", "{}"), ("3" * 32, "x")):
        (tmp_path / "uploads" / name).write_text(text)
    (tmp_path / "uploads" / ("3" * 32 + ".json")).write_text('{"user"')
    info = {"user": "ann", "name": "x", "type": "a/b", "length": 1}
    (tmp_path / "uploads" / ("4" * 32)).write_text("longer")
    (tmp_path / "uploads" / ("4" * 32 + ".json")).write_text(json.dumps(info))
    store = FileStore(tmp_path)
    async with tus(store) as client, tus(store, "bob") as bob:
        assert (await bob.ask("HEAD", place)).status_code == 404
        assert await client.offset(place) == 700
        got = await client.patch(place, 700, PNG[700:])
        assert got.headers["Content-Location"] == address(PNG, "x.png")
        assert (await client.ask("HEAD", later)).headers["Upload-Length"] == "5"
        assert (await client.ask("DELETE", later)).status_code == 204
        got = await client.ask("HEAD", whole)
        assert got.headers["Content-Location"] == address(GIF)
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_large_file_is_read_once(tmp_path: Path) -> None:
    """A request that is given up while it is hashed leaves the next one the result."""
    looks = []

    class Given(InlineStore):
        async def _in_thread(self, call: Callable[[], T]) -> T:
            result = await super()._in_thread(call)
            if isinstance(result, Known):
                looks.append(result.sha256)
                scope.cancel()
            return result

    async def story() -> None:
        store = Given(tmp_path)
        upload = await store.begin("ann", Wanted(length=0, name="x", type=UNKNOWN))
        with scope:
            await store.ask(upload)
        assert scope.cancelled_caught
        assert upload.stored is None
        await store.ask(upload)
        assert upload.stored is not None
        assert looks == [upload.stored.sha256]

    scope = trio.CancelScope()
    run(story, seed=1)


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_requests_that_are_cancelled_anywhere(seed: int) -> None:
    """What is served is whole, what is counted is there, and nobody holds an upload."""
    draw = random.Random(seed)
    contents = [draw.randbytes(draw.choice([0, 10, 100_000, 300_000])) for _ in range(3)]

    async def body(content: bytes) -> AsyncGenerator[bytes, None]:  # noqa: ASYNC900, ASYNC911
        for start in range(0, len(content), 50_000):
            await trio.sleep(draw.random())
            yield content[start : start + 50_000]

    async def work(store: FileStore, content: bytes) -> None:
        length = draw.choice([None, len(content), len(content)])
        upload = await store.begin(draw.choice("ab"), Wanted(length=length, name="x", type=UNKNOWN))
        for _ in range(5):
            with trio.move_on_after(4 * draw.random()):
                match draw.randrange(6):
                    case 0:
                        await store.ask(upload)
                    case 1 if draw.random() < 0.2:
                        await store.terminate(upload)
                    case _:
                        rest = body(content[upload.offset :])
                        async with aclosing(rest):
                            await store.receive(upload, upload.offset, rest, length=len(content))

    async def some(store: FileStore) -> None:
        for _ in range(3):
            try:
                await work(store, draw.choice(contents))
            except Refuse:
                pass

    async def story() -> None:
        with tempfile.TemporaryDirectory() as directory:
            store = InlineStore(directory, unfinished_per_user=4)
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(some, store)
            held = stored_files(Path(directory))
            assert {name: hashlib.sha256(data).hexdigest() for name, data in held.items()} == {
                name: name for name in held
            }
            assert set(held.values()) <= set(contents)
            open_ = list(store._uploads._open.values())
            assert not any(upload.busy for upload in open_)
            assert store.statistics() == FileStore(directory).statistics()
            for upload in open_:
                part = Path(directory) / "uploads" / upload.id
                assert part.stat().st_size == upload.offset

    run(story, seed=seed)


KILLED = """
import sys, trio
sys.path.insert(0, {root!r})
from tests.chat.file_world import FileStore, serving

async def main():
    async with serving(FileStore({directory!r})) as server:
        print(server.port, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_service_that_is_killed(tmp_path: Path) -> None:
    """In the midst of an upload: nothing of it is served, and it goes on afterwards."""
    script = KILLED.format(root=str(ROOT), directory=str(tmp_path))
    content = os.urandom(900_000)
    with trio.fail_after(60):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", script], stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            port = int(await process.stdout.receive_some())
            async with plain_client(port) as http:
                client = Tus(http)
                place = await client.begin(len(content))
                slow = Slow(content[:700_000])
                async with trio.open_nursery() as nursery:
                    patch = partial(client.patch, place, 0, slow, Content_Length="900000")
                    nursery.start_soon(patch)
                    part = tmp_path / "uploads" / place[-32:]
                    await outlast(lambda: part.stat().st_size < 500_000)
                    process.kill()
                    await process.wait()
                    nursery.cancel_scope.cancel()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    assert stored_files(tmp_path) == {}
    async with tus(FileStore(tmp_path)) as client:
        at = await client.offset(place)
        assert 500_000 <= at <= 700_000
        got = await client.patch(place, at, content[at:])
        assert got.headers["Content-Location"] == address(content)


# A client that others wrote

has_tus = tool("node") is not None and (PEER / "node_modules" / "tus-js-client").is_dir()
foreign = pytest.mark.skipif(not has_tus, reason="not installed: npm --prefix tests/chat/peers ci")


@foreign
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunkSize": 100_000},
        {"chunkSize": 100_000, "abort_at": 300_000},
        {"uploadDataDuringCreation": True},
        {"chunkSize": 100_000, "uploadDataDuringCreation": True},
        {"chunkSize": 100_000, "deferred": True},
        {"overridePatchMethod": True},
        {"filename": "../x.png", "filetype": "image/png"},
    ],
    ids=str,
)
async def test_tus_js_client(tmp_path: Path, options: dict[str, Any]) -> None:
    """Whole, in parts, aborted and gone on with, of unknown length: the file is there."""
    content = PNG * 80
    (tmp_path / "x.png").write_bytes(content)
    told, stored = await by_node(tmp_path, options)
    assert told[-1] == f"stored {address(content, 'x.png')}"
    assert stored == [content]


@foreign
async def test_tus_js_client_is_refused(tmp_path: Path) -> None:
    """It hears that the content is not what it said."""
    (tmp_path / "x.png").write_bytes(PNG)
    told, stored = await by_node(tmp_path, {"filetype": "image/gif"})
    assert (told, stored) == (["failed 415"], [])


async def by_node(tmp_path: Path, options: dict[str, Any]) -> tuple[list[str], list[bytes]]:
    """What npm's client says, and the files that there are then."""
    async with serving(FileStore(tmp_path / "store")) as server:
        url = server.url.replace("ws", "http", 1) + "/files"
        command = [str(tool("node")), str(PEER / "upload.js"), url]
        done = await trio.run_process(
            [*command, str(tmp_path / "x.png"), "ann", json.dumps(options)], capture_stdout=True
        )
    return done.stdout.decode().splitlines(), list(stored_files(tmp_path / "store").values())

"""Pages beside the rooms: an HTTP handler with routes and static files.

**Goal.** Of a directory exactly the plain files below it, and of nothing else a
sign: whatever is no such file is the same 404 as a file that is absent.

**What does not work.** To join paths and look for `..` in them: `%2e%2e`,
`%2f`, backslashes, NUL and symbolic links are ways around. To guess a type from
content: a text that somebody uploaded is then a script.

**The rule.** Each segment of the path is decoded once. One that is empty, begins
with a dot, or has a slash, a backslash or a control character in it names
nothing. What is found, every symbolic link resolved, must be a regular file
below the directory with no such segment either. Types are a fixed table; what
is not in it is a download.

**The remaining hole.** Who may write in the directory can put a link there
between the look and the opening. A file that is changed in place twice within
the file system's clock tick, and keeps its size, keeps its `ETag`.
"""

from __future__ import annotations

import email.utils
import gzip
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Final
from urllib.parse import unquote_to_bytes

import attrs
import trio

from ..._accept import AcceptHook
from ..._handshake import Handshake
from ..._http_values import HttpHandler, HttpRequest, HttpResponse
from ...errors import OptionError, Refuse
from .files import Directory, Files, Found, Pieces, Resources

__all__ = ["CONTENT_SECURITY_POLICY", "Site", "allow_origins", "found_response"]

#: Nothing from elsewhere, no inline scripts and styles, in nobody's frame.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'"
)

_TEXT: Final = "; charset=utf-8"
_TYPES: Final = {
    "avif": "image/avif",
    "css": "text/css" + _TEXT,
    "gif": "image/gif",
    "html": "text/html" + _TEXT,
    "ico": "image/x-icon",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript" + _TEXT,
    "json": "application/json",
    "map": "application/json",
    "mjs": "text/javascript" + _TEXT,
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain" + _TEXT,
    "wasm": "application/wasm",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xml": "application/xml",
}

#: What gzip makes much smaller, by its type.
_SQUEEZED: Final = frozenset(
    kind for kind in _TYPES.values() if kind.endswith((_TEXT, "json", "xml"))
)
#: Smaller files are not worth it.
_WORTH_BYTES: Final = 1024

_ENCODED: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_FORBIDDEN: Final = re.compile(r"[/\\\x00-\x1f\x7f]")
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_GZIP: Final = re.compile(r"gzip(?!\s*;\s*q=0(?:\.0*)?\s*$)(?:\s*;.*)?", re.IGNORECASE)
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
# RFC 6454, 6.2, and what browsers send: lower case, no default port, no slash behind.
_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?!0)[0-9]{1,5})?"
)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Site:
    """An HTTP handler: `routes` by their path, else a file of `files`.

    A route's path is exact, as sent; one that ends in "/*" has all that begins with what
    is before the star. An exact one comes first, then the longest.
    `files` is a directory, or what `importlib.resources.files()` gives; of the
    latter, where it is no directory, a file is read as a whole. Of a directory
    with a slash behind it there is `index.html`; without one there is a redirect.
    Texts of 1 to 64 KiB are compressed for who takes gzip.
    `policy` is the `Content-Security-Policy`, None for none. It and the other
    safety headers are added to all answers that lack them, those of routes too.
    """

    def __init__(
        self,
        routes: Mapping[str, HttpHandler] | None = None,
        files: str | os.PathLike[str] | Traversable | None = None,
        *,
        policy: str | None = CONTENT_SECURITY_POLICY,
    ) -> None:
        self._routes = dict(routes or {})
        for path in self._routes:
            if not re.fullmatch(r"/[!-~]*", path) or "?" in path:
                raise OptionError("routes", 'must have paths that begin with "/", as sent', path)
        wide = sorted((path for path in self._routes if path.endswith("/*")), key=len)
        self._wide = [(path[:-1], self._routes[path]) for path in reversed(wide)]
        self._files: Files | None = None
        if isinstance(files, (str, os.PathLike)):
            self._files = Directory(files)
        elif files is not None:
            self._files = Resources(files)
        self._safety = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        if policy is not None:
            self._safety["Content-Security-Policy"] = policy

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """The answer. Raises what a route does; cancelled, no file stays open."""
        await trio.lowlevel.checkpoint()
        route = self._route(request.path)
        answer = await (self._static(request) if route is None else route(request))
        if not isinstance(answer, HttpResponse):
            return answer  # which is the server's to complain of
        given = {name.lower() for name in answer.headers}
        more = {name: value for name, value in self._safety.items() if name.lower() not in given}
        return attrs.evolve(answer, headers={**answer.headers, **more})

    def _route(self, path: str) -> HttpHandler | None:
        if (exact := self._routes.get(path)) is not None:
            return exact
        return next((route for start, route in self._wide if path.startswith(start)), None)

    async def _static(self, request: HttpRequest) -> HttpResponse:
        names = _names(request.path)
        if self._files is None or names is None:
            return _text(404, "not found")
        kind = _kind(names[-1] or "index.html")
        squeezes = kind in _SQUEEZED and _takes_gzip(request)
        found = await trio.to_thread.run_sync(_find, self._files, names, squeezes)
        if found is None:
            return _text(404, "not found")
        if request.method not in ("GET", "HEAD"):
            return _text(405, "not allowed", Allow="GET, HEAD")
        if found.is_folder:
            query = f"?{request.query}" if request.query else ""
            return _text(301, "moved", Location=f"{request.path}/{query}")
        return _answer(request, found, kind)


def _names(path: str) -> list[str] | None:
    """The segments of `path`, the last one "" for a folder; None if they name nothing."""
    names = []
    for segment in path[1:].split("/"):
        if not _ENCODED.fullmatch(segment):
            return None
        try:
            name = unquote_to_bytes(segment).decode()
        except UnicodeDecodeError:
            return None
        if name.startswith(".") or _FORBIDDEN.search(name):
            return None
        names.append(name)
    return None if "" in names[:-1] else names


def _text(status: int, text: str, **headers: str) -> HttpResponse:
    return HttpResponse(status, {"Content-Type": "text/plain" + _TEXT, **headers}, text.encode())


def _kind(name: str) -> str | None:
    return _TYPES.get(os.path.splitext(name)[1][1:].lower())


def _takes_gzip(request: HttpRequest) -> bool:
    codings = request.headers.get("Accept-Encoding", "").split(",")
    return any(_GZIP.fullmatch(coding.strip()) for coding in codings)


def _find(files: Files, names: Sequence[str], squeezes: bool) -> Found | None:
    """What these names mean; a small text made smaller: another file, with a tag of its own."""
    found = files.find(names)
    if not squeezes or found is None or found.content is None or found.size < _WORTH_BYTES:
        return found
    data = gzip.compress(found.content, mtime=0)
    tag = f'{found.tag[:-1]}-gzip"'
    return attrs.evolve(found, size=len(data), tag=tag, content=data, coding="gzip")


def _answer(request: HttpRequest, found: Found, kind: str | None) -> HttpResponse:
    content = {"Content-Type": kind or "application/octet-stream"}
    if kind is None:
        content["Content-Disposition"] = "attachment"
    if found.coding:
        content["Content-Encoding"] = found.coding
    lasting = {"Vary": "Accept-Encoding"} if kind in _SQUEEZED else {}
    return found_response(request, found, content, lasting)


def found_response(
    request: HttpRequest,
    found: Found,
    content: Mapping[str, str],
    lasting: Mapping[str, str] | None = None,
) -> HttpResponse:
    """The answer to a GET or HEAD of a file: all of it, a range, or that it is not modified.

    `content` are headers about what is sent, `lasting` those that "304" has, too.
    """
    headers = {"ETag": found.tag, "Accept-Ranges": "bytes", **(lasting or {})}
    if found.modified is not None:
        headers["Last-Modified"] = email.utils.formatdate(found.modified, usegmt=True)
    if _is_fresh(request, found):
        return HttpResponse(304, headers)
    headers.update(content)
    start, end = 0, found.size
    part = _range(request, headers)
    if part is not None:
        start, end = _within(part, found.size)
        if start >= end:
            return _text(416, "no such range", **{"Content-Range": f"bytes */{found.size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    headers["Content-Length"] = str(end - start)
    if found.content is not None:
        return HttpResponse(200 if part is None else 206, headers, found.content[start:end])
    return HttpResponse(200 if part is None else 206, headers, Pieces(found, start, end))


def _is_fresh(request: HttpRequest, found: Found) -> bool:
    """The client has it already (RFC 9110, 13.2.2)."""
    wanted = request.headers.get("If-None-Match")
    if wanted is not None:
        return wanted.strip() == "*" or found.tag in _TAG.findall(wanted)
    since = _date(request.headers.get("If-Modified-Since", ""))
    return since is not None and found.modified is not None and found.modified <= since


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None


def _range(request: HttpRequest, headers: Mapping[str, str]) -> tuple[str, str] | None:
    """The one range that is asked for; None for none, several, or what is no range."""
    found = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if request.method != "GET" or found is None or found[0].endswith("=-"):
        return None
    if found[1] and found[2] and int(found[1]) > int(found[2]):
        return None
    condition = request.headers.get("If-Range")
    if condition not in (None, headers["ETag"], headers.get("Last-Modified")):
        return None
    return found[1], found[2]


def _within(part: tuple[str, str], size: int) -> tuple[int, int]:
    """The start, and the end behind the last byte, of a range in `size` bytes."""
    first, last = part
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def allow_origins(*origins: str, then: AcceptHook | None = None) -> AcceptHook:
    """An accept hook that takes pages of the server's own origin and of `origins` only.

    Each is as browsers send it: "https://www.example.com", in lower case, with
    a port only if it is not the scheme's own. Another page gets 403. Clients that
    are no page (no `Origin`) are taken: they could send any. `then` decides the rest.
    """
    for origin in origins:
        scheme = origin.partition(":")[0]
        port = _DEFAULT_PORTS.get(scheme)
        if not _ORIGIN.fullmatch(origin) or (port is not None and origin.endswith(port)):
            raise OptionError("origins", 'must be as "https://www.example.com"', origin)
    known = frozenset(origins)

    async def hook(handshake: Handshake) -> object:
        await trio.lowlevel.checkpoint()
        if handshake.origin is not None and handshake.origin not in known | _own(handshake):
            raise Refuse(403, "a page of another origin")
        return None if then is None else await then(handshake)

    return hook


def _own(handshake: Handshake) -> frozenset[str]:
    """The origins that this server's pages can have. TLS may end at a proxy in front."""
    host = handshake.headers.get("Host", "").lower()
    schemes = () if not host else ("https",) if handshake.secure else ("http", "https")
    return frozenset(f"{name}://{host.removesuffix(_DEFAULT_PORTS[name])}" for name in schemes)

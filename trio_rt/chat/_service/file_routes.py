"""Files of a chat by HTTP: uploads as tus 1.0.0 has them, and downloads.

    POST          /files                      begin an upload
    HEAD, PATCH   /files/uploads/<id>         how far it is; go on with it
    DELETE        /files/uploads/<id>         give it up
    GET, HEAD     /files/<sha256>/<name>      a file

**Goal.** Whoever may upload can, over links that break; and what one user has uploaded
does nothing in the browser of another but be seen, or be saved.

**The rule.** Only pages of the server's own origin, and programs that are no page, may
upload, as the user that `authorize` says; an upload is its user's alone. Downloads need no
more than the address, since an image in a page is asked for without a token. A file is an
image that is shown if its bytes are (see `sniff`), else a download of no known type. Nothing
of it may run: there is no type to run, and a sandbox around it.

**The remaining hole.** The name in an address is anybody's, so a file can be saved under
any name that a link gives it. A PATCH is bounded by `ServerLimits.body_bytes`, too.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Final, TypeAlias

import trio

from ..._accept import AcceptHook
from ..._handshake import Handshake
from ..._http_values import HttpHandler, HttpRequest, HttpResponse
from ...errors import OptionError, Refuse
from ...hub._server.rules import Who
from ...hub._server.site import found_response
from ...options import check_kind
from . import tus
from .file_names import address, disposition, name_in
from .files import FileStore
from .sniff import UNKNOWN
from .uploads import Upload

__all__ = ["Authorize", "authorize_by", "file_routes"]

_log: Final = logging.getLogger("trio_rt.chat")

#: Who asks: a user's id, or None for nobody who may.
Authorize: TypeAlias = Callable[[HttpRequest], Awaitable[str | None]]

_ADDRESS: Final = re.compile(r"([0-9a-f]{64})(?:/([^/]*))?")
_UPLOAD: Final = re.compile(r"uploads/([0-9a-f]{32})")
_PREFIX: Final = re.compile(r"(?:/[-\w.~]+)+", re.ASCII)

#: What the disk says when there is no more of it.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_LASTING: Final = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TUS: Final = {"Tus-Resumable": tus.VERSION, "Cache-Control": "no-store"}


def file_routes(
    store: FileStore, authorize: Authorize, *, path: str = "/files"
) -> dict[str, HttpHandler]:
    """Routes for a `Site`: `Site(routes={**file_routes(store, authorize)})`.

    `authorize(request)` says which user uploads; None is answered with 401, and `Refuse`
    as it says. Downloads are not asked for. `path` is where all of it is.
    """
    check_kind("store", store, FileStore)
    if not callable(authorize):
        raise OptionError("authorize", "must be an async function", authorize)
    if not isinstance(path, str) or not _PREFIX.fullmatch(path):
        raise OptionError("path", 'must be as "/files"', path)
    routes = _Routes(store, authorize, path)
    return {path: routes.answer, f"{path}/*": routes.answer}


def authorize_by(accept: AcceptHook) -> Authorize:
    """Uploads are for whom the chat's accept hook knows: its `Who`, and no guest without one."""

    async def authorize(request: HttpRequest) -> str | None:
        who = await accept(_handshake(request))
        return who.user if isinstance(who, Who) else None

    return authorize


class _Routes:
    def __init__(self, store: FileStore, authorize: Authorize, path: str) -> None:
        self._store = store
        self._authorize = authorize
        self._path = path

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Raises `Refuse`, also where the disk fails; and what the body does."""
        await trio.lowlevel.checkpoint()
        below = request.path.removeprefix(self._path).removeprefix("/")
        try:
            if below and (found := _ADDRESS.fullmatch(below)):
                return await self._download(request, found[1], found[2] or "")
            return await self._upload(request, below)
        except OSError as error:
            _log.exception("a file could not be written or read")
            if error.errno in _FULL:
                raise Refuse(507, "no room for the file", headers=_TUS) from error
            raise Refuse(500, "the files cannot be reached", headers=_TUS) from error

    # Downloads

    async def _download(self, request: HttpRequest, sha256: str, name: str) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            raise Refuse(405, "not allowed", headers={"Allow": "GET, HEAD"})
        found = await self._store.find(sha256)
        if found is None:
            raise Refuse(404, "not found")
        file, image = found
        content = {
            "Content-Type": image or UNKNOWN,
            "Content-Disposition": disposition(
                "attachment" if image is None else "inline", name_in(name)
            ),
        }
        return found_response(request, file, content, _LASTING)

    # Uploads

    async def _upload(self, request: HttpRequest, below: str) -> HttpResponse:
        try:
            return await self._tus(request, below)
        except Refuse as refusal:
            headers = {**_TUS, **refusal.headers}
            raise Refuse(refusal.status, refusal.text, headers=headers) from None

    async def _tus(self, request: HttpRequest, below: str) -> HttpResponse:
        found = _UPLOAD.fullmatch(below)
        if below and found is None:
            raise Refuse(404, "not found")
        method = _method(request)
        if method == "OPTIONS":
            return self._options()
        allowed = ("POST",) if found is None else ("HEAD", "PATCH", "DELETE")
        if method not in allowed:
            raise Refuse(405, "not allowed", headers={"Allow": ", ".join(("OPTIONS", *allowed))})
        user = await self._user(request)
        tus.check_version(request.headers)
        if found is None:
            return await self._begin(request, user)
        upload = self._store.find_upload(found[1], user)
        if method == "HEAD":
            return await self._head(upload)
        if method == "PATCH":
            return await self._patch(request, upload)
        await self._store.terminate(upload)
        return HttpResponse(204, _TUS)

    async def _user(self, request: HttpRequest) -> str:
        if not _handshake(request).same_origin:
            raise Refuse(403, "a page of another origin")
        user = await self._authorize(request)
        if user is None:
            raise Refuse(401, "who are you?", headers={"WWW-Authenticate": "Bearer"})
        return user

    def _options(self) -> HttpResponse:
        headers = {
            "Tus-Version": tus.VERSION,
            "Tus-Extension": tus.EXTENSIONS,
            "Tus-Max-Size": str(self._store.file_bytes),
            "Tus-Checksum-Algorithm": ",".join(tus.ALGORITHMS),
        }
        return HttpResponse(204, {**_TUS, **headers})

    async def _begin(self, request: HttpRequest, user: str) -> HttpResponse:
        wanted = tus.wanted(request.headers)
        has_body = _has_body(request)
        if has_body:
            _check_content(request, wanted.length, 0)
        upload = await self._store.begin(user, wanted)
        if has_body or wanted.length == 0:
            await self._receive(request, upload, 0)
        place = {"Location": f"{self._path}/uploads/{upload.id}"}
        return HttpResponse(201, {**self._progress(upload), **place})

    async def _head(self, upload: Upload) -> HttpResponse:
        await self._store.ask(upload)
        headers = self._progress(upload)
        if upload.length is None:
            headers["Upload-Defer-Length"] = "1"
        else:
            headers["Upload-Length"] = str(upload.length)
        return HttpResponse(200, headers)

    async def _patch(self, request: HttpRequest, upload: Upload) -> HttpResponse:
        offset = tus.number(request.headers, "Upload-Offset")
        if offset is None:
            raise Refuse(400, "Upload-Offset must be given")
        if upload.stored is None:
            _check_content(request, upload.length, offset)
            await self._receive(request, upload, offset)
        elif offset != upload.offset or _has_body(request):
            raise Refuse(409, "the upload is finished")
        return HttpResponse(204, self._progress(upload))

    async def _receive(self, request: HttpRequest, upload: Upload, offset: int) -> None:
        checksum = request.headers.get("Upload-Checksum")
        await self._store.receive(
            upload,
            offset,
            request.body,
            length=tus.number(request.headers, "Upload-Length"),
            checksum=None if checksum is None else tus.Checksum(checksum),
        )

    def _progress(self, upload: Upload) -> dict[str, str]:
        headers = {**_TUS, "Upload-Offset": str(upload.offset)}
        stored = upload.stored
        if stored is None:
            headers["Upload-Metadata"] = tus.metadata_header(upload.name, upload.type)
            headers["Upload-Expires"] = formatdate(self._store.expires_at(upload), usegmt=True)
        else:
            headers["Upload-Metadata"] = tus.metadata_header(stored.name, stored.type)
            headers["Content-Location"] = address(self._path, stored.sha256, stored.name)
        return headers


def _method(request: HttpRequest) -> str:
    """As tus has it: a client that cannot send PATCH and DELETE says so with POST."""
    if request.method != "POST":
        return request.method
    return request.headers.get("X-HTTP-Method-Override", "POST").upper()


def _handshake(request: HttpRequest) -> Handshake:
    """The request as accept hooks see one."""
    return Handshake(
        path=request.path,
        query=request.query,
        headers=request.headers,
        origin=request.headers.get("Origin"),
        remote=request.remote,
        secure=request.secure,
    )


def _has_body(request: HttpRequest) -> bool:
    length = request.headers.get("Content-Length", "0")
    return "Transfer-Encoding" in request.headers or length.strip("0") != ""


def _check_content(request: HttpRequest, length: int | None, offset: int) -> None:
    """Refuse what cannot be right before any of it is read."""
    if request.headers.get("Content-Type") != tus.CONTENT_TYPE:
        raise Refuse(415, f"the Content-Type must be {tus.CONTENT_TYPE}")
    size = tus.number(request.headers, "Content-Length") or 0
    if length is not None and offset + size > length:
        raise Refuse(413, f"the upload has {length} bytes")

"""The task of one upload: piece after piece by tus 1.0.0, over links that break.

**Goal.** The file arrives whole and once, as long as some link lasts long enough for some
bytes; and who watches is never waited for.

**What does not work.** To send all in one request: what a cut leaves of it is not known, and
a proxy may hold all of it. To believe what was sent: only what the service says it has is
there.

**The rule.** One piece is held until the service has it. Behind a failure the service is
asked how far it is, and it goes on from there; if the service has forgotten the upload, a
source that can be read again begins anew. A piece is to take about a second. At the end the
address has the hash of what was read here, or it is not the file.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

import attrs
import httpx
import trio

from ...http import Client
from ...options import Reconnect
from .pieces import Pace, Pieces
from .sources import Source
from .transfers import (
    CALL,
    FileCorrupted,
    FileRefused,
    Passing,
    Progress,
    StoredFile,
    Tries,
    passing_errors,
    refusal_of,
    sha256_in,
)

__all__ = ["Target", "Transfer"]

#: For one request, whose body is a piece. A link that takes longer is as good as none.
REQUEST_S: Final = 60.0

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_CONTENT: Final = {"Content-Type": "application/offset+octet-stream"}


@attrs.frozen(kw_only=True)
class Target:
    """Where an upload goes, and as what."""

    client: Client
    endpoint: str
    name: str
    #: "" if the service is to see for itself.
    type: str
    token: str | None = attrs.field(repr=False)


class Transfer:
    """One upload under way."""

    def __init__(
        self, target: Target, source: Source, reconnect: Reconnect, piece_bytes: int
    ) -> None:
        self.stored: StoredFile | None = None
        self.failure: Exception | None = None
        self._target = target
        self._pieces = Pieces(source)
        self._tries = Tries(reconnect)
        self._pace = Pace(piece_bytes)
        self._passing = passing_errors(target.client)
        self._changed = trio.Event()
        self._told = self.progress
        self._url: str | None = None
        #: The most that the service ever had.
        self._best = 0

    @property
    def progress(self) -> Progress:
        return Progress(self._pieces.offset, self._pieces.size)

    @property
    def over(self) -> bool:
        return self.stored is not None or self.failure is not None

    async def wait_changed(self) -> None:
        """Until there is progress, or the end."""
        await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def work(self) -> None:
        """Raises nothing: see `stored` and `failure`. Cancelled, the service has what it has."""
        try:
            self.stored = await self._transfer()
        except Exception as error:
            self.failure = error
        self._tell()

    async def _transfer(self) -> StoredFile:
        while True:
            try:
                stored = await (self._begin() if self._url is None else self._ask())
                while stored is None:
                    stored = await self._send()
                return stored
            except Passing as failure:
                self._pace.failed()
                await self._tries.wait(failure)

    # Requests

    async def _begin(self) -> StoredFile | None:
        await self._go_to(0)
        piece = await self._pieces.next(self._pace.piece_bytes)
        size = self._pieces.size
        headers = {"Upload-Metadata": self._metadata(), **(_CONTENT if piece else {})}
        headers |= {"Upload-Defer-Length": "1"} if size is None else {"Upload-Length": str(size)}
        response = await self._call("POST", self._target.endpoint, (201,), headers, piece)
        self._url = self._place(response)
        return await self._heard(response)

    async def _ask(self) -> StoredFile | None:
        assert self._url is not None
        response = await self._call("HEAD", self._url, (200, 204), {}, b"")
        return await self._heard(response)

    async def _send(self) -> StoredFile | None:
        assert self._url is not None
        piece = await self._pieces.next(self._pace.piece_bytes)
        before, size = self._pieces.offset, self._pieces.size
        headers = {"Upload-Offset": str(before), **_CONTENT}
        if before + len(piece) == size:
            headers["Upload-Length"] = str(size)
        began = trio.current_time()
        response = await self._call("PATCH", self._url, (200, 204), headers, piece)
        self._pace.took(trio.current_time() - began)
        stored = await self._heard(response)
        if stored is None and self._pieces.offset == before:
            raise Passing(FileRefused(response.status_code, "nothing of a piece was taken"))
        return stored

    async def _call(
        self,
        method: str,
        url: str,
        wanted: tuple[int, ...],
        headers: dict[str, str],
        piece: bytes,
    ) -> httpx.Response:
        headers = {"Tus-Resumable": "1.0.0", **headers}
        if self._target.token is not None:
            headers["Authorization"] = f"Bearer {self._target.token}"
        options: dict[str, Any] = {**CALL, "headers": headers, "timeout_s": REQUEST_S}
        if piece or method == "PATCH":
            options["content"] = piece
        try:
            response: httpx.Response = await self._target.client.request(method, url, **options)
        except self._passing as error:
            raise Passing(error) from error
        status = response.status_code
        if status in wanted:
            return response
        refusal = refusal_of(response, response.text)
        if status in (404, 410) and self._url is not None and isinstance(refusal, FileRefused):
            self._url = None
            raise Passing(refusal)
        raise refusal

    def _metadata(self) -> str:
        pairs = {"filename": self._target.name, "filetype": self._target.type}
        return ",".join(
            f"{key} {base64.b64encode(value.encode()).decode()}"
            for key, value in pairs.items()
            if value
        )

    def _place(self, response: httpx.Response) -> str:
        """Where the upload is: at the same server, whatever the answer says."""
        location: str = response.headers.get("location", "")
        if self._target.endpoint.startswith("/") and re.match(r"/(?!/)", location):
            return location
        place = response.url.join(location)
        here = response.url
        if (place.scheme, place.host, place.port) != (here.scheme, here.host, here.port):
            raise FileRefused(response.status_code, "the upload is to go to another server")
        return str(place)

    # What the service says

    async def _heard(self, response: httpx.Response) -> StoredFile | None:
        """Go to where the service is. The file, if that is the end."""
        given = response.headers.get("upload-offset", "0")
        if not _NUMBER.fullmatch(given):
            raise FileRefused(response.status_code, "the Upload-Offset is no number")
        await self._go_to(int(given))
        place = response.headers.get("content-location")
        if place is not None and self._pieces.offset == self._pieces.size:
            return self._checked(place, response.headers.get("upload-metadata", ""))
        return None

    async def _go_to(self, offset: int) -> None:
        if not await self._pieces.go_to(offset):
            raise FileRefused(410, "the service has lost what it had, of a source that is past")
        if offset > self._best:
            self._best = offset
            self._tries.progress()
        if self.progress != self._told:
            self._told = self.progress
            self._tell()

    def _checked(self, place: str, metadata: str) -> StoredFile:
        sha256 = self._pieces.sha256
        if sha256_in(place) != sha256:
            raise FileCorrupted("the service has something else than was sent")
        told = _told(metadata)
        return StoredFile(
            path=place,
            name=told.get("filename", self._target.name),
            type=told.get("filetype", "application/octet-stream"),
            size=self._pieces.offset,
            sha256=sha256,
        )


def _told(metadata: str) -> dict[str, str]:
    """What the service says of the file, as far as it can be read."""
    found = {}
    for pair in metadata.split(","):
        key, _, value = pair.strip().partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            continue
    return found

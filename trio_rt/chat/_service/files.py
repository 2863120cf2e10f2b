"""Files of a chat, kept by their content: `FileStore`.

A file's address is the SHA-256 of its content, so two uploads of the same content are one
file, an address never shows anything else, and whoever has not been told it cannot ask for
it. How it is done on the disk is in `disk`; how many uploads may be under way, in `uploads`.

**The remaining hole.** Who has a file knows its address: they can learn whether somebody
else has uploaded it, too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Collection
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from ..._ambient import ambient
from ...errors import Refuse
from ...hub._server.files import Found
from ...options import check_number
from .disk import Disk
from .sniff import UNKNOWN, check_types, judged, may_be, sniffed
from .tus import Checksum, Wanted
from .uploads import Stored, Upload, Uploads

__all__ = ["FileStatistics", "FileStore"]

T = TypeVar("T")

#: Collected before it is written, of each upload: small packets are not worth a thread each.
_WRITE_BYTES: Final = 64 << 10
#: Threads at work for one store: a disk is no faster with more.
_THREADS: Final = 4
#: For the last bytes of a request that is cancelled to get a thread.
_FLUSH_S: Final = 5.0


@attrs.frozen(kw_only=True)
class FileStatistics:
    """What is there. `reserved_bytes` are for the unfinished uploads, at their full lengths."""

    files: int
    total_bytes: int
    unfinished: int
    reserved_bytes: int


class FileStore:
    """Files in `directory`, which is made if it is not there, and belongs to this process.

    - `file_bytes`: the largest file.
    - `total_bytes`: of all files, and of what is reserved for unfinished uploads.
    - `unfinished`, `unfinished_per_user`: how many uploads may be under way.
    - `unfinished_s`: how long one is kept after its last byte.
    - `types`: what may be uploaded: "image/png", "image/*", "*/*".

    Made anew after a crash it goes on with the uploads that were under way. Reading the
    directory blocks, at the beginning only. Methods raise `Refuse`, and `OSError` where the
    disk fails; cancelled, each is either done or not begun.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        file_bytes: int = 16 << 20,
        total_bytes: float = 10 << 30,
        unfinished: float = 1000,
        unfinished_per_user: float = 16,
        unfinished_s: float = 86_400.0,
        types: Collection[str] = ("*/*",),
    ) -> None:
        check_number("file_bytes", file_bytes, least=1, whole=True, finite=True)
        check_number("total_bytes", total_bytes, least=1, whole=True)
        check_number("unfinished", unfinished, least=1, whole=True)
        check_number("unfinished_per_user", unfinished_per_user, least=1, whole=True)
        check_number("unfinished_s", unfinished_s, above=True)
        self._types = check_types("types", types)
        self.file_bytes: Final = file_bytes
        self._total_bytes = total_bytes
        self._disk = Disk(directory)
        #: Uploads that are dropped and lie on the disk still.
        self._litter: list[str] = []
        self._threads = trio.CapacityLimiter(_THREADS)
        self._uploads = Uploads(
            most=unfinished,
            per_user=unfinished_per_user,
            most_bytes=file_bytes,
            keep_s=unfinished_s,
        )
        sizes = list(self._disk.sizes())
        self._files, self._bytes = len(sizes), sum(sizes)
        for upload in self._disk.unfinished():
            self._uploads.add(upload)

    # Uploads

    async def begin(self, user: str, wanted: Wanted) -> Upload:
        """A new upload of this user's."""
        if wanted.type != UNKNOWN and not may_be(wanted.type, self._types):
            raise Refuse(415, f"files of the type {wanted.type} are not taken")
        if (wanted.length or 0) > self.file_bytes:
            raise self._too_large()
        now = ambient().wall_s()
        left = self._total_bytes - self._bytes
        self._litter += [each.id for each in self._uploads.expired(now)]
        victims = self._uploads.make_room(user, wanted.length, left, now)
        self._litter += [each.id for each in victims]
        upload = Upload(
            id=f"{ambient().random.getrandbits(128):032x}",
            user=user,
            name=wanted.name,
            type=wanted.type,
            length=wanted.length,
            touched_at=now,
        )
        self._uploads.add(upload)
        over, self._litter = self._litter, []
        try:
            await self._in_thread(partial(self._begin, upload, over))
        except BaseException:
            self._litter += over
            self._uploads.drop(upload)
            raise
        return upload

    def _begin(self, upload: Upload, over: list[str]) -> None:
        for id in over:
            self._disk.discard(id)
        self._disk.begin(upload)

    def find_upload(self, id: str, user: str) -> Upload:
        """The user's upload of that id, which may be finished. Raises `Refuse` (404)."""
        found = self._uploads.get(id, user)
        now = ambient().wall_s()
        if found is None or not (found.busy or now < self._uploads.expires_at(found)):
            raise Refuse(404, "no such upload")
        return found

    def expires_at(self, upload: Upload) -> float:
        """Seconds since the epoch."""
        return self._uploads.expires_at(upload)

    async def receive(
        self,
        upload: Upload,
        offset: int,
        body: AsyncIterable[bytes],
        *,
        length: int | None = None,
        checksum: Checksum | None = None,
    ) -> None:
        """Take the bytes of `body` from `offset` on, and make a file of it behind the last.

        `length` is for an upload that had none. What `body` raises is raised; what came
        before is kept, unless there is a `checksum` for all of it. Cancelled, too.
        """
        with upload.turn():
            if offset != upload.offset:
                raise Refuse(409, f"the next byte is that at {upload.offset}")
            if length is not None:
                await self._set_length(upload, length)
            with upload.reading():
                await self._take(upload, body, checksum)
            await self._finish(upload)

    async def _set_length(self, upload: Upload, length: int) -> None:
        if upload.length is not None:
            if upload.length != length:
                raise Refuse(400, f"the upload's length is {upload.length}")
            return
        if length > self.file_bytes:
            raise self._too_large()
        if length < upload.offset:
            raise Refuse(400, f"there are {upload.offset} bytes already")
        await self._in_thread(partial(self._disk.note, upload, length))
        upload.length = length

    async def _take(
        self, upload: Upload, body: AsyncIterable[bytes], checksum: Checksum | None
    ) -> None:
        start, held = upload.offset, bytearray()
        most = self.file_bytes if upload.length is None else upload.length
        is_whole = False
        try:
            async for piece in body:
                if upload.offset + len(held) + len(piece) > most:
                    raise Refuse(413, f"the upload has {most} bytes")
                if checksum is not None:
                    checksum.update(piece)
                held += piece
                if len(held) >= _WRITE_BYTES:
                    await self._write(upload, held)
            if checksum is not None:
                checksum.check()
            is_whole = True
        finally:
            # ASYNC912: there may be nothing left to write.
            with trio.move_on_after(_FLUSH_S, shield=True):  # noqa: ASYNC912
                if checksum is None or is_whole:
                    await self._write(upload, held)
                elif upload.offset > start:
                    await self._in_thread(partial(self._disk.truncate, upload.id, start))
                    upload.offset = start

    async def _write(self, upload: Upload, held: bytearray) -> None:
        data = bytes(held)
        held.clear()
        if data:
            await self._in_thread(partial(self._disk.write, upload.id, upload.offset, data))
            upload.offset += len(data)
            upload.touched_at = ambient().wall_s()

    async def ask(self, upload: Upload) -> None:
        """Have `upload.offset` be what it stays: a request that still waits for bytes is ended.

        Who asks has lost its link. What a former request has left whole becomes a file.
        """
        await upload.interrupt()
        if upload.stored is None:
            with upload.turn():
                await self._finish(upload)

    async def terminate(self, upload: Upload) -> None:
        """Forget it. A file that it has become stays."""
        await upload.interrupt()
        with upload.turn():
            if upload.stored is None:
                await self._in_thread(partial(self._disk.discard, upload.id))
            self._uploads.drop(upload)

    async def _finish(self, upload: Upload) -> None:
        """If it is whole, make a file of it, or delete what may be none."""
        if upload.stored is not None or upload.offset != upload.length:
            return
        if upload.known is None:
            upload.known = await self._in_thread(partial(self._disk.look, upload.id))
        known = upload.known
        kind = judged(upload.type, known.head)
        if kind is None or not may_be(kind, self._types):
            await self._in_thread(partial(self._disk.discard, upload.id))
            self._uploads.drop(upload)
            raise Refuse(415, f"the content is no {upload.type}, or is not taken")
        is_new = await self._in_thread(partial(self._disk.keep, upload.id, known.sha256))
        if is_new:
            self._files += 1
            self._bytes += known.size
        stored = Stored(sha256=known.sha256, size=known.size, name=upload.name, type=kind)
        self._uploads.finish(upload, stored)

    # Files

    async def find(self, sha256: str) -> tuple[Found, str | None] | None:
        """A file, and the image that it is, if it is one; None if there is no such file."""
        known = await self._in_thread(partial(self._disk.find, sha256))
        if known is None:
            return None
        reopen = partial(self._disk.open, sha256)
        return Found(size=known.size, tag=f'"{sha256}"', open=reopen), sniffed(known.head)

    async def delete(self, sha256: str) -> bool:
        """Delete a file; False if there was none. Browsers may have it still."""
        size = await self._in_thread(partial(self._disk.delete, sha256))
        if size is not None:
            self._files -= 1
            self._bytes -= size
        return size is not None

    def statistics(self) -> FileStatistics:
        return FileStatistics(
            files=self._files,
            total_bytes=self._bytes,
            unfinished=len(self._uploads),
            reserved_bytes=self._uploads.reserved_bytes,
        )

    def _too_large(self) -> Refuse:
        return Refuse(413, f"a file has at most {self.file_bytes} bytes")

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._threads)

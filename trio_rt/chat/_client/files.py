"""Files of a chat at its client: `open_upload()` and `download()`."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import httpx
import trio

from ...errors import OptionError
from ...http import Client, open_client
from ...options import Reconnect, check_kind, check_number
from .downloading import Download
from .sources import SourceLike, guessed_type, open_source
from .transfers import Progress, StoredFile, sha256_in
from .uploading import Target, Transfer

__all__ = ["Upload", "download", "open_upload"]

#: Each try is at most 30 s after the last, for five minutes without a byte.
RECONNECT: Final = Reconnect(give_up_after_s=300.0)

#: Of an answer to an upload, which has no use for more than a line.
_ANSWER_BYTES: Final = 1 << 20

#: Of one request: as much as `ServerLimits.body_bytes` takes by default.
PIECE_BYTES: Final = 1 << 20

_TOKEN: Final = re.compile(r"[!-~]+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Upload:
    """A file on its way. Iterate over it for its progress, as often as you like.

    The newest `Progress` is given, and what was missed is left out; the upload waits for
    nobody. It goes back only where the service has lost something. The iteration ends with
    the upload, also if that has failed.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    @property
    def progress(self) -> Progress:
        return self._transfer.progress

    async def file(self) -> StoredFile:
        """The file, when the service has it. Cancelled, the upload goes on.

        Raises `FileRefused` (the service will not have it), `FileCorrupted`,
        `AttemptsExhausted` (no link for too long), and what the source raises.
        """
        await trio.lowlevel.checkpoint()
        while not self._transfer.over:
            await self._transfer.wait_changed()
        if self._transfer.failure is not None:
            raise self._transfer.failure
        assert self._transfer.stored is not None
        return self._transfer.stored

    def __aiter__(self) -> AsyncIterator[Progress]:
        return _ProgressStream(self._transfer)


class _ProgressStream(AsyncIterator[Progress]):
    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._last: Progress | None = None

    async def __anext__(self) -> Progress:
        await trio.lowlevel.checkpoint()
        while self._transfer.progress == self._last:
            if self._transfer.over:
                raise StopAsyncIteration
            await self._transfer.wait_changed()
        self._last = self._transfer.progress
        return self._last


def open_upload(
    client: Client | str | httpx.URL,
    source: SourceLike,
    *,
    name: str | None = None,
    type: str | None = None,
    size: int | None = None,
    token: str | None = None,
    endpoint: str = "/files",
    reconnect: Reconnect = RECONNECT,
    piece_bytes: int = PIECE_BYTES,
) -> AbstractAsyncContextManager[Upload]:
    """Upload a file: `async with open_upload(url, path, token=...) as upload:`.

    - `client`: of `trio_rt.http`, with the chat's server as its base; or that server's URL.
    - `source`: a path, bytes, or an async iterable of bytes, of which `size` may be given.
      What an iterable has yielded is read once: if the service forgets it, the upload fails.
    - `name`, `type`: by default those of the path; an image is known by its content.
    - `token`: that of the chat, for `Authorization: Bearer`.
    - `endpoint`: where the service takes files; a path, or a whole URL.
    - `reconnect`: tries without a new byte in between, and for how long.
    - `piece_bytes`: the largest body of one request.

    The transfer begins at once, and `await upload.file()` is the file. Leaving the block
    before it is there ends the transfer: what the service has of it expires there. Raises
    `OptionError`, and `OSError` for a path that cannot be read.
    """
    for field, text in (("name", name), ("type", type), ("endpoint", endpoint)):
        if text is not None and not _is_text(text):
            raise OptionError(field, "must be text that UTF-8 can encode", text)
    if token is not None and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
        raise OptionError("token", "must be visible ASCII", "(hidden)")
    check_kind("reconnect", reconnect, Reconnect)
    check_number("piece_bytes", piece_bytes, least=1, whole=True, finite=True)

    def target(opened: Client, own_name: str) -> Target:
        shown = name if name is not None else own_name
        kind = guessed_type(shown) if type is None else type
        return Target(client=opened, endpoint=endpoint, name=shown, type=kind, token=token)

    return _open_upload(client, source, size, target, reconnect, piece_bytes)


@asynccontextmanager
async def _open_upload(
    client: Client | str | httpx.URL,
    given: SourceLike,
    size: int | None,
    target: Callable[[Client, str], Target],
    reconnect: Reconnect,
    piece_bytes: int,
) -> AsyncIterator[Upload]:
    error: BaseException | None = None
    source = await open_source(given, size)
    try:
        async with _opened(client, _ANSWER_BYTES) as opened, trio.open_nursery() as nursery:
            transfer = Transfer(target(opened, source.name), source, reconnect, piece_bytes)
            nursery.start_soon(transfer.work)
            try:
                yield Upload(transfer)
            except BaseException as caught:  # noqa: ASYNC103 - raised outside, in no group
                error = caught
            nursery.cancel_scope.cancel()
    except BaseException as caught:  # noqa: ASYNC103 - the same
        # The task raises nothing: it is a cancellation from around, or Ctrl-C.
        if error is None or not _is_cancellation(caught):
            error = caught
    finally:
        await source.aclose()
    if error is not None:
        raise error


@asynccontextmanager
async def _opened(client: Client | str | httpx.URL, most_bytes: float) -> AsyncIterator[Client]:
    """The client that is given, or one for this block, with answers of at most so many bytes."""
    if isinstance(client, Client):
        yield client
        return
    async with open_client(client, cache=False, retry=False, max_body_bytes=most_bytes) as opened:
        yield opened


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


@asynccontextmanager
async def download(
    client: Client | str | httpx.URL,
    path: str,
    *,
    sha256: str | None = None,
    size: int | None = None,
    reconnect: Reconnect = RECONNECT,
) -> AsyncIterator[Download]:
    """Download a file: `async with download(url, message.content) as file: async for piece in file`.

    - `client`: as for `open_upload()`.
    - `path`: the file's address, at the chat's server.
    - `sha256`: of its content, for an address that does not say it; `size`: in bytes.

    It goes on over lost links, from where it was. Behind the last byte, not before, it is
    known whether all was what the address says: if not, the iteration ends with
    `FileCorrupted`. It raises `FileRefused` (there is no such file) and `AttemptsExhausted`,
    too. Leaving the block ends the download.
    """
    if not _is_text(path):
        raise OptionError("path", "must be a file's address", path)
    wanted = sha256_in(path) if sha256 is None else sha256
    if not isinstance(wanted, str) or not _SHA256.fullmatch(wanted):
        raise OptionError("sha256", "must be 64 hexadecimal digits, or be in the path", sha256)
    if size is not None:
        check_number("size", size, whole=True, finite=True)
    check_kind("reconnect", reconnect, Reconnect)
    async with _opened(client, math.inf) as opened:
        file = Download(opened, path, wanted, size, reconnect)
        try:
            yield file
        finally:
            await file.aclose()

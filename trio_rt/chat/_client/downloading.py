"""The bytes of a file from the chat's service, checked, over links that break."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import trio

from ...errors import CallTimeout
from ...http import Client
from ...options import Reconnect
from .transfers import CALL, FileCorrupted, Passing, Tries, passing_errors, refusal_of

__all__ = ["Download"]

#: A link on which nothing comes for so long is as good as none.
SILENCE_S: Final = 30.0

_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")


class Download(AsyncIterator[bytes]):
    """The bytes of a file, to be read once. See `download()`."""

    def __init__(
        self, client: Client, path: str, sha256: str, size: int | None, reconnect: Reconnect
    ) -> None:
        #: In bytes; None until the service has said it.
        self.size = size
        self.received = 0
        self._client = client
        self._path = path
        self._sha256 = sha256
        self._hash = hashlib.sha256()
        self._tries = Tries(reconnect)
        self._passing = passing_errors(client)
        self._context: Any = None
        self._pieces: Any = None
        #: Bytes to come that are here already.
        self._again = 0
        self._ended = False

    async def __anext__(self) -> bytes:
        """Some bytes. Cancelled: the download is over."""
        await trio.lowlevel.checkpoint()
        while not self._ended:
            try:
                piece = await self._receive()
            except Passing as failure:
                await self._tries.wait(failure)
                continue
            if piece:
                return piece
        raise StopAsyncIteration

    async def read(self) -> bytes:
        """All the rest of it."""
        return b"".join([piece async for piece in self])

    async def _receive(self) -> bytes:
        """Some bytes, or b"" for none of them; behind the last it is the end."""
        piece = None
        try:
            with trio.move_on_after(SILENCE_S):
                if self._pieces is None:
                    self._pieces = await self._ask()
                piece = await anext(self._pieces, b"")
        except self._passing as error:
            await self.aclose()
            raise Passing(error) from error
        if piece is None:
            await self.aclose()
            raise Passing(CallTimeout(SILENCE_S, "body"))
        if not piece:
            await self.aclose()
            self._check_end()
            return b""
        again = min(self._again, len(piece))
        self._again -= again
        piece = piece[again:]
        if not piece:
            return b""
        self._hash.update(piece)
        self.received += len(piece)
        self._check_size(self.received)
        self._tries.progress()
        return piece

    async def _ask(self) -> Any:
        """For all that is missing."""
        headers = {"Accept-Encoding": "identity"}
        if self.received:
            headers |= {"Range": f"bytes={self.received}-", "If-Range": f'"{self._sha256}"'}
        options = {**CALL, "headers": headers, "timeout_s": math.inf}
        context: Any = self._client.stream("GET", self._path, **options)
        response: httpx.Response = await context.__aenter__()
        self._context = context
        start = self._start(response)
        if start is None:
            refusal = refusal_of(response, response.reason_phrase)
            await self.aclose()
            raise refusal
        self._again = self.received - start
        # Not `aiter_raw()`: left in the middle, the generators below it would stay open.
        return aiter(response.stream)  # type: ignore[arg-type]

    def _start(self, response: httpx.Response) -> int | None:
        """Where in the file the answer begins; None if it is none of it."""
        if response.status_code == 200:
            length = response.headers.get("content-length")
            if length is not None and length.isdecimal():
                self._check_size(int(length), whole=True)
            return 0
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if response.status_code != 206 or found is None or int(found[1]) != self.received:
            return None
        self._check_size(int(found[2]), whole=True)
        return self.received

    def _check_size(self, size: int, *, whole: bool = False) -> None:
        if self.size is None and whole:
            self.size = size
        if self.size is not None and (size > self.size or (whole and size != self.size)):
            raise FileCorrupted(f"the file has not {self.size} bytes")

    def _check_end(self) -> None:
        if self.size is not None and self.received < self.size:
            raise Passing(FileCorrupted(f"the file ends after {self.received} bytes"))
        self._ended = True
        if self._hash.hexdigest() != self._sha256:
            raise FileCorrupted("the content is not that of the address")

    async def aclose(self) -> None:
        """Read nothing more."""
        context, self._context = self._context, None
        pieces, self._pieces = self._pieces, None
        if hasattr(pieces, "aclose"):
            await pieces.aclose()
        if context is not None:
            await context.__aexit__(None, None, None)
        await trio.lowlevel.checkpoint()

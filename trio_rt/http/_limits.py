"""A bound for what a response may bring into memory, on the wire and unpacked.

httpx unpacks by itself, as much as there is: 204 kB of gzip become 200 MiB. Here
the body is unpacked below httpx, in small pieces that are counted, and reaches
it as a plain one. So `Content-Encoding` and `Content-Length` are gone from the
response, and a cache above stores what is unpacked already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import cache
from typing import Any, Final

import httpx
import trio

from ..errors import BodyTooLarge
from ..options import check_number
from ._backend import backend_of
from ._body import CLOSE_S
from ._layer import Layer, Next
from ._stage import KEY
from ._unpack import PACKINGS, Unpacker

__all__ = ["BodyLimit"]

#: What httpx unpacks, where it can. Others, "utf-8" or "none", are a server's mistake.
CODINGS: Final = PACKINGS | {"br", "zstd"}

#: Nobody has a use for more; a chain of them is an attack.
MAX_CODINGS: Final = 2

#: A page, a report, a picture; not a video. Larger bodies are asked for by an option.
MAX_BODY_BYTES: Final = 64 * 2**20


#: A body that says to be so short is read to its end by whoever reads it at all: a
#: client, a cache, or a retry that wants its connection back.
SHORT_BYTES: Final = 65536

#: Parts that a closed connection may still have: a read of 64 KiB in chunks of one byte.
MOST_BUFFERED: Final = 65536 // len("1\r\nx\r\n") + 1


_LENGTH_SIZE: Final = len("content-length")
_ENCODING_SIZE: Final = len("content-encoding")
_TRANSFER_SIZE: Final = len("transfer-encoding")


class BodyLimit(Layer):
    """No body has more than `max_body_bytes`, packed or unpacked; `math.inf`: no limit.

    Past it the read raises `BodyTooLarge`; at once where `Content-Length` says so.
    A packed body that is broken or cut is the backend's `DecodingError`, and so is
    brotli or zstd. One that the request's own `Accept-Encoding` names goes through as
    it is, and only its packed bytes are counted. A coding that httpx does not know
    stands for none.
    """

    def __init__(self, max_body_bytes: float = MAX_BODY_BYTES) -> None:
        check_number("max_body_bytes", max_body_bytes, whole=True)
        self.max_body_bytes = max_body_bytes

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        """A response that is refused is closed."""
        response = await call_next(request)
        progress: Any = request.extensions.get(KEY)
        if progress is not None:
            progress.stage = "body"
        if response.is_closed or request.method == "HEAD":
            return response
        try:
            self._bound(request, response, progress)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await response.aclose()
            raise
        return response

    def _bound(self, request: httpx.Request, response: httpx.Response, progress: Any) -> None:
        length = packed = b""
        is_framed = False
        for name, value in response.headers.raw:  # half the time of two look-ups
            size = len(name)
            if size == _TRANSFER_SIZE and name.lower() == b"transfer-encoding":
                is_framed = True  # whatever the length says
            elif size == _LENGTH_SIZE and name.lower() == b"content-length":
                length = value
            elif size == _ENCODING_SIZE and name.lower() == b"content-encoding":
                packed += b"," + value
        is_short = False
        if length.isdigit():
            if int(length) > self.max_body_bytes:
                raise BodyTooLarge("has more bytes than", int(self.max_body_bytes))
            is_short = int(length) <= SHORT_BYTES and not is_framed
        codings = self._codings(request, packed.decode("latin-1")) if packed else ()
        if codings:
            del response.headers["content-encoding"]
            response.headers.pop("content-length", None)
        elif is_short and progress is not None and progress.is_bounded:
            return  # nobody will stop in the midst of it, so its length is bound enough
        module = backend_of(request)
        response.stream = _bounded_class(module)(response.stream, self.max_body_bytes, codings)

    def _codings(self, request: httpx.Request, packed: str) -> Sequence[str]:
        codings = [coding.strip().lower() for coding in packed.split(",")]
        codings = [coding for coding in codings if coding in CODINGS]
        if len(codings) > MAX_CODINGS:
            raise BodyTooLarge("has more codings than", MAX_CODINGS)
        if PACKINGS.issuperset(codings):
            return codings
        asked = request.headers.get("accept-encoding", "").lower()
        accepted = {each.partition(";")[0].strip() for each in asked.split(",")}
        for coding in codings:
            if coding not in PACKINGS and coding not in accepted:
                module: Any = backend_of(request)
                text = f"the coding {coding!r} was not asked for"
                raise module.DecodingError(text, request=request)
        return ()


class _Parts:
    """A body, counted and unpacked. Not a generator, so that it may be left anywhere."""

    __slots__ = ("error", "halted", "inner", "left", "limit", "pieces", "unpacker", "wire_left")

    def __init__(
        self, inner: AsyncIterator[bytes], limit: float, codings: Sequence[str], error: Any
    ) -> None:
        self.inner = inner
        self.limit = limit
        self.wire_left = self.left = limit
        self.unpacker = Unpacker(codings) if codings else None
        self.pieces: Iterator[bytes] = iter(())
        self.error = error
        #: Whether `inner`, a generator, stands at a `yield`.
        self.halted = False

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes:
        if self.unpacker is None:
            return await self._receive()
        try:
            piece = next(self.pieces, None)
            while piece is None:
                self.pieces = self.unpacker.feed(await self._receive())
                piece = next(self.pieces, None)
        except StopAsyncIteration:
            self._finish()
            raise
        except ValueError as error:
            raise self.error(str(error)) from error
        self.left -= len(piece)
        if self.left < 0:
            raise BodyTooLarge("unpacks to more bytes than", int(self.limit))
        return piece

    async def _receive(self) -> bytes:
        self.halted = False
        data = await self.inner.__anext__()
        self.halted = True
        self.wire_left -= len(data)
        if self.wire_left < 0:
            raise BodyTooLarge("has more bytes than", int(self.limit))
        return data

    async def end(self) -> None:
        """Let the generators below, whose connection is closed, come to their ends.

        Dropped where they stand each would be a ResourceWarning of trio's, and to
        close the outer one does not close the others.
        """
        self.halted = False
        # ASYNC912: the range is not empty.
        with trio.CancelScope(  # noqa: ASYNC912
            shield=True, deadline=trio.current_time() + CLOSE_S
        ):
            try:
                for _ in range(MOST_BUFFERED):
                    await self.inner.__anext__()
            except Exception:
                return

    def _finish(self) -> None:
        assert self.unpacker is not None
        try:
            self.unpacker.finish()
        except ValueError as error:
            raise self.error(str(error)) from error


@cache
def _bounded_class(module: Any) -> Any:
    class Bounded(module.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, inner: Any, limit: float, codings: Sequence[str]) -> None:
            self.inner = inner
            self.limit = limit
            self.codings = codings
            self.parts: _Parts | None = None

        def __aiter__(self) -> AsyncIterator[bytes]:
            inner = self.inner.__aiter__()
            self.parts = _Parts(inner, self.limit, self.codings, module.DecodingError)
            return self.parts

        async def aclose(self) -> None:
            await self.inner.aclose()
            if self.parts is not None and self.parts.halted:
                await self.parts.end()

    return Bounded

"""A body that goes to its reader, and is kept on the way, up to a limit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Any, Protocol

import httpx

from ._backend import backend_of

__all__ = ["Sink", "tee"]


class Sink(Protocol):
    """Told exactly one of these, once."""

    def whole(self, body: bytes) -> None:
        """It was read to its end, and this is all of it."""

    def too_large(self) -> None:
        """It is larger than the limit. The reader reads on."""

    def cut(self, *, failed: bool) -> None:
        """It `failed`, or its reader left it or was cancelled."""


def tee(request: httpx.Request, response: httpx.Response, most_bytes: int, sink: Sink) -> None:
    """Let `sink` have the raw body of `response`, an answer to `request`, as it is read.

    At once, where it is in memory already.
    """
    module = backend_of(request)
    stream: Any = response.stream
    if isinstance(stream, module.ByteStream):  # in memory
        body = b"".join(stream)
        if len(body) > most_bytes:
            sink.too_large()
        else:
            sink.whole(body)
    elif response.is_closed:
        sink.cut(failed=True)  # read by an inner layer: its raw bytes are gone
    else:
        response.stream = _tee_class(module)(stream, most_bytes, sink)


@cache
def _tee_class(module: Any) -> Any:
    class Tee(module.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, inner: Any, left: int, sink: Sink) -> None:
            self._inner = inner
            self._left = left
            self._sink: Sink | None = sink
            self._chunks: list[bytes] = []

        @property
        def keeps(self) -> bool:
            return self._sink is not None

        def __aiter__(self) -> AsyncIterator[bytes]:
            self._next = self._inner.__aiter__().__anext__
            return self

        async def __anext__(self) -> bytes:
            try:
                chunk: bytes = await self._next()
            except StopAsyncIteration:
                if (sink := self._leave()) is not None:
                    sink.whole(b"".join(self._chunks))
                raise
            except BaseException as error:
                if (sink := self._leave()) is not None:
                    sink.cut(failed=isinstance(error, Exception))
                raise
            self._left -= len(chunk)
            if self._left >= 0:
                self._chunks.append(chunk)
            elif (sink := self._leave()) is not None:
                self._chunks.clear()
                sink.too_large()
            return chunk

        def _leave(self) -> Sink | None:
            sink, self._sink = self._sink, None
            return sink

        async def aclose(self) -> None:
            try:
                await self._inner.aclose()
            finally:
                if (sink := self._leave()) is not None:
                    self._chunks.clear()
                    sink.cut(failed=False)

    return Tee

"""What is below a layer, in memory: it answers by a script and counts what is open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import httpx
import trio

from trio_rt.http import _backend
from trio_rt.http._body import when_closed

__all__ = ["BACKENDS", "Answer", "Script", "Streamed", "request_of"]

BACKENDS = ["httpx", "httpx2"]


@attrs.frozen
class Answer:
    """After `after_s`: the error of that name, or a response."""

    status: int = 200
    error: str | None = None
    after_s: float = 0.0
    headers: Mapping[str, str] = attrs.field(factory=dict)
    chunks: tuple[bytes, ...] = (b"body",)
    #: Before each chunk.
    pause_s: float = 0.0


class Script:
    """The `call_next` of a layer under test. The last answer is given for ever.

    A call holds a slot until its answer is closed, as below a gate; with
    `holds=False` for ever, and what it answers is a bare response.
    """

    def __init__(self, backend: str, *answers: Answer, holds: bool = True) -> None:
        self.holds = holds
        self.module: Any = _backend.backend(backend)
        self.answers = answers
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []
        self.slots = 0
        self.read_to_end = 0
        #: Bodies whose closing was not cut short.
        self.closed = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        self.times.append(trio.current_time())
        self.slots += 1
        try:
            await trio.sleep(answer.after_s)
            if answer.error is not None:
                raise getattr(self.module, answer.error)("broken", request=request)
        except BaseException:
            self.slots -= 1
            raise
        response: httpx.Response = self.module.Response(
            answer.status, headers=dict(answer.headers), stream=self._stream(answer)
        )
        if self.holds:
            when_closed(request, response, self._release)
        return response

    def _release(self) -> None:
        self.slots -= 1

    def _stream(self, answer: Answer) -> Any:
        script = self

        class Stream(self.module.AsyncByteStream):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                self.chunks = iter(answer.chunks)

            def __aiter__(self) -> AsyncIterator[bytes]:
                return self

            async def __anext__(self) -> bytes:
                await trio.sleep(answer.pause_s)
                for chunk in self.chunks:
                    return chunk
                script.read_to_end += 1
                raise StopAsyncIteration

            async def aclose(self) -> None:
                await trio.lowlevel.checkpoint()
                script.closed += 1

        return Stream()


class Streamed:
    """A body that can be read once."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = iter(chunks)

    def __aiter__(self) -> Streamed:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for chunk in self.chunks:
            return chunk
        raise StopAsyncIteration


def request_of(
    backend: str, method: str = "GET", url: str = "http://server.example/", **more: Any
) -> httpx.Request:
    module: Any = _backend.backend(backend)
    return module.Request(method, url, **more)  # type: ignore[no-any-return]

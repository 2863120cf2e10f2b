"""One limit for a whole call: the wait for its turn, every try, and the body.

httpx's own timeouts are for each read and each write, so a server that drips one
byte a second is never too slow for them.

A scope around a generator's `yield` would tear the caller's own scopes, so a
streamed body has no scope around it but one around each read, all with the same
deadline. A body that is to be read whole is read here, in the scope that is open
anyway: each scope costs 4 us, and a small body would have three.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable
from functools import cache
from typing import Any

import httpx
import trio

from ..errors import CallTimeout
from ..options import check_number
from ._asked import check_name
from ._backend import backend_of
from ._call import call_of
from ._layer import Layer, Next
from ._stage import KEY, Progress

__all__ = ["Timeout"]


class Timeout(Layer):
    """A call is over within its `timeout_s`, or else within this one; `math.inf`: no limit.

    Past it `CallTimeout`, also from a read of the body, with the stage that the
    call was at. The caller's own cancellation and deadlines stay the caller's.

    With `deadline_header` the milliseconds that are left go out under this name.
    A call of `Client` is limited with its redirects; in a plain `httpx.AsyncClient`
    each redirect, a request of its own to every transport, has the whole time.
    """

    def __init__(self, timeout_s: float = 10.0, *, deadline_header: str | None = None) -> None:
        check_number("timeout_s", timeout_s, above=True)
        if deadline_header is not None:
            check_name("deadline_header", deadline_header)
        self.timeout_s = timeout_s
        self.deadline_header = deadline_header

    def scope(self, progress: Progress, timeout_s: float | None) -> trio.CancelScope:
        """A scope for the whole of a call, body included; see `check`.

        `progress` is that of its requests, and `is_bounded`: then the layer itself
        bounds nothing. A scope for each read would take 5 us.
        """
        progress.begin(self.timeout_s if timeout_s is None else timeout_s)
        return trio.CancelScope(deadline=progress.deadline)

    def check(self, scope: trio.CancelScope, progress: Progress) -> None:
        """Raise CallTimeout if `scope`, which is left, has cancelled the call."""
        if scope.cancelled_caught:
            raise CallTimeout(progress.timeout_s, progress.stage)

    def intercept(self, request: httpx.Request, call_next: Next) -> Awaitable[httpx.Response]:
        """Cancelled, it adds nothing to what the layers inside leave behind."""
        progress: Any = request.extensions.get(KEY)
        if progress is None or not progress.is_bounded:
            return self._bound(request, call_next)
        self._tell(request, progress)
        progress.stage = "answer"
        return call_next(request)

    async def _bound(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        timeout_s = call_of(request).timeout_s
        if timeout_s is None:
            timeout_s = self.timeout_s
        if timeout_s == math.inf:
            return await call_next(request)
        progress = _progress(request, timeout_s)
        self._tell(request, progress)
        with trio.CancelScope(deadline=progress.deadline) as scope:
            response = await call_next(request)
        if scope.cancelled_caught:
            raise CallTimeout(timeout_s, progress.stage)
        if not response.is_closed:
            kind = _timed_class(backend_of(request))
            response.stream = kind(response.stream, progress)
        return response

    def _tell(self, request: httpx.Request, progress: Progress) -> None:
        if self.deadline_header is not None and progress.deadline < math.inf:
            left_ms = max(0, int((progress.deadline - trio.current_time()) * 1000))
            request.headers[self.deadline_header] = str(left_ms)


def _progress(request: httpx.Request, timeout_s: float) -> Progress:
    progress: Any = request.extensions.get(KEY)
    if progress is None or not progress.is_whole:
        progress = request.extensions[KEY] = Progress()
    if progress.deadline == math.inf:
        progress.begin(timeout_s)
    progress.stage = "answer"
    return progress  # type: ignore[no-any-return]


class _Reads:
    """The parts of a body, each read within the deadline."""

    __slots__ = ("inner", "progress")

    def __init__(self, inner: AsyncIterator[bytes], progress: Progress) -> None:
        self.inner = inner
        self.progress = progress

    def __aiter__(self) -> _Reads:
        return self

    async def __anext__(self) -> bytes:
        progress = self.progress
        with trio.CancelScope(deadline=progress.deadline):
            return await self.inner.__anext__()
        raise CallTimeout(progress.timeout_s, "body")  # its scope was cancelled


@cache
def _timed_class(module: Any) -> Any:
    class Timed(module.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, inner: Any, progress: Progress) -> None:
            self.inner = inner
            self.progress = progress

        def __aiter__(self) -> AsyncIterator[bytes]:
            return _Reads(self.inner.__aiter__(), self.progress)

        async def aclose(self) -> None:
            await self.inner.aclose()

    return Timed

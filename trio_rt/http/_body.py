"""A response's body that tells, once, when nobody will read on."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any, Final

import httpx
import trio

from ._backend import backend_of

__all__ = ["body_class", "when_closed"]

#: How long closing a connection may take for who is cancelled: the goodbye of TLS
#: is one write, so a second is a peer that takes nothing more.
CLOSE_S: Final = 1.0


def when_closed(request: httpx.Request, response: httpx.Response, told: Callable[[], None]) -> None:
    """Call `told` when the body of `response`, an answer to `request`, is closed.

    That is: read to its end, failed, or left by its reader; after the
    connection is free again or gone, and whatever its closing raised. The last
    registered is told first. At once, where the body is closed already: httpx
    does that to responses made of bytes.
    """
    if response.is_closed:
        told()
        return
    kind = body_class(backend_of(request))
    stream = response.stream
    if not isinstance(stream, kind):
        stream = response.stream = kind(stream)
    stream.told.append(told)


@cache
def body_class(module: Any) -> Any:
    """The class of such bodies. A pool's own may derive from it, and need no wrapping then."""

    class Body(module.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.told: list[Callable[[], None]] = []

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self.inner.__aiter__()  # type: ignore[no-any-return]

        async def aclose(self) -> None:
            try:
                # A scope takes 5 us, and httpcore, which shields its own closing,
                # needs it only to be entered at all.
                if isinstance(sys.exception(), trio.Cancelled):
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                        await self.inner.aclose()
                else:
                    await self.inner.aclose()
            finally:
                while self.told:
                    self.told.pop()()

    return Body

"""What retry, breaker, hedging and authorization share about one try of a call."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import httpx
import trio

from .._http_reply import Reply
from ._backend import backend_of
from ._body import CLOSE_S
from ._policy import Failure

__all__ = ["advice_s", "discard", "failure_of", "is_replayable", "shut"]

#: A body of an error page is read to its end rather than its connection closed, if
#: it is at most this long and there this soon: a new connection costs a round trip
#: or three.
DRAIN_BYTES: Final = 65_536
DRAIN_S: Final = 0.1


def failure_of(request: httpx.Request, error: Exception) -> Failure | None:
    """How the try failed. None: it says nothing of the server, or would be the same again."""
    unsent, broken = _errors(backend_of(request))
    if isinstance(error, unsent):
        return "unsent"
    return "broken" if isinstance(error, broken) else None


@cache
def _errors(module: Any) -> tuple[Any, Any]:
    return (
        (module.ConnectError, module.ConnectTimeout, module.PoolTimeout),
        (module.NetworkError, module.TimeoutException, module.RemoteProtocolError),
    )


def is_replayable(request: httpx.Request) -> bool:
    """Whether the body is in memory, and so can be sent a second time."""
    return isinstance(request.stream, backend_of(request).ByteStream)


def advice_s(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds from now, given as a number or a date, or None."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    return Reply("1.1", response.status_code, (("retry-after", value.strip()),), b"").retry_after_s


async def discard(response: httpx.Response) -> None:
    """Nobody wants it: free its connection, usable if its body is short.

    Raises nothing but the caller's cancellation, and has closed it then too.
    """
    try:
        with trio.move_on_after(DRAIN_S) as scope:
            left = DRAIN_BYTES
            async for chunk in response.stream:  # type: ignore[union-attr]
                left -= len(chunk)
                if left < 0:
                    # Not `break`: it would leave the generators of the pool to the
                    # garbage collector, whose closing of them needs to await.
                    scope.cancel()
    except Exception:
        pass
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await _aclose(response)


async def shut(response: httpx.Response) -> None:
    """Close it in bounded time, cancelled or not. Raises nothing."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
        await _aclose(response)


async def _aclose(response: httpx.Response) -> None:
    try:
        await response.aclose()
    except Exception:
        pass

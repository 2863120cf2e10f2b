"""The onion: layers around a transport of httpx or httpx2.

A layer is a function, or the `intercept` of a `Layer`:

    async def intercept(request, call_next):
        response = await call_next(request)
        return response

It may change the request, answer by itself, call on twice, or see errors: what
`call_next` raises passes through it. The first layer is the outermost, both ways.
Who calls on and returns another response closes the first; if it raises, that is done
for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeAlias

import httpx
import trio

from ..errors import OptionError
from ._attempt import shut
from ._backend import BackendName
from ._backend import backend as module_of
from ._pool import open_pool

__all__ = ["Crew", "Intercept", "Layer", "Next", "is_layer", "transport"]

Next: TypeAlias = Callable[[httpx.Request], Awaitable[httpx.Response]]
Intercept: TypeAlias = Callable[[httpx.Request, Next], Awaitable[httpx.Response]]


class Crew:
    """The tasks of one open transport: they end with it."""

    def __init__(self) -> None:
        self._manager = trio.open_nursery()
        self._running = 0
        self._idle = trio.Event()

    async def open(self) -> None:
        self._nursery = await self._manager.__aenter__()

    def start(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run `task(*args)`, which must not raise, in the context of the caller."""
        self._running += 1
        self._nursery.start_soon(self._run, task, args)

    async def _run(self, task: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await task(*args)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def aclose(self) -> None:
        """Cancel the tasks and wait for their end, cancelled or not."""
        self._nursery.cancel_scope.cancel()
        if self._running:
            self._idle = trio.Event()
            with trio.CancelScope(shield=True):
                await self._idle.wait()
        # With no task left a nursery neither waits nor raises, so no group arises.
        await self._manager.__aexit__(None, None, None)


class Layer:
    """A layer with a life: told when its transport opens and closes."""

    def opened(self, crew: Crew) -> None:
        """The transport is open. What is started in `crew` is cancelled at its end."""

    async def closing(self) -> None:
        """The transport will close: refuse what is new, let the rest end, in bounded time."""

    def intercept(self, request: httpx.Request, call_next: Next) -> Awaitable[httpx.Response]:
        """Mostly `async def`. One that has nothing to do after `call_next` may return what
        that gives: each frame on the way costs something at every step of the call."""
        raise NotImplementedError


def transport(
    *layers: Layer | Intercept,
    pool: httpx.AsyncBaseTransport | None = None,
    backend: BackendName = "httpx",
) -> httpx.AsyncBaseTransport:
    """A transport for `httpx.AsyncClient(transport=...)`: `layers` around `pool`.

    Without `pool`, one of ours (`_pool`), which never queues, speaks HTTP/1.1 and is
    safe to cancel; for one of the backend's own that takes a `SafeConnect()` as the
    last layer. Use the client by `async with`: layers may have tasks.
    """
    for layer in layers:
        if not is_layer(layer):
            raise OptionError("layers", "must be layers or async functions", layer)
    return _stack_class(module_of(backend))(layers, pool)  # type: ignore[no-any-return]


def is_layer(given: object) -> bool:
    """A class is callable, too, but was meant to be made first."""
    return isinstance(given, Layer) or (callable(given) and not isinstance(given, type))


@cache
def _stack_class(module: Any) -> Any:
    base: Any = module.AsyncBaseTransport

    class Stack(base):  # type: ignore[misc]
        def __init__(self, layers: tuple[Layer | Intercept, ...], pool: Any) -> None:
            if pool is None:
                pool = open_pool(module)
            if not isinstance(pool, base):
                name = module.__name__
                raise OptionError("pool", f"must be an AsyncBaseTransport of {name}", pool)
            self._pool = pool
            self._layers = [layer for layer in layers if isinstance(layer, Layer)]
            self._first: Next = _refuse
            self._crew: Crew | None = None
            self._intercepts = [_guarded(layer) for layer in layers]

        async def __aenter__(self) -> Any:
            if self._crew is not None:
                raise trio.BusyResourceError("this transport is open already")
            await self._pool.__aenter__()
            self._crew = crew = Crew()
            await crew.open()
            try:
                for layer in self._layers:
                    layer.opened(crew)
            except BaseException:
                await self._end(None, None, None)
                raise
            self._first = _chained(self._intercepts, self._pool.handle_async_request)
            return self

        async def __aexit__(self, *raised: Any) -> None:
            assert self._crew is not None
            self._first = _refuse
            try:
                for layer in self._layers:
                    await layer.closing()
            finally:
                await self._end(*raised)

        async def _end(self, *raised: Any) -> None:
            crew, self._crew = self._crew, None
            assert crew is not None
            try:
                await crew.aclose()
            finally:
                await self._pool.__aexit__(*raised)

        def handle_async_request(self, request: httpx.Request) -> Awaitable[httpx.Response]:
            return self._first(request)

    return Stack


async def _refuse(request: httpx.Request) -> httpx.Response:
    raise trio.ClosedResourceError("the HTTP client is not open: use it by `async with`")


def _guarded(layer: Layer | Intercept) -> Any:
    """`layer` as a function; one that is not of this package closes what it got and lost."""
    if not isinstance(layer, Layer):
        return _Guard(layer)
    if type(layer).__module__.startswith(f"{__package__}."):
        return layer.intercept
    return _Guard(layer.intercept)


class _Guard:
    """Where the program's own code raises, or is cancelled, with a response in its hands,
    that is closed: its slot and its connection would be lost."""

    __slots__ = ("_intercept",)

    def __init__(self, intercept: Any) -> None:
        self._intercept = intercept

    async def __call__(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        got: list[httpx.Response] = []

        async def noted(request: httpx.Request) -> httpx.Response:
            response = await call_next(request)
            response.request = request  # without it `raise_for_status` cannot be called
            got.append(response)
            return response

        try:
            response: Any = await self._intercept(request, noted)
            if not hasattr(response, "status_code"):
                kind = type(response).__name__
                raise TypeError(f"an interceptor must return a response, and returned a {kind}")
        except BaseException:
            for each in got:
                await shut(each)
            raise
        return response  # type: ignore[no-any-return]


def _chained(intercepts: list[Intercept], last: Next) -> Next:
    for intercept in reversed(intercepts):
        last = _link(intercept, last)
    return last


def _link(intercept: Intercept, call_next: Next) -> Next:
    return lambda request: intercept(request, call_next)

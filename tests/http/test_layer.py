"""The onion, its tasks, and what every layer builds on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import httpx2
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_rt.errors import OptionError
from trio_rt.http._backend import BackendName, backend_of
from trio_rt.http._backend import backend as module_of
from trio_rt.http._body import when_closed
from trio_rt.http._call import KEY, Call, call_of
from trio_rt.http._layer import Crew, Layer, Next, transport
from trio_rt.message import Priority

from ..clocked import clocked
from .peers import both

Log = list[str]


def pool_of(name: BackendName, log: Log) -> Any:
    """A pool in memory."""
    module = module_of(name)

    class Pool(module.AsyncBaseTransport):  # type: ignore[name-defined,misc]
        async def handle_async_request(self, request: Any) -> Any:
            log.append(f"pool {request.url.path}")
            return module.Response(200, content=b"pool")

        async def aclose(self) -> None:
            log.append("pool closed")

        async def __aexit__(self, *raised: Any) -> None:
            await self.aclose()

    return Pool()


class Noting(Layer):
    def __init__(self, name: str, log: Log) -> None:
        self.name = name
        self.log = log

    def opened(self, crew: Crew) -> None:
        self.log.append(f"{self.name} opened")

    async def closing(self) -> None:
        self.log.append(f"{self.name} closing")

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        self.log.append(f"{self.name} in")
        try:
            return await call_next(request)
        finally:
            self.log.append(f"{self.name} out")


@both
async def test_order(backend: BackendName) -> None:
    """The first is the outermost, both ways; all close before the pool."""
    log: Log = []

    async def function(request: Any, call_next: Next) -> Any:
        log.append("function in")
        response = await call_next(request)
        log.append("function out")
        return response

    stack = transport(
        Noting("a", log), function, Noting("b", log), pool=pool_of(backend, log), backend=backend
    )
    async with module_of(backend).AsyncClient(transport=stack) as client:
        log.append("ready")
        assert (await client.get("http://host/x")).text == "pool"
    assert log == [
        *["a opened", "b opened", "ready", "a in", "function in", "b in", "pool /x"],
        *["b out", "function out", "a out", "a closing", "b closing", "pool closed"],
    ]


@both
async def test_functions_may_do_all(backend: BackendName) -> None:
    """Answer alone, call twice, change the request, see and replace errors."""
    log: Log = []
    module = module_of(backend)

    async def function(request: Any, call_next: Next) -> Any:
        match request.url.path:
            case "/alone":
                return backend_of(request).Response(418)
            case "/twice":
                await call_next(request)
            case "/changed":
                request.url = request.url.copy_with(path="/other")
            case "/raises":
                raise KeyError("mine")
        return await call_next(request)

    stack = transport(function, pool=pool_of(backend, log), backend=backend)
    async with module.AsyncClient(transport=stack) as client:
        assert (await client.get("http://host/alone")).status_code == 418
        await client.get("http://host/twice")
        await client.get("http://host/changed")
        with pytest.raises(KeyError, match="mine"):
            await client.get("http://host/raises")
    assert log == ["pool /twice", "pool /twice", "pool /other", "pool closed"]


@both
async def test_not_open(backend: BackendName) -> None:
    """Before and after its life a transport refuses; it can be opened again, not twice."""
    stack = transport(pool=pool_of(backend, []), backend=backend)
    request = module_of(backend).Request("GET", "http://host/")
    with pytest.raises(trio.ClosedResourceError):
        await stack.handle_async_request(request)
    async with stack:
        assert (await stack.handle_async_request(request)).status_code == 200
        with pytest.raises(trio.BusyResourceError):
            await stack.__aenter__()
    with pytest.raises(trio.ClosedResourceError):
        await stack.handle_async_request(request)
    async with stack:
        assert (await stack.handle_async_request(request)).status_code == 200


@both
async def test_refuses_while_closing(backend: BackendName) -> None:
    """While its layers close nothing new is let in."""
    stack: Any = None
    request = module_of(backend).Request("GET", "http://host/")

    class Late(Layer):
        async def closing(self) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stack.handle_async_request(request)

    stack = transport(Late(), pool=pool_of(backend, []), backend=backend)
    async with stack:
        pass
    assert stack._crew is None


@both
async def test_closing_that_fails(backend: BackendName) -> None:
    """A layer that raises in closing is heard, and tasks and pool are closed all the same."""
    log: Log = []

    class Bad(Layer):
        def opened(self, crew: Crew) -> None:
            crew.start(self.run)

        async def run(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                log.append("task ended")

        async def closing(self) -> None:
            raise KeyError("mine")

    with trio.fail_after(5):
        with pytest.raises(KeyError, match="mine"):
            async with transport(Bad(), pool=pool_of(backend, log), backend=backend):
                await wait_all_tasks_blocked()
    assert log == ["task ended", "pool closed"]


@both
@clocked
async def test_crew_waits(backend: BackendName) -> None:
    """Tasks are cancelled at the end and waited for, also when the block was cancelled."""
    log: Log = []

    class Slow(Layer):
        def opened(self, crew: Crew) -> None:
            crew.start(self.run, "x")

        async def run(self, what: str) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                log.append(what)

    with trio.move_on_after(1) as scope:
        async with transport(Slow(), pool=pool_of(backend, log), backend=backend):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 4
    assert log == ["x", "pool closed"]


@both
async def test_a_layer_that_does_not_open(backend: BackendName) -> None:
    """Its error leaves, and the tasks of the others and the pool are gone."""
    log: Log = []

    class Waits(Layer):
        def opened(self, crew: Crew) -> None:
            crew.start(self.run)

        async def run(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                log.append("task ended")

    class Broken(Layer):
        def opened(self, crew: Crew) -> None:
            raise OSError("no such file")

    stack = transport(Waits(), Broken(), pool=pool_of(backend, log), backend=backend)
    with pytest.raises(OSError, match="no such file"):
        async with stack:
            raise AssertionError("entered")
    assert log == ["task ended", "pool closed"]


@both
async def test_when_closed_of_bytes(backend: BackendName) -> None:
    """A response made of bytes is closed from the beginning: its end is told at once."""
    module, told = module_of(backend), []
    response = module.Response(200, content=b"x")
    when_closed(module.Request("GET", "http://h"), response, lambda: told.append("closed"))
    assert told == ["closed"]


@both
async def test_errors_leave_ungrouped(backend: BackendName) -> None:
    """What the block raises leaves it in no group."""
    with pytest.raises(KeyError, match="mine"):
        async with transport(pool=pool_of(backend, []), backend=backend):
            raise KeyError("mine")


def test_pool_of_the_other() -> None:
    """A pool of the other backend is refused, as is a backend that is none."""
    with pytest.raises(OptionError, match="pool"):
        transport(pool=httpx2.AsyncHTTPTransport(), backend="httpx")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="backend"):
        transport(backend="requests")  # type: ignore[arg-type]


def test_backend_of() -> None:
    """The module of a request, of a subclass too; of nothing else."""

    class Mine(httpx2.Request):
        pass

    assert backend_of(httpx.Request("GET", "http://host/")) is httpx
    assert backend_of(Mine("GET", "http://host/")) is httpx2  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str"):
        backend_of("GET")  # type: ignore[arg-type]


@both
@clocked
async def test_when_closed(backend: BackendName) -> None:
    """Told once, the last registered first, after the body is closed and however that ends."""
    module = module_of(backend)
    log: Log = []

    class Body(module.AsyncByteStream):  # type: ignore[name-defined,misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:  # noqa: ASYNC900, ASYNC911
            yield b"x"  # noqa: ASYNC911

        async def aclose(self) -> None:
            log.append("closed")
            raise KeyError("mine")

    request = module.Request("GET", "http://host/")
    response = module.Response(200, stream=Body())
    when_closed(request, response, lambda: log.append("first"))
    when_closed(request, response, lambda: log.append("second"))
    assert [part async for part in response.stream] == [b"x"]
    for _ in range(2):
        with pytest.raises(KeyError):
            await response.stream.aclose()
    assert log == ["closed", "second", "first", "closed"]


@both
@clocked
async def test_closing_a_body_is_bounded(backend: BackendName) -> None:
    """A cancelled reader closes the body still, for a second at most."""
    module = module_of(backend)
    log: Log = []

    class Body(module.AsyncByteStream):  # type: ignore[name-defined,misc]
        def __init__(self, close_s: float) -> None:
            self.close_s = close_s

        async def aclose(self) -> None:
            await trio.sleep(self.close_s)
            log.append("closed")

    for close_s in (0.9, 5.0):
        response = module.Response(200, stream=Body(close_s))
        when_closed(module.Request("GET", "http://h/"), response, lambda: log.append("told"))
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                await response.stream.aclose()
    assert log == ["closed", "told", "told"]
    assert trio.current_time() == 1.9


@both
def test_call_of(backend: BackendName) -> None:
    """A request's options, or the default ones."""
    module = module_of(backend)
    call = Call(priority=Priority.HIGH, timeout_s=2)
    request = module.Request("GET", "http://host/", extensions={KEY: call})
    assert call_of(request) is call
    assert call_of(module.Request("GET", "http://host/")) == Call()
    request.extensions[KEY] = "high"
    with pytest.raises(OptionError, match="trio_rt"):
        call_of(request)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *[("priority", each) for each in (1, "high", None, True)],
        *[("cache", each) for each in ("no", None, True)],
        *[("retries", each) for each in (-1, 1.5, True, "1")],
        *[("timeout_s", each) for each in (0, -1, float("nan"), True, "1")],
        *[("idempotency_key", each) for each in (1, "é", "a\nb", b"x")],
    ],
)
def test_wrong_calls(field: str, wrong: Any) -> None:
    """Each option of a call is checked, and named."""
    with pytest.raises(OptionError) as caught:
        Call(**{field: wrong})
    assert caught.value.field == field

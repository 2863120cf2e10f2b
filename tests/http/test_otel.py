"""A span of OpenTelemetry for each call."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest
import trio
from trio.testing import MockClock

from trio_rt.http._otel import Traced

from .scripted import BACKENDS, Answer, Script, Streamed, request_of

pytest.importorskip("opentelemetry.sdk")
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Desk:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.layer = Traced(self.provider)

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())


@each_backend
async def test_a_span(backend: str) -> None:
    """Of kind client, named by the method, with what the conventions ask for."""
    desk = Desk()
    request = request_of(backend, url="https://user:pw@server.example/a/b?secret=1#f")
    response = await desk.layer.intercept(request, Script(backend, Answer(200)))
    await response.aclose()
    (span,) = desk.spans()
    assert (span.name, span.kind) == ("GET", SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "server.address": "server.example",
        "server.port": 443,
        "url.full": "https://server.example/a/b",
        "http.response.status_code": 200,
    }
    assert span.status.status_code is StatusCode.UNSET


@each_backend
async def test_it_ends_with_the_body(backend: str) -> None:
    """Not before."""
    desk = Desk()
    response = await desk.layer.intercept(request_of(backend), Script(backend, Answer(200)))
    assert desk.spans() == []
    await response.aclose()
    assert len(desk.spans()) == 1


@each_backend
async def test_a_response_that_is_closed_already(backend: str) -> None:
    """One from memory ends its span at once."""
    desk = Desk()
    script = Script(backend, Answer())

    async def call_next(request: httpx.Request) -> httpx.Response:
        return script.module.Response(200, content=b"x")  # type: ignore[no-any-return]

    await desk.layer.intercept(request_of(backend), call_next)
    assert len(desk.spans()) == 1


@each_backend
async def test_traceparent(backend: str) -> None:
    """The span's own is sent, as a child of the caller's; below it is the current one."""
    desk = Desk()
    script = Script(backend, Answer(200))
    current: list[int] = []

    async def call_next(request: httpx.Request) -> httpx.Response:
        current.append(trace.get_current_span().get_span_context().span_id)
        return await script(request)

    with desk.provider.get_tracer("test").start_as_current_span("caller") as caller:
        response = await desk.layer.intercept(request_of(backend), call_next)
        assert trace.get_current_span() is caller
        await response.aclose()
    span = desk.spans()[0]
    assert span.context is not None
    assert span.parent == caller.get_span_context()
    assert current == [span.context.span_id]
    trace_id, span_id = span.context.trace_id, span.context.span_id
    sent = script.requests[0].headers["traceparent"]
    assert sent == f"00-{trace_id:032x}-{span_id:016x}-{span.context.trace_flags:02x}"


@each_backend
@pytest.mark.parametrize("status", [400, 404, 503])
async def test_a_status_from_400(backend: str, status: int) -> None:
    """It is an error of the span."""
    desk = Desk()
    response = await desk.layer.intercept(request_of(backend), Script(backend, Answer(status)))
    await response.aclose()
    (span,) = desk.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == str(status)


@each_backend
async def test_an_error(backend: str) -> None:
    """The span ends with its type."""
    desk = Desk()
    script = Script(backend, Answer(error="ReadError"))
    with pytest.raises(script.module.ReadError):
        await desk.layer.intercept(request_of(backend), script)
    (span,) = desk.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == f"{backend}.ReadError"


@each_backend
async def test_cancelled(backend: str, autojump_clock: MockClock) -> None:
    """The span ends then, and is the current one no longer."""
    desk = Desk()
    with trio.move_on_after(1):
        await desk.layer.intercept(request_of(backend), Script(backend, Answer(after_s=9)))
    (span,) = desk.spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "trio.Cancelled"
    assert trace.get_current_span() is trace.INVALID_SPAN


@each_backend
async def test_an_unknown_method(backend: str) -> None:
    """It is an attribute and not a name."""
    desk = Desk()
    response = await desk.layer.intercept(request_of(backend, "BREW"), Script(backend, Answer()))
    await response.aclose()
    (span,) = desk.spans()
    assert span.name == "HTTP"
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "BREW"


@each_backend
async def test_the_protocol_version(backend: str) -> None:
    """As the pool tells it."""
    desk = Desk()
    script = Script(backend, Answer())

    async def call_next(request: httpx.Request) -> httpx.Response:
        return script.module.Response(  # type: ignore[no-any-return]
            200, content=Streamed(), extensions={"http_version": b"HTTP/1.1"}
        )

    response = await desk.layer.intercept(request_of(backend), call_next)
    await response.aclose()
    (span,) = desk.spans()
    assert span.attributes is not None
    assert span.attributes["network.protocol.version"] == "1.1"


def test_it_is_imported_when_it_is_made() -> None:
    """The module itself needs no OpenTelemetry; without it the class says what to install."""
    code = """
import sys
sys.modules["opentelemetry"] = None
from trio_rt.http._otel import Traced
try:
    Traced()
except ModuleNotFoundError as error:
    print(error.__notes__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['pip install trio-rt[otel]']\n"

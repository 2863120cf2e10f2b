"""A span of OpenTelemetry for each call; needs the extra `otel`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import httpx

from ..errors import OptionError
from ._body import when_closed
from ._layer import Layer, Next

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Traced"]

#: RFC 9110 and RFC 5789. Other methods are not named, so that names stay few.
METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
PORTS: Final = {"http": 80, "https": 443}


class Traced(Layer):
    """One client span per call, by the semantic conventions for HTTP, and `traceparent` sent.

    Named by the method. It ends when the response's body is closed, or with an error. From 400 it
    has the status ERROR. User, password and query are left out of `url.full`. Outside of
    `Retry` it is one span for all tries; inside of it, one for each.

    The propagator is the global one. Cancelled: the span ends, with the error's type.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        try:
            self._trace: Any = importlib.import_module("opentelemetry.trace")
            self._context: Any = importlib.import_module("opentelemetry.context")
            self._inject: Any = importlib.import_module("opentelemetry.propagate").inject
        except ModuleNotFoundError as error:
            error.add_note("pip install trio-rt[otel]")
            raise
        if tracer_provider is not None and not hasattr(tracer_provider, "get_tracer"):
            raise OptionError("tracer_provider", "must be a TracerProvider", tracer_provider)
        self._kind = self._trace.SpanKind.CLIENT
        self._tracer = self._trace.get_tracer("trio_rt.http", tracer_provider=tracer_provider)

    async def intercept(self, request: httpx.Request, call_next: Next) -> httpx.Response:
        method = request.method if request.method in METHODS else "HTTP"
        span: Span = self._tracer.start_span(
            method, kind=self._kind, attributes=_attributes(request)
        )
        context = self._trace.set_span_in_context(span)
        self._inject(request.headers, context=context)
        token = self._context.attach(context)
        try:
            response = await call_next(request)
        except BaseException as error:
            self._end(span, _kind_of(error))
            raise
        finally:
            self._context.detach(token)
        status = response.status_code
        span.set_attribute("http.response.status_code", status)
        version = response.extensions.get("http_version", b"")
        if version.startswith(b"HTTP/"):
            span.set_attribute("network.protocol.version", version[5:].decode("ascii"))
        if status >= 400:
            self._fail(span, str(status))
        if response.is_closed:
            span.end()
        else:
            when_closed(request, response, span.end)
        return response

    def _end(self, span: Span, failure: str) -> None:
        self._fail(span, failure)
        span.end()

    def _fail(self, span: Span, failure: str) -> None:
        span.set_attribute("error.type", failure)
        span.set_status(self._trace.StatusCode.ERROR)


def _attributes(request: httpx.Request) -> dict[str, str | int]:
    url = request.url
    known = request.method in METHODS
    attributes: dict[str, str | int] = {
        "http.request.method": request.method if known else "_OTHER",
        "server.address": url.host,
        "server.port": url.port or PORTS.get(url.scheme, 0),
        "url.full": str(url.copy_with(username=None, password=None, query=None, fragment=None)),
    }
    if not known:
        attributes["http.request.method_original"] = request.method
    return attributes


def _kind_of(error: BaseException) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"

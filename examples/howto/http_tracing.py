"""A span of OpenTelemetry for each call; needs `pip install trio-rt[otel]`, and an SDK.

    python examples/howto/http_tracing.py

Prints:

    the server: traceparent 00-*-*-*
    the server: traceparent 00-*-*-*
    span GET: 200
    span GET: 200, inside of work
    span work: None
"""

from __future__ import annotations

from functools import partial

import trio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from trio_rt import http


async def ask(url: str, provider: TracerProvider) -> None:
    async with http.open_client(url, interceptors=[http.Traced(provider)]) as client:
        await client.get("/")
        with provider.get_tracer("my_program").start_as_current_span("work"):
            await client.get("/")


async def serve(stream: trio.SocketStream) -> None:
    """As much of HTTP as this needs."""
    while request := (await stream.receive_some()).decode():
        print("the server: traceparent", request.partition("traceparent: ")[2].partition("\r\n")[0])
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def main() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        await ask(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", provider)
        nursery.cancel_scope.cancel()
    for span in spans.get_finished_spans():
        status = (span.attributes or {}).get("http.response.status_code")
        print(f"span {span.name}: {status}" + (", inside of work" if span.parent else ""))


if __name__ == "__main__":
    trio.run(main)

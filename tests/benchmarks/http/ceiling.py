"""The server's own limit: blocking sockets that write one request and look at nothing."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from trio_rt.http import BackendName

from ..clients import Run
from .blocks import WORKERS
from .origin import Origin

SECONDS: Final = 0.4
REQUEST: Final = (
    b"GET /no-store HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"User-Agent: python-httpx/0.28.1\r\n\r\n"
)


def run(origin: Origin, name: BackendName, case: str) -> Run:
    """Requests a second over as many connections as there are workers."""
    with ExitStack() as stack:
        socks = [stack.enter_context(origin.connect()) for _ in range(WORKERS)]
        done = 0
        start = time.perf_counter()
        while time.perf_counter() < start + SECONDS:
            for sock in socks:
                sock.sendall(REQUEST)
            for sock in socks:
                assert sock.recv(4096).endswith(b"}")
            done += WORKERS
        return Run(done / (time.perf_counter() - start))

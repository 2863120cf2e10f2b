"""trio and a TCP socket, nothing else: the floor under every round trip on trio."""

from __future__ import annotations

from typing import Final

import trio

from ..content import RAW
from . import Job, Stopwatch, Target
from ._trio import on_trio


async def _echo(target: Target, messages: int) -> Stopwatch:
    context = target.context()
    stream: trio.abc.Stream
    if context is None:
        stream = await trio.open_tcp_stream("127.0.0.1", target.tcp_port)
    else:
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", target.tcp_port, ssl_context=context
        )
    async with stream:
        watch = Stopwatch()
        for _ in range(messages):
            await stream.send_all(RAW)
            missing = len(RAW)
            while missing:
                missing -= len(await stream.receive_some())
        return watch.stop()


JOBS: Final[dict[str, Job]] = {"echo": on_trio(_echo)}

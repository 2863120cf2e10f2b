"""trio_rt, with its default options, on either wire."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any, Final

import trio

import trio_rt
from trio_rt import Message, OutboxLimits, Priority
from trio_rt.message import dropped
from trio_rt.options import WireName

from ..content import EVENT, PAYLOAD, RAW
from ..frames import ASK_BYTES
from . import Figure, Job, Run, Stopwatch, Target, check
from ._trio import on_trio

_PRIORITIES: Final = tuple(Priority)

#: The link of the backlog: 1 Mbit/s.
LINK_BYTES_PER_S: Final = 125_000
BACKLOG: Final = 50_000


def _open(wire: WireName, codec: Any, target: Target, path: str, **query: object) -> Any:
    return trio_rt.connect(
        target.url(path, **query),
        codec=codec,
        session="off",
        wire=wire,
        ssl_context=target.context(),
    )


async def _persist(send: Callable[[], object]) -> int:
    """Call until there is room: how often there was none."""
    refused = 0
    while True:
        try:
            send()
            return refused
        except trio.WouldBlock:
            refused += 1
            await trio.lowlevel.checkpoint()


async def _message(stream: Any) -> Message[Any]:
    item = await stream.receive()
    return _whole(item)


def _whole(item: object) -> Message[Any]:
    """A message; anything else means that something was lost."""
    if not isinstance(item, Message):
        raise AssertionError(f"lost messages: {item!r}")
    return item


async def _send_raw_nowait(wire: WireName, target: Target, messages: int) -> Stopwatch:
    async with _open(wire, "raw", target, "sink", n=messages) as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            refused, send = 0, conn.send_nowait
            watch = Stopwatch()
            for _ in range(messages):
                try:
                    send(RAW)
                except trio.WouldBlock:
                    refused += 1 + await _persist(partial(send, RAW))
            check((await _message(stream)).payload, messages, len(RAW))
            return watch.stop(would_block=refused)


async def _send_raw(wire: WireName, target: Target, messages: int) -> Stopwatch:
    async with _open(wire, "raw", target, "sink", n=messages) as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            watch = Stopwatch()
            for _ in range(messages):
                await conn.send(RAW)
            check((await _message(stream)).payload, messages, len(RAW))
            return watch.stop()


async def _send_envelope_nowait(wire: WireName, target: Target, messages: int) -> Stopwatch:
    async with _open(wire, "json", target, "sink", answer="envelope") as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            refused, send = 0, conn.send_nowait
            watch = Stopwatch()
            for _, priority in zip(range(messages), cycle(_PRIORITIES), strict=False):
                try:
                    send(EVENT, PAYLOAD, priority=priority)
                except trio.WouldBlock:
                    again = partial(send, EVENT, PAYLOAD, priority=priority)
                    refused += 1 + await _persist(again)
            return await _confirmed(watch, conn, stream, messages, would_block=refused)


async def _send_envelope(wire: WireName, target: Target, messages: int) -> Stopwatch:
    async with _open(wire, "json", target, "sink", answer="envelope") as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            watch = Stopwatch()
            for _, priority in zip(range(messages), cycle(_PRIORITIES), strict=False):
                await conn.send(EVENT, PAYLOAD, priority=priority)
            return await _confirmed(watch, conn, stream, messages)


async def _confirmed(
    watch: Stopwatch, conn: Any, stream: Any, messages: int, **notes: float
) -> Stopwatch:
    """Ask the sink; what a full outbox evicted must be all that it lacks."""
    await conn.send(EVENT, "?" * ASK_BYTES, priority=Priority.LOW)
    answer = (await _message(stream)).payload
    evicted = conn.statistics().outcomes.get(dropped("evicted"), 0)
    watch.stop(evicted=evicted, **notes)
    watch.confirmed = messages - evicted
    check(answer, watch.confirmed)
    return watch


async def _receive_many(
    wire: WireName, codec: str, kind: str, target: Target, messages: int
) -> Stopwatch:
    async with _open(wire, codec, target, "flood", n=messages, kind=kind) as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            count = 0
            watch = Stopwatch()
            conn.send_nowait("go")
            while count < messages:
                for item in await stream.receive_many():
                    _whole(item).payload  # noqa: B018  lazy decoding, if any, is paid for
                    count += 1
            return watch.stop()


async def _receive_for(
    wire: WireName, codec: str, kind: str, target: Target, messages: int
) -> Stopwatch:
    async with _open(wire, codec, target, "flood", n=messages, kind=kind) as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            count = 0
            watch = Stopwatch()
            conn.send_nowait("go")
            async for item in stream:
                _whole(item).payload  # noqa: B018
                count += 1
                if count == messages:
                    break
            return watch.stop()


async def _echo(wire: WireName, target: Target, messages: int) -> Stopwatch:
    async with _open(wire, "raw", target, "echo") as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            watch = Stopwatch()
            for _ in range(messages):
                await conn.send(RAW)
                _whole(await stream.receive())
            return watch.stop()


async def _critical(target: Target) -> Run:
    """Bytes that arrive between a critical message's send and its own arrival."""
    limits = OutboxLimits(messages=BACKLOG + 1, total_bytes=BACKLOG * 1000)
    url = target.url("slow", rate=LINK_BYTES_PER_S)
    with trio.CancelScope() as scope:
        async with trio_rt.connect(url, outbox=limits, session="off") as conn:
            with conn.subscribe("arrived") as stream:
                await conn.wait_connected()
                for _ in range(BACKLOG):
                    conn.send_nowait(EVENT, PAYLOAD, priority=Priority.NORMAL)
                await trio.sleep(0.5)  # the buffers of the kernel fill up
                conn.send_nowait(EVENT, f"@{time.monotonic()}", priority=Priority.CRITICAL)
                arrived = await _message(stream)
                scope.cancel()
    return Run(float(arrived.payload))


def jobs(wire: WireName) -> dict[str, Job]:
    """All of them on one wire."""
    return {
        "send raw, send_nowait": partial(on_trio(_send_raw_nowait), wire),
        "send raw, await send": partial(on_trio(_send_raw), wire),
        "send envelope, send_nowait": partial(on_trio(_send_envelope_nowait), wire),
        "send envelope, await send": partial(on_trio(_send_envelope), wire),
        "receive raw, receive_many": partial(on_trio(_receive_many), wire, "raw", "raw"),
        "receive raw, async for": partial(on_trio(_receive_for), wire, "raw", "raw"),
        "receive envelope, receive_many": partial(on_trio(_receive_many), wire, "json", "envelope"),
        "receive envelope, async for": partial(on_trio(_receive_for), wire, "json", "envelope"),
        "echo": partial(on_trio(_echo), wire),
    }


JOBS: Final = jobs("websockets")
FIGURES: Final[dict[str, Figure]] = {"critical": on_trio(_critical)}

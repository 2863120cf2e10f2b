"""trio_rt to its own server, in a session, with its default options."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio

import trio_rt
from trio_rt import Connection, Message, Reconnect
from trio_rt._streams import Buffer, DirectStream
from trio_rt.message import ACKED
from trio_rt.options import WireName

from ..content import EVENT, PAYLOAD
from . import Figure, Job, Run, Stopwatch, Target
from ._session_server import session_server
from ._trio import on_trio

#: Sends in a row before the other tasks get a turn, as `await send` gives them one.
TURN: Final = 64
#: Requests that wait for their replies at the same time.
IN_FLIGHT: Final = 64
PARTS: Final = 10_000
EXCHANGES: Final = 5
CUTS: Final = 200
#: Frames that nobody has when the link is cut: all that both sides keep.
REPLAYED: Final = 1000
RESUMES: Final = 11
#: At once, also where one cut follows the other.
AT_ONCE: Final = Reconnect(first_s=0, min_uptime_s=0)

_POLL_S: Final = 0.001


async def _whole(stream: Any) -> Message[Any]:
    item = await stream.receive()
    if not isinstance(item, Message):
        raise AssertionError(f"lost messages: {item!r}")
    return item


def _check_acked(conn: Connection, sends: int) -> None:
    outcomes = conn.statistics().outcomes
    if outcomes != {ACKED: sends}:
        raise AssertionError(f"{sends} sends came to {outcomes}")


async def _send(wire: WireName, url: str, messages: int) -> Stopwatch:
    async with trio_rt.connect(url, wire=wire) as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            watch = Stopwatch()
            for _ in range(messages):
                await conn.send(EVENT, PAYLOAD)
            await conn.send("ask")
            confirmed = await _whole(stream)
            watch.stop()
            if confirmed.payload != messages:
                raise AssertionError(f"{messages} sent, {confirmed.payload} arrived")
            _check_acked(conn, messages + 1)
            return watch


async def _send_nowait(wire: WireName, url: str, messages: int) -> Stopwatch:
    async with trio_rt.connect(url, wire=wire) as conn:
        with conn.subscribe() as stream:
            await conn.wait_connected()
            refused, send = 0, conn.send_nowait
            watch = Stopwatch()
            for number in range(messages):
                try:
                    send(EVENT, PAYLOAD)
                except trio.WouldBlock:
                    refused += 1
                    await conn.send(EVENT, PAYLOAD)
                if not number % TURN:
                    await trio.lowlevel.checkpoint()
            await conn.send("ask")
            confirmed = await _whole(stream)
            watch.stop(would_block=refused)
            if confirmed.payload != messages:
                raise AssertionError(f"{messages} sent, {confirmed.payload} arrived")
            _check_acked(conn, messages + 1)
            return watch


async def _request(url: str, messages: int) -> Stopwatch:
    async with trio_rt.connect(url) as conn:
        await conn.wait_connected()
        left = iter(range(messages))

        async def ask() -> None:
            for _ in left:
                reply = await conn.request(EVENT, PAYLOAD)
                if reply.payload != PAYLOAD:
                    raise AssertionError(f"another reply: {reply}")

        watch = Stopwatch()
        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(ask)
        return watch.stop()


async def _exchange_once(conn: Connection) -> Stopwatch:
    count = 0
    watch = Stopwatch()
    async with conn.open_exchange(EVENT, PARTS) as parts:
        async for _ in parts:
            count += 1
    watch.stop()
    if count != PARTS:
        raise AssertionError(f"{count} of {PARTS} parts")
    return watch


async def _exchange(url: str) -> Run:
    async with trio_rt.connect(url) as conn:
        await conn.wait_connected()
        await _exchange_once(conn)
        watches = [await _exchange_once(conn) for _ in range(EXCHANGES)]
    return Run(
        PARTS / statistics.median(watch.seconds for watch in watches),
        PARTS / statistics.median(watch.cpu_seconds for watch in watches),
    )


class _Link(DirectStream):
    """A TCP connection that can be ended, or swallow what it is to send, under its owner."""

    swallows = False

    def try_send(self, data: Buffer, /) -> int:
        return len(data) if self.swallows else super().try_send(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.swallows:
            await trio.lowlevel.checkpoint()
        else:
            await super().send_all(data)

    def cut(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)


class _Way:
    """The links of one connection."""

    def __init__(self) -> None:
        self.links: list[_Link] = []
        #: When TCP had the newest one.
        self.opened_at = 0.0

    async def open_stream(self, host: str, port: int) -> _Link:
        stream = await trio.open_tcp_stream(host, port)
        self.opened_at = time.perf_counter()
        self.links.append(_Link(socket.socket(fileno=stream.socket.detach())))
        return self.links[-1]

    def check(self, conn: Connection, cuts: int) -> None:
        """So many links were lost, one by one, and the last was resumed."""
        if len(self.links) != cuts + 1 or not conn.state.resumed:
            raise AssertionError(f"{len(self.links)} links, {cuts} cuts, {conn.state}")


async def _cut(url: str) -> Run:
    """From the end of a link to the answer to a message that was sent right after it."""
    way, found = _Way(), []
    async with trio_rt.connect(url, open_stream=way.open_stream, reconnect=AT_ONCE) as conn:
        with conn.subscribe("pong") as stream:
            await conn.deliver("ping")
            await _whole(stream)
            for number in range(1, CUTS + 1):
                began = time.perf_counter()
                way.links[-1].cut()
                await conn.send("ping", number)
                pong = await _whole(stream)
                found.append(1000 * (time.perf_counter() - began))
                if pong.payload != number:
                    raise AssertionError(f"{pong.payload} after cut {number}")
                way.check(conn, number)
    found.sort()
    return Run(found[CUTS * 99 // 100 - 1], notes={"median": statistics.median(found)})


async def _resume(url: str) -> Run:
    """From the opening of a link to the proof that all arrived that the last one had swallowed."""
    way, found = _Way(), []
    async with trio_rt.connect(url, open_stream=way.open_stream, reconnect=AT_ONCE) as conn:
        with conn.subscribe("confirmed") as stream:
            await conn.wait_connected()
            for number in range(1, RESUMES + 1):
                way.links[-1].swallows = True
                for _ in range(REPLAYED - 1):
                    await conn.send(EVENT, PAYLOAD)
                await conn.send("ask")
                while conn.statistics().in_flight < REPLAYED:
                    await trio.sleep(_POLL_S)
                way.links[-1].cut()
                confirmed = await _whole(stream)
                found.append(1000 * (time.perf_counter() - way.opened_at))
                if confirmed.payload != number * (REPLAYED - 1):
                    raise AssertionError(f"{confirmed.payload} arrived after cut {number}")
                way.check(conn, number)
                _check_acked(conn, number * REPLAYED)
    return Run(statistics.median(found), notes={"slowest": max(found)})


def _job(send: Callable[..., Awaitable[Stopwatch]], wire: WireName) -> Job:
    def run(target: Target, messages: int) -> Stopwatch:
        with session_server() as url:
            return on_trio(partial(send, wire))(url, messages)

    return run


def send_jobs(wire: WireName) -> dict[str, Job]:
    """Sends on one wire."""
    return {
        "acked sends, send_nowait": _job(_send_nowait, wire),
        "acked sends, await send": _job(_send, wire),
    }


def _requests(target: Target, messages: int) -> Stopwatch:
    with session_server() as url:
        return on_trio(_request)(url, messages)


def _figure(run: Callable[[str], Awaitable[Run]], window: int | None = None) -> Figure:
    def figure(target: Target) -> Run:
        with session_server(window) as url:
            return on_trio(run)(url)

    return figure


JOBS: Final[dict[str, Job]] = {
    **send_jobs("websockets"),
    "request": _requests,
}
FIGURES: Final[dict[str, Figure]] = {
    "exchange": _figure(_exchange),
    "cut": _figure(_cut),
    "resume": _figure(_resume, REPLAYED),
}

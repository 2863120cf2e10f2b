"""`python -m tests.sessions.soak`: long sessions over real sockets that are cut again and again.

A client and a server of trio_rt, over TCP on this machine, with a relay between
them that cuts the link: half of the times and more in mid-frame, the others at any
moment, and some as soon as the link is back. All options are the default
ones but `Reconnect`, so that a cut costs milliseconds. Both sides send numbered
messages in all four lanes. In the end each must have had every message of the other
once, and in order within its lane, and every send must be `acked`. The exit status
is 1 if something of this does not hold.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs
import trio

import trio_rt
from trio_rt import (
    Connection,
    Delivery,
    Message,
    Peer,
    Phase,
    Priority,
    Reconnect,
    Statistics,
    Undelivered,
)
from trio_rt._streams import DirectStream
from trio_rt.message import ACKED
from trio_rt.options import WireName
from trio_rt.testing import Relay, Towards, serve_relay

from .plans import CodecName

__all__ = ["Frames", "Report", "Side", "Soak", "payload", "run"]

EndKind: TypeAlias = Literal["rst", "fin"]

#: Backoff that costs nothing, also where a link dies before it has proven itself.
QUICK: Final = Reconnect(first_s=0, cap_s=0.05, min_uptime_s=0)

LANES: Final = tuple(Priority)

#: Sends of one lane without an outcome. All lanes together have fewer than the outbox
#: holds, so that it never evicts.
AHEAD: Final = 200

#: Padding of a payload; one in so many is a large one.
PADDING_BYTES: Final = 200
LARGE_BYTES: Final = 150_000
LARGE_EVERY: Final = 1999

#: So many of the cuts are set upon a byte of the traffic; not all of those hit a frame's middle.
AMID: Final = 0.6

#: That byte is one of the next so many, and fewer than half a share of the messages has.
LAST_BYTE: Final = 20_000
LEAST_BYTES: Final = 100

#: If it has not passed after this time, the link is reset as it is.
PATIENCE_S: Final = 1.0

#: Of the other cuts so many come as soon as the link is back.
TWINS: Final = 0.5

#: What is shown of what does not hold.
LINES: Final = 10
CHARACTERS: Final = 300


@attrs.frozen(kw_only=True)
class Soak:
    """What is to be run; `messages` are those of each side."""

    messages: int = 100_000
    cuts: int = 100
    codec: CodecName = "json"
    wire: WireName = "websockets"
    seed: int = 0
    timeout_s: float = 300.0

    @property
    def share(self) -> float:
        """The messages of each side for one cut; there is a share behind the last."""
        return self.messages / (self.cuts + 1)


@attrs.define
class Report:
    """What it came to. `wrong`: what does not hold."""

    #: Links that were cut.
    cuts: int = 0
    #: Of those, with the beginning of a frame arrived at one side and not its end.
    in_mid_frame: int = 0
    #: The frames that were cut, by where they went.
    frames: dict[Towards, int] = attrs.field(factory=lambda: dict.fromkeys(get_args(Towards), 0))
    #: Cuts that found too few bytes.
    early: int = 0
    resumed: int = 0
    spent_s: float = 0.0
    wrong: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        frames = " and ".join(f"{count} to the {to}" for to, count in self.frames.items())
        return (
            f"{self.cuts} cuts, {self.in_mid_frame} in mid-frame (frames: {frames}), {self.early}"
            f" early; {self.resumed} links resumed; {self.spent_s:.1f} s"
        )


@attrs.frozen
class _Cut:
    how: EndKind
    towards: Towards
    #: Upon this byte in that direction; None: at any moment.
    at_byte: int | None
    #: At once, and not when something has arrived there.
    twin: bool


def _draw_cuts(soak: Soak) -> Iterator[_Cut]:
    draws = random.Random(f"{soak.seed} soak")
    last_byte = max(1, min(LAST_BYTE, int(LEAST_BYTES * soak.share / 2)))
    amid = [number < AMID * soak.cuts for number in range(soak.cuts)]
    draws.shuffle(amid)
    for each in amid:
        yield _Cut(
            draws.choice(get_args(EndKind)),
            draws.choice(get_args(Towards)),
            draws.randint(1, last_byte) if each else None,
            draws.random() < TWINS,
        )


class Frames:
    """Where in its WebSocket frames a stream of bytes stands (RFC 6455, 5.2)."""

    def __init__(self) -> None:
        self._opened = False
        # What was read of a header, and what is left of a payload.
        self._header = b""
        self._left = 0

    @property
    def amid(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._opened and bool(self._header or self._left)

    def feed(self, data: bytes) -> None:
        data = self._header + data
        if not self._opened:
            head, end, data = data.partition(b"\r\n\r\n")
            self._opened = bool(end)
            self._header = b"" if end else head
        while self._opened and data:
            passed = min(self._left, len(data))
            self._left -= passed
            data = data[passed:]
            if size := _header_bytes(data):
                self._left = _payload_bytes(data)
                data = data[size:]
            else:
                self._header = data
                return
        if self._opened:
            self._header = b""


def _header_bytes(data: bytes) -> int:
    """Of the frame that begins there; 0 if its header is not whole."""
    if len(data) < 2:
        return 0
    size = 2 + {126: 2, 127: 8}.get(data[1] & 127, 0) + (4 if data[1] & 128 else 0)
    return size if len(data) >= size else 0


def _payload_bytes(data: bytes) -> int:
    short = data[1] & 127
    if short < 126:
        return short
    return int.from_bytes(data[2 : 4 if short == 126 else 10])


class _Tap(DirectStream):
    """A side's end of a link, which knows whether what arrived ends in mid-frame."""

    def __init__(self, stream: trio.SocketStream, moved: Callable[[], None]) -> None:
        super().__init__(socket.socket(fileno=stream.socket.detach()))
        self.frames: Final = Frames()
        self.ended = False
        self._moved = moved

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        self.frames.feed(data)
        return data

    def abort(self) -> None:
        super().abort()
        self.ended = True
        self._moved()


class _Listener(trio.abc.Listener[_Tap]):
    def __init__(
        self, listener: trio.SocketListener, tap: Callable[[trio.SocketStream], _Tap]
    ) -> None:
        self._listener = listener
        self._tap = tap

    async def accept(self) -> _Tap:
        return self._tap(await self._listener.accept())

    async def aclose(self) -> None:
        await self._listener.aclose()


class Side:
    """What one side sends, and what it has received of the other."""

    def __init__(self, name: Towards, messages: int, wrong: list[str]) -> None:
        self.name: Final = name
        self.taps: Final[list[_Tap]] = []
        self.received = 0
        #: Lanes whose sends all have their outcome.
        self.settled = 0
        self.books: Statistics | None = None
        self._messages = messages
        self._wrong = wrong
        self._due = {lane: numbers(messages, lane) for lane in LANES}

    def has(self, count: float) -> bool:
        """Whether so many have arrived."""
        return self.received >= count

    def take(self, item: object) -> None:
        """The next item of the one stream: the next message of a lane, or something is wrong."""
        if not isinstance(item, Message):
            self._wrong.append(f"the {self.name} got {item!r}")
            return
        self.received += 1
        number = next(self._due[item.priority], None)
        if number is None or item.payload != payload(number):
            found = str(item.payload)[:20]
            self._wrong.append(
                f"the {self.name} got {found} where {number} was due, {item.priority.name}"
            )

    def check(self) -> None:
        """What must hold in the end."""
        books = self.books
        if self.received != self._messages:
            self._wrong.append(f"the {self.name} got {self.received} messages")
        if books is None:
            self._wrong.append(f"the {self.name} has not come to its end")
            return
        left = books.in_flight + sum(books.queued.values())
        if books.accepted != sum(books.outcomes.values()) + left:
            self._wrong.append(f"the sums of the {self.name} do not hold: {books}")
        if books.accepted != self._messages or books.outcomes != {ACKED: self._messages}:
            self._wrong.append(f"not all sends of the {self.name} are acked: {books}")
        if books.malformed or books.discarded or books.lost:
            self._wrong.append(f"not all was well received by the {self.name}: {books}")


def numbers(messages: int, lane: Priority) -> Iterator[int]:
    """Which of 1, 2, ... `messages` are sent in this lane, in order."""
    first = LANES.index(lane) or len(LANES)
    return iter(range(first, messages + 1, len(LANES)))


def payload(number: int) -> list[Any]:
    """Its own for every number."""
    size = number * 7919 % PADDING_BYTES if number % LARGE_EVERY else LARGE_BYTES
    return [number, "x" * size]


class _Run:
    def __init__(self, soak: Soak) -> None:
        self.soak = soak
        self.report = Report()
        self.client, self.server = (
            Side(name, soak.messages, self.report.wrong) for name in ("client", "server")
        )
        #: The last number that may be sent.
        self.released = 0.0
        self.links = 0
        self.sessions = 0
        self._moved = trio.lowlevel.ParkingLot()

    # What happens, and waiting for it

    def moved(self) -> None:
        self._moved.unpark_all()

    async def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._moved.park()

    def tap(self, side: Side, stream: trio.SocketStream) -> _Tap:
        side.taps.append(_Tap(stream, self.moved))
        return side.taps[-1]

    async def open_stream(self, host: str, port: int) -> _Tap:
        return self.tap(self.client, await trio.open_tcp_stream(host, port))

    # Both sides

    async def send(self, talker: Connection | Peer, side: Side, lane: Priority) -> None:
        ahead: deque[Delivery] = deque()
        for number in numbers(self.soak.messages, lane):
            if len(ahead) == AHEAD:
                await self.settled(ahead.popleft())
            if not self.is_due(number):
                await self.wait(partial(self.is_due, number))
            ahead.append(await talker.send("soak", payload(number), priority=lane))
        for delivery in ahead:
            await self.settled(delivery)
        side.settled += 1
        self.moved()

    def release(self, shares: float) -> None:
        """So many shares may be sent."""
        self.released = shares * self.soak.share
        self.moved()

    def is_due(self, number: int) -> bool:
        """Whether it may be sent."""
        return number <= self.released

    def has_links(self, count: int) -> bool:
        return self.links >= count

    async def settled(self, delivery: Delivery) -> None:
        if delivery.outcome is not ACKED:
            try:
                await delivery.wait_acked()
            except Undelivered as error:
                self.report.wrong.append(f"a send came to nothing: {error}")

    async def talk(self, talker: Connection | Peer, side: Side) -> None:
        """Send all, and read until the stream ends."""
        with talker.subscribe() as stream:
            async with trio.open_nursery() as nursery:
                for lane in LANES:
                    nursery.start_soon(self.send, talker, side, lane)
                while True:
                    try:
                        items = await stream.receive_many()
                    except trio.EndOfChannel:
                        break
                    for item in items:
                        side.take(item)
                    self.moved()
        side.books = talker.statistics()
        self.moved()

    @property
    def is_over(self) -> bool:
        lanes, messages = len(LANES), self.soak.messages
        sides = (self.client, self.server)
        told = all(side.settled == lanes and side.received >= messages for side in sides)
        return told and self.links > self.soak.cuts

    # The server

    async def serve(self, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        tapped = _Listener(listener, partial(self.tap, self.server))
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(trio_rt.serve_listeners, self.handle, [tapped], codec=self.soak.codec)
            )
            task_status.started(listener.socket.getsockname()[1])

    async def handle(self, peer: Peer) -> None:
        self.sessions += 1
        await self.talk(peer, self.server)

    # The client, and the cuts

    async def watch(self, conn: Connection) -> None:
        with conn.watch_states() as states:
            async for state in states:
                if state.phase is Phase.CONNECTED:
                    self.links += 1
                    self.report.resumed += state.resumed
                    self.moved()

    async def cut_all(self, relay: Relay) -> None:
        for number, cut in enumerate(_draw_cuts(self.soak), 1):
            await self.wait(partial(self.has_links, number))
            await self.cut(relay, cut, number)
        self.release(math.inf)

    async def cut(self, relay: Relay, cut: _Cut, number: int) -> None:
        """Cut the link within this share, of which half may have been sent while there was none."""
        report = self.report
        ends: dict[Towards, _Tap] = {"client": self.client.taps[-1], "server": self.server.taps[-1]}

        def is_over() -> bool:
            return all(end.ended for end in ends.values())

        if cut.at_byte is None:
            if not cut.twin:
                self.release(number + 0.5)
                receiver = self.client if cut.towards == "client" else self.server
                await self.wait(partial(receiver.has, (number - 0.25) * self.soak.share))
            getattr(relay, cut.how)()
        else:
            relay.cut_after(cut.at_byte, towards=cut.towards, how=cut.how)
            self.release(number + 0.5)
            with trio.move_on_after(PATIENCE_S) as patience:
                await self.wait(is_over)
            if patience.cancelled_caught:
                report.early += 1
                relay.rst()
        await self.wait(is_over)
        self.release(number + 0.5)
        report.cuts += 1
        report.in_mid_frame += any(end.frames.amid for end in ends.values())
        for name, end in ends.items():
            report.frames[name] += end.frames.amid

    async def tell(self) -> None:
        soak = self.soak
        async with trio.open_nursery() as world:
            self.release(0.5)
            port = await world.start(self.serve)
            relay: Relay = await world.start(partial(serve_relay, "127.0.0.1", port))
            async with (
                trio.open_nursery() as nursery,
                trio_rt.connect(
                    f"ws://127.0.0.1:{relay.port}",
                    open_stream=self.open_stream,
                    codec=soak.codec,
                    wire=soak.wire,
                    reconnect=QUICK,
                ) as conn,
            ):
                nursery.start_soon(self.watch, conn)
                nursery.start_soon(self.talk, conn, self.client)
                await self.cut_all(relay)
                await self.wait(lambda: self.is_over)
            await self.wait(lambda: self.server.books is not None)
            self.check_links(relay.statistics().links_opened)
            world.cancel_scope.cancel()

    def check_links(self, opened: int) -> None:
        report, cuts = self.report, self.soak.cuts
        counts = (report.cuts, report.resumed, self.links, opened, self.sessions)
        if counts != (cuts, cuts, cuts + 1, cuts + 1, 1):
            names = ("cuts", "resumed", "links", "TCP connections", "sessions")
            report.wrong.append(str(dict(zip(names, counts, strict=True))))
        if 2 * report.in_mid_frame < cuts:
            report.wrong.append(f"only {report.in_mid_frame} of {cuts} cuts were in mid-frame")


async def run(soak: Soak) -> Report:
    """Run it, and judge it."""
    running = _Run(soak)
    report, began = running.report, trio.current_time()
    with trio.move_on_after(soak.timeout_s) as limit:
        await running.tell()
    report.spent_s = trio.current_time() - began
    if limit.cancelled_caught:
        report.wrong.append(f"not over within {soak.timeout_s:g} s")
    running.client.check()
    running.server.check()
    return report


def _soaks() -> Iterator[Soak]:
    defaults = Soak()
    parser = argparse.ArgumentParser(
        prog="python -m tests.sessions.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shown = "%(default)s"
    parser.add_argument(
        "--messages", type=int, default=defaults.messages, help=f"each way; {shown}"
    )
    parser.add_argument("--cuts", type=int, default=defaults.cuts, help=shown)
    parser.add_argument("--codec", choices=get_args(CodecName), help="with one; with all")
    parser.add_argument("--wire", choices=get_args(WireName), help="on one; on all")
    parser.add_argument("--seed", type=int, default=defaults.seed, help=f"of the cuts; {shown}")
    parser.add_argument(
        "--timeout", type=float, default=defaults.timeout_s, metavar="S", help=f"of each; {shown} s"
    )
    options = parser.parse_args()
    wires = [options.wire] if options.wire else get_args(WireName)
    codecs = [options.codec] if options.codec else get_args(CodecName)
    for wire, codec in itertools.product(wires, codecs):
        yield Soak(
            messages=options.messages,
            cuts=options.cuts,
            codec=codec,
            wire=wire,
            seed=options.seed,
            timeout_s=options.timeout,
        )


def main() -> int:
    """The command line."""
    failed = False
    for soak in _soaks():
        report = trio.run(run, soak)
        failed = failed or bool(report.wrong)
        what = f"{soak.wire}, {soak.codec}, seed {soak.seed}, {soak.messages} messages each way"
        print(f"{what}: {report}", flush=True)
        for line in report.wrong[:LINES]:
            print(f"    {line[:CHARACTERS]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

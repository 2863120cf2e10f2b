"""trio_rt.wires.trio_websocket: what `test_contract` does not ask of every wire."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing
from trio_websocket import WebSocketConnection
from websockets.utils import accept_key

from trio_rt.errors import DialError, HandshakeError, LinkClosed
from trio_rt.wires.trio_websocket import QUEUED_MESSAGES, SHORT_READ_BYTES, TrioWebsocketWire

from .support import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Sent,
    frame,
    open_client,
    parse,
    receive,
    receive_end,
    small_pair,
)


async def test_a_request_that_cannot_be_made() -> None:
    """Is a `DialError`, and leaves no task."""
    left, right = small_pair()
    wire = TrioWebsocketWire(left, max_message_bytes=100)
    async with trio.open_nursery() as nursery:
        with pytest.raises(DialError, match="makes no request") as caught:
            await nursery.start(wire.run, "x" * 64, "/", [], [])
        assert "UnicodeError" in str(caught.value)
    wire.abort()
    await right.aclose()


async def test_a_header_is_shown_by_no_error_and_may_end_in_blanks() -> None:
    """Blanks around a value are no part of it; what h11 refuses is not told."""
    for value in (" Bearer canary\xa0 \t", "canary\x00"):
        left, right = small_pair()
        wire = TrioWebsocketWire(left, max_message_bytes=100)
        async with trio.open_nursery() as nursery:
            headers = [("Authorization", value)]
            start = partial(wire.run, "example.org", "/", [], headers)
            if value.endswith("\t"):
                assert b": Bearer canary\xa0\r\n" in await nursery.start(start)
            else:
                with pytest.raises(DialError) as caught:
                    await nursery.start(start)
                assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"
            wire.abort()
        await right.aclose()


async def test_a_consent_that_the_package_does_not_see() -> None:
    """Is a `HandshakeError`, and ends its task."""
    left, right = small_pair()
    wire = TrioWebsocketWire(left, max_message_bytes=100)
    async with trio.open_nursery() as nursery:
        await nursery.start(wire.run, "example.org", "/", [], [])
        with pytest.raises(HandshakeError, match="refused"):
            await wire.open(accept_key("another"), None, b"")
    wire.abort()
    await right.aclose()


async def test_an_aborted_handshake_leaves_no_task() -> None:
    """The package waits for an answer that does not come, and ends with the wire."""
    left, right = small_pair()
    wire = TrioWebsocketWire(left, max_message_bytes=100)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(wire.run, "example.org", "/", [], [])
            wire.abort()
    await right.aclose()


async def test_the_subprotocol_is_told() -> None:
    """As the server chose it."""
    left, right = small_pair()
    wire = TrioWebsocketWire(left, max_message_bytes=100)
    async with trio.open_nursery() as nursery:
        request = await nursery.start(wire.run, "example.org", "/", ["a", "b"], [("X", "ü")])
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
        assert b"\r\nX: \xfc\r\n" in request
        await wire.open(accept_key(key), "b", b"")
        assert wire.subprotocol == "b"
        wire.abort()
    await right.aclose()


async def test_messages_that_nobody_takes_keep_no_ping_waiting() -> None:
    """A reader that always takes them is all it needs: its queue is never what blocks."""
    left, right = small_pair()
    many = QUEUED_MESSAGES * 3
    async with open_client("trio-websocket", left) as wire, right:
        await right.send_all(frame(TEXT, b"x") * many + frame(PING, b"?"))
        assert await receive(wire, many) == ["x"] * many
        [pong] = parse(await right.receive_some(), masked=True)
        assert (pong.opcode, pong.data) == (PONG, b"?")


async def test_a_read_is_short() -> None:
    """The package takes a turn for each frame, and nothing else is heard meanwhile."""
    left, right = small_pair()
    async with open_client("trio-websocket", left) as wire, right:
        await right.send_all(frame(TEXT, b"x") * 3000)
        received = await wire.receive()
        assert wire.bytes_in == SHORT_READ_BYTES
        assert received == ["x"] * (SHORT_READ_BYTES // 3)
        assert await receive(wire, 3000 - len(received)) == ["x"] * (3000 - len(received))


async def test_a_ping_amid_our_close_harms_nothing() -> None:
    """Upstream #184: it leaks a bare `Cancelled` through the package's own manager."""
    left, right = small_pair()
    sibling = trio.Event()

    async def innocent() -> None:
        await trio.testing.wait_all_tasks_blocked()
        sibling.set()

    async with trio.open_nursery() as outer:
        outer.start_soon(innocent)
        async with open_client("trio-websocket", left) as wire, right:
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wire.close)
                    await right.send_all(frame(PING) * 3)
                    await trio.testing.wait_all_tasks_blocked()
                    await right.send_all(frame(PING) + frame(CLOSE, b"\x03\xe8") + frame(PING))
                    await right.send_eof()
        await sibling.wait()
    assert (await receive_end(wire)).code == 1000


async def test_a_close_amid_a_batch_ends_the_send() -> None:
    """What was not handed to the kernel is not sent behind the close frame."""
    left, right = small_pair()
    async with open_client("trio-websocket", left) as wire, right:
        failed = trio.Event()

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError, match="closing"):
                await wire.send([Sent(b"x")] * 100)
            failed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.lowlevel.checkpoint()
            await right.send_all(frame(CLOSE, b"\x03\xe8"))
            assert (await receive_end(wire)).code == 1000
            await failed.wait()
        assert wire.written == 0
        [closing] = parse(await right.receive_some(), masked=True)
        assert closing.opcode == CLOSE


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("count", [1, 2, 3, 4, 100])
async def test_a_breach_amid_a_send(turns: int, count: int) -> None:
    """The batch goes out before our own close frame, or nothing of it does."""
    left, right = small_pair()
    async with open_client("trio-websocket", left, limit=10) as wire, right:

        async def send() -> None:
            with suppress(trio.BrokenResourceError):
                await wire.send([Sent(b"x")] * count)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_end, wire)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(send)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            assert right.try_send(frame(TEXT, b"x" * 11)) == 13
        frames = parse(await right.receive_some(), masked=True)
        assert [f.opcode for f in frames] == [TEXT] * wire.written + [CLOSE]
        assert wire.written in (0, count)


async def test_a_text_that_is_no_text_breaks_the_link() -> None:
    """A foreign codec's bug ends no more than that, whichever way it is sent."""
    left, right = small_pair()
    async with open_client("trio-websocket", left) as wire, right:
        assert not await wire.send_soon([Sent(b"\xff")])
        with pytest.raises(trio.BrokenResourceError, match="UTF-8"):
            await wire.send([Sent(b"\xff")])


@pytest.mark.parametrize("turns", range(4))
async def test_a_close_amid_send_soon(turns: int) -> None:
    """It is taken in before the close frame, or not at all."""
    left, right = small_pair()
    async with open_client("trio-websocket", left) as wire, right:
        taken = []

        async def send() -> None:
            taken.append(await wire.send_soon([Sent(b"x")]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_end, wire)
            await trio.testing.wait_all_tasks_blocked()
            await right.send_all(frame(CLOSE, b"\x03\xe8"))
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(send)
        frames = parse(await right.receive_some(), masked=True)
        assert [f.opcode for f in frames] == [TEXT] * taken[0] + [CLOSE]
        assert wire.written == taken[0]


async def test_an_error_in_the_package_ends_the_link_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its task raises is the cause of this link's end, chained."""

    async def fail(self: WebSocketConnection, event: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(WebSocketConnection, "_handle_pong_event", fail)
    left, right = small_pair()
    async with open_client("trio-websocket", left) as wire, right:
        await right.send_all(frame(TEXT, b"good") + frame(PONG))
        assert await receive(wire, 1) == ["good"]
        closed = await receive_end(wire)
        assert (closed.code, closed.by_peer) == (1011, False)
        assert isinstance(closed.__cause__, RuntimeError)


@pytest.mark.parametrize("turns", range(12))
async def test_what_an_aborted_link_had_brought(turns: int) -> None:
    """Whenever a receive was cancelled: its messages are there after an abort, then the end is."""
    left, right = trio.testing.memory_stream_pair()
    async with open_client("trio-websocket", left) as wire:
        got: list[str | bytes] = []

        async def take() -> None:
            while True:
                got.extend(await wire.receive())

        async with trio.open_nursery() as nursery:
            await right.send_all(b"".join(frame(TEXT, b"%d" % n) for n in range(3)))
            nursery.start_soon(take)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        wire.abort()
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(10), pytest.raises(LinkClosed):
            await take()
        assert got == ["0", "1", "2"][: len(got)]

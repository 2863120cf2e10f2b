"""The wire on the trio-websocket package, client side.

Goal: the package makes the request, frames and unframes the messages, checks
them and answers pings and closes; and none of its defects gets through.

What does not work: its own connection manager. An error in its reader task
leaks a bare `Cancelled`; a cancelled send leaves half a frame, and later sends
still return; a message that nobody takes keeps pings unanswered; `ping()` never
returns on a dead link; `aclose()` has no limit, and leaves the socket open
after an oversize message; a handshake that is no HTTP surfaces as an error of
h11's, and one without an end is waited for.

The rule. The package talks to an `Airlock`, and what it writes goes through the
outlet, as in the other wire. Its task runs in the nursery of the attempt,
whatever it raises becomes this link's end, and `abort()` cancels it. The answer
to its request is read and judged by `_opening`, and then told to it. A `Tally` in
front of it holds the limits on a message (its own counts characters, and no
fragments), and tells how many messages a read brought, so that all of them can
be taken from it, and no more waited for. It reads only while somebody receives
and nothing is left to take: it would outrun the reader, without a bound in bytes.
Pings and closes that begin here are frames of our own: in a state of "closing"
the package cannot bear a ping.

The remaining hole: a message goes out in one frame, so a ping behind a large
one waits for all of it. And nothing is sent without a turn of the loop.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any, Final, cast

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from .._streams import READ_BYTES
from ..errors import DialError, HandshakeError, LinkClosed
from . import Frame
from ._airlock import Airlock
from ._base import FRAGMENTS, StreamWire
from ._framing import CLOSE, encode_control
from ._tally import Tally

__all__ = ["TrioWebsocketWire"]

#: A read between long frames asks for so much. The package takes a turn of the loop
#: for each frame, and all that time nothing else is heard: so few are a moment.
SHORT_READ_BYTES: Final = 4096

#: Messages that the package may have in front of the reader. More of them park its
#: task, never our reader.
QUEUED_MESSAGES: Final = 256


class TrioWebsocketWire(StreamWire):
    """A WebSocket over a trio stream: first `run`, then `open`.

    `max_message_bytes` and `fragments` hold before a message is assembled.
    `trio_rt.wires.Wire` has the contract of the other methods.
    """

    sends_at_once = False
    _conn: WebSocketConnection

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        max_message_bytes: float,
        fragments: float = FRAGMENTS,
    ) -> None:
        super().__init__(stream, masks=True)
        self._airlock = Airlock(self._outlet, self._feed)
        self._tally = Tally(max_message_bytes=max_message_bytes, fragments=fragments)
        self._opened = trio.Event()
        self._over = trio.Event()
        self._failure: Exception | None = None
        self._closed: LinkClosed | None = None
        # Messages taken from the package: how many, and those not returned yet.
        self._fetched = 0
        self._unreturned: list[str | bytes] = []
        # Whether the last read brought something else.
        self._control = False
        # Whether somebody receives; without, nothing is read.
        self._receiving = False
        # The package's task, while it may not read yet.
        self._hungry: trio.lowlevel.Task | None = None

    # -- the package's task ----------------------------------------------------

    async def run(
        self,
        host: str,
        resource: str,
        protocols: Sequence[str],
        headers: Sequence[tuple[str, str]],
        *,
        task_status: trio.TaskStatus[bytes],
    ) -> None:
        """Run the package until `abort()`; started with the request that it wants sent.

        Before that it raises `DialError`; later it raises nothing: what the
        package raises ends the link.
        """
        extra = [
            (name.encode(), value.strip(" \t").encode("iso-8859-1")) for name, value in headers
        ]

        async def open_connection() -> None:
            self._conn = await wrap_client_stream(
                nursery,
                cast(Any, self._airlock),  # it says "an arbitrary stream", and means it
                host,
                resource,
                subprotocols=protocols,
                extra_headers=extra,
                message_queue_size=QUEUED_MESSAGES,
                max_message_size=sys.maxsize,
            )
            self._opened.set()

        request = None
        try:
            with self._airlock.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(open_connection)
                    request = await self._airlock.request()
                    task_status.started(request)
        except Exception as error:
            self._failure = _leaf(error)
            if request is None:
                # Its error shows the header, which may be a secret.
                kind = type(self._failure).__name__
                message = f"trio-websocket makes no request of this ({kind})"
                raise DialError(message, stage="handshake") from None
        finally:
            self._over.set()
            self._opened.set()

    async def open(self, accept: str, subprotocol: str | None, leftover: bytes) -> None:
        """Tell the package of the server's consent; `leftover` was read behind it.

        Raises `HandshakeError` if it does not see it so.
        """
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            *([] if subprotocol is None else [f"Sec-WebSocket-Protocol: {subprotocol}"]),
        ]
        self.subprotocol = subprotocol
        self._leftover = leftover
        self._airlock.answer("\r\n".join([*lines, "", ""]).encode())
        await self._opened.wait()
        if self._over.is_set():
            message = f"trio-websocket refused the handshake: {self._failure or 'it closed'}"
            raise HandshakeError(message) from self._failure

    def limit(self, max_message_bytes: float) -> None:
        """Set another limit, before the wire is open."""
        self._tally.max_message_bytes = max_message_bytes

    # -- state -----------------------------------------------------------------

    @property
    def pongs(self) -> int:
        return self._tally.pongs

    @property
    def _ended(self) -> LinkClosed | None:
        return None if self._unreturned or self._undelivered else self._closed

    @property
    def _undelivered(self) -> int:
        """Messages that the package has or will have."""
        return self._tally.messages - self._fetched

    def _end(self, closed: LinkClosed) -> None:
        if self._closed is None:
            self._closed = closed

    def _end_here(self) -> None:
        super()._end_here()
        self._airlock.scope.cancel()

    def _is_open(self) -> bool:
        return not self._airlock.closing

    # -- sending ---------------------------------------------------------------

    def send_nowait(self, batch: Sequence[Frame]) -> bool:
        """Never: the package sends with a checkpoint."""
        return False

    async def send_soon(self, batch: Sequence[Frame]) -> bool:
        if self._sending or self._airlock.closing or not self._outlet.ready:
            return False
        self._sending = True
        try:
            frames = await self._framed(batch)
        except trio.BrokenResourceError:
            return False
        finally:
            self._sending = False
        return not self._airlock.closing and self._outlet.write_now(frames)

    async def _send(self, batch: Sequence[Frame]) -> None:
        frames = await self._framed(batch)
        if self._airlock.closing:
            raise trio.BrokenResourceError("the link is closing")
        waited = await self._outlet.write(frames)
        if not batch and not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _framed(self, batch: Sequence[Frame]) -> list[bytes]:
        """The frames that the package makes of it. Cancelled or failing, there are none."""
        send = self._conn.send_message
        try:
            for message in batch:
                data = message.data
                await send(data if message.binary else data.decode())
            return self._airlock.take_frames()
        except ConnectionClosed as error:
            raise trio.BrokenResourceError(f"the link is closing: {error}") from error
        except UnicodeDecodeError as error:  # a foreign codec's bug
            raise trio.BrokenResourceError(f"a text message is no UTF-8: {error}") from error
        finally:
            self._airlock.take_frames()

    def _put_close(self, code: int, reason: str) -> None:
        payload = struct.pack("!H", code) + reason.encode()
        self._airlock.put_close(encode_control(CLOSE, [payload], masked=True))

    async def _read_to_the_end(self) -> None:
        self._airlock.scope.cancel()
        await self._over.wait()
        await super()._read_to_the_end()

    # -- receiving -------------------------------------------------------------

    async def _feed(self) -> bytes:
        """One read, for the package: it is back for more, so the last one is dealt with."""
        if not self._opened.is_set():
            await self._opened.wait()
        self._find_end()
        if self._control:
            self._control = False
            self.on_control()
        while self._closed is None:
            # Reading on would outrun the reader, which takes one message a turn.
            while self._undelivered or self._unreturned or not self._receiving:
                self._hungry = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._starve)
            messages, questions = self._tally.messages, self._tally.questions
            wanted = max(SHORT_READ_BYTES, min(self._tally.missing, READ_BYTES))
            data = self._tally.feed(await self._read_some(wanted))
            self._control = messages == self._tally.messages or questions != self._tally.questions
            if data:
                return data
            self._find_end()
        return b""

    async def _read_some(self, max_bytes: int) -> bytes:
        """What one read brings; b"" once the link has ended."""
        if self._leftover:
            await trio.lowlevel.checkpoint()
            data, self._leftover = self._leftover, b""
        else:
            try:
                data = bytes(await self._stream.receive_some(max_bytes))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end_by(error)
                return b""
        self._note_read(data)
        return data

    def _starve(self, _: object) -> trio.lowlevel.Abort:
        self._hungry = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def receive(self) -> list[str | bytes]:
        if self._ended is not None:
            await trio.lowlevel.checkpoint()
            raise self._ended
        messages = await self._take_messages()
        if self._ended is not None and not messages:
            raise self._ended
        return messages

    async def _take_messages(self) -> list[str | bytes]:
        self._receiving = True
        hungry, self._hungry = self._hungry, None
        if hungry is not None:
            trio.lowlevel.reschedule(hungry)
        try:
            while self._undelivered or not self._unreturned:
                self._unreturned.append(await self._conn.get_message())
                self._fetched += 1
        except ConnectionClosed:
            # The package has found something that the tally does not look for.
            self._fetched = self._tally.messages
            await trio.lowlevel.checkpoint()
            if self._conn.closed is None:
                await self._over.wait()
            self._find_end()
        finally:
            self._receiving = False
        taken, self._unreturned = self._unreturned, []
        return taken

    def _find_end(self) -> None:
        """What the package, or the tally, has found out about the end of the link."""
        if self._closed is not None:
            return
        closed = self._conn.closed
        if closed is not None and self._airlock.answered_close:
            self._end(LinkClosed(int(closed.code), closed.reason or ""))
        elif closed is not None:
            # It says nothing to the peer, and would not close the socket either.
            self._fail(int(closed.code), closed.reason or "")
        elif self._tally.breach is not None:
            self._fail(*self._tally.breach)
        elif self._over.is_set():
            error = LinkClosed(1011, f"trio-websocket failed: {self._failure!r}", by_peer=False)
            error.__cause__ = self._failure
            self._end(error)

    def _fail(self, code: int, reason: str) -> None:
        """End the link for a fault of the peer's."""
        self._start_closing(code, reason)
        self._end(LinkClosed(code, reason, by_peer=False))


def _leaf(error: Exception) -> Exception:
    """The first of what is in a group of groups."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
